#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/address.hpp>
#include <sshpool/detail/pool_driver.hpp>
#include <sshpool/detail/pool_run_op.hpp>
#include <sshpool/detail/shutdown_op.hpp>
#include <sshpool/detail/warm_op.hpp>
#include <sshpool/lease.hpp>
#include <sshpool/libssh2_transport.hpp>
#include <sshpool/warm_report.hpp>

#include <asio/async_result.hpp>

#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool {

/// A pool of SSH connections: lends connections to callers, opens them, keeps them healthy, closes them.
///
/// Two callers share a connection only if user, host, port, identity, host-key policy and jump chain are all equal.
///
/// **Threads**: every member may be called from any thread. No user code runs inside the pool: handlers complete on their
/// associated executor, events are told on a strand of their own.
/// **Lifetime**: going away without `async_shutdown` is safe: callers that wait get `errc::pool_closed`, leases die, connections
/// close. So is the execution context going first: operations that have not completed by then, or are started afterwards, are dropped
/// with their handlers. Open connections are outstanding work.
/// **fork()**: a child sends and reads nothing on the connections of its parent, and may destroy whatever it has a copy of, or exit; the parent goes on.
/// There, every operation ends with `errc::pool_closed` (`async_warm` has it in its report, `async_shutdown` just ends), leases are dead, operations on them
/// end with `errc::connection_lost`, and the figures are zeros. To connect, a child makes a pool of its own. Asio's rule stands: an io_context that other
/// threads run at the moment of the fork is neither run nor destroyed in the child, and one that goes on in the child needs its `notify_fork`.
/// **Sleep**: where the machine was suspended (CLOCK_BOOTTIME went on, the pool's clock stood still), every idle connection is checked before it is lent.
/// **Executor**: the one given to the constructor; also the fallback for handlers that have none.
/// **Cancellation**: every operation takes terminal, partial and total cancellation, all with the guarantee of total: what was
/// cancelled completes with `errc::cancelled` (`asio::error::operation_aborted`) and nothing is lost. A connect that is under
/// way goes on and serves others.
/// **Arguments** are copied when a function is called; an `error_info&` must live until its operation has completed.
template <transport Transport = libssh2_transport, class Clock = std::chrono::steady_clock>
class ssh_pool {
    using driver_type = detail::pool_driver<Transport, Clock>;

public:
    using executor_type = asio::any_io_executor;
    using transport_type = Transport;
    using lease_type = lease<Transport>;
    using transport_factory = std::function<Transport(asio::any_io_executor)>;

    /// Throws `std::invalid_argument` that names the field of `params` that cannot be.
    explicit ssh_pool(
        asio::any_io_executor executor, pool_params params = {}, transport_factory factory = [](asio::any_io_executor ex) { return Transport{std::move(ex)}; })
        : driver_(driver_type::make(std::move(executor), std::move(params), std::move(factory))) {}
    ssh_pool(ssh_pool&&) noexcept = default;
    ssh_pool& operator=(ssh_pool&& other) noexcept {
        if (this != &other) {
            if (driver_ != nullptr) driver_->abandon();
            driver_ = std::move(other.driver_);
        }
        return *this;
    }
    ssh_pool(const ssh_pool&) = delete;
    ssh_pool& operator=(const ssh_pool&) = delete;
    ~ssh_pool() {
        if (driver_ != nullptr) driver_->abandon();
    }

    executor_type get_executor() const noexcept { return driver_->executor(); }

    /// Lends a connection to the caller.
    ///
    /// A free slot is lent at once. Otherwise callers queue, first come first served, while the pool opens connections up to
    /// `pool_params::max_connections`. A connection silent for longer than `health_check_interval` is probed first.
    ///
    /// Completes with `void(std::error_code, lease<Transport>)`; the lease is empty exactly when there is an error:
    ///  - `errc::acquire_timeout`: `acquire_timeout` passed first; the text names what it waited for
    ///  - `errc::pool_closed`: the pool was shut down before or during the wait
    ///  - `errc::pool_exhausted`: the pool is full and `when_full` is `fail`, or the target's jump chain is longer than `max_connections`
    ///  - `errc::host_backing_off`: the host, a jump host on the way, or these credentials there failed a moment ago, and the next try is not due
    ///    (`pool_params::when_backing_off`); the text holds the cause and the time that is left
    ///  - `errc::resolve_failed`, `connect_failed`, `connect_timeout`, `server_busy`, `handshake_failed`, `host_key_unknown`,
    ///    `host_key_mismatch`, `auth_failed`, `key_unusable`, `jump_failed`, `channel_refused`, `connection_lost`, `protocol_error`: the connect failed
    ///  - `errc::cancelled`: this call was cancelled; the pool is unchanged
    template <class Token>
    auto async_get_connection(const target& where, Token&& token, std::source_location caller = std::source_location::current()) {
        return get_connection(where, nullptr, std::forward<Token>(token), caller);
    }
    /// The same; on failure `details` holds what people need to know.
    template <class Token>
    auto async_get_connection(const target& where, error_info& details, Token&& token, std::source_location caller = std::source_location::current()) {
        return get_connection(where, &details, std::forward<Token>(token), caller);
    }

