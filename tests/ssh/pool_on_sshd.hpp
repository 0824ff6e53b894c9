#pragma once

#include <sshpool/ssh_pool.hpp>

#include <asio/io_context.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ssh/targets.hpp"
#include "support/catch.hpp"
#include "support/delay_proxy.hpp"
#include "support/fault_server.hpp"
#include "support/sshd_server.hpp"

namespace sshpool::test {

using namespace std::chrono_literals;

/// An io_context with threads of its own and a pool on it, for tests that wait for futures.
class running_pool {
public:
    explicit running_pool(pool_params params = {}, int threads = 1) : pool(io.get_executor(), std::move(params)) {
        for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { io.run(); });
    }
    running_pool(const running_pool&) = delete;
    running_pool& operator=(const running_pool&) = delete;
    ~running_pool() {
        pool.async_shutdown(0ms, [](std::error_code) {});
        work_.reset();
        for (auto& t : threads_) t.join();
    }

    /// How an operation ended, without exceptions.
    template <class Result>
    struct outcome {
        std::error_code ec;
        error_info info;
        Result result{};
    };
    using run_outcome = outcome<command_result>;
    using lease_outcome = outcome<lease<libssh2_transport>>;

    std::future<run_outcome> start(const target& to, command what) {
        return begin<command_result>([&](error_info& info, auto handler) { pool.async_run(to, std::move(what), info, std::move(handler)); });
    }
    run_outcome run(const target& to, command what) { return finish(start(to, std::move(what))); }
    std::future<lease_outcome> ask(const target& to) {
        return begin<lease<libssh2_transport>>([&](error_info& info, auto handler) { pool.async_get_connection(to, info, std::move(handler)); });
    }
    lease_outcome get(const target& to) { return finish(ask(to)); }
    run_outcome run_on(lease<libssh2_transport>& l, command what) {
        return finish(begin<command_result>([&](error_info& info, auto handler) { l->async_run(std::move(what), info, std::move(handler)); }));
    }

    template <class T>
    static T finish(std::future<T> f) {
        if (f.wait_for(60s) != std::future_status::ready) throw std::runtime_error("an operation did not end within a minute");
        return f.get();
    }

    asio::io_context io;
    ssh_pool<> pool;

private:
    template <class Result, class Start>
    std::future<outcome<Result>> begin(Start start) {
        struct state {
            std::promise<outcome<Result>> promise;
            error_info info;
        };
        auto s = std::make_shared<state>();
        auto f = s->promise.get_future();
        auto& info = s->info;
        start(info, [s](std::error_code ec, Result r) { s->promise.set_value({ec, std::move(s->info), std::move(r)}); });
        return f;
    }

    asio::executor_work_guard<asio::io_context::executor_type> work_{io.get_executor()};
    std::vector<std::thread> threads_;
};

/// The server behind a proxy, which `known_hosts` does not know: trusted by fingerprint.
inline target through(const support::delay_proxy& proxy, const support::sshd_server& s) {
    return target{s.address(proxy.host(), proxy.port()), credentials::private_key_file(s.client_key()), host_key_policy::pinned(s.fingerprint())};
}

}  // namespace sshpool::test
