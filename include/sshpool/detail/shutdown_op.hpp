#pragma once

#include <sshpool/detail/caller.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/basic_waitable_timer.hpp>
#include <asio/bind_executor.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

namespace sshpool::detail {

/// `async_shutdown`: drains, forces after the grace time, completes when nothing is left. Cancelling it ends the wait only.
template <class Driver, class Clock, class Handler>
class shutdown_op : public std::enable_shared_from_this<shutdown_op<Driver, Clock, Handler>> {
public:
    static void start(const std::shared_ptr<Driver>& driver, Handler handler, std::chrono::milliseconds grace, error_info* details) {
        if (!driver->has_context()) return;
        const auto op = std::make_shared<shutdown_op>(driver, std::move(handler), details);
        on_cancellation(op->handler_, [driver = std::weak_ptr{driver}, weak = std::weak_ptr{op}] {
            if (const auto d = driver.lock())
                d->on_strand([weak] {
                    if (const auto self = weak.lock()) self->finish({make_error(errc::cancelled), {}, "shutdown", "cancelled; the pool goes on closing"});
                });
        });
        if (driver->is_forked()) return op->finish({});  // the connections are the parent's
        driver->shut_down([op] {
            op->drained_ = true;
            op->grace_.cancel();
            op->finish({});
        });
        constexpr std::chrono::milliseconds longest = std::chrono::hours{24 * 3650};  // "for ever", without an overflow
        const auto until = Clock::now() + std::clamp(grace, std::chrono::milliseconds::zero(), longest);
        driver->on_strand([op, until] { op->be_patient(until); });  // after the pool was closed: forcing an open one does nothing
    }

    shutdown_op(std::shared_ptr<Driver> driver, Handler handler, error_info* details)
        : driver_(std::move(driver)),
          handler_(std::move(handler)),
          work_(asio::get_associated_executor(handler_, driver_->executor())),
          grace_(driver_->executor()),
          details_(details) {}

private:
    // All on the strand.
    void be_patient(typename Clock::time_point until) {
        if (drained_) return;
        grace_.expires_at(until);
        grace_.async_wait([op = this->shared_from_this()](std::error_code ec) {
            if (!ec) op->driver_->force();
        });
    }
    void finish(error_info error) {
        if (finished_) return;
        finished_ = true;
        const auto executor = work_.get_executor();
        asio::post(
            asio::bind_executor(executor, [work = std::move(work_), handler = std::move(handler_), details = details_, error = std::move(error)]() mutable {
                work.reset();
                const auto ec = error.code;
                if (details != nullptr && ec) *details = std::move(error);
                std::move(handler)(ec);
            }));
    }

    std::shared_ptr<Driver> driver_;
    Handler handler_;
    asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work_;
    asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, asio::any_io_executor> grace_;
    error_info* details_;
    bool drained_ = false;
    bool finished_ = false;
};

}  // namespace sshpool::detail
