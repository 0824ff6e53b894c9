// The pool against OpenSSH's sshd.

#include <asio/bind_executor.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>

#include "ssh/pool_on_sshd.hpp"

using namespace sshpool;
using namespace sshpool::test;

TEST_CASE("a command runs through the pool, the next one on the same connection", "[ssh][pool]") {
    support::sshd_server sshd;
    running_pool p;
    const auto first = p.run(to(sshd), command::argv("printf", "%s", "it's $HOME"));
    INFO(first.info.text);
    REQUIRE_FALSE(first.ec);
    CHECK(first.result.ok());
    CHECK(first.result.out == "it's $HOME");
    const auto second = p.run(to(sshd), "echo out; echo err >&2; exit 7");
    REQUIRE_FALSE(second.ec);
    CHECK(second.result.exit_status == 7);
    CHECK(second.result.out == "out\n");
    CHECK(second.result.err == "err\n");
    CHECK(sshd.accepted_logins() == 1);
    CHECK(p.pool.get_stats().hits == 1);
    CHECK(p.pool.get_stats().misses == 1);
}

TEST_CASE("64 simultaneous commands on one host with sshd's default limits: no failure, at most two connections", "[ssh][pool]") {
    support::sshd_server sshd;
    running_pool p;
    std::vector<std::future<running_pool::run_outcome>> all;
    for (int i = 0; i < 64; ++i) all.push_back(p.start(to(sshd), "echo " + std::to_string(i)));
    for (int i = 0; i < 64; ++i) {
        const auto r = running_pool::finish(std::move(all[static_cast<std::size_t>(i)]));
        INFO(r.info.text);
        CHECK_FALSE(r.ec);
        CHECK(r.result.out == std::to_string(i) + "\n");
    }
    CHECK(sshd.accepted_logins() <= 2);
}

TEST_CASE("MaxSessions of 1, 2 and 4 is learned: callers wait, none gets an error", "[ssh][pool]") {
    for (const auto* most : {"1", "2", "4"}) {
        support::sshd_server sshd{{std::string{"MaxSessions "} + most}};
        running_pool p;
        std::vector<std::future<running_pool::run_outcome>> all;
        for (int i = 0; i < 12; ++i) all.push_back(p.start(to(sshd), "echo " + std::to_string(i)));
        for (int i = 0; i < 12; ++i) {
            const auto r = running_pool::finish(std::move(all[static_cast<std::size_t>(i)]));
            INFO("MaxSessions " << most << ": " << r.info.text);
            CHECK_FALSE(r.ec);
            CHECK(r.result.out == std::to_string(i) + "\n");
        }
        CHECK(sshd.accepted_logins() <= 2);
    }
}

TEST_CASE("a MaxSessions that was learned is known to the connections that follow", "[ssh][pool]") {
    support::sshd_server sshd{{"MaxSessions 3"}};
    pool_params params;
    params.max_connections_per_host = 1;
    running_pool p{params};
    const auto twelve_at_once = [&] {
        std::vector<std::future<running_pool::run_outcome>> all;
        for (int i = 0; i < 12; ++i) all.push_back(p.start(to(sshd), "sleep 0.05"));
        for (auto& one : all) CHECK_FALSE(running_pool::finish(std::move(one)).ec);
    };
    const auto refusals = [&] {
        const auto log = sshd.log();
        std::size_t n = 0;
        for (auto at = log.find("no more sessions"); at != std::string::npos; at = log.find("no more sessions", at + 1)) ++n;
        return n;
    };
    twelve_at_once();
    const auto learning = refusals();
    CHECK(learning > 0);
    p.pool.close_all();
    REQUIRE(support::wait_until([&] { return p.pool.get_stats().pool_size == 0; }));
    const auto text = p.pool.explain(to(sshd).key());
    INFO(text);
    CHECK(text.find("the server allows a connection 2 leases at once") != std::string::npos);
    twelve_at_once();
    CHECK(sshd.accepted_logins() == 2);
    CHECK(refusals() == learning);
}

