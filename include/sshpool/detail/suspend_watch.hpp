#pragma once

#include <sshpool/detail/pool_actions.hpp>

#include <chrono>
#include <type_traits>
#include <utility>

#include <time.h>

namespace sshpool::detail {

/// Tells the time, and how long the machine has slept since the last look: the pool's clock stands still meanwhile, CLOCK_BOOTTIME goes on.
template <class Clock>
class suspend_watch {
public:
    struct moment {
        instant now;
        std::chrono::nanoseconds slept;  // nearly always zero
    };

    moment look() {
        const auto boot = since_boot();  // read first: whatever comes between the two readings makes the difference smaller
        const auto now = std::chrono::duration_cast<instant>(Clock::now().time_since_epoch());
        const auto asleep = boot - now;
        if (asleep - asleep_ < worth_telling) return {now, {}};
        return {now, asleep - std::exchange(asleep_, asleep)};
    }

private:
    static constexpr std::chrono::nanoseconds worth_telling = std::chrono::seconds{1};  // nobody gives a connection up for less

    /// The pool's clock, and the time that the machine slept. A clock of a test says that itself.
    static std::chrono::nanoseconds since_boot() {
        if constexpr (requires { Clock::since_boot(); }) {
            return Clock::since_boot();
#ifdef CLOCK_BOOTTIME
        } else if constexpr (std::is_same_v<Clock, std::chrono::steady_clock>) {
            timespec t{};
            ::clock_gettime(CLOCK_BOOTTIME, &t);
            return std::chrono::seconds{t.tv_sec} + std::chrono::nanoseconds{t.tv_nsec};
#endif
        } else {
            return Clock::now().time_since_epoch();
        }
    }

    std::chrono::nanoseconds asleep_ = since_boot() - Clock::now().time_since_epoch();
};

}  // namespace sshpool::detail
