#pragma once

#include <sshpool/credentials.hpp>
#include <sshpool/host_key_policy.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace sshpool {

/// INTERFACE SKETCH - to be implemented
class target {
public:
    target(std::string_view address, credentials, host_key_policy = host_key_policy::known_hosts());
    target(std::string user, std::string host, std::uint16_t port, credentials, host_key_policy = host_key_policy::known_hosts());
    target& via(target jump);
    const std::string& key() const noexcept;  // "user@host:port"

    const std::string& user() const noexcept;
    const std::string& host() const noexcept;
    std::uint16_t port() const noexcept;
    const credentials& login() const noexcept;
    const host_key_policy& host_keys() const noexcept;
    const target* jump() const noexcept;           // nullptr: reached directly
    const std::string& endpoint() const noexcept;  // "host:port": what handshake limits count by
    const std::string& match() const noexcept;     // digest of everything that decides who is logged in and who was trusted
    const std::string& identity() const noexcept;  // login().identity()
    std::size_t hash() const noexcept;             // of key and match
    // A copy is cheap (one shared pointer).
};

}  // namespace sshpool
