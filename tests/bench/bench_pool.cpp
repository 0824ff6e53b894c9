// ns per acquire + release through the real driver, beside three bare strand hops of the same run. No network.

#include <sshpool/ssh_pool.hpp>

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
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

struct user {
    ssh_pool<test::scripted_transport>& pool;
    target where;
    std::size_t left;
    asio::io_context& io;
    void go() {
        if (left-- == 0) return io.stop();  // the idle connection would keep it running
        pool.async_get_connection(where, [this](std::error_code ec, auto lease) {
            if (ec) std::abort();
            lease.release();
            go();
        });
    }
};

}  // namespace

int main(int argc, char** argv) {
    const std::size_t rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 300'000;
    auto network = std::make_shared<test::scripted_network>();
    std::vector<double> ratios, pool_ns, hop_ns;
    for (int turn = 0; turn < 5; ++turn) {
        asio::io_context io{1};
        hops h{io, asio::make_strand(asio::any_io_executor{io.get_executor()}), rounds};
        auto start = clock_type::now();
        h.go();
        io.run();
        hop_ns.push_back(ns_per(rounds, start));

        io.restart();
        ssh_pool<test::scripted_transport> pool{io.get_executor(), {}, [network](asio::any_io_executor ex) {
                                                    return test::scripted_transport{std::move(ex), network};
                                                }};
        user u{pool, target{"root@h", credentials::password("x"), host_key_policy::accept_any()}, rounds, io};
        start = clock_type::now();
        u.go();
        io.run();
        pool_ns.push_back(ns_per(rounds, start));
        ratios.push_back(pool_ns.back() / hop_ns.back());
    }
    const auto median = [](std::vector<double> v) {
        std::sort(v.begin(), v.end());
        return v[v.size() / 2];
    };
    std::printf("{\"three_strand_hops_ns\": %.0f, \"acquire_release_ns\": %.0f, \"ratio\": %.2f}\n", median(hop_ns), median(pool_ns), median(ratios));
}
