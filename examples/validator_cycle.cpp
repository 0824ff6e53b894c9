// A validator's cycle over a fleet: N commands on each host, one after another on a host, all hosts at once. Runs the cycle twice, with a
// connection per command and through the pool, and prints what each cost. `--help` lists the options.
#include <sshpool/sshpool.hpp>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <list>
#include <map>
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
using steady = std::chrono::steady_clock;
using sshpool::libssh2_transport;

constexpr std::string_view usage_text =
    "usage: validator_cycle --inventory FILE --key FILE [options]\n"
    "  --inventory FILE       lines `user@host[:port]`; # begins a comment\n"
    "  --key FILE             private key that logs in to all of them\n"
    "  --known-hosts FILE     host keys to trust (default: ~/.ssh/known_hosts)\n"
    "  --hosts N              only the first N hosts of the inventory\n"
    "  --commands N           commands on each host (default: 13)\n"
    "  --max-connections N    the pool's bound (default: the number of hosts)\n"
    "  --concurrency N        connections at once without the pool, and logins at once with it (default: 32)\n"
    "  --only pooled|unpooled one half of the comparison\n"
    "  --json                 one JSON object instead of a table\n";

struct options {
    fleet::access access;
    std::optional<std::size_t> hosts, max_connections;
    std::size_t commands = 13;
    std::size_t concurrency = 32;
    bool pooled = true, unpooled = true;
    bool json = false;
};

options parse(const std::vector<std::string_view>& args) {
    options o;
    for (std::size_t i = 0; i < args.size(); ++i) {
        if (o.access.take(args, i)) continue;
        const auto name = args[i];
        const auto value = [&] { return fleet::value_of(args, i); };
        if (name == "--hosts") {
            o.hosts = fleet::positive(name, value());
        } else if (name == "--commands") {
            o.commands = fleet::positive(name, value());
        } else if (name == "--max-connections") {
            o.max_connections = fleet::positive(name, value());
        } else if (name == "--concurrency") {
            o.concurrency = fleet::positive(name, value());
        } else if (name == "--only") {
            const auto half = value();
            if (half != "pooled" && half != "unpooled") throw fleet::usage_error("--only wants pooled or unpooled, not \"" + std::string{half} + '"');
            o.pooled = half == "pooled";
            o.unpooled = half == "unpooled";
        } else if (name == "--json") {
            o.json = true;
        } else {
            throw fleet::usage_error("unknown option \"" + std::string{name} + '"');
        }
    }
    o.access.check();
    return o;
}

double cpu_seconds() {
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6; };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

/// What one half of the comparison cost.
struct outcome {
    std::string_view title;
    std::size_t wanted = 0;
    std::vector<steady::duration> times;                                  // of the commands that succeeded
    std::map<std::string, std::pair<std::size_t, std::string>> failures;  // host → how many, the first one's sentence
    std::size_t failed = 0;
    std::size_t connections = 0;
    double wall = 0, cpu = 0;
    std::optional<double> hit_rate;

    void add_failure(const std::string& host, std::string why) {
        ++failed;
        auto& entry = failures[host];
        if (entry.first++ == 0) entry.second = std::move(why);
    }
    double percentile_ms(double p) {
        if (times.empty()) return 0;
        const auto at = std::min(times.size() - 1, static_cast<std::size_t>(p / 100 * static_cast<double>(times.size())));
        std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(at), times.end());
        return std::chrono::duration<double, std::milli>(times[at]).count();
    }
};

/// Every command answers with a word of its own, so that a mixed-up answer would be seen.
std::string word_for(const sshpool::target& host, std::size_t step) { return host.key() + "#" + std::to_string(step); }

