#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace docker {

/// One line of authorized_keys, without options: type, key, comment.
struct ssh_public_key {
    std::string type;
    std::string blob;  ///< base64: what a key is known by; comments are anyone's
    std::string line;
};

namespace detail {

inline std::vector<std::string_view> words_of(std::string_view line) {
    std::vector<std::string_view> found;
    for (std::size_t at = 0; at < line.size();) {
        const auto from = line.find_first_not_of(" \t", at);
        if (from == std::string_view::npos) break;
        const auto to = line.find_first_of(" \t", from);
        found.push_back(line.substr(from, to == std::string_view::npos ? to : to - from));
        at = to == std::string_view::npos ? line.size() : to;
    }
    return found;
}

inline std::optional<std::string> decode_base64(std::string_view text) {
    if (text.empty() || text.size() % 4 != 0) return std::nullopt;
    const auto end = text.find_last_not_of('=');
    if (end == std::string_view::npos || text.size() - end > 3) return std::nullopt;
    std::string bytes;
    unsigned held = 0;
    int bits = 0;
    for (const char c : text.substr(0, end + 1)) {
        constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const auto value = alphabet.find(c);
        if (value == std::string_view::npos) return std::nullopt;
        held = ((held << 6U) | static_cast<unsigned>(value)) & 0xffffU;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        bytes += static_cast<char>((held >> static_cast<unsigned>(bits)) & 0xffU);
    }
    return bytes;
}

}  // namespace detail

/// Takes a public key apart. Throws `std::invalid_argument` that says what is wrong and does not quote the key: no key, more than one line, options before
/// the key, an unknown type, a damaged key.
inline ssh_public_key parse_public_key(std::string_view text) {
    static constexpr std::array<std::string_view, 7> types{"ssh-ed25519",
                                                           "ssh-rsa",
                                                           "ecdsa-sha2-nistp256",
                                                           "ecdsa-sha2-nistp384",
                                                           "ecdsa-sha2-nistp521",
                                                           "sk-ssh-ed25519@openssh.com",
                                                           "sk-ecdsa-sha2-nistp256@openssh.com"};
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.remove_suffix(1);
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    if (text.empty()) throw std::invalid_argument("the public key is empty");
    if (text.size() > 16384) throw std::invalid_argument("the public key is longer than 16 KiB");
    for (const char c : text) {
        if (c == '\n' || c == '\r') throw std::invalid_argument("the public key has more than one line");
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) throw std::invalid_argument("the public key holds a control character");
    }
    const auto parts = detail::words_of(text);
    bool known = false;
    for (const auto type : types) known = known || parts.front() == type;
    if (!known)
        throw std::invalid_argument(
            "the public key does not begin with a key type that is accepted here (ssh-ed25519, ssh-rsa, ecdsa-sha2-…, sk-…); options are not");
    if (parts.size() < 2) throw std::invalid_argument("the public key has a type and nothing after it");
    const auto bytes = detail::decode_base64(parts[1]);
    // A key names its own type: four bytes of length, then the name.
    if (!bytes || bytes->size() < 4 + parts[0].size() + 4 || std::string_view{*bytes}.substr(4, parts[0].size()) != parts[0])
        throw std::invalid_argument("the public key is damaged: what follows the type is not such a key");
    return {std::string{parts[0]}, std::string{parts[1]}, std::string{text}};
}

/// Whether a line of authorized_keys, options or not, lets this key in.
inline bool line_holds(std::string_view line, const ssh_public_key& key) {
    if (line.empty() || line.front() == '#') return false;
    for (const auto word : detail::words_of(line)) {
        if (word == key.blob) return true;
    }
    return false;
}
inline bool file_holds(std::string_view file, const ssh_public_key& key) {
    for (std::size_t at = 0; at < file.size();) {
        const auto end = std::min(file.find('\n', at), file.size());
        if (line_holds(file.substr(at, end - at), key)) return true;
        at = end + 1;
    }
    return false;
}

}  // namespace docker
