#pragma once

#include <sshpool/detail/caller.hpp>
#include <sshpool/detail/context_guard.hpp>
#include <sshpool/detail/deadline_timer.hpp>
#include <sshpool/detail/event_queue.hpp>
#include <sshpool/detail/pool_core.hpp>
#include <sshpool/detail/suspend_watch.hpp>
#include <sshpool/lease.hpp>
#include <sshpool/pool_params.hpp>
#include <sshpool/pool_stats.hpp>
#include <sshpool/transport.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/dispatch.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Carries out what pool_core decides: one strand, one timer, the connections. Decides nothing itself.
///
/// The core is stepped on the strand, or, for the calls that must take effect before they return and for leases that come back, on the caller's thread.
/// A mutex is held for one step. Actions go into one list in the order of the steps and are carried out on the strand only.
template <class Transport, class Clock>
class pool_driver final : public lease_owner, public std::enable_shared_from_this<pool_driver<Transport, Clock>> {
public:
    using factory = std::function<Transport(asio::any_io_executor)>;
    using strand_type = asio::strand<asio::any_io_executor>;
    using lease_type = lease<Transport>;
    using caller_pointer = std::shared_ptr<caller<Transport>>;

    static std::shared_ptr<pool_driver> make(asio::any_io_executor executor, pool_params params, factory make_transport) {
        validate(params);
        auto driver = shared_at_home(new pool_driver{std::move(executor), std::move(params), std::move(make_transport)});
        driver->guard_.emplace(asio::query(driver->executor_, asio::execution::context), [weak = driver->weak_from_this()] {
            if (const auto self = weak.lock()) self->let_go();
        });
        return driver;
    }

    bool is_alive() const noexcept { return guard_->is_alive(); }
    bool is_forked() const noexcept { return guard_->is_forked(); }
    bool has_context() const noexcept { return guard_->has_context(); }
    const asio::any_io_executor& executor() const noexcept { return executor_; }
    const pool_params& params() const noexcept { return params_; }
    instant now() const { return std::chrono::duration_cast<instant>(Clock::now().time_since_epoch()); }

    // Callers: any thread -----------------------------------------------------------------------------------------------------

    /// Queues the caller, or answers it at once.
    void ask(caller_pointer asked) {
        if (asked->deadline == instant{}) asked->deadline = now() + params_.acquire_timeout;
        if (is_forked()) return answer(*asked, asked_in_a_child(asked->where.key()));
        if (!guard_->is_alive()) return;
        ++questions_;
        asio::dispatch(*strand_, [self = this->shared_from_this(), asked = std::move(asked), counted = question{&questions_}]() mutable {
            self->queue(std::move(asked));
        });
    }
    /// Takes the question back. The answer is then `errc::cancelled`, unless another one came first.
    void cancel(std::weak_ptr<caller<Transport>> asked) {
        on_strand([self = this->shared_from_this(), asked = std::move(asked)] {
            const auto found = asked.lock();
            if (found == nullptr) return;
            found->cancelled = true;
            if (found->id != 0) self->step([&](pool_core& core, instant at, actions& out) { core.cancelled(at, found->id, out); });
        });
    }
    /// Lends what can be lent at this moment.
    std::optional<lease_type> try_lend(const target& to, std::source_location from) {
        if (!guard_->is_alive()) return std::nullopt;
        return lend(to, from, lock_core());
    }
    /// The same, where nobody asked before and still waits: most calls, and they cost the strand nothing. Nothing: `ask`.
    std::optional<lease_type> lend_at_once(const target& to, std::source_location from) {
        if (questions_ > 0 || !guard_->is_alive()) return std::nullopt;
        auto lock = lock_core();
        return core_.table().may_be_lent(to) ? lend(to, from, std::move(lock)) : std::nullopt;
    }
    /// Steps the core now: the effect is there before this returns, what follows from it is carried out on the strand.
    template <class Step>
    void step_now(Step&& step) {
        if (!guard_->is_alive()) return;
        {
            const std::lock_guard lock{mutex_};
            if (gone_) return;
            step_core(std::forward<Step>(step));
        }
        settle_later();
    }
    /// Reads the core; what it would give for no pool at all in a forked child.
    template <class Read>
    auto read(Read&& read) const {
        if (is_forked()) return std::invoke_result_t<Read, const pool_core&>{};
        const std::lock_guard lock{mutex_};
        return std::forward<Read>(read)(core_);
    }

