// The pool for code without Asio, and the process-wide one, against OpenSSH's sshd.

#include <sshpool/blocking_ssh_pool.hpp>

#include <atomic>
#include <chrono>
#include <thread>
#include <type_traits>
#include <vector>

#include "ssh/pool_on_sshd.hpp"
#include "support/temp_dir.hpp"

using namespace sshpool;
using namespace sshpool::test;

TEST_CASE("a blocking pool runs commands and lends connections", "[ssh][blocking]") {
    support::sshd_server sshd;
    blocking_ssh_pool pool;
    CHECK(pool.run(to(sshd), "echo one").out == "one\n");
    auto lease = pool.get_connection(to(sshd));
    REQUIRE(lease);
    CHECK(lease.run("exit 3").exit_status == 3);
    CHECK(lease.info().use_count == 2);
    lease.release();
    CHECK_FALSE(lease);
    CHECK(pool.try_get_connection(to(sshd)));
    CHECK(pool.get_stats().hits >= 2);
    CHECK(sshd.accepted_logins() == 1);
}

TEST_CASE("a blocking pool sends and fetches files, on a lease or by itself", "[ssh][blocking]") {
    support::sshd_server sshd;
    support::temp_dir dir;
    support::write_file(dir / "here", "from here");
    blocking_ssh_pool pool;
    pool.upload(to(sshd), dir / "here", "there");
    CHECK(pool.read_file(to(sshd), "there") == "from here");
    pool.write_file(to(sshd), "there", "by the pool");
    pool.download(to(sshd), "there", dir / "back");
    CHECK(support::read_file(dir / "back") == "by the pool");

    auto lease = pool.get_connection(to(sshd));
    lease.write_file("script", "#!/bin/sh\necho it runs\n", transfer_options{}.mode(0700));
    CHECK(lease.run("./script").out == "it runs\n");
    lease.download("script", dir / "script");
    lease.upload(dir / "script", "copy");
    CHECK(lease.read_file("copy") == "#!/bin/sh\necho it runs\n");
    CHECK_THROWS_AS(lease.write_file("", "x"), std::invalid_argument);
    try {
        (void)lease.read_file("nothing");
        FAIL("there is no such file");
    } catch (const ssh_error& e) {
        CHECK(e.code() == errc::file_not_found);
        CHECK(std::string{e.what()}.find("No such file") != std::string::npos);
    }
    lease.release();
    CHECK_THROWS_AS(lease.read_file("copy"), ssh_error);
    CHECK(sshd.accepted_logins() == 1);
}

TEST_CASE("a blocking pool throws errors that explain themselves", "[ssh][blocking]") {
    support::sshd_server sshd;
    blocking_ssh_pool pool;
    const target stranger{sshd.address(), credentials::private_key_file(sshd.make_stranger_key()), host_key_policy::known_hosts(sshd.known_hosts())};
    try {
        pool.run(stranger, "true");
        FAIL("a stranger got in");
    } catch (const ssh_error& e) {
        CHECK(e.code() == errc::auth_failed);
        CHECK(e.code() == command_fate::not_started);
        CHECK(std::string{e.what()}.find(sshd.host()) != std::string::npos);
        CHECK(e.info().phase == "login");
    }
}

TEST_CASE("sixty-four threads share one blocking pool, and every one gets its own answer", "[ssh][blocking]") {
    support::sshd_server sshd;
    blocking_ssh_pool pool;
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 64; ++i) {
        threads.emplace_back([&, i] {
            if (pool.run(to(sshd), command::argv("echo", std::to_string(i))).out == std::to_string(i) + "\n") ++right;
        });
    }
    for (auto& t : threads) t.join();
    CHECK(right == 64);
    CHECK(sshd.accepted_logins() <= 2);
}

