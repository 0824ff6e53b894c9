#include "validate.hpp"

#include "ssh_keys.hpp"
#include "utf8.hpp"

#include <cmath>
#include <cstddef>
#include <set>
#include <stdexcept>
#include <string>

namespace docker {
namespace {

constexpr std::string_view letters_and_digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

[[noreturn]] void refuse(std::string_view what, std::string_view text, std::string_view why) {
    std::string shown;
    for (const char c : text.substr(0, 80)) shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    throw std::invalid_argument(std::string{what} + " \"" + shown + (text.size() > 80 ? "…" : "") + "\" " + std::string{why});
}

bool only(std::string_view text, std::string_view more) {
    for (const char c : text) {
        if (letters_and_digits.find(c) == std::string_view::npos && more.find(c) == std::string_view::npos) return false;
    }
    return true;
}

bool has_control(std::string_view text) {
    for (const char c : text) {
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) return true;
    }
    return false;
}

bool is_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto length = utf8_length(text, at);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

/// Begins with a letter or digit, so that it is never an option.
void check_word(std::string_view what, std::string_view text, std::string_view more, std::size_t shortest, std::size_t longest) {
    if (text.size() < shortest || text.size() > longest || !only(text.substr(0, 1), "") || !only(text, more))
        refuse(what, text,
               "is refused: it must begin with a letter or digit, then letters, digits and " + std::string{more} + ", " + std::to_string(shortest) + " to " +
                   std::to_string(longest) + " characters");
}

void check(const volume& v) {
    check_volume_name(v.name);
    if (v.path.size() < 2 || v.path.size() > 4096 || v.path.front() != '/') refuse("the volume's path", v.path, "must be absolute, and not / itself");
    if (has_control(v.path) || v.path.find_first_of(",\"\t") != std::string::npos)
        refuse("the volume's path", v.path, "holds a comma, a quote or a control character");
    if (!v.driver.empty()) check_word("the volume driver", v.driver, "_./:-", 1, 255);
    for (const auto& [key, value] : v.options) {
        check_word("the volume option", key, "_.-", 1, 255);
        if (has_control(value) || value.size() > 4096)
            throw std::invalid_argument("the value of volume option " + key + " is too long or holds a control character");
    }
}

void check_port(std::string_view what, std::uint16_t port) {
    if (port == 0) throw std::invalid_argument(std::string{what} + " must not be 0");
}

void check(const limits& l) {
    if (l.cpus && (!std::isfinite(*l.cpus) || *l.cpus < 0.01 || *l.cpus > 4096)) throw std::invalid_argument("cpus must be from 0.01 to 4096");
    if (l.memory_mb && (*l.memory_mb < 6 || *l.memory_mb > 1U << 30U)) throw std::invalid_argument("memory_mb must be at least 6, docker's own bound");
    if (l.shm_mb && (*l.shm_mb < 1 || *l.shm_mb > 1U << 30U)) throw std::invalid_argument("shm_mb must be at least 1");
    for (const auto& id : l.gpus) {
        check_word("the GPU", id, "-", 1, 64);
        if (id == "all" && l.gpus.size() > 1) throw std::invalid_argument("gpus: either \"all\" or ids");
    }
}

void check(const registry_login& login) {
    if (login.user.empty() || login.user.size() > 255 || has_control(login.user) || login.user.front() == '-')
        refuse("the registry's user", login.user, "is empty, too long, begins with a dash or holds a control character");
    if (login.password.empty() || login.password.size() > 16384 || has_control(login.password))
        throw std::invalid_argument("the registry's password is empty, too long or holds a control character");
    if (!login.server.empty()) check_word("the registry", login.server, "._:/-", 1, 255);
}

}  // namespace

void check_container_name(std::string_view name) { check_word("the container name", name, "_.-", 2, 128); }
void check_volume_name(std::string_view name) { check_word("the volume name", name, "_.-", 2, 255); }
void check_image(std::string_view image) { check_word("the image", image, "_./:@-", 1, 512); }

void check(const jupyter_setup& wish) {
    check_port("Jupyter's port", wish.port);
    if (!wish.token.empty() && (wish.token.size() < 16 || wish.token.size() > 128 || !only(wish.token, "_-")))
        throw std::invalid_argument("Jupyter's token must be 16 to 128 letters, digits, _ and -");
    if (wish.script.find('\0') != std::string::npos) throw std::invalid_argument("Jupyter's script holds a NUL byte");
    if (wish.probe_path.empty() || wish.probe_path.front() != '/' || wish.probe_path.size() > 1024 || has_control(wish.probe_path) ||
        wish.probe_path.find_first_of(" \t") != std::string::npos)
        refuse("Jupyter's path", wish.probe_path, "must begin with / and hold no space or control character");
}

void check(const create_request& wish) {
    check_container_name(wish.name);
    check_image(wish.image);
    if (wish.login) check(*wish.login);
    std::set<std::string> paths;
    for (const auto& v : wish.volumes) {
        check(v);
        if (!paths.insert(v.path).second) refuse("the volume's path", v.path, "stands there twice");
    }
    for (const auto& p : wish.ports) {
        check_port("a published port of the host", p.host);
        check_port("a published port of the container", p.container);
        if (!p.address.empty() && p.address.find_first_not_of("0123456789abcdefABCDEF.:[]") != std::string::npos)
            refuse("the address", p.address, "is no IP address");
    }
    for (const auto& [name, value] : wish.environment) {
        if (name.empty() || name.size() > 255 || !only(name, "_") || (name.front() >= '0' && name.front() <= '9'))
            refuse("the environment variable", name, "is refused: letters, digits and _, not beginning with a digit");
        // docker reads a file of lines, and prints a line that is no UTF-8
        if (value.find_first_of(std::string_view{"\n\r\0", 3}) != std::string::npos)
            throw std::invalid_argument("the value of " + name + " has more than one line, or a NUL byte");
        if (!is_utf8(value)) throw std::invalid_argument("the value of " + name + " is no UTF-8");
        if (value.size() > 32768) throw std::invalid_argument("the value of " + name + " is longer than 32 KiB");
    }
    if (!wish.entrypoint.empty() && (has_control(wish.entrypoint) || wish.entrypoint.size() > 4096))
        refuse("the entrypoint", wish.entrypoint, "is too long or holds a control character");
    std::size_t length = 0;
    for (const auto& word : wish.arguments) {
        length += word.size();
        if (word.find('\0') != std::string::npos || length > 16384)
            throw std::invalid_argument("the arguments are longer than 16 KiB together, or hold a NUL byte");
    }
    check(wish.limits);
    if (!wish.network.empty()) check_word("the network", wish.network, "_.:-", 1, 255);
    if (wish.sshd) check_port("sshd's port", wish.sshd->port);
    for (const auto& key : wish.ssh_keys) parse_public_key(key);
    if (wish.jupyter) check(*wish.jupyter);
}

void check(const delete_request& wish) {
    check_container_name(wish.name);
    for (const auto& v : wish.volumes) check_volume_name(v);
}

}  // namespace docker
