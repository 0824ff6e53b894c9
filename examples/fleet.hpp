#pragma once

// What the programs for fleets share: options, the inventory, progress on standard error, JSON text.
#include <sshpool/sshpool.hpp>

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace fleet {

/// What the user typed cannot be. The text says what, and what is wanted instead.
struct usage_error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

inline std::size_t positive(std::string_view option, std::string_view text) {
    std::size_t value = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (ec != std::errc{} || end != text.data() + text.size() || value == 0 || value > 100'000)
        throw usage_error(std::string{option} + " wants a number from 1 to 100000, not \"" + std::string{text} + '"');
    return value;
}

/// "500ms", "30s", "5m"; a number alone is seconds.
inline std::chrono::milliseconds duration(std::string_view option, std::string_view text) {
    const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const auto unit = text.substr(digits);
    if (digits == 0 || (!unit.empty() && unit != "ms" && unit != "s" && unit != "m"))
        throw usage_error(std::string{option} + " wants a time such as 500ms, 30s or 5m, not \"" + std::string{text} + '"');
    const auto n = static_cast<std::chrono::milliseconds::rep>(positive(option, text.substr(0, digits)));
    return std::chrono::milliseconds{n * (unit == "ms" ? 1 : unit == "m" ? 60'000 : 1'000)};
}

/// The value of the option at `i`, which then stands on the value.
inline std::string_view value_of(const std::vector<std::string_view>& args, std::size_t& i) {
    if (i + 1 == args.size() || args[i + 1].empty()) throw usage_error(std::string{args[i]} + " wants a value");
    return args[++i];
}

/// Where the hosts stand and how they are logged in to.
struct access {
    std::string inventory, key;
    std::optional<std::string> known_hosts;  // none: ~/.ssh/known_hosts

    /// Takes the option at `i` if it is one of these.
    bool take(const std::vector<std::string_view>& args, std::size_t& i) {
        const auto name = args[i];
        if (name == "--inventory" || name == "-i") {
            inventory = value_of(args, i);
        } else if (name == "--key") {
            key = value_of(args, i);
        } else if (name == "--known-hosts") {
            known_hosts = value_of(args, i);
        } else {
            return false;
        }
        return true;
    }
    void check() const {
        if (inventory.empty()) throw usage_error("--inventory is missing");
        if (key.empty()) throw usage_error("--key is missing");
    }

    /// Lines `user@host[:port]`; # begins a comment. With `most`: the first so many, and it is an error if there are fewer.
    std::vector<sshpool::target> hosts(std::optional<std::size_t> most = {}) const {
        std::ifstream in(inventory);
        if (!in) throw usage_error("cannot read the inventory " + inventory);
        const auto login = sshpool::credentials::private_key_file(key);
        if (known_hosts && ::access(known_hosts->c_str(), R_OK) != 0) throw usage_error("cannot read the known hosts " + *known_hosts);
        const auto trust = known_hosts ? sshpool::host_key_policy::known_hosts(*known_hosts) : sshpool::host_key_policy::known_hosts();
        std::vector<sshpool::target> all;
        std::size_t number = 0;
        for (std::string line; std::getline(in, line);) {
            ++number;
            line.erase(std::min(line.find('#'), line.size()));
            line.erase(0, std::min(line.find_first_not_of(" \t\r"), line.size()));
            line.erase(line.find_last_not_of(" \t\r") + 1);
            if (line.empty()) continue;
            if (most && all.size() == *most) break;
            try {
                all.emplace_back(line, login, trust);
            } catch (const std::invalid_argument& e) {
                throw usage_error(inventory + ", line " + std::to_string(number) + ": " + e.what());
            }
        }
        if (all.empty()) throw usage_error("the inventory " + inventory + " names no host");
        if (most && all.size() < *most) throw usage_error("--hosts " + std::to_string(*most) + ": the inventory names only " + std::to_string(all.size()));
        return all;
    }
};

/// Tells how far it has come: one line that is rewritten on a terminal, else a line every two seconds. On standard error.
class progress {
public:
    using clock = std::chrono::steady_clock;
    /// `line(on_terminal, seconds since the start)`.
    progress(asio::io_context& io, std::function<std::string(bool, double)> line) : timer_(io), line_(std::move(line)) {}
    void start() {
        using namespace std::chrono_literals;
        timer_.expires_after(terminal_ ? 100ms : 2000ms);
        timer_.async_wait([this](std::error_code ec) {
            if (ec || stopped_) return;  // it may have been due already when it was cancelled
            print();
            start();
        });
    }
    /// Makes room for other lines on the terminal; the next one to come stands below them.
    void clear() const {
        if (terminal_) std::cerr << "\r\033[K" << std::flush;
    }
    void stop() {
        stopped_ = true;
        timer_.cancel();
        print();
        if (terminal_) std::cerr << '\n';
    }

private:
    void print() const {
        const std::chrono::duration<double> elapsed = clock::now() - start_;
        std::cerr << (terminal_ ? "\r" : "") << line_(terminal_, elapsed.count()) << (terminal_ ? "\033[K" : "\n") << std::flush;
    }
    asio::steady_timer timer_;
    std::function<std::string(bool, double)> line_;
    clock::time_point start_ = clock::now();
    bool terminal_ = ::isatty(STDERR_FILENO) == 1;
    bool stopped_ = false;
};

/// How many bytes the UTF-8 character at `at` has; 0: none stands there.
inline std::size_t utf8_length(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const auto first = byte(at);
    const std::size_t length = first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(at + i) & 0xc0) != 0x80) return 0;
    }
    const auto second = byte(at + 1);
    const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    const bool beyond = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);
    return overlong || beyond ? 0 : length;
}

/// As a JSON string; bytes that are no UTF-8 become U+FFFD.
inline std::string json(std::string_view text) {
    std::string out{'"'};
    for (std::size_t at = 0; at < text.size();) {
        const auto length = utf8_length(text, at);
        const auto byte = static_cast<unsigned char>(text[at]);
        if (length == 0) {
            out += "\\ufffd";
        } else if (byte == '"' || byte == '\\') {
            out += {'\\', text[at]};
        } else if (byte == '\n') {
            out += "\\n";
        } else if (byte < 0x20 || byte == 0x7f) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
            out += escape;
        } else {
            out += text.substr(at, length);
        }
        at += std::max<std::size_t>(length, 1);
    }
    return out + '"';
}

/// `value` in printf's format.
inline std::string number(double value, const char* format) {
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

}  // namespace fleet
