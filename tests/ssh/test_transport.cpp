// One connection to a real sshd: logins, host keys, commands.
#include <asio/co_spawn.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <atomic>

#include "ssh/transport_on_sshd.hpp"

using namespace sshpool;
using namespace sshpool::test;

TEST_CASE("every type of key logs in, in OpenSSH's format and in PEM, with and without a passphrase", "[ssh][transport]") {
    support::sshd_server server;
    struct kind {
        const char* type;
        bool pem;
        const char* passphrase;
    };
    for (const auto& k : {kind{"ed25519", false, ""}, kind{"ed25519", false, "swordfish"}, kind{"ecdsa", false, ""}, kind{"ecdsa", true, ""},
                          kind{"ecdsa", true, "swordfish"}, kind{"rsa", false, ""}, kind{"rsa", true, ""}, kind{"rsa", true, "swordfish"}}) {
        INFO(k.type << (k.pem ? " PEM " : " OpenSSH ") << k.passphrase);
        const auto key = server.make_client_key(k.type, k.passphrase, k.pem);
        running_transport t;
        const auto report = t.open({server.address(), credentials::private_key_file(key, k.passphrase), host_key_policy::known_hosts(server.known_hosts())});
        INFO(report.error.text);
        REQUIRE_FALSE(report.error);
        CHECK(report.phases.tcp.count() > 0);
        CHECK(report.phases.key_exchange.count() > 0);
        CHECK(report.phases.login.count() > 0);
        CHECK(t.run("echo in").result.out == "in\n");
    }
}

TEST_CASE("larger ECDSA keys log in", "[ssh][transport]") {
    support::sshd_server server;
    for (const char* bits : {"384", "521"}) {
        const auto file = server.dir() / (std::string{"ecdsa_"} + bits);
        support::run_program({"ssh-keygen", "-q", "-t", "ecdsa", "-b", bits, "-N", "", "-f", file.string()});
        support::write_file(server.dir() / "authorized_keys", support::read_file(file.string() + ".pub"));
        running_transport t;
        const auto report = t.open({server.address(), credentials::private_key_file(file), host_key_policy::known_hosts(server.known_hosts())});
        INFO(report.error.text);
        CHECK_FALSE(report.error);
    }
}

TEST_CASE("a password logs in, a wrong one is refused, and neither is ever told", "[ssh][transport]") {
    support::sshd_server::options o;
    o.password_login = true;
    support::sshd_server server(o);
    const auto policy = host_key_policy::known_hosts(server.known_hosts());
    {
        running_transport t;
        const auto report = t.open({server.address(), credentials::password(server.password()), policy});
        INFO(report.error.text);
        REQUIRE_FALSE(report.error);
        CHECK(t.run("echo in").result.out == "in\n");
    }
    running_transport t;
    const auto report = t.open({server.address(), credentials::password("not-the-word"), policy});
    CHECK((report.error.code == errc::auth_failed));
    CHECK((report.error.code == command_fate::not_started));
    CHECK(report.error.phase == "login");
    CHECK(report.error.text.find("not-the-word") == std::string::npos);
    CHECK(report.error.text.find("the password was refused") != std::string::npos);
    CHECK(report.error.text.find("as user sshpool") != std::string::npos);
}

TEST_CASE("ways to log in are tried in order, and a refusal names all that were tried", "[ssh][transport]") {
    support::sshd_server server;
    const auto wrong = credentials::private_key_file(server.make_stranger_key());
    const auto wrong_too = credentials::private_key_file(server.make_stranger_key("rsa"));
    const auto policy = host_key_policy::known_hosts(server.known_hosts());
    {
        running_transport t;
        auto login = wrong;
        login.or_else(wrong_too).or_else(credentials::private_key_file(server.client_key()));
        const auto report = t.open({server.address(), login, policy});
        INFO(report.error.text);
        CHECK_FALSE(report.error);
    }
    running_transport t;
    auto login = wrong;
    login.or_else(wrong_too);
    const auto report = t.open({server.address(), login, policy});
    CHECK((report.error.code == errc::auth_failed));
    CHECK(report.error.text.find("ssh-ed25519 " + wrong.identity()) != std::string::npos);
    CHECK(report.error.text.find("ssh-rsa " + wrong_too.identity()) != std::string::npos);
    CHECK(report.error.text.find(server.address()) != std::string::npos);
    CHECK_FALSE(t.connection.is_usable());
    CHECK(t.heard->count_lost() == 0);
}

