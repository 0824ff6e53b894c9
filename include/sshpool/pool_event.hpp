#pragma once

#include <sshpool/error.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <source_location>
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

/// How long each part of a connect took. A part that was not done is zero: also that in which a connect failed, which took the rest of its time.
struct connect_phases {
    std::chrono::nanoseconds resolve{};
    std::chrono::nanoseconds tcp{};
    std::chrono::nanoseconds key_exchange{};
    std::chrono::nanoseconds login{};

    std::chrono::nanoseconds total() const noexcept { return resolve + tcp + key_exchange + login; }
    friend bool operator==(const connect_phases&, const connect_phases&) = default;
};

/// A place in the host program's code: who asked for a connection.
class call_site : public std::source_location {
public:
    constexpr call_site() noexcept = default;
    constexpr call_site(const std::source_location& where) noexcept : std::source_location(where) {}  // NOLINT(google-explicit-constructor)

    friend bool operator==(const call_site& a, const call_site& b) noexcept {
        return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
    }
};

/// What a pool_event tells of. In brackets the fields that are filled beside `kind`, `key` and `error`.
enum class event_kind {
    connected,        ///< a connection was opened (`connection_id`, `identity`, `phases`)
    connect_failed,   ///< (`connection_id`, `identity`, `phases`)
    closed,           ///< a connection left the pool (`connection_id`, `reason`)
    draining,         ///< a connection is lent no more, but leases on it go on (`connection_id`, `reason`)
    probe_failed,     ///< a health check failed (`connection_id`)
    limit_learned,    ///< the server allows fewer channels than asked for (`connection_id`, `count`)
    unpooled,         ///< a connection beside the pool was opened: `full_policy::open_unpooled` (`connection_id`)
    acquire_timeout,  ///< a caller's wait ended without a connection
    server_busy,      ///< sshd dropped a login before its banner: it is tried again (`connection_id`, `count`: which retry, `duration`: after what pause)
    backing_off,      ///< a host, or one identity there, is not tried for a while (`identity`, `duration`, `count`: failures in a row)
    network_down,     ///< most hosts fail at the same time: it is probably this machine's network. Once, until `network_up` (`count`: hosts that fail)
    network_up,       ///< after `network_down`: something was heard again (`duration`: how long it was down)
    lease_too_long,   ///< a lease is held for longer than `max_lease_time` (`connection_id`, `duration`, `where`: who asked for it)
    suspended,        ///< the machine slept: every idle connection is checked before it is lent (`duration`)
};
inline constexpr std::size_t event_kinds = 14;

constexpr std::string_view to_string(event_kind k) noexcept {
    constexpr std::array<std::string_view, event_kinds> names{"connected",     "connect_failed", "closed",          "draining",    "probe_failed",
                                                              "limit_learned", "unpooled",       "acquire_timeout", "server_busy", "backing_off",
                                                              "network_down",  "network_up",     "lease_too_long",  "suspended"};
    return names[static_cast<std::size_t>(k)];
}

/// Something that happened in a pool, for logs and monitoring. Holds no secret.
struct pool_event {
    event_kind kind{};
    std::string key;                      ///< "user@host:port"; empty for `network_down`, `network_up` and `suspended`
    std::uint64_t connection_id = 0;      ///< 0 where no connection is concerned
    std::optional<close_reason> reason;   ///< of `closed` and `draining`
    error_info error;                     ///< empty where nothing failed
    connect_phases phases;                ///< how long each part of the connect took
    std::size_t count = 0;                ///< what it counts depends on the kind
    std::string identity;                 ///< who logs in: `credentials::identity()`
    std::chrono::nanoseconds duration{};  ///< what it measures depends on the kind
    call_site where;                      ///< of `lease_too_long`

    friend bool operator==(const pool_event&, const pool_event&) = default;
};

}  // namespace sshpool
