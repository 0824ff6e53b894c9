// Commands as streams, on a real sshd.
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/read_until.hpp>
#include <asio/use_awaitable.hpp>
#include <fstream>

#include "ssh/channel_on_sshd.hpp"
#include "support/self.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// Waits until no more bytes come through the proxy, and tells how many did.
std::uint64_t settled(const support::delay_proxy& proxy, support::direction d, std::uint64_t more_than) {
    std::uint64_t before = 0;
    const bool still = support::wait_until([&] {
        std::this_thread::sleep_for(50ms);
        const auto now = proxy.bytes(d);
        return now > more_than && std::exchange(before, now) == now;
    });
    return still ? before : 0;
}

}  // namespace

TEST_CASE("a channel carries megabytes both ways at once, byte by byte, and ends with the exit status", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t{2};
    REQUIRE_FALSE(t.open(to(server)).error);
    const auto sent = random_bytes(std::size_t{8} << 20, 1);
    auto c = open_channel(t, "cat; exit 7");
    REQUIRE(c);
    auto got = read_all(c);
    auto written = asio::async_write(c, asio::buffer(sent), as_end);
    CHECK(end_of(std::move(written)).result == sent.size());
    CHECK_FALSE(end_of(c.async_send_eof(as_end)));
    CHECK((end_of(std::move(got)).result == sent));
    const auto end = end_of(c.async_wait_exit(as_end));
    CHECK_FALSE(end.ec);
    CHECK(end.result.exit_status == 7);
    CHECK(end.result.elapsed.count() > 0);
    CHECK(end.result.out.empty());
    CHECK(end_of(asio::async_write(c, asio::buffer(sent), as_end)).ec == asio::error::broken_pipe);
}

TEST_CASE("standard error is a stream of its own", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "echo out; echo err >&2; exit 3");
    auto out = read_all(c);
    auto err = read_all(c.err());
    CHECK(end_of(std::move(out)).result == "out\n");
    CHECK(end_of(std::move(err)).result == "err\n");
    CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 3);
    CHECK(end_of(read_all(c)).result.empty());  // the end stays the end
}

TEST_CASE("the status comes before the output was read, and the output can still be", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "seq 1 20000; echo done >&2");
    CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 0);
    CHECK(read_exactly(c, 6) == "1\n2\n3\n");
    CHECK(end_of(read_all(c)).result.size() == 108894 - 6);
    CHECK(end_of(read_all(c.err())).result == "done\n");
}

TEST_CASE("a command that a signal ended has the signal and no status", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "kill -KILL $$");
    const auto end = end_of(c.async_wait_exit(as_end));
    CHECK_FALSE(end.ec);
    CHECK_FALSE(end.result.exit_status.has_value());
    CHECK(end.result.exit_signal == "KILL");
}

TEST_CASE("a conversation line by line", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "while read line; do echo \"got $line\"; done");
    std::string text;
    for (int i = 0; i < 50; ++i) {
        const auto line = std::to_string(i) + "\n";
        CHECK(end_of(asio::async_write(c, asio::buffer(line), as_end)).result == line.size());
        const auto n = end_of(asio::async_read_until(c, asio::dynamic_buffer(text), '\n', as_end)).result;
        CHECK(text.substr(0, n) == "got " + line);
        text.erase(0, n);
    }
    CHECK_FALSE(end_of(c.async_send_eof(as_end)));
    CHECK_FALSE(end_of(c.async_send_eof(as_end)));  // said already
    const std::string more = "more\n";
    CHECK(end_of(asio::async_write(c, asio::buffer(more), as_end)).ec == asio::error::broken_pipe);
    CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 0);
}

TEST_CASE("reads and writes of many buffers, of few bytes, and of none", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "cat");
    std::array<std::string, 20> parts;
    std::vector<asio::const_buffer> list;
    std::string all;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        parts[i] = random_bytes(i * i * 37, static_cast<unsigned>(i));
        list.emplace_back(asio::buffer(parts[i]));
        all += parts[i];
    }
    CHECK(end_of(asio::async_write(c, list, as_end)).result == all.size());
    std::string small(3, '\0');
    std::string large(all.size() - 3, '\0');
    const std::array<asio::mutable_buffer, 2> into{asio::buffer(small), asio::buffer(large)};
    CHECK(end_of(asio::async_read(c, into, as_end)).result == all.size());
    CHECK((small + large == all));
    const auto nothing = end_of(c.async_read_some(asio::mutable_buffer{}, as_end));
    CHECK_FALSE(nothing.ec);
    CHECK(nothing.result == 0);
    CHECK_FALSE(end_of(c.async_write_some(asio::const_buffer{}, as_end)).ec);
    std::vector<std::future<ended<std::size_t>>> reads;  // several at once: served in order
    std::array<char, 3> letters{};
    for (auto& l : letters) reads.push_back(c.async_read_some(asio::buffer(&l, 1), as_end));
    CHECK(end_of(c.async_write_some(asio::buffer("abc", 3), as_end)).result == 3);
    for (auto& r : reads) CHECK(end_of(std::move(r)).result == 1);
    CHECK(std::string(letters.data(), 3) == "abc");
}

