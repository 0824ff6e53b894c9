// The life of a pool, cut at every moment; and the machine's sleep in the middle of it.

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <thread>

#include "support/held_leases.hpp"
#include "support/wait.hpp"
#include "unit/pool_fixture.hpp"

using namespace sshpool;
using namespace sshpool::test;
using answer = scripted_network::answer;

namespace {

/// A pool with everything in it that a pool can have, moment by moment, and whoever asked it for something.
class life : public support::held_leases<ssh_pool<scripted_transport, manual_clock>::lease_type> {
public:
    static constexpr std::size_t moments = 17;

    life() {
        pool_params p;
        p.max_connections = 8;
        p.max_connections_per_host = 1;
        p.leases_per_connection = 2;
        p.max_handshakes = 2;
        p.on_event = [told = token_](const pool_event&) {};
        network_->now = [] { return std::chrono::steady_clock::time_point{manual_clock::now().time_since_epoch()}; };
        network_->opens = network_->probes = network_->closes = network_->runs = answer::when_told;
        pool_.emplace(io_->get_executor(), p, [n = network_, held = token_](asio::any_io_executor ex) { return scripted_transport{std::move(ex), n}; });
    }

    void live_through(std::size_t moment) {
        switch (moment) {
            case 0:
                return ask("a");
            case 1:
                return settle();
            case 2:
                for (const auto* name : {"a", "a", "b", "c"}) ask(name);
                return settle();
            case 3:
                return opened(0);
            case 4:
                return opened(1);
            case 5:
                return run("a");
            case 6:
                return settle();
            case 7:
                if (!leases_.empty() && leases_.front()) count<command_result>([&](auto done) { leases_.front()->async_run("long", std::move(done)); });
                return settle();
            case 8:
                leases_.resize(std::min<std::size_t>(leases_.size(), 1));
                return settle();
            case 9:
                manual_clock::advance(pool_params{}.health_check_interval);
                ask("b");
                return settle();
            case 10:
                network_->finish_probe(1);
                return settle();
            case 11:
                network_->lose(1);
                return settle();
            case 12:
                count<warm_report>([&](auto done) { pool_->async_warm(std::vector<target>{host("d"), host("e"), host("f")}, std::move(done)); });
                pool_->keep_warm(std::vector<target>{host("g")});
                return settle();
            case 13:
                network_->finish_open(2, error_info{make_error(errc::connect_failed), "root@c:22", "tcp", "refused"});
                return settle();
            case 14:
                pool_->close_all();
                return settle();
            case 15:
                count<int>([&](auto done) { pool_->async_shutdown(1s, [done = std::move(done)](std::error_code ec) mutable { done(ec, 0); }); });
                return settle();
            case 16:
                manual_clock::advance(2s);
                return settle();
        }
    }

    // Ends of the pool and of the io_context -----------------------------------------------------------------------------------
    void end_pool() { pool_.reset(); }
    void end_pool_elsewhere() {
        std::thread{[this] { pool_.reset(); }}.join();
    }
    void end_pool_while_io_runs() {
        const auto work = asio::make_work_guard(*io_);
        io_->restart();
        std::thread runs{[this] { io_->run(); }};
        pool_.reset();
        io_->stop();
        runs.join();
    }
    void assign_over_pool() { pool_ = decltype(pool_){}; }
    void end_io() {
        for (const auto& c : network_->all()) {  // as a transport's sessions do when their context goes
            c->opening = nullptr;
            c->probing.clear();
            c->closing = nullptr;
            c->running.clear();
        }
        io_.reset();
    }
    void end_io_elsewhere() {
        std::thread{[this] { end_io(); }}.join();
    }

    /// What is under way ends.
    void settle_all() {
        network_->closes = answer::at_once;
        for (std::size_t i = 0; i < network_->opened(); ++i) network_->finish_close(i);
        settle();
    }
    std::size_t asked() const noexcept { return answers_.size(); }
    std::size_t unanswered() const { return number(0); }
    std::size_t answered_twice() const { return answers_.size() - number(0) - number(1); }
    std::size_t live_connections() const { return network_->live(); }
    /// Whoever still holds a handler, the factory or the event callback.
    long held() const { return token_.use_count() - 1; }
    void forget_network() { network_.reset(); }

private:
    using pool_type = ssh_pool<scripted_transport, manual_clock>;

