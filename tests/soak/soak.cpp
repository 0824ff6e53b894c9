// A pool on many hosts under random faults for minutes: descriptors, memory and channels must be flat. soak --seconds 600 --hosts 100 --seed 1

#include "soak/fleet.hpp"
#include "soak/options.hpp"
#include "support/self.hpp"

#include <cstdio>
#include <sstream>

using namespace sshpool;
using namespace std::chrono_literals;

namespace {

/// What this process holds.
struct figures {
    std::size_t descriptors = 0;
    std::size_t rss_kb = 0;
    std::size_t pss_kb = 0;
    std::size_t connections = 0;
    std::size_t in_use = 0;
    std::size_t waiting = 0;

    static figures now(const ssh_pool<>& pool) {
        figures f;
        f.descriptors = support::open_descriptors();
        std::istringstream lines{support::read_file("/proc/self/smaps_rollup")};
        for (std::string line; std::getline(lines, line);) {
            if (line.starts_with("Rss:")) f.rss_kb = std::stoul(line.substr(4));
            if (line.starts_with("Pss:")) f.pss_kb = std::stoul(line.substr(4));
        }
        const auto s = pool.get_stats();
        f.connections = s.pool_size;
        f.in_use = s.in_use;
        f.waiting = s.waiting;
        return f;
    }
    void print(const char* when) const {
        std::printf("%-22s %5zu descriptors, RSS %7zu KiB, PSS %7zu KiB, %3zu connections, %3zu in use, %3zu waiting\n", when, descriptors, rss_kb, pss_kb,
                    connections, in_use, waiting);
        std::fflush(stdout);
    }
};

class load {
public:
    load(soak::fleet& f, std::uint64_t seed) : fleet_(f), random_(seed), pool_(io_.get_executor(), params()), thread_([this] { io_.run(); }) {}
    ~load() {
        pool_.async_shutdown(5s, [](std::error_code) {});
        work_.reset();
        thread_.join();
    }

    /// Commands on every host, one after another with pauses, until `rest`.
    void work() {
        resting_ = false;
        for (auto& h : fleet_.hosts) {
            ++busy_;
            asio::post(io_, [this, host = h.get()] { next(*host); });
        }
    }
    /// Every command has ended, and the pool is at rest.
    bool rest() {
        resting_ = true;
        return support::wait_until([&] { return busy_ == 0 && pool_.get_stats().in_use == 0; }, 120s);
    }
    /// What every host must have: room for as many commands at once as a connection carries. Channels that were lost would show.
    std::size_t failures_of_full_load() {
        std::atomic<std::size_t> left{fleet_.hosts.size() * pool_params{}.leases_per_connection}, bad{0};
        for (auto& h : fleet_.hosts) {
            for (std::size_t i = 0; i < pool_params{}.leases_per_connection; ++i) {
                pool_.async_run(h->where, "true", [&](std::error_code ec, const command_result& r) {
                    if (ec || !r.ok()) ++bad;
                    --left;
                });
            }
        }
        return support::wait_until([&] { return left == 0; }, 120s) ? bad.load() : left.load();
    }
    const ssh_pool<>& pool() const { return pool_; }
    void close_all() {
        pool_.close_all();
        support::wait_until([&] { return pool_.get_stats().pool_size == 0; }, 60s);
    }

