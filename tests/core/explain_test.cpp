// What a person reads who asks the pool about a host: word for word, one situation a test.

#include "core/core_world.hpp"
#include "support/catch.hpp"

using namespace core_test;

namespace {

target as(const std::string& label, const std::string& address = "root@a", const std::string& secret = "hunter2") {
    auto login = credentials::password(secret);
    login.as_principal(label);
    return {address, login, host_key_policy::accept_any()};
}
const target a = as("alice");
const target b = as("bob");

pool_params params(void (*set)(pool_params&) = [](pool_params&) {}) {
    pool_params p;
    p.ttl_jitter = 0;
    set(p);
    return p;
}

struct world : core_world {
    using core_world::core_world;

    /// As `ask`; gives the place that explain names.
    std::string asks(waiter_id id, const target& to, std::source_location where = std::source_location::current()) {
        ask(id, to, asking::by_policy, where);
        return "explain_test.cpp:" + std::to_string(where.line());
    }
    std::string explain(std::string_view key = "root@a:22") const { return core.explain(key, now); }
    lines fails(connection_id id, errc what, const std::string& phase, const std::string& text) {
        return open_failed(id, {make_error(what), a.key(), phase, text});
    }
    lines refused(connection_id id) { return fails(id, errc::connect_failed, "tcp", "root@a:22 could not be reached: connection refused"); }
    lines dropped(connection_id id) {
        return fails(id, errc::server_busy, "banner", "root@a:22 takes no more logins at the moment; it said: Exceeded MaxStartups");
    }
    lines denied(connection_id id) { return fails(id, errc::auth_failed, "login", "root@a:22 refused the login as user root; the password was refused"); }
};

}  // namespace

TEST_CASE("explain: of a host that nobody asked for nothing is known", "[core][explain]") {
    CHECK(world{}.explain() ==
          "root@a:22: nothing is known of it\n"
          "  pool 0/50 (0 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: who holds what, since when, and from which line of the program", "[core][explain]") {
    world w{params([](pool_params& p) { p.health_check_interval = 0ms; })};
    const auto first = w.asks(1, a);
    w.opened(1, 40ms);
    w.pass(90s);
    const auto second = w.asks(2, a);
    w.pass(60s);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 1: leased, open for 2 min 30 s, 2/8 leases, lent 2 times, expires in 2 min 30 s\n"
          "    held for 2 min 30 s by " +
              first +
              "\n"
              "    held for 60.0 s by " +
              second +
              "\n"
              "  so far lent 2 times, 50 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.040 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 0 waiting\n");
    w.give_back(1);
    w.give_back(2);
    w.pass(10s);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 1: idle, open for 2 min 40 s, 0/8 leases, lent 2 times, idle for 10.0 s, expires in 2 min 20 s\n"
          "  so far lent 2 times, 50 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.040 s, a lease is held for 2 min 18 s\n"
          "  pool 1/50 (0 in use, 0 connecting, 1 idle), 0 waiting\n");
}

TEST_CASE("explain: what a queue waits for, for how long, and for how long yet", "[core][explain]") {
    world w{params([](pool_params& p) { p.leases_per_connection = 1, p.max_connections_per_host = 1; })};
    const auto first = w.asks(1, a);
    w.pass(2s);
    CHECK(w.explain() ==
          "root@a:22: connecting, 1/1 connections, 1 waiting\n"
          "  connection 1: connecting for 2.0 s\n"
          "  queue: 1 waiting, the oldest for 2.0 s (28.0 s left) from " +
              first +
              ", for the connect under way\n"
              "  pool 1/50 (0 in use, 1 connecting), 1 waiting\n");
    w.opened(1);
    const auto second = w.asks(2, a);
    w.ask(3, a);
    w.pass(5s);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/1 connections, 2 waiting\n"
          "  connection 1: leased, open for 5.0 s, 1/1 leases, lent 1 time, expires in 4 min 55 s\n"
          "    held for 5.0 s by " +
              first +
              "\n"
              "  queue: 2 waiting, the oldest for 5.0 s (25.0 s left) from " +
              second +
              ", for a connection to root@a:22 to go: 1/1 there (pool_params::max_connections_per_host)\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 2 waiting\n");
}

