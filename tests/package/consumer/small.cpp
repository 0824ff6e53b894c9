#include <sshpool/detail/libssh2_init.hpp>
#include <sshpool/target.hpp>
#include <sshpool/version.hpp>

#include <asio/io_context.hpp>

#include <iostream>
#include <stdexcept>
#include <thread>

// Uses each of the libraries that must be linked: libssh2, OpenSSL (the pin's fingerprint), Asio and threads.
int main() {
    asio::io_context io;
    std::thread([&] { io.run(); }).join();
    const sshpool::target host("me@example.org", sshpool::credentials::password("x"), sshpool::host_key_policy::accept_any());
    std::cout << "sshpool " << SSHPOOL_VERSION_MAJOR << '.' << SSHPOOL_VERSION_MINOR << ", libssh2 " << libssh2_version(0) << ", " << host.key() << '\n';
    return host.key() == "me@example.org:22" ? 0 : 1;
}
