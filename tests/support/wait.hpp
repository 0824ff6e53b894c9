#pragma once

#include "support/sanitizers.hpp"

#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>

namespace support {

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
