// What the decision core costs. P2: ns per acquire + release of a warm connection, and per sweep, by the number of connections in the pool, beside a plain map
// and list of the same size. P3: ns to cancel and to serve one of many waiters. bench_core [OPERATIONS]; a JSON object a line.
#include <sshpool/detail/pool_core.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <list>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using namespace sshpool;
using namespace sshpool::detail;

/// The processor's time, whatever else the machine does.
double cpu_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

double ns_per(std::size_t count, double from) { return (cpu_ns() - from) / static_cast<double>(count); }

pool_params sized(std::size_t connections) {
    pool_params params;
    params.max_connections = connections;
    params.max_handshakes = connections;
    params.connection_ttl = std::chrono::milliseconds{0};
    params.health_check_interval = std::chrono::milliseconds{0};  // what is due is the idle timeout alone
    params.acquire_timeout = std::chrono::hours{1};
    return params;
}

/// A core and the hosts it knows.
struct world {
    explicit world(std::size_t connections, pool_params params) : core(params, 1) {
        const auto login = credentials::password("secret");
        targets.reserve(connections);
        for (std::size_t i = 0; i < connections; ++i) targets.emplace_back("root@host" + std::to_string(i), login, host_key_policy::accept_any());
        for (const auto& t : targets) {
            ask(t);
            const auto id = std::get<act::open>(out.front()).connection;
            out.clear();
            core.opened(now, id, {}, out);
            give_back(std::get<act::grant>(out.back()));
        }
    }
    waiter_id ask(const target& t) {
        now += std::chrono::microseconds{1};
        out.clear();
        core.acquire(now, ++waiter, t, now + std::chrono::hours{1}, asking::by_policy, std::source_location::current(), out);
        return waiter;
    }
    void give_back(act::grant lent) {
        out.clear();
        core.released(now, lent.connection, lent.lease, now, out);
    }

    pool_core core;
    std::vector<target> targets;
    actions out;
    instant now = std::chrono::hours{1};
    waiter_id waiter = 0;
};

/// What a pool costs at the least: the most recently used goes to the front of a list, found by its key.
class plain_pool {
public:
    explicit plain_pool(const std::vector<target>& targets) {
        for (const auto& t : targets) {
            entries_.push_front(t.key());
            map_.emplace(t.key(), entries_.begin());
        }
    }
    void lend(const target& t) { entries_.splice(entries_.begin(), entries_, map_.find(t.key())->second); }

private:
    std::list<std::string> entries_;
    std::unordered_map<std::string, std::list<std::string>::iterator> map_;
};

std::vector<std::size_t> order_of(std::size_t operations, std::size_t connections, bool shuffled) {
    std::vector<std::size_t> order(operations);
    std::mt19937_64 random{1};
    for (auto& i : order) i = shuffled ? random() % connections : 0;
    return order;
}
template <class Lend>
double best_of(const std::vector<std::size_t>& order, Lend lend) {
    auto best = 1e300;
    for (int round = 0; round < 5; ++round) {
        const auto start = cpu_ns();
        for (const auto i : order) lend(i);
        best = std::min(best, ns_per(order.size(), start));
    }
    return best;
}

void measure_entries(std::size_t operations, std::size_t connections) {
    world w{connections, sized(connections)};
    plain_pool plain{w.targets};
    const auto lend = [&](std::size_t i) {
        w.ask(w.targets[i]);
        w.give_back(std::get<act::grant>(w.out.front()));
    };
    const auto same = order_of(operations, connections, false);
    const auto random = order_of(operations, connections, true);
    const auto same_ns = best_of(same, lend);
    const auto random_ns = best_of(random, lend);
    const auto plain_ns = best_of(random, [&](std::size_t i) { plain.lend(w.targets[i]); });
    // Sweeps of a pool nobody used yet, where the deadlines are what they say: with nothing due, then up to a thousand of all that are idle.
    auto nothing_due = 1e300;
    auto each_due = 1e300;
    for (int round = 0; round < 5; ++round) {
        world idle{connections, sized(connections)};
        constexpr std::size_t sweeps = 1000;
        auto start = cpu_ns();
        for (std::size_t i = 0; i < sweeps; ++i) idle.core.advance(idle.now, idle.out);
        nothing_due = std::min(nothing_due, ns_per(sweeps, start));
        std::size_t closed = 0;
        start = cpu_ns();
        for (auto next = idle.core.next_deadline(); next && closed < std::min<std::size_t>(connections, 1000); next = idle.core.next_deadline()) {
            idle.out.clear();
            idle.core.advance(*next, idle.out);
            for (const auto& a : idle.out) closed += std::holds_alternative<act::close>(a) ? 1U : 0U;
        }
        each_due = std::min(each_due, ns_per(closed, start));
    }
    std::printf(
        "{\"workload\": \"P2\", \"connections\": %zu, \"same_host_ns\": %.1f, \"random_host_ns\": %.1f, \"plain_map_and_list_random_ns\": %.1f, "
        "\"sweep_nothing_due_ns\": %.1f, \"sweep_ns_per_due\": %.1f}\n",
        connections, same_ns, random_ns, plain_ns, nothing_due, each_due);
    std::fflush(stdout);
}

/// `waiters` queue for one host whose connections are all lent.
void measure_waiters(std::size_t waiters) {
    double cancel_ns = 1e300;
    double serve_ns = 1e300;
    for (int round = 0; round < 5; ++round) {
        auto params = sized(1);
        params.leases_per_connection = 1;
        world w{1, params};
        w.ask(w.targets[0]);
        auto held = std::get<act::grant>(w.out.front());
        const auto queue = [&] {
            std::vector<waiter_id> ids(waiters);
            for (auto& id : ids) id = w.ask(w.targets[0]);
            return ids;
        };
        auto ids = queue();
        std::mt19937_64 random{1};
        std::shuffle(ids.begin(), ids.end(), random);
        auto start = cpu_ns();
        for (const auto id : ids) {
            w.out.clear();
            w.core.cancelled(w.now, id, w.out);
        }
        cancel_ns = std::min(cancel_ns, ns_per(waiters, start));
        queue();
        start = cpu_ns();
        for (std::size_t i = 0; i < waiters; ++i) {
            w.give_back(held);
            held = std::get<act::grant>(w.out.front());
        }
        serve_ns = std::min(serve_ns, ns_per(waiters, start));
    }
    std::printf("{\"workload\": \"P3\", \"waiters\": %zu, \"cancel_ns\": %.1f, \"serve_ns\": %.1f}\n", waiters, cancel_ns, serve_ns);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    const std::size_t operations = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 200'000;
    for (const std::size_t n : {100, 10'000, 100'000}) measure_entries(operations, n);
    for (const std::size_t n : {200, 2'000, 20'000}) measure_waiters(n);
}
