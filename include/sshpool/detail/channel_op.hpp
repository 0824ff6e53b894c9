#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/session_engine.hpp>
#include <sshpool/detail/session_op.hpp>
#include <sshpool/error.hpp>

#include <libssh2.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// What is asked of the server before a channel carries data.
struct channel_start {
    std::vector<std::pair<std::string, std::string>> env;
    std::optional<terminal> pty;
    std::string kind;  // "exec" or "subsystem"; empty: nothing, as a tunnel
    std::string line;  // the command, or the subsystem's name

    static channel_start exec(const command& what) { return {what.env(), what.pty(), "exec", what.line()}; }
    static channel_start subsystem(std::string name) { return {{}, {}, "subsystem", std::move(name)}; }
};

/// What every operation on a channel of its own shares: the requests with which it begins, reading and writing, its end, and what is left to do when
/// nobody waits for it any more. A derived class does its work in `work`, with the calls under "For work".
class channel_op : public session_op {
public:
    void cancel(session_engine& engine, engine_time now) override {
        if (answered_) return;
        stop(engine, errc::cancelled, "was " + doing() + " that the caller cancelled", now);
        engine.nudge(now);
    }

protected:
    explicit channel_op(channel_start start) : start_(std::move(start)) {}

    /// The server has granted what was asked. Called in every step from then on; until it has answered, something is to be read, written or waited for.
    virtual void work(session_engine& engine, engine_time now) = 0;

    /// The server has refused to start it.
    virtual void denied(session_engine& engine, engine_time now) {
        if (start_.kind == "subsystem") return stop(engine, errc::subsystem_refused, "refused the subsystem " + printable(start_.line), now);
        stop(engine, errc::command_refused, "refused to run the command", now);
    }
    /// For people, before " that …": "running a command".
    virtual std::string doing() const { return start_.kind == "exec" ? "running a command" : "carrying a channel"; }

