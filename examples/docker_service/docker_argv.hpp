#pragma once

#include "requests.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace docker {

using words = std::vector<std::string>;

/// Every container and volume that a create made carries it with a number of its own, so that cleaning up finds those and no others.
inline std::string label_of(std::string_view request_id) { return "sshpool.request=" + std::string{request_id}; }

// docker's arguments, each a word by itself: nothing here is read by a shell, and nothing secret stands here. The requests have been checked.

/// `docker create`, for an environment file on standard input.
words create_words(const create_request& wish, std::string_view request_id);
words create_volume_words(const volume& wish, std::string_view request_id);
/// `docker login`, for the password on standard input.
words login_words(const registry_login& login);

/// The environment file: a line a variable.
std::string environment_file(const create_request& wish);

}  // namespace docker
