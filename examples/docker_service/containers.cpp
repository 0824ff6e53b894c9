#include "containers.hpp"

#include "container_scripts.hpp"
#include "http_probe.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <utility>

namespace docker {
namespace {

using steady = std::chrono::steady_clock;

/// One that a server has accepted and does not answer gives way to the next: a server that is starting may have lost it.
constexpr std::chrono::milliseconds longest_probe{10'000};
/// The last one before the deadline has time enough to tell a server that does not answer from an executor that does not.
constexpr std::chrono::milliseconds shortest_probe{1'000};

/// Takes the next word off `line`.
std::string_view next_word(std::string_view& line) {
    const auto end = std::min(line.find(' '), line.size());
    const auto word = line.substr(0, end);
    line.remove_prefix(std::min(end + 1, line.size()));
    return word;
}

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

}  // namespace

asio::awaitable<std::optional<container_state>> find_container(operation& op, std::string name) {
    words list{"ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.State}} {{.Names}}"};
    const auto result = co_await op.run(step::look, std::move(list));
    if (result.out.size() >= operation::most_kept) op.fail(step::look, errc::unexpected_output, "docker ps printed more than is read here");
    for (std::string_view rest = result.out; !rest.empty();) {
        auto line = first_line(rest);
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        container_state found;
        found.id = next_word(line);
        found.state = next_word(line);
        if (found.id == name) co_return found;
        while (!line.empty()) {  // its name, and those that links gave it: "pod_1,other/pod_1"
            const auto end = std::min(line.find(','), line.size());
            if (line.substr(0, end) == name) co_return found;
            line.remove_prefix(std::min(end + 1, line.size()));
        }
    }
    co_return std::nullopt;
}

asio::awaitable<void> fail_for_container(operation& op, step s, std::string name, sshpool::command_result result) {
    const auto found = co_await find_container(op, name);
    if (!found) op.fail(s, errc::no_such_container, "there is no container " + name, result.exit_status);
    if (s != step::start && !found->running()) op.fail(s, errc::container_not_running, "the container " + name + " is " + found->state, result.exit_status);
    op.fail(s, result);
}

asio::awaitable<void> wait_until_running(operation& op, std::string name) {
    const auto deadline = steady::now() + op.timeout_of(step::wait_until_running);
    for (;;) {
        words inspect{"container", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Restarting}}", "--"};
        inspect.push_back(name);
        const auto result = co_await op.ask(step::wait_until_running, std::move(inspect));
        if (!result.ok()) co_await fail_for_container(op, step::wait_until_running, name, result);
        auto line = first_line(result.out);
        const std::string state{next_word(line)};
        const std::string status{next_word(line)};
        if (state == "running") co_return;
        if (state == "exited" || state == "dead") {
            words logs{"logs", "--tail", "5", "--"};
            logs.push_back(name);
            const auto said = co_await op.ask(step::wait_until_running, std::move(logs));
            auto words_of_it = op.shown(said.out + said.err, 500);
            while (!words_of_it.empty() && words_of_it.back() == '\n') words_of_it.pop_back();
            op.fail(step::wait_until_running, errc::container_exited,
                    "the container ended with status " + status + ": " + (words_of_it.empty() ? "it said nothing" : words_of_it));
        }
        if (steady::now() >= deadline) op.fail(step::wait_until_running, errc::container_not_running, "the container is still " + state);
        co_await op.pause(op.options().poll_interval);
    }
}

asio::awaitable<std::string> run_inside(operation& op, step s, std::string name, std::string program) {
    words exec{"exec", "--interactive", "--user=0", "--"};
    exec.push_back(name);
    exec.emplace_back("sh");
    exec.emplace_back("-s");
    auto result = co_await op.ask(s, std::move(exec), std::move(program));
    if (!result.ok()) co_await fail_for_container(op, s, std::move(name), result);
    co_return std::move(result.out);
}

asio::awaitable<void> put_keys(operation& op, std::string name, std::vector<ssh_public_key> keys) {
    co_await run_inside(op, step::add_keys, name, scripts::add_keys(keys));
    const auto file = co_await run_inside(op, step::verify_keys, name, scripts::list_keys());
    for (const auto& key : keys) {
        if (!file_holds(file, key)) op.fail(step::verify_keys, errc::not_verified, "a key that was added is not in authorized_keys");
    }
}

asio::awaitable<void> drop_keys(operation& op, std::string name, std::vector<ssh_public_key> keys) {
    co_await run_inside(op, step::remove_keys, name, scripts::remove_keys(keys));
    const auto file = co_await run_inside(op, step::verify_keys, name, scripts::list_keys());
    for (const auto& key : keys) {
        if (file_holds(file, key)) op.fail(step::verify_keys, errc::not_verified, "a key that was removed is still in authorized_keys");
    }
}

asio::awaitable<void> set_up_jupyter(operation& op, std::string name, jupyter_setup wish) {
    op.hide(wish.token);
    co_await run_inside(op, step::install_jupyter, name, scripts::install_jupyter(wish.port, wish.token, wish.script));
    const auto deadline = steady::now() + op.timeout_of(step::wait_for_jupyter);
    const std::uint16_t port = wish.reached_at != 0 ? wish.reached_at : wish.port;
    for (;;) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - steady::now());
        const auto answer = co_await probe_http(op, step::wait_for_jupyter, port, wish.probe_path, std::clamp(left, shortest_probe, longest_probe));
        if (answer.status != 0 && answer.status < 500) co_return;
        if (steady::now() + op.options().poll_interval >= deadline) {
            if (answer.way) op.fail(step::wait_for_jupyter, answer.way, answer.why);
            op.fail(step::wait_for_jupyter, errc::no_answer, "nothing answered at the executor's port " + std::to_string(port) + ": " + answer.why);
        }
        co_await op.pause(op.options().poll_interval);
    }
}

}  // namespace docker
