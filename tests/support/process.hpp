#pragma once

#include "support/wait.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace support {

/// How a child process is started.
struct spawn_options {
    std::vector<std::string> env;      ///< "NAME=value": the whole environment; empty: this process's own
    std::optional<unsigned> run_as;    ///< user and group to become, when root
    std::optional<std::string> input;  ///< standard input; none: /dev/null. At most 64 KiB
    bool capture = true;               ///< standard output and error; false: they go where the test's go
};

/// A child process that dies with the test: killed by the destructor, and by the kernel when the thread that started it ends.
class process {
public:
    explicit process(std::vector<std::string> argv, spawn_options options = {}) : name_(argv.at(0)) {
        std::vector<char*> args;
        for (auto& a : argv) args.push_back(a.data());
        args.push_back(nullptr);
        std::vector<char*> env;
        for (auto& e : options.env) env.push_back(e.data());
        env.push_back(nullptr);
        char** const environment = options.env.empty() ? environ : env.data();

        int in[2] = {-1, -1};
        int out[2] = {-1, -1};
        if (options.input && ::pipe2(in, O_CLOEXEC) != 0) fail("pipe");
        if (options.capture && ::pipe2(out, O_CLOEXEC) != 0) fail("pipe");
        const pid_t parent = ::getpid();
        pid_ = ::fork();
        if (pid_ < 0) fail("fork");
        if (pid_ == 0) {  // only async-signal-safe calls from here to exec: other threads may hold locks
            const int null = options.input ? in[0] : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
            ::dup2(null, 0);
            if (options.capture) {
                ::dup2(out[1], 1);
                ::dup2(out[1], 2);
            }
            if (options.run_as) {
                const auto id = *options.run_as;
                if (::setgroups(0, nullptr) != 0 || ::setresgid(id, id, id) != 0 || ::setresuid(id, id, id) != 0) ::_exit(126);
            }
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // after setuid, which clears it
            if (::getppid() != parent) ::_exit(125);
            sigset_t none;
            ::sigemptyset(&none);
            ::sigprocmask(SIG_SETMASK, &none, nullptr);
            ::execvpe(args[0], args.data(), environment);
            ::_exit(127);
        }
        if (options.input) {
            ::close(in[0]);
            const ssize_t written = ::write(in[1], options.input->data(), options.input->size());
            ::close(in[1]);
            if (written != static_cast<ssize_t>(options.input->size())) throw std::runtime_error(name_ + ": the input does not fit the pipe");
        }
        if (options.capture) {
            ::close(out[1]);
            output_fd_ = out[0];
            ::fcntl(output_fd_, F_SETFL, O_NONBLOCK);
        }
    }
    process(process&& other) noexcept
        : name_(std::move(other.name_)),
          output_(std::move(other.output_)),
          pid_(std::exchange(other.pid_, -1)),
          output_fd_(std::exchange(other.output_fd_, -1)),
          status_(other.status_) {}
    process& operator=(process&&) = delete;
    ~process() {
        if (pid_ > 0 && !status_) {
            ::kill(pid_, SIGKILL);
            int status = 0;
            while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
            }
        }
        if (output_fd_ >= 0) ::close(output_fd_);
    }

    pid_t pid() const noexcept { return pid_; }
    void signal(int number) const {
        if (!status_) ::kill(pid_, number);
    }

    /// The raw wait status once it has ended. Never blocks.
    std::optional<int> poll_status() {
        read_output();
        if (!status_) {
            int status = 0;
            if (::waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
            read_output();
        }
        return status_;
    }
    bool running() { return !poll_status(); }

    /// Waits for its end and gives the exit status, 128 + n when signal n ended it. Past the limit it is killed, and this throws.
    int wait(std::chrono::milliseconds limit = std::chrono::seconds{30}) {
        if (!wait_until([&] { return poll_status().has_value(); }, limit)) {
            ::kill(pid_, SIGKILL);
            throw std::runtime_error(name_ + " did not end within " + std::to_string(limit.count()) + " ms; it printed: " + output_);
        }
        return WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 128 + WTERMSIG(*status_);
    }

    /// What it has printed so far, both streams.
    const std::string& output() {
        read_output();
        return output_;
    }

private:
    [[noreturn]] void fail(const char* what) const { throw std::system_error(errno, std::system_category(), name_ + ": " + what); }
    void read_output() {
        char buffer[4096];
        while (output_fd_ >= 0) {
            const ssize_t n = ::read(output_fd_, buffer, sizeof buffer);
            if (n > 0) {
                output_.append(buffer, static_cast<std::size_t>(n));
            } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
                ::close(std::exchange(output_fd_, -1));
            } else if (errno == EAGAIN) {
                return;
            }
        }
    }

    std::string name_;
    std::string output_;
    pid_t pid_ = -1;
    int output_fd_ = -1;
    std::optional<int> status_;
};

/// Runs a program to its end and gives its output; throws when it fails.
inline std::string run_program(std::vector<std::string> argv, spawn_options options = {}) {
    const std::string name = argv.at(0);
    process child(std::move(argv), std::move(options));
    const int status = child.wait();
    if (status != 0) throw std::runtime_error(name + " gave " + std::to_string(status) + ": " + child.output());
    return child.output();
}

}  // namespace support
