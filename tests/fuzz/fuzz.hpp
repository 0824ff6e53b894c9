#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

/// What a fuzzer begins with, beside what is kept in tests/fuzz/corpus: each makes its own, in code.
const std::vector<std::string>& seeds();

extern "C" {
std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

/// libFuzzer's own mutations, and now and then one of the seeds.
std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned int random) {
    if (size > 1 && random % 128 != 0) return LLVMFuzzerMutate(data, size, max_size);
    const auto& seed = seeds()[random / 128 % seeds().size()];
    if (seed.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, seed.data(), seed.size());
    return seed.size();
}
}

/// Ends the run, and libFuzzer keeps the input.
inline void promise(bool kept, std::string_view what) {
    if (kept) return;
    std::cerr << "broken promise: " << what << std::endl;
    std::abort();
}

inline void no_control_characters(std::string_view message) {
    for (const char c : message) promise(static_cast<unsigned char>(c) >= ' ' && c != '\x7f', "a message holds no control character");
}
