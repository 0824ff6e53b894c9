#pragma once

#include <sshpool/detail/digest.hpp>

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace sshpool {

class host_key_policy;

namespace detail {

enum class host_key_rule : std::uint8_t { known_hosts, trust_on_first_use, pinned, accept_any };

struct host_key_parts {
    host_key_rule rule{};
    std::string file;               // of known_hosts and trust_on_first_use; empty: there is no home directory
    std::vector<std::string> pins;  // of pinned: "SHA256:…" without padding, sorted, each once
};

const host_key_parts& parts_of(const host_key_policy& policy) noexcept;

/// Equal where two policies trust the same keys by the same rule.
const std::string& match_of(const host_key_policy& policy) noexcept;

/// ~/.ssh/known_hosts; empty where there is no home directory.
inline std::string default_known_hosts() {
    const char* home = std::getenv("HOME");
    if (home != nullptr && *home == '/') return std::string{home} + "/.ssh/known_hosts";
    std::vector<char> room(16384);
    struct passwd entry {};
    struct passwd* found = nullptr;
    if (::getpwuid_r(::getuid(), &entry, room.data(), room.size(), &found) != 0 || found == nullptr || entry.pw_dir == nullptr || *entry.pw_dir == '\0')
        return {};
    return std::string{entry.pw_dir} + "/.ssh/known_hosts";
}

/// "SHA256:…" without padding. Throws for anything that cannot be a key's fingerprint.
inline std::string checked_pin(std::string_view text) {
    constexpr std::string_view prefix = "SHA256:";
    auto body = text;
    if (body.substr(0, prefix.size()) == prefix) {
        body.remove_prefix(prefix.size());
        if (!body.empty() && body.back() == '=') body.remove_suffix(1);
        const auto bytes = from_base64(std::string{body} + '=');
        if (bytes && bytes->size() == 32) {
            auto pin = std::string{prefix} + to_base64(*bytes);
            pin.pop_back();  // the padding
            return pin;
        }
    }
    throw std::invalid_argument("a pinned host key must be \"SHA256:\" and 43 base64 characters, as `ssh-keygen -l` prints it, not " + in_quotes(text));
}

/// Every field of `parts`; the structured binding does not compile when one is added and forgotten here.
inline std::string match_of(const host_key_parts& parts) {
    const auto& [rule, file, pins] = parts;
    field_digest all;
    all.add(std::to_string(static_cast<int>(rule))).add(file);
    for (const auto& pin : pins) all.add(pin);
    return all.hex();
}

}  // namespace detail

/// Which host keys to trust. There is no default that trusts a stranger.
///
/// A value; copies are cheap. **Threads**: a value may be read from any number of threads at once.
/// known_hosts files are in sshd(8)'s format: names, wildcards, negation, hashed names, ports, `@revoked`. Lines with
/// `@cert-authority` are passed over: host certificates are not used. On another port than 22 a host is known as "[host]:port" only.
class host_key_policy {
public:
    /// ~/.ssh/known_hosts, strictly: an unknown host is `errc::host_key_unknown`, another key than the known one `errc::host_key_mismatch`.
    static host_key_policy known_hosts() { return host_key_policy{{detail::host_key_rule::known_hosts, detail::default_known_hosts(), {}}}; }

    /// The same with a file of your own; relative to the directory that is current now. A missing file knows no host.
    static host_key_policy known_hosts(const std::filesystem::path& file) {
        return host_key_policy{{detail::host_key_rule::known_hosts, checked_file(file), {}}};
    }

    /// Adds the keys of unknown hosts to the file (made 0600 where it is missing) and refuses changed ones. Whoever sits on the path at the first connect is
    /// trusted ever after.
    static host_key_policy trust_on_first_use(const std::filesystem::path& file) {
        return host_key_policy{{detail::host_key_rule::trust_on_first_use, checked_file(file), {}}};
    }

    /// Only keys with one of these fingerprints: "SHA256:…" as `ssh-keygen -l` prints it. Of a server's keys the one is asked for that OpenSSH's client
    /// would show: ED25519, else ECDSA, else RSA. Throws `std::invalid_argument` for anything else, and for none.
    template <class... S>
    requires(sizeof...(S) > 0 && (std::is_convertible_v<S, std::string_view> && ...)) static host_key_policy pinned(S&&... sha256) {
        std::vector<std::string> pins;
        (pins.push_back(detail::checked_pin(std::string_view{sha256})), ...);
        return of_pins(std::move(pins));
    }
    static host_key_policy pinned(const std::vector<std::string>& sha256) {
        if (sha256.empty()) throw std::invalid_argument("pinned() needs at least one host key");
        std::vector<std::string> pins;
        for (const auto& pin : sha256) pins.push_back(detail::checked_pin(pin));
        return of_pins(std::move(pins));
    }

    /// Any key: whoever answers is trusted. For tests and throwaway machines.
    static host_key_policy accept_any() { return host_key_policy{{detail::host_key_rule::accept_any, {}, {}}}; }

private:
    struct data {
        detail::host_key_parts parts;
        std::string match;
    };
    friend const detail::host_key_parts& detail::parts_of(const host_key_policy& policy) noexcept;
    friend const std::string& detail::match_of(const host_key_policy& policy) noexcept;

    explicit host_key_policy(detail::host_key_parts parts) {
        auto match = detail::match_of(parts);
        data_ = std::make_shared<const data>(data{std::move(parts), std::move(match)});
    }
    static host_key_policy of_pins(std::vector<std::string> pins) {
        std::sort(pins.begin(), pins.end());
        pins.erase(std::unique(pins.begin(), pins.end()), pins.end());
        return host_key_policy{{detail::host_key_rule::pinned, {}, std::move(pins)}};
    }
    static std::string checked_file(const std::filesystem::path& file) {
        if (file.empty()) throw std::invalid_argument("the known hosts file's name is empty");
        if (file.native().find('\0') != std::string::npos)
            throw std::invalid_argument("the known hosts file's name holds a NUL byte: " + detail::file_in_quotes(file.native()));
        return std::filesystem::absolute(file).string();
    }

    std::shared_ptr<const data> data_;
};

inline const detail::host_key_parts& detail::parts_of(const host_key_policy& policy) noexcept { return policy.data_->parts; }
inline const std::string& detail::match_of(const host_key_policy& policy) noexcept { return policy.data_->match; }

}  // namespace sshpool
