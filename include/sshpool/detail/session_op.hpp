#pragma once

#include <sshpool/detail/exec_op.hpp>

#include <cstddef>
#include <utility>

namespace sshpool::detail {

/// A command as the session carries it from a caller to its engine.
class session_op : public exec_op {
public:
    using exec_op::exec_op;

    std::size_t line_size() const noexcept { return what().line().size(); }

    /// There is no engine that it could be given to.
    void reject(error_info why) {
        error_ = std::move(why);
        answered_ = true;
        attend();
    }
};

}  // namespace sshpool::detail
