// How many round trips each operation costs, counted by the clock over a link that is slow beside everything else.
#include <algorithm>
#include <cstdio>
#include <functional>

#include "ssh/channel_on_sshd.hpp"
#include "ssh/pool_on_sshd.hpp"
#include "support/temp_dir.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

constexpr auto round_trip = support::slowness == 1 ? 200ms : 400ms;

struct operation {
    const char* name;
    int round_trips;
    std::function<bool()> succeeds;
};

constexpr double at_most_more = 0.45;

/// Once more when they are too many: what disturbs only adds.
double counted(const operation& what) {
    double fewest = 1e9;
    for (int i = 0; i < 2 && fewest > what.round_trips + at_most_more; ++i) {
        const auto start = std::chrono::steady_clock::now();
        REQUIRE(what.succeeds());
        fewest = std::min(fewest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start) / round_trip);
        std::this_thread::sleep_for(3 * round_trip);  // the spare channel comes back
    }
    return fewest;
}

}  // namespace

TEST_CASE("each operation costs the round trips that it needs", "[ssh][round trips]") {
    support::sshd_server sshd;
    support::delay_proxy proxy{sshd.host(), sshd.port()};
    const auto where = through(sshd, proxy.host(), proxy.port());
    running_transport warm;
    REQUIRE_FALSE(warm.open(where, 60s).error);
    auto& connection = warm.connection;
    pool_params params;
    params.acquire_timeout = params.connect_timeout = 60s;
    running_pool p{params};
    const auto behind = to(sshd).via(where);
    REQUIRE_FALSE(p.run(behind, "true").ec);  // from now on there is a connection to the jump host
    proxy.set_round_trip(round_trip);
    std::this_thread::sleep_for(3 * round_trip);
    const std::string small(1000, 'x');
    const support::temp_dir dir;
    support::write_file(dir / "small", small);
    std::filesystem::create_directory(dir / "ten");
    for (int i = 0; i < 10; ++i) support::write_file(dir / ("ten/" + std::to_string(i)), small);

    const operation all[] = {
        // The proxy answers the TCP handshake itself, which over a real link is one more.
        {"connect, key exchange and login", 6, [&] { return !running_transport{}.open(where, 60s).error; }},
        {"a command", 1, [&] { return !warm.run("true").ec; }},
        {"a health check", 1, [&] { return !warm.probe(60s); }},
        {"the start of a stream", 1, [&] { return !end_of(connection.async_open("true", as_end)).ec; }},
        {"a tunnel", 1, [&] { return !end_of(connection.async_open_tcp(sshd.host(), sshd.port(), as_end)).ec; }},
        {"the pool's first command on a host", 7, [&] { return p.pool.invalidate(where.key()), p.run(where, "true").result.ok(); }},
        {"connect behind a jump host", 7, [&] { return p.pool.invalidate(behind.key()), !p.get(behind).ec; }},
        {"a small file written", 4, [&] { return !end_of(connection.async_write_file("small", small, as_end)); }},
        {"a small file read", 3, [&] { return end_of(connection.async_read_file("small", as_end)).result == small; }},
        {"a small file uploaded", 4, [&] { return !end_of(connection.async_upload(dir / "small", "small", as_end)); }},
        {"a small file downloaded", 3, [&] { return !end_of(connection.async_download("small", dir / "back", as_end)); }},
        {"a directory of ten small files", 5, [&] { return !end_of(connection.async_upload(dir / "ten", "ten", as_end)); }},
    };
    for (const auto& what : all) {
        const auto trips = counted(what);
        std::printf("%-34s %5.2f round trips\n", what.name, trips);
        INFO(what.name);
        CHECK(trips >= what.round_trips - 0.02);
        CHECK(trips <= what.round_trips + at_most_more);
    }
}
