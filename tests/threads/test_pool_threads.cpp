// The pool used from many threads at once. Meant for ThreadSanitizer; every promise also holds without it.

#include <version>  // before Asio, as in error.hpp

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>

#include <atomic>
#include <random>
#include <thread>

#include "support/wait.hpp"
#include "unit/pool_fixture.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

struct crowd {
    explicit crowd(pool_params params)
        : pool(io.get_executor(), params, [n = network](asio::any_io_executor ex) {
              return scripted_transport{std::move(ex), n};
          }) {
        for (int i = 0; i < 4; ++i) runners.emplace_back([this] { io.run(); });
    }
    ~crowd() {
        auto drained = pool.async_shutdown(5s, asio::use_future);
        drained.get();
        work.reset();
        for (auto& t : runners) t.join();
    }

    asio::io_context io;
    asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
    std::shared_ptr<scripted_network> network = std::make_shared<scripted_network>();
    ssh_pool<scripted_transport> pool;
    std::vector<std::thread> runners;
};

pool_params small() {
    pool_params p;
    p.max_connections = 4;
    p.leases_per_connection = 2;
    return p;
}

}  // namespace

TEST_CASE("callers on many threads, each cancelling from a strand of its own, are each answered once", "[threads]") {
    crowd c{small()};
    constexpr int callers = 400;
    std::atomic<int> answers{0}, granted{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            std::mt19937 random{static_cast<unsigned>(t)};
            for (int i = 0; i < callers / 4; ++i) {
                auto strand = asio::make_strand(c.io);
                auto stop = std::make_shared<asio::cancellation_signal>();
                const auto name = "h" + std::to_string(random() % 7);
                asio::post(strand, [&, strand, stop, name, run = random() % 2 == 0] {
                    if (run) {
                        c.pool.async_run(host(name), "true",
                                         asio::bind_cancellation_slot(stop->slot(), asio::bind_executor(strand, [&, stop](std::error_code ec, command_result) {
                                                                          if (!ec) ++granted;
                                                                          ++answers;
                                                                      })));
                    } else {
                        c.pool.async_get_connection(host(name),
                                                    asio::bind_cancellation_slot(stop->slot(), asio::bind_executor(strand, [&, stop](std::error_code ec, auto) {
                                                                                     if (!ec) ++granted;
                                                                                     ++answers;
                                                                                 })));
                    }
                });
                if (random() % 2 == 0) asio::post(strand, [stop] { stop->emit(asio::cancellation_type::total); });
            }
        });
    }
    for (auto& t : threads) t.join();
    REQUIRE(support::wait_until([&] { return answers == callers; }, 20s));
    CHECK(granted > 0);
    CHECK(c.network->most_live() <= 4);
    CHECK(support::wait_until([&] { return c.pool.get_stats().in_use == 0; }));
}

TEST_CASE("statistics, explain, invalidate and try_get_connection from any thread, beside callers", "[threads]") {
    crowd c{small()};
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    threads.emplace_back([&] {
        while (!stop) {
            const auto s = c.pool.get_stats();
            if (s.pool_size > 4) std::abort();
            (void)c.pool.explain("root@h1:22");
        }
    });
    threads.emplace_back([&] {
        while (!stop) {
            c.pool.invalidate("root@h1:22");
            std::this_thread::yield();
            if (auto l = c.pool.try_get_connection(host("h2"))) l->discard();
            c.pool.close_all();
            std::this_thread::sleep_for(1ms);
        }
    });
    std::vector<std::future<command_result>> results;
    for (int i = 0; i < 300; ++i) results.push_back(c.pool.async_run(host("h" + std::to_string(i % 5)), "true", asio::use_future));
    for (auto& r : results) CHECK(r.get().ok());
    stop = true;
    for (auto& t : threads) t.join();
}

TEST_CASE("leases are dropped, moved and discarded on threads of their own", "[threads]") {
    crowd c{small()};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 60; ++i) {
                auto l = c.pool.async_get_connection(host("h" + std::to_string((t + i) % 3)), asio::use_future).get();
                (void)l.info();
                if (i % 3 == 0) std::thread{[moved = std::move(l)]() mutable { moved.release(); }}.join();
                if (i % 7 == 0) l.discard();
            }
        });
    }
    for (auto& t : threads) t.join();
    CHECK(support::wait_until([&] { return c.pool.get_stats().in_use == 0; }));
}

TEST_CASE("connections that die while they are lent, on any thread, leave nobody without an answer", "[threads]") {
    crowd c{small()};
    std::atomic<bool> stop{false};
    std::thread fate{[&] {
        for (std::size_t i = 0; !stop; ++i) {
            if (const auto n = c.network->opened(); n > 0) c.network->lose(i % n);
            std::this_thread::sleep_for(200us);
        }
    }};
    int ok = 0, lost = 0;
    for (int i = 0; i < 400; ++i) {
        auto r = c.pool.async_run(host("h" + std::to_string(i % 3)), "true", asio::use_future);
        try {
            ok += r.get().ok() ? 1 : 0;
        } catch (const std::system_error&) {
            ++lost;
        }
    }
    stop = true;
    fate.join();
    CHECK(ok + lost == 400);
    CHECK(ok > 0);
}

TEST_CASE("a pool is watched from a thread that knows nothing of its work or its end", "[threads]") {
    for (int i = 0; i < 30; ++i) {
        auto io = std::make_unique<asio::io_context>();
        auto network = std::make_shared<scripted_network>();
        std::optional<ssh_pool<scripted_transport>> pool{std::in_place, io->get_executor(), small(), [network](asio::any_io_executor ex) {
                                                             return scripted_transport{std::move(ex), network};
                                                         }};
        std::atomic<int> seen{0};
        std::thread watcher{[&, watch = pool->watch()] {
            while (const auto figures = watch(3)) {
                if (figures->total.pool_size > 4 || figures->hosts.size() > 3) return;
                seen = static_cast<int>(figures->total.hits + figures->total.misses);
            }
            seen = -1;
        }};
        int answers = 0;
        for (int k = 0; k < 20; ++k) pool->async_run(host("h" + std::to_string(k % 6)), "true", [&](std::error_code, command_result) { ++answers; });
        while (answers < 20) io->run_one();
        CHECK(support::wait_until([&] { return seen == 20 || seen == -1; }));
        CHECK(seen == 20);
        pool.reset();
        if (i % 2 == 0) io->poll();
        io.reset();
        watcher.join();
        CHECK(seen == -1);
    }
}

TEST_CASE("a pool on a thread_pool serves coroutines and goes without a shutdown", "[threads]") {
    for (int i = 0; i < 30; ++i) {
        asio::thread_pool threads{3};
        auto network = std::make_shared<scripted_network>();
        std::atomic<int> answers{0};
        {
            ssh_pool<scripted_transport> pool{threads.get_executor(), small(), [network](asio::any_io_executor ex) {
                                                  return scripted_transport{std::move(ex), network};
                                              }};
            for (int k = 0; k < 20; ++k) {
                asio::co_spawn(
                    threads, [&pool, k]() -> asio::awaitable<void> { co_await pool.async_run(host("h" + std::to_string(k % 6)), "true", asio::use_awaitable); },
                    [&](std::exception_ptr) { ++answers; });
            }
            REQUIRE(support::wait_until([&] { return answers == 20; }));
        }
        threads.join();
        CHECK(answers == 20);
        CHECK(network->live() == 0);
    }
}
