#pragma once

#include <sshpool/detail/caller.hpp>
#include <sshpool/detail/home_process.hpp>
#include <sshpool/warm_report.hpp>

#include <asio/any_io_executor.hpp>

#include <memory>
#include <source_location>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// `async_warm`: asks for a connection to every target, a bounded number at once, and gives each back as it comes.
template <class Transport, class Driver, class Handler>
class warm_op : public std::enable_shared_from_this<warm_op<Transport, Driver, Handler>> {
public:
    static void start(const std::shared_ptr<Driver>& driver, Handler handler, std::vector<target> targets, error_info* details, std::source_location from) {
        if (!driver->has_context()) return;
        const auto op = std::make_shared<warm_op>(driver, std::move(handler), std::move(targets), details, from);
        on_cancellation(op->handler_, [driver = std::weak_ptr{driver}, weak = std::weak_ptr{op}] {
            if (const auto d = driver.lock())
                d->on_strand([weak] {
                    if (const auto self = weak.lock()) self->cancel();
                });
        });
        if (driver->is_forked()) return op->refuse();
        driver->on_strand([op] { op->go_on(); });
    }

    warm_op(std::shared_ptr<Driver> driver, Handler handler, std::vector<target> targets, error_info* details, std::source_location from)
        : handler_(std::move(handler)),
          work_(asio::get_associated_executor(handler_, driver->executor())),
          driver_(std::move(driver)),
          targets_(std::move(targets)),
          details_(details),
          from_(from) {}

    static void finish(std::shared_ptr<warm_op> op) {
        auto report = std::move(op->report_);
        error_info error;
        auto* const details = op->details_;
        if (op->cancelled_) error = {make_error(errc::cancelled), {}, "warming", "cancelled before every host was connected or had failed"};
        call_handler(std::move(op), details, error, std::move(report));
    }

    Handler handler_;
    asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work_;

private:
    struct question final : caller<Transport> {
        question(std::shared_ptr<warm_op> warm, target to) : caller<Transport>(std::move(to), asking::by_policy, warm->from_), op(std::move(warm)) {}
        void answered() override {
            this->granted.release();
            std::exchange(op, nullptr)->connection_came(*this);
        }
        std::shared_ptr<warm_op> op;
    };

    void refuse() {
        for (const auto& to : targets_) report_.failed.push_back({to.key(), asked_in_a_child(to.key())});
        complete(this->shared_from_this());
    }
    // All on the strand.
    void go_on() {
        while (!cancelled_ && next_ < targets_.size() && asked_.size() < driver_->params().max_handshakes) {
            auto asked = std::make_shared<question>(this->shared_from_this(), targets_[next_++]);
            asked_.emplace(asked.get(), asked);
            driver_->ask(std::move(asked));
        }
        if (!asked_.empty() || handed_over_) return;
        handed_over_ = true;
        complete(this->shared_from_this());
    }
    void connection_came(question& asked) {
        asked_.erase(&asked);
        if (asked.error) {
            report_.failed.push_back({asked.where.key(), std::move(asked.error)});
        } else {
            ++report_.connected;
        }
        go_on();
    }
    void cancel() {
        if (handed_over_) return;
        cancelled_ = true;
        for (const auto& [key, asked] : asked_) driver_->cancel(asked);
    }

    std::shared_ptr<Driver> driver_;
    std::vector<target> targets_;
    error_info* details_;
    std::source_location from_;
    std::size_t next_ = 0;
    std::unordered_map<const question*, std::weak_ptr<caller<Transport>>> asked_;
    warm_report report_;
    bool cancelled_ = false;
    bool handed_over_ = false;
};

}  // namespace sshpool::detail
