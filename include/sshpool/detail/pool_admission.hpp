#pragma once

#include <sshpool/detail/pool_report.hpp>
#include <sshpool/detail/pool_routes.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Decides who gets what: which waiter a free lease, which door a new connection, and what has to go for it.
///
/// At the bound of the pool it is strictly oldest first; doors that only want an extra connection come behind those that have none, and doors
/// that nobody waits at, but are to be kept connected, come last: they take what is free and make nobody go.
class pool_admission : protected pool_routes {
protected:
    using pool_routes::pool_routes;

    /// Brings everything into order after an event: nobody waits for what is there.
    void settle(instant now, actions& out) {
        do {
            while (!dirty_.empty() || !retry_.empty()) {
                if (retry_comes_first()) {
                    retry_next(now);
                } else {
                    auto& d = next_dirty();
                    serve(d, now, out);
                    cover(d, now, out);
                    table_.drop_if_unused(d);
                }
            }
            if (nobody_waits_for_a_place()) {
                pool_deadline_.reset();
                if (std::exchange(room_for_warm_, false) && free_slots() > 0) loosen(warms_);
            } else {
                hand_out_slots(now, out);
            }
        } while (!dirty_.empty() || !retry_.empty());
    }

    /// A connection of this door that may be lent now. One that was silent for too long is asked first whether it lives.
    pooled_connection* pick(door& d, instant now, actions& out) {
        while (auto* c = d.best()) {
            if (c->is_expired(now)) {
                retire(*c, close_reason::ttl, now, out);
            } else if (!c->is_healthy(now, params_.health_check_interval)) {
                start_probe(*c, now, out);
            } else {
                return c;
            }
        }
        return nullptr;
    }

    void grant(waiter& w, pooled_connection& c, instant now, actions& out) {
        const bool hit = c.opened_serial <= w.serial;
        count_grant(*c.key, hit, now - w.asked);
        if (draining_for_ == w.id) draining_for_ = 0;
        const auto id = w.id;
        const auto where = w.where;
        table_.erase(w);
        out.emplace_back(act::grant{id, c.id, lend(c, now, where)});
    }
    void count_grant(key_state& key, bool hit, instant waited) noexcept {
        ++(hit ? totals_.hits : totals_.misses);
        ++(hit ? key.counters.hits : key.counters.misses);
        acquire_wait_.record(waited);
    }
    void fail(waiter& w, error_info why, actions& out) {
        if (draining_for_ == w.id) draining_for_ = 0;
        touch(*w.home);
        const auto id = w.id;
        table_.erase(w);
        out.emplace_back(act::fail{id, std::move(why)});
    }

    void tell_long_leases(pooled_connection& c, instant now, actions& out) {
        for (auto& slot : c.slots) {
            if (slot.lease == 0 || slot.told || now < slot.since + instant{params_.max_lease_time}) continue;
            slot.told = true;
            for (auto* counters : {&totals_, &c.key->counters}) ++counters->long_leases;
            auto event = event_of(event_kind::lease_too_long, c);
            event.where = slot.where;
            event.duration = now - slot.since;
            announce(out, std::move(event));
        }
    }
    error_info exhausted(const waiter& w) const {
        return {make_error(errc::pool_exhausted), w.home->key->name, "waiting",
                "no connection to " + w.home->key->name + " is free and the pool is full: " + std::to_string(size_) + "/" +
                    std::to_string(params_.max_connections) + " connections, " + std::to_string(in_use_) + " in use, " + std::to_string(connecting_) +
                    " connecting" + (size_ < params_.max_connections ? ", the rest kept for callers who asked earlier" : "") +
                    " (pool_params::max_connections, when_full)"};
    }
    bool can_evict(instant now) {
        return table_.idle.oldest(now, params_.when_full == full_policy::fail, [this](const pooled_connection& c) { return may_go(c); }) != nullptr;
    }

    /// How long a caller waits before a connection that others use has to go for it.
    instant patience() const noexcept { return 10 * std::max(connect_time_.value(), instant{std::chrono::milliseconds{1}}); }
    instant expected_connect(const key_state& key) const noexcept { return key.connect_time.known() ? key.connect_time.value() : connect_time_.value(); }

    waiter_id draining_for_ = 0;
    std::optional<instant> pool_deadline_;
    time_histogram acquire_wait_;

private:
    void serve(door& d, instant now, actions& out) {
        while (!d.waiters.empty()) {
            auto* c = pick(d, now, out);
            if (c == nullptr) return;
            grant(*d.waiters.front(), *c, now, out);
        }
    }

