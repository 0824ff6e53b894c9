#pragma once

#include <sshpool/detail/completion.hpp>
#include <sshpool/detail/pool_actions.hpp>
#include <sshpool/lease.hpp>

#include <memory>
#include <optional>
#include <source_location>
#include <system_error>
#include <utility>

namespace sshpool::detail {

/// A caller of the pool, from its question to its answer. The driver keeps it while it is queued, so that it goes with the
/// execution context when nobody answers any more.
template <class Transport>
struct caller {
    explicit caller(target to, asking how, std::source_location asked_from) : where(std::move(to)), mode(how), asker(asked_from) {}
    caller(const caller&) = delete;
    caller& operator=(const caller&) = delete;
    virtual ~caller() = default;

    /// `error` and `granted` hold the answer: called once, on the pool's strand; must not run user code.
    virtual void answered() = 0;

    target where;
    asking mode;
    std::source_location asker;
    waiter_id id = 0;        // given when it is queued
    instant deadline{};      // absolute; set when it is asked
    bool cancelled = false;  // by a cancellation that came before it was queued
    error_info error;
    lease<Transport> granted;
};

}  // namespace sshpool::detail
