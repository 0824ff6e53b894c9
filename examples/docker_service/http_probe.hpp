#pragma once

#include "operation.hpp"

#include <asio/awaitable.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <system_error>

namespace docker {

struct http_answer {
    int status = 0;       ///< 0: there was none
    std::string why;      ///< then this says why
    std::error_code way;  ///< and this is set when it was the way to the executor that failed: that says nothing about the server
};

/// Asks the executor's own port `port` for `path`, through a tunnel on the pooled connection, and waits at most `limit`. Nothing that the answer holds is
/// trusted but its first line. Never throws for trouble: whoever asks tries again.
asio::awaitable<http_answer> probe_http(operation& op, step s, std::uint16_t port, std::string path, std::chrono::milliseconds limit);

}  // namespace docker
