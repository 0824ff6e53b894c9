#pragma once

#include <sshpool/detail/back_off.hpp>
#include <sshpool/detail/connection_table.hpp>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// What the texts for people say about the whole pool.
struct pool_figures {
    std::size_t size = 0, in_use = 0, idle = 0, connecting = 0, closing = 0, unpooled = 0, waiting = 0, handshakes = 0;
};

inline std::string in_seconds(instant d) {
    char text[32];
    const auto s = std::chrono::duration<double>(d).count();
    std::snprintf(text, sizeof text, s < 0.1 && s > 0 ? "%.3f s" : "%.1f s", s);
    return text;
}

inline std::string of_limit(std::size_t n, std::size_t most) { return std::to_string(n) + "/" + std::to_string(most); }

inline std::string pool_line(const pool_figures& f, const pool_params& p) {
    auto line = "pool " + of_limit(f.size, p.max_connections) + " (" + std::to_string(f.in_use) + " in use, " + std::to_string(f.connecting) + " connecting";
    if (f.idle > 0) line += ", " + std::to_string(f.idle) + " idle";
    if (f.closing > 0) line += ", " + std::to_string(f.closing) + " closing";
    line += "), " + std::to_string(f.waiting) + " waiting";
    if (f.unpooled > 0) line += ", " + std::to_string(f.unpooled) + " beside the pool";
    return line;
}

inline std::string failure_line(const failure& f) {
    std::string line;
    for (const auto& entry : errors) {
        if (f.error.code == entry.value) {
            line = entry.name;
            break;
        }
    }
    if (line.empty()) line = f.error.code.message();
    if (!f.error.phase.empty()) line += " (" + f.error.phase + ")";
    if (!f.error.text.empty()) line += ": " + f.error.text;
    return line;
}

/// Why a wait ended without a connection: everything that a person would ask next.
inline std::string wait_text(const waiter& w, const pool_figures& f, const pool_params& p, instant now) {
    const auto& key = *w.home->key;
    auto text = "waited " + in_seconds(now - w.asked) + " for a connection to " + key.name + ": " + pool_line(f, p) + ", this host " +
                of_limit(key.connections, p.max_connections_per_host) + " connections";
    if (key.last_failure) text += "; last failure: " + failure_line(*key.last_failure);
    return text;
}

/// Why a host is not tried now, and when it is: everything that a caller who was sent away would ask.
inline std::string setback_text(const target& to, const target& link, const setback& s, instant now) {
    auto text = link == to ? to.key() : to.key() + " is reached through " + link.key() + ", which";
    const auto ago = in_seconds(now - s.failed) + " ago";
    text += s.refused ? " refused this login " + ago : s.login ? " could not be logged in to " + ago : " could not be reached " + ago;
    if (s.failures > 1) text += ", the " + std::to_string(s.failures) + ". time in a row";
    text += ", and is not tried again for " + in_seconds(s.until - now) + (s.refused ? " (pool_params::auth_cooldown)" : " (pool_params::backoff_initial)");
    return text + ": " + failure_line(failure{s.cause, s.failed});
}

inline std::string limit_line(const parking& at, const pool_figures& f, const pool_params& p) {
    switch (at.why) {
        case limit::handshakes:
            return "a handshake: " + of_limit(f.handshakes, p.max_handshakes) + " under way (pool_params::max_handshakes)";
        case limit::host_handshakes: {
            const auto& host = *static_cast<const host_state*>(at.owner);
            return "a handshake with " + host.name + ": " + std::to_string(host.handshakes) + " under way (pool_params::max_handshakes_per_host)";
        }
        case limit::host_logins: {
            const auto& host = *static_cast<const host_state*>(at.owner);
            return "other first logins to " + host.name + " to end: " + std::to_string(host.unproven) +
                   " under way that might be refused, and sshd locks out who is refused too often (see its PerSourcePenalties)";
        }
        case limit::key_connections: {
            const auto& key = *static_cast<const key_state*>(at.owner);
            return "a connection to " + key.name + " to go: " + of_limit(key.connections, p.max_connections_per_host) +
                   " there (pool_params::max_connections_per_host)";
        }
        case limit::key_connects:
            return "another connect to the host to end";
        case limit::connections:
        case limit::connections_spill:
        case limit::connections_warm:
            return "a free place in the pool: " + of_limit(f.size, p.max_connections) + " taken (pool_params::max_connections)";
        case limit::none:
            break;
    }
    return {};
}

inline std::string place_of(const std::source_location& where) {
    std::string_view file{where.file_name()};
    if (const auto slash = file.find_last_of("/\\"); slash != std::string_view::npos) file.remove_prefix(slash + 1);
    return file.empty() ? std::string{"an unknown place"} : std::string{file} + ":" + std::to_string(where.line());
}

