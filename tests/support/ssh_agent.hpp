#pragma once

#include "support/process.hpp"
#include "support/temp_dir.hpp"
#include "support/wait.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace support {

/// An environment variable for the length of a test.
class scoped_env {
public:
    scoped_env(const char* name, const std::string& value) : name_(name) {
        if (const char* old = std::getenv(name)) before_ = old;
        ::setenv(name, value.c_str(), 1);
    }
    scoped_env(const scoped_env&) = delete;
    scoped_env& operator=(const scoped_env&) = delete;
    ~scoped_env() {
        if (before_) {
            ::setenv(name_, before_->c_str(), 1);
        } else {
            ::unsetenv(name_);
        }
    }

private:
    const char* name_;
    std::optional<std::string> before_;
};

/// OpenSSH's agent, private to the test.
class ssh_agent {
public:
    ssh_agent() : process_({"ssh-agent", "-D", "-a", socket()}) {
        if (!wait_until([&] { return std::filesystem::exists(socket()) || !process_.running(); }) || !process_.running())
            throw std::runtime_error("ssh-agent does not start: " + process_.output());
    }
    std::string socket() const { return (dir_ / "agent").string(); }
    void add(const std::filesystem::path& key) { ssh_add({key.string()}); }
    void lock(const std::string& word) { ssh_add({"-x"}, word + "\n"); }
    void suspend() { process_.signal(SIGSTOP); }

private:
    void ssh_add(std::vector<std::string> words, const std::string& typed = {}) {
        std::vector<std::string> argv{"ssh-add", "-q"};
        argv.insert(argv.end(), words.begin(), words.end());
        const auto ask = dir_ / "ask";
        write_file(ask, "#!/bin/sh\necho '" + typed.substr(0, typed.find('\n')) + "'\n");
        std::filesystem::permissions(ask, std::filesystem::perms{0700});
        spawn_options o;
        o.env = {"SSH_AUTH_SOCK=" + socket(), "PATH=/usr/local/bin:/usr/bin:/bin", "SSH_ASKPASS=" + ask.string(), "SSH_ASKPASS_REQUIRE=force"};
        run_program(std::move(argv), std::move(o));
    }

    temp_dir dir_;
    process process_;
};

/// An agent that answers as a test wants: the function gets each request and gives the bytes to send, length and all; none: silence; "close": an end.
class scripted_agent {
public:
    using script = std::function<std::string(const std::string& request)>;

    explicit scripted_agent(script answer) : answer_(std::move(answer)) {
        sockaddr_un where{};
        where.sun_family = AF_UNIX;
        const auto path = socket();
        std::memcpy(where.sun_path, path.data(), path.size());
        listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (listener_ < 0 || ::bind(listener_, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 || ::listen(listener_, 16) != 0)
            throw std::runtime_error("scripted_agent cannot listen");
        wake_ = ::eventfd(0, EFD_CLOEXEC);
        thread_ = std::thread([this] { serve(); });
    }
    scripted_agent(const scripted_agent&) = delete;
    scripted_agent& operator=(const scripted_agent&) = delete;
    ~scripted_agent() {
        const std::uint64_t one = 1;
        if (::write(wake_, &one, sizeof one) < 0) std::abort();
        thread_.join();
        ::close(listener_);
        ::close(wake_);
    }
    std::string socket() const { return (dir_ / "agent").string(); }
    int questions() const noexcept { return questions_; }

private:
    bool ready(int fd) const {
        pollfd p[2] = {{fd, POLLIN, 0}, {wake_, POLLIN, 0}};
        return ::poll(p, 2, -1) > 0 && (p[1].revents & POLLIN) == 0;
    }
    void serve() {
        while (ready(listener_)) {
            const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            talk(fd);
            ::close(fd);
        }
    }
    void talk(int fd) {
        std::string heard;
        while (ready(fd)) {
            char buffer[4096];
            const auto n = ::recv(fd, buffer, sizeof buffer, 0);
            if (n <= 0) return;
            heard.append(buffer, static_cast<std::size_t>(n));
            const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(heard[i])); };
            if (heard.size() < 4 || heard.size() < 4 + (byte(0) << 24U | byte(1) << 16U | byte(2) << 8U | byte(3))) continue;
            ++questions_;
            const auto reply = answer_(heard.substr(4));
            heard.clear();
            if (reply == "close") return;
            if (::send(fd, reply.data(), reply.size(), MSG_NOSIGNAL) < 0) return;
        }
    }

    temp_dir dir_;
    script answer_;
    int listener_ = -1;
    int wake_ = -1;
    std::atomic<int> questions_{0};
    std::thread thread_;
};

}  // namespace support
