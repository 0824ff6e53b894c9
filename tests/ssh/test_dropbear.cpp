// What works against OpenSSH works against dropbear: another implementation of the protocol, with other limits and other habits.
#include <algorithm>
#include <csignal>

#include "ssh/channel_on_sshd.hpp"
#include "ssh/pool_on_sshd.hpp"
#include "support/dropbear_server.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

target to(const support::dropbear_server& server) {
    return {server.address(), credentials::private_key_file(server.client_key()), host_key_policy::known_hosts(server.known_hosts())};
}
target through(const support::dropbear_server& server, const support::delay_proxy& proxy) {
    return {server.address(proxy.host(), proxy.port()), credentials::private_key_file(server.client_key()), host_key_policy::accept_any()};
}

}  // namespace

TEST_CASE("dropbear: commands have input, output, errors, a status or a signal", "[ssh][dropbear]") {
    support::dropbear_server server;
    running_transport t;
    const auto report = t.open(to(server));
    INFO(report.error.text << server.log());
    REQUIRE_FALSE(report.error);
    command both("cat; echo oops >&2; exit 7");
    both.input("hello");
    const auto outcome = t.run(std::move(both));
    CHECK(outcome.result.out == "hello");
    CHECK(outcome.result.err == "oops\n");
    CHECK((outcome.result.exit_status == 7));
    const auto killed = t.run("kill -TERM $$");
    CHECK(killed.result.exit_signal == "TERM");
    CHECK_FALSE(killed.result.exit_status.has_value());
    command env("true");
    env.env("NAME", "value");
    CHECK((t.run(std::move(env)).ec == errc::env_refused));
    std::string bytes;
    for (unsigned i = 0; bytes.size() < (std::size_t{2} << 20); ++i) bytes += std::to_string(i * 7919) + ",";
    command cat("cat");
    cat.input(bytes);
    CHECK((t.run(std::move(cat)).result.out == bytes));
}

TEST_CASE("dropbear: keys and passwords log in, and wrong ones are refused", "[ssh][dropbear]") {
    support::dropbear_server server;
    const auto policy = host_key_policy::known_hosts(server.known_hosts());
    const auto log_in = [&](const credentials& login) {
        running_transport t;
        auto report = t.open({server.address(), login, policy});
        if (!report.error) CHECK(t.run("echo in").result.out == "in\n");
        return report.error;
    };
    for (const std::string type : {"ed25519", "ecdsa"}) {
        const auto error = log_in(credentials::private_key_file(server.make_client_key(type)));
        INFO(type << ": " << error.text << server.log());
        CHECK_FALSE(error);
    }
    const auto error = log_in(credentials::password(server.password()));
    INFO(error.text << server.log());
    CHECK_FALSE(error);
    CHECK((log_in(credentials::password("not-the-word")) == errc::auth_failed));
    CHECK((log_in(credentials::private_key_file(server.make_stranger_key())) == errc::auth_failed));
}

