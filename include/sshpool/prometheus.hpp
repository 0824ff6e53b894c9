#pragma once

#include <sshpool/error.hpp>
#include <sshpool/pool_event.hpp>
#include <sshpool/pool_stats.hpp>

#include <prometheus/client_metric.h>
#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool {

/// The figures of one or more pools for Prometheus (prometheus-cpp): `exposer.RegisterCollectable(metrics)`.
///
/// How many series a pool has is bounded, whatever happens to it: labels take their values from fixed lists, a rare value from the first time it occurs. Series
/// of single hosts exist only where they were asked for, for that many of the busiest hosts, and go when the pool has nothing more to do with the host. All
/// pools share one set of names, so every pool of a process belongs into one `pool_metrics`.
///
/// **Threads**: every member may be called from any thread; `Collect` comes from the HTTP server's.
/// **Lifetime**: keeps no pool. The series of a pool that has gone are gone with the next `Collect`.
class pool_metrics final : public prometheus::Collectable {
public:
    pool_metrics() = default;
    /// One pool without a name: its series have no label `pool`.
    explicit pool_metrics(pool_watcher pool, std::size_t hosts = 0) { add({}, std::move(pool), hosts); }

    /// Takes in what `ssh_pool::watch` gave, under the label `pool="name"`; `hosts`: how many hosts have series of their own.
    /// Throws `std::invalid_argument` when a pool of that name is there already.
    void add(std::string name, pool_watcher pool, std::size_t hosts = 0) {
        const std::lock_guard lock{mutex_};
        const auto same = std::find_if(pools_.begin(), pools_.end(), [&](const watched& w) { return w.name == name; });
        if (same != pools_.end() && same->read(0)) throw std::invalid_argument("pool_metrics: there is a pool named \"" + name + "\" already");
        if (same != pools_.end()) pools_.erase(same);
        pools_.push_back({std::move(name), std::move(pool), hosts});
    }

    std::vector<prometheus::MetricFamily> Collect() const override {
        std::vector<reading> all;
        {
            const std::lock_guard lock{mutex_};
            pools_.erase(std::remove_if(pools_.begin(), pools_.end(),
                                        [&](const watched& w) {
                                            auto figures = w.read(w.hosts);
                                            if (figures) all.push_back({w.name, std::move(*figures)});
                                            return !figures;
                                        }),
                         pools_.end());
        }
        families out;
        for (const auto& [name, figures] : all) {
            const labels of_pool = name.empty() ? labels{} : labels{{"pool", name}};
            add_pool(out, of_pool, figures.total);
            for (const auto& [key, stats] : figures.hosts) add_host(out, with(of_pool, "host", key), stats);
        }
        return std::move(out.list);
    }

private:
    using labels = std::vector<prometheus::ClientMetric::Label>;
    struct watched {
        std::string name;
        pool_watcher read;
        std::size_t hosts;
    };
    struct reading {
        std::string name;
        pool_snapshot figures;
    };

    /// What is to be told, by name: a name stands there once, whatever the number of pools.
    struct families {
        void counter(const char* name, const char* help, labels of, std::uint64_t value) {
            metric(name, help, prometheus::MetricType::Counter, std::move(of)).counter.value = static_cast<double>(value);
        }
        void gauge(const char* name, const char* help, labels of, std::size_t value) {
            metric(name, help, prometheus::MetricType::Gauge, std::move(of)).gauge.value = static_cast<double>(value);
        }
        void histogram(const char* name, const char* help, labels of, const time_histogram& times) {
            auto& h = metric(name, help, prometheus::MetricType::Histogram, std::move(of)).histogram;
            for (std::size_t i = 0; i < times.counts().size(); ++i) {
                h.sample_count += times.counts()[i];
                const bool last = i == time_histogram::bounds_us.size();
                h.bucket.push_back({h.sample_count, last ? std::numeric_limits<double>::infinity() : static_cast<double>(time_histogram::bounds_us[i]) / 1e6});
            }
            h.sample_sum = std::chrono::duration<double>(times.sum()).count();
        }

        std::vector<prometheus::MetricFamily> list;

    private:
        prometheus::ClientMetric& metric(const char* name, const char* help, prometheus::MetricType type, labels of) {
            auto family = std::find_if(list.begin(), list.end(), [&](const auto& f) { return f.name == name; });
            if (family == list.end()) family = list.insert(family, {name, help, type, {}});
            auto& added = family->metric.emplace_back();
            added.label = std::move(of);
            return added;
        }
    };

    static labels with(labels all, const char* name, std::string_view value) {
        all.push_back({name, std::string{value}});
        return all;
    }

