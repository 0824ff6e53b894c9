#pragma once

#include <sshpool/detail/pool_explain.hpp>
#include <sshpool/detail/pool_failures.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// What the pool does, decided: events and the time go in, actions come out. No I/O, no clock, no threads.
///
/// Each event takes the time at which it happened and appends what is to be done. Whatever is due by then is done first, in order of time.
/// Ids that are no longer known are ignored, because events race with closes.
/// **Threads**: none of its own; one call at a time.
class pool_core : private pool_failures {
public:
    /// `params` were validated. The seed feeds the jitter and nothing else.
    pool_core(const pool_params& params, std::uint64_t seed) : pool_failures(params, seed) {}

    void acquire(instant now, waiter_id id, const target& to, instant deadline, asking how, std::source_location where, actions& out) {
        advance(now, out);
        if (closed_) {
            out.emplace_back(
                act::fail{id, {make_error(errc::pool_closed), to.key(), "waiting", "the pool was shut down before " + to.key() + " was asked for"}});
            return;
        }
        auto* d = table_.find_door(to);
        if (d != nullptr && d->waiters.empty()) {
            if (auto* c = pick(*d, now, out)) {
                count_grant(*d->key, true, {});
                out.emplace_back(act::grant{id, c->id, lend(*c, now, where)});
                return conclude(now, out);
            }
        }
        if (how == asking::now_or_never) {
            out.emplace_back(act::fail{id, {make_error(errc::pool_exhausted), to.key(), "waiting", "no connection to " + to.key() + " can be lent at once"}});
            return conclude(now, out);
        }
        if (auto why = impossible(to); why) {
            out.emplace_back(act::fail{id, std::move(why)});
            return conclude(now, out);
        }
        d = &table_.door_of(to);
        table_.add_waiter({id, to, d, now, deadline, ++serial_, where});
        touch(*d);
        conclude(now, out);
        if (params_.when_full == full_policy::fail) fail_if_full(id, now, out);
    }

    /// The caller wants it no more; what is under way goes on for whoever comes next.
    void cancelled(instant now, waiter_id id, actions& out) {
        advance(now, out);
        if (auto* w = table_.find_waiter(id)) {
            fail(*w, {make_error(errc::cancelled), w->home->key->name, "waiting", "cancelled while waiting for a connection to " + w->home->key->name}, out);
            conclude(now, out);
        }
    }

