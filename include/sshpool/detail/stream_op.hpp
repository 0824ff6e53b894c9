#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/byte_queue.hpp>
#include <sshpool/detail/channel_op.hpp>
#include <sshpool/detail/direct_tcpip.hpp>
#include <sshpool/detail/exec_op.hpp>
#include <sshpool/error.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// A channel as streams: a command's input, output and error, or a tunnel's two directions. It takes what comes out of libssh2 at once; the server may
/// send more as that is taken from here. "Answered" is it when the channel has ended.
class stream_op : public channel_op {
public:
    explicit stream_op(command what) : channel_op(channel_start::exec(what)), what_(std::move(what)) {}
    stream_op(std::string_view host, std::uint16_t port) : channel_op({}), own_(direct_tcpip(host, port)) {}

    const own_channel* wants() const noexcept override { return own_ ? &*own_ : nullptr; }
    error_info objection() const override { return what_ ? objection_to(*what_) : error_info{}; }

    /// A signal for the command, or the new size of its terminal. Sent in the next step; the server answers neither.
    struct notice {
        std::string signal;
        unsigned columns = 0;
        unsigned rows = 0;
    };
    void send(notice n) { notices_.push_back(std::move(n)); }

protected:
    struct incoming {
        byte_queue bytes;
        bool ended = false;
    };
    enum class outgoing { nothing, bytes, eof };

    /// What is to be sent when all before it has been: appends to `into`, which is empty. Bytes may be none: there is something to attend to.
    virtual outgoing next_to_send(std::string& into) = 0;
    virtual void eof_sent() = 0;

    void work(session_engine& engine, engine_time now) override {
        if (!std::exchange(opened_, true)) engine.attend(*this);
        send_notices(engine);
        send_bytes(engine);
        const bool out_ended = receive(engine, output_stream::out);
        const bool err_ended = receive(engine, output_stream::err);
        if (!out_ended || !err_ended || !is_closed(engine)) return;
        if (own_ || read_exit(engine, exit_)) engine.answer(*this, now);
    }
    std::string doing() const override { return own_ ? "carrying a tunnel" : "running a command"; }

    incoming& from(output_stream stream) noexcept { return stream == output_stream::out ? out_ : err_; }
    void take(output_stream stream, std::size_t bytes) {
        from(stream).bytes.drop(bytes);
        done_with(bytes);
    }
    bool is_open() const noexcept { return opened_; }

    command_result exit_;  // without the output

private:
    void send_notices(session_engine& engine) {
        while (!notices_.empty()) {
            const auto& n = notices_.front();
            int rc = 0;
            if (n.signal.empty()) {
                rc = libssh2_channel_request_pty_size_ex(channel_, static_cast<int>(n.columns), static_cast<int>(n.rows), 0, 0);
            } else {
#if LIBSSH2_VERSION_NUM >= 0x010b00
                rc = libssh2_channel_signal_ex(channel_, n.signal.data(), n.signal.size());
#endif
            }
            if (rc == LIBSSH2_ERROR_EAGAIN) return;  // in a rekey: the same again
            notices_.pop_front();
            if (rc != 0) return engine.broken_by(rc, "command");
        }
    }
    void send_bytes(session_engine& engine) {
        for (;;) {
            sent_ += write(engine, std::string_view{outgoing_}.substr(sent_));
            if (sent_ < outgoing_.size()) return;
            outgoing_.clear();
            sent_ = 0;
            const auto next = next_to_send(outgoing_);
            if (next == outgoing::bytes) {
                engine.attend(*this);
                continue;
            }
            if (next == outgoing::eof && send_eof(engine)) {
                eof_sent();
                engine.attend(*this);
            }
            return;
        }
    }
    /// True when the stream has ended.
    bool receive(session_engine& engine, output_stream stream) {
        auto& buffer = scratch();
        auto& to = from(stream);
        while (!to.ended) {
            const auto n = read(engine, stream, buffer.data(), buffer.size());
            if (!n) break;
            to.ended = *n == 0;
            to.bytes.append({buffer.data(), *n});
            engine.attend(*this);
        }
        return to.ended;
    }

    const std::optional<command> what_;
    const std::optional<own_channel> own_;
    std::deque<notice> notices_;
    incoming out_;
    incoming err_;
    std::string outgoing_;  // taken from the caller, so that a cancelled call leaves nothing behind that libssh2 has begun with
    std::size_t sent_ = 0;
    bool opened_ = false;
};

}  // namespace sshpool::detail
