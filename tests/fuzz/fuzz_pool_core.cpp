#include "fuzz.hpp"

#include "core/random_history.hpp"

#include <random>
#include <span>

// The bytes are the choices of a history: parameters, events, time. The reference pool of tests/core looks on after every event.

const std::vector<std::string>& seeds() {
    static const std::vector<std::string> all = [] {
        std::vector<std::string> made;
        std::mt19937 random{1};
        for (const std::size_t size : {40U, 80U, 160U, 320U, 640U}) {
            for (int i = 0; i < 8; ++i) {
                std::string bytes(size, '\0');
                for (auto& b : bytes) b = static_cast<char>(random());
                made.push_back(std::move(bytes));
            }
        }
        return made;
    }();
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::size_t most_steps = 2'000;
    const std::span<const std::uint8_t> bytes{data, size};
    if (core_test::random_history{bytes}.run(most_steps).empty()) return 0;
    promise(false, core_test::random_history(bytes, true).run(most_steps));
    return 0;
}
