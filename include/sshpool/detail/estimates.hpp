#pragma once

#include <chrono>
#include <cstdint>

namespace sshpool::detail {

/// A mean in which the last few measurements count most: each moves it by an eighth of the difference.
class moving_mean {
public:
    void add(std::chrono::nanoseconds d) noexcept {
        const auto x = static_cast<double>(d.count());
        mean_ = known_ ? mean_ + (x - mean_) / 8 : x;
        known_ = true;
    }
    bool known() const noexcept { return known_; }
    std::chrono::nanoseconds value() const noexcept { return std::chrono::nanoseconds{static_cast<std::chrono::nanoseconds::rep>(mean_)}; }

private:
    double mean_ = 0;
    bool known_ = false;
};

/// splitmix64: enough for jitter, and the same everywhere for one seed.
class jitter_source {
public:
    explicit jitter_source(std::uint64_t seed) noexcept : state_(seed) {}

    /// Uniform in [-1, 1].
    double draw() noexcept {
        state_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        return static_cast<double>(z >> 11) * 0x1.0p-52 - 1.0;
    }

private:
    std::uint64_t state_;
};

}  // namespace sshpool::detail
