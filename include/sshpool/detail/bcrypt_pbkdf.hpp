#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/secret.hpp>

#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// Blowfish with bcrypt's key schedule, the part of it that bcrypt_pbkdf needs.
class blowfish {
public:
    using block = std::array<unsigned char, 64>;

    explicit blowfish(const blowfish& initial) = default;
    blowfish& operator=(const blowfish&) = delete;
    ~blowfish() { OPENSSL_cleanse(words_.data(), sizeof words_); }

    /// The state before any key: the first 1042 words of pi's fraction, computed once.
    static const blowfish& initial() {
        static const blowfish state;
        return state;
    }

    void expand(const block& salt, const block& key) { expand_with(key, &salt); }
    void expand(const block& key) { expand_with(key, nullptr); }

    void encipher(std::uint32_t& left, std::uint32_t& right) const {
        const auto* p = words_.data();
        std::uint32_t l = left ^ p[0];
        std::uint32_t r = right;
        for (std::size_t i = 1; i <= 16; i += 2) {
            r ^= mix(l) ^ p[i];
            l ^= mix(r) ^ p[i + 1];
        }
        left = r ^ p[17];
        right = l;
    }

    std::uint32_t word(std::size_t i) const { return words_[i]; }

    static std::uint32_t word_of(const unsigned char* b) {
        return static_cast<std::uint32_t>(b[0]) << 24U | static_cast<std::uint32_t>(b[1]) << 16U | static_cast<std::uint32_t>(b[2]) << 8U | b[3];
    }

private:
    static constexpr std::size_t subkeys = 18;
    static constexpr std::size_t all_words = subkeys + 4 * 256;

    struct free_bn {
        void operator()(BIGNUM* n) const { BN_free(n); }
    };
    using bignum = std::unique_ptr<BIGNUM, free_bn>;

    /// Machin: pi = 16 atan(1/5) - 4 atan(1/239), in fixed point with 64 bits to spare.
    blowfish() {
        constexpr int fraction = static_cast<int>(all_words) * 32;
        constexpr int guard = 64;
        const auto must = [](bool ok) {
            if (!ok) throw std::runtime_error("OpenSSL could not compute Blowfish's tables");
        };
        const auto fresh = [&] {
            bignum n{BN_new()};
            must(n != nullptr);
            return n;
        };
        const auto pi = fresh();
        const auto add_arctangent = [&](BN_ULONG factor, BN_ULONG inverse, bool plus) {
            const auto power = fresh();
            const auto term = fresh();
            must(BN_set_bit(power.get(), fraction + guard) == 1 && BN_mul_word(power.get(), factor) == 1);
            must(BN_div_word(power.get(), inverse) != static_cast<BN_ULONG>(-1));
            for (BN_ULONG k = 1; !BN_is_zero(power.get()); k += 2, plus = !plus) {
                must(BN_copy(term.get(), power.get()) != nullptr);
                must(BN_div_word(term.get(), k) != static_cast<BN_ULONG>(-1));
                must((plus ? BN_add : BN_sub)(pi.get(), pi.get(), term.get()) == 1);
                must(BN_div_word(power.get(), inverse * inverse) != static_cast<BN_ULONG>(-1));
            }
        };
        add_arctangent(16, 5, true);
        add_arctangent(4, 239, false);
        must(BN_rshift(pi.get(), pi.get(), guard) == 1 && BN_mask_bits(pi.get(), fraction) == 1);
        std::array<unsigned char, all_words * 4> bytes{};
        must(BN_bn2binpad(pi.get(), bytes.data(), static_cast<int>(bytes.size())) > 0);
        for (std::size_t i = 0; i != all_words; ++i) words_[i] = word_of(bytes.data() + 4 * i);
    }

    std::uint32_t mix(std::uint32_t x) const {
        const auto* s = words_.data() + subkeys;
        return ((s[x >> 24U] + s[256 + (x >> 16U & 255U)]) ^ s[512 + (x >> 8U & 255U)]) + s[768 + (x & 255U)];
    }

