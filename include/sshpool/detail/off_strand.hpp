#pragma once

#include <sshpool/detail/home_process.hpp>

#include <asio/execution/context.hpp>
#include <asio/execution/outstanding_work.hpp>
#include <asio/execution_context.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>

#include <array>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Set to tell blocking work that its result is not wanted any more.
using stop_flag = std::shared_ptr<std::atomic<bool>>;

/// Threads for what can only be done by blocking: an agent's socket, a lock on a file.
class blocking_team {
public:
    /// False: there is no thread for it.
    bool run(std::function<void()> what, stop_flag stop) {
        const std::lock_guard lock{mutex_};
        if (stopped_) return true;
        waiting_.push_back({std::move(what), std::move(stop)});
        if (idle_ >= waiting_.size() || threads_.size() == most_threads) {
            wake_.notify_one();
            return true;
        }
        const no_signals here;
        try {
            threads_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {  // no more threads: one of those that are there takes it, or nobody does
            if (!threads_.empty()) return true;
            waiting_.pop_back();
            return false;
        }
        return true;
    }
    void stop() {
        {
            const std::lock_guard lock{mutex_};
            stopped_ = true;
            for (const auto& stop : running_) *stop = true;
        }
        wake_.notify_all();
        for (auto& t : threads_) t.join();
        waiting_.clear();
    }

private:
    struct job {
        std::function<void()> what;
        stop_flag stop;
    };
    /// Signals are for the program's own threads.
    class no_signals {
    public:
        no_signals() noexcept {
            sigset_t all;
            sigfillset(&all);
            ::pthread_sigmask(SIG_BLOCK, &all, &before_);
        }
        no_signals(const no_signals&) = delete;
        no_signals& operator=(const no_signals&) = delete;
        ~no_signals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

    private:
        sigset_t before_{};
    };

    void work() {
        std::unique_lock lock{mutex_};
        for (;;) {
            ++idle_;
            wake_.wait(lock, [this] { return stopped_ || !waiting_.empty(); });
            --idle_;
            if (stopped_) return;
            auto next = std::move(waiting_.front());
            waiting_.pop_front();
            const auto place = running_.insert(running_.end(), next.stop);
            lock.unlock();
            next.what();
            next.what = nullptr;
            lock.lock();
            running_.erase(place);
        }
    }

    static constexpr std::size_t most_threads = 8;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<job> waiting_;
    std::list<stop_flag> running_;
    std::vector<std::thread> threads_;
    std::size_t idle_ = 0;
    bool stopped_ = false;
};

/// What blocks. Each kind has threads of its own: a disk that does not answer shall hold up no login.
enum class blocking { login, files };

/// The threads of an execution context: started when needed, joined when it goes. Those of a parent are not there in its child, which has its own.
class blocking_work : public asio::execution_context::service {
public:
    using key_type = blocking_work;
    inline static asio::execution_context::id id;

    explicit blocking_work(asio::execution_context& context) : asio::execution_context::service(context) {}

    /// Jobs must end soon after their `stop` is set. They may run at the same time, in any order.
    /// False: there is no thread for it.
    bool run(blocking kind, std::function<void()> what, stop_flag stop) {
        const auto team = [this, kind] {
            const std::lock_guard lock{mutex_};
            if (!home_.is_here()) {
                home_ = {};
                teams_ = {};
            }
            auto& mine = teams_[static_cast<std::size_t>(kind)];
            if (mine == nullptr) mine = shared_at_home(new blocking_team);
            return mine;
        }();
        return team->run(std::move(what), std::move(stop));
    }

private:
    void shutdown() override {
        if (!home_.is_here()) return;
        for (const auto& team : teams_) {
            if (team != nullptr) team->stop();
        }
    }

    std::mutex mutex_;
    std::array<std::shared_ptr<blocking_team>, 2> teams_;
    home_process home_;
};

/// Runs `work(stop)` on a thread that may block, then `done(result)` on `executor`; counts as outstanding work of it until then.
///
/// Once `stop` is set, by the caller or because the execution context goes, `work` ends early and `done` is not called. Nor is it where memory has run out, or
/// threads have, which false tells: whoever waits has a deadline.
template <class Executor, class Work, class Done>
bool off_strand(blocking kind, const Executor& executor, const stop_flag& stop, Work work, Done done) {
    auto tracked = asio::prefer(executor, asio::execution::outstanding_work.tracked);
    auto job = [tracked = std::move(tracked), stop, work = std::move(work), done = std::move(done)]() mutable {
        if (*stop) return;
        auto result = work(*stop);
        if (*stop) return;
        asio::post(tracked, [done = std::move(done), result = std::move(result)]() mutable { std::move(done)(std::move(result)); });
    };
    // A std::function wants to be copied; this is called once.
    auto shared = std::make_shared<decltype(job)>(std::move(job));
    const auto call = [shared] {
        try {
            (*shared)();
        } catch (...) {  // out of memory
        }
    };
    return asio::use_service<blocking_work>(asio::query(executor, asio::execution::context)).run(kind, call, stop);
}

}  // namespace sshpool::detail
