#include "core/core_world.hpp"
#include "support/catch.hpp"

using namespace core_test;
using lines = core_world::lines;

namespace {

const target a = host("root@a");
const target b = host("root@b");
const target c = host("root@c");

pool_params with(void (*set)(pool_params&)) {
    pool_params p;
    set(p);
    return p;
}

/// Caller 1 holds connection 1, of which nothing was heard for longer than the health check interval.
void let_fall_silent(core_world& w) {
    w.ask(1, a);
    w.opened(1);
    w.pass(31s);
}

}  // namespace

TEST_CASE("A hundred callers of one host cause one handshake", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 100; })};
    CHECK(w.ask(1, a) == lines{"open 1 to root@a:22"});
    for (waiter_id id = 2; id <= 100; ++id) CHECK(w.ask(id, a).empty());
    const auto granted = w.opened(1);
    REQUIRE(granted.size() == 100);
    CHECK(granted.front() == "grant 1 connection 1");
    CHECK(granted.back() == "grant 100 connection 1");
    CHECK(w.core.stats().misses == 100);
}

TEST_CASE("A warm connection is lent at once and counts as a hit", "[core]") {
    core_world w;
    w.ask(1, a);
    w.opened(1);
    CHECK(w.give_back(1).empty());
    CHECK(w.ask(2, a) == lines{"grant 2 connection 1"});
    CHECK(w.core.stats().hits == 1);
    CHECK(w.core.stats().misses == 1);
    CHECK(w.core.stats().hit_rate() == 0.5);
}

TEST_CASE("A connect survives the caller who caused it, and its result goes to the oldest waiter", "[core]") {
    core_world w;
    w.ask(1, a);
    w.ask(2, a);
    w.ask(3, a);
    CHECK(w.cancel(1) == lines{"fail 1 cancelled"});
    CHECK(w.cancel(1).empty());
    CHECK(w.opened(1) == lines{"grant 2 connection 1", "grant 3 connection 1"});
    w.ask(4, b);
    CHECK(w.cancel(4) == lines{"fail 4 cancelled"});
    CHECK(w.opened(2).empty());
    CHECK(w.core.stats().idle == 1);
    CHECK(w.ask(5, b) == lines{"grant 5 connection 2"});
}

TEST_CASE("A returned lease goes to the oldest waiter by name", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 1, p.max_connections_per_host = 1; })};
    w.ask(1, a);
    w.opened(1);
    CHECK(w.ask(2, a).empty());
    CHECK(w.ask(3, a).empty());
    CHECK(w.give_back(1) == lines{"grant 2 connection 1"});
    CHECK(w.give_back(2) == lines{"grant 3 connection 1"});
    CHECK(w.core.stats().hits == 2);
}

TEST_CASE("Of several connections the one with the fewest leases is lent, of equals the one used last", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 2; })};
    w.ask(1, a);
    w.opened(1);
    w.ask(2, a);
    CHECK(w.ask(3, a) == lines{"open 2 to root@a:22"});
    w.opened(2);
    w.give_back(1);
    w.give_back(2);
    w.give_back(3);
    CHECK(w.ask(4, a) == lines{"grant 4 connection 2"});
    CHECK(w.ask(5, a) == lines{"grant 5 connection 1"});
    CHECK(w.ask(6, a) == lines{"grant 6 connection 1"});
}

TEST_CASE("A further connection is opened only when the queue will not clear within a connect time", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 1; })};
    w.ask(1, a);
    w.pass(100ms);
    w.opened(1, 100ms);
    CHECK(w.ask(2, a).empty());
    w.pass(10ms);
    CHECK(w.give_back(1) == lines{"grant 2 connection 1"});  // leases are held for about 10 ms (and 110 ms would not pay)
    CHECK(w.ask(3, a).empty());
    CHECK(w.ask(4, a).empty());
    CHECK(w.pass(99ms).empty());
    CHECK(w.pass(1ms) == lines{"open 2 to root@a:22"});  // but who has waited for a connect time gets one
    for (waiter_id id = 5; id < 20; ++id) CHECK(w.ask(id, a).empty());
    CHECK(w.opened(2, 100ms) == lines{"grant 3 connection 2"});
    CHECK(w.pass(10s).empty());  // two are all that max_connections_per_host allows
}

