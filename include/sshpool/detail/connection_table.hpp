#pragma once

#include <sshpool/detail/pooled_connection.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Every connection, door, key and waiter of a pool, found in O(1), and everything that has a time, in order of time. Keeps books, decides
/// nothing.
class connection_table {
public:
    connection_table() = default;
    connection_table(const connection_table&) = delete;
    connection_table& operator=(const connection_table&) = delete;

    pooled_connection* find(connection_id id) {
        const auto it = connections_.find(id);
        return it == connections_.end() ? nullptr : &it->second;
    }
    const pooled_connection* find(connection_id id) const {
        const auto it = connections_.find(id);
        return it == connections_.end() ? nullptr : &it->second;
    }
    waiter* find_waiter(waiter_id id) {
        const auto it = waiters_.find(id);
        return it == waiters_.end() ? nullptr : &it->second;
    }
    bool is_waiting(waiter_id id) const { return waiters_.contains(id); }
    door* find_door(const target& t) {
        const auto it = doors_.find(t);
        return it == doors_.end() ? nullptr : &it->second;
    }
    key_state* find_key(std::string_view name) {
        const auto it = keys_.find(name);
        return it == keys_.end() ? nullptr : &it->second;
    }
    const key_state* find_key(std::string_view name) const {
        const auto it = keys_.find(name);
        return it == keys_.end() ? nullptr : &it->second;
    }
    host_state* find_host(std::string_view name) {
        const auto it = hosts_.find(name);
        return it == hosts_.end() ? nullptr : &it->second;
    }
    door& door_of(const target& t) {
        if (auto* d = find_door(t)) return *d;
        auto& key = key_of(t.key());
        auto& host = host_of(t.endpoint());
        auto& d = doors_.try_emplace(t, t, key, host).first->second;
        ++host.users;
        key.doors.push_back(d);
        host.doors.push_back(d);
        if (key.forgotten) {
            unused_.erase(*key.forgotten);
            key.forgotten.reset();
        }
        return d;
    }
    std::vector<const key_state*> busiest(std::size_t most) const {
        std::vector<const key_state*> used;
        for (const auto& [name, key] : keys_) {
            if (most != 0 && !key.forgotten) used.push_back(&key);
        }
        const auto lent = [](const key_state* k) { return k->counters.hits + k->counters.misses; };
        std::sort(used.begin(), used.end(), [&](const key_state* a, const key_state* b) { return lent(a) != lent(b) ? lent(a) > lent(b) : a->name < b->name; });
        if (used.size() > most) used.resize(most);
        return used;
    }
    /// Forgets a door that nothing and nobody uses. The key's figures are kept for a while.
    void drop_if_unused(door& d) {
        if (d.connections != 0 || !d.waiters.empty() || d.parked_in != nullptr || d.dirty || d.warm != nullptr) return;
        set_timer(d, std::nullopt);
        auto& key = *d.key;
        auto& host = *d.host;
        key.doors.erase(d);
        host.doors.erase(d);
        doors_.erase(target{d.to});
        if (key.doors.empty()) {
            key.forgotten = unused_.insert(unused_.end(), &key);
            auto* oldest = unused_.front();
            const bool held = !oldest->at_limit.doors.empty() || oldest->at_limit.retrying || oldest->behind_connect.retrying;
            if (unused_.size() > most_remembered && !held) {
                unused_.pop_front();
                keys_.erase(keys_.find(oldest->name));
            }
        }
        release(host);
    }
    void hold(host_state& h) noexcept { ++h.users; }
    void release(host_state& h) {
        if (--h.users == 0) hosts_.erase(hosts_.find(h.name));
    }

    pooled_connection& add_connection(door& d, const target& to) {
        auto& who = identity_of(to.identity());
        const auto id = ++last_id_;
        auto& c = connections_.try_emplace(id, id, to, d, *d.key, *d.host, who).first->second;
        all.push_back(c);
        d.key->all.push_back(c);
        who.all.push_back(c);
        ++d.connections;
        ++d.key->connections;
        return c;
    }
    /// The caller has taken it off every list but these.
    void erase(pooled_connection& c) {
        arm(c, std::nullopt);
        all.erase(c);
        c.key->all.erase(c);
        c.identity->all.erase(c);
        if (c.identity->all.empty()) identities_.erase(identities_.find(c.identity->name));
        --c.home->connections;
        --c.key->connections;
        connections_.erase(c.id);
    }

