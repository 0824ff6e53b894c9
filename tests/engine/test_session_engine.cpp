// The session engine over a plain socket, against a real sshd; and once over memory, where the order of what the server says can be chosen.
#include "engine/engine_in_memory.hpp"
#include "engine/engine_on_socket.hpp"
#include "support/catch.hpp"
#include "support/sshd_server.hpp"

#include <sshpool/error.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using namespace engine_test;
using sshpool::command;
using sshpool::command_fate;
using sshpool::errc;
using stage = sshpool::detail::session_stage;

namespace {

std::string random_bytes(std::size_t size, unsigned seed) {
    std::mt19937_64 random{seed};
    std::string bytes(size, '\0');
    for (auto& b : bytes) b = static_cast<char>(random());
    return bytes;
}

bool all_done(const std::vector<std::shared_ptr<recorded_exec>>& ops) {
    for (const auto& op : ops) {
        if (!op->done) return false;
    }
    return true;
}

void push_and_pull(std::vector<std::string> config, std::size_t bytes) {
    support::sshd_server server(std::move(config));
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    std::vector<std::string> sent;
    std::vector<std::shared_ptr<recorded_exec>> ops;
    for (unsigned i = 0; i < 8; ++i) {
        sent.push_back(random_bytes(bytes, i));
        ops.push_back(s.submit(command{"cat"}.input(sent.back())));
    }
    REQUIRE(s.run_until([&] { return all_done(ops); }, std::chrono::seconds{60}));
    for (std::size_t i = 0; i < ops.size(); ++i) {
        CHECK_FALSE(ops[i]->error());
        CHECK(ops[i]->result().exit_status == 0);
        CHECK((ops[i]->result().out == sent[i]));
    }
    CHECK(s.engine.stage() == stage::ready);
}

}  // namespace

TEST_CASE("a command gives its output, its errors and its exit status") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto op = s.submit("echo out; echo err >&2; exit 7");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK_FALSE(op->error());
    CHECK(op->result().out == "out\n");
    CHECK(op->result().err == "err\n");
    CHECK(op->result().exit_status == 7);
    CHECK(op->result().exit_signal.empty());
}

TEST_CASE("a command that a signal ended has the signal and no status") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto op = s.submit("kill -KILL $$");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK_FALSE(op->error());
    CHECK_FALSE(op->result().exit_status.has_value());
    CHECK(op->result().exit_signal == "KILL");
}

TEST_CASE("an exit status that comes after the end of the output is waited for") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    s.largest_read = 16;  // so that the end of the output and the status never come together
    REQUIRE(s.become_ready());
    const auto op = s.submit("echo early; exec >&- 2>&-; sleep 0.2; exit 3");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK(op->result().out == "early\n");
    CHECK(op->result().exit_status == 3);
}

TEST_CASE("eight channels move three megabytes each way at once and every byte is right") { push_and_pull({}, std::size_t{3} << 20); }

TEST_CASE("eight channels move every byte right while the server renegotiates keys all the time") { push_and_pull({"RekeyLimit 1M"}, std::size_t{3} << 20); }

TEST_CASE("eight commands issued at once on eight opened channels are all answered, in whatever order they are polled") {
    support::sshd_server server({"AcceptEnv SSHPOOL_TEST"});
    for (int round = 0; round < 4; ++round) {
        auto o = options_for(server);
        o.spare_channels = 8;
        engine_on_socket s(std::move(o), server.host(), server.port());
        REQUIRE(s.become_ready());
        REQUIRE(s.run_until([&] { return s.engine.spares() == 8; }));
        std::vector<std::shared_ptr<recorded_exec>> ops;
        for (int i = 0; i < 8; ++i) {
            // Submitted without a turn in between, so that all eight await their replies together; whichever is polled first.
            command what{"echo " + std::to_string(i) + "; exit " + std::to_string(i)};
            // An environment variable is a request before exec: the replies then come in another order than the operations are polled in, and
            // one that read for itself would take its neighbour's for its own (libssh2 issue 671).
            if (round >= 2 && i < 4) what.env("SSHPOOL_TEST", "1");
            auto op = std::make_shared<recorded_exec>(what);
            ops.push_back(op);
            s.engine.submit(op, {}, s.now());
        }
        if (round % 2 == 1) s.largest_read = 1;
        REQUIRE(s.run_until([&] { return all_done(ops); }));
        for (std::size_t i = 0; i < ops.size(); ++i) {
            CHECK(ops[i]->result().out == std::to_string(i) + "\n");
            CHECK(ops[i]->result().exit_status == static_cast<int>(i));
        }
    }
}

