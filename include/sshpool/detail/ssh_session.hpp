#pragma once

#include <sshpool/detail/agent_client.hpp>
#include <sshpool/detail/byte_stream.hpp>
#include <sshpool/detail/connection_fate.hpp>
#include <sshpool/detail/context_guard.hpp>
#include <sshpool/detail/host_key_check.hpp>
#include <sshpool/detail/off_strand.hpp>
#include <sshpool/detail/session_engine.hpp>
#include <sshpool/detail/session_op.hpp>
#include <sshpool/detail/stream_connect.hpp>
#include <sshpool/detail/tcp_connect.hpp>
#include <sshpool/error.hpp>
#include <sshpool/transport.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/basic_waitable_timer.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>
#include <asio/strand.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// One SSH connection: a stream, a timer and an engine on a strand of their own.
///
/// **Threads**: the public calls may come from any thread; they post to the strand. **Lifetime**: held by its own pending waits
/// until it is closed; everything of Asio's goes with the execution context, after which every call does nothing.
class ssh_session : public std::enable_shared_from_this<ssh_session> {
public:
    using clock = std::chrono::steady_clock;

    /// What `open` needs, without the transport's own type.
    struct open_parts {
        sshpool::target to;
        std::chrono::milliseconds timeout{};
        std::size_t spare_channels = 1;
        std::chrono::milliseconds reap_grace{};
        connection_observer observer;
        stream_connect_factory way;  // none: over TCP
        std::size_t learned_leases = 0;
    };
    using opened_handler = std::function<void(open_report)>;

    static std::shared_ptr<ssh_session> make(const asio::any_io_executor& executor) {
        auto session = shared_at_home(new ssh_session);
        session->io_.emplace(executor);
        session->guard_.emplace(asio::query(executor, asio::execution::context), [weak = session->weak_from_this()] {
            if (const auto self = weak.lock()) self->let_go();
        });
        return session;
    }

    void open(open_parts parts, opened_handler done) {
        on_strand([self = shared_from_this(), parts = std::move(parts), done = std::move(done)]() mutable { self->begin(std::move(parts), std::move(done)); });
    }
    void probe(std::chrono::milliseconds timeout, std::function<void(error_info)> done) {
        on_strand([self = shared_from_this(), timeout, done = std::move(done)]() mutable { self->begin_probe(timeout, std::move(done)); });
    }
    void close(std::function<void()> done) {
        usable_ = false;
        on_strand([self = shared_from_this(), done = std::move(done)]() mutable { self->begin_close(std::move(done)); });
    }
    void run(std::shared_ptr<session_op> op, std::chrono::milliseconds timeout) {
        if (is_forked()) return op->reject(made_before_fork());
        on_strand([self = shared_from_this(), op = std::move(op), timeout]() mutable { self->begin_run(std::move(op), timeout); });
    }
    void cancel(std::weak_ptr<session_op> which) {
        on_strand([self = shared_from_this(), which = std::move(which)] {
            const auto op = which.lock();
            if (op == nullptr || !self->engine_) return;
            op->cancel(*self->engine_, clock::now());
            self->settle();
        });
    }
    /// Something changed for an operation outside the engine: it is stepped again.
    template <class Change>
    void change(Change change) {
        on_strand([self = shared_from_this(), change = std::move(change)]() mutable {
            change();
            if (self->engine_) self->engine_->nudge(clock::now());
            self->settle();
        });
    }

    /// For operations, on the strand: has `work(stop)` done where it may block, then `done(ok)` here, and then everything stepped again. Not `ok`: there is no
    /// memory or no thread for it.
    template <class Work, class Done>
    void aside(Work work, Done done) {
        if (!io_) return;
        const auto over = [self = shared_from_this(), done = std::move(done)](bool ok) {
            done(ok);
            if (self->engine_) self->engine_->nudge(clock::now());
            self->settle();
        };
        const auto guarded = [work = std::move(work)](const std::atomic<bool>& stop) {
            try {
                work(stop);
                return true;
            } catch (const std::exception&) {
                return false;
            }
        };
        if (!off_strand(blocking::files, io_->strand, std::make_shared<std::atomic<bool>>(false), guarded, over))
            asio::post(io_->strand, [over] { over(false); });
    }

    bool is_usable() const noexcept { return usable_.load(std::memory_order_relaxed) && guard_->is_alive(); }
    clock::time_point last_heard() const noexcept { return clock::time_point{clock::duration{last_heard_.load(std::memory_order_relaxed)}}; }

