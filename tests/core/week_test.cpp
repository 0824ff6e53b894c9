// A week of a large fleet in a few seconds: whatever the core keeps must be as little at its end as after the first day.
#include "core/core_world.hpp"
#include "support/catch.hpp"
#include "support/self.hpp"
#include "support/wait.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace core_test;

namespace {

struct figures {
    std::size_t bytes = 0;
    std::size_t connections = 0;
    std::size_t in_use = 0;
    std::size_t waiting = 0;
    std::size_t to_come = 0;  // opens, closes, probes and leases that the world has not answered yet
};

/// Hosts, callers and the network, all random: commands all day, crowds, failing hosts, refused logins, lost connections, an outage each day. The last
/// hour of a day is quiet.
class busy_week {
public:
    static constexpr std::size_t warm = 20;

    busy_week(std::size_t hosts, std::uint64_t seed) : random_(seed), core_(params(), seed) {
        for (std::size_t i = 0; i < hosts; ++i) hosts_.push_back(host("root@host" + std::to_string(i), i % 3 == 0 ? "one" : "two"));
        const std::vector<target> kept(hosts_.begin(), hosts_.begin() + warm);
        step([&](actions& out) { core_.keep_warm(now_, kept, out); });
    }

    figures day() {
        const auto begin = now_;
        todo_.insert({now_, {deed::ask, 0, 0}});
        for (int i = 0; i < 4; ++i) todo_.insert({begin + 5h * i + 1h, {deed::crowd, 0, 0}});
        outage_ = {begin + 10h, begin + 10h + 10min};
        quiet_ = begin + 23h;
        run_until(begin + 24h);
        const auto s = core_.stats();
        return {support::allocated_bytes(), s.pool_size, s.in_use, s.waiting, todo_.size()};
    }
    pool_stats stats() const { return core_.stats(); }
    std::size_t asked() const { return last_; }
    std::size_t answered() const { return granted_ + failed_; }
    std::size_t granted() const { return granted_; }
    std::size_t steps() const { return steps_; }

private:
    enum class deed { ask, crowd, open, close, give_back, lose, probe };
    struct work {
        deed what;
        connection_id connection;
        lease_id lease;
    };

