// Hostile servers behind the login, as a pool's caller meets them: what they cost their own commands, and that they cost others nothing.

#include "ssh/pool_on_sshd.hpp"
#include "support/ssh_server_on_socket.hpp"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace sshpool;
using namespace sshpool::test;
using support::ssh_packet;
using support::ssh_server_in_memory;
using support::ssh_server_on_socket;
namespace msg = support::ssh_message;

namespace {

target to(const ssh_server_on_socket& server) { return {server.address(), credentials::password("secret"), host_key_policy::accept_any()}; }

/// Instead of answering a message of this kind, says this without end.
std::function<ssh_server_in_memory::scenario()> instead_of_answering(std::uint8_t heard, std::function<void(ssh_server_in_memory&)> say, bool reads = true) {
    return [=] {
        return [=](ssh_server_in_memory& server, std::string_view payload) {
            if (static_cast<std::uint8_t>(payload.front()) != heard) return false;
            if (!reads) server.stop_reading();
            server.say_for_ever(say);
            return true;
        };
    };
}

struct hostile {
    const char* name;
    std::function<ssh_server_in_memory::scenario()> scenario;
    errc command_ends_with;
};

}  // namespace

TEST_CASE("a hostile server costs its own commands a typed error in time, and other hosts on the same thread nothing", "[fault]") {
    const auto say = [](std::string packet) { return [packet = std::move(packet)](ssh_server_in_memory& s) { s.say(packet); }; };
    const auto how = GENERATE_COPY(values<hostile>({
        {"replies that nobody asked for", instead_of_answering(msg::channel_request, say(ssh_packet(msg::request_success))), errc::protocol_error},
        {"a flood of nothing", instead_of_answering(msg::channel_request, say(ssh_packet(msg::ignore, std::string(1'000, 'x')))), errc::command_timeout},
        {"questions whose answers it does not read",
         instead_of_answering(msg::channel_request, say(ssh_packet(msg::global_request, "keepalive@openssh.com", true)), false), errc::protocol_error},
        {"banners without end in the login", instead_of_answering(msg::userauth_request, say(ssh_packet(msg::userauth_banner, std::string(1'000, 'x'), ""))),
         errc::protocol_error},
        {"keys exchanged without end", instead_of_answering(msg::channel_request, [](ssh_server_in_memory& s) { s.begin_rekey(); }), errc::command_timeout},
    }));
    INFO(how.name);
    // With sanitizers that takes most of a minute, and the server may be the one that ends it; test_hostile_server.cpp has it in memory.
    if (support::slowness > 1 && std::string_view{how.name}.starts_with("questions")) return;
    ssh_server_on_socket bad{how.scenario}, good;
    pool_params params;
    params.reap_grace = 200ms;
    running_pool p{params};
    REQUIRE_FALSE(p.run(to(good), "before").ec);
    auto running = p.start(to(bad), command{"flood"}.timeout((how.command_ends_with == errc::command_timeout ? 2s : 40s) * support::slowness));
    REQUIRE(support::wait_until([&] { return bad.connections() > 0; }));
    std::size_t beside = 0;
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (running.wait_for(0s) != std::future_status::ready && std::chrono::steady_clock::now() < until) {
        const auto r = p.run(to(good), std::to_string(beside));
        REQUIRE_FALSE(r.ec);
        REQUIRE(r.result.out == std::to_string(beside) + "\n");
        ++beside;
    }
    const auto r = running_pool::finish(std::move(running));
    INFO(beside << " commands beside it; " << r.info.text);
    CHECK(r.ec == how.command_ends_with);
    CHECK_FALSE(r.result.exit_status);
    CHECK(good.connections() == 1);
    // Not lent again: the connection has gone, or its unconfirmed channel taints it, and then nobody holds it any more.
    CHECK(support::wait_until([&] { return p.pool.get_stats(to(bad).key()).pool_size == 0; }));
    CHECK(support::wait_until([&] { return bad.open_connections() == 0; }));
    CHECK_FALSE(p.run(to(good), "after").ec);
}
