// A server that always has more to say: how much of it a session takes before others on its thread have their turn.

#include "support/catch.hpp"
#include "support/ssh_server_in_memory.hpp"
#include "support/wait.hpp"

#include <sshpool/detail/ssh_session.hpp>

#include <asio/io_context.hpp>
#include <asio/post.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

using namespace sshpool;
using namespace sshpool::detail;
using namespace std::chrono_literals;

namespace {

/// What the stream and the neighbour count.
struct counts {
    std::size_t reads = 0;
    std::size_t in_a_row = 0;  // without a turn of the neighbour's in between
    std::size_t most_in_a_row = 0;
    std::size_t turns = 0;
};

/// A stream to a server in memory. Every read fills its buffer while the server speaks for ever.
class stream_to_memory final : public byte_stream {
public:
    static constexpr std::size_t too_many = 1'000;  // reads in a row: an error ends what otherwise never would

    stream_to_memory(session_strand strand, support::ssh_server_in_memory& server, counts& c) : strand_(std::move(strand)), server_(server), counts_(c) {}
    void wait_readable(ready_handler done) override {
        reader_ = std::move(done);
        look();
    }
    void wait_writable(ready_handler done) override {
        asio::post(strand_, [done = std::move(done)] { done({}); });
    }
    std::size_t read_some(char* into, std::size_t room, std::error_code& ec) override {
        ++counts_.reads;
        counts_.most_in_a_row = std::max(counts_.most_in_a_row, ++counts_.in_a_row);
        if (counts_.in_a_row > too_many) {
            ec = asio::error::connection_reset;
            return 0;
        }
        server_.say_more(room);
        unread_ += server_.give();
        if (unread_.empty()) ec = asio::error::would_block;
        const auto n = unread_.copy(into, room);
        unread_.erase(0, n);
        return n;
    }
    std::size_t write_some(std::string_view bytes, std::error_code& /*ec*/) override {
        server_.take(bytes);
        look();
        return bytes.size();
    }
    void close() noexcept override { reader_ = nullptr; }

    /// Tells who waits that there is something to read, if there is.
    void look() {
        if (!reader_ || (unread_.empty() && server_.unsent() == 0 && !server_.speaks_for_ever())) return;
        asio::post(strand_, [done = std::exchange(reader_, nullptr)] { done({}); });
    }

private:
    session_strand strand_;
    support::ssh_server_in_memory& server_;
    counts& counts_;
    ready_handler reader_;
    std::string unread_;
};

class connect_to_memory final : public stream_connect {
public:
    connect_to_memory(const session_strand& strand, handler done, std::unique_ptr<byte_stream> stream)
        : strand_(strand), done_(std::move(done)), stream_(std::move(stream)) {}
    void start(const std::string& /*host*/, std::uint16_t /*port*/, clock::time_point /*deadline*/) override {
        asio::post(strand_, [done = std::exchange(done_, nullptr), stream = std::make_shared<std::unique_ptr<byte_stream>>(std::move(stream_))] {
            result r;
            r.stream = std::move(*stream);
            done(std::move(r));
        });
    }
    void cancel() noexcept override { done_ = nullptr; }
    std::string phase() const override { return "memory"; }

private:
    session_strand strand_;
    handler done_;
    std::unique_ptr<byte_stream> stream_;
};

}  // namespace

TEST_CASE("a session gives others on its thread their turn after four reads, however much its server has to say", "[fault]") {
    counts seen;
    support::ssh_server_in_memory server;
    stream_to_memory* stream = nullptr;
    asio::io_context io;
    const auto session = ssh_session::make(io.get_executor());
    ssh_session::open_parts parts{target{"user@memory", credentials::password("secret"), host_key_policy::accept_any()}, 10s, 1, 2s, {}, {}};
    parts.way = [&](const session_strand& strand, stream_connect::handler done) {
        auto made = std::make_unique<stream_to_memory>(strand, server, seen);
        stream = made.get();
        return std::make_shared<connect_to_memory>(strand, std::move(done), std::move(made));
    };
    bool opened = false;
    session->open(std::move(parts), [&](open_report r) {
        CHECK_FALSE(r.error);
        opened = true;
    });
    const auto run_until = [&](const std::function<bool()>& ready) {
        const auto end = std::chrono::steady_clock::now() + 20s * support::slowness;
        while (!ready() && std::chrono::steady_clock::now() < end) {
            if (io.stopped()) io.restart();
            io.run_one_for(100ms);
        }
        return ready();
    };
    REQUIRE(run_until([&] { return opened; }));
    std::function<void()> neighbour = [&] {
        ++seen.turns;
        seen.in_a_row = 0;
        asio::post(io, neighbour);
    };
    neighbour();
    seen = {};
    server.say_for_ever([](support::ssh_server_in_memory& s) { s.say(support::ssh_packet(support::ssh_message::ignore, std::string(4'000, 'x'))); });
    stream->look();
    REQUIRE(run_until([&] { return seen.reads >= 200; }));
    CHECK(seen.most_in_a_row <= 4);
    CHECK(seen.turns >= seen.reads / 4 - 1);
    CHECK(session->is_usable());
    bool closed = false;
    session->close([&] { closed = true; });
    CHECK(run_until([&] { return closed; }));
}
