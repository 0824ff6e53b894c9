#pragma once

#include <sshpool/detail/byte_stream.hpp>
#include <sshpool/detail/connection_fate.hpp>
#include <sshpool/detail/session_owner.hpp>
#include <sshpool/detail/stream_connect.hpp>
#include <sshpool/detail/stream_op.hpp>
#include <sshpool/error.hpp>

#include <asio/error.hpp>
#include <asio/post.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

// A session that runs over a channel of another one. Each has a strand of its own: between them lie two bounded buffers.

namespace sshpool::detail {

/// What both ends of a tunnel share: the outer end is an operation of the jump host's session, the inner one the stream of the session behind it.
///
/// Whoever puts something in wakes the other side, unless it was woken already and has not looked yet. The mutex is held for moments, never while
/// anybody is called.
class tunnel_ends {
public:
    using ready_handler = byte_stream::ready_handler;
    static constexpr std::size_t room_outwards = std::size_t{256} << 10;  // inwards the channel's window bounds it

    tunnel_ends(const session_strand& inner, stream_connect::handler opened) : inner_(inner), opened_(std::move(opened)) {}

    // The outer end -----------------------------------------------------------------------------------------------------------

    /// How many bytes the inner end has taken since. Said first whenever the outer end looks: what is put in later wakes it again.
    std::size_t consumed() {
        const std::lock_guard lock{mutex_};
        outer_woken_ = false;
        return std::exchange(consumed_, 0);
    }
    /// Swaps what is to be sent into `into`, which is empty.
    void collect(std::string& into) {
        const std::lock_guard lock{mutex_};
        into.swap(outwards_);
        if (!into.empty()) wake(writable_);
    }
    void deliver(std::string_view bytes, bool ended) {
        const std::lock_guard lock{mutex_};
        inwards_ += bytes;
        ended_ = ended_ || ended;
        wake(readable_);
    }
    /// The tunnel is there, or cannot be.
    void opened(stream_connect::result r) {
        const std::lock_guard lock{mutex_};
        auto done = std::exchange(opened_, nullptr);
        if (done && inner_) asio::post(*inner_, [done = std::move(done), r = std::make_shared<stream_connect::result>(std::move(r))] { done(std::move(*r)); });
    }
    void lost() {
        const std::lock_guard lock{mutex_};
        lost_ = true;
        wake(readable_);
        wake(writable_);
    }

    // The inner end -----------------------------------------------------------------------------------------------------------

    void wait_readable(ready_handler done, bool is_readable) {
        const std::lock_guard lock{mutex_};
        readable_ = std::move(done);
        if (is_readable || !inwards_.empty() || ended_ || lost_) wake(readable_);
    }
    void wait_writable(ready_handler done) {
        const std::lock_guard lock{mutex_};
        writable_ = std::move(done);
        if (outwards_.size() < room_outwards || lost_) wake(writable_);
    }
    /// Swaps what has come into `into`, which is empty.
    std::error_code take(std::string& into) {
        const std::lock_guard lock{mutex_};
        into.swap(inwards_);
        if (!into.empty()) return {};
        if (lost_) return asio::error::connection_reset;
        if (ended_) return asio::error::eof;
        return asio::error::would_block;
    }
    /// True: the outer end is to be woken.
    bool put(std::string_view bytes, std::size_t& taken, std::error_code& ec) {
        const std::lock_guard lock{mutex_};
        taken = std::min(bytes.size(), room_outwards - outwards_.size());
        ec = {};
        if (lost_ || closed_) {
            taken = 0;
            ec = asio::error::broken_pipe;
        } else if (taken == 0) {
            ec = asio::error::would_block;
        }
        outwards_.append(bytes.substr(0, taken));
        return taken != 0 && !std::exchange(outer_woken_, true);
    }
    /// True: the outer end is to be woken.
    bool has_consumed(std::size_t bytes) {
        const std::lock_guard lock{mutex_};
        consumed_ += bytes;
        return !std::exchange(outer_woken_, true);
    }
    /// Waits end; nothing of the inner end's executor is touched any more.
    void close() {
        stream_connect::handler opened;  // goes after the mutex
        const std::lock_guard lock{mutex_};
        closed_ = true;
        opened.swap(opened_);
        wake(readable_, asio::error::operation_aborted);
        wake(writable_, asio::error::operation_aborted);
        inner_.reset();
    }

private:
    void wake(ready_handler& waiting, std::error_code ec = {}) {
        if (waiting && inner_) asio::post(*inner_, [done = std::exchange(waiting, nullptr), ec] { done(ec); });
    }

