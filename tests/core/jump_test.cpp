#include "core/core_world.hpp"
#include "support/catch.hpp"

using namespace core_test;
using lines = core_world::lines;

namespace {

const target jump = host("root@jump");
const target inner = host("root@inner").via(jump);
const target innermost = host("root@innermost").via(inner);

pool_params with(void (*set)(pool_params&)) {
    pool_params p;
    set(p);
    return p;
}

}  // namespace

TEST_CASE("A chain opens link by link, each through the one before", "[core][jump]") {
    core_world w;
    CHECK(w.ask(1, innermost) == lines{"open 1 to root@jump:22"});
    CHECK(w.core.stats().pool_size == 3);  // its places are reserved together
    CHECK(w.opened(1) == lines{"open 2 to root@inner:22 via 1"});
    CHECK(w.opened(2) == lines{"open 3 to root@innermost:22 via 2"});
    CHECK(w.opened(3) == lines{"grant 1 connection 3"});
    CHECK(w.ask(2, jump) == lines{"grant 2 connection 1"});
    CHECK(w.ask(3, host("root@other").via(jump)) == lines{"open 4 to root@other:22 via 1"});
}

TEST_CASE("The slots of a whole chain are taken together or not at all", "[core][jump]") {
    core_world w{with([](pool_params& p) { p.max_connections = 3; })};
    w.ask(1, host("root@a"));
    w.opened(1);
    w.ask(2, host("root@b"));
    w.opened(2);
    CHECK(w.ask(3, inner).empty());           // one place is free, two are needed
    CHECK(w.ask(4, host("root@c")).empty());  // and nobody overtakes
    CHECK(w.core.stats().pool_size == 2);
    w.give_back(2);
    CHECK(w.pass(1ms) == lines{});
    CHECK(w.core.stats().evictions == 1);
    CHECK(w.closed(2) == lines{"open 3 to root@jump:22"});
}

TEST_CASE("A chain longer than max_connections fails at once and says why", "[core][jump]") {
    core_world w{with([](pool_params& p) { p.max_connections = 2; })};
    CHECK(w.ask(1, innermost) == lines{"fail 1 pool_exhausted"});
    CHECK(w.failures[1].text.find("needs 3 connections, but pool_params::max_connections is 2") != std::string::npos);
}

TEST_CASE("A jump host is neither idle nor evicted while something runs through it", "[core][jump]") {
    core_world w{with([](pool_params& p) { p.max_connections = 2, p.connection_ttl = 0ms, p.health_check_interval = 0ms; })};
    w.ask(1, inner);
    w.opened(1);
    w.opened(2);
    CHECK(w.pass(10min).empty());  // far past the idle timeout
    CHECK(w.ask(2, host("root@a")).empty());
    w.give_back(1);
    CHECK(w.core.stats().evictions == 1);  // the dependent goes first
    CHECK(w.closed(2) == lines{"open 3 to root@a:22"});
    CHECK(w.core.stats(jump.key()).idle == 1);
    CHECK(w.opened(3) == lines{"grant 2 connection 3"});
    CHECK(w.pass(60s) == lines{"close 1 (idle)"});  // idle since the dependent has gone
}

TEST_CASE("When a jump host is lost, what runs through it is lost, too", "[core][jump]") {
    core_world w;
    w.ask(1, inner);
    w.opened(1);
    w.opened(2);
    CHECK(w.lose(1) == lines{"close 2 (lost)", "close 1 (lost)"});
    REQUIRE(w.events(event_kind::closed).size() == 2);
    CHECK(w.events(event_kind::closed)[1].error.text.find("the jump host root@jump:22 has gone: reset") != std::string::npos);
    CHECK(w.closed(1).empty());
    CHECK(w.give_back(1).empty());
    CHECK(w.closed(2).empty());
    CHECK(w.core.empty());
}

TEST_CASE("A jump host that cannot be reached fails those behind it with the cause", "[core][jump]") {
    core_world w;
    w.ask(1, innermost);
    w.ask(2, jump);
    CHECK(w.open_failed(1) == lines{"fail 1 jump_failed", "fail 2 auth_failed"});
    CHECK(w.failures[1].text == "the jump host root@jump:22 could not be used: no luck");
    CHECK(w.failures[1].key == "root@innermost:22");
    CHECK(w.core.empty());
}

