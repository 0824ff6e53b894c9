#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/ssh_wire.hpp>
#include <sshpool/error.hpp>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

template <auto Free>
struct freed_by {
    template <class T>
    void operator()(T* p) const {
        Free(p);
    }
};
using pkey_ptr = std::unique_ptr<EVP_PKEY, freed_by<EVP_PKEY_free>>;
using pkey_ctx_ptr = std::unique_ptr<EVP_PKEY_CTX, freed_by<EVP_PKEY_CTX_free>>;
using md_ctx_ptr = std::unique_ptr<EVP_MD_CTX, freed_by<EVP_MD_CTX_free>>;
using secret_bn = std::unique_ptr<BIGNUM, freed_by<BN_clear_free>>;
using ecdsa_sig_ptr = std::unique_ptr<ECDSA_SIG, freed_by<ECDSA_SIG_free>>;
using param_build_ptr = std::unique_ptr<OSSL_PARAM_BLD, freed_by<OSSL_PARAM_BLD_free>>;
using params_ptr = std::unique_ptr<OSSL_PARAM, freed_by<OSSL_PARAM_free>>;

/// Leaves the thread's OpenSSL error queue as it was found.
class quiet_openssl {
public:
    quiet_openssl() noexcept { ERR_set_mark(); }
    quiet_openssl(const quiet_openssl&) = delete;
    quiet_openssl& operator=(const quiet_openssl&) = delete;
    ~quiet_openssl() { ERR_pop_to_mark(); }
};

inline ssh_error key_error(const std::string& text) { return ssh_error({make_error(errc::key_unusable), {}, "key", text}); }

struct ecdsa_curve {
    std::string_view type;   // in SSH
    std::string_view ssh;    // the curve's name in SSH
    std::string_view group;  // in OpenSSL
    std::string_view alias;  // in OpenSSL, another name
    const EVP_MD* (*hash)();
};
inline constexpr std::array ecdsa_curves{
    ecdsa_curve{"ecdsa-sha2-nistp256", "nistp256", "prime256v1", "P-256", &EVP_sha256},
    ecdsa_curve{"ecdsa-sha2-nistp384", "nistp384", "secp384r1", "P-384", &EVP_sha384},
    ecdsa_curve{"ecdsa-sha2-nistp521", "nistp521", "secp521r1", "P-521", &EVP_sha512},
};

/// A private key that can sign a login. Immutable: any number of threads may sign at once.
class private_key {
public:
    /// Checks that the key is of a kind that can be used, of a sane size, and that what it signs its own public key verifies.
    /// `name` stands in messages. Throws `ssh_error` (`errc::key_unusable`).
    private_key(pkey_ptr key, const std::string& name);

    /// "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa", …
    const std::string& type() const noexcept { return type_; }
    /// RFC 4253 section 6.6.
    const std::string& public_blob() const noexcept { return public_blob_; }
    /// What goes to the server as the public key: for RSA its first string names the signature, "rsa-sha2-256".
    const std::string& userauth_blob() const noexcept { return userauth_blob_; }
    /// "SHA256:…", as `ssh-keygen -l` prints it.
    const std::string& fingerprint() const noexcept { return fingerprint_; }

    /// The signature as libssh2's sign callback gives it back: without the algorithm's name and the outer length. Ed25519: 64 bytes
    /// (RFC 8709); ECDSA: mpint r, mpint s (RFC 5656); RSA: PKCS #1 v1.5 with SHA-256 (RFC 8332). Throws `ssh_error` (`errc::key_unusable`).
    std::string sign(std::span<const unsigned char> data) const;

private:
    std::string sign_der(std::span<const unsigned char> data) const;
    std::string number(const char* name) const;
    void describe(const std::string& name);
    void describe_rsa(const std::string& name);

    pkey_ptr key_;
    const EVP_MD* hash_ = nullptr;  // none for Ed25519
    std::string type_;
    std::string public_blob_;
    std::string userauth_blob_;
    std::string fingerprint_;
};

