#pragma once

#include <sshpool/pool_event.hpp>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>

namespace sshpool {

/// What a caller gets when a connection would have to be opened for it, `max_connections` is reached, and no connection was idle for long enough to be
/// closed for it (as long as it took to open; under `fail` however short).
enum class full_policy {
    wait,           ///< its place in the queue
    open_unpooled,  ///< a connection of its own, closed after use, within `max_unpooled`; past that it waits
    fail,           ///< `errc::pool_exhausted` at once
};

/// What a caller gets who asks for a host that failed a moment ago, while no connection to it can be lent.
enum class backing_off_policy {
    fail,  ///< `errc::host_backing_off` at once, with the cause
    wait,  ///< its place in the queue until the next try, if its deadline allows; otherwise the same error at once
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
    std::size_t max_handshakes_per_host = 4;                  ///< at once, per host:port, at most two that may be refused; sshd's MaxStartups drops from 10 on
    std::chrono::milliseconds acquire_timeout{30'000};        ///< how long a caller waits for a connection
    std::chrono::milliseconds connect_timeout{15'000};        ///< TCP + key exchange + login, as one deadline
    std::chrono::milliseconds probe_timeout{5'000};           ///< how long a health check may take
    full_policy when_full = full_policy::wait;
    std::size_t max_unpooled = 16;                ///< beside `max_connections`, under the same handshake limits
    std::chrono::milliseconds reap_grace{2'000};  ///< a closed channel unconfirmed for longer: no new leases on its connection
    /// Told what happens, one event at a time and in order, by the threads that run the pool's executor, outside its strand: it may call the pool. What it
    /// throws comes out of the context's `run()`. Empty: nobody is told.
    std::function<void(const pool_event&)> on_event{};

    /// How often a login that sshd dropped before its banner is tried again, at growing pauses, before callers get `errc::server_busy`. A login
    /// that succeeds there starts the count anew. sshd drops 30 % at first (MaxStartups 10:30:100): three retries bring 99 of 100 through.
    std::size_t max_busy_retries = 3;
    /// The pause after a host's first failed connect, and between retries of a busy one. Every pause is shortened by a random part of up to a fifth.
    /// Short, for most failures are over at once; raise it where a failed connect costs others something.
    std::chrono::milliseconds backoff_initial{250};
    double backoff_factor = 2.0;                    ///< how much longer each further pause is; between gRPC's 1.6 (its connection-backoff.md) and TCP's 2
    std::chrono::milliseconds backoff_max{30'000};  ///< the longest pause: how late, at worst, the pool sees that a host is back
    /// How long a refused login is not tried again at that host with the same credentials; twice as long (`backoff_factor`) after each further refusal,
    /// up to ten minutes. Zero: only as any failure. OpenSSH ≥ 9.8 counts 5 s for a refusal and locks the whole address out from 15 s on
    /// (PerSourcePenalties): at 30 s six such pools fit behind one address. Shorter only where the servers are older.
    std::chrono::milliseconds auth_cooldown{30'000};
    backing_off_policy when_backing_off = backing_off_policy::fail;
    /// A lease held for longer is told of by `event_kind::lease_too_long`, once, with the place in the code that asked for it; it is not taken away.
    /// Zero: off. Set it to what your longest command may take, to find leases that were forgotten.
    std::chrono::milliseconds max_lease_time{0};
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
    count("max_busy_retries", p.max_busy_retries, 0);
    duration("backoff_initial", p.backoff_initial, 1ms);
    duration("backoff_max", p.backoff_max, 1ms);
    duration("auth_cooldown", p.auth_cooldown, 0ms);
    duration("max_lease_time", p.max_lease_time, 0ms);
    if (p.backoff_max < p.backoff_initial) fail("backoff_max", "must be at least backoff_initial");
    if (!(p.backoff_factor >= 1.0 && p.backoff_factor <= 100.0)) fail("backoff_factor", "must be at least 1 and at most 100");
    if (!(p.ttl_jitter >= 0.0 && p.ttl_jitter < 1.0)) fail("ttl_jitter", "must be at least 0 and less than 1");
    if (p.when_full != full_policy::wait && p.when_full != full_policy::open_unpooled && p.when_full != full_policy::fail)
        fail("when_full", "is no full_policy");
    if (p.when_backing_off != backing_off_policy::fail && p.when_backing_off != backing_off_policy::wait) fail("when_backing_off", "is no backing_off_policy");
}

}  // namespace detail
}  // namespace sshpool