    /// Whoever waits at a limit that was loosened comes before whoever is younger, wherever that one waits.
    bool retry_comes_first() {
        if (retry_.empty()) return false;
        const auto id = [](const parking* p) {
            const auto next = next_at(*p);
            return next == p->doors.end() ? waiter_id{0} : next->first;
        };
        const auto first = std::min_element(retry_.begin(), retry_.end(), [&](const parking* a, const parking* b) { return id(a) < id(b); });
        std::iter_swap(first, std::prev(retry_.end()));
        return dirty_.empty() || id(retry_.back()) < dirty_.front()->dirty_as;
    }
    static std::set<std::pair<waiter_id, door*>>::const_iterator next_at(const parking& p) { return p.doors.lower_bound({p.tried + 1, nullptr}); }
    void retry_next(instant now) {
        auto& p = *retry_.back();
        const auto next = next_at(p);
        if (!is_loose(p, now) || next == p.doors.end()) {
            retry_.pop_back();
            p.retrying = false;
            return release_host(p);
        }
        p.tried = next->first;
        touch(*next->second);
    }
    /// Sees to it that the waiters of a door have something to wait for, and that a host to be kept connected is.
    void cover(door& d, instant now, actions& out) {
        unpark(d);
        table_.set_timer(d, std::nullopt);
        if (d.opening != nullptr && d.opening->state == connection_state::planned && !go_on(d, *d.opening, now, out)) return;
        if (d.opening != nullptr) return;
        while (!d.waiters.empty() && d.probing == 0 && d.unpooled_opening < d.waiters.size() && d.opening == nullptr) {
            const auto& head = next_to_try(d, now);
            const bool spill = d.usable > 0;
            if (spill) {
                const auto from = extra_connection_from(d);
                if (now < from) return void(wait_until(d, from));
                if (d.key->connecting > 0) return void(park(d, d.key->behind_connect, 0, d.waiters.front()->id));
            }
            if (!open_for(d, head, spill, now, out)) return;
        }
        if (d.warm != nullptr && d.waiters.empty() && d.probing == 0) warm_up(d, now, out);
    }
    /// A reserved connection begins when its jump host is open, if it may. False: it is no more.
    bool go_on(door& d, pooled_connection& c, instant now, actions& out) {
        const bool ready = c.via == nullptr || (c.via->usable() && !c.via->probing);
        const bool unwanted = d.waiters.empty() && c.dependents.empty() && (d.warm == nullptr || now < warm_from(d));
        if (unwanted || (ready && setbacks_.against(c.to, now) != nullptr)) {  // or somebody else was told meanwhile that it is no use
            forget_planned(c, now, out);
            return false;
        }
        if (ready && handshake_allowed(d, c.to, c.planned_for, now)) start(c, now, out);
        return true;
    }
    /// The oldest; where callers share a principal but not the secrets, the oldest whose secret was not refused a moment ago.
    static const waiter& oldest(const door& d) { return *d.waiters.front(); }
    const waiter& next_to_try(door& d, instant now) {
        if (d.several_secrets && params_.when_backing_off == backing_off_policy::wait) {
            for (const auto* w = d.waiters.front(); w != nullptr; w = d.waiters.after(*w)) {
                const auto* refused = setbacks_.against(w->to, now);
                if (refused == nullptr) return *w;
                wait_until(d, refused->until);  // then it is this one's turn, whatever the others wait for
            }
        }
        return oldest(d);
    }

    /// From when on the queue justifies one more connection beside those that serve it.
    instant extra_connection_from(const door& d) const {
        const auto& key = *d.key;
        const auto expected = expected_connect(key);
        auto from = std::max(d.waiters.front()->asked, d.last_opened) + expected;
        if (key.hold_time.known() && d.capacity > 0) {
            const auto clears_in = static_cast<double>(d.waiters.size()) * static_cast<double>(key.hold_time.value().count()) / static_cast<double>(d.capacity);
            if (clears_in > static_cast<double>(expected.count())) from = instant::min();
        }
        return from;
    }

    /// Opens a connection for the oldest waiter, or parks the door. True if something was opened and the rest is to be looked at.
    bool open_for(door& d, const waiter& head, bool spill, instant now, actions& out) {
        const auto way = find_way(head.to, now, out);
        if (const auto [setback, link] = obstacle(way, now); setback != nullptr) return held_back(d, head, *setback, *link, spill, now, out);
        if (const auto* full = full_link(way, d)) {
            auto& key = full == way.missing.front() ? *d.key : *table_.find_key(full->key());
            make_room_in(key, d, *full, now, out);
            return park(d, key.at_limit, 0, head.id);
        }
        if (way.starts_now() && !handshake_allowed(d, *way.missing.back(), head.id, now)) return false;
        const auto need = way.missing.size();
        const bool promoted = spill && params_.when_full != full_policy::fail && now >= head.asked + patience();
        auto& queue = spill && !promoted ? spills_ : needs_;
        const auto turn = oldest(d).id;
        const bool first_in_line = (needs_.doors.empty() || (&queue == &needs_ && turn < needs_.doors.begin()->first)) &&
                                   (&queue == &needs_ || spills_.doors.empty() || turn < spills_.doors.begin()->first);
        if (first_in_line && need <= free_slots()) {
            open_way(way, d, head.id, now, out);
            return true;
        }
        return at_the_bound(d, head, way, queue, spill, now, out);
    }

