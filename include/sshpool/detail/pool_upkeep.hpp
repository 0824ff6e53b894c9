#pragma once

#include <sshpool/detail/connection_table.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// The part of the decision core that keeps every list, count and deadline right while a connection goes through its life.
/// Who may have which connection, and when one is opened, is decided above it.
class pool_upkeep {
protected:
    pool_upkeep(const pool_params& params, std::uint64_t seed) : params_(params), jitter_(seed) { params_.on_event = nullptr; }

    std::size_t free_slots() const noexcept { return params_.max_connections - size_; }

    /// What has changed is looked at again before the event ends.
    void touch(door& d) {
        if (std::exchange(d.dirty, true)) return;
        d.dirty_as = d.waiters.empty() ? ~waiter_id{0} : d.waiters.front()->id;
        dirty_.push_back(&d);
        std::push_heap(dirty_.begin(), dirty_.end(), asked_later);
    }
    door& next_dirty() {
        std::pop_heap(dirty_.begin(), dirty_.end(), asked_later);
        auto& d = *dirty_.back();
        dirty_.pop_back();
        d.dirty = false;
        return d;
    }
    void tell_followers(const door& d) {
        table_.for_each_follower(d, [this](door& follower) { touch(follower); });
    }
    void loosen(parking& p) {
        p.tried = 0;
        if (p.doors.empty() || std::exchange(p.retrying, true)) return;
        hold_host(p);
        retry_.push_back(&p);
    }
    /// A host stays known while somebody waits at one of its limits.
    void hold_host(const parking& p) {
        if (p.why == limit::host_handshakes || p.why == limit::host_logins) table_.hold(*static_cast<host_state*>(p.owner));
    }
    void release_host(const parking& p) {
        if (p.why == limit::host_handshakes || p.why == limit::host_logins) table_.release(*static_cast<host_state*>(p.owner));
    }

    static void announce(actions& out, pool_event event) { out.emplace_back(act::announce{std::move(event)}); }

    // --- making

    pooled_connection& plan(door& d, const target& to, pooled_connection* via) {
        auto& c = table_.add_connection(d, to);
        ++size_;
        ++connecting_;
        ++c.key->connecting;
        d.opening = &c;
        tell_followers(d);
        // What the pool would have to make room for may now be more than the key may have.
        for (auto* other = c.key->doors.front(); other != nullptr; other = c.key->doors.after(*other)) {
            if (other->parked_in == &needs_ || other->parked_in == &spills_) touch(*other);
        }
        run_through(c, via);
        touch(d);
        return c;
    }
    pooled_connection& plan_unpooled(door& d, const target& to, pooled_connection* via) {
        auto& c = table_.add_connection(d, to);
        c.unpooled = true;
        ++unpooled_;
        ++d.unpooled_opening;
        run_through(c, via);
        return c;
    }
    /// These credentials are logged in there at this moment: one more login of theirs is not refused.
    static bool is_logged_in(const key_state* key, const target& to) {
        for (const auto* c = key != nullptr ? key->all.front() : nullptr; c != nullptr; c = key->all.after(*c)) {
            if (c->usable() && c->to.credential_digest() == to.credential_digest()) return true;
        }
        return false;
    }
    void start(pooled_connection& c, instant now, actions& out) {
        c.state = connection_state::opening;
        c.started = now;
        c.handshaking = true;
        c.at_risk = !is_logged_in(c.key, c.to);
        ++handshakes_;
        ++c.host->handshakes;
        if (c.at_risk) ++c.host->at_risk;
        out.emplace_back(act::open{c.id, c.to, c.via != nullptr ? c.via->id : 0, c.key->learned_capacity});
    }
    void finish_handshake(pooled_connection& c) {
        if (!std::exchange(c.handshaking, false)) return;
        --handshakes_;
        --c.host->handshakes;
        if (std::exchange(c.at_risk, false)) {
            --c.host->at_risk;
            loosen(c.host->at_login_limit);
        }
        loosen(by_handshakes_);
        loosen(c.host->at_limit);
    }
    /// The connect has ended, one way or another.
    void leave_connecting(pooled_connection& c) {
        if (c.unpooled) {
            --c.home->unpooled_opening;
            return;
        }
        c.home->opening = nullptr;
        tell_followers(*c.home);
        --connecting_;
        if (--c.key->connecting == 0) loosen(c.key->behind_connect);
    }
    void enter_open(pooled_connection& c, instant now, const connect_phases& phases) {
        finish_handshake(c);
        leave_connecting(c);
        c.state = connection_state::open;
        c.was_open = true;
        c.created = c.last_used = c.heard = c.idle_since = now;
        c.open_took = phases.total();
        c.opened_serial = c.use_serial = c.idle_serial = ++serial_;
        ++totals_.created;
        ++c.key->counters.created;
        if (++c.host->open == 1) ++connected_hosts_;
        auto& d = *c.home;
        d.last_opened = now;
        if (c.unpooled) {
            c.retired = close_reason::discarded;
            c.capacity = 1;
            ++totals_.unpooled;
            ++c.key->counters.unpooled;
            return;
        }
        ++idle_;
        c.learned_capacity = c.key->learned_capacity;
        c.capacity = c.learned_capacity == 0 ? params_.leases_per_connection : std::min(c.learned_capacity, params_.leases_per_connection);
        if (params_.connection_ttl.count() > 0) {
            const auto ttl = instant{params_.connection_ttl};
            const auto shift = std::llround(static_cast<double>(ttl.count()) * params_.ttl_jitter * jitter_.draw());
            c.expires = now + std::max(instant{1}, ttl + instant{shift});
        }
        ++d.usable;
        d.capacity += c.capacity;
        d.members.push_back(c);
        d.list(c);
        place(c);
        arm(c, now);
    }

