// One connection when something goes wrong: timeouts, cancellation, losses, servers that misbehave, lifetimes.
#include <asio/bind_executor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_future.hpp>
#include <asio/write.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <fstream>

#include "ssh/transport_on_sshd.hpp"
#include "support/self.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

target at(const std::string& host, std::uint16_t port) { return {"nobody", host, port, credentials::password("unused"), host_key_policy::accept_any()}; }

}  // namespace

TEST_CASE("a command's timeout leaves its neighbours alone, and the channel comes back", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto neighbour = t.start("sleep 0.7; echo fine");
    const auto slow = t.run(command{"echo begun; sleep 1.2"}.timeout(300ms));
    CHECK((slow.ec == errc::command_timeout));
    CHECK((slow.ec == command_fate::unknown));
    CHECK_FALSE(slow.result.exit_status);
    CHECK(slow.info.phase == "command");
    CHECK(slow.info.text.find("300 ms") != std::string::npos);
    CHECK(neighbour.get().result.out == "fine\n");
    CHECK_FALSE(t.probe());
    CHECK(t.connection.is_usable());
    CHECK(t.heard->last_capacity() == 99);  // nothing was said: within the grace period
}

TEST_CASE("a command that got no channel within its timeout has not started", "[ssh][transport]") {
    support::sshd_server server({"MaxSessions 1"});
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto holder = t.start("sleep 1");
    REQUIRE(support::wait_until([&] { return server.started_commands() == 1; }));
    const auto queued = t.run(command{"touch it-ran"}.timeout(100ms));
    CHECK((queued.ec == errc::command_timeout));
    CHECK((queued.ec == command_fate::not_started));
    CHECK(holder.get().result.ok());
    CHECK(t.run("ls").result.out.empty());
}

TEST_CASE("a connection with a command that does not end takes no new leases after the grace period", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server), 10s, 1, 200ms).error);
    CHECK((t.run(command{"trap '' TERM; sleep 60"}.timeout(100ms)).ec == errc::command_timeout));
    CHECK(support::wait_until([&] { return t.heard->last_capacity() == 0; }));
    CHECK(t.run("echo still").result.out == "still\n");  // whoever has a lease goes on
}

TEST_CASE("a cancelled command is answered at once, in whatever state it is", "[ssh][transport]") {
    support::sshd_server server({"MaxSessions 2"});
    running_transport t{2};
    REQUIRE_FALSE(t.open(to(server)).error);
    for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial, asio::cancellation_type::total}) {
        asio::cancellation_signal stop;
        const auto started = server.started_commands();
        auto running = t.start("echo begun; sleep 1", stop.slot());
        REQUIRE(support::wait_until([&] { return server.started_commands() > started || t.heard->last_capacity() != 99; }));
        stop.emit(type);
        const auto end = running.get();
        CHECK((end.ec == errc::cancelled));
        CHECK((end.ec == asio::error::operation_aborted));
        CHECK_FALSE(end.result.exit_status);
    }
    asio::cancellation_signal early;  // before it was started
    auto never = t.start("echo never", early.slot());
    early.emit(asio::cancellation_type::terminal);
    const auto end = never.get();
    CHECK((!end.ec || end.ec == errc::cancelled));
    CHECK(t.run("echo next").result.out == "next\n");
    asio::cancellation_signal late;  // after it has ended
    CHECK(t.start("true", late.slot()).get().result.ok());
    late.emit(asio::cancellation_type::terminal);
    CHECK(t.run("echo after").result.out == "after\n");
}

TEST_CASE("a connection killed mid-command is connection_lost with unknown fate, told once", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto running = t.start("echo begun; sleep 60");
    REQUIRE(support::wait_until([&] { return server.started_commands() == 1; }));
    server.kill_sessions();
    const auto end = running.get();
    CHECK((end.ec == errc::connection_lost));
    CHECK((end.ec == command_fate::unknown));
    CHECK_FALSE(end.result.exit_status);
    CHECK_FALSE(end.info.text.empty());
    CHECK(support::wait_until([&] { return t.heard->count_lost() == 1; }));
    CHECK((t.heard->lost.front().code == errc::connection_lost));
    CHECK_FALSE(t.connection.is_usable());
    const auto later = t.run("true");
    CHECK((later.ec == errc::connection_lost));
    CHECK((later.ec == command_fate::not_started));
    CHECK(t.probe());
    t.close();
    CHECK(t.heard->count_lost() == 1);
}