void note(outcome& o, const sshpool::target& host, std::size_t step, steady::time_point start, const sshpool::error_info& error,
          const sshpool::command_result& result) {
    if (error) {
        o.add_failure(host.key(), error.text.empty() ? error.code.message() : error.text);
    } else if (!result.ok() || result.out != word_for(host, step) + "\n") {
        const auto status = result.exit_status ? "status " + std::to_string(*result.exit_status) : "signal " + result.exit_signal;
        o.add_failure(host.key(),
                      "the command ended with " + status + " and gave \"" + result.out.substr(0, 80) + "\" and \"" + result.err.substr(0, 200) + '"');
    } else {
        o.times.push_back(steady::now() - start);
    }
}

// ---- with a connection per command ----

asio::awaitable<sshpool::error_info> open(libssh2_transport connection, sshpool::target host) {
    sshpool::open_request<libssh2_transport> request{host, 15s, 0, 2s, {}, {}};
    auto initiate = [connection, &request](auto handler) mutable {
        auto shared = std::make_shared<decltype(handler)>(std::move(handler));
        connection.open(std::move(request), [shared](const sshpool::open_report& report) {
            asio::post(asio::get_associated_executor(*shared), [shared, error = report.error] { (*shared)(error); });
        });
    };
    co_return co_await asio::async_initiate<const asio::use_awaitable_t<>, void(sshpool::error_info)>(initiate, asio::use_awaitable);
}

asio::awaitable<void> close(libssh2_transport connection) {
    auto initiate = [connection](auto handler) mutable {
        auto shared = std::make_shared<decltype(handler)>(std::move(handler));
        connection.close([shared] { asio::post(asio::get_associated_executor(*shared), [shared] { (*shared)(); }); });
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, asio::use_awaitable);
}

/// So many connections at once and no more; first come, first served.
class turns {
public:
    explicit turns(std::size_t free) : free_(free) {}
    asio::awaitable<void> take() {
        if (free_ > 0) {
            --free_;
            co_return;
        }
        auto& turn = waiting_.emplace_back(co_await asio::this_coro::executor, steady::time_point::max());
        std::error_code cancelled;  // by give(): that is how the turn comes
        co_await turn.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
    }
    void give() {
        if (waiting_.empty()) {
            ++free_;
        } else {
            waiting_.front().cancel();
            waiting_.pop_front();
        }
    }

private:
    std::size_t free_;
    std::list<asio::steady_timer> waiting_;
};

asio::awaitable<void> unpooled_host(outcome& o, turns& connecting, const sshpool::target& host, std::size_t commands) {
    const auto executor = co_await asio::this_coro::executor;
    for (std::size_t step = 0; step < commands; ++step) {
        const auto start = steady::now();
        co_await connecting.take();
        libssh2_transport connection{executor};
        auto error = co_await open(connection, host);
        sshpool::command_result result;
        if (!error) {
            ++o.connections;
            auto what = sshpool::command::argv("echo", word_for(host, step));
            std::error_code ec;
            result = co_await connection.async_run(what, error, asio::redirect_error(asio::use_awaitable, ec));
        }
        note(o, host, step, start, error, result);
        co_await close(connection);
        connecting.give();
    }
}

// ---- through the pool ----

asio::awaitable<void> pooled_host(outcome& o, sshpool::ssh_pool<>& pool, const sshpool::target& host, std::size_t commands) {
    for (std::size_t step = 0; step < commands; ++step) {
        const auto start = steady::now();
        auto what = sshpool::command::argv("echo", word_for(host, step));
        sshpool::error_info error;
        std::error_code ec;
        const auto result = co_await pool.async_run(host, what, error, asio::redirect_error(asio::use_awaitable, ec));
        note(o, host, step, start, error, result);
    }
}

