#pragma once

#include <sshpool/connection_info.hpp>

#include <cstdint>
#include <memory>
#include <utility>

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

}  // namespace sshpool::detail
