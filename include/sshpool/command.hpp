#pragma once

#include <sshpool/error.hpp>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace sshpool {

/// A command's standard output, or its standard error.
enum class output_stream { out, err };

/// A terminal as the remote program sees it, in characters.
struct terminal {
    unsigned columns = 80;
    unsigned rows = 24;
    std::string type = "xterm";
};

namespace detail {

inline void refuse_nul(std::string_view text, const char* what) {
    if (text.find('\0') != std::string_view::npos) throw std::invalid_argument(std::string{what} + " holds a NUL byte: sshd would cut the connection");
}

/// Quotes one word for a POSIX shell: what is plainly harmless stays as it is.
inline void append_quoted(std::string& line, std::string_view word) {
    constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:,@%";
    if (!line.empty()) line += ' ';
    if (!word.empty() && word.find_first_not_of(plain) == std::string_view::npos) {
        line += word;
        return;
    }
    line += '\'';
    for (const char c : word) {
        if (c == '\'') {
            line += "'\\''";
        } else {
            line += c;
        }
    }
    line += '\'';
}

}  // namespace detail

/// What to run on the other side, and how. A value; the setters return the command itself, for chaining.
///
/// Throws `std::invalid_argument` for a NUL byte in the line, in a word, in an environment variable or in a terminal's type; the setters say what else they
/// refuse. A line of more than 32 KiB is `errc::command_too_long` when it is to run.
/// **Threads**: a value may be read from any number of threads at once.
class command {
public:
    /// As `ssh host 'line'`: the remote user's login shell reads it.
    command(const char* shell_line) : command(std::string{shell_line != nullptr ? shell_line : throw std::invalid_argument("the command is a null pointer")}) {}
    command(std::string_view shell_line) : command(std::string{shell_line}) {}
    command(std::string shell_line) : line_(std::move(shell_line)) { detail::refuse_nul(line_, "the command"); }

    /// The words reach the program as they are: each is quoted for the POSIX login shell that reads the line.
    /// The first word is never taken as an assignment or a keyword. Throws `std::invalid_argument` where it is empty, or there is no word.
    template <class... Words>
    requires(sizeof...(Words) > 0 && (std::is_convertible_v<Words, std::string_view> && ...)) static command argv(Words&&... words) {
        std::string line;
        (add_word(line, std::string_view{words}), ...);
        return from_words(std::move(line));
    }
    static command argv(std::vector<std::string> words) {
        std::string line;
        for (const auto& word : words) add_word(line, word);
        return from_words(std::move(line));
    }

    /// Bytes for the command's standard input, followed by EOF. Without it the command sees EOF at once.
    command& input(std::string bytes) {
        input_ = bytes.empty() ? nullptr : std::make_shared<const std::string>(std::move(bytes));
        return *this;
    }
    /// An `env` request before the command; a server that refuses it (sshd's AcceptEnv) gives `errc::env_refused`. Throws `std::invalid_argument` for a name
    /// that is empty or holds '=', and for more than 32 KiB.
    command& env(std::string name, std::string value) {
        detail::refuse_nul(name, "an environment variable's name");
        detail::refuse_nul(value, "an environment variable's value");
        if (name.empty() || name.find('=') != std::string::npos) throw std::invalid_argument("an environment variable's name must not be empty or hold '='");
        if (name.size() > longest_line || value.size() > longest_line - name.size())
            throw std::invalid_argument("an environment variable is longer than 32 KiB: libssh2 would not send it");
        env_.emplace_back(std::move(name), std::move(value));
        return *this;
    }
    /// Counts from having the connection; `errc::command_timeout` after it. None by default. Throws `std::invalid_argument` where it is not positive, or longer
    /// than ten years.
    command& timeout(std::chrono::milliseconds after) {
        if (after <= std::chrono::milliseconds::zero()) throw std::invalid_argument("a command's timeout must be positive");
        if (after > std::chrono::hours{24 * 3650})
            throw std::invalid_argument("a command's timeout is longer than ten years");  // now + timeout never overflows
        timeout_ = after;
        return *this;
    }
    /// Bytes of output per stream, 16 MiB by default; past it the channel is closed and the result is `errc::output_limit`.
    command& max_output(std::size_t bytes) {
        max_output_ = bytes;
        return *this;
    }
    /// Gets the output as it arrives instead of it being collected: on the caller's executor, one call at a time. The server may
    /// send more only as calls return. `max_output` then applies only if it was set. What it throws comes out of the `run()` of that executor's context;
    /// the command goes on.
    command& on_output(std::function<void(output_stream, std::string_view)> sink) {
        sink_ = std::move(sink);
        return *this;
    }

