#pragma once

#include <sshpool/detail/outage_watch.hpp>
#include <sshpool/detail/pool_report.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sshpool::detail {

/// Which options of the server's sshd_config have to do with a failure; empty where none has. Where the server's words name them already, none is added.
inline std::string_view sshd_options(const error_info& e) noexcept {
    if (e == errc::server_busy)
        return "MaxStartups and PerSourceMaxStartups (how many may log in at once), PerSourcePenalties (whom sshd locks out for a while)";
    if (e == errc::auth_failed)
        return "AuthorizedKeysFile, AllowUsers and PermitRootLogin (who may log in), PerSourcePenalties (whom sshd locks out for a while)";
    if (e == errc::handshake_failed) return "KexAlgorithms, Ciphers, MACs and HostKeyAlgorithms (what both sides must have in common)";
    if (e.phase == "login" && (e == errc::connect_timeout || e == errc::connection_lost))
        return "LoginGraceTime (how long a login may take), UseDNS and UsePAM (what makes it slow)";
    if (e == errc::connection_lost) return "ClientAliveInterval and ClientAliveCountMax (when sshd gives up a client), ChannelTimeout";
    return {};
}

/// What the core knows of a key, told to a person: how things stand, why, who holds what, what failed last.
class explanation {
public:
    struct facts {
        const connection_table& table;
        const back_off_book& setbacks;
        const penalty_books& penalties;
        const expiring_map<busy_server>& busy;
        const outage_watch& outage;
        const pool_params& params;
        pool_figures figures;
    };

    explanation(const facts& known, instant now) : known_(known), now_(now) {}

    std::string of(std::string_view name) && {
        const auto* key = known_.table.find_key(name);
        const auto endpoint = std::string{back_off_book::endpoint_of(name)};
        tell_setbacks(name);
        tell_busy(endpoint);
        tell_penalties(endpoint);
        if (key != nullptr) tell_key(*key);
        std::string text{name};
        text += ": " + state(name, key, endpoint);
        if (key != nullptr)
            text += ", " + of_limit(key->connections, known_.params.max_connections_per_host) + " connections, " + std::to_string(key->waiting) + " waiting";
        return text + '\n' + network() + text_ + "  " + pool_line(known_.figures, known_.params) + '\n';
    }

private:
    static constexpr std::size_t most_listed = 20;

    /// Hours in hours: nobody counts seconds at night.
    static std::string lasting(instant d) {
        using namespace std::chrono;
        if (d < minutes{2}) return in_seconds(d);
        const auto both = [](auto large, const char* first, auto small, const char* second) {
            const auto rest = small.count() > 0 ? " " + std::to_string(small.count()) + second : std::string{};
            return std::to_string(large.count()) + first + rest;
        };
        if (d < hours{2}) return both(duration_cast<minutes>(d), " min", duration_cast<seconds>(d % minutes{1}), " s");
        if (d < hours{48}) return both(duration_cast<hours>(d), " h", duration_cast<minutes>(d % hours{1}), " min");
        using days = duration<std::int64_t, std::ratio<86400>>;
        return both(duration_cast<days>(d), " days", duration_cast<hours>(d % days{1}), " h");
    }
    std::string ago(instant when) const { return lasting(now_ - when) + " ago"; }
    std::string in(instant when) const { return "in " + lasting(when - now_); }
    void line(const std::string& words) { text_ += "  " + words + '\n'; }
    void further(const std::string& words) { text_ += "    " + words + '\n'; }
    void see(std::string_view options) {
        if (options.empty() || std::find(seen_.begin(), seen_.end(), options) != seen_.end()) return;
        further("see its sshd_config: " + std::string{options});
        seen_.push_back(options);
    }
    void cause(const error_info& why) {
        further(error_line(why));
        see(sshd_options(why));
        told_.push_back(&why);
    }

    std::string state(std::string_view name, const key_state* key, const std::string& endpoint) const {
        bool usable = false, host = false, login = false, refused = false;
        if (key != nullptr) {
            for (const auto* d = key->doors.front(); d != nullptr; d = key->doors.after(*d)) usable = usable || d->usable > 0;
        }
        if (usable) return "connected";
        known_.setbacks.for_each_of(name, now_, [&](const setback& s) { (s.refused ? refused : s.login ? login : host) = true; });
        if (host) return "backing off";
        if (key == nullptr) return refused ? "login refused" : login ? "cannot be logged in to" : "nothing is known of it";
        const auto* busy = known_.busy.find(endpoint, now_);
        if (key->connecting > 0) return "connecting";
        if (busy != nullptr && busy->not_before > now_) return "the server is busy";
        if (refused) return "login refused";
        if (login) return "cannot be logged in to";
        for (const auto* c = key->all.front(); c != nullptr; c = key->all.after(*c)) {
            if (c->state == connection_state::open) return "draining";
        }
        return key->connections > 0 ? "closing" : "not connected";
    }
    std::string network() const {
        if (!known_.outage.down()) return {};
        return "  the network seems to be down, it is probably us: " + std::to_string(known_.outage.hosts()) +
               " hosts could not be reached one after another, and nothing was heard from any for " + lasting(now_ - known_.outage.since()) + '\n';
    }

