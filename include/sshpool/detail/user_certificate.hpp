#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>

/// OpenSSH's certificates for users: PROTOCOL.certkeys in its source.
namespace sshpool::detail {

inline constexpr std::string_view certificate_suffix = "-cert-v01@openssh.com";

/// "ssh-ed25519" for "ssh-ed25519-cert-v01@openssh.com", and for itself.
inline std::string_view plain_key_type(std::string_view type) noexcept {
    if (type.ends_with(certificate_suffix)) type.remove_suffix(certificate_suffix.size());
    return type;
}

/// What can be sent as a login with libssh2. An RSA certificate cannot: it would have to be announced by another name than the one it begins with.
inline bool is_usable_key_type(std::string_view type) noexcept {
    const auto plain = plain_key_type(type);
    if (plain == "ssh-rsa") return plain == type;
    return plain == "ssh-ed25519" || std::any_of(ecdsa_curves.begin(), ecdsa_curves.end(), [&](const ecdsa_curve& c) { return plain == c.type; });
}

inline constexpr std::size_t largest_certificate = std::size_t{16} << 10;

struct user_certificate {
    std::string type;
    std::string blob;
    std::string words;  // for messages
};

inline std::string certificate_time(std::uint64_t seconds) {
    constexpr std::uint64_t year_9999 = 253402300799;
    if (seconds > year_9999) return "forever";
    const auto when = static_cast<std::time_t>(seconds);
    std::tm parts{};
    std::array<char, 32> text{};
    ::gmtime_r(&when, &parts);
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text.data();
}

/// One line as ssh-keygen writes it to KEY-cert.pub. Throws `ssh_error` (`errc::key_unusable`) for anything but a user certificate of that very key.
/// Whether it is valid now, and for whom, the server decides.
inline std::shared_ptr<const user_certificate> parse_certificate(std::string_view text, const private_key& key, const std::string& name) {
    const auto next_word = [&text] {
        constexpr std::string_view blank = " \t\r\n";
        text.remove_prefix(std::min(text.find_first_not_of(blank), text.size()));
        const auto word = text.substr(0, text.find_first_of(blank));
        text.remove_prefix(word.size());
        return word;
    };
    const auto type = next_word();
    if (!type.ends_with(certificate_suffix)) throw key_error(name + " is no OpenSSH certificate");
    auto blob = from_base64(next_word());
    if (!blob) throw key_error(name + " is damaged: its text is not base64");
    if (blob->size() > largest_certificate) throw key_error(name + " is larger than 16 KiB: no server would take it");
    wire_reader in{*blob};
    const bool same_type = in.string() == type;
    in.string();  // a nonce
    wire_reader own{key.public_blob()};
    const bool same_key = plain_key_type(type) == own.string() && in.raw(own.rest().size()) == own.rest();
    if (!same_type || !in.ok()) throw key_error(name + (same_type ? " is damaged, or for another key" : " is damaged"));
    if (!same_key) throw key_error(name + " is for another key than " + key.fingerprint());
    const auto number = [&in] {
        const auto high = in.u32();
        return std::uint64_t{high} << 32U | in.u32();
    };
    number();  // the serial number
    const auto kind = in.u32();
    const auto id = in.string();
    in.string();  // principals
    const auto from = number();
    const auto to = number();
    for (int i = 0; i != 5; ++i) in.string();  // options, extensions, reserved, the authority's key, its signature
    if (!in.done()) throw key_error(name + " is damaged");
    if (kind != 1) throw key_error(name + " is a certificate for a host, not for a user");
    std::string words = "the certificate " + in_quotes(id) + " (valid from " + certificate_time(from) + " to " + certificate_time(to) + ")";
    return std::make_shared<const user_certificate>(user_certificate{std::string{type}, std::move(*blob), std::move(words)});
}

}  // namespace sshpool::detail
