#pragma once

#include "support/sanitizers.hpp"

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace support {

/// The descriptors that this process has open, and the one that counting them takes.
inline std::size_t open_descriptors() {
    const std::filesystem::directory_iterator all{"/proc/self/fd"};
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// This process's resident memory.
inline std::size_t resident_bytes() {
    std::size_t all = 0;
    std::size_t resident = 0;
    std::ifstream{"/proc/self/statm"} >> all >> resident;
    return resident * 4096;
}

/// What this process has allocated, as far as that can be known: 0 under sanitizers, whose allocators do not tell.
inline std::size_t allocated_bytes() {
#if defined(__GLIBC__)
    if (slowness > 1) return 0;
    const auto m = ::mallinfo2();
    return m.uordblks + m.hblkhd;
#else
    return 0;
#endif
}

}  // namespace support