    void tell_setbacks(std::string_view name) {
        known_.setbacks.for_each_of(name, now_, [&](const setback& s) {
            line(setback_words(s, s.login ? " as " + s.identity : std::string{}, now_) + (s.login ? "; other credentials may try" : ""));
            cause(s.cause);
        });
    }
    void tell_busy(const std::string& endpoint) {
        const auto* busy = known_.busy.find(endpoint, now_);
        if (busy == nullptr || busy->last_drop == instant::min()) return;
        auto words = "sshd dropped a login before its banner " + ago(busy->last_drop);
        if (busy->drops > 0) {
            words += ": retry " + std::to_string(busy->drops) + " of " + std::to_string(known_.params.max_busy_retries) + " (pool_params::max_busy_retries)";
            words += busy->not_before > now_ ? " begins " + in(busy->not_before) : " may begin";
        }
        if (busy->allowed < known_.params.max_handshakes_per_host) words += ", until it recovers with " + handshakes(busy->allowed) + " at once";
        line(words);
        see(sshd_options({make_error(errc::server_busy), {}, {}, {}}));
    }
    static std::string handshakes(std::size_t n) { return std::to_string(n) + (n == 1 ? " handshake" : " handshakes"); }
    void tell_penalties(const std::string& endpoint) {
        const auto free = known_.penalties.free_at(endpoint, 0, now_);
        if (!free || *free <= now_) return;
        line("sshd counts " + lasting(known_.penalties.until(endpoint, now_) - now_) +
             " of penalties against this address and locks it out at 15 s: the next login that may be refused waits for " + lasting(*free - now_));
        see("PerSourcePenalties");
    }

    void tell_key(const key_state& key) {
        const bool several = key.doors.size() > 1;
        std::size_t listed = 0;
        for (const auto* d = key.doors.front(); d != nullptr; d = key.doors.after(*d)) tell_way(*d);
        for (const auto* c = key.all.front(); c != nullptr && ++listed <= most_listed; c = key.all.after(*c)) tell_connection(*c, several);
        if (key.learned_capacity != 0 && key.all.empty()) {
            line("the server allows a connection " + leases(key.learned_capacity) + " at once");
            see("MaxSessions");
        }
        if (key.all.size() > most_listed) line("and " + std::to_string(key.all.size() - most_listed) + " more connections");
        for (const auto* d = key.doors.front(); d != nullptr; d = key.doors.after(*d)) {
            if (!d->waiters.empty()) tell_queue(*d, several);
        }
        tell_failures(key);
        tell_figures(key);
    }
    /// What stands against its jump hosts, and that it is kept connected.
    void tell_way(const door& d) {
        for (const auto* link = d.to.jump(); link != nullptr; link = link->jump()) {
            const auto* s = known_.setbacks.against(*link, now_);
            if (s == nullptr) continue;
            line("its jump host " + link->key() + " " + setback_words(*s, s->login ? " as " + s->identity : std::string{}, now_));
            cause(s->cause);
        }
        if (d.warm == nullptr) return;
        std::string words = "kept connected";
        if (d.waiters.empty() && d.parked_in != nullptr) {
            words += ", waits for " + limit_line(*d.parked_in);
        } else if (d.waiters.empty() && d.opening == nullptr && d.timer && *d.timer > now_) {
            words += (d.usable > 0 ? ", its replacement is opened " : ", next connect ") + in(*d.timer);
        }
        line(words);
    }

