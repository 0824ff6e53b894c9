#pragma once

#include <sshpool/detail/engine_op.hpp>
#include <sshpool/error.hpp>

#include <utility>

namespace sshpool::detail {

/// An operation as a session carries it from a caller to its engine, and its error back.
class session_op : public engine_op {
public:
    /// The caller does not want the result any more.
    virtual void cancel(session_engine& engine, engine_time now) = 0;

    /// Why no server could be asked this; without a code where nothing is wrong with it.
    virtual error_info objection() const { return {}; }

    /// There is no engine that it could be given to.
    void reject(error_info why) {
        error_ = std::move(why);
        answered_ = true;
        attend();
    }

protected:
    void lost(const session_engine& /*engine*/, const error_info& cause) override { error_ = cause; }
    void refused(const error_info& cause) override { error_ = cause; }

    error_info error_;
};

}  // namespace sshpool::detail