inline private_key::private_key(pkey_ptr key, const std::string& name) : key_(std::move(key)) {
    const quiet_openssl quiet;
    describe(name);
    if (userauth_blob_.empty()) userauth_blob_ = public_blob_;
    fingerprint_ = detail::fingerprint(public_blob_);

    constexpr std::array<unsigned char, 7> sample{'s', 's', 'h', 'p', 'o', 'o', 'l'};
    const auto mismatch = name + " is damaged: its private part does not belong to its public part";
    std::string der;
    try {
        der = sign_der(sample);
    } catch (const ssh_error&) {
        throw key_error(mismatch);
    }
    const md_ctx_ptr ctx{EVP_MD_CTX_new()};
    if (ctx == nullptr || EVP_DigestVerifyInit(ctx.get(), nullptr, hash_, nullptr, key_.get()) != 1 ||
        EVP_DigestVerify(ctx.get(), as_bytes(der), der.size(), sample.data(), sample.size()) != 1)
        throw key_error(mismatch);
}

inline std::string private_key::number(const char* name) const {
    BIGNUM* raw = nullptr;
    if (EVP_PKEY_get_bn_param(key_.get(), name, &raw) != 1) return {};
    const secret_bn n{raw};
    if (BN_is_negative(n.get()) || BN_num_bits(n.get()) > 16384) return {};
    std::string bytes(static_cast<std::size_t>(BN_num_bytes(n.get())), '\0');
    BN_bn2bin(n.get(), reinterpret_cast<unsigned char*>(bytes.data()));
    return bytes;
}

inline void private_key::describe(const std::string& name) {
    if (EVP_PKEY_is_a(key_.get(), "ED25519") == 1) {
        type_ = "ssh-ed25519";
        std::string point(32, '\0');
        std::size_t size = point.size();
        if (EVP_PKEY_get_raw_public_key(key_.get(), reinterpret_cast<unsigned char*>(point.data()), &size) != 1 || size != 32)
            throw key_error(name + " is damaged");
        append_string(public_blob_, type_);
        append_string(public_blob_, point);
    } else if (EVP_PKEY_is_a(key_.get(), "EC") == 1) {
        std::array<char, 64> text{};
        std::size_t size = 0;
        EVP_PKEY_get_utf8_string_param(key_.get(), OSSL_PKEY_PARAM_GROUP_NAME, text.data(), text.size(), &size);
        const std::string_view group{text.data()};
        for (const auto& curve : ecdsa_curves) {
            if (group != curve.group && group != curve.alias) continue;
            std::string x = number(OSSL_PKEY_PARAM_EC_PUB_X);
            std::string y = number(OSSL_PKEY_PARAM_EC_PUB_Y);
            const auto width = static_cast<std::size_t>(EVP_PKEY_get_bits(key_.get()) + 7) / 8;
            if (x.size() > width || y.size() > width || (x.empty() && y.empty())) throw key_error(name + " is damaged: it holds no public part");
            type_ = curve.type;
            hash_ = curve.hash();
            append_string(public_blob_, type_);
            append_string(public_blob_, curve.ssh);
            append_string(public_blob_, '\x04' + std::string(width - x.size(), '\0') + x + std::string(width - y.size(), '\0') + y);
            return;
        }
        throw key_error(name + " is an ECDSA key on the curve " + in_quotes(group) + ": only nistp256, nistp384 and nistp521 can be used");
    } else if (EVP_PKEY_is_a(key_.get(), "RSA") == 1) {
        describe_rsa(name);
    } else {
        const char* kind = EVP_PKEY_get0_type_name(key_.get());
        throw key_error(name + " is of the unsupported type " + in_quotes(kind == nullptr ? "?" : kind) + ": use an Ed25519, ECDSA or RSA key");
    }
}

