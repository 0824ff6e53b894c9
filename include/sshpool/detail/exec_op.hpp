#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/engine_op.hpp>
#include <sshpool/detail/session_engine.hpp>
#include <sshpool/error.hpp>

#include <libssh2.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// One command on one channel: environment, exec, input and output, end.
class exec_op : public engine_op {
public:
    explicit exec_op(command what) : what_(std::move(what)) {}

    /// The caller does not want the result any more. The channel is closed as soon as libssh2 allows; the command may go on.
    void cancel(session_engine& engine, engine_time now) {
        if (answered_) return;
        stop(engine, errc::cancelled, "was running a command that the caller cancelled", now);
        engine.nudge(now);
    }

protected:
    struct chunk {
        output_stream stream;
        std::string bytes;
    };

    op_next step(session_engine& engine, engine_time now) override {
        if (!answered_ && stage_ == stage::env) send_env(engine, now);
        if (!answered_ && stage_ == stage::exec) send_exec(engine, now);
        if (!answered_ && stage_ == stage::running) {
            write(engine);
            read(engine, now);
        }
        return answered_ ? wind_up(engine) : op_next::again;
    }

    void expire(session_engine& engine, engine_time now) override {
        if (answered_) return;
        const auto limit = std::to_string(what_.timeout().value_or(std::chrono::milliseconds{}).count()) + " ms";
        stop(engine, errc::command_timeout,
             channel_ == nullptr ? "had no free channel for a command within its timeout of " + limit : "did not end a command within its timeout of " + limit,
             now);
        engine.nudge(now);
    }

    void lost(const session_engine& engine, const error_info& cause) override {
        error_ = cause;
        const bool sent = stage_ != stage::env && asked_ && engine.io().taken() > exec_mark_;
        if (cause.code == errc::connection_lost || cause.code == errc::protocol_error) {
            const errc which = cause.code == errc::connection_lost ? errc::connection_lost : errc::protocol_error;
            error_.code = make_error(which, sent ? command_fate::unknown : command_fate::not_started);
            error_.text += sent ? " (a command had been sent: it may have run)" : " (the command had not been started)";
        }
        error_.phase = phase();
    }
    void refused(const error_info& cause) override { error_ = cause; }

    const command& what() const noexcept { return what_; }

    error_info error_;
    command_result result_;
    std::vector<chunk> chunks_;  // for on_output, not delivered yet
    bool delivering_ = false;    // on_output has some of them: nothing more is read meanwhile

private:
    enum class stage { env, exec, running, ended };

    std::string phase() const { return stage_ == stage::running || stage_ == stage::ended ? "command" : (channel_ == nullptr ? "channel" : "exec"); }

    void stop(session_engine& engine, errc why, const std::string& text, engine_time now) {
        const bool sent = stage_ == stage::running || (stage_ == stage::exec && asked_);
        error_ = engine.trouble(why, phase(), text);
        error_.code = make_error(why, sent ? command_fate::unknown : command_fate::not_started);
        result_.elapsed = now - submitted_at_;
        engine.answer(*this, now);
    }

    int ask_env(session_engine& engine, engine_time now) {
        const auto& [name, value] = what_.env()[env_sent_];
        if (!std::exchange(asked_, true)) engine.await_reply(*this, now);
        const int rc = libssh2_channel_setenv_ex(channel_, name.data(), static_cast<unsigned>(name.size()), value.data(), static_cast<unsigned>(value.size()));
        if (rc != LIBSSH2_ERROR_EAGAIN) {
            asked_ = false;
            engine.got_reply(*this);
        }
        return rc;
    }
    void send_env(session_engine& engine, engine_time now) {
        while (env_sent_ < what_.env().size()) {
            const int rc = ask_env(engine, now);
            if (rc == LIBSSH2_ERROR_EAGAIN) return;
            const auto& name = what_.env()[env_sent_].first;
            if (rc == LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED) {
                used_ = true;
                return stop(engine, errc::env_refused, "refused the environment variable " + printable(name) + " (sshd's AcceptEnv)", now);
            }
            if (rc != 0) return engine.broken_by(rc, "exec");
            used_ = true;
            ++env_sent_;
        }
        stage_ = stage::exec;
    }

    int ask_exec(session_engine& engine, engine_time now) {
        if (!std::exchange(asked_, true)) {
            exec_mark_ = engine.io().appended();
            engine.await_reply(*this, now);
        }
        const int rc = libssh2_channel_process_startup(channel_, "exec", 4, what_.line().data(), static_cast<unsigned>(what_.line().size()));
        if (rc != LIBSSH2_ERROR_EAGAIN) engine.got_reply(*this);
        return rc;
    }
    void send_exec(session_engine& engine, engine_time now) {
        const int rc = ask_exec(engine, now);
        if (rc == LIBSSH2_ERROR_EAGAIN) return;
        used_ = true;
        if (rc == LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED) {
            stage_ = stage::ended;
            error_ = engine.trouble(errc::command_refused, "exec", "refused to run the command");
            result_.elapsed = now - submitted_at_;
            return engine.answer(*this, now);
        }
        if (rc != 0) return engine.broken_by(rc, "exec");
        stage_ = stage::running;
    }

