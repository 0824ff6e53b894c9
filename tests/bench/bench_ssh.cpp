// One workload by one contender on SSH servers that are there already; prints one JSON object. bench_ssh --help lists the options.
#include "bench/bench_options.hpp"
#include "bench/floor.hpp"
#include "bench/pool_workloads.hpp"

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string_view>
#include <vector>

int main(int argc, char** argv) {
    const std::vector<std::string_view> args(argv + 1, argv + argc);
    try {
        if (args.size() == 1 && args[0] == "--help") return std::fputs(bench::usage_text, stdout), 0;
        const auto options = bench::parse(args);
        if (options.contender == "sshpool") {
            bench::pool_workload{options}.run().print(options);
        } else if (options.contender == "floor") {
            bench::floor_workload{options}.run().print(options);
        } else {
            throw std::invalid_argument("--contender wants sshpool or floor, not \"" + options.contender + '"');
        }
    } catch (const std::exception& e) {
        std::fprintf(stderr, "bench_ssh: %s (--help lists the options)\n", e.what());
        return 2;
    }
}
