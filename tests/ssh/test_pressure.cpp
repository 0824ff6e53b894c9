// The pool under pressure, against real servers: many logins at once, a busy sshd, dead forwards, refused logins, warm hosts.

#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <mutex>

#include "ssh/pool_on_sshd.hpp"
#include "support/process.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// What a pool tells, from its own threads.
class event_log {
public:
    auto listener() {
        return [this](const pool_event& e) {
            const std::lock_guard lock{mutex_};
            events_.push_back(e);
        };
    }
    std::vector<pool_event> told(event_kind kind) const {
        const std::lock_guard lock{mutex_};
        std::vector<pool_event> found;
        std::copy_if(events_.begin(), events_.end(), std::back_inserter(found), [&](const pool_event& e) { return e.kind == kind; });
        return found;
    }
    std::size_t count(event_kind kind) const { return told(kind).size(); }

private:
    mutable std::mutex mutex_;
    std::vector<pool_event> events_;
};

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

/// A TCP connection to a server that never logs in: one of those that MaxStartups counts.
class idler {
public:
    explicit idler(const support::sshd_server& server) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in where{};
        where.sin_family = AF_INET;
        where.sin_port = htons(server.port());
        ::inet_pton(AF_INET, server.host().c_str(), &where.sin_addr);
        if (::connect(fd_, reinterpret_cast<sockaddr*>(&where), sizeof where) != 0) throw std::runtime_error("no connection to sshd");
    }
    idler(const idler&) = delete;
    idler& operator=(const idler&) = delete;
    ~idler() { ::close(fd_); }

private:
    int fd_;
};

}  // namespace

TEST_CASE("sixty logins with sixty identities at once to one default sshd, and none fails", "[ssh][pressure]") {
    support::sshd_server sshd;  // MaxStartups is 10:30:100, as it comes
    std::vector<target> all;
    for (int i = 0; i < 60; ++i) {
        all.emplace_back(sshd.address(), credentials::private_key_file(sshd.make_client_key()), host_key_policy::known_hosts(sshd.known_hosts()));
    }
    pool_params params;  // as they come, or with room for all of them at the same time
    if (GENERATE(false, true)) params.max_connections = params.max_connections_per_host = 60;
    running_pool p{params};
    std::vector<std::future<running_pool::run_outcome>> running;
    const auto start = std::chrono::steady_clock::now();
    for (const auto& t : all) running.push_back(p.start(t, "echo here"));
    std::size_t failures = 0;
    for (auto& r : running) {
        const auto outcome = running_pool::finish(std::move(r));
        INFO(outcome.info.text);
        CHECK_FALSE(outcome.ec);
        failures += outcome.ec || outcome.result.out != "here\n" ? 1 : 0;
    }
    const auto s = p.pool.get_stats();
    std::printf("60 logins, 60 identities, %zu at a time: %zu failures, %llu of them dropped and tried again, %.1f s\n", params.max_connections_per_host,
                failures, static_cast<unsigned long long>(s.busy_retries), seconds_since(start));
    CHECK(failures == 0);
    CHECK(sshd.accepted_logins() == 60);
    CHECK(s.connections_created == 60);
    CHECK(s.connect_failures.total() == 0);  // not even one that was tried again: sshd's limit was never reached
    CHECK(sshd.count_in_log("MaxStartups") == 0);
}

TEST_CASE("a busy sshd is waited for, explained with its own words, and used as soon as it has room", "[ssh][pressure]") {
    support::sshd_server sshd{{"MaxStartups 2:100:2"}};
    event_log log;
    pool_params params;
    params.on_event = log.listener();
    running_pool p{params};
    auto strangers = std::make_unique<std::pair<idler, idler>>(std::piecewise_construct, std::forward_as_tuple(sshd), std::forward_as_tuple(sshd));
    REQUIRE(sshd.wait_for_log("Connection from ", 2));
    auto outcome = p.start(to(sshd), "echo here");
    REQUIRE(support::wait_until([&] { return log.count(event_kind::server_busy) >= 1; }));
    const auto text = p.pool.explain(to(sshd).key());
    INFO(text);
    CHECK(text.find("sshd dropped a login before its banner") != std::string::npos);
    const bool said = text.find("it said: Exceeded MaxStartups") != std::string::npos || text.find("it said: Not allowed at this time") != std::string::npos;
    CHECK(said);  // the latter from 9.8 on
    CHECK(text.find("see its sshd_config: MaxStartups") != std::string::npos);
    strangers.reset();
    const auto r = running_pool::finish(std::move(outcome));
    INFO(r.info.text);
    CHECK_FALSE(r.ec);
    CHECK(r.result.out == "here\n");
    CHECK(log.count(event_kind::connect_failed) == 0);
}

