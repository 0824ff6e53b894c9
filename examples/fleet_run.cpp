// One command on every host of an inventory, so many at once: `fleet_run -i inventory --key key -P 200 --timeout 30s -- uptime`.
#include <sshpool/sshpool.hpp>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/signal_set.hpp>
#include <asio/use_awaitable.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "fleet.hpp"

namespace {

using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

constexpr std::string_view usage_text =
    "usage: fleet_run -i FILE --key FILE [options] -- COMMAND...\n"
    "  -i, --inventory FILE   lines `user@host[:port]`; # begins a comment\n"
    "  --key FILE             private key that logs in to all of them\n"
    "  --known-hosts FILE     host keys to trust (default: ~/.ssh/known_hosts); unknown hosts are refused\n"
    "  -P N                   hosts at once (default: 100)\n"
    "  --timeout TIME         for each host, from connecting to the command's end: 500ms, 30s, 5m (default: 60s)\n"
    "  --input FILE           what the command reads on each host, for example a script for `sh -s`\n"
    "  --merge                hosts with the same outcome and output together, at the end\n"
    "  --json                 a JSON object a line for each host, as they end\n"
    "The words of COMMAND are joined with spaces and read by the remote shell, as with ssh.\n"
    "Exit status: 0 it succeeded on every host, 1 it did not on some, 2 wrong usage, 128 + n ended by signal n.\n";

struct options {
    fleet::access access;
    std::size_t at_once = 100;
    std::chrono::milliseconds timeout = 60s;
    std::string line, input;
    bool merge = false, json = false;
};

options parse(const std::vector<std::string_view>& args) {
    options o;
    std::size_t i = 0;
    for (; i < args.size() && args[i] != "--"; ++i) {
        if (o.access.take(args, i)) continue;
        const auto name = args[i];
        if (name == "-P") {
            o.at_once = fleet::positive(name, fleet::value_of(args, i));
        } else if (name == "--timeout") {
            o.timeout = fleet::duration(name, fleet::value_of(args, i));
        } else if (name == "--input") {
            const std::string file{fleet::value_of(args, i)};
            std::ifstream in(file, std::ios::binary);
            if (!in) throw fleet::usage_error("cannot read the input " + file);
            o.input.assign(std::istreambuf_iterator<char>(in), {});
        } else if (name == "--merge") {
            o.merge = true;
        } else if (name == "--json") {
            o.json = true;
        } else {
            throw fleet::usage_error("unknown option \"" + std::string{name} + "\"; the command follows after --");
        }
    }
    for (++i; i < args.size(); ++i) o.line.append(o.line.empty() ? "" : " ").append(args[i]);
    o.access.check();
    if (o.line.empty()) throw fleet::usage_error("the command is missing: fleet_run … -- COMMAND");
    if (o.merge && o.json) throw fleet::usage_error("--merge and --json do not go together");
    return o;
}

/// How one host ended.
struct outcome {
    std::size_t place = 0;  // in the inventory
    std::string host;
    sshpool::error_info error;
    sshpool::command_result result;
    double seconds = 0;

    bool ok() const { return !error && result.ok(); }
    std::string why() const { return error.text.empty() ? error.code.message() : error.text; }
    /// The same for hosts to which the same happened.
    std::string verdict() const {
        if (error) return "failed: " + error.code.message();
        if (!result.exit_status) return "ended by signal " + result.exit_signal;
        return *result.exit_status == 0 ? "ok" : "exit status " + std::to_string(*result.exit_status);
    }
};

class fleet_run {
public:
    fleet_run(const options& wish, std::vector<sshpool::target> hosts)
        : wish_(wish),
          hosts_(std::move(hosts)),
          pool_(io_.get_executor(), params(wish)),
          signals_(io_, SIGINT, SIGTERM),
          progress_(io_, [this](bool terminal, double seconds) { return progress_line(terminal, seconds); }) {}

    int run() {
        signals_.async_wait([this](std::error_code ec, int number) {
            if (ec) return;
            signal_ = number;
            next_ = hosts_.size();
            pool_.async_shutdown(0ms, asio::detached);
        });
        progress_.start();
        running_ = std::min(wish_.at_once, hosts_.size());
        for (std::size_t i = running_; i > 0; --i) {
            asio::co_spawn(io_, one_after_another(), [this](const std::exception_ptr& e) {
                if (e) std::rethrow_exception(e);
                if (--running_ == 0) finish();
            });
        }
        io_.run();
        if (wish_.merge) print_merged();
        for (const auto& o : failed_) std::cerr << o.host << ": " << (o.error ? o.why() : o.verdict()) << '\n';
        if (signal_ != 0) {
            std::cerr << "ended by signal " << signal_ << ", not run on " << hosts_.size() - ended_ << " hosts\n";
            return 128 + signal_;
        }
        return failed_.empty() ? 0 : 1;
    }

private:
    static sshpool::pool_params params(const options& wish) {
        sshpool::pool_params p;
        p.max_connections = p.max_handshakes = wish.at_once;
        p.acquire_timeout = wish.timeout;
        p.connect_timeout = std::min<std::chrono::milliseconds>(wish.timeout, 15s);
        p.spare_channels = 0;  // one command a host
        return p;
    }

