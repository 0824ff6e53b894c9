#pragma once

#include "core/reference_trouble.hpp"

#include <sshpool/detail/pool_core.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace core_test {

using namespace sshpool;
using namespace sshpool::detail;

/// A connection as seen from outside the core: from its actions and the answers to them.
struct seen_connection {
    connection_id id = 0;
    target to;
    connection_id via = 0;
    enum { opening, open, closing, gone } state = opening;
    bool answered = false;  // its open was: no handshake any more
    bool probing = false;
    bool unpooled = false;
    bool retired = false;
    bool suspect = false;  // the machine slept since it was last heard of
    bool at_risk = false;  // its login may be refused
    instant started{};
    std::map<lease_id, instant> leases{};
    std::set<lease_id> long_leases{};  // that were told of
    instant probed_at{};
    std::size_t capacity = 0;
    std::uint64_t uses = 0;
    instant created{}, took{}, heard{}, idle_since{}, expires = instant::max();
    std::uint64_t last_use = 0;
};

struct seen_waiter {
    waiter_id id = 0;
    target to;
    instant asked{}, deadline{};
    asking how = asking::by_policy;
    int answers = 0;
    std::string answer;
};

/// A slow and simple pool on paper. It follows what the core does and says what is wrong with it; it scans everything after every event
/// and shares no code with the core.
class reference_pool {
public:
    explicit reference_pool(const pool_params& p) : params(p), trouble(params) {
        connections.reserve(10'000);  // references into it stay good
        waiters.reserve(10'000);
    }

    pool_params params;
    reference_trouble trouble;
    std::map<std::string, target> warm;        // kept connected
    std::map<std::string, instant> last_gone;  // a connection of the key closed
    std::uint64_t backed_off = 0, busy_retries = 0, long_leases = 0;
    std::vector<seen_connection> connections;    // all that ever were
    std::map<std::string, std::size_t> learned;  // by key: leases that its server allows a connection
    std::vector<seen_waiter> waiters;            // all that ever asked
    instant now{};
    bool closed = false, forced = false;
    int drained = 0;
    std::uint64_t grants = 0, created = 0, closes = 0, failures = 0, timeouts = 0, evictions = 0, probe_failures = 0;
    std::function<bool(const target&)> pinned_unseen;  // may a connection be reserved through it that cannot be seen yet?
    std::string wrong;                                 // the first thing that was

    void blame(const std::string& what) {
        if (wrong.empty()) wrong = what;
    }
    bool is_warm(const target& to) const {
        const auto it = warm.find(to.key());
        return it != warm.end() && it->second == to;
    }
    /// How long before its expiry a connection of such a host is replaced.
    instant warm_lead() const { return std::min(instant{params.connect_timeout}, instant{params.connection_ttl} / 4); }
    /// Something on the way to it failed a moment ago.
    bool is_held_back(const target& to) const {
        for (const auto* link = &to; link != nullptr; link = link->jump()) {
            if (trouble.until(*link) > now) return true;
        }
        return false;
    }

    seen_connection* find(connection_id id) {
        for (auto& c : connections) {
            if (c.id == id && c.state != seen_connection::gone) return &c;
        }
        return nullptr;
    }
    const seen_connection* find(connection_id id) const { return const_cast<reference_pool*>(this)->find(id); }
    seen_waiter* find_waiter(waiter_id id) {
        for (auto& w : waiters) {
            if (w.id == id) return &w;
        }
        return nullptr;
    }
    bool waiting(const seen_waiter& w) const { return w.answers == 0; }
    std::size_t pins(const seen_connection& c) const {
        return count([&](const auto& o) { return o.via == c.id; });
    }
    template <class Which>
    std::size_t count(Which which) const {
        std::size_t n = 0;
        for (const auto& c : connections) n += c.state != seen_connection::gone && which(c) ? 1 : 0;
        return n;
    }
    bool usable(const seen_connection& c) const { return c.state == seen_connection::open && !c.retired && !c.unpooled && now < c.expires; }
    bool is_logged_in(const target& to) const {
        return count([&](const auto& c) { return c.to.key() == to.key() && usable(c) && c.to.credential_digest() == to.credential_digest(); }) > 0;
    }
    bool fresh(const seen_connection& c) const { return !c.suspect && still_heard(c); }
    bool still_heard(const seen_connection& c) const { return params.health_check_interval.count() == 0 || now - c.heard < params.health_check_interval; }
    bool lendable(const seen_connection& c) const { return usable(c) && !c.probing && fresh(c) && c.leases.size() < c.capacity; }
    bool has_waiters(const target& to) const {
        return std::any_of(waiters.begin(), waiters.end(), [&](const auto& w) { return waiting(w) && w.to == to; });
    }
    const seen_waiter* oldest_of(const target& to) const {
        for (const auto& w : waiters) {
            if (waiting(w) && w.to == to) return &w;
        }
        return nullptr;
    }

    // --- what the world tells the core

    void retire(seen_connection& c) {
        if (c.state == seen_connection::open) c.retired = true;
    }
    /// Invalidation reaches what runs through a connection, too.
    void retire_with_dependents(connection_id id) {
        auto* c = find(id);
        if (c == nullptr || c->state != seen_connection::open) return;
        c->retired = true;
        for (std::size_t i = 0; i < connections.size(); ++i) {
            if (connections[i].state != seen_connection::gone && connections[i].via == id) retire_with_dependents(connections[i].id);
        }
    }

    // --- what the core does

    void apply(const actions& list) {
        for (const auto& a : list) {
            std::visit([this](const auto& one) { on(one); }, a);
        }
    }

    void on(const act::open& a) {
        if (closed) blame("opens after shutdown");
        if (find(a.connection) != nullptr) blame("uses a connection id twice");
        for (const auto& c : connections) {
            const bool to_replace = is_warm(a.to) && c.expires != instant::max() && now >= c.expires - warm_lead();
            if (c.to == a.to && lendable(c) && !to_replace) blame("opens " + a.to.key() + " although one can be lent");
        }
        if (params.when_full != full_policy::open_unpooled && count([&](const auto& c) { return c.to == a.to && c.state == seen_connection::opening; }) > 0)
            blame("two connects of one door at once");
        if ((a.to.jump() != nullptr) != (a.via != 0)) blame("a jump host is missing, or there is one too many");
        if (a.via != 0) {
            const auto* via = find(a.via);
            if (via == nullptr || !usable(*via) || via->probing || !(via->to == *a.to.jump())) blame("opens through a connection that will not do");
        }
        if (trouble.until(a.to) > now) blame("tries " + a.to.key() + " although it is backing off");
        if (trouble.server_of(a.to, now).busy_until > now) blame("tries a busy server within the pause");
        const auto here = count([&](const auto& c) { return c.to.endpoint() == a.to.endpoint() && c.state != seen_connection::open && !c.answered; });
        if (here >= trouble.server_of(a.to, now).allowed) blame("begins more handshakes than a busy server takes");
        seen_connection c{a.connection, a.to, a.via};
        c.started = now;
        c.at_risk = !is_logged_in(a.to);
        const auto others = static_cast<std::int64_t>(count([&](const auto& o) { return o.to.endpoint() == a.to.endpoint() && o.at_risk && !o.answered; }));
        const auto risk = trouble.server_of(a.to, now).punished_until - now + std::chrono::seconds{5} * (others + 1);
        if (c.at_risk && risk > trouble.most_risk(a.to)) blame("risks a refusal too many");
        connections.push_back(std::move(c));
    }
    void on(const act::grant& a) {
        auto* c = find(a.connection);
        auto* w = find_waiter(a.waiter);
        if (closed) blame("lends after shutdown");
        if (w == nullptr || !waiting(*w)) return blame("answers a waiter twice, or one that never asked");
        ++w->answers;
        w->answer = "granted";
        ++grants;
        if (c == nullptr || c->state != seen_connection::open) return blame("lends a connection that is not open");
        if (!(c->to.key() == w->to.key())) blame("lends a connection to another host");
        if (c->to.match() != w->to.match()) blame("lends a connection of another identity, policy or jump");
        if (now >= c->expires) blame("lends an expired connection");
        if (c->retired && !c->unpooled) blame("lends a connection that was discarded, invalidated or drained");
        if (c->probing) blame("lends a connection while it is probed");
        if (!fresh(*c)) blame("lends a connection that was silent for too long without a probe");
        if (c->leases.size() >= c->capacity) blame("lends more leases than the connection carries");
        if (c->unpooled && c->uses > 0) blame("lends an unpooled connection twice");
        for (const auto& other : waiters) {
            if (waiting(other) && other.to == w->to && other.id < w->id) blame("a younger caller overtakes an older one");
        }
        for (const auto& other : connections) {
            if (c->unpooled || &other == c || !(other.to == c->to) || !lendable(other)) continue;
            if (other.leases.size() < c->leases.size()) blame("does not lend the connection with the fewest leases");
            if (other.leases.size() == c->leases.size() && other.last_use > c->last_use) blame("does not lend the connection used last");
        }
        if (!lease_ids_.insert(a.lease).second) blame("uses a lease id twice");
        c->leases[a.lease] = now;
        ++c->uses;
        c->last_use = ++use_;
    }
    void on(const act::fail& a) {
        auto* w = find_waiter(a.waiter);
        if (w == nullptr || !waiting(*w)) return blame("fails a waiter twice, or one that never asked");
        ++w->answers;
        const auto& e = a.error;
        if (!e.code || e.key != w->to.key() || e.phase.empty() || e.text.empty()) blame("an error says too little: " + e.text);
        w->answer = e.code.message();
        if (e.code == errc::acquire_timeout) {
            ++timeouts;
            if (now < w->deadline) blame("a wait ends before its deadline");
        } else if (now >= w->deadline && w->how == asking::by_policy && w->asked < now && e.code != errc::pool_closed) {
            blame("a wait goes on past its deadline");
        }
        if (e.code == errc::pool_closed && !closed) blame("says closed but is not");
        if (e.code == errc::pool_exhausted && params.when_full != full_policy::fail && w->how == asking::by_policy && w->to.jumps() < params.max_connections &&
            (w->to.jumps() == 0 || params.max_connections_per_host > 1))
            blame("gives up on a caller who would have waited");
        if (e.code == errc::host_backing_off) {
            ++backed_off;
            if (!is_held_back(w->to)) blame("sends a caller away from a host that is not backing off");
            if (params.when_backing_off == backing_off_policy::wait) {
                auto until = instant::min();
                for (const auto* link = &w->to; link != nullptr; link = link->jump()) until = std::max(until, trouble.until(*link));
                if (until < w->deadline) blame("sends a caller away who would have waited for the next try");
            }
            if (count([&](const auto& c) { return c.to == w->to && usable(c); }) > 0) blame("sends a caller away whose host is connected");
            return;
        }
        failed_now.push_back(a.waiter);
    }
    void on(const act::probe& a) {
        auto* c = find(a.connection);
        if (c == nullptr || c->state != seen_connection::open || c->probing || c->retired) return blame("probes what it should not");
        if (fresh(*c)) blame("probes a connection that was heard a moment ago");
        c->probing = true;
        c->probed_at = now;
    }
    void on(const act::close& a) {
        auto* c = find(a.connection);
        if (c == nullptr || c->state == seen_connection::closing) return blame("closes a connection twice");
        const bool cut = a.reason == close_reason::lost || (a.reason == close_reason::shutdown && forced);
        if (!cut && !c->leases.empty()) blame("closes a connection under its holders");
        if (!cut && c->state == seen_connection::open && pins(*c) > 0) blame("closes a connection that others run through");
        if (a.reason == close_reason::lru && !c->retired && params.when_full != full_policy::fail && now - c->idle_since < c->took && draining_allowed_ == 0)
            blame("evicts a connection that was idle for less than it took to open");
        if (a.reason == close_reason::lru && !c->retired && has_waiters(c->to) && draining_allowed_ == 0) blame("evicts a connection that somebody waits for");
        if (a.reason == close_reason::idle && is_warm(c->to)) blame("a host to be kept connected is left for idleness");
        if (c->state == seen_connection::open) ++closes;
        if (c->state == seen_connection::open) last_gone[c->to.key()] = now;
        if (a.reason == close_reason::lru) ++evictions;
        c->state = seen_connection::closing;
        c->probing = false;
    }
    void on(const act::announce& a) {
        auto* c = find(a.event.connection_id);
        trouble.told(a.event, now);
        if (!trouble.wrong.empty()) blame(trouble.wrong);
        if (a.event.kind == event_kind::server_busy) ++busy_retries;
        if (a.event.kind == event_kind::lease_too_long) {
            ++long_leases;
            if (c == nullptr || a.event.duration < params.max_lease_time) return blame("complains of a lease too early");
            for (const auto& [id, since] : c->leases) {
                if (since == now - a.event.duration && c->long_leases.insert(id).second) return;
            }
            return blame("complains of a lease twice, or of one that is not there");
        }
        if (a.event.kind == event_kind::unpooled && c != nullptr) {
            c->unpooled = true;
            c->capacity = 1;
            c->expires = instant::max();
        }
        if (a.event.kind == event_kind::draining) {
            if (c == nullptr || c->state != seen_connection::open) return blame("drains what is not open");
            if (c->leases.empty() && pins(*c) == 0 && !pinned_unseen(c->to)) blame("drains what nobody uses instead of closing it");
            c->retired = true;
            c->probing = false;
        }
    }
    void on(const act::drained&) {
        ++drained;
        if (!closed) blame("drained without a shutdown");
        if (count([](const auto&) { return true; }) > 0) blame("drained although connections are left");
    }

    /// An LRU close inside its patience is right only for the caller whose own patience has run out.
    void begin_event(instant at, instant patience) {
        now = at;
        failed_now.clear();
        draining_allowed_ = 0;
        for (const auto& w : waiters) draining_allowed_ += waiting(w) && now - w.asked >= patience ? 1 : 0;
    }
    std::vector<waiter_id> failed_now;

private:
    std::set<lease_id> lease_ids_;
    std::uint64_t use_ = 0;
    std::size_t draining_allowed_ = 0;

public:
    void used(seen_connection& c) { c.last_use = ++use_; }
};

}  // namespace core_test
