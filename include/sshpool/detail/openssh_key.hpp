#pragma once

#include <sshpool/detail/bcrypt_pbkdf.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/secret.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

/// OpenSSH's own private key format: PROTOCOL.key in its source.
namespace sshpool::detail {

using cipher_ctx_ptr = std::unique_ptr<EVP_CIPHER_CTX, freed_by<EVP_CIPHER_CTX_free>>;

struct key_cipher {
    std::string_view name;
    const EVP_CIPHER* (*cipher)();
    std::size_t key;
    std::size_t iv;
    std::size_t block;
    std::size_t tag;
};
inline constexpr std::array key_ciphers{
    key_cipher{"aes256-ctr", &EVP_aes_256_ctr, 32, 16, 16, 0},
    key_cipher{"aes192-ctr", &EVP_aes_192_ctr, 24, 16, 16, 0},
    key_cipher{"aes128-ctr", &EVP_aes_128_ctr, 16, 16, 16, 0},
    key_cipher{"aes256-cbc", &EVP_aes_256_cbc, 32, 16, 16, 0},
    key_cipher{"aes192-cbc", &EVP_aes_192_cbc, 24, 16, 16, 0},
    key_cipher{"aes128-cbc", &EVP_aes_128_cbc, 16, 16, 16, 0},
    key_cipher{"3des-cbc", &EVP_des_ede3_cbc, 24, 8, 8, 0},
    key_cipher{"aes256-gcm@openssh.com", &EVP_aes_256_gcm, 32, 12, 16, 16},
    key_cipher{"aes128-gcm@openssh.com", &EVP_aes_128_gcm, 16, 12, 16, 16},
};

inline constexpr std::uint32_t most_bcrypt_rounds = 1024;  // about 10 s; ssh-keygen's default is 16

class openssh_key_parser {
public:
    openssh_key_parser(std::string_view bytes, std::string_view passphrase, const std::string& name) : bytes_(bytes), passphrase_(passphrase), name_(name) {}

    std::shared_ptr<const private_key> parse() {
        const quiet_openssl quiet;
        constexpr std::string_view magic{"openssh-key-v1\0", 15};
        if (!bytes_.starts_with(magic)) throw key_error(name_ + " is damaged: it does not begin as an OpenSSH key does");
        wire_reader in{bytes_.substr(magic.size())};
        const auto cipher = in.string();
        const auto kdf = in.string();
        const auto kdf_options = in.string();
        const auto keys = in.u32();
        if (!in.ok()) truncated();
        if (keys != 1) throw key_error(name_ + " holds " + std::to_string(keys) + " keys: exactly one is supported");
        const auto public_blob = in.string();
        const auto sealed = in.string();
        if (!in.ok()) truncated();
        refuse_unsupported(wire_reader{public_blob}.string());
        if (cipher == "none") {
            if (kdf != "none" || !in.done()) damaged();
            return private_part(sealed, public_blob, false);
        }
        const auto opened = open(cipher, kdf, kdf_options, sealed, in.rest());
        return private_part(opened.view(), public_blob, true);
    }

private:
    [[noreturn]] void truncated() const { throw key_error(name_ + " is damaged: it ends too early"); }
    [[noreturn]] void damaged() const { throw key_error(name_ + " is damaged"); }
    [[noreturn]] void wrong_passphrase() const { throw key_error("the passphrase for " + name_ + " is wrong"); }

    void refuse_unsupported(std::string_view type) const {
        if (type == "ssh-ed25519" || type == "ssh-rsa" || find_curve(type) != nullptr) return;
        if (type == "ssh-dss") throw key_error(name_ + " is a DSA key, which servers no longer accept: use an Ed25519 key");
        if (type.starts_with("sk-")) throw key_error(name_ + " needs a hardware token (" + in_quotes(type) + "): that is not supported");
        throw key_error(name_ + " is of the unsupported type " + in_quotes(type) + ": use an Ed25519, ECDSA or RSA key");
    }

    static const ecdsa_curve* find_curve(std::string_view type) {
        for (const auto& curve : ecdsa_curves) {
            if (curve.type == type) return &curve;
        }
        return nullptr;
    }

    secret open(std::string_view cipher_name, std::string_view kdf, std::string_view kdf_options, std::string_view sealed, std::string_view after) const {
        const key_cipher* cipher = nullptr;
        for (const auto& c : key_ciphers) {
            if (c.name == cipher_name) cipher = &c;
        }
        if (cipher == nullptr)
            throw key_error(name_ + " is encrypted with the unsupported cipher " + in_quotes(cipher_name) +
                            ": write it anew with `ssh-keygen -p -Z aes256-ctr`");
        if (kdf != "bcrypt") throw key_error(name_ + " is encrypted with the unsupported key derivation " + in_quotes(kdf));
        wire_reader options{kdf_options};
        const auto salt = options.string();
        const auto rounds = options.u32();
        if (!options.done() || salt.empty() || salt.size() > 1024 || rounds == 0) damaged();
        if (rounds > most_bcrypt_rounds)
            throw key_error(name_ + " asks for " + std::to_string(rounds) + " rounds of bcrypt: more than the " + std::to_string(most_bcrypt_rounds) +
                            " that are allowed (ssh-keygen's default is 16)");
        if (sealed.empty() || sealed.size() % cipher->block != 0 || after.size() != cipher->tag) damaged();
        if (passphrase_.empty()) throw key_error(name_ + " is encrypted and no passphrase was given");

        const auto key = bcrypt_pbkdf(passphrase_, salt, rounds, cipher->key + cipher->iv);
        const cipher_ctx_ptr ctx{EVP_CIPHER_CTX_new()};
        secret opened;
        opened.resize(sealed.size());
        int size = 0;
        if (ctx == nullptr || EVP_DecryptInit_ex(ctx.get(), cipher->cipher(), nullptr, key.bytes(), key.bytes() + cipher->key) != 1 ||
            EVP_CIPHER_CTX_set_padding(ctx.get(), 0) != 1 ||
            EVP_DecryptUpdate(ctx.get(), opened.bytes(), &size, as_bytes(sealed), static_cast<int>(sealed.size())) != 1)
            throw key_error("OpenSSL could not decrypt " + name_);
        if (cipher->tag != 0) {
            std::string tag{after};
            if (EVP_CIPHER_CTX_ctrl(ctx.get(), EVP_CTRL_AEAD_SET_TAG, static_cast<int>(tag.size()), tag.data()) != 1 ||
                EVP_DecryptFinal_ex(ctx.get(), opened.bytes() + size, &size) != 1)
                wrong_passphrase();
        }
        return opened;
    }