TEST_CASE("a command on a terminal sees it, its size, and its new size", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, command{"stty -echo; test -t 0 && test -t 1 && echo on a $TERM; stty size; read line; stty size"}.pty(132, 43, "vt100"));
    if (!c) {
        const auto said = server.log();
        INFO(said);
        REQUIRE(c);
    }
    std::string text;
    end_of(asio::async_read_until(c, asio::dynamic_buffer(text), "43 132", as_end));
    CHECK(text.find("on a vt100") != std::string::npos);
    c.resize(99, 22);
    CHECK_FALSE(end_of(asio::async_write(c, asio::buffer("go\n", 3), as_end)).ec);
    CHECK(end_of(read_all(c)).result.find("22 99") != std::string::npos);
    CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 0);
    CHECK_THROWS_AS(c.resize(0, 24), std::invalid_argument);
    CHECK_THROWS_AS(c.resize(80, 65536), std::invalid_argument);
}

TEST_CASE("a terminal that the server does not give is said to be refused", "[ssh][channel]") {
    support::sshd_server server({"PermitTTY no"});
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    error_info info;
    const auto end = end_of(t.connection.async_open(command{"true"}.pty(), info, as_end));
    CHECK((end.ec == errc::command_refused));
    CHECK((end.ec == command_fate::not_started));
    CHECK_FALSE(end.result);
    CHECK(info.text.find("refused a terminal") != std::string::npos);
    CHECK(t.run("echo on").result.out == "on\n");
}

TEST_CASE("what a channel is not made for is refused in words", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    const auto refuses = [&](command what) { CHECK_THROWS_AS(t.connection.async_open(std::move(what), as_end), std::invalid_argument); };
    refuses(command{"cat"}.input("bytes"));
    refuses(command{"cat"}.on_output([](output_stream, std::string_view) {}));
    refuses(command{"cat"}.max_output(10));
    error_info info;
    const auto late = [&](command what) { return end_of(t.connection.async_open(std::move(what), info, as_end)); };
    CHECK((late(std::string(40000, 'x')).ec == errc::command_too_long));
    CHECK(info.key == server.address());
    CHECK((late(command{"true"}.env("NOT_ALLOWED", "1")).ec == errc::env_refused));
    CHECK(info.text.find("NOT_ALLOWED") != std::string::npos);
    auto c = open_channel(t, "cat");
    for (const char* name : {"", "SIGTERM", "term", "TERM\n"}) CHECK_THROWS_AS((void)c.signal(name), std::invalid_argument);
}

TEST_CASE("a signal reaches the command where libssh2 can send one, and is refused by name where it cannot", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.02; done");
    CHECK(read_exactly(c, 6) == "ready\n");
    if (channel::can_signal) {
        CHECK_FALSE(c.signal("TERM"));
        CHECK(end_of(read_all(c)).result == "caught\n");
        CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 5);
    } else {
        CHECK((c.signal("TERM") == errc::unsupported));
    }
}

TEST_CASE("a cancelled call ends alone: the channel and its other calls go on", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "read line; echo \"$line\"; cat >&2");
    const auto type = GENERATE(asio::cancellation_type::terminal, asio::cancellation_type::partial, asio::cancellation_type::total);
    asio::cancellation_signal stop_out;
    asio::cancellation_signal stop_exit;
    std::array<char, 100> unused{};
    error_info info;
    auto out = c.async_read_some(asio::buffer(unused), info, asio::bind_cancellation_slot(stop_out.slot(), as_end));
    std::array<char, 4> err_bytes{};
    auto err = asio::async_read(c.err(), asio::buffer(err_bytes), as_end);
    auto exit = c.async_wait_exit(asio::bind_cancellation_slot(stop_exit.slot(), as_end));
    asio::post(t.io, [&] { stop_out.emit(type); });
    CHECK((end_of(std::move(out)).ec == errc::cancelled));
    CHECK(info.key == server.address());
    asio::post(t.io, [&] { stop_exit.emit(type); });
    CHECK((end_of(std::move(exit)).ec == errc::cancelled));
    CHECK(end_of(asio::async_write(c, asio::buffer("one\ntwo\n", 8), as_end)).result == 8);
    CHECK(read_exactly(c, 4) == "one\n");
    CHECK(end_of(std::move(err)).result == 4);
    CHECK(std::string(err_bytes.data(), 4) == "two\n");
    CHECK_FALSE(end_of(c.async_send_eof(as_end)));
    CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 0);
}