/// Sizes are checked before the key is used: an absurd number would keep OpenSSL busy for hours.
inline void private_key::describe_rsa(const std::string& name) {
    const int bits = EVP_PKEY_get_bits(key_.get());
    if (bits < 1024) throw key_error(name + " is an RSA key of " + std::to_string(bits) + " bits: at least 1024 are needed");
    if (bits > 16384) throw key_error(name + " is an RSA key of " + std::to_string(bits) + " bits: more than 16384");
    const auto e = number(OSSL_PKEY_PARAM_RSA_E);
    const auto n = number(OSSL_PKEY_PARAM_RSA_N);
    const auto odd = [](const std::string& bytes) { return !bytes.empty() && (static_cast<unsigned char>(bytes.back()) & 1U) != 0; };
    if (!odd(n) || !odd(e) || e.size() > 8 || e == "\x01") throw key_error(name + " is damaged: it is no sound RSA key");
    const auto secret_number = [&](const char* part) {
        BIGNUM* raw = nullptr;
        const bool there = EVP_PKEY_get_bn_param(key_.get(), part, &raw) == 1;
        secret_bn value{raw};
        if (!there || BN_is_negative(raw) || BN_is_zero(raw) || BN_num_bits(raw) > bits) throw key_error(name + " is damaged: it is no sound RSA key");
        return value;
    };
    for (const char* part : {OSSL_PKEY_PARAM_RSA_D, OSSL_PKEY_PARAM_RSA_EXPONENT1, OSSL_PKEY_PARAM_RSA_EXPONENT2}) secret_number(part);
    const auto p = secret_number(OSSL_PKEY_PARAM_RSA_FACTOR1);
    const auto q = secret_number(OSSL_PKEY_PARAM_RSA_FACTOR2);
    const auto inverse = secret_number(OSSL_PKEY_PARAM_RSA_COEFFICIENT1);
    // OpenSSL would not notice a wrong factor: it tries again without them.
    const std::unique_ptr<BN_CTX, freed_by<BN_CTX_free>> ctx{BN_CTX_new()};
    const secret_bn product{BN_new()};
    const secret_bn modulus{BN_bin2bn(as_bytes(n), static_cast<int>(n.size()), nullptr)};
    if (BN_mul(product.get(), p.get(), q.get(), ctx.get()) != 1 || BN_cmp(product.get(), modulus.get()) != 0 || BN_is_one(p.get()) ||
        BN_mod_mul(product.get(), inverse.get(), q.get(), p.get(), ctx.get()) != 1 || !BN_is_one(product.get()))
        throw key_error(name + " is damaged: it is no sound RSA key");
    type_ = "ssh-rsa";
    hash_ = EVP_sha256();
    append_string(public_blob_, type_);
    append_mpint(public_blob_, e);
    append_mpint(public_blob_, n);
    // OpenSSH takes the signature's name here and then no longer insists on SHA-1, which is all that libssh2 1.10 would announce.
    append_string(userauth_blob_, "rsa-sha2-256");
    append_mpint(userauth_blob_, e);
    append_mpint(userauth_blob_, n);
}

inline std::string private_key::sign_der(std::span<const unsigned char> data) const {
    const quiet_openssl quiet;
    const md_ctx_ptr ctx{EVP_MD_CTX_new()};
    std::size_t size = 0;
    if (ctx == nullptr || EVP_DigestSignInit(ctx.get(), nullptr, hash_, nullptr, key_.get()) != 1 ||
        EVP_DigestSign(ctx.get(), nullptr, &size, data.data(), data.size()) != 1)
        throw key_error("OpenSSL could not sign with the key " + fingerprint_);
    std::string out(size, '\0');
    if (EVP_DigestSign(ctx.get(), reinterpret_cast<unsigned char*>(out.data()), &size, data.data(), data.size()) != 1)
        throw key_error("OpenSSL could not sign with the key " + fingerprint_);
    out.resize(size);
    return out;
}

inline std::string private_key::sign(std::span<const unsigned char> data) const {
    auto der = sign_der(data);
    if (!type_.starts_with("ecdsa-")) return der;
    const auto* at = as_bytes(der);
    const ecdsa_sig_ptr pair{d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size()))};
    if (pair == nullptr) throw key_error("OpenSSL could not sign with the key " + fingerprint_);
    std::string out;
    for (const auto* part : {ECDSA_SIG_get0_r(pair.get()), ECDSA_SIG_get0_s(pair.get())}) {
        std::string bytes(static_cast<std::size_t>(BN_num_bytes(part)), '\0');
        BN_bn2bin(part, reinterpret_cast<unsigned char*>(bytes.data()));
        append_mpint(out, bytes);
    }
    return out;
}

}  // namespace sshpool::detail