    void tell_connection(const pooled_connection& c, bool several) {
        auto words = "connection " + std::to_string(c.id) + ": ";
        switch (c.state) {
            case connection_state::planned:
                words += "reserved, opens when the jump host is open";
                break;
            case connection_state::opening:
                words += "connecting for " + lasting(now_ - c.started) + (c.unpooled ? ", beside the pool (pool_params::when_full)" : "");
                break;
            case connection_state::closing:
                words += "closing (" + std::string{to_string(c.retired.value_or(close_reason::discarded))} + ")";
                break;
            case connection_state::open:
                words += c.leases > 0 ? "leased" : "idle";
                if (c.unpooled) {
                    words += ", beside the pool (pool_params::when_full)";
                } else if (c.retired) {
                    words += ", draining (" + std::string{to_string(*c.retired)} + ")";
                }
                if (c.probing) {
                    words += ", health check under way";
                } else if (c.suspect) {
                    words += ", to be checked before it is lent, for the machine slept";
                }
                break;
        }
        if (several) words += ", as " + c.identity->name;
        if (c.was_open) {
            words += ", open for " + lasting(now_ - c.created) + ", " + of_limit(c.leases, c.capacity) + " leases, lent " + std::to_string(c.use_count) +
                     (c.use_count == 1 ? " time" : " times");
            if (c.leases == 0) words += ", idle for " + lasting(now_ - c.idle_since);
            if (c.expires != instant::max() && !c.retired) words += ", expires " + in(c.expires);
        }
        if (c.via != nullptr) words += ", through " + c.via->key->name + " (connection " + std::to_string(c.via->id) + ")";
        if (c.pins > 0) words += ", jump host of " + std::to_string(c.pins);
        line(words);
        if (c.learned_capacity != 0) {
            further("the server allows it " + leases(c.learned_capacity) + " at once");
            see("MaxSessions");
        }
        tell_holders(c);
    }
    static std::string leases(std::size_t n) { return std::to_string(n) + (n == 1 ? " lease" : " leases"); }
    void tell_holders(const pooled_connection& c) {
        std::size_t listed = 0;
        for (const auto& slot : c.slots) {
            if (slot.lease == 0) continue;
            if (listed++ == most_listed) return further("and by " + std::to_string(c.leases - most_listed) + " more");
            const auto held = now_ - slot.since;
            const instant most{known_.params.max_lease_time};
            further("held for " + lasting(held) + " by " + place_of(slot.where) +
                    (most.count() > 0 && held >= most ? ": too long (pool_params::max_lease_time)" : ""));
        }
    }
    static std::string place_of(const std::source_location& where) {
        std::string_view file{where.file_name()};
        if (const auto slash = file.find_last_of("/\\"); slash != std::string_view::npos) file.remove_prefix(slash + 1);
        return file.empty() ? std::string{"an unknown place"} : std::string{file} + ":" + std::to_string(where.line());
    }

    void tell_queue(const door& d, bool several) {
        const auto& oldest = *d.waiters.front();
        auto words = "queue: " + std::to_string(d.waiters.size()) + " waiting";
        if (several) words += " as " + d.to.identity();
        words += ", the oldest for " + lasting(now_ - oldest.asked) + " (" + lasting(std::max(instant{}, oldest.deadline - now_)) + " left) from " +
                 place_of(oldest.where) + ", for ";
        if (d.parked_in != nullptr) {
            words += limit_line(*d.parked_in);
        } else if (d.opening != nullptr) {
            words += d.opening->state == connection_state::planned ? "the jump host to be open" : "the connect under way";
        } else if (d.unpooled_opening > 0) {
            words += "a connection beside the pool";
        } else if (d.probing > 0) {
            words += "a health check";
        } else if (d.usable > 0) {
            words += "a lease to come back";
        } else {
            words += d.timer ? "the next try " + in(*d.timer) : std::string{"its turn"};
        }
        line(words);
    }
    std::string limit_line(const parking& at) const {
        const auto& p = known_.params;
        switch (at.why) {
            case limit::handshakes:
                return "a handshake: " + of_limit(known_.figures.handshakes, p.max_handshakes) + " under way (pool_params::max_handshakes)";
            case limit::host_handshakes: {
                const auto& host = *static_cast<const host_state*>(at.owner);
                const auto* busy = known_.busy.find(host.name, now_);
                if (busy != nullptr && busy->not_before > now_) return "the busy server: the next try " + in(busy->not_before);
                const bool fewer = busy != nullptr && busy->allowed < p.max_handshakes_per_host;
                return "a handshake with " + host.name + ": " + of_limit(host.handshakes, fewer ? busy->allowed : p.max_handshakes_per_host) + " under way " +
                       (fewer ? "(fewer than usual, for the server was busy)" : "(pool_params::max_handshakes_per_host)");
            }
            case limit::host_logins: {
                const auto& host = *static_cast<const host_state*>(at.owner);
                return "other logins to " + host.name + " to end: " + std::to_string(host.at_risk) +
                       " under way that might be refused, and sshd locks out who is refused too often (PerSourcePenalties)";
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
                return "a free place in the pool: " + of_limit(known_.figures.size, p.max_connections) + " taken (pool_params::max_connections)";
            case limit::none:
                break;
        }
        return {};
    }

    void tell_failures(const key_state& key) {
        for (const auto& f : key.failures) {
            if (std::any_of(told_.begin(), told_.end(), [&](const error_info* e) { return *e == f.error; })) continue;
            line("failed " + (f.times > 1 ? std::to_string(f.times) + " times, last " : std::string{}) + ago(f.when));
            cause(f.error);
        }
    }
    void tell_figures(const key_state& key) {
        const auto& n = key.counters;
        const auto lent = n.hits + n.misses;
        if (lent == 0) return;
        auto words = "so far lent " + std::to_string(lent) + (lent == 1 ? " time" : " times") + ", " + std::to_string(100 * n.hits / lent) +
                     " % without a connect; connects: " + std::to_string(n.created) + " worked, " + std::to_string(n.connect_failures.total()) + " failed";
        if (key.connect_time.known()) words += "; a connect takes " + lasting(key.connect_time.value());
        if (key.hold_time.known()) words += ", a lease is held for " + lasting(key.hold_time.value());
        line(words);
    }

    const facts& known_;
    const instant now_;
    std::string text_;
    std::vector<const error_info*> told_;
    std::vector<std::string_view> seen_;
};

}  // namespace sshpool::detail