TEST_CASE("A deep queue justifies a further connection at once", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 1; })};
    w.ask(1, a);
    w.opened(1, 100ms);
    w.pass(30ms);
    w.give_back(1);  // 30 ms each: four in the queue take longer than a connect
    w.ask(2, a);
    for (waiter_id id = 3; id < 6; ++id) CHECK(w.ask(id, a).empty());
    CHECK(w.ask(6, a) == lines{"open 2 to root@a:22"});
}

TEST_CASE("A failed extra connect is not repeated at once, and fails nobody", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 1; })};
    w.ask(1, a);
    w.opened(1);
    CHECK(w.ask(2, a) == lines{"open 2 to root@a:22"});
    CHECK(w.open_failed(2, errc::connect_failed).empty());
    CHECK(w.ask(3, a).empty());
    CHECK(w.pass(200ms - 1ns).empty());  // a fifth less than 250 ms at least
    CHECK(w.pass(50ms) == lines{"open 3 to root@a:22"});
    CHECK(w.open_failed(3, errc::connect_failed).empty());
    CHECK(w.pass(400ms - 1ns).empty());
    CHECK(w.pass(100ms) == lines{"open 4 to root@a:22"});
    CHECK(w.opened(4) == lines{"grant 2 connection 4"});
    CHECK(w.ask(4, a).empty());
    CHECK(w.give_back(2) == lines{"grant 3 connection 4"});
}

TEST_CASE("connecting + open + closing never exceed max_connections", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 2; })};
    w.ask(1, a);
    w.ask(2, b);
    CHECK(w.ask(3, c).empty());
    w.opened(1);
    w.opened(2);
    CHECK(w.lose(1) == lines{"close 1 (lost)"});
    CHECK(w.core.stats().pool_size == 2);
    CHECK(w.closed(1) == lines{"open 3 to root@c:22"});
    CHECK(w.core.stats().pool_size == 2);
}

TEST_CASE("An idle connection is evicted only once it was idle for as long as it took to open", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 2; })};
    w.ask(1, a);
    w.ask(2, b);
    w.opened(1, 20ms);
    w.opened(2, 20ms);
    w.give_back(1);
    w.pass(5ms);
    w.give_back(2);
    CHECK(w.ask(3, c).empty());
    CHECK(w.core.next_deadline() == w.now + 15ms);
    CHECK(w.pass(14ms).empty());
    CHECK(w.pass(1ms) == lines{"close 1 (lru)"});  // the one that was given back first
    CHECK(w.closed(1) == lines{"open 3 to root@c:22"});
    CHECK(w.core.stats().evictions == 1);
    CHECK(w.core.stats().evicted_before_reuse == 1);
}

TEST_CASE("After ten connect times the connection that has served longest drains for the oldest waiter", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 2, p.leases_per_connection = 2; })};
    w.ask(1, a);
    w.opened(1, 10ms);
    w.ask(2, b);
    w.opened(2, 10ms);
    CHECK(w.ask(3, c).empty());
    CHECK(w.ask(4, host("root@d")).empty());
    CHECK(w.pass(99ms).empty());
    CHECK(w.ask(5, a) == lines{"grant 5 connection 1"});  // until then its host is served on
    CHECK(w.pass(1ms).empty());
    REQUIRE(w.events(event_kind::draining).size() == 1);
    CHECK(w.events(event_kind::draining)[0].connection_id == 1);
    CHECK(w.ask(6, a).empty());  // queues behind the waiter
    CHECK(w.pass(1s).empty());   // one drain at a time, however long it takes
    CHECK(w.events(event_kind::draining).empty());
    CHECK(w.give_back(1).empty());
    CHECK(w.give_back(5) == lines{"close 1 (lru)"});
    CHECK(w.closed(1) == lines{"open 3 to root@c:22"});
    CHECK(w.opened(3, 10ms) == lines{"grant 3 connection 3"});
    REQUIRE(w.events(event_kind::draining).size() == 1);  // the next, now that the former's waiter was served
    CHECK(w.events(event_kind::draining)[0].connection_id == 2);
}