    /// Refuses new callers, closes what is idle, waits for what is lent; `done` runs on the strand when nothing is left.
    void shut_down(std::function<void()> done) {
        closing_ = true;  // for those who are answered on their own thread, before the strand hears of it
        on_strand([self = this->shared_from_this(), done = std::move(done)]() mutable {
            self->when_drained_.push_back(std::move(done));
            self->step([](pool_core& core, instant at, actions& out) { core.shut_down(at, out); });
            if (self->drained_) self->tell_drained();
        });
    }
    void force() {
        on_strand([self = this->shared_from_this()] { self->step([](pool_core& core, instant at, actions& out) { core.force(at, out); }); });
    }
    /// The pool object is gone: its leases are dead, its callers get `errc::pool_closed`, its connections close.
    void abandon() noexcept {
        open_ = false;
        try {
            on_strand([self = this->shared_from_this()] {
                self->step([](pool_core& core, instant at, actions& out) {
                    core.shut_down(at, out);
                    core.force(at, out);
                });
            });
        } catch (...) {  // out of memory: the connections close with the execution context
        }
    }

    /// Runs `f` on the strand, never inside this call; does nothing when the execution context is gone.
    template <class F>
    void on_strand(F f) {
        guard_->with_context([&] { asio::post(*strand_, std::move(f)); });
    }

    // lease_owner: any thread -------------------------------------------------------------------------------------------------

    void give_back(std::uint64_t connection, std::uint64_t lease) noexcept override {
        if (is_forked() || !guard_->is_alive()) return;
        try {
            take_back(connection, lease);
        } catch (...) {  // out of memory: it counts as lent until its connection goes
        }
    }
    void discard(std::uint64_t connection) noexcept override {
        try {
            step_now([&](pool_core& core, instant at, actions& out) { core.discarded(at, connection, out); });
        } catch (...) {  // out of memory: the connection's own failures still take it out of the pool
        }
    }
    bool is_open() const noexcept override { return open_ && guard_->is_alive(); }
    connection_info info(std::uint64_t connection) const override {
        return read([&](const pool_core& core) { return core.info(connection).value_or(connection_info{}); });
    }

private:
    pool_driver(asio::any_io_executor executor, pool_params params, factory make_transport)
        : executor_(std::move(executor)),
          params_(std::move(params)),
          make_transport_(std::move(make_transport)),
          strand_(asio::make_strand(executor_)),
          timer_(executor_),
          events_(executor_, params_.on_event),
          core_(params_, std::random_device{}()) {}

    /// A step takes less time than going to sleep and being woken: worth some tries.
    std::unique_lock<std::mutex> lock_core() {
        for (int tries = 0; tries < 100; ++tries) {
            if (std::unique_lock lock{mutex_, std::try_to_lock}) return lock;
        }
        return std::unique_lock{mutex_};
    }
    std::optional<lease_type> lend(const target& to, std::source_location from, std::unique_lock<std::mutex> lock) {
        if (gone_ || closing_) return std::nullopt;
        actions out;
        std::optional<act::grant> granted;
        std::optional<Transport> connection;
        const auto id = ++last_waiter_;
        step_core([&](pool_core& core, instant at, actions&) { core.acquire(at, id, to, at, asking::now_or_never, from, out); });
        for (auto& a : out) {
            if (const auto* grant = std::get_if<act::grant>(&a); grant != nullptr && grant->waiter == id) {
                granted = *grant;
                connection = connections_.at(grant->connection);
            } else if (const auto* failed = std::get_if<act::fail>(&a); failed == nullptr || failed->waiter != id) {
                pending_.push_back(std::move(a));
            }
        }
        const bool follows = !pending_.empty() || !timer_.covers(core_.next_deadline());
        lock.unlock();
        if (follows) settle_later();
        if (!granted) return std::nullopt;
        auto result = make_lease(*granted, *connection);
        if (!result || connection->is_usable()) return result;
        result->discard();  // it died since the core was last told
        return std::nullopt;
    }

    // The strand --------------------------------------------------------------------------------------------------------------

