#pragma once

#include <sshpool/detail/engine_op.hpp>
#include <sshpool/detail/libssh2_init.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// A channel that the server connects to a TCP port, as it sees the host's name (RFC 4254 section 7.2).
inline own_channel direct_tcpip(std::string_view host, std::uint16_t port) {
    own_channel c{"direct-tcpip", {}, "open a connection to " + printable(host) + ":" + std::to_string(port)};
    append_string(c.message, host);
    append_u32(c.message, port);
    append_string(c.message, "127.0.0.1");  // from whom: nobody that the server could reach; as OpenSSH's -W says it
    append_u32(c.message, 65535);
    return c;
}

}  // namespace sshpool::detail
