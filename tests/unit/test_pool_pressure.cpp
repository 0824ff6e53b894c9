// The pool while hosts fail, servers are busy, logins are refused and places run out: what callers, operators and servers see of it.

#include <asio/bind_cancellation_slot.hpp>
#include <map>
#include <set>
#include <sstream>

#include "support/process.hpp"
#include "support/temp_dir.hpp"
#include "unit/pool_fixture.hpp"

using namespace sshpool;
using namespace sshpool::test;
using answer = scripted_network::answer;
using std::chrono::nanoseconds;

namespace {

struct recorded {
    std::vector<pool_event> events;
};

/// A pool that writes its events down.
struct pressed : recorded, pool_fixture {
    explicit pressed(void (*change)(pool_params&) = [](pool_params&) {}) : pool_fixture(listened(change)) {}

    std::vector<pool_event> told(event_kind kind) const {
        std::vector<pool_event> found;
        for (const auto& e : events) {
            if (e.kind == kind) found.push_back(e);
        }
        return found;
    }
    std::size_t opened_to(const std::string& key) const {
        std::size_t n = 0;
        for (const auto& c : network->all()) n += c->where->key() == key ? 1 : 0;
        return n;
    }
    /// Opens under way.
    std::vector<std::size_t> pending() const {
        std::vector<std::size_t> found;
        const auto all = network->all();
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (all[i]->opening) found.push_back(i);
        }
        return found;
    }
    void finish(std::size_t index, error_info error = {}) {
        network->finish_open(index, std::move(error));
        settle();
    }
    /// Lets time pass in small steps until the condition holds; how long that took.
    template <class Ready>
    nanoseconds pass_until(Ready ready, nanoseconds most, nanoseconds step = 1ms) {
        nanoseconds passed{};
        while (!ready() && passed < most) {
            advance(step);
            passed += step;
        }
        return passed;
    }

private:
    pool_params listened(void (*change)(pool_params&)) {
        pool_params p;
        change(p);
        p.on_event = [this](const pool_event& e) { events.push_back(e); };
        return p;
    }
};

error_info failed(errc what, const char* phase, const char* text) { return {make_error(what), "root@a:22", phase, text}; }
const error_info refused_tcp = failed(errc::connect_failed, "tcp", "connection refused");
const error_info dropped = failed(errc::server_busy, "banner", "it said: Exceeded MaxStartups");
const error_info denied = failed(errc::auth_failed, "login", "the password was refused");

/// A pause of that length, shortened by up to a fifth.
bool is_pause(nanoseconds d, nanoseconds longest) { return d <= longest && d >= longest * 4 / 5; }

/// sshd's own books, as of PerSourcePenalties' defaults: 5 s for a refused login, 1 s for a connection without one, locked out from 15 s on.
struct penalties {
    nanoseconds until{};
    nanoseconds most{};
    void charge(nanoseconds cost, nanoseconds now) {
        until = std::max(until, now) + cost;
        most = std::max(most, until - now);
    }
};

}  // namespace

// The governor ---------------------------------------------------------------------------------------------------------------

TEST_CASE("handshakes are bounded in total, and begin in the order of asking", "[pressure][governor]") {
    pressed f{[](pool_params& p) { p.max_handshakes = 3; }};
    f.network->opens = answer::when_told;
    std::vector<std::shared_ptr<pool_fixture::asked>> all;
    for (int i = 0; i < 12; ++i) all.push_back(f.ask(host("h" + std::to_string(i))));
    f.settle();
    for (std::size_t i = 0; i < 12; ++i) {
        CHECK(f.pending().size() == std::min<std::size_t>(3, 12 - i));
        f.finish(i, i % 3 == 1 ? refused_tcp : error_info{});
        CHECK(all[i]->done);
    }
    for (std::size_t i = 0; i < 12; ++i) CHECK(f.network->at(i)->where->key() == host("h" + std::to_string(i)).key());
}

TEST_CASE("handshakes with one host and port are bounded over all its users, and where it is a jump host, too", "[pressure][governor]") {
    pressed f{[](pool_params& p) { p.max_handshakes_per_host = 1; }};
    f.network->opens = answer::when_told;
    const auto user = [](const std::string& name) { return target{name + "@gate", credentials::password("x"), host_key_policy::accept_any()}; };
    std::vector<std::shared_ptr<pool_fixture::asked>> all{f.ask(user("one")), f.ask(host("inner").via(user("two"))), f.ask(user("three"))};
    all.push_back(f.ask(host("other")));
    f.settle();
    const auto under_way = [&] {
        std::vector<std::string> keys;
        for (const auto i : f.pending()) keys.push_back(f.network->at(i)->where->key());
        return keys;
    };
    using keys = std::vector<std::string>;
    CHECK(under_way() == keys{"one@gate:22", "root@other:22"});
    f.finish(0);
    CHECK(under_way() == keys{"root@other:22", "two@gate:22"});
    f.finish(2);
    CHECK(under_way() == keys{"root@other:22", "root@inner:22", "three@gate:22"});
    while (!f.pending().empty()) f.finish(f.pending().front());
    for (auto& a : all) CHECK(a->lease);
}

// Busy servers ---------------------------------------------------------------------------------------------------------------

TEST_CASE("a login dropped before the banner is tried again three times at growing pauses, then the caller is told", "[pressure][busy]") {
    pressed f;
    f.network->fail_opens(dropped);
    auto a = f.get(host("a"));
    for (std::size_t retry = 1; retry <= 3; ++retry) {
        CHECK_FALSE(a->done);
        CHECK(f.network->opened() == retry);
        const auto pause = f.pass_until([&] { return f.network->opened() > retry; }, 10s);
        CHECK(pause >= 200ms * (1 << (retry - 1)));
        CHECK(pause <= 250ms * (1 << (retry - 1)) + 1ms);
    }
    REQUIRE(a->done);
    CHECK(a->ec == errc::server_busy);
    CHECK(a->ec == command_fate::not_started);
    CHECK(a->info.text == "it said: Exceeded MaxStartups");
    CHECK(f.network->opened() == 4);
    const auto told = f.told(event_kind::server_busy);
    REQUIRE(told.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(told[i].count == i + 1);
        CHECK(is_pause(told[i].duration, 250ms * (1 << i)));
        CHECK(told[i].error == dropped);
    }
    CHECK(f.pool->get_stats().busy_retries == 3);
    CHECK(f.told(event_kind::backing_off).size() == 1);
    // As any failure from now on: whoever comes next does not start the three retries anew.
    auto next = f.get(host("a"));
    CHECK(next->ec == errc::host_backing_off);
    CHECK(next->info.text.find("server_busy (banner): it said: Exceeded MaxStartups") != std::string::npos);
}

