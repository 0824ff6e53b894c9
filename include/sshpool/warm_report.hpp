#pragma once

#include <sshpool/error.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace sshpool {

/// How `async_warm` ended for each of its targets.
struct warm_report {
    struct failure {
        std::string key;   ///< "user@host:port"
        error_info error;  ///< comparable with `errc`
    };
    std::size_t connected = 0;    ///< targets that are connected now, also those that were before
    std::vector<failure> failed;  ///< in the order in which they failed
};

}  // namespace sshpool
