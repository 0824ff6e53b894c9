// Links with a round trip, where the kernel has no netem: delay_links RTT-MS HOSTS-FILE carries each host of the file (lines address:port) through a proxy
// of its own that holds every byte back for half the round trip each way, prints the proxies' lines, and goes when its standard input ends.
#include "support/delay_proxy.hpp"

#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <list>
#include <string>

int main(int argc, char** argv) {
    try {
        if (argc != 3) return std::fprintf(stderr, "usage: delay_links RTT-MS HOSTS-FILE\n"), 2;
        const std::chrono::duration<double, std::milli> round_trip{std::stod(argv[1])};
        std::ifstream hosts(argv[2]);
        std::list<support::delay_proxy> links;
        for (std::string line; std::getline(hosts, line);) {
            const auto colon = line.find(':');
            const auto& link = links.emplace_back(line.substr(0, colon), static_cast<std::uint16_t>(std::stoul(line.substr(colon + 1))),
                                                  std::chrono::duration_cast<std::chrono::microseconds>(round_trip));
            std::printf("%s:%d\n", link.host().c_str(), link.port());
        }
        std::fflush(stdout);
        while (std::getchar() != EOF) {
        }
    } catch (const std::exception& e) {
        return std::fprintf(stderr, "delay_links: %s\n", e.what()), 2;
    }
}
