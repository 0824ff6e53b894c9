#pragma once

#include <sshpool/detail/session_engine.hpp>

// What the session engine does with its input. Included by session_engine.hpp.

namespace sshpool::detail {

/// One round trip to the server: an `env` request that it refuses, on a spare channel; or, where a channel had to be opened for it, that open.
/// The channel is as good as before. (A server that takes any environment variable then has one more, without a meaning.)
class engine_probe : public engine_op {
public:
    engine_probe() { is_probe_ = true; }
    void attend() override {}

protected:
    // Inline here, or the vtable and all that it refers to would be in every translation unit.
    inline op_next step(session_engine& engine, engine_time now) override;
    void expire(session_engine& /*engine*/, engine_time /*now*/) override {}
    void lost(const session_engine& /*engine*/, const error_info& /*cause*/) override {}
    void refused(const error_info& /*cause*/) override {}

private:
    friend class session_engine;
    bool asked_ = false;
};

inline void session_engine::turn(engine_time now) {
    in_turn_ = true;
    last_turn_ = now;
    if (stage_ == session_stage::greeting || stage_ == session_stage::login || stage_ == session_stage::first_channel) set_up(now);
    if (stage_ == session_stage::ready && !broken_) work(now);
    io_.keep_rest();
    // While the host key is looked up, or an agent is asked, nothing takes the input.
    if (!broken_ && stage_ < session_stage::first_channel && io_.kept() > login_allowance)
        broken_ = trouble(errc::protocol_error, stage_ == session_stage::login ? "login" : "key exchange", "sent more than 256 KiB before it was answered");
    if (!broken_ && unsent() > most_unsent) broken_ = trouble(errc::protocol_error, "connection", "asks for more answers than it reads");
    if (!broken_ && io_.out_of_memory()) broken_ = describe_loss(LIBSSH2_ERROR_ALLOC, "connection");
    in_turn_ = false;
    if (broken_) fail(*std::exchange(broken_, std::nullopt));
}

/// Key exchange, login, first channel: each runs alone, so libssh2 may read as it likes.
inline void session_engine::set_up(engine_time now) {
    if (stage_ == session_stage::greeting) {
        const memory_session::open_gate gate{io_};
        const int rc = libssh2_session_handshake(io_.raw(), memory_session::no_socket);
        if (const auto line = greeting(); line && line->size() >= 9 && !line->starts_with("SSH-2.0-") && !line->starts_with("SSH-1.99-"))
            return fail(trouble(errc::handshake_failed, "key exchange", "does not speak version 2 of SSH; it said: " + printable(*line)));
        if (rc == LIBSSH2_ERROR_EAGAIN) return;
        if (rc != 0) return fail(describe_greeting_failure(rc));
        if (is_dropbear()) limit_ = 1;
        stage_ = session_stage::host_key;
        return;
    }
    if (stage_ == session_stage::login) {
        const memory_session::open_gate gate{io_};
        const auto how = login_.step();
        if (how == login_progress::pending) return;
        if (how != login_progress::accepted) return fail(describe_login_failure(how));
        io_.allow(UINT64_MAX);
        io_.allow_memory(memory_session::base_memory);
        io_.pad(0);
        io_.stop_wiping();
        if (limit_) capacity_news_ = capacity();
        if (options_.spare_channels == 0) {
            stage_ = session_stage::ready;
            return;
        }
        stage_ = session_stage::first_channel;
        opening_ = true;
        opening_since_ = now;
    }
    step_open(now);
    if (stage_ == session_stage::first_channel && !opening_ && !broken_) stage_ = session_stage::ready;
}

inline void session_engine::work(engine_time now) {
    int rc = 0;
    for (;;) {
        LIBSSH2_CHANNEL* const channel = any_channel();
        if (channel != nullptr) rc = io_.pump(channel);
        // What the pump leaves would be kept and looked at for ever: only packets of no known type make it leave anything.
        if (rc == 0 && channel != nullptr && io_.left_over())
            return fail(trouble(errc::protocol_error, "connection", "sent packets of a type that does not exist"));
        // libssh2 would go on behind a packet whose check failed, with what it has of the stream already: a command whose output
        // was damaged on the way would seem to have ended well.
        if (rc < 0 && !io_.at_end()) return fail(describe_loss(rc, "connection"));
        pass(now);  // also at the end: what was sorted into the queues before it counts
        if (broken_) return;
        if (channel != nullptr || any_channel() == nullptr) break;  // where the pass opened the first channel, there is a pump only now
    }
    if (rc < 0) return fail(describe_loss(rc, "connection"));
    if (any_channel() != nullptr || opening_) return;
    if (io_.input_ended()) return fail(describe_loss(LIBSSH2_ERROR_SOCKET_RECV, "connection"));
    constexpr std::size_t most_unsorted = std::size_t{256} << 10;
    if (io_.kept() > most_unsorted) return fail(trouble(errc::protocol_error, "connection", "sent more than 256 KiB though no channel was open"));
    if (open_left_behind_) return fail(trouble(errc::connection_lost, "channel", "can open no more channels: it did not answer the last request for one"));
    if (io_.has_input() && waiting_.empty() && waiting_own_.empty()) {  // nothing can sort it but a channel: open one for a moment
        auto probe = std::make_shared<engine_probe>();
        probe->submitted_at_ = now;
        waiting_.push_front(std::move(probe));
        pass(now);
    }
}

inline void session_engine::pass(engine_time now) {
    if (opening_) step_open(now);
    if (broken_) return;
    drop_answered_waiters();
    drop_closed_spares(now);
    hand_out_spares(now);
    step_active(now);
    if (broken_) return;
    reap(now);
    while (!broken_ && hand_out_spares(now)) step_active(now);  // a probe may have given one back
    if (broken_) return;
    if (may_open()) open_next(now);
    if (open_left_behind_) {
        for (auto* const waiting : {&waiting_, &waiting_own_}) turn_away(*waiting, "it did not answer the last request for one", now);
        taint();
    }
    check_zombies(now);
}

/// Whoever has waited longest, of both kinds; a spare when nobody waits.
inline void session_engine::open_next(engine_time now) {
    while (!waiting_own_.empty() && waiting_own_.front()->answered_) waiting_own_.pop_front();
    const bool session = wants_channel() && !at_limit() && may_open_at() <= now;
    const bool session_first = session && !waiting_.empty() && (waiting_own_.empty() || waiting_.front()->submitted_at_ <= waiting_own_.front()->submitted_at_);
    if (!session_first && !waiting_own_.empty()) {
        opening_own_ = std::move(waiting_own_.front());
        waiting_own_.pop_front();
    } else if (!session) {
        return;
    }
    opening_ = true;
    opening_since_ = now;
    step_open(now);
}

inline void session_engine::step_active(engine_time now) {
    for (std::size_t i = 0; i < active_.size() && !broken_;) {
        const auto op = active_[i];  // by value: it may leave the list
        const auto next = op->step(*this, now);
        if (broken_) return;
        if (next == op_next::again) {
            ++i;
            continue;
        }
        forget_due(*op);
        active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
        if (op->is_probe_) probing_ = false;
        LIBSSH2_CHANNEL* const channel = std::exchange(op->channel_, nullptr);
        if (next == op_next::keep_channel && op->wants() == nullptr &&
            spares_.size() < std::max<std::size_t>(options_.spare_channels, waiting_.empty() ? 0 : 1)) {
            spares_.push_back(channel);
        } else {
            drop_channel({channel, op->answered_ ? op->answered_at_ : now, op->wants() != nullptr}, now);
        }
    }
}

inline void session_engine::drop_channel(zombie dropped, engine_time now) {
    if (libssh2_channel_free(dropped.channel) == LIBSSH2_ERROR_EAGAIN) {
        zombies_.push_back(dropped);
    } else {
        channel_gone(dropped.is_own, now);
    }
}

inline void session_engine::reap(engine_time now) {
    for (std::size_t i = 0; i < zombies_.size();) {
        if (libssh2_channel_free(zombies_[i].channel) == LIBSSH2_ERROR_EAGAIN) {
            ++i;
            continue;
        }
        const bool is_own = zombies_[i].is_own;
        zombies_.erase(zombies_.begin() + static_cast<std::ptrdiff_t>(i));
        channel_gone(is_own, now);
    }
}

inline void session_engine::channel_gone(bool is_own, engine_time now) {
    if (is_own) {
        --own_channels_;
    } else {
        --channels_;
        freed_.push_back(now);
    }
    allow_memory();
}

inline void session_engine::drop_answered_waiters() {
    while (!waiting_.empty() && waiting_.front()->answered_) {
        forget_due(*waiting_.front());
        waiting_.pop_front();
    }
}

/// A server may close a channel on which nothing happens yet. It would close the next one, too.
inline void session_engine::drop_closed_spares(engine_time now) {
    for (auto* const spare : std::vector{spares_}) {
        if (libssh2_channel_eof(spare) != 1) continue;
        std::erase(spares_, spare);
        options_.spare_channels = 0;
        drop_channel({spare, now, false}, now);
    }
}

/// True when an operation has got a channel.
inline bool session_engine::hand_out_spares(engine_time now) {
    bool given = false;
    while (!spares_.empty() && !waiting_.empty()) {
        auto op = std::move(waiting_.front());
        waiting_.pop_front();
        if (op->answered_) {
            forget_due(*op);
            continue;
        }
        LIBSSH2_CHANNEL* const channel = spares_.back();
        spares_.pop_back();
        give_channel(std::move(op), channel, false, now);
        given = true;
    }
    return given;
}

inline void session_engine::give_channel(std::shared_ptr<engine_op> op, LIBSSH2_CHANNEL* channel, bool fresh, engine_time now) {
    op->channel_ = channel;
    op->fresh_channel_ = fresh;
    if (op->is_probe_) {
        probing_ = true;
    } else if (op->wants() == nullptr) {
        channel_waits_.push_back(now - op->submitted_at_);
    }
    active_.push_back(std::move(op));
}

inline void session_engine::step_open(engine_time now) {
    LIBSSH2_CHANNEL* channel = nullptr;
    {
        // With no channel to pump with, the open reads for itself; nobody else awaits anything then.
        const memory_session::open_gate gate{io_, any_channel() == nullptr};
        const own_channel* const own = opening_own_ ? opening_own_->wants() : nullptr;
        const std::string_view type = own != nullptr ? std::string_view{own->type} : "session";
        const std::string_view message = own != nullptr ? std::string_view{own->message} : std::string_view{};
        // The window is given by the operation that gets the channel: libssh2 then never widens it by itself.
        channel = libssh2_channel_open_ex(io_.raw(), type.data(), static_cast<unsigned>(type.size()), 0, LIBSSH2_CHANNEL_PACKET_DEFAULT, message.data(),
                                          static_cast<unsigned>(message.size()));
    }
    if (channel == nullptr) {
        const int rc = libssh2_session_last_errno(io_.raw());
        if (rc == LIBSSH2_ERROR_EAGAIN) return;
        opening_ = false;
        if (rc == LIBSSH2_ERROR_CHANNEL_FAILURE) return opening_own_ ? own_refused(now) : open_refused(now);
        return fail(describe_loss(rc, "channel"));
    }
    opening_ = false;
    return opening_own_ ? opened_own(channel, now) : opened(channel, now);
}

inline void session_engine::opened(LIBSSH2_CHANNEL* channel, engine_time now) {
    refusals_ = 0;
    peak_ = std::max(peak_, ++channels_);
    allow_memory();
    drop_answered_waiters();
    if (waiting_.empty()) {
        if (spares_.size() < options_.spare_channels) {
            spares_.push_back(channel);
        } else {
            drop_channel({channel, now, false}, now);  // whoever wanted it has gone
        }
        return;
    }
    auto op = std::move(waiting_.front());
    waiting_.pop_front();
    give_channel(std::move(op), channel, true, now);
}

inline void session_engine::opened_own(LIBSSH2_CHANNEL* channel, engine_time now) {
    ++own_channels_;
    allow_memory();
    auto op = std::exchange(opening_own_, nullptr);
    if (op->answered_) return drop_channel({channel, now, true}, now);
    give_channel(std::move(op), channel, true, now);
}

/// It concerns this operation alone, and says nothing of how many channels the server allows.
inline void session_engine::own_refused(engine_time now) {
    const auto op = std::exchange(opening_own_, nullptr);
    if (op->answered_) return;
    const auto words = io_.last_words();  // libssh2 keeps the reason, not what the server said beside it
    const bool unreachable = words.find("(connect failed)") != std::string::npos;
    op->refused(trouble(unreachable ? errc::connect_failed : errc::channel_refused, "channel", "could not " + op->wants()->purpose + ": " + words));
    answer(*op, now);
}

/// A server that cannot connect to where it was asked to takes a minute or more to say so, and libssh2 can ask for one channel at a time. So this session
/// asks for no more: what it carries goes on, what waits is turned away, and nothing new is to be lent on it.
inline void session_engine::leave_open_behind(engine_time now) {
    opening_ = false;
    open_left_behind_ = true;
    const auto op = std::exchange(opening_own_, nullptr);
    if (!op->answered_) {
        op->refused(
            trouble(errc::connect_failed, "channel", "could not " + op->wants()->purpose + " within " + std::to_string(own_channel_limit.count()) + " s"));
        answer(*op, now);
    }
}

/// No channel will come any more, or none can be said to, for what waits for one.
inline void session_engine::turn_away(std::list<std::shared_ptr<engine_op>>& waiting, const char* why, engine_time now) {
    if (waiting.empty()) return;
    const auto cause = trouble(errc::connection_lost, "channel", std::string{"opens no more channels on this connection: "} + why);
    for (const auto& op : std::exchange(waiting, {})) {
        if (op->answered_) continue;
        op->lost(*this, cause);
        answer(*op, now);
    }
}
inline void session_engine::taint() {
    if (std::exchange(tainted_, true)) return;
    capacity_news_ = 0;
}
/// While somebody waits for one.
inline bool session_engine::only_the_dead_have_channels() const noexcept {
    return !waiting_.empty() && at_limit() && !opening_ && spares_.empty() &&
           std::none_of(active_.begin(), active_.end(), [](const auto& op) { return !op->answered_ && op->wants() == nullptr; });
}

/// Refused while others are open: the server is full. What it had open at once before, it will allow again.
inline void session_engine::open_refused(engine_time now) {
    constexpr unsigned patience = 6;  // refusals in a row, about 0.6 s, while a closed channel may still hold the last slot
    const auto words = io_.last_words();
    ++refusals_;
    not_before_ = now + std::chrono::milliseconds{std::min(10U << std::min(refusals_, 6U), 500U)};
    if (channels_ > 0) {
        if (!limit_ || *limit_ > peak_) {
            limit_ = peak_;
            if (!tainted_) capacity_news_ = capacity();
        }
        return;
    }
    if (peak_ > 0 && refusals_ < patience) return;
    const auto cause = trouble(errc::channel_refused, "channel", "refused to open a channel: " + words);
    if (stage_ == session_stage::first_channel) return fail(cause);
    drop_answered_waiters();
    if (waiting_.empty()) return;
    const auto op = std::move(waiting_.front());
    waiting_.pop_front();
    forget_due(*op);
    op->refused(cause);
    answer(*op, now);
}

inline LIBSSH2_CHANNEL* session_engine::any_channel() const noexcept {
    if (!spares_.empty()) return spares_.front();
    if (!active_.empty()) return active_.front()->channel_;
    return zombies_.empty() ? nullptr : zombies_.front().channel;
}

/// Spare and busy ones together leave one slot of slack.
inline bool session_engine::wants_spare() const noexcept {
    if (spares_.size() + (probing_ ? 1 : 0) >= options_.spare_channels) return false;
    return channels_ + 1 <= (limit_ ? capacity() : most_channels);
}

inline engine_time session_engine::may_open_at() const noexcept {
    auto at = not_before_;
    if (limit_ && channels_ + freed_.size() >= *limit_ && !freed_.empty()) {
        // So many of the freed slots must have cooled that one is free.
        const auto index = std::min(channels_ + freed_.size() - *limit_, freed_.size() - 1);
        at = std::max(at, freed_[index] + slot_pause);
    }
    return at;
}

inline void session_engine::check_zombies(engine_time now) {
    freed_.erase(freed_.begin(), std::find_if(freed_.begin(), freed_.end(), [now](engine_time at) { return at + slot_pause > now; }));
    if (!limit_ && freed_.size() > most_channels) freed_.erase(freed_.begin(), freed_.end() - most_channels);
    if (!tainted_ && has_too_many_dead(now)) taint();
    if (tainted_ && only_the_dead_have_channels() && oldest_zombie_due() <= now)
        turn_away(waiting_, "commands that do not end hold as many as the server allows", now);
}

/// One that outlasted its grace, or half of what the server allows.
inline bool session_engine::has_too_many_dead(engine_time now) const noexcept {
    std::size_t dead = 0;
    for (const auto& z : zombies_) dead += z.is_own ? 0 : 1;
    for (const auto& op : active_) dead += op->answered_ && !op->is_probe_ && op->wants() == nullptr ? 1 : 0;
    constexpr std::size_t usual_limit = 10;  // sshd's MaxSessions
    return oldest_zombie_due() <= now || dead * 2 > limit_.value_or(usual_limit);
}

inline engine_time session_engine::oldest_zombie_due() const noexcept {
    auto oldest = engine_time::max();
    for (const auto& z : zombies_) oldest = std::min(oldest, z.since);
    for (const auto& op : active_) {
        if (op->answered_ && !op->is_probe_) oldest = std::min(oldest, op->answered_at_);
    }
    return oldest == engine_time::max() ? oldest : oldest + options_.reap_grace;
}

inline void session_engine::note_due(engine_op& op) {
    if (stage_ == session_stage::lost) return;
    const auto due = std::min(op.due_, op.reply_due_);
    if (due == op.listed_due_) return;
    if (op.listed_due_ != engine_time::max()) deadlines_.erase({op.listed_due_, &op});
    op.listed_due_ = due;
    if (due != engine_time::max()) deadlines_.insert({due, &op});
}

inline op_next engine_probe::step(session_engine& engine, engine_time now) {
    if (!fresh_channel_) {
        constexpr std::string_view name = "SSHPOOL_PROBE";
        if (!asked_) engine.await_reply(*this, now);
        asked_ = true;
        const int rc = libssh2_channel_setenv_ex(channel_, name.data(), static_cast<unsigned>(name.size()), "1", 1);
        if (rc == LIBSSH2_ERROR_EAGAIN) return op_next::again;
        engine.got_reply(*this);
        if (rc != 0 && rc != LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED) {
            engine.broken_by(rc, "probe");
            return op_next::free_channel;
        }
    }
    if (!answered_) engine.answer(*this, now);
    return op_next::keep_channel;
}

}  // namespace sshpool::detail
