#pragma once

#include <sshpool/detail/engine_op.hpp>
#include <sshpool/detail/login.hpp>
#include <sshpool/detail/memory_session.hpp>
#include <sshpool/error.hpp>

#include <libssh2.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

enum class session_stage { greeting, host_key, login, first_channel, ready, lost };

/// What an engine needs to know of its session.
struct engine_options {
    std::string key;  // "user@host:port", for messages
    std::string user;
    std::vector<login_method> methods;
    std::string host_key_types;  // in the order wanted; empty: libssh2's own
    std::size_t spare_channels = 1;
    std::size_t learned_leases = 0;  // what an earlier session's take_capacity said; 0: nothing
    std::chrono::milliseconds reap_grace{2000};
    std::uint32_t window = 512U << 10U;
};

/// One SSH session, decided in memory: bytes in, bytes out, time as an argument. No I/O, no clock, no threads, no waiting.
///
/// On input: pump (libssh2 sorts everything into its queues), then one pass over the operations with the gate closed. So no operation can
/// swallow another one's packet, and any number may await replies at once. Whoever owns the engine calls it from one strand, sends `take_output`
/// after every call, calls `advance` when `next_due` has come, and attends to `take_attention`.
class session_engine {
public:
    static constexpr std::size_t high_water = std::size_t{64} << 10;              // unsent bytes above which writes wait, and nothing else
    static constexpr std::size_t most_unsent = std::size_t{8} << 20;              // twice what all channels could want to send at once is far less
    static constexpr std::uint64_t greeting_allowance = std::uint64_t{64} << 10;  // bytes that a server may send before the key exchange has ended
    static constexpr std::uint64_t login_allowance = std::uint64_t{256} << 10;
    static constexpr std::size_t most_channels = 64;
    static constexpr std::chrono::seconds reply_limit{30};        // libssh2's own, of 60 s, would leave the session in disorder
    static constexpr std::chrono::seconds own_channel_limit{10};  // for a channel of another kind: the server may have to connect somewhere first
    static constexpr std::chrono::milliseconds slot_pause{5};     // sshd frees the slot of a closed channel a moment after both sides have closed

    explicit session_engine(engine_options o) : options_(std::move(o)), login_(io_, options_.user, options_.methods), largest_window_(options_.window) {
        // Curve25519 and ECDH cost 0.6 ms; libssh2's own order can end in group18, which costs 160 ms on the strand.
        io_.prefer(LIBSSH2_METHOD_KEX,
                   "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,"
                   "diffie-hellman-group14-sha256");
        // The shortest key first, as OpenSSH does and libssh2 does not: it encrypts block by block, and a file then takes a tenth less CPU. The modes with
        // a tag of their own come after: in 1.11.0 and 1.11.1 they had holes.
        for (const int way : {LIBSSH2_METHOD_CRYPT_CS, LIBSSH2_METHOD_CRYPT_SC})
            io_.prefer(way,
                       "aes128-ctr,aes192-ctr,aes256-ctr,chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-cbc,aes192-cbc,"
                       "aes256-cbc,3des-cbc");
#if LIBSSH2_VERSION_NUM >= 0x010b01
        // With a check over the plain text, one bit of a packet's length that was flipped on the way meets an assertion of libssh2's before it meets the
        // check, and the process ends. A check over what was encrypted comes before anything is decrypted. 1.10 has no other kind.
        for (const int way : {LIBSSH2_METHOD_MAC_CS, LIBSSH2_METHOD_MAC_SC})
            io_.prefer(
                way,
                "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha1-etm@openssh.com,hmac-sha2-256,hmac-sha2-512,hmac-sha1,hmac-sha1-96,"
                "hmac-md5,hmac-md5-96,hmac-ripemd160,hmac-ripemd160@openssh.com");
#endif
        io_.prefer(LIBSSH2_METHOD_HOSTKEY, options_.host_key_types);
        if (options_.learned_leases != 0) limit_ = options_.learned_leases + 1;  // see capacity()
        io_.allow(greeting_allowance);
    }
    session_engine(const session_engine&) = delete;
    session_engine& operator=(const session_engine&) = delete;
    ~session_engine() {
        for (const auto& op : active_) op->abandon();
        for (const auto& op : waiting_) op->abandon();
        for (const auto& op : waiting_own_) op->abandon();
        for (const auto& op : attention_) op->abandon();
        if (opening_own_) opening_own_->abandon();
    }