    /// Keeps a host connected from now on; gives the door that was kept for that key until now, if it is another one.
    door* keep_warm(const target& to, waiter_id place) {
        auto& d = door_of(to);
        const auto [it, fresh] = warm_.try_emplace(to.key(), warm_host{to, &d, place});
        auto* before = fresh ? nullptr : it->second.home;
        if (before != nullptr) before->warm = nullptr;
        it->second.to = to;
        it->second.home = &d;
        d.warm = &it->second;
        return before == &d ? nullptr : before;
    }
    /// The door that is kept no more.
    door* forget_warm(std::string_view key) {
        const auto it = warm_.find(key);
        if (it == warm_.end()) return nullptr;
        auto* d = it->second.home;
        d->warm = nullptr;
        warm_.erase(it);
        return d;
    }
    /// Somebody who asks for this now may get it without waiting.
    bool may_be_lent(const target& to) const {
        const auto at = doors_.find(to);
        return at != doors_.end() && at->second.usable > 0 && at->second.waiters.empty();
    }
    /// It was invalidated, or found unfit: not to be lent even to whom it was granted to already.
    bool is_unfit(connection_id id) const {
        const auto* c = find(id);
        return c != nullptr && (c->invalidated || (c->retired == close_reason::discarded && !c->unpooled));
    }
    std::vector<std::string> warm_keys() const {
        std::vector<std::string> keys;
        for (const auto& [key, host] : warm_) keys.push_back(key);
        return keys;
    }

    /// At the end of its door's queue; one that had its answer taken back goes where it was, before those with higher numbers.
    waiter& add_waiter(waiter w) {
        const auto id = w.id;
        auto& placed = waiters_.insert_or_assign(id, std::move(w)).first->second;
        auto& d = *placed.home;
        if (!d.waiters.empty() && d.waiters.front()->to.credential_digest() != placed.to.credential_digest()) d.several_secrets = true;
        auto* place = d.waiters.back();
        while (place != nullptr && place->id > id) place = d.waiters.before(*place);
        d.waiters.insert_after(place, placed);
        ++placed.home->key->waiting;
        waiter_deadlines_.insert({placed.deadline, id});
        return placed;
    }
    void erase(waiter& w) {
        waiter_deadlines_.erase({w.deadline, w.id});
        w.home->waiters.erase(w);
        --w.home->key->waiting;
        waiters_.erase(w.id);
    }

    /// A door that waits is looked at again when something changes with a jump host on its way, and these are not evicted under it.
    void follow(door& d) {
        if (d.to.jump() == nullptr || std::exchange(d.following, true)) return;
        for (const auto* link = d.to.jump(); link != nullptr; link = link->jump()) followers_[*link].insert(&d);
    }
    void unfollow(door& d) {
        if (!std::exchange(d.following, false)) return;
        for (const auto* link = d.to.jump(); link != nullptr; link = link->jump()) {
            const auto of = followers_.find(*link);
            of->second.erase(&d);
            if (of->second.empty()) followers_.erase(of);
        }
    }
    bool is_followed(const door& d) const { return !followers_.empty() && followers_.find(d.to) != followers_.end(); }
    template <class Do>
    void for_each_follower(const door& d, Do do_it) const {
        if (followers_.empty()) return;
        const auto of = followers_.find(d.to);
        if (of == followers_.end()) return;
        for (auto* follower : of->second) do_it(*follower);
    }

    /// Those that wait for a jump host at this "host:port".
    template <class Do>
    void for_each_follower_of(std::string_view endpoint, Do do_it) const {
        for (const auto& [jump, followers] : followers_) {
            if (jump.endpoint() != endpoint) continue;
            for (auto* follower : followers) do_it(*follower);
        }
    }
    template <class Do>
    void for_each_door(Do do_it) {
        for (auto& [to, d] : doors_) do_it(d);
    }

