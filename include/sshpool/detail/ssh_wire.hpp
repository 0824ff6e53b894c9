#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// Reads RFC 4251 section 5 fields. After the first field that does not fit, everything is empty and `ok()` is false.
class wire_reader {
public:
    explicit wire_reader(std::string_view bytes) noexcept : rest_(bytes) {}

    std::uint32_t u32() noexcept {
        const auto b = raw(4);
        if (!ok_) return 0;
        const auto at = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(b[i])); };
        return at(0) << 24U | at(1) << 16U | at(2) << 8U | at(3);
    }
    std::string_view string() noexcept { return raw(u32()); }
    std::string_view raw(std::size_t size) noexcept {
        if (!ok_ || size > rest_.size()) {
            ok_ = false;
            return {};
        }
        const auto bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return bytes;
    }
    std::string_view rest() const noexcept { return ok_ ? rest_ : std::string_view{}; }
    bool ok() const noexcept { return ok_; }
    bool done() const noexcept { return ok_ && rest_.empty(); }

private:
    std::string_view rest_;
    bool ok_ = true;
};

inline void append_u32(std::string& out, std::size_t value) {
    for (unsigned shift = 32; shift != 0; shift -= 8) out += static_cast<char>(static_cast<unsigned char>(value >> (shift - 8)));
}

inline void append_string(std::string& out, std::string_view bytes) {
    append_u32(out, bytes.size());
    out += bytes;
}

/// A number that is not negative, given as big-endian bytes.
inline void append_mpint(std::string& out, std::string_view magnitude) {
    while (!magnitude.empty() && magnitude.front() == '\0') magnitude.remove_prefix(1);
    const bool top_bit = !magnitude.empty() && (static_cast<unsigned char>(magnitude.front()) & 0x80U) != 0;
    append_u32(out, magnitude.size() + (top_bit ? 1 : 0));
    if (top_bit) out += '\0';
    out += magnitude;
}

}  // namespace sshpool::detail
