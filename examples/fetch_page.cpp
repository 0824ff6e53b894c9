// Fetches a page from a web server that only a remote host can reach. Usage: fetch_page user@host[:port] private-key web-host web-port path
#include <sshpool/sshpool.hpp>

#include <asio.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace {

constexpr std::size_t largest_page = std::size_t{16} << 20;

struct place {
    std::string host;
    std::uint16_t port;
};

asio::awaitable<std::string> fetch(sshpool::ssh_pool<>& pool, const sshpool::target& host, const place& web, const std::string& path) {
    auto connection = co_await pool.async_get_connection(host, asio::use_awaitable);
    auto page = co_await connection->async_open_tcp(web.host, web.port, asio::use_awaitable);  // the remote host connects, and knows the name
    const std::string request = "GET " + path + " HTTP/1.0\r\nHost: " + web.host + "\r\n\r\n";
    co_await asio::async_write(page, asio::buffer(request), asio::use_awaitable);
    std::string answer;
    std::error_code ec;
    co_await asio::async_read(page, asio::dynamic_buffer(answer, largest_page), asio::redirect_error(asio::use_awaitable, ec));
    if (ec && ec != asio::error::eof) throw std::system_error(ec);
    co_return answer;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 6) throw std::invalid_argument("usage: fetch_page user@host[:port] private-key web-host web-port path");
        asio::io_context io;
        sshpool::ssh_pool<> pool{io.get_executor()};
        const sshpool::target host{argv[1], sshpool::credentials::private_key_file(argv[2])};
        const auto port = std::stoul(argv[4]);
        if (port == 0 || port > 65535) throw std::invalid_argument("a web port is a number from 1 to 65535");
        const place web{argv[3], static_cast<std::uint16_t>(port)};
        const std::string path = argv[5];
        std::exception_ptr failure;
        asio::co_spawn(io, fetch(pool, host, web, path), [&](std::exception_ptr e, const std::string& answer) {
            failure = e;
            if (!failure) std::cout << answer << '\n';
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