    /// Sets or clears the one deadline of a connection.
    void arm(pooled_connection& c, std::optional<instant> when) {
        if (c.armed == when) return;
        if (c.armed) connection_deadlines_.erase({*c.armed, &c});
        if (when) connection_deadlines_.insert({*when, &c});
        c.armed = when;
    }
    void set_timer(door& d, std::optional<instant> when) {
        if (d.timer == when) return;
        if (d.timer) door_timers_.erase({*d.timer, &d});
        if (when) door_timers_.insert({*when, &d});
        d.timer = when;
    }

    waiter* waiter_due(instant now) {
        return !waiter_deadlines_.empty() && waiter_deadlines_.begin()->first <= now ? find_waiter(waiter_deadlines_.begin()->second) : nullptr;
    }
    pooled_connection* connection_due(instant now) {
        return !connection_deadlines_.empty() && connection_deadlines_.begin()->first <= now ? connection_deadlines_.begin()->second : nullptr;
    }
    door* door_due(instant now) { return !door_timers_.empty() && door_timers_.begin()->first <= now ? door_timers_.begin()->second : nullptr; }
    std::optional<instant> next_due() const {
        std::optional<instant> next;
        const auto consider = [&](const auto& ordered) {
            if (!ordered.empty() && (!next || ordered.begin()->first < *next)) next = ordered.begin()->first;
        };
        consider(waiter_deadlines_);
        consider(connection_deadlines_);
        consider(door_timers_);
        return next;
    }

    /// All whose login goes by this identity, or has a part that goes by this label.
    std::vector<connection_id> connections_of(std::string_view identity) const {
        std::vector<connection_id> ids;
        for (const auto& [name, who] : identities_) {
            if (name != identity && !who.all.front()->to.login().has_principal(identity)) continue;
            for (const auto* c = who.all.front(); c != nullptr; c = who.all.after(*c)) ids.push_back(c->id);
        }
        std::sort(ids.begin(), ids.end());
        return ids;
    }
    std::vector<waiter*> waiters_by_age() {
        std::vector<waiter*> sorted;
        sorted.reserve(waiters_.size());
        for (auto& [id, w] : waiters_) sorted.push_back(&w);
        std::sort(sorted.begin(), sorted.end(), [](const waiter* a, const waiter* b) { return a->id < b->id; });
        return sorted;
    }
    std::size_t connection_count() const noexcept { return connections_.size(); }
    std::size_t waiter_count() const noexcept { return waiters_.size(); }

    intrusive_list<pooled_connection, &pooled_connection::in_all> all;  ///< in the order of their making
    std::set<std::pair<std::uint64_t, pooled_connection*>> serving;     ///< the usable ones that nothing runs through, in the order of their opening
    idle_order idle;

    static constexpr std::size_t most_remembered = 1024;

private:
    struct text_hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view s) const noexcept { return std::hash<std::string_view>{}(s); }
    };
    struct target_hash {
        std::size_t operator()(const target& t) const noexcept { return t.hash(); }
    };
    template <class T>
    using by_name = std::unordered_map<std::string, T, text_hash, std::equal_to<>>;

    template <class T>
    static T& named(by_name<T>& map, const std::string& name) {
        return map.try_emplace(name, name).first->second;
    }
    key_state& key_of(const std::string& name) { return named(keys_, name); }
    host_state& host_of(const std::string& name) { return named(hosts_, name); }
    identity_state& identity_of(const std::string& name) { return named(identities_, name); }

    std::unordered_map<connection_id, pooled_connection> connections_;
    std::unordered_map<waiter_id, waiter> waiters_;
    std::unordered_map<target, door, target_hash> doors_;
    std::unordered_map<target, std::set<door*>, target_hash> followers_;
    by_name<key_state> keys_;
    by_name<host_state> hosts_;
    by_name<identity_state> identities_;
    by_name<warm_host> warm_;
    std::list<key_state*> unused_;  ///< keys that nothing uses; the one unused for longest first
    std::set<std::pair<instant, waiter_id>> waiter_deadlines_;
    std::set<std::pair<instant, pooled_connection*>> connection_deadlines_;
    std::set<std::pair<instant, door*>> door_timers_;
    connection_id last_id_ = 0;
};

}  // namespace sshpool::detail