    void queue(caller_pointer asked) {
        auto& w = *asked;
        if (w.cancelled) return answer(w, error_info{make_error(errc::cancelled), w.where.key(), "waiting", "cancelled before a connection was asked for"});
        const auto ask_core = [&](pool_core& core, instant at, actions& out) {
            w.id = ++last_waiter_;
            core.acquire(at, w.id, w.where, w.deadline, w.mode, w.asker, out);
        };
        if (settling_) {  // an answer asks again: its own answer comes later in the same loop
            step(ask_core);
            waiters_.emplace(w.id, std::move(asked));
            return;
        }
        asking_ = &w;  // answered at once, as a rule: then it never enters the map
        try {
            step(ask_core);
        } catch (...) {  // the core's own, or what an answer met
            if (std::exchange(asking_, nullptr) != nullptr) keep(std::move(asked));
            throw;
        }
        if (std::exchange(asking_, nullptr) != nullptr) waiters_.emplace(w.id, std::move(asked));
    }
    void keep(caller_pointer asked);
    static error_info out_of_memory(const caller<Transport>& asked);

    template <class Step>
    void step(Step&& step) {
        if (!guard_->is_alive()) return;
        {
            const auto lock = lock_core();
            step_core(std::forward<Step>(step));
            more_ = true;
            if (settling_) return;  // an action led here: the loop that carries it out goes on with what this asked for
        }
        settle();
    }
    /// Every step of the core, on whatever thread: under the mutex.
    template <class Step>
    void step_core(Step&& step) {
        const auto [at, slept] = watch_.look();
        if (slept.count() > 0) core_.suspended(at, slept, pending_);
        std::forward<Step>(step)(core_, at, pending_);
    }

    /// On the thread of whoever gives it back; the strand is sent for only when something follows. It is, too, where the connection is dead: word of that
    /// is on its way to the strand, and has to come first, or the core would lend what has died.
    void take_back(connection_id connection, lease_id lease) {
        auto lock = lock_core();
        const auto found = connections_.find(connection);
        if (gone_ || found == connections_.end()) return;
        if (!found->second.is_usable()) {
            lock.unlock();
            return on_strand([self = this->shared_from_this(), connection, lease] {
                self->step([&](pool_core& core, instant at, actions& out) { core.released(at, connection, lease, instant{}, out); });
            });
        }
        step_core([&](pool_core& core, instant at, actions& out) { core.released(at, connection, lease, heard_by(found->second), out); });
        if (pending_.empty() && timer_.covers(core_.next_deadline())) return;
        lock.unlock();
        settle_later();
    }

    /// Carries out what the steps have asked for, in their order, until nothing is left.
    void settle() {
        settling_ = true;
        const auto stop = std::unique_ptr<pool_driver, void (*)(pool_driver*)>(this, [](pool_driver* self) {
            self->settling_ = false;
            self->batch_.clear();
        });
        std::optional<instant> next;
        bool empty = false;
        std::exception_ptr failure;  // an answer's own: nobody else goes without theirs for it
        while (std::exchange(more_, false)) {
            {
                const auto lock = lock_core();
                batch_.swap(pending_);
                next = core_.next_deadline();
                empty = core_.empty();
            }
            for (auto& a : batch_) {
                try {
                    std::visit([this](auto& what) { this->perform(what); }, a);
                } catch (...) {
                    if (!failure) failure = std::current_exception();
                }
            }
            batch_.clear();
        }
        timer_.arm(next, *strand_, [self = this->shared_from_this()] { self->step([](pool_core& core, instant at, actions& out) { core.advance(at, out); }); });
        if (empty) {
            work_.reset();
        } else if (!work_) {
            work_.emplace(executor_);
        }
        if (failure) std::rethrow_exception(failure);
    }
    /// Has the strand carry out what a step on another thread has asked for.
    void settle_later() {
        on_strand([self = this->shared_from_this()] {
            self->more_ = true;
            if (self->is_alive()) self->settle();
        });
    }

    void answer(caller<Transport>& asked, error_info error) {
        asked.error = std::move(error);
        asked.answered();
    }
    /// Calls `f` with the caller of that number, who is no longer one afterwards.
    template <class F>
    void with_waiter(waiter_id id, F&& f) {
        if (asking_ != nullptr && asking_->id == id) return std::forward<F>(f)(*std::exchange(asking_, nullptr));
        if (const auto node = waiters_.extract(id)) std::forward<F>(f)(*node.mapped());
    }

    static instant heard_by(const Transport& t) { return std::chrono::duration_cast<instant>(t.last_heard().time_since_epoch()); }

    std::optional<lease_type> make_lease(const act::grant& granted, Transport& connection);