    bool at_the_bound(door& d, const waiter& head, const route& way, parking& queue, bool spill, instant now, actions& out) {
        const auto need = way.missing.size();
        table_.follow(d);
        if (may_go_beside() && need == 1 && way.starts_now()) {
            const auto demand = needs_.demand + (&queue == &spills_ ? spills_.demand : 0) + need;
            evict(demand, now, out);  // whoever was idle for long enough makes room first: a connection beside the pool is thrown away after use
            if (free_slots() + closing_ < demand) {
                table_.unfollow(d);
                start(plan_unpooled(d, head.to, way.base), now, out);
                return true;
            }
        }
        if (params_.when_full == full_policy::fail && !spill) {
            evict(needs_.demand + need, now, out);
            if (free_slots() + closing_ < needs_.demand + need) {
                while (!d.waiters.empty()) {
                    auto& w = *d.waiters.front();
                    fail(w, exhausted(w), out);
                }
                table_.unfollow(d);
                return false;
            }
        }
        if (&queue == &spills_ && params_.when_full != full_policy::fail) wait_until(d, head.asked + patience());
        return park(d, queue, need, oldest(d).id);
    }

    /// What the caller would have to be connected to has just failed: it is told so, or waits for the next try.
    bool held_back(door& d, const waiter& w, const setback& s, const target& link, bool spill, instant now, actions& out) {
        if (spill || (params_.when_backing_off == backing_off_policy::wait && s.until < w.deadline)) return wait_for(d, link, s.until);
        for (auto* counters : {&totals_, &d.key->counters}) ++counters->backed_off;
        fail(*table_.find_waiter(w.id), {make_error(errc::host_backing_off), d.key->name, "waiting", setback_text(w.to, link, s, now)}, out);
        return true;
    }

    /// A host to be kept connected has no connection, or one that expires soon.
    void warm_up(door& d, instant now, actions& out) {
        const auto from = warm_from(d);
        if (now < from) {
            if (from != instant::max()) wait_until(d, from);
            return;
        }
        const auto place = d.warm->place;
        const auto way = find_way(d.warm->to, now, out);
        if (const auto [setback, link] = obstacle(way, now); setback != nullptr) return void(wait_for(d, *link, setback->until));
        if (d.key->connecting > 0) return void(park(d, d.key->behind_connect, 0, place));
        if (const auto* full = full_link(way, d)) {
            auto& key = full == way.missing.front() ? *d.key : *table_.find_key(full->key());
            return void(park(d, key.at_limit, 0, place));
        }
        if (way.starts_now() && !handshake_allowed(d, *way.missing.back(), place, now)) return;
        if (!nobody_waits_for_a_place() || way.missing.size() > free_slots()) return void(park(d, warms_, 0, place));
        open_way(way, d, place, now, out);
    }
    /// From when on: a connect that takes as long as it may should end before the last connection expires.
    instant warm_from(const door& d) const noexcept {
        if (d.usable == 0) return d.warm->not_before;
        auto last = instant::min();
        for (const auto* c = d.members.front(); c != nullptr; c = d.members.after(*c)) last = std::max(last, c->expires);
        if (last == instant::max()) return last;
        return last - std::min(instant{params_.connect_timeout}, instant{params_.connection_ttl} / 4);
    }