TEST_CASE("a server that gives up on too many refused keys has refused the login, not lost the connection", "[ssh][transport]") {
    support::sshd_server server({"MaxAuthTries 2"});
    auto login = credentials::private_key_file(server.make_stranger_key());
    for (int i = 0; i < 4; ++i) login.or_else(credentials::private_key_file(server.make_stranger_key()));
    running_transport t;
    const auto report = t.open({server.address(), login, host_key_policy::known_hosts(server.known_hosts())});
    CHECK((report.error.code == errc::auth_failed));
    CHECK(report.error.text.find("Too many authentication failures") != std::string::npos);
}

TEST_CASE("the host key is checked before anything of the login is sent", "[ssh][transport]") {
    support::sshd_server server;
    const auto login = credentials::private_key_file(server.client_key());
    support::temp_dir dir;
    const auto before = server.count_in_log("sshpool");  // the user's name: sshd logs it as soon as it is told
    const auto refused = [&](const host_key_policy& policy) {
        running_transport t;
        auto report = t.open({server.address(), login, policy});
        CHECK(report.error);
        CHECK(report.error.phase == "host key");
        CHECK(report.error.text.find(server.fingerprint()) != std::string::npos);
        return report.error;
    };
    SECTION("an unknown host") {
        support::write_file(dir / "empty", "");
        CHECK((refused(host_key_policy::known_hosts(dir / "empty")).code == errc::host_key_unknown));
    }
    SECTION("a changed key") {
        support::sshd_server other;
        support::write_file(dir / "changed", other.known_hosts_line(server.host(), server.port()));
        CHECK((refused(host_key_policy::known_hosts(dir / "changed")).code == errc::host_key_mismatch));
    }
    SECTION("another key than the pinned one") {
        support::sshd_server other;
        CHECK((refused(host_key_policy::pinned(other.fingerprint())).code == errc::host_key_mismatch));
    }
    CHECK(server.wait_for_log("Connection closed by 127.0.0.1", 1));
    CHECK(server.count_in_log("sshpool") == before);
}

TEST_CASE("known, hashed, pinned and first-seen hosts are connected to", "[ssh][transport]") {
    support::sshd_server server;
    const auto login = credentials::private_key_file(server.client_key());
    support::temp_dir dir;
    const auto opens = [&](const host_key_policy& policy) {
        running_transport t;
        const auto report = t.open({server.address(), login, policy});
        INFO(report.error.text);
        return !report.error;
    };
    CHECK(opens(host_key_policy::known_hosts(server.known_hosts())));
    std::filesystem::copy_file(server.known_hosts(), dir / "hashed");
    support::run_program({"ssh-keygen", "-q", "-H", "-f", (dir / "hashed").string()});
    REQUIRE(support::read_file(dir / "hashed").find("127.0.0.1") == std::string::npos);
    CHECK(opens(host_key_policy::known_hosts(dir / "hashed")));
    CHECK(opens(host_key_policy::pinned(server.fingerprint())));
    CHECK(opens(host_key_policy::accept_any()));
    CHECK(opens(host_key_policy::trust_on_first_use(dir / "first")));
    CHECK(opens(host_key_policy::known_hosts(dir / "first")));
}

TEST_CASE("of several host keys the known one is asked for, whatever its type", "[ssh][transport]") {
    support::sshd_server::options o;
    o.host_key_types = {"ed25519", "ecdsa"};
    support::sshd_server server(o);
    support::temp_dir dir;
    for (const char* type : {"ed25519", "ecdsa"}) {
        support::write_file(dir / type, server.known_hosts_line(server.host(), server.port(), type));
        running_transport t;
        const auto report = t.open({server.address(), credentials::private_key_file(server.client_key()), host_key_policy::known_hosts(dir / type)});
        INFO(type << ": " << report.error.text);
        CHECK_FALSE(report.error);
    }
}

