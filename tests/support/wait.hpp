#pragma once

#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>

namespace support {

/// How much slower this build is than a plain one: deadlines of tests are multiplied by it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int slowness = 4;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr int slowness = 4;
#else
inline constexpr int slowness = 1;
#endif
#else
inline constexpr int slowness = 1;
#endif

/// Waits for a condition that another thread or process brings about. False when `limit` passed first.
template <class Predicate>
bool wait_until(Predicate ready, std::chrono::milliseconds limit = std::chrono::seconds{10}) {
    const auto end = std::chrono::steady_clock::now() + limit * slowness;
    while (!ready()) {
        if (std::chrono::steady_clock::now() >= end) return ready();
        std::this_thread::sleep_for(std::chrono::milliseconds{2});
    }
    return true;
}

}  // namespace support