    // The owner's calls -------------------------------------------------------------------------------------------------------

    void start(engine_time now) { turn(now); }

    void feed(std::string_view bytes, engine_time now) {
        if (stage_ == session_stage::lost) return;
        io_.give(bytes);
        turn(now);
    }
    /// The stream has ended: every byte that came before was fed. `why`: what the stream said, where that was no orderly end.
    void end_of_input(engine_time now, std::string why = {}) {
        if (stage_ == session_stage::lost) return;
        end_words_ = std::move(why);
        io_.end_input();
        turn(now);
    }
    /// Of the output taken, so much has not left yet.
    void sending(std::size_t bytes, engine_time now) {
        const bool was_high = unsent() > high_water;
        in_flight_ = bytes;
        if (was_high && unsent() <= high_water && stage_ == session_stage::ready) turn(now);
    }
    void take_output(std::string& buffer) noexcept {
        io_.take_output(buffer);
        in_flight_ = buffer.size();
    }
    bool has_output() const noexcept { return io_.has_output(); }

    void advance(engine_time now) {
        last_turn_ = now;
        while (stage_ != session_stage::lost && !deadlines_.empty() && deadlines_.begin()->first <= now) {
            engine_op* const op = deadlines_.begin()->second;
            deadlines_.erase(deadlines_.begin());
            op->listed_due_ = engine_time::max();
            if (op->reply_due_ <= now) return fail(trouble(errc::protocol_error, "channel", "did not answer a request on a channel within 30 seconds"));
            op->due_ = engine_time::max();
            note_due(*op);
            op->expire(*this, now);
        }
        if (opening_ && now >= opening_due()) {
            if (!opening_own_) return fail(trouble(errc::protocol_error, "channel", "did not answer a channel-open within 30 seconds"));
            leave_open_behind(now);
        }
        if (stage_ == session_stage::first_channel || stage_ == session_stage::ready) turn(now);
    }
    engine_time next_due() const noexcept {
        auto due = deadlines_.empty() ? engine_time::max() : deadlines_.begin()->first;
        if (opening_) due = std::min(due, opening_due());
        if (stage_ == session_stage::ready && may_open() && wants_channel() && !at_limit()) due = std::min(due, may_open_at());
        if (!tainted_ || only_the_dead_have_channels()) due = std::min(due, oldest_zombie_due());
        return due;
    }

    session_stage stage() const noexcept { return stage_; }
    const error_info& failure() const noexcept { return failure_; }  // of session_stage::lost

    /// The server's host key, from session_stage::host_key on. Nothing of the login is sent before `trust_host_key`.
    std::string_view host_key() const {
        std::size_t size = 0;
        int type = 0;
        const char* const key = libssh2_session_hostkey(io_.raw(), &size, &type);
        return key == nullptr ? std::string_view{} : std::string_view{key, size};
    }
    void trust_host_key(engine_time now) {
        if (stage_ != session_stage::host_key) return;
        stage_ = session_stage::login;
        io_.allow(login_allowance);
        turn(now);
    }

    /// What an SSH agent is to be asked for the login, if anything: by whoever may block. The answer comes back through `agent_answered`.
    std::optional<agent_question> take_agent_question() { return login_.take_question(); }
    void agent_answered(agent_answer answer, engine_time now) {
        if (stage_ != session_stage::login) return;
        login_.agent_answered(std::move(answer));
        turn(now);
    }

    /// Queues an operation for a channel; a spare one is used at once. No timeout: zero.
    void submit(std::shared_ptr<engine_op> op, std::chrono::milliseconds timeout, engine_time now) {
        op->submitted_at_ = now;
        if (stage_ == session_stage::lost) {
            op->lost(*this, failure_);
            return answer(*op, now);
        }
        if (timeout > std::chrono::milliseconds::zero()) {
            constexpr std::chrono::milliseconds longest = std::chrono::hours{24 * 3650};  // so that the sum does not overflow
            op->due_ = now + std::min(timeout, longest);
            note_due(*op);
        }
        if (op->wants() != nullptr) {
            waiting_own_.push_back(std::move(op));
        } else if (op->is_probe_) {
            // Every channel that the server allows is in use: there is nothing to ask with, and nothing that a probe would be for.
            if (stage_ == session_stage::ready && spares_.empty() && at_limit()) return answer(*op, now);
            waiting_.push_front(std::move(op));
        } else {
            waiting_.push_back(std::move(op));
        }
        turn(now);
    }

