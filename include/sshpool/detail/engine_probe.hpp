#pragma once

#include <sshpool/detail/engine_op.hpp>

namespace sshpool::detail {

/// One round trip to the server: an `env` request that it refuses, on a spare channel; or, where a channel had to be opened for it, that open.
/// The channel is as good as before. (A server that takes any environment variable then has one more, without a meaning.)
class engine_probe : public engine_op {
public:
    engine_probe() { is_probe_ = true; }
    void attend() override {}

protected:
    // Defined beside the engine; inline here, or the vtable and all that it refers to would be in every translation unit.
    inline op_next step(session_engine& engine, engine_time now) override;
    void expire(session_engine& /*engine*/, engine_time /*now*/) override {}
    void lost(const session_engine& /*engine*/, const error_info& /*cause*/) override {}
    void refused(const error_info& /*cause*/) override {}

private:
    friend class session_engine;
    bool asked_ = false;
};

}  // namespace sshpool::detail
