#pragma once

#include <cerrno>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

/// While on, every packet that comes for this socket is dropped by the kernel, unanswered: to the other side it is gone. Linux alone.
inline void drop_packets(int fd, bool on) noexcept {
    sock_filter nothing{BPF_RET | BPF_K, 0, 0, 0};
    const sock_fprog program{1, &nothing};
    if (on) {
        ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    } else {
        ::setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &program, sizeof program);
    }
}

/// A listening TCP socket on 127.0.0.1 with a port of its own, and an event that wakes the thread which serves it.
class loopback_listener {
public:
    explicit loopback_listener(const std::string& whose) : whose_(whose), place_(bound(0)), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
        sockaddr_in here{};
        socklen_t size = sizeof here;
        if (wake_ < 0 || ::getsockname(place_, reinterpret_cast<sockaddr*>(&here), &size) != 0) fail();
        port_ = ntohs(here.sin_port);
        listen();
    }
    loopback_listener(const loopback_listener&) = delete;
    loopback_listener& operator=(const loopback_listener&) = delete;
    ~loopback_listener() {
        stop_listening();
        ::close(place_);
        ::close(wake_);
    }

    std::uint16_t port() const noexcept { return port_; }
    bool listens() const noexcept { return listener_ >= 0; }

    void listen() {
        if (listens()) return;
        listener_ = bound(port_);
        if (::listen(listener_, 512) != 0) fail();
    }
    /// Connecting is refused from now on; the port stays this object's.
    void stop_listening() noexcept {
        if (listens()) {
            ::shutdown(listener_, SHUT_RDWR);  // at once, even while a thread polls it
            ::close(listener_);
        }
        listener_ = -1;
    }
    /// While on, connecting is not even refused.
    void drop(bool on) const noexcept { drop_packets(listener_, on); }
    /// A connection that waits, non-blocking; -1: none does.
    int accept() const noexcept { return ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); }

    pollfd polled_listener() const noexcept { return {listener_, POLLIN, 0}; }
    pollfd polled_wake() const noexcept { return {wake_, POLLIN, 0}; }
    void wake() const noexcept {
        const std::uint64_t one = 1;
        while (::write(wake_, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
    void forget_wakes() const noexcept {
        std::uint64_t ignored = 0;
        while (::read(wake_, &ignored, sizeof ignored) < 0 && errno == EINTR) {
        }
    }

private:
    int bound(std::uint16_t port) const {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in here{};
        here.sin_family = AF_INET;
        here.sin_port = htons(port);
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const int on = 1;  // the socket that keeps the port and the one that listens there
        if (fd < 0 || ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&here), sizeof here) != 0)
            fail();
        return fd;
    }
    [[noreturn]] void fail() const { throw std::runtime_error(whose_ + " cannot listen"); }

    std::string whose_;
    int place_ = -1;
    int listener_ = -1;
    int wake_ = -1;
    std::uint16_t port_ = 0;
};

/// Ends a connection with a reset.
inline void reset_connection(int fd) noexcept {
    const linger hard{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    ::close(fd);
}

}  // namespace support
