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
    std::size_t learned_leases = 0;  // what an earlier connection learned that one can carry; 0: nothing
    friend bool operator==(const open&, const open&) = default;
};
/// Lend: `waiter` gets the lease, answered by `released`.
struct grant {
    waiter_id waiter;
    connection_id connection;
    lease_id lease;
    friend bool operator==(const grant&, const grant&) = default;
};
/// `waiter` gets the error.
struct fail {
    waiter_id waiter;
    error_info error;
    friend bool operator==(const fail&, const fail&) = default;
};
/// Check that the connection lives; answered by `probed`.
struct probe {
    connection_id connection;
    friend bool operator==(const probe&, const probe&) = default;
};
/// Close the connection (also one whose open is under way); answered by `closed`.
struct close {
    connection_id connection;
    close_reason reason;
    friend bool operator==(const close&, const close&) = default;
};
/// Tell whoever listens.
struct announce {
    pool_event event;
    friend bool operator==(const announce&, const announce&) = default;
};
/// The shutdown has ended: nothing is left.
struct drained {
    friend bool operator==(const drained&, const drained&) = default;
};

}  // namespace act

using action = std::variant<act::open, act::grant, act::fail, act::probe, act::close, act::announce, act::drained>;
using actions = std::vector<action>;

namespace act {

inline std::ostream& operator<<(std::ostream& out, const open& a) {
    out << "open " << a.connection << " to " << a.to.key();
    if (a.via != 0) out << " via " << a.via;
    return out;
}
inline std::ostream& operator<<(std::ostream& out, const grant& a) {
    return out << "grant " << a.waiter << " connection " << a.connection << " lease " << a.lease;
}
inline std::ostream& operator<<(std::ostream& out, const fail& a) {
    return out << "fail " << a.waiter << " (" << a.error.code.message() << "; " << a.error.key << "; " << a.error.phase << "; " << a.error.text << ")";
}
inline std::ostream& operator<<(std::ostream& out, const probe& a) { return out << "probe " << a.connection; }
inline std::ostream& operator<<(std::ostream& out, const close& a) { return out << "close " << a.connection << " (" << to_string(a.reason) << ")"; }
inline std::ostream& operator<<(std::ostream& out, const announce& a) {
    out << "announce " << to_string(a.event.kind) << " " << a.event.key << " " << a.event.connection_id;
    if (a.event.reason) out << " (" << to_string(*a.event.reason) << ")";
    if (!a.event.error.text.empty()) out << ": " << a.event.error.text;
    return out;
}
inline std::ostream& operator<<(std::ostream& out, const drained&) { return out << "drained"; }
inline std::ostream& operator<<(std::ostream& out, const action& a) {
    std::visit([&](const auto& one) { out << one; }, a);
    return out;
}

}  // namespace act

}  // namespace sshpool::detail
