// A service around a pool: it runs a command on every host of an inventory again and again, until it is told to end.
//
// SIGTERM or SIGINT: nothing new is begun, commands under way may end within the grace time, what then still runs is cut. A second signal cuts at once.
// SIGHUP: inventory and parameters are read anew. A pool's parameters never change: a new pool is connected first, then takes over, and the old
// one drains. So every parameter may be changed while the service runs; meanwhile both pools' bounds add up.
// Readiness: the file of --ready is there while the service is ready: from the first connects' end to the first signal to stop.
#include <sshpool/sshpool.hpp>
#ifdef SSHPOOL_EXAMPLE_METRICS
#include <prometheus/exposer.h>
#include <sshpool/prometheus.hpp>
#endif

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "fleet.hpp"

namespace {

using namespace std::chrono_literals;

constexpr std::string_view usage_text =
    "usage: service -i FILE --key FILE [options] -- COMMAND...\n"
    "  -i, --inventory FILE   lines `user@host[:port]`; read again on SIGHUP\n"
    "  --key FILE             private key that logs in to all of them\n"
    "  --known-hosts FILE     host keys to trust (default: ~/.ssh/known_hosts)\n"
    "  --params FILE          lines `name = value` for the pool; read again on SIGHUP\n"
    "  --every TIME           the pause between two runs on a host (default: 10s)\n"
    "  --timeout TIME         of a command (default: 60s)\n"
    "  --grace TIME           how long commands may go on after SIGTERM (default: 10s)\n"
    "  --ready FILE           is there while the service is ready\n"
    "  --metrics HOST:PORT    serve /metrics for Prometheus there\n"
    "Exit status: 0 everything that was begun has ended, 1 commands were cut, 2 wrong usage.\n";

struct options {
    fleet::access access;
    std::string params, ready, metrics, line;
    std::chrono::milliseconds every = 10s, timeout = 60s, grace = 10s;
};

options parse(const std::vector<std::string_view>& args) {
    options o;
    std::size_t i = 0;
    for (; i < args.size() && args[i] != "--"; ++i) {
        if (o.access.take(args, i)) continue;
        const auto name = args[i];
        const auto value = [&] { return fleet::value_of(args, i); };
        if (name == "--params") {
            o.params = value();
        } else if (name == "--ready") {
            o.ready = value();
        } else if (name == "--metrics") {
            o.metrics = value();
        } else if (name == "--every") {
            o.every = fleet::duration(name, value());
        } else if (name == "--timeout") {
            o.timeout = fleet::duration(name, value());
        } else if (name == "--grace") {
            o.grace = fleet::duration(name, value());
        } else {
            throw fleet::usage_error("unknown option \"" + std::string{name} + "\"; the command follows after --");
        }
    }
    for (++i; i < args.size(); ++i) o.line.append(o.line.empty() ? "" : " ").append(args[i]);
    o.access.check();
    if (o.line.empty()) throw fleet::usage_error("the command is missing: service … -- COMMAND");
    return o;
}

/// The pool's parameters; what the file does not name keeps its default.
sshpool::pool_params read_params(const std::string& file) {
    sshpool::pool_params p;
    if (file.empty()) return p;
    std::ifstream in(file);
    if (!in) throw fleet::usage_error("cannot read the parameters " + file);
    for (std::string line; std::getline(in, line);) {
        line.erase(std::remove(line.begin(), line.end(), ' '), line.end());
        if (line.empty() || line.front() == '#') continue;
        const auto name = line.substr(0, line.find('='));
        const auto value = line.substr(std::min(name.size() + 1, line.size()));
        if (name == "max_connections") {
            p.max_connections = fleet::positive(name, value);
        } else if (name == "max_connections_per_host") {
            p.max_connections_per_host = fleet::positive(name, value);
        } else if (name == "leases_per_connection") {
            p.leases_per_connection = fleet::positive(name, value);
        } else if (name == "max_handshakes") {
            p.max_handshakes = fleet::positive(name, value);
        } else if (name == "idle_timeout") {
            p.idle_timeout = fleet::duration(name, value);
        } else if (name == "connection_ttl") {
            p.connection_ttl = fleet::duration(name, value);
        } else if (name == "acquire_timeout") {
            p.acquire_timeout = fleet::duration(name, value);
        } else if (name == "connect_timeout") {
            p.connect_timeout = fleet::duration(name, value);
        } else {
            throw fleet::usage_error(file + ": unknown parameter \"" + name + '"');
        }
    }
    return p;
}

/// One pool, its parameters and its hosts. Replaced as a whole.
struct generation {
    generation(asio::io_context& io, std::size_t n, const options& wish)
        : number(n), hosts(wish.access.hosts()), pool(io.get_executor(), read_params(wish.params)) {}

    const std::size_t number;
    const std::vector<sshpool::target> hosts;
    sshpool::ssh_pool<> pool;
    std::list<asio::steady_timer> pauses;
    bool retired = false;
};
using generation_pointer = std::shared_ptr<generation>;

class service {
public:
    explicit service(options wish) : wish_(std::move(wish)), signals_(io_, SIGTERM, SIGINT, SIGHUP) {
        if (!wish_.metrics.empty()) serve_metrics();
    }

