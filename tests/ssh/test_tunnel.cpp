// TCP connections made by the server, on a real sshd.
#include <asio/bind_cancellation_slot.hpp>
#include <asio/ip/tcp.hpp>
#include <thread>

#include "ssh/channel_on_sshd.hpp"
#include "ssh/pool_in_network.hpp"
#include "support/web_server.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// Answers every connection with what it says, until it says no more.
class echo_server {
public:
    echo_server() {
        accept();
        thread_ = std::thread{[this] { io_.run(); }};
    }
    echo_server(const echo_server&) = delete;
    echo_server& operator=(const echo_server&) = delete;
    ~echo_server() {
        io_.stop();
        thread_.join();
    }
    std::uint16_t port() const { return acceptor_.local_endpoint().port(); }

private:
    struct visitor : std::enable_shared_from_this<visitor> {
        explicit visitor(asio::ip::tcp::socket s) : socket(std::move(s)) {}
        void go_on() {
            socket.async_read_some(asio::buffer(bytes), [self = shared_from_this()](std::error_code ec, std::size_t n) {
                if (ec) return;
                asio::async_write(self->socket, asio::buffer(self->bytes.data(), n), [self](std::error_code error, std::size_t) {
                    if (!error) self->go_on();
                });
            });
        }
        asio::ip::tcp::socket socket;
        std::array<char, 65536> bytes{};
    };
    void accept() {
        acceptor_.async_accept([this](std::error_code ec, asio::ip::tcp::socket s) {
            if (ec) return;
            std::make_shared<visitor>(std::move(s))->go_on();
            accept();
        });
    }

    asio::io_context io_;
    asio::ip::tcp::acceptor acceptor_{io_, {asio::ip::address_v4::loopback(), 0}};
    std::thread thread_;
};

channel open_tunnel(running_transport& t, std::uint16_t port) { return end_of(t.connection.async_open_tcp("127.0.0.1", port, as_end)).result; }

}  // namespace

TEST_CASE("a tunnel carries megabytes both ways, and ends when both sides have", "[ssh][tunnel]") {
    support::sshd_server server;
    echo_server echo;
    running_transport t{2};
    REQUIRE_FALSE(t.open(to(server)).error);
    auto c = open_tunnel(t, echo.port());
    REQUIRE(c);
    const auto sent = random_bytes(std::size_t{8} << 20, 1);
    auto got = read_all(c);
    CHECK(end_of(asio::async_write(c, asio::buffer(sent), as_end)).result == sent.size());
    CHECK_FALSE(end_of(c.async_send_eof(as_end)));
    CHECK((end_of(std::move(got)).result == sent));
    CHECK(end_of(read_all(c.err())).result.empty());
    const auto end = end_of(c.async_wait_exit(as_end));
    CHECK_FALSE(end.ec);
    CHECK_FALSE(end.result.exit_status.has_value());
    CHECK(t.run("echo on").result.out == "on\n");
}

TEST_CASE("a port that refuses, a name that nobody knows and a server that forbids are told apart from a loss", "[ssh][tunnel]") {
    echo_server echo;
    error_info info;
    {
        support::sshd_server server;
        running_transport t;
        REQUIRE_FALSE(t.open(to(server)).error);
        const auto closed = support::free_port();
        CHECK((end_of(t.connection.async_open_tcp("127.0.0.1", closed, info, as_end)).ec == errc::connect_failed));
        CHECK((info.code == command_fate::not_started));
        CHECK(info.text.find("could not open a connection to 127.0.0.1:" + std::to_string(closed)) != std::string::npos);
        CHECK((end_of(t.connection.async_open_tcp("nowhere.invalid", 80, info, as_end)).ec == errc::connect_failed));
        CHECK(t.run("echo on").result.out == "on\n");
        CHECK(t.heard->last_capacity() == 99);  // no limit was learned
    }
    support::sshd_server server({"AllowTcpForwarding no"});
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    CHECK((end_of(t.connection.async_open_tcp("127.0.0.1", echo.port(), info, as_end)).ec == errc::channel_refused));
    CHECK(info.text.find("administratively prohibited") != std::string::npos);
    CHECK(t.run("echo on").result.out == "on\n");
}

