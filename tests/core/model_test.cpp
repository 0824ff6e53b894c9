#include "core/random_history.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>

using namespace core_test;

namespace {

/// SSHPOOL_MODEL_SEED runs that one alone, SSHPOOL_MODEL_LAST goes on to another last one.
std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::stoull(text) : otherwise;
}

void run_histories(std::uint64_t count, std::size_t steps) {
    const auto first = from_environment("SSHPOOL_MODEL_SEED", 1);
    const auto last = from_environment("SSHPOOL_MODEL_LAST", first == 1 ? count : first);
    for (auto seed = first; seed <= last; ++seed) {
        if (random_history{seed}.run(steps).empty()) continue;
        FAIL("seed " << seed << " (SSHPOOL_MODEL_SEED repeats it alone): " << random_history(seed, true).run(steps));
    }
    SUCCEED();
}

}  // namespace

TEST_CASE("Twenty thousand random histories keep every promise of the pool", "[core][model]") { run_histories(20'000, 60); }

TEST_CASE("A thousand long histories keep every promise of the pool", "[core][model]") { run_histories(1'000, 600); }
