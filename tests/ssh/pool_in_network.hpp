#pragma once

#include "ssh/pool_on_sshd.hpp"
#include "support/network.hpp"

namespace sshpool::test {

/// A server at a place of the row, on one of its addresses: neighbours reach it, and nobody else.
inline support::sshd_server::options server_at(const support::network_row& net, int place, std::string address) {
    support::sshd_server::options o;
    o.netns = net.at(place);
    o.addresses = {std::move(address)};
    o.port = static_cast<std::uint16_t>(2200 + place);
    return o;
}
/// For whoever stands to its left.
inline support::sshd_server::options server_at(const support::network_row& net, int place) { return server_at(net, place, net.left_address(place)); }

/// The pool's thread, its only one, stands at the first place of the row from now on.
inline void enter_first(running_pool& p, const support::network_row& net) {
    asio::post(p.io, asio::use_future([&net] { net.enter(0); })).get();
}

}  // namespace sshpool::test