    void expand_with(const block& key, const block* salt) {
        for (std::size_t i = 0; i != subkeys; ++i) words_[i] ^= word_of(key.data() + 4 * i % key.size());
        std::uint32_t left = 0;
        std::uint32_t right = 0;
        std::size_t at = 0;
        for (std::size_t i = 0; i != all_words; i += 2) {
            if (salt != nullptr) {
                left ^= word_of(salt->data() + at);
                right ^= word_of(salt->data() + at + 4);
                at = (at + 8) % salt->size();
            }
            encipher(left, right);
            words_[i] = left;
            words_[i + 1] = right;
        }
    }

    std::array<std::uint32_t, all_words> words_{};  // 18 subkeys, then the four S-boxes
};

/// OpenBSD's bcrypt_pbkdf(3), which OpenSSH encrypts private keys with and which OpenSSL does not have.
/// `rounds` must be positive; about 5 ms each for the 48 bytes of an aes256-ctr key.
inline secret bcrypt_pbkdf(std::string_view passphrase, std::string_view salt, unsigned rounds, std::size_t size) {
    constexpr std::size_t half = 32;
    const auto hash_to = [](std::string_view bytes, blowfish::block& out) {
        if (EVP_Digest(bytes.data(), bytes.size(), out.data(), nullptr, EVP_sha512(), nullptr) != 1)
            throw std::runtime_error("OpenSSL could not compute a digest");
    };
    const auto one_round = [](const blowfish::block& pass, const blowfish::block& salted, unsigned char* out) {
        blowfish state{blowfish::initial()};
        state.expand(salted, pass);
        for (int i = 0; i != 64; ++i) {
            state.expand(salted);
            state.expand(pass);
        }
        constexpr std::string_view magic = "OxychromaticBlowfishSwatDynamite";
        for (std::size_t i = 0; i != half; i += 8) {
            auto left = blowfish::word_of(as_bytes(magic) + i);
            auto right = blowfish::word_of(as_bytes(magic) + i + 4);
            for (int n = 0; n != 64; ++n) state.encipher(left, right);
            for (unsigned b = 0; b != 4; ++b) {
                out[i + b] = static_cast<unsigned char>(left >> 8 * b);
                out[i + 4 + b] = static_cast<unsigned char>(right >> 8 * b);
            }
        }
    };

    blowfish::block pass{};
    blowfish::block salted{};
    std::array<unsigned char, half> sum{};
    std::array<unsigned char, half> part{};
    hash_to(passphrase, pass);
    secret key;
    key.resize(size);
    const std::size_t parts = (size + half - 1) / half;
    for (std::size_t count = 1; count <= parts; ++count) {
        std::string counted{salt};
        for (unsigned shift = 32; shift != 0; shift -= 8) counted += static_cast<char>(static_cast<unsigned char>(count >> (shift - 8)));
        hash_to(counted, salted);
        one_round(pass, salted, part.data());
        sum = part;
        for (unsigned round = 1; round < rounds; ++round) {
            hash_to({reinterpret_cast<const char*>(part.data()), part.size()}, salted);
            one_round(pass, salted, part.data());
            for (std::size_t i = 0; i != half; ++i) sum[i] ^= part[i];
        }
        // The parts are dealt out like cards, so that each half of the key costs all of the work.
        for (std::size_t i = 0; i != half && i * parts + count - 1 < size; ++i) key.data()[i * parts + count - 1] = static_cast<char>(sum[i]);
    }
    OPENSSL_cleanse(pass.data(), pass.size());
    OPENSSL_cleanse(salted.data(), salted.size());
    OPENSSL_cleanse(sum.data(), sum.size());
    OPENSSL_cleanse(part.data(), part.size());
    return key;
}

}  // namespace sshpool::detail
