#pragma once

#include "docker_service/docker_service.hpp"
#include "support/docker_engine.hpp"
#include "support/sshd_server.hpp"
#include "support/temp_dir.hpp"
#include "support/wait.hpp"

#include <sshpool/sshpool.hpp>

#include <asio/bind_executor.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <asio/use_future.hpp>

#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace docker::test {

using namespace std::chrono_literals;

/// An executor as a validator finds it: a real sshd whose user may use a real Docker Engine, and a service over a pool to reach it.
///
/// The service calls docker through a script that writes every word it is given to a file, and that can be told to stop before or after docker does what it is
/// asked.
class executor {
public:
    explicit executor(service_options options = {}, sshpool::pool_params params = {})
        : pool(io.get_executor(), std::move(params)), service(pool, with_defaults(std::move(options))) {
        engine.allow(sshd.home());
        support::write_file(docker(), script());
        std::filesystem::permissions(docker(), std::filesystem::perms{0755});
        for (const char* file : {"words", "held"}) {
            support::write_file(sshd.home() / file, "");
            std::filesystem::permissions(sshd.home() / file, std::filesystem::perms{0666});
        }
        thread_ = std::thread([this] { io.run(); });
    }
    executor(const executor&) = delete;
    executor& operator=(const executor&) = delete;
    ~executor() {
        pool.async_shutdown(0ms, [](std::error_code) {});
        work_.reset();
        thread_.join();
    }

    sshpool::target target() const {
        return sshpool::target{sshd.address(), sshpool::credentials::private_key_file(sshd.client_key()),
                               sshpool::host_key_policy::known_hosts(sshd.known_hosts())};
    }
    /// A container of the engine's own image, that needs no network and no pull.
    static create_request box(std::string name) {
        create_request wish{std::move(name), support::docker_engine::image()};
        wish.pull = pull_policy::never;
        wish.network = "none";
        wish.arguments = {"sleep", "600"};
        wish.restart = restart_policy::never;
        return wish;
    }

    std::future<created_container> create(create_request wish, progress_function progress = {}) {
        return service.async_create_container(target(), std::move(wish), std::move(progress), asio::use_future);
    }
    std::future<outcome> add_keys(const std::string& name, std::vector<std::string> keys) {
        return service.async_add_ssh_key(target(), name, std::move(keys), {}, asio::use_future);
    }
    std::future<outcome> remove_keys(const std::string& name, std::vector<std::string> keys) {
        return service.async_remove_ssh_keys(target(), name, std::move(keys), {}, asio::use_future);
    }
    template <class T>
    static T wait(std::future<T> f) {
        if (f.wait_for(40s * support::slowness) != std::future_status::ready) throw std::runtime_error("an operation did not end in time");
        return f.get();
    }
    /// How an operation failed; throws when it did not.
    template <class T>
    static failure failure_of(std::future<T> f) {
        try {
            wait(std::move(f));
        } catch (const operation_failed& e) {
            return e.info();
        }
        throw std::runtime_error("the operation succeeded");
    }

    /// Runs a command in a container, past the service.
    std::string inside(const std::string& name, std::vector<std::string> words) const {
        words.insert(words.begin(), {"exec", name});
        return engine.run(std::move(words));
    }
    /// Every word that docker was given until now, a line each, and what the commands looked like on sshd's side.
    std::string words_given() const { return support::read_file(sshd.home() / "words"); }

    /// From now on docker warns on standard error, whatever it does, and ends with its own status.
    void warn() const { support::write_file(sshd.home() / "warn", ""); }

    enum class when { before, after, instead };
    /// From now on docker stops, before or after its work, where its words begin with `words` (options of docker itself left out), until its
    /// session is cut; the first `passing` such calls pass. `instead`: it does not stop, but ends with status 9 and says nothing.
    void hold(when w, const std::string& words, std::size_t passing = 0) const {
        support::write_file(sshd.home() / "passing", std::string(passing, 'x'));
        std::filesystem::permissions(sshd.home() / "passing", std::filesystem::perms{0666});
        const std::string name = w == when::before ? "before" : w == when::after ? "after" : "instead";
        support::write_file(sshd.home() / "hold", name + "\n" + words + "\n");
    }
    void hold_nothing() const { std::filesystem::remove(sshd.home() / "hold"); }
    std::size_t times_held() const {
        const auto text = support::read_file(sshd.home() / "held");
        return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
    }

    support::docker_engine engine;
    support::sshd_server sshd;
    asio::io_context io;
    sshpool::ssh_pool<> pool;
    docker_service service;

private:
    std::filesystem::path docker() const { return sshd.home() / "docker"; }
    service_options with_defaults(service_options o) const {
        o.docker = {docker().string()};
        o.docker_host = engine.host();
        o.retry_delay = 20ms;
        o.poll_interval = 50ms;
        if (o.settle == service_options{}.settle) o.settle = 500ms;
        return o;
    }
    std::string script() const {
        return "#!/bin/sh\nhome=" + sshd.home().string() + "\n" + R"sh(
for word in "$@"; do printf '%s\n' "$word"; done >>"$home/words"
held_words() {
    while [ $# -gt 0 ]; do
        case $1 in -H | --config) shift 2 ;; *) break ;; esac
    done
    { IFS= read -r when && IFS= read -r words; } <"$home/hold" || return 1
    case "$* " in "$words "*) ;; *) return 1 ;; esac
    read -r passing <"$home/passing"
    if [ -z "$passing" ]; then return 0; fi
    printf '%s' "${passing#x}" >"$home/passing"
    return 1
}
if [ -e "$home/warn" ]; then echo "WARNING: this is no failure" >&2; fi
if [ -e "$home/hold" ] && held_words "$@"; then
    if [ "$when" = instead ]; then exit 9; fi
    if [ "$when" = after ]; then )sh" +
               std::string{support::docker_engine::docker()} + R"sh( "$@" >/dev/null 2>&1; fi
    echo held >>"$home/held"
    exec sleep 600
fi
exec )sh" + support::docker_engine::docker() +
               " \"$@\"\n";
    }

    asio::executor_work_guard<asio::io_context::executor_type> work_{io.get_executor()};
    std::thread thread_;
};

/// A registry on loopback that holds hello:1 and wants a password.
class registry {
public:
    registry(const std::string& user, const std::string& password) : process_({"python3", SSHPOOL_TEST_REGISTRY, user, password, "/bin/busybox"}) {
        if (!support::wait_until([&] { return process_.output().find('\n') != std::string::npos || !process_.running(); }) || !process_.running())
            throw std::runtime_error("the registry does not start: " + process_.output());
        host_ = "127.0.0.1:" + process_.output().substr(0, process_.output().find('\n'));
    }
    const std::string& host() const noexcept { return host_; }
    std::string image() const { return host_ + "/hello:1"; }

private:
    support::process process_;
    std::string host_;
};

/// A public key as ssh-keygen makes it.
inline std::string make_public_key(const support::temp_dir& dir, const std::string& name, const std::string& comment) {
    support::run_program({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", (dir / name).string()});
    auto line = support::read_file(dir / (name + ".pub"));
    while (!line.empty() && line.back() == '\n') line.pop_back();
    return line;
}

}  // namespace docker::test