TEST_CASE("explain: a host that fails is left alone, and the text says why and until when", "[core][explain]") {
    world w{params([](pool_params& p) { p.when_backing_off = backing_off_policy::wait; })};
    for (connection_id id = 1; id <= 3; ++id) {
        w.ask(id, a);
        w.refused(id);
        if (id < 3) w.pass(600ms);
    }
    w.pass(100ms);
    const auto line = w.asks(4, a);
    w.pass(100ms);
    CHECK(w.explain() ==
          "root@a:22: backing off, 0/2 connections, 1 waiting\n"
          "  could not be reached 0.2 s ago, 3 times in a row, and is not tried again for 0.6 s (pool_params::backoff_initial)\n"
          "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
          "  queue: 1 waiting, the oldest for 0.1 s (29.9 s left) from " +
              line +
              ", for the next try in 0.6 s\n"
              "  pool 0/50 (0 in use, 0 connecting), 1 waiting\n");
    CHECK(w.explain("admin@a:22") ==
          "admin@a:22: backing off\n"
          "  could not be reached 0.2 s ago, 3 times in a row, and is not tried again for 0.6 s (pool_params::backoff_initial)\n"
          "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
          "  pool 0/50 (0 in use, 0 connecting), 1 waiting\n");  // another user of the same host
    w.pass(20s);
    w.opened(4);
    w.pass(2h);
    CHECK(w.explain() ==
          "root@a:22: draining, 1/2 connections, 0 waiting\n"
          "  connection 4: leased, draining (ttl), open for 2 h, 1/8 leases, lent 1 time\n"
          "    held for 2 h by " +
              line +
              "\n"
              "  failed 3 times, last 2 h ago\n"
              "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 3 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: a refused login keeps only its own credentials away", "[core][explain]") {
    world w{params()};
    w.ask(1, a);
    w.denied(1);
    w.pass(3s);
    CHECK(w.explain() ==
          "root@a:22: login refused, 0/2 connections, 0 waiting\n"
          "  refused this login as alice 3.0 s ago, and is not tried again for 27.0 s (pool_params::auth_cooldown); other credentials may try\n"
          "    auth_failed (login): root@a:22 refused the login as user root; the password was refused\n"
          "    see its sshd_config: AuthorizedKeysFile, AllowUsers and PermitRootLogin (who may log in), PerSourcePenalties (whom sshd locks out for a while)\n"
          "  pool 0/50 (0 in use, 0 connecting), 0 waiting\n");
    w.ask(2, b);
    w.opened(2);
    w.give_back(2);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  refused this login as alice 3.0 s ago, and is not tried again for 27.0 s (pool_params::auth_cooldown); other credentials may try\n"
          "    auth_failed (login): root@a:22 refused the login as user root; the password was refused\n"
          "    see its sshd_config: AuthorizedKeysFile, AllowUsers and PermitRootLogin (who may log in), PerSourcePenalties (whom sshd locks out for a while)\n"
          "  connection 2: idle, open for 0.0 s, 0/8 leases, lent 1 time, idle for 0.0 s, expires in 5 min\n"
          "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 1 failed; a connect takes 0.0 s, a lease is held for 0.0 s\n"
          "  pool 1/50 (0 in use, 0 connecting, 1 idle), 0 waiting\n");
}