    /// Gets a connection, runs the command on it, gives it back.
    ///
    /// Tries again on another connection only when this one was lost before the command can have started, at most twice, and
    /// not past `acquire_timeout`. The command's own timeout counts from having the connection.
    ///
    /// Completes with `void(std::error_code, command_result)`: the errors of `async_get_connection` and those of the
    /// transport's `async_run`. A command that ran and failed is no error: see `command_result::exit_status`.
    template <class Token>
    auto async_run(const target& where, command what, Token&& token, std::source_location caller = std::source_location::current()) {
        return run(where, std::move(what), nullptr, std::forward<Token>(token), caller);
    }
    /// The same; on failure `details` holds what people need to know.
    template <class Token>
    auto async_run(const target& where, command what, error_info& details, Token&& token, std::source_location caller = std::source_location::current()) {
        return run(where, std::move(what), &details, std::forward<Token>(token), caller);
    }

    /// Connects to every target of a range that is not connected yet, at most `max_handshakes` at once.
    ///
    /// Completes with `void(std::error_code, warm_report)` when each was connected or has failed; the only error is
    /// `errc::cancelled`, and the report then holds what was done. More targets than `max_connections` cannot stay warm.
    template <class Range, class Token>
    auto async_warm(const Range& targets, Token&& token, std::source_location caller = std::source_location::current()) {
        return warm(targets, nullptr, std::forward<Token>(token), caller);
    }
    /// The same; when it is cancelled `details` says so. What failed stands in the report.
    template <class Range, class Token>
    auto async_warm(const Range& targets, error_info& details, Token&& token, std::source_location caller = std::source_location::current()) {
        return warm(targets, &details, std::forward<Token>(token), caller);
    }

    /// Keeps these hosts connected from now on: a connection of theirs is exempt from `idle_timeout`, replaced before its TTL ends, and opened again
    /// after a loss, within every limit and back-off. They take free places only: callers that wait come first, and may have them evicted. A target
    /// with a key that is kept already replaces that one.
    template <class Range>
    void keep_warm(const Range& targets) {
        const std::vector<target> all(std::begin(targets), std::end(targets));
        driver_->step_now([&](auto& core, detail::instant at, detail::actions& out) { core.keep_warm(at, all, out); });
    }
    /// Ends `keep_warm` for "user@host:port": its connections close when they have been idle for long enough. Here and below a key may be written in every
    /// way that a `target` takes: upper case, without the port, an IPv6 address in full. A key that nobody has is no error.
    void forget_warm(std::string_view key) {
        driver_->step_now([name = detail::key_of(key)](auto& core, detail::instant at, detail::actions& out) { core.forget_warm(at, name, out); });
    }

    /// Lends a connection that is free and healthy at this moment. Never waits, never connects. One that was silent for too long is not lent: its probe is
    /// begun, and not waited for.
    std::optional<lease_type> try_get_connection(const target& where, std::source_location caller = std::source_location::current()) {
        return driver_->try_lend(where, caller);
    }

    /// Ends every connection of `key` ("user@host:port"): idle ones now, leased ones when given back. None of them is lent again,
    /// from the moment this returns. Callers that wait get a new connection. What was learned of `key` is forgotten: that connects or logins failed, and
    /// how many channels its server allows.
    void invalidate(std::string_view key) {
        driver_->step_now([name = detail::key_of(key)](auto& core, detail::instant at, detail::actions& out) { core.invalidate(at, name, out); });
    }
    /// The same for every connection whose `credentials::identity()` is `label`, also where only a part of its credentials (`credentials::or_else`) goes by
    /// that label: to be called when a key was revoked.
    void invalidate_principal(std::string_view label) {
        driver_->step_now([&](auto& core, detail::instant at, detail::actions& out) { core.invalidate_identity(at, label, out); });
    }
    /// The same for every connection. The pool stays usable.
    void close_all() {
        driver_->step_now([](auto& core, detail::instant at, detail::actions& out) { core.close_all(at, out); });
    }

