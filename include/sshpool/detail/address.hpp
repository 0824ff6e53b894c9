#pragma once

#include <sshpool/detail/digest.hpp>

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sshpool::detail {

struct address {
    std::string user;
    std::string host;  // as `checked_host` gives it
    std::uint16_t port = 22;
};

[[noreturn]] inline void bad_address(std::string_view text, const std::string& why) {
    throw std::invalid_argument("bad address " + in_quotes(text) + ": " + why);
}

/// As sshd takes it; a colon is refused because what stands behind it would be a password. `text` is what the message quotes.
inline void check_user(std::string_view user, std::string_view text) {
    if (user.empty()) bad_address(text, "the user is empty");
    if (user.size() > 255) bad_address(text, "the user is longer than 255 bytes");
    for (const char c : user) {
        if (c == '\0') bad_address(text, "the user holds a NUL byte");
        if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f') bad_address(text, "the user holds a blank or a control character");
    }
}

/// The host in one spelling: names in lower case, IPv6 as inet_ntop writes it (a zone stays as it is). `text` is what the message quotes.
inline std::string checked_host(std::string_view host, std::string_view text) {
    if (host.empty()) bad_address(text, "the host is empty");
    if (host.size() > 255) bad_address(text, "the host is longer than 255 bytes");
    for (const char c : host) {
        if (c == '\0') bad_address(text, "the host holds a NUL byte");
        if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f') bad_address(text, "the host holds a blank or a control character");
        if (c == '[' || c == ']') bad_address(text, "stray bracket: only an IPv6 address stands in brackets, as in user@[2001:db8::1]:22");
        if (c == '/') bad_address(text, "the host holds '/': give user@host:port, not a URL or a path");
        if (static_cast<unsigned char>(c) > '~') bad_address(text, "the host holds bytes beyond ASCII: give its \"xn--\" form");
    }
    constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    const auto zone = host.find('%');
    if (host.find(':') != std::string_view::npos) {
        std::array<unsigned char, 16> bytes{};
        std::array<char, INET6_ADDRSTRLEN> canonical{};
        if (::inet_pton(AF_INET6, std::string{host.substr(0, zone)}.c_str(), bytes.data()) != 1) bad_address(text, "the host is no IPv6 address");
        if (zone != std::string_view::npos && (zone + 1 == host.size() || host.find_first_not_of(allowed, zone + 1) != std::string_view::npos))
            bad_address(text, "the IPv6 address has a bad zone");
        ::inet_ntop(AF_INET6, bytes.data(), canonical.data(), static_cast<socklen_t>(canonical.size()));
        return std::string{canonical.data()} + std::string{zone == std::string_view::npos ? "" : host.substr(zone)};
    }
    if (const auto bad = host.find_first_not_of(allowed); bad != std::string_view::npos)
        bad_address(text, std::string{"the host holds '"} + host[bad] + "': names are letters, digits, '-', '.' and '_'");
    if (host.front() == '-') bad_address(text, "the host begins with '-'");
    std::string lower{host};
    std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return lower;
}

inline std::uint16_t parse_port(std::string_view digits, std::string_view text) {
    if (digits.empty()) bad_address(text, "the port is missing after ':'");
    if (digits.find_first_not_of("0123456789") != std::string_view::npos) bad_address(text, "the port is no number");
    unsigned port = 0;
    for (const char c : digits) port = std::min(port * 10 + static_cast<unsigned>(c - '0'), 100'000U);
    if (port == 0) bad_address(text, "the port is zero");
    if (port > 65535) bad_address(text, "the port is larger than 65535");
    return static_cast<std::uint16_t>(port);
}

/// "user@host", "user@host:port", "user@[IPv6]", "user@[IPv6]:port". The last '@' counts: user names may hold one.
inline address parse_address(std::string_view text) {
    const auto at = text.rfind('@');
    if (at == std::string_view::npos) bad_address(text, "no '@': give user@host or user@host:port");
    const auto user = text.substr(0, at);
    auto rest = text.substr(at + 1);
    // Not quoted as a whole: what was meant as a password shall not stand in a message.
    if (user.find(':') != std::string_view::npos) bad_address(text.substr(at), "the user before it holds ':'; a password goes into credentials::password");
    check_user(user, text);
    if (rest.empty()) bad_address(text, "the host is empty");
    if (rest.front() == '[') {
        const auto end = rest.find(']');
        if (end == std::string_view::npos) bad_address(text, "'[' without ']'");
        const auto inner = rest.substr(1, end - 1);
        rest.remove_prefix(end + 1);
        if (inner.empty()) bad_address(text, "the host is empty");
        if (inner.find(':') == std::string_view::npos) bad_address(text, "only an IPv6 address stands in brackets");
        auto host = checked_host(inner, text);
        if (rest.empty()) return {std::string{user}, std::move(host), 22};
        if (rest.front() != ':') bad_address(text, "after ']' only ':' and a port may follow");
        return {std::string{user}, std::move(host), parse_port(rest.substr(1), text)};
    }
    const auto colon = rest.find(':');
    if (colon == std::string_view::npos) return {std::string{user}, checked_host(rest, text), 22};
    if (rest.find(':', colon + 1) != std::string_view::npos)
        bad_address(text, "more than one ':': if this is an IPv6 address, put the address in brackets, as in user@[2001:db8::1]:22");
    auto host = checked_host(rest.substr(0, colon), text);
    return {std::string{user}, std::move(host), parse_port(rest.substr(colon + 1), text)};
}

/// "host:port", IPv6 in brackets.
inline std::string endpoint_text(std::string_view host, std::uint16_t port) {
    const bool brackets = host.find(':') != std::string_view::npos;
    return (brackets ? "[" : "") + std::string{host} + (brackets ? "]:" : ":") + std::to_string(port);
}

/// The key of whatever address is written, as `target::key` gives it. What is no address is nobody's key, and stays as it is.
inline std::string key_of(std::string_view text) {
    try {
        const auto where = parse_address(text);
        return where.user + '@' + endpoint_text(where.host, where.port);
    } catch (const std::invalid_argument&) {
        return std::string{text};
    }
}

}  // namespace sshpool::detail
