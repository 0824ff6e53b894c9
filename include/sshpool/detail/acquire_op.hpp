#pragma once

#include <sshpool/detail/caller.hpp>

#include <asio/any_io_executor.hpp>

#include <memory>
#include <source_location>
#include <utility>

namespace sshpool::detail {

/// `async_get_connection`: completes its caller's handler.
template <class Transport, class Handler>
class acquire_op final : public caller<Transport> {
public:
    template <class Driver>
    static void start(const std::shared_ptr<Driver>& driver, Handler handler, target to, instant deadline, error_info* details, std::source_location from) {
        auto op = std::make_shared<acquire_op>(driver->executor(), std::move(handler), std::move(to), details, from);
        op->deadline = deadline;
        on_cancellation(op->handler_, [driver = std::weak_ptr{driver}, asked = std::weak_ptr<caller<Transport>>{op}] {
            if (const auto d = driver.lock()) d->cancel(asked);
        });
        driver->ask(std::move(op));
    }

    acquire_op(const asio::any_io_executor& fallback, Handler handler, target to, error_info* details, std::source_location from)
        : caller<Transport>(std::move(to), asking::by_policy, from),
          handler_(std::move(handler)),
          work_(asio::get_associated_executor(handler_, fallback)),
          details_(details) {}

private:
    void answer(error_info error, lease<Transport> granted) override {
        complete(std::move(work_), std::move(handler_), details_, std::move(error), std::move(granted));
    }

    Handler handler_;
    asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work_;
    error_info* details_;
};

}  // namespace sshpool::detail
