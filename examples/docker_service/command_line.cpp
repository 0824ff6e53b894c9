#include "command_line.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>

namespace docker {

const std::string_view usage_text =
    "usage: docker_service OPERATION --target USER@HOST[:PORT] --key FILE --name CONTAINER [options]\n"
    "\n"
    "operations\n"
    "  create_container         --image IMAGE and what stands below\n"
    "  stop_container           [--grace SECONDS]\n"
    "  start_container\n"
    "  delete_container         [--volume NAME]... [--prune-images]\n"
    "  install_jupyter_server   --jupyter-port PORT [--jupyter-reached-at PORT] [--jupyter-script FILE]\n"
    "  add_ssh_key              --ssh-keys FILE\n"
    "  remove_ssh_keys          --ssh-keys FILE\n"
    "\n"
    "the way there\n"
    "  --target USER@HOST[:PORT]    the executor\n"
    "  --key FILE                   private key that logs in to it\n"
    "  --known-hosts FILE           host keys to trust (default: ~/.ssh/known_hosts)\n"
    "  --docker PROGRAM             what to call there (default: docker)\n"
    "  --docker-host URL            docker -H\n"
    "\n"
    "create_container\n"
    "  --image IMAGE                --pull always|if-missing|never (default: always)\n"
    "  --registry HOST --registry-user USER --registry-password-file FILE\n"
    "  --replace                    remove a container of that name first\n"
    "  --volume NAME:PATH[:ro]      --publish HOST:CONTAINER[/udp]\n"
    "  --env-file FILE              lines NAME=value\n"
    "  --entrypoint WORD            --argument WORD (repeated, in order)\n"
    "  --cpus N --memory-mb N --shm-mb N --gpu all|ID\n"
    "  --restart never|on-failure|unless-stopped|always   --network NAME\n"
    "  --sshd [--sshd-port PORT]    --ssh-keys FILE (public keys, one a line)\n"
    "  --jupyter-port PORT, --jupyter-reached-at PORT, --jupyter-script FILE\n"
    "\n"
    "  --progress                   what the steps print, on standard error\n"
    "\n"
    "Prints one JSON object. Exit status: 0 done; 1 failed on the executor; 2 a request that cannot be; 3 the executor was not reached, or the connection was "
    "lost; 130 interrupted (a create undoes what it did first).\n";

namespace {

std::string contents(std::string_view option, std::string_view file) {
    std::ifstream in(std::string{file}, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(in), {}};
    if (!in) throw usage_error(std::string{option} + ": cannot read " + std::string{file});
    return text;
}
std::vector<std::string> lines(std::string_view option, std::string_view file) {
    std::vector<std::string> found;
    const auto text = contents(option, file);
    for (std::size_t at = 0; at < text.size();) {
        const auto end = std::min(text.find('\n', at), text.size());
        if (end > at && text[at] != '#') found.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return found;
}

template <class T>
T number(std::string_view option, std::string_view text, T least, T most) {
    T value{};
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (ec != std::errc{} || end != text.data() + text.size() || !(value >= least && value <= most))
        throw usage_error(std::string{option} + " wants a number, not \"" + std::string{text} + '"');
    return value;
}
std::uint16_t port(std::string_view option, std::string_view text) { return number<std::uint16_t>(option, text, 1, std::numeric_limits<std::uint16_t>::max()); }

template <class T, std::size_t N>
T choice(std::string_view option, std::string_view text, const std::array<std::pair<std::string_view, T>, N>& all) {
    std::string names;
    for (const auto& [name, value] : all) {
        if (name == text) return value;
        names += (names.empty() ? "" : ", ") + std::string{name};
    }
    throw usage_error(std::string{option} + " wants one of " + names + ", not \"" + std::string{text} + '"');
}

published_port published(std::string_view text) {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) throw usage_error("--publish wants HOST:CONTAINER, not \"" + std::string{text} + '"');
    auto inside = text.substr(colon + 1);
    auto kind = protocol::tcp;
    if (inside.ends_with("/udp")) kind = protocol::udp;
    if (inside.ends_with("/udp") || inside.ends_with("/tcp")) inside.remove_suffix(4);
    return {port("--publish", text.substr(0, colon)), port("--publish", inside), kind};
}
volume mounted(std::string_view text) {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) throw usage_error("--volume wants NAME:PATH, not \"" + std::string{text} + '"');
    auto path = text.substr(colon + 1);
    const bool read_only = path.ends_with(":ro");
    if (read_only) path.remove_suffix(3);
    volume v{std::string{text.substr(0, colon)}, std::string{path}};
    v.read_only = read_only;
    return v;
}

constexpr std::array operations{"create_container",       "stop_container", "start_container", "delete_container",
                                "install_jupyter_server", "add_ssh_key",    "remove_ssh_keys"};

}  // namespace

