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
    if constexpr (std::is_same_v<Result, no_result>) {
        std::move(handler)(ec);
    } else {
        std::move(handler)(ec, std::move(result));
    }
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
class handler_awaiter final : public awaiter<Result>, public std::enable_shared_from_this<handler_awaiter<Handler, Result>> {
public:
    handler_awaiter(Handler handler, const asio::any_io_executor& otherwise, error_info* details)
        : handler_(std::move(handler)), work_(asio::get_associated_executor(handler_, otherwise)), details_(details) {}

    void answer(error_info error, Result result) override {
        error_ = std::move(error);
        result_ = std::move(result);
        complete(this->shared_from_this());
    }
    static void finish(std::shared_ptr<handler_awaiter> op) {
        auto error = std::move(op->error_);
        auto result = std::move(op->result_);
        auto* const details = op->details_;
        call_handler(std::move(op), details, error, std::move(result));
    }

    Handler handler_;
    asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work_;

private:
    error_info* details_;
    error_info error_;
    Result result_{};
};

}  // namespace sshpool::detail
