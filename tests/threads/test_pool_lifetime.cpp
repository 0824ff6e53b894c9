// Pools, leases and execution contexts that go in every order.

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <thread>

#include "unit/pool_fixture.hpp"

using namespace sshpool;
using namespace sshpool::test;
using answer = scripted_network::answer;

TEST_CASE("shutdown refuses new callers, wakes those that wait, drains, then completes", "[lifetime]") {
    pool_fixture f{one_at_a_time()};
    auto held = f.get(host("a"));
    auto waiting = f.get(host("a"));
    f.give_back(f.get(host("b")));
    int completed = 0;
    f.pool->async_shutdown(10s, [&](std::error_code ec) {
        CHECK_FALSE(ec);
        ++completed;
    });
    f.settle();
    CHECK(waiting->ec == errc::pool_closed);
    CHECK(f.get(host("c"))->ec == errc::pool_closed);
    CHECK_FALSE(f.pool->try_get_connection(host("b")));
    CHECK(f.network->live() == 1);
    CHECK(completed == 0);
    CHECK(held->lease->is_usable());
    f.give_back(held);
    CHECK(completed == 1);
    CHECK(f.network->live() == 0);
    f.pool->async_shutdown(10s, [&](std::error_code) { ++completed; });
    f.settle();
    CHECK(completed == 2);
}

TEST_CASE("shutdown cuts what is still lent after the grace time", "[lifetime]") {
    pool_fixture f;
    auto held = f.get(host("a"));
    bool completed = false;
    f.pool->async_shutdown(5s, [&](std::error_code ec) {
        CHECK_FALSE(ec);
        completed = true;
    });
    f.advance(4999ms);
    CHECK_FALSE(completed);
    f.advance(2ms);
    CHECK(completed);
    CHECK(f.network->live() == 0);
    f.give_back(held);
    CHECK(f.pool->get_stats().pool_size == 0);
}

TEST_CASE("run() returns after a shutdown, and once the last idle connection has closed", "[lifetime]") {
    asio::io_context io;
    auto network = std::make_shared<scripted_network>();
    pool_params p;
    SECTION("shutdown") {}
    SECTION("idle timeout") { p.idle_timeout = 20ms; }
    ssh_pool<scripted_transport> pool{io.get_executor(), p, [network](asio::any_io_executor ex) { return scripted_transport{std::move(ex), network}; }};
    bool ran = false;
    pool.async_run(host("a"), "true", [&](std::error_code ec, command_result) {
        CHECK_FALSE(ec);
        ran = true;
        if (p.idle_timeout != 20ms) pool.async_shutdown(1s, [](std::error_code) {});
    });
    io.run_for(10s);
    CHECK(ran);
    CHECK(io.stopped());
    CHECK(network->live() == 0);
}

TEST_CASE("an empty pool keeps no timer and no work", "[lifetime]") {
    pool_fixture f;
    f.give_back(f.get(host("a")));
    f.pool->close_all();
    f.settle();
    CHECK(f.io.stopped());
}

TEST_CASE("destroying the pool without shutdown is safe at every moment", "[lifetime]") {
    pool_fixture f;
    std::shared_ptr<pool_fixture::asked> a;
    SECTION("before anything happened") { a = f.ask(host("a")); }
    SECTION("while connecting") {
        f.network->opens = answer::when_told;
        a = f.get(host("a"));
    }
    SECTION("while lent") { a = f.get(host("a")); }
    SECTION("while idle") {
        a = f.get(host("a"));
        f.give_back(a);
    }
    SECTION("while a close is under way") {
        f.network->closes = answer::when_told;
        a = f.get(host("a"));
        f.give_back(a);
        f.pool->close_all();
        f.settle();
    }
    f.pool.reset();
    CHECK_FALSE(a->lease);
    f.settle();
    f.network->closes = answer::at_once;
    for (std::size_t i = 0; i < f.network->opened(); ++i) f.network->finish_close(i);
    f.settle();
    CHECK(a->done);
    CHECK(f.network->live() == 0);
    a->lease.release();
    f.settle();
}

TEST_CASE("a caller that waits gets pool_closed when the pool goes", "[lifetime]") {
    pool_fixture f;
    f.network->opens = answer::when_told;
    auto a = f.get(host("a"));
    f.pool.reset();
    f.settle();
    CHECK(a->answers == 1);
    CHECK(a->ec == errc::pool_closed);
}

TEST_CASE("a lease outlives its pool and its io_context, also on another thread", "[lifetime]") {
    auto network = std::make_shared<scripted_network>();
    lease<scripted_transport> kept;
    {
        asio::io_context io;
        ssh_pool<scripted_transport> pool{io.get_executor(), {}, [network](asio::any_io_executor ex) { return scripted_transport{std::move(ex), network}; }};
        pool.async_get_connection(host("a"), [&](std::error_code, lease<scripted_transport> l) { kept = std::move(l); });
        io.poll();
        REQUIRE(kept);
    }
    CHECK_FALSE(kept);
    SECTION("here") { kept.release(); }
    SECTION("on another thread") {
        std::thread{[&] { kept.release(); }}.join();
    }
    SECTION("discarded") { kept.discard(); }
    SECTION("while an exception goes by") {
        try {
            auto dying = std::move(kept);
            throw 1;
        } catch (int) {
        }
    }
    CHECK_FALSE(kept);
}