    op_next step(session_engine& engine, engine_time now) override {
        if (!answered_ && !is_started()) ask(engine, now);
        if (!answered_ && is_started()) work(engine, now);
        if (is_started() || stage_ == stage::startup) give_window(engine);
        return answered_ ? wind_up(engine) : op_next::again;
    }
    void lost(const session_engine& engine, const error_info& cause) override {
        error_ = cause;
        const bool sent = was_sent(engine);
        if (cause.code == errc::connection_lost || cause.code == errc::protocol_error) {
            const errc which = cause.code == errc::connection_lost ? errc::connection_lost : errc::protocol_error;
            error_.code = make_error(which, sent ? command_fate::unknown : command_fate::not_started);
            if (start_.kind == "exec") error_.text += sent ? " (a command had been sent: it may have run)" : " (the command had not been started)";
        }
        error_.phase = phase();
    }
    void expire(session_engine& engine, engine_time now) override {
        if (answered_) return;
        const auto limit = std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(now - submitted_at_).count()) + " ms";
        stop(engine, errc::command_timeout, "was still " + doing() + " after its timeout (" + limit + ")", now);
        engine.nudge(now);
    }

    // For work ------------------------------------------------------------------------------------------------------------------

    /// Answers with an error; the fate follows from what was sent so far.
    void stop(session_engine& engine, errc why, const std::string& text, engine_time now) {
        const bool sent = is_started() || (stage_ == stage::startup && asked_);
        error_ = engine.trouble(why, phase(), text);
        error_.code = make_error(why, sent ? command_fate::unknown : command_fate::not_started);
        engine.answer(*this, now);
    }

    /// Gives libssh2 what it takes of `bytes` and tells how much that was. What it has `committed_` to, in a rekey, must be offered again: the same bytes,
    /// before anything else, alive until then.
    std::size_t write(session_engine& engine, std::string_view bytes) {
        std::size_t done = 0;
        while (done < bytes.size() && (!committed_.empty() || engine.unsent() <= session_engine::high_water)) {
            const auto rest = bytes.substr(done);
            const auto rc = libssh2_channel_write_ex(channel_, 0, rest.data(), rest.size());
            if (rc == LIBSSH2_ERROR_EAGAIN) {
                committed_ = libssh2_channel_window_write_ex(channel_, nullptr) > 0 ? rest : std::string_view{};  // otherwise the window is empty
                return done;
            }
            committed_ = {};
            if (rc < 0) engine.broken_by(static_cast<int>(rc), "command");
            if (rc <= 0) return done;
            done += static_cast<std::size_t>(rc);
            if (answered_) return done;
        }
        return done;
    }
    std::size_t committed() const noexcept { return committed_.size(); }
    /// After the answer: goes on with what libssh2 is committed to. For those whose bytes may have moved since.
    virtual void write_committed(session_engine& engine) { write(engine, committed_); }
    /// Ends what this side sends. Called until it is true.
    bool send_eof(session_engine& engine) {
        if (!committed_.empty()) return false;
        const int rc = libssh2_channel_send_eof(channel_);
        if (rc != 0 && rc != LIBSSH2_ERROR_EAGAIN) engine.broken_by(rc, "command");
        return rc == 0;
    }
    /// Takes what is there of a stream, all in all until it is nothing: libssh2's own queue is slow and large. 0: the stream has ended. The server may send so
    /// much again only after `done_with`.
    std::optional<std::size_t> read(session_engine& engine, output_stream stream, char* into, std::size_t room) {
        unsigned long there = 0;
        libssh2_channel_window_read_ex(channel_, &there, nullptr);
        // No more than is there, or libssh2 would widen the window by itself.
        const auto n = libssh2_channel_read_ex(channel_, stream == output_stream::out ? 0 : SSH_EXTENDED_DATA_STDERR, into, std::min<std::size_t>(room, there));
        if (n >= 0) return static_cast<std::size_t>(n);
        if (n != LIBSSH2_ERROR_EAGAIN) engine.broken_by(static_cast<int>(n), "command");
        return std::nullopt;
    }
    /// Where bytes may be read to before they go where they belong: the thread's own, and on the heap, since a thread's static part is taken from its stack.
    static std::vector<char>& scratch() {
        static thread_local std::vector<char> buffer(std::size_t{32} << 10);
        return buffer;
    }
    /// The caller has taken so many of the bytes read.
    void done_with(std::size_t bytes) noexcept {
        to_give_ += bytes;
        taken_ += bytes;
    }

    /// Both streams have ended, and the server has closed the channel: no exit status comes any more.
    bool is_closed(session_engine& engine) {
        if (libssh2_channel_eof(channel_) != 1) return false;
        const int rc = libssh2_channel_wait_closed(channel_);
        if (rc != 0 && rc != LIBSSH2_ERROR_EAGAIN) engine.broken_by(rc, "command");
        return rc == 0;
    }
    /// How the command ended, after `is_closed`. False where that cannot be known.
    bool read_exit(session_engine& engine, command_result& into) {
        stage_ = stage::ended;
        char* name = nullptr;
        std::size_t size = 0;
        const int rc = libssh2_channel_get_exit_signal(channel_, &name, &size, nullptr, nullptr, nullptr, nullptr);
        if (rc != 0) {  // it cannot be told from a status of 0
            engine.broken_by(rc, "command");
            return false;
        }
        if (name != nullptr) {
            into.exit_signal = printable({name, size});
            libssh2_free(engine.io().raw(), name);
        }
        // Asked for in this order: libssh2 says status 0 for a command that a signal ended.
        if (into.exit_signal.empty() && has_exit_status(channel_)) into.exit_status = libssh2_channel_get_exit_status(channel_);
        return true;
    }

    bool is_started() const noexcept { return stage_ == stage::started || stage_ == stage::ended; }
    /// The server may have what starts it.
    bool was_sent(const session_engine& engine) const noexcept {
        return is_started() || (stage_ == stage::startup && asked_ && engine.io().taken() > start_mark_);
    }
    std::string phase() const { return is_started() ? "command" : (channel_ == nullptr ? "channel" : "exec"); }

    static constexpr std::size_t largest_window = std::size_t{4} << 20;
    std::size_t window_ = 0;  // how far ahead the server may send; 0: as the engine has it. Set before the operation starts

