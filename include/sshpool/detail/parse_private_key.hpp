#pragma once

#include <sshpool/detail/openssh_key.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/secret.hpp>

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// Tells what a text is that holds a private key in some format, or that does not, and has it read.
class private_key_text {
public:
    private_key_text(std::string_view text, std::string_view passphrase, const std::string& name) : text_(text), passphrase_(passphrase), name_(name) {}

    std::shared_ptr<const private_key> parse() {
        if (text_.empty()) throw key_error(name_ + " is empty");
        if (text_.size() > largest) throw key_error(name_ + " is larger than 1 MiB: that is no key");
        if (passphrase_.size() > 1024) throw key_error("the passphrase for " + name_ + " is longer than 1024 bytes");
        find_block();
        if (label_ == "OPENSSH PRIVATE KEY") {
            secret bytes;
            if (!from_base64(base64().view(), bytes)) throw key_error(name_ + " is damaged: its text is not base64");
            return openssh_key_parser{bytes.view(), passphrase_, name_}.parse();
        }
        if (label_ == "DSA PRIVATE KEY") throw key_error(name_ + " is a DSA key, which servers no longer accept: use an Ed25519 key");
        return from_pem();
    }

    static constexpr std::size_t largest = std::size_t{1} << 20U;

private:
    using bio_ptr = std::unique_ptr<BIO, freed_by<BIO_free>>;

    /// The first block whose label ends in "PRIVATE KEY": its lines without blanks around them, each with one line end.
    void find_block() {
        constexpr std::string_view begin = "-----BEGIN ";
        constexpr std::string_view private_label = "PRIVATE KEY";
        std::string_view other;
        for (auto at = text_.find(begin); at != std::string_view::npos; at = text_.find(begin, at + begin.size())) {
            auto label = text_.substr(at + begin.size(), 64);
            label = label.substr(0, label.find("-----"));
            if (!label.ends_with(private_label)) {
                if (other.empty()) other = label;
                continue;
            }
            const auto last = "-----END " + std::string{label} + "-----";
            const auto end = text_.find(last, at);
            if (end == std::string_view::npos) throw key_error(name_ + " is damaged: it ends too early");
            label_ = label;
            copy_lines(text_.substr(at, end + last.size() - at));
            return;
        }
        refuse(other);
    }

    void copy_lines(std::string_view block) {
        lines_.resize(block.size() + 1);
        std::size_t size = 0;
        while (!block.empty()) {
            const auto end = std::min(block.find('\n'), block.size());
            auto line = block.substr(0, end);
            block.remove_prefix(std::min(end + 1, block.size()));
            constexpr std::string_view blank = " \t\r\v\f";
            line.remove_prefix(std::min(line.find_first_not_of(blank), line.size()));
            line = line.substr(0, line.find_last_not_of(blank) + 1);
            std::copy(line.begin(), line.end(), lines_.data() + size);
            size += line.size();
            lines_.data()[size++] = '\n';
        }
        lines_.resize(size);
    }

