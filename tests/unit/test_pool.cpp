// What a caller of the pool sees, on the real driver.

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <thread>

#include "unit/pool_fixture.hpp"

using namespace sshpool;
using namespace sshpool::test;
using answer = scripted_network::answer;

TEST_CASE("a miss opens a connection and lends it", "[pool]") {
    pool_fixture f;
    auto a = f.get(host("a"));
    REQUIRE(a->done);
    CHECK_FALSE(a->ec);
    CHECK(a->lease);
    CHECK(a->lease->state().where->key() == "root@a:22");
    CHECK(f.network->opened() == 1);
    const auto s = f.pool->get_stats();
    CHECK(s.misses == 1);
    CHECK(s.hits == 0);
    CHECK(s.connections_created == 1);
    CHECK(s.pool_size == 1);
    CHECK(s.in_use == 1);
}

TEST_CASE("a returned connection is lent again", "[pool]") {
    pool_fixture f;
    for (int i = 0; i < 5; ++i) {
        auto a = f.get(host("a"));
        REQUIRE(a->lease);
        f.give_back(a);
    }
    CHECK(f.network->opened() == 1);
    const auto s = f.pool->get_stats();
    CHECK(s.hits == 4);
    CHECK(s.misses == 1);
    CHECK(s.hit_rate() == Approx(0.8));
    CHECK(s.in_use == 0);
    CHECK(s.idle == 1);
}

TEST_CASE("a warm lease costs one handler, the caller's own, and is back before release returns", "[pool]") {
    pool_fixture f{with([](pool_params& p) {
        p.idle_timeout = 1min;
        p.health_check_interval = 0s;
    })};
    for (int round = 0; round < 3; ++round) {
        auto a = f.get(host("a"));
        REQUIRE(a->lease);
        f.advance(10s);
        a->lease.release();
        CHECK(f.pool->get_stats().in_use == 0);
        CHECK(f.pool->get_stats().idle == 1);
        f.io.restart();
        CHECK(f.io.poll() == 0);
    }
    auto again = f.ask(host("a"));
    f.io.restart();
    CHECK(f.io.poll() == 1);  // the caller's own handler
    REQUIRE(again->lease);
    again->lease.release();
    CHECK(f.io.poll() == 0);
    f.advance(59s);
    CHECK(f.pool->get_stats().pool_size == 1);
    f.advance(1s);
    CHECK(f.pool->get_stats().connections_closed[close_reason::idle] == 1);
}

TEST_CASE("different hosts, users and ports get connections of their own", "[pool]") {
    pool_fixture f;
    auto a = f.get(host("a"));
    auto b = f.get(host("b"));
    auto c = f.get(target{"root", "a", 2222, credentials::password("secret"), host_key_policy::accept_any()});
    auto d = f.get(target{"admin@a", credentials::password("secret"), host_key_policy::accept_any()});
    CHECK(f.network->opened() == 4);
    CHECK(f.pool->get_stats().in_use == 4);
}

TEST_CASE("a hundred callers of one host cause one handshake while one connection can carry them", "[pool]") {
    pool_fixture f{with([](pool_params& p) { p.leases_per_connection = 100; })};
    f.network->opens = answer::when_told;
    std::vector<std::shared_ptr<pool_fixture::asked>> all;
    for (int i = 0; i < 100; ++i) all.push_back(f.ask(host("a")));
    f.settle();
    CHECK(f.network->opened() == 1);
    CHECK(f.pool->get_stats().waiting == 100);
    f.network->finish_open(0);
    f.settle();
    for (auto& a : all) CHECK(a->lease);
    CHECK(f.network->opened() == 1);
    CHECK(f.pool->get_stats().misses == 100);
}

TEST_CASE("callers are served in the order in which they asked", "[pool]") {
    pool_fixture f{one_at_a_time()};
    auto first = f.get(host("a"));
    std::vector<std::shared_ptr<pool_fixture::asked>> queue;
    for (int i = 0; i < 5; ++i) queue.push_back(f.get(host("a")));
    for (auto& a : queue) CHECK_FALSE(a->done);
    f.give_back(first);
    for (std::size_t i = 0; i < queue.size(); ++i) {
        for (std::size_t k = 0; k < queue.size(); ++k) CHECK(queue[k]->done == (k <= i));
        f.give_back(queue[i]);
    }
    CHECK(f.network->opened() == 1);
}