    // --- lending

    lease_id lend(pooled_connection& c, instant now, const std::source_location& where) {
        auto& d = *c.home;
        d.unlist(c);
        if (c.leases == 0 && !c.unpooled) {
            table_.idle.remove(c);
            --idle_;
            ++in_use_;
        }
        const auto lease = c.add_lease(++serial_, now, where);
        c.use_serial = serial_;
        c.last_used = now;
        ++c.use_count;
        if (c.lendable()) d.list(c);
        if (params_.max_lease_time.count() > 0) rearm_if_earlier(c, now);
        return lease;
    }
    /// True if the connection is the pool's own afterwards: it was neither closed nor is it closing.
    void take_back(pooled_connection& c, lease_slot& slot, instant now, instant heard, actions& out) {
        c.key->hold_time.add(now - slot.since);
        c.end_lease(slot);
        if (c.state != connection_state::open) return;
        auto& d = *c.home;
        c.heard = std::max(c.heard, std::min(heard, now));
        c.last_used = now;
        c.use_serial = ++serial_;
        if (c.leases == 0 && !c.unpooled) {
            --in_use_;
            ++idle_;
            c.idle_since = now;
        }
        if (c.retired) return close_if_unneeded(c, now, out);
        d.unlist(c);
        if (c.lendable()) d.list(c);
        if (c.leases == 0) {
            place(c);
            rearm_if_earlier(c, now);
        }
    }
    void set_capacity(pooled_connection& c, std::size_t capacity) {
        auto& d = *c.home;
        d.capacity += capacity;
        d.capacity -= c.capacity;
        d.unlist(c);
        c.capacity = capacity;
        if (c.lendable()) d.list(c);
    }

    // --- probing

    void start_probe(pooled_connection& c, instant now, actions& out) {
        c.probing = true;
        c.probed_at = now;
        ++c.home->probing;
        c.home->unlist(c);
        out.emplace_back(act::probe{c.id});
    }
    void stop_probe(pooled_connection& c) {
        if (std::exchange(c.probing, false)) --c.home->probing;
    }

    // --- ending

