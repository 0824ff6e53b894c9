#pragma once

#include <sshpool/detail/back_off.hpp>
#include <sshpool/detail/pool_upkeep.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// What a connect needs before it may begin: a way to its host, a place among the handshakes, and nobody on the way who has just failed.
///
/// A door that may not go on is parked at exactly one limit, or waits for a time, and is looked at again then.
class pool_routes : protected pool_upkeep {
protected:
    using pool_upkeep::pool_upkeep;

    /// The links that have to be opened for a target, itself first, and what they are opened through.
    struct route {
        std::vector<const target*> missing;
        pooled_connection* base = nullptr;

        bool starts_now() const noexcept { return base == nullptr || (base->state == connection_state::open && !base->probing); }
    };

    route find_way(const target& to, instant now, actions& out) {
        route found;
        found.missing.push_back(&to);
        for (const auto* jump = to.jump(); jump != nullptr; jump = jump->jump()) {
            if (auto* d = table_.find_door(*jump)) {
                found.base = open_link(*d, now, out);
                if (found.base == nullptr) found.base = d->opening;
                if (found.base != nullptr) return found;
            }
            found.missing.push_back(jump);
        }
        return found;
    }
    /// What stands against opening a link of the way now, and which link that is.
    std::pair<const setback*, const target*> obstacle(const route& way, instant now) const {
        std::pair<const setback*, const target*> found{nullptr, nullptr};
        for (const auto* link : way.missing) {
            const auto* s = setbacks_.against(*link, now);
            if (s != nullptr && (found.first == nullptr || s->until > found.first->until)) found = {s, link};
        }
        return found;
    }
    /// A key on the way that may have no more connections.
    const target* full_link(const route& way, const door& d) {
        for (const auto* link : way.missing) {
            const auto* key = link == way.missing.front() ? d.key : table_.find_key(link->key());
            if (key != nullptr && key->connections + links_of(way, *link) > params_.max_connections_per_host) return link;
        }
        return nullptr;
    }
    /// May the handshake begin that a door waits for? If not, it is parked, in the place `as`, or waits for a time.
    bool handshake_allowed(door& d, const target& to, waiter_id as, instant now) {
        if (handshakes_ >= params_.max_handshakes) return park(d, by_handshakes_, 0, as);
        auto* host = table_.find_host(to.endpoint());
        const auto* busy = busy_.empty() ? nullptr : busy_.find(to.endpoint(), now);
        const bool paused = busy != nullptr && now < busy->not_before;
        if (paused) wait_for(d, to, busy->not_before);
        if (paused && host == nullptr) return false;
        if (paused || (host != nullptr && host->handshakes >= handshakes_at(*host, now))) return park(d, host->at_limit, 0, as);
        const auto* key = table_.find_key(to.key());
        if (is_logged_in(key, to)) return true;
        const auto under_way = host != nullptr ? host->at_risk : 0;
        const bool known = key != nullptr && key->proven == to.credential_digest();
        const auto from = penalties_.free_at(to.endpoint(), under_way, now, known ? penalty_books::most_for_known : penalty_books::most);
        if (from && *from <= now) return true;
        if (from) wait_for(d, to, *from);
        return under_way > 0 && park(d, host->at_login_limit, 0, as);  // the end of one may come sooner
    }
    /// Whoever waits there is looked at again, and may find that there is a time to wait for.
    bool is_loose(const parking& p, instant now) const {
        switch (p.why) {
            case limit::handshakes:
                return handshakes_ < params_.max_handshakes;
            case limit::host_handshakes: {
                const auto& host = *static_cast<const host_state*>(p.owner);
                return host.handshakes < handshakes_at(host, now);
            }
            case limit::host_logins: {
                const auto& host = *static_cast<const host_state*>(p.owner);
                return penalties_.free_at(host.name, host.at_risk, now).has_value();
            }
            case limit::key_connections:
                return static_cast<const key_state*>(p.owner)->connections < params_.max_connections_per_host;
            case limit::key_connects:
                return static_cast<const key_state*>(p.owner)->connecting == 0;
            case limit::connections:
            case limit::connections_spill:
                return params_.when_full == full_policy::open_unpooled && unpooled_ < params_.max_unpooled;
            case limit::connections_warm:
                return nobody_waits_for_a_place() && free_slots() > 0;
            case limit::none:
                break;
        }
        return false;
    }
    /// How many may be under way at once.
    std::size_t handshakes_at(const host_state& host, instant now) const {
        const auto* busy = busy_.empty() ? nullptr : busy_.find(host.name, now);
        return busy == nullptr ? params_.max_handshakes_per_host : busy->allowed;
    }
    template <class Change>
    const busy_server& change_busy(const std::string& endpoint, instant now, Change change) {
        const auto all = [&](busy_server& b) {
            if (b.allowed == 0) b.allowed = params_.max_handshakes_per_host;
            change(b);
        };
        return busy_.change(endpoint, now, all, [&](const busy_server& b) { return std::max(now, b.not_before) + params_.backoff_max; });
    }
    bool nobody_waits_for_a_place() const noexcept { return needs_.doors.empty() && spills_.doors.empty(); }