inline std::string connection_lines(const pooled_connection& c, instant now) {
    auto line = "  connection " + std::to_string(c.id) + ": ";
    switch (c.state) {
        case connection_state::planned:
            return line + "reserved, opens when the jump host is open\n";
        case connection_state::opening:
            return line + "connecting\n";
        case connection_state::closing:
            line += "closing (" + std::string{to_string(c.retired.value_or(close_reason::discarded))} + ")";
            break;
        case connection_state::open:
            line += c.leases > 0 ? "leased" : "idle";
            if (c.unpooled) {
                line += ", beside the pool";
            } else if (c.retired) {
                line += ", draining (" + std::string{to_string(*c.retired)} + ")";
            }
            if (c.probing) line += ", health check under way";
            break;
    }
    if (c.was_open) {
        line += ", open for " + in_seconds(now - c.created) + ", " + of_limit(c.leases, c.capacity) + " leases, lent " + std::to_string(c.use_count) + " times";
        if (c.leases == 0) line += ", idle for " + in_seconds(now - c.idle_since);
        if (c.expires != instant::max() && !c.retired) line += ", expires in " + in_seconds(c.expires - now);
    }
    if (c.learned_capacity != 0) line += ", the server allows " + std::to_string(c.learned_capacity);
    if (c.via != nullptr) line += ", through " + c.via->key->name + " (connection " + std::to_string(c.via->id) + ")";
    if (c.pins > 0) line += ", jump host of " + std::to_string(c.pins);
    line += '\n';
    for (const auto& slot : c.slots) {
        if (slot.lease != 0) line += "    held for " + in_seconds(now - slot.since) + " by " + place_of(slot.where) + '\n';
    }
    return line;
}

inline connection_info info_of(const pooled_connection& c, const pool_params& p) {
    using time_point = connection_info::time_point;
    const auto at = [](instant t) { return time_point{std::chrono::duration_cast<time_point::duration>(t)}; };
    connection_info info;
    info.key = c.key->name;
    info.id = c.id;
    info.identity = c.identity->name;
    info.created_at = at(c.created);
    info.last_used_at = at(c.last_used);
    info.last_heard_at = at(c.heard);
    if (c.expires != instant::max()) info.expires_at = at(c.expires);
    info.use_count = c.use_count;
    info.leases = c.leases;
    info.capacity = c.capacity;
    info.idle_timeout = p.idle_timeout;
    info.health_check_interval = p.health_check_interval;
    info.usable = c.state == connection_state::open && (!c.retired || c.unpooled);
    return info;
}

inline pool_stats stats_of(const key_counters& n) {
    pool_stats s;
    s.hits = n.hits;
    s.misses = n.misses;
    s.evictions = n.evictions;
    s.health_check_failures = n.health_check_failures;
    s.connections_created = n.created;
    s.connect_failures = n.connect_failures;
    s.connections_closed = n.closed;
    s.wait_timeouts = n.wait_timeouts;
    s.unpooled_connections = n.unpooled;
    s.evicted_before_reuse = n.evicted_before_reuse;
    s.backed_off = n.backed_off;
    s.busy_retries = n.busy_retries;
    s.long_leases = n.long_leases;
    return s;
}

/// For people: who holds what of a key, since when, what is waited for, and what failed last.
inline std::string explain_key(const key_state& key, const pool_figures& f, const pool_params& p, instant now) {
    auto text = key.name + ": " + of_limit(key.connections, p.max_connections_per_host) + " connections, " + std::to_string(key.waiting) + " waiting\n";
    for (const auto* c = key.all.front(); c != nullptr; c = key.all.after(*c)) text += connection_lines(*c, now);
    for (const auto* d = key.doors.front(); d != nullptr; d = key.doors.after(*d)) {
        if (d->waiters.empty()) continue;
        const auto& oldest = *d->waiters.front();
        text +=
            "  queue: " + std::to_string(d->waiters.size()) + " waiting, the oldest for " + in_seconds(now - oldest.asked) + " from " + place_of(oldest.where);
        if (d->parked_in != nullptr) {
            text += ", for " + limit_line(*d->parked_in, f, p);
        } else if (d->opening != nullptr) {
            text += ", for the connect under way";
        } else if (d->probing > 0) {
            text += ", for a health check";
        } else if (d->usable > 0) {
            text += ", for a lease to come back";
        }
        text += '\n';
    }
    if (key.last_failure) text += "  last failure " + in_seconds(now - key.last_failure->when) + " ago: " + failure_line(*key.last_failure) + '\n';
    const auto& n = key.counters;
    const auto lent = n.hits + n.misses;
    if (lent > 0) {
        char rate[16];
        std::snprintf(rate, sizeof rate, "%.0f %%", 100.0 * static_cast<double>(n.hits) / static_cast<double>(lent));
        text += "  hit rate " + std::string{rate} + " (" + std::to_string(n.hits) + " of " + std::to_string(lent) + "), " + std::to_string(n.created) +
                " connections opened, " + std::to_string(n.connect_failures.total()) + " connects failed\n";
    }
    return text + "  " + pool_line(f, p) + '\n';
}

}  // namespace sshpool::detail
