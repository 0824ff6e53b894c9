#include "docker_argv.hpp"

#include <cstdio>

namespace docker {
namespace {

std::string decimal(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
}

const char* name_of(restart_policy policy) {
    switch (policy) {
        case restart_policy::never:
            return "no";
        case restart_policy::on_failure:
            return "on-failure";
        case restart_policy::unless_stopped:
            return "unless-stopped";
        case restart_policy::always:
            return "always";
    }
    return "no";
}

/// Several devices are one value of docker's comma-separated list, hence the quotes that docker itself takes off.
std::string gpu_value(const std::vector<std::string>& gpus) {
    if (gpus.front() == "all") return "all";
    std::string value = "\"device=";
    for (const auto& id : gpus) value += (&id == &gpus.front() ? "" : ",") + id;
    return value + '"';
}

}  // namespace

words create_words(const create_request& wish, std::string_view request_id) {
    words w{"create", "--name=" + wish.name, "--label=" + label_of(request_id), std::string{"--restart="} + name_of(wish.restart)};
    if (!wish.network.empty()) w.push_back("--network=" + wish.network);
    for (const auto& p : wish.ports) {
        w.push_back("--publish=" + (p.address.empty() ? "" : p.address + ":") + std::to_string(p.host) + ":" + std::to_string(p.container) +
                    (p.kind == protocol::udp ? "/udp" : "/tcp"));
    }
    for (const auto& v : wish.volumes) w.push_back("--mount=type=volume,source=" + v.name + ",target=" + v.path + (v.read_only ? ",readonly" : ""));
    if (wish.limits.cpus) w.push_back("--cpus=" + decimal(*wish.limits.cpus));
    if (wish.limits.memory_mb) w.push_back("--memory=" + std::to_string(*wish.limits.memory_mb) + "m");
    if (wish.limits.shm_mb) w.push_back("--shm-size=" + std::to_string(*wish.limits.shm_mb) + "m");
    if (!wish.limits.gpus.empty()) w.push_back("--gpus=" + gpu_value(wish.limits.gpus));
    if (!wish.environment.empty()) w.emplace_back("--env-file=/dev/stdin");
    if (!wish.entrypoint.empty()) w.push_back("--entrypoint=" + wish.entrypoint);
    w.emplace_back("--");
    w.push_back(wish.image);
    w.insert(w.end(), wish.arguments.begin(), wish.arguments.end());
    return w;
}

words create_volume_words(const volume& wish, std::string_view request_id) {
    words w{"volume", "create", "--label=" + label_of(request_id)};
    if (!wish.driver.empty()) w.push_back("--driver=" + wish.driver);
    for (const auto& [key, value] : wish.options) w.push_back("--opt=" + key + "=" + value);
    w.emplace_back("--");
    w.push_back(wish.name);
    return w;
}

words login_words(const registry_login& login) {
    words w{"login", "--username=" + login.user, "--password-stdin", "--"};
    if (!login.server.empty()) w.push_back(login.server);
    return w;
}

std::string environment_file(const create_request& wish) {
    std::string text;
    for (const auto& [name, value] : wish.environment) text += name + "=" + value + "\n";
    return text;
}

}  // namespace docker
