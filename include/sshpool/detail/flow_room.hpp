#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace sshpool::detail {

/// How many bytes may be under way at once: what fills the link, and not much more, because everything else on the connection waits behind them.
///
/// By the waiting itself, as TCP Vegas does: replies may take twice as long as the quickest ever did, and `patience` more. After every round the room is
/// changed by what they took beside that, at most by half or to the double. Time is an argument.
class flow_room {
public:
    using time = std::chrono::steady_clock::time_point;
    using duration = std::chrono::steady_clock::duration;

    static constexpr std::size_t least = std::size_t{256} << 10;
    static constexpr std::size_t most = std::size_t{4} << 20;
    static constexpr std::chrono::milliseconds patience{3};

    std::size_t bytes() const noexcept { return room_; }

    /// A reply to a request of so many bytes has come. `full`: the room was used up.
    void answered(std::size_t bytes, duration waited, bool full) noexcept {
        quickest_ = std::min(quickest_, waited);
        waited_ += waited;
        ++replies_;
        was_full_ = was_full_ || full;
        round_ += bytes;
        if (round_ < room_) return;
        const auto allowed = 2 * quickest_ + patience;
        const auto share =
            std::clamp(static_cast<double>(allowed.count()) * static_cast<double>(replies_) / static_cast<double>(waited_.count() + 1), 0.5, 2.0);
        if (share < 1.0 || was_full_) room_ = std::clamp(static_cast<std::size_t>(static_cast<double>(room_) * share), least, most);
        round_ = 0;
        waited_ = {};
        replies_ = 0;
        was_full_ = false;
    }

private:
    std::size_t room_ = least;
    std::size_t round_ = 0;  // bytes answered in this round, which is over with `room_` of them
    duration quickest_ = duration::max() / 4;
    duration waited_{};  // by its replies, together
    std::int64_t replies_ = 0;
    bool was_full_ = false;
};

}  // namespace sshpool::detail