TEST_CASE("a cancelled open leaves the connection as it was", "[ssh][channel]") {
    support::sshd_server server({"MaxSessions 2"});
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto held = open_channel(t, "cat");
    auto held_too = open_channel(t, "cat");
    asio::cancellation_signal stop;
    auto third = t.connection.async_open("cat", asio::bind_cancellation_slot(stop.slot(), as_end));  // waits for a channel
    asio::post(t.io, [&] { stop.emit(asio::cancellation_type::total); });
    const auto end = end_of(std::move(third));
    CHECK((end.ec == errc::cancelled));
    CHECK_FALSE(end.result);
    CHECK(end_of(asio::async_write(held, asio::buffer("x", 1), as_end)).result == 1);
    CHECK(read_exactly(held, 1) == "x");
    held.close();
    CHECK_FALSE(held);
    CHECK(t.run("echo a slot again").result.out == "a slot again\n");
}

TEST_CASE("a flood that nobody reads stops within its window, and its neighbours do not notice", "[ssh][channel]") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port());
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
    CHECK(t.run("true").result.exit_status == 0);
    const auto before = support::resident_bytes();
    std::string stream;
    SECTION("on its output") { stream = "yes"; }
    SECTION("on its standard error") { stream = "yes >&2"; }
    auto flood = open_channel(t, stream);
    const auto came = settled(proxy, support::direction::to_client, 500'000);
    CHECK(came > 0);
    CHECK(came < 600'000 + 100'000);  // the window of 512 KiB, packet heads, and the connection's own start
    for (int i = 0; i < 20; ++i) CHECK(t.run("echo beside").result.out == "beside\n");
    CHECK(proxy.bytes(support::direction::to_client) - came < 20'000);  // the neighbours' traffic gave it nothing
    const auto grown = support::resident_bytes() - std::min(before, support::resident_bytes());
    CHECK(grown < (std::size_t{6} << 20) * support::slowness);
    std::string text(4 << 20, '\0');
    auto read = stream == "yes" ? asio::async_read(flood, asio::buffer(text), as_end) : asio::async_read(flood.err(), asio::buffer(text), as_end);
    CHECK(end_of(std::move(read)).result == text.size());
    CHECK(text.find_first_not_of("y\n") == std::string::npos);
}

TEST_CASE("a reader of one byte at a time makes the server send no more than it takes", "[ssh][channel]") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port());
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
    auto flood = open_channel(t, "yes");
    const auto came = settled(proxy, support::direction::to_client, 500'000);
    char one = 0;
    for (int i = 0; i < 500; ++i) CHECK(end_of(flood.async_read_some(asio::buffer(&one, 1), as_end)).result == 1);
    CHECK(proxy.bytes(support::direction::to_client) - came < 5'000);
}

TEST_CASE("a command that does not read stops the writer, and its neighbours do not notice", "[ssh][channel]") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port());
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
    auto c = open_channel(t, "until test -e go; do sleep 0.02; done; wc -c");
    const std::string all(std::size_t{16} << 20, 'x');
    auto written = asio::async_write(c, asio::buffer(all), as_end);
    const auto sent = settled(proxy, support::direction::to_server, 500'000);
    CHECK(sent > 0);
    CHECK(sent < (std::uint64_t{3} << 20));  // sshd's window of 2 MiB, and the pipe behind it
    CHECK(written.wait_for(0s) == std::future_status::timeout);
    for (int i = 0; i < 10; ++i) CHECK(t.run("echo beside").result.out == "beside\n");
    support::write_file(server.home() / "go", "");
    CHECK(end_of(std::move(written)).result == all.size());
    CHECK_FALSE(end_of(c.async_send_eof(as_end)));
    CHECK(end_of(read_all(c)).result == std::to_string(all.size()) + "\n");
}

TEST_CASE("a channel that goes completes what waits on it, and the connection goes on", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    for (int i = 0; i < 20; ++i) {
        auto c = open_channel(t, i % 2 == 0 ? "cat" : "yes");
        std::array<char, 10> bytes{};
        auto err = c.err().async_read_some(asio::buffer(bytes), as_end);
        auto exit = c.async_wait_exit(as_end);
        if (i % 3 == 0) {
            c.close();
        } else if (i % 3 == 1) {
            const auto gone = std::move(c);
        } else {
            c = channel{};
        }
        CHECK((end_of(std::move(err)).ec == errc::cancelled));
        CHECK((end_of(std::move(exit)).ec == errc::cancelled));
    }
    CHECK(support::wait_until([&] { return server.session_processes() <= 3; }));  // no command is left
    CHECK(t.run("echo on").result.out == "on\n");
    CHECK(t.heard->count_lost() == 0);
}

