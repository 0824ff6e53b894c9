#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace sshpool::detail {

/// Why a connection has ended, for those that run through it: they know it before anybody can tell them to close, on whatever thread they are.
class connection_fate {
public:
    void runs_through(std::shared_ptr<const connection_fate> jump) {
        const std::lock_guard lock{mutex_};
        jump_ = std::move(jump);
    }
    /// The first reason counts.
    void ended(const std::string& why) {
        const std::lock_guard lock{mutex_};
        if (why_.empty()) why_ = why;
    }
    /// Why the jump host's connection, or one before it, has ended; empty while none has.
    std::string cause() const {
        const auto jump = [this] {
            const std::lock_guard lock{mutex_};
            return jump_;
        }();
        if (jump == nullptr) return {};
        auto why = jump->why();
        return why.empty() ? jump->cause() : "the jump host was lost: " + why;
    }

private:
    std::string why() const {
        const std::lock_guard lock{mutex_};
        return why_;
    }

    mutable std::mutex mutex_;
    std::string why_;
    std::shared_ptr<const connection_fate> jump_;
};

}  // namespace sshpool::detail
