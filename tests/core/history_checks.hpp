#pragma once

#include "core/random_history.hpp"

namespace core_test {

/// Tells the core what happened, follows what it does, and looks at everything.
template <class Do>
void random_history::event(const std::string& name, Do do_it) {
    if (!ref_.wrong.empty()) return;
    const auto follow = [&](const actions& out) {
        ref_.begin_event(now_, patience());
        ref_.apply(out);
        if (!logging_) return;
        for (const auto& a : out) log_ << "    -> " << a << '\n';
    };
    if (logging_) log_ << static_cast<double>(now_.count()) / 1e6 << " " << name << '\n';
    actions due;
    core_.advance(now_, due);
    follow(due);
    actions out;
    fresh_ids_.clear();
    failed_target_.reset();
    again_ = false;
    do_it(out);
    for (const auto& a : out) {
        if (const auto* open = std::get_if<act::open>(&a)) fresh_ids_.insert(open->connection);
    }
    follow(out);
    check_failures();
    actions more;
    core_.advance(now_, more);
    follow(more);
    check();
}

inline void random_history::check() {
    check_figures();
    check_deadlines();
    check_trouble();
    if (++looks_ % 16 == 0) check_words();
    if (!ref_.closed && ref_.wrong.empty()) check_warm();
    if (!ref_.closed && ref_.wrong.empty()) check_coverage();
}

/// What explain() tells of one key: everyone who holds or waits for a connection of it.
inline void random_history::check_words() {
    const auto& key = all_targets()[targets_[looks_ / 16 % targets_.size()]].key();
    const auto text = core_.explain(key, now_);
    const auto said = [&](std::string_view words) {
        std::size_t n = 0;
        for (auto at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++n;
        return n;
    };
    std::size_t held = 0, waiting = 0;
    for (const auto& c : ref_.connections) held += c.state != conn::gone && c.to.key() == key ? c.leases.size() : 0;
    for (const auto& w : ref_.waiters) waiting += ref_.waiting(w) && w.to.key() == key ? 1 : 0;
    if (text.find(key + ": ") != 0 || text.back() != '\n') ref_.blame("explain() says: " + text);
    if (said("    held for ") != held) ref_.blame("explain() does not tell all " + std::to_string(held) + " holders: " + text);
    if (waiting > 0 && said(" connections, " + std::to_string(waiting) + " waiting\n") != 1) ref_.blame("explain() does not tell all who wait: " + text);
    if (waiting > 0 && said("  queue: ") == 0) ref_.blame("explain() does not tell of the queue: " + text);
}

inline std::size_t random_history::planned(const std::string& key) const {
    if (ref_.params.when_full == full_policy::open_unpooled) return 0;
    return core_.stats(key).connecting - ref_.count([&](const conn& c) { return c.to.key() == key && c.state == conn::opening; });
}
inline std::size_t random_history::of_key(const std::string& key) const {
    return planned(key) + ref_.count([&](const conn& c) { return c.to.key() == key; });
}

inline void random_history::check_figures() {
    const auto& p = ref_.params;
    const auto s = core_.stats();
    const auto total = ref_.count([](const conn&) { return true; });
    const auto opening = ref_.count([](const conn& c) { return c.state == conn::opening; });
    if (s.pool_size > p.max_connections) ref_.blame("more connections than max_connections");
    if (p.when_full == full_policy::open_unpooled) {
        if (s.pool_size > total || total - s.pool_size > p.max_unpooled) ref_.blame("more unpooled connections than max_unpooled");
    } else {
        if (total > p.max_connections) ref_.blame("more connections than max_connections");
        if (s.pool_size < total || s.pool_size - total != s.connecting - opening) ref_.blame("pool_size does not add up");
    }
    for (const auto index : targets_) {
        const auto& to = all_targets()[index];
        if (of_key(to.key()) > p.max_connections_per_host) ref_.blame("more connections of a key than max_connections_per_host");
        const auto here = ref_.count([&](const conn& c) { return c.to.endpoint() == to.endpoint() && c.state != conn::open && !c.answered; });
        if (here > p.max_handshakes_per_host) ref_.blame("more handshakes of a host than max_handshakes_per_host");
        const auto at_risk = ref_.count([&](const conn& c) { return c.to.endpoint() == to.endpoint() && c.state != conn::open && !c.answered && c.at_risk; });
        if (at_risk > 2) ref_.blame("more logins of a host at once than it may refuse");
    }
    if (ref_.count([](const conn& c) { return c.state != conn::open && !c.answered; }) > p.max_handshakes) ref_.blame("more handshakes than max_handshakes");

    const auto waiting = static_cast<std::size_t>(std::count_if(ref_.waiters.begin(), ref_.waiters.end(), [](const auto& w) { return w.answers == 0; }));
    const auto open = [](const conn& c) { return c.state == conn::open && !c.unpooled; };
    if (s.waiting != waiting) ref_.blame("the figure `waiting` is wrong");
    if (s.in_use != ref_.count([&](const conn& c) { return open(c) && !c.leases.empty(); })) ref_.blame("the figure `in_use` is wrong");
    if (s.idle != ref_.count([&](const conn& c) { return open(c) && c.leases.empty(); })) ref_.blame("the figure `idle` is wrong");
    if (s.hits + s.misses != ref_.grants) ref_.blame("hits + misses are not the grants");
    if (s.acquire_wait.count() != ref_.grants) ref_.blame("acquire_wait does not count every grant");
    if (s.connections_created != ref_.created) ref_.blame("connections_created is wrong");
    if (s.connections_closed.total() != ref_.closes) ref_.blame("connections_closed is wrong");
    if (s.connections_created != s.connections_closed.total() + ref_.count([](const conn& c) { return c.state == conn::open; }))
        ref_.blame("created = closed + there does not hold");
    if (s.evictions != ref_.evictions || s.evictions != s.connections_closed[close_reason::lru]) ref_.blame("evictions is wrong");
    if (s.connect_failures.total() != ref_.failures) ref_.blame("connect_failures is wrong");
    if (s.wait_timeouts != ref_.timeouts) ref_.blame("wait_timeouts is wrong");
    if (s.health_check_failures != ref_.probe_failures) ref_.blame("health_check_failures is wrong");
    if (s.backed_off != ref_.backed_off) ref_.blame("backed_off is wrong");
    if (s.busy_retries != ref_.busy_retries) ref_.blame("busy_retries is wrong");
    if (s.long_leases != ref_.long_leases) ref_.blame("long_leases is wrong");
}

/// The timer is never later than what is due, and never in the past: no busy loop.
inline void random_history::check_deadlines() {
    const auto& p = ref_.params;
    const auto next = core_.next_deadline();
    if (next && *next <= now_) ref_.blame("the timer would spin");
    const auto due = [&](instant when, const char* what) {
        if (!next || *next > when) ref_.blame(std::string{"the timer comes too late for "} + what);
    };
    for (const auto& w : ref_.waiters) {
        if (w.answers == 0) due(w.deadline, "a waiter's deadline");
    }
    for (const auto& c : ref_.connections) {
        for (const auto& [id, since] : c.leases) {
            if (p.max_lease_time.count() == 0 || c.state != conn::open || c.long_leases.contains(id)) continue;
            if (now_ >= since + p.max_lease_time) ref_.blame("nobody hears of a lease that is held for too long");
            due(since + p.max_lease_time, "a long lease");
        }
        if (!ref_.usable(c)) {
            if (c.state == conn::open && !c.retired && !c.unpooled) ref_.blame("an expired connection goes on");
            continue;
        }
        if (c.expires != instant::max()) due(c.expires, "an expiry");
        if (!c.leases.empty() || c.probing) continue;
        if (p.idle_timeout.count() > 0 && !may_be_pinned(c.to) && !ref_.is_warm(c.to)) due(c.idle_since + p.idle_timeout, "an idle timeout");
        if (p.health_check_interval.count() > 0) due(c.heard + p.health_check_interval, "a health check");
    }
}

/// What the core was told of a failed connect it has passed on.
inline void random_history::check_trouble() {
    if (ref_.trouble.expected) ref_.blame("a failed connect leads to no event");
    if (!ref_.trouble.wrong.empty()) ref_.blame(ref_.trouble.wrong);
}

/// A host to be kept connected is, or will be, or a limit stands against it.
inline void random_history::check_warm() {
    const auto& p = ref_.params;
    for (const auto& [key, to] : ref_.warm) {
        if (ref_.has_waiters(to) || planned(key) > 0) continue;
        auto last = instant::min();
        for (const auto& c : ref_.connections) {
            if (c.to == to && ref_.usable(c)) last = std::max(last, c.expires);
        }
        if (last == instant::max() || (last != instant::min() && now_ < last - ref_.warm_lead())) continue;
        if (ref_.count([&](const conn& c) { return c.to == to && (c.state == conn::opening || c.probing); }) > 0) continue;
        if (last == instant::min() && ref_.last_gone.contains(key) && now_ <= ref_.last_gone.at(key) + p.backoff_initial) continue;
        if (ref_.is_held_back(to) || core_.stats(key).connecting > 0) continue;
        bool held_up = false;
        for (const auto* link = &to; link != nullptr; link = link->jump()) {
            std::size_t same = 0;
            for (const auto* other = &to; other != nullptr; other = other->jump()) same += other->key() == link->key() ? 1 : 0;
            held_up = held_up || handshakes_reached(*link) || of_key(link->key()) + same > p.max_connections_per_host;
        }
        const auto waiting = std::any_of(ref_.waiters.begin(), ref_.waiters.end(), [](const auto& w) { return w.answers == 0; });
        if (held_up || waiting || core_.stats().pool_size + to.jumps() + 1 > p.max_connections) continue;
        return ref_.blame("the host " + key + " is not kept connected");
    }
}

/// Who failed with a connect must be those who would have tried the same, unless the door is served otherwise.
inline void random_history::check_failures() {
    if (!failed_target_ || ref_.params.when_full == full_policy::open_unpooled) return;
    const auto& tried = *failed_target_;
    for (const auto& w : ref_.waiters) {
        if (!(w.to == tried) || w.asked > now_) continue;
        const bool failed = std::find(ref_.failed_now.begin(), ref_.failed_now.end(), w.id) != ref_.failed_now.end();
        const bool same = w.to.credential_digest() == tried.credential_digest();
        // For its way, which has to be opened anew; or for itself, because those who asked earlier are promised what is free.
        const bool no_room = (tried.jump() != nullptr || ref_.params.when_full == full_policy::fail) && w.answer == make_error(errc::pool_exhausted).message();
        if (failed && !no_room && (!same || served_otherwise_)) ref_.blame("a failed connect fails a caller it does not concern");
        if (failed && again_ && !no_room) ref_.blame("a connect that is tried again fails a caller");
        if (!failed && w.answers == 0 && same && !served_otherwise_ && !again_) ref_.blame("a failed connect leaves a caller without an answer");
    }
}

/// Every waiter is covered by a connect, a probe, a connection whose queue is short enough, or a limit is reached.
inline void random_history::check_coverage() {
    std::vector<const seen_waiter*> heads;
    for (const auto& w : ref_.waiters) {
        if (w.answers == 0 && std::none_of(heads.begin(), heads.end(), [&](const auto* h) { return h->to == w.to; })) heads.push_back(&w);
    }
    const bool beside = ref_.params.when_full == full_policy::open_unpooled;
    for (const auto* head : heads) {
        const auto& to = head->to;
        const auto queue =
            static_cast<std::size_t>(std::count_if(ref_.waiters.begin(), ref_.waiters.end(), [&](const auto& w) { return w.answers == 0 && w.to == to; }));
        const auto mine = [&](auto which) { return ref_.count([&](const conn& c) { return c.to == to && which(c); }); };
        if (mine([&](const conn& c) { return ref_.lendable(c); }) > 0) return ref_.blame("somebody waits for what could be lent");
        const auto opening = mine([](const conn& c) { return c.state == conn::opening; });
        if (beside ? opening >= queue || (opening > 0 && core_.stats(to.key()).connecting > 0) : opening > 0) continue;
        if (mine([&](const conn& c) { return c.probing && ref_.usable(c); }) > 0) continue;
        if (to.jump() != nullptr && planned(to.key()) > 0 && chain_moves(to)) continue;
        const bool spill = mine([&](const conn& c) { return ref_.usable(c); }) > 0;
        if (spill) {
            if (to.jump() != nullptr) continue;  // how long a failed jump host holds it back is not seen from here
            std::size_t capacity = 0;
            for (const auto& c : ref_.connections) capacity += c.to == to && ref_.usable(c) ? c.capacity : 0;
            const auto other_door = [&](auto i) {  // the target's own, or one on the way to it
                for (const auto* link = &all_targets()[i]; link != nullptr; link = link->jump()) {
                    if (link->key() == to.key() && !(*link == to)) return true;
                }
                return false;
            };
            const auto sharing = std::any_of(targets_.begin(), targets_.end(), other_door);
            // What other doors have measured since is used the next time that this one is looked at, at the latest when its own time has come.
            const auto expects = sharing || !key_average_[to.key()].known ? longest_connect_ : expected(to.key());
            auto from = static_cast<double>(std::max(head->asked, last_opened_[to.key() + to.match()]).count()) + expects;
            const auto& held = holds_[to.key()];
            if (held.known && !sharing && static_cast<double>(queue) * held.value / static_cast<double>(capacity) > expects + 1000) from = 0;
            if (static_cast<double>(now_.count()) < from + 1000) continue;
            if (core_.stats(to.key()).connecting > 0) continue;
        }
        check_held_up(*head, spill);
        if (!ref_.wrong.empty()) return;
    }
}

/// No handshake with this host may begin now: as many are under way as may be, its sshd is busy, or it might lock us out.
inline bool random_history::handshakes_reached(const target& to) const {
    const auto under_way = [&](const conn& c) {
        return c.state == conn::opening || (c.state == conn::closing && (!c.answered || handshake_goes_on_.contains(c.id)));
    };
    const auto here = [&](const conn& c) { return under_way(c) && c.to.endpoint() == to.endpoint(); };
    if (ref_.count(under_way) >= ref_.params.max_handshakes || ref_.count(here) >= ref_.params.max_handshakes_per_host) return true;
    const bool may_be_refused = !ref_.is_logged_in(to);
    const auto at_risk = ref_.count([&](const conn& c) { return here(c) && c.at_risk; });
    if (may_be_refused && at_risk >= 2) return true;
    auto trouble = ref_.trouble;
    const auto server = trouble.server_of(to, now_);
    if (server.busy_until > now_ || ref_.count(here) >= std::min(server.allowed, server.waited_for)) return true;
    const auto risked = static_cast<std::int64_t>(at_risk + 1) * std::chrono::seconds{5};
    return may_be_refused && std::max(instant{}, server.punished_until - now_) + risked > ref_.trouble.most_risk(to);
}
/// A reserved chain: somewhere on the way a connect or a probe is under way, or a handshake has to wait for its turn.
inline bool random_history::chain_moves(const target& to) const {
    for (const auto* link = &to; link != nullptr; link = link->jump()) {
        if (handshakes_reached(*link)) return true;
        if (link != &to && ref_.count([&](const conn& c) { return c.to == *link && (c.state == conn::opening || c.probing); }) > 0) return true;
    }
    return false;
}
/// Reserved connections through `c` cannot be seen from outside: for a jump host it is not known since when it is idle.
inline bool random_history::may_be_pinned(const target& to) const {
    for (const auto index : targets_) {
        for (const auto* link = all_targets()[index].jump(); link != nullptr; link = link->jump()) {
            if (*link == to) return true;
        }
    }
    return false;
}
inline bool random_history::may_go(const conn& c) const {
    if (!ref_.usable(c) || c.probing || !c.leases.empty() || may_be_pinned(c.to) || ref_.has_waiters(c.to)) return false;
    return true;
}

/// This one must wait for a limit; and whatever may go for it goes.
inline void random_history::check_held_up(const seen_waiter& head, bool spill) {
    const auto& p = ref_.params;
    const auto s = core_.stats();
    std::vector<const target*> missing{&head.to};
    bool starts_now = true;
    for (const auto* link = head.to.jump(); link != nullptr; link = link->jump()) {
        const auto there = [&](auto which) { return ref_.count([&](const conn& c) { return c.to == *link && which(c); }) > 0; };
        if (there([&](const conn& c) { return ref_.usable(c); })) break;  // or its probe is under way
        if (there([&](const conn& c) { return c.state == conn::opening; })) {
            starts_now = false;
            break;
        }
        if (planned(link->key()) > 0) return;  // whether it is this one cannot be seen from outside
        missing.push_back(link);
    }
    if (std::any_of(missing.begin(), missing.end(), [&](const target* link) { return ref_.trouble.until(*link) > now_; })) {
        if (!spill && p.when_backing_off == backing_off_policy::fail && ref_.trouble.until(head.to) > now_)
            ref_.blame("a caller is kept waiting for a host that is backing off");
        return;
    }
    if (starts_now && handshakes_reached(*missing.back())) return;
    if (handshakes_reached(*missing.front())) return;  // it was waited for before the jump host went
    std::vector<const target*> full;
    for (const auto* link : missing) {
        const auto same = static_cast<std::size_t>(std::count_if(missing.begin(), missing.end(), [&](const auto* o) { return o->key() == link->key(); }));
        if (of_key(link->key()) + same > p.max_connections_per_host) full.push_back(link);
    }
    if (full.size() == 1 && missing.size() == 1) {
        const auto& link = *full.front();
        const bool leaving = ref_.count([&](const conn& c) { return c.to.key() == link.key() && c.state == conn::closing; }) > 0;
        for (const auto& c : ref_.connections) {
            if (leaving || c.to.key() != link.key() || c.to == link || !may_go(c)) continue;
            if (now_ - c.idle_since >= c.took || p.when_full == full_policy::fail)
                ref_.blame("a key's ripe idle connection of another identity is kept from a waiter");
        }
    }
    if (!full.empty()) return;
    const auto free = p.max_connections - s.pool_size;
    const auto closing = ref_.count([](const conn& c) { return c.state == conn::closing && !c.unpooled; });
    if (free >= missing.size()) {
        for (const auto& w : ref_.waiters) {  // a chain that needs more than is free is not overtaken
            if (w.answers == 0 && !(w.to == head.to) && w.to.jump() != nullptr && (spill || w.id < head.id)) return;
        }
        return ref_.blame("waiter " + std::to_string(head.id) + " waits although no limit is reached");
    }
    if (p.when_full == full_policy::open_unpooled && head.to.jump() == nullptr && free + closing == 0) {
        const auto beside = ref_.count([](const conn&) { return true; }) - s.pool_size;
        if (beside < p.max_unpooled) return ref_.blame("a caller waits although a connection beside the pool is allowed");
    }
    if (free > 0 || closing > 0) return;
    if (p.when_full == full_policy::fail && !spill) return ref_.blame("a caller waits who was promised an answer at once");
    for (const auto& c : ref_.connections) {
        if (may_go(c) && now_ - c.idle_since >= c.took) return ref_.blame("a ripe idle connection is kept from a waiter");
    }
    // Nobody starves: the patience of the oldest has an end.
    if (spill || p.when_full == full_policy::fail || now_ - head.asked < patience() || s.connecting > 0) return;
    if (ref_.count([](const conn& c) { return c.state == conn::open && c.retired && !c.unpooled; }) > 0) return;
    for (const auto& w : ref_.waiters) {
        if (w.answers == 0 && w.id < head.id) return;
    }
    for (const auto& c : ref_.connections) {
        if (!ref_.usable(c) || may_be_pinned(c.to)) continue;
        bool on_the_way = false;
        for (const auto* link = &head.to; link != nullptr; link = link->jump()) on_the_way = on_the_way || *link == c.to;
        if (!on_the_way) return ref_.blame("waiter " + std::to_string(head.id) + " starves: nothing drains for it");
    }
}

}  // namespace core_test