    mutable std::mutex mutex_;
    std::optional<session_strand> inner_;
    stream_connect::handler opened_;
    ready_handler readable_;
    ready_handler writable_;
    std::string inwards_;
    std::string outwards_;
    std::size_t consumed_ = 0;
    bool outer_woken_ = false;
    bool lost_ = false;    // with the jump host's connection
    bool ended_ = false;   // nothing more comes inwards
    bool closed_ = false;  // nothing more comes outwards
};

/// The outer end: a channel of the jump host's session, which it keeps open.
class tunnel_op final : public stream_op {
public:
    tunnel_op(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share, std::shared_ptr<tunnel_ends> ends, const std::string& host, std::uint16_t port)
        : stream_op(host, port), owner_(std::move(owner)), share_(std::move(share)), ends_(std::move(ends)) {}

    /// The inner end has closed. What it sent before goes out as far as the channel takes it now; nothing is waited for.
    void cancel(session_engine& engine, engine_time now) override {
        if (!is_open()) return stream_op::cancel(engine, now);
        is_closed_ = true;
        engine.nudge(now);
    }

    inline void attend() override;  // inline here, or the vtable and all that it refers to would be in every translation unit

private:
    void work(session_engine& engine, engine_time now) override {
        done_with(ends_->consumed());
        stream_op::work(engine, now);
        if (is_closed_ && !answered_) engine.answer(*this, now);
    }
    outgoing next_to_send(std::string& into) override {
        ends_->collect(into);
        return into.empty() ? outgoing::nothing : outgoing::bytes;
    }
    void eof_sent() override {}
    stream_connect::result failure() const;

    std::shared_ptr<session_owner> owner_;
    std::shared_ptr<void> share_;
    std::shared_ptr<tunnel_ends> ends_;
    bool is_told_ = false;
    bool is_closed_ = false;
};

/// The inner end.
class tunnel_stream final : public byte_stream {
public:
    tunnel_stream(std::shared_ptr<ssh_session> outer, std::weak_ptr<session_op> op, std::shared_ptr<tunnel_ends> ends)
        : outer_(std::move(outer)), fate_(outer_->fate()), op_(std::move(op)), ends_(std::move(ends)) {}
    ~tunnel_stream() override { close(); }

    void wait_readable(ready_handler done) override { ends_->wait_readable(std::move(done), read_ < bytes_.size()); }
    void wait_writable(ready_handler done) override { ends_->wait_writable(std::move(done)); }
    std::size_t read_some(char* into, std::size_t room, std::error_code& ec) override {
        ec = {};
        if (read_ == bytes_.size()) {
            bytes_.clear();
            read_ = 0;
            ec = ends_->take(bytes_);
        }
        const auto n = std::min(room, bytes_.size() - read_);
        std::memcpy(into, bytes_.data() + read_, n);
        read_ += n;
        unreported_ += n;
        constexpr std::size_t worth_telling = std::size_t{32} << 10;  // a small part of any window
        if (unreported_ >= worth_telling && ends_->has_consumed(std::exchange(unreported_, 0))) wake_outer();
        return n;
    }
    std::size_t write_some(std::string_view bytes, std::error_code& ec) override {
        std::size_t taken = 0;
        if (ends_->put(bytes, taken, ec)) wake_outer();
        return taken;
    }
    std::shared_ptr<const connection_fate> jump() const override { return fate_; }
    void close() noexcept override {
        if (outer_ == nullptr) return;
        try {
            ends_->close();
            std::exchange(outer_, nullptr)->cancel(op_);
        } catch (...) {  // out of memory: the channel ends with the jump host's connection
        }
    }

private:
    void wake_outer() {
        if (outer_ != nullptr) outer_->change([] {});
    }

