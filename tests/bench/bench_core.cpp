// What the decision core costs: ns per acquire + release of a warm connection, by the number of connections in the pool.
#include <sshpool/detail/pool_core.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sshpool;
using namespace sshpool::detail;

/// `shuffled`: each lend goes to a random host, so that little of it is in the processor's caches; otherwise to the same one.
double ns_per_lend(std::size_t connections, bool shuffled) {
    pool_params params;
    params.max_connections = connections;
    params.max_handshakes = connections;
    pool_core core{params, 1};
    const auto login = credentials::password("secret");
    std::vector<target> targets;
    targets.reserve(connections);
    for (std::size_t i = 0; i < connections; ++i) targets.emplace_back("root@host" + std::to_string(i), login, host_key_policy::accept_any());
    actions out;
    instant now = std::chrono::hours{1};
    waiter_id waiter = 0;
    for (const auto& t : targets) {
        out.clear();
        core.acquire(now, ++waiter, t, now + std::chrono::seconds{30}, asking::by_policy, std::source_location::current(), out);
        const auto id = std::get<act::open>(out.front()).connection;
        out.clear();
        core.opened(now, id, {}, out);
        const auto lease = std::get<act::grant>(out.back()).lease;
        core.released(now, id, lease, now, out);
    }
    std::vector<std::size_t> order(std::size_t{1} << 20);
    std::mt19937_64 random{1};
    for (auto& i : order) i = shuffled ? random() % connections : 0;
    auto best = 1e300;
    for (int round = 0; round < 5; ++round) {
        const auto start = std::chrono::steady_clock::now();
        for (const auto i : order) {
            now += std::chrono::microseconds{1};
            out.clear();
            core.acquire(now, ++waiter, targets[i], now + std::chrono::seconds{30}, asking::by_policy, std::source_location::current(), out);
            const auto lent = std::get<act::grant>(out.front());
            core.released(now, lent.connection, lent.lease, now, out);
        }
        const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
        best = std::min(best, took.count() / static_cast<double>(order.size()));
    }
    return best;
}

}  // namespace

int main() {
    std::printf("%12s %22s %22s\n", "connections", "same host, ns/lend", "random host, ns/lend");
    for (const std::size_t n : {std::size_t{100}, std::size_t{10'000}, std::size_t{100'000}}) {
        std::printf("%12zu %22.1f %22.1f\n", n, ns_per_lend(n, false), ns_per_lend(n, true));
        std::fflush(stdout);
    }
}
