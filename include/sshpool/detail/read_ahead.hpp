#pragma once

#include <sshpool/detail/local_file.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sshpool::detail {

/// Bytes of a file. The room is kept for the next ones.
struct file_piece {
    std::vector<char> room;
    std::size_t size = 0;
    std::size_t used = 0;
    std::size_t left() const noexcept { return size - used; }
};

/// A file of this machine that is read piece by piece. While it is `out`, it belongs to whoever reads, who may block.
struct read_ahead {
    std::filesystem::path from;
    local_source source;
    file_piece next;
    std::uint64_t begin = 0;  // of the next piece
    std::string trouble;
    bool is_open = false;
    bool out = false;

    void read(std::size_t room) {
        next.size = next.used = 0;
        if (!is_open) {
            trouble = source.open(from);
            if (!trouble.empty()) return;
            is_open = true;
        }
        const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(room, source.size() - begin));
        if (next.room.size() < wanted) next.room.resize(wanted);
        next.size = source.read(begin, next.room.data(), wanted);
        begin += next.size;
        if (next.size < wanted) trouble = source.trouble().empty() ? "has a file that became shorter while it was sent: " + from.string() : source.trouble();
    }
};

}  // namespace sshpool::detail