    void settle() {
        if (!io_) return;
        do io_->restart();
        while (io_->poll() != 0);
    }
    template <class Result, class Start>
    void count(Start start) {
        auto& answers = answers_.emplace_back(std::make_shared<std::atomic<int>>(0));
        start([answers, held = token_](std::error_code, const Result&) { ++*answers; });
    }
    void ask(const char* name) {
        auto& answers = answers_.emplace_back(std::make_shared<std::atomic<int>>(0));
        pool_->async_get_connection(host(name), [this, answers, held = token_](std::error_code, pool_type::lease_type l) {
            ++*answers;
            if (l) leases_.push_back(std::move(l));
        });
    }
    void run(const char* name) {
        count<command_result>([&](auto done) { pool_->async_run(host(name), "true", std::move(done)); });
    }
    void opened(std::size_t which) {
        network_->finish_open(which);
        settle();
    }
    std::size_t number(int answers) const {
        return static_cast<std::size_t>(std::count_if(answers_.begin(), answers_.end(), [&](const auto& a) { return *a == answers; }));
    }

    std::shared_ptr<int> token_ = std::make_shared<int>(0);
    std::vector<std::shared_ptr<std::atomic<int>>> answers_;
    std::shared_ptr<scripted_network> network_ = std::make_shared<scripted_network>();
    std::unique_ptr<asio::io_context> io_ = std::make_unique<asio::io_context>();
    std::optional<pool_type> pool_;
};

struct way {
    const char* name;
    void (life::*go)();
};
constexpr std::array lease_ends{way{"dropped", &life::drop_leases}, way{"dropped on another thread", &life::drop_leases_elsewhere},
                                way{"discarded", &life::discard_leases}, way{"dropped by an exception", &life::drop_leases_unwinding}};

}  // namespace

TEST_CASE("a pool that goes at any moment of its life answers everybody once, and closes everything", "[lifetime]") {
    constexpr std::array ends{way{"destroyed", &life::end_pool}, way{"destroyed on another thread", &life::end_pool_elsewhere},
                              way{"destroyed while the io_context runs", &life::end_pool_while_io_runs}, way{"assigned over", &life::assign_over_pool}};
    std::size_t most_asked = 0;
    for (const auto& end : ends) {
        for (const auto& leases : lease_ends) {
            for (std::size_t last = 0; last <= life::moments; ++last) {
                life l;
                for (std::size_t i = 0; i < last; ++i) l.live_through(i);
                (l.*end.go)();
                INFO("the pool was " << end.name << " after " << last << " moments, then the leases were " << leases.name);
                CHECK(l.live_leases() == 0);
                (l.*leases.go)();
                l.settle_all();
                CHECK(l.unanswered() == 0);
                CHECK(l.answered_twice() == 0);
                CHECK(l.live_connections() == 0);
                l.drop_leases();
                l.forget_network();
                CHECK(l.held() == 0);
                most_asked = std::max(most_asked, l.asked());
            }
        }
    }
    CHECK(most_asked == 10);  // the whole life was lived
}

TEST_CASE("an io_context that goes at any moment of a pool's life answers nobody, and lets go of everything", "[lifetime]") {
    constexpr std::array ends{way{"before the pool", &life::end_io}, way{"on another thread", &life::end_io_elsewhere}};
    for (const auto& end : ends) {
        for (const auto& leases : lease_ends) {
            for (const bool pool_first : {false, true}) {
                for (std::size_t last = 0; last <= life::moments; ++last) {
                    life l;
                    for (std::size_t i = 0; i < last; ++i) l.live_through(i);
                    const auto unanswered = l.unanswered();
                    INFO("the io_context went " << end.name << " after " << last << " moments" << (pool_first ? ", after the pool" : "")
                                                << ", then the leases were " << leases.name);
                    if (pool_first) l.end_pool();
                    (l.*end.go)();
                    CHECK(l.live_leases() == 0);
                    (l.*leases.go)();
                    if (!pool_first) l.end_pool();
                    l.settle_all();
                    CHECK(l.unanswered() == unanswered);
                    CHECK(l.answered_twice() == 0);
                    l.drop_leases();
                    l.forget_network();
                    CHECK(l.held() == 0);
                }
            }
        }
    }
}

namespace {

std::vector<std::string> fill(pool_fixture& f, std::size_t hosts) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < hosts; ++i) {
        names.push_back("h" + std::to_string(i));
        f.give_back(f.get(host(names.back())));
    }
    return names;
}

}  // namespace