TEST_CASE("explain: an sshd that drops logins before its banner, and the option to look at", "[core][explain]") {
    world w{params()};
    const auto line = w.asks(1, a);
    w.dropped(1);
    w.pass(1s);
    w.dropped(2);
    w.pass(100ms);
    CHECK(w.explain() ==
          "root@a:22: the server is busy, 0/2 connections, 1 waiting\n"
          "  sshd dropped a login before its banner 0.1 s ago: retry 2 of 3 (pool_params::max_busy_retries) begins in 0.4 s, until it recovers with 1 "
          "handshake at once\n"
          "    see its sshd_config: MaxStartups and PerSourceMaxStartups (how many may log in at once), PerSourcePenalties (whom sshd locks out for a while)\n"
          "  queue: 1 waiting, the oldest for 1.1 s (28.9 s left) from " +
              line +
              ", for the busy server: the next try in 0.4 s\n"
              "  failed 2 times, last 0.1 s ago\n"
              "    server_busy (banner): root@a:22 takes no more logins at the moment; it said: Exceeded MaxStartups\n"
              "  pool 0/50 (0 in use, 0 connecting), 1 waiting\n");
    w.pass(2s);
    w.opened(3);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  sshd dropped a login before its banner 2.1 s ago, until it recovers with 2 handshakes at once\n"
          "    see its sshd_config: MaxStartups and PerSourceMaxStartups (how many may log in at once), PerSourcePenalties (whom sshd locks out for a while)\n"
          "  connection 3: leased, open for 0.0 s, 1/8 leases, lent 1 time, expires in 5 min\n"
          "    held for 0.0 s by " +
              line +
              "\n"
              "  failed 2 times, last 2.1 s ago\n"
              "    server_busy (banner): root@a:22 takes no more logins at the moment; it said: Exceeded MaxStartups\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 2 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: how near sshd is to locking this address out", "[core][explain]") {
    world w{params()};
    w.ask(1, a);
    w.ask(2, b);
    w.denied(1);
    w.denied(2);
    w.pass(1s);
    const auto line = w.asks(3, as("carol"));
    CHECK(w.explain() ==
          "root@a:22: login refused, 0/2 connections, 1 waiting\n"
          "  refused this login as bob 1.0 s ago, and is not tried again for 29.0 s (pool_params::auth_cooldown); other credentials may try\n"
          "    auth_failed (login): root@a:22 refused the login as user root; the password was refused\n"
          "    see its sshd_config: AuthorizedKeysFile, AllowUsers and PermitRootLogin (who may log in), PerSourcePenalties (whom sshd locks out for a while)\n"
          "  refused this login as alice 1.0 s ago, and is not tried again for 29.0 s (pool_params::auth_cooldown); other credentials may try\n"
          "    auth_failed (login): root@a:22 refused the login as user root; the password was refused\n"
          "  sshd counts 9.0 s of penalties against this address and locks it out at 15 s: the next login that may be refused waits for 4.0 s\n"
          "    see its sshd_config: PerSourcePenalties\n"
          "  queue: 1 waiting, the oldest for 0.0 s (30.0 s left) from " +
              line +
              ", for the next try in 4.0 s\n"
              "  pool 0/50 (0 in use, 0 connecting), 1 waiting\n");
}