    std::shared_ptr<const private_key> private_part(std::string_view bytes, std::string_view public_blob, bool was_sealed) const {
        wire_reader in{bytes};
        const auto check = in.u32();
        if (check != in.u32()) {
            if (was_sealed) wrong_passphrase();
            damaged();
        }
        if (!in.ok()) truncated();
        const auto type = in.string();
        refuse_unsupported(type);
        pkey_ptr key = type == "ssh-ed25519" ? ed25519(in) : type == "ssh-rsa" ? rsa(in) : ecdsa(in, *find_curve(type));
        in.string();  // the comment
        if (!in.ok()) truncated();
        unsigned char expected = 0;
        for (const char c : in.rest()) {
            if (static_cast<unsigned char>(c) != ++expected) damaged();
        }
        if (key == nullptr) damaged();
        auto made = std::make_shared<const private_key>(std::move(key), name_);
        if (made->public_blob() != public_blob) throw key_error(name_ + " is damaged: its private part does not belong to its public part");
        return made;
    }

    pkey_ptr ed25519(wire_reader& in) const {
        const auto point = in.string();
        const auto both = in.string();  // the seed, then the point again
        if (!in.ok()) truncated();
        if (point.size() != 32 || both.size() != 64 || both.substr(32) != point) damaged();
        return pkey_ptr{EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, as_bytes(both), 32)};
    }

    pkey_ptr ecdsa(wire_reader& in, const ecdsa_curve& curve) const {
        const auto group = in.string();
        const auto point = in.string();
        const auto exponent = number(in.string());
        if (!in.ok()) truncated();
        if (group != curve.ssh || point.size() > 256 || exponent == nullptr) damaged();
        const param_build_ptr build{OSSL_PARAM_BLD_new()};
        if (build == nullptr || OSSL_PARAM_BLD_push_utf8_string(build.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve.group.data(), curve.group.size()) != 1 ||
            OSSL_PARAM_BLD_push_octet_string(build.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_PRIV_KEY, exponent.get()) != 1)
            damaged();
        return from_params("EC", build.get());
    }

    pkey_ptr rsa(wire_reader& in) const {
        const auto n = number(in.string());
        const auto e = number(in.string());
        const auto d = number(in.string());
        const auto inverse = number(in.string());
        const auto p = number(in.string());
        const auto q = number(in.string());
        if (!in.ok()) truncated();
        for (const auto* each : {&n, &e, &d, &inverse, &p, &q}) {
            if (*each == nullptr || BN_is_zero(each->get()) || BN_is_one(each->get())) damaged();
        }
        // The two short exponents are not in the file.
        const std::unique_ptr<BN_CTX, freed_by<BN_CTX_free>> ctx{BN_CTX_new()};
        const secret_bn less_one{BN_new()};
        const secret_bn d_p{BN_new()};
        const secret_bn d_q{BN_new()};
        BN_set_flags(d.get(), BN_FLG_CONSTTIME);
        for (const auto& [prime, out] : {std::pair{p.get(), d_p.get()}, std::pair{q.get(), d_q.get()}}) {
            if (BN_sub(less_one.get(), prime, BN_value_one()) != 1 || BN_mod(out, d.get(), less_one.get(), ctx.get()) != 1) damaged();
        }
        const param_build_ptr build{OSSL_PARAM_BLD_new()};
        if (build == nullptr || OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_D, d.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_FACTOR1, p.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_FACTOR2, q.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_EXPONENT1, d_p.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_EXPONENT2, d_q.get()) != 1 ||
            OSSL_PARAM_BLD_push_BN(build.get(), OSSL_PKEY_PARAM_RSA_COEFFICIENT1, inverse.get()) != 1)
            damaged();
        return from_params("RSA", build.get());
    }

    /// A positive number of at most 16384 bits; nullptr for anything else.
    static secret_bn number(std::string_view bytes) {
        if (bytes.empty() || bytes.size() > 2049 || (static_cast<unsigned char>(bytes.front()) & 0x80U) != 0) return nullptr;
        return secret_bn{BN_bin2bn(as_bytes(bytes), static_cast<int>(bytes.size()), nullptr)};
    }

    pkey_ptr from_params(const char* kind, OSSL_PARAM_BLD* build) const {
        const params_ptr params{OSSL_PARAM_BLD_to_param(build)};
        const pkey_ctx_ptr ctx{EVP_PKEY_CTX_new_from_name(nullptr, kind, nullptr)};
        EVP_PKEY* key = nullptr;
        if (params == nullptr || ctx == nullptr || EVP_PKEY_fromdata_init(ctx.get()) != 1 ||
            EVP_PKEY_fromdata(ctx.get(), &key, EVP_PKEY_KEYPAIR, params.get()) != 1)
            damaged();
        return pkey_ptr{key};
    }

    std::string_view bytes_;
    std::string_view passphrase_;
    const std::string& name_;
};

}  // namespace sshpool::detail