TEST_CASE("Under fail an idle connection goes at once, and without one the caller is told at once", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 1, p.when_full = full_policy::fail; })};
    w.ask(1, a);
    CHECK(w.ask(2, b) == lines{"fail 2 pool_exhausted"});
    w.opened(1, 1s);
    CHECK(w.ask(3, b) == lines{"fail 3 pool_exhausted"});
    CHECK(w.failures[3].text.find("1/1 connections") != std::string::npos);
    w.give_back(1);
    CHECK(w.ask(4, b) == lines{"close 1 (lru)"});
    CHECK(w.ask(5, c) == lines{"fail 5 pool_exhausted"});
    CHECK(w.closed(1) == lines{"open 2 to root@b:22"});
}

TEST_CASE("Under open_unpooled a caller gets a connection of its own, once, within max_unpooled", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 1, p.max_unpooled = 1, p.when_full = full_policy::open_unpooled; })};
    w.ask(1, a);
    w.opened(1);
    CHECK(w.ask(2, b) == lines{"open 2 to root@b:22"});
    CHECK(w.ask(3, c).empty());
    CHECK(w.opened(2) == lines{"grant 2 connection 2"});
    CHECK(w.events(event_kind::unpooled).size() == 1);
    CHECK(w.core.stats().pool_size == 1);
    CHECK(w.core.stats().unpooled_connections == 1);
    CHECK(w.give_back(2) == lines{"close 2 (discarded)"});
    CHECK(w.closed(2) == lines{"open 3 to root@c:22"});
}

TEST_CASE("A caller who will not wait gets what can be lent now, or nothing, and causes no connect", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 1; })};
    CHECK(w.ask(1, a, asking::now_or_never) == lines{"fail 1 pool_exhausted"});
    w.ask(2, a);
    w.opened(1);
    CHECK(w.ask(3, a, asking::now_or_never) == lines{"fail 3 pool_exhausted"});
    w.give_back(2);
    CHECK(w.ask(4, a, asking::now_or_never) == lines{"grant 4 connection 1"});
}

TEST_CASE("A connection that was silent for too long is probed before it is lent", "[core]") {
    core_world w{with([](pool_params& p) { p.idle_timeout = 0ms; })};
    let_fall_silent(w);
    w.ask(2, a);  // another lease on a silent connection
    CHECK(w.last.size() == 1);
    CHECK(std::get<act::probe>(w.last.front()).connection == 1);
    CHECK(w.ask(3, a).empty());  // covered by the probe
    CHECK(w.probed(1) == lines{"grant 2 connection 1", "grant 3 connection 1"});
    w.give_back(1);
    w.give_back(2);
    w.give_back(3);
    CHECK(w.pass(29s).empty());
    CHECK(w.pass(1s) == lines{"probe 1"});  // an idle one also without a caller
    w.ask(4, a);
    CHECK(w.probed(1, false) == lines{"close 1 (unhealthy)", "open 2 to root@a:22"});
    CHECK(w.core.stats().health_check_failures == 1);
    CHECK(w.events(event_kind::probe_failed).size() == 1);
    CHECK(w.opened(2) == lines{"grant 4 connection 2"});
}

TEST_CASE("A health check that fails takes nothing from those who use the connection", "[core]") {
    core_world w{with([](pool_params& p) { p.idle_timeout = 0ms; })};
    let_fall_silent(w);
    CHECK(w.ask(2, a) == lines{"probe 1"});
    w.pass(5s);
    CHECK(w.probed(1, false) == lines{"open 2 to root@a:22"});
    CHECK(w.core.stats().health_check_failures == 1);
    CHECK(w.events(event_kind::draining).size() == 1);
    CHECK(w.opened(2) == lines{"grant 2 connection 2"});
    CHECK(w.ask(3, a) == lines{"grant 3 connection 2"});  // never lent again
    CHECK(w.give_back(1) == lines{"close 1 (unhealthy)"});
}

