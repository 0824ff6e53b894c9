#pragma once

#include <sshpool/detail/pool_actions.hpp>
#include <sshpool/lease.hpp>

#include <asio/associated_allocator.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_executor.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>

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

/// Forwards a caller's cancellation to `cancel`, as an event: whatever type it has, it means the whole operation.
template <class Handler, class Cancel>
void on_cancellation(const Handler& handler, Cancel cancel) {
    auto slot = asio::get_associated_cancellation_slot(handler);
    if (slot.is_connected()) slot.assign([cancel = std::move(cancel)](asio::cancellation_type) { cancel(); });
}

/// Completes the handler of `op` on its executor, after everything the operation held was freed. `op` holds its answer itself:
/// `work_` and `finish(op)`, which is called on the handler's executor.
template <class Operation>
void complete(std::shared_ptr<Operation> op) {
    const auto executor = op->work_.get_executor();
    const auto allocator = asio::get_associated_allocator(op->handler_);
    auto last = [op = std::move(op)]() mutable { Operation::finish(std::move(op)); };
    asio::post(asio::bind_executor(executor, asio::bind_allocator(allocator, std::move(last))));
}

/// The end of every operation: frees it, then calls its handler.
template <class Operation, class Result>
void call_handler(std::shared_ptr<Operation> op, error_info* details, error_info& error, Result result) {
    const auto ec = error.code;
    if (details != nullptr && ec) *details = std::move(error);
    auto handler = std::move(op->handler_);
    op->work_.reset();
    op.reset();
    std::move(handler)(ec, std::move(result));
}

}  // namespace sshpool::detail