TEST_CASE("what is no place to connect to is refused in words", "[ssh][tunnel]") {
    running_transport t;
    const auto refuses = [&](const std::string& host, std::uint16_t port) {
        CHECK_THROWS_AS(t.connection.async_open_tcp(host, port, as_end), std::invalid_argument);
    };
    refuses("", 80);
    refuses("host", 0);
    refuses(std::string("ho\0st", 5), 80);
    refuses(std::string(256, 'h'), 80);
}

TEST_CASE("tunnels are none of the sessions that MaxSessions counts", "[ssh][tunnel]") {
    support::sshd_server server({"MaxSessions 1"});
    echo_server echo;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    auto first = t.start("sleep 0.2");
    CHECK(t.run("true").result.ok());
    CHECK(first.get().result.ok());
    CHECK(t.heard->last_capacity() == 1);  // the limit is known
    std::vector<channel> all;
    for (int i = 0; i < 12; ++i) all.push_back(open_tunnel(t, echo.port()));
    CHECK(t.run("echo beside twelve").result.out == "beside twelve\n");
    auto command_too = open_channel(t, "cat");
    for (auto& c : all) {
        REQUIRE(c);
        CHECK(end_of(asio::async_write(c, asio::buffer("ping", 4), as_end)).result == 4);
        CHECK(read_exactly(c, 4) == "ping");
    }
    CHECK(end_of(asio::async_write(command_too, asio::buffer("pong", 4), as_end)).result == 4);
    CHECK(read_exactly(command_too, 4) == "pong");
}

TEST_CASE("a tunnel works where no spare channel is kept, and is cancelled and closed like any", "[ssh][tunnel]") {
    support::sshd_server server;
    echo_server echo;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server), 10s, 0).error);
    auto c = open_tunnel(t, echo.port());
    REQUIRE(c);
    std::array<char, 10> bytes{};
    asio::cancellation_signal stop;
    auto read = c.async_read_some(asio::buffer(bytes), asio::bind_cancellation_slot(stop.slot(), as_end));
    asio::post(t.io, [&] { stop.emit(asio::cancellation_type::total); });
    CHECK((end_of(std::move(read)).ec == errc::cancelled));
    CHECK(end_of(asio::async_write(c, asio::buffer("ping", 4), as_end)).result == 4);
    CHECK(read_exactly(c, 4) == "ping");
    auto pending = c.async_read_some(asio::buffer(bytes), as_end);
    c.close();
    CHECK((end_of(std::move(pending)).ec == errc::cancelled));
    CHECK(t.run("echo on").result.out == "on\n");
    auto again = open_tunnel(t, echo.port());
    REQUIRE(again);
    server.kill_sessions();
    CHECK((end_of(again.async_read_some(asio::buffer(bytes), as_end)).ec == errc::connection_lost));
}

TEST_CASE("a page that is served only inside the executor is fetched through the pool, and in no other way", "[ssh][tunnel][netns]") {
    if (!support::network_row::is_possible()) SKIP_TEST("network namespaces need root");
    const support::network_row net(2);  // client, executor
    support::sshd_server executor(server_at(net, 1));
    std::optional<support::web_server> web;  // as a notebook's: on the loopback address of its own machine
    std::thread([&] {
        net.enter(1);
        web.emplace("a notebook\n");
    }).join();
    running_pool p;
    enter_first(p, net);
    for (const auto& host : {std::string{"127.0.0.1"}, executor.host()}) {
        const asio::ip::tcp::endpoint there{asio::ip::make_address(host), web->port()};
        const auto direct = asio::post(p.io, asio::use_future([&] {
                                           std::error_code ec;
                                           asio::ip::tcp::socket{p.io}.connect(there, ec);
                                           return ec;
                                       }))
                                .get();
        CHECK((direct == asio::error::connection_refused));
    }
    const auto connection = p.get(to(executor));
    REQUIRE_FALSE(connection.ec);
    auto page = end_of(connection.result->async_open_tcp("localhost", web->port(), as_end)).result;
    REQUIRE(page);
    CHECK_FALSE(end_of(asio::async_write(page, asio::buffer("GET / HTTP/1.0\r\n\r\n", 18), as_end)).ec);
    CHECK_THAT(end_of(read_all(page)).result, Catch::StartsWith("HTTP/1.0 200 OK") && Catch::EndsWith("a notebook\n"));
}