TEST_CASE("A server that speaks while its health check runs out of time lives", "[core]") {
    core_world w{with([](pool_params& p) { p.idle_timeout = 0ms; })};
    let_fall_silent(w);
    CHECK(w.ask(2, a) == lines{"probe 1"});
    w.pass(5s);
    CHECK(w.probed(1, false, w.now - 1s) == lines{"grant 2 connection 1"});
    CHECK(w.core.stats().health_check_failures == 0);
    w.give_back(1);
    w.give_back(2);
    w.pass(31s);
    CHECK(w.probed(1, false, w.now - 1ms) == lines{"close 1 (unhealthy)"});  // nobody uses it: one round trip takes too long there
}

TEST_CASE("A connection past its TTL is lent no more and closes when its last lease returns", "[core]") {
    core_world w{with([](pool_params& p) { p.ttl_jitter = 0, p.connection_ttl = 10s; })};
    w.ask(1, a);
    w.opened(1);
    w.ask(2, b);
    w.opened(2);
    w.give_back(2);
    CHECK(w.pass(9999ms).empty());
    CHECK(w.pass(1ms) == lines{"close 2 (ttl)"});
    CHECK(w.events(event_kind::draining).size() == 1);
    CHECK(w.ask(3, a) == lines{"open 3 to root@a:22"});
    CHECK(w.give_back(1) == lines{"close 1 (ttl)"});
}

TEST_CASE("The TTL of each connection is drawn within its jitter", "[core]") {
    core_world w{with([](pool_params& p) { p.ttl_jitter = 0.1, p.connection_ttl = 100s, p.max_connections_per_host = 1; })};
    std::set<std::int64_t> drawn;
    for (connection_id id = 1; id <= 20; ++id) {
        w.ask(id, host("root@host" + std::to_string(id)));
        w.opened(id);
        const auto life = w.core.info(id)->expires_at - w.core.info(id)->created_at;
        CHECK(life >= 90s);
        CHECK(life <= 110s);
        drawn.insert(life.count());
    }
    CHECK(drawn.size() > 15);
}

