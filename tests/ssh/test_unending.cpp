// Commands that do not end by themselves, a thousand in a row.
#include <asio/bind_cancellation_slot.hpp>

#include "ssh/channel_on_sshd.hpp"
#include "ssh/pool_on_sshd.hpp"
#include "support/self.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// With `cat` at the other end.
void talk_with(channel& neighbour) {
    CHECK(end_of(asio::async_write(neighbour, asio::buffer("ping", 4), as_end)).result == 4);
    CHECK(read_exactly(neighbour, 4) == "ping");
}

}  // namespace

TEST_CASE("a thousand timeouts in a row leak no channel, descriptor or byte, and no neighbour notices", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto neighbour = open_channel(t, "cat");
    talk_with(neighbour);
    const auto processes = server.session_processes();
    std::size_t descriptors = 0;
    std::size_t memory = 0;
    std::size_t late = 0;
    for (int i = 0; i < 1000; ++i) {
        // Never ends by itself; without its channel it gets SIGPIPE. The limit falls before the start, before the reply and into the output.
        const auto end = t.run(command{"while :; do echo x; done"}.timeout(std::chrono::milliseconds{1 + i % 5}));
        if (end.ec != errc::command_timeout || end.result.exit_status) ++late;
        if (i % 50 == 0) talk_with(neighbour);
        if (i == 199) {
            descriptors = support::open_descriptors();
            memory = support::resident_bytes();
        }
    }
    CHECK(late == 0);
    CHECK(support::open_descriptors() == descriptors);
    if (support::slowness == 1) CHECK(support::resident_bytes() < memory + (std::size_t{1} << 20));  // a sanitizer keeps what was freed
    CHECK(support::wait_until([&] { return server.session_processes() <= processes; }));
    CHECK(t.heard->count_lost() == 0);
    // Every slot of the server's ten is free again, but for the neighbour's.
    std::vector<channel> all;
    for (int i = 0; i < 9; ++i) {
        all.push_back(open_channel(t, command{"cat"}.timeout(20s)));
        CHECK(all.back());
    }
    talk_with(neighbour);
}

TEST_CASE("connections that commands without an end fill up are replaced, a thousand commands long, and a neighbour on the first stays", "[ssh][pool]") {
    support::sshd_server server;
    pool_params params;
    params.reap_grace = 20ms;
    params.max_connections_per_host = 3;
    running_pool p{params};
    auto lease = end_of(p.pool.async_get_connection(to(server), as_end)).result;
    auto neighbour = end_of(lease->async_open("cat", as_end)).result;
    talk_with(neighbour);
    std::size_t descriptors = 0;
    std::size_t memory = 0;
    std::size_t late = 0;
    for (int i = 0; i < 250; ++i) {
        std::vector<std::future<running_pool::run_outcome>> four;
        for (int n = 0; n < 4; ++n) four.push_back(p.start(to(server), command{"trap '' TERM; exec sleep 600"}.timeout(20ms * support::slowness)));
        for (auto& one : four) {
            const auto r = running_pool::finish(std::move(one));
            if (r.ec != errc::command_timeout || r.result.exit_status) ++late;
        }
        if (i % 25 == 0) talk_with(neighbour);
        if (i == 74) {
            REQUIRE(support::wait_until([&] { return p.pool.get_stats().pool_size <= 2; }));
            descriptors = support::open_descriptors();
            memory = support::allocated_bytes();
        }
    }
    CHECK(late == 0);
    talk_with(neighbour);
    REQUIRE(support::wait_until([&] { return p.pool.get_stats().pool_size <= 2; }));
    CHECK(support::open_descriptors() <= descriptors + 1);  // a connection that is about to be replaced, or not
    CHECK(support::allocated_bytes() <= memory + (std::size_t{256} << 10U));
    const auto s = p.pool.get_stats();
    CHECK(s.connections_created >= 100);                                               // ten channels each
    CHECK(s.connections_created == s.connections_closed.total() + s.in_use + s.idle);  // one that is closing is in pool_size still
    neighbour.close();
    lease.release();
}

TEST_CASE("a command that ran out of time is asked to end where libssh2 can signal, and its connection then stays, or else is replaced", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server), 10s, 1, 500ms).error);
    // Its output is closed right after the signal: a shell that has something to say of its child's end then dies of SIGPIPE.
    const auto slow =
        t.run(command{"trap '' PIPE; trap 'echo >told; exit' TERM; touch begun; while :; do sleep 0.02; done"}.timeout(300ms * support::slowness));
    CHECK((slow.ec == errc::command_timeout));
    CHECK((slow.ec == command_fate::unknown));
    REQUIRE(std::filesystem::exists(server.home() / "begun"));
    const auto told = [&] { return std::filesystem::exists(server.home() / "told"); };
    if (channel::can_signal) {
        CHECK(support::wait_until(told));
        std::this_thread::sleep_for(600ms);
        CHECK(t.heard->last_capacity() != 0);
    } else {
        CHECK(support::wait_until([&] { return t.heard->last_capacity() == 0; }));
        CHECK_FALSE(told());
    }
    CHECK(t.run("echo still").result.out == "still\n");
}

TEST_CASE("a thousand channels that are left in the middle leak nothing either", "[ssh][channel]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    std::size_t descriptors = 0;
    std::size_t memory = 0;
    for (int i = 0; i < 1000; ++i) {
        asio::cancellation_signal stop;
        auto opening = t.connection.async_open("cat", asio::bind_cancellation_slot(stop.slot(), as_end));
        if (i % 3 == 0) {
            auto stopped = asio::post(t.io, asio::use_future([&] { stop.emit(asio::cancellation_type::total); }));
            end_of(std::move(opening));  // whichever came first
            end_of(std::move(stopped));
        } else {
            auto c = end_of(std::move(opening)).result;
            REQUIRE(c);
            std::string bytes(1000, 'x');
            auto written = c.async_write_some(asio::buffer(bytes), as_end);
            end_of(std::move(written));
        }
        if (i == 199) {
            descriptors = support::open_descriptors();
            memory = support::resident_bytes();
        }
    }
    CHECK(support::open_descriptors() == descriptors);
    if (support::slowness == 1) CHECK(support::resident_bytes() < memory + (std::size_t{1} << 20));  // a sanitizer keeps what was freed
    CHECK(support::wait_until([&] { return server.session_processes() <= 2; }));
    CHECK(t.heard->count_lost() == 0);
    CHECK(t.run("echo on").result.out == "on\n");
}
