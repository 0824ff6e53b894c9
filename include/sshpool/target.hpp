#pragma once

#include <sshpool/credentials.hpp>
#include <sshpool/detail/address.hpp>
#include <sshpool/detail/digest.hpp>
#include <sshpool/host_key_policy.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool {

class target;

namespace detail {

/// All that a target is made of.
struct target_parts {
    std::string user;
    std::string host;
    std::uint16_t port = 22;
    credentials login;
    host_key_policy host_keys;
    std::shared_ptr<const target> jump;
};

inline constexpr std::size_t target_fields = 6;

/// One text for each field, equal where the field is. The structured binding does not compile when a field is added and forgotten here.
std::array<std::string, target_fields> match_fields(const target_parts& parts);

}  // namespace detail

/// Where to, as whom, trusted how. A value; copies are cheap.
///
/// Two targets with one `key()` share connections only where everything that decides who is logged in and who was trusted
/// is equal: identity, host-key policy and jump chain. `match()` is a digest of all that.
/// **Threads**: a value may be read from any number of threads at once. A moved-from target may only be assigned or destroyed.
class target {
public:
    /// "user@host", "user@host:2222", "user@[2001:db8::1]:22"; the port is 22 unless it is said. Host names are taken in lower case, IPv6
    /// addresses in their shortest spelling. Throws `std::invalid_argument` that quotes the address and says what is wrong with it.
    target(std::string_view address, credentials login, host_key_policy host_keys = host_key_policy::known_hosts());

    /// The parts one by one; an IPv6 address without brackets. Throws `std::invalid_argument` that names the part that cannot be.
    target(std::string user, std::string host, std::uint16_t port, credentials login, host_key_policy host_keys = host_key_policy::known_hosts());

    /// Reach it through a pooled connection to another host, as ssh's ProxyJump. For a longer way give the jump one of its own:
    /// `t.via(inner.via(outer))`. Throws `std::invalid_argument` where there is a jump already, or for more than 8 jumps.
    ///
    /// The jump host is asked for one way at a time: a target behind it that does not answer at all, not even with a refusal, holds up those that are asked
    /// for after it on that connection, for 10 s at most. The jump host then gets a fresh connection, and the old one finishes what it carries.
    target& via(target jump);

    /// "user@host:port", IPv6 in brackets: what the pool counts connections by.
    const std::string& key() const noexcept { return data_->key; }
    const std::string& user() const noexcept { return data_->parts.user; }
    const std::string& host() const noexcept { return data_->parts.host; }
    std::uint16_t port() const noexcept { return data_->parts.port; }
    const credentials& login() const noexcept { return data_->parts.login; }
    const host_key_policy& host_keys() const noexcept { return data_->parts.host_keys; }
    /// nullptr: reached directly.
    const target* jump() const noexcept { return data_->parts.jump.get(); }
    /// How many jumps are on the way.
    std::size_t jumps() const noexcept { return data_->jumps; }
    /// "host:port", IPv6 in brackets: what handshakes are limited by.
    const std::string& endpoint() const noexcept { return data_->endpoint; }
    /// A digest of everything that decides who is logged in and who was trusted. Like `identity()` it is the same within one process only.
    const std::string& match() const noexcept { return data_->match; }
    /// `login().identity()`: who is logged in.
    const std::string& identity() const noexcept { return login().identity(); }
    /// A digest of what actually logs in, whatever it is called (`credentials::as_principal`): what a refused login is remembered by.
    const std::string& credential_digest() const noexcept { return detail::credential_digest(data_->parts.login); }
    std::size_t hash() const noexcept { return data_->hash; }

    friend bool operator==(const target& a, const target& b) noexcept { return a.data_ == b.data_ || (a.key() == b.key() && a.match() == b.match()); }

    static constexpr std::size_t most_jumps = 8;

private:
    struct data {
        detail::target_parts parts;
        std::string key;
        std::string endpoint;
        std::string match;
        std::size_t jumps = 0;
        std::size_t hash = 0;
    };
    static std::shared_ptr<const data> make(detail::target_parts parts);
    static detail::target_parts parts_of(detail::address where, credentials login, host_key_policy host_keys) {
        return {std::move(where.user), std::move(where.host), where.port, std::move(login), std::move(host_keys), nullptr};
    }

    std::shared_ptr<const data> data_;
};

inline std::array<std::string, detail::target_fields> detail::match_fields(const target_parts& parts) {
    const auto& [user, host, port, login, host_keys, jump] = parts;
    return {user, host, std::to_string(port), credential_match(login), match_of(host_keys), jump == nullptr ? "direct" : jump->key() + ' ' + jump->match()};
}

inline std::shared_ptr<const target::data> target::make(detail::target_parts parts) {
    data d{std::move(parts), {}, {}, {}, 0, 0};
    const auto& p = d.parts;
    d.endpoint = detail::endpoint_text(p.host, p.port);
    d.key = p.user + '@' + d.endpoint;
    detail::field_digest all;
    for (const auto& field : detail::match_fields(p)) all.add(field);
    d.match = all.hex();
    d.hash = std::hash<std::string>{}(d.key + d.match);
    d.jumps = p.jump == nullptr ? 0 : p.jump->jumps() + 1;
    return std::make_shared<const data>(std::move(d));
}

inline target::target(std::string_view address, credentials login, host_key_policy host_keys)
    : data_(make(parts_of(detail::parse_address(address), std::move(login), std::move(host_keys)))) {}

inline target::target(std::string user, std::string host, std::uint16_t port, credentials login, host_key_policy host_keys) {
    const auto text = user + '@' + host;
    if (user.find(':') != std::string::npos) detail::bad_address('@' + host, "the user before it holds ':'; a password goes into credentials::password");
    detail::check_user(user, text);
    if (port == 0) detail::bad_address(text, "the port is zero");
    auto one_spelling = detail::checked_host(host, text);
    data_ = make({std::move(user), std::move(one_spelling), port, std::move(login), std::move(host_keys), nullptr});
}

inline target& target::via(target jump) {
    if (data_->parts.jump != nullptr)
        throw std::invalid_argument(key() + " has a jump host already (" + data_->parts.jump->key() + "): give that one a jump of its own");
    if (jump.jumps() >= most_jumps) throw std::invalid_argument(key() + " would be reached through more than " + std::to_string(most_jumps) + " jump hosts");
    auto parts = data_->parts;
    parts.jump = std::make_shared<const target>(std::move(jump));
    data_ = make(std::move(parts));
    return *this;
}

}  // namespace sshpool

template <>
struct std::hash<sshpool::target> {
    std::size_t operator()(const sshpool::target& t) const noexcept { return t.hash(); }
};