TEST_CASE("after the machine slept every idle connection is checked before it is lent", "[suspend]") {
    std::vector<pool_event> told;
    auto p = with([](pool_params& params) { params.connection_ttl = 0ms; });
    p.on_event = [&](const pool_event& e) {
        if (e.kind == event_kind::suspended) told.push_back(e);
    };
    pool_fixture f{p};
    const auto names = fill(f, 5);
    auto held = f.get(host("held"));
    REQUIRE(f.network->probed() == 0);
    f.network->probes = answer::when_told;

    manual_clock::sleep(2h);
    CHECK_FALSE(f.pool->try_get_connection(host(names[0])));
    for (std::size_t i = 1; i < names.size(); ++i) {
        CAPTURE(i);
        auto a = f.get(host(names[i]));
        CHECK_FALSE(a->done);
        CHECK(f.network->at(i)->probing.size() == 1);
        f.network->finish_probe(i);
        f.settle();
        CHECK(a->lease);
        f.give_back(a);
        CHECK(f.pool->try_get_connection(host(names[i])));  // once is enough
    }
    f.settle();
    CHECK(f.network->opened() == names.size() + 1);
    CHECK(f.pool->get_stats().health_check_failures == 0);
    REQUIRE(told.size() == 1);
    CHECK(told[0].duration == 2h);

    SECTION("one that was lent meanwhile is checked too") {
        f.give_back(held);
        CHECK_FALSE(f.pool->try_get_connection(host("held")));
    }
    SECTION("also where bytes were read from it since, for they may have come before the sleep") {
        manual_clock::advance(1ms);
        f.network->at(5)->heard = manual_clock::now().time_since_epoch().count();
        f.give_back(held);
        CHECK_FALSE(f.pool->try_get_connection(host("held")));
    }
    SECTION("one that does not answer is closed, and its caller gets another") {
        manual_clock::sleep(1h);
        auto a = f.get(host(names[1]));
        f.network->finish_probe(1, error_info{make_error(errc::connection_lost), "root@h1:22", "probe", "no answer"});
        f.settle();
        CHECK(a->lease);
        CHECK(f.network->opened() == names.size() + 2);
        CHECK(told.size() == 2);
    }
}

TEST_CASE("a sleep is noticed by the pool's own timer when nobody asks", "[suspend]") {
    std::vector<pool_event> told;
    pool_params p;
    p.on_event = [&](const pool_event& e) {
        if (e.kind == event_kind::suspended) told.push_back(e);
    };
    pool_fixture f{p};
    fill(f, 1);
    manual_clock::sleep(1h);
    f.settle();
    CHECK(told.empty());
    f.advance(p.health_check_interval);
    REQUIRE(told.size() == 1);
    CHECK(told[0].duration == 1h);
    f.advance(p.idle_timeout);
    CHECK(told.size() == 1);
}

TEST_CASE("less than a second is no sleep, but many of them are one", "[suspend]") {
    int told = 0;
    pool_params p;
    p.on_event = [&](const pool_event& e) { told += e.kind == event_kind::suspended ? 1 : 0; };
    pool_fixture f{p};
    fill(f, 1);
    manual_clock::sleep(999ms);
    CHECK(f.pool->try_get_connection(host("h0")));
    f.settle();
    CHECK(told == 0);
    manual_clock::sleep(1ms);
    CHECK_FALSE(f.pool->try_get_connection(host("h0")));
    f.settle();
    CHECK(told == 1);
}

TEST_CASE("connections whose time ended while the machine slept go one by one", "[suspend]") {
    constexpr std::size_t hosts = 40;
    pool_fixture f{with([](pool_params& p) {
        p.idle_timeout = 0ms;
        p.health_check_interval = 0ms;
        p.ttl_jitter = 0.0;
    })};
    fill(f, hosts);
    manual_clock::sleep(24h);
    CHECK_FALSE(f.pool->try_get_connection(host("other")));  // a look at the clocks
    f.settle();
    CHECK(f.network->live() == hosts);
    std::size_t most_at_once = 0;
    auto before = hosts;
    for (auto passed = 0ms; passed < f.params.connection_ttl / 4 && before != 0; passed += 100ms) {
        f.advance(100ms);
        const auto now = f.network->live();
        most_at_once = std::max(most_at_once, before - now);
        before = now;
    }
    CHECK(before == 0);
    CHECK(most_at_once <= hosts / 4);
}

TEST_CASE("a machine that is awake does not look asleep", "[suspend]") {
    detail::suspend_watch<std::chrono::steady_clock> watch;
    std::size_t asleep = 0;
    const auto end = std::chrono::steady_clock::now() + 50ms;
    while (std::chrono::steady_clock::now() < end) {
        if (watch.look().slept.count() != 0) ++asleep;
    }
    CHECK(asleep == 0);
}