TEST_CASE("a command has input, output, errors, a status or a signal, and a duration", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    const auto plain = t.run("echo out; echo err >&2; exit 42");
    CHECK_FALSE(plain.ec);
    CHECK(plain.result.out == "out\n");
    CHECK(plain.result.err == "err\n");
    CHECK(plain.result.exit_status == 42);
    CHECK(plain.result.elapsed.count() > 0);
    const auto killed = t.run("kill -TERM $$");
    CHECK_FALSE(killed.ec);
    CHECK_FALSE(killed.result.exit_status);
    CHECK(killed.result.exit_signal == "TERM");
    const auto fed = t.run(command{"tr a-z A-Z"}.input("some words"));
    CHECK(fed.result.out == "SOME WORDS");
    CHECK(t.run("cat").result.ok());  // no input: an end at once
    const std::string big(std::size_t{5} << 20, 'x');
    const auto echoed = t.run(command{"cat"}.input(big));
    CHECK(echoed.result.out.size() == big.size());
    CHECK((echoed.result.out == big));
    const auto quoted = t.run(command::argv("printf", "%s|", "two words", "$HOME", "it's", "", "*", "a\nb"));
    CHECK(quoted.result.out == "two words|$HOME|it's||*|a\nb|");
    const auto unread = t.run(command{"exit 3"}.input(big));  // a command that does not read its input
    CHECK_FALSE(unread.ec);
    CHECK(unread.result.exit_status == 3);
}

TEST_CASE("a command's output is bounded", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    const auto over = t.run(command{"yes"}.max_output(1000));
    CHECK((over.ec == errc::output_limit));
    CHECK((over.ec == command_fate::unknown));
    CHECK_FALSE(over.result.exit_status);
    CHECK(over.result.out.size() == 1000);
    const auto errors = t.run(command{"yes >&2"}.max_output(1000));
    CHECK((errors.ec == errc::output_limit));
    CHECK(errors.result.err.size() == 1000);
    CHECK_FALSE(t.run(command{"head -c 1000 /dev/zero"}.max_output(1000)).ec);
    CHECK(t.run("echo next").result.out == "next\n");
}

TEST_CASE("an environment variable is set, or refused aloud", "[ssh][transport]") {
    support::sshd_server server({"AcceptEnv FLAVOUR COLOUR"});
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    CHECK(t.run(command{"echo $FLAVOUR $COLOUR"}.env("FLAVOUR", "sweet").env("COLOUR", "deep blue")).result.out == "sweet deep blue\n");
    const auto refused = t.run(command{"touch it-ran"}.env("FLAVOUR", "x").env("SECRET_DOOR", "open"));
    CHECK((refused.ec == errc::env_refused));
    CHECK((refused.ec == command_fate::not_started));
    CHECK(refused.info.text.find("SECRET_DOOR") != std::string::npos);
    CHECK(refused.info.key == server.address());
    CHECK(t.run("ls").result.out.empty());
}

TEST_CASE("a line that is too long is refused before anything is sent", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    const auto refused = t.run(std::string(command::longest_line + 1, ' ') + "true");
    CHECK((refused.ec == errc::command_too_long));
    CHECK((refused.ec == command_fate::not_started));
    CHECK(refused.info.key == server.address());
    const auto longest = t.run("true " + std::string(command::longest_line - 5, 'x'));
    CHECK(longest.result.exit_status == 0);
}

TEST_CASE("on_output gets all output in order, one call at a time, on the caller's executor", "[ssh][transport]") {
    support::sshd_server server;
    asio::io_context callers;  // outlives the threads that post to it
    running_transport t{4};
    REQUIRE_FALSE(t.open(to(server)).error);
    std::string out;
    std::string err;
    int inside = 0;
    bool done = false;
    const auto here = std::this_thread::get_id();
    auto what = command{"seq 1 20000; seq 1 2000 >&2; exit 5"}.on_output([&](output_stream stream, std::string_view bytes) {
        CHECK(++inside == 1);
        CHECK(std::this_thread::get_id() == here);
        (stream == output_stream::out ? out : err) += bytes;
        --inside;
    });
    t.connection.async_run(what, asio::bind_executor(callers, [&](std::error_code ec, command_result result) {
                               CHECK_FALSE(ec);
                               CHECK(result.exit_status == 5);
                               CHECK(result.out.empty());
                               CHECK(std::this_thread::get_id() == here);
                               CHECK(out.size() == 108894);  // seq's
                               done = true;
                           }));
    callers.run();
    CHECK(done);
    std::string expected;
    for (int i = 1; i <= 20000; ++i) expected += std::to_string(i) + "\n";
    CHECK((out == expected));
    CHECK(err.size() == 8893);
}

