#pragma once

#include <sshpool/error.hpp>
#include <sshpool/pool_event.hpp>
#include <sshpool/target.hpp>

#include <chrono>
#include <cstdint>
#include <ostream>
#include <source_location>
#include <variant>
#include <vector>

namespace sshpool::detail {

/// Time as the core knows it: since the epoch of the pool's clock. Always an argument.
using instant = std::chrono::nanoseconds;

using waiter_id = std::uint64_t;      // given by the driver, unique, ascending with the order of asking
using connection_id = std::uint64_t;  // given by the core, unique, never 0
using lease_id = std::uint64_t;       // given by the core, unique

/// Whether a caller may be queued.
enum class asking { by_policy, now_or_never };

/// What the core wants done. Values, so that a test is the list of them.
namespace act {

/// Open a connection to `to`, over the open connection `via` unless that is 0; answered by `opened` or `open_failed`.
struct open {
    connection_id connection;
    target to;
    connection_id via;
};
/// Lend: `waiter` gets the lease, answered by `released`.
struct grant {
    waiter_id waiter;
    connection_id connection;
    lease_id lease;
};
/// `waiter` gets the error.
struct fail {
    waiter_id waiter;
    error_info error;
};
/// Check that the connection lives; answered by `probed`.
struct probe {
    connection_id connection;
};
/// Close the connection (also one whose open is under way); answered by `closed`.
struct close {
    connection_id connection;
    close_reason reason;
};
/// Tell whoever listens.
struct announce {
    pool_event event;
};
/// The shutdown has ended: nothing is left.
struct drained {};

}  // namespace act

using action = std::variant<act::open, act::grant, act::fail, act::probe, act::close, act::announce, act::drained>;
using actions = std::vector<action>;

}  // namespace sshpool::detail
