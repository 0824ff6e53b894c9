#include "fuzz.hpp"

#include <sshpool/credentials.hpp>

#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

namespace {

using namespace sshpool;

// The first byte of an input says what the rest is put into, so that mutations reach what lies behind the base64.
const std::vector<std::string>& labels() {
    static const std::vector<std::string> all{"", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"};
    return all;
}

std::string der_of(EVP_PKEY* key, int (*encode)(const EVP_PKEY*, unsigned char**)) {
    unsigned char* bytes = nullptr;
    const int size = encode(key, &bytes);
    std::string out(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
    OPENSSL_free(bytes);
    return out;
}

std::string openssh(const std::string& cipher, const std::string& options, const std::string& public_blob, const std::string& private_part,
                    const std::string& tag = {}) {
    std::string out("openssh-key-v1\0", 15);
    detail::append_string(out, cipher);
    detail::append_string(out, cipher == "none" ? "none" : "bcrypt");
    detail::append_string(out, options);
    detail::append_u32(out, 1);
    detail::append_string(out, public_blob);
    detail::append_string(out, private_part);
    return out + tag;
}

std::string number(EVP_PKEY* key, const char* name) {
    BIGNUM* value = nullptr;
    EVP_PKEY_get_bn_param(key, name, &value);
    std::string bytes(static_cast<std::size_t>(BN_num_bytes(value)), '\0');
    BN_bn2bin(value, reinterpret_cast<unsigned char*>(bytes.data()));
    BN_free(value);
    return bytes;
}

/// A key in OpenSSH's format, as ssh-keygen would write it.
std::string openssh_of(EVP_PKEY* key, const std::string& der) {
    const auto pem = "-----BEGIN PRIVATE KEY-----\n" + detail::to_base64(der) + "\n-----END PRIVATE KEY-----\n";
    const auto parsed = detail::parse_private_key(pem, {}, "the seed");
    std::string part(8, 'c');
    if (parsed->type() == "ssh-ed25519") {
        const auto point = parsed->public_blob().substr(parsed->public_blob().size() - 32);
        std::string seed(32, '\0');
        std::size_t size = seed.size();
        EVP_PKEY_get_raw_private_key(key, reinterpret_cast<unsigned char*>(seed.data()), &size);
        detail::append_string(part, parsed->type());
        detail::append_string(part, point);
        detail::append_string(part, seed + point);
    } else if (parsed->type() == "ssh-rsa") {
        detail::append_string(part, parsed->type());
        for (const char* name : {OSSL_PKEY_PARAM_RSA_N, OSSL_PKEY_PARAM_RSA_E, OSSL_PKEY_PARAM_RSA_D, OSSL_PKEY_PARAM_RSA_COEFFICIENT1,
                                 OSSL_PKEY_PARAM_RSA_FACTOR1, OSSL_PKEY_PARAM_RSA_FACTOR2})
            detail::append_mpint(part, number(key, name));
    } else {
        part += parsed->public_blob();
        detail::append_mpint(part, number(key, OSSL_PKEY_PARAM_PRIV_KEY));
    }
    detail::append_string(part, "comment");
    for (char pad = 1; part.size() % 8 != 0; ++pad) part += pad;
    return openssh("none", {}, parsed->public_blob(), part);
}

/// Above a few rounds an input would only show that bcrypt is slow.
bool is_costly(const std::string& bytes) {
    detail::wire_reader in{std::string_view{bytes}.substr(std::min<std::size_t>(bytes.size(), 15))};
    in.string();
    in.string();
    detail::wire_reader options{in.string()};
    options.string();
    return options.u32() > 1;
}

}  // namespace

const std::vector<std::string>& seeds() {
    static const std::vector<std::string> all = [] {
        std::vector<std::string> out;
        EVP_PKEY* keys[] = {EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), EVP_EC_gen("P-256"), EVP_EC_gen("P-521"), EVP_RSA_gen(1024U)};
        for (auto* key : keys) {
            const auto der = der_of(key, [](const EVP_PKEY* k, unsigned char** to) {
                PKCS8_PRIV_KEY_INFO* info = EVP_PKEY2PKCS8(k);
                const int size = i2d_PKCS8_PRIV_KEY_INFO(info, to);
                PKCS8_PRIV_KEY_INFO_free(info);
                return size;
            });
            const auto own = openssh_of(key, der);
            const auto armoured = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + detail::to_base64(own) + "\n-----END OPENSSH PRIVATE KEY-----\n";
            promise(credentials::private_key(armoured).identity().starts_with("SHA256:"), "a seed is a key");
            out.push_back('\1' + own);
            out.push_back('\2' + der);
            out.push_back('\0' + armoured);
            if (EVP_PKEY_is_a(key, "EC") == 1) out.push_back('\3' + der_of(key, [](const EVP_PKEY* k, unsigned char** to) { return i2d_PrivateKey(k, to); }));
            if (EVP_PKEY_is_a(key, "RSA") == 1) out.push_back('\4' + der_of(key, [](const EVP_PKEY* k, unsigned char** to) { return i2d_PrivateKey(k, to); }));
            EVP_PKEY_free(key);
        }
        std::string options;
        detail::append_string(options, std::string(16, 's'));
        detail::append_u32(options, 1);
        std::string blob;
        detail::append_string(blob, "ssh-ed25519");
        for (const auto& cipher : detail::key_ciphers)
            out.push_back('\1' + openssh(std::string{cipher.name}, options, blob, std::string(cipher.block * 8, 'x'), std::string(cipher.tag, 't')));
        return out;
    }();
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string bytes{reinterpret_cast<const char*>(data) + 1, size - 1};
    const auto& label = labels()[data[0] % labels().size()];
    if (is_costly(bytes)) return 0;
    const auto text = label.empty() ? bytes : "-----BEGIN " + label + "-----\n" + detail::to_base64(bytes) + "\n-----END " + label + "-----\n";
    // PEM's own key derivations are OpenSSL's, and slow: they are asked without a passphrase.
    const std::string_view passphrase = label == "OPENSSH PRIVATE KEY" ? "p" : "";
    try {
        const auto login = credentials::private_key(text, passphrase);
        const auto& key = std::get<detail::login_key>(detail::login_methods(login).at(0)).key;
        promise(!key->sign({data, size}).empty(), "a key that was taken signs");
        promise(detail::wire_reader{key->public_blob()}.string() == key->type(), "a public blob begins with its type");
    } catch (const ssh_error& e) {
        promise(e.code() == errc::key_unusable, "a bad key is key_unusable");
        no_control_characters(e.what());
    }
    return 0;
}
