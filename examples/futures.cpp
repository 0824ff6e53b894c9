// From threads without an event loop of their own: the pool runs on one background thread, callers wait on futures.
// Usage: futures user@host[:port] private-key
#include <sshpool/sshpool.hpp>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/use_future.hpp>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

/// An io_context and the thread that runs it.
class background {
public:
    background() : work_(io_.get_executor()), thread_([this] { io_.run(); }) {}
    background(const background&) = delete;
    background& operator=(const background&) = delete;
    ~background() {
        work_.reset();  // run() returns when nothing is left to do
        thread_.join();
    }
    asio::io_context::executor_type executor() { return io_.get_executor(); }

private:
    asio::io_context io_;
    asio::executor_work_guard<asio::io_context::executor_type> work_;
    std::thread thread_;
};

void run(const sshpool::target& host) {
    background loop;
    sshpool::ssh_pool<> pool{loop.executor()};
    std::vector<std::thread> workers;
    std::vector<std::string> answers(4);
    for (std::size_t i = 0; i < answers.size(); ++i) {
        workers.emplace_back([&, i] {
            try {
                const auto word = "worker " + std::to_string(i) + "; it's $HOME";  // argv: reaches echo as it is
                answers[i] = pool.async_run(host, sshpool::command::argv("echo", word), asio::use_future).get().out;
            } catch (const std::exception& e) {
                answers[i] = std::string{"failed: "} + e.what() + '\n';
            }
        });
    }
    for (auto& w : workers) w.join();
    for (const auto& a : answers) std::cout << a;
    pool.async_shutdown(std::chrono::seconds{1}, asio::use_future).get();
    for (const auto& a : answers) {
        if (a.rfind("worker ", 0) != 0) throw std::runtime_error("not every worker got its answer");
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 3) throw std::invalid_argument("usage: futures user@host[:port] private-key");
        run({argv[1], sshpool::credentials::private_key_file(argv[2])});
        return EXIT_SUCCESS;
    } catch (const std::exception& e) {
        std::cerr << e.what() << '\n';
        return 2;
    }
}
