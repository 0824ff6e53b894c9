#pragma once

#include <sshpool/libssh2_transport.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <future>
#include <memory>
#include <mutex>
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

struct run_outcome {
    std::error_code ec;
    error_info info;
    command_result result;
};

/// What a connection has told its owner.
struct told {
    std::mutex mutex;
    std::vector<error_info> lost;
    std::vector<std::size_t> capacity;
    std::vector<std::chrono::nanoseconds> waits;
    std::size_t count_lost() {
        const std::lock_guard lock{mutex};
        return lost.size();
    }
    std::size_t last_capacity() {
        const std::lock_guard lock{mutex};
        return capacity.empty() ? 99 : capacity.back();
    }
};

/// A connection and the threads that run it, for tests that wait.
class running_transport {
public:
    explicit running_transport(int threads = 1) {
        for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { io.run(); });
    }
    running_transport(const running_transport&) = delete;
    running_transport& operator=(const running_transport&) = delete;
    ~running_transport() {
        close();
        work_.reset();
        for (auto& t : threads_) t.join();
    }

    open_report open(const target& to, std::chrono::milliseconds timeout = 10s, std::size_t spares = 1, std::chrono::milliseconds grace = 2s) {
        return start_open(to, timeout, spares, grace).get();
    }
    std::future<open_report> start_open(const target& to, std::chrono::milliseconds timeout = 10s, std::size_t spares = 1,
                                        std::chrono::milliseconds grace = 2s) {
        open_request<libssh2_transport> request{to, timeout * support::slowness, spares, grace, {}, {}};
        request.observer.lost = [t = heard](error_info e) {
            const std::lock_guard lock{t->mutex};
            t->lost.push_back(std::move(e));
        };
        request.observer.capacity = [t = heard](std::size_t n) {
            const std::lock_guard lock{t->mutex};
            t->capacity.push_back(n);
        };
        request.observer.channel_opened = [t = heard](std::chrono::nanoseconds n) {
            const std::lock_guard lock{t->mutex};
            t->waits.push_back(n);
        };
        auto promise = std::make_shared<std::promise<open_report>>();
        auto future = promise->get_future();
        connection.open(std::move(request), [promise](open_report report) { promise->set_value(std::move(report)); });
        return future;
    }
    std::future<run_outcome> start(command what, asio::cancellation_slot slot = {}) {
        struct state {
            error_info info;
            std::promise<run_outcome> promise;
        };
        auto s = std::make_shared<state>();
        auto future = s->promise.get_future();
        connection.async_run(std::move(what), s->info, asio::bind_cancellation_slot(slot, [s](std::error_code ec, command_result result) {
                                 s->promise.set_value({ec, s->info, std::move(result)});
                             }));
        return future;
    }
    run_outcome run(command what) { return start(std::move(what)).get(); }
    error_info probe(std::chrono::milliseconds timeout = 5s) {
        auto promise = std::make_shared<std::promise<error_info>>();
        auto future = promise->get_future();
        connection.probe(timeout, [promise](error_info e) { promise->set_value(std::move(e)); });
        return future.get();
    }
    void close() {
        auto promise = std::make_shared<std::promise<void>>();
        auto future = promise->get_future();
        connection.close([promise] { promise->set_value(); });
        future.get();
    }

    asio::io_context io;
    std::shared_ptr<told> heard = std::make_shared<told>();
    libssh2_transport connection{io.get_executor()};

private:
    asio::executor_work_guard<asio::io_context::executor_type> work_{io.get_executor()};
    std::vector<std::thread> threads_;
};

inline target through(const support::sshd_server& server, const std::string& host, std::uint16_t port) {
    return {server.address(host, port), credentials::private_key_file(server.client_key()), host_key_policy::accept_any()};
}

}  // namespace sshpool::test