TEST_CASE("a dead sshd behind a port forward costs seconds, not the deadline, and ends as server_busy", "[ssh][pressure]") {
    support::sshd_server gate;
    const auto dead = support::free_port();
    const auto forwarded = support::free_port();
    support::process forward{{"ssh", "-N", "-F", "none", "-i", gate.client_key().string(), "-o", "IdentitiesOnly=yes", "-o",
                              "UserKnownHostsFile=" + gate.known_hosts().string(), "-o", "ExitOnForwardFailure=yes", "-p", std::to_string(gate.port()), "-L",
                              "127.0.0.1:" + std::to_string(forwarded) + ":127.0.0.1:" + std::to_string(dead), gate.user() + "@" + gate.host()}};
    running_pool p;
    const target behind{"root", "127.0.0.1", forwarded, credentials::private_key_file(gate.client_key()), host_key_policy::accept_any()};
    const auto listens = [&] {  // by asking the gate: the forward's own port would count as a login
        return gate.accepted_logins() == 1 && forward.running();
    };
    REQUIRE(support::wait_until(listens));
    auto r = p.run(behind, "true");
    if (r.ec == errc::connect_failed) {  // ssh binds its port a moment after its login
        REQUIRE(support::wait_until([&] {
            p.pool.invalidate(behind.key());
            r = p.run(behind, "true");
            return r.ec != errc::connect_failed;
        }));
    }
    INFO(forward.output() << r.info.text);
    const auto before = p.pool.get_stats().busy_retries;
    p.pool.invalidate(behind.key());
    const auto start = std::chrono::steady_clock::now();
    r = p.run(behind, "true");
    const auto took = seconds_since(start);
    std::printf("a dead sshd behind ssh -L: %s after %.2f s\n", std::string{r.ec.message()}.c_str(), took);
    CHECK(r.ec == errc::server_busy);
    CHECK(r.ec == command_fate::not_started);
    CHECK(p.pool.get_stats().busy_retries == before + 3);
    CHECK(took < 5.0 * support::slowness);  // 1.75 s of pauses at most
    CHECK(p.run(behind, "true").ec == errc::host_backing_off);
    // It comes to life: nothing has to be done for it.
    support::sshd_server::options o;
    o.port = dead;
    support::sshd_server server{o};
    const target alive{"sshpool", "127.0.0.1", forwarded, credentials::private_key_file(server.client_key()), host_key_policy::pinned(server.fingerprint())};
    running_pool::run_outcome back;
    CHECK(support::wait_until([&] {
        back = p.run(alive, "echo back");
        return !back.ec;
    }));
    INFO(back.info.text);
    CHECK(back.result.out == "back\n");
}

TEST_CASE("a server that resets every connection before its banner costs four connects and seconds", "[ssh][pressure]") {
    const support::fault_server resets{support::fault::reset_at_once};
    running_pool p;
    const target there{"root", "127.0.0.1", resets.port(), credentials::password("x"), host_key_policy::accept_any()};
    const auto start = std::chrono::steady_clock::now();
    const auto r = p.run(there, "true");
    INFO(r.info.text);
    CHECK(r.ec == errc::server_busy);
    CHECK(resets.connections() == 4);
    CHECK(seconds_since(start) < 5.0 * support::slowness);
}

