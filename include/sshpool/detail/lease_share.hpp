#pragma once

#include <sshpool/connection_info.hpp>

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace sshpool::detail {

template <class Transport, class Clock>
class pool_driver;

struct lease_share;

/// Who lent a connection, as a lease sees it. Every call may come from any thread.
class lease_owner {
public:
    virtual void give_back(lease_share*) noexcept = 0;  // takes the object over
    virtual void discard(std::uint64_t connection) noexcept = 0;
    virtual bool is_open() const noexcept = 0;
    virtual connection_info info(std::uint64_t connection) const = 0;

protected:
    ~lease_owner() = default;
};

/// What a lease and the operations started through it hold together; given back when the last of them ends.
/// Its own node in the list of returned leases, so that giving back allocates nothing and cannot fail.
struct lease_share {
    std::shared_ptr<lease_owner> owner;
    std::uint64_t connection = 0;
    std::uint64_t lease = 0;
    lease_share* next_returned = nullptr;

    static std::shared_ptr<lease_share> make(std::shared_ptr<lease_owner> owner, std::uint64_t connection, std::uint64_t lease) {
        return {new lease_share{std::move(owner), connection, lease}, [](lease_share* share) { share->owner->give_back(share); }};
    }
};

/// Leases on their way back to the strand. Giving one back allocates nothing and cannot fail.
class returned_leases {
public:
    returned_leases() = default;
    returned_leases(const returned_leases&) = delete;
    returned_leases& operator=(const returned_leases&) = delete;
    ~returned_leases() { clear(); }

    void push(lease_share* share) noexcept {
        const std::lock_guard lock{mutex_};
        share->next_returned = last_;
        last_ = share;
    }
    /// Calls `f(const lease_share&)` for each, oldest first, and frees them.
    template <class F>
    void take(F&& f) {
        lease_share* oldest = nullptr;
        {
            const std::lock_guard lock{mutex_};
            while (last_ != nullptr) {
                auto* const next = std::exchange(last_->next_returned, oldest);
                oldest = std::exchange(last_, next);
            }
        }
        while (oldest != nullptr) {
            const std::unique_ptr<lease_share> share{std::exchange(oldest, oldest->next_returned)};
            f(*share);
        }
    }
    bool empty() const noexcept {
        const std::lock_guard lock{mutex_};
        return last_ == nullptr;
    }
    void clear() noexcept {
        const std::lock_guard lock{mutex_};
        while (last_ != nullptr) delete std::exchange(last_, last_->next_returned);
    }

private:
    mutable std::mutex mutex_;
    lease_share* last_ = nullptr;
};

}  // namespace sshpool::detail
