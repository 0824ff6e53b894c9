#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// Bytes that came and were not taken yet. In blocks, so that it needs little more room than it holds, and gives it back as they are taken.
class byte_queue {
public:
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }

    void append(std::string_view bytes) {
        size_ += bytes.size();
        while (!bytes.empty()) {
            if (blocks_.empty() || blocks_.back().size() == blocks_.back().capacity() || blocks_.back().size() >= block_size) {
                blocks_.emplace_back();
                blocks_.back().reserve(std::clamp<std::size_t>(bytes.size(), smallest_block, block_size));
            }
            auto& last = blocks_.back();
            const auto n = std::min(bytes.size(), last.capacity() - last.size());
            last.append(bytes.substr(0, n));
            bytes.remove_prefix(n);
        }
    }
    /// The next bytes, as far as they lie together; empty when there are none.
    std::string_view front() const noexcept { return blocks_.empty() ? std::string_view{} : std::string_view{blocks_.front()}.substr(taken_); }
    void drop(std::size_t bytes) noexcept {
        size_ -= bytes;
        taken_ += bytes;
        if (taken_ < blocks_.front().size()) return;
        blocks_.pop_front();
        taken_ = 0;
    }
    void clear() noexcept {
        blocks_.clear();
        size_ = taken_ = 0;
    }

private:
    static constexpr std::size_t block_size = std::size_t{32} << 10;
    static constexpr std::size_t smallest_block = 1024;

    std::list<std::string> blocks_;  // and not a deque, which takes 0.6 KiB when it is empty
    std::size_t size_ = 0;
    std::size_t taken_ = 0;  // of the first block
};

}  // namespace sshpool::detail