    int run() {
        await_signal();
        begin();
        io_.run();
        say("stopped, " + std::to_string(cut_) + " commands cut");
        return cut_ == 0 ? 0 : 1;
    }

private:
    static void say(const std::string& what) { std::cout << what << std::endl; }

    void await_signal() {
        signals_.async_wait([this](std::error_code ec, int number) {
            if (ec) return;
            if (number != SIGHUP) {
                stop();
            } else if (!stopping_) {
                reload();
            }
            await_signal();
        });
    }

    /// The next generation connects, then takes over. Throws when files or parameters cannot be.
    void begin() {
        const auto next = std::make_shared<generation>(io_, ++numbers_, wish_);
        living_.push_back(next);
        say("connecting: generation " + std::to_string(next->number));
        watch(*next);
        next->pool.async_warm(next->hosts, [this, next](std::error_code, const sshpool::warm_report& report) {
            if (next->retired) return;
            for (const auto& f : report.failed) say(f.key + ": " + f.error.text);
            const auto before = living_;
            for (const auto& g : before) {
                if (g != next) retire(g, wish_.grace);
            }
            for (const auto& host : next->hosts) {
                asio::co_spawn(io_, again_and_again(next, host), [](const std::exception_ptr& e) {
                    if (e) std::rethrow_exception(e);
                });
            }
            if (!wish_.ready.empty()) std::ofstream(wish_.ready) << "ready\n";
            say("ready: generation " + std::to_string(next->number) + ", " + std::to_string(report.connected) + " of " + std::to_string(next->hosts.size()) +
                " hosts connected");
        });
    }
    void reload() {
        try {
            begin();
        } catch (const std::exception& e) {
            say(std::string{"not reloaded, all goes on as before: "} + e.what());
        }
    }
    void stop() {
        if (!wish_.ready.empty()) std::remove(wish_.ready.c_str());
        const auto grace = std::exchange(stopping_, true) ? 0ms : wish_.grace;
        say("stopping, " + std::to_string(under_way_) + " commands under way, grace " + std::to_string(grace.count()) + " ms");
        const auto all = living_;
        for (const auto& g : all) retire(g, grace);
    }

    /// It begins nothing new; gone when its last command has ended, or the grace time has.
    void retire(const generation_pointer& g, std::chrono::milliseconds grace) {
        g->retired = true;
        for (auto& pause : g->pauses) pause.cancel();
        g->pool.async_shutdown(grace, [this, g](std::error_code) {
            living_.remove(g);
            if (stopping_ && living_.empty()) signals_.cancel();
        });
    }

    asio::awaitable<void> again_and_again(generation_pointer g, sshpool::target host) {
        auto& pause = g->pauses.emplace_back(io_);
        while (!g->retired) {
            sshpool::command what{wish_.line};
            what.timeout(wish_.timeout);
            sshpool::error_info error;
            std::error_code ec;
            ++under_way_;
            const auto result = co_await g->pool.async_run(host, what, error, asio::redirect_error(asio::use_awaitable, ec));
            --under_way_;
            report(*g, host, error, result);
            if (g->retired) break;
            pause.expires_after(wish_.every);
            co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
        }
    }
    void report(const generation& g, const sshpool::target& host, const sshpool::error_info& error, const sshpool::command_result& result) {
        if (error && g.retired && error.code == sshpool::errc::pool_closed) return;  // it had not begun
        if (error && g.retired && error.code == sshpool::errc::connection_lost) ++cut_;
        say(host.key() + ": " + (error ? error.text : result.exit_status ? "status " + std::to_string(*result.exit_status) : "signal " + result.exit_signal));
    }

#ifdef SSHPOOL_EXAMPLE_METRICS
    void serve_metrics() {
        exposer_.emplace(wish_.metrics);
        exposer_->RegisterCollectable(metrics_);
        say("metrics on port " + std::to_string(exposer_->GetListeningPorts().at(0)));
    }
    void watch(const generation& g) { metrics_->add(std::to_string(g.number), g.pool.watch(), 5); }

    std::shared_ptr<sshpool::pool_metrics> metrics_ = std::make_shared<sshpool::pool_metrics>();
    std::optional<prometheus::Exposer> exposer_;
#else
    static void serve_metrics() { throw fleet::usage_error("--metrics: built without prometheus-cpp"); }
    static void watch(const generation&) {}
#endif

    const options wish_;
    asio::io_context io_;
    asio::signal_set signals_;
    std::list<generation_pointer> living_;
    std::size_t numbers_ = 0, under_way_ = 0, cut_ = 0;
    bool stopping_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string_view> args(argv + 1, argv + argc);
        if (!args.empty() && args[0] == "--help") {
            std::cout << usage_text;
            return 0;
        }
        return service{parse(args)}.run();
    } catch (const std::exception& e) {
        std::cerr << "service: " << e.what() << " (--help lists the options)\n";
        return 2;
    }
}
