#include "operation.hpp"

#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <openssl/rand.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace docker {
namespace {

using steady = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t most_printed = std::size_t{64} << 20;  // past it the command is given up
constexpr std::size_t longest_line = 4096;                   // of the progress; a longer one is cut
constexpr std::size_t longest_text = 4096;
constexpr std::string_view blot = "***";

/// Takes a command's output: keeps what the caller reads, and cuts it into lines for the progress.
struct output_lines {
    std::string kept[2];
    std::string line[2];
    step where = step::validate;
    std::function<void(sshpool::output_stream, std::string_view)> tell;

    void take(sshpool::output_stream stream, std::string_view text) {
        const auto which = stream == sshpool::output_stream::out ? 0U : 1U;
        kept[which].append(text.substr(0, operation::most_kept - kept[which].size()));
        for (const char c : text) {
            if (c == '\n' || c == '\r') {
                flush(stream);
            } else if (line[which].size() <= longest_line) {
                line[which] += c;
            }
        }
    }
    void flush(sshpool::output_stream stream) {
        auto& l = line[stream == sshpool::output_stream::out ? 0U : 1U];
        if (!l.empty() && tell) tell(stream, l);
        l.clear();
    }
};

std::vector<std::string> lines_of(std::string_view text) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size();) {
        const auto end = std::min(text.find('\n', at), text.size());
        if (end > at) lines.emplace_back(text.substr(at, end - at));
        at = end + 1;
    }
    return lines;
}

}  // namespace

std::string random_hex(std::size_t bytes) {
    std::vector<unsigned char> raw(bytes);
    if (::RAND_bytes(raw.data(), static_cast<int>(bytes)) != 1) throw std::runtime_error("no random numbers");
    std::string text;
    for (const auto b : raw) {
        text += "0123456789abcdef"[b >> 4U];
        text += "0123456789abcdef"[b & 15U];
    }
    return text;
}

operation::operation(std::string name, sshpool::ssh_pool<>& pool, const service_options& options, sshpool::target where, progress_function progress)
    : name_(std::move(name)), pool_(pool), options_(options), where_(std::move(where)), progress_(std::move(progress)), id_(random_hex(16)) {
    if (!options_.docker_host.empty()) options_.docker.insert(options_.docker.end(), {"-H", options_.docker_host});
}

milliseconds operation::timeout_of(step s) const {
    const auto own = options_.timeouts.find(s);
    return own != options_.timeouts.end() ? own->second : entry_of(s).timeout;
}

void operation::hide(const std::string& secret) {
    if (!secret.empty()) secrets_.push_back(secret);
    // the longest first: one that holds another is blotted out whole
    std::sort(secrets_.begin(), secrets_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
}

std::string operation::shown(std::string_view text, std::size_t most) const {
    const bool cut = text.size() > most;
    std::string left{text.substr(0, most)};
    for (const auto& secret : secrets_) {
        for (auto at = left.find(secret); at != std::string::npos; at = left.find(secret, at + blot.size())) left.replace(at, secret.size(), blot);
    }
    for (auto& c : left) {  // nobody's terminal takes orders from there
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f) c = '?';
    }
    if (!cut) return left;
    for (const auto& secret : secrets_) {
        for (auto part = std::min(secret.size(), left.size()); part > 0; --part) {
            if (!std::string_view{left}.ends_with(std::string_view{secret}.substr(0, part))) continue;
            left.replace(left.size() - part, part, blot);
            break;
        }
    }
    return left + "…";
}

void operation::validate(const std::function<void()>& check) const {
    std::string why;
    try {
        check();
        return;
    } catch (const std::invalid_argument& e) {
        why = e.what();
    }
    fail(step::validate, errc::invalid_request, why);
}

void operation::fail(step s, std::error_code code, std::string text, std::optional<int> exit_status) const {
    failure f;
    f.operation = name_;
    f.key = where_.key();
    f.where = s;
    f.code = code;
    f.exit_status = exit_status;
    f.text = shown(text, longest_text);
    f.phases = phases_;
    throw operation_failed(std::move(f));
}

