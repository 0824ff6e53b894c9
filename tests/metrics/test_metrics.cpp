// A pool's figures as Prometheus sees them: scraped over HTTP, from a thread of the HTTP server's.

#include <sshpool/prometheus.hpp>

#include <prometheus/exposer.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/http_get.hpp"
#include "support/process.hpp"
#include "unit/pool_fixture.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// `name{labels}` → value, and what was wrong with the text: every series must stand under a HELP and a TYPE of its own name, and once.
struct scraped {
    explicit scraped(const std::string& body) : text(body) {
        std::string family, type;
        std::set<std::string> seen;
        for (std::size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
            const auto line = text.substr(at, end - at);
            if (line.rfind("# HELP ", 0) == 0) {
                family = line.substr(7, line.find(' ', 7) - 7);
                if (!seen.insert(family).second) faults.push_back("twice: " + line);
            } else if (line.rfind("# TYPE " + family + " ", 0) == 0) {
                type = line.substr(8 + family.size());
            } else {
                const auto split = line.rfind(' ');
                const auto series = line.substr(0, split);
                auto name = series.substr(0, series.find('{'));
                for (const char* part : {"_bucket", "_sum", "_count"}) {
                    if (type == "histogram" && name == family + part) name = family;
                }
                if (name != family) faults.push_back("under " + family + ": " + line);
                if (!values.emplace(series, std::stod(line.substr(split + 1))).second) faults.push_back("twice: " + series);
                names.insert(name);
            }
        }
    }
    double operator[](const std::string& series) const {
        const auto found = values.find(series);
        if (found == values.end()) throw std::runtime_error(series + " is not in\n" + text);
        return found->second;
    }
    std::size_t count(const std::string& part) const {
        return static_cast<std::size_t>(std::count_if(values.begin(), values.end(), [&](const auto& v) { return v.first.find(part) != std::string::npos; }));
    }

    std::string text;
    std::map<std::string, double> values;
    std::set<std::string> names;
    std::vector<std::string> faults;
};

/// Metrics behind a real HTTP server on loopback. One server for all, since it takes two seconds to stop.
struct exposed {
    exposed() { exposer().RegisterCollectable(metrics, path); }
    ~exposed() { exposer().RemoveCollectable(metrics, path); }
    exposed(const exposed&) = delete;
    exposed& operator=(const exposed&) = delete;
    scraped scrape() const {  // without the exposer's own figures
        const auto all = support::http_get(exposer().GetListeningPorts().at(0), path);
        const auto from = all.find("# HELP ssh_pool_");
        return scraped{from == std::string::npos ? std::string{} : all.substr(from)};
    }

    static prometheus::Exposer& exposer() {
        static prometheus::Exposer one{"127.0.0.1:0", 2};
        return one;
    }
    inline static std::atomic<int> made{0};
    const std::string path = "/metrics/" + std::to_string(++made);
    std::shared_ptr<pool_metrics> metrics = std::make_shared<pool_metrics>();
};

void lend_and_return(pool_fixture& f, const std::string& name) {
    auto a = f.get(host(name));
    REQUIRE(a->lease);
    f.give_back(a);
}

}  // namespace

TEST_CASE("a scrape over HTTP tells every figure of the pool under its usual name", "[metrics]") {
    pool_fixture f{with([](pool_params& p) {
        p.max_connections = 2;
        p.leases_per_connection = 1;
        p.max_connections_per_host = 1;
    })};
    exposed e;
    e.metrics->add({}, f.pool->watch());

    f.network->set_phases({0ms, 1ms, 30ms, 4ms});
    lend_and_return(f, "a");                         // a miss
    f.network->at(0)->observer.channel_opened(0ns);  // found a spare
    f.network->at(0)->observer.channel_opened(3ms);  // did not
    auto held = f.get(host("a"));                    // a hit
    lend_and_return(f, "b");                         // a miss
    f.advance(1s);
    lend_and_return(f, "c");  // evicts b, which was used once
    f.network->set_phases({0ms, 1ms, 0ms, 0ms});
    f.network->fail_opens({make_error(errc::auth_failed), {}, "login", "no"});
    f.advance(1s);
    CHECK(f.get(host("d"))->ec == errc::auth_failed);  // evicts c
    auto waits = f.get(host("a"));
    f.advance(2s);
    f.network->fail_opens({});

    const auto s = e.scrape();
    CHECK(s.faults.empty());
    CHECK(s["ssh_pool_connections{state=\"in_use\"}"] == 1);
    CHECK(s["ssh_pool_connections{state=\"idle\"}"] == 0);
    CHECK(s["ssh_pool_connections{state=\"connecting\"}"] == 0);
    CHECK(s["ssh_pool_connections{state=\"closing\"}"] == 0);
    CHECK(s["ssh_pool_pending_requests"] == 1);
    CHECK(s["ssh_pool_hits_total"] == 1);
    CHECK(s["ssh_pool_misses_total"] == 3);
    CHECK(s["ssh_pool_connections_created_total"] == 3);
    CHECK(s["ssh_pool_closed_total{reason=\"lru\"}"] == 2);
    CHECK(s["ssh_pool_closed_total{reason=\"ttl\"}"] == 0);
    CHECK(s["ssh_pool_connect_failures_total{cause=\"auth_failed\"}"] == 1);
    CHECK(s["ssh_pool_connect_failures_total{cause=\"connect_timeout\"}"] == 0);
    CHECK(s["ssh_pool_acquire_wait_seconds_count"] == 4);
    CHECK(s["ssh_pool_connect_seconds_count{phase=\"tcp\"}"] == 4);
    CHECK(s["ssh_pool_connect_seconds_bucket{phase=\"key_exchange\",le=\"0.02\"}"] == 0);
    CHECK(s["ssh_pool_connect_seconds_bucket{phase=\"key_exchange\",le=\"0.05\"}"] == 3);
    CHECK(s["ssh_pool_connect_seconds_bucket{phase=\"key_exchange\",le=\"+Inf\"}"] == 3);
    CHECK(s["ssh_pool_connect_seconds_sum{phase=\"login\"}"] == Approx(0.012));
    CHECK(s["ssh_pool_channel_open_seconds_count"] == 2);
    CHECK(s["ssh_pool_channel_open_seconds_sum"] == Approx(0.003));
    CHECK(s["ssh_pool_spare_hits_total"] == 1);
    CHECK(s["ssh_pool_evicted_before_reuse_total"] == 2);

    f.network->closes = scripted_network::answer::when_told;
    f.give_back(held);
    REQUIRE(waits->lease);
    waits->lease.discard();
    f.give_back(waits);
    CHECK(e.scrape()["ssh_pool_connections{state=\"closing\"}"] == 1);
    f.network->finish_close(0);
}