TEST_CASE("max_busy_retries of zero tells the caller of the first drop", "[pressure][busy]") {
    pressed f{[](pool_params& p) { p.max_busy_retries = 0; }};
    f.network->fail_opens(dropped);
    CHECK(f.get(host("a"))->ec == errc::server_busy);
    CHECK(f.network->opened() == 1);
}

TEST_CASE("another login that succeeds meanwhile starts the count of retries anew", "[pressure][busy]") {
    pressed f{[](pool_params& p) { p.max_handshakes_per_host = 16; }};  // halved by each drop
    f.network->opens = answer::when_told;
    auto a = f.ask(host("a", "one"));
    auto b = f.ask(host("a", "two"));
    f.settle();
    REQUIRE(f.pending() == std::vector<std::size_t>{0, 1});
    const auto drop = [&](std::size_t index) {
        f.advance(10ms);
        f.finish(index, dropped);
        f.pass_until([&] { return f.network->opened() > index + 1 || a->done; }, 10s);
    };
    f.advance(10ms);
    f.finish(0, dropped);
    f.pass_until([&] { return f.network->opened() == 3; }, 10s);
    drop(2);
    drop(3);
    f.finish(1);  // the other one gets through
    CHECK(b->lease);
    f.pass_until([&] { return f.network->opened() == 5; }, 10s);
    for (std::size_t i = 4; i < 7; ++i) {
        drop(i);
        CHECK_FALSE(a->done);  // the fourth, fifth and sixth drop, but three since then
    }
    drop(7);
    CHECK(a->ec == errc::server_busy);
    std::vector<std::size_t> counts;
    for (const auto& e : f.told(event_kind::server_busy)) counts.push_back(e.count);
    CHECK(counts == std::vector<std::size_t>{1, 2, 3, 1, 2, 3});
}

TEST_CASE("logins dropped at the same time count as one drop, and fewer try at once afterwards", "[pressure][busy]") {
    pressed f{[](pool_params& p) { p.leases_per_connection = 1, p.max_connections_per_host = 8; }};
    f.give_back(f.get(host("a")));  // the host knows the login: it is no risk
    f.pool->invalidate("root@a:22");
    f.settle();
    f.network->opens = answer::when_told;
    std::vector<std::shared_ptr<pool_fixture::asked>> all;
    for (const auto* user : {"root", "admin", "backup", "ci"}) {
        const target to{std::string{user} + "@a", credentials::password("x"), host_key_policy::accept_any()};
        all.push_back(f.ask(to));
    }
    f.settle();
    f.advance(10ms);
    const auto first = f.pending();
    REQUIRE(first.size() >= 2);
    for (const auto i : first) f.network->finish_open(i, dropped);
    f.settle();
    for (const auto& e : f.told(event_kind::server_busy)) CHECK(e.count == 1);
    f.pass_until([&] { return !f.pending().empty(); }, 1s);
    CHECK(f.pending().size() <= first.size());
    f.advance(10ms);
    for (const auto i : f.pending()) f.network->finish_open(i, dropped);
    f.settle();
    f.advance(600ms);
    CHECK(f.pending().size() == 1);  // of four at first: halved twice
    for (auto& a : all) CHECK_FALSE(a->done);
}

// Back-off -------------------------------------------------------------------------------------------------------------------

TEST_CASE("a host that fails is left alone for twice as long after each failure, up to a bound, and callers meanwhile are told why", "[pressure][backoff]") {
    pressed f;
    f.network->fail_opens(refused_tcp);
    nanoseconds longest = 250ms;
    for (std::size_t n = 1; n <= 10; ++n) {
        CHECK(f.get(host("a"))->ec == errc::connect_failed);
        CHECK(f.network->opened() == n);
        const auto told = f.told(event_kind::backing_off);
        REQUIRE(told.size() == n);
        CHECK(told.back().count == n);
        CHECK(told.back().error == refused_tcp);
        const auto pause = told.back().duration;
        CHECK(is_pause(pause, longest));
        f.advance(pause / 2);
        auto meanwhile = f.get(host("a"));
        CHECK(meanwhile->ec == errc::host_backing_off);
        CHECK(meanwhile->ec == command_fate::not_started);
        CHECK(meanwhile->info.key == "root@a:22");
        CHECK(meanwhile->info.phase == "waiting");
        CHECK(meanwhile->info.text.find("root@a:22 could not be reached ") == 0);
        CHECK(meanwhile->info.text.find("(pool_params::backoff_initial): connect_failed (tcp): connection refused") != std::string::npos);
        f.advance(pause - pause / 2 - 1ns);
        CHECK(f.get(host("a"))->ec == errc::host_backing_off);
        CHECK(f.network->opened() == n);
        f.advance(1ns);
        longest = std::min<nanoseconds>(longest * 2, 30s);
    }
    CHECK(longest == 30s);
    CHECK(f.pool->get_stats().backed_off == 20);
    CHECK(f.pool->get_stats("root@a:22").backed_off == 20);
}

TEST_CASE("pauses differ, so that hosts that failed together come back apart", "[pressure][backoff]") {
    pressed f;
    f.network->fail_opens(refused_tcp);
    std::set<nanoseconds> pauses;
    for (int i = 0; i < 20; ++i) f.get(host("h" + std::to_string(i)));
    for (const auto& e : f.told(event_kind::backing_off)) pauses.insert(e.duration);
    CHECK(pauses.size() > 10);
    CHECK(*pauses.rbegin() - *pauses.begin() > 5ms);  // of the 50 ms that are drawn from
}

TEST_CASE("a connect that succeeds ends the back-off, and the next failure begins with the shortest pause", "[pressure][backoff]") {
    pressed f;
    f.network->fail_opens(refused_tcp);
    for (int n = 0; n < 3; ++n) {
        f.get(host("a"));
        f.advance(1s);
    }
    CHECK(f.told(event_kind::backing_off).back().count == 3);
    f.network->fail_opens({});
    f.give_back(f.get(host("a")));
    f.network->lose(f.network->opened() - 1);  // not close_all(), which forgets who failed
    f.settle();
    f.network->fail_opens(refused_tcp);
    f.get(host("a"));
    CHECK(f.told(event_kind::backing_off).back().count == 1);
    CHECK(is_pause(f.told(event_kind::backing_off).back().duration, 250ms));
}