    /// Closes the pool: refuses new callers and wakes those that wait (`errc::pool_closed`), closes what is idle, waits at most
    /// `grace` for what is lent, then cuts it.
    ///
    /// Completes with `void(std::error_code)` when no connection is left; the only error is `errc::cancelled`, which ends this wait
    /// and not the shutdown. May be called more than once.
    template <class Token>
    auto async_shutdown(std::chrono::milliseconds grace, Token&& token) {
        return shutdown(grace, nullptr, std::forward<Token>(token));
    }
    /// The same; when it is cancelled `details` says so.
    template <class Token>
    auto async_shutdown(std::chrono::milliseconds grace, error_info& details, Token&& token) {
        return shutdown(grace, &details, std::forward<Token>(token));
    }

    /// The pool's figures at this moment.
    pool_stats get_stats() const {
        return driver_->read([](const auto& core) { return core.stats(); });
    }
    /// The figures of one "user@host:port", without the time histograms; zeros for a key that the pool does not remember.
    pool_stats get_stats(std::string_view key) const {
        return driver_->read([name = detail::key_of(key)](const auto& core) { return core.stats(name); });
    }
    /// What reads the figures without keeping the pool: for `pool_metrics`, and whoever else looks on from a place of their own.
    pool_watcher watch() const {
        return [weak = std::weak_ptr<const driver_type>{driver_}](std::size_t hosts) -> std::optional<pool_snapshot> {
            const auto driver = weak.lock();
            if (driver == nullptr || !driver->is_open()) return std::nullopt;
            return driver->read([&](const auto& core) { return core.snapshot(hosts); });
        };
    }
    /// Several lines for people, of `key` ("user@host:port"): how things stand; why it is left alone, and until when; who holds which connection, since
    /// when, and which line of the program asked for it; what a queue waits for; the last failures of each sort with the server's own words, and the
    /// options of its sshd_config to look at. Also tells what is known of a host that has no connection. Holds no secret. To be read, not parsed.
    std::string explain(std::string_view key) const {
        const auto name = detail::key_of(key);
        if (driver_->is_forked()) return detail::asked_in_a_child(name).text;
        return driver_->read([&](const auto& core) { return core.explain(name, driver_->now()); });
    }

private:
    template <class Token>
    auto get_connection(const target& where, error_info* details, Token&& token, std::source_location caller) {
        return asio::async_initiate<Token, void(std::error_code, lease_type)>(
            [driver = driver_](auto handler, target to, error_info* info, std::source_location from) {
                detail::acquire_op<Transport, decltype(handler)>::start(driver, std::move(handler), std::move(to), info, from);
            },
            token, target{where}, details, caller);
    }
    template <class Token>
    auto run(const target& where, command what, error_info* details, Token&& token, std::source_location caller) {
        return asio::async_initiate<Token, void(std::error_code, command_result)>(
            [driver = driver_](auto handler, target to, command line, error_info* info, std::source_location from) {
                detail::pool_run_op<Transport, driver_type, decltype(handler)>::start(driver, std::move(handler), std::move(to), std::move(line), info, from);
            },
            token, target{where}, std::move(what), details, caller);
    }
    template <class Range, class Token>
    auto warm(const Range& targets, error_info* details, Token&& token, std::source_location caller) {
        return asio::async_initiate<Token, void(std::error_code, warm_report)>(
            [driver = driver_](auto handler, std::vector<target> all, error_info* info, std::source_location from) {
                detail::warm_op<Transport, driver_type, decltype(handler)>::start(driver, std::move(handler), std::move(all), info, from);
            },
            token, std::vector<target>(std::begin(targets), std::end(targets)), details, caller);
    }
    template <class Token>
    auto shutdown(std::chrono::milliseconds grace, error_info* details, Token&& token) {
        return asio::async_initiate<Token, void(std::error_code)>(
            [driver = driver_](auto handler, std::chrono::milliseconds patience, error_info* info) {
                detail::shutdown_op<driver_type, Clock, decltype(handler)>::start(driver, std::move(handler), patience, info);
            },
            token, grace, details);
    }

    std::shared_ptr<driver_type> driver_;
};

}  // namespace sshpool