TEST_CASE("a caller that waited too long is told what it waited for", "[pool]") {
    pool_fixture f{with([](pool_params& p) {
        p.leases_per_connection = 1;
        p.max_connections_per_host = 1;
        p.acquire_timeout = 3s;
    })};
    auto first = f.get(host("a"));
    auto late = f.get(host("a"));
    f.advance(2999ms);
    CHECK_FALSE(late->done);
    f.advance(2ms);
    REQUIRE(late->done);
    CHECK(late->ec == errc::acquire_timeout);
    CHECK(late->ec == command_fate::not_started);
    CHECK_FALSE(late->lease);
    CHECK(late->info.key == "root@a:22");
    CHECK(late->info.phase == "waiting");
    CHECK(late->info.text.find("root@a:22") != std::string::npos);
    CHECK(late->info.text.find("3.0 s") != std::string::npos);
    CHECK(f.pool->get_stats().wait_timeouts == 1);
    f.give_back(first);
    CHECK(f.get(host("a"))->lease);
}

TEST_CASE("a failed connect gives its callers the error and what is known of it", "[pool]") {
    pool_fixture f;
    f.network->fail_opens({make_error(errc::auth_failed), "root@a:22", "login", "root@a:22 refused the password"});
    auto a = f.get(host("a"));
    REQUIRE(a->done);
    CHECK(a->ec == errc::auth_failed);
    CHECK(a->info.phase == "login");
    CHECK(a->info.text == "root@a:22 refused the password");
    CHECK(f.pool->get_stats().connect_failures[errc::auth_failed] == 1);
    CHECK(f.pool->get_stats().pool_size == 0);
    CHECK(f.pool->explain("root@a:22").find("refused the password") != std::string::npos);
}

TEST_CASE("the factory's exception is a failed connect, not a crash", "[pool]") {
    asio::io_context io;
    ssh_pool<scripted_transport> pool{
        io.get_executor(), {}, [](asio::any_io_executor) -> scripted_transport { throw std::runtime_error("no descriptor left"); }};
    std::error_code seen;
    error_info info;
    pool.async_get_connection(host("a"), info, [&](std::error_code ec, auto) { seen = ec; });
    io.run_for(5s);
    CHECK(seen == errc::connect_failed);
    CHECK(info.text.find("no descriptor left") != std::string::npos);
}

template <class T>
struct allocator_out_of_memory {
    using value_type = T;
    explicit allocator_out_of_memory(const bool& is) : empty(&is) {}
    template <class U>
    allocator_out_of_memory(const allocator_out_of_memory<U>& other) : empty(other.empty) {}
    T* allocate(std::size_t n) const {
        if (*empty) throw std::bad_alloc();
        return std::allocator<T>{}.allocate(n);
    }
    void deallocate(T* p, std::size_t n) const { std::allocator<T>{}.deallocate(p, n); }
    bool operator==(const allocator_out_of_memory&) const = default;
    const bool* empty;
};

TEST_CASE("a caller that cannot be answered keeps nobody else from their answer", "[pool]") {
    pool_fixture f;
    f.network->opens = answer::when_told;
    bool empty = false;
    f.pool->async_get_connection(
        host("a"), asio::bind_executor(f.io.get_executor(), asio::bind_allocator(allocator_out_of_memory<int>{empty}, [](std::error_code, auto) {})));
    const auto second = f.get(host("a"));
    const auto third = f.get(host("b"));
    empty = true;
    f.pool->async_shutdown(0s, [](std::error_code) {});
    CHECK_THROWS_AS(f.settle(), std::bad_alloc);
    f.settle();
    CHECK(second->ec == errc::pool_closed);
    CHECK(third->ec == errc::pool_closed);
    CHECK(f.network->live() == 0);
    CHECK(f.pool->get_stats().pool_size == 0);
}

