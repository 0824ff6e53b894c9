#include "support/catch.hpp"
#include "support/delay_proxy.hpp"
#include "support/fault_server.hpp"
#include "support/sshd_server.hpp"

#include <chrono>
#include <string>

using namespace std::chrono_literals;
using support::direction;

namespace {

/// OpenSSH's own client, so that the fixtures are judged by something that is not ours.
std::vector<std::string> ssh(const support::sshd_server& server, std::uint16_t port, const std::string& line) {
    return {"ssh",
            "-F",
            "none",
            "-i",
            server.client_key().string(),
            "-o",
            "BatchMode=yes",
            "-o",
            "UserKnownHostsFile=" + server.known_hosts().string(),
            "-o",
            "IdentitiesOnly=yes",
            "-p",
            std::to_string(port),
            server.user() + "@" + server.host(),
            line};
}

/// Connects, sends, and reads until the other side ends the connection or says nothing for the time given.
std::string talk(std::uint16_t port, const std::string& text, std::chrono::milliseconds patience = 5s, std::size_t most = 1 << 20) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(port);
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
    if (!text.empty()) REQUIRE(::send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
    const timeval limit{patience.count() / 1000, patience.count() % 1000 * 1000};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::string got;
    char buffer[4096];
    while (got.size() < most) {
        const auto n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        got.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(fd);
    return got;
}

}  // namespace

TEST_CASE("the private sshd runs a command for its own user under /bin/sh, and its log tells of it") {
    support::sshd_server server;
    CHECK(support::run_program(ssh(server, server.port(), "echo $USER $SHELL; pwd")) == "sshpool /bin/sh\n" + server.home().string() + "\n");
    CHECK(server.accepted_logins() == 1);
    CHECK(server.started_commands() == 1);
    CHECK(server.fingerprint().starts_with("SHA256:"));
}

TEST_CASE("extra lines for the private sshd win over the fixture's own") {
    support::sshd_server server({"PubkeyAuthentication no"});
    support::process client(ssh(server, server.port(), "true"));
    CHECK(client.wait() == 255);
    CHECK(server.accepted_logins() == 0);
}

TEST_CASE("a password logs in to the private sshd when asked for") {
    support::sshd_server::options options;
    options.password_login = true;
    support::sshd_server server(options);
    support::temp_dir dir;
    const auto ask = dir / "ask";
    support::write_file(ask, "#!/bin/sh\necho " + server.password() + "\n");
    std::filesystem::permissions(ask, std::filesystem::perms::owner_all);
    auto argv = ssh(server, server.port(), "echo in");
    argv.erase(argv.begin() + 3, argv.begin() + 7);
    argv.insert(argv.begin() + 1, {"-o", "PreferredAuthentications=password"});
    argv.insert(argv.begin(), {"env", "SSH_ASKPASS=" + ask.string(), "SSH_ASKPASS_REQUIRE=force"});
    CHECK(support::run_program(argv) == "in\n");
}

TEST_CASE("a revoked key does not log in to the private sshd any more") {
    support::sshd_server server;
    server.revoke(server.client_key());
    support::process client(ssh(server, server.port(), "true"));
    CHECK(client.wait() == 255);
}

TEST_CASE("killing sessions ends clients and commands but not the listener") {
    support::sshd_server server;
    support::process client(ssh(server, server.port(), "echo up; sleep 60"));
    REQUIRE(support::wait_until([&] { return client.output().find("up") != std::string::npos; }));
    CHECK(server.session_processes() > 0);
    server.kill_sessions();
    CHECK(client.wait(5s) == 255);
    CHECK(server.session_processes() == 0);
    CHECK(support::run_program(ssh(server, server.port(), "echo again")) == "again\n");
}

TEST_CASE("a restarted sshd listens on the same port with the same key") {
    support::sshd_server server;
    const auto port = server.port();
    server.restart();
    CHECK(server.port() == port);
    CHECK(support::run_program(ssh(server, port, "echo back")) == "back\n");
}

TEST_CASE("a suspended sshd answers nothing until it goes on") {
    support::sshd_server server;
    server.suspend();
    CHECK(talk(server.port(), "", 100ms).empty());
    server.resume();
    CHECK(talk(server.port(), "", 2s, 4).starts_with("SSH-"));
}

TEST_CASE("nothing of the private sshd is left when its object goes") {
    pid_t command = 0;
    {
        support::sshd_server server;
        support::process client(ssh(server, server.port(), "echo $$; exec sleep 60"));
        REQUIRE(support::wait_until([&] { return client.output().find('\n') != std::string::npos; }));
        command = std::stoi(client.output());
        server.stop_listening();
        REQUIRE(::kill(command, 0) == 0);
    }
    CHECK(support::wait_until([&] { return ::kill(command, 0) != 0; }));
}

TEST_CASE("the proxy holds bytes back for a round trip and counts them") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port(), 100ms);
    const auto start = std::chrono::steady_clock::now();
    CHECK(talk(proxy.port(), "SSH-2.0-x\r\n", 2s, 4).starts_with("SSH-"));
    const auto took = std::chrono::steady_clock::now() - start;
    CHECK(took >= 50ms);  // the banner comes unasked: half a round trip
    CHECK(took < 150ms * support::slowness);
    CHECK(proxy.connections() == 1);
    CHECK(proxy.bytes(direction::to_client) > 10);
}

TEST_CASE("ssh works through the proxy, and a cut there ends it") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port(), 2ms);
    server.trust(proxy.host(), proxy.port());
    CHECK(support::run_program(ssh(server, proxy.port(), "cat; echo through")) == "through\n");
    support::process client(ssh(server, proxy.port(), "echo up; sleep 60"));
    REQUIRE(support::wait_until([&] { return client.output().find("up") != std::string::npos; }));
    proxy.cut();
    CHECK(client.wait(5s) == 255);
    CHECK(support::wait_until([&] { return proxy.open_connections() == 0; }));
}

TEST_CASE("the proxy cuts after so many bytes, flips a bit, and swallows everything as a black hole") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port());
    proxy.flip_bit(direction::to_client, 0, 5);
    CHECK(talk(proxy.port(), "", 1s, 4).starts_with("sSH-"));
    CHECK(talk(proxy.port(), "", 1s, 4).starts_with("SSH-"));
    proxy.black_hole(true);
    CHECK(talk(proxy.port(), "", 100ms).empty());
    proxy.black_hole(false);
    proxy.cut_after(direction::to_client, 5);
    server.trust(proxy.host(), proxy.port());
    support::process client(ssh(server, proxy.port(), "true"));
    CHECK(client.wait() == 255);
}

TEST_CASE("the fault server does each of its faults") {
    using support::fault;
    CHECK(talk(support::fault_server(fault::silence).port(), "hello", 100ms).empty());
    {
        support::fault_server server(fault::close_at_once);
        CHECK(talk(server.port(), "", 5s).empty());
        CHECK(server.connections() == 1);
    }
    {
        support::fault_server server(fault::garbage);
        CHECK(talk(server.port(), "", 5s, 100'000).size() >= 100'000);
    }
    {
        support::fault_server server(fault::endless_banner);
        CHECK(talk(server.port(), "", 5s, 100).starts_with("Please wait"));
    }
    {
        support::fault_server server(fault::say_and_close, "SSH-2.0-fault\r\n");
        CHECK(talk(server.port(), "hello") == "SSH-2.0-fault\r\n");
    }
    {
        support::fault_server server(fault::say, "SSH-2.0-fault\r\n");
        CHECK(talk(server.port(), "hello", 200ms) == "SSH-2.0-fault\r\n");
        CHECK(server.received() == 5);
    }
}
