#pragma once

// What every contender of bench_ssh takes and gives: the options, the measured period, and the one JSON object that is printed.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

using clock = std::chrono::steady_clock;

struct host {
    std::string address;
    std::uint16_t port = 22;
};

struct options {
    std::string contender = "sshpool";
    std::string workload;
    std::vector<host> hosts;
    std::string user, key;
    std::string cmd = "true";
    std::size_t ops = 1;                             // commands (W5: logins) in total; the hosts take turns
    std::size_t concurrency = 1;                     // how many are under way at once, in total
    std::size_t warm = 0;                            // commands on each host before the measuring begins; 0 measures connecting too
    double rtt_ms = 0;                               // of the link to the hosts, which somebody else has made; from it W4's floor chooses its window
    double hold = 0;                                 // seconds from the last command to the reading of the memory, with the connections open
    std::uint64_t bytes = std::uint64_t{256} << 20;  // W4
};

inline constexpr const char* usage_text =
    "usage: bench_ssh --workload W1|W2|W3|W4-down|W4-up|W5|W6 --hosts-file FILE --user NAME --key FILE [options]\n"
    "  W1, W2, W3: --ops commands, --concurrency at once, the hosts in turn; W4: --bytes through one channel, from the server (down) or to it (up);\n"
    "  W5: --ops logins, one after another; W6: one connection to each host, idle\n"
    "  --contender sshpool|floor  the library, or raw libssh2 on one session per host (default: sshpool)\n"
    "  --hosts-file FILE          lines address[:port], IPv4\n"
    "  --ops N --concurrency N    default: 1; the floor runs one command at a time on each host: its concurrency is the number of hosts\n"
    "  --warm N                   commands on each host before the measuring begins (default: 0, which measures connecting too)\n"
    "  --rtt-ms X                 the link's round trip, for the record and for W4's window\n"
    "  --hold S                   seconds with open connections before the memory is read (default: 0)\n"
    "  --cmd LINE                 default: true\n"
    "  --bytes N                  default: 268435456\n"
    "One JSON object is printed. Host keys are not checked: for throwaway servers.\n";

template <class Number>
Number number(std::string_view option, std::string_view text) {
    Number value{};
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (ec != std::errc{} || end != text.data() + text.size() || value < Number{})
        throw std::invalid_argument(std::string{option} + " wants a number, not \"" + std::string{text} + '"');
    return value;
}

inline std::vector<host> read_hosts(const std::string& file) {
    std::ifstream in(file);
    if (!in) throw std::invalid_argument("cannot read the hosts file " + file);
    std::vector<host> all;
    for (std::string line; std::getline(in, line);) {
        if (line.empty() || line[0] == '#') continue;
        const auto colon = line.find(':');
        host h{line.substr(0, colon), 22};
        if (colon != std::string::npos) h.port = number<std::uint16_t>("a port of the hosts file", std::string_view{line}.substr(colon + 1));
        all.push_back(std::move(h));
    }
    if (all.empty()) throw std::invalid_argument("the hosts file " + file + " names no host");
    return all;
}

inline options parse(const std::vector<std::string_view>& args) {
    options o;
    for (std::size_t i = 0; i < args.size(); i += 2) {
        const auto name = args[i];
        if (i + 1 == args.size()) throw std::invalid_argument(std::string{name} + " wants a value");
        const auto value = args[i + 1];
        if (name == "--contender") {
            o.contender = value;
        } else if (name == "--workload") {
            o.workload = value;
        } else if (name == "--hosts-file") {
            o.hosts = read_hosts(std::string{value});
        } else if (name == "--user") {
            o.user = value;
        } else if (name == "--key") {
            o.key = value;
        } else if (name == "--cmd") {
            o.cmd = value;
        } else if (name == "--ops") {
            o.ops = number<std::size_t>(name, value);
        } else if (name == "--concurrency") {
            o.concurrency = number<std::size_t>(name, value);
        } else if (name == "--warm") {
            o.warm = number<std::size_t>(name, value);
        } else if (name == "--rtt-ms") {
            o.rtt_ms = number<double>(name, value);
        } else if (name == "--hold") {
            o.hold = number<double>(name, value);
        } else if (name == "--bytes") {
            o.bytes = number<std::uint64_t>(name, value);
        } else {
            throw std::invalid_argument("unknown option \"" + std::string{name} + '"');
        }
    }
    for (const auto& [name, value] : {std::pair{"--workload", &o.workload}, {"--user", &o.user}, {"--key", &o.key}}) {
        if (value->empty()) throw std::invalid_argument(std::string{name} + " is missing");
    }
    if (o.hosts.empty()) throw std::invalid_argument("--hosts-file is missing");
    if (o.ops == 0 || o.concurrency == 0) throw std::invalid_argument("--ops and --concurrency are at least 1");
    return o;
}

inline double cpu_seconds() {
    rusage u{};
    ::getrusage(RUSAGE_SELF, &u);
    return static_cast<double>(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + static_cast<double>(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}
inline double resident_mb() {
    std::ifstream in("/proc/self/statm");
    double size = 0;
    double resident = 0;
    in >> size >> resident;
    return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

/// What was measured: from `begin` to `end`, an entry for each operation.
class measured {
public:
    void begin() {
        cpu_ = cpu_seconds();
        begin_ = clock::now();
    }
    void add(clock::time_point since, bool ok) {
        took_.push_back(std::chrono::duration<double, std::milli>(clock::now() - since).count());
        if (!ok) ++failed_;
    }
    void end() {
        wall_ = std::chrono::duration<double>(clock::now() - begin_).count();
        cpu_ = cpu_seconds() - cpu_;
    }
    void memory() { rss_mb_ = resident_mb(); }
    std::size_t connections = 0;

    void print(const options& o) {
        std::sort(took_.begin(), took_.end());
        const auto at = [&](double share) {
            return took_.empty() ? 0.0 : took_[static_cast<std::size_t>(share * static_cast<double>(took_.size() - 1) + 0.5)];
        };
        std::printf(
            "{\"contender\": \"%s\", \"workload\": \"%s\", \"hosts\": %zu, \"ops\": %zu, \"concurrency\": %zu, \"rtt_ms\": %g, \"wall_s\": %.6f, "
            "\"ops_per_s\": %.2f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"failed\": %zu, \"connections_made\": %zu, \"cpu_s\": %.6f, \"rss_mb\": %.3f}\n",
            o.contender.c_str(), o.workload.c_str(), o.hosts.size(), took_.size(), o.concurrency, o.rtt_ms, wall_,
            static_cast<double>(took_.size()) / std::max(wall_, 1e-9), at(0.5), at(0.99), failed_, connections, cpu_, rss_mb_);
    }

private:
    clock::time_point begin_;
    double wall_ = 0, cpu_ = 0, rss_mb_ = 0;
    std::vector<double> took_;
    std::size_t failed_ = 0;
};

}  // namespace bench