    /// False: libssh2 has taken the length of a write and awaits the same bytes again.
    bool write(session_engine& engine) {
        const auto& bytes = what_.input();
        while (written_ < bytes.size() && (committed_ || engine.unsent() <= session_engine::high_water)) {
            const auto rc = libssh2_channel_write_ex(channel_, 0, bytes.data() + written_, bytes.size() - written_);
            if (rc == LIBSSH2_ERROR_EAGAIN) {
                committed_ = libssh2_channel_window_write_ex(channel_, nullptr) > 0;  // in a rekey; otherwise the window is empty
                return !committed_;
            }
            if (rc < 0) {
                engine.broken_by(static_cast<int>(rc), "command");
                return true;
            }
            if (rc == 0) return true;
            committed_ = false;
            written_ += static_cast<std::size_t>(rc);
            if (answered_) return true;
        }
        if (written_ == bytes.size() && !eof_sent_) {
            const int rc = libssh2_channel_send_eof(channel_);
            if (rc == 0) {
                eof_sent_ = true;
            } else if (rc != LIBSSH2_ERROR_EAGAIN) {
                engine.broken_by(rc, "command");
            }
        }
        return true;
    }

    void read(session_engine& engine, engine_time now) {
        if (delivering_ || !chunks_.empty()) return;
        // Everything that is there, so that a slow `on_output` makes the server stop: libssh2 gives a window back when a read begins, whole.
        const bool out_ended = drain(engine, output_stream::out, now);
        if (answered_) return;
        const bool err_ended = drain(engine, output_stream::err, now);
        if (answered_) return;
        if (!chunks_.empty()) return engine.attend(*this);
        if (!out_ended || !err_ended || libssh2_channel_eof(channel_) != 1) return;
        const int rc = libssh2_channel_wait_closed(channel_);
        if (rc == LIBSSH2_ERROR_EAGAIN) return;  // an exit status may still come, until the server has closed
        if (rc != 0) return engine.broken_by(rc, "command");
        end(engine, now);
    }

    /// True when the stream has ended and nothing of it is left.
    bool drain(session_engine& engine, output_stream stream, engine_time now) {
        static thread_local std::array<char, std::size_t{32} << 10> buffer;
        auto& total = stream == output_stream::out ? out_bytes_ : err_bytes_;
        auto& collected = stream == output_stream::out ? result_.out : result_.err;
        for (;;) {
            const auto n = libssh2_channel_read_ex(channel_, stream == output_stream::out ? 0 : SSH_EXTENDED_DATA_STDERR, buffer.data(), buffer.size());
            if (n == 0) return true;
            if (n == LIBSSH2_ERROR_EAGAIN) return false;
            if (n < 0) {
                engine.broken_by(static_cast<int>(n), "command");
                return false;
            }
            auto bytes = std::string_view{buffer.data(), static_cast<std::size_t>(n)};
            const auto limit = what_.output_limit();
            const bool over = limit && bytes.size() > *limit - total;
            if (over) bytes = bytes.substr(0, *limit - total);
            total += bytes.size();
            if (!what_.on_output()) {
                collected += bytes;
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

    void end(session_engine& engine, engine_time now) {
        stage_ = stage::ended;
        char* name = nullptr;
        std::size_t size = 0;
        const int rc = libssh2_channel_get_exit_signal(channel_, &name, &size, nullptr, nullptr, nullptr, nullptr);
        if (rc != 0) return engine.broken_by(rc, "command");  // it cannot be told from a status of 0
        if (name != nullptr) {
            result_.exit_signal = printable({name, size});
            libssh2_free(engine.io().raw(), name);
        }
        // Asked for in this order: libssh2 says status 0 for a command that a signal ended.
        if (result_.exit_signal.empty() && has_exit_status(channel_)) result_.exit_status = libssh2_channel_get_exit_status(channel_);
        result_.elapsed = now - submitted_at_;
        engine.answer(*this, now);
    }

    /// Versions that cannot tell say yes.
    static bool has_exit_status(auto* channel) noexcept {
        if constexpr (requires { libssh2_channel_has_exit_status(channel); }) {
            return libssh2_channel_has_exit_status(channel) != 0;
        } else {
            return true;
        }
    }

    /// The caller has the answer; what libssh2 has begun goes on to its end.
    op_next wind_up(session_engine& engine) {
        const auto now = answered_at_;
        if (stage_ == stage::env && asked_) {
            if (ask_env(engine, now) == LIBSSH2_ERROR_EAGAIN) return op_next::again;
            return op_next::free_channel;
        }
        if (stage_ == stage::exec && asked_) {
            const int rc = ask_exec(engine, now);
            if (rc == LIBSSH2_ERROR_EAGAIN) return op_next::again;
            stage_ = rc == 0 ? stage::running : stage::ended;
            used_ = true;
        }
        if (committed_ && !write(engine)) return op_next::again;
#if LIBSSH2_VERSION_NUM >= 0x010b00
        if (stage_ == stage::running) {
            if (libssh2_channel_signal_ex(channel_, "TERM", 4) == LIBSSH2_ERROR_EAGAIN) return op_next::again;
            stage_ = stage::ended;
        }
#endif
        return used_ || asked_ ? op_next::free_channel : op_next::keep_channel;
    }

    const command what_;
    stage stage_ = stage::env;
    std::size_t env_sent_ = 0;
    bool asked_ = false;      // a request of this stage awaits its reply
    bool used_ = false;       // the channel is not as good as new
    bool committed_ = false;  // see write
    bool eof_sent_ = false;
    std::uint64_t exec_mark_ = 0;  // how much the session had to send before the exec request
    std::size_t written_ = 0;
    std::size_t out_bytes_ = 0;
    std::size_t err_bytes_ = 0;
};

}  // namespace sshpool::detail