    asio::awaitable<void> one_after_another() {
        while (next_ < hosts_.size()) {
            outcome o;
            o.place = next_++;
            const auto& host = hosts_[o.place];
            o.host = host.key();
            const auto start = steady::now();
            co_await run_on(host, start, o);
            o.seconds = std::chrono::duration<double>(steady::now() - start).count();
            pool_.invalidate(host.key());  // it is not needed any more: the next host gets its place at once
            note(std::move(o));
        }
    }
    asio::awaitable<void> run_on(const sshpool::target& host, steady::time_point start, outcome& o) {
        std::error_code ec;
        const auto connection = co_await pool_.async_get_connection(host, o.error, asio::redirect_error(asio::use_awaitable, ec));
        if (ec) co_return;
        const auto left = wish_.timeout - std::chrono::duration_cast<std::chrono::milliseconds>(steady::now() - start);
        sshpool::command what{wish_.line};
        what.timeout(std::max(left, 1ms)).input(wish_.input);
        o.result = co_await connection->async_run(what, o.error, asio::redirect_error(asio::use_awaitable, ec));
    }

    void note(outcome o) {
        ++ended_;
        progress_.clear();
        if (wish_.json) {
            print_json(o);
        } else if (wish_.merge) {
            merged_[{o.verdict(), o.result.out, o.result.err}].insert(o.place);
        } else {
            std::cout << "== " << o.host << ": " << (o.error ? "failed: " + o.why() : o.verdict()) << ", " << fleet::number(o.seconds, "%.2f s") << '\n';
            print(o.result.out);
            print(o.result.err);
            std::cout << std::flush;
        }
        if (!o.ok()) {
            o.result = {o.result.exit_status, o.result.exit_signal, {}, {}, {}};
            failed_.push_back(std::move(o));
        }
    }
    void finish() {
        progress_.stop();
        signals_.cancel();
        if (signal_ == 0) pool_.async_shutdown(1s, asio::detached);
    }

    static void print(const std::string& text) { std::cout << text << (text.empty() || text.back() == '\n' ? "" : "\n"); }
    static void print_json(const outcome& o) {
        std::cout << "{\"host\":" << fleet::json(o.host) << ",\"ok\":" << (o.ok() ? "true" : "false")
                  << ",\"exit_status\":" << (o.error || !o.result.exit_status ? "null" : std::to_string(*o.result.exit_status));
        if (!o.result.exit_signal.empty()) std::cout << ",\"exit_signal\":" << fleet::json(o.result.exit_signal);
        if (o.error) {
            std::cout << ",\"error\":" << fleet::json(o.why()) << ",\"phase\":" << fleet::json(o.error.phase)
                      << ",\"may_have_run\":" << (o.error.code == sshpool::command_fate::not_started ? "false" : "true");
        }
        std::cout << ",\"stdout\":" << fleet::json(o.result.out) << ",\"stderr\":" << fleet::json(o.result.err)
                  << ",\"seconds\":" << fleet::number(o.seconds, "%.4f") << '}' << std::endl;
    }
    void print_merged() const {
        std::vector<decltype(merged_)::const_iterator> groups;
        for (auto g = merged_.begin(); g != merged_.end(); ++g) groups.push_back(g);
        std::stable_sort(groups.begin(), groups.end(), [](auto a, auto b) { return a->second.size() > b->second.size(); });
        for (const auto& g : groups) {
            const auto& [verdict, out, err] = g->first;
            std::cout << "== " << g->second.size() << (g->second.size() == 1 ? " host, " : " hosts, ") << verdict << ":";
            for (const auto place : g->second) std::cout << ' ' << hosts_[place].key();
            std::cout << '\n';
            print(out);
            print(err);
        }
        std::cout << std::flush;
    }
    std::string progress_line(bool terminal, double seconds) const {
        std::string line;
        if (terminal) {
            constexpr std::size_t width = 30;
            const auto full = ended_ * width / hosts_.size();
            line = "[" + std::string(full, '#') + std::string(width - full, '.') + "] ";
        }
        line += std::to_string(ended_) + " of " + std::to_string(hosts_.size()) + " hosts, " + std::to_string(failed_.size()) + " failed";
        return line + fleet::number(seconds, ", %.1f s") + fleet::number(static_cast<double>(ended_) / std::max(seconds, 1e-3), ", %.1f/s");
    }

    const options& wish_;
    const std::vector<sshpool::target> hosts_;
    asio::io_context io_;
    sshpool::ssh_pool<> pool_;
    asio::signal_set signals_;
    fleet::progress progress_;
    std::size_t next_ = 0, running_ = 0, ended_ = 0;
    int signal_ = 0;
    std::vector<outcome> failed_;
    std::map<std::tuple<std::string, std::string, std::string>, std::set<std::size_t>> merged_;  // verdict, output → places
};

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string_view> args(argv + 1, argv + argc);
        if (!args.empty() && args[0] == "--help") {
            std::cout << usage_text;
            return 0;
        }
        const auto wish = parse(args);
        return fleet_run{wish, wish.access.hosts()}.run();
    } catch (const std::exception& e) {
        std::cerr << "fleet_run: " << e.what() << " (--help lists the options)\n";
        return 2;
    }
}
