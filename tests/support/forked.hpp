#pragma once

#include "support/wait.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <utility>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace support {

/// A child of this process, made by fork(): it has copies of everything, and one thread. It dies with the test.
class forked {
public:
    /// The child's exit status is what `child()` returns; 99 when that throws. Nothing of the test's is destroyed in it.
    template <class Child>
    explicit forked(Child&& child) {
        std::fflush(nullptr);  // or what is buffered would be printed twice
        pid_ = ::fork();
        if (pid_ < 0) throw std::runtime_error("fork failed");
        if (pid_ != 0) return;
        is_child_ = true;
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        int status = 99;
        try {
            status = std::forward<Child>(child)();
        } catch (const std::exception& e) {
            std::fprintf(stderr, "a forked child threw: %s\n", e.what());
        }
        ::_exit(status);
    }
    forked(const forked&) = delete;
    forked& operator=(const forked&) = delete;
    ~forked() {
        if (ended_) return;
        ::kill(pid_, SIGKILL);
        ended();
    }

    /// This process is such a child.
    static bool is_child() noexcept { return is_child_; }

    /// Its exit status, 128 + n when signal n ended it, -1 while it goes on after that long.
    int wait(std::chrono::milliseconds limit = std::chrono::seconds{20}) {
        if (!wait_until([this] { return ended(WNOHANG); }, limit)) return -1;
        return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
    }

private:
    bool ended(int how = 0) {
        if (ended_) return true;
        pid_t got = 0;
        while ((got = ::waitpid(pid_, &status_, how)) < 0 && errno == EINTR) {
        }
        return ended_ = got == pid_;
    }

    inline static bool is_child_ = false;
    pid_t pid_ = -1;
    int status_ = 0;
    bool ended_ = false;
};

}  // namespace support