TEST_CASE("more hosts than max_connections: every command runs, connections are not made for each command", "[ssh][pool]") {
    support::sshd_server::options o;
    o.addresses.clear();
    for (int i = 1; i <= 10; ++i) o.addresses.push_back("127.0.2." + std::to_string(i));
    o.config = {"MaxStartups 100"};
    support::sshd_server sshd{o};
    pool_params params;
    params.max_connections = 5;
    running_pool p{params};
    std::size_t failed = 0, peak = 0;
    std::vector<std::thread> hosts;
    std::mutex m;
    for (const auto& a : o.addresses) {
        hosts.emplace_back([&, a] {
            const target where{sshd.address(a, sshd.port()), credentials::private_key_file(sshd.client_key()),
                               host_key_policy::known_hosts(sshd.known_hosts())};
            for (int k = 0; k < 13; ++k) {
                const auto r = p.run(where, "true");
                const std::lock_guard lock{m};
                peak = std::max(peak, p.pool.get_stats().pool_size);
                if (r.ec || !r.result.ok()) {
                    ++failed;
                    UNSCOPED_INFO(r.info.text);
                }
            }
        });
    }
    for (auto& t : hosts) t.join();
    CHECK(failed == 0);
    CHECK(peak <= 5);
    CHECK(sshd.accepted_logins() <= 13);  // eviction at once would make about 130
}

TEST_CASE("a warm command costs one round trip", "[ssh][pool][round trips]") {
    support::sshd_server sshd;
    support::delay_proxy proxy{sshd.host(), sshd.port()};
    const auto where = through(proxy, sshd);
    running_pool p;
    REQUIRE_FALSE(p.run(where, "true").ec);
    constexpr auto round_trip = 100ms;  // long beside what the server needs
    proxy.set_round_trip(round_trip);
    std::this_thread::sleep_for(300ms);  // the spare channel of the first command comes
    std::vector<double> trips;
    for (int i = 0; i < 5; ++i) {
        const auto start = std::chrono::steady_clock::now();
        REQUIRE_FALSE(p.run(where, "true").ec);
        trips.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start) / round_trip);
        std::this_thread::sleep_for(300ms);
    }
    std::sort(trips.begin(), trips.end());
    INFO("round trips: " << trips.front() << " to " << trips.back());
    CHECK(trips[2] < 1.25);
    CHECK(trips[0] >= 0.99);
}

TEST_CASE("eight warm commands at once cost at most one and a half round trips with eight spare channels", "[ssh][pool][round trips]") {
    support::sshd_server sshd;
    support::delay_proxy proxy{sshd.host(), sshd.port()};
    const auto where = through(proxy, sshd);
    pool_params params;
    const bool eight_spares = GENERATE(true, false);
    if (eight_spares) params.spare_channels = 8;
    running_pool p{params};
    REQUIRE_FALSE(p.run(where, "true").ec);
    constexpr auto round_trip = 200ms;
    std::this_thread::sleep_for(500ms);
    proxy.set_round_trip(round_trip);
    std::vector<double> trips;
    for (int turn = 0; turn < 3; ++turn) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::future<running_pool::run_outcome>> all;
        for (int i = 0; i < 8; ++i) all.push_back(p.start(where, "true"));
        for (auto& f : all) CHECK_FALSE(running_pool::finish(std::move(f)).ec);
        trips.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start) / round_trip);
        proxy.set_round_trip(0ms);
        std::this_thread::sleep_for(1s);  // the spares come back
        proxy.set_round_trip(round_trip);
    }
    std::sort(trips.begin(), trips.end());
    INFO("round trips: " << trips[0] << ' ' << trips[1] << ' ' << trips[2]);
    CHECK(trips[1] <= (eight_spares ? 1.5 : 8.25));
    CHECK(sshd.accepted_logins() == 1);
}

