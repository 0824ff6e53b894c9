#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace sshpool {

/// What the pool knows of one connection. A copy: it does not change when the connection does. Times are on the pool's clock.
struct connection_info {
    using time_point = std::chrono::steady_clock::time_point;

    std::string key;                                    ///< "user@host:port"
    std::uint64_t id = 0;                               ///< unique in its pool
    std::string identity;                               ///< who is logged in: `credentials::identity()`
    time_point created_at{};                            ///< end of the login
    time_point last_used_at{};                          ///< the last lend or return
    time_point last_heard_at{};                         ///< when bytes last came from the server, as far as the pool was told
    time_point expires_at = time_point::max();          ///< its TTL with jitter
    std::uint64_t use_count = 0;                        ///< leases so far
    std::size_t leases = 0;                             ///< leases now
    std::size_t capacity = 0;                           ///< leases it can carry
    std::chrono::milliseconds idle_timeout{};           ///< zero: no limit
    std::chrono::milliseconds health_check_interval{};  ///< zero: never probed
    bool usable = true;                                 ///< no loss, discard or invalidation so far

    bool is_expired(time_point now) const noexcept { return now >= expires_at; }
    bool is_idle(time_point now) const noexcept { return leases == 0 && idle_timeout.count() > 0 && now - last_used_at >= idle_timeout; }
    bool is_healthy(time_point now) const noexcept { return usable && (health_check_interval.count() == 0 || now - last_heard_at < health_check_interval); }
};

}  // namespace sshpool
