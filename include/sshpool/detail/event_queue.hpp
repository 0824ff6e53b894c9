#pragma once

#include <sshpool/pool_event.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

namespace sshpool::detail {

/// Hands events to the user's callback: one at a time, in order, on a strand of their own. The callback lives until the last
/// event was told, even if the pool goes first.
class event_queue {
public:
    using callback = std::function<void(const pool_event&)>;

    event_queue(const asio::any_io_executor& executor, const callback& tell) {
        if (!tell) return;
        tell_ = std::make_shared<const callback>(tell);
        strand_.emplace(asio::make_strand(executor));
    }
    void push(pool_event event) {
        if (strand_) asio::post(*strand_, [tell = tell_, event = std::move(event)] { (*tell)(event); });
    }
    void let_go() { strand_.reset(); }

private:
    std::shared_ptr<const callback> tell_;
    std::optional<asio::strand<asio::any_io_executor>> strand_;
};

}  // namespace sshpool::detail
