#pragma once

#include <sshpool/pool_event.hpp>
#include <sshpool/pool_params.hpp>
#include <sshpool/target.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace core_test {

using namespace sshpool;

/// Failed connects on paper: who must be left alone until when, and what an sshd thinks of the address that all logins come from. Learns the drawn part of
/// each pause from the core's own events, and says where these are wrong.
class reference_trouble {
public:
    using instant = std::chrono::nanoseconds;

    explicit reference_trouble(const pool_params& p) : params(p) {}

    struct setback {
        std::size_t failures = 0;
        instant failed{}, until{};
    };
    struct server {
        instant busy_until = instant::min(), last_drop = instant::min(), punished_until{};
        instant surprised_until{};  // credentials that were logged in at that moment were refused, which nobody reckons with
        std::size_t drops = 0, allowed = 0;
        std::size_t waited_for = ~std::size_t{0};  // what it was before it was forgotten: who waits since then waits for a handshake to end
        instant remembered = instant::min();       // until then
    };

    static std::string host_of(const target& to) { return to.endpoint() + " by " + (to.jump() != nullptr ? to.jump()->key() + to.jump()->match() : "itself"); }
    static std::string login_of(const target& to) { return to.key() + " as " + to.match() + to.credential_digest(); }

    server& server_of(const target& to, instant now) {
        auto& s = servers[to.endpoint()];
        if (now < s.remembered) return s;
        const auto punished = s.punished_until, surprised = s.surprised_until;
        const auto waited_for = std::min(s.waited_for, s.allowed == 0 ? ~std::size_t{0} : s.allowed);
        s = {};
        s.waited_for = waited_for;
        s.punished_until = punished;
        s.surprised_until = surprised;
        s.allowed = params.max_handshakes_per_host;
        return s;
    }
    /// Until when a target itself must not be tried.
    instant until(const target& to) const {
        auto latest = instant::min();
        for (const auto& name : {host_of(to), login_of(to)}) {
            if (const auto it = setbacks.find(name); it != setbacks.end()) latest = std::max(latest, it->second.until);
        }
        return latest;
    }
    bool is_unproven(const target& to) const {
        const auto it = proven.find(to.key());
        return it == proven.end() || it->second != to.credential_digest();
    }

    /// What an sshd may count against this address when one more login has been refused.
    instant most_risk(const target& to) const { return std::chrono::seconds{is_unproven(to) ? 10 : 13}; }

    void opened(const target& to, instant now) {
        setbacks.erase(host_of(to));
        setbacks.erase(login_of(to));
        proven[to.key()] = to.credential_digest();
        auto& s = server_of(to, now);
        if (s.remembered <= now) return;
        s.drops = 0;
        s.busy_until = instant::min();
        s.allowed = std::min(params.max_handshakes_per_host, s.allowed + 1);
        s.remembered = now + params.backoff_max;
    }
    /// What a failed connect must lead to; the event that tells of it is judged by `told`.
    void failed(const target& to, errc why, bool late, bool at_risk, instant started, instant now) {
        expected.reset();
        auto& s = server_of(to, now);
        if (why == errc::server_busy) {
            const bool counts = started >= s.last_drop;
            if (counts) {
                ++s.drops;
                s.last_drop = now;
                s.allowed = std::max<std::size_t>(1, s.allowed / 2);
            }
            s.remembered = std::max(now, s.busy_until) + params.backoff_max;
            if (s.drops > 0 && s.drops <= params.max_busy_retries) {
                expected = expectation{event_kind::server_busy, {}, to, false, counts};
                return;
            }
            s.drops = 0;
        }
        const bool login = why == errc::auth_failed || why == errc::host_key_mismatch || late;
        if (why == errc::auth_failed) {
            s.punished_until = std::max(s.punished_until, now) + std::chrono::seconds{5};
            if (!is_unproven(to)) proven.erase(to.key());
        } else if (login) {
            s.punished_until = std::max(s.punished_until, now) + std::chrono::seconds{1};
        }
        if (login && !at_risk) s.surprised_until = s.punished_until;
        if (s.punished_until - now >= std::chrono::seconds{15} && s.surprised_until <= now) blame("sshd locks the address out");
        expected = expectation{event_kind::backing_off, login ? login_of(to) : host_of(to), to, why == errc::auth_failed, true};
    }
    void told(const pool_event& e, instant now) {
        if (e.kind != event_kind::server_busy && e.kind != event_kind::backing_off) return;
        if (!expected || expected->kind != e.kind || e.key != expected->to.key()) return blame("tells of a back-off that is none");
        auto& s = server_of(expected->to, now);
        if (e.kind == event_kind::server_busy) {
            if (e.count != s.drops) blame("counts the drops wrongly");
            if (expected->counts && !within(e.duration, pause(s.drops))) blame("the pause of a busy server is wrong");
            if (expected->counts) s.busy_until = now + e.duration;
            s.remembered = std::max(now, s.busy_until) + params.backoff_max;
        } else {
            auto& b = setbacks[expected->name];
            const auto kept = std::max(b.until - b.failed, instant{params.backoff_max});
            const bool may_be_forgotten = b.until + kept <= now;
            if (e.count != b.failures + 1 && !(may_be_forgotten && e.count == 1)) blame("counts the failures in a row wrongly");
            auto least = pause(e.count);
            if (expected->refused && params.auth_cooldown.count() > 0) {
                const auto cooldown = std::min(grown(params.auth_cooldown, e.count), static_cast<double>(instant{std::chrono::minutes{10}}.count()));
                if (static_cast<double>(e.duration.count()) < cooldown - 1) blame("a refused login is tried again too early");
                least = std::max(least, instant{static_cast<instant::rep>(cooldown)});
            }
            if (!within(e.duration, least)) blame("a back-off is too long or too short");
            b = {e.count, now, now + e.duration};
        }
        expected.reset();
    }
    void forget(const std::string& key) {
        const auto endpoint = key.substr(key.rfind('@') + 1);
        std::erase_if(setbacks, [&](const auto& s) { return s.first.starts_with(key + " as ") || s.first.starts_with(endpoint + " by "); });
    }

    const pool_params& params;
    std::map<std::string, setback> setbacks;
    std::map<std::string, server> servers;
    std::map<std::string, std::string> proven;
    std::string wrong;

    struct expectation {
        event_kind kind;
        std::string name;
        target to;
        bool refused, counts;
    };
    std::optional<expectation> expected;  // an event that has to come

    void blame(const std::string& what) {
        if (wrong.empty()) wrong = what;
    }

private:
    double grown(std::chrono::milliseconds first, std::size_t n) const {
        return static_cast<double>(instant{first}.count()) * std::pow(params.backoff_factor, static_cast<double>(n - 1));
    }
    instant pause(std::size_t n) const {
        return instant{static_cast<instant::rep>(std::min(grown(params.backoff_initial, n), static_cast<double>(instant{params.backoff_max}.count())))};
    }
    static bool within(instant d, instant most) {
        return static_cast<double>(d.count()) <= static_cast<double>(most.count()) + 1 &&
               static_cast<double>(d.count()) >= 0.8 * static_cast<double>(most.count()) - 2;
    }
};

}  // namespace core_test
