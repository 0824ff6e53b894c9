#pragma once

#include <sshpool/channel.hpp>
#include <sshpool/command.hpp>
#include <sshpool/detail/run_op.hpp>
#include <sshpool/detail/ssh_session.hpp>
#include <sshpool/detail/transfer_op.hpp>
#include <sshpool/detail/tunnel_stream.hpp>
#include <sshpool/error.hpp>
#include <sshpool/transfer_options.hpp>
#include <sshpool/transport.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

namespace sshpool {

/// An SSH connection through libssh2: what a pool opens, and what a lease gives to work with.
///
/// A handle; copies are the same connection, which is closed when `close` is called, or when the last handle has gone and the last operation
/// has ended. Any number of operations may run at once: each has a channel of its own; where the server allows fewer, they queue, first
/// come first served.
///
/// **Threads**: any call from any thread. **Executor**: the connection works on a strand over the executor it was made with; operations complete on
/// their handler's associated executor, and never inside the initiating call. **Lifetime**: may outlive its execution
/// context, after which it is not usable, and operations are dropped with their handlers.
/// **Cancellation** (terminal, partial or total): the caller is answered with `errc::cancelled` at once; the channel is closed as soon as SSH
/// allows. Where the server's process goes on without its channel, no client can stop it: libssh2 can send a signal from 1.11 on, and sshd
/// then passes TERM on, and closes the output right after it: a program that writes as it ends may die of PIPE first.
class libssh2_transport {
public:
    explicit libssh2_transport(const asio::any_io_executor& executor) : owner_(std::make_shared<detail::session_owner>(detail::ssh_session::make(executor))) {}

    // The transport concept ---------------------------------------------------------------------------------------------------

    /// Resolves, connects, exchanges keys, checks the host key, logs in, and opens the first spare channel. Once per connection.
    ///
    /// Errors: `resolve_failed, connect_failed, connect_timeout, server_busy, handshake_failed, host_key_unknown, host_key_mismatch, auth_failed,
    /// key_unusable, channel_refused, connection_lost, protocol_error, cancelled`; `jump_failed` where the connection through which the target is
    /// reached (`open_request::via`) is missing, lost, or may open no tunnels.
    void open(open_request<libssh2_transport> request, std::function<void(open_report)> done) {
        const auto& to = request.target;
        if (!request.via && to.jump() != nullptr) {
            const auto text = to.key() + " is behind the jump host " + to.jump()->key() + ": it is opened through a connection to that one (open_request::via)";
            return done({{make_error(errc::jump_failed), to.key(), "jump host", text}, {}});
        }
        detail::stream_connect_factory way;
        if (request.via) way = detail::through_tunnel(request.via->owner_, request.via->share_);
        owner_->session->open({std::move(request.target), request.timeout, request.spare_channels, request.reap_grace, std::move(request.observer),
                               std::move(way), request.learned_leases},
                              std::move(done));
    }
    /// One round trip on a spare channel; where there is none, a channel-open. Where every channel is in use it succeeds without asking.
    void probe(std::chrono::milliseconds timeout, std::function<void(error_info)> done) { owner_->session->probe(timeout, std::move(done)); }
    void close(std::function<void()> done) { owner_->session->close(std::move(done)); }
    bool is_usable() const noexcept { return owner_->session->is_usable(); }
    std::chrono::steady_clock::time_point last_heard() const noexcept { return owner_->session->last_heard(); }
    libssh2_transport lend(std::shared_ptr<void> share) const {
        auto lent = *this;
        lent.share_ = std::move(share);
        return lent;
    }

    // Operations --------------------------------------------------------------------------------------------------------------

