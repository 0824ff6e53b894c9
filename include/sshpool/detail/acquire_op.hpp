#pragma once

#include <sshpool/detail/caller.hpp>

#include <asio/any_io_executor.hpp>

#include <memory>
#include <source_location>
#include <utility>

namespace sshpool::detail {

/// `async_get_connection`: a caller whose answer completes a handler.
template <class Transport, class Handler>
class acquire_op final : public caller<Transport>, public std::enable_shared_from_this<acquire_op<Transport, Handler>> {
public:
    template <class Driver>
    static void start(const std::shared_ptr<Driver>& driver, Handler handler, target to, error_info* details, std::source_location from) {
        if (!driver->has_context()) return;
        auto op = std::make_shared<acquire_op>(driver->executor(), std::move(handler), std::move(to), details, from);
        if (auto lent = driver->lend_at_once(op->where, from)) {
            op->granted = std::move(*lent);
            return complete(std::move(op));
        }
        on_cancellation(op->handler_, [driver = std::weak_ptr{driver}, asked = std::weak_ptr<caller<Transport>>{op}] {
            if (const auto d = driver.lock()) d->cancel(asked);
        });
        driver->ask(std::move(op));
    }

    acquire_op(const asio::any_io_executor& fallback, Handler handler, target to, error_info* details, std::source_location asked_from)
        : caller<Transport>(std::move(to), asking::by_policy, asked_from),
          handler_(std::move(handler)),
          work_(asio::get_associated_executor(handler_, fallback)),
          details_(details) {}

    static void finish(std::shared_ptr<acquire_op> op) {
        auto granted = std::move(op->granted);
        auto error = std::move(op->error);
        auto* const details = op->details_;
        call_handler(std::move(op), details, error, std::move(granted));
    }

    Handler handler_;
    asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work_;

private:
    void answered() override { complete(this->shared_from_this()); }

    error_info* details_;
};

}  // namespace sshpool::detail
