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

inline std::string error_line(const error_info& e) {
    std::string line;
    for (const auto& entry : errors) {
        if (e.code == entry.value) {
            line = entry.name;
            break;
        }
    }
    if (line.empty()) line = e.code.message();
    if (!e.phase.empty()) line += " (" + e.phase + ")";
    if (!e.text.empty()) line += ": " + e.text;
    return line;
}

/// Why a wait ended without a connection: everything that a person would ask next.
inline std::string wait_text(const waiter& w, const pool_figures& f, const pool_params& p, instant now) {
    const auto& key = *w.home->key;
    auto text = "waited " + in_seconds(now - w.asked) + " for a connection to " + key.name + ": " + pool_line(f, p) + ", this host " +
                of_limit(key.connections, p.max_connections_per_host) + " connections";
    if (const auto* last = key.failures.last()) text += "; last failure: " + error_line(last->error);
    return text;
}

/// What stands against a connect and until when; `as_whom` follows where that counts.
inline std::string setback_words(const setback& s, const std::string& as_whom, instant now) {
    auto text = (s.refused ? "refused this login" : s.login ? "could not be logged in to" : "could not be reached") + as_whom;
    text += " " + in_seconds(now - s.failed) + " ago";
    if (s.failures > 1) text += ", " + std::to_string(s.failures) + " times in a row";
    return text + ", and is not tried again for " + in_seconds(s.until - now) +
           (s.refused ? " (pool_params::auth_cooldown)" : " (pool_params::backoff_initial)");
}

/// Why a host is not tried now, and when it is: everything that a caller who was sent away would ask.
inline std::string setback_text(const target& to, const target& link, const setback& s, instant now) {
    const auto who = link == to ? to.key() : to.key() + " is reached through " + link.key() + ", which";
    return who + " " + setback_words(s, {}, now) + ": " + error_line(s.cause);
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

}  // namespace sshpool::detail
