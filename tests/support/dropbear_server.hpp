#pragma once

#include "support/sshd_server.hpp"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace support {

/// A private dropbear on loopback: another implementation of SSH than OpenSSH's. It serves the user, the home and the keys of an sshd that runs beside it.
class dropbear_server {
public:
    explicit dropbear_server(std::vector<std::string> options = {}) : beside_(with_password()), options_(std::move(options)) {
        const auto key = (beside_.dir() / "dropbear_key").string();
        const auto made = run_program({"dropbearkey", "-t", "ed25519", "-f", key});
        const auto at = made.find("ssh-ed25519 ");
        host_key_ = made.substr(at, made.find(' ', at + 12) - at);
        give(key);
        std::filesystem::create_directory(beside_.home() / ".ssh");
        std::filesystem::permissions(beside_.home() / ".ssh", std::filesystem::perms{0755});
        authorize(beside_.client_key());
        for (int attempt = 0; attempt < 20; ++attempt) {
            port_ = free_port();
            if (try_start(key)) {
                write_file(known_hosts(), "[127.0.0.1]:" + std::to_string(port_) + " " + host_key_ + "\n");
                return;
            }
        }
        throw std::runtime_error("dropbear does not start: " + last_words_);
    }

    std::uint16_t port() const noexcept { return port_; }
    std::string host() const { return "127.0.0.1"; }
    std::string user() const { return beside_.user(); }
    std::string password() const { return beside_.password(); }
    std::string address() const { return address(host(), port_); }
    std::string address(const std::string& host, std::uint16_t port) const { return beside_.address(host, port); }
    std::filesystem::path known_hosts() const { return beside_.dir() / "dropbear_known_hosts"; }
    const std::filesystem::path& client_key() const noexcept { return beside_.client_key(); }
    const std::filesystem::path& home() const noexcept { return beside_.home(); }
    /// One more authorised key, of any type.
    std::filesystem::path make_client_key(const std::string& type) {
        auto key = beside_.make_stranger_key(type);
        authorize(key);
        return key;
    }
    std::filesystem::path make_stranger_key() { return beside_.make_stranger_key(); }
    std::string log() { return process_->output(); }
    /// The process that serves the first connection; 0: there was none.
    pid_t session_process() {
        const auto text = log();
        const auto end = text.find("] ", text.find("Not backgrounding"));
        const auto begin = end == std::string::npos ? end : text.rfind('[', end);
        return begin == std::string::npos || text.find("Child connection", end) == std::string::npos ? 0 : std::stoi(text.substr(begin + 1));
    }

private:
    static sshd_server::options with_password() {
        sshd_server::options o;
        o.password_login = true;
        return o;
    }
    void give(const std::filesystem::path& file) const {
        std::filesystem::permissions(file, std::filesystem::perms{0644});
        if (const auto id = beside_.run_as(); id && ::chown(file.c_str(), *id, *id) != 0) throw std::runtime_error("cannot chown " + file.string());
    }
    void authorize(const std::filesystem::path& key) {
        authorized_ += read_file(key.string() + ".pub");
        const auto file = beside_.home() / ".ssh" / "authorized_keys";
        write_file(file, authorized_);
        give(file);
        give_directory();
    }
    void give_directory() const {
        const auto directory = beside_.home() / ".ssh";
        if (const auto id = beside_.run_as(); id && ::chown(directory.c_str(), *id, *id) != 0) throw std::runtime_error("cannot chown " + directory.string());
    }
    bool try_start(const std::string& key) {
        std::vector<std::string> argv{
            "dropbear", "-F", "-E", "-e", "-m", "-r", key, "-P", (beside_.home() / "pid").string(), "-p", "127.0.0.1:" + std::to_string(port_)};
        argv.insert(argv.end(), options_.begin(), options_.end());
        spawn_options o;
        o.run_as = beside_.run_as();
        o.env = beside_.environment();
        process_ = std::make_unique<process>(std::move(argv), std::move(o));
        const auto listens = [&] { return process_->output().find("Not backgrounding") != std::string::npos; };
        wait_until([&] { return !process_->running() || listens(); });
        last_words_ = process_->output();
        return process_->running() && last_words_.find("Failed listening") == std::string::npos;
    }

    sshd_server beside_;
    std::vector<std::string> options_;
    std::string host_key_;
    std::string authorized_;
    std::string last_words_;
    std::uint16_t port_ = 0;
    std::unique_ptr<process> process_;
};

}  // namespace support
