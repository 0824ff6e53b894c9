#pragma once

#include <sshpool/error.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sshpool {

/// Why a connection left the pool.
enum class close_reason { lru, ttl, idle, unhealthy, lost, invalidated, discarded, shutdown };
inline constexpr std::size_t close_reasons = 8;

constexpr std::string_view to_string(close_reason r) noexcept {
    constexpr std::array<std::string_view, close_reasons> names{"lru", "ttl", "idle", "unhealthy", "lost", "invalidated", "discarded", "shutdown"};
    return names[static_cast<std::size_t>(r)];
}

/// How long each part of a connect took. A part that was not reached is zero.
struct connect_phases {
    std::chrono::nanoseconds resolve{};
    std::chrono::nanoseconds tcp{};
    std::chrono::nanoseconds key_exchange{};
    std::chrono::nanoseconds login{};

    std::chrono::nanoseconds total() const noexcept { return resolve + tcp + key_exchange + login; }
    friend bool operator==(const connect_phases&, const connect_phases&) = default;
};

/// What a pool_event tells of.
enum class event_kind {
    connected,        ///< a connection was opened: `phases` tells how long it took
    connect_failed,   ///< `error` tells why
    closed,           ///< a connection left the pool: `reason`, and `error` where there was one
    draining,         ///< a connection is lent no more, but leases on it go on: `reason`
    probe_failed,     ///< a health check failed: `error`
    limit_learned,    ///< the server allows fewer channels than asked for: `count`
    unpooled,         ///< a connection beside the pool was opened (`full_policy::open_unpooled`)
    acquire_timeout,  ///< a caller's wait ended without a connection: `error`
};

constexpr std::string_view to_string(event_kind k) noexcept {
    constexpr std::array<std::string_view, 8> names{"connected",    "connect_failed", "closed",   "draining",
                                                    "probe_failed", "limit_learned",  "unpooled", "acquire_timeout"};
    return names[static_cast<std::size_t>(k)];
}

/// Something that happened in a pool, for logs and monitoring. Holds no secret.
struct pool_event {
    event_kind kind{};
    std::string key;                     ///< "user@host:port"
    std::uint64_t connection_id = 0;     ///< 0 where no connection is concerned
    std::optional<close_reason> reason;  ///< of `closed` and `draining`
    error_info error;                    ///< empty where nothing failed
    connect_phases phases;               ///< of `connected` and `connect_failed`
    std::size_t count = 0;               ///< of `limit_learned`

    friend bool operator==(const pool_event&, const pool_event&) = default;
};

}  // namespace sshpool
