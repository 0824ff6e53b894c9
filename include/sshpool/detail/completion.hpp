#pragma once

#include <sshpool/error.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/associated_allocator.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace sshpool::detail {

/// The result of an operation that has none but its error.
struct no_result {};

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

/// Somebody who waits for a result, whatever the type of the handler. To be answered once, from any thread; the handler runs on its own executor.
template <class Result>
class awaiter {
public:
    awaiter() = default;
    awaiter(const awaiter&) = delete;
    awaiter& operator=(const awaiter&) = delete;
    virtual ~awaiter() = default;
    virtual void answer(error_info error, Result result = {}) = 0;
};

template <class Handler, class Result>
class handler_awaiter final : public awaiter<Result> {
public:
    handler_awaiter(Handler handler, const asio::any_io_executor& otherwise, error_info* details)
        : handler_(std::move(handler)), work_(std::in_place, asio::get_associated_executor(*handler_, otherwise)), details_(details) {}

    const Handler& handler() const noexcept { return *handler_; }

    /// Nothing of the handler stays here: whoever still holds this object would destroy the caller's things after the completion.
    void answer(error_info error, Result result) override {
        auto handler = std::move(*handler_);
        auto work = std::move(*work_);
        handler_.reset();
        work_.reset();
        const auto executor = work.get_executor();
        const auto allocator = asio::get_associated_allocator(handler);
        auto last = [work = std::move(work), handler = std::move(handler), details = details_, error = std::move(error), result = std::move(result)]() mutable {
            work.reset();
            const auto ec = error.code;
            if (details != nullptr && ec) *details = std::move(error);
            if constexpr (std::is_same_v<Result, no_result>) {
                (void)result;
                std::move(handler)(ec);
            } else {
                std::move(handler)(ec, std::move(result));
            }
        };
        asio::post(asio::bind_executor(executor, asio::bind_allocator(allocator, std::move(last))));
    }

private:
    std::optional<Handler> handler_;
    std::optional<asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>>> work_;
    error_info* details_;
};

}  // namespace sshpool::detail
