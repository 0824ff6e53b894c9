#pragma once

#include "ssh/pool_on_sshd.hpp"
#include "support/network.hpp"

namespace sshpool::test {

/// A server at a place of the row behind its first: its neighbours reach it, and nobody else.
inline support::sshd_server::options server_at(const support::network_row& net, int place) {
    support::sshd_server::options o;
    o.netns = net.at(place);
    o.addresses = {net.left_address(place)};
    o.port = static_cast<std::uint16_t>(2200 + place);
    return o;
}

/// The pool's thread, its only one, stands at the first place of the row from now on.
inline void enter_first(running_pool& p, const support::network_row& net) {
    asio::post(p.io, asio::use_future([&net] { net.enter(0); })).get();
}

}  // namespace sshpool::test