TEST_CASE("the io_context may go with everything still under way, before the pool or after it", "[lifetime]") {
    auto network = std::make_shared<scripted_network>();
    auto io = std::make_unique<asio::io_context>();
    auto pool = std::make_unique<ssh_pool<scripted_transport>>(io->get_executor(), with([](pool_params& p) { p.max_connections = 1; }),
                                                               [network](asio::any_io_executor ex) {
                                                                   return scripted_transport{std::move(ex), network};
                                                               });
    const auto alive = std::make_shared<int>(0);
    pool->async_get_connection(host("a"), [alive](std::error_code, auto l) { static auto keep = std::move(l); });
    io->poll();
    network->opens = answer::when_told;
    pool->async_get_connection(host("b"), [alive](std::error_code, auto) {});
    pool->async_run(host("c"), "true", [alive](std::error_code, auto) {});
    pool->async_warm(std::vector<target>{host("d"), host("e")}, [alive](std::error_code, auto) {});
    pool->async_shutdown(1h, [alive](std::error_code) {});
    SECTION("started only") {}
    SECTION("on their way") { io->poll(); }
    SECTION("the pool goes first") { pool.reset(); }
    io.reset();
    CHECK(alive.use_count() == 1);  // no handler is left behind
    pool.reset();
}

TEST_CASE("an operation outlives its lease: the connection counts as leased until it ends", "[lifetime]") {
    pool_fixture f;
    f.network->runs = answer::when_told;
    auto a = f.get(host("a"));
    bool ended = false;
    a->lease->async_run("long", [&](std::error_code ec, command_result) { ended = !ec; });
    a->lease.release();
    f.settle();
    CHECK(f.pool->get_stats().in_use == 1);
    f.network->finish_runs(0);
    f.settle();
    CHECK(ended);
    CHECK(f.pool->get_stats().in_use == 0);
}

TEST_CASE("a moved lease returns once", "[lifetime]") {
    pool_fixture f;
    auto a = f.get(host("a"));
    auto moved = std::move(a->lease);
    CHECK_FALSE(a->lease);
    CHECK(moved);
    a->lease.release();
    f.settle();
    CHECK(f.pool->get_stats().in_use == 1);
    moved = {};
    f.settle();
    CHECK(f.pool->get_stats().in_use == 0);
}

TEST_CASE("a pool can be moved and assigned over: the old one closes", "[lifetime]") {
    pool_fixture f;
    auto a = f.get(host("a"));
    auto moved = std::move(*f.pool);
    f.pool.emplace(f.io.get_executor(), f.params, [n = f.network](asio::any_io_executor ex) { return scripted_transport{std::move(ex), n}; });
    CHECK(a->lease);
    moved = std::move(*f.pool);
    CHECK_FALSE(a->lease);
    f.settle();
    CHECK(f.network->live() == 0);
    f.pool.reset();
}

TEST_CASE("a pool that outlives its io_context does nothing and drops what is asked of it", "[lifetime]") {
    auto network = std::make_shared<scripted_network>();
    auto io = std::make_unique<asio::io_context>();
    ssh_pool<scripted_transport> pool{io->get_executor(), {}, [network](asio::any_io_executor ex) { return scripted_transport{std::move(ex), network}; }};
    pool.async_get_connection(host("a"), [](std::error_code, auto) {});
    io->poll();
    CHECK(pool.get_stats().idle == 1);
    io.reset();
    const auto alive = std::make_shared<int>(0);
    CHECK_FALSE(pool.try_get_connection(host("a")));
    pool.async_get_connection(host("a"), [alive](std::error_code, auto) {});
    pool.async_run(host("a"), "true", [alive](std::error_code, auto) {});
    pool.async_warm(std::vector<target>{host("b")}, [alive](std::error_code, auto) {});
    pool.async_shutdown(1s, [alive](std::error_code) {});
    pool.invalidate("root@a:22");
    pool.close_all();
    CHECK(alive.use_count() == 1);
    CHECK_FALSE(pool.explain("root@a:22").empty());
}

TEST_CASE("shutting down with patience for ever cuts nobody", "[lifetime]") {
    pool_fixture f;
    auto held = f.get(host("a"));
    bool completed = false;
    f.pool->async_shutdown(std::chrono::milliseconds::max(), [&](std::error_code) { completed = true; });
    f.advance(1h);
    CHECK_FALSE(completed);
    CHECK(held->lease->state().open);
    f.give_back(held);
    CHECK(completed);
}

TEST_CASE("a cancelled shutdown goes on, and keeps no timer once it has drained", "[lifetime]") {
    pool_fixture f;
    auto held = f.get(host("a"));
    asio::cancellation_signal stop;
    std::error_code seen;
    error_info info;
    f.pool->async_shutdown(1h, info, asio::bind_cancellation_slot(stop.slot(), [&](std::error_code ec) { seen = ec; }));
    f.settle();
    stop.emit(asio::cancellation_type::terminal);
    f.settle();
    CHECK(seen == errc::cancelled);
    CHECK(info.text == "cancelled; the pool goes on closing");
    CHECK(f.get(host("a"))->ec == errc::pool_closed);
    f.give_back(held);
    CHECK(f.io.stopped());
}

TEST_CASE("try_get_connection does not lend what is known to have died", "[lifetime]") {
    pool_fixture f;
    f.give_back(f.get(host("a")));
    f.network->at(0)->usable = false;
    CHECK_FALSE(f.pool->try_get_connection(host("a")));
    f.settle();
    CHECK(f.network->live() == 0);
}