TEST_CASE("Idle time counts from the release of the last lease", "[core]") {
    core_world w{with([](pool_params& p) { p.health_check_interval = 0ms, p.connection_ttl = 0ms; })};
    w.ask(1, a);
    w.opened(1);
    CHECK(w.pass(10min).empty());
    w.give_back(1);
    CHECK(w.pass(59'999ms).empty());
    CHECK(w.pass(1ms) == lines{"close 1 (idle)"});
}

TEST_CASE("Switched off limits keep no timer", "[core]") {
    core_world w{with([](pool_params& p) { p.idle_timeout = p.connection_ttl = p.health_check_interval = 0ms; })};
    w.ask(1, a);
    w.opened(1);
    w.give_back(1);
    CHECK_FALSE(w.core.next_deadline());
    CHECK(w.pass(24h).empty());
    CHECK(w.ask(2, a) == lines{"grant 2 connection 1"});
}

TEST_CASE("A failed connect fails those who would have tried the same secret, and tries the others' own", "[core]") {
    const auto team = [](const char* secret) { return target{"root@a", credentials::password(secret).as_principal("team"), host_key_policy::accept_any()}; };
    core_world w;
    w.ask(1, team("old"));
    w.ask(2, team("new"));
    w.ask(3, team("old"));
    CHECK(w.open_failed(1) == lines{"fail 1 auth_failed", "fail 3 auth_failed", "open 2 to root@a:22"});
    CHECK(std::get<act::open>(w.last.back()).to.credential_digest() == team("new").credential_digest());
    CHECK(w.opened(2) == lines{"grant 2 connection 2"});
    CHECK(w.ask(4, team("old")) == lines{"grant 4 connection 2"});  // one principal, one door
    CHECK(w.core.stats().connect_failures[errc::auth_failed] == 1);
}

TEST_CASE("A waiter's deadline ends its wait with words that tell what it waited for", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 1; })};
    w.ask(1, a);
    w.opened(1);
    w.pass(10s);
    w.ask(2, b);
    CHECK(w.pass(29'999ms).empty());
    CHECK(w.pass(1ms) == lines{"fail 2 acquire_timeout"});
    CHECK(w.failures[2].text == "waited 30.0 s for a connection to root@b:22: pool 1/1 (1 in use, 0 connecting), 1 waiting, this host 0/2 connections");
    CHECK(w.failures[2].key == "root@b:22");
    CHECK(w.failures[2].phase == "waiting");
    CHECK(w.events(event_kind::acquire_timeout).size() == 1);
    CHECK(w.core.stats().wait_timeouts == 1);
}

TEST_CASE("What was invalidated is never lent again, and its host's waiters get a new connection", "[core]") {
    core_world w;
    w.ask(1, a);
    w.opened(1);
    w.ask(2, b);
    w.opened(2);
    w.give_back(2);
    w.ask(3, c);
    CHECK(w.close_all() == lines{"close 2 (invalidated)", "close 3 (invalidated)", "open 4 to root@c:22"});
    CHECK(w.ask(4, a) == lines{"open 5 to root@a:22"});
    CHECK(w.give_back(1) == lines{"close 1 (invalidated)"});
    CHECK(w.open_failed(3, errc::cancelled).empty());  // nobody cares how the aborted connect ended
    CHECK(w.closed(3).empty());
    CHECK(w.opened(4) == lines{"grant 3 connection 4"});
}

TEST_CASE("A revoked principal's connections go wherever they lead, the others stay", "[core]") {
    const auto as_team = [](const char* where) { return target{where, credentials::password("s").as_principal("team"), host_key_policy::accept_any()}; };
    core_world w;
    w.ask(1, as_team("root@a"));
    w.opened(1);
    w.ask(2, as_team("root@b"));
    w.opened(2);
    w.ask(3, c);
    w.opened(3);
    for (waiter_id id = 1; id <= 3; ++id) w.give_back(id);
    CHECK(w.invalidate_identity("team") == lines{"close 1 (invalidated)", "close 2 (invalidated)"});
    CHECK(w.ask(4, c) == lines{"grant 4 connection 3"});
}

TEST_CASE("A revoked label reaches credentials of which it is only a part", "[core]") {
    auto login = credentials::password("s").as_principal("team");
    login.or_else(credentials::password("t"));
    core_world w;
    w.ask(1, {"root@a", login, host_key_policy::accept_any()});
    w.opened(1);
    w.give_back(1);
    CHECK(w.invalidate_identity("team") == lines{"close 1 (invalidated)"});
}

TEST_CASE("A discarded connection is lent no more, but its other holders finish in peace", "[core]") {
    core_world w;
    w.ask(1, a);
    w.ask(2, a);
    w.opened(1);
    CHECK(w.discard(1).empty());
    CHECK(w.ask(3, a) == lines{"open 2 to root@a:22"});
    CHECK(w.give_back(1).empty());
    CHECK(w.give_back(2) == lines{"close 1 (discarded)"});
}

TEST_CASE("A lost connection closes at once, and leases that come back later are no trouble", "[core]") {
    core_world w;
    w.ask(1, a);
    w.ask(2, a);
    w.opened(1);
    CHECK(w.lose(1) == lines{"close 1 (lost)"});
    CHECK(w.give_back(1).empty());
    CHECK(w.closed(1).empty());
    CHECK(w.give_back(2).empty());
    CHECK(w.core.empty());
}

TEST_CASE("The server's own limit bounds the leases, and a tainted connection drains", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections_per_host = 1; })};
    w.ask(1, a);
    w.opened(1);
    w.ask(2, a);
    w.capacity(1, 2);
    REQUIRE(w.events(event_kind::limit_learned).size() == 1);
    CHECK(w.events(event_kind::limit_learned)[0].count == 2);
    CHECK(w.ask(3, a).empty());
    CHECK(w.give_back(1) == lines{"grant 3 connection 1"});
    CHECK(w.capacity(1, 0).empty());
    CHECK(w.ask(4, a).empty());
    CHECK(w.give_back(2).empty());
    CHECK(w.give_back(3) == lines{"close 1 (discarded)"});
    CHECK(w.closed(1) == lines{"open 2 to root@a:22"});
}

