#pragma once

#include <sshpool/detail/ssh_session.hpp>

#include <memory>
#include <utility>

namespace sshpool::detail {

/// What keeps a connection open: when the last handle has gone, and the last operation has ended, it is closed.
struct session_owner {
    explicit session_owner(std::shared_ptr<ssh_session> s) : session(std::move(s)) {}
    session_owner(const session_owner&) = delete;
    session_owner& operator=(const session_owner&) = delete;
    ~session_owner() {
        try {
            session->close({});
        } catch (...) {  // out of memory: the socket closes with the execution context
        }
    }
    std::shared_ptr<ssh_session> session;
};

}  // namespace sshpool::detail