TEST_CASE("every kind of completion token works, and completes on the handler's executor", "[pool]") {
    pool_fixture f;
    SECTION("callback with an executor of its own") {
        asio::io_context other;
        bool called = false;
        f.pool->async_get_connection(host("a"), asio::bind_executor(other.get_executor(), [&](std::error_code ec, pool_fixture::lease_type l) {
                                         CHECK(other.get_executor().running_in_this_thread());
                                         called = !ec && l;
                                     }));
        f.settle();
        CHECK_FALSE(called);
        other.run();
        CHECK(called);
    }
    SECTION("future") {
        auto got = f.pool->async_run(host("a"), "uptime", asio::use_future);
        f.settle();
        CHECK(got.get().out == "uptime");
    }
    SECTION("coroutine, with temporaries inside co_await") {
        std::string out;
        asio::co_spawn(
            f.io,
            [&]() -> asio::awaitable<void> {
                const auto result = co_await f.pool->async_run(target{"root@a", credentials::password("secret"), host_key_policy::accept_any()},
                                                               command::argv("echo", "hi"), asio::use_awaitable);
                out = result.out;
                auto lease = co_await f.pool->async_get_connection(host("a"), asio::use_awaitable);
                out += co_await [&]() -> asio::awaitable<std::string> { co_return (co_await lease->async_run("true", asio::use_awaitable)).out; }();
            },
            [](std::exception_ptr e) { REQUIRE_FALSE(e); });
        f.settle();
        CHECK(out == "'echo' hitrue");
    }
    SECTION("an operation created first and awaited later has its own copy of the arguments") {
        std::string out;
        asio::co_spawn(
            f.io,
            [&]() -> asio::awaitable<void> {
                auto to = std::make_unique<target>(host("a"));
                auto op = f.pool->async_run(*to, std::string(100, 'x'), asio::use_awaitable);
                to.reset();
                out = (co_await std::move(op)).out;
            },
            [](std::exception_ptr e) { REQUIRE_FALSE(e); });
        f.settle();
        CHECK(out == std::string(100, 'x'));
    }
    SECTION("nothing completes inside the call that started it") {
        bool inside = true;
        bool called = false;
        asio::post(f.io, [&] {
            f.pool->async_get_connection(host("a"), [&](std::error_code, pool_fixture::lease_type) {
                CHECK_FALSE(inside);
                called = true;
            });
            inside = false;
        });
        f.settle();
        CHECK(called);
    }
}

TEST_CASE("async_run gets a connection, runs and gives it back", "[pool]") {
    pool_fixture f;
    auto r = f.run(host("a"), "uptime");
    REQUIRE(r->done);
    CHECK_FALSE(r->ec);
    CHECK(r->result.ok());
    CHECK(f.pool->get_stats().in_use == 0);
    f.run(host("a"), "uptime");
    CHECK(f.network->opened() == 1);
}

TEST_CASE("async_run tries again only when the command certainly never started", "[pool]") {
    pool_fixture f;
    f.run(host("a"), "true");
    SECTION("lost before it started: again, on another connection") {
        f.network->fail_next_run({make_error(errc::connection_lost, command_fate::not_started), "root@a:22", "channel", "lost"});
        auto r = f.run(host("a"), "once");
        CHECK_FALSE(r->ec);
        CHECK(f.network->opened() == 2);
        CHECK(f.network->at(0)->commands == std::vector<std::string>{"true"});
        CHECK(f.network->at(1)->commands == std::vector<std::string>{"once"});
    }
    SECTION("lost afterwards: never") {
        f.network->fail_next_run({make_error(errc::connection_lost, command_fate::unknown), "root@a:22", "command", "lost"});
        auto r = f.run(host("a"), "once");
        CHECK(r->ec == errc::connection_lost);
        CHECK(r->ec == command_fate::unknown);
        CHECK(r->info.text == "lost");
        CHECK_FALSE(r->result.exit_status);
        CHECK(f.network->opened() == 1);
    }
    SECTION("and not for ever") {
        for (int i = 0; i < 10; ++i) f.network->fail_next_run({make_error(errc::connection_lost, command_fate::not_started), "root@a:22", "channel", "lost"});
        auto r = f.run(host("a"), "once");
        CHECK(r->ec == errc::connection_lost);
        CHECK(r->ec == command_fate::not_started);
        CHECK(r->answers == 1);
        CHECK(f.network->opened() <= 4);
    }
}

TEST_CASE("a connection that died is not lent, even before the pool was told", "[pool]") {
    pool_fixture f;
    f.give_back(f.get(host("a")));
    f.network->at(0)->usable = false;  // the session knows, its message is still under way
    auto a = f.get(host("a"));
    REQUIRE(a->lease);
    CHECK(f.network->opened() == 2);
    CHECK(a->lease->is_usable());
}

