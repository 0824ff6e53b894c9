#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/channel_core.hpp>
#include <sshpool/error.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/async_result.hpp>

#include <libssh2.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace sshpool {

/// A running command, or a TCP connection made by the server, as a stream: what `async_open` and `async_open_tcp` give.
///
/// It models Asio's AsyncReadStream (the command's standard output) and AsyncWriteStream (its standard input); `err()` is a second readable stream.
/// `asio::async_read`, `async_write` and `async_read_until` work on it, and so do libraries made for such streams.
///
/// **Threads**: calls may come from any thread, also at the same time; moving and destroying are for one thread alone. Reads are served in the order of their
/// calls, writes too. **Executor**: the connection's; each operation completes on its handler's associated executor, and never inside the initiating call.
/// **Lifetime**: it holds its own share of the connection, which counts as leased until the channel has ended, also where the lease goes first. Destroying it
/// closes the channel: what waits completes with `asio::error::operation_aborted`, and what was written but not sent yet is lost (`async_send_eof` and
/// `async_wait_exit` first, where that matters). Neither SSH nor a client can promise that the remote process ends with its channel: it sees the end of its
/// input, and SIGPIPE or SIGHUP (with a terminal) if it goes on. **Cancellation** (terminal, partial or total) ends that one call, without any effect.
///
/// **Back-pressure**: the server may send as much as the channel's window ahead of what is read here: 512 KiB, doubled up to 4 MiB with each window that is
/// read. Standard output and error share it, as SSH has it: a stream that is never read stalls the other once it holds that much. Nobody else on the connection
/// notices. Writes complete when the bytes were taken into a buffer of 64 KiB, which empties as the command reads.
///
/// **Errors** of every operation, unless it says otherwise; bytes that came before are still read:
///  - `errc::connection_lost`, `errc::protocol_error`: the connection is gone
///  - `errc::command_timeout`: the command's own timeout, which bounds the channel's life
///  - `asio::error::operation_aborted` (which is `errc::cancelled`): this call was cancelled, or the channel closed
class channel {
public:
    using executor_type = asio::any_io_executor;

    /// What the command writes to its standard error; of a tunnel, or of a command on a terminal, it just ends. An AsyncReadStream, valid as long as its
    /// channel.
    class error_stream {
    public:
        using executor_type = asio::any_io_executor;
        executor_type get_executor() const noexcept { return core_->executor(); }

        /// As `channel::async_read_some`.
        template <class MutableBufferSequence, class CompletionToken>
        auto async_read_some(const MutableBufferSequence& buffers, CompletionToken&& token) {
            return read(core_, output_stream::err, buffers, nullptr, std::forward<CompletionToken>(token));
        }
        template <class MutableBufferSequence, class CompletionToken>
        auto async_read_some(const MutableBufferSequence& buffers, error_info& details, CompletionToken&& token) {
            return read(core_, output_stream::err, buffers, &details, std::forward<CompletionToken>(token));
        }

    private:
        friend class channel;
        std::shared_ptr<detail::channel_core> core_;
    };

    /// Empty: only to be assigned to, moved from, asked whether it is, and destroyed.
    channel() = default;
    channel(channel&& other) noexcept = default;
    channel& operator=(channel&& other) noexcept {
        if (this != &other) {
            close();
            err_ = std::move(other.err_);
        }
        return *this;
    }
    channel(const channel&) = delete;
    channel& operator=(const channel&) = delete;
    ~channel() { close(); }

    /// False for an empty one.
    explicit operator bool() const noexcept { return err_.core_ != nullptr; }
    executor_type get_executor() const noexcept { return err_.get_executor(); }

    /// The command's standard error as a stream of its own.
    error_stream& err() noexcept { return err_; }

    /// Reads what is there of the standard output, at least one byte. Completes with `void(error_code, std::size_t)`; `asio::error::eof` at the end.
    template <class MutableBufferSequence, class CompletionToken>
    auto async_read_some(const MutableBufferSequence& buffers, CompletionToken&& token) {
        return read(err_.core_, output_stream::out, buffers, nullptr, std::forward<CompletionToken>(token));
    }
    /// This and every overload with `error_info`: filled on failure; it must live until the completion.
    template <class MutableBufferSequence, class CompletionToken>
    auto async_read_some(const MutableBufferSequence& buffers, error_info& details, CompletionToken&& token) {
        return read(err_.core_, output_stream::out, buffers, &details, std::forward<CompletionToken>(token));
    }

    /// Writes at least one byte to the standard input. Completes with `void(error_code, std::size_t)`; `asio::error::broken_pipe` after `async_send_eof`, or
    /// once the other side has closed the channel.
    template <class ConstBufferSequence, class CompletionToken>
    auto async_write_some(const ConstBufferSequence& buffers, CompletionToken&& token) {
        return write(err_.core_, buffers, nullptr, std::forward<CompletionToken>(token));
    }
    template <class ConstBufferSequence, class CompletionToken>
    auto async_write_some(const ConstBufferSequence& buffers, error_info& details, CompletionToken&& token) {
        return write(err_.core_, buffers, &details, std::forward<CompletionToken>(token));
    }