/// Runs one half on an event loop of its own and measures it. `begin` starts the work and gets a function to be called at the end of each part.
template <class Begin>
outcome measure(std::string_view title, std::size_t wanted, std::size_t parts, Begin begin) {
    outcome o;
    o.title = title;
    o.wanted = wanted;
    o.times.reserve(wanted);
    asio::io_context io;
    asio::signal_set interrupted(io, SIGINT, SIGTERM);
    interrupted.async_wait([](std::error_code ec, int number) {
        if (ec) return;
        std::cerr << "\ninterrupted\n";
        std::_Exit(128 + number);
    });
    fleet::progress shown(io, [&o](bool, double seconds) {
        char line[160];
        std::snprintf(line, sizeof line, "%-25.*s %6zu of %zu commands, %5zu connections, %zu failed, %.1f s", static_cast<int>(o.title.size()), o.title.data(),
                      o.times.size() + o.failed, o.wanted, o.connections, o.failed, seconds);
        return std::string{line};
    });
    const auto cpu = cpu_seconds();
    const auto start = steady::now();
    shown.start();
    const std::function<void()> part_ended = [&, left = parts]() mutable {
        if (--left != 0) return;
        o.wall = std::chrono::duration<double>(steady::now() - start).count();
        o.cpu = cpu_seconds() - cpu;
        shown.stop();
        interrupted.cancel();
    };
    begin(io, o, part_ended);
    io.run();
    return o;
}

outcome run_unpooled(const options& wish, const std::vector<sshpool::target>& hosts) {
    turns connecting{wish.concurrency};
    return measure("a connection per command", hosts.size() * wish.commands, hosts.size(), [&](asio::io_context& io, outcome& o, const auto& part_ended) {
        for (const auto& host : hosts) {
            asio::co_spawn(io, unpooled_host(o, connecting, host, wish.commands), [&part_ended](const std::exception_ptr& e) {
                if (e) std::rethrow_exception(e);
                part_ended();
            });
        }
    });
}

outcome run_pooled(const options& wish, const std::vector<sshpool::target>& hosts) {
    std::optional<sshpool::ssh_pool<>> pool;
    return measure("through the pool", hosts.size() * wish.commands, hosts.size(), [&](asio::io_context& io, outcome& o, const auto& part_ended) {
        sshpool::pool_params params;
        params.max_connections = wish.max_connections.value_or(hosts.size());
        params.max_handshakes = wish.concurrency;
        params.acquire_timeout = 120s;
        params.on_event = [&o](const sshpool::pool_event& e) {
            if (e.kind == sshpool::event_kind::connected) ++o.connections;
        };
        pool.emplace(io.get_executor(), params);
        auto left = std::make_shared<std::size_t>(hosts.size());
        for (const auto& host : hosts) {
            asio::co_spawn(io, pooled_host(o, *pool, host, wish.commands), [&pool, &o, left, &part_ended](const std::exception_ptr& e) {
                if (e) std::rethrow_exception(e);
                part_ended();
                if (--*left != 0) return;
                const auto stats = pool->get_stats();
                o.connections = stats.connections_created;
                o.hit_rate = stats.hit_rate();
                pool->async_shutdown(5s, asio::detached);
            });
        }
    });
}

// ---- what it came to ----

std::string times(double a, double b) { return b > 0 ? fleet::number(a / b, "%.1fx") : std::string{"-"}; }

