#pragma once

#include "errors.hpp"
#include "operation.hpp"
#include "requests.hpp"

#include <sshpool/ssh_pool.hpp>
#include <sshpool/target.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>

#include <chrono>
#include <exception>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace docker {

/// Manages containers on executors, over the connections of a pool: an operation's commands share one connection with all others to that executor.
///
/// Every operation completes with `void(std::exception_ptr, Result)`: with `use_awaitable` or `use_future` the result, or `operation_failed` thrown, which
/// names the step. `progress` may be empty; it is called on the operation's executor, and must not throw.
///
/// **Executor**: an operation runs on its handler's associated executor, else on the pool's; give a strand where several threads run it.
/// **Cancellation**: every kind. The operation ends as one that failed: a create undoes what it did first.
/// **Attempts**: a command whose connection fails is tried again only when it certainly never started, or when doing it twice is doing it once
/// (`step_list`). **Lifetime**: the service may go while operations are under way, the pool may not.
class docker_service {
public:
    explicit docker_service(sshpool::ssh_pool<>& pool, service_options options = {}) : pool_(&pool), options_(std::move(options)) {}

    /// Pulls the image, creates volumes and container, starts it, waits until it runs; then sshd, keys and Jupyter as asked for. When a step fails,
    /// what was created is removed again; `failure::left_behind` names what could not be.
    template <class Token>
    auto async_create_container(const sshpool::target& where, create_request wish, progress_function progress, Token&& token) {
        return start<created_container>(std::forward<Token>(token), create, where, std::move(progress), std::move(wish));
    }
    /// Asks it to end, and ends it after `grace`. Succeeds on one that does not run.
    template <class Token>
    auto async_stop_container(const sshpool::target& where, std::string name, std::chrono::seconds grace, progress_function progress, Token&& token) {
        return start<outcome>(std::forward<Token>(token), stop, where, std::move(progress), std::move(name), grace);
    }
    /// Starts it and waits until it runs. Succeeds on one that does.
    template <class Token>
    auto async_start_container(const sshpool::target& where, std::string name, progress_function progress, Token&& token) {
        return start<outcome>(std::forward<Token>(token), start_again, where, std::move(progress), std::move(name));
    }
    /// Removes it, running or not, with its anonymous volumes and those named, and looks that it is gone. Succeeds where there is none. Trouble with
    /// volumes and images is a warning.
    template <class Token>
    auto async_delete_container(const sshpool::target& where, delete_request wish, progress_function progress, Token&& token) {
        return start<deleted_container>(std::forward<Token>(token), remove, where, std::move(progress), std::move(wish));
    }
    /// Installs and starts a notebook server in a container that runs, and waits until it answers HTTP through a tunnel to the executor.
    template <class Token>
    auto async_install_jupyter_server(const sshpool::target& where, std::string name, jupyter_setup wish, progress_function progress, Token&& token) {
        return start<jupyter_server>(std::forward<Token>(token), install_jupyter, where, std::move(progress), std::move(name), std::move(wish));
    }
    /// Lets keys in, those that are not yet; `keys` are lines as in authorized_keys, without options.
    template <class Token>
    auto async_add_ssh_key(const sshpool::target& where, std::string name, std::vector<std::string> keys, progress_function progress, Token&& token) {
        return start<outcome>(std::forward<Token>(token), add_keys, where, std::move(progress), std::move(name), std::move(keys));
    }
    /// Locks keys out, whatever comment or options they stand there with, and reads back that they are gone.
    template <class Token>
    auto async_remove_ssh_keys(const sshpool::target& where, std::string name, std::vector<std::string> keys, progress_function progress, Token&& token) {
        return start<outcome>(std::forward<Token>(token), remove_keys, where, std::move(progress), std::move(name), std::move(keys));
    }

private:
    struct context {
        sshpool::ssh_pool<>* pool;
        service_options options;
        sshpool::target where;
        progress_function progress;
    };
    static asio::awaitable<created_container> create(context c, create_request wish);
    static asio::awaitable<outcome> stop(context c, std::string name, std::chrono::seconds grace);
    static asio::awaitable<outcome> start_again(context c, std::string name);
    static asio::awaitable<deleted_container> remove(context c, delete_request wish);
    static asio::awaitable<jupyter_server> install_jupyter(context c, std::string name, jupyter_setup wish);
    static asio::awaitable<outcome> add_keys(context c, std::string name, std::vector<std::string> keys);
    static asio::awaitable<outcome> remove_keys(context c, std::string name, std::vector<std::string> keys);

    /// Runs the operation where its handler belongs: a cancellation then never comes from another thread than the coroutine's.
    template <class Result, class Token, class Operation, class... Args>
    auto start(Token&& token, Operation what, const sshpool::target& where, progress_function progress, Args... args) {
        return asio::async_initiate<Token, void(std::exception_ptr, Result)>(
            [what](auto handler, context c, Args... rest) {
                asio::any_io_executor executor = c.pool->get_executor();
                using own_executor = asio::associated_executor_t<decltype(handler), asio::any_io_executor>;
                if constexpr (std::is_convertible_v<own_executor, asio::any_io_executor>)
                    executor = asio::get_associated_executor(handler, executor);  // a future has one on which nothing can wait
                asio::co_spawn(executor, what(std::move(c), std::move(rest)...), std::move(handler));
            },
            token, context{pool_, options_, where, std::move(progress)}, std::move(args)...);
    }

    sshpool::ssh_pool<>* pool_;
    service_options options_;
};

}  // namespace docker
