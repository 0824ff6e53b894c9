#pragma once

#include "steps.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace docker {

// Requests have constructors, as everything that may stand inside `co_await …(…)` with g++ 12.

/// A named volume, created if it is not there.
struct volume {
    volume(std::string volume_name, std::string mounted_at) : name(std::move(volume_name)), path(std::move(mounted_at)) {}
    std::string name;
    std::string path;  ///< where the container sees it; absolute
    bool read_only = false;
    std::string driver;                          ///< empty: docker's own
    std::map<std::string, std::string> options;  ///< for the driver; they stand in docker's arguments, so no secrets
};

enum class protocol { tcp, udp };
struct published_port {
    published_port(std::uint16_t on_host, std::uint16_t in_container, protocol p = protocol::tcp) : host(on_host), container(in_container), kind(p) {}
    std::uint16_t host;
    std::uint16_t container;
    protocol kind;
    std::string address;  ///< of the host; empty: all
};

struct limits {
    std::optional<double> cpus;
    std::optional<std::uint64_t> memory_mb;
    std::optional<std::uint64_t> shm_mb;
    std::vector<std::string> gpus;  ///< "all", or the devices' ids; empty: none
};

enum class restart_policy { never, on_failure, unless_stopped, always };
enum class pull_policy { always, if_missing, never };

struct registry_login {
    registry_login(std::string login_user, std::string login_password) : user(std::move(login_user)), password(std::move(login_password)) {}
    std::string server;  ///< empty: Docker Hub
    std::string user;
    std::string password;
};

/// An sshd inside the container. It is installed where it is missing, which needs the image's package manager and a network.
struct sshd_setup {
    sshd_setup() = default;
    std::uint16_t port = 22;  ///< inside the container
};

/// A notebook server inside a container.
struct jupyter_setup {
    explicit jupyter_setup(std::uint16_t port_in_container) : port(port_in_container) {}
    std::uint16_t port;               ///< where it listens in the container
    std::uint16_t reached_at = 0;     ///< the executor's port that leads there; 0: the same
    std::string token;                ///< 16 to 128 of [A-Za-z0-9_-]; empty: one is made
    std::string script;               ///< installs and starts it, from $port and $JUPYTER_TOKEN; empty: the one of container_scripts.hpp
    std::string probe_path = "/api";  ///< asked for until HTTP answers
};

struct create_request {
    create_request(std::string container_name, std::string image_name) : name(std::move(container_name)), image(std::move(image_name)) {}
    std::string name;
    std::string image;
    pull_policy pull = pull_policy::always;
    std::optional<registry_login> login;  ///< for the pull alone: kept in a directory of its own, which is removed after it
    bool replace = false;                 ///< a container of the same name is removed first
    std::vector<docker::volume> volumes;
    std::vector<published_port> ports;
    std::map<std::string, std::string> environment;  ///< values are secrets here: they go over standard input
    std::string entrypoint;
    std::vector<std::string> arguments;  ///< after the image; they stand in docker's arguments, so no secrets
    docker::limits limits;
    restart_policy restart = restart_policy::unless_stopped;
    std::string network;  ///< empty: docker's default
    std::optional<sshd_setup> sshd;
    std::vector<std::string> ssh_keys;  ///< lines as in authorized_keys, without options
    std::optional<jupyter_setup> jupyter;
};

struct delete_request {
    explicit delete_request(std::string container_name) : name(std::move(container_name)) {}
    std::string name;
    std::vector<std::string> volumes;  ///< removed after it
    bool prune_images = false;
};

/// What an operation gives back.
struct outcome {
    docker::phases phases;
    std::vector<std::string> warnings;  ///< what went wrong and did not matter
};
struct jupyter_server : outcome {
    std::uint16_t port = 0;  ///< on the executor
    std::string token;       ///< a secret
};
struct created_container : outcome {
    std::string id;
    std::string name;
    std::optional<jupyter_server> jupyter;
};
struct deleted_container : outcome {
    bool was_gone = false;
};

}  // namespace docker