TEST_CASE("explain: that the network is down and it is probably us stands on top of every host", "[core][explain]") {
    world w{params()};
    for (connection_id id = 1; id <= 6; ++id) {
        w.ask(id, as("alice", "root@" + std::string(1, static_cast<char>('`' + id))));
        w.open_failed(id, {make_error(errc::connect_timeout), "", "tcp", "no answer"});
        w.pass(1s);
    }
    CHECK(w.explain("root@z:22") ==
          "root@z:22: nothing is known of it\n"
          "  the network seems to be down, it is probably us: 6 hosts could not be reached one after another, and nothing was heard from any for 6.0 s\n"
          "  pool 0/50 (0 in use, 0 connecting), 0 waiting\n");
    w.pass(300s);
    CHECK(w.explain() ==
          "root@a:22: not connected, 0/2 connections, 0 waiting\n"
          "  the network seems to be down, it is probably us: 6 hosts could not be reached one after another, and nothing was heard from any for 5 min 6 s\n"
          "  failed 5 min 6 s ago\n"
          "    connect_timeout (tcp): no answer\n"
          "  pool 0/50 (0 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: a host that is kept connected, and what keeps it from being so", "[core][explain]") {
    world w{params([](pool_params& p) { p.max_connections = 1; })};
    w.keep_warm({a});
    w.opened(1);
    w.pass(10s);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  kept connected, its replacement is opened in 4 min 35 s\n"
          "  connection 1: idle, open for 10.0 s, 0/8 leases, lent 0 times, idle for 10.0 s, expires in 4 min 50 s\n"
          "  pool 1/1 (0 in use, 0 connecting, 1 idle), 0 waiting\n");
    w.lose(1);
    w.closed(1);
    CHECK(w.explain() ==
          "root@a:22: not connected, 0/2 connections, 0 waiting\n"
          "  kept connected, next connect in 0.1 s\n"
          "  failed 0.0 s ago\n"
          "    connection_lost (command): reset\n"
          "    see its sshd_config: ClientAliveInterval and ClientAliveCountMax (when sshd gives up a client), ChannelTimeout\n"
          "  pool 0/1 (0 in use, 0 connecting), 0 waiting\n");
    w.pass(1s);
    w.refused(2);
    CHECK(w.explain() ==
          "root@a:22: backing off, 0/2 connections, 0 waiting\n"
          "  could not be reached 0.0 s ago, and is not tried again for 0.2 s (pool_params::backoff_initial)\n"
          "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
          "  kept connected, next connect in 0.2 s\n"
          "  failed 1.0 s ago\n"
          "    connection_lost (command): reset\n"
          "    see its sshd_config: ClientAliveInterval and ClientAliveCountMax (when sshd gives up a client), ChannelTimeout\n"
          "  pool 0/1 (0 in use, 0 connecting), 0 waiting\n");
    const auto other = as("alice", "root@b");
    w.ask(1, other);
    w.opened(3);
    w.pass(1s);
    CHECK(w.explain() ==
          "root@a:22: not connected, 0/2 connections, 0 waiting\n"
          "  kept connected, waits for a free place in the pool: 1/1 taken (pool_params::max_connections)\n"
          "  failed 1.0 s ago\n"
          "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
          "  failed 2.0 s ago\n"
          "    connection_lost (command): reset\n"
          "    see its sshd_config: ClientAliveInterval and ClientAliveCountMax (when sshd gives up a client), ChannelTimeout\n"
          "  pool 1/1 (1 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: a limit that the server taught, and sshd's name for it", "[core][explain]") {
    world w{params([](pool_params& p) { p.max_connections_per_host = 1; })};
    const auto line = w.asks(1, a);
    w.opened(1);
    w.capacity(1, 1);
    const auto another = w.asks(2, a);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/1 connections, 1 waiting\n"
          "  connection 1: leased, open for 0.0 s, 1/1 leases, lent 1 time, expires in 5 min\n"
          "    the server allows it 1 lease at once\n"
          "    see its sshd_config: MaxSessions\n"
          "    held for 0.0 s by " +
              line +
              "\n"
              "  queue: 1 waiting, the oldest for 0.0 s (30.0 s left) from " +
              another +
              ", for a connection to root@a:22 to go: 1/1 there (pool_params::max_connections_per_host)\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 1 waiting\n");
}

TEST_CASE("explain: a limit that the server taught is told also while nothing is connected", "[core][explain]") {
    world w{params([](pool_params&) {})};
    w.asks(1, a);
    w.opened(1);
    w.capacity(1, 3);
    w.give_back(1);
    w.lose(1);
    w.closed(1);
    const auto text = w.explain();
    INFO(text);
    CHECK(text.find("root@a:22: not connected") == 0);
    CHECK(text.find("  the server allows a connection 3 leases at once\n    see its sshd_config: MaxSessions\n") != std::string::npos);
}