TEST_CASE("dead, silent and garbage servers give a typed error in time and delay nobody else", "[ssh][pool]") {
    support::sshd_server sshd;
    pool_params params;
    params.connect_timeout = 2s;
    running_pool p{params};
    REQUIRE_FALSE(p.run(to(sshd), "true").ec);
    const auto bad = [&](std::uint16_t port) {
        return target{"root", "127.0.0.1", port, credentials::private_key_file(sshd.client_key()), host_key_policy::accept_any()};
    };
    support::fault_server silent{support::fault::silence}, garbage{support::fault::garbage}, endless{support::fault::endless_banner};
    const auto dead = support::free_port();
    const auto start = std::chrono::steady_clock::now();
    auto a = p.start(bad(silent.port()), "true");
    auto b = p.start(bad(garbage.port()), "true");
    auto c = p.start(bad(endless.port()), "true");
    auto d = p.start(bad(dead), "true");
    int served = 0;
    double longest = 0;
    while (std::chrono::steady_clock::now() - start < 1s) {
        const auto from = std::chrono::steady_clock::now();
        const auto r = p.run(to(sshd), "true");
        CHECK_FALSE(r.ec);
        ++served;
        longest = std::max(longest, std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count());
    }
    INFO(served << " commands on the healthy host meanwhile, the longest took " << longest << " s");
    CHECK(served > 5);
    CHECK(longest < 1.0 * support::slowness);  // nobody waited for what ends after two seconds
    const auto ra = running_pool::finish(std::move(a)), rb = running_pool::finish(std::move(b)), rc = running_pool::finish(std::move(c)),
               rd = running_pool::finish(std::move(d));
    CHECK(std::chrono::steady_clock::now() - start < 4s * support::slowness);
    CHECK(ra.ec == errc::connect_timeout);
    CHECK(rb.ec == errc::handshake_failed);
    CHECK(rc.ec == errc::handshake_failed);
    CHECK(rd.ec == errc::connect_failed);
    for (const auto* r : {&ra, &rb, &rc, &rd}) {
        CHECK(r->ec == command_fate::not_started);
        CHECK(r->info.text.find("127.0.0.1") != std::string::npos);
        CHECK_FALSE(r->info.phase.empty());
    }
}

TEST_CASE("a connection killed in the middle of a command is connection_lost with unknown fate, and the next command succeeds", "[ssh][pool]") {
    support::sshd_server sshd;
    running_pool p;
    REQUIRE_FALSE(p.run(to(sshd), "true").ec);
    auto running = p.start(to(sshd), "echo started; sleep 60");
    REQUIRE(sshd.wait_for_log("Starting session: ", 2));
    sshd.kill_sessions();
    const auto r = running_pool::finish(std::move(running));
    CHECK(r.ec == errc::connection_lost);
    CHECK(r.ec == command_fate::unknown);
    CHECK_FALSE(r.result.exit_status);
    const auto next = p.run(to(sshd), "echo back");
    INFO(next.info.text);
    CHECK_FALSE(next.ec);
    CHECK(next.result.out == "back\n");
}

TEST_CASE("a key that was revoked opens nothing after invalidate_principal", "[ssh][pool]") {
    support::sshd_server sshd;
    running_pool p;
    const auto key = sshd.make_client_key();
    auto login = credentials::private_key_file(key);
    login.as_principal("tenant");
    const target where{sshd.address(), login, host_key_policy::known_hosts(sshd.known_hosts())};
    REQUIRE_FALSE(p.run(where, "true").ec);
    sshd.revoke(key);
    CHECK_FALSE(p.run(where, "true").ec);  // a session outlives its key: that is SSH
    p.pool.invalidate_principal("tenant");
    const auto r = p.run(where, "true");
    CHECK(r.ec == errc::auth_failed);
    CHECK(r.ec == command_fate::not_started);
    CHECK(p.pool.explain(where.key()).find("auth_failed") != std::string::npos);
}