TEST_CASE("The server's own limit is remembered for the connections that follow, until the key is invalidated", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections_per_host = 1; })};
    w.ask(1, a);
    w.opened(1);
    w.capacity(1, 2);
    w.give_back(1);
    w.lose(1);
    w.closed(1);
    w.ask(2, a);
    w.ask(3, a);
    w.ask(4, a);
    CHECK(w.opened(2) == lines{"grant 2 connection 2", "grant 3 connection 2"});
    CHECK(w.events(event_kind::limit_learned).empty());
    w.give_back(2);
    w.give_back(3);
    w.give_back(4);
    CHECK(w.invalidate("root@a:22") == lines{"close 2 (invalidated)"});
    w.closed(2);
    w.ask(5, a);
    w.ask(6, a);
    w.ask(7, a);
    CHECK(w.opened(3) == lines{"grant 5 connection 3", "grant 6 connection 3", "grant 7 connection 3"});
}

TEST_CASE("An invalidation reaches also what was retired before, and what is thrown away after use", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = 1, p.max_unpooled = 1, p.when_full = full_policy::open_unpooled; })};
    w.ask(1, a);
    w.opened(1);
    w.ask(2, b);
    CHECK(w.opened(2) == lines{"grant 2 connection 2"});
    CHECK_FALSE(w.core.table().is_unfit(1));
    CHECK_FALSE(w.core.table().is_unfit(2));
    w.discard(1);
    CHECK(w.core.table().is_unfit(1));
    w.invalidate("root@b:22");
    CHECK(w.core.table().is_unfit(2));
}

TEST_CASE("Handshakes are limited per host and in total, and the oldest goes on first", "[core]") {
    core_world w{with([](pool_params& p) { p.max_handshakes = 2, p.max_handshakes_per_host = 1; })};
    CHECK(w.ask(1, host("root@a")) == lines{"open 1 to root@a:22"});
    CHECK(w.ask(2, host("user@a")).empty());  // another key, the same sshd
    CHECK(w.ask(3, b) == lines{"open 2 to root@b:22"});
    CHECK(w.ask(4, c).empty());
    CHECK(w.opened(1) == lines{"grant 1 connection 1", "open 3 to user@a:22"});
    CHECK(w.opened(3) == lines{"grant 2 connection 3", "open 4 to root@c:22"});
}

TEST_CASE("A waiter of another identity may have a key's idle connection closed once that was idle long enough", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections_per_host = 1; })};
    w.ask(1, host("root@a", "one"));
    w.opened(1, 20ms);
    CHECK(w.ask(2, host("root@a", "two")).empty());  // never lent across identities
    w.give_back(1);
    CHECK(w.pass(19ms).empty());
    CHECK(w.pass(1ms) == lines{"close 1 (lru)"});
    CHECK(w.closed(1) == lines{"open 2 to root@a:22"});
}

TEST_CASE("A key's free place goes to its oldest waiter, whichever identity the place was freed by", "[core]") {
    core_world w{with([](pool_params& p) { p.leases_per_connection = 1, p.max_connections_per_host = 1; })};
    w.ask(1, host("root@a", "one"));
    w.opened(1);
    CHECK(w.ask(2, host("root@a", "two")).empty());
    CHECK(w.ask(3, host("root@a", "one")).empty());
    CHECK(w.lose(1) == lines{"close 1 (lost)"});
    CHECK(w.closed(1) == lines{"open 2 to root@a:22"});
    CHECK(w.opened(2) == lines{"grant 2 connection 2"});
}

