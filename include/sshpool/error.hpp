#pragma once

#include <version>  // before Asio, which otherwise overlooks aligned_alloc and then allocates differently from one file to the next

#include <asio/error.hpp>

#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace sshpool {

/// What went wrong, one enumerator per thing a caller would treat differently.
///
/// An error *condition*: compare with `ec == errc::x`. The code behind it also says whether the command may have
/// run (`ec == command_fate::not_started`). The fates in which each can occur stand in `detail::errors` below.
enum class errc {
    acquire_timeout = 1,
    pool_closed,
    pool_exhausted,
    host_backing_off,
    resolve_failed,
    connect_failed,
    connect_timeout,
    server_busy,
    handshake_failed,
    host_key_unknown,
    host_key_mismatch,
    auth_failed,
    key_unusable,
    jump_failed,
    channel_refused,
    command_refused,
    connection_lost,
    protocol_error,
    command_timeout,
    command_too_long,
    output_limit,
    env_refused,
    subsystem_refused,
    file_not_found,
    file_denied,
    file_failed,
    local_file,
    unsupported,
    cancelled,
};

/// Whether the command may have run. An error condition: `ec == command_fate::not_started` means that running it again is safe.
enum class command_fate { not_started = 1, unknown };

}  // namespace sshpool

template <>
struct std::is_error_condition_enum<sshpool::errc> : std::true_type {};
template <>
struct std::is_error_condition_enum<sshpool::command_fate> : std::true_type {};