TEST_CASE("callers keep their order when the connection that they wait for dies as it comes back", "[pool]") {
    pool_fixture f{one_at_a_time()};
    auto holder = f.get(host("a"));
    std::vector<std::shared_ptr<pool_fixture::asked>> queue;
    for (int i = 0; i < 3; ++i) queue.push_back(f.get(host("a")));
    SECTION("before: the pool has not been told yet") {
        f.network->at(0)->usable = false;
        holder->lease.release();
    }
    SECTION("after: the oldest was meant to have it") {
        holder->lease.release();
        f.network->at(0)->usable = false;
    }
    f.network->lose(0);
    f.settle();
    CHECK(f.network->opened() == 2);
    for (auto& a : queue) {
        REQUIRE(a->lease);
        for (auto& later : queue) CHECK((later == a || !later->lease || later->answers == 0));
        f.give_back(a);
    }
    CHECK(f.pool->get_stats().in_use == 0);
}

TEST_CASE("what was meant for a caller and is invalidated before it has it is not lent", "[pool]") {
    pool_fixture f{one_at_a_time()};
    auto holder = f.get(host("a"));
    auto first = f.get(host("a"));
    auto second = f.get(host("a"));
    holder->lease.release();  // it is the first one's now, who will be told on the strand
    const int how = GENERATE(0, 1, 2);
    if (how == 0) f.pool->invalidate("root@a:22");
    if (how == 1) f.pool->invalidate_principal(host("a").login().identity());
    if (how == 2) f.pool->close_all();
    f.settle();
    CHECK(f.network->opened() == 2);
    CHECK(f.network->live() == 1);
    REQUIRE(first->lease);
    CHECK_FALSE(second->done);
    f.give_back(first);
    CHECK(second->lease);
}

TEST_CASE("a caller that gives up while the connection meant for it dies gets its one answer", "[pool][cancel]") {
    pool_fixture f{one_at_a_time()};
    auto holder = f.get(host("a"));
    asio::cancellation_signal stop;
    int answers = 0;
    std::error_code seen;
    f.pool->async_get_connection(host("a"), asio::bind_cancellation_slot(stop.slot(), [&](std::error_code ec, pool_fixture::lease_type) {
                                     ++answers;
                                     seen = ec;
                                 }));
    f.settle();
    f.network->opens = answer::when_told;
    stop.emit(asio::cancellation_type::terminal);  // posted before the grant's turn
    holder->lease.release();
    f.network->at(0)->usable = false;
    f.settle();
    CHECK(answers == 1);
    CHECK(seen == errc::cancelled);
    CHECK(f.pool->get_stats().waiting == 0);
}

TEST_CASE("who asks after async_shutdown is refused, before anything else has happened, too", "[pool]") {
    pool_fixture f;
    f.give_back(f.get(host("a")));
    f.pool->async_shutdown(1s, [](std::error_code) {});
    CHECK_FALSE(f.pool->try_get_connection(host("a")));
    CHECK(f.get(host("a"))->ec == errc::pool_closed);
}

TEST_CASE("cancelling a caller leaves the pool unchanged, at every moment", "[pool][cancel]") {
    const auto type = GENERATE(asio::cancellation_type::terminal, asio::cancellation_type::partial, asio::cancellation_type::total);
    {
        pool_fixture f;
        f.network->opens = answer::when_told;
        asio::cancellation_signal stop;
        int answers = 0;
        std::error_code seen;
        f.pool->async_get_connection(host("a"), asio::bind_cancellation_slot(stop.slot(), [&](std::error_code ec, pool_fixture::lease_type l) {
                                         ++answers;
                                         seen = ec;
                                         CHECK_FALSE(l);
                                     }));
        SECTION("before it was queued") { stop.emit(type); }
        SECTION("while it waits for the connect") {
            f.settle();
            stop.emit(type);
        }
        f.settle();
        CHECK(answers == 1);
        CHECK(seen == errc::cancelled);
        CHECK(seen == asio::error::operation_aborted);
        CHECK(f.pool->get_stats().waiting == 0);
        if (f.network->opened() == 1) {  // the connect belongs to the pool: it goes on and serves the next caller
            f.network->finish_open(0);
            f.settle();
            CHECK(f.pool->get_stats().idle == 1);
        }
        f.network->opens = answer::at_once;
        CHECK(f.get(host("a"))->lease);
        CHECK(f.network->opened() == 1);
    }
}

