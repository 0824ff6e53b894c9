// Memory per idle pooled connection: proportional set size of this process before and after connecting.
// bench_memory KEY KNOWN_HOSTS user@host:port...

#include <sshpool/ssh_pool.hpp>

#include <asio/io_context.hpp>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace {

long pss_kib() {
    std::ifstream in{"/proc/self/smaps_rollup"};
    for (std::string line; std::getline(in, line);) {
        if (line.rfind("Pss:", 0) == 0) return std::stol(line.substr(4));
    }
    return -1;
}

}  // namespace

int main(int argc, char** argv) {
    using namespace sshpool;
    if (argc < 4) return std::fprintf(stderr, "usage: bench_memory KEY KNOWN_HOSTS user@host:port...\n"), 2;
    asio::io_context io{1};
    pool_params params;
    params.max_connections = static_cast<std::size_t>(argc);
    ssh_pool<> pool{io.get_executor(), params};
    const auto key = credentials::private_key_file(argv[1]);
    const auto trusted = host_key_policy::known_hosts(argv[2]);
    std::vector<target> all;
    for (int i = 3; i < argc; ++i) all.emplace_back(argv[i], key, trusted);
    const auto first = std::vector<target>{all.front()};
    long before = 0;
    pool.async_warm(first, [&](std::error_code, warm_report) {
        before = pss_kib();  // code and tables are loaded
        pool.async_warm(all, [&](std::error_code, warm_report report) {
            for (const auto& f : report.failed) std::fprintf(stderr, "%s: %s\n", f.key.c_str(), f.error.text.c_str());
            const auto connections = static_cast<long>(pool.get_stats().idle) - 1;
            std::printf("{\"idle_connections\": %zu, \"pss_kib_before\": %ld, \"pss_kib\": %ld, \"kib_per_connection\": %.1f}\n", pool.get_stats().idle, before,
                        pss_kib(), static_cast<double>(pss_kib() - before) / static_cast<double>(connections > 0 ? connections : 1));
            pool.async_shutdown(std::chrono::seconds{1}, [](std::error_code) {});
        });
    });
    io.run();
}
