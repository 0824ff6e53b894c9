#include "core/core_world.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <random>
#include <set>

using namespace core_test;

namespace {

/// Hosts with endless work hold every place of the pool; each millisecond a step. Others come and want a place, too.
class endless_load {
public:
    static constexpr auto connect = 10ms, close = 2ms, longest_lease = 40ms;

    endless_load(std::uint64_t seed, std::size_t places) : random_(seed), params_(make(places)), core_(params_, seed) {
        for (std::size_t i = 0; i < places; ++i) busy_.push_back(host("busy@host" + std::to_string(i)));
    }
    /// What each newcomer waited for, in the order of asking.
    std::vector<instant> run(std::size_t newcomers, std::chrono::milliseconds longest) {
        const auto start = now_;
        std::vector<target> others;
        for (std::size_t i = 0; i < newcomers; ++i) others.push_back(host("new@host" + std::to_string(i)));
        while (now_ - start < longest) {
            for (const auto& t : busy_) {
                while (in_play(t) < 2) ask(t);  // never without somebody who waits or works
            }
            if (now_ - start == 200ms) {
                for (const auto& t : others) newcomers_.push_back(ask(t));
            }
            now_ += 1ms;
            step([&](actions& out) { core_.advance(now_, out); });
            while (!todo_.empty() && todo_.begin()->first <= now_) {
                const auto what = todo_.begin()->second;
                todo_.erase(todo_.begin());
                do_it(what);
            }
        }
        std::vector<instant> waits;
        for (const auto id : newcomers_) {
            const auto it = granted_.find(id);
            waits.push_back(it == granted_.end() ? instant::max() : it->second - start - 200ms);
        }
        return waits;
    }

private:
    enum class deed { open, close, give_back };
    struct work {
        deed what;
        connection_id connection;
        lease_id lease;
        std::string key;
    };

    static pool_params make(std::size_t places) {
        pool_params p;
        p.max_connections = places;
        p.acquire_timeout = 1h;
        p.leases_per_connection = 2;
        return p;
    }
    std::size_t in_play(const target& t) { return playing_[t.key()]; }
    waiter_id ask(const target& t) {
        const auto id = ++last_;
        ++playing_[t.key()];
        keys_[id] = t.key();
        step([&](actions& out) { core_.acquire(now_, id, t, now_ + 1h, asking::by_policy, std::source_location::current(), out); });
        return id;
    }
    void do_it(const work& w) {
        step([&](actions& out) {
            connect_phases phases;
            phases.login = connect;
            if (w.what == deed::open) {
                core_.opened(now_, w.connection, phases, out);
            } else if (w.what == deed::close) {
                core_.closed(now_, w.connection, out);
            } else {
                --playing_[w.key];
                core_.released(now_, w.connection, w.lease, now_, out);
            }
        });
    }
    template <class Do>
    void step(Do event) {
        actions out;
        event(out);
        for (const auto& a : out) {
            if (const auto* o = std::get_if<act::open>(&a)) todo_.insert({now_ + connect, {deed::open, o->connection, 0, {}}});
            if (const auto* c = std::get_if<act::close>(&a)) todo_.insert({now_ + close, {deed::close, c->connection, 0, {}}});
            if (const auto* g = std::get_if<act::grant>(&a)) {
                granted_[g->waiter] = now_;
                const std::chrono::milliseconds lease{1 + random_() % static_cast<std::uint64_t>(longest_lease.count())};
                todo_.insert({now_ + lease, {deed::give_back, g->connection, g->lease, keys_[g->waiter]}});
            }
        }
    }

    std::mt19937_64 random_;
    pool_params params_;
    pool_core core_;
    instant now_ = 1h;
    waiter_id last_ = 0;
    std::vector<target> busy_;
    std::vector<waiter_id> newcomers_;
    std::map<std::string, std::size_t> playing_;
    std::map<waiter_id, std::string> keys_;
    std::map<waiter_id, instant> granted_;
    std::multimap<instant, work> todo_;
};

}  // namespace

TEST_CASE("Under endless load on other hosts the wait of each caller has a bound that grows with its place in the queue", "[core][model]") {
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
        const std::size_t places = 1 + seed % 5;
        const auto waits = endless_load{seed, places}.run(4, 4s);
        for (std::size_t i = 0; i < waits.size(); ++i) {
            // Its patience; then, for each before it and for itself, one drain as long as the longest lease, the close and the connect, each
            // seen a step of the clock later.
            const auto turn = endless_load::longest_lease + endless_load::close + endless_load::connect + 3ms;
            const auto bound = 10 * endless_load::connect + static_cast<std::int64_t>(i + 1) * turn;
            INFO("seed " << seed << ", " << places << " places, newcomer " << i << " waited " << in_seconds(waits[i]));
            CHECK(waits[i] <= bound);
        }
    }
}