    /// Runs the command on a terminal of this size (RFC 4254 section 6.2); its standard error then goes the same way as its output. A server that gives
    /// none refuses the command: `errc::command_refused`. Throws `std::invalid_argument` beyond 1 to 65535 columns or rows, and for a type that is empty or
    /// longer than 64 bytes.
    command& pty(unsigned columns = 80, unsigned rows = 24, std::string type = "xterm") {
        detail::refuse_nul(type, "a terminal's type");
        if (columns == 0 || rows == 0 || columns > longest_side || rows > longest_side)
            throw std::invalid_argument("a terminal has 1 to 65535 columns and rows");
        if (type.empty() || type.size() > 64) throw std::invalid_argument("a terminal's type has 1 to 64 characters");
        pty_ = terminal{columns, rows, std::move(type)};
        return *this;
    }

    const std::string& line() const noexcept { return line_; }
    const std::string& input() const noexcept {
        static const std::string none;
        return input_ ? *input_ : none;
    }
    const std::vector<std::pair<std::string, std::string>>& env() const noexcept { return env_; }
    std::optional<std::chrono::milliseconds> timeout() const noexcept { return timeout_; }
    std::optional<std::size_t> output_limit() const noexcept {
        if (max_output_ || sink_) return max_output_;
        return default_max_output;
    }
    const std::function<void(output_stream, std::string_view)>& on_output() const noexcept { return sink_; }
    const std::optional<terminal>& pty() const noexcept { return pty_; }

    static constexpr std::size_t default_max_output = std::size_t{16} << 20;
    static constexpr std::size_t longest_line = std::size_t{32} << 10;
    static constexpr unsigned longest_side = 65535;

private:
    static void add_word(std::string& line, std::string_view word) {
        detail::refuse_nul(word, "a word of the command");
        if (line.empty()) {
            if (word.empty()) throw std::invalid_argument("a command's first word must not be empty");
            detail::append_quoted(line, word);
            if (line.front() != '\'') line = "'" + line + "'";  // a shell takes `if` or an alias for itself only when unquoted
            return;
        }
        detail::append_quoted(line, word);
    }
    static command from_words(std::string line) {
        if (line.empty()) throw std::invalid_argument("a command needs at least one word");
        return command{std::move(line)};
    }

    std::string line_;
    std::shared_ptr<const std::string> input_;  ///< shared: a command that is tried again on another connection is copied
    std::vector<std::pair<std::string, std::string>> env_;
    std::optional<std::chrono::milliseconds> timeout_;
    std::optional<std::size_t> max_output_;
    std::optional<terminal> pty_;
    std::function<void(output_stream, std::string_view)> sink_;
};

/// What a command gave back.
struct command_result {
    std::optional<int>
        exit_status;  ///< empty when a signal ended it. libssh2 ≤ 1.11.1 cannot tell an orderly close without a status from 0; after a loss there is never one
    std::string exit_signal;  ///< "TERM", "KILL", …; empty when it ended by itself
    std::string out;
    std::string err;
    std::chrono::nanoseconds elapsed{};  ///< from having the connection to the end of the command

    bool ok() const noexcept { return exit_status == 0; }
};

}  // namespace sshpool