    /// Runs a command and collects what it gives. Each `error_info&` of these operations is filled on failure, and must live until the completion. A server
    /// that leaves a request on a channel unanswered for 30 s has broken the protocol.
    ///
    /// Completes with `void(error_code, command_result)`. An error never comes with an exit status; what was collected until then is in the result:
    ///  - `errc::connection_lost`, `protocol_error`: the fate tells whether the command may have run
    ///  - `errc::command_timeout`: the command's own timeout; the fate as above
    ///  - `errc::cancelled`, `output_limit`: it may have run, and may go on running
    ///  - `errc::command_refused`, `env_refused`, `channel_refused`, `command_too_long`: it did not run
    template <class CompletionToken>
    auto async_run(command what, CompletionToken&& token) {
        return start(std::move(what), nullptr, std::forward<CompletionToken>(token));
    }
    /// The same; `details` is filled on failure.
    template <class CompletionToken>
    auto async_run(command what, error_info& details, CompletionToken&& token) {
        return start(std::move(what), &details, std::forward<CompletionToken>(token));
    }

    /// Starts a command and gives its streams.
    ///
    /// Completes with `void(error_code, channel)` when the server has confirmed the start; the channel is empty exactly when there is an error:
    ///  - `errc::connection_lost`, `protocol_error`: the fate tells whether the command may have run
    ///  - `errc::command_timeout`: the command's own timeout, which also bounds the life of the channel; the fate as above
    ///  - `errc::cancelled`: it may have run. Cancelling later does nothing: destroy the channel
    ///  - `errc::command_refused`, `env_refused`, `channel_refused`, `command_too_long`: it did not run
    /// Throws `std::invalid_argument` for a command with `input`, `on_output` or `max_output`: here the caller writes, reads and counts.
    template <class CompletionToken>
    auto async_open(command what, CompletionToken&& token) {
        return open_command(std::move(what), nullptr, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_open(command what, error_info& details, CompletionToken&& token) {
        return open_command(std::move(what), &details, std::forward<CompletionToken>(token));
    }

    /// Has the server connect to a TCP port, by a name and a way that it knows, and gives that connection ("direct-tcpip", as `ssh -W`).
    ///
    /// Such a channel counts against no limit of sessions. Completes with `void(error_code, channel)` when the server has connected; its `err()` ends at once:
    ///  - `errc::connect_failed`: the server could not connect, or has not answered within 10 s. libssh2 can ask for one channel at a time, whatever its kind,
    ///    so other operations that need a new one wait meanwhile, up to those 10 s for each place that swallows what is sent to it; commands that find
    ///    a spare channel do not. After an answer that never came this connection opens no more, finishes what it carries, and takes no new leases
    ///  - `errc::channel_refused`: it does not allow this (sshd's AllowTcpForwarding, PermitOpen)
    ///  - `errc::connection_lost`, `protocol_error`, `cancelled`
    /// Throws `std::invalid_argument` for a host that is empty, longer than 255 bytes or holds a NUL byte, and for port 0.
    template <class CompletionToken>
    auto async_open_tcp(std::string host, std::uint16_t port, CompletionToken&& token) {
        return open_tcp(std::move(host), port, nullptr, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_open_tcp(std::string host, std::uint16_t port, error_info& details, CompletionToken&& token) {
        return open_tcp(std::move(host), port, &details, std::forward<CompletionToken>(token));
    }

    // Files -------------------------------------------------------------------------------------------------------------------
    //
    // Over the server's sftp subsystem, on a channel of their own, with many requests under way. Remote names are as sftp has them: relative ones begin where
    // the server says, usually at the home directory; `~` means nothing. A file is written under a temporary name (".sshpool-…") in its directory and renamed
    // when it is complete, so there is never half a file under the real name; a link under that name is replaced, not followed. Where a server
    // cannot rename over a file (OpenSSH's can), the old file is removed first, in a step of its own. Temporary files are removed after a failure, for as
    // long as the connection stands.
    //
    // Local files are listed, read and written by threads of the execution context, at most eight and made when they are needed, a piece (up to 1 MiB) ahead of
    // the connection or behind it. So a disk that does not answer holds up only the transfers that need one, and those can still be cancelled and run
    // out of time; but what hangs in the operating system cannot be ended, and destroying the execution context waits for it.
    //
    // A long transfer shares its connection with other operations, which then wait for some milliseconds more. One that is to have a connection of its own is
    // started on a lease that is then discarded: the pool lends that connection to nobody else from then on, opens another one for those who come,
    // and closes it when the transfer has ended. Or it goes through a pool with `leases_per_connection = 1`.
    //
    // Errors of all four, with the server's words in `details`; nothing was put in place unless said otherwise:
    //  - `errc::file_not_found`, `file_denied`, `file_failed` (anything else that the server could not do: a full disk, a directory where a file is wanted)
    //  - `errc::local_file`: a file of this machine cannot be read or written
    //  - `errc::subsystem_refused`: the server has no sftp; `channel_refused`: no channel
    //  - `errc::output_limit`: the file to be fetched holds more than `max_size`
    //  - `errc::connection_lost`, `protocol_error`, `command_timeout` (the options' own timeout), `cancelled`: what came last may have been put in place,
    //    whole, where the fate is unknown
    // Throws `std::invalid_argument` at once for an empty name, one with a NUL byte, or one longer than 32 KiB.

    /// Sends a file, or a directory with everything in it. Completes with `void(error_code)`.
    ///
    /// `to` is the name of the new file or directory, not of one to put it into. A directory that is there already is filled: other files
    /// in it stay. Its files are sent side by side, each put in place as it is complete, also where a later one fails. Links to files are sent as the
    /// files; a link to a directory, a socket or a device in it is `errc::local_file`.
    template <class CompletionToken>
    auto async_upload(std::filesystem::path from, std::string to, CompletionToken&& token) {
        return async_upload(std::move(from), std::move(to), transfer_options{}, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_upload(std::filesystem::path from, std::string to, transfer_options options, CompletionToken&& token) {
        return transfer<detail::no_result>({transfer_kind::upload, std::move(to), std::move(from), {}, std::move(options)}, nullptr,
                                           std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_upload(std::filesystem::path from, std::string to, error_info& details, CompletionToken&& token) {
        return async_upload(std::move(from), std::move(to), transfer_options{}, details, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_upload(std::filesystem::path from, std::string to, transfer_options options, error_info& details, CompletionToken&& token) {
        return transfer<detail::no_result>({transfer_kind::upload, std::move(to), std::move(from), {}, std::move(options)}, &details,
                                           std::forward<CompletionToken>(token));
    }

    /// Fetches a file. `to` is its new name, not a directory to put it into. Completes with `void(error_code)`.
    template <class CompletionToken>
    auto async_download(std::string from, std::filesystem::path to, CompletionToken&& token) {
        return async_download(std::move(from), std::move(to), transfer_options{}, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_download(std::string from, std::filesystem::path to, transfer_options options, CompletionToken&& token) {
        return transfer<detail::no_result>({transfer_kind::download, std::move(from), std::move(to), {}, std::move(options)}, nullptr,
                                           std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_download(std::string from, std::filesystem::path to, error_info& details, CompletionToken&& token) {
        return async_download(std::move(from), std::move(to), transfer_options{}, details, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_download(std::string from, std::filesystem::path to, transfer_options options, error_info& details, CompletionToken&& token) {
        return transfer<detail::no_result>({transfer_kind::download, std::move(from), std::move(to), {}, std::move(options)}, &details,
                                           std::forward<CompletionToken>(token));
    }

    /// Makes a file of these bytes, or replaces it. Completes with `void(error_code)`.
    template <class CompletionToken>
    auto async_write_file(std::string to, std::string bytes, CompletionToken&& token) {
        return async_write_file(std::move(to), std::move(bytes), transfer_options{}, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_write_file(std::string to, std::string bytes, transfer_options options, CompletionToken&& token) {
        return transfer<detail::no_result>({transfer_kind::write_file, std::move(to), {}, std::move(bytes), std::move(options)}, nullptr,
                                           std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_write_file(std::string to, std::string bytes, error_info& details, CompletionToken&& token) {
        return async_write_file(std::move(to), std::move(bytes), transfer_options{}, details, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_write_file(std::string to, std::string bytes, transfer_options options, error_info& details, CompletionToken&& token) {
        return transfer<detail::no_result>({transfer_kind::write_file, std::move(to), {}, std::move(bytes), std::move(options)}, &details,
                                           std::forward<CompletionToken>(token));
    }

    /// Gives what a file holds, at most 16 MiB unless `max_size` says otherwise. Completes with `void(error_code, std::string)`; empty after an error.
    template <class CompletionToken>
    auto async_read_file(std::string from, CompletionToken&& token) {
        return async_read_file(std::move(from), transfer_options{}, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_read_file(std::string from, transfer_options options, CompletionToken&& token) {
        return transfer<std::string>({transfer_kind::read_file, std::move(from), {}, {}, std::move(options)}, nullptr, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_read_file(std::string from, error_info& details, CompletionToken&& token) {
        return async_read_file(std::move(from), transfer_options{}, details, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_read_file(std::string from, transfer_options options, error_info& details, CompletionToken&& token) {
        return transfer<std::string>({transfer_kind::read_file, std::move(from), {}, {}, std::move(options)}, &details, std::forward<CompletionToken>(token));
    }

private:
    using transfer_kind = detail::transfer_request::kind;

    template <class Result, class CompletionToken>
    auto transfer(detail::transfer_request what, error_info* details, CompletionToken&& token) {
        what.check();
        using signature = std::conditional_t<std::is_same_v<Result, detail::no_result>, void(std::error_code), void(std::error_code, std::string)>;
        return asio::async_initiate<CompletionToken, signature>(
            [owner = owner_, share = share_](auto handler, detail::transfer_request request, error_info* info) {
                detail::transfer_op<Result>::start(owner, share, std::move(handler), std::move(request), info);
            },
            token, std::move(what), details);
    }

    template <class CompletionToken>
    auto open_command(command what, error_info* details, CompletionToken&& token) {
        if (!what.input().empty() || what.on_output() || what.output_limit() != command::default_max_output)
            throw std::invalid_argument("a command for async_open has no input, on_output or max_output: the channel is written and read by the caller");
        return asio::async_initiate<CompletionToken, void(std::error_code, channel)>(
            [owner = owner_, share = share_](auto handler, command c, error_info* info) {
                const auto timeout = c.timeout().value_or(std::chrono::milliseconds{});
                channel::open(owner, share, info, timeout, std::move(handler), std::move(c));
            },
            token, std::move(what), details);
    }
    template <class CompletionToken>
    auto open_tcp(std::string host, std::uint16_t port, error_info* details, CompletionToken&& token) {
        detail::refuse_nul(host, "a tunnel's host");
        if (host.empty() || host.size() > 255) throw std::invalid_argument("a tunnel's host has 1 to 255 characters");
        if (port == 0) throw std::invalid_argument("a tunnel's port must not be 0");
        return asio::async_initiate<CompletionToken, void(std::error_code, channel)>(
            [owner = owner_, share = share_](auto handler, const std::string& to, std::uint16_t at, error_info* info) {
                channel::open(owner, share, info, std::chrono::milliseconds{}, std::move(handler), to, at);
            },
            token, std::move(host), port, details);
    }

    struct initiate_run {
        std::shared_ptr<detail::session_owner> owner;
        std::shared_ptr<void> share;
        template <class Handler>
        void operator()(Handler&& handler, command what, error_info* details) {
            detail::run_op<std::decay_t<Handler>>::start(std::move(owner), std::move(share), std::forward<Handler>(handler), std::move(what), details);
        }
    };
    template <class CompletionToken>
    auto start(command what, error_info* details, CompletionToken&& token) {
        return asio::async_initiate<CompletionToken, void(std::error_code, command_result)>(initiate_run{owner_, share_}, token, std::move(what), details);
    }

    std::shared_ptr<detail::session_owner> owner_;
    std::shared_ptr<void> share_;
};

}  // namespace sshpool
