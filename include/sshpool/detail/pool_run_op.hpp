#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/acquire_op.hpp>

#include <asio/cancellation_signal.hpp>

#include <memory>
#include <source_location>
#include <utility>

namespace sshpool::detail {

/// `ssh_pool::async_run`: get a connection, run, give it back. Tries again only when the command certainly never started
/// because its connection died, and only while the caller would still wait for a connection.
template <class Transport, class Driver, class Handler>
class pool_run_op : public std::enable_shared_from_this<pool_run_op<Transport, Driver, Handler>> {
public:
    static void start(const std::shared_ptr<Driver>& driver, Handler handler, target to, command what, error_info* details, std::source_location from) {
        const auto op = std::make_shared<pool_run_op>(driver, std::move(handler), std::move(to), std::move(what), details, from);
        on_cancellation(op->handler_, [driver = std::weak_ptr{driver}, weak = std::weak_ptr{op}] {
            if (const auto d = driver.lock())
                d->on_strand([weak] {
                    if (const auto self = weak.lock()) self->cancel();
                });
        });
        op->acquire();
    }

    pool_run_op(std::shared_ptr<Driver> driver, Handler handler, target to, command what, error_info* details, std::source_location from)
        : driver_(std::move(driver)),
          handler_(std::move(handler)),
          work_(asio::get_associated_executor(handler_, driver_->executor())),
          to_(std::move(to)),
          what_(std::move(what)),
          details_(details),
          from_(from),
          deadline_(driver_->now() + driver_->params().acquire_timeout) {}

private:
    using executor_type = asio::associated_executor_t<Handler, asio::any_io_executor>;

    /// The question for a connection: a caller of its own, because a retry asks again.
    struct question final : caller<Transport> {
        question(std::shared_ptr<pool_run_op> asking_op) : caller<Transport>(asking_op->to_, asking::by_policy, asking_op->from_), op(std::move(asking_op)) {}
        void answer(error_info error, lease<Transport> granted) override {
            const auto self = std::move(op);
            self->granted(std::move(error), std::move(granted));
        }
        std::shared_ptr<pool_run_op> op;
    };
    /// What the connection's own operation completes: on the caller's executor, because output is delivered there.
    struct run_handler {
        using executor_type = pool_run_op::executor_type;
        using cancellation_slot_type = asio::cancellation_slot;
        executor_type get_executor() const noexcept { return op->work_.get_executor(); }
        cancellation_slot_type get_cancellation_slot() const noexcept { return op->stop_running_.slot(); }
        void operator()(std::error_code, command_result result) { std::exchange(op, nullptr)->ran(std::move(result)); }
        std::shared_ptr<pool_run_op> op;
    };

    void acquire() {
        auto asked = std::make_shared<question>(this->shared_from_this());
        asked->deadline = deadline_;
        asked_ = asked;
        driver_->ask(std::move(asked));
    }
    void granted(error_info error, lease<Transport> granted) {  // on the strand
        if (!error && cancelled_) error = error_info{make_error(errc::cancelled), to_.key(), "waiting", "cancelled before the command was started"};
        if (error) return finish(std::move(error), {});
        lease_ = std::move(granted);
        (*lease_).async_run(what_, run_error_, run_handler{this->shared_from_this()});
    }
    void ran(command_result result) {  // on the caller's executor
        const bool died_before = run_error_.code == errc::connection_lost && run_error_.code == command_fate::not_started;
        if (died_before) {
            lease_.discard();
            if (attempt_ < most_attempts && driver_->now() < deadline_) {
                ++attempt_;
                run_error_ = {};
                return driver_->on_strand([self = this->shared_from_this()] {
                    if (self->cancelled_)
                        return self->finish(error_info{make_error(errc::cancelled), self->to_.key(), "waiting", "cancelled before the command was started"},
                                            {});
                    self->acquire();
                });
            }
        }
        lease_.release();
        finish(std::move(run_error_), std::move(result));
    }
    void cancel() {  // on the strand
        cancelled_ = true;
        driver_->cancel(asked_);
        stop_running_.emit(asio::cancellation_type::terminal);
    }
    void finish(error_info error, command_result result) {
        lease_.release();
        complete(std::move(work_), std::move(handler_), details_, std::move(error), std::move(result));
    }

    static constexpr int most_attempts = 3;

    std::shared_ptr<Driver> driver_;
    Handler handler_;
    asio::executor_work_guard<executor_type> work_;
    target to_;
    command what_;
    error_info* details_;
    error_info run_error_;
    std::source_location from_;
    instant deadline_;
    int attempt_ = 1;
    std::weak_ptr<caller<Transport>> asked_;
    lease<Transport> lease_;
    asio::cancellation_signal stop_running_;
    bool cancelled_ = false;
};

}  // namespace sshpool::detail
