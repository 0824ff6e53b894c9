#pragma once

#include <sshpool/error.hpp>

#include <libssh2.h>

#include <chrono>
#include <memory>
#include <string>

namespace sshpool::detail {

using engine_time = std::chrono::steady_clock::time_point;

class session_engine;

/// What becomes of an operation, and of its channel, after a step.
enum class op_next {
    again,         ///< more input, or time, is needed
    free_channel,  ///< it has ended: close and free its channel
    keep_channel,  ///< it has ended, and its channel is as good as new
};

/// A channel of another kind than "session" (RFC 4254 section 5.1), opened for one operation alone. It is none of the sessions that a server limits.
struct own_channel {
    std::string type;
    std::string message;  // what this kind's request to open says beside the usual
    std::string purpose;  // for people: "open a connection to db:5432"
};

/// One operation on a session that needs a channel of its own: it waits for one, is stepped until it has ended, and is answered once.
///
/// Answered and ended are two things: a caller who gives up is answered at once, but the libssh2 calls go on to their end, with
/// buffers that the operation owns. Everything is called by the engine, on the session's strand; only `attend` by the engine's owner.
class engine_op : public std::enable_shared_from_this<engine_op> {
public:
    engine_op() = default;
    engine_op(const engine_op&) = delete;
    engine_op& operator=(const engine_op&) = delete;
    virtual ~engine_op() = default;

    /// Something is there for the caller: an answer, or output. Called outside the engine's pass.
    virtual void attend() = 0;

    /// The execution context goes: nobody is answered any more, and nobody is to be held.
    virtual void abandon() noexcept {}

    bool is_answered() const noexcept { return answered_; }

protected:
    friend class session_engine;

    /// Takes one step with the gate closed; every call of libssh2 either completes or says EAGAIN.
    virtual op_next step(session_engine& engine, engine_time now) = 0;

    /// `due` has come.
    virtual void expire(session_engine& engine, engine_time now) = 0;

    /// The connection is gone, and with it the channel. `cause` says why; the operation adds what that means for it.
    virtual void lost(const session_engine& engine, const error_info& cause) = 0;

    /// The kind of channel that it needs; the usual one without.
    virtual const own_channel* wants() const noexcept { return nullptr; }

    /// No channel could be had for it: the server refuses it, or all.
    virtual void refused(const error_info& cause) = 0;

    LIBSSH2_CHANNEL* channel_ = nullptr;  // the engine's; valid from the first step on
    engine_time submitted_at_{};
    engine_time answered_at_{};
    engine_time due_ = engine_time::max();         // set through the engine
    engine_time reply_due_ = engine_time::max();   // when the server must have replied to what was asked last
    engine_time listed_due_ = engine_time::max();  // the earlier of the two, as the engine has noted it
    bool answered_ = false;
    bool fresh_channel_ = false;  // the channel was opened for it a moment ago
    bool is_probe_ = false;
};

}  // namespace sshpool::detail
