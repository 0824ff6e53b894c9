// Without Asio: one pool for the process, plain calls from any thread, errors as exceptions. Usage: blocking user@host[:port] private-key
#include <sshpool/sshpool.hpp>

#include <exception>
#include <future>
#include <iostream>
#include <stdexcept>

int main(int argc, char** argv) try {
    if (argc != 3) throw std::invalid_argument("usage: blocking user@host[:port] private-key");
    const sshpool::target host{argv[1], sshpool::credentials::private_key_file(argv[2])};
    sshpool::pool_params params;
    params.max_connections = 200;
    sshpool::init_ssh_pool(params);

    auto elsewhere = std::async(std::launch::async, [&] { return sshpool::get_ssh_pool().run(host, "echo $0").out; });
    auto lease = sshpool::get_ssh_pool().get_connection(host);  // several commands on one connection
    std::cout << lease.run("uname -s").out << "df: status " << lease.run("df /no/such/place").exit_status.value_or(-1) << '\n';
    lease.release();
    std::cout << "elsewhere: " << elsewhere.get();

    std::cout << sshpool::get_ssh_pool().get_stats().connections_created << " connection(s) for 3 commands\n";
    sshpool::close_ssh_pool();  // lets commands end, for 10 seconds at most
} catch (const sshpool::ssh_error& e) {
    std::cerr << e.what() << '\n';  // one sentence: host, phase, the server's words
    return 1;
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 2;
}