TEST_CASE("an idle connection notices its loss by itself", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    server.kill_sessions();
    CHECK(support::wait_until([&] { return t.heard->count_lost() == 1; }));
    CHECK_FALSE(t.connection.is_usable());
}

TEST_CASE("a probe of a server that hangs fails in time", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    CHECK_FALSE(t.probe());
    server.suspend();
    const auto begin = std::chrono::steady_clock::now();
    CHECK((t.probe(300ms).code == errc::connection_lost));
    CHECK(std::chrono::steady_clock::now() - begin < 3s);
    server.resume();
}

TEST_CASE("a connection that is cut after any number of bytes gives a typed error and frees everything", "[ssh][transport]") {
    support::sshd_server server({"MaxStartups 100"});
    support::delay_proxy proxy(server.host(), server.port());
    const auto before = support::open_descriptors();
    std::size_t opened = 0;
    for (std::uint64_t bytes = 1; bytes<6000; bytes += support::slowness> 1 ? 450 : 150) {
        proxy.cut_after(support::direction::to_client, bytes);
        running_transport t;
        const auto report = t.open(through(server, proxy.host(), proxy.port()));
        INFO(bytes << ": " << report.error.text);
        if (report.error) {
            CHECK((report.error.code == errc::server_busy || report.error.code == errc::handshake_failed || report.error.code == errc::connection_lost));
            CHECK_FALSE(report.error.phase.empty());
            CHECK(report.error.text.find(server.address(proxy.host(), proxy.port())) != std::string::npos);
            continue;
        }
        ++opened;
        const auto end = t.run("echo x; exit 9");
        if (end.ec) {
            CHECK((end.ec == errc::connection_lost));
            CHECK_FALSE(end.result.exit_status);
        } else {
            CHECK(end.result.exit_status == 9);
        }
    }
    CHECK(opened > 0);
    CHECK(support::wait_until([&] { return proxy.open_connections() == 0; }));
    CHECK(support::wait_until([&] { return support::open_descriptors() <= before; }));
}

TEST_CASE("servers that misbehave give a typed error within the connect timeout", "[ssh][transport]") {
    struct expectation {
        support::fault what;
        const char* says;
        errc code;
        const char* phase;
    };
    using support::fault;
    const auto expected = GENERATE(
        expectation{fault::silence, "", errc::connect_timeout, "banner"}, expectation{fault::close_at_once, "", errc::server_busy, "banner"},
        expectation{fault::reset_at_once, "", errc::server_busy, "banner"}, expectation{fault::garbage, "", errc::handshake_failed, "banner"},
        expectation{fault::endless_banner, "", errc::handshake_failed, "banner"}, expectation{fault::endless_line, "", errc::handshake_failed, "banner"},
        expectation{fault::say_and_close, "Exceeded MaxStartups\r\n", errc::server_busy, "banner"},
        expectation{fault::say_and_close, "Not allowed at this time\r\n", errc::server_busy, "banner"},
        expectation{fault::say_and_close, "HTTP/1.1 400 Bad Request\r\n\r\n", errc::handshake_failed, "banner"},
        expectation{fault::say, "SSH-2.0-Half\r\n", errc::connect_timeout, "key exchange"},
        expectation{fault::say_and_close, "SSH-2.0-Half\r\n", errc::handshake_failed, "key exchange"},
        expectation{fault::say, "SSH-1.0-Old\r\n", errc::handshake_failed, "key exchange"});
    support::fault_server server(expected.what, expected.says);
    running_transport t;
    const auto begin = std::chrono::steady_clock::now();
    const auto report = t.open(at(server.host(), server.port()), 600ms);
    INFO(report.error.text << " / " << report.error.code.message() << " / " << report.error.phase);
    CHECK((report.error.code == expected.code));
    CHECK((report.error.code == command_fate::not_started));
    CHECK(report.error.phase == expected.phase);
    CHECK(report.error.key == "nobody@127.0.0.1:" + std::to_string(server.port()));
    CHECK(std::chrono::steady_clock::now() - begin < (600ms + 1s) * support::slowness);
    CHECK(server.sent() < (std::uint64_t{8} << 20));
    CHECK(support::wait_until([&] { return server.open_connections() == 0; }));
}

