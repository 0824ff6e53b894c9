#pragma once

#include <sshpool/ssh_pool.hpp>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/delay_proxy.hpp"
#include "support/sshd_server.hpp"

namespace soak {

using namespace std::chrono_literals;

/// Many hosts on loopback: addresses of a few sshds, each behind a proxy of its own that can break its connections.
class fleet {
public:
    struct host {
        std::size_t number;
        support::sshd_server* server;
        support::delay_proxy proxy;
        sshpool::target where;
        host(std::size_t n, support::sshd_server& s, const std::string& address)
            : number(n),
              server(&s),
              proxy(address, s.port()),
              where(s.address(proxy.host(), proxy.port()), sshpool::credentials::private_key_file(s.client_key()),
                    sshpool::host_key_policy::pinned(s.fingerprint())) {}
    };

    explicit fleet(std::size_t size) {
        constexpr std::size_t addresses_of_a_server = 16;
        for (std::size_t i = 0; i < size; ++i) {
            if (i % addresses_of_a_server == 0) {
                support::sshd_server::options o;
                o.addresses.clear();
                for (std::size_t k = i; k < std::min(size, i + addresses_of_a_server); ++k) o.addresses.push_back("127.0.3." + std::to_string(k + 1));
                o.config = {"MaxStartups 500"};
                servers.push_back(std::make_unique<support::sshd_server>(o));
            }
            hosts.push_back(std::make_unique<host>(i, *servers.back(), "127.0.3." + std::to_string(i + 1)));
        }
    }

    std::vector<std::unique_ptr<support::sshd_server>> servers;
    std::vector<std::unique_ptr<host>> hosts;
};

/// Breaks connections of a fleet at random moments, from a thread of its own, until it goes.
class wrecker {
public:
    struct counts {
        std::atomic<std::size_t> cuts{0}, while_running{0}, at_a_byte{0}, refusals{0}, broken_connects{0}, kills{0};
    };

    /// `pause`: between two faults, on average. `busy` tells whether a command is on the host's connections just now.
    wrecker(fleet& on, std::chrono::milliseconds pause, std::uint64_t seed, std::function<bool(const fleet::host&)> busy)
        : fleet_(on), pause_(pause), busy_(std::move(busy)), random_(seed), thread_([this] { run(); }) {}
    wrecker(const wrecker&) = delete;
    wrecker& operator=(const wrecker&) = delete;
    ~wrecker() { stop(); }

    void stop() {
        stopping_ = true;
        if (thread_.joinable()) thread_.join();
    }

    counts done;

private:
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
    void wait(std::size_t most_ms) { std::this_thread::sleep_for(std::chrono::milliseconds{below(most_ms + 1)}); }

    void run() {
        while (!stopping_) {
            wait(static_cast<std::size_t>(2 * pause_.count()));
            auto& h = *fleet_.hosts[below(fleet_.hosts.size())];
            const bool running = busy_(h) && h.proxy.open_connections() > 0;
            switch (below(20)) {
                case 0:
                    h.proxy.refuse(true);
                    h.proxy.break_now(support::trouble::reset);
                    wait(30);
                    h.proxy.heal();
                    ++done.refusals;
                    break;
                case 1:
                    h.proxy.break_new(support::trouble::reset, below(3'000));
                    h.proxy.break_now(support::trouble::reset);
                    wait(60);
                    h.proxy.heal();
                    ++done.broken_connects;
                    break;
                case 2:
                    if (below(8) != 0) continue;
                    h.server->kill_sessions();
                    ++done.kills;
                    break;
                case 3:
                case 4:
                case 5:
                    h.proxy.break_now(support::trouble::half_close);
                    break;
                case 6:
                case 7:
                case 8:
                case 9:
                    h.proxy.break_later(support::trouble::reset, below(1'000));
                    ++done.at_a_byte;
                    continue;
                default:
                    h.proxy.break_now(support::trouble::reset);
            }
            ++done.cuts;
            if (running) ++done.while_running;
        }
    }

    fleet& fleet_;
    std::chrono::milliseconds pause_;
    std::function<bool(const fleet::host&)> busy_;
    std::mt19937_64 random_;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace soak
