#pragma once

#include <cstddef>
#include <string_view>

namespace docker {

/// How many bytes the character at `at` has; 0 when what stands there is no UTF-8.
inline std::size_t utf8_length(std::string_view text, std::size_t at) noexcept {
    const auto byte = static_cast<unsigned char>(text[at]);
    const std::size_t more = byte < 0x80 ? 0 : byte >= 0xc2 && byte < 0xe0 ? 1 : byte >= 0xe0 && byte < 0xf0 ? 2 : byte >= 0xf0 && byte < 0xf5 ? 3 : 4;
    if (more == 4 || at + more >= text.size()) return 0;
    for (std::size_t k = 1; k <= more; ++k) {
        const auto next = static_cast<unsigned char>(text[at + k]);
        if ((next & 0xc0U) != 0x80U) return 0;
        // the second byte rules out spellings that are too long, surrogates, and what lies past the last character
        if (k == 1 && ((byte == 0xe0 && next < 0xa0) || (byte == 0xed && next > 0x9f) || (byte == 0xf0 && next < 0x90) || (byte == 0xf4 && next > 0x8f)))
            return 0;
    }
    return more + 1;
}

}  // namespace docker