TEST_CASE("eight commands on eight opened channels are all answered in every order that replies and channels may have to the polling") {
    // The engine polls operations in the order of their submission, and to libssh2 one channel is as good as another: so it is the order of the replies that
    // is varied, packet by packet among the channels, and where the pieces end in which they arrive.
    namespace msg = support::ssh_message;
    std::mt19937 random{7};
    std::vector<std::size_t> first_answered(8);
    for (int round = 0; round < 300; ++round) {
        std::vector<std::uint32_t> asked;  // by the client's numbers, in the order of the requests
        auto o = engine_in_memory::options();
        o.spare_channels = 8;
        engine_in_memory s(
            [&](support::ssh_server_in_memory& server, std::string_view payload) {
                if (static_cast<std::uint8_t>(payload.front()) == msg::channel_close) return true;
                if (static_cast<std::uint8_t>(payload.front()) != msg::channel_request) return false;
                asked.push_back(server.number_at_client(sshpool::detail::wire_reader{payload.substr(1)}.u32()));
                return true;
            },
            std::move(o));
        REQUIRE(s.become_ready());
        REQUIRE(s.run_until([&] { return s.engine.spares() == 8; }));
        std::vector<std::shared_ptr<recorded_exec>> ops;
        for (int i = 0; i < 8; ++i) ops.push_back(s.submit("command " + std::to_string(i)));
        REQUIRE(s.run_until([&] { return asked.size() == 8; }));
        std::vector<std::deque<std::string>> replies;
        std::vector<std::size_t> turns;
        for (std::size_t i = 0; i < 8; ++i) {
            const auto c = asked[i];
            replies.push_back({support::ssh_packet(msg::channel_success, c), support::ssh_packet(msg::channel_data, c, "output " + std::to_string(i)),
                               support::ssh_packet(msg::channel_eof, c), support::ssh_packet(msg::channel_request, c, "exit-status", false, std::uint32_t(i)),
                               support::ssh_packet(msg::channel_close, c)});
            turns.insert(turns.end(), replies.back().size(), i);
        }
        std::shuffle(turns.begin(), turns.end(), random);
        ++first_answered[turns.front()];
        for (const auto i : turns) {
            s.server.say(replies[i].front());
            replies[i].pop_front();
            if (random() % 3 == 0) s.exchange();
        }
        REQUIRE(s.run_until([&] { return all_done(ops); }));
        for (std::size_t i = 0; i < ops.size(); ++i) {
            CHECK_FALSE(ops[i]->error());
            CHECK(ops[i]->result().out == "output " + std::to_string(i));
            CHECK(ops[i]->result().exit_status == static_cast<int>(i));
        }
    }
    CHECK(std::count(first_answered.begin(), first_answered.end(), 0U) == 0);
}

TEST_CASE("an idle session answers the server's keepalives") {
    support::sshd_server server({"ClientAliveInterval 1", "ClientAliveCountMax 1"});
    auto o = options_for(server);
    SECTION("with a spare channel") { o.spare_channels = 1; }
    SECTION("without any channel") { o.spare_channels = 0; }
    engine_on_socket s(std::move(o), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto until = s.now() + std::chrono::seconds{10};
    REQUIRE(s.run_until([&] { return s.now() >= until || s.engine.stage() == stage::lost; }, std::chrono::seconds{15}));
    CHECK(s.engine.stage() == stage::ready);
    const auto op = s.submit("echo alive");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK(op->result().out == "alive\n");
}

TEST_CASE("a session can be freed at every phase of its life") {
    support::sshd_server server;
    std::uint64_t whole_life = 0;
    const auto live = [&](std::uint64_t bytes) {
        engine_on_socket s(options_for(server), server.host(), server.port());
        s.cut_after = bytes;
        s.largest_read = 97;
        if (s.become_ready()) {
            const auto op = s.submit(command{"cat; exit 4"}.input(std::string(5000, 'x')));
            const auto idle = s.submit("sleep 30");
            s.run_until([&] { return op->done; });
            if (!op->error()) {
                CHECK(op->result().exit_status == 4);
            } else {
                CHECK((op->error().code == errc::connection_lost));
            }
            CHECK((s.engine.stage() == stage::lost || !idle->done));
        } else {
            CHECK(s.engine.stage() == stage::lost);
            CHECK(s.engine.failure().code);
            CHECK_FALSE(s.engine.failure().text.empty());
        }
        whole_life = std::max(whole_life, s.received);
    };
    live(UINT64_MAX);
    REQUIRE(whole_life > 5000);
    const auto step = whole_life / 50;
    for (std::uint64_t bytes = 0; bytes <= whole_life; bytes += step) live(bytes);
}

TEST_CASE("a connection that ends mid-command is never an exit status") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto op = s.submit("echo begun; sleep 30");
    REQUIRE(s.run_until([&] { return server.started_commands() > 0; }));
    server.kill_sessions();
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK((op->error().code == errc::connection_lost));
    CHECK((op->error().code == command_fate::unknown));
    CHECK_FALSE(op->result().exit_status.has_value());
    const auto late = s.submit("true");
    s.settle();
    REQUIRE(late->done);
    CHECK((late->error().code == errc::connection_lost));
    CHECK((late->error().code == command_fate::not_started));
}