namespace sshpool {
namespace detail {

enum class fates { before, before_unless_cut, after, both };  // relative to the command being sent

struct error_entry {
    errc value;
    fates when;
    std::string_view name;
    std::string_view text;
};

/// The one list of errors: what each is called, what it means, and on which side of a command's start it can occur.
inline constexpr std::array errors{
    error_entry{errc::acquire_timeout, fates::before, "acquire_timeout", "no connection became available in time"},
    error_entry{errc::pool_closed, fates::before_unless_cut, "pool_closed", "the pool is closed"},
    error_entry{errc::pool_exhausted, fates::before, "pool_exhausted", "every connection is in use and the caller asked not to wait"},
    error_entry{errc::host_backing_off, fates::before, "host_backing_off", "the host failed a moment ago and is not tried again yet"},
    error_entry{errc::resolve_failed, fates::before, "resolve_failed", "the host name could not be resolved"},
    error_entry{errc::connect_failed, fates::before, "connect_failed", "the TCP connection could not be made"},
    error_entry{errc::connect_timeout, fates::before, "connect_timeout", "connecting and logging in took longer than allowed"},
    error_entry{errc::server_busy, fates::before, "server_busy", "the server dropped the connection before its banner: too many logins at once"},
    error_entry{errc::handshake_failed, fates::before, "handshake_failed", "the SSH key exchange failed"},
    error_entry{errc::host_key_unknown, fates::before, "host_key_unknown", "the server's host key is not known"},
    error_entry{errc::host_key_mismatch, fates::before, "host_key_mismatch", "the server's host key is not the one that was expected"},
    error_entry{errc::auth_failed, fates::before, "auth_failed", "the server refused the login"},
    error_entry{errc::key_unusable, fates::before, "key_unusable", "the private key cannot be used"},
    error_entry{errc::jump_failed, fates::before, "jump_failed", "the jump host could not be used"},
    error_entry{errc::channel_refused, fates::before, "channel_refused", "the server refused to open a channel"},
    error_entry{errc::command_refused, fates::before, "command_refused", "the server refused to run the command"},
    error_entry{errc::connection_lost, fates::both, "connection_lost", "the connection was lost"},
    error_entry{errc::protocol_error, fates::both, "protocol_error", "the server broke the protocol or a limit of this library"},
    error_entry{errc::command_timeout, fates::both, "command_timeout", "the command did not end in time"},
    error_entry{errc::command_too_long, fates::before, "command_too_long", "the command line is longer than 32 KiB: send the text with input()"},
    error_entry{errc::output_limit, fates::after, "output_limit", "the command wrote more than max_output allows"},
    error_entry{errc::env_refused, fates::before, "env_refused", "the server refused an environment variable (sshd's AcceptEnv)"},
    error_entry{errc::subsystem_refused, fates::before, "subsystem_refused", "the server refused the subsystem"},
    error_entry{errc::file_not_found, fates::after, "file_not_found", "the server has no such file or directory"},
    error_entry{errc::file_denied, fates::after, "file_denied", "the server does not permit this for the file"},
    error_entry{errc::file_failed, fates::after, "file_failed", "the server could not do what was asked with the file"},
    error_entry{errc::local_file, fates::after, "local_file", "a file of this machine could not be read or written"},
    error_entry{errc::unsupported, fates::before, "unsupported", "this version of libssh2 cannot do that"},
    error_entry{errc::cancelled, fates::after, "cancelled", "the operation was cancelled"},
};

constexpr const error_entry* find_error(int value) {
    for (const auto& e : errors) {
        if (static_cast<int>(e.value) == value) return &e;
    }
    return nullptr;
}

inline constexpr int after_start = 0x100;  // added to an errc's number in codes for trouble after the command was sent

// Standalone Asio has a system category of its own.
inline bool is_cancellation(const std::error_code& ec) noexcept {
    return ec == asio::error::operation_aborted || (ec.category() == std::system_category() && ec.value() == ECANCELED);
}

class code_category final : public std::error_category {
public:
    const char* name() const noexcept override { return "sshpool"; }
    std::string message(int code) const override {
        const auto* entry = find_error(code & ~after_start);
        if (entry == nullptr) return "unknown sshpool error";
        std::string text{entry->text};
        if (entry->when != fates::after && (code & after_start) != 0) text += " (the command may have run)";
        if (entry->when == fates::both && (code & after_start) == 0) text += " (the command did not start)";
        return text;
    }
    // Inline here, or the vtable would be in every translation unit.
    inline std::error_condition default_error_condition(int code) const noexcept override;
    inline bool equivalent(int code, const std::error_condition& condition) const noexcept override;
};

class errc_category final : public std::error_category {
public:
    const char* name() const noexcept override { return "sshpool.errc"; }
    std::string message(int value) const override {
        const auto* entry = find_error(value);
        return entry != nullptr ? std::string{entry->text} : "unknown sshpool error";
    }
    bool equivalent(const std::error_code& ec, int value) const noexcept override { return value == static_cast<int>(errc::cancelled) && is_cancellation(ec); }
};

class fate_category final : public std::error_category {
public:
    const char* name() const noexcept override { return "sshpool.fate"; }
    std::string message(int value) const override {
        return value == static_cast<int>(command_fate::not_started) ? "the command did not start" : "the command may have run";
    }
    bool equivalent(const std::error_code& ec, int value) const noexcept override {
        return value == static_cast<int>(command_fate::unknown) && is_cancellation(ec);
    }
};

inline const code_category& codes() noexcept {
    static const code_category instance;
    return instance;
}
inline const errc_category& conditions() noexcept {
    static const errc_category instance;
    return instance;
}
inline const fate_category& fate_conditions() noexcept {
    static const fate_category instance;
    return instance;
}

inline std::error_condition code_category::default_error_condition(int code) const noexcept { return {code & ~after_start, conditions()}; }
inline bool code_category::equivalent(int code, const std::error_condition& condition) const noexcept {
    if (condition.category() == conditions()) return condition.value() == (code & ~after_start);
    if (condition.category() == fate_conditions()) {
        const auto fate = (code & after_start) != 0 ? command_fate::unknown : command_fate::not_started;
        return condition.value() == static_cast<int>(fate);
    }
    return false;
}

}  // namespace detail

inline std::error_condition make_error_condition(errc e) noexcept { return {static_cast<int>(e), detail::conditions()}; }
inline std::error_condition make_error_condition(command_fate f) noexcept { return {static_cast<int>(f), detail::fate_conditions()}; }

/// The enumerator's name, for logs and metric labels: "connection_lost".
inline std::string_view to_string(errc e) noexcept {
    const auto* entry = detail::find_error(static_cast<int>(e));
    return entry != nullptr ? entry->name : "unknown";
}

/// Makes the code for `e`. The fate counts only where both can occur; elsewhere the errc decides it.
/// `errc::cancelled` is `asio::error::operation_aborted`, as every Asio user expects; its fate is `unknown`, because a
/// cancellation may come after the command was sent (`error_info::phase` tells which it was).
inline std::error_code make_error(errc e, command_fate fate = command_fate::not_started) noexcept {
    if (e == errc::cancelled) return asio::error::operation_aborted;
    const auto* entry = detail::find_error(static_cast<int>(e));
    const bool after = entry != nullptr && (entry->when == detail::fates::after || (entry->when != detail::fates::before && fate == command_fate::unknown));
    return {static_cast<int>(e) | (after ? detail::after_start : 0), detail::codes()};
}

/// What people need to know of a failure: where it happened and what the server said. Holds no secret.
class error_info {
public:
    std::error_code code;  ///< what the operation completed with
    std::string key;       ///< "user@host:port"
    std::string phase;     ///< what was being done: "resolve", "tcp", "key exchange", "host key", "login", "waiting", "channel", "exec", "command", …
    std::string text;      ///< one sentence for people, complete by itself

    explicit operator bool() const noexcept { return static_cast<bool>(code); }
    friend bool operator==(const error_info&, const error_info&) = default;
    friend bool operator==(const error_info& info, errc e) noexcept { return info.code == e; }
    friend bool operator==(const error_info& info, command_fate f) noexcept { return info.code == f; }
};

/// What the blocking face throws: `what()` is the sentence of the `error_info`.
class ssh_error : public std::system_error {
public:
    explicit ssh_error(error_info info) : std::system_error(info.code), info_(std::make_shared<const error_info>(std::move(info))) {}
    const char* what() const noexcept override { return info_->text.empty() ? std::system_error::what() : info_->text.c_str(); }
    const error_info& info() const noexcept { return *info_; }

private:
    std::shared_ptr<const error_info> info_;  // shared: copying an exception must not throw
};

}  // namespace sshpool