TEST_CASE("A host that is kept warm does not take the place that a caller had made for itself", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections_per_host = 2, p.connection_ttl = 40s, p.ttl_jitter = 0, p.health_check_interval = 0ms; })};
    w.keep_warm({host("root@a", "one")});
    w.opened(1, 10ms);
    CHECK(w.pass(30s) == lines{"open 2 to root@a:22"});
    w.opened(2, 10ms);
    CHECK(w.ask(1, host("root@a", "two")) == lines{"close 1 (lru)"});
    w.suspended(31s);  // the replacement is about to expire itself
    CHECK(w.closed(1) == lines{"open 3 to root@a:22"});
    CHECK(w.opened(3) == lines{"grant 1 connection 3"});
}

TEST_CASE("Shutdown answers the waiting, closes what is idle or connecting, drains the rest and says when it is done", "[core]") {
    core_world w;
    w.ask(1, a);
    w.opened(1);
    w.ask(2, b);
    w.opened(2);
    w.give_back(2);
    w.ask(3, c);
    CHECK(w.shut_down() == lines{"fail 3 pool_closed", "close 2 (shutdown)", "close 3 (shutdown)"});
    CHECK(w.ask(4, a) == lines{"fail 4 pool_closed"});
    CHECK(w.closed(2).empty());
    CHECK(w.closed(3).empty());
    CHECK(w.shut_down().empty());
    CHECK(w.give_back(1) == lines{"close 1 (shutdown)"});
    CHECK(w.closed(1) == lines{"drained"});
    CHECK(w.force().empty());
    CHECK_FALSE(w.core.next_deadline());
}

TEST_CASE("After a shutdown force closes what is still leased, and an empty pool drains at once", "[core]") {
    core_world w;
    w.ask(1, a);
    w.opened(1);
    CHECK(w.force().empty());  // only after a shutdown
    CHECK(w.shut_down().empty());
    CHECK(w.force() == lines{"close 1 (shutdown)"});
    CHECK(w.closed(1) == lines{"drained"});
    CHECK(core_world{}.shut_down() == lines{"drained"});
}

TEST_CASE("Keys that are gone are remembered, but not without end", "[core]") {
    core_world w;
    for (waiter_id id = 1; id <= 2000; ++id) {
        w.ask(id, host("root@host" + std::to_string(id)));
        w.open_failed(id);
    }
    CHECK(w.core.empty());
    CHECK(w.core.stats("root@host1:22").connect_failures.total() == 0);
    CHECK(w.core.stats("root@host2000:22").connect_failures.total() == 1);
    CHECK(w.core.stats("root@host977:22").connect_failures.total() == 1);
    CHECK(w.core.stats("root@host976:22").connect_failures.total() == 0);
}

TEST_CASE("Bytes that are read after the machine slept are no sign of life: they may have lain in a buffer", "[core][suspend]") {
    core_world w;
    w.ask(1, a);
    w.opened(1);
    w.suspended(1h);
    w.pass(1ms);
    w.give_back(1);  // heard at this moment
    CHECK(w.ask(2, a) == lines{"probe 1"});
    CHECK(w.probed(1) == lines{"grant 2 connection 1"});
    w.give_back(2);
    CHECK(w.ask(3, a) == lines{"grant 3 connection 1"});
}

TEST_CASE("A key is not forgotten while those whom its connect held up are being looked at", "[core]") {
    core_world w{with([](pool_params& p) { p.max_connections = p.max_connections_per_host = 4; })};
    const auto behind = [](const char* secret) { return host("root@behind", secret).via(a); };
    w.ask(1, behind("one"));       // reserved, until its jump host is open
    w.keep_warm({behind("two")});  // waits for that connect to end
    std::vector<target> others;
    for (int i = 0; i < 4000; ++i) others.push_back(host("root@h" + std::to_string(i)));
    w.keep_warm(others);
    w.shut_down();  // forgets more keys at once than it remembers
    w.closed(1);
    for (connection_id id = 2; id < 10; ++id) w.closed(id);
    CHECK(w.core.empty());
}