TEST_CASE("a host that cannot be reached is left alone by all its users, but not by those of another port", "[pressure][backoff]") {
    pressed f;
    f.network->fail_opens(refused_tcp);
    f.get(host("a"));
    f.network->fail_opens({});
    CHECK(f.get(target{"admin@a", credentials::password("x"), host_key_policy::accept_any()})->ec == errc::host_backing_off);
    CHECK(f.get(target{"root@a:2222", credentials::password("secret"), host_key_policy::accept_any()})->lease);
    f.advance(250ms);
    CHECK(f.get(host("a"))->lease);
}

TEST_CASE("an open connection is lent while its host backs off", "[pressure][backoff]") {
    pressed f{[](pool_params& p) { p.leases_per_connection = 1; }};
    auto held = f.get(host("a"));
    f.network->fail_opens(refused_tcp);
    f.get(target{"admin@a", credentials::password("x"), host_key_policy::accept_any()});
    f.give_back(held);
    CHECK(f.get(host("a"))->lease);
    CHECK(f.network->opened() == 2);
}

TEST_CASE("when_backing_off of wait keeps callers in the queue until the next try, if their deadline allows", "[pressure][backoff]") {
    pressed f{[](pool_params& p) {
        p.when_backing_off = backing_off_policy::wait;
        p.backoff_initial = 4s;
        p.acquire_timeout = 5s;
    }};
    f.network->fail_opens(refused_tcp);
    CHECK(f.get(host("a"))->ec == errc::connect_failed);
    SECTION("they are served by the next try, all by one") {
        f.network->fail_opens({});
        std::vector<std::shared_ptr<pool_fixture::asked>> all;
        for (int i = 0; i < 5; ++i) all.push_back(f.get(host("a")));
        for (auto& a : all) CHECK_FALSE(a->done);
        const auto pause = f.pass_until([&] { return all[0]->done; }, 10s);
        CHECK(pause >= 3200ms);
        CHECK(pause <= 4001ms);
        for (auto& a : all) CHECK(a->lease);
        CHECK(f.network->opened() == 2);
    }
    SECTION("they are told of the cause when that fails, too") {
        auto a = f.get(host("a"));
        f.advance(4s);
        CHECK(a->ec == errc::connect_failed);
        CHECK(f.network->opened() == 2);
    }
    SECTION("one whose deadline comes first is told at once") {
        f.advance(4s);
        CHECK(f.get(host("a"))->ec == errc::connect_failed);  // a pause of 6.4 s or more follows
        auto a = f.get(host("a"));
        CHECK(a->ec == errc::host_backing_off);
        CHECK(a->info.text.find("could not be reached 0.0 s ago, 2 times in a row") != std::string::npos);
        CHECK(f.network->opened() == 2);
    }
    SECTION("one that is cancelled while it waits goes, and the others stay") {
        f.network->fail_opens({});
        asio::cancellation_signal stop;
        std::error_code seen;
        f.pool->async_get_connection(host("a"), asio::bind_cancellation_slot(stop.slot(), [&](std::error_code ec, pool_fixture::lease_type) { seen = ec; }));
        auto other = f.get(host("a"));
        stop.emit(asio::cancellation_type::total);
        f.settle();
        CHECK(seen == errc::cancelled);
        CHECK(f.pool->get_stats().waiting == 1);
        f.advance(4s);
        CHECK(other->lease);
    }
}

TEST_CASE("invalidate lets a host be tried again at once", "[pressure][backoff]") {
    pressed f;
    f.network->fail_opens(denied);
    f.get(host("a"));
    f.network->fail_opens({});
    CHECK(f.get(host("a"))->ec == errc::host_backing_off);
    f.pool->invalidate("root@a:22");
    CHECK(f.get(host("a"))->lease);
}

// Refused logins -------------------------------------------------------------------------------------------------------------

TEST_CASE("a refused login stops those credentials at that host at once, and no others", "[pressure][login]") {
    pressed f;
    f.network->fail_opens(denied);
    CHECK(f.get(host("a", "wrong"))->ec == errc::auth_failed);
    f.network->fail_opens({});
    auto again = f.get(host("a", "wrong"));
    CHECK(again->ec == errc::host_backing_off);
    CHECK(again->info.text.find("root@a:22 refused this login 0.0 s ago, and is not tried again for 30.0 s (pool_params::auth_cooldown): auth_failed (login): "
                                "the password was refused") == 0);
    CHECK(f.network->opened() == 1);
    CHECK(f.get(host("a", "right"))->lease);
    CHECK(f.get(host("b", "wrong"))->lease);
    CHECK(f.get(target{"admin@a", credentials::password("wrong"), host_key_policy::accept_any()})->lease);
    const auto told = f.told(event_kind::backing_off);
    REQUIRE(told.size() == 1);
    CHECK(told[0].duration == 30s);
    CHECK(told[0].identity == credentials::password("wrong").identity());
}

TEST_CASE("a refused login is not repeated within its cool-down by any number of callers", "[pressure][login]") {
    pressed f;
    f.network->opens = answer::when_told;
    std::vector<std::shared_ptr<pool_fixture::asked>> all;
    for (int i = 0; i < 100; ++i) all.push_back(f.ask(host("a", "wrong")));
    f.settle();
    REQUIRE(f.network->opened() == 1);
    f.finish(0, denied);
    for (auto& a : all) CHECK(a->ec == errc::auth_failed);  // none of them is made to try it, too
    f.network->opens = answer::at_once;
    f.network->fail_opens(denied);
    for (int second = 0; second < 30; ++second) {
        for (int i = 0; i < 10; ++i) f.get(host("a", "wrong"));
        f.pool->keep_warm(std::vector{host("a", "wrong")});
        f.pool->async_warm(std::vector{host("a", "wrong")}, [](std::error_code, const warm_report&) {});
        f.settle();
        CHECK(f.network->opened() == 1);
        f.advance(second < 29 ? 1s : 999ms);
    }
    CHECK(f.network->opened() == 1);
    f.advance(1ms);  // the warm set tries it again by itself, and is given twice the time
    CHECK(f.network->opened() == 2);
    CHECK(f.told(event_kind::backing_off).back().duration == 60s);
    f.advance(59s);
    f.get(host("a", "wrong"));
    CHECK(f.network->opened() == 2);
}