TEST_CASE("cancelling after the answer does nothing", "[pool][cancel]") {
    pool_fixture f;
    asio::cancellation_signal stop;
    pool_fixture::lease_type got;
    f.pool->async_get_connection(host("a"),
                                 asio::bind_cancellation_slot(stop.slot(), [&](std::error_code, pool_fixture::lease_type l) { got = std::move(l); }));
    f.settle();
    REQUIRE(got);
    stop.emit(asio::cancellation_type::terminal);
    f.settle();
    CHECK(got);
}

TEST_CASE("cancelling a command cancels whatever it is doing", "[pool][cancel]") {
    pool_fixture f;
    f.network->runs = answer::when_told;
    asio::cancellation_signal stop;
    int answers = 0;
    std::error_code seen;
    const auto start = [&] {
        f.pool->async_run(host("a"), "sleep", asio::bind_cancellation_slot(stop.slot(), [&](std::error_code ec, command_result) {
                              ++answers;
                              seen = ec;
                          }));
    };
    SECTION("waiting for a connection") {
        f.network->opens = answer::when_told;
        start();
        f.settle();
        CHECK(f.network->opened() == 1);
    }
    SECTION("running") {
        start();
        f.settle();
        CHECK(f.network->at(0)->commands.size() == 1);
    }
    stop.emit(asio::cancellation_type::total);
    f.settle();
    CHECK(answers == 1);
    CHECK(seen == errc::cancelled);
    CHECK(f.pool->get_stats().in_use == 0);
}

TEST_CASE("try_get_connection lends what is free and never waits or connects", "[pool]") {
    pool_fixture f{with([](pool_params& p) { p.leases_per_connection = 1; })};
    CHECK_FALSE(f.pool->try_get_connection(host("a")));
    f.settle();
    CHECK(f.network->opened() == 0);
    f.give_back(f.get(host("a")));
    auto held = f.pool->try_get_connection(host("a"));
    REQUIRE(held);
    CHECK(*held);
    CHECK_FALSE(f.pool->try_get_connection(host("a")));
    f.settle();
    CHECK(f.network->opened() == 1);
}

TEST_CASE("async_warm connects each target once, a bounded number at a time, and reports failures", "[pool]") {
    pool_fixture f{with([](pool_params& p) { p.max_handshakes = 3; })};
    f.network->opens = answer::when_told;
    std::vector<target> all;
    for (int i = 0; i < 10; ++i) all.push_back(host("h" + std::to_string(i)));
    std::optional<warm_report> report;
    f.pool->async_warm(all, [&](std::error_code ec, warm_report r) {
        CHECK_FALSE(ec);
        report = std::move(r);
    });
    f.settle();
    for (std::size_t i = 0; i < 10; ++i) {
        CHECK_FALSE(report);
        CHECK(f.pool->get_stats().connecting <= 3);
        REQUIRE(f.network->opened() > i);
        f.network->finish_open(i, i == 4 ? error_info{make_error(errc::connect_failed), "root@h4:22", "tcp", "refused"} : error_info{});
        f.settle();
    }
    REQUIRE(report);
    CHECK(report->connected == 9);
    REQUIRE(report->failed.size() == 1);
    CHECK(report->failed[0].key == "root@h4:22");
    CHECK(report->failed[0].error == errc::connect_failed);
    CHECK(f.pool->get_stats().idle == 9);
}

TEST_CASE("a key may be written in every way that an address may", "[pool]") {
    const std::string_view written = GENERATE("root@Host", "root@HOST:22", "root@host", "root@host:22");
    CAPTURE(std::string{written});
    pool_fixture f;
    f.give_back(f.get(host("host")));
    f.pool->keep_warm(std::vector{host("host")});
    f.settle();
    CHECK(f.pool->get_stats(written).pool_size == 1);
    CHECK(f.pool->explain(written) == f.pool->explain("root@host:22"));
    f.pool->forget_warm(written);
    f.pool->invalidate(written);
    f.settle();
    CHECK(f.network->live() == 0);
    CHECK_FALSE(f.pool->explain("no address").empty());
    f.pool->invalidate("no address");
}