    void opened(instant now, connection_id id, const connect_phases& phases, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || c->state != connection_state::opening) return;
        enter_open(*c, now, phases);
        measure(phases);
        connect_time_.add(phases.total());
        c->key->connect_time.add(phases.total());
        connect_succeeded(*c, now, out);
        auto event = event_of(event_kind::connected, *c);
        event.phases = phases;
        announce(out, std::move(event));
        if (c->unpooled) {
            announce(out, event_of(event_kind::unpooled, *c));
            if (c->home->waiters.empty()) {
                close(*c, close_reason::discarded, {}, now, out);
            } else {
                grant(*c->home->waiters.front(), *c, now, out);
            }
        }
        wake_dependents(*c);
        touch(*c->home);
        conclude(now, out);
    }

    void open_failed(instant now, connection_id id, const error_info& why, const connect_phases& phases, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || c->state != connection_state::opening) return;
        measure(phases);
        connect_failed(*c, why, phases, now, out);
        conclude(now, out);
    }

    /// `heard`: when bytes last came from the server.
    void released(instant now, connection_id id, lease_id lease, instant heard, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        auto* slot = c != nullptr ? c->find_lease(lease) : nullptr;
        if (slot == nullptr) return;
        heard_something(heard, now, out);
        take_back(*c, *slot, now, heard, out);
        if (!c->home->waiters.empty()) touch(*c->home);
        conclude(now, out);
    }

    /// Lend it no more; its other holders finish in peace.
    void discarded(instant now, connection_id id, actions& out) { retire_one(now, id, out); }

    /// The transport died.
    void lost(instant now, connection_id id, const error_info& why, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || c->state != connection_state::open) return;
        c->key->failures.add(why, now);
        close(*c, close_reason::lost, why, now, out);
        conclude(now, out);
    }

    /// The answer to a probe; an empty code: it lives. What others still use is not taken from them: it is lent no more, for a network that stood still for
    /// some seconds may go on, and what is dead is lost soon enough; and where anything was heard since the probe began, it lives, too.
    void probed(instant now, connection_id id, const error_info& result, instant heard, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || !c->probing) return;
        stop_probe(*c);
        if (result && (c->unneeded() || heard <= c->probed_at)) {
            for (auto* counters : {&totals_, &c->key->counters}) ++counters->health_check_failures;
            c->key->failures.add(result, now);
            auto event = event_of(event_kind::probe_failed, *c);
            event.error = result;
            announce(out, std::move(event));
            if (c->unneeded()) {
                close(*c, close_reason::unhealthy, result, now, out);
            } else {
                retire(*c, close_reason::unhealthy, now, out);
            }
        } else {
            heard_something(now, now, out);
            c->suspect = false;
            c->heard = now;
            if (c->lendable()) c->home->list(*c);
            arm(*c, now);
            wake_dependents(*c);
            touch(*c->home);
            offer(*c);
        }
        conclude(now, out);
    }

    /// How many leases the connection can carry, as its server taught; 0: it is tainted.
    void capacity(instant now, connection_id id, std::size_t leases, actions& out) {
        if (leases == 0) return retire_one(now, id, out);
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || !c->usable()) return;
        c->key->learned_capacity = leases;
        if (std::exchange(c->learned_capacity, leases) == leases) return;
        const auto allowed = std::min(leases, params_.leases_per_connection);
        if (leases < params_.leases_per_connection) {
            auto event = event_of(event_kind::limit_learned, *c);
            event.count = leases;
            announce(out, std::move(event));
        }
        if (allowed == c->capacity) return;
        set_capacity(*c, allowed);
        touch(*c->home);
        conclude(now, out);
    }

    /// The close action has ended: its slot is free.
    void closed(instant now, connection_id id, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || c->state != connection_state::closing) return;
        remove(*c, now, out);
        conclude(now, out);
    }

    void invalidate(instant now, std::string_view key, actions& out) {
        advance(now, out);
        setbacks_.forget(key);
        look_again(back_off_book::endpoint_of(key));
        if (auto* k = table_.find_key(key)) {
            k->learned_capacity = 0;
            return retire_all(k->all, close_reason::invalidated, now, out);
        }
        conclude(now, out);
    }
    /// A principal's label, also where it names only a part of the credentials, or a credentials' identity. Looks at every identity there is.
    void invalidate_identity(instant now, std::string_view identity, actions& out) {
        advance(now, out);
        retire_each(table_.connections_of(identity), close_reason::invalidated, now, out);
    }
    void close_all(instant now, actions& out) {
        advance(now, out);
        setbacks_.clear();
        table_.for_each_door([this](door& d) { touch(d); });
        retire_all(table_.all, close_reason::invalidated, now, out);
    }

    /// These hosts are kept connected from now on. One that is kept already by that key is replaced.
    void keep_warm(instant now, const std::vector<target>& targets, actions& out) {
        advance(now, out);
        if (closed_) return;
        for (const auto& to : targets) {
            if (auto* before = table_.keep_warm(to, first_warm_place + ++serial_)) cool_down(*before, now);
            touch(table_.door_of(to));
        }
        conclude(now, out);
    }
    void forget_warm(instant now, std::string_view key, actions& out) {
        advance(now, out);
        if (auto* d = table_.forget_warm(key)) cool_down(*d, now);
        conclude(now, out);
    }

    /// The machine slept for that long, and the clock of the pool stood still meanwhile. Nothing that was open then is lent before it was asked whether it
    /// lives: bytes that are read later may have come before. What would have expired meanwhile does so within a while, not all at once.
    void suspended(instant now, std::chrono::nanoseconds slept, actions& out) {
        advance(now, out);
        for (auto* c = table_.all.front(); c != nullptr; c = table_.all.after(*c)) {
            if (c->state != connection_state::open) continue;
            c->suspect = true;
            if (c->expires == instant::max() || !c->usable()) continue;
            const auto spread = std::abs(jitter_.draw()) * static_cast<double>(std::min(instant{params_.connection_ttl} / 4, longest_spread).count());
            c->expires = std::min(c->expires, std::max(c->expires - slept, now + instant{1} + instant{static_cast<instant::rep>(spread)}));
            arm(*c, now);
            if (c->home->warm != nullptr) touch(*c->home);
        }
        pool_event event;
        event.kind = event_kind::suspended;
        event.duration = slept;
        announce(out, std::move(event));
        conclude(now, out);
    }

    /// Refuses new callers, answers the waiting ones, lets the leased connections drain. `act::drained` follows when nothing is left.
    void shut_down(instant now, actions& out) {
        advance(now, out);
        if (std::exchange(closed_, true)) return;
        for (auto* w : table_.waiters_by_age()) {
            fail(*w, {make_error(errc::pool_closed), w->home->key->name, "waiting", "the pool was shut down while waiting for " + w->home->key->name}, out);
        }
        for (const auto& key : table_.warm_keys()) touch(*table_.forget_warm(key));
        retire_all(table_.all, close_reason::shutdown, now, out);
    }
    /// After `shut_down`: closes also what is leased.
    void force(instant now, actions& out) {
        advance(now, out);
        if (!closed_) return;
        for (const auto id : ids_of(table_.all)) {
            if (auto* c = table_.find(id)) close(*c, close_reason::shutdown, {}, now, out);
        }
        conclude(now, out);
    }

    void channel_opened(std::chrono::nanoseconds took) noexcept {
        channel_open_.record(took);
        if (took == std::chrono::nanoseconds::zero()) ++spare_hits_;  // it was open when it was asked for
    }

    /// Does what is due.
    void advance(instant now, actions& out) {
        if (const auto next = next_deadline(); !next || *next > now) return;
        while (auto* w = table_.waiter_due(now)) time_out(*w, now, out);
        for (;;) {
            if (auto* c = table_.connection_due(now)) {
                attend(*c, now, out);
            } else if (auto* d = table_.door_due(now)) {
                table_.set_timer(*d, std::nullopt);
                touch(*d);
            } else {
                break;
            }
        }
        conclude(now, out);
    }
    /// When `advance` has to be called; it may turn out to be too early, never too late. Nothing: no timer is needed.
    std::optional<instant> next_deadline() const {
        auto next = table_.next_due();
        if (pool_deadline_ && (!next || *pool_deadline_ < *next)) next = pool_deadline_;
        return next;
    }

    bool empty() const noexcept { return table_.connection_count() == 0 && table_.waiter_count() == 0; }
    const connection_table& table() const noexcept { return table_; }

    pool_stats stats() const {
        auto s = stats_of(totals_);
        s.pool_size = size_;
        s.in_use = in_use_;
        s.idle = idle_;
        s.connecting = connecting_;
        s.waiting = table_.waiter_count();
        s.acquire_wait = acquire_wait_;
        s.connect_tcp = connect_tcp_;
        s.connect_key_exchange = connect_key_exchange_;
        s.connect_login = connect_login_;
        s.channel_open = channel_open_;
        s.spare_hits = spare_hits_;
        return s;
    }
    /// With the `hosts` keys that were lent most often, of those that have a connection or a caller now.
    pool_snapshot snapshot(std::size_t hosts) const {
        pool_snapshot s{stats(), {}};
        for (const auto* k : table_.busiest(hosts)) s.hosts.emplace_back(k->name, stats(k->name));
        return s;
    }
    pool_stats stats(std::string_view key) const {
        const auto* k = table_.find_key(key);
        if (k == nullptr) return {};
        auto s = stats_of(k->counters);
        for (const auto* c = k->all.front(); c != nullptr; c = k->all.after(*c)) {
            if (c->unpooled) continue;
            ++s.pool_size;
            if (c->state == connection_state::open) ++(c->leases > 0 ? s.in_use : s.idle);
        }
        s.connecting = k->connecting;
        s.waiting = k->waiting;
        return s;
    }
    std::optional<connection_info> info(connection_id id) const {
        const auto* c = table_.find(id);
        if (c == nullptr || !c->was_open) return std::nullopt;
        return info_of(*c, params_);
    }
    /// For people: how things stand and why, who holds what since when, what failed last. No secret in it.
    std::string explain(std::string_view key, instant now) const {
        const explanation::facts known{table_, setbacks_, penalties_, busy_, outage_, params_, figures()};
        return explanation{known, now}.of(key);
    }