    /// Steps everything once more: an operation's caller did something (took output, gave up).
    void nudge(engine_time now) {
        if (stage_ == session_stage::ready) turn(now);
    }

    /// Ends the session: what is pending fails with `cause`, and everything of libssh2's is freed.
    void fail(error_info cause) {
        if (stage_ == session_stage::lost) return;
        if (in_turn_) {
            if (!broken_) broken_ = std::move(cause);
            return;
        }
        stage_ = session_stage::lost;
        failure_ = std::move(cause);
        deadlines_.clear();
        auto pending = std::move(active_);
        pending.insert(pending.end(), waiting_.begin(), waiting_.end());
        pending.insert(pending.end(), waiting_own_.begin(), waiting_own_.end());
        if (opening_own_) pending.push_back(std::move(opening_own_));
        opening_own_.reset();
        active_.clear();
        waiting_.clear();
        waiting_own_.clear();
        spares_.clear();
        zombies_.clear();
        opening_ = false;
        io_.die();
        for (auto& op : pending) {
            if (!op->answered_) {
                op->lost(*this, failure_);
                answer(*op, last_turn_);
            }
            op->channel_ = nullptr;
        }
    }
    /// Says goodbye; the caller sends what is then in the output.
    void say_goodbye() {
        if (stage_ != session_stage::lost) libssh2_session_disconnect_ex(io_.raw(), SSH_DISCONNECT_BY_APPLICATION, "closed", "");
    }

    /// Operations that have something for their callers.
    std::vector<std::shared_ptr<engine_op>> take_attention() { return std::exchange(attention_, {}); }
    /// How long operations waited for their channels, each reported once.
    std::vector<std::chrono::nanoseconds> take_channel_waits() { return std::exchange(channel_waits_, {}); }
    /// How many leases the session can carry, when that has changed; 0: it is tainted.
    std::optional<std::size_t> take_capacity() { return std::exchange(capacity_news_, std::nullopt); }

    std::size_t channels() const noexcept { return channels_; }          // of the kind "session"
    std::size_t own_channels() const noexcept { return own_channels_; }  // of other kinds
    std::size_t spares() const noexcept { return spares_.size(); }
    std::optional<std::size_t> learned_limit() const noexcept { return limit_; }
    std::size_t memory_used() const noexcept { return io_.memory_used(); }
    bool is_tainted() const noexcept { return tainted_; }
    bool has_operations() const noexcept { return !active_.empty(); }  // with a channel
    bool heard_reply() const noexcept { return heard_reply_; }         // of any request on a channel, so far

    // For operations ----------------------------------------------------------------------------------------------------------

    memory_session& io() noexcept { return io_; }
    const memory_session& io() const noexcept { return io_; }
    const engine_options& options() const noexcept { return options_; }
    std::size_t unsent() const noexcept { return io_.queued() + in_flight_; }

    void answer(engine_op& op, engine_time now) {
        op.answered_ = true;
        op.answered_at_ = now;
        op.due_ = engine_time::max();
        note_due(op);
        attention_.push_back(op.shared_from_this());
    }
    void attend(engine_op& op) { attention_.push_back(op.shared_from_this()); }
    void await_reply(engine_op& op, engine_time now) {
        op.reply_due_ = now + reply_limit;
        note_due(op);
    }
    void got_reply(engine_op& op) {
        heard_reply_ = true;
        op.reply_due_ = engine_time::max();
        note_due(op);
    }
    /// An error that libssh2 gives beside the expected ones: the session cannot be relied on any more.
    void broken_by(int rc, const char* phase) { fail(describe_loss(rc, phase)); }

    /// An operation lets the server send so much ahead.
    void expect_window(std::size_t bytes) {
        largest_window_ = std::max(largest_window_, bytes);
        allow_memory();
    }

    error_info trouble(errc what, std::string phase, const std::string& text) const {
        return {make_error(what), options_.key, std::move(phase), options_.key + " " + text};
    }

private:
    struct zombie {
        LIBSSH2_CHANNEL* channel;
        engine_time since;
        bool is_own;
    };