TEST_CASE("invalidate ends idle connections now and leased ones when given back", "[pool]") {
    pool_fixture f{with([](pool_params& p) { p.leases_per_connection = 1; })};
    auto held = f.get(host("a"));
    f.give_back(f.get(host("b")));
    f.pool->invalidate("root@a:22");
    f.pool->invalidate("root@b:22");
    CHECK_FALSE(f.pool->try_get_connection(host("b")));  // in effect before the call returned
    f.settle();
    CHECK(f.network->live() == 1);
    CHECK(held->lease);
    CHECK(held->lease->is_usable());
    f.give_back(held);
    CHECK(f.network->live() == 0);
    CHECK(f.pool->get_stats().connections_closed[close_reason::invalidated] == 2);
}

TEST_CASE("after a principal is invalidated none of its sessions is lent again", "[pool]") {
    pool_fixture f;
    auto labelled = credentials::password("one");
    labelled.as_principal("validator");
    auto rotated = credentials::password("two");
    rotated.as_principal("validator");
    const target before{"root@a", labelled, host_key_policy::accept_any()};
    const target after{"root@a", rotated, host_key_policy::accept_any()};
    f.give_back(f.get(before));
    f.give_back(f.get(after));
    CHECK(f.network->opened() == 1);  // any key of the label opens the same door
    f.pool->invalidate_principal("validator");
    f.give_back(f.get(after));
    CHECK(f.network->opened() == 2);
}

TEST_CASE("events are told in order, one at a time, and never inside the pool's strand", "[pool]") {
    std::vector<pool_event> seen;
    pool_params p;
    p.on_event = [&](const pool_event& e) { seen.push_back(e); };
    pool_fixture f{p};
    f.give_back(f.get(host("a")));
    f.pool->invalidate("root@a:22");
    f.settle();
    REQUIRE(seen.size() == 2);
    CHECK(seen[0].kind == event_kind::connected);
    CHECK(seen[1].kind == event_kind::closed);
    CHECK(seen[1].reason == close_reason::invalidated);
    CHECK(seen[1].connection_id == seen[0].connection_id);
    CHECK(seen[0].key == "root@a:22");
}

TEST_CASE("a lease tells what the pool knows of its connection", "[pool]") {
    pool_fixture f;
    f.give_back(f.get(host("a")));
    f.advance(2s);
    auto a = f.get(host("a"));
    const auto now = std::chrono::steady_clock::time_point{manual_clock::now().time_since_epoch()};
    auto info = a->lease.info();
    CHECK(info.key == "root@a:22");
    CHECK(info.use_count == 2);
    CHECK(info.leases == 1);
    CHECK(info.created_at == now - 2s);
    CHECK_FALSE(info.is_expired(now));
    CHECK(info.is_expired(now + 331s));
    CHECK_FALSE(info.is_idle(now + 61s));  // it is lent
    CHECK(info.is_healthy(now));
    CHECK_FALSE(info.is_healthy(now + 30s));
    f.give_back(a);
    CHECK(lease<scripted_transport>{}.info().id == 0);
}

TEST_CASE("bad parameters are refused by name", "[pool]") {
    asio::io_context io;
    const auto refused = [&](auto change) {
        pool_params p;
        change(p);
        try {
            ssh_pool<scripted_transport> pool{io.get_executor(), p, [](asio::any_io_executor ex) { return scripted_transport{std::move(ex), nullptr}; }};
        } catch (const std::invalid_argument& e) {
            return std::string{e.what()};
        }
        return std::string{"accepted"};
    };
    CHECK(refused([](pool_params& p) { p.max_connections = 0; }).find("max_connections must be at least 1") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.max_connections = static_cast<std::size_t>(-1); }).find("max_connections is") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.idle_timeout = -1ms; }).find("idle_timeout is -1 ms") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.acquire_timeout = 0ms; }).find("acquire_timeout") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.connection_ttl = std::chrono::milliseconds::max(); }).find("connection_ttl") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.ttl_jitter = 1.0; }).find("ttl_jitter") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.ttl_jitter = std::nan(""); }).find("ttl_jitter") != std::string::npos);
    CHECK(refused([](pool_params& p) { p.when_full = static_cast<full_policy>(9); }).find("when_full") != std::string::npos);
    CHECK(refused([](pool_params&) {}) == "accepted");
}
