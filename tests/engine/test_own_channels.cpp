// Channels of another kind than "session", which an operation opens for itself, against a real sshd.
#include "engine/engine_on_socket.hpp"
#include "support/catch.hpp"
#include "support/loopback_listener.hpp"
#include "support/sshd_server.hpp"

#include <sshpool/detail/channel_op.hpp>
#include <sshpool/detail/direct_tcpip.hpp>
#include <sshpool/error.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

using namespace engine_test;
using sshpool::errc;
using sshpool::error_info;
using sshpool::detail::own_channel;
using stage = sshpool::detail::session_stage;

namespace {

/// Sends a request through a tunnel, then EOF, and collects the answer.
class recorded_tunnel : public sshpool::detail::channel_op {
public:
    recorded_tunnel(const std::string& host, std::uint16_t port, std::string request)
        : channel_op({}), own_(sshpool::detail::direct_tcpip(host, port)), request_(std::move(request)) {}
    const own_channel* wants() const noexcept override { return &own_; }
    void attend() override { done = is_answered(); }
    const error_info& error() const { return error_; }
    bool done = false;
    bool open = false;
    bool hold = false;  // neither sends nor reads
    std::string answer;

private:
    void work(sshpool::detail::session_engine& engine, engine_time now) override {
        open = true;
        if (hold) return;
        sent_ += write(engine, std::string_view{request_}.substr(sent_));
        if (sent_ == request_.size() && !eof_) eof_ = send_eof(engine);
        std::array<char, 4096> buffer{};
        for (;;) {
            const auto n = read(engine, sshpool::output_stream::out, buffer.data(), buffer.size());
            if (!n) return;
            if (*n == 0) break;
            answer.append(buffer.data(), *n);
            done_with(*n);
        }
        engine.answer(*this, now);
    }

    own_channel own_;
    std::string request_;
    std::size_t sent_ = 0;
    bool eof_ = false;
};

/// The banner of a server's own port is what a tunnel finds there.
std::shared_ptr<recorded_tunnel> to_banner(const support::sshd_server& server) {
    return std::make_shared<recorded_tunnel>(server.host(), server.port(), "SSH-2.0-none\r\n");
}

}  // namespace