TEST_CASE("explain: a lease that is held for too long, with the place that asked for it", "[core][explain]") {
    world w{params([](pool_params& p) { p.max_lease_time = 60s, p.connection_ttl = 0ms; })};
    const auto line = w.asks(1, a);
    w.opened(1);
    w.pass(59s);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 1: leased, open for 59.0 s, 1/8 leases, lent 1 time\n"
          "    held for 59.0 s by " +
              line +
              "\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 0 waiting\n");
    w.pass(26h);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 1: leased, open for 26 h, 1/8 leases, lent 1 time\n"
          "    held for 26 h by " +
              line +
              ": too long (pool_params::max_lease_time)\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (1 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: a connection that fails is told with the server's own words and the option behind it", "[core][explain]") {
    world w{params()};
    w.ask(1, a);
    w.fails(1, errc::handshake_failed, "key exchange", "root@a:22 said: no matching cipher");
    w.pass(1s);
    w.ask(2, a);
    w.fails(2, errc::connect_timeout, "login", "root@a:22 was not connected to within 15000 ms: no answer in phase \"login\"");
    w.pass(1s);
    const auto line = w.asks(3, a);
    w.opened(3);
    w.lose(3);
    w.pass(1s);
    CHECK(w.explain() ==
          "root@a:22: closing, 1/2 connections, 0 waiting\n"
          "  connection 3: closing (lost), open for 1.0 s, 1/8 leases, lent 1 time\n"
          "    held for 1.0 s by " +
              line +
              "\n"
              "  failed 1.0 s ago\n"
              "    connection_lost (command): reset\n"
              "    see its sshd_config: ClientAliveInterval and ClientAliveCountMax (when sshd gives up a client), ChannelTimeout\n"
              "  failed 2.0 s ago\n"
              "    connect_timeout (login): root@a:22 was not connected to within 15000 ms: no answer in phase \"login\"\n"
              "    see its sshd_config: LoginGraceTime (how long a login may take), UseDNS and UsePAM (what makes it slow)\n"
              "  failed 3.0 s ago\n"
              "    handshake_failed (key exchange): root@a:22 said: no matching cipher\n"
              "    see its sshd_config: KexAlgorithms, Ciphers, MACs and HostKeyAlgorithms (what both sides must have in common)\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 2 failed; a connect takes 0.0 s\n"
              "  pool 1/50 (0 in use, 0 connecting, 1 closing), 0 waiting\n");
    // A fourth sort is one too many: the one that is oldest goes. The same sort again counts.
    w.closed(3);
    w.ask(4, a);
    w.refused(4);
    w.pass(10s);
    w.ask(5, a);
    w.refused(5);
    w.pass(10s);
    CHECK(w.explain() ==
          "root@a:22: not connected, 0/2 connections, 0 waiting\n"
          "  failed 2 times, last 10.0 s ago\n"
          "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
          "  failed 21.0 s ago\n"
          "    connection_lost (command): reset\n"
          "    see its sshd_config: ClientAliveInterval and ClientAliveCountMax (when sshd gives up a client), ChannelTimeout\n"
          "  failed 22.0 s ago\n"
          "    connect_timeout (login): root@a:22 was not connected to within 15000 ms: no answer in phase \"login\"\n"
          "    see its sshd_config: LoginGraceTime (how long a login may take), UseDNS and UsePAM (what makes it slow)\n"
          "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 4 failed; a connect takes 0.0 s\n"
          "  pool 0/50 (0 in use, 0 connecting), 0 waiting\n");
}

TEST_CASE("explain: a connection beside the pool, and one that drains", "[core][explain]") {
    world w{params([](pool_params& p) { p.max_connections = 1, p.leases_per_connection = 1, p.when_full = full_policy::open_unpooled; })};
    const auto line = w.asks(1, a);
    w.opened(1);
    const auto another = w.asks(2, a);
    CHECK(w.explain() ==
          "root@a:22: connected, 2/2 connections, 1 waiting\n"
          "  connection 1: leased, open for 0.0 s, 1/1 leases, lent 1 time, expires in 5 min\n"
          "    held for 0.0 s by " +
              line +
              "\n"
              "  connection 2: connecting for 0.0 s, beside the pool (pool_params::when_full)\n"
              "  queue: 1 waiting, the oldest for 0.0 s (30.0 s left) from " +
              another +
              ", for a connection beside the pool\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 1/1 (1 in use, 0 connecting), 1 waiting, 1 beside the pool\n");
    w.opened(2);
    w.invalidate("root@a:22");
    CHECK(w.explain() ==
          "root@a:22: draining, 2/2 connections, 0 waiting\n"
          "  connection 1: leased, draining (invalidated), open for 0.0 s, 1/1 leases, lent 1 time\n"
          "    held for 0.0 s by " +
              line +
              "\n"
              "  connection 2: leased, beside the pool (pool_params::when_full), open for 0.0 s, 1/1 leases, lent 1 time\n"
              "    held for 0.0 s by " +
              another +
              "\n"
              "  so far lent 2 times, 0 % without a connect; connects: 2 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 1/1 (1 in use, 0 connecting), 0 waiting, 1 beside the pool\n");
    w.give_back(1);
    w.give_back(2);
    CHECK(w.explain() ==
          "root@a:22: closing, 2/2 connections, 0 waiting\n"
          "  connection 1: closing (invalidated), open for 0.0 s, 0/1 leases, lent 1 time, idle for 0.0 s\n"
          "  connection 2: closing (discarded), open for 0.0 s, 0/1 leases, lent 1 time, idle for 0.0 s\n"
          "  so far lent 2 times, 0 % without a connect; connects: 2 worked, 0 failed; a connect takes 0.0 s, a lease is held for 0.0 s\n"
          "  pool 1/1 (0 in use, 0 connecting, 1 closing), 0 waiting, 1 beside the pool\n");
}

