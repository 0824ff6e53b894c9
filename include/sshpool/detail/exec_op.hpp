#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/channel_op.hpp>
#include <sshpool/detail/session_engine.hpp>
#include <sshpool/error.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Why no server could be asked to run this; without a code where it could.
inline error_info objection_to(const command& what) {
    if (what.line().size() <= command::longest_line) return {};
    return {make_error(errc::command_too_long),
            {},
            "exec",
            "a command line of " + std::to_string(what.line().size()) + " bytes is longer than 32 KiB: send the text with input()"};
}

/// One command on one channel: environment, exec, input and output, end.
class exec_op : public channel_op {
public:
    explicit exec_op(command what) : channel_op(channel_start::exec(what)), what_(std::move(what)) {}

    error_info objection() const override { return objection_to(what_); }

protected:
    struct chunk {
        output_stream stream;
        std::string bytes;
    };

    void work(session_engine& engine, engine_time now) override {
        send_input(engine);
        take_output(engine, now);
    }
    void expire(session_engine& engine, engine_time now) override {
        if (answered_) return;
        const auto limit = std::to_string(what_.timeout().value_or(std::chrono::milliseconds{}).count()) + " ms";
        stop(engine, errc::command_timeout,
             channel_ == nullptr ? "had no free channel for a command within its timeout of " + limit : "did not end a command within its timeout of " + limit,
             now);
        engine.nudge(now);
    }
    const command& what() const noexcept { return what_; }

    /// `on_output` has had these: the server may send more.
    void delivered(const std::vector<chunk>& chunks) {
        for (const auto& c : chunks) done_with(c.bytes.size());
    }

    command_result result_;
    std::vector<chunk> chunks_;  // for on_output, not delivered yet

private:
    void send_input(session_engine& engine) {
        if (eof_sent_) return;
        written_ += write(engine, std::string_view{what_.input()}.substr(written_));
        if (written_ == what_.input().size()) eof_sent_ = send_eof(engine);
    }

    void take_output(session_engine& engine, engine_time now) {
        const bool out_ended = drain(engine, output_stream::out, now);
        const bool err_ended = !answered_ && drain(engine, output_stream::err, now);
        if (answered_) return;
        if (!chunks_.empty()) return engine.attend(*this);
        if (!out_ended || !err_ended || !is_closed(engine)) return;
        if (read_exit(engine, result_)) engine.answer(*this, now);
    }

    /// True when the stream has ended and nothing of it is left.
    bool drain(session_engine& engine, output_stream stream, engine_time now) {
        auto& buffer = scratch();
        auto& total = stream == output_stream::out ? out_bytes_ : err_bytes_;
        auto& collected = stream == output_stream::out ? result_.out : result_.err;
        for (;;) {
            const auto n = read(engine, stream, buffer.data(), buffer.size());
            if (!n) return false;
            if (*n == 0) return true;
            auto bytes = std::string_view{buffer.data(), *n};
            const auto limit = what_.output_limit();
            const bool over = limit && bytes.size() > *limit - total;
            if (over) bytes = bytes.substr(0, *limit - total);
            total += bytes.size();
            if (!what_.on_output()) {
                collected += bytes;
                done_with(bytes.size());
            } else if (!bytes.empty()) {
                if (chunks_.empty() || chunks_.back().stream != stream) chunks_.push_back({stream, {}});
                chunks_.back().bytes += bytes;
            }
            if (over) {
                stop(engine, errc::output_limit,
                     std::string{"ran a command that wrote more than "} + std::to_string(*limit) + " bytes to its standard " +
                         (stream == output_stream::out ? "output" : "error"),
                     now);
                return false;
            }
        }
    }

    const command what_;
    bool eof_sent_ = false;
    std::size_t written_ = 0;
    std::size_t out_bytes_ = 0;
    std::size_t err_bytes_ = 0;
};

}  // namespace sshpool::detail