void operation::fail(step s, const sshpool::command_result& result) const {
    const auto how = result.exit_status ? "status " + std::to_string(*result.exit_status) : "signal " + result.exit_signal;
    const auto lines = lines_of(result.err.empty() ? result.out : result.err);
    std::string last_words;
    for (std::size_t i = lines.size() > 3 ? lines.size() - 3 : 0; i < lines.size(); ++i) last_words += (last_words.empty() ? "" : " / ") + shown(lines[i], 300);
    fail(s, errc::command_failed, "the command ended with " + how + ": " + (last_words.empty() ? "it said nothing" : last_words), result.exit_status);
}

phase& operation::phase_of(step s) {
    const auto it = std::find_if(phases_.begin(), phases_.end(), [s](const phase& p) { return p.what == s; });
    if (it != phases_.end()) return *it;
    return phases_.emplace_back(phase{s, 0, {}});
}

operation::stopwatch::stopwatch(operation& o, step s) : operation_(o), step_(s) { ++o.phase_of(s).commands; }
operation::stopwatch::~stopwatch() { operation_.phase_of(step_).time += steady::now() - start_; }

/// Trouble with the way there passes; a refused login, an unknown host key or a command that took too long do not.
bool operation::worth_repeating(step s, const std::error_code& ec) const {
    using sshpool::errc;
    const bool passes = ec == errc::connection_lost || ec == errc::connect_failed || ec == errc::connect_timeout || ec == errc::server_busy ||
                        ec == errc::host_backing_off || ec == errc::channel_refused;
    return passes && (ec == sshpool::command_fate::not_started || entry_of(s).again == repeatable::yes);
}

asio::awaitable<void> operation::pause(milliseconds time) const {
    asio::steady_timer timer(co_await asio::this_coro::executor, time);
    std::error_code cancelled;  // seen by the next command
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
}

asio::awaitable<void> operation::begin() {
    co_await asio::this_coro::reset_cancellation_state(asio::enable_total_cancellation());
    co_await asio::this_coro::throw_if_cancelled(false);  // a cancellation is a failure of the step it met, as any other
}

asio::awaitable<void> operation::stop_if_cancelled(step s) const {
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) fail(s, sshpool::make_error(sshpool::errc::cancelled), "the operation was cancelled");
}

asio::awaitable<void> operation::connect() {
    for (std::size_t attempt = 1;; ++attempt) {
        sshpool::error_info error;
        std::error_code ec;
        co_await stop_if_cancelled(step::connect);
        {
            const stopwatch counted(*this, step::connect);
            auto lease = co_await pool_.async_get_connection(where_, error, asio::redirect_error(asio::use_awaitable, ec));
        }
        if (!ec) co_return;
        if (attempt >= options_.attempts || !worth_repeating(step::connect, ec)) fail(step::connect, ec, error.text);
        co_await pause(options_.retry_delay * (1U << (attempt - 1)));
    }
}

asio::awaitable<sshpool::command_result> operation::ask_there(step s, words command, std::string input) {
    const auto deadline = steady::now() + timeout_of(s);
    for (std::size_t attempt = 1;; ++attempt) {
        co_await stop_if_cancelled(s);
        // Shared with the command: a caller who gives up is answered before the command's last output may have been.
        auto lines = std::make_shared<output_lines>();
        if (progress_) {
            lines->tell = [this, s](sshpool::output_stream stream, std::string_view line) { progress_(s, stream, shown(line, longest_line)); };
        }
        auto what = sshpool::command::argv(command);
        what.input(input).timeout(std::max(milliseconds{1}, std::chrono::duration_cast<milliseconds>(deadline - steady::now()))).max_output(most_printed);
        what.on_output([lines](sshpool::output_stream stream, std::string_view text) { lines->take(stream, text); });
        sshpool::error_info error;
        std::error_code ec;
        sshpool::command_result result;
        {
            const stopwatch counted(*this, s);
            result = co_await pool_.async_run(where_, what, error, asio::redirect_error(asio::use_awaitable, ec));
        }
        lines->flush(sshpool::output_stream::out);
        lines->flush(sshpool::output_stream::err);
        lines->tell = nullptr;
        result.out = std::move(lines->kept[0]);
        result.err = std::move(lines->kept[1]);
        if (!ec) co_return result;
        if (s == step::create && ec != sshpool::command_fate::not_started) create_is_unsure_ = true;
        const auto delay = options_.retry_delay * (1U << (attempt - 1));
        if (attempt >= options_.attempts || !worth_repeating(s, ec) || steady::now() + delay >= deadline)
            fail(s, ec, error.text.empty() ? ec.message() : error.text);
        co_await pause(delay);
    }
}