command_line parse_command_line(const std::vector<std::string_view>& args) {
    command_line c;
    if (std::find(args.begin(), args.end(), "--help") != args.end()) {
        c.help = true;
        return c;
    }
    if (args.empty()) throw usage_error("no operation was given");
    c.operation = args[0];
    if (std::find(operations.begin(), operations.end(), args[0]) == operations.end()) throw usage_error("unknown operation \"" + c.operation + '"');
    const bool creates = c.operation == "create_container";
    const bool takes_keys = creates || c.operation == "add_ssh_key" || c.operation == "remove_ssh_keys";
    const bool installs = creates || c.operation == "install_jupyter_server";
    auto& wish = c.create.emplace("", "");
    std::string registry, registry_user, registry_password;
    std::optional<std::uint16_t> jupyter_port, jupyter_reached_at, sshd_port;
    std::string jupyter_script;
    for (std::size_t i = 1; i < args.size(); ++i) {
        const auto option = args[i];
        const auto value = [&]() -> std::string_view {
            if (i + 1 == args.size()) throw usage_error(std::string{option} + " wants a value");
            return args[++i];
        };
        if (option == "--target") {
            c.target = value();
        } else if (option == "--key") {
            c.key_file = value();
        } else if (option == "--known-hosts") {
            c.known_hosts_file = value();
        } else if (option == "--docker") {
            c.docker_program = {std::string{value()}};
        } else if (option == "--docker-host") {
            c.docker_host = value();
        } else if (option == "--progress") {
            c.progress = true;
        } else if (option == "--name") {
            c.name = value();
        } else if (option == "--grace" && c.operation == "stop_container") {
            c.grace = std::chrono::seconds{number<int>(option, value(), 0, 86400)};
        } else if (option == "--volume" && c.operation == "delete_container") {
            c.delete_volumes.emplace_back(value());
        } else if (option == "--prune-images" && c.operation == "delete_container") {
            c.prune_images = true;
        } else if (option == "--ssh-keys" && takes_keys) {
            for (auto& line : lines(option, value())) c.keys.push_back(std::move(line));
        } else if (option == "--jupyter-port" && installs) {
            jupyter_port = port(option, value());
        } else if (option == "--jupyter-reached-at" && installs) {
            jupyter_reached_at = port(option, value());
        } else if (option == "--jupyter-script" && installs) {
            jupyter_script = contents(option, value());
        } else if (!creates) {
            throw usage_error("unknown option \"" + std::string{option} + "\" of " + c.operation);
        } else if (option == "--image") {
            wish.image = value();
        } else if (option == "--pull") {
            wish.pull = choice(
                option, value(),
                std::array{std::pair{std::string_view{"always"}, pull_policy::always}, std::pair{std::string_view{"if-missing"}, pull_policy::if_missing},
                           std::pair{std::string_view{"never"}, pull_policy::never}});
        } else if (option == "--registry") {
            registry = value();
        } else if (option == "--registry-user") {
            registry_user = value();
        } else if (option == "--registry-password-file") {
            registry_password = contents(option, value());
            while (!registry_password.empty() && (registry_password.back() == '\n' || registry_password.back() == '\r')) registry_password.pop_back();
        } else if (option == "--replace") {
            wish.replace = true;
        } else if (option == "--volume") {
            wish.volumes.push_back(mounted(value()));
        } else if (option == "--publish") {
            wish.ports.push_back(published(value()));
        } else if (option == "--env-file") {
            for (const auto& line : lines(option, value())) {
                const auto equals = line.find('=');
                if (equals == std::string::npos) throw usage_error("--env-file: a line has no =");
                wish.environment[line.substr(0, equals)] = line.substr(equals + 1);
            }
        } else if (option == "--entrypoint") {
            wish.entrypoint = value();
        } else if (option == "--argument") {
            wish.arguments.emplace_back(value());
        } else if (option == "--cpus") {
            wish.limits.cpus = number<double>(option, value(), 0.01, 4096);
        } else if (option == "--memory-mb") {
            wish.limits.memory_mb = number<std::uint64_t>(option, value(), 1, 1U << 30U);
        } else if (option == "--shm-mb") {
            wish.limits.shm_mb = number<std::uint64_t>(option, value(), 1, 1U << 30U);
        } else if (option == "--gpu") {
            wish.limits.gpus.emplace_back(value());
        } else if (option == "--restart") {
            wish.restart = choice(
                option, value(),
                std::array{std::pair{std::string_view{"never"}, restart_policy::never}, std::pair{std::string_view{"on-failure"}, restart_policy::on_failure},
                           std::pair{std::string_view{"unless-stopped"}, restart_policy::unless_stopped},
                           std::pair{std::string_view{"always"}, restart_policy::always}});
        } else if (option == "--network") {
            wish.network = value();
        } else if (option == "--sshd") {
            wish.sshd.emplace();
        } else if (option == "--sshd-port") {
            sshd_port = port(option, value());
        } else {
            throw usage_error("unknown option \"" + std::string{option} + '"');
        }
    }
    if (c.target.empty()) throw usage_error("--target is missing");
    if (c.key_file.empty()) throw usage_error("--key is missing");
    if (c.name.empty()) throw usage_error("--name is missing");
    if (creates && wish.image.empty()) throw usage_error("--image is missing");
    if ((c.operation == "add_ssh_key" || c.operation == "remove_ssh_keys") && c.keys.empty())
        throw usage_error("--ssh-keys is missing, or the file holds no key");
    if (c.operation == "install_jupyter_server" && !jupyter_port) throw usage_error("--jupyter-port is missing");
    if (registry_user.empty() != registry_password.empty()) throw usage_error("--registry-user and --registry-password-file go together");
    if (!registry_user.empty()) {
        wish.login.emplace(registry_user, registry_password);
        wish.login->server = registry;
    }
    if (sshd_port) {
        if (!wish.sshd) throw usage_error("--sshd-port goes with --sshd");
        wish.sshd->port = *sshd_port;
    }
    if (jupyter_port) {
        auto& jupyter = wish.jupyter.emplace(*jupyter_port);
        jupyter.reached_at = jupyter_reached_at.value_or(0);
        jupyter.script = jupyter_script;
    }
    wish.name = c.name;
    wish.ssh_keys = c.keys;
    return c;
}

}  // namespace docker
