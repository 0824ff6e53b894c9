#pragma once

#include <sshpool/error.hpp>
#include <sshpool/pool_event.hpp>
#include <sshpool/target.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <system_error>

namespace sshpool {

/// What a connection tells its owner while it lives. Called from any thread; never after `close` has completed.
struct connection_observer {
    std::function<void(error_info)> lost;                          ///< the connection is gone; at most once, only after a successful open
    std::function<void(std::size_t)> capacity;                     ///< how many leases it can carry from now on; 0: no new ones (it is tainted)
    std::function<void(std::chrono::nanoseconds)> channel_opened;  ///< how long an operation waited for its channel
};

/// Everything a connection is opened with.
template <class Transport>
struct open_request {
    sshpool::target target;
    std::chrono::milliseconds timeout{};  ///< resolve + TCP + key exchange + login, as one deadline
    std::size_t spare_channels = 1;
    std::chrono::milliseconds reap_grace{};
    std::optional<Transport> via;  ///< the open connection to the target's jump host, if it has one
    connection_observer observer;
    std::size_t learned_leases = 0;  ///< what an earlier connection reported as its capacity; 0: nothing
};

/// How an open ended: `error.code` is empty on success.
struct open_report {
    error_info error;
    connect_phases phases;
};

/// What a pool needs of a connection: open it, probe it, is it usable, close it. Knows nothing of pools.
///
/// A transport is a cheap handle (copies are the same connection). Every call returns at once and may come from any thread;
/// every callback comes exactly once, from any thread, possibly before the call returned.
///  - `open(request, done)`: `close` before the end makes it fail with `errc::cancelled`
///  - `probe(timeout, done)`: one bounded round trip to the server; an error means that the connection is not usable
///  - `close(done)`: says goodbye within a bounded time (at most a second), cuts what still runs, frees everything
///  - `is_usable()`: no loss noticed so far; sends nothing
///  - `last_heard()`: when bytes last came from the server, on the steady clock
///  - `lend(share)`: a handle for a lease; whatever is started through it keeps a copy of `share` until it has ended
template <class T>
concept transport = std::copyable<T> && requires(T t, const T ct, open_request<T> request, std::function<void(open_report)> opened,
                                                 std::function<void(error_info)> probed, std::function<void()> closed, std::shared_ptr<void> share) {
    t.open(std::move(request), std::move(opened));
    t.probe(std::chrono::milliseconds{}, std::move(probed));
    t.close(std::move(closed));
    { ct.is_usable() }
    noexcept->std::same_as<bool>;
    { ct.last_heard() }
    noexcept->std::same_as<std::chrono::steady_clock::time_point>;
    { ct.lend(std::move(share)) } -> std::same_as<T>;
};

}  // namespace sshpool
