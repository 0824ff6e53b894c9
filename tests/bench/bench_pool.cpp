// P1: ns per acquire + release through the real driver over a scripted network, beside three bare strand hops of the same run; then what several threads get
// through together, with eight callers each. bench_pool [ROUNDS]; a JSON object a line.

#include <sshpool/ssh_pool.hpp>

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/scripted_transport.hpp"

using namespace sshpool;
using clock_type = std::chrono::steady_clock;

namespace {

double ns_per(std::size_t count, clock_type::time_point from) {
    return std::chrono::duration<double, std::nano>(clock_type::now() - from).count() / static_cast<double>(count);
}

/// One round: a post to a strand, a post to another executor, a post to the strand again, as an acquire and a release make them.
struct hops {
    asio::io_context& io;
    asio::strand<asio::any_io_executor> strand;
    std::size_t left;
    void go() {
        if (left-- == 0) return;
        asio::post(strand, [this] { asio::post(io, [this] { asio::post(strand, [this] { go(); }); }); });
    }
};

using pool_type = ssh_pool<test::scripted_transport>;

struct user {
    pool_type& pool;
    target where;
    std::size_t left;
    std::atomic<std::size_t>& at_work;
    asio::io_context& io;
    void go() {
        if (left-- == 0) {
            if (--at_work == 0) io.stop();  // the idle connections would keep it running
            return;
        }
        pool.async_get_connection(where, [this](std::error_code ec, auto lease) {
            if (ec) std::abort();
            lease.release();
            go();
        });
    }
};

/// On one thread the processor's time is what counts, whatever else the machine does.
double cpu_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// A context with sockets or timers asks the kernel for events between any two handlers when it has little to do, and every program that uses the pool has
/// such a context. One without is for comparison.
enum class events { asked_for, none };
double hop_ns(std::size_t rounds, events kernel) {
    asio::io_context io{1};
    std::optional<asio::steady_timer> timer;
    if (kernel == events::asked_for) timer.emplace(io);
    hops h{io, asio::make_strand(asio::any_io_executor{io.get_executor()}), rounds};
    const auto start = cpu_ns();
    h.go();
    io.run();
    return (cpu_ns() - start) / static_cast<double>(rounds);
}

/// Of one acquire and release.
struct spent {
    double cpu_ns, wall_ns;
};
/// `callers` share `rounds`, eight to a host, so that each connection is lent to as many as it may be.
spent lend_and_return(std::size_t rounds, std::size_t threads, std::size_t callers) {
    const auto network = std::make_shared<test::scripted_network>();
    asio::io_context io{static_cast<int>(threads)};
    pool_type pool{io.get_executor(), {}, [network](asio::any_io_executor ex) { return test::scripted_transport{std::move(ex), network}; }};
    std::atomic<std::size_t> at_work{callers};
    std::vector<user> users;
    users.reserve(callers);
    for (std::size_t i = 0; i < callers; ++i) {
        const target where{"root@h" + std::to_string(i / 8), credentials::password("x"), host_key_policy::accept_any()};
        users.push_back({pool, where, rounds / callers, at_work, io});
    }
    const auto cpu = cpu_ns();
    const auto start = clock_type::now();
    for (auto& u : users) u.go();
    std::vector<std::thread> more;
    for (std::size_t i = 1; i < threads; ++i) more.emplace_back([&io] { io.run(); });
    io.run();
    for (auto& t : more) t.join();
    return {(cpu_ns() - cpu) / static_cast<double>(rounds), ns_per(rounds, start)};
}

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    const std::size_t rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 300'000;
    constexpr int turns = 5;
    std::vector<double> ratios, pools, hopping, undisturbed;
    for (int turn = 0; turn < turns; ++turn) {
        hopping.push_back(hop_ns(rounds, events::asked_for));
        undisturbed.push_back(hop_ns(rounds, events::none));
        pools.push_back(lend_and_return(rounds, 1, 1).cpu_ns);
        ratios.push_back(pools.back() / hopping.back());
    }
    std::printf("{\"workload\": \"P1\", \"three_strand_hops_ns\": %.0f, \"without_events_ns\": %.0f, \"acquire_release_ns\": %.0f, \"ratio\": %.2f}\n",
                median(hopping), median(undisturbed), median(pools), median(ratios));
    // In turn, since a shared machine has phases of seconds in which what one core has written takes the other twice as long to read.
    std::map<std::size_t, std::vector<double>> took;
    for (int turn = 0; turn < turns; ++turn) {
        for (const std::size_t threads : {1, 2, 4, 8}) took[threads].push_back(lend_and_return(rounds, threads, 8 * threads).wall_ns);
    }
    for (const auto& [threads, ns] : took)
        std::printf("{\"workload\": \"P1-threads\", \"threads\": %zu, \"callers\": %zu, \"acquire_release_ns\": %.0f}\n", threads, 8 * threads, median(ns));
}