TEST_CASE("explain: after the machine slept a connection is checked first", "[core][explain]") {
    world w{params()};
    w.ask(1, a);
    w.opened(1);
    w.give_back(1);
    w.suspended(1s);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 1: idle, to be checked before it is lent, for the machine slept, open for 0.0 s, 0/8 leases, lent 1 time, idle for 0.0 s, expires in 4 "
          "min 59 s\n"
          "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s, a lease is held for 0.0 s\n"
          "  pool 1/50 (0 in use, 0 connecting, 1 idle), 0 waiting\n");
    const auto line = w.asks(2, a);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 1 waiting\n"
          "  connection 1: idle, health check under way, open for 0.0 s, 0/8 leases, lent 1 time, idle for 0.0 s, expires in 4 min 59 s\n"
          "  queue: 1 waiting, the oldest for 0.0 s (30.0 s left) from " +
              line +
              ", for a health check\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s, a lease is held for 0.0 s\n"
              "  pool 1/50 (0 in use, 0 connecting, 1 idle), 1 waiting\n");
}

TEST_CASE("explain: the way through a jump host, and what stands against it", "[core][explain]") {
    world w{params([](pool_params& p) { p.when_backing_off = backing_off_policy::wait; })};
    const auto jump = as("alice", "ops@jump");
    auto behind = a;
    behind.via(jump);
    const auto another = w.asks(1, behind);
    CHECK(w.explain() ==
          "root@a:22: connecting, 1/2 connections, 1 waiting\n"
          "  connection 2: reserved, opens when the jump host is open, through ops@jump:22 (connection 1)\n"
          "  queue: 1 waiting, the oldest for 0.0 s (30.0 s left) from " +
              another +
              ", for the jump host to be open\n"
              "  pool 2/50 (0 in use, 2 connecting), 1 waiting\n");
    w.opened(1);
    w.opened(2);
    CHECK(w.explain() ==
          "root@a:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 2: leased, open for 0.0 s, 1/8 leases, lent 1 time, expires in 5 min, through ops@jump:22 (connection 1)\n"
          "    held for 0.0 s by " +
              another +
              "\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 2/50 (1 in use, 0 connecting, 1 idle), 0 waiting\n");
    CHECK(w.explain("ops@jump:22") ==
          "ops@jump:22: connected, 1/2 connections, 0 waiting\n"
          "  connection 1: idle, open for 0.0 s, 0/8 leases, lent 0 times, idle for 0.0 s, expires in 5 min, jump host of 1\n"
          "  pool 2/50 (1 in use, 0 connecting, 1 idle), 0 waiting\n");
    w.lose(1);
    w.closed(1);
    w.closed(2);
    w.ask(2, behind);
    w.refused(3);
    w.pass(100ms);
    const auto line = w.asks(3, behind);
    CHECK(w.explain() ==
          "root@a:22: not connected, 0/2 connections, 1 waiting\n"
          "  its jump host ops@jump:22 could not be reached 0.1 s ago, and is not tried again for 0.1 s (pool_params::backoff_initial)\n"
          "    connect_failed (tcp): root@a:22 could not be reached: connection refused\n"
          "  queue: 1 waiting, the oldest for 0.0 s (30.0 s left) from " +
              line +
              ", for the next try in 0.1 s\n"
              "  failed 0.1 s ago\n"
              "    jump_failed (jump host): the jump host ops@jump:22 could not be used: root@a:22 could not be reached: connection refused\n"
              "  so far lent 1 time, 0 % without a connect; connects: 1 worked, 0 failed; a connect takes 0.0 s\n"
              "  pool 0/50 (0 in use, 0 connecting), 1 waiting\n");
}

