#pragma once

#include <sshpool/detail/byte_stream.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <system_error>

namespace sshpool::detail {

/// How a session gets the stream that it runs over. On the session's strand; completes at most once, never from within `start`, not at all after `cancel`.
class stream_connect {
public:
    using clock = std::chrono::steady_clock;
    struct result {
        std::error_code code;  // an errc; empty on success
        std::string phase;
        std::string text;  // what went wrong, to be put after "HOST could not be reached: "
        std::unique_ptr<byte_stream> stream;
        std::chrono::nanoseconds resolve{};
        std::chrono::nanoseconds tcp{};
    };
    using handler = std::function<void(result)>;

    stream_connect() = default;
    stream_connect(const stream_connect&) = delete;
    stream_connect& operator=(const stream_connect&) = delete;
    virtual ~stream_connect() = default;

    virtual void start(const std::string& host, std::uint16_t port, clock::time_point deadline) = 0;
    virtual void cancel() noexcept = 0;

    /// What is being done, and what failed so far: for whoever runs out of patience.
    virtual std::string phase() const = 0;
    virtual std::string failures() const { return {}; }
};

/// Makes one for a strand, with whom to tell.
using stream_connect_factory = std::function<std::shared_ptr<stream_connect>(const session_strand&, stream_connect::handler)>;

}  // namespace sshpool::detail