TEST_CASE("a login that succeeds ends the cool-down, and the next refusal begins with the shortest", "[pressure][login]") {
    pressed f;
    f.network->fail_opens(denied);
    f.get(host("a"));
    f.advance(30s);
    f.get(host("a"));
    CHECK(f.told(event_kind::backing_off).back().count == 2);
    f.advance(60s);
    f.network->fail_opens({});
    f.give_back(f.get(host("a")));
    f.network->lose(f.network->opened() - 1);  // not close_all(), which forgets who failed
    f.settle();
    f.network->fail_opens(denied);
    f.get(host("a"));
    CHECK(f.told(event_kind::backing_off).back().count == 1);
    CHECK(f.told(event_kind::backing_off).back().duration == 30s);
}

TEST_CASE("a host key that is not the right one keeps only those away who would trust the same", "[pressure][login]") {
    pressed f;
    f.network->fail_opens(failed(errc::host_key_mismatch, "host key", "it is another one"));
    const target strict{"root@a", credentials::password("x"), host_key_policy::known_hosts("/dev/null")};
    CHECK(f.get(strict)->ec == errc::host_key_mismatch);
    f.network->fail_opens({});
    CHECK(f.get(strict)->ec == errc::host_backing_off);
    CHECK(f.get(target{"root@a", credentials::password("x"), host_key_policy::accept_any()})->lease);
}

TEST_CASE("with the default parameters no sshd is given a reason to lock this address out, whoever logs in with whatever", "[pressure][login]") {
    penalties server;
    pressed f{[](pool_params& p) { p.acquire_timeout = 3s; }};
    f.network->opens = answer::when_told;
    std::map<std::string, nanoseconds> last_refused;  // by user and identity
    std::size_t refused = 0, lost = 0, let_in = 0;
    std::minstd_rand random{1};
    nanoseconds now{};
    constexpr int wrong = 12;
    for (int step = 0; step < 2400; ++step) {
        for (int i = 0; i < 4; ++i) {
            const auto who = random() % (wrong + 2);  // two of them are right
            const auto user = who % 3 == 0 ? "admin" : "root";
            f.ask(target{user, "a", 22, credentials::password("secret " + std::to_string(who)), host_key_policy::accept_any()});
        }
        f.settle();
        for (const auto i : f.pending()) {
            if (random() % 3 == 0) continue;  // it takes longer
            const auto& to = *f.network->at(i)->where;
            const auto name = to.user() + ' ' + to.identity();
            const bool is_right =
                to.identity() == credentials::password("secret 12").identity() || to.identity() == credentials::password("secret 13").identity();
            if (is_right && random() % 8 != 0) {
                ++let_in;
                f.finish(i);
            } else if (is_right || random() % 5 == 0) {
                ++lost;
                server.charge(1s, now);
                connect_phases phases;
                phases.key_exchange = 5ms;
                f.network->set_phases(phases);
                f.finish(i, failed(errc::connection_lost, "login", "the connection was reset"));
                f.network->set_phases({});
            } else {
                ++refused;
                server.charge(5s, now);
                if (const auto before = last_refused.find(name); before != last_refused.end()) CHECK(now - before->second >= 30s);
                last_refused[name] = now;
                f.finish(i, denied);
            }
        }
        if (random() % 40 == 0) {  // TTL and losses: those that are right log in again
            f.pool->close_all();   // which also forgets who was refused, so that is left out below
            f.settle();
            last_refused.clear();
        }
        f.advance(250ms);
        now += 250ms;
    }
    INFO(refused << " logins refused, " << lost << " lost, " << let_in << " let in; at most " << std::chrono::duration<double>(server.most).count()
                 << " s of penalties at once");
    CHECK(server.most < 15s);
    CHECK(refused > 50);
    CHECK(lost > 20);
    CHECK(let_in > 20);
}

TEST_CASE("an sshd that comes back without any of the accounts it had does not lock this address out either", "[pressure][login]") {
    pressed f;
    f.network->opens = answer::when_told;
    std::vector<target> users;
    for (int i = 0; i < 12; ++i) users.emplace_back("user" + std::to_string(i), "a", 22, credentials::password("right"), host_key_policy::accept_any());
    std::vector<std::shared_ptr<pool_fixture::asked>> all;
    for (const auto& u : users) all.push_back(f.ask(u));
    f.settle();
    while (!f.pending().empty()) f.finish(f.pending().front());
    for (auto& a : all) REQUIRE(a->lease);
    all.clear();
    f.settle();
    for (std::size_t i = 0; i < users.size(); ++i) f.network->lose(i);
    f.settle();
    penalties server;
    std::set<std::string> tried;
    for (nanoseconds now{}; now < 60s; now += 100ms) {
        for (const auto& u : users) f.ask(u);
        f.settle();
        CHECK(f.pending().size() <= 2);
        for (const auto i : f.pending()) {
            tried.insert(f.network->at(i)->where->key());
            server.charge(5s, now);
            f.finish(i, denied);
        }
        f.advance(100ms);
    }
    CHECK(server.most < 15s);
    CHECK(tried.size() >= 6);
}

TEST_CASE("credentials that are logged in do not wait for logins that may be refused", "[pressure][login]") {
    pressed f{[](pool_params& p) { p.leases_per_connection = 1; }};
    f.network->set_phases({0ns, 0ns, 0ns, 1ms});
    auto held = f.get(host("a"));
    f.network->opens = answer::when_told;
    f.ask(target{"one@a", credentials::password("x"), host_key_policy::accept_any()});
    f.ask(target{"two@a", credentials::password("x"), host_key_policy::accept_any()});
    auto third = f.get(target{"three@a", credentials::password("x"), host_key_policy::accept_any()});
    CHECK(f.pending().size() == 2);
    auto more = f.get(host("a"));
    f.advance(1s);  // the queue is worth one more connection
    REQUIRE(f.pending().size() == 3);
    f.finish(f.pending().back());
    CHECK(more->lease);
    CHECK_FALSE(third->done);
}

// Is it us? ------------------------------------------------------------------------------------------------------------------