TEST_CASE("explain: every limit that holds a connect up is named with its parameter", "[core][explain]") {
    const auto queue_of = [](const std::string& text) {
        const auto from = text.find("left)");
        const auto at = text.find(", for ", from);
        return from == std::string::npos ? std::string{} : text.substr(at + 2, text.find('\n', at) - at - 2);
    };
    SECTION("handshakes of the pool") {
        world w{params([](pool_params& p) { p.max_handshakes = 1; })};
        w.ask(1, as("alice", "root@b"));
        w.ask(2, a);
        CHECK(queue_of(w.explain()) == "for a handshake: 1/1 under way (pool_params::max_handshakes)");
    }
    SECTION("handshakes of the host") {
        world w{params([](pool_params& p) { p.max_handshakes_per_host = 1; })};
        w.ask(1, as("alice", "admin@a"));
        w.ask(2, a);
        CHECK(queue_of(w.explain()) == "for a handshake with a:22: 1/1 under way (pool_params::max_handshakes_per_host)");
    }
    SECTION("logins to a host that may be refused") {
        world w{params()};
        w.ask(1, b);
        w.ask(2, as("carol"));
        w.ask(3, as("alice", "admin@a"));
        CHECK(queue_of(w.explain("admin@a:22")) ==
              "for other logins to a:22 to end: 2 under way that might be refused, and sshd locks out who is refused too often (PerSourcePenalties)");
    }
    SECTION("connections of the key") {
        world w{params([](pool_params& p) { p.max_connections_per_host = 1; })};
        w.ask(1, b);
        w.opened(1);
        w.ask(2, a);
        CHECK(queue_of(w.explain()) == "for a connection to root@a:22 to go: 1/1 there (pool_params::max_connections_per_host)");
    }
    SECTION("connections of the pool") {
        world w{params([](pool_params& p) { p.max_connections = 1; })};
        w.ask(1, as("alice", "root@b"));
        w.opened(1);
        w.ask(2, a);
        CHECK(queue_of(w.explain()) == "for a free place in the pool: 1/1 taken (pool_params::max_connections)");
    }
    SECTION("a health check") {
        world w{params()};
        w.ask(1, a);
        w.opened(1);
        w.give_back(1);
        w.pass(31s);
        w.ask(2, a);
        CHECK(queue_of(w.explain()) == "for a health check");
    }
    SECTION("a busy server that is given fewer handshakes") {
        world w{params([](pool_params& p) { p.max_handshakes_per_host = 2; })};
        w.ask(1, a);
        w.dropped(1);
        w.pass(300ms);
        w.ask(2, as("alice", "admin@a"));
        CHECK(queue_of(w.explain("admin@a:22")) == "for a handshake with a:22: 1/1 under way (fewer than usual, for the server was busy)");
    }
}

TEST_CASE("explain: long lists are cut, and say so", "[core][explain]") {
    world w{params([](pool_params& p) { p.leases_per_connection = 100; })};
    for (waiter_id id = 1; id <= 100; ++id) w.ask(id, a);
    w.opened(1);
    const auto text = w.explain();
    CHECK(std::count(text.begin(), text.end(), '\n') == 25);
    CHECK(text.find("    and by 80 more\n") != std::string::npos);
}

TEST_CASE("explain: no secret in any of it", "[core][explain]") {
    world w{params()};
    const target plain = host("root@a", "hunter2");
    w.ask(1, plain);
    w.denied(1);
    w.ask(2, a);
    w.opened(2);
    w.lose(2);
    w.ask(3, plain);
    INFO(w.explain());
    CHECK(w.explain().find("hmac:") != std::string::npos);  // who was refused is told by a name that is good for this process alone
    CHECK(w.explain().find("hunter2") == std::string::npos);
}

TEST_CASE("explain: a refused login is told of when nothing else is known of its host any more", "[core][explain]") {
    auto p = params();
    p.auth_cooldown = 5min;
    world w{p};
    w.ask(1, a);
    w.open_failed(1);
    for (int i = 0; i < 2000; ++i) {
        const auto id = static_cast<waiter_id>(i + 2);
        w.ask(id, host("root@other" + std::to_string(i)));
        w.cancel(id);
        w.open_failed(id, errc::connect_failed);
    }
    const auto text = w.explain();
    CHECK(text.find("root@a:22: login refused\n") == 0);
    CHECK(text.find("nothing is known of it") == std::string::npos);
}