TEST_CASE("a tunnel carries bytes, beside commands and where there is no other channel") {
    support::sshd_server server;
    auto o = options_for(server);
    SECTION("beside a spare channel") { o.spare_channels = 1; }
    SECTION("as the session's only channel") { o.spare_channels = 0; }
    const auto spares = o.spare_channels;
    engine_on_socket s(std::move(o), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto tunnel = to_banner(server);
    s.engine.submit(tunnel, {}, s.now());
    REQUIRE(s.run_until([&] { return tunnel->done; }));
    CHECK_FALSE(tunnel->error());
    CHECK(tunnel->answer.starts_with("SSH-2.0-OpenSSH"));
    const auto op = s.submit("echo beside");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK(op->result().out == "beside\n");
    REQUIRE(s.run_until([&] { return s.engine.own_channels() == 0 && s.engine.channels() == spares; }));
    CHECK_FALSE(s.engine.is_tainted());
}

TEST_CASE("tunnels are none of the sessions that a server limits, and their refusals teach no limit") {
    support::sshd_server server({"MaxSessions 1"});
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    std::vector<std::shared_ptr<recorded_tunnel>> tunnels;
    for (int i = 0; i < 4; ++i) {
        tunnels.push_back(to_banner(server));
        tunnels.back()->hold = true;
        s.engine.submit(tunnels.back(), {}, s.now());
    }
    REQUIRE(s.run_until([&] {
        for (const auto& t : tunnels) {
            if (!t->open) return false;
        }
        return true;
    }));
    CHECK(s.engine.own_channels() == 4);
    CHECK(s.engine.learned_limit().value_or(1) == 1);
    const auto nowhere = std::make_shared<recorded_tunnel>("127.0.0.1", support::free_port(), "");
    s.engine.submit(nowhere, {}, s.now());
    REQUIRE(s.run_until([&] { return nowhere->done; }));
    CHECK(nowhere->error() == errc::connect_failed);
    CHECK(nowhere->error() == sshpool::command_fate::not_started);
    CHECK(nowhere->error().phase == "channel");
    CHECK(nowhere->error().text.find("could not open a connection to 127.0.0.1:") != std::string::npos);
    for (const auto& t : tunnels) t->hold = false;
    s.engine.nudge(s.now());
    REQUIRE(s.run_until([&] {
        for (const auto& t : tunnels) {
            if (!t->done) return false;
        }
        return true;
    }));
    const auto op = s.submit("echo after");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK(op->result().out == "after\n");
}

TEST_CASE("a server that forbids tunnels refuses one in words, and goes on with commands") {
    support::sshd_server server({"AllowTcpForwarding no"});
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto tunnel = to_banner(server);
    s.engine.submit(tunnel, {}, s.now());
    REQUIRE(s.run_until([&] { return tunnel->done; }));
    CHECK(tunnel->error() == errc::channel_refused);
    CHECK(tunnel->error().text.find("administratively prohibited") != std::string::npos);
    CHECK_FALSE(s.engine.learned_limit().has_value());
    const auto op = s.submit("echo on");
    REQUIRE(s.run_until([&] { return op->done; }));
    CHECK(op->result().out == "on\n");
}

TEST_CASE("a tunnel that was cancelled while it opened is closed as soon as it is there") {
    support::sshd_server server;
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto tunnel = to_banner(server);
    s.engine.submit(tunnel, {}, s.now());
    tunnel->cancel(s.engine, s.now());
    s.settle();
    REQUIRE(tunnel->done);
    CHECK(tunnel->error() == errc::cancelled);
    CHECK_FALSE(tunnel->open);
    const auto op = s.submit("true");
    REQUIRE(s.run_until([&] { return op->done && s.engine.own_channels() == 0; }));
    CHECK(s.engine.stage() == stage::ready);
}

TEST_CASE("a place that never answers costs what it was asked for, and nothing that runs beside it") {
    support::sshd_server server;
    support::loopback_listener silent("a place that never answers");
    silent.drop(true);
    engine_on_socket s(options_for(server), server.host(), server.port());
    REQUIRE(s.become_ready());
    const auto running = s.submit("read line; echo \"$line\"; until test -e go; do sleep 0.02; done; echo done");
    REQUIRE(s.run_until([&] { return s.engine.spares() == 1 && s.engine.channels() == 2; }));
    const auto tunnel = std::make_shared<recorded_tunnel>("127.0.0.1", silent.port(), "");
    s.engine.submit(tunnel, {}, s.now());
    const auto on_the_spare = s.submit("echo on the spare");
    const auto waits = s.submit("echo too late");
    REQUIRE(s.run_until([&] { return on_the_spare->done; }));
    CHECK(on_the_spare->result().out == "on the spare\n");
    CHECK_FALSE(tunnel->done);
    CHECK_FALSE(waits->done);  // libssh2 asks for one channel at a time
    CHECK(s.engine.next_due() <= s.now() + sshpool::detail::session_engine::own_channel_limit);
    (void)s.engine.take_capacity();
    s.engine.advance(s.now() + sshpool::detail::session_engine::own_channel_limit);
    s.settle();
    CHECK(tunnel->error() == errc::connect_failed);
    CHECK(tunnel->error().text.find("within 10 s") != std::string::npos);
    CHECK(waits->error() == errc::connection_lost);
    CHECK(waits->error() == sshpool::command_fate::not_started);
    CHECK(s.engine.is_tainted());
    CHECK(s.engine.take_capacity() == std::size_t{0});
    const auto later = s.submit("echo later");
    CHECK(later->error() == sshpool::command_fate::not_started);
    CHECK_FALSE(running->done);
    support::write_file(server.home() / "go", "");
    REQUIRE(s.run_until([&] { return running->done; }));
    CHECK(running->result().out == "\ndone\n");
}
