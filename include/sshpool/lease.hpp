#pragma once

#include <sshpool/connection_info.hpp>
#include <sshpool/detail/lease_share.hpp>

#include <memory>
#include <optional>
#include <utility>

namespace sshpool {

/// A pooled connection, lent. Move-only; gives the connection back when it goes.
///
/// Every operation started through a lease keeps its own share of it: the connection counts as leased until the last of them has
/// ended, even if the lease goes first.
///
/// **Threads**: one lease is used by one thread at a time, as any value; it may go on any thread.
/// **Lifetime**: it may outlive its pool and the io_context. It is then dead: `operator bool` is false, going away does nothing.
template <class Transport>
class lease {
public:
    lease() = default;
    lease(lease&& other) noexcept : handle_(std::move(other.handle_)), share_(std::move(other.share_)) { other.handle_.reset(); }
    lease& operator=(lease&& other) noexcept {
        if (this != &other) {
            release();
            handle_ = std::move(other.handle_);
            share_ = std::move(other.share_);
            other.handle_.reset();
        }
        return *this;
    }
    lease(const lease&) = delete;
    lease& operator=(const lease&) = delete;
    ~lease() { release(); }

    /// The connection. It never looks into the pool. Not to be used on an empty lease.
    Transport* operator->() const noexcept { return &*handle_; }
    Transport& operator*() const noexcept { return *handle_; }

    /// False for an empty lease, and for one whose pool or io_context is gone.
    explicit operator bool() const noexcept { return share_ != nullptr && share_->owner->is_open(); }

    /// Gives the connection back now instead of when the lease goes. Nothing happens on an empty lease.
    void release() noexcept {
        handle_.reset();
        share_.reset();
    }

    /// Says that the connection is to be lent no more: it closes when its other holders have finished in peace.
    void discard() noexcept {
        if (share_ != nullptr) share_->owner->discard(share_->connection);
        release();
    }

    /// What the pool knows of the connection now; default values for an empty lease or when the connection has left the pool.
    /// Takes the pool's mutex for a moment.
    connection_info info() const { return share_ != nullptr ? share_->owner->info(share_->connection) : connection_info{}; }

private:
    template <class, class>
    friend class detail::pool_driver;
    lease(Transport handle, std::shared_ptr<detail::lease_share> share) : handle_(std::move(handle)), share_(std::move(share)) {}

    mutable std::optional<Transport> handle_;
    std::shared_ptr<detail::lease_share> share_;
};

}  // namespace sshpool