TEST_CASE("a slow on_output stops the sender", "[ssh][transport]") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port());
    running_transport t{2};
    REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
    std::promise<void> release;
    const auto released = release.get_future().share();
    std::atomic<std::size_t> taken{0};
    auto running = t.start(command{"head -c 30000000 /dev/zero"}.on_output([&, released](output_stream, std::string_view bytes) {
        released.wait();
        taken += bytes.size();
    }));
    std::uint64_t before = 0;
    REQUIRE(support::wait_until([&] {
        std::this_thread::sleep_for(50ms);
        const auto now = proxy.bytes(support::direction::to_client);
        return now > 100'000 && std::exchange(before, now) == now;
    }));
    CHECK(before < 12'000'000);  // two windows, and what sockets and the proxy hold
    release.set_value();
    const auto end = running.get();
    CHECK_FALSE(end.ec);
    CHECK(taken == 30'000'000);
}

TEST_CASE("any completion token works", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    CHECK(t.connection.async_run("echo future", asio::use_future).get().out == "future\n");
    auto coroutine = [&]() -> asio::awaitable<std::string> {
        const auto first = co_await t.connection.async_run("echo one", asio::use_awaitable);
        const auto second = co_await t.connection.async_run(command::argv("echo", "two words"), asio::use_awaitable);
        auto later = t.connection.async_run(std::string{"echo three"}, asio::use_awaitable);  // starts when it is awaited
        const auto third = co_await std::move(later);
        co_return first.out + second.out + third.out;
    };
    CHECK(asio::co_spawn(t.io, coroutine(), asio::use_future).get() == "one\ntwo words\nthree\n");
}

TEST_CASE("an operation never completes inside the call that starts it, and frees its share of the connection first", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    // Also where the channel outlives the answer.
    for (const auto& what : {command{"true"}, command{"sleep 30"}.timeout(100ms)}) {
        std::promise<bool> share_was_free;
        auto share = std::make_shared<int>(1);
        const std::weak_ptr<int> watch = share;
        asio::post(t.io, [&, share = std::move(share)]() mutable {
            const auto inside = std::make_shared<bool>(true);
            auto lent = t.connection.lend(std::move(share));
            lent.async_run(what, [&, inside](std::error_code, command_result) { share_was_free.set_value(watch.expired() && !*inside); });
            CHECK_FALSE(watch.expired());
            *inside = false;
        });
        CHECK(share_was_free.get_future().get());
    }
}

TEST_CASE("64 commands at once on one connection all run", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t{2};
    REQUIRE_FALSE(t.open(to(server)).error);
    std::vector<std::future<run_outcome>> all;
    for (int i = 0; i < 64; ++i) all.push_back(t.start("until test -e go; do sleep 0.02; done; echo " + std::to_string(i)));
    CHECK(support::wait_until([&] { return t.heard->last_capacity() == 9; }));  // sshd's MaxSessions 10, and one of slack
    support::write_file(server.home() / "go", "");
    for (std::size_t i = 0; i < all.size(); ++i) {
        const auto end = all[i].get();
        INFO(end.info.text);
        CHECK_FALSE(end.ec);
        CHECK(end.result.out == std::to_string(i) + "\n");
    }
    CHECK(t.heard->waits.size() == 64);
    CHECK(t.heard->waits.front().count() == 0);
}

TEST_CASE("MaxSessions of 1, 2, 4 and 10 is lived with", "[ssh][transport]") {
    const auto limit = GENERATE(1, 2, 4, 10);
    support::sshd_server server({"MaxSessions " + std::to_string(limit)});
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    std::vector<std::future<run_outcome>> all;
    for (int i = 0; i < 20; ++i) all.push_back(t.start("until test -e go; do sleep 0.02; done; echo " + std::to_string(i)));
    CHECK(support::wait_until([&] { return t.heard->last_capacity() == static_cast<std::size_t>(limit > 1 ? limit - 1 : 1); }));
    support::write_file(server.home() / "go", "");
    for (std::size_t i = 0; i < all.size(); ++i) {
        const auto end = all[i].get();
        INFO(end.info.text);
        CHECK(end.result.out == std::to_string(i) + "\n");
    }
    CHECK_FALSE(t.probe());
}

TEST_CASE("without spare channels commands run and probes answer", "[ssh][transport]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server), 10s, 0).error);
    CHECK_FALSE(t.probe());
    CHECK(t.run("echo one").result.out == "one\n");
    CHECK_FALSE(t.probe());
    CHECK(t.connection.is_usable());
    server.kill_sessions();
    CHECK(support::wait_until([&] { return t.heard->count_lost() == 1; }));
    CHECK_FALSE(t.connection.is_usable());
}
