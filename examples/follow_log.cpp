// Follows a file on a host, as `tail -f` does, and stops after a while. Usage: follow_log user@host[:port] private-key file seconds
#include <sshpool/sshpool.hpp>

#include <asio.hpp>

#include <chrono>
#include <exception>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

namespace {

/// Wraps a command so that it ends with its input, and so with its channel or its connection.
///
/// SSH does not promise that: the server closes the command's input and output and leaves the process alone. One that neither reads nor writes (a `sleep`, a
/// `tail` of a pipe that nobody writes to) runs on. So a second process waits for the end of the input, and then sends TERM. What ignores TERM, what has moved
/// to a session of its own, and children that the command has started are beyond that; a container or a service manager on the host ends those too.
sshpool::command ending_with_its_input(const sshpool::command& what) {
    return "exec 3<&0; { " + what.line() +
           "\n} </dev/null 3<&- & job=$!; "                                     // a command in the background would read nothing anyway
           "{ cat <&3; kill $job; } >/dev/null 2>&1 & watcher=$!; exec 3<&-; "  // holds neither the output nor the error open
           "wait $job; status=$?; kill $watcher 2>/dev/null; exit $status";
}

asio::awaitable<void> follow(sshpool::ssh_pool<>& pool, sshpool::target host, std::string file, std::chrono::seconds how_long) {
    const auto executor = co_await asio::this_coro::executor;
    auto connection = co_await pool.async_get_connection(host, asio::use_awaitable);
    const auto tail = ending_with_its_input("exec " + sshpool::command::argv("tail", "-n", "5", "-f", file).line());
    const auto log = std::make_shared<sshpool::channel>(co_await connection->async_open(tail, asio::use_awaitable));

    asio::steady_timer enough{executor, how_long};
    enough.async_wait([log](std::error_code ec) {
        if (!ec) log->async_send_eof([](std::error_code) {});  // the end of its input ends it, see above
    });

    std::string text;
    for (;;) {
        std::error_code ec;
        const auto size = co_await asio::async_read_until(*log, asio::dynamic_buffer(text, 1 << 20), '\n', asio::redirect_error(asio::use_awaitable, ec));
        if (ec == asio::error::eof) break;
        if (ec) throw std::system_error(ec);  // a lost connection, or a line of more than 1 MiB
        std::cout << text.substr(0, size) << std::flush;
        text.erase(0, size);
    }
    enough.cancel();
    const auto end = co_await log->async_wait_exit(asio::use_awaitable);
    std::cout << text << "stopped with status " << end.exit_status.value_or(-1) << '\n';  // 143: by the TERM above
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 5) throw std::invalid_argument("usage: follow_log user@host[:port] private-key file seconds");
        asio::io_context io;
        sshpool::ssh_pool<> pool{io.get_executor()};
        const sshpool::target host{argv[1], sshpool::credentials::private_key_file(argv[2])};
        std::exception_ptr failure;
        asio::co_spawn(io, follow(pool, host, argv[3], std::chrono::seconds{std::stoi(argv[4])}), [&](std::exception_ptr e) {
            failure = e;
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
