#pragma once

#include <sshpool/connection_info.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace sshpool::detail {

template <class Transport, class Clock>
class pool_driver;

/// Who lent a connection, as a lease sees it. Every call may come from any thread.
class lease_owner {
public:
    virtual void give_back(std::uint64_t connection, std::uint64_t lease) noexcept = 0;
    virtual void discard(std::uint64_t connection) noexcept = 0;
    virtual bool is_open() const noexcept = 0;
    virtual connection_info info(std::uint64_t connection) const = 0;

protected:
    ~lease_owner() = default;
};

/// What a lease and the operations started through it hold together; the lease is given back when the last of them ends.
struct lease_share {
    lease_share(std::shared_ptr<lease_owner> from, std::uint64_t connection_number, std::uint64_t lease_number)
        : owner(std::move(from)), connection(connection_number), lease(lease_number) {}
    lease_share(const lease_share&) = delete;
    lease_share& operator=(const lease_share&) = delete;
    ~lease_share() { owner->give_back(connection, lease); }

    const std::shared_ptr<lease_owner> owner;
    const std::uint64_t connection;
    const std::uint64_t lease;
};

/// Leases on their way back to the core. There is room for every lease from the moment it is lent, so giving back cannot fail.
class returned_leases {
public:
    struct entry {
        std::uint64_t connection;
        std::uint64_t lease;
    };

    void make_room() {
        const std::lock_guard lock{mutex_};
        ++lent_;
        if (list_.capacity() < lent_) list_.reserve(2 * lent_);
    }
    void push(entry returned) noexcept {
        const std::lock_guard lock{mutex_};
        list_.push_back(returned);
        any_ = true;
    }
    /// Moves everything over, oldest first. False when there is nothing.
    bool take(std::vector<entry>& into) {
        if (!any_) return false;
        const std::lock_guard lock{mutex_};
        into.assign(list_.begin(), list_.end());
        lent_ -= list_.size();
        list_.clear();
        any_ = false;
        return !into.empty();
    }

private:
    std::mutex mutex_;
    std::atomic<bool> any_{false};
    std::vector<entry> list_;
    std::size_t lent_ = 0;
};

}  // namespace sshpool::detail
