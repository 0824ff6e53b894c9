#pragma once

#include <sshpool/detail/outage_watch.hpp>
#include <sshpool/detail/pool_admission.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <utility>

namespace sshpool::detail {

/// What follows from a connect that failed, and from one that did not: who is told, who is left alone for a while, and whose fault it probably is.
class pool_failures : protected pool_admission {
protected:
    using pool_admission::pool_admission;

    void connect_succeeded(pooled_connection& c, instant now, actions& out) {
        c.key->proven = c.to.credential_digest();
        for (auto* d = c.key->doors.front(); d != nullptr; d = c.key->doors.after(*d)) touch(*d);  // their logins are no risk any more
        auto& host = *c.host;
        if (setbacks_.succeeded(c.to)) look_again(host.name);
        if (!busy_.empty() && busy_.find(host.name, now) != nullptr) {
            change_busy(host.name, now, [&](busy_server& b) {
                b.drops = 0;
                b.not_before = instant::min();
                b.allowed = std::min(params_.max_handshakes_per_host, b.allowed + 1);
            });
            loosen(host.at_limit);
        }
        heard_something(now, now, out);
    }

    void connect_failed(pooled_connection& c, const error_info& why, const connect_phases& phases, instant now, actions& out) {
        for (auto* counters : {&totals_, &c.key->counters}) ++counters->connect_failures[cause_of(why.code)];
        c.key->failures.add(why, now);
        const bool busy = why.code == errc::server_busy;
        if (busy && may_retry(c, why, now, out)) return try_again_later(c, now, out);
        auto event = event_of(event_kind::connect_failed, c);
        event.error = why;
        event.phases = phases;
        announce(out, std::move(event));
        if (was_turned_away(c, why)) return try_again_later(c, now, out);
        set_back(c, why, phases, now, out);
        auto& d = *c.home;
        const target tried = c.to;
        const bool unpooled = c.unpooled;
        fail_dependents(c, tried, why, 1, now, out);
        leave_connecting(c);
        remove(c, now, out);
        if (unpooled) {
            fail_waiters(d, tried, 0, why, 1, out);
        } else if (d.usable == 0 && d.unpooled_opening == 0) {
            fail_waiters(d, tried, 0, why, all_of_them, out);
        }
    }

    /// Bytes came from some host at that time.
    void heard_something(instant when, instant now, actions& out) {
        if (outage_.at_rest()) return;
        const auto since = outage_.since();
        if (!outage_.heard(when)) return;
        pool_event event;
        event.kind = event_kind::network_up;
        event.duration = now - since;
        announce(out, std::move(event));
    }

    outage_watch outage_;

private:
    static constexpr auto all_of_them = ~std::size_t{0};

    /// sshd drops logins before its banner while it has too many of them under way (MaxStartups): it lives, so its callers wait and fewer try at once.
    bool may_retry(const pooled_connection& c, const error_info& why, instant now, actions& out) {
        bool again = false;
        const auto& busy = change_busy(c.host->name, now, [&](busy_server& b) {
            if (c.started >= b.last_drop) {  // those that were under way together say the same thing
                b.last_drop = now;
                b.allowed = std::max<std::size_t>(1, b.allowed / 2);
                again = ++b.drops <= params_.max_busy_retries;
                if (again) b.not_before = now + back_off_book::shortened(back_off_book::pause(params_, b.drops), jitter_);
                if (!again) b.drops = 0;
            } else {
                again = b.drops > 0;  // or it was given up
            }
        });
        if (!again) return false;
        for (auto* counters : {&totals_, &c.key->counters}) ++counters->busy_retries;
        auto event = event_of(event_kind::server_busy, c);
        event.error = why;
        event.count = busy.drops;
        event.duration = std::max(instant{}, busy.not_before - now);
        announce(out, std::move(event));
        return true;
    }
    /// The jump host's connection opens no more channels, because it never answered for another host: this one had no part in that.
    static bool was_turned_away(const pooled_connection& c, const error_info& why) noexcept {
        return why.code == errc::jump_failed && c.via != nullptr && c.via->retired;
    }
    void try_again_later(pooled_connection& c, instant now, actions& out) {
        while (auto* child = c.dependents.front()) {
            touch(*child->home);
            forget_planned(*child, now, out);
        }
        leave_connecting(c);
        remove(c, now, out);
    }

    void set_back(const pooled_connection& c, const error_info& why, const connect_phases& phases, instant now, actions& out) {
        const bool refused = why.code == errc::auth_failed;
        const bool host_key = why.code == errc::host_key_unknown || why.code == errc::host_key_mismatch;
        const bool login = refused || host_key || why.code == errc::key_unusable || phases.key_exchange.count() > 0;
        if (refused) {
            penalties_.charge(c.to.endpoint(), penalty_books::refusal, now);
            if (c.key->proven == c.to.credential_digest()) c.key->proven.clear();
        } else if (login) {
            penalties_.charge(c.to.endpoint(), penalty_books::no_login, now);
        }
        look_again(c.host->name);
        const auto& s = setbacks_.failed(c.to, login ? concerns::login : concerns::host, refused, why, params_, jitter_, now);
        auto event = event_of(event_kind::backing_off, c);
        event.connection_id = 0;
        event.error = why;
        event.count = s.failures;
        event.duration = s.until - now;
        announce(out, std::move(event));

        const bool nothing_heard = why.code == errc::resolve_failed || why.code == errc::connect_failed || why.code == errc::connect_timeout;
        if (!nothing_heard || login || c.to.jump() != nullptr) return;
        if (outage_.failed(c.to.endpoint(), now, connected_hosts_)) tell_outage(why, now, out);
    }
    void tell_outage(const error_info& last, instant now, actions& out) {
        pool_event event;
        event.kind = event_kind::network_down;
        event.count = outage_.hosts();
        event.error = {last.code,
                       {},
                       "network",
                       "it is probably us: " + std::to_string(outage_.hosts()) + " hosts in a row could not be reached within " +
                           in_seconds(now - outage_.since()) + ", and nothing was heard from any other; the last: " + last.text};
        announce(out, std::move(event));
    }

    /// What was to run through a connection that could not be opened cannot be opened either.
    void fail_dependents(pooled_connection& c, const target& tried, const error_info& why, std::size_t jumps, instant now, actions& out) {
        while (auto* child = c.dependents.front()) {
            auto& d = *child->home;
            const error_info info{make_error(errc::jump_failed), d.key->name, "jump host", "the jump host " + tried.key() + " could not be used: " + why.text};
            fail_dependents(*child, tried, why, jumps + 1, now, out);
            forget_planned(*child, now, out);
            d.key->failures.add(info, now);
            if (d.usable == 0) fail_waiters(d, tried, jumps, info, all_of_them, out);
        }
    }
    /// Fails those who would have tried the same secrets. Others may share the door under one principal.
    void fail_waiters(door& d, const target& tried, std::size_t jumps, const error_info& why, std::size_t at_most, actions& out) {
        for (auto* w = d.waiters.front(); w != nullptr && at_most > 0;) {
            auto* next = d.waiters.after(*w);
            const auto* link = &w->to;
            for (std::size_t i = 0; i < jumps && link != nullptr; ++i) link = link->jump();
            if (link != nullptr && link->credential_digest() == tried.credential_digest()) {
                fail(*w, why, out);
                --at_most;
            }
            w = next;
        }
    }
    static errc cause_of(const std::error_code& code) noexcept {
        for (const auto& entry : errors) {
            if (code == entry.value) return entry.value;
        }
        return errc{};
    }
};

}  // namespace sshpool::detail
