#include <sshpool/sshpool.hpp>

#include <asio.hpp>

#include <iostream>

asio::awaitable<void> look_after(sshpool::ssh_pool<>& pool, sshpool::target host) {
    for (const char* line : {"uptime", "df -h /", "whoami"}) {  // one connection for all three
        auto result = co_await pool.async_run(host, line, asio::use_awaitable);
        std::cout << host.key() << ": " << result.out;
    }
    co_await pool.async_shutdown(std::chrono::seconds{1}, asio::use_awaitable);
}

int main(int, char** argv) {  // deploy@203.0.113.7 ~/.ssh/id_ed25519
    asio::io_context io;
    sshpool::ssh_pool<> pool{io.get_executor()};
    sshpool::target host{argv[1], sshpool::credentials::private_key_file(argv[2])};
    asio::co_spawn(io, look_after(pool, host), [](std::exception_ptr e) {
        if (e) std::rethrow_exception(e);
    });
    io.run();
}
