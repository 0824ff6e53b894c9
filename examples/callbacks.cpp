// Several commands at once on one host, with plain callbacks, and what to do with the errors.
// Usage: callbacks user@host[:port] private-key
#include <sshpool/sshpool.hpp>

#include <asio/io_context.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <system_error>

namespace {

constexpr std::array lines{"echo one", "echo two; exit 3", "sleep 30", "echo four"};

int run(const sshpool::target& host) {
    asio::io_context io;
    sshpool::ssh_pool<> pool{io.get_executor()};
    std::array<sshpool::error_info, lines.size()> details;  // filled when an operation fails
    std::size_t open = lines.size();
    int as_expected = 0;

    for (std::size_t i = 0; i < lines.size(); ++i) {
        sshpool::command what{lines[i]};
        what.timeout(std::chrono::milliseconds{1500});
        pool.async_run(host, what, details[i], [&, i](std::error_code ec, const sshpool::command_result& result) {
            if (ec == sshpool::errc::command_timeout) {
                std::cout << lines[i] << ": gave it up, " << details[i].text << '\n';
                if (i == 2) ++as_expected;
            } else if (ec) {  // the host could not be reached, the login failed, …
                std::cout << lines[i] << ": " << details[i].text << '\n';
                if (ec == sshpool::command_fate::not_started) std::cout << "  it did not start: safe to run again\n";
            } else {
                std::cout << lines[i] << ": status " << result.exit_status.value_or(-1) << ", " << result.out;
                if (i != 2) ++as_expected;
            }
            if (--open == 0) pool.async_shutdown(std::chrono::seconds{1}, [](std::error_code) {});
        });
    }
    io.run();
    std::cout << pool.get_stats().connections_created << " connection(s) for " << lines.size() << " commands\n";
    return as_expected == 4 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 3) throw std::invalid_argument("usage: callbacks user@host[:port] private-key");
        return run({argv[1], sshpool::credentials::private_key_file(argv[2])});
    } catch (const std::exception& e) {
        std::cerr << e.what() << '\n';
        return 2;
    }
}