    /// Why the connection ended, for those that run through it.
    std::shared_ptr<const connection_fate> fate() const noexcept { return fate_; }

    /// The executor of the connection; nothing once its context has gone.
    std::optional<asio::any_io_executor> executor() {
        std::optional<asio::any_io_executor> found;
        if (is_forked() && guard_->has_context() && io_) return io_->executor;
        guard_->with_context([&] { found = io_->executor; });
        return found;
    }

    /// This is a child of the process that made the connection: everything that is asked of it here has this answer.
    bool is_forked() const noexcept { return guard_->is_forked(); }
    error_info made_before_fork() const {
        return {make_error(errc::connection_lost), {}, "channel", "the connection was made before fork(), and belongs to the parent process"};
    }

    /// "user@host:port". On the strand only, as operations are called.
    std::string key() const { return to_ ? to_->key() : std::string{}; }

private:
    enum class state { fresh, opening, open, closing, closed };

    struct io_parts {
        explicit io_parts(const asio::any_io_executor& e) : executor(e), strand(e), timer(strand) {}
        asio::any_io_executor executor;
        session_strand strand;
        asio::basic_waitable_timer<clock, asio::wait_traits<clock>, session_strand> timer;
        std::shared_ptr<stream_connect> connecting;
        std::unique_ptr<byte_stream> stream;
    };
    class probe_op final : public engine_probe {
    public:
        explicit probe_op(std::function<void(error_info)> done) : done_(std::move(done)) {}
        void attend() override {
            if (done_) std::exchange(done_, nullptr)(std::move(error_));
        }

    protected:
        void lost(const session_engine& /*engine*/, const error_info& cause) override { error_ = cause; }
        void refused(const error_info& cause) override { error_ = cause; }
        void expire(session_engine& engine, engine_time now) override {
            if (is_answered()) return;
            error_ = engine.trouble(errc::connection_lost, "probe", "did not answer a health check in time");
            engine.answer(*this, now);
        }

    private:
        std::function<void(error_info)> done_;
        error_info error_;
    };

    ssh_session() = default;

    template <class F>
    void on_strand(F f) {
        guard_->with_context([&] { asio::post(io_->strand, std::move(f)); });
    }

    void begin(open_parts parts, opened_handler done);
    void connected(stream_connect::result r);
    void begin_probe(std::chrono::milliseconds timeout, std::function<void(error_info)> done);
    void begin_close(std::function<void()> done);
    void begin_run(std::shared_ptr<session_op> op, std::chrono::milliseconds timeout);

    void wait_readable();
    void wait_writable();
    void on_readable();
    void flush();
    void settle();
    void check_host_key();
    void host_key_checked(const host_key_verdict& verdict);
    void ask_the_agent(agent_question question);
    void follow_stage();
    void arm_timer();
    void on_timer();
    void finish_open(error_info error);
    void lost();
    void hand_over();
    void cut(const std::string& why);
    void let_go();
    error_info out_of_time() const;
    std::string elapsed() const;

    std::optional<context_guard> guard_;
    std::optional<io_parts> io_;  // gone once the context is
    std::optional<session_engine> engine_;
    const std::shared_ptr<connection_fate> fate_ = std::make_shared<connection_fate>();
    std::optional<target> to_;
    state state_ = state::fresh;
    connection_observer observer_;
    opened_handler opened_;
    std::vector<std::function<void()>> closed_;
    connect_phases phases_;
    std::chrono::milliseconds timeout_{};
    std::chrono::milliseconds reap_grace_{};
    std::size_t spare_channels_ = 0;
    std::size_t learned_leases_ = 0;
    clock::time_point started_{};
    clock::time_point phase_started_{};
    clock::time_point deadline_ = clock::time_point::max();  // of connecting, or of the goodbye
    clock::time_point armed_ = clock::time_point::max();
    std::string outgoing_;
    std::size_t outgoing_sent_ = 0;
    bool writing_ = false;  // waits until the stream takes more
    bool reading_ = false;
    bool ended_ = false;  // the stream gives no more
    bool checking_host_key_ = false;
    stop_flag stop_blocking_ = std::make_shared<std::atomic<bool>>(false);  // what runs off the strand for the open
    std::atomic<bool> usable_{false};
    std::atomic<clock::rep> last_heard_{0};
};

}  // namespace sshpool::detail

#include <sshpool/detail/ssh_session_steps.hpp>