TEST_CASE("when most hosts fail at once the pool says so once, and again when something is heard", "[pressure][network]") {
    pressed f;
    f.give_back(f.get(host("well")));
    f.advance(1s);
    f.network->fail_opens(failed(errc::connect_timeout, "tcp", "no answer"));
    for (int i = 0; i < 4; ++i) f.get(host("h" + std::to_string(i)));
    CHECK(f.told(event_kind::network_down).empty());  // may be chance
    for (int i = 4; i < 12; ++i) f.get(host("h" + std::to_string(i)));
    const auto down = f.told(event_kind::network_down);
    REQUIRE(down.size() == 1);
    CHECK(down[0].key.empty());
    CHECK(down[0].count == 5);
    CHECK(down[0].error.code == errc::connect_timeout);
    CHECK(down[0].error.text ==
          "it is probably us: 5 hosts in a row could not be reached within 0.0 s, and nothing was heard from any other; the last: no answer");
    f.advance(10s);
    for (int i = 0; i < 12; ++i) f.get(host("h" + std::to_string(i)));
    CHECK(f.told(event_kind::network_down).size() == 1);
    CHECK(f.told(event_kind::network_up).empty());
    f.advance(10s);
    f.network->fail_opens({});
    CHECK(f.get(host("new"))->lease);
    const auto up = f.told(event_kind::network_up);
    REQUIRE(up.size() == 1);
    CHECK(up[0].duration == 20s);
    // The next outage is a new one.
    f.network->fail_opens(failed(errc::connect_timeout, "tcp", "no answer"));
    f.advance(60s);
    for (int i = 20; i < 30; ++i) f.get(host("h" + std::to_string(i)));
    CHECK(f.told(event_kind::network_down).size() == 2);
}

TEST_CASE("a few hosts that fail among many that are connected are their own fault", "[pressure][network]") {
    pressed f;
    for (int i = 0; i < 20; ++i) f.give_back(f.get(host("well" + std::to_string(i))));
    f.advance(1s);
    f.network->fail_opens(refused_tcp);
    for (int i = 0; i < 15; ++i) f.get(host("ill" + std::to_string(i)));
    CHECK(f.told(event_kind::network_down).empty());
    SECTION("more of them than are connected are not") {
        for (int i = 15; i < 20; ++i) f.get(host("ill" + std::to_string(i)));
        CHECK(f.told(event_kind::network_down).size() == 1);
    }
    SECTION("something heard in between starts the count anew") {
        f.advance(1s);
        f.network->at(0)->heard = f.network->now().time_since_epoch().count();
        auto lent = f.get(host("well0"));
        f.give_back(lent);
        for (int i = 15; i < 25; ++i) f.get(host("ill" + std::to_string(i)));
        CHECK(f.told(event_kind::network_down).empty());
    }
}

TEST_CASE("refused logins and busy servers say nothing of the network", "[pressure][network]") {
    pressed f{[](pool_params& p) { p.max_busy_retries = 0; }};
    for (int i = 0; i < 20; ++i) {
        f.network->fail_opens(i % 2 == 0 ? denied : dropped);
        f.get(host("h" + std::to_string(i)));
    }
    CHECK(f.told(event_kind::network_down).empty());
}

// Warm sets ------------------------------------------------------------------------------------------------------------------

TEST_CASE("hosts that are kept warm are connected without a caller, never idle out, and are replaced before their TTL ends", "[pressure][warm]") {
    pressed f{[](pool_params& p) { p.connection_ttl = 60s, p.idle_timeout = 5s; }};
    std::vector<target> all;
    for (int i = 0; i < 5; ++i) all.push_back(host("h" + std::to_string(i)));
    f.pool->keep_warm(all);
    f.settle();
    CHECK(f.network->live() == 5);
    CHECK(f.pool->get_stats().idle == 5);
    f.network->opens = answer::when_told;  // each replacement takes its time
    for (int step = 0; step < 1200; ++step) {
        f.advance(250ms);
        for (const auto i : f.pending()) {
            if (step % 4 == 0) f.finish(i);
        }
        std::map<std::string, int> open, opening;
        for (const auto& c : f.network->all()) {
            open[c->where->key()] += c->open ? 1 : 0;
            opening[c->where->key()] += c->opening ? 1 : 0;
        }
        for (const auto& t : all) {
            CHECK(open[t.key()] >= 1);
            CHECK(open[t.key()] <= 2);
            CHECK(opening[t.key()] <= 1);
        }
    }
    CHECK(f.network->opened() >= 5 * 5);  // five minutes of a minute's TTL
    CHECK(f.network->opened() <= 5 * 8);
    const auto s = f.pool->get_stats();
    CHECK(s.connections_closed[close_reason::idle] == 0);
    CHECK(s.connections_closed[close_reason::ttl] >= 5 * 4);
}

TEST_CASE("warm hosts that were lost together come back apart, under the governor, and never two connects for one", "[pressure][warm]") {
    pressed f{[](pool_params& p) { p.max_handshakes = 4; }};
    std::vector<target> all;
    for (int i = 0; i < 40; ++i) all.push_back(host("h" + std::to_string(i)));
    f.pool->keep_warm(all);
    f.settle();
    REQUIRE(f.pool->get_stats().idle == 40);
    f.network->opens = answer::when_told;
    for (std::size_t i = 0; i < 40; ++i) f.network->lose(i);
    f.settle();
    CHECK(f.network->opened() < 44);  // not all of them at the moment of the loss
    std::set<nanoseconds> begun;
    std::size_t seen = f.network->opened(), most = 0;
    nanoseconds passed{};
    for (; passed < 20s && f.pool->get_stats().idle < 40; passed += 5ms) {
        f.advance(5ms);
        if (f.network->opened() > seen) begun.insert(passed);
        seen = f.network->opened();
        most = std::max(most, f.pending().size());
        std::map<std::string, int> opening;
        for (const auto i : f.pending()) CHECK(++opening[f.network->at(i)->where->key()] == 1);
        if (passed % 20ms == 0ms) {
            for (const auto i : f.pending()) f.finish(i);
        }
    }
    CHECK(f.pool->get_stats().idle == 40);
    CHECK(f.network->opened() == 80);
    CHECK(most == 4);
    CHECK(begun.size() > 8);
}

TEST_CASE("a warm host that fails is tried again at growing pauses, not in a loop", "[pressure][warm]") {
    pressed f;
    f.network->fail_opens(refused_tcp);
    f.pool->keep_warm(std::vector{host("a")});
    f.settle();
    for (int i = 0; i < 600; ++i) f.advance(100ms);  // a minute
    CHECK(f.network->opened() >= 7);                 // 0.25 + 0.5 + 1 + 2 + 4 + 8 + 16 s
    CHECK(f.network->opened() <= 10);
    f.network->fail_opens({});
    f.advance(30s);
    CHECK(f.pool->get_stats().idle == 1);
}

