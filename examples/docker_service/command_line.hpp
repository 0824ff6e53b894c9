#pragma once

#include "docker_argv.hpp"
#include "requests.hpp"

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace docker {

struct usage_error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

/// What the program was asked to do.
struct command_line {
    bool help = false;
    std::string operation;
    std::string target;  ///< "user@host:port"
    std::string key_file;
    std::string known_hosts_file;  ///< empty: ~/.ssh/known_hosts
    words docker_program{"docker"};
    std::string docker_host;
    bool progress = false;
    std::chrono::seconds grace{10};
    std::string name;
    std::vector<std::string> keys;
    std::optional<create_request> create;  ///< also holds `jupyter` for install_jupyter_server
    std::vector<std::string> delete_volumes;
    bool prune_images = false;
};

/// Reads the files that options name. Throws `usage_error` that names the option.
command_line parse_command_line(const std::vector<std::string_view>& args);

extern const std::string_view usage_text;

}  // namespace docker
