#pragma once

#include <sshpool/connection_info.hpp>
#include <sshpool/detail/estimates.hpp>
#include <sshpool/detail/intrusive_list.hpp>
#include <sshpool/detail/pool_actions.hpp>
#include <sshpool/pool_params.hpp>
#include <sshpool/pool_stats.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <set>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

namespace sshpool::detail {

struct door;
struct key_state;
struct host_state;
struct identity_state;
struct warm_host;

enum class connection_state : std::uint8_t {
    planned,  ///< its slot is reserved; it opens once the jump host is open
    opening,
    open,
    closing,  ///< until the transport says that it has gone
};

/// Who holds a lease, for `explain`.
struct lease_slot {
    lease_id lease = 0;  ///< 0: free
    instant since{};
    std::source_location where;
    std::size_t next_free = 0;
    bool told = false;  ///< that it is held for too long
};

enum class idle_place : std::uint8_t { none, fresh, ripening, ripe };

/// One connection, from the moment its slot is taken until that is free again.
struct pooled_connection {
    pooled_connection(connection_id i, target t, door& d, key_state& k, host_state& h, identity_state& who)
        : id(i), home(&d), key(&k), to(std::move(t)), host(&h), identity(&who) {}

    // What each lend and return touches stands together: in a large pool it is memory that costs.
    connection_id id;
    door* home;
    key_state* key;
    connection_state state = connection_state::planned;
    bool unpooled = false;
    bool probing = false;
    bool invalidated = false;  ///< maybe after it was retired for another reason
    bool handshaking = false;
    bool was_open = false;
    bool in_serving = false;
    bool suspect = false;  ///< the machine slept since it was last asked whether it lives
    bool at_risk = false;  ///< its login may be refused, and counts among those that sshd punishes
    idle_place idleness = idle_place::none;
    std::optional<close_reason> retired;  ///< lent no more, for this reason; closes when nobody needs it
    std::size_t leases = 0;
    std::size_t capacity = 0;
    std::size_t level = 0;
    std::size_t pins = 0;  ///< connections that run through this one, planned and closing ones included
    list_hook<pooled_connection> in_level, in_idle;
    instant probed_at{};  ///< when the last probe began
    instant heard{};
    instant expires = instant::max();
    instant last_used{};
    instant idle_since{};
    std::optional<instant> armed;  ///< its entry among the deadlines; never later than what is really due
    std::uint64_t use_count = 0;
    std::uint64_t use_serial = 0;     ///< orders last uses
    std::uint64_t idle_serial = 0;    ///< orders the beginnings of idleness
    std::uint64_t opened_serial = 0;  ///< orders openings among questions
    std::vector<lease_slot> slots;
    std::size_t free_slot = 0;  ///< one more than its index; 0: none

    target to;
    host_state* host;
    identity_state* identity;
    std::size_t learned_capacity = 0;  ///< 0: nothing was learned
    pooled_connection* via = nullptr;
    waiter_id planned_for = 0;  ///< its place in a queue while it is planned
    instant started{};
    instant created{};
    instant open_took{};
    list_hook<pooled_connection> in_all, in_key, in_identity, in_members, in_dependents;
    intrusive_list<pooled_connection, &pooled_connection::in_dependents> dependents;

    bool is_expired(instant now) const noexcept { return now >= expires; }
    bool is_idle(instant now, instant timeout) const noexcept { return leases == 0 && pins == 0 && timeout.count() > 0 && now - idle_since >= timeout; }
    bool is_healthy(instant now, instant interval) const noexcept { return !suspect && (interval.count() == 0 || now - heard < interval); }
    /// Part of the pool: may be lent now or when a lease comes back or its probe is answered.
    bool usable() const noexcept { return state == connection_state::open && !retired && !unpooled; }
    bool lendable() const noexcept { return usable() && !probing && leases < capacity; }
    bool unneeded() const noexcept { return leases == 0 && pins == 0; }

    static constexpr unsigned slot_bits = 24;  // validate() allows fewer leases than this can count

