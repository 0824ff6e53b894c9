#pragma once

#include <sshpool/detail/pool_actions.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/basic_waitable_timer.hpp>
#include <asio/bind_executor.hpp>

#include <atomic>
#include <optional>
#include <system_error>
#include <utility>

namespace sshpool::detail {

/// The pool's one timer. It is set anew only for a deadline earlier than the one it waits for: firing too early costs a look.
template <class Clock>
class deadline_timer {
public:
    explicit deadline_timer(const asio::any_io_executor& executor) : timer_(std::in_place, executor) {}

    /// Calls `due()` on `strand` when the clock has reached `next`; without a deadline the timer rests. `due` keeps its owner alive.
    template <class Strand, class Due>
    void arm(std::optional<instant> next, const Strand& strand, Due due) {
        if (!timer_) return;
        if (covers(next)) return;
        armed_ = next.value_or(never);
        if (!next) {
            timer_->cancel();
            return;
        }
        timer_->expires_at(typename Clock::time_point{std::chrono::duration_cast<typename Clock::duration>(*next)});
        timer_->async_wait(asio::bind_executor(strand, [this, at = *next, due = std::move(due)](std::error_code ec) mutable {
            if (ec || armed_.load() != at) return;
            armed_ = never;
            due();
        }));
    }
    /// It is set for `next` or earlier, and rests when there is nothing to wait for. From any thread.
    bool covers(std::optional<instant> next) const noexcept { return next ? armed_.load() <= *next : armed_.load() == never; }
    /// The execution context is going.
    void let_go() { timer_.reset(); }

private:
    std::optional<asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, asio::any_io_executor>> timer_;
    static constexpr instant never = instant::max();
    std::atomic<instant> armed_{never};
};

}  // namespace sshpool::detail
