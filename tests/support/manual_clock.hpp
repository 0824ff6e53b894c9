#pragma once

#include <asio/wait_traits.hpp>

#include <atomic>
#include <chrono>

namespace sshpool::test {

/// A clock that moves when a test says so, on a machine that sleeps when a test says so.
struct manual_clock {
    using duration = std::chrono::steady_clock::duration;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<manual_clock>;
    static constexpr bool is_steady = true;

    static time_point now() noexcept { return time_point{duration{current.load()}}; }
    static void advance(duration by) noexcept { current += by.count(); }

    /// As CLOCK_BOOTTIME: goes on while the machine sleeps.
    static duration since_boot() noexcept { return duration{current.load() + asleep.load()}; }
    static void sleep(duration by) noexcept { asleep += by.count(); }

    inline static std::atomic<rep> current{duration{std::chrono::hours{1}}.count()};
    inline static std::atomic<rep> asleep{0};
};

}  // namespace sshpool::test

/// Timers over the manual clock look at it at every poll of the io_context.
template <>
struct asio::wait_traits<sshpool::test::manual_clock> {
    using clock = sshpool::test::manual_clock;
    static clock::duration to_wait_duration(const clock::duration&) { return {}; }
    static clock::duration to_wait_duration(const clock::time_point&) { return {}; }
};