TEST_CASE("a transfer whose lease is discarded has its connection to itself, which goes when it has ended", "[ssh][pool]") {
    support::sshd_server server;
    running_pool p;
    const auto to_it = to(server);
    auto lent = p.get(to_it).result;
    REQUIRE(lent);
    std::atomic<bool> under_way{false};
    std::promise<void> go_on;
    const auto options = transfer_options{}.progress([&, waiting = go_on.get_future().share()](auto, auto) {
        if (!under_way.exchange(true)) waiting.wait();  // on a thread that nothing else needs
    });
    std::promise<std::error_code> ended;
    asio::thread_pool elsewhere{1};
    lent->async_write_file("large", std::string(3'000'000, 'x'), options,
                           asio::bind_executor(elsewhere.get_executor(), [&](std::error_code ec) { ended.set_value(ec); }));
    REQUIRE(support::wait_until([&] { return under_way.load(); }));
    lent.discard();
    CHECK(p.run(to_it, "echo beside").result.out == "beside\n");
    CHECK(p.pool.get_stats().connections_created == 2);
    CHECK(p.pool.get_stats().pool_size == 2);
    go_on.set_value();
    CHECK_FALSE(ended.get_future().get());
    CHECK(support::wait_until([&] { return p.pool.get_stats().pool_size == 1; }));
    CHECK(p.run(to_it, "stat -c %s large").result.out == "3000000\n");
    CHECK(p.pool.get_stats().connections_created == 2);
}

TEST_CASE("a command that waits for a probe's channel starts when the probe has ended", "[ssh][transport]") {
    support::sshd_server sshd{{"MaxSessions 1"}};
    asio::io_context io;
    libssh2_transport t{io.get_executor()};
    bool opened = false;
    t.open({to(sshd), 10s, 1, 2000ms, std::nullopt, {}}, [&](open_report r) { opened = !r.error; });
    const auto until = [&](auto ready) {
        const auto end = std::chrono::steady_clock::now() + 10s * support::slowness;
        while (!ready() && std::chrono::steady_clock::now() < end) io.run_one_for(100ms);
        return ready();
    };
    REQUIRE(until([&] { return opened; }));
    int learned = 0;  // that there is one channel only
    for (int i = 0; i < 2; ++i) t.async_run("true", [&](std::error_code ec, command_result) { learned += ec ? 0 : 1; });
    REQUIRE(until([&] { return learned == 2; }));
    bool probed = false, ran = false;
    t.probe(5s, [&](const error_info& e) { probed = !e; });
    t.async_run("true", [&](std::error_code ec, command_result r) { ran = !ec && r.ok(); });
    CHECK(until([&] { return probed && ran; }));
    t.close({});
    io.run_for(2s);
}

TEST_CASE("a connection whose server hangs is not waited for in a loop", "[ssh][transport]") {
    support::sshd_server sshd;
    asio::io_context io;
    libssh2_transport t{io.get_executor()};
    bool opened = false;
    t.open({to(sshd), 10s * support::slowness, 1, 300ms, std::nullopt, {}}, [&](open_report r) { opened = !r.error; });
    while (!opened && io.run_one_for(10s) != 0) {
    }
    REQUIRE(opened);
    sshd.suspend();
    error_info answer;
    t.probe(100ms, [&](error_info e) { answer = std::move(e); });
    io.run_for(500ms);
    CHECK(answer == errc::connection_lost);
    io.restart();
    CHECK(io.run_for(1s) < 100);  // handlers
    sshd.resume();
    t.close({});
    io.restart();
    io.run_for(2s);
}

// The bugs of the system that this library replaces, against a real server. ------------------------------------------------------

TEST_CASE("bug 1, on sshd: two simultaneous users of one host leave no session behind", "[ssh][bugs]") {
    support::sshd_server sshd;
    pool_params params;
    params.leases_per_connection = 1;
    running_pool p{params};
    auto a = p.start(to(sshd), "sleep 0.2");
    auto b = p.start(to(sshd), "sleep 0.2");
    CHECK_FALSE(running_pool::finish(std::move(a)).ec);
    CHECK_FALSE(running_pool::finish(std::move(b)).ec);
    p.pool.close_all();
    CHECK(support::wait_until([&] { return sshd.session_processes() == 0; }));
    CHECK(p.pool.get_stats().pool_size == 0);
}

TEST_CASE("bug 2, on sshd: what one caller holds is not lent to another when a third returns", "[ssh][bugs]") {
    support::sshd_server sshd;
    pool_params params;
    params.leases_per_connection = 1;
    running_pool p{params};
    auto a = p.get(to(sshd));
    auto b = p.get(to(sshd));
    REQUIRE(a.result);
    REQUIRE(b.result);
    const auto held = b.result.info().id;
    CHECK(a.result.info().id != held);
    a.result.release();
    auto c = p.get(to(sshd));
    REQUIRE(c.result);
    CHECK(c.result.info().id != held);
    CHECK(b.result.info().leases == 1);
    CHECK(p.run_on(b.result, "true").result.ok());
}

