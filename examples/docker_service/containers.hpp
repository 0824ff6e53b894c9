#pragma once

#include "operation.hpp"
#include "requests.hpp"
#include "ssh_keys.hpp"

#include <asio/awaitable.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace docker {

// The steps that several operations share.

struct container_state {
    std::string id;
    std::string state;  ///< "created", "running", "exited", …
    bool running() const noexcept { return state == "running"; }
};

/// Looks for a container by its exact name or whole id.
asio::awaitable<std::optional<container_state>> find_container(operation& op, std::string name);

/// `result` is of a docker command about `name` that failed: says why, from how things stand there, not from docker's words.
asio::awaitable<void> fail_for_container(operation& op, step s, std::string name, sshpool::command_result result);

/// Until docker says "running". One that has ended is `errc::container_exited`, with its last words; trouble with the way there says nothing about it.
asio::awaitable<void> wait_until_running(operation& op, std::string name);

/// Runs a program of container_scripts.hpp in the container, as its root, and gives what it printed.
asio::awaitable<std::string> run_inside(operation& op, step s, std::string name, std::string program);

asio::awaitable<void> put_keys(operation& op, std::string name, std::vector<ssh_public_key> keys);
asio::awaitable<void> drop_keys(operation& op, std::string name, std::vector<ssh_public_key> keys);

/// Installs, starts, and waits for the answer. The token is `wish.token`.
asio::awaitable<void> set_up_jupyter(operation& op, std::string name, jupyter_setup wish);

}  // namespace docker
