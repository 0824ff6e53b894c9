#pragma once

#include <sshpool/pool_event.hpp>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>

namespace sshpool {

/// What a caller gets when a connection would have to be opened for it and `max_connections` is reached.
enum class full_policy {
    wait,           ///< its place in the queue
    open_unpooled,  ///< a connection of its own, closed after use, within `max_unpooled`; past that it waits
    fail,           ///< `errc::pool_exhausted` at once
};

/// Everything that can be set about a pool. Durations of zero switch a limit off where the field says so.
struct pool_params {
    std::size_t max_connections = 50;                         ///< connecting + open + closing: a hard bound
    std::chrono::milliseconds connection_ttl{300'000};        ///< from the handshake, ±`ttl_jitter`; zero: no limit
    double ttl_jitter = 0.1;                                  ///< a part of the TTL, 0 ≤ jitter < 1
    std::chrono::milliseconds idle_timeout{60'000};           ///< from the release of the last lease; zero: no limit
    std::chrono::milliseconds health_check_interval{30'000};  ///< silent for longer: probed before it is lent; zero: never probed
    std::size_t max_connections_per_host = 2;                 ///< per user@host:port, whatever the identities; draining and closing ones count
    std::size_t leases_per_connection = 8;                    ///< 1: exclusive leases. sshd's MaxSessions is 10
    std::size_t spare_channels = 1;                           ///< channels opened ahead; 0: none, and a probe is a channel-open
    std::size_t max_handshakes = 32;                          ///< at once, in total
    std::size_t max_handshakes_per_host = 4;                  ///< at once, per host:port; sshd's MaxStartups starts dropping at 10
    std::chrono::milliseconds acquire_timeout{30'000};        ///< how long a caller waits for a connection
    std::chrono::milliseconds connect_timeout{15'000};        ///< TCP + key exchange + login, as one deadline
    std::chrono::milliseconds probe_timeout{5'000};           ///< how long a health check may take
    full_policy when_full = full_policy::wait;
    std::size_t max_unpooled = 16;                    ///< beside `max_connections`, under the same handshake limits
    std::chrono::milliseconds reap_grace{2'000};      ///< a closed channel unconfirmed for longer: no new leases on its connection
    std::function<void(const pool_event&)> on_event;  ///< one at a time, in order, outside the strand
};

namespace detail {

/// Throws `std::invalid_argument` that names the field and says what is allowed. Nothing is corrected silently.
inline void validate(const pool_params& p) {
    using namespace std::chrono;
    const auto fail = [](const char* field, const std::string& why) { throw std::invalid_argument(std::string{"pool_params::"} + field + " " + why); };
    constexpr std::size_t most = 10'000'000;            // more is a negative number that was converted
    constexpr milliseconds longest = hours{24 * 3650};  // keeps "now + duration" far from overflow
    const auto count = [&](const char* field, std::size_t value, std::size_t least) {
        if (value < least) fail(field, "must be at least " + std::to_string(least));
        if (value > most) fail(field, "is " + std::to_string(value) + ": more than " + std::to_string(most) + " (a negative number?)");
    };
    const auto duration = [&](const char* field, milliseconds value, milliseconds least) {
        if (value < least)
            fail(field, "is " + std::to_string(value.count()) + " ms: it must be " + (least.count() == 0 ? "zero (no limit) or positive" : "positive"));
        if (value > longest) fail(field, "is longer than ten years");
    };
    count("max_connections", p.max_connections, 1);
    count("max_connections_per_host", p.max_connections_per_host, 1);
    count("leases_per_connection", p.leases_per_connection, 1);
    count("spare_channels", p.spare_channels, 0);
    count("max_handshakes", p.max_handshakes, 1);
    count("max_handshakes_per_host", p.max_handshakes_per_host, 1);
    count("max_unpooled", p.max_unpooled, 0);
    duration("connection_ttl", p.connection_ttl, 0ms);
    duration("idle_timeout", p.idle_timeout, 0ms);
    duration("health_check_interval", p.health_check_interval, 0ms);
    duration("acquire_timeout", p.acquire_timeout, 1ms);
    duration("connect_timeout", p.connect_timeout, 1ms);
    duration("probe_timeout", p.probe_timeout, 1ms);
    duration("reap_grace", p.reap_grace, 0ms);
    if (!(p.ttl_jitter >= 0.0 && p.ttl_jitter < 1.0)) fail("ttl_jitter", "must be at least 0 and less than 1");
    if (p.when_full != full_policy::wait && p.when_full != full_policy::open_unpooled && p.when_full != full_policy::fail)
        fail("when_full", "is no full_policy");
}

}  // namespace detail
}  // namespace sshpool
