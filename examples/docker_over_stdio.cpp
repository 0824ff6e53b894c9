// Asks a Docker Engine in HTTP whether it is well and then for its version, through one `docker system dial-stdio` on its host.
// Usage: docker_over_stdio user@host[:port] private-key [docker-host]
#include <sshpool/sshpool.hpp>

#include <asio.hpp>

#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr std::size_t largest_answer = std::size_t{1} << 20;

/// What `docker -H ssh://…` does with a process and a login each time, on one channel of a pooled connection. The command joins its input and output with the
/// engine's socket, and so the channel is a stream to the engine: whatever speaks HTTP over an Asio stream speaks it here.
asio::awaitable<std::string> ask(sshpool::ssh_pool<>& pool, sshpool::target host, std::vector<std::string> docker, std::string path) {
    auto connection = co_await pool.async_get_connection(host, asio::use_awaitable);
    docker.insert(docker.end(), {"system", "dial-stdio"});
    const auto dial = sshpool::command::argv(docker);
    auto engine = co_await connection->async_open(dial, asio::use_awaitable);

    const std::string ping = "HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n";  // its answer has no body, and the engine waits for the next request
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
    const auto is_good = [](const std::string& answer) { return answer.rfind("HTTP/1.1 200 ", 0) == 0; };
    std::string answer;
    std::error_code ec;
    co_await asio::async_write(engine, asio::buffer(ping), asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) co_await asio::async_read_until(engine, asio::dynamic_buffer(answer, largest_answer), "\r\n\r\n", asio::redirect_error(asio::use_awaitable, ec));
    if (!ec && is_good(answer)) {
        answer.clear();
        co_await asio::async_write(engine, asio::buffer(request), asio::redirect_error(asio::use_awaitable, ec));
        if (!ec) co_await asio::async_read(engine, asio::dynamic_buffer(answer, largest_answer), asio::redirect_error(asio::use_awaitable, ec));
        if (ec == asio::error::eof && is_good(answer)) co_return answer;
    }
    if (ec && ec != asio::error::eof && ec != asio::error::broken_pipe) throw std::system_error(ec);

    std::string complaint;  // docker's own, where there is no engine
    co_await asio::async_read(engine.err(), asio::dynamic_buffer(complaint, largest_answer), asio::redirect_error(asio::use_awaitable, ec));
    throw std::runtime_error("no answer of an engine's: " + answer.substr(0, answer.find('\r')) + complaint);
}

/// The engine's version, which stands last: its components' come before it.
std::string version_in(const std::string& answer) {
    const std::string name = "\"Version\":\"";
    const auto at = answer.rfind(name);
    if (at == std::string::npos) throw std::runtime_error("the engine does not tell its version");
    const auto from = at + name.size();
    return answer.substr(from, answer.find('"', from) - from);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 3 && argc != 4) throw std::invalid_argument("usage: docker_over_stdio user@host[:port] private-key [docker-host]");
        asio::io_context io;
        sshpool::ssh_pool<> pool{io.get_executor()};
        const sshpool::target host{argv[1], sshpool::credentials::private_key_file(argv[2])};
        std::vector<std::string> docker{"docker"};
        if (argc == 4) docker.insert(docker.end(), {"-H", argv[3]});
        std::exception_ptr failure;
        asio::co_spawn(io, ask(pool, host, docker, "/version"), [&](std::exception_ptr e, const std::string& answer) {
            failure = e;
            try {
                if (!failure) std::cout << "Docker Engine " << version_in(answer) << '\n';
            } catch (const std::exception&) {
                failure = std::current_exception();
            }
            pool.async_shutdown(std::chrono::seconds{1}, [](std::error_code) {});
        });
        io.run();
        if (failure) std::rethrow_exception(failure);
        return 0;
    } catch (const std::exception& e) {
        std::cerr << e.what() << '\n';
        return 1;
    }
}