TEST_CASE("however many callers ask, sshd sees a refused login once within its cool-down", "[ssh][pressure]") {
    support::sshd_server sshd;
    running_pool p;
    const target wrong{sshd.address(), credentials::private_key_file(sshd.make_stranger_key()), host_key_policy::known_hosts(sshd.known_hosts())};
    std::vector<std::future<running_pool::run_outcome>> all;
    for (int i = 0; i < 30; ++i) all.push_back(p.start(wrong, "true"));
    std::size_t refused = 0, sent_away = 0;
    for (auto& f : all) {
        const auto r = running_pool::finish(std::move(f));
        refused += r.ec == errc::auth_failed ? 1 : 0;
    }
    for (int i = 0; i < 30; ++i) sent_away += p.run(wrong, "true").ec == errc::host_backing_off ? 1 : 0;
    CHECK(refused == 30);
    CHECK(sent_away == 30);
    CHECK(sshd.tcp_connections() == 1);
    CHECK(p.run(to(sshd), "echo others").result.out == "others\n");
    CHECK(sshd.tcp_connections() == 2);
    const auto text = p.pool.explain(wrong.key());
    INFO(text);
    CHECK(text.find("connected") != std::string::npos);
    CHECK(text.find("refused this login as SHA256:") != std::string::npos);
}

TEST_CASE("however many identities are refused, sshd is never asked so often that its penalties lock this address out", "[ssh][pressure]") {
    support::sshd_server sshd;  // from 9.8 on it keeps penalties as it comes: 5 s for a refusal, and nobody gets in from 15 s on
    pool_params params;
    params.acquire_timeout = 12s;
    running_pool p{params};
    REQUIRE_FALSE(p.run(to(sshd), "true").ec);  // who has logged in there before is let in beside those who never have
    p.pool.invalidate(to(sshd).key());
    std::vector<std::future<running_pool::run_outcome>> strangers;
    for (int i = 0; i < 12; ++i) {
        const target wrong{sshd.address(), credentials::private_key_file(sshd.make_stranger_key()), host_key_policy::known_hosts(sshd.known_hosts())};
        strangers.push_back(p.start(wrong, "true"));
    }
    const auto start = std::chrono::steady_clock::now();
    std::size_t logins = 0;
    while (seconds_since(start) < 12.5) {
        const auto r = p.run(to(sshd), "true");
        INFO(r.info.text);
        CHECK_FALSE(r.ec);
        ++logins;
        p.pool.invalidate(to(sshd).key());
        std::this_thread::sleep_for(500ms);
    }
    std::size_t refused = 0;
    for (auto& f : strangers) {
        const auto r = running_pool::finish(std::move(f));
        refused += r.ec == errc::auth_failed ? 1 : 0;
        CHECK(r.ec);
    }
    std::printf("12 refused identities, 12 s: %zu refused by sshd, %zu logins beside them\n", refused, logins);
    CHECK(refused >= 3);
    CHECK(refused <= 4);  // 13 s of penalties at the most, of which 12 pass
    CHECK(sshd.accepted_logins() == 1 + logins);
    CHECK(sshd.count_in_log("drop connection") == 0);
}

TEST_CASE("explain names the option of a jump host that forwards nothing", "[ssh][pressure]") {
    support::sshd_server server, bastion{{"AllowTcpForwarding no"}};
    running_pool p;
    const auto behind = to(server).via(to(bastion));
    CHECK(p.run(behind, "true").ec == errc::jump_failed);
    const auto text = p.pool.explain(behind.key());
    INFO(text);
    CHECK(text.find("jump_failed (jump host): ") != std::string::npos);
    CHECK(text.find("administratively prohibited") != std::string::npos);
    CHECK(text.find("(sshd's AllowTcpForwarding and PermitOpen)") != std::string::npos);
}

TEST_CASE("a host that is kept warm is there for every command, across its TTL", "[ssh][pressure]") {
    support::sshd_server sshd;
    pool_params params;
    params.connection_ttl = 1s * support::slowness;
    params.idle_timeout = 200ms;
    running_pool p{params};
    p.pool.keep_warm(std::vector{to(sshd)});
    REQUIRE(support::wait_until([&] { return p.pool.get_stats().idle == 1; }));
    const auto start = std::chrono::steady_clock::now();
    while (seconds_since(start) < 3.0 * support::slowness) {
        REQUIRE_FALSE(p.run(to(sshd), "true").ec);
        std::this_thread::sleep_for(50ms);
    }
    const auto s = p.pool.get_stats();
    CHECK(s.misses == 0);
    CHECK(s.connections_closed[close_reason::ttl] >= 2);
    CHECK(s.connections_closed[close_reason::idle] == 0);
    CHECK(p.pool.explain(to(sshd).key()).find("kept connected") != std::string::npos);
}

