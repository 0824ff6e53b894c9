#pragma once

#include "docker_argv.hpp"
#include "errors.hpp"
#include "steps.hpp"

#include <sshpool/command.hpp>
#include <sshpool/error.hpp>
#include <sshpool/ssh_pool.hpp>
#include <sshpool/target.hpp>

#include <asio/awaitable.hpp>

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace docker {

/// Told of every line that a step's commands print, secrets blotted out.
using progress_function = std::function<void(step, sshpool::output_stream, std::string_view line)>;

/// How the service works on executors.
struct service_options {
    words docker{"docker"};                        ///< what to call there: {"/usr/bin/docker"}, {"sudo", "-n", "docker"}
    std::string docker_host;                       ///< `docker -H`: "unix:///run/user/1000/docker.sock"; empty: docker's own choice
    step_timeouts timeouts;                        ///< where another limit than that of `step_list` is wanted
    std::size_t attempts = 3;                      ///< of one command, when the connection fails it and doing it again is safe
    std::chrono::milliseconds retry_delay{500};    ///< before the second attempt; doubles with each
    std::chrono::milliseconds poll_interval{250};  ///< between looks, where something is waited for
    std::chrono::milliseconds settle{3'000};       ///< how long cleaning up looks for what a create may yet make whose connection was lost
};

/// One operation under way: runs the commands of its steps through the pool, with their limits, attempts, progress and times, and cleans up in the end.
///
/// All members are for the operation's own coroutine. Failures are thrown as `operation_failed`.
class operation {
public:
    operation(std::string name, sshpool::ssh_pool<>& pool, const service_options& options, sshpool::target where, progress_function progress);
    operation(const operation&) = delete;
    operation& operator=(const operation&) = delete;

    static constexpr std::size_t most_kept = std::size_t{1} << 20;  ///< bytes of a command's output, per stream: what comes after them is for progress alone

    const service_options& options() const noexcept { return options_; }
    const sshpool::target& where() const noexcept { return where_; }
    sshpool::ssh_pool<>& pool() const noexcept { return pool_; }
    const std::string& id() const noexcept { return id_; }  ///< of this request, random
    std::vector<std::string>& warnings() noexcept { return warnings_; }
    std::chrono::milliseconds timeout_of(step s) const;
    /// Gives a step more time: what the request itself asks to wait.
    void extend(step s, std::chrono::milliseconds more) { options_.timeouts[s] = timeout_of(s) + more; }

    /// Never to be shown from now on: not as progress, not in an error.
    void hide(const std::string& secret);
    /// At most `most` bytes of a text for people: no control characters, secrets blotted out, also one of which the cut leaves only the beginning.
    std::string shown(std::string_view text, std::size_t most) const;

    /// Calls `check`; what it throws becomes `errc::invalid_request`.
    void validate(const std::function<void()>& check) const;

    /// The first thing an operation does: from then on it takes every kind of cancellation.
    static asio::awaitable<void> begin();
    asio::awaitable<void> stop_if_cancelled(step s) const;

    /// Has the pool connect, where it has not: so that the time it takes is seen by itself.
    asio::awaitable<void> connect();

    /// Runs docker with these words as (a part of) step `s`.
    /// `run` fails on a status other than 0 (`errc::command_failed`), `ask` gives it back; both fail where the connection does.
    asio::awaitable<sshpool::command_result> run(step s, words arguments, std::string input = {});
    asio::awaitable<sshpool::command_result> ask(step s, words arguments, std::string input = {});
    /// The same for a command of the executor's.
    asio::awaitable<sshpool::command_result> run_there(step s, words command, std::string input = {});
    asio::awaitable<sshpool::command_result> ask_there(step s, words command, std::string input = {});

    asio::awaitable<void> pause(std::chrono::milliseconds time) const;

    [[noreturn]] void fail(step s, std::error_code code, std::string text, std::optional<int> exit_status = {}) const;
    [[noreturn]] void fail(step s, const sshpool::command_result& result) const;

    // What is to be undone when the operation fails.
    void undo_containers() { undo_containers_ = true; }  ///< those with this request's label
    void undo_volumes() { undo_volumes_ = true; }
    void remove_directory(std::string path) { directory_ = std::move(path); }
    asio::awaitable<void> remove_directory_now();

    /// After the last step: when `failed` holds something, undoes, then throws that with what could not be undone, and the times.
    asio::awaitable<void> end(std::exception_ptr failed);
    docker::phases phases() const { return phases_; }

    /// Counts the time of what runs meanwhile for step `s`.
    class stopwatch {
    public:
        stopwatch(operation& o, step s);
        stopwatch(const stopwatch&) = delete;
        stopwatch& operator=(const stopwatch&) = delete;
        ~stopwatch();

    private:
        operation& operation_;
        step step_;
        std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    };

private:
    friend class stopwatch;
    phase& phase_of(step s);
    bool worth_repeating(step s, const std::error_code& ec) const;
    asio::awaitable<void> undo();
    asio::awaitable<bool> undo_all_of(std::string what, words list, words remove);

    std::string name_;
    sshpool::ssh_pool<>& pool_;
    service_options options_;
    sshpool::target where_;
    progress_function progress_;
    std::string id_;
    std::vector<std::string> secrets_;
    std::vector<std::string> warnings_;
    std::vector<std::string> left_behind_;
    docker::phases phases_;
    std::string directory_;
    bool undo_containers_ = false;
    bool undo_volumes_ = false;
    bool create_is_unsure_ = false;  // a create whose connection was lost, or that timed out: it may still go on there
};

/// `bytes` random ones, in hexadecimal digits.
std::string random_hex(std::size_t bytes);

}  // namespace docker
