#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/completion.hpp>
#include <sshpool/detail/exec_op.hpp>
#include <sshpool/detail/session_owner.hpp>
#include <sshpool/error.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/associated_allocator.hpp>
#include <asio/associated_executor.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_executor.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// `libssh2_transport::async_run`: carries the command to the session, the output and the result to the caller.
template <class Handler>
class run_op final : public exec_op {
public:
    using executor_type = asio::associated_executor_t<Handler, asio::any_io_executor>;

    static void start(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share, Handler handler, command what, error_info* details) {
        const auto session = owner->session;
        const auto executor = session->executor();
        if (!executor) return;  // its context has gone: nothing completes there any more
        const auto timeout = what.timeout().value_or(std::chrono::milliseconds{});
        const auto op = std::make_shared<run_op>(std::move(owner), std::move(share), *executor, std::move(handler), std::move(what), details);
        // The types of cancellation all mean the same here. It is an event on the session's strand, whoever's thread it comes from.
        on_cancellation(*op->handler_, [session = std::weak_ptr{session}, weak = std::weak_ptr<session_op>{op}] {
            if (const auto s = session.lock()) s->cancel(weak);
        });
        session->run(op, timeout);
    }

    run_op(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share, const asio::any_io_executor& io_executor, Handler handler, command what,
           error_info* details)
        : exec_op(std::move(what)),
          owner_(std::move(owner)),
          share_(std::move(share)),
          handler_(std::move(handler)),
          work_(std::in_place, asio::get_associated_executor(*handler_, io_executor)),
          details_(details) {}

    void attend() override {
        if (!handler_ || delivering_) return;
        if (!chunks_.empty()) return deliver();
        if (is_answered()) complete();
    }

private:
    /// `on_output` runs on the caller's executor, and nothing more is read until it has returned.
    void deliver() {
        delivering_ = true;
        auto call = [self = std::static_pointer_cast<run_op>(shared_from_this()), chunks = std::exchange(chunks_, {})]() mutable {
            const returning back{self, std::move(chunks)};
            for (const auto& c : back.chunks) self->what().on_output()(c.stream, c.bytes);
        };
        asio::post(asio::bind_executor(work_->get_executor(), std::move(call)));
    }
    /// Also where `on_output` throws.
    struct returning {
        returning(std::shared_ptr<run_op> o, std::vector<chunk> c) : op(std::move(o)), chunks(std::move(c)) {}
        returning(const returning&) = delete;
        returning& operator=(const returning&) = delete;
        ~returning() {
            try {
                const auto session = op->owner_->session;
                session->change([op = op, had = std::move(chunks)] {
                    op->delivering_ = false;
                    op->delivered(had);
                    op->attend();
                });
            } catch (...) {  // out of memory: the command ends with its timeout or its connection
            }
        }
        std::shared_ptr<run_op> op;
        std::vector<chunk> chunks;
    };

    void complete() {
        result_.elapsed = answered_at_ - submitted_at_;
        share_.reset();  // given back before the caller hears of the end
        owner_.reset();
        auto work = std::move(*work_);
        work_.reset();
        auto handler = std::move(*handler_);
        handler_.reset();
        const auto executor = work.get_executor();
        const auto allocator = asio::get_associated_allocator(handler);
        auto last = [work = std::move(work), handler = std::move(handler), details = details_, error = std::move(error_),
                     result = std::move(result_)]() mutable {
            work.reset();
            const auto ec = error.code;
            if (details != nullptr && ec) *details = std::move(error);
            std::move(handler)(ec, std::move(result));
        };
        asio::post(asio::bind_executor(executor, asio::bind_allocator(allocator, std::move(last))));
    }

    std::shared_ptr<session_owner> owner_;
    std::shared_ptr<void> share_;
    std::optional<Handler> handler_;
    std::optional<asio::executor_work_guard<executor_type>> work_;
    error_info* details_;
    bool delivering_ = false;  // on_output has some of the chunks
};

}  // namespace sshpool::detail
