#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/key_file.hpp>
#include <sshpool/detail/parse_private_key.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/secret.hpp>
#include <sshpool/detail/user_certificate.hpp>
#include <sshpool/error.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sshpool {

class credentials;

namespace detail {

struct login_key {
    std::shared_ptr<const private_key> key;
    std::shared_ptr<const user_certificate> certificate;  // tried before the key alone; mostly none
};
struct login_password {
    std::shared_ptr<const secret> text;
};
struct login_agent {
    std::string socket;
};
using login_method = std::variant<login_key, login_password, login_agent>;

/// The ways to log in, in the order in which they are tried. Never empty.
const std::vector<login_method>& login_methods(const credentials& login) noexcept;

/// What actually logs in, whatever the label: what a refused login is remembered by.
const std::string& credential_digest(const credentials& login) noexcept;

/// Equal where connections may be shared: by label where there is one.
const std::string& credential_match(const credentials& login) noexcept;

}  // namespace detail

/// As whom to log in: a key, a password, the agent, or several of them in order.
///
/// A value; copies are cheap and share what they hold. Secrets are wiped when the last copy goes, and stand in no message.
/// **Threads**: a value may be read from any number of threads at once.
class credentials {
public:
    /// A private key from memory, in OpenSSH's or in PEM format: Ed25519, ECDSA (nistp256, 384, 521) or RSA of at least 1024 bits.
    ///
    /// Throws `ssh_error` with `errc::key_unusable`, saying why: no key, a public key, of an unsupported type, damaged, the
    /// passphrase missing or wrong. A passphrase that the key does not need is ignored. Decrypting takes about 0.1 s for keys that ssh-keygen wrote.
    static credentials private_key(std::string_view pem, std::string_view passphrase = {});

    /// A private key from a file, which is read, parsed and decrypted here, once: a file that changes later changes nothing. Where there is a
    /// certificate beside it, "FILE-cert.pub", that is taken along (see `certificate`), as ssh does.
    ///
    /// Throws as `private_key` and `certificate`, and where a file is missing, unreadable, empty, no regular file or larger than 1 MiB.
    static credentials private_key_file(const std::filesystem::path& file, std::string_view passphrase = {});

    /// The OpenSSH certificate for the private key that these credentials are: the text of its "-cert.pub" file. The server is shown the certificate
    /// first, then, if it refuses that, the key alone. Ed25519 and ECDSA; libssh2 cannot carry RSA certificates, so there the key alone is tried.
    ///
    /// Throws `ssh_error` with `errc::key_unusable` where the text is no certificate for a user, is damaged, or belongs to another key;
    /// `std::invalid_argument` where these credentials are not one private key. Whether it is valid now, and for which users, the server decides.
    credentials& certificate(std::string_view text);

    /// A password; it also answers keyboard-interactive. Any bytes but NUL, up to 1024. Throws `std::invalid_argument`.
    static credentials password(std::string_view secret);

    /// The keys that an SSH agent holds: the agent that `SSH_AUTH_SOCK` names now. Throws `ssh_error` with `errc::key_unusable` where it names none.
    ///
    /// Asked at every login, for its keys and for a signature, on a thread that may block; each question may take half of the time that the connect has
    /// left. At most five keys are tried, in the agent's order: sshd cuts the connection at the sixth refusal. An agent that is not there, does
    /// not answer, is locked or has no keys fails the login with `errc::key_unusable` and says so.
    static credentials agent();

    /// `next` is tried where the server refuses all before it. Throws `std::invalid_argument` for more than 16 ways in all.
    credentials& or_else(const credentials& next);

    /// Says that any key, or password, of this label opens the same door: connections are shared by the label instead of by the key, so that
    /// keys can rotate. It covers what is here now; a part that `or_else` adds later keeps its own name.
    /// Throws `std::invalid_argument` for an empty label, one over 255 bytes, or with control characters.
    credentials& as_principal(const std::string& label);

    /// The label, or a digest of what logs in; never the secret. For a key its fingerprint ("SHA256:…", as `ssh-keygen -l` prints it), and that of its
    /// certificate where there is one; for the agent its socket's path. For a password, and for several ways of different names, a digest that is the same
    /// within one process and differs in the next: whoever reads it in a log cannot try passwords against it.
    const std::string& identity() const noexcept { return data_->identity; }

    /// Whether this, or a part of it, goes by the label: what `invalidate_principal` asks.
    bool has_principal(std::string_view label) const noexcept;

private:
    struct way {
        detail::login_method method;
        std::string digest;  // "key SHA256:…", "password …", "agent /…"
        std::string label;   // empty: none
    };
    struct data {
        std::vector<way> ways;
        std::vector<detail::login_method> methods;  // of the ways
        std::string digest;                         // of all the ways, without their labels
        std::string match;                          // of all the ways, by label where there is one
        std::string identity;
    };
    friend const std::vector<detail::login_method>& detail::login_methods(const credentials& login) noexcept;
    friend const std::string& detail::credential_digest(const credentials& login) noexcept;
    friend const std::string& detail::credential_match(const credentials& login) noexcept;