private:
    static constexpr waiter_id first_warm_place = waiter_id{1} << 63U;  // in queues, behind every caller
    static constexpr instant longest_spread = std::chrono::minutes{1};

    void conclude(instant now, actions& out) {
        if (!dirty_.empty() || !retry_.empty() || !needs_.doors.empty() || !spills_.doors.empty()) settle(now, out);
        if (closed_ && !drained_ && empty()) {
            drained_ = true;
            out.emplace_back(act::drained{});
        }
    }

    /// A chain that can never be there as a whole.
    error_info impossible(const target& to) const {
        const auto refuse = [&](const std::string& why) { return error_info{make_error(errc::pool_exhausted), to.key(), "waiting", why}; };
        if (to.jumps() + 1 > params_.max_connections) {
            return refuse(to.key() + " is reached through " + std::to_string(to.jumps()) + " jump hosts and so needs " + std::to_string(to.jumps() + 1) +
                          " connections, but pool_params::max_connections is " + std::to_string(params_.max_connections));
        }
        for (const auto* link = to.jump() != nullptr ? &to : nullptr; link != nullptr; link = link->jump()) {
            std::size_t same = 0;
            for (const auto* other = link; other != nullptr; other = other->jump()) same += other->key() == link->key() ? 1 : 0;
            if (same > params_.max_connections_per_host) {
                return refuse("the way to " + to.key() + " needs " + std::to_string(same) + " connections to " + link->key() +
                              ", but pool_params::max_connections_per_host is " + std::to_string(params_.max_connections_per_host));
            }
        }
        return {};
    }

    /// `full_policy::fail`: every connection of its door is full, and the pool has no place for another one.
    void fail_if_full(waiter_id id, instant now, actions& out) {
        auto* w = table_.find_waiter(id);
        if (w == nullptr) return;
        const auto& d = *w->home;
        if (d.usable == 0 || d.opening != nullptr || d.probing > 0 || free_slots() > 0 || closing_ > 0 || can_evict(now)) return;
        fail(*w, exhausted(*w), out);
        conclude(now, out);
    }

    void retire_one(instant now, connection_id id, actions& out) {
        advance(now, out);
        auto* c = table_.find(id);
        if (c == nullptr || c->state != connection_state::open) return;
        retire(*c, close_reason::discarded, now, out);
        conclude(now, out);
    }
    template <class List>
    static std::vector<connection_id> ids_of(const List& list) {
        std::vector<connection_id> ids;
        ids.reserve(list.size());
        for (const auto* c = list.front(); c != nullptr; c = list.after(*c)) ids.push_back(c->id);
        return ids;
    }
    template <class List>
    void retire_all(const List& list, close_reason reason, instant now, actions& out) {
        retire_each(ids_of(list), reason, now, out);
    }
    void retire_each(const std::vector<connection_id>& ids, close_reason reason, instant now, actions& out) {
        for (const auto id : ids) {
            if (auto* c = table_.find(id)) retire(*c, reason, now, out);
        }
        conclude(now, out);
    }

    void wake_dependents(pooled_connection& c) {
        for (auto* child = c.dependents.front(); child != nullptr; child = c.dependents.after(*child)) {
            if (child->state == connection_state::planned) touch(*child->home);
        }
    }
    void time_out(waiter& w, instant now, actions& out) {
        auto& key = *w.home->key;
        error_info info{make_error(errc::acquire_timeout), key.name, "waiting", wait_text(w, figures(), params_, now)};
        for (auto* counters : {&totals_, &key.counters}) ++counters->wait_timeouts;
        pool_event event;
        event.kind = event_kind::acquire_timeout;
        event.key = key.name;
        event.error = info;
        fail(w, std::move(info), out);
        announce(out, std::move(event));
    }
    void attend(pooled_connection& c, instant now, actions& out) {
        if (c.leases != 0 && params_.max_lease_time.count() > 0) tell_long_leases(c, now, out);
        if (c.usable()) {
            if (c.is_expired(now)) return retire(c, close_reason::ttl, now, out);
            if (!c.probing && c.home->warm == nullptr && c.is_idle(now, params_.idle_timeout)) return retire(c, close_reason::idle, now, out);
            if (!c.probing && c.leases == 0 && !c.is_healthy(now, params_.health_check_interval)) start_probe(c, now, out);
        }
        arm(c, now);
    }
    /// It is not kept connected any more: its idle timeout counts again.
    void cool_down(door& d, instant now) {
        for (auto* c = d.members.front(); c != nullptr; c = d.members.after(*c)) arm(*c, now);
        touch(d);
    }
    void measure(const connect_phases& phases) noexcept {
        if (phases.tcp.count() > 0) connect_tcp_.record(phases.tcp);
        if (phases.key_exchange.count() > 0) connect_key_exchange_.record(phases.key_exchange);
        if (phases.login.count() > 0) connect_login_.record(phases.login);
    }
    pool_figures figures() const noexcept { return {size_, in_use_, idle_, connecting_, closing_, unpooled_, table_.waiter_count(), handshakes_}; }

    time_histogram connect_tcp_, connect_key_exchange_, connect_login_, channel_open_;
    std::uint64_t spare_hits_ = 0;
    bool closed_ = false;
    bool drained_ = false;
};

}  // namespace sshpool::detail