TEST_CASE("warm hosts never take more than the pool has, and callers come first", "[pressure][warm]") {
    pressed f{[](pool_params& p) { p.max_connections = 10; }};
    std::vector<target> all;
    for (int i = 0; i < 30; ++i) all.push_back(host("h" + std::to_string(i)));
    f.pool->keep_warm(all);
    f.settle();
    for (int i = 0; i < 20; ++i) f.advance(1s);
    CHECK(f.network->most_live() == 10);
    CHECK(f.network->opened() == 10);  // they do not push each other out
    std::vector<std::shared_ptr<pool_fixture::asked>> callers;
    for (int i = 0; i < 10; ++i) {
        callers.push_back(f.get(host("caller" + std::to_string(i))));
        CHECK(callers.back()->lease);
    }
    CHECK(f.network->most_live() == 10);
    callers.clear();
    f.settle();
    for (int i = 0; i < 70; ++i) f.advance(1s);  // the callers' connections idle out: their places are free again
    CHECK(f.pool->get_stats().idle == 10);
    CHECK(f.pool->get_stats("root@caller0:22").pool_size == 0);
    CHECK(f.network->most_live() == 10);
}

TEST_CASE("a caller of a warm host that is being connected waits for that connect, and causes no other", "[pressure][warm]") {
    pressed f;
    f.network->opens = answer::when_told;
    f.pool->keep_warm(std::vector{host("a")});
    f.pool->keep_warm(std::vector{host("a")});
    auto a = f.get(host("a"));
    f.advance(5s);
    CHECK(f.network->opened() == 1);
    f.finish(0);
    CHECK(a->lease);
    CHECK(f.network->opened() == 1);
}

TEST_CASE("forget_warm lets a host go as any other: after idle_timeout", "[pressure][warm]") {
    pressed f;
    f.pool->keep_warm(std::vector{host("a"), host("b")});
    f.settle();
    for (int i = 0; i < 100; ++i) f.advance(1s);
    CHECK(f.pool->get_stats().idle == 2);
    f.pool->forget_warm("root@a:22");
    f.pool->forget_warm("root@unknown:22");
    f.settle();
    f.advance(1s);
    CHECK(f.pool->get_stats("root@a:22").pool_size == 0);  // idle for longer than the timeout already
    CHECK(f.pool->get_stats("root@b:22").idle == 1);
    f.network->lose(1);
    f.settle();
    for (int i = 0; i < 10; ++i) f.advance(100ms);
    CHECK(f.opened_to("root@a:22") == 1);
    CHECK(f.opened_to("root@b:22") == 2);
}

TEST_CASE("keep_warm with new credentials for a host replaces the old ones", "[pressure][warm]") {
    pressed f;
    f.pool->keep_warm(std::vector{host("a", "old")});
    f.settle();
    f.pool->keep_warm(std::vector{host("a", "new")});
    f.settle();
    CHECK(f.network->opened() == 2);
    CHECK(f.network->at(1)->where->identity() == credentials::password("new").identity());
    for (int i = 0; i < 100; ++i) f.advance(1s);
    CHECK(f.pool->get_stats().idle == 1);
    CHECK(f.network->at(1)->open);
    CHECK_FALSE(f.network->at(0)->open);
}

TEST_CASE("after a shutdown nothing is kept warm", "[pressure][warm]") {
    pressed f;
    f.pool->keep_warm(std::vector{host("a")});
    f.settle();
    bool down = false;
    f.pool->async_shutdown(1s, [&](std::error_code) { down = true; });
    f.settle();
    CHECK(down);
    f.pool->keep_warm(std::vector{host("a")});
    for (int i = 0; i < 10; ++i) f.advance(1s);
    CHECK(f.network->opened() == 1);
}

TEST_CASE("async_warm of no host ends at once, and one that is cancelled reports what was done", "[pressure][warm]") {
    pressed f;
    std::optional<warm_report> report;
    std::error_code seen;
    const auto note = [&](std::error_code ec, warm_report r) {
        seen = ec;
        report = std::move(r);
    };
    SECTION("no host") {
        f.pool->async_warm(std::vector<target>{}, note);
        f.settle();
        REQUIRE(report);
        CHECK_FALSE(seen);
        CHECK(report->connected == 0);
    }
    SECTION("cancelled") {
        f.network->opens = answer::when_told;
        asio::cancellation_signal stop;
        error_info info;
        f.pool->async_warm(std::vector{host("a"), host("b")}, info, asio::bind_cancellation_slot(stop.slot(), note));
        f.settle();
        f.finish(0);
        CHECK_FALSE(report);
        stop.emit(asio::cancellation_type::terminal);
        f.settle();
        REQUIRE(report);
        CHECK(seen == errc::cancelled);
        CHECK(info.text == "cancelled before every host was connected or had failed");
        CHECK(report->connected == 1);
        f.finish(1);
        CHECK(f.pool->get_stats().idle == 2);  // the connect belongs to the pool
    }
    SECTION("a host that is left alone fails with the cause, the others are connected") {
        f.network->fail_opens(refused_tcp);
        f.get(host("a"));
        f.network->fail_opens({});
        f.pool->async_warm(std::vector{host("a"), host("b")}, note);
        f.settle();
        REQUIRE(report);
        CHECK(report->connected == 1);
        REQUIRE(report->failed.size() == 1);
        CHECK(report->failed[0].error == errc::host_backing_off);
    }
}

// Long leases ----------------------------------------------------------------------------------------------------------------