    std::atomic<std::size_t> ran{0}, failed{0};

private:
    static pool_params params() {
        pool_params p;
        p.max_connections = 120;
        p.connect_timeout = 10s * support::slowness;
        p.acquire_timeout = 30s * support::slowness;
        p.health_check_interval = 2s;
        p.connection_ttl = 30s;
        p.idle_timeout = 10s;
        return p;
    }
    void next(soak::fleet::host& h) {
        if (resting_) {
            --busy_;
            return;
        }
        command what{random_() % 8 == 0 ? "head -c 100000 /dev/zero" : "echo x"};
        what.timeout(20s);
        pool_.async_run(h.where, std::move(what), [this, &h](std::error_code ec, const command_result& r) {
            ++(ec || !r.ok() ? failed : ran);
            auto pause = std::make_shared<asio::steady_timer>(io_, std::chrono::milliseconds{200 + random_() % 1'200});
            pause->async_wait([this, &h, pause](std::error_code) { next(h); });
        });
    }

    soak::fleet& fleet_;
    std::mt19937_64 random_;  // the thread's own
    std::atomic<bool> resting_{false};
    std::atomic<std::size_t> busy_{0};
    asio::io_context io_;
    ssh_pool<> pool_;
    asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
    std::thread thread_;
};

}  // namespace

int main(int argc, char** argv) {
    const auto given = soak::options(argc, argv, {{"--seconds", 600}, {"--hosts", 100}, {"--seed", 1}});
    soak::fleet fleet{given.at("--hosts")};
    load world{fleet, given.at("--seed")};
    const auto at_rest = [&](const char* when) {  // one idle connection a host, whatever was there before
        if (!world.rest()) std::printf("the pool does not come to rest\n");
        for (auto& h : fleet.hosts) h->proxy.heal();
        world.close_all();
        std::size_t failed = 0;
        for (int i = 0; i < 10; ++i) {
            failed = world.failures_of_full_load();
            if (failed == 0) break;
            std::this_thread::sleep_for(1s);  // hosts that failed a moment ago are not tried again yet
        }
        if (failed > 0) std::printf("%zu commands of a full load fail\n", failed);
        world.close_all();
        support::wait_until([&] {
            std::size_t open = 0;
            for (const auto& h : fleet.hosts) open += h->proxy.open_connections();
            return open == 0;
        });
        const auto f = figures::now(world.pool());
        f.print(when);
        return std::pair{f, failed};
    };
    const std::chrono::seconds length{given.at("--seconds")};
    const auto begin = std::chrono::steady_clock::now();
    const auto warm_up = length / 5;
    world.work();
    auto wrecker =
        std::make_unique<soak::wrecker>(fleet, 25ms, given.at("--seed") + 1, [&](const auto& h) { return world.pool().get_stats(h.where.key()).in_use > 0; });
    const auto until = [&](std::chrono::seconds when) {
        for (auto next = std::chrono::steady_clock::now() + 60s; std::chrono::steady_clock::now() < begin + when;) {
            std::this_thread::sleep_for(100ms);
            if (std::chrono::steady_clock::now() < next) continue;
            next += 60s;
            figures::now(world.pool()).print(("under way, " + std::to_string(world.ran.load()) + " commands").c_str());
        }
    };
    std::size_t cuts = 0;
    const auto pause = [&] {
        wrecker->stop();
        cuts += wrecker->done.cuts + wrecker->done.at_a_byte;
        wrecker.reset();
    };
    until(warm_up);  // memory pools and caches have their size then
    pause();
    const auto [first, first_failed] = at_rest("after a fifth, at rest");
    world.work();
    wrecker =
        std::make_unique<soak::wrecker>(fleet, 25ms, given.at("--seed") + 2, [&](const auto& h) { return world.pool().get_stats(h.where.key()).in_use > 0; });
    until(length);
    pause();
    const auto [last, last_failed] = at_rest("at the end, at rest");

    const auto s = world.pool().get_stats();
    std::printf("%zu hosts, %zu s: %zu commands ended well, %zu with an error; %zu cuts; %llu connections made, %llu closed\n", fleet.hosts.size(),
                static_cast<std::size_t>(length.count()), world.ran.load(), world.failed.load(), cuts, static_cast<unsigned long long>(s.connections_created),
                static_cast<unsigned long long>(s.connections_closed.total()));
    // The allocator keeps what it once had: a tenth and 4 MiB are no leak. A leak of one connection's 60 KiB per cut would be far more.
    const bool flat = last.descriptors == first.descriptors && last.connections == 0 && last.in_use == 0 && last.waiting == 0 &&
                      last.rss_kb <= first.rss_kb + first.rss_kb / 10 + 4'096 && first_failed == 0 && last_failed == 0 && world.ran > 0 &&
                      s.connections_created == s.connections_closed.total();
    std::printf("%s\n", flat ? "flat" : "NOT FLAT");
    return flat ? 0 : 1;
}