void print_table(std::size_t hosts, std::size_t commands, std::vector<outcome>& halves) {
    std::cout << '\n' << hosts << " hosts, " << commands << " commands on each\n\n";
    const auto row = [&](const char* name, auto cell, const std::string& ratio) {
        std::printf("  %-20s", name);
        for (auto& h : halves) std::printf("%26s", std::string{cell(h)}.c_str());
        std::printf("%10s\n", ratio.c_str());
    };
    const auto ratio = [&](auto value) { return halves.size() == 2 ? times(value(halves[0]), value(halves[1])) : std::string{}; };
    const auto connections = [](outcome& o) { return static_cast<double>(o.connections); };
    const auto wall = [](outcome& o) { return o.wall; };
    const auto p50 = [](outcome& o) { return o.percentile_ms(50); };
    const auto p99 = [](outcome& o) { return o.percentile_ms(99); };
    const auto cpu = [](outcome& o) { return o.cpu; };
    row(
        "", [](outcome& o) { return o.title; }, halves.size() == 2 ? "ratio" : "");
    row(
        "connections made", [](outcome& o) { return std::to_string(o.connections); }, ratio(connections));
    row(
        "wall time", [&](outcome& o) { return fleet::number(wall(o), "%.2f s"); }, ratio(wall));
    row(
        "p50 per command", [&](outcome& o) { return fleet::number(p50(o), "%.1f ms"); }, ratio(p50));
    row(
        "p99 per command", [&](outcome& o) { return fleet::number(p99(o), "%.1f ms"); }, ratio(p99));
    row(
        "client CPU", [&](outcome& o) { return fleet::number(cpu(o), "%.2f s"); }, ratio(cpu));
    row(
        "failed commands", [](outcome& o) { return std::to_string(o.failed); }, "");
    row(
        "hit rate", [](outcome& o) { return o.hit_rate ? fleet::number(*o.hit_rate * 100, "%.1f %%") : std::string{"-"}; }, "");
    std::printf(
        "\nAll hosts at once, one command after another on each. A command's time counts from asking for it to its answer, waits included;\n"
        "through the pool the first one on a host waits for the login.\n");
    std::fflush(stdout);
}

void print_json(std::size_t hosts, std::size_t commands, std::vector<outcome>& halves) {
    std::string text = "{\"hosts\":" + std::to_string(hosts) + ",\"commands_per_host\":" + std::to_string(commands);
    std::string failures;
    for (auto& o : halves) {
        text += std::string{o.hit_rate ? ",\"pooled\":{" : ",\"unpooled\":{"} + "\"connections\":" + std::to_string(o.connections) +
                ",\"wall_seconds\":" + fleet::number(o.wall, "%.4f") + ",\"p50_ms\":" + fleet::number(o.percentile_ms(50), "%.3f") +
                ",\"p99_ms\":" + fleet::number(o.percentile_ms(99), "%.3f") + ",\"client_cpu_seconds\":" + fleet::number(o.cpu, "%.4f") +
                ",\"commands\":" + std::to_string(o.times.size()) + ",\"failures\":" + std::to_string(o.failed);
        if (o.hit_rate) text += ",\"hit_rate\":" + fleet::number(*o.hit_rate, "%.4f");
        text += '}';
        for (const auto& [host, entry] : o.failures) {
            failures += std::string{failures.empty() ? "" : ","} + "{\"host\":" + fleet::json(host) + ",\"half\":" + fleet::json(o.title) +
                        ",\"count\":" + std::to_string(entry.first) + ",\"why\":" + fleet::json(entry.second) + "}";
        }
    }
    std::cout << text << ",\"failures\":[" << failures << "]}" << std::endl;
}

int run(const options& wish) {
    const auto hosts = wish.access.hosts(wish.hosts);
    std::vector<outcome> halves;
    if (wish.unpooled) halves.push_back(run_unpooled(wish, hosts));
    if (wish.pooled) halves.push_back(run_pooled(wish, hosts));
    if (wish.json) {
        print_json(hosts.size(), wish.commands, halves);
    } else {
        print_table(hosts.size(), wish.commands, halves);
    }
    bool failed = false;
    for (const auto& o : halves) {
        for (const auto& [host, entry] : o.failures) {
            failed = true;
            std::cerr << host << ": " << entry.first << " of " << wish.commands << " commands failed (" << o.title << "): " << entry.second << '\n';
        }
    }
    return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string_view> args(argv + 1, argv + argc);
        if (std::find(args.begin(), args.end(), "--help") != args.end()) {
            std::cout << usage_text;
            return 0;
        }
        return run(parse(args));
    } catch (const fleet::usage_error& e) {
        std::cerr << "validator_cycle: " << e.what() << " (--help lists the options)\n";
        return 2;
    } catch (const std::exception& e) {
        std::cerr << "validator_cycle: " << e.what() << '\n';
        return 2;
    }
}
