// A server that misbehaves on purpose behind the login: what it may make this end keep, send, compute and wait for.

#include "engine/engine_in_memory.hpp"
#include "support/catch.hpp"
#include "support/sanitizers.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace engine_test;
using namespace std::chrono_literals;
using sshpool::command;
using sshpool::command_fate;
using sshpool::errc;
using sshpool::detail::memory_session;
using support::ssh_packet;
using support::ssh_server_in_memory;
namespace msg = support::ssh_message;

namespace {

/// What the server does when it is asked to run a command. `channel`: the client's number. True: nothing else, not even the reply.
using deed = std::function<bool(ssh_server_in_memory&, std::uint32_t channel)>;

ssh_server_in_memory::scenario when_asked_to_run(deed act) {
    return [act = std::move(act)](ssh_server_in_memory& server, std::string_view payload) {
        if (payload.front() != msg::channel_request) return false;
        sshpool::detail::wire_reader fields{payload.substr(1)};
        const auto ours = fields.u32();
        return fields.string() == "exec" && act(server, server.number_at_client(ours));
    };
}
/// Answers the request, then says this without end.
ssh_server_in_memory::scenario endlessly(std::function<std::string(std::uint32_t channel)> packet) {
    return when_asked_to_run([packet = std::move(packet)](ssh_server_in_memory& server, std::uint32_t channel) {
        server.say(ssh_packet(msg::channel_success, channel));
        server.say_for_ever([text = packet(channel)](ssh_server_in_memory& s) { s.say(text); });
        return true;
    });
}
/// The most that libssh2 may keep for a session with so many channels.
std::size_t memory_bound(std::size_t channels) { return memory_session::base_memory + 2 * std::size_t{engine_options{}.window} * channels; }

void never_told_a_status(const recorded_exec& op) {
    REQUIRE(op.done);
    CHECK(op.error());
    CHECK_FALSE(op.result().exit_status);
    CHECK(op.error().text.size() < 500);
    for (const char c : op.error().text) CHECK((c >= ' ' && c <= '~'));
}

}  // namespace