    static pool_params params() {
        pool_params p;
        p.max_connections = 200;
        return p;
    }
    bool chance(unsigned per_mille) { return random_() % 1'000 < per_mille; }
    instant in(std::chrono::milliseconds from, std::chrono::milliseconds to) {
        return now_ + from + std::chrono::milliseconds{random_() % static_cast<std::uint64_t>((to - from).count() + 1)};
    }
    void run_until(instant end) {
        for (;;) {
            const auto deadline = core_.next_deadline().value_or(end);
            const auto next = std::min(todo_.empty() ? end : todo_.begin()->first, deadline);
            if (next >= end) break;
            now_ = std::max(now_, next);
            if (deadline <= next) step([&](actions& out) { core_.advance(now_, out); });
            while (!todo_.empty() && todo_.begin()->first <= now_) {
                const auto what = todo_.begin()->second;
                todo_.erase(todo_.begin());
                do_it(what);
            }
        }
        now_ = end;
    }
    void ask() {
        const auto id = ++last_;
        const auto& to = hosts_[random_() % (chance(500) ? 200 : hosts_.size())];  // half of them want the same few
        step([&](actions& out) { core_.acquire(now_, id, to, now_ + 30s, asking::by_policy, std::source_location::current(), out); });
        if (chance(20)) step([&](actions& out) { core_.cancelled(now_, id, out); });
    }
    void do_it(const work& w) {
        switch (w.what) {
            case deed::ask:
                if (now_ >= quiet_) return;
                ask();
                todo_.insert({in(0ms, 4s), w});
                return;
            case deed::crowd:
                for (int i = 0; i < 2'000; ++i) ask();
                return;
            case deed::open:
                return step([&](actions& out) {
                    const bool outage = now_ >= outage_.first && now_ < outage_.second;
                    connect_phases phases;
                    phases.login = 30ms;
                    if (!outage && !chance(40)) return core_.opened(now_, w.connection, phases, out);
                    constexpr std::array causes{errc::connect_failed, errc::connect_timeout, errc::auth_failed, errc::server_busy};
                    const auto why = outage ? errc::connect_timeout : causes[random_() % causes.size()];
                    core_.open_failed(now_, w.connection, {make_error(why), "", "login", "no luck"}, {}, out);
                });
            case deed::close:
                return step([&](actions& out) { core_.closed(now_, w.connection, out); });
            case deed::give_back:
                return step([&](actions& out) { core_.released(now_, w.connection, w.lease, now_, out); });
            case deed::lose:
                return step([&](actions& out) { core_.lost(now_, w.connection, {make_error(errc::connection_lost), "", "command", "reset"}, out); });
            case deed::probe:
                return step([&](actions& out) {
                    const error_info dead{make_error(errc::connection_lost), "", "probe", "silent"};
                    core_.probed(now_, w.connection, chance(5) ? dead : error_info{}, now_, out);
                });
        }
    }
    template <class Do>
    void step(Do event) {
        ++steps_;
        actions out;
        event(out);
        for (const auto& a : out) {
            if (const auto* o = std::get_if<act::open>(&a)) todo_.insert({in(20ms, 60ms), {deed::open, o->connection, 0}});
            if (const auto* c = std::get_if<act::close>(&a)) todo_.insert({in(1ms, 5ms), {deed::close, c->connection, 0}});
            if (const auto* p = std::get_if<act::probe>(&a)) todo_.insert({in(1ms, 3ms), {deed::probe, p->connection, 0}});
            if (const auto* g = std::get_if<act::grant>(&a)) {
                ++granted_;
                todo_.insert({in(5ms, 2s), {chance(10) ? deed::lose : deed::give_back, g->connection, g->lease}});
            }
            failed_ += std::holds_alternative<act::fail>(a) ? 1 : 0;
        }
    }

    std::mt19937_64 random_;
    pool_core core_;
    instant now_ = 1h;
    std::vector<target> hosts_;
    std::multimap<instant, work> todo_;
    std::pair<instant, instant> outage_{};
    instant quiet_{};
    waiter_id last_ = 0;
    std::size_t granted_ = 0;
    std::size_t failed_ = 0;
    std::size_t steps_ = 0;
};

}  // namespace

TEST_CASE("A week of ten thousand hosts leaves the core as it was after a day", "[core]") {
    busy_week week{10'000, 1};
    const auto print = [&](const char* when, const figures& f) {
        std::printf("%s: %zu bytes allocated, %zu connections, %zu in use, %zu waiting, %zu to come; %zu callers, %zu events so far\n", when, f.bytes,
                    f.connections, f.in_use, f.waiting, f.to_come, week.asked(), week.steps());
    };
    const auto first = week.day();
    print("after a day", first);
    figures last;
    for (int i = 0; i < 6; ++i) {
        last = week.day();
        CHECK(last.connections <= busy_week::warm + 5);  // some of those kept warm are being replaced, some have failed
        CHECK(last.connections + 5 >= busy_week::warm);
        CHECK(last.in_use == 0);
        CHECK(last.waiting == 0);
        CHECK(last.to_come <= 5);
    }
    print("after a week", last);
    const auto s = week.stats();
    std::printf("hit rate %.3f, %llu connections made, %llu evicted\n", s.hit_rate(), static_cast<unsigned long long>(s.connections_created),
                static_cast<unsigned long long>(s.evictions));
    CHECK(week.answered() == week.asked());
    CHECK(week.granted() > week.asked() / 2);
    CHECK(s.connections_created == s.connections_closed.total() + s.pool_size);
    CHECK(last.bytes <= first.bytes + (std::size_t{64} << 10));  // less than a byte a caller
}