    /// The causes that a connect can fail of are there from the beginning, or their first rise would be missed; others once they have occurred.
    static bool fails_connects(errc cause) {
        constexpr std::array usual{errc::resolve_failed,   errc::connect_failed,    errc::connect_timeout, errc::server_busy,  errc::handshake_failed,
                                   errc::host_key_unknown, errc::host_key_mismatch, errc::auth_failed,     errc::key_unusable, errc::jump_failed,
                                   errc::channel_refused,  errc::connection_lost,   errc::protocol_error};
        return std::find(usual.begin(), usual.end(), cause) != usual.end();
    }

    static void add_connections(families& out, const char* name, const char* help, const labels& of, const pool_stats& s) {
        const auto known = s.in_use + s.idle + s.connecting;
        out.gauge(name, help, with(of, "state", "in_use"), s.in_use);
        out.gauge(name, help, with(of, "state", "idle"), s.idle);
        out.gauge(name, help, with(of, "state", "connecting"), s.connecting);
        out.gauge(name, help, with(of, "state", "closing"), s.pool_size - std::min(known, s.pool_size));
    }

    static void add_pool(families& out, const labels& of, const pool_stats& s) {
        add_connections(out, "ssh_pool_connections", "Connections by state; their sum is what max_connections bounds.", of, s);
        out.gauge("ssh_pool_pending_requests", "Callers that wait for a connection.", of, s.waiting);
        out.counter("ssh_pool_hits_total", "Connections lent without waiting for a connect.", of, s.hits);
        out.counter("ssh_pool_misses_total", "Connections lent after waiting for a connect.", of, s.misses);
        out.counter("ssh_pool_acquire_timeouts_total", "Callers whose wait for a connection ended with acquire_timeout.", of, s.wait_timeouts);
        out.counter("ssh_pool_connections_created_total", "Connections opened, logins included.", of, s.connections_created);
        out.counter("ssh_pool_unpooled_total", "Connections opened beside the pool because it was full.", of, s.unpooled_connections);
        out.counter("ssh_pool_health_check_failures_total", "Health checks that failed.", of, s.health_check_failures);
        out.counter("ssh_pool_spare_hits_total", "Commands that found a channel open already.", of, s.spare_hits);
        out.counter("ssh_pool_evicted_before_reuse_total", "Connections evicted after a single lease: the pool is too small for its hosts.", of,
                    s.evicted_before_reuse);
        for (std::size_t i = 0; i < close_reasons; ++i) {
            const auto reason = static_cast<close_reason>(i);
            out.counter("ssh_pool_closed_total", "Connections closed, by reason.", with(of, "reason", to_string(reason)), s.connections_closed[reason]);
        }
        auto other = s.connect_failures.total();
        for (const auto& entry : detail::errors) {
            const auto count = s.connect_failures[entry.value];
            other -= count;
            if (count == 0 && !fails_connects(entry.value)) continue;
            out.counter("ssh_pool_connect_failures_total", "Connects that failed, by cause.", with(of, "cause", entry.name), count);
        }
        if (other > 0) out.counter("ssh_pool_connect_failures_total", "Connects that failed, by cause.", with(of, "cause", "other"), other);
        out.histogram("ssh_pool_acquire_wait_seconds", "From asking for a connection to being lent one.", of, s.acquire_wait);
        constexpr auto connect = "ssh_pool_connect_seconds";
        constexpr auto connect_help = "How long the phases of connects took.";
        out.histogram(connect, connect_help, with(of, "phase", "tcp"), s.connect_tcp);
        out.histogram(connect, connect_help, with(of, "phase", "key_exchange"), s.connect_key_exchange);
        out.histogram(connect, connect_help, with(of, "phase", "login"), s.connect_login);
        out.histogram("ssh_pool_channel_open_seconds", "How long commands waited for their channel.", of, s.channel_open);
    }

    static void add_host(families& out, const labels& of, const pool_stats& s) {
        add_connections(out, "ssh_pool_host_connections", "Connections of the busiest hosts, by state.", of, s);
        out.gauge("ssh_pool_host_pending_requests", "Callers that wait for a connection to the host.", of, s.waiting);
        out.counter("ssh_pool_host_hits_total", "Connections to the host lent without waiting for a connect.", of, s.hits);
        out.counter("ssh_pool_host_misses_total", "Connections to the host lent after waiting for a connect.", of, s.misses);
        out.counter("ssh_pool_host_connect_failures_total", "Connects to the host that failed.", of, s.connect_failures.total());
    }

    mutable std::mutex mutex_;
    mutable std::vector<watched> pools_;
};

}  // namespace sshpool
