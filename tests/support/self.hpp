#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>

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

}  // namespace support