TEST_CASE("a host that is kept warm is there again after a loss, before anybody asks", "[ssh][pressure]") {
    support::sshd_server sshd;
    pool_params params;
    params.idle_timeout = 200ms;
    running_pool p{params};
    p.pool.keep_warm(std::vector{to(sshd)});
    REQUIRE(support::wait_until([&] { return p.pool.get_stats().idle == 1; }));
    sshd.kill_sessions();
    REQUIRE(support::wait_until([&] {
        const auto now = p.pool.get_stats();
        return now.idle == 1 && now.connections_created == 2;
    }));
    CHECK(p.pool.get_stats().connections_closed[close_reason::lost] == 1);
    CHECK_FALSE(p.run(to(sshd), "true").ec);
    CHECK(p.pool.get_stats().misses == 0);
    p.pool.forget_warm(to(sshd).key());
    CHECK(support::wait_until([&] { return p.pool.get_stats().pool_size == 0; }));
}

TEST_CASE("a connected event tells how long each part of the connect took, which is how long it took in all", "[ssh][pressure]") {
    support::sshd_server sshd;
    constexpr auto round_trip = 100ms;  // long beside what lies between the parts
    support::delay_proxy proxy{sshd.host(), sshd.port(), round_trip};
    event_log log;
    pool_params params;
    params.on_event = log.listener();
    running_pool p{params};
    const target named{sshd.user(), "localhost", proxy.port(), credentials::private_key_file(sshd.client_key()), host_key_policy::pinned(sshd.fingerprint())};
    const auto start = std::chrono::steady_clock::now();
    const auto r = p.get(named);
    const std::chrono::nanoseconds whole = std::chrono::steady_clock::now() - start;
    INFO(r.info.text);
    REQUIRE_FALSE(r.ec);
    REQUIRE(support::wait_until([&] { return log.count(event_kind::connected) == 1; }));
    const auto took = log.told(event_kind::connected).front().phases;
    CHECK(took.resolve > 0ns);
    CHECK(took.tcp > 0ns);
    CHECK(took.key_exchange >= round_trip);
    CHECK(took.login >= round_trip);
    CHECK(took.total() <= whole);
    CHECK(took.total() >= whole / 2);  // the rest is this machine's
}

TEST_CASE("a connect_failed event tells of the parts that were done before the failure, and of none behind it", "[ssh][pressure]") {
    support::sshd_server sshd;
    const support::fault_server silent{support::fault::silence};
    struct {
        const char* phase;
        std::size_t done, begun;  // of resolve, tcp, key exchange and login
        target to;
    } const failing[] = {
        {"tcp", 1, 2, {"root", "localhost", support::free_port(), credentials::password("x"), host_key_policy::accept_any()}},
        {"banner", 2, 3, {"root", "localhost", silent.port(), credentials::password("x"), host_key_policy::accept_any()}},
        {"host key", 3, 3, {"root", "localhost", sshd.port(), credentials::password("x"), host_key_policy::known_hosts("/dev/null")}},
        {"login", 3, 4, {sshd.user(), "localhost", sshd.port(), credentials::private_key_file(sshd.make_stranger_key()), host_key_policy::accept_any()}},
    };
    event_log log;
    pool_params params;
    params.on_event = log.listener();
    params.connect_timeout = 1s * support::slowness;
    running_pool p{params};
    for (const auto& [phase, done, begun, to] : failing) {
        INFO(phase);
        const auto before = log.count(event_kind::connect_failed);
        const auto start = std::chrono::steady_clock::now();
        CHECK(p.get(to).info.phase == phase);
        const std::chrono::nanoseconds whole = std::chrono::steady_clock::now() - start;
        REQUIRE(support::wait_until([&] { return log.count(event_kind::connect_failed) == before + 1; }));
        const auto took = log.told(event_kind::connect_failed).back().phases;
        const std::array parts{took.resolve, took.tcp, took.key_exchange, took.login};
        for (std::size_t i = 0; i < parts.size(); ++i) {
            CAPTURE(i);
            CHECK(parts[i] >= 0ns);
            if (i < done) CHECK(parts[i] > 0ns);
            if (i >= begun) CHECK(parts[i] == 0ns);
        }
        CHECK(took.total() <= whole);
    }
}