TEST_CASE("what cannot be reached is told apart", "[ssh][transport]") {
    {
        running_transport t;
        const auto report = t.open(at("127.0.0.1", support::free_port()));
        CHECK((report.error.code == errc::connect_failed));
        CHECK(report.error.phase == "tcp");
        CHECK(report.error.text.find("Connection refused") != std::string::npos);
    }
    running_transport t;
    const auto report = t.open(at("no-such-host.invalid", 22));
    CHECK((report.error.code == errc::resolve_failed));
    CHECK(report.error.phase == "resolve");
}

TEST_CASE("a target behind a jump host fails with a plain sentence", "[ssh][transport]") {
    auto far = at("10.0.0.1", 22);
    far.via(at("127.0.0.1", 22));
    running_transport t;
    const auto report = t.open(far);
    CHECK((report.error.code == errc::jump_failed));
    CHECK(report.error.text.find("jump host") != std::string::npos);
}

TEST_CASE("a close before the end of the open cancels it", "[ssh][transport]") {
    support::fault_server server(support::fault::silence);
    running_transport t;
    auto opening = t.start_open(at(server.host(), server.port()), 30s);
    REQUIRE(support::wait_until([&] { return server.connections() == 1; }));
    t.close();
    CHECK((opening.get().error.code == errc::cancelled));
    CHECK(support::wait_until([&] { return server.open_connections() == 0; }));
    t.close();  // once more is harmless
}

TEST_CASE("a close ends what still runs, without a loss being told", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto running = t.start("sleep 60");
    REQUIRE(support::wait_until([&] { return server.started_commands() == 1; }));
    t.close();
    const auto end = running.get();
    CHECK((end.ec == errc::connection_lost));
    CHECK((end.ec == command_fate::unknown));
    CHECK(t.heard->count_lost() == 0);
    CHECK(server.wait_for_log("disconnect"));  // a goodbye, not a cut
    CHECK_FALSE(t.connection.is_usable());
}

/// What the kernel holds back of connections to that port on loopback, in bytes.
static unsigned long unsent_to(std::uint16_t port) {
    std::ifstream table{"/proc/net/tcp"};
    std::string line;
    unsigned long sum = 0;
    while (std::getline(table, line)) {
        unsigned remote = 0;
        unsigned long queue = 0;
        if (std::sscanf(line.c_str(), " %*d: %*x:%*x %*x:%x %*x %lx:", &remote, &queue) == 2 && remote == port) sum += queue;
    }
    return sum;
}

TEST_CASE("a server that hangs cannot hold a close for more than a second", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    // Eight windows of 2 MiB are more than the kernel holds of a connection: the goodbye finds no room.
    std::vector<channel> channels;
    for (int i = 0; i < 8; ++i) channels.push_back(t.connection.async_open("cat >/dev/null", asio::use_future).get());
    server.suspend();
    const std::string bytes(std::size_t{2} << 20, 'x');
    std::vector<std::future<std::size_t>> feeding;
    for (auto& c : channels) feeding.push_back(asio::async_write(c, asio::buffer(bytes), asio::use_future));
    unsigned long unsent = 0;
    int still = 0;
    REQUIRE(support::wait_until([&] {
        const auto now = unsent_to(server.port());
        still = now > 0 && now == unsent ? still + 1 : 0;
        unsent = now;
        return still == 50;
    }));
    const auto begin = std::chrono::steady_clock::now();
    t.close();
    CHECK(std::chrono::steady_clock::now() - begin < 1500ms * support::slowness);
    int lost = 0;
    for (auto& f : feeding) {
        try {
            f.get();
        } catch (const std::system_error& e) {
            lost += e.code() == errc::connection_lost ? 1 : 0;
        }
    }
    CHECK(lost > 0);
    server.resume();
}

TEST_CASE("the last handle's going closes the connection, but not under a running operation", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    std::promise<std::string> output;
    {
        libssh2_transport connection{t.io.get_executor()};
        std::promise<open_report> opened;
        connection.open({to(server), 10s, 1, 2s, {}, {}}, [&](open_report r) { opened.set_value(std::move(r)); });
        REQUIRE_FALSE(opened.get_future().get().error);
        connection.async_run("sleep 0.2; echo done", [&](std::error_code, command_result r) { output.set_value(r.out); });
    }
    CHECK(output.get_future().get() == "done\n");
    CHECK(server.wait_for_log("disconnect"));
}