TEST_CASE("what is scraped satisfies promtool, with several pools, hosts, and names made to break the format", "[metrics]") {
    pool_fixture one, two;
    exposed e;
    e.metrics->add("one \"quoted\" \\ and\nbroken", one.pool->watch(), 5);
    e.metrics->add("two", two.pool->watch());
    lend_and_return(one, "a");
    lend_and_return(two, "b");
    one.network->fail_opens({make_error(errc::connect_failed), {}, "tcp", "no"});
    one.get(host("c"));

    const auto s = e.scrape();
    CHECK(s.faults.empty());
    CHECK(s.count("pool=\"two\"") > 50);
    CHECK(s["ssh_pool_misses_total{pool=\"two\"}"] == 1);
    CHECK(s["ssh_pool_host_misses_total{pool=\"one \\\"quoted\\\" \\\\ and\\nbroken\",host=\"root@a:22\"}"] == 1);
    CHECK(s["ssh_pool_connect_failures_total{pool=\"two\",cause=\"connect_failed\"}"] == 0);

    support::spawn_options with_text;
    with_text.input = s.text;
    support::process promtool({"promtool", "check", "metrics"}, with_text);
    const int status = promtool.wait();
    if (status == 127) SKIP_TEST("there is no promtool (the package prometheus)");
    CHECK(status == 0);
    CHECK(promtool.output().empty());  // what it would like better
}

TEST_CASE("the number of series does not grow with hosts, and per-host series are those of the busiest k", "[metrics]") {
    pool_fixture f{with([](pool_params& p) { p.max_connections = 100; })};
    exposed plain, per_host;
    plain.metrics->add({}, f.pool->watch());
    per_host.metrics->add({}, f.pool->watch(), 3);
    const auto before = plain.scrape().values.size();
    CHECK(per_host.scrape().values.size() == before);

    for (int i = 0; i < 40; ++i) {
        for (int n = 0; n <= i; ++n) lend_and_return(f, "host-" + std::to_string(i));
    }
    CHECK(plain.scrape().values.size() == before);
    auto s = per_host.scrape();
    CHECK(s.faults.empty());
    CHECK(s.count("ssh_pool_host_hits_total") == 3);
    CHECK(s["ssh_pool_host_hits_total{host=\"root@host-39:22\"}"] == 39);
    CHECK(s["ssh_pool_host_connections{host=\"root@host-37:22\",state=\"idle\"}"] == 1);
    CHECK(s.count("host-36") == 0);

    f.pool->invalidate("root@host-38:22");
    f.settle();
    s = per_host.scrape();
    CHECK(s.count("host-38") == 0);  // gone with the host's last connection
    CHECK(s.count("host-36") > 0);
}

TEST_CASE("a pool that has gone leaves no series, and frees its name", "[metrics]") {
    exposed e;
    {
        pool_fixture f;
        e.metrics->add("fleet", f.pool->watch());
        CHECK_THROWS_AS(e.metrics->add("fleet", f.pool->watch()), std::invalid_argument);
        CHECK(e.scrape().count("fleet") > 0);
        f.pool.reset();
        CHECK(e.scrape().values.empty());
    }
    CHECK(e.scrape().values.empty());
    pool_fixture g;
    auto watch = g.pool->watch();
    e.metrics->add("fleet", watch);
    CHECK(e.scrape().count("fleet") > 0);
    g.pool.reset();
    pool_fixture h;
    e.metrics->add("fleet", h.pool->watch());  // with no scrape between
    CHECK(e.scrape().count("fleet") > 0);
    CHECK_FALSE(watch(0));
}
