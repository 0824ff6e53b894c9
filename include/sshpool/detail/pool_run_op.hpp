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
        if (!driver->has_context()) return;
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
        : handler_(std::move(handler)),
          work_(asio::get_associated_executor(handler_, driver->executor())),
          driver_(std::move(driver)),
          to_(std::move(to)),
          what_(std::move(what)),
          details_(details),
          from_(from),
          deadline_(driver_->now() + driver_->params().acquire_timeout) {}

    static void finish(std::shared_ptr<pool_run_op> op) {
        auto result = std::move(op->result_);
        auto error = std::move(op->error_);
        auto* const details = op->details_;
        call_handler(std::move(op), details, error, std::move(result));
    }

    using executor_type = asio::associated_executor_t<Handler, asio::any_io_executor>;
    Handler handler_;
    asio::executor_work_guard<executor_type> work_;

private:
    /// The question for a connection: a caller of its own, because a retry asks again.
    struct question final : caller<Transport> {
        question(std::shared_ptr<pool_run_op> asking_op) : caller<Transport>(asking_op->to_, asking::by_policy, asking_op->from_), op(std::move(asking_op)) {}
        void answered() override { std::exchange(op, nullptr)->connection_came(*this); }
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
    void connection_came(question& asked) {  // on the strand
        error_ = std::move(asked.error);
        if (!error_ && cancelled_) error_ = cancelled_before();
        if (error_) return complete(this->shared_from_this());
        lease_ = std::move(asked.granted);
        (*lease_).async_run(what_, error_, run_handler{this->shared_from_this()});
    }
    void ran(command_result result) {  // on the caller's executor
        const bool died_before = error_.code == errc::connection_lost && error_.code == command_fate::not_started;
        if (died_before) {
            lease_.discard();
            if (attempt_ < most_attempts && driver_->now() < deadline_) {
                ++attempt_;
                return driver_->on_strand([self = this->shared_from_this()] { self->try_again(); });
            }
        }
        lease_.release();
        result_ = std::move(result);
        finish(this->shared_from_this());
    }
    void try_again() {  // on the strand
        error_ = cancelled_ ? cancelled_before() : error_info{};
        if (error_) return complete(this->shared_from_this());
        acquire();
    }
    void cancel() {  // on the strand
        cancelled_ = true;
        driver_->cancel(asked_);
        stop_running_.emit(asio::cancellation_type::terminal);
    }
    error_info cancelled_before() const { return {make_error(errc::cancelled), to_.key(), "waiting", "cancelled before the command was started"}; }

    static constexpr int most_attempts = 3;

    std::shared_ptr<Driver> driver_;
    target to_;
    command what_;
    error_info* details_;
    error_info error_;
    command_result result_;
    std::source_location from_;
    instant deadline_;
    int attempt_ = 1;
    std::weak_ptr<caller<Transport>> asked_;
    lease<Transport> lease_;
    asio::cancellation_signal stop_running_;
    bool cancelled_ = false;
};

}  // namespace sshpool::detail