    /// The key has as many connections as it may: one of another identity, policy or jump goes if it was idle for long enough, or, when
    /// the caller has waited for too long, the one that has served longest. Looks at the connections of this key, which its cap bounds.
    void make_room_in(key_state& key, door& d, const target& link, instant now, actions& out) {
        const bool any = params_.when_full == full_policy::fail;
        pooled_connection* idle = nullptr;
        pooled_connection* oldest = nullptr;
        std::optional<instant> later;
        bool leaving = key.closing > 0;
        for (auto* c = key.all.front(); c != nullptr; c = key.all.after(*c)) {
            leaving = leaving || (c->state == connection_state::open && c->retired && !c->unpooled);
            if (!c->usable() || c->pins != 0 || c->home->to == link) continue;
            if (oldest == nullptr || c->opened_serial < oldest->opened_serial) oldest = c;
            if (c->leases != 0 || !c->home->waiters.empty()) continue;
            const auto ripe = idle_order::ripe_at(*c);
            if (!any && ripe > now) {
                later = std::min(later.value_or(ripe), ripe);
            } else if (idle == nullptr || c->idle_serial < idle->idle_serial) {
                idle = c;
            }
        }
        if (later) table_.set_timer(d, later);  // whatever goes first: that may take long, or be another waiter's
        if (key.closing > key.at_limit.doors.size()) return;
        if (idle != nullptr) return retire(*idle, close_reason::lru, now, out);
        if (oldest == nullptr || leaving) return;
        const auto last_resort = d.waiters.front()->asked + patience();
        if (now >= last_resort) return retire(*oldest, close_reason::lru, now, out);
        table_.set_timer(d, std::min(later.value_or(last_resort), last_resort));
    }

    // --- at the bound of the pool

    void hand_out_slots(instant now, actions& out) {
        pool_deadline_.reset();
        while (dirty_.empty()) {
            auto& queue = needs_.doors.empty() ? spills_ : needs_;
            if (queue.doors.empty()) return;
            auto& first = *queue.doors.begin()->second;
            if (free_slots() == 0 && first.waiters.front()->to.jump() == nullptr) break;
            cover(first, now, out);
            if (first.parked_in == &queue) break;
            touch(first);
        }
        if (!dirty_.empty()) return;
        evict(needs_.demand + spills_.demand, now, out);
        if (params_.when_full == full_policy::fail) return fail_the_rest(out);
        if (may_go_beside() && go_beside()) return;
        drain(now, out);
    }

    bool may_go(const pooled_connection& c) const { return c.home->waiters.empty() && !table_.is_followed(*c.home); }
    void evict(std::size_t demand, instant now, actions& out) {
        const bool any = params_.when_full == full_policy::fail;
        while (demand > free_slots() + closing_) {
            auto* c = table_.idle.oldest(now, any, [this](const pooled_connection& one) { return may_go(one); });
            if (c == nullptr) {
                if (const auto next = table_.idle.next_ripe()) wake_at(*next);
                return;
            }
            retire(*c, close_reason::lru, now, out);
        }
    }

    /// `full_policy::fail`: somebody older took the place that the youngest were told to wait for.
    void fail_the_rest(actions& out) {
        if (needs_.demand <= free_slots() + closing_) return;
        auto& d = *needs_.doors.rbegin()->second;
        while (!d.waiters.empty()) {
            auto& w = *d.waiters.front();
            fail(w, exhausted(w), out);
        }
    }

    bool may_go_beside() const noexcept { return params_.when_full == full_policy::open_unpooled && unpooled_ < params_.max_unpooled; }
    /// The same: the youngest need not wait for a place any more. True if one is looked at again.
    bool go_beside() {
        const auto coming = free_slots() + closing_;
        if (needs_.demand + spills_.demand <= coming) return false;
        const auto& queue = needs_.demand > coming ? needs_ : spills_;
        for (auto it = queue.doors.rbegin(); it != queue.doors.rend(); ++it) {
            if (it->second->waiters.front()->to.jump() != nullptr) continue;  // looked at again when its jump host changes
            touch(*it->second);
            return true;
        }
        return false;
    }

    /// The patience of the rest has a bound: then the connection that has served longest is lent no more. One at a time.
    void drain(instant now, actions& out) {
        if (needs_.doors.empty()) return;
        auto& d = *needs_.doors.begin()->second;
        const auto& head = *d.waiters.front();
        if (d.parked_demand <= free_slots() + closing_) return;
        if (draining_for_ != 0) {
            const auto* victim = table_.find(draining_);
            if (victim != nullptr && victim->state == connection_state::open) return;
            const auto* served = table_.find_waiter(draining_for_);
            if (served != nullptr && served->home->opening != nullptr) return;
        }
        const auto from = head.asked + patience();
        if (now < from) return wake_at(from);
        for (const auto& [serial, c] : table_.serving) {
            if (is_on_the_way(*c->home, head.to)) continue;
            draining_for_ = head.id;
            draining_ = c->id;
            return retire(*c, close_reason::lru, now, out);
        }
    }
    static bool is_on_the_way(const door& d, const target& to) {
        for (const auto* link = &to; link != nullptr; link = link->jump()) {
            if (d.to == *link) return true;
        }
        return false;
    }
    void wake_at(instant when) {
        if (!pool_deadline_ || when < *pool_deadline_) pool_deadline_ = when;
    }

    connection_id draining_ = 0;
};

}  // namespace sshpool::detail
