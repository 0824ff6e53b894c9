#include "core/core_world.hpp"
#include "support/catch.hpp"

#include <map>
#include <random>

using namespace core_test;

namespace {

/// Every host gets its commands one after another, all hosts at once, through a pool of 50. Returns the number of connects.
std::uint64_t connects_of_a_cycle(std::size_t hosts, std::size_t commands, std::chrono::milliseconds longest_command, std::uint64_t seed) {
    enum class deed { ask, open, close, give_back };
    struct work {
        deed what;
        std::size_t host;
        std::uint64_t connection;
        std::uint64_t lease;
    };
    pool_core core{{}, seed};
    std::mt19937_64 random{seed};
    std::vector<target> targets;
    std::vector<std::size_t> left(hosts, commands);
    std::map<waiter_id, std::size_t> asked_by;
    std::multimap<instant, work> todo;
    instant now = 1h;
    const auto in = [&](std::size_t from_us, std::size_t to_us) { return now + std::chrono::microseconds{from_us + random() % (to_us - from_us + 1)}; };
    for (std::size_t i = 0; i < hosts; ++i) {
        targets.push_back(host("root@host" + std::to_string(i)));
        todo.insert({now, {deed::ask, i, 0, 0}});
    }
    waiter_id last = 0;
    while (!todo.empty()) {
        if (const auto next = core.next_deadline(); next && *next < todo.begin()->first) {
            now = std::max(now, *next);
            actions out;
            core.advance(now, out);
            for (const auto& a : out) {
                if (const auto* o = std::get_if<act::open>(&a)) todo.insert({in(20'000, 40'000), {deed::open, 0, o->connection, 0}});
                if (const auto* c = std::get_if<act::close>(&a)) todo.insert({in(500, 2'000), {deed::close, 0, c->connection, 0}});
                if (std::holds_alternative<act::fail>(a)) return ~std::uint64_t{0};
            }
            continue;
        }
        const auto [when, what] = *todo.begin();
        todo.erase(todo.begin());
        now = when;
        actions out;
        connect_phases phases;
        phases.login = 30ms;
        switch (what.what) {
            case deed::ask:
                asked_by[++last] = what.host;
                core.acquire(now, last, targets[what.host], now + 30s, asking::by_policy, std::source_location::current(), out);
                break;
            case deed::open:
                core.opened(now, what.connection, phases, out);
                break;
            case deed::close:
                core.closed(now, what.connection, out);
                break;
            case deed::give_back:
                core.released(now, what.connection, what.lease, now, out);
                if (--left[what.host] > 0) todo.insert({in(50, 1'000), {deed::ask, what.host, 0, 0}});
                break;
        }
        for (const auto& a : out) {
            if (const auto* o = std::get_if<act::open>(&a)) todo.insert({in(20'000, 40'000), {deed::open, 0, o->connection, 0}});
            if (const auto* c = std::get_if<act::close>(&a)) todo.insert({in(500, 2'000), {deed::close, 0, c->connection, 0}});
            if (const auto* g = std::get_if<act::grant>(&a)) {
                const auto longest = static_cast<std::size_t>(std::chrono::microseconds{longest_command}.count());
                todo.insert({in(1'000, longest), {deed::give_back, asked_by[g->waiter], g->connection, g->lease}});
            }
            if (std::holds_alternative<act::fail>(a)) return ~std::uint64_t{0};
        }
    }
    for (const auto n : left) {
        if (n != 0) return ~std::uint64_t{0};
    }
    return core.stats().connections_created;
}

}  // namespace

TEST_CASE("A fleet twice as large as the pool costs hardly more than one connect a host", "[core]") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CHECK(connects_of_a_cycle(100, 13, 10ms, seed) <= 110);
        CHECK(connects_of_a_cycle(100, 13, 40ms, seed) <= 110);
    }
    CHECK(connects_of_a_cycle(50, 13, 10ms, 1) == 50);
}
