#include "docker_service.hpp"

#include "container_scripts.hpp"
#include "containers.hpp"
#include "validate.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <stdexcept>

namespace docker {
namespace {

using steady = std::chrono::steady_clock;

std::vector<ssh_public_key> parsed(const operation& op, const std::vector<std::string>& lines) {
    std::vector<ssh_public_key> keys;
    op.validate([&] {
        for (const auto& line : lines) keys.push_back(parse_public_key(line));
    });
    return keys;
}

/// A short value is more often a number than a secret, and would blot out half of every message.
constexpr std::size_t shortest_secret = 6;

asio::awaitable<void> pull(operation& op, const create_request& wish) {
    if (wish.pull == pull_policy::never) co_return;
    if (wish.pull == pull_policy::if_missing) {
        words inspect{"image", "inspect", "--format", "{{.Id}}", "--"};
        inspect.push_back(wish.image);
        const auto there = co_await op.ask(step::look, std::move(inspect));
        if (there.ok()) co_return;
    }
    words command{"pull", "--"};
    command.push_back(wish.image);
    if (!wish.login) {
        co_await op.run(step::pull, std::move(command));
        co_return;
    }
    // What docker keeps of the login stays in a directory that nobody else uses or reads, and goes with it. Its name is not to be guessed.
    const auto directory = "/tmp/sshpool-docker-" + op.id();
    words make{"mkdir", "-p", "-m", "700", "--"};
    make.push_back(directory);
    op.remove_directory(directory);
    co_await op.run_there(step::log_in, std::move(make));
    const auto with_config = [&](words rest) {
        rest.insert(rest.begin(), {"--config", directory});
        return rest;
    };
    auto login = with_config(login_words(*wish.login));
    co_await op.run(step::log_in, std::move(login), wish.login->password);
    command = with_config(std::move(command));
    co_await op.run(step::pull, std::move(command));
    co_await op.remove_directory_now();
}

asio::awaitable<void> create_steps(operation& op, create_request wish, created_container& done) {
    op.validate([&] { check(wish); });
    const auto keys = parsed(op, wish.ssh_keys);
    if (wish.login) op.hide(wish.login->password);
    for (const auto& [name, value] : wish.environment) {
        if (value.size() >= shortest_secret) op.hide(value);
    }
    co_await op.connect();
    co_await pull(op, wish);
    if (wish.replace) {
        words remove{"rm", "--force", "--volumes", "--"};
        remove.push_back(wish.name);
        const auto removed = co_await op.ask(step::replace, std::move(remove));
        if (!removed.ok()) {
            const auto there = co_await find_container(op, wish.name);
            if (there) op.fail(step::replace, removed);
        }
    }
    for (const auto& v : wish.volumes) {
        auto make = create_volume_words(v, op.id());
        op.undo_volumes();
        co_await op.run(step::create_volume, std::move(make));
    }
    auto make = create_words(wish, op.id());
    op.undo_containers();
    const auto made = co_await op.ask(step::create, std::move(make), environment_file(wish));
    if (!made.ok()) {
        const auto other = co_await find_container(op, wish.name);
        if (other) op.fail(step::create, errc::name_in_use, "there is a container " + wish.name + " already", made.exit_status);
        op.fail(step::create, made);
    }
    done.name = wish.name;
    done.id = made.out.substr(0, made.out.find('\n'));
    if (done.id.size() != 64 || done.id.find_first_not_of("0123456789abcdef") != std::string::npos)
        op.fail(step::create, errc::unexpected_output, "docker create printed no container id");
    // From here on by its id: the name could be another's by now.
    words begin{"start", "--"};
    begin.push_back(done.id);
    co_await op.run(step::start, std::move(begin));
    co_await wait_until_running(op, done.id);
    if (wish.sshd) co_await run_inside(op, step::set_up_sshd, done.id, scripts::set_up_sshd(wish.sshd->port));
    if (!keys.empty()) co_await put_keys(op, done.id, keys);
    if (wish.jupyter) {
        auto setup = *wish.jupyter;
        if (setup.token.empty()) setup.token = random_hex(16);
        jupyter_server server;
        server.port = setup.reached_at != 0 ? setup.reached_at : setup.port;
        server.token = setup.token;
        co_await set_up_jupyter(op, done.id, std::move(setup));
        done.jupyter = std::move(server);
    }
}

asio::awaitable<void> stop_steps(operation& op, std::string name, std::chrono::seconds grace) {
    op.validate([&] {
        check_container_name(name);
        if (grace < std::chrono::seconds{0} || grace > std::chrono::hours{24}) throw std::invalid_argument("the grace must be from 0 s to a day");
    });
    op.extend(step::stop, grace);
    co_await op.connect();
    words command{"stop", "--time=" + std::to_string(grace.count()), "--"};
    command.push_back(name);
    const auto result = co_await op.ask(step::stop, std::move(command));
    if (!result.ok()) co_await fail_for_container(op, step::stop, name, result);
}

asio::awaitable<void> start_steps(operation& op, std::string name) {
    op.validate([&] { check_container_name(name); });
    co_await op.connect();
    words command{"start", "--"};
    command.push_back(name);
    const auto result = co_await op.ask(step::start, std::move(command));
    if (!result.ok()) co_await fail_for_container(op, step::start, name, result);
    co_await wait_until_running(op, name);
}

asio::awaitable<void> remove_container(operation& op, std::string name, deleted_container& done) {
    auto there = co_await find_container(op, name);
    done.was_gone = !there.has_value();
    if (done.was_gone) co_return;
    const auto id = there->id;
    words command{"rm", "--force", "--volumes", "--"};
    command.push_back(id);
    const auto result = co_await op.ask(step::remove_container, std::move(command));
    // Gone is gone, whoever did it; where another removal is under way this waits for it.
    const auto deadline = steady::now() + op.timeout_of(step::remove_container);
    for (there = co_await find_container(op, name); there && there->id == id; there = co_await find_container(op, name)) {
        if (!result.ok() && there->state != "removing") op.fail(step::remove_container, result);
        if (steady::now() >= deadline) op.fail(step::remove_container, errc::not_verified, "the container " + name + " is still there, " + there->state);
        co_await op.pause(op.options().poll_interval);
    }
}

asio::awaitable<void> delete_steps(operation& op, delete_request wish, deleted_container& done) {
    op.validate([&] { check(wish); });
    co_await op.connect();
    co_await remove_container(op, wish.name, done);
    for (const auto& name : wish.volumes) {
        words command{"volume", "rm", "--force", "--"};  // --force: one that is not there is no failure
        command.push_back(name);
        const auto result = co_await op.ask(step::remove_volume, std::move(command));
        if (!result.ok()) op.warnings().push_back("volume " + name + " was not removed: " + op.shown(result.err, 300));
    }
    if (wish.prune_images) {
        words command{"image", "prune", "--force"};
        const auto result = co_await op.ask(step::prune_images, std::move(command));
        if (!result.ok()) op.warnings().push_back("images were not pruned: " + op.shown(result.err, 300));
    }
}

asio::awaitable<void> jupyter_steps(operation& op, std::string name, jupyter_setup wish, jupyter_server& done) {
    op.validate([&] {
        check_container_name(name);
        check(wish);
    });
    if (wish.token.empty()) wish.token = random_hex(16);
    done.port = wish.reached_at != 0 ? wish.reached_at : wish.port;
    done.token = wish.token;
    co_await op.connect();
    co_await set_up_jupyter(op, std::move(name), std::move(wish));
}

enum class key_change { add, remove };
asio::awaitable<void> key_steps(operation& op, std::string name, std::vector<std::string> lines, key_change change) {
    op.validate([&] {
        check_container_name(name);
        if (lines.empty()) throw std::invalid_argument("no key was given");
    });
    auto keys = parsed(op, lines);
    co_await op.connect();
    if (change == key_change::add) {
        co_await put_keys(op, std::move(name), std::move(keys));
    } else {
        co_await drop_keys(op, std::move(name), std::move(keys));
    }
}

/// What every operation is: its steps, and whatever happens, its end.
template <class Result>
asio::awaitable<Result> carry_out(operation& op, asio::awaitable<void> steps, Result& done) {
    std::exception_ptr failed;
    co_await operation::begin();
    try {
        co_await std::move(steps);
    } catch (...) {
        failed = std::current_exception();
    }
    co_await op.end(failed);
    done.phases = op.phases();
    done.warnings = op.warnings();
    co_return std::move(done);
}

}  // namespace

asio::awaitable<created_container> docker_service::create(context c, create_request wish) {
    operation op("create_container", *c.pool, c.options, c.where, c.progress);
    created_container done;
    co_return co_await carry_out(op, create_steps(op, std::move(wish), done), done);
}
asio::awaitable<outcome> docker_service::stop(context c, std::string name, std::chrono::seconds grace) {
    operation op("stop_container", *c.pool, c.options, c.where, c.progress);
    outcome done;
    co_return co_await carry_out(op, stop_steps(op, std::move(name), grace), done);
}
asio::awaitable<outcome> docker_service::start_again(context c, std::string name) {
    operation op("start_container", *c.pool, c.options, c.where, c.progress);
    outcome done;
    co_return co_await carry_out(op, start_steps(op, std::move(name)), done);
}
asio::awaitable<deleted_container> docker_service::remove(context c, delete_request wish) {
    operation op("delete_container", *c.pool, c.options, c.where, c.progress);
    deleted_container done;
    co_return co_await carry_out(op, delete_steps(op, std::move(wish), done), done);
}
asio::awaitable<jupyter_server> docker_service::install_jupyter(context c, std::string name, jupyter_setup wish) {
    operation op("install_jupyter_server", *c.pool, c.options, c.where, c.progress);
    jupyter_server done;
    co_return co_await carry_out(op, jupyter_steps(op, std::move(name), std::move(wish), done), done);
}
asio::awaitable<outcome> docker_service::add_keys(context c, std::string name, std::vector<std::string> keys) {
    operation op("add_ssh_key", *c.pool, c.options, c.where, c.progress);
    outcome done;
    co_return co_await carry_out(op, key_steps(op, std::move(name), std::move(keys), key_change::add), done);
}
asio::awaitable<outcome> docker_service::remove_keys(context c, std::string name, std::vector<std::string> keys) {
    operation op("remove_ssh_keys", *c.pool, c.options, c.where, c.progress);
    outcome done;
    co_return co_await carry_out(op, key_steps(op, std::move(name), std::move(keys), key_change::remove), done);
}

}  // namespace docker