    lease_id add_lease(std::uint64_t serial, instant now, const std::source_location& where) {
        if (free_slot == 0) {
            slots.emplace_back();
            free_slot = slots.size();
        }
        const auto index = free_slot - 1;
        auto& slot = slots[index];
        free_slot = slot.next_free;
        slot.lease = (serial << slot_bits) | index;
        slot.since = now;
        slot.where = where;
        slot.told = false;
        ++leases;
        return slot.lease;
    }
    lease_slot* find_lease(lease_id lease) noexcept {
        const auto index = static_cast<std::size_t>(lease & ((lease_id{1} << slot_bits) - 1));
        return index < slots.size() && slots[index].lease == lease && lease != 0 ? &slots[index] : nullptr;
    }
    void end_lease(lease_slot& slot) noexcept {
        slot.lease = 0;
        slot.next_free = free_slot;
        free_slot = static_cast<std::size_t>(&slot - slots.data()) + 1;
        --leases;
    }
};

/// Idle connections in the order in which they became idle, and which of them may be evicted: those that were idle for as long as they
/// took to open. The sets are filled only while somebody waits for a slot; until then an idle connection costs a list entry.
class idle_order {
public:
    void add(pooled_connection& c) {
        c.idleness = idle_place::fresh;
        fresh_.push_back(c);
    }
    void remove(pooled_connection& c) {
        switch (c.idleness) {
            case idle_place::none:
                return;
            case idle_place::fresh:
                fresh_.erase(c);
                break;
            case idle_place::ripening:
                ripening_.erase({ripe_at(c), &c});
                break;
            case idle_place::ripe:
                ripe_.erase({c.idle_serial, &c});
                break;
        }
        c.idleness = idle_place::none;
    }
    static instant ripe_at(const pooled_connection& c) noexcept { return c.idle_since + c.open_took; }

    /// The one that has been idle longest among the ripe ones for which `allowed` holds; with `unripe` among all.
    template <class Allowed>
    pooled_connection* oldest(instant now, bool unripe, Allowed allowed) {
        while (auto* c = fresh_.front()) {
            fresh_.erase(*c);
            c->idleness = idle_place::ripening;
            ripening_.insert({ripe_at(*c), c});
        }
        while (!ripening_.empty() && (unripe || ripening_.begin()->first <= now)) {
            auto* c = ripening_.begin()->second;
            ripening_.erase(ripening_.begin());
            c->idleness = idle_place::ripe;
            ripe_.insert({c->idle_serial, c});
        }
        for (const auto& [serial, c] : ripe_) {
            if (allowed(*c)) return c;
        }
        return nullptr;
    }
    /// When the next one ripens; right only after `oldest`.
    std::optional<instant> next_ripe() const { return ripening_.empty() ? std::nullopt : std::optional{ripening_.begin()->first}; }

private:
    intrusive_list<pooled_connection, &pooled_connection::in_idle> fresh_;
    std::set<std::pair<instant, pooled_connection*>> ripening_;
    std::set<std::pair<std::uint64_t, pooled_connection*>> ripe_;
};

/// A caller in the queue of its door.
struct waiter {
    waiter_id id;
    target to;
    door* home;
    instant asked;
    instant deadline;
    std::uint64_t serial;  ///< orders questions among openings
    std::source_location where;
    list_hook<waiter> in_door{};
};

enum class limit { none, handshakes, host_handshakes, host_logins, key_connections, key_connects, connections, connections_spill, connections_warm };

/// Doors held up by one limit, oldest waiter first.
struct parking {
    limit why;
    void* owner = nullptr;  ///< the key_state or host_state it belongs to
    std::set<std::pair<waiter_id, door*>> doors{};
    std::size_t demand = 0;  ///< slots they need together
    waiter_id tried = 0;     ///< while the limit is loose: those up to this one have been tried
    bool retrying = false;
};

/// All who may share connections: equal key and equal match.
struct door {
    door(const target& t, key_state& k, host_state& h) : to(t), key(&k), host(&h) {}

    target to;
    key_state* key;
    host_state* host;
    intrusive_list<waiter, &waiter::in_door> waiters;
    std::vector<intrusive_list<pooled_connection, &pooled_connection::in_level>> levels;  ///< lendable ones by leases; in a level the last used first
    std::size_t lowest = 0;                                                               ///< no level below it has one
    std::size_t connections = 0;                                                          ///< in any state
    std::size_t usable = 0;
    std::size_t probing = 0;
    std::size_t capacity = 0;  ///< of the usable ones together
    std::size_t unpooled_opening = 0;
    pooled_connection* opening = nullptr;                                       ///< planned or opening, for the pool
    intrusive_list<pooled_connection, &pooled_connection::in_members> members;  ///< the usable ones

    instant last_opened = instant::min();
    warm_host* warm = nullptr;     ///< it is kept connected
    bool several_secrets = false;  ///< its callers share a principal, not the secrets
    std::optional<instant> timer;
    parking* parked_in = nullptr;
    waiter_id parked_as = 0;
    std::size_t parked_demand = 0;
    bool following = false;  ///< wants to know what becomes of its jump hosts
    list_hook<door> in_key, in_host;
    bool dirty = false;
    waiter_id dirty_as = 0;

