#pragma once

#include <sshpool/target.hpp>

#include "support/sshd_server.hpp"

namespace sshpool::test {

inline target to(const support::sshd_server& server) {
    return {server.address(), credentials::private_key_file(server.client_key()), host_key_policy::known_hosts(server.known_hosts())};
}

}  // namespace sshpool::test