    /// Ends the standard input after everything written so far; reading goes on. Completes with `void(error_code)` when that is on its way;
    /// `asio::error::broken_pipe` if the other side has closed the channel before.
    template <class CompletionToken>
    auto async_send_eof(CompletionToken&& token) {
        return send_eof(err_.core_, nullptr, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_send_eof(error_info& details, CompletionToken&& token) {
        return send_eof(err_.core_, &details, std::forward<CompletionToken>(token));
    }

    /// Waits until the command has ended and the channel is closed. Completes with `void(error_code, command_result)`: an exit status or a signal, never one
    /// after an error; `out` and `err` stay empty, and what was not read yet can still be. A command that writes more than the window ends only if somebody
    /// reads it. For a tunnel it waits until both sides have ended theirs; there is neither status nor signal.
    template <class CompletionToken>
    auto async_wait_exit(CompletionToken&& token) {
        return wait_exit(err_.core_, nullptr, std::forward<CompletionToken>(token));
    }
    template <class CompletionToken>
    auto async_wait_exit(error_info& details, CompletionToken&& token) {
        return wait_exit(err_.core_, &details, std::forward<CompletionToken>(token));
    }

    /// Sends the command a signal: "TERM", "INT", "HUP", … (RFC 4254 section 6.10). The server does not answer; it passes on what it likes (OpenSSH from 7.9
    /// on: ABRT, ALRM, FPE, HUP, INT, KILL, PIPE, QUIT, SEGV, TERM, USR1, USR2). libssh2 before 1.11 has no way to send one: gives `errc::unsupported`, and
    /// sends nothing. Throws `std::invalid_argument` for what is no signal's name.
    [[nodiscard]] std::error_code signal(std::string_view name) {
        if (name.empty() || name.size() > 64 || name.starts_with("SIG") ||
            name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != std::string_view::npos)
            throw std::invalid_argument("a signal is named in capitals and without SIG, as in \"TERM\"");
        if constexpr (!can_signal) return make_error(errc::unsupported);
        err_.core_->notify({std::string{name}, 0, 0});
        return {};
    }
    /// Whether `signal` does anything.
    static constexpr bool can_signal = LIBSSH2_VERSION_NUM >= 0x010b00;

    /// Tells the command's terminal its new size; a command without a terminal gets no notice of it. Throws `std::invalid_argument` outside of 1 to 65535.
    void resize(unsigned columns, unsigned rows) {
        if (columns == 0 || rows == 0 || columns > command::longest_side || rows > command::longest_side)
            throw std::invalid_argument("a terminal has 1 to 65535 columns and rows");
        err_.core_->notify({{}, columns, rows});
    }

    /// Closes the channel, as destroying does; this object is then empty.
    void close() noexcept {
        const auto core = std::exchange(err_.core_, nullptr);
        if (core == nullptr) return;
        try {
            core->close();
        } catch (...) {  // out of memory: it ends with its connection
        }
    }

private:
    friend class libssh2_transport;
    explicit channel(std::shared_ptr<detail::channel_core> core) { err_.core_ = std::move(core); }

    using core_pointer = std::shared_ptr<detail::channel_core>;

    template <class Handler, class... What>
    static void open(std::shared_ptr<detail::session_owner> owner, std::shared_ptr<void> share, error_info* details, std::chrono::milliseconds timeout,
                     Handler handler, What&&... what) {
        const auto executor = owner->session->executor();
        if (!executor) return;  // its context has gone: nothing completes there any more
        const auto core = std::make_shared<detail::channel_core>(std::move(owner), std::move(share), *executor, std::forward<What>(what)...);
        const auto who = std::make_shared<detail::handler_awaiter<Handler, channel>>(std::move(handler), *executor, details);
        detail::on_cancellation(who->handler(), [weak = std::weak_ptr{core}] {
            if (const auto c = weak.lock()) c->cancel_open();
        });
        core->start(timeout, [weak = std::weak_ptr{core}, who](error_info error) {
            auto opened = error ? channel{} : channel{weak.lock()};
            who->answer(std::move(error), std::move(opened));
        });
    }

    template <class Sequence, class CompletionToken>
    static auto read(const core_pointer& core, output_stream from, const Sequence& buffers, error_info* details, CompletionToken&& token) {
        return asio::async_initiate<CompletionToken, void(std::error_code, std::size_t)>(
            [](auto handler, core_pointer c, output_stream which, const Sequence& into, error_info* info) {
                c->start_read(which, into, info, std::move(handler));
            },
            token, core, from, buffers, details);
    }
    template <class Sequence, class CompletionToken>
    static auto write(const core_pointer& core, const Sequence& buffers, error_info* details, CompletionToken&& token) {
        return asio::async_initiate<CompletionToken, void(std::error_code, std::size_t)>(
            [](auto handler, core_pointer c, const Sequence& from, error_info* info) { c->start_write(from, info, std::move(handler)); }, token, core, buffers,
            details);
    }
    template <class CompletionToken>
    static auto send_eof(const core_pointer& core, error_info* details, CompletionToken&& token) {
        return asio::async_initiate<CompletionToken, void(std::error_code)>(
            [](auto handler, core_pointer c, error_info* info) { c->start_send_eof(info, std::move(handler)); }, token, core, details);
    }
    template <class CompletionToken>
    static auto wait_exit(const core_pointer& core, error_info* details, CompletionToken&& token) {
        return asio::async_initiate<CompletionToken, void(std::error_code, command_result)>(
            [](auto handler, core_pointer c, error_info* info) { c->start_wait_exit(info, std::move(handler)); }, token, core, details);
    }

    error_stream err_;
};

}  // namespace sshpool