    explicit credentials(std::vector<way> ways);
    static credentials one(detail::login_key method) {
        auto digest = "key " + method.key->fingerprint();
        if (method.certificate != nullptr) digest += " with certificate " + detail::fingerprint(method.certificate->blob);
        return one(std::move(method), std::move(digest));
    }
    static credentials one(detail::login_method method, std::string digest) { return credentials{std::vector{way{std::move(method), std::move(digest), {}}}}; }

    std::shared_ptr<const data> data_;
};

inline credentials::credentials(std::vector<way> ways) {
    data d;
    detail::field_digest all;
    std::vector<std::string> names;
    for (const auto& [method, digest, label] : ways) {
        d.methods.push_back(method);
        all.add(digest);
        auto name = label.empty() ? digest : "label " + label;
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
    }
    detail::field_digest named;
    for (const auto& name : names) named.add(name);
    d.digest = all.hex();
    d.match = named.hex();
    // Without the word before it: the label, the fingerprint, the path. A label that looks like a fingerprint still has a match of its own.
    d.identity = names.size() == 1 ? names.front().substr(names.front().find(' ') + 1) : "several:" + d.match;
    d.ways = std::move(ways);
    data_ = std::make_shared<const data>(std::move(d));
}

inline credentials credentials::private_key(std::string_view pem, std::string_view passphrase) {
    return one({detail::parse_private_key(pem, passphrase, "the private key"), nullptr});
}

inline credentials credentials::private_key_file(const std::filesystem::path& file, std::string_view passphrase) {
    detail::login_key read{
        detail::parse_private_key(detail::read_key_file(file).view(), passphrase, "the private key " + detail::file_in_quotes(file.string())), nullptr};
    auto beside = file;
    beside += "-cert.pub";
    std::error_code ec;
    if (std::filesystem::exists(beside, ec)) {
        const auto name = "the certificate " + detail::file_in_quotes(beside.string());
        read.certificate = detail::parse_certificate(detail::read_key_file(beside, "the certificate").view(), *read.key, name);
    }
    return one(std::move(read));
}

inline credentials& credentials::certificate(std::string_view text) {
    const auto* const only = data_->methods.size() == 1 ? std::get_if<detail::login_key>(&data_->methods.front()) : nullptr;
    if (only == nullptr) throw std::invalid_argument("a certificate goes with one private key: add it before or_else()");
    auto with = one({only->key, detail::parse_certificate(text, *only->key, "the certificate")});
    if (const auto& label = data_->ways.front().label; !label.empty()) with.as_principal(label);
    return *this = std::move(with);
}

inline credentials credentials::password(std::string_view secret) {
    if (secret.empty()) throw std::invalid_argument("the password is empty");
    if (secret.size() > 1024) throw std::invalid_argument("the password is longer than 1024 bytes");
    if (secret.find('\0') != std::string_view::npos) throw std::invalid_argument("the password holds a NUL byte: no server would see what follows it");
    return one(detail::login_password{std::make_shared<const detail::secret>(secret)}, "password hmac:" + detail::keyed_name(secret));
}

inline credentials credentials::agent() {
    const char* path = std::getenv("SSH_AUTH_SOCK");
    if (path == nullptr || *path == '\0')
        throw ssh_error({make_error(errc::key_unusable), {}, "key", "no SSH agent: the environment variable SSH_AUTH_SOCK is not set"});
    return one(detail::login_agent{path}, std::string{"agent "} + path);
}

inline credentials& credentials::or_else(const credentials& next) {
    auto ways = data_->ways;
    ways.insert(ways.end(), next.data_->ways.begin(), next.data_->ways.end());
    if (ways.size() > 16) throw std::invalid_argument("more than 16 ways to log in: a server cuts the connection long before");
    return *this = credentials{std::move(ways)};
}

inline credentials& credentials::as_principal(const std::string& label) {
    if (label.empty()) throw std::invalid_argument("a principal's label is empty");
    if (label.size() > 255) throw std::invalid_argument("a principal's label is longer than 255 bytes");
    if (std::any_of(label.begin(), label.end(), [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }))
        throw std::invalid_argument("a principal's label holds a control character: " + detail::in_quotes(label));
    auto ways = data_->ways;
    for (auto& w : ways) w.label = label;
    return *this = credentials{std::move(ways)};
}

inline bool credentials::has_principal(std::string_view label) const noexcept {
    return !label.empty() && std::any_of(data_->ways.begin(), data_->ways.end(), [&](const way& w) { return w.label == label; });
}

inline const std::vector<detail::login_method>& detail::login_methods(const credentials& login) noexcept { return login.data_->methods; }
inline const std::string& detail::credential_digest(const credentials& login) noexcept { return login.data_->digest; }
inline const std::string& detail::credential_match(const credentials& login) noexcept { return login.data_->match; }

}  // namespace sshpool