TEST_CASE("a lease held for too long is told of once, with the line that asked for it, and is not taken away", "[pressure][lease]") {
    pressed f{[](pool_params& p) { p.max_lease_time = 10s; }};
    pool_fixture::lease_type forgotten;
    const auto line = std::source_location::current().line() + 1;
    f.pool->async_get_connection(host("a"), [&](std::error_code, pool_fixture::lease_type l) { forgotten = std::move(l); });
    f.settle();
    f.advance(9s);
    f.give_back(f.get(host("a")));  // a short one on the same connection
    f.advance(999ms);
    CHECK(f.told(event_kind::lease_too_long).empty());
    f.advance(1ms);
    for (int i = 0; i < 20; ++i) f.advance(5s);
    const auto told = f.told(event_kind::lease_too_long);
    REQUIRE(told.size() == 1);
    CHECK(told[0].key == "root@a:22");
    CHECK(told[0].duration == 10s);
    CHECK(told[0].where.line() == line);
    CHECK(std::string{told[0].where.file_name()}.find("test_pool_pressure.cpp") != std::string::npos);
    CHECK(told[0].connection_id == forgotten.info().id);
    CHECK(f.pool->get_stats().long_leases == 1);
    CHECK(forgotten);
    CHECK(f.pool->explain("root@a:22").find("by test_pool_pressure.cpp:" + std::to_string(line) + ": too long (pool_params::max_lease_time)") !=
          std::string::npos);
    SECTION("the next one is told of, too, whoever lent it") {
        forgotten.release();
        f.settle();
        const auto second = std::source_location::current().line() + 1;
        auto held = f.pool->try_get_connection(host("a"));
        REQUIRE(held);
        f.settle();
        f.advance(10s);
        REQUIRE(f.told(event_kind::lease_too_long).size() == 2);
        CHECK(f.told(event_kind::lease_too_long).back().where.line() == second);
    }
    SECTION("a command that runs for too long, too") {
        f.network->runs = answer::when_told;
        const auto second = std::source_location::current().line() + 1;
        f.pool->async_run(host("a"), "sleep", [](std::error_code, const command_result&) {});
        f.settle();
        f.advance(10s);
        REQUIRE(f.told(event_kind::lease_too_long).size() == 2);
        CHECK(f.told(event_kind::lease_too_long).back().where.line() == second);
        f.network->finish_runs(0);
        f.settle();
    }
    SECTION("also after its connection was lost") {
        f.network->lose(0);
        f.settle();
        forgotten.release();
        f.settle();
        CHECK(f.told(event_kind::lease_too_long).size() == 1);
    }
}

TEST_CASE("without max_lease_time nobody is told of long leases", "[pressure][lease]") {
    pressed f{[](pool_params& p) { p.connection_ttl = 0ms; }};
    auto held = f.get(host("a"));
    for (int i = 0; i < 48; ++i) f.advance(1h);
    CHECK(f.told(event_kind::lease_too_long).empty());
    CHECK(held->lease);
}

namespace {

/// Ways to log in that hold secrets, and the secrets.
struct secret_logins {
    std::vector<credentials> all;
    std::vector<std::string> secrets{"correct horse", "battery staple"};

    secret_logins() {
        const support::temp_dir dir;
        for (const auto& passphrase : {std::string{}, secrets[0]}) {
            const auto file = dir / ("key" + std::to_string(all.size()));
            support::run_program({"ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-f", file.string()});
            std::istringstream pem{support::read_file(file)};
            for (std::string line; std::getline(pem, line);) {
                if (line.front() != '-') secrets.push_back(line);
            }
            all.push_back(credentials::private_key(pem.str(), passphrase));
        }
        all.push_back(credentials::password(secrets[1]));  // which is also what keyboard-interactive gets as an answer
        auto each = all[0];
        all.push_back(each.or_else(all[1]).or_else(all[2]));
    }
    bool are_in(const std::string& text) const {
        return std::any_of(secrets.begin(), secrets.end(), [&](const auto& s) { return text.find(s) != std::string::npos; });
    }
};

// Every field by its name: a new one does not compile until it is looked at here.
std::string text_of(const error_info& e) {
    const auto& [code, key, phase, text] = e;
    return code.message() + '\n' + key + '\n' + phase + '\n' + text + '\n';
}
std::string text_of(const pool_event& e) {
    const auto& [kind, key, connection_id, reason, error, phases, count, identity, duration, where] = e;
    return std::string{to_string(kind)} + '\n' + key + '\n' + text_of(error) + identity + '\n' + where.file_name() + '\n' + where.function_name() + '\n';
}

}  // namespace

TEST_CASE("no event of any kind holds a secret, nor does an error or an explanation", "[pressure][events]") {
    const secret_logins logins;
    REQUIRE(logins.are_in("the correct horse"));
    REQUIRE(logins.secrets.size() > 8);
    for (const auto& login : logins.all) {
        pressed f{[](pool_params& p) { p.max_lease_time = 1s, p.max_connections = 3, p.acquire_timeout = 3s, p.when_full = full_policy::open_unpooled; }};
        std::string said;
        const auto ask = [&](const std::string& name, auto meanwhile) {
            const target to{"root@" + name, login, host_key_policy::accept_any()};
            auto a = f.get(to);
            meanwhile();
            said += text_of(a->info) + f.pool->explain(to.key());
            if (a->lease) said += a->lease.info().identity;
            return a;
        };
        const auto get = [&](const std::string& name) { return ask(name, [] {}); };

        auto a = get("a"), b = get("b"), c = get("c"), beside = get("d");  // connected, unpooled
        f.network->at(0)->observer.capacity(1);                            // limit_learned
        f.advance(1s);                                                     // lease_too_long
        f.give_back(b);
        f.give_back(c);
        f.network->fail_opens(denied);
        get("denied");  // connect_failed, backing_off
        get("denied");
        const auto ran = f.run(target{"root@denied", login, host_key_policy::accept_any()}, "true");
        f.pool->async_warm(std::vector{target{"root@denied", login, host_key_policy::accept_any()}},
                           [&](std::error_code, const warm_report& r) { said += text_of(r.failed.at(0).error); });
        f.network->fail_opens(dropped);
        ask("busy", [&] { f.advance(300ms); });  // server_busy
        f.network->fail_opens({});
        f.network->opens = answer::when_told;
        ask("slow", [&] { f.advance(3s); });  // acquire_timeout
        while (!f.pending().empty()) f.finish(f.pending().front());
        f.network->opens = answer::at_once;
        f.network->fail_opens(failed(errc::connect_timeout, "tcp", "no answer"));
        for (int i = 0; i < 12; ++i) get("h" + std::to_string(i));  // network_down
        f.network->fail_opens({});
        get("new");  // network_up
        manual_clock::sleep(1h);
        f.network->fail_probes(failed(errc::connection_lost, "probe", "no answer"));
        get("new");           // suspended, probe_failed, closed
        f.pool->close_all();  // draining
        f.settle();

        for (std::size_t k = 0; k < event_kinds; ++k) {
            const auto kind = static_cast<event_kind>(k);
            CAPTURE(std::string{to_string(kind)});
            CHECK_FALSE(f.told(kind).empty());
        }
        for (const auto& e : f.events) said += text_of(e);
        said += text_of(ran->info);
        INFO(said);
        CHECK_FALSE(logins.are_in(said));
        CHECK(said.find(login.identity()) != std::string::npos);
    }
}