asio::awaitable<sshpool::command_result> operation::run_there(step s, words command, std::string input) {
    auto result = co_await ask_there(s, std::move(command), std::move(input));
    if (!result.ok()) fail(s, result);
    co_return result;
}
asio::awaitable<sshpool::command_result> operation::ask(step s, words arguments, std::string input) {
    auto command = options_.docker;
    command.insert(command.end(), arguments.begin(), arguments.end());
    return ask_there(s, std::move(command), std::move(input));
}
asio::awaitable<sshpool::command_result> operation::run(step s, words arguments, std::string input) {
    auto command = options_.docker;
    command.insert(command.end(), arguments.begin(), arguments.end());
    return run_there(s, std::move(command), std::move(input));
}

asio::awaitable<void> operation::remove_directory_now() {
    if (directory_.empty()) co_return;
    words command{"rm", "-rf", "--"};
    command.push_back(directory_);
    co_await run_there(step::clean_up, std::move(command));
    directory_.clear();
}

/// Removes everything that `list` prints; false when there was nothing.
asio::awaitable<bool> operation::undo_all_of(std::string what, words list, words remove) {
    std::string trouble;
    bool found = false;
    try {
        const auto there = co_await run(step::clean_up, std::move(list));
        const auto names = lines_of(there.out);
        found = !names.empty();
        if (found) {
            remove.insert(remove.end(), names.begin(), names.end());
            co_await run(step::clean_up, std::move(remove));
        }
    } catch (const operation_failed& e) {
        trouble = e.info().text;
    }
    if (!trouble.empty()) left_behind_.push_back(std::move(what) + " with label " + label_of(id_) + " (" + trouble + ")");
    co_return found;
}

asio::awaitable<void> operation::undo() {
    const auto filter = "label=" + label_of(id_);
    if (undo_containers_) {
        words list{"ps", "--all", "--quiet", "--no-trunc", "--filter"};
        list.push_back(filter);
        const words remove{"rm", "--force", "--volumes", "--"};
        // A create that was cut off may still be at work there: what it makes appears later, or never.
        const auto until = steady::now() + (create_is_unsure_ ? options_.settle : milliseconds{0});
        while (!co_await undo_all_of("containers", list, remove) && left_behind_.empty() && steady::now() < until) co_await pause(options_.poll_interval);
    }
    if (undo_volumes_) {
        words list{"volume", "ls", "--quiet", "--filter"};
        list.push_back(filter);
        words remove{"volume", "rm", "--"};
        co_await undo_all_of("volumes", std::move(list), std::move(remove));
    }
    if (!directory_.empty()) {
        std::string trouble;
        try {
            co_await remove_directory_now();
        } catch (const operation_failed& e) {
            trouble = e.info().text;
        }
        if (!trouble.empty()) left_behind_.push_back("directory " + directory_ + " (" + trouble + ")");
    }
}

asio::awaitable<void> operation::end(std::exception_ptr failed) {
    if (!failed) co_return;
    // Also after a cancellation: cleaning up is bounded, and it is not cancelled a second time.
    co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
    co_await undo();
    try {
        std::rethrow_exception(failed);
    } catch (const operation_failed& e) {
        auto f = e.info();
        f.left_behind = left_behind_;
        f.phases = phases_;
        throw operation_failed(std::move(f));
    }
}

}  // namespace docker
