#pragma once

#include <sshpool/detail/pool_core.hpp>

#include <initializer_list>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace core_test {

using namespace sshpool;
using namespace sshpool::detail;
using namespace std::chrono_literals;

/// A core, a clock that stands still until it is moved, and callers. Each call returns what the core wants done, one line an action.
class core_world {
public:
    using lines = std::vector<std::string>;

    explicit core_world(pool_params p = {}) : core(p, 1), params_(p) {}

    lines ask(waiter_id id, const target& to, asking how = asking::by_policy, std::source_location where = std::source_location::current()) {
        return did([&](actions& out) { core.acquire(now, id, to, now + instant{params_.acquire_timeout}, how, where, out); });
    }
    lines cancel(waiter_id id) {
        return did([&](actions& out) { core.cancelled(now, id, out); });
    }
    lines opened(connection_id id, std::chrono::milliseconds took = 0ms) {
        connect_phases phases;
        phases.login = took;
        return did([&](actions& out) { core.opened(now, id, phases, out); });
    }
    lines open_failed(connection_id id, errc why = errc::auth_failed) { return open_failed(id, {make_error(why), "", "login", "no luck"}); }
    lines open_failed(connection_id id, const error_info& why) {
        return did([&](actions& out) { core.open_failed(now, id, why, {}, out); });
    }
    /// Gives back the lease that this caller got.
    lines give_back(waiter_id id) {
        const auto lent = leases.at(id);
        return did([&](actions& out) { core.released(now, lent.connection, lent.lease, now, out); });
    }
    lines discard(connection_id id) {
        return did([&](actions& out) { core.discarded(now, id, out); });
    }
    lines lose(connection_id id) {
        return did([&](actions& out) { core.lost(now, id, {make_error(errc::connection_lost), "", "command", "reset"}, out); });
    }
    /// `heard`: when the server last sent anything; by default long ago.
    lines probed(connection_id id, bool lives = true, instant heard = {}) {
        return did([&](actions& out) {
            core.probed(now, id, lives ? error_info{} : error_info{make_error(errc::connection_lost), "", "probe", "silent"}, heard, out);
        });
    }
    lines capacity(connection_id id, std::size_t leases_allowed) {
        return did([&](actions& out) { core.capacity(now, id, leases_allowed, out); });
    }
    lines closed(connection_id id) {
        return did([&](actions& out) { core.closed(now, id, out); });
    }
    lines invalidate(std::string_view key) {
        return did([&](actions& out) { core.invalidate(now, key, out); });
    }
    lines invalidate_identity(std::string_view identity) {
        return did([&](actions& out) { core.invalidate_identity(now, identity, out); });
    }
    lines close_all() {
        return did([&](actions& out) { core.close_all(now, out); });
    }
    lines keep_warm(const std::vector<target>& targets) {
        return did([&](actions& out) { core.keep_warm(now, targets, out); });
    }
    lines suspended(instant slept) {
        return did([&](actions& out) { core.suspended(now, slept, out); });
    }
    lines shut_down() {
        return did([&](actions& out) { core.shut_down(now, out); });
    }
    lines force() {
        return did([&](actions& out) { core.force(now, out); });
    }
    lines pass(instant d) {
        now += d;
        return did([&](actions& out) { core.advance(now, out); });
    }

    /// All that came last, announcements included.
    actions last;
    std::map<waiter_id, act::grant> leases;
    std::map<waiter_id, error_info> failures;
    instant now = 1h;
    pool_core core;

    std::vector<pool_event> events(event_kind kind) const {
        std::vector<pool_event> found;
        for (const auto& a : last) {
            if (const auto* e = std::get_if<act::announce>(&a); e != nullptr && e->event.kind == kind) found.push_back(e->event);
        }
        return found;
    }

private:
    template <class Do>
    lines did(Do do_it) {
        last.clear();
        do_it(last);
        lines text;
        for (const auto& a : last) {
            if (std::holds_alternative<act::announce>(a)) continue;
            std::ostringstream line;
            if (const auto* g = std::get_if<act::grant>(&a)) {
                leases[g->waiter] = *g;
                line << "grant " << g->waiter << " connection " << g->connection;
            } else if (const auto* f = std::get_if<act::fail>(&a)) {
                failures[f->waiter] = f->error;
                for (const auto& e : errors) {
                    if (f->error.code == e.value) line << "fail " << f->waiter << " " << e.name;
                }
            } else {
                line << a;
            }
            text.push_back(line.str());
        }
        return text;
    }

    pool_params params_;
};

inline target host(const std::string& address, const std::string& secret = "one") {
    return {address, credentials::password(secret), host_key_policy::accept_any()};
}

}  // namespace core_test