    void turn(engine_time now);
    void set_up(engine_time now);
    void work(engine_time now);
    void pass(engine_time now);
    void step_active(engine_time now);
    void reap(engine_time now);
    void drop_closed_spares(engine_time now);
    bool hand_out_spares(engine_time now);
    void open_next(engine_time now);
    void step_open(engine_time now);
    void opened(LIBSSH2_CHANNEL* channel, engine_time now);
    void opened_own(LIBSSH2_CHANNEL* channel, engine_time now);
    void open_refused(engine_time now);
    void own_refused(engine_time now);
    void leave_open_behind(engine_time now);
    void turn_away(std::list<std::shared_ptr<engine_op>>& waiting, const char* why, engine_time now);
    void taint();
    bool only_the_dead_have_channels() const noexcept;
    void give_channel(std::shared_ptr<engine_op> op, LIBSSH2_CHANNEL* channel, bool fresh, engine_time now);
    void drop_channel(zombie dropped, engine_time now);
    void channel_gone(bool is_own, engine_time now);
    void allow_memory() noexcept { io_.allow_memory(memory_session::base_memory + 2 * largest_window_ * (channels_ + own_channels_)); }
    void check_zombies(engine_time now);
    bool has_too_many_dead(engine_time now) const noexcept;
    void drop_answered_waiters();
    LIBSSH2_CHANNEL* any_channel() const noexcept;
    bool wants_spare() const noexcept;
    bool wants_channel() const noexcept { return !waiting_.empty() || wants_spare(); }
    bool at_limit() const noexcept { return channels_ >= limit_.value_or(most_channels); }
    std::size_t capacity() const noexcept { return *limit_ > 1 ? *limit_ - 1 : 1; }
    bool may_open() const noexcept { return !opening_ && !open_left_behind_; }
    engine_time opening_due() const noexcept { return opening_since_ + (opening_own_ ? own_channel_limit : reply_limit); }
    engine_time may_open_at() const noexcept;
    engine_time oldest_zombie_due() const noexcept;
    void note_due(engine_op& op);
    void forget_due(engine_op& op) { deadlines_.erase({op.listed_due_, &op}); }
    std::optional<std::string_view> greeting() const noexcept;
    bool is_dropbear() const noexcept;
    error_info describe_greeting_failure(int rc) const;
    error_info describe_login_failure(login_progress how) const;
    error_info describe_loss(int rc, const char* phase) const;

    engine_options options_;
    memory_session io_;
    login login_;
    session_stage stage_ = session_stage::greeting;
    error_info failure_;
    std::string end_words_;
    std::optional<error_info> broken_;  // noticed within a turn, acted on at its end

    // Lists, for most sessions are idle: an empty std::deque takes 0.6 KiB.
    std::list<std::shared_ptr<engine_op>> waiting_;      // for a channel, first come first served
    std::list<std::shared_ptr<engine_op>> waiting_own_;  // for a channel of another kind
    std::vector<std::shared_ptr<engine_op>> active_;     // with a channel
    std::vector<LIBSSH2_CHANNEL*> spares_;
    std::vector<zombie> zombies_;  // closed by us; the server has not confirmed yet
    std::vector<std::shared_ptr<engine_op>> attention_;
    std::set<std::pair<engine_time, engine_op*>> deadlines_;
    std::vector<std::chrono::nanoseconds> channel_waits_;
    std::vector<engine_time> freed_;  // when channels were freed, as long as their slots may still be taken at the server

    bool opening_ = false;  // one channel-open at a time: its state is the session's
    engine_time opening_since_{};
    std::shared_ptr<engine_op> opening_own_;  // whose channel of another kind it is
    bool open_left_behind_ = false;           // the server has not answered one: none can follow
    engine_time not_before_{};                // the next open, after a refusal
    unsigned refusals_ = 0;                   // in a row
    std::size_t channels_ = 0;                // open, from the confirmation of the open to that of the close
    std::size_t own_channels_ = 0;
    std::size_t largest_window_;
    std::size_t peak_ = 0;  // most of them at once: the server allows at least so many
    std::optional<std::size_t> limit_;
    std::optional<std::size_t> capacity_news_;
    std::size_t in_flight_ = 0;
    engine_time last_turn_{};
    bool tainted_ = false;
    bool in_turn_ = false;
    bool heard_reply_ = false;
    bool probing_ = false;
};

}  // namespace sshpool::detail

#include <sshpool/detail/session_engine_turn.hpp>
#include <sshpool/detail/session_engine_words.hpp>