TEST_CASE("the loss of the connection ends every call with connection_lost, and no exit status", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, "echo first; cat >/dev/null; sleep 60");
    CHECK(read_exactly(c, 2) == "fi");
    std::array<char, 10> bytes{};
    error_info info;
    auto err = c.err().async_read_some(asio::buffer(bytes), info, as_end);
    auto exit = c.async_wait_exit(as_end);
    server.kill_sessions();
    CHECK((end_of(std::move(err)).ec == errc::connection_lost));
    CHECK((info.code == command_fate::unknown));
    CHECK_FALSE(info.text.empty());
    const auto end = end_of(std::move(exit));
    CHECK((end.ec == errc::connection_lost));
    CHECK_FALSE(end.result.exit_status.has_value());
    CHECK(read_exactly(c, 4) == "rst\n");  // what came before
    CHECK((end_of(c.async_read_some(asio::buffer(bytes), as_end)).ec == errc::connection_lost));
    CHECK((end_of(c.async_write_some(asio::buffer(bytes), as_end)).ec == errc::connection_lost));
    CHECK((end_of(c.async_send_eof(as_end)) == errc::connection_lost));
    CHECK((end_of(t.connection.async_open("true", as_end)).ec == command_fate::not_started));
}

TEST_CASE("a command's timeout bounds the life of its channel", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_channel(t, command{"echo early; cat"}.timeout(300ms));
    std::array<char, 100> bytes{};
    CHECK(read_exactly(c, 6) == "early\n");
    CHECK((end_of(c.async_read_some(asio::buffer(bytes), as_end)).ec == errc::command_timeout));
    CHECK((end_of(c.async_wait_exit(as_end)).ec == errc::command_timeout));
    CHECK(t.run("echo on").result.out == "on\n");
}

TEST_CASE("eight channels at once on one connection each carry their own bytes", "[ssh][channel]") {
    support::sshd_server server({"RekeyLimit 1M"});
    running_transport t{2};
    REQUIRE_FALSE(t.open(to(server)).error);
    struct one {
        channel c;
        std::string sent;
        std::future<ended<std::string>> got;
        std::future<ended<std::size_t>> written;
    };
    std::vector<one> all;
    for (unsigned i = 0; i < 8; ++i) all.push_back({open_channel(t, "cat"), random_bytes(std::size_t{1} << 20, i), {}, {}});
    for (auto& o : all) {
        o.got = read_all(o.c);
        o.written = asio::async_write(o.c, asio::buffer(o.sent), as_end);
    }
    for (auto& o : all) {
        CHECK(end_of(std::move(o.written)).result == o.sent.size());
        CHECK_FALSE(end_of(o.c.async_send_eof(as_end)));
    }
    for (auto& o : all) {
        CHECK((end_of(std::move(o.got)).result == o.sent));
        CHECK(end_of(o.c.async_wait_exit(as_end)).result.exit_status == 0);
    }
}

TEST_CASE("a channel holds its share of the connection until it has ended, whatever becomes of its object", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto share = std::make_shared<int>(1);
    const std::weak_ptr<int> watch = share;
    auto c = end_of(t.connection.lend(std::exchange(share, nullptr)).async_open("cat", as_end)).result;
    REQUIRE(c);
    CHECK_FALSE(watch.expired());
    SECTION("it goes") {
        c.close();
        CHECK(support::wait_until([&] { return watch.expired(); }));
    }
    SECTION("it ends") {
        CHECK_FALSE(end_of(c.async_send_eof(as_end)));
        CHECK(end_of(c.async_wait_exit(as_end)).result.exit_status == 0);
        CHECK(watch.expired());
    }
}

TEST_CASE("an io_context that goes while coroutines wait on a channel frees them and their channels", "[ssh][channel]") {
    support::sshd_server server;
    const auto gone = std::make_shared<int>(1);
    auto io = std::make_unique<asio::io_context>();
    libssh2_transport connection{io->get_executor()};
    channel survivor;
    bool reading = false;
    const auto wait_for_nothing = [&, gone]() -> asio::awaitable<void> {
        const auto held = gone;
        auto c = co_await connection.async_open("cat", asio::use_awaitable);
        survivor = co_await connection.async_open("cat", asio::use_awaitable);
        std::array<char, 10> bytes{};
        reading = true;
        co_await c.async_read_some(asio::buffer(bytes), asio::use_awaitable);
    };
    connection.open({to(server), 20s * support::slowness, 1, 2s, {}, {}}, [&](open_report r) {
        REQUIRE_FALSE(r.error);
        asio::co_spawn(*io, wait_for_nothing(), asio::detached);
    });
    while (!reading) io->run_one();
    while (io->poll() != 0) continue;  // until the read waits in the channel
    CHECK(gone.use_count() > 2);
    io.reset();
    CHECK(gone.use_count() == 2);
    bool called = false;
    survivor.async_wait_exit([&](std::error_code, command_result) { called = true; });
    survivor.close();
    CHECK_FALSE(called);
}