// The full pool --------------------------------------------------------------------------------------------------------------

TEST_CASE("a full pool under wait gives callers a place in the queue", "[pressure][full]") {
    pressed f{[](pool_params& p) { p.max_connections = 1; }};
    auto held = f.get(host("a"));
    auto waits = f.get(host("b"));
    CHECK_FALSE(waits->done);
    CHECK(f.pool->get_stats().waiting == 1);
    f.give_back(held);
    f.advance(1s);
    CHECK(waits->lease);
    CHECK(f.network->most_live() == 1);
}

TEST_CASE("a full pool under open_unpooled gives each caller a connection of its own, told of, counted, and closed after use", "[pressure][full]") {
    pressed f{[](pool_params& p) { p.max_connections = 1, p.max_unpooled = 3, p.when_full = full_policy::open_unpooled; }};
    auto held = f.get(host("a"));
    auto b = f.get(host("b")), again = f.get(host("b")), c = f.get(host("c"));
    REQUIRE(b->lease);
    REQUIRE(again->lease);
    REQUIRE(c->lease);
    CHECK(&b->lease->state() != &again->lease->state());
    const auto told = f.told(event_kind::unpooled);
    REQUIRE(told.size() == 3);
    CHECK(told[0].key == "root@b:22");
    CHECK(told[0].connection_id == b->lease.info().id);
    CHECK(told[1].connection_id == again->lease.info().id);
    CHECK(told[2].key == "root@c:22");
    auto s = f.pool->get_stats();
    CHECK(s.unpooled_connections == 3);
    CHECK(s.pool_size == 1);
    CHECK(s.in_use == 1);
    auto waits = f.get(host("d"));  // past max_unpooled
    CHECK_FALSE(waits->done);
    f.give_back(b);
    CHECK(f.network->live() == 4);  // b's is closed, and d has one
    CHECK(waits->lease);
    CHECK(f.told(event_kind::unpooled).size() == 4);
    CHECK_FALSE(f.pool->try_get_connection(host("b")));
    f.give_back(again);
    f.give_back(c);
    f.give_back(waits);
    CHECK(f.network->live() == 1);
    f.give_back(held);
    f.advance(1s);
    auto pooled = f.get(host("e"));
    CHECK(pooled->lease);
    CHECK(f.told(event_kind::unpooled).size() == 4);
}

TEST_CASE("an idle connection makes room before one is opened beside the pool and thrown away", "[pressure][full]") {
    pressed f{[](pool_params& p) { p.max_connections = 2, p.when_full = full_policy::open_unpooled; }};
    f.network->set_phases({0ns, 0ns, 0ns, 20ms});
    auto held = f.get(host("a"));
    f.give_back(f.get(host("b")));
    auto c = f.get(host("c"));  // b was idle for less than it took to open: c does not wait until it was
    REQUIRE(c->lease);
    CHECK(f.told(event_kind::unpooled).size() == 1);
    f.advance(20ms);
    f.network->closes = answer::when_told;
    auto d = f.ask(host("d")), e = f.ask(host("e"));
    f.settle();
    CHECK_FALSE(d->done);  // it gets b's place
    CHECK(e->lease);       // for which there is no other
    CHECK(f.told(event_kind::unpooled).size() == 2);
    f.network->finish_close(1);
    f.settle();
    CHECK(d->lease);
    CHECK(f.told(event_kind::unpooled).size() == 2);
    CHECK(f.pool->get_stats().evictions == 1);
    f.network->closes = answer::at_once;
}

TEST_CASE("connections beside the pool are opened under the handshake limits and the back-off", "[pressure][full]") {
    pressed f{[](pool_params& p) { p.max_connections = 1, p.max_handshakes = 2, p.when_full = full_policy::open_unpooled; }};
    auto held = f.get(host("a"));
    f.network->opens = answer::when_told;
    std::vector<std::shared_ptr<pool_fixture::asked>> all;
    for (int i = 0; i < 6; ++i) all.push_back(f.get(host("h" + std::to_string(i))));
    CHECK(f.pending().size() == 2);
    f.finish(f.pending().front(), refused_tcp);
    CHECK(all[0]->ec == errc::connect_failed);
    CHECK(f.pending().size() == 2);
    CHECK(f.get(host("h0"))->ec == errc::host_backing_off);
    while (!f.pending().empty()) f.finish(f.pending().front());
    for (std::size_t i = 1; i < 6; ++i) CHECK(all[i]->lease);
    CHECK(f.pool->get_stats().unpooled_connections == 5);
    CHECK(f.pool->get_stats().connect_failures[errc::connect_failed] == 1);
}

TEST_CASE("a full pool under fail refuses at once, with the figures", "[pressure][full]") {
    pressed f{[](pool_params& p) { p.max_connections = 1, p.when_full = full_policy::fail; }};
    auto held = f.get(host("a"));
    auto b = f.get(host("b"));
    REQUIRE(b->done);
    CHECK(b->ec == errc::pool_exhausted);
    CHECK(b->ec == command_fate::not_started);
    CHECK(b->info.text ==
          "no connection to root@b:22 is free and the pool is full: 1/1 connections, 1 in use, 0 connecting (pool_params::max_connections, when_full)");
    CHECK(f.network->opened() == 1);
    f.give_back(held);
    CHECK(f.get(host("b"))->lease);  // an idle one goes for it, however young
}

TEST_CASE("try_get_connection never waits, connects or probes, whatever when_full says", "[pressure][full]") {
    const auto policy = GENERATE(full_policy::wait, full_policy::open_unpooled, full_policy::fail);
    pool_params p;
    p.max_connections = 1;
    p.leases_per_connection = 1;
    p.when_full = policy;
    pool_fixture f{p};
    auto held = f.get(host("a"));
    CHECK_FALSE(f.pool->try_get_connection(host("a")));
    CHECK_FALSE(f.pool->try_get_connection(host("b")));
    f.give_back(held);
    f.advance(31s);                                      // silent for longer than health_check_interval
    (void)f.pool->try_get_connection(host("a"));         // not at once: whether it lives is to be asked first
    CHECK_FALSE(f.pool->try_get_connection(host("b")));  // whose place is taken
    f.settle();
    CHECK(f.network->opened() == 1);
    CHECK(f.pool->get_stats().waiting == 0);
}
