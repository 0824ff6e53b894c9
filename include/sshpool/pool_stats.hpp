#pragma once

#include <sshpool/error.hpp>
#include <sshpool/pool_event.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sshpool {

/// Counters indexed by an enum.
template <class Enum, std::size_t Size>
class counter_by {
public:
    std::uint64_t& operator[](Enum e) noexcept { return counts_[static_cast<std::size_t>(e)]; }
    std::uint64_t operator[](Enum e) const noexcept { return counts_[static_cast<std::size_t>(e)]; }
    std::uint64_t total() const noexcept { return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0}); }
    friend bool operator==(const counter_by&, const counter_by&) = default;

private:
    std::array<std::uint64_t, Size> counts_{};
};

/// How often durations fell into each bucket: 1-2-5 steps from 100 µs to 50 s, then everything longer.
class time_histogram {
public:
    static constexpr std::array<std::chrono::microseconds::rep, 18> bounds_us{100,       200,       500,       1'000,      2'000,      5'000,
                                                                              10'000,    20'000,    50'000,    100'000,    200'000,    500'000,
                                                                              1'000'000, 2'000'000, 5'000'000, 10'000'000, 20'000'000, 50'000'000};

    void record(std::chrono::nanoseconds d) noexcept {
        std::size_t i = 0;
        while (i < bounds_us.size() && d > std::chrono::microseconds{bounds_us[i]}) ++i;
        ++counts_[i];
        sum_ += d;
    }
    /// Durations at most `bounds_us[i]` and above the bound before; the last one counts what is longer than all bounds.
    const std::array<std::uint64_t, bounds_us.size() + 1>& counts() const noexcept { return counts_; }
    std::uint64_t count() const noexcept { return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0}); }
    std::chrono::nanoseconds sum() const noexcept { return sum_; }

private:
    std::array<std::uint64_t, bounds_us.size() + 1> counts_{};
    std::chrono::nanoseconds sum_{};
};

/// A pool's figures at one moment. Counters count since the pool was made; the others are what is there now.
struct pool_stats {
    std::uint64_t hits = 0;                   ///< lent without waiting for a connect
    std::uint64_t misses = 0;                 ///< lent after waiting for a connect
    std::uint64_t evictions = 0;              ///< closed by LRU to make room
    std::uint64_t health_check_failures = 0;  ///< probes that failed
    std::size_t pool_size = 0;                ///< connecting + open + closing: what `max_connections` bounds
    std::size_t in_use = 0;                   ///< open connections with at least one lease
    std::size_t idle = 0;                     ///< open connections without a lease
    std::size_t connecting = 0;               ///< their connects are under way, or wait for a jump host
    std::size_t waiting = 0;                  ///< callers in the queue
    std::uint64_t connections_created = 0;
    counter_by<errc, detail::errors.size() + 1> connect_failures;  ///< by cause
    counter_by<close_reason, close_reasons> connections_closed;    ///< by reason
    std::uint64_t wait_timeouts = 0;                               ///< callers who got `errc::acquire_timeout`
    std::uint64_t unpooled_connections = 0;                        ///< opened beside the pool
    std::uint64_t evicted_before_reuse = 0;                        ///< evicted by LRU after a single lease: the pool is too small for its hosts
    std::uint64_t backed_off = 0;                                  ///< callers who got `errc::host_backing_off`
    std::uint64_t busy_retries = 0;                                ///< logins tried again because sshd had dropped them before its banner
    std::uint64_t long_leases = 0;                                 ///< leases held for longer than `max_lease_time`
    time_histogram acquire_wait;                                   ///< from asking to being lent a connection
    time_histogram connect_tcp;                                    ///< until the TCP connection stood, without resolving the name
    time_histogram connect_key_exchange;                           ///< from there until the keys were exchanged
    time_histogram connect_login;                                  ///< from there until the first channel was open
    time_histogram channel_open;                                   ///< a command's wait for its channel; a spare one costs nothing
    std::uint64_t spare_hits = 0;                                  ///< commands that found a spare channel: one round trip instead of two

    /// hits / (hits + misses); 0 when nothing was lent yet.
    double hit_rate() const noexcept {
        const auto all = hits + misses;
        return all == 0 ? 0.0 : static_cast<double>(hits) / static_cast<double>(all);
    }
};

/// A pool's figures and those of its busiest hosts at one moment. A host's figures are without the time histograms and `spare_hits`.
struct pool_snapshot {
    pool_stats total;
    std::vector<std::pair<std::string, pool_stats>> hosts;  ///< by "user@host:port"; the one that was lent most often first
};

/// Reads a pool from anywhere: any thread, any time, also after the pool has gone (nothing then). Takes the number of hosts wanted.
using pool_watcher = std::function<std::optional<pool_snapshot>(std::size_t hosts)>;

}  // namespace sshpool
