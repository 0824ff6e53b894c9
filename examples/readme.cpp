#include <sshpool/sshpool.hpp>

#include <asio.hpp>
#include <iostream>

asio::awaitable<void> look_at(sshpool::ssh_pool<>& pool, sshpool::target host) {
    auto load = co_await pool.async_run(host, "uptime", asio::use_awaitable);
    auto disk = co_await pool.async_run(host, sshpool::command::argv("df", "-h", "/"), asio::use_awaitable);  // the same connection
    std::cout << host.key() << ":" << load.out << disk.out;
    co_await pool.async_shutdown(std::chrono::seconds{1}, asio::use_awaitable);
}

int main(int, char** argv) {  // user@host[:port] private-key
    asio::io_context io;
    sshpool::ssh_pool<> pool{io.get_executor()};
    sshpool::target host{argv[1], sshpool::credentials::private_key_file(argv[2])};
    auto done = asio::co_spawn(io, look_at(pool, host), asio::use_future);
    io.run();
    done.get();  // throws what went wrong
}