    void list(pooled_connection& c) {
        if (levels.size() <= c.leases) levels.resize(c.leases + 1);
        c.level = c.leases;
        auto& level = levels[c.level];
        auto* place = level.front();
        if (place == nullptr || place->use_serial <= c.use_serial) {
            level.push_front(c);
        } else {  // not used just now: a probe or a learned limit brought it back
            while (level.after(*place) != nullptr && level.after(*place)->use_serial > c.use_serial) place = level.after(*place);
            level.insert_after(place, c);
        }
        lowest = std::min(lowest, c.level);
    }
    void unlist(pooled_connection& c) {
        if (c.in_level.linked) levels[c.level].erase(c);
    }
    /// The one to lend: the fewest leases, and the last used of these, so that those not needed can become idle.
    pooled_connection* best() noexcept {
        while (lowest < levels.size() && levels[lowest].empty()) ++lowest;
        return lowest < levels.size() ? levels[lowest].front() : nullptr;
    }
};

/// What is counted per key.
struct key_counters {
    std::uint64_t hits = 0, misses = 0, evictions = 0, health_check_failures = 0, created = 0, wait_timeouts = 0, unpooled = 0, evicted_before_reuse = 0;
    std::uint64_t backed_off = 0, busy_retries = 0, long_leases = 0;
    counter_by<errc, errors.size() + 1> connect_failures;
    counter_by<close_reason, close_reasons> closed;
};

struct failure {
    error_info error;
    instant when{};
    std::size_t times = 1;
};

/// What failed last: one of a sort, the newest first.
class failure_log {
public:
    static constexpr std::size_t most = 3;

    void add(const error_info& e, instant now) {
        const auto same =
            std::find_if(failures_.begin(), failures_.end(), [&](const failure& f) { return f.error.code == e.code && f.error.phase == e.phase; });
        const auto times = same != failures_.end() ? same->times + 1 : 1;
        if (same != failures_.end()) failures_.erase(same);
        if (failures_.size() == most) failures_.pop_back();
        failures_.insert(failures_.begin(), {e, now, times});
    }
    const failure* last() const noexcept { return failures_.empty() ? nullptr : &failures_.front(); }
    auto begin() const noexcept { return failures_.begin(); }
    auto end() const noexcept { return failures_.end(); }

private:
    std::vector<failure> failures_;
};

/// All doors of one "user@host:port". Remembered for a while when nothing of it is left.
struct key_state {
    explicit key_state(std::string n) : name(std::move(n)) {}

    std::string name;
    std::size_t connections = 0;  ///< in any state, unpooled ones included
    std::size_t connecting = 0;
    std::size_t closing = 0;
    std::size_t waiting = 0;
    moving_mean connect_time;
    moving_mean hold_time;
    key_counters counters;
    failure_log failures;
    std::size_t learned_capacity = 0;  ///< leases that the server allows one connection; 0: nothing was learned
    std::string proven;                ///< the digest of the credentials that logged in last and were not refused since
    intrusive_list<pooled_connection, &pooled_connection::in_key> all;
    intrusive_list<door, &door::in_key> doors;
    parking at_limit{limit::key_connections, this};
    parking behind_connect{limit::key_connects, this};
    std::optional<std::list<key_state*>::iterator> forgotten;
};

/// One "host:port": what handshakes are counted by.
struct host_state {
    explicit host_state(std::string n) : name(std::move(n)) {}

    std::string name;
    std::size_t handshakes = 0;
    std::size_t users = 0;  ///< doors of it, and what waits for it
    std::size_t open = 0;   ///< open connections
    intrusive_list<door, &door::in_host> doors;
    std::size_t at_risk = 0;  ///< handshakes whose login may be refused
    parking at_limit{limit::host_handshakes, this};
    parking at_login_limit{limit::host_logins, this};
};

/// A host that is kept connected.
struct warm_host {
    target to;
    door* home;
    waiter_id place;                      ///< in queues: behind all callers
    instant not_before = instant::min();  ///< what was lost together comes back apart
};

/// The connections of one identity, so that a revoked key finds them.
struct identity_state {
    explicit identity_state(std::string n) : name(std::move(n)) {}

    std::string name;
    intrusive_list<pooled_connection, &pooled_connection::in_identity> all;
};

}  // namespace sshpool::detail