TEST_CASE("the server of these tests is honest unless it is told otherwise", "[fault]") {
    engine_in_memory m;
    REQUIRE(m.become_ready());
    CHECK(m.run("one")->result().out == "one\n");
    m.server.begin_rekey();
    CHECK(m.run("two")->result().out == "two\n");
    CHECK(m.run(command{"three"}.input(std::string(300'000, 'x')))->result().exit_status == 0);
    CHECK(m.server.exchanges() == 2);
    CHECK_FALSE(m.server.has_broken_input());
    m.engine.say_goodbye();
    m.exchange();
    CHECK(m.server.said_goodbye());
}

TEST_CASE("what nobody asked for is kept up to the session's bound, and ends it there", "[fault]") {
    struct unasked {
        const char* name;
        std::function<std::string(std::uint32_t)> packet;
    };
    const auto what = GENERATE(values<unasked>({
        {"replies to requests that nobody made", [](std::uint32_t channel) { return ssh_packet(msg::channel_success, channel); }},
        {"refusals for a channel that does not exist", [](std::uint32_t) { return ssh_packet(msg::channel_failure, 4711); }},
        {"answers to global requests", [](std::uint32_t) { return ssh_packet(msg::request_success, std::string(20'000, 'x')); }},
        {"confirmations of channels that nobody opened", [](std::uint32_t) { return ssh_packet(msg::channel_open_confirmation, 7, 7, 1 << 20, 32768); }},
        {"service requests", [](std::uint32_t) { return ssh_packet(msg::service_accept, "ssh-userauth"); }},
        {"successful logins", [](std::uint32_t) { return ssh_packet(msg::userauth_success); }},
        {"output of a kind that does not exist", [](std::uint32_t channel) { return ssh_packet(msg::channel_extended_data, channel, 7, "x"); }},
    }));
    INFO(what.name);
    engine_in_memory m{endlessly(what.packet)};
    REQUIRE(m.become_ready());
    const auto op = m.run("flood");
    never_told_a_status(*op);
    CHECK(op->error().code == errc::protocol_error);
    CHECK(op->error().code == command_fate::unknown);
    CHECK(m.most_memory <= memory_bound(2));
    CHECK(m.server.said() <= memory_session::most_blocks / 2 + 2 * engine_in_memory::most_at_once / 48);  // 48: the shortest packet
    CHECK(m.engine.memory_used() == 0);
}

TEST_CASE("an exit signal whose name would be as large as the server says is not given that memory", "[fault]") {
    engine_in_memory m{when_asked_to_run([](ssh_server_in_memory& server, std::uint32_t channel) {
        server.say(ssh_packet(msg::channel_success, channel));
        auto lie = ssh_packet(msg::channel_request, channel, "exit-signal", false);
        sshpool::detail::append_u32(lie, std::size_t{1} << 30U);
        server.say(lie + "TERM");
        return true;
    })};
    REQUIRE(m.become_ready());
    const auto op = m.run(command{"die"}.timeout(1s));
    never_told_a_status(*op);
    CHECK(m.most_memory <= memory_bound(2));
}

TEST_CASE("a packet larger than any may be ends the session", "[fault]") {
    const std::size_t size = GENERATE(std::size_t{41'000}, std::size_t{200'000});
    engine_in_memory m{endlessly([&](std::uint32_t channel) { return ssh_packet(msg::channel_data, channel, std::string(size, 'x')); })};
    REQUIRE(m.become_ready());
    const auto op = m.run("flood");
    never_told_a_status(*op);
    CHECK(op->error().code == errc::protocol_error);
    CHECK(m.most_memory <= memory_bound(2));
}

TEST_CASE("output past the window is not kept, whether in large pieces or in single bytes", "[fault]") {
    const std::size_t piece = GENERATE(std::size_t{1}, std::size_t{30'000});
    auto options = engine_in_memory::options();
    options.window = 64U << 10U;
    engine_in_memory m{endlessly([&](std::uint32_t channel) { return ssh_packet(msg::channel_data, channel, std::string(piece, 'x')); }), options};
    REQUIRE(m.become_ready());
    std::size_t taken = 0;
    const auto op = std::make_shared<recorded_exec>(command{"flood"}.on_output([&](sshpool::output_stream, std::string_view bytes) { taken += bytes.size(); }));
    op->hold_output = true;  // as an on_output that does not return
    m.engine.submit(op, {}, m.now);
    CHECK_FALSE(m.run_until([&] { return op->done; }, std::size_t{12} << 20));  // a single byte travels in 64
    CHECK(m.most_memory < std::size_t{512} << 10);
    op->hold_output = false;
    op->attend();
    CHECK(taken <= options.window);
    CHECK(taken > 0);
}

#ifndef SSHPOOL_TESTED_BY_ADDRESS_SANITIZER  // there it takes minutes, and the session ends at another of its bounds
TEST_CASE("a server that asks and does not read the answers is cut off at eight megabytes", "[fault]") {
    const bool keepalives = GENERATE(true, false);
    engine_in_memory m{when_asked_to_run([=](ssh_server_in_memory& server, std::uint32_t channel) {
        server.stop_reading();
        const auto question = keepalives ? ssh_packet(msg::global_request, "keepalive@openssh.com", true)
                                         : ssh_packet(msg::channel_request, channel, "keepalive@openssh.com", true);
        server.say_for_ever([question](ssh_server_in_memory& s) { s.say(question); });
        return true;
    })};
    REQUIRE(m.become_ready());
    const auto op = m.run("ask");
    never_told_a_status(*op);
    CHECK(op->error().code == errc::protocol_error);
    CHECK(op->error().text.find("asks for more answers than it reads") != std::string::npos);
    CHECK(m.most_unsent >= session_engine::most_unsent - engine_in_memory::most_at_once);
    CHECK(m.most_unsent <= session_engine::most_unsent + engine_in_memory::most_at_once);
}
#endif

TEST_CASE("packets without meaning delay a session and are not kept", "[fault]") {
    const auto packet =
        GENERATE(ssh_packet(msg::ignore, "noise"), ssh_packet(msg::debug, true, "noise", ""), ssh_packet(msg::debug, false, std::string(20'000, 'x'), "en"),
                 ssh_packet(msg::channel_window_adjust, 4711, 1 << 20), ssh_packet(msg::channel_data, 4711, "output of nobody's"),
                 ssh_packet(msg::channel_eof, 4711), ssh_packet(msg::channel_close, 4711), ssh_packet(msg::channel_request, 4711, "exit-status", true, 3));
    engine_in_memory m;
    REQUIRE(m.become_ready());
    m.server.say_for_ever([&](ssh_server_in_memory& s) { s.say(packet); });
    for (int i = 0; i < 4; ++i) {
        const auto op = m.run(std::to_string(i));
        INFO(static_cast<int>(packet.front()) << ": " << op->error().text);
        CHECK(op->result().out == std::to_string(i) + "\n");
        CHECK(op->result().exit_status == 0);
        m.run_until([] { return false; }, std::size_t{512} << 10);
    }
    CHECK(m.most_memory < std::size_t{512} << 10);
}

TEST_CASE("packets of a type that does not exist end the session", "[fault]") {
    const std::uint8_t type = GENERATE(std::uint8_t{0}, std::uint8_t{3}, std::uint8_t{79}, std::uint8_t{101}, std::uint8_t{255});
    const bool behind_the_end = GENERATE(false, true);  // of the only channel: libssh2 is then made to read in another way
    auto options = engine_in_memory::options();
    options.spare_channels = behind_the_end ? 0 : 1;
    engine_in_memory m{when_asked_to_run([=](ssh_server_in_memory& server, std::uint32_t channel) {
                           server.say(ssh_packet(msg::channel_success, channel));
                           if (behind_the_end) server.say(ssh_packet(msg::channel_eof, channel));
                           server.say_for_ever([=](ssh_server_in_memory& s) { s.say(ssh_packet(type, "what is this")); });
                           return true;
                       }),
                       options};
    REQUIRE(m.become_ready());
    const auto op = m.submit("flood");
    m.run_until([&] { return op->done; }, std::size_t{4} << 20);
    INFO(static_cast<int>(type) << ": " << op->error().text);
    never_told_a_status(*op);
    CHECK(op->error().code == errc::protocol_error);
    CHECK(m.most_memory <= memory_bound(2));
}

// libssh2 takes 16 KiB of the stream at once: what it leaves there is gone from the session's own input.
TEST_CASE("a few packets without a type hide neither a command's end nor the stream's", "[fault]") {
    const int packets = GENERATE(3, 10, 100);
    auto options = engine_in_memory::options();
    options.spare_channels = 0;
    engine_in_memory m{when_asked_to_run([=](ssh_server_in_memory& server, std::uint32_t channel) {
                           server.say(ssh_packet(msg::channel_success, channel));
                           server.say(ssh_packet(msg::channel_eof, channel));
                           for (int i = 0; i < packets; ++i) server.say("");
                           return true;
                       }),
                       options};
    REQUIRE(m.become_ready());
    const auto op = m.submit("flood");
    m.run_until([&] { return m.is_lost(); }, std::size_t{1} << 20);
    m.engine.end_of_input(m.now);
    CHECK(m.is_lost());
    CHECK(op->done);
    never_told_a_status(*op);
}

TEST_CASE("a server that opens channels towards us gets none, and cannot make us keep its requests", "[fault]") {
    const auto kind = GENERATE("forwarded-tcpip", "x11", "auth-agent@openssh.com", "session", "tun@openssh.com");
    std::size_t confirmed = 0;
    engine_in_memory m{[&](ssh_server_in_memory&, std::string_view payload) {
        confirmed += payload.front() == msg::channel_open_confirmation ? 1 : 0;
        return payload.front() == msg::channel_open_confirmation || payload.front() == msg::channel_open_failure;
    }};
    REQUIRE(m.become_ready());
    m.server.say_for_ever([=](ssh_server_in_memory& s) { s.say(ssh_packet(msg::channel_open, kind, 1, 1 << 20, 32768, "127.0.0.1", 80, "127.0.0.1", 1234)); });
    m.run_until([&] { return m.is_lost(); }, std::size_t{3} << 20);
    INFO(kind << ": " << m.engine.failure().text);
    CHECK(confirmed == 0);
    CHECK(m.most_memory < std::size_t{512} << 10);
    CHECK(m.run("beside")->result().out == "beside\n");
}

TEST_CASE("an end that is told twice ends a command once, and its neighbours go on", "[fault]") {
    struct ending {
        const char* name;
        std::vector<std::string> (*packets)(std::uint32_t);
        int status;  // -1: the command ends by its timeout alone; -2: by a signal
    };
    static const auto status = [](std::uint32_t channel, int value) { return ssh_packet(msg::channel_request, channel, "exit-status", false, value); };
    static const auto eof = [](std::uint32_t channel) { return ssh_packet(msg::channel_eof, channel); };
    static const auto close = [](std::uint32_t channel) { return ssh_packet(msg::channel_close, channel); };
    static const auto data = [](std::uint32_t channel) { return ssh_packet(msg::channel_data, channel, "late"); };
    const auto how = GENERATE(values<ending>({
        {"EOF twice",
         [](std::uint32_t c) {
             return std::vector{eof(c), eof(c), status(c, 7), close(c)};
         },
         7},
        {"close twice",
         [](std::uint32_t c) {
             return std::vector{eof(c), status(c, 7), close(c), close(c)};
         },
         7},
        {"close without EOF",
         [](std::uint32_t c) {
             return std::vector{status(c, 7), close(c)};
         },
         7},
        {"the status twice",
         [](std::uint32_t c) {
             return std::vector{status(c, 3), eof(c), status(c, 7), close(c)};
         },
         7},
        {"output after EOF",
         [](std::uint32_t c) {
             return std::vector{eof(c), data(c), eof(c), status(c, 7), close(c)};
         },
         7},
        // libssh2 forgets the end when output follows, and there is no other that it would learn of.
        {"output after the close",
         [](std::uint32_t c) {
             return std::vector{status(c, 7), eof(c), close(c), data(c)};
         },
         -1},
        {"a signal and a status",
         [](std::uint32_t c) {
             return std::vector{status(c, 7), ssh_packet(msg::channel_request, c, "exit-signal", false, "KILL", false, "", ""), eof(c), close(c)};
         },
         -2},
    }));
    INFO(how.name);
    bool asked = false;
    engine_in_memory m{when_asked_to_run([&](ssh_server_in_memory& server, std::uint32_t channel) {
        if (std::exchange(asked, true)) return false;
        server.say(ssh_packet(msg::channel_success, channel));
        for (const auto& packet : how.packets(channel)) server.say(packet);
        return true;
    })};
    REQUIRE(m.become_ready());
    const auto op = m.submit(command{"end"}.timeout(20s));
    const auto beside = m.submit("beside");
    REQUIRE(m.run_until([&] { return op->done && beside->done; }));
    CHECK(beside->result().out == "beside\n");
    INFO(op->error().text);
    CHECK((op->error().code == errc::command_timeout) == (how.status == -1));
    if (how.status >= 0) CHECK(op->result().exit_status.value_or(-1) == how.status);
    if (how.status == -2) CHECK((op->result().exit_signal == "KILL" && !op->result().exit_status));
    CHECK(m.run("and on")->result().out == "and on\n");
    CHECK_FALSE(m.engine.is_tainted());
}

TEST_CASE("a window that overflows neither stops the session nor lets more be kept than otherwise", "[fault]") {
    engine_in_memory m{[](ssh_server_in_memory& server, std::string_view payload) {
        if (payload.front() != msg::channel_data) return false;
        sshpool::detail::wire_reader fields{payload.substr(1)};
        const auto channel = server.number_at_client(fields.u32());
        for (int i = 0; i < 3; ++i) server.say(ssh_packet(msg::channel_window_adjust, channel, 0xffff'fff0U));
        return true;
    }};
    REQUIRE(m.become_ready());
    const auto op = m.run(command{"read it"}.input(std::string(std::size_t{8} << 20, 'x')).timeout(20s));
    REQUIRE(op->done);
    INFO(op->error().text);
    CHECK((!op->error() || op->error().code == errc::command_timeout));
    CHECK(m.most_unsent <= session_engine::high_water + (std::size_t{64} << 10));
    CHECK(m.run("and on")->result().out == "and on\n");
}

TEST_CASE("what waits behind commands that do not end, and hold all channels there are, is turned away and was not started", "[fault]") {
    std::size_t channels = 0;
    engine_in_memory m{[&](ssh_server_in_memory& server, std::string_view payload) {
        sshpool::detail::wire_reader fields{payload.substr(1)};
        if (payload.front() == msg::channel_open) {
            fields.string();
            if (++channels == 1) return false;
            server.say(ssh_packet(msg::channel_open_failure, fields.u32(), std::uint32_t{4}, "no more sessions", ""));
            return true;
        }
        const auto channel = server.number_at_client(fields.u32());
        if (payload.front() == msg::channel_close) return true;  // the command goes on
        if (payload.find("sleep") == std::string_view::npos) return false;
        server.say(ssh_packet(msg::channel_success, channel));
        return true;
    }};
    REQUIRE(m.become_ready());
    const auto endless = m.submit(command{"sleep 100000"}.timeout(1s));
    const auto behind = m.submit("echo");
    REQUIRE(m.run_until([&] { return endless->done; }));
    CHECK(endless->error().code == errc::command_timeout);
    const bool answered = m.run_until([&] { return behind->done; });
    REQUIRE(answered);
    CHECK(behind->error().code == errc::connection_lost);
    CHECK(behind->error().code == command_fate::not_started);
    CHECK_FALSE(m.is_lost());
    CHECK(m.engine.is_tainted());
}

// libssh2 1.10 believes it, and copies from behind the packet: AddressSanitizer sees whether that is somebody else's.
TEST_CASE("a question that says it is longer than its packet ends no more than the login", "[fault]") {
    const std::uint32_t said = GENERATE(std::uint32_t{1'000}, std::uint32_t{120'000}, std::uint32_t{131'000}, std::uint32_t{1} << 30U);
    constexpr std::uint8_t info_request = 60;  // RFC 4256 section 5
    bool asked = false;
    engine_in_memory m{[&](ssh_server_in_memory& server, std::string_view payload) {
        if (payload.front() != msg::userauth_request) return false;
        sshpool::detail::wire_reader fields{payload.substr(1)};
        fields.string();  // the user
        fields.string();  // the service
        if (fields.string() != "keyboard-interactive") {
            server.say(ssh_packet(msg::userauth_failure, "keyboard-interactive", false));
            return true;
        }
        std::string question(1, static_cast<char>(info_request));
        sshpool::detail::append_u32(question, said);
        server.say(question + std::string(40, '\0'));
        asked = true;
        return true;
    }};
    CHECK_FALSE(m.become_ready());
    CHECK(asked);
    m.engine.end_of_input(m.now);
    CHECK(m.is_lost());
    CHECK(m.engine.memory_used() == 0);
}

TEST_CASE("input is sent to its end by itself to a server whose window is never in the way", "[fault]") {
    std::size_t came = 0;
    bool ended = false;
    engine_in_memory m{[&](ssh_server_in_memory& server, std::string_view payload) {
        sshpool::detail::wire_reader fields{payload.substr(1)};
        if (payload.front() == msg::channel_open) {
            fields.string();
            server.confirm_open(fields.u32(), std::uint32_t{1} << 30U);
            return true;
        }
        const auto channel = server.number_at_client(fields.u32());
        if (payload.front() == msg::channel_data) {
            came += fields.string().size();
            return true;  // and says nothing of it
        }
        ended = ended || payload.front() == msg::channel_eof;
        if (payload.find("swallow") == std::string_view::npos) return false;
        server.say(ssh_packet(msg::channel_success, channel));
        return true;
    }};
    REQUIRE(m.become_ready());
    constexpr std::size_t size = std::size_t{4} << 20U;
    const auto op = m.submit(command{"swallow"}.input(std::string(size, 'i')));
    m.run_until([&] { return ended; });
    CHECK(came == size);
    CHECK(ended);
    CHECK(m.most_unsent < std::size_t{1} << 20U);
}

TEST_CASE("a server that never gives a window costs a command its timeout, and its neighbours nothing", "[fault]") {
    engine_in_memory m{[](ssh_server_in_memory& server, std::string_view payload) {
        sshpool::detail::wire_reader fields{payload.substr(1)};
        if (payload.front() == msg::channel_open) {
            fields.string();
            server.confirm_open(fields.u32(), 0);
            return true;
        }
        if (payload.find("wait for input") == std::string_view::npos) return false;
        server.say(ssh_packet(msg::channel_success, server.number_at_client(fields.u32())));
        return true;
    }};
    REQUIRE(m.become_ready());
    const auto op = m.submit(command{"wait for input"}.input("never sent").timeout(10s));
    const auto before = m.now;
    CHECK(m.run("beside")->result().out == "beside\n");
    CHECK_FALSE(op->done);
    REQUIRE(m.run_until([&] { return op->done; }));
    CHECK(op->error().code == errc::command_timeout);
    CHECK(op->error().code == command_fate::unknown);
    CHECK(m.now - before == 10s);
    CHECK(m.run("and on")->result().out == "and on\n");
}

TEST_CASE("a server that answers a request never is given up after thirty seconds", "[fault]") {
    const auto request = GENERATE(msg::channel_open, msg::channel_request);
    bool silent = false;
    engine_in_memory m{[&](ssh_server_in_memory&, std::string_view payload) { return silent && payload.front() == request; }};
    REQUIRE(m.become_ready());
    silent = true;
    const auto before = m.now;
    const auto first = m.submit("first"), second = m.submit("second");
    REQUIRE(m.run_until([&] { return first->done && second->done; }));
    CHECK(m.now - before <= session_engine::reply_limit);
    CHECK(m.is_lost());
    CHECK(m.engine.failure().code == errc::protocol_error);
    CHECK(m.engine.failure().text.find("within 30 seconds") != std::string::npos);
}

TEST_CASE("a server that talks without end during the login is cut off at 256 KiB", "[fault]") {
    const auto packet = GENERATE(ssh_packet(msg::userauth_banner, std::string(20'000, 'x'), "en"), ssh_packet(msg::ignore, "noise"),
                                 ssh_packet(msg::userauth_banner, "no", ""), ssh_packet(msg::channel_success, 1));
    engine_in_memory m{[&](ssh_server_in_memory& server, std::string_view payload) {
        if (payload.front() != msg::userauth_request) return false;
        server.say_for_ever([&](ssh_server_in_memory& s) { s.say(packet); });
        return true;
    }};
    CHECK_FALSE(m.become_ready());
    REQUIRE(m.is_lost());
    INFO(m.engine.failure().text);
    CHECK(m.engine.failure().code == errc::protocol_error);
    CHECK(m.engine.failure().phase == "login");
    CHECK(m.fed <= session_engine::greeting_allowance + session_engine::login_allowance + 2 * engine_in_memory::most_at_once);
    CHECK(m.most_memory < std::size_t{2} << 20);
}

TEST_CASE("a server that talks while its host key is looked up is cut off at 256 KiB", "[fault]") {
    engine_in_memory m;
    m.host_key_is_looked_up = true;
    m.run_until([&] { return m.engine.stage() == session_stage::host_key; });
    REQUIRE(m.engine.stage() == session_stage::host_key);
    std::size_t said = 0;
    for (; !m.is_lost() && said < (std::size_t{4} << 20); said += 10'000) m.engine.feed(std::string(10'000, 'x'), m.now);
    REQUIRE(m.is_lost());
    CHECK(said <= session_engine::login_allowance + 10'000);
    CHECK(m.engine.failure().code == errc::protocol_error);
    CHECK(m.engine.failure().text == "user@memory:22 sent more than 256 KiB before it was answered");
}

TEST_CASE("a server that exchanges keys without end is answered, and commands are carried in between", "[fault]") {
    engine_in_memory m;
    REQUIRE(m.become_ready());
    const auto before = m.engine.memory_used();
    m.server.say_for_ever([](ssh_server_in_memory& s) { s.begin_rekey(); });
    for (int i = 0; i < 20; ++i) CHECK(m.run("on")->result().out == "on\n");
    m.run_until([&] { return m.server.exchanges() >= 200; });
    CHECK(m.server.exchanges() >= 200);
    CHECK(m.engine.memory_used() <= before + m.server.exchanges() * 512);
    CHECK_FALSE(m.server.has_broken_input());
}

TEST_CASE("a version line of any length is cut off at 64 KiB and told of in a few words", "[fault]") {
    const bool with_lines_before = GENERATE(false, true);
    session_engine engine{engine_in_memory::options()};
    const engine_time now{1h};
    engine.start(now);
    if (with_lines_before) engine.feed("Welcome.\r\nThis is a host.\r\n", now);
    engine.feed("SSH-2.0-", now);
    std::size_t fed = 0;
    for (const std::string more(4'000, 'x'); engine.stage() != session_stage::lost && fed < (std::size_t{1} << 20); fed += more.size()) engine.feed(more, now);
    CHECK(fed <= session_engine::greeting_allowance + 8'000);
    CHECK(engine.failure().code == errc::handshake_failed);
    CHECK(engine.failure().text.size() < 400);
    CHECK(engine.memory_used() == 0);
}