TEST_CASE("dropbear: streams, tunnels and files on one connection", "[ssh][dropbear]") {
    support::dropbear_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto stream = open_channel(t, "cat");
    REQUIRE(end_of(asio::async_write(stream, asio::buffer("there and back", 14), as_end)).result == 14);
    std::string back(14, '\0');
    CHECK(end_of(asio::async_read(stream, asio::buffer(back), as_end)).result == 14);
    CHECK(back == "there and back");

    auto tunnel = end_of(t.connection.async_open_tcp(server.host(), server.port(), as_end));
    REQUIRE_FALSE(tunnel.ec);
    std::string banner(8, '\0');
    CHECK(end_of(asio::async_read(tunnel.result, asio::buffer(banner), as_end)).result == 8);
    CHECK(banner == "SSH-2.0-");

    CHECK_FALSE(end_of(stream.async_send_eof(as_end)));
    CHECK((end_of(stream.async_wait_exit(as_end)).result.exit_status == 0));

    std::string bytes(300'000, 'x');
    error_info info;
    const auto written = end_of(t.connection.async_write_file("file", bytes, info, as_end));
    INFO(info.text);
    CHECK_FALSE(written);
    CHECK((end_of(t.connection.async_read_file("file", as_end)).result == bytes));
    CHECK(std::filesystem::file_size(server.home() / "file") == bytes.size());
}

TEST_CASE("dropbear: any number of commands at once run, one after the other on a connection, and many connections come up", "[ssh][dropbear]") {
    support::dropbear_server server;
    {
        running_transport t;
        REQUIRE_FALSE(t.open(to(server)).error);
        CHECK(support::wait_until([&] { return t.heard->last_capacity() == 1; }));
        std::vector<std::future<run_outcome>> all;
        for (int i = 0; i < 64; ++i) all.push_back(t.start("echo " + std::to_string(i)));
        for (int i = 0; i < 64; ++i) REQUIRE(all[static_cast<std::size_t>(i)].get().result.out == std::to_string(i) + "\n");
    }
    // Of connections that have not logged in it takes 5 from one address: the pool's own bound stays below that.
    pool_params params;
    params.max_connections_per_host = 12;
    running_pool p(params);
    std::vector<std::future<running_pool::run_outcome>> all;
    for (int i = 0; i < 24; ++i) all.push_back(p.start(to(server), "sleep 0.1; echo done"));
    for (auto& f : all) {
        const auto outcome = running_pool::finish(std::move(f));
        INFO(outcome.info.text);
        REQUIRE(outcome.result.out == "done\n");
    }
}

TEST_CASE("dropbear: a command that does not end holds up its own connection alone", "[ssh][dropbear]") {
    support::dropbear_server server;
    pool_params params;
    params.reap_grace = 100ms;
    running_pool p(params);
    command endless("sleep 60");
    endless.timeout(200ms);
    CHECK((p.run(to(server), std::move(endless)).ec == errc::command_timeout));
    for (int i = 0; i < 3; ++i) {
        const auto outcome = p.run(to(server), "echo next");
        INFO(outcome.info.text);
        CHECK(outcome.result.out == "next\n");
    }
}

TEST_CASE("dropbear: a spare channel that the server closes is never used", "[ssh][dropbear]") {
    support::dropbear_server server;
    support::delay_proxy proxy(server.host(), server.port());
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy)).error);
    // It closes every channel that has no command when it hears that a child has ended, whether one has or not.
    REQUIRE(support::wait_until([&] { return server.session_process() > 0; }));
    const auto before = proxy.bytes(support::direction::to_server);
    REQUIRE(::kill(server.session_process(), SIGCHLD) == 0);
    // Its session has heard of it: a command that is on its way then ends dropbear.
    REQUIRE(support::wait_until([&] { return proxy.bytes(support::direction::to_server) > before; }));
    for (int i = 0; i < 3; ++i) {
        const auto outcome = t.run("echo here");
        INFO(outcome.info.text << server.log());
        CHECK(outcome.result.out == "here\n");
    }
    CHECK_FALSE(t.probe());
    CHECK(t.heard->count_lost() == 0);
}

TEST_CASE("dropbear: a probe is answered, its keepalives are answered, and a loss is noticed", "[ssh][dropbear]") {
    support::dropbear_server server({"-K", "1"});
    support::delay_proxy proxy(server.host(), server.port());
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy)).error);
    CHECK_FALSE(t.probe());
    // It hangs up on a client that leaves three keepalives without an answer.
    const auto turns = proxy.turns();
    CHECK(support::wait_until([&] { return proxy.turns() >= turns + 4; }, 20s));
    CHECK(t.run("echo alive").result.out == "alive\n");
    CHECK(t.heard->count_lost() == 0);
    auto running = t.start("touch begun; sleep 60");
    REQUIRE(support::wait_until([&] { return std::filesystem::exists(server.home() / "begun"); }));
    proxy.cut();
    const auto lost = running.get();
    CHECK((lost.ec == errc::connection_lost));
    CHECK((lost.ec == command_fate::unknown));
    CHECK(support::wait_until([&] { return t.heard->count_lost() == 1; }));
}

TEST_CASE("dropbear: it serves as a jump host, and is reached through one", "[ssh][dropbear]") {
    support::dropbear_server one;
    support::dropbear_server two;
    support::sshd_server openssh;
    running_pool p;
    auto behind = test::to(openssh);
    CHECK(p.run(behind.via(to(one)), "echo a").result.out == "a\n");
    auto between = to(two);
    CHECK(p.run(between.via(test::to(openssh)), "echo b").result.out == "b\n");
}