private:
    enum class stage { env, pty, startup, started, ended };

    /// In pieces of a quarter, so that a packet goes for many that came. The whole at first, together with the request that starts it.
    void give_window(session_engine& engine) {
        if (!std::exchange(window_opened_, true)) {
            if (window_ == 0) window_ = engine.options().window;
            engine.expect_window(window_);
            to_give_ += window_;
        }
        // Whoever takes a whole window wants more than a link of long round trips carries at a time: 64 MB at 50 ms in 2.1 s instead of 9.5.
        if (taken_ >= window_ && window_ < largest_window) {
            taken_ = 0;
            to_give_ += window_;
            window_ *= 2;
            engine.expect_window(window_);
        }
        if (giving_ == 0 && to_give_ < window_ / 4) return;
        if (giving_ == 0) giving_ = static_cast<std::uint32_t>(std::exchange(to_give_, 0));
        const int rc = libssh2_channel_receive_window_adjust2(channel_, giving_, 1, nullptr);
        if (rc == LIBSSH2_ERROR_EAGAIN) return;  // in a rekey: the same again
        giving_ = 0;
        if (rc != 0) engine.broken_by(rc, "command");
    }

    /// Asks one thing after the other: each has a reply of its own.
    void ask(session_engine& engine, engine_time now) {
        while (!is_started()) {
            skip_what_is_not_asked();
            if (is_started()) return;
            const int rc = send_request(engine, now);
            if (rc == LIBSSH2_ERROR_EAGAIN) return;
            if (rc == LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED) return refuse_request(engine, now);
            if (rc != 0) return engine.broken_by(rc, "exec");
            next_request();
        }
    }
    void skip_what_is_not_asked() noexcept {
        if (stage_ == stage::env && env_sent_ == start_.env.size()) stage_ = stage::pty;
        if (stage_ == stage::pty && !start_.pty) stage_ = stage::startup;
        if (stage_ == stage::startup && start_.kind.empty()) stage_ = stage::started;
    }
    void next_request() noexcept {
        if (stage_ == stage::env) {
            ++env_sent_;
        } else {
            stage_ = stage_ == stage::pty ? stage::startup : stage::started;
        }
    }
    int send_request(session_engine& engine, engine_time now) {
        if (!std::exchange(asked_, true)) {
            if (stage_ == stage::startup) start_mark_ = engine.io().appended();
            engine.await_reply(*this, now);
        }
        const int rc = call_libssh2();
        if (rc == LIBSSH2_ERROR_EAGAIN) return rc;
        asked_ = false;
        used_ = true;
        engine.got_reply(*this);
        return rc;
    }
    int call_libssh2() {
        const auto size = [](const std::string& text) { return static_cast<unsigned>(text.size()); };
        if (stage_ == stage::env) {
            const auto& [name, value] = start_.env[env_sent_];
            return libssh2_channel_setenv_ex(channel_, name.data(), size(name), value.data(), size(value));
        }
        if (stage_ == stage::pty) {
            const auto& t = *start_.pty;
            return libssh2_channel_request_pty_ex(channel_, t.type.data(), size(t.type), nullptr, 0, static_cast<int>(t.columns), static_cast<int>(t.rows), 0,
                                                  0);
        }
        return libssh2_channel_process_startup(channel_, start_.kind.data(), size(start_.kind), start_.line.data(), size(start_.line));
    }
    void refuse_request(session_engine& engine, engine_time now) {
        if (stage_ == stage::env)
            return stop(engine, errc::env_refused, "refused the environment variable " + printable(start_.env[env_sent_].first) + " (sshd's AcceptEnv)", now);
        if (stage_ == stage::pty) return stop(engine, errc::command_refused, "refused a terminal (sshd's PermitTTY)", now);
        denied(engine, now);
    }

    /// The caller has the answer; what libssh2 has begun goes on to its end.
    op_next wind_up(session_engine& engine) {
        if (asked_) {
            const int rc = send_request(engine, answered_at_);
            if (rc == LIBSSH2_ERROR_EAGAIN) return op_next::again;
            if (rc == 0) next_request();
        }
        if (!committed_.empty()) {
            write_committed(engine);
            if (!committed_.empty()) return op_next::again;
        }
#if LIBSSH2_VERSION_NUM >= 0x010b00
        if (stage_ == stage::started && start_.kind == "exec") {
            if (libssh2_channel_signal_ex(channel_, "TERM", 4) == LIBSSH2_ERROR_EAGAIN) return op_next::again;
            stage_ = stage::ended;
        }
#endif
        return used_ ? op_next::free_channel : op_next::keep_channel;
    }

    /// Versions that cannot tell say yes.
    static bool has_exit_status(auto* channel) noexcept {
        if constexpr (requires { libssh2_channel_has_exit_status(channel); }) {
            return libssh2_channel_has_exit_status(channel) != 0;
        } else {
            return true;
        }
    }

    const channel_start start_;
    stage stage_ = stage::env;
    std::size_t env_sent_ = 0;
    bool asked_ = false;  // a request awaits its reply
    bool used_ = false;   // the channel is not as good as new
    bool window_opened_ = false;
    std::string_view committed_;    // see write
    std::uint64_t start_mark_ = 0;  // how much the session had to send before the startup request
    std::size_t taken_ = 0;         // by the reader, since the window was last made larger
    std::size_t to_give_ = 0;       // of the window, not given to the server yet
    std::uint32_t giving_ = 0;      // of it, what libssh2 is about to send
};

}  // namespace sshpool::detail