    std::shared_ptr<ssh_session> outer_;
    std::shared_ptr<const connection_fate> fate_;
    std::weak_ptr<session_op> op_;
    std::shared_ptr<tunnel_ends> ends_;
    std::string bytes_;  // taken from the shared buffer, not read yet
    std::size_t read_ = 0;
    std::size_t unreported_ = 0;
};

inline void tunnel_op::attend() {
    if (is_open() && !std::exchange(is_told_, true)) {
        auto stream = std::make_unique<tunnel_stream>(owner_->session, std::static_pointer_cast<session_op>(shared_from_this()), ends_);
        ends_->opened({{}, {}, {}, std::move(stream), {}, {}});
    }
    auto& in = from(output_stream::out);
    for (; !in.bytes.empty(); in.bytes.drop(in.bytes.front().size())) ends_->deliver(in.bytes.front(), false);
    if (in.ended) ends_->deliver({}, true);
    if (!is_answered()) return;
    if (!is_told_) {
        ends_->opened(failure());
    } else if (error_) {
        ends_->lost();
    }
    share_.reset();
    owner_.reset();
}

/// What is behind a jump host cannot be reached from there, or the jump host cannot be used.
inline stream_connect::result tunnel_op::failure() const {
    const bool unreachable = error_ == errc::connect_failed;
    const auto text = "the jump host " + error_.text + (error_ == errc::channel_refused ? " (sshd's AllowTcpForwarding and PermitOpen)" : "");
    return {make_error(unreachable ? errc::connect_failed : errc::jump_failed), unreachable ? "tcp" : "jump host", text, nullptr, {}, {}};
}

/// Opens a tunnel through the session of a jump host.
class tunnel_connect final : public stream_connect, public std::enable_shared_from_this<tunnel_connect> {
public:
    tunnel_connect(const session_strand& strand, handler done, std::shared_ptr<session_owner> owner, std::shared_ptr<void> share)
        : strand_(strand), done_(std::move(done)), owner_(std::move(owner)), share_(std::move(share)), outer_(owner_->session) {}

    void start(const std::string& host, std::uint16_t port, clock::time_point /*deadline*/) override {
        ends_ = std::make_shared<tunnel_ends>(strand_, [self = shared_from_this()](result r) {
            if (self->done_) std::exchange(self->done_, nullptr)(std::move(r));
        });
        const auto op = std::make_shared<tunnel_op>(std::exchange(owner_, nullptr), std::exchange(share_, nullptr), ends_, host, port);
        op_ = op;
        outer_->run(op, {});
    }
    void cancel() noexcept override {
        done_ = nullptr;
        try {
            if (ends_ != nullptr) ends_->close();
            outer_->cancel(op_);
        } catch (...) {  // out of memory: the channel ends with the jump host's connection
        }
    }
    std::string phase() const override { return "jump host"; }
    std::string failures() const override { return "it has not opened a tunnel"; }

private:
    session_strand strand_;
    handler done_;
    std::shared_ptr<session_owner> owner_;
    std::shared_ptr<void> share_;
    std::shared_ptr<ssh_session> outer_;
    std::weak_ptr<session_op> op_;
    std::shared_ptr<tunnel_ends> ends_;
};

/// Through the connection of `owner`, which stays open for as long as the tunnel does; so does `share`.
inline stream_connect_factory through_tunnel(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share) {
    return [owner = std::move(owner), share = std::move(share)](const session_strand& strand, stream_connect::handler done) {
        return std::make_shared<tunnel_connect>(strand, std::move(done), owner, share);
    };
}

}  // namespace sshpool::detail
