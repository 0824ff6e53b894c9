#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace support {

/// Leases that somebody holds, and the ways in which they end.
template <class Lease>
class held_leases {
public:
    void drop_leases() { leases_.clear(); }
    void drop_leases_elsewhere() {
        std::thread{[this] { leases_.clear(); }}.join();
    }
    void discard_leases() {
        for (auto& l : leases_) l.discard();
    }
    void drop_leases_unwinding() {
        try {
            const auto dying = std::exchange(leases_, {});
            throw std::runtime_error("something else went wrong");
        } catch (const std::runtime_error&) {
        }
    }
    std::size_t live_leases() const {
        return static_cast<std::size_t>(std::count_if(leases_.begin(), leases_.end(), [](const auto& l) { return static_cast<bool>(l); }));
    }

protected:
    std::vector<Lease> leases_;
};

}  // namespace support