TEST_CASE("A silent jump host is probed before something new runs through it", "[core][jump]") {
    core_world w{with([](pool_params& p) { p.idle_timeout = 0ms, p.connection_ttl = 0ms; })};
    w.ask(1, jump);
    w.opened(1);
    w.pass(31s);
    CHECK(w.ask(2, inner) == lines{"probe 1"});
    CHECK(w.probed(1) == lines{"open 2 to root@inner:22 via 1"});
}

TEST_CASE("An invalidated jump host takes what runs through it along, without cutting anybody", "[core][jump]") {
    core_world w;
    w.ask(1, inner);
    w.opened(1);
    w.opened(2);
    CHECK(w.invalidate(jump.key()).empty());
    CHECK(w.events(event_kind::draining).size() == 2);
    CHECK(w.ask(2, inner) == lines{"open 3 to root@jump:22"});
    CHECK(w.give_back(1) == lines{"close 2 (invalidated)"});
    CHECK(w.closed(2) == lines{"close 1 (invalidated)"});
}

TEST_CASE("A jump host that opens no more channels keeps what runs through it, and goes when that has gone", "[core][jump]") {
    core_world w{with([](pool_params& p) { p.connection_ttl = 0ms, p.health_check_interval = 0ms; })};
    const auto idle = host("root@idle").via(jump);
    w.ask(1, inner);
    w.opened(1);
    w.opened(2);
    w.ask(2, idle);
    w.opened(3);
    w.give_back(2);
    CHECK(w.capacity(1, 0).empty());
    REQUIRE(w.events(event_kind::draining).size() == 1);
    CHECK(w.events(event_kind::draining)[0].key == jump.key());
    CHECK(w.ask(3, idle) == lines{"grant 3 connection 3"});
    w.give_back(1);
    CHECK(w.ask(4, inner) == lines{"grant 4 connection 2"});
    CHECK(w.ask(5, host("root@new").via(jump)) == lines{"open 4 to root@jump:22"});
    w.give_back(3);
    w.pass(1s);
    w.give_back(4);
    CHECK(w.pass(59s) == lines{"fail 5 acquire_timeout", "close 3 (idle)"});  // one look at a time: those due at one look go in no promised order
    CHECK(w.pass(1s) == lines{"close 2 (idle)"});
    w.closed(2);
    CHECK(w.closed(3) == lines{"close 1 (discarded)"});
}

TEST_CASE("Of those whose connects a jump host turns away only the host that it could not reach is left alone", "[core][jump]") {
    core_world w{with([](pool_params& p) { p.max_handshakes = 8; })};
    const auto off = host("root@off").via(jump);
    const auto behind = host("root@behind").via(jump);
    const auto quick = host("root@quick").via(jump);
    w.ask(1, jump);
    w.opened(1);
    CHECK(w.ask(2, off) == lines{"open 2 to root@off:22 via 1"});
    CHECK(w.ask(3, quick) == lines{"open 3 to root@quick:22 via 1"});
    CHECK(w.ask(4, behind) == lines{"open 4 to root@behind:22 via 1"});
    w.pass(10s);
    CHECK(w.capacity(1, 0).empty());
    CHECK(w.opened(3) == lines{"grant 3 connection 3"});  // its tunnel was there before
    CHECK(w.open_failed(2, errc::connect_failed) == lines{"fail 2 connect_failed"});
    CHECK(w.events(event_kind::backing_off).size() == 1);
    CHECK(w.open_failed(4, errc::jump_failed) == lines{"open 5 to root@jump:22"});
    CHECK(w.events(event_kind::backing_off).empty());
    CHECK(w.events(event_kind::connect_failed).size() == 1);
    CHECK(w.opened(5) == lines{"open 6 to root@behind:22 via 5"});
    CHECK(w.ask(5, off) == lines{"fail 5 host_backing_off"});
    CHECK(w.open_failed(6, errc::jump_failed) == lines{"fail 4 jump_failed"});  // by a jump host that does take channels
}