    void open_way(const route& way, door& d, waiter_id as, instant now, actions& out) {
        auto* via = way.base;
        const bool at_once = way.starts_now();
        for (auto link = way.missing.rbegin(); link != way.missing.rend(); ++link) {
            auto& of = *link == way.missing.front() ? d : table_.door_of(**link);
            auto& c = plan(of, **link, via);
            c.planned_for = as;
            if (at_once && link == way.missing.rbegin()) start(c, now, out);
            via = &c;
        }
    }

    /// False, as the answer to whether the door may go on.
    bool park(door& d, parking& at, std::size_t demand, waiter_id as) {
        d.parked_in = &at;
        d.parked_as = as;
        d.parked_demand = demand;
        at.demand += demand;
        at.doors.insert({d.parked_as, &d});
        table_.follow(d);
        hold_host(at);
        return false;
    }
    bool wait_until(door& d, instant when) {
        table_.set_timer(d, d.timer ? std::min(*d.timer, when) : when);
        return false;
    }
    void unpark(door& d) {
        table_.unfollow(d);
        auto* at = std::exchange(d.parked_in, nullptr);
        if (at == nullptr) return;
        at->doors.erase({d.parked_as, &d});
        at->demand -= d.parked_demand;
        if (at == &needs_ || at == &spills_) room_for_warm_ = true;
        release_host(*at);
    }
    /// Until a link of its way may be tried, or somebody else opens it.
    bool wait_for(door& d, const target& link, instant when) {
        if (!(link == d.to)) table_.follow(d);
        return wait_until(d, when);
    }
    /// What was known of a host that failed is no longer so, or is now.
    void look_again(std::string_view endpoint) {
        if (auto* host = table_.find_host(endpoint)) {
            for (auto* d = host->doors.front(); d != nullptr; d = host->doors.after(*d)) touch(*d);
        }
        table_.for_each_follower_of(endpoint, [this](door& d) { touch(d); });
    }

    back_off_book setbacks_;
    penalty_books penalties_;
    expiring_map<busy_server> busy_;

private:
    /// A connection to run another one through. One that was silent for too long is asked first whether it lives.
    pooled_connection* open_link(door& d, instant now, actions& out) {
        pooled_connection* silent = nullptr;
        for (auto* c = d.members.front(); c != nullptr;) {
            auto* next = d.members.after(*c);
            if (c->is_expired(now)) {
                retire(*c, close_reason::ttl, now, out);
            } else if (c->probing || !c->is_healthy(now, params_.health_check_interval)) {
                if (silent == nullptr || c->probing) silent = c;
            } else {
                return c;
            }
            c = next;
        }
        if (silent != nullptr && !silent->probing) start_probe(*silent, now, out);
        return silent;
    }
    static std::size_t links_of(const route& way, const target& link) {
        return static_cast<std::size_t>(std::count_if(way.missing.begin(), way.missing.end(), [&](const target* t) { return t->key() == link.key(); }));
    }
};

}  // namespace sshpool::detail