    /// Lends it no more; closes it now or when its last lease and the last connection that runs through it have gone. These stay: what was opened through it
    /// is as good as before, and what is being opened tells by itself how that ended. Only an invalidation and a shutdown take them along.
    void retire(pooled_connection& c, close_reason reason, instant now, actions& out) {
        if (reason == close_reason::invalidated) c.invalidated = true;
        if (c.state == connection_state::planned) return forget_planned(c, now, out);
        if (c.state == connection_state::opening) return close(c, reason, {}, now, out);
        if (c.state == connection_state::closing) return;
        const bool lent_until_now = !c.retired;
        if (lent_until_now) {
            leave_usable(c);
            c.retired = reason;
            arm(c, now);
            touch(*c.home);
        }
        const bool all = reason == close_reason::invalidated || reason == close_reason::shutdown;
        for_each_dependent(c, [&](pooled_connection& child) {
            if (all || child.state == connection_state::planned) retire(child, reason, now, out);
        });
        if (c.unneeded()) return close(c, *c.retired, {}, now, out);
        if (lent_until_now) announce(out, event_of(event_kind::draining, c, reason));
    }
    void close(pooled_connection& c, close_reason reason, const error_info& why, instant now, actions& out) {
        if (c.state == connection_state::closing) return;
        if (c.state == connection_state::planned) return forget_planned(c, now, out);
        if (c.state == connection_state::opening) {
            leave_connecting(c);
        } else {
            if (c.usable()) leave_usable(c);
            if (!c.unpooled) --(c.leases == 0 ? idle_ : in_use_);
            if (--c.host->open == 0) --connected_hosts_;
            come_back_apart(*c.home, now);
            count_close(c, reason);
            auto event = event_of(event_kind::closed, c, reason);
            event.error = why;
            announce(out, std::move(event));
        }
        c.state = connection_state::closing;
        c.retired = reason;
        table_.arm(c, std::nullopt);
        if (!c.unpooled) {
            ++closing_;
            ++c.key->closing;
        }
        touch(*c.home);
        const auto cause = why.text.empty() ? std::string{"it was closed ("} + std::string{to_string(reason)} + ")" : why.text;
        const error_info to_children{
            make_error(errc::connection_lost, command_fate::unknown), {}, "jump host", "the jump host " + c.key->name + " has gone: " + cause};
        for_each_dependent(c, [&](pooled_connection& child) {
            auto info = to_children;
            info.key = child.key->name;
            close(child, reason == close_reason::shutdown ? reason : close_reason::lost, info, now, out);
        });
        out.emplace_back(act::close{c.id, reason});
    }
    void close_if_unneeded(pooled_connection& c, instant now, actions& out) {
        if (c.state == connection_state::open && c.retired && c.unneeded()) close(c, *c.retired, {}, now, out);
    }
    /// Its slot is free.
    void remove(pooled_connection& c, instant now, actions& out) {
        finish_handshake(c);
        auto& d = *c.home;
        auto& key = *c.key;
        auto* via = c.via;
        if (c.unpooled) {
            --unpooled_;
            loosen(needs_);
            loosen(spills_);
        } else {
            --size_;
            room_for_warm_ = true;
            if (c.state == connection_state::closing) {
                --closing_;
                --key.closing;
            }
        }
        if (via != nullptr) via->dependents.erase(c);
        for_each_dependent(c, [&](pooled_connection& child) {  // closing, too: its transport may be gone last
            c.dependents.erase(child);
            child.via = nullptr;
        });
        table_.erase(c);
        loosen(key.at_limit);
        touch(d);
        if (via != nullptr) unpin(*via, now, out);
    }
    /// Undoes a reservation: nothing was opened yet.
    void forget_planned(pooled_connection& c, instant now, actions& out) {
        for_each_dependent(c, [&](pooled_connection& child) { forget_planned(child, now, out); });
        leave_connecting(c);
        remove(c, now, out);
    }

    // --- deadlines

    /// When the pool has to do something about this connection by itself.
    std::optional<instant> due(const pooled_connection& c, instant now) const {
        auto when = instant::max();
        if (c.leases != 0 && params_.max_lease_time.count() > 0) when = first_long_lease(c);
        if (c.usable()) {
            when = std::min(when, c.expires);
            const auto interval = instant{params_.health_check_interval};
            const auto timeout = c.home->warm == nullptr ? instant{params_.idle_timeout} : instant{};
            if (c.leases != 0) {  // whenever it comes back, nothing is due before this: returning it need not touch the deadlines
                if (interval.count() > 0) when = std::min(when, now + interval);
                if (timeout.count() > 0) when = std::min(when, now + timeout);
            } else if (!c.probing) {
                if (interval.count() > 0) when = std::min(when, c.heard + interval);
                if (timeout.count() > 0 && c.pins == 0) when = std::min(when, c.idle_since + timeout);
            }
        }
        return when == instant::max() ? std::nullopt : std::optional{when};
    }
    /// When the first of its leases that nobody was told of yet will have been held for too long.
    instant first_long_lease(const pooled_connection& c) const noexcept {
        auto when = instant::max();
        for (const auto& slot : c.slots) {
            if (slot.lease != 0 && !slot.told) when = std::min(when, slot.since + instant{params_.max_lease_time});
        }
        return when;
    }
    void arm(pooled_connection& c, instant now) { table_.arm(c, due(c, now)); }
    void rearm_if_earlier(pooled_connection& c, instant now) {
        const auto when = due(c, now);
        if (when && (!c.armed || *when < *c.armed)) table_.arm(c, when);
    }
    /// Enters or leaves the lists of what may be evicted and what may be drained.
    void place(pooled_connection& c) {
        const bool serves = c.usable() && c.pins == 0;
        if (serves) {
            if (!c.in_serving) table_.serving.insert({c.opened_serial, &c});
        } else if (c.in_serving) {
            table_.serving.erase({c.opened_serial, &c});
        }
        c.in_serving = serves;
        const bool idle = serves && c.leases == 0;
        if (idle == (c.idleness != idle_place::none)) return;
        if (!idle) return table_.idle.remove(c);
        c.idle_serial = ++serial_;
        table_.idle.add(c);
        offer(c);
    }
    /// An idle connection may be what somebody of another identity waits for, whom the cap of the key holds up.
    void offer(const pooled_connection& c) {
        for (const auto& [serial, d] : c.key->at_limit.doors) touch(*d);
    }