    // Actions: pool_driver_actions.hpp -------------------------------------------------------------------------------------------

    void perform(act::open& what);
    void start_open(const act::open& what);
    void perform(act::grant& what);
    void perform(act::fail& what);
    void perform(act::probe& what);
    void perform(act::close& what);
    void perform(act::announce& what) { events_.push(std::move(what.event)); }
    void perform(act::drained&) {
        drained_ = true;
        tell_drained();
    }

    void tell_drained() {
        for (auto& done : std::exchange(when_drained_, {})) done();
    }

    std::optional<Transport> find(connection_id id) const {
        const std::lock_guard lock{mutex_};
        const auto found = connections_.find(id);
        return found != connections_.end() ? std::optional<Transport>{found->second} : std::nullopt;
    }
    void forget(connection_id id) {
        std::optional<Transport> last;  // goes after the mutex
        const std::lock_guard lock{mutex_};
        if (const auto found = connections_.find(id); found != connections_.end()) {
            last.emplace(std::move(found->second));
            connections_.erase(found);
        }
    }

    // What transports tell: from any thread, so it becomes an event on the strand. They do not keep the driver.
    template <class Argument, class Handle>
    std::function<void(Argument)> event(Handle handle) {
        return [weak = this->weak_from_this(), handle](Argument argument) {
            if (const auto self = weak.lock()) self->on_strand([self, handle, argument = std::move(argument)] { handle(*self, argument); });
        };
    }
    connection_observer observe(connection_id id) {
        return {
            event<error_info>([id](pool_driver& self, const error_info& error) {
                self.step([&](pool_core& core, instant at, actions& out) { core.lost(at, id, error, out); });
            }),
            [weak = this->weak_from_this(), id, told = event<std::size_t>([id](pool_driver& self, std::size_t leases) {
                                                    self.step([&](pool_core& core, instant at, actions& out) { core.capacity(at, id, leases, out); });
                                                })](std::size_t leases) {
                if (leases != 0) return told(leases);
                // At once: a lease that comes back in this moment must not be lent again.
                if (const auto self = weak.lock()) self->step_now([&](pool_core& core, instant at, actions& out) { core.capacity(at, id, leases, out); });
            },
            [weak = this->weak_from_this()](std::chrono::nanoseconds took) {
                const auto self = weak.lock();
                if (self == nullptr) return;
                const std::lock_guard lock{self->mutex_};
                self->core_.channel_opened(took);
            },
        };
    }

    /// The execution context is going: whatever belongs to it must go first.
    void let_go() {
        open_ = false;
        waiters_.clear();
        when_drained_.clear();
        {
            std::unordered_map<connection_id, Transport> last;
            const std::lock_guard lock{mutex_};
            gone_ = true;
            last.swap(connections_);
        }
        work_.reset();
        timer_.let_go();
        events_.let_go();
        strand_.reset();
        executor_ = {};
    }

    asio::any_io_executor executor_;
    const pool_params params_;
    const factory make_transport_;
    std::optional<context_guard> guard_;
    std::optional<strand_type> strand_;
    deadline_timer<Clock> timer_;
    std::optional<asio::executor_work_guard<asio::any_io_executor>> work_;  // open connections are outstanding work
    event_queue events_;
    std::atomic<bool> open_{true};
    std::atomic<bool> closing_{false};

    mutable std::mutex mutex_;  // for one step of the core; never across I/O or user code
    pool_core core_;
    actions pending_;
    std::unordered_map<connection_id, Transport> connections_;  // changed on the strand, under the mutex
    waiter_id last_waiter_ = 0;
    suspend_watch<Clock> watch_;
    bool gone_ = false;  // with the execution context

    struct one_less {
        void operator()(std::atomic<std::size_t>* of) const noexcept { --*of; }
    };
    using question = std::unique_ptr<std::atomic<std::size_t>, one_less>;
    std::atomic<std::size_t> questions_{0};  // on their way to the core

    // Touched on the strand only
    actions batch_;
    bool settling_ = false;
    bool more_ = false;
    caller<Transport>* asking_ = nullptr;
    std::unordered_map<waiter_id, caller_pointer> waiters_;
    std::vector<std::function<void()>> when_drained_;
    bool drained_ = false;
};

}  // namespace sshpool::detail

#include <sshpool/detail/pool_driver_actions.hpp>