TEST_CASE("bug 3, on sshd: a wrong key gets no session, even while a right one is open", "[ssh][bugs]") {
    support::sshd_server sshd;
    running_pool p;
    REQUIRE_FALSE(p.run(to(sshd), "true").ec);
    const target wrong{sshd.address(), credentials::private_key_file(sshd.make_stranger_key()), host_key_policy::known_hosts(sshd.known_hosts())};
    const auto r = p.run(wrong, "true");
    CHECK(r.ec == errc::auth_failed);
    CHECK(r.info.text.find("SHA256:") != std::string::npos);
    CHECK(sshd.started_commands() == 1);
    CHECK_FALSE(p.run(to(sshd), "true").ec);
}

TEST_CASE("bugs 4 and 5, on sshd: a host that hangs delays no other, neither its health check nor its close", "[ssh][bugs]") {
    support::sshd_server hangs, well;
    pool_params params;
    params.health_check_interval = 100ms;
    params.probe_timeout = 3s;
    running_pool p{params};
    REQUIRE_FALSE(p.run(to(hangs), "true").ec);
    REQUIRE_FALSE(p.run(to(well), "true").ec);
    hangs.suspend();
    std::this_thread::sleep_for(200ms);
    auto stuck = p.start(to(hangs), "true");  // needs a probe, which has no answer
    for (int i = 0; i < 5; ++i) {
        const auto start = std::chrono::steady_clock::now();
        CHECK_FALSE(p.run(to(well), "true").ec);
        CHECK(std::chrono::steady_clock::now() - start < 1s * support::slowness);
        std::this_thread::sleep_for(120ms);
    }
    p.pool.invalidate(to(hangs).key());
    const auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(p.run(to(well), "true").ec);
    CHECK(std::chrono::steady_clock::now() - start < 1s * support::slowness);
    hangs.resume();
    const auto r = running_pool::finish(std::move(stuck));
    INFO(r.info.text);
    CHECK_FALSE(r.ec);
}

TEST_CASE("bug 11, on sshd: a session that broke in a caller's hands is not lent again", "[ssh][bugs]") {
    support::sshd_server sshd;
    running_pool p;
    auto a = p.get(to(sshd));
    REQUIRE(a.result);
    const auto broken = a.result.info().id;
    sshd.kill_sessions();
    const auto failed = p.run_on(a.result, "true");
    CHECK(failed.ec == errc::connection_lost);
    a.result.release();
    auto b = p.get(to(sshd));
    REQUIRE(b.result);
    CHECK(b.result.info().id != broken);
    CHECK(p.run_on(b.result, "echo well").result.out == "well\n");
}

TEST_CASE("bug 14, on sshd: checking and lending start no process on the server", "[ssh][bugs]") {
    support::sshd_server sshd;
    pool_params params;
    params.health_check_interval = 50ms;
    running_pool p{params};
    REQUIRE(p.get(to(sshd)).result);
    for (int i = 0; i < 5; ++i) {
        std::this_thread::sleep_for(60ms);
        auto l = p.get(to(sshd));
        CHECK(l.result);
    }
    CHECK(sshd.accepted_logins() == 1);
    CHECK(sshd.started_commands() == 0);
}

TEST_CASE("bug 15, on sshd: many threads, real concurrency, every answer goes to who asked", "[ssh][bugs]") {
    support::sshd_server sshd;
    running_pool p{{}, 2};
    std::atomic<int> right{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 6; ++i) {
        callers.emplace_back([&, i] {
            for (int k = 0; k < 15; ++k) {
                const auto word = std::to_string(i) + "." + std::to_string(k);
                const auto r = p.run(to(sshd), command::argv("echo", word));
                if (!r.ec && r.result.out == word + "\n") ++right;
            }
        });
    }
    for (auto& t : callers) t.join();
    CHECK(right == 90);
    CHECK(sshd.accepted_logins() <= 2);
}