TEST_CASE("a timeout answers the caller, leaves its neighbours alone, and frees the channel when the server lets it go") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto slow = s.submit(command{"echo started; sleep 1.5"}.timeout(std::chrono::milliseconds{300}));
    const auto other = s.submit("sleep 0.6; echo fine");
    REQUIRE(s.run_until([&] { return slow->done; }));
    CHECK((slow->error().code == errc::command_timeout));
    CHECK((slow->error().code == command_fate::unknown));
    CHECK(slow->result().out == "started\n");
    CHECK_FALSE(s.engine.is_tainted());
    REQUIRE(s.run_until([&] { return other->done; }));
    CHECK(other->result().out == "fine\n");
    REQUIRE(s.run_until([&] { return s.engine.channels() == 1; }));
    CHECK(s.engine.stage() == stage::ready);
}

TEST_CASE("a channel that stays unconfirmed past the grace period taints the session") {
    support::sshd_server server;
    auto o = options_for(server);
    o.reap_grace = std::chrono::milliseconds{200};
    engine_on_socket s(std::move(o), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto op = s.submit(command{"trap '' TERM; sleep 20"}.timeout(std::chrono::milliseconds{100}));
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK_FALSE(s.engine.is_tainted());
    REQUIRE(s.run_until([&] { return s.engine.is_tainted(); }));
    CHECK(s.engine.take_capacity() == std::size_t{0});
}

TEST_CASE("a cancelled command's channel is never lent before its replies have come") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    for (int i = 0; i < 20; ++i) {
        const auto op = s.submit("echo wrong; sleep 0.3");
        if (i % 2 == 0) s.run_until([&] { return s.engine.channels() > 1; });
        op->cancel(s.engine, s.now());
        s.settle();
        REQUIRE(op->done);
        CHECK((op->error().code == errc::cancelled));
        const auto next = s.submit("echo " + std::to_string(i));
        REQUIRE(s.run_until([&] { return next->done; }));
        CHECK(next->result().out == std::to_string(i) + "\n");
    }
    REQUIRE(s.run_until([&] { return s.engine.channels() == 1; }));
}

TEST_CASE("memory returns to where it was after a thousand commands and a hundred timeouts") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto run_some = [&](int commands) {
        for (int i = 0; i < commands; ++i) {
            const auto op = s.submit(i % 10 == 9 ? command{"sleep 0.02"}.timeout(std::chrono::milliseconds{1}) : command{"true"});
            REQUIRE(s.run_until([&] { return op->done; }));
        }
        REQUIRE(s.run_until([&] { return s.engine.channels() == 1 && s.engine.spares() == 1; }));
    };
    run_some(50);
    const auto before = s.engine.memory_used();
    run_some(1000);
    CHECK(s.engine.memory_used() <= before + 256);
}