TEST_CASE("shutting a blocking pool down wakes who waits, lets running commands end, and refuses the rest", "[ssh][blocking]") {
    support::sshd_server sshd;
    pool_params params;
    params.max_connections_per_host = 1;
    params.leases_per_connection = 1;
    blocking_ssh_pool pool{params};
    std::error_code waiting_ec;
    std::string running;
    std::thread runs{[&] { running = pool.run(to(sshd), "sleep 0.5; echo done").out; }};
    REQUIRE(sshd.wait_for_log("Starting session: "));
    std::thread waits{[&] {
        try {
            pool.run(to(sshd), "true");
        } catch (const ssh_error& e) {
            waiting_ec = e.code();
        }
    }};
    REQUIRE(support::wait_until([&] { return pool.get_stats().waiting == 1; }));
    pool.shutdown(10s);
    runs.join();
    waits.join();
    CHECK(running == "done\n");
    CHECK(waiting_ec == errc::pool_closed);
    const auto closed = [](auto call) {
        try {
            call();
        } catch (const ssh_error& e) {
            return e.code() == errc::pool_closed;
        }
        return false;
    };
    CHECK(closed([&] { pool.run(to(sshd), "true"); }));
    CHECK(closed([&] { (void)pool.try_get_connection(to(sshd)); }));
    CHECK(closed([&] { pool.keep_warm(std::vector{to(sshd)}); }));
    CHECK(closed([&] { pool.forget_warm(to(sshd).key()); }));
    CHECK(closed([&] { pool.invalidate(to(sshd).key()); }));
    CHECK(closed([&] { pool.invalidate_principal("nobody"); }));
    CHECK(closed([&] { pool.close_all(); }));
    CHECK(pool.get_stats().pool_size == 0);
    pool.shutdown(10s);  // again: nothing
}

TEST_CASE("a blocking lease outlives its pool", "[ssh][blocking]") {
    support::sshd_server sshd;
    blocking_lease kept;
    {
        blocking_ssh_pool pool;
        kept = pool.get_connection(to(sshd));
        SECTION("after a shutdown") { pool.shutdown(0ms); }
        SECTION("without one") {}
    }
    CHECK_FALSE(kept);
    CHECK_THROWS_AS(kept.run("true"), ssh_error);
}

TEST_CASE("close_ssh_pool ends the calls that wait with pool_closed, and tells of a command that it cuts that it may have run", "[ssh][blocking]") {
    support::sshd_server sshd;
    support::fault_server silent{support::fault::silence};
    init_ssh_pool();
    std::error_code connecting, running, later;
    const auto outcome = [](std::error_code& ec, const target& where, command what) {
        try {
            get_ssh_pool().run(where, std::move(what));
        } catch (const ssh_error& e) {
            ec = e.code();
        }
    };
    const target nobody{"root", silent.host(), silent.port(), credentials::password("x"), host_key_policy::accept_any()};
    std::thread connects{[&] { outcome(connecting, nobody, "true"); }};
    std::thread runs{[&] { outcome(running, to(sshd), "sleep 60"); }};
    REQUIRE(sshd.wait_for_log("Starting session: command"));
    REQUIRE(support::wait_until([] { return get_ssh_pool().get_stats().waiting == 1; }));
    const auto from = std::chrono::steady_clock::now();
    close_ssh_pool_within(100ms);
    connects.join();
    runs.join();
    CHECK(std::chrono::steady_clock::now() - from < 10s);
    CHECK(connecting == errc::pool_closed);
    CHECK(running == errc::pool_closed);
    CHECK(running == command_fate::unknown);
    CHECK(connecting == command_fate::not_started);
    outcome(later, to(sshd), "true");
    CHECK(later == errc::pool_closed);
}

TEST_CASE("the process-wide pool: made once, found everywhere, closed and made again", "[ssh][blocking]") {
    support::sshd_server sshd;
    static_assert(std::is_same_v<decltype(&close_ssh_pool), void (*)()>);  // for std::atexit
    close_ssh_pool();                                                      // there is none: nothing happens
    pool_params params;
    params.max_connections = 7;
    auto& first = init_ssh_pool(params);
    CHECK(&get_ssh_pool() == &first);
    CHECK_THROWS_AS(init_ssh_pool(), std::logic_error);
    CHECK(get_ssh_pool().run(to(sshd), "echo hi").out == "hi\n");
    close_ssh_pool();
    close_ssh_pool();
    try {
        get_ssh_pool().run(to(sshd), "true");
        FAIL("a closed pool ran a command");
    } catch (const ssh_error& e) {
        CHECK(e.code() == errc::pool_closed);
    }
    CHECK(&init_ssh_pool() == &first);  // references stay valid for the life of the process
    CHECK(first.run(to(sshd), "echo again").out == "again\n");
    close_ssh_pool();
}
