#include "core/random_history.hpp"
#include "support/catch.hpp"

#include <cstdlib>
#include <string>

using namespace core_test;

TEST_CASE("Twenty thousand random histories keep every promise of the pool", "[core][model]") {
    std::uint64_t first = 1;
    std::uint64_t last = 20'000;
    if (const char* one = std::getenv("SSHPOOL_MODEL_SEED")) first = last = std::stoull(one);
    for (auto seed = first; seed <= last; ++seed) {
        if (random_history{seed}.run(60).empty()) continue;
        FAIL("seed " << seed << " (SSHPOOL_MODEL_SEED repeats it alone): " << random_history(seed, true).run(60));
    }
    SUCCEED();
}
