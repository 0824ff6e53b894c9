#include "other.hpp"

#include <iostream>

// Two translation units with every header in both: what a header defines must not be defined twice.
int main() {
    asio::io_context io;
    sshpool::ssh_pool<> pool{io.get_executor()};
    const auto same = &sshpool::detail::codes() == other_codes();
    std::cout << "sshpool " << SSHPOOL_VERSION_MAJOR << '.' << SSHPOOL_VERSION_MINOR << ", a pool of " << pool.get_stats().pool_size << ", hit rate "
              << other_hit_rate(pool) << '\n';
    return same ? 0 : 1;
}
