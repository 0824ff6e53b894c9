#pragma once

#include <openssl/crypto.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// Bytes that are wiped before their memory is given back. Its own buffer, never a small string's: no copy stays behind in an object that moved.
/// It grows only by `resize`, which wipes the old buffer. `Allocator` is a parameter so that a test can look at the memory as it is given back.
template <class Allocator = std::allocator<char>>
class basic_secret {
public:
    basic_secret() = default;
    explicit basic_secret(std::string_view bytes, Allocator alloc = {}) : alloc_(alloc) {
        resize(bytes.size());
        if (!bytes.empty()) std::memcpy(data_, bytes.data(), bytes.size());
    }
    basic_secret(basic_secret&& other) noexcept
        : alloc_(other.alloc_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), room_(std::exchange(other.room_, 0)) {}
    basic_secret& operator=(basic_secret&& other) noexcept {
        if (this == &other) return *this;
        drop();
        alloc_ = other.alloc_;
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
        room_ = std::exchange(other.room_, 0);
        return *this;
    }
    basic_secret(const basic_secret&) = delete;
    basic_secret& operator=(const basic_secret&) = delete;
    ~basic_secret() { drop(); }

    /// New bytes are zero; bytes cut off are wiped.
    void resize(std::size_t size) {
        if (size > room_) {
            char* fresh = std::allocator_traits<Allocator>::allocate(alloc_, size);
            if (size_ != 0) std::memcpy(fresh, data_, size_);
            const auto kept = size_;
            drop();
            data_ = fresh;
            room_ = size;
            size_ = kept;
        }
        if (size > size_) std::memset(data_ + size_, 0, size - size_);
        if (size < size_) OPENSSL_cleanse(data_ + size, size_ - size);
        size_ = size;
    }

    char* data() noexcept { return data_; }
    const char* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    std::string_view view() const noexcept { return {data_, size_}; }
    unsigned char* bytes() noexcept { return reinterpret_cast<unsigned char*>(data_); }
    const unsigned char* bytes() const noexcept { return reinterpret_cast<const unsigned char*>(data_); }

private:
    void drop() noexcept {
        if (data_ == nullptr) return;
        OPENSSL_cleanse(data_, room_);
        std::allocator_traits<Allocator>::deallocate(alloc_, data_, room_);
        data_ = nullptr;
        size_ = room_ = 0;
    }

    [[no_unique_address]] Allocator alloc_{};
    char* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t room_ = 0;
};

using secret = basic_secret<>;

}  // namespace sshpool::detail