TEST_CASE("an execution context may go with everything pending, and handles may outlive it", "[ssh][transport]") {
    support::sshd_server server;
    support::fault_server silent(support::fault::silence);
    std::optional<libssh2_transport> connection;
    std::optional<libssh2_transport> half_open;
    auto handler_gone = std::make_shared<int>(1);
    const std::weak_ptr<int> watch = handler_gone;
    {
        asio::io_context io;
        connection.emplace(io.get_executor());
        half_open.emplace(io.get_executor());
        half_open->open({at(silent.host(), silent.port()), 30s, 1, 2s, {}, {}}, [](open_report) { FAIL("completed"); });
        bool begun = false;
        connection->open({to(server), 10s, 1, 2s, {}, {}}, [&](open_report r) {
            REQUIRE_FALSE(r.error);
            auto what = command{"echo x; sleep 60"}.on_output([&](output_stream, std::string_view) { begun = true; });
            connection->async_run(what, [gone = std::exchange(handler_gone, nullptr)](std::error_code, command_result) { FAIL("completed"); });
        });
        while (!begun) io.run_one();
        CHECK_FALSE(watch.expired());
    }
    CHECK(watch.expired());
    CHECK_FALSE(connection->is_usable());
    connection->async_run("true", [](std::error_code, command_result) { FAIL("completed"); });
    connection->close([] { FAIL("completed"); });
    half_open.reset();
    connection.reset();
    CHECK(support::wait_until([&] { return silent.open_connections() == 0; }));
}

TEST_CASE("an io_context runs out of work once the connection is closed", "[ssh][transport]") {
    support::sshd_server server;
    asio::io_context io;
    libssh2_transport connection{io.get_executor()};
    bool closed = false;
    connection.open({to(server), 30s, 1, 2s, {}, {}}, [&](open_report r) {
        REQUIRE_FALSE(r.error);
        connection.async_run(command{"true"}.timeout(60s), [&](std::error_code ec, command_result) {
            CHECK_FALSE(ec);
            connection.close([&] { closed = true; });
        });
    });
    const auto begin = std::chrono::steady_clock::now();
    io.run();
    CHECK(closed);
    CHECK(std::chrono::steady_clock::now() - begin < 20s);
}

TEST_CASE("a handler that throws, and an on_output that throws, leave the connection whole", "[ssh][transport]") {
    support::sshd_server server;
    asio::io_context io;
    libssh2_transport connection{io.get_executor()};
    int thrown = 0;
    std::string last;
    connection.open({to(server), 10s, 1, 2s, {}, {}}, [&](open_report r) {
        REQUIRE_FALSE(r.error);
        auto what = command{"echo one; sleep 0.1; echo two"}.on_output([&](output_stream, std::string_view) { throw std::runtime_error("from on_output"); });
        connection.async_run(what, [&](std::error_code ec, command_result) {
            CHECK_FALSE(ec);
            connection.async_run("echo three", [&](std::error_code, command_result result) {
                last = result.out;
                connection.close([] {});
                throw std::runtime_error("from the handler");
            });
        });
    });
    for (;;) {
        try {
            io.run();
            break;
        } catch (const std::runtime_error&) {
            ++thrown;
        }
    }
    CHECK(last == "three\n");
    CHECK(thrown == 3);
}

TEST_CASE("hundreds of connections and timeouts leave no descriptor behind", "[ssh][transport]") {
    support::sshd_server server;
    const auto before = support::open_descriptors();
    {
        running_transport t;
        REQUIRE_FALSE(t.open(to(server)).error);
        for (int i = 0; i < 100; ++i) CHECK((t.run(command{"sleep 0.05"}.timeout(5ms)).ec == errc::command_timeout));
        CHECK(t.run("echo end").result.out == "end\n");
    }
    for (int i = 0; i < 20; ++i) {
        running_transport t;
        CHECK_FALSE(t.open(to(server)).error);
    }
    CHECK(support::wait_until([&] { return support::open_descriptors() <= before; }));
}
