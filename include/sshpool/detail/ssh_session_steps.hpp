#pragma once

#include <sshpool/detail/ssh_session.hpp>

#include <asio/error.hpp>

#include <cstdio>

// What a session does on its strand. Included by ssh_session.hpp.

namespace sshpool::detail {

inline void ssh_session::begin(open_parts parts, opened_handler done) {
    const auto& key = parts.to.key();
    if (state_ != state::fresh) return done({{make_error(errc::cancelled), key, "tcp", key + " was not connected to: the connection was closed first"}, {}});
    state_ = state::opening;
    opened_ = std::move(done);
    observer_ = std::move(parts.observer);
    to_ = std::move(parts.to);
    started_ = clock::now();
    deadline_ = started_ + parts.timeout;
    spare_channels_ = parts.spare_channels;
    learned_leases_ = parts.learned_leases;
    reap_grace_ = parts.reap_grace;
    timeout_ = parts.timeout;
    const auto connected = [self = shared_from_this()](stream_connect::result r) { self->connected(std::move(r)); };
    io_->connecting = parts.way ? parts.way(io_->strand, connected) : std::make_shared<tcp_connect>(io_->strand, connected);
    io_->connecting->start(to_->host(), to_->port(), deadline_);
    arm_timer();
}

inline void ssh_session::connected(stream_connect::result r) {
    if (state_ != state::opening) return;
    io_->connecting.reset();
    phases_.resolve = r.resolve;
    phases_.tcp = r.tcp;
    if (r.code) return finish_open({r.code, to_->key(), r.phase, to_->key() + " could not be reached (after " + elapsed() + "): " + r.text});
    io_->stream = std::move(r.stream);
    fate_->runs_through(io_->stream->jump());
    phase_started_ = clock::now();

    engine_options o;
    o.key = to_->key();
    o.user = to_->user();
    o.methods = login_methods(to_->login());
    o.spare_channels = spare_channels_;
    o.learned_leases = learned_leases_;
    o.reap_grace = reap_grace_;
    // Types that are not known come last, not never: a host that has lost a key must show as a changed one. In OpenSSH's order, or the fingerprint that
    // `ssh` shows would not be the one that is checked here: libssh2 by itself asks for ECDSA first.
    auto types = preferred_key_types(to_->host_keys(), to_->host(), to_->port());
    for (const char* type : {"ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"}) {
        if (std::find(types.begin(), types.end(), type) == types.end()) types.emplace_back(type);
    }
    for (const auto& type : types) o.host_key_types += (o.host_key_types.empty() ? "" : ",") + type;
    engine_.emplace(std::move(o));
    engine_->start(clock::now());
    settle();
    wait_readable();
}

inline void ssh_session::wait_readable() {
    if (reading_ || ended_ || !io_->stream || state_ == state::closing) return;
    reading_ = true;
    const bool login_or_first_command = engine_->stage() != session_stage::greeting && !engine_->heard_reply();
    if (login_or_first_command) io_->stream->hurry();
    io_->stream->wait_readable([self = shared_from_this()](std::error_code ec) {
        self->reading_ = false;
        if (!ec) self->on_readable();
    });
}

inline void ssh_session::on_readable() {
    constexpr int reads_per_turn = 4;                                      // other work on the strand, and other sessions on the thread, go on in between
    static thread_local std::vector<char> scratch(std::size_t{64} << 10);  // on the heap: in a thread's static part it makes small stacks too small
    for (int i = 0; i < reads_per_turn && io_->stream && !ended_; ++i) {
        std::error_code ec;
        const auto n = io_->stream->read_some(scratch.data(), scratch.size(), ec);
        if (ec == asio::error::would_block || ec == asio::error::try_again || ec == asio::error::interrupted) break;
        const auto now = clock::now();
        if (ec || n == 0) {
            ended_ = true;
            auto why = fate_->cause();
            if (why.empty() && ec != asio::error::eof) why = ec.message();
            engine_->end_of_input(now, std::move(why));
            break;
        }
        last_heard_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
        engine_->feed({scratch.data(), n}, now);
        if (n < scratch.size()) break;
    }
    settle();
    wait_readable();
}

inline void ssh_session::flush() {
    constexpr int writes_at_once = 16;  // other work on the strand, and other sessions on the thread, go on in between
    for (int i = 0; io_->stream && !writing_; ++i) {
        if (outgoing_sent_ == outgoing_.size()) {
            outgoing_.clear();
            outgoing_sent_ = 0;
            engine_->take_output(outgoing_);
            if (outgoing_.empty()) break;
        }
        if (i == writes_at_once) return wait_writable();
        std::error_code ec;
        const auto n = io_->stream->write_some(std::string_view{outgoing_}.substr(outgoing_sent_), ec);
        if (ec == asio::error::would_block || ec == asio::error::try_again) return wait_writable();
        if (ec && ec != asio::error::interrupted) {  // why, the reading side will tell
            outgoing_.clear();
            outgoing_sent_ = 0;
            engine_->sending(0, clock::now());
            break;
        }
        outgoing_sent_ += n;
        engine_->sending(outgoing_.size() - outgoing_sent_, clock::now());
    }
    constexpr std::size_t kept_room = 1024;  // of an idle session: more than a command's requests take
    if (outgoing_.empty() && outgoing_.capacity() > kept_room && !engine_->has_operations()) std::string{}.swap(outgoing_);
}

inline void ssh_session::wait_writable() {
    writing_ = true;
    io_->stream->wait_writable([self = shared_from_this()](std::error_code error) {
        self->writing_ = false;
        if (!error) self->settle();
    });
}

/// After every call of the engine: carries out what it has decided.
inline void ssh_session::settle() {
    if (!engine_) return;
    follow_stage();
    flush();
    follow_stage();
    if (state_ == state::closing && !writing_) return cut("was closed");
    hand_over();
    arm_timer();
}

inline void ssh_session::hand_over() {
    if (!engine_) return;
    if (const auto capacity = engine_->take_capacity(); capacity && observer_.capacity) observer_.capacity(*capacity);
    for (const auto waited : engine_->take_channel_waits()) {
        if (observer_.channel_opened) observer_.channel_opened(waited);
    }
    for (const auto& op : engine_->take_attention()) op->attend();
}

inline void ssh_session::follow_stage() {
    if (engine_->stage() == session_stage::host_key && !checking_host_key_) check_host_key();
    if (state_ == state::opening) {
        if (auto question = engine_->take_agent_question()) ask_the_agent(std::move(*question));
    }
    if (engine_->stage() == session_stage::ready && state_ == state::opening) {
        phases_.login = clock::now() - phase_started_;
        finish_open({});
    }
    if (engine_->stage() != session_stage::lost) return;
    if (state_ == state::opening) {
        auto error = engine_->failure();
        error.text += " (after " + elapsed() + ")";
        return finish_open(std::move(error));
    }
    if (state_ == state::open) lost();
}

inline void ssh_session::check_host_key() {
    const auto now = clock::now();
    phases_.key_exchange = now - phase_started_;
    phase_started_ = now;
    // Where a file may be written there is a lock to wait for, and a disk.
    if (parts_of(to_->host_keys()).rule != host_key_rule::trust_on_first_use)
        return host_key_checked(verify(to_->host_keys(), to_->host(), to_->port(), engine_->host_key()));
    checking_host_key_ = true;
    off_strand(
        blocking::login, io_->strand, stop_blocking_,
        [to = *to_, key = std::string{engine_->host_key()}](const std::atomic<bool>& stop) { return verify(to.host_keys(), to.host(), to.port(), key, stop); },
        [self = shared_from_this()](const host_key_verdict& verdict) {
            self->checking_host_key_ = false;
            if (self->state_ != state::opening) return;
            self->host_key_checked(verdict);
            self->settle();
        });
}

inline void ssh_session::host_key_checked(const host_key_verdict& verdict) {
    if (verdict.code()) return engine_->fail({verdict.code(), to_->key(), "host key", verdict.text});
    engine_->trust_host_key(clock::now());
}

/// Half of the time that is left: an agent that does not answer shall be told from a server that does not, and leave time for another way to log in.
inline void ssh_session::ask_the_agent(agent_question question) {
    const auto limit = std::chrono::ceil<std::chrono::milliseconds>((deadline_ - clock::now()) / 2);
    off_strand(
        blocking::login, io_->strand, stop_blocking_,
        [question = std::move(question), limit](const std::atomic<bool>& stop) { return ask_agent(question, limit, stop); },
        [self = shared_from_this()](agent_answer answer) {
            if (self->state_ != state::opening) return;
            self->engine_->agent_answered(std::move(answer), clock::now());
            self->settle();
        });
}

inline void ssh_session::finish_open(error_info error) {
    if (state_ != state::opening) return;
    deadline_ = clock::time_point::max();
    *stop_blocking_ = true;
    const auto done = std::exchange(opened_, nullptr);
    if (error) {
        observer_ = {};
        cut("could not be connected to");
    } else {
        state_ = state::open;
        usable_ = true;
    }
    done({std::move(error), phases_});
}

inline void ssh_session::lost() {
    usable_ = false;
    fate_->ended(engine_->failure().text);
    const auto observer = std::exchange(observer_, {});
    if (observer.lost) observer.lost(engine_->failure());
    cut({});
}

inline void ssh_session::begin_probe(std::chrono::milliseconds timeout, std::function<void(error_info)> done) {
    if (state_ != state::open) {
        const auto key = to_ ? to_->key() : std::string{};
        return done({make_error(errc::connection_lost), key, "probe", key + " is not connected"});
    }
    engine_->submit(std::make_shared<probe_op>(std::move(done)), timeout, clock::now());
    settle();
}

inline void ssh_session::begin_run(std::shared_ptr<session_op> op, std::chrono::milliseconds timeout) {
    if (auto objection = op->objection()) {
        objection.key = to_ ? to_->key() : std::string{};
        return op->reject(std::move(objection));
    }
    if (!engine_ || state_ == state::fresh || state_ == state::opening || state_ == state::closing) {
        const auto key = to_ ? to_->key() : std::string{};
        return op->reject({make_error(errc::connection_lost), key, "channel", key + " is not connected"});
    }
    engine_->submit(std::move(op), timeout, clock::now());
    settle();
}

inline void ssh_session::begin_close(std::function<void()> done) {
    observer_ = {};
    usable_ = false;
    if (done) closed_.push_back(std::move(done));
    switch (state_) {
        case state::fresh:
            return cut({});
        case state::opening:
            return finish_open({make_error(errc::cancelled), to_->key(), out_of_time().phase, to_->key() + " was closed while it was being connected to"});
        case state::open:
            state_ = state::closing;
            engine_->say_goodbye();
            deadline_ = clock::now() + std::chrono::seconds{1};
            return settle();
        case state::closing:
            return;
        case state::closed:
            return cut({});
    }
}

/// Ends everything at once.
inline void ssh_session::cut(const std::string& why) {
    state_ = state::closed;
    usable_ = false;
    deadline_ = clock::time_point::max();
    if (io_->connecting) std::exchange(io_->connecting, nullptr)->cancel();
    if (io_->stream) {
        io_->stream->close();
        io_->stream.reset();
    }
    io_->timer.cancel();
    armed_ = clock::time_point::max();
    if (engine_) {
        const auto cause = fate_->cause();
        engine_->fail(engine_->trouble(errc::connection_lost, "connection", cause.empty() ? why : "lost the connection: " + cause));
        fate_->ended(engine_->failure().text);
        hand_over();
    }
    std::string{}.swap(outgoing_);
    outgoing_sent_ = 0;
    for (const auto& done : std::exchange(closed_, {})) done();
}

inline void ssh_session::arm_timer() {
    auto due = deadline_;
    if (engine_ && state_ != state::closing) due = std::min(due, engine_->next_due());
    if (due == clock::time_point::max() || due >= armed_) return;  // an earlier one looks again when it fires
    armed_ = due;
    io_->timer.expires_at(due);
    io_->timer.async_wait([self = shared_from_this()](std::error_code ec) {
        if (!ec) self->on_timer();
    });
}

inline void ssh_session::on_timer() {
    armed_ = clock::time_point::max();
    const auto now = clock::now();
    if (now >= deadline_) {
        if (state_ == state::opening) return finish_open(out_of_time());
        if (state_ == state::closing) return cut("was closed");
    }
    if (engine_ && engine_->next_due() <= now) engine_->advance(now);
    settle();
    if (!engine_) arm_timer();
}

inline error_info ssh_session::out_of_time() const {
    std::string phase = io_->connecting ? io_->connecting->phase() : "tcp";
    std::string failures = io_->connecting ? io_->connecting->failures() : std::string{};
    if (engine_) {
        switch (engine_->stage()) {
            case session_stage::greeting:
                phase = engine_->io().preamble().empty() ? "banner" : "key exchange";
                break;
            case session_stage::host_key:
                phase = "host key";
                break;
            case session_stage::login:
                phase = "login";
                break;
            default:
                phase = "channel";
        }
    }
    if (!failures.empty()) failures = " (" + failures + ")";
    return {make_error(errc::connect_timeout), to_->key(), phase,
            to_->key() + " was not connected to within " + std::to_string(timeout_.count()) + " ms: no answer in phase \"" + phase + "\"" + failures};
}

inline std::string ssh_session::elapsed() const {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.2f s", std::chrono::duration<double>(clock::now() - started_).count());
    return text.data();
}

/// The execution context goes: nothing is completed any more, everything of it is let go.
inline void ssh_session::let_go() {
    usable_ = false;
    state_ = state::closed;
    *stop_blocking_ = true;
    opened_ = nullptr;
    closed_.clear();
    observer_ = {};
    if (io_ && io_->connecting) io_->connecting->cancel();
    engine_.reset();
    io_.reset();
}

}  // namespace sshpool::detail