    pool_event event_of(event_kind kind, const pooled_connection& c, std::optional<close_reason> reason = {}) const {
        pool_event e;
        e.kind = kind;
        e.key = c.key->name;
        e.connection_id = c.id;
        if (kind == event_kind::connected || kind == event_kind::connect_failed || kind == event_kind::backing_off) e.identity = c.identity->name;
        e.reason = reason;
        return e;
    }

    pool_params params_;
    connection_table table_;
    jitter_source jitter_;
    std::uint64_t serial_ = 0;  // orders questions, openings and uses

    std::size_t size_ = 0;        // pooled: planned + opening + open + closing
    std::size_t connecting_ = 0;  // planned + opening
    std::size_t closing_ = 0;
    std::size_t in_use_ = 0;
    std::size_t idle_ = 0;
    std::size_t unpooled_ = 0;
    std::size_t handshakes_ = 0;
    std::size_t connected_hosts_ = 0;
    moving_mean connect_time_;
    key_counters totals_;

    parking by_handshakes_{limit::handshakes};
    parking needs_{limit::connections};         // doors without a connection, at the bound of the pool
    parking spills_{limit::connections_spill};  // doors that want an extra one, at the bound of the pool
    parking warms_{limit::connections_warm};    // doors to be kept connected, for which the pool has no place just now
    bool room_for_warm_ = false;                // they have not been looked at since a place became free
    std::vector<door*> dirty_;                  // a heap: the door of the oldest waiter first
    std::vector<parking*> retry_;

private:
    static bool asked_later(const door* a, const door* b) noexcept { return a->dirty_as > b->dirty_as; }
    void run_through(pooled_connection& c, pooled_connection* via) {
        c.via = via;
        if (via == nullptr) return;
        via->dependents.push_back(c);
        ++via->pins;
        place(*via);
    }
    void unpin(pooled_connection& via, instant now, actions& out) {
        if (via.state == connection_state::planned) touch(*via.home);
        if (--via.pins != 0 || via.state != connection_state::open) return;
        if (via.retired) return close_if_unneeded(via, now, out);
        if (via.leases == 0) via.idle_since = now;
        place(via);
        rearm_if_earlier(via, now);
    }
    /// What several pools lost at one moment, when an sshd was restarted, comes back at several.
    void come_back_apart(door& d, instant now) {
        if (d.warm == nullptr || d.usable > 0) return;
        d.warm->not_before = now + instant{static_cast<instant::rep>(std::abs(jitter_.draw()) * static_cast<double>(instant{params_.backoff_initial}.count()))};
    }
    void leave_usable(pooled_connection& c) {
        auto& d = *c.home;
        tell_followers(d);
        stop_probe(c);
        d.unlist(c);
        d.members.erase(c);
        --d.usable;
        d.capacity -= c.capacity;
        table_.idle.remove(c);
        if (std::exchange(c.in_serving, false)) table_.serving.erase({c.opened_serial, &c});
    }
    void count_close(const pooled_connection& c, close_reason reason) {
        for (auto* counters : {&totals_, &c.key->counters}) {
            ++counters->closed[reason];
            if (reason != close_reason::lru) continue;
            ++counters->evictions;
            if (c.use_count <= 1) ++counters->evicted_before_reuse;
        }
    }
    template <class Do>
    static void for_each_dependent(pooled_connection& c, Do do_it) {
        for (auto* child = c.dependents.front(); child != nullptr;) {
            auto* next = c.dependents.after(*child);
            do_it(*child);
            child = next;
        }
    }
};

}  // namespace sshpool::detail