TEST_CASE("the server's channel limit is learned, and nothing fails because of it") {
    const auto limit = GENERATE(1, 2, 4, 10);
    support::sshd_server server({"MaxSessions " + std::to_string(limit)});
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    std::vector<std::shared_ptr<recorded_exec>> ops;
    for (int i = 0; i < 16; ++i) ops.push_back(s.submit("until test -e go; do sleep 0.02; done; echo " + std::to_string(i)));
    REQUIRE(s.run_until([&] { return s.engine.learned_limit().has_value(); }));
    support::write_file(server.home() / "go", "");
    REQUIRE(s.run_until([&] { return all_done(ops); }));
    for (std::size_t i = 0; i < ops.size(); ++i) {
        INFO(ops[i]->error().text);
        CHECK_FALSE(ops[i]->error());
        CHECK(ops[i]->result().out == std::to_string(i) + "\n");
    }
    CHECK(s.engine.learned_limit() == static_cast<std::size_t>(limit));
    CHECK(s.engine.take_capacity() == static_cast<std::size_t>(limit > 1 ? limit - 1 : 1));
    REQUIRE(s.run_until([&] { return s.engine.spares() == 1; }));
}

TEST_CASE("a probe is one round trip and leaves the session as it was") {
    support::sshd_server server;
    auto o = options_for(server);
    SECTION("on a spare channel") { o.spare_channels = 1; }
    SECTION("on a channel opened for it") { o.spare_channels = 0; }
    const auto spares = o.spare_channels;
    engine_on_socket s(std::move(o), server.host(), server.port());
    REQUIRE(s.become_ready());
    for (int i = 0; i < 5; ++i) {
        const auto probe = std::make_shared<recorded_probe>();
        s.engine.submit(probe, {}, s.now());
        const auto op = s.submit("echo beside it");
        REQUIRE(s.run_until([&] { return probe->done && op->done; }));
        CHECK(op->result().out == "beside it\n");
        REQUIRE(s.run_until([&] { return s.engine.spares() == spares && s.engine.channels() == spares; }));
    }
}

TEST_CASE("output that nobody takes stops the sender within two windows") {
    support::sshd_server server;
    auto o = options_for(server);
    SECTION("beside a spare channel") { o.spare_channels = 1; }
    SECTION("on the only channel, which all input is sorted with") { o.spare_channels = 0; }
    engine_on_socket s(std::move(o), server.host(), server.port());
    REQUIRE(s.become_ready());
    std::size_t taken = 0;
    const auto flood =
        std::make_shared<recorded_exec>(command{"yes"}.on_output([&](sshpool::output_stream, std::string_view bytes) { taken += bytes.size(); }));
    flood->hold_output = true;
    s.engine.submit(flood, {}, s.now());
    std::uint64_t before = 1;
    REQUIRE(s.run_until([&] {
        const bool still = s.received == before && s.received > 10000;
        before = s.received;
        return still;
    }));
    for (int i = 0; i < 20; ++i) {  // the neighbour's traffic gives the flood nothing
        const auto op = s.submit("echo neighbour");
        REQUIRE(s.run_until([&] { return op->done; }));
    }
    CHECK(s.received < 3 * (std::uint64_t{512} << 10));
    CHECK(s.engine.memory_used() < 3 * (std::size_t{512} << 10));
    CHECK(taken == 0);
    flood->hold_output = false;
    flood->attend();
    s.engine.nudge(s.now());
    REQUIRE(s.run_until([&] { return taken > (std::size_t{4} << 20); }));
}

TEST_CASE("a server that talks without end before the key exchange is cut off at 64 KiB") {
    engine_options o;
    o.key = "nobody@nowhere:22";
    o.user = "nobody";
    std::string chunk;
    SECTION("in lines") {
        while (chunk.size() < 4000) chunk += "another line before the version\r\n";
    }
    SECTION("in one line") { chunk.assign(4000, 'x'); }
    SECTION("in noise") { chunk = random_bytes(4000, 5); }
    session_engine engine(std::move(o));
    const auto now = engine_on_socket::now();
    engine.start(now);
    std::size_t fed = 0;
    while (engine.stage() != stage::lost && fed < (std::size_t{1} << 20)) {
        engine.feed(chunk, now);
        fed += chunk.size();
    }
    CHECK(fed <= session_engine::greeting_allowance + 2 * chunk.size());
    CHECK((engine.failure().code == errc::handshake_failed));
    CHECK(engine.failure().text.size() < 400);
    for (const char c : engine.failure().text) CHECK((c >= ' ' && c <= '~'));
    engine.feed(chunk, now);  // nothing happens any more
    engine.advance(now);
    CHECK(engine.next_due() == engine_time::max());
}
