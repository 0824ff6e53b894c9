#pragma once

#include <sshpool/detail/openssl_init.hpp>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace sshpool::detail {

inline const unsigned char* as_bytes(std::string_view text) noexcept { return reinterpret_cast<const unsigned char*>(text.data()); }

/// Equality in a time that tells nothing of where the two differ (only whether their lengths do).
inline bool equal_in_constant_time(std::string_view a, std::string_view b) noexcept {
    return a.size() == b.size() && (a.empty() || CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0);
}

/// One digest at once: `EVP_sha256()`, `EVP_sha512()`, …
inline std::string digest(const EVP_MD* kind, std::string_view bytes) {
    std::string out(static_cast<std::size_t>(EVP_MD_get_size(kind)), '\0');
    if (EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(out.data()), nullptr, kind, nullptr) != 1)
        throw std::runtime_error("OpenSSL could not compute a digest");
    return out;
}

inline std::string hmac(const EVP_MD* kind, std::string_view key, std::string_view bytes) {
    std::string out(static_cast<std::size_t>(EVP_MD_get_size(kind)), '\0');
    if (HMAC(kind, key.data(), static_cast<int>(key.size()), as_bytes(bytes), bytes.size(), reinterpret_cast<unsigned char*>(out.data()), nullptr) == nullptr)
        throw std::runtime_error("OpenSSL could not compute an HMAC");
    return out;
}

inline std::string to_base64(std::string_view bytes) {
    std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');  // EVP_EncodeBlock adds a NUL
    const int written = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), as_bytes(bytes), static_cast<int>(bytes.size()));
    out.resize(static_cast<std::size_t>(written));
    return out;
}

/// Strict: the standard alphabet, padded to four, nothing else. `EVP_DecodeBlock` alone accepts surrounding blanks and stray '='.
template <class Bytes>
bool from_base64(std::string_view text, Bytes& out) {
    if (text.size() % 4 != 0 || text.size() > (std::size_t{1} << 24U)) return false;
    std::size_t padding = 0;
    while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
    constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (text.substr(0, text.size() - padding).find_first_not_of(alphabet) != std::string_view::npos) return false;
    out.resize(text.size() / 4 * 3);
    if (text.empty()) return true;
    const int written = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), as_bytes(text), static_cast<int>(text.size()));
    if (written < 0) return false;
    out.resize(static_cast<std::size_t>(written) - padding);
    return true;
}
inline std::optional<std::string> from_base64(std::string_view text) {
    std::string out;
    if (!from_base64(text, out)) return std::nullopt;
    return out;
}

inline std::string to_hex(std::string_view bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    out.reserve(bytes.size() * 2);
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        out += digits[byte >> 4U];
        out += digits[byte & 15U];
    }
    return out;
}

/// A public key as `ssh-keygen -l` prints it: "SHA256:" and base64 without padding.
inline std::string fingerprint(std::string_view public_blob) {
    auto text = to_base64(digest(EVP_sha256(), public_blob));
    while (!text.empty() && text.back() == '=') text.pop_back();
    return "SHA256:" + text;
}

/// A digest over fields. Each goes in with its length, so that no two lists of fields give the same bytes.
class field_digest {
public:
    field_digest& add(std::string_view field) {
        const auto size = static_cast<std::uint64_t>(field.size());
        for (int shift = 56; shift >= 0; shift -= 8) bytes_ += static_cast<char>(static_cast<unsigned char>(size >> static_cast<unsigned>(shift)));
        bytes_ += field;
        return *this;
    }
    std::string hex() const { return to_hex(digest(EVP_sha256(), bytes_)); }

private:
    std::string bytes_;
};

/// An HMAC under a key that this process drew at random: names a secret in messages without giving anybody who reads them something to guess against.
inline std::string keyed_name(std::string_view secret) {
    static const std::array<char, 32> key = [] {
        std::array<char, 32> fresh{};
        if (RAND_bytes(reinterpret_cast<unsigned char*>(fresh.data()), static_cast<int>(fresh.size())) != 1)
            throw std::runtime_error("OpenSSL has no random numbers");
        return fresh;
    }();
    return to_hex(hmac(EVP_sha256(), {key.data(), key.size()}, secret));
}

/// `text` in quotes for a message: control characters, quotes and bytes beyond ASCII as \xNN, cut after `most` bytes.
inline std::string in_quotes(std::string_view text, std::size_t most = 80) {
    std::string out = "\"";
    for (const char c : text.substr(0, most)) {
        if (c >= ' ' && c <= '~' && c != '"' && c != '\\') {
            out += c;
        } else {
            out += "\\x" + to_hex({&c, 1});
        }
    }
    return out + (text.size() > most ? "\"…" : "\"");
}

/// A file's name in quotes for a message.
inline std::string file_in_quotes(std::string_view path) { return in_quotes(path, 1024); }

}  // namespace sshpool::detail