    [[noreturn]] void refuse(std::string_view other_label) const {
        auto start = text_;
        start.remove_prefix(std::min(start.find_first_not_of(" \t\r\n"), start.size()));
        if (start.starts_with("PuTTY-User-Key-File-"))
            throw key_error(name_ + " is in PuTTY's format: convert it with `puttygen KEY.ppk -O private-openssh-new -o KEY`");
        if (start.find("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----") != std::string_view::npos)
            throw key_error(name_ + " is in the format of ssh.com: convert it with `ssh-keygen -i -f KEY`");
        bool is_public = other_label.ends_with("PUBLIC KEY") || start.find("---- BEGIN SSH2 PUBLIC KEY ----") != std::string_view::npos;
        for (const std::string_view type : {"ssh-ed25519", "ssh-rsa", "ssh-dss", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"})
            is_public = is_public || start.starts_with(type);
        if (is_public) throw key_error(name_ + " is a public key: give the private one");
        if (!other_label.empty()) throw key_error(name_ + " holds no private key, but " + in_quotes(other_label));
        throw key_error(name_ + " is no private key in OpenSSH's or PEM format");
    }

    /// What stands between the first and the last line.
    secret base64() const {
        auto body = lines_.view();
        body.remove_prefix(std::min(body.find('\n'), body.size()));
        body = body.substr(0, body.rfind("-----END "));
        secret out;
        out.resize(body.size());
        std::size_t size = 0;
        for (const char c : body) {
            if (c != '\n') out.data()[size++] = c;
        }
        out.resize(size);
        return out;
    }

    struct passphrase_request {
        std::string_view passphrase;
        bool asked = false;
    };
    static int give_passphrase(char* buffer, int size, int, void* user) {
        auto& request = *static_cast<passphrase_request*>(user);
        request.asked = true;
        if (request.passphrase.empty() || request.passphrase.size() > static_cast<std::size_t>(size)) return -1;
        std::memcpy(buffer, request.passphrase.data(), request.passphrase.size());
        return static_cast<int>(request.passphrase.size());
    }

    std::shared_ptr<const private_key> from_pem() const {
        const quiet_openssl quiet;
        if (label_ == "ENCRYPTED PRIVATE KEY") refuse_costly();
        const bio_ptr in{BIO_new_mem_buf(lines_.data(), static_cast<int>(lines_.size()))};
        passphrase_request request{passphrase_};
        pkey_ptr key{in == nullptr ? nullptr : PEM_read_bio_PrivateKey(in.get(), nullptr, &give_passphrase, &request)};
        if (key == nullptr) {
            if (request.asked && passphrase_.empty()) throw key_error(name_ + " is encrypted and no passphrase was given");
            if (request.asked) throw key_error("the passphrase for " + name_ + " is wrong");
            throw key_error(name_ + " is damaged, or of an unsupported type: use an Ed25519, ECDSA or RSA key");
        }
        return std::make_shared<const private_key>(std::move(key), name_);
    }

    /// The work that decrypting takes stands in the file: bounded before OpenSSL begins it.
    void refuse_costly() const {
        const bio_ptr in{BIO_new_mem_buf(lines_.data(), static_cast<int>(lines_.size()))};
        const std::unique_ptr<X509_SIG, freed_by<X509_SIG_free>> sealed{in == nullptr ? nullptr : PEM_read_bio_PKCS8(in.get(), nullptr, nullptr, nullptr)};
        if (sealed == nullptr) throw key_error(name_ + " is damaged");
        const X509_ALGOR* algorithm = nullptr;
        X509_SIG_get0(sealed.get(), &algorithm, nullptr);
        if (cost(algorithm) > most_work)
            throw key_error(name_ + " asks for more work to decrypt it than is allowed (" + std::to_string(most_work) + " iterations)");
    }

    static constexpr std::uint64_t most_work = 4'000'000;  // a few seconds; OpenSSL writes 2,048

    static std::uint64_t count(const ASN1_INTEGER* value) {
        std::uint64_t out = 0;
        return value != nullptr && ASN1_INTEGER_get_uint64(&out, value) == 1 ? out : UINT64_MAX;
    }

    template <class T>
    static std::unique_ptr<T, void (*)(T*)> unpack(const X509_ALGOR* algorithm, const ASN1_ITEM* item, void (*free)(T*)) {
        const ASN1_OBJECT* ignored = nullptr;
        int type = V_ASN1_UNDEF;
        const void* value = nullptr;
        X509_ALGOR_get0(&ignored, &type, &value, algorithm);
        if (type != V_ASN1_SEQUENCE) return {nullptr, free};
        return {static_cast<T*>(ASN1_item_unpack(static_cast<const ASN1_STRING*>(value), item)), free};
    }

    static int nid(const X509_ALGOR* algorithm) {
        const ASN1_OBJECT* object = nullptr;
        X509_ALGOR_get0(&object, nullptr, nullptr, algorithm);
        return OBJ_obj2nid(object);
    }

    /// Iterations; for scrypt its N times r times p, of which each is about one. Unknown ways to derive a key count as endless.
    static std::uint64_t cost(const X509_ALGOR* algorithm) {
        if (nid(algorithm) != NID_pbes2) {
            const auto pbe = unpack<PBEPARAM>(algorithm, ASN1_ITEM_rptr(PBEPARAM), &PBEPARAM_free);
            return pbe == nullptr ? UINT64_MAX : count(pbe->iter);
        }
        const auto pbes2 = unpack<PBE2PARAM>(algorithm, ASN1_ITEM_rptr(PBE2PARAM), &PBE2PARAM_free);
        if (pbes2 == nullptr) return UINT64_MAX;
        if (nid(pbes2->keyfunc) == NID_id_pbkdf2) {
            const auto pbkdf2 = unpack<PBKDF2PARAM>(pbes2->keyfunc, ASN1_ITEM_rptr(PBKDF2PARAM), &PBKDF2PARAM_free);
            return pbkdf2 == nullptr ? UINT64_MAX : count(pbkdf2->iter);
        }
        const auto scrypt = unpack<SCRYPT_PARAMS>(pbes2->keyfunc, ASN1_ITEM_rptr(SCRYPT_PARAMS), &SCRYPT_PARAMS_free);
        if (scrypt == nullptr) return UINT64_MAX;
        const std::array factors{count(scrypt->costParameter), count(scrypt->blockSize), count(scrypt->parallelizationParameter)};
        std::uint64_t product = 1;
        for (const auto factor : factors) {
            if (factor > most_work * 4) return UINT64_MAX;
            product = std::min(product * factor, most_work * 4);
        }
        return product;
    }

    std::string_view text_;
    std::string_view passphrase_;
    const std::string& name_;
    std::string_view label_;
    secret lines_;
};

/// Reads a private key in OpenSSH's or in PEM format. `name` stands in messages. Throws `ssh_error` (`errc::key_unusable`).
inline std::shared_ptr<const private_key> parse_private_key(std::string_view text, std::string_view passphrase, const std::string& name) {
    return private_key_text{text, passphrase, name}.parse();
}

}  // namespace sshpool::detail
