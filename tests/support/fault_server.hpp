#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

/// What a fault_server does with every connection it gets.
enum class fault {
    silence,         ///< takes the connection and never says a word
    close_at_once,   ///< an orderly end before the first byte, as sshd does past MaxStartups
    reset_at_once,   ///< the same with a reset
    garbage,         ///< random bytes, endlessly; always the same ones
    endless_banner,  ///< lines before the version line, as the protocol allows, but without end
    endless_line,    ///< one line without end
    say,             ///< the given bytes, then silence
    say_and_close,   ///< the given bytes, then an orderly end
};

/// A TCP server on loopback that misbehaves on purpose. Reads and counts whatever it is sent.
class fault_server {
public:
    explicit fault_server(fault what, std::string bytes = {}) : what_(what), bytes_(std::move(bytes)) {
        listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in here{};
        here.sin_family = AF_INET;
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof here;
        auto* const generic = reinterpret_cast<sockaddr*>(&here);
        if (listener_ < 0 || ::bind(listener_, generic, size) != 0 || ::listen(listener_, 512) != 0 || ::getsockname(listener_, generic, &size) != 0)
            throw std::runtime_error("fault_server cannot listen");
        port_ = ntohs(here.sin_port);
        wake_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        std::minstd_rand random{7};
        for (auto& c : noise_) c = static_cast<char>(random());
        thread_ = std::thread([this] { run(); });
    }
    fault_server(const fault_server&) = delete;
    fault_server& operator=(const fault_server&) = delete;
    ~fault_server() {
        stop_ = true;
        const std::uint64_t one = 1;
        while (::write(wake_, &one, sizeof one) < 0 && errno == EINTR) {
        }
        thread_.join();
        ::close(listener_);
        ::close(wake_);
    }

    std::string host() const { return "127.0.0.1"; }
    std::uint16_t port() const noexcept { return port_; }
    std::size_t connections() const noexcept { return connections_; }            ///< accepted so far
    std::size_t open_connections() const noexcept { return open_connections_; }  ///< now
    std::uint64_t received() const noexcept { return received_; }                ///< bytes, of all connections
    std::uint64_t sent() const noexcept { return sent_; }

private:
    struct peer {
        int fd;
        std::size_t said = 0;
    };

    bool endless() const noexcept { return what_ == fault::garbage || what_ == fault::endless_banner || what_ == fault::endless_line; }
    bool has_more(const peer& p) const noexcept { return endless() || p.said < bytes_.size(); }

    bool say(peer& p) {  // false: the connection is over
        static const std::string banner = "Please wait while the system comes up.\r\n";
        static const std::string line(4096, 'x');
        const char* from = noise_.data() + p.said % noise_.size();
        std::size_t size = noise_.size() - p.said % noise_.size();
        if (what_ == fault::endless_banner) {
            from = banner.data() + p.said % banner.size();
            size = banner.size() - p.said % banner.size();
        } else if (what_ == fault::endless_line) {
            from = line.data();
            size = line.size();
        } else if (!endless()) {
            from = bytes_.data() + p.said;
            size = bytes_.size() - p.said;
        }
        const ssize_t n = ::send(p.fd, from, size, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        p.said += static_cast<std::size_t>(n);
        sent_ += static_cast<std::uint64_t>(n);
        return true;
    }
    bool listen_to(const peer& p) {
        char buffer[16384];
        const ssize_t n = ::recv(p.fd, buffer, sizeof buffer, 0);
        if (n > 0) received_ += static_cast<std::uint64_t>(n);
        return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
    }
    void run() {
        std::vector<peer> peers;
        std::vector<pollfd> polled;
        while (!stop_) {
            polled.assign({{listener_, POLLIN, 0}, {wake_, POLLIN, 0}});
            for (const auto& p : peers) polled.push_back({p.fd, static_cast<short>(has_more(p) ? POLLIN | POLLOUT : POLLIN), 0});
            if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) return;
            std::vector<peer> kept;
            for (std::size_t i = 0; i < peers.size(); ++i) {
                auto p = peers[i];
                const auto events = polled[i + 2].revents;
                bool alive = (events & (POLLIN | POLLHUP | POLLERR)) == 0 || listen_to(p);
                if (alive && (events & POLLOUT) != 0) alive = say(p);
                if (alive && what_ == fault::say_and_close && !has_more(p)) alive = false;
                if (alive) {
                    kept.push_back(p);
                } else {
                    ::close(p.fd);
                    --open_connections_;
                }
            }
            peers = std::move(kept);
            for (int fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); fd >= 0;
                 fd = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) {
                ++connections_;
                if (what_ == fault::close_at_once || what_ == fault::reset_at_once) {
                    const linger hard{1, 0};
                    if (what_ == fault::reset_at_once) ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
                    ::close(fd);
                    continue;
                }
                peers.push_back({fd});
                ++open_connections_;
            }
        }
        for (const auto& p : peers) ::close(p.fd);
    }

    const fault what_;
    const std::string bytes_;
    std::array<char, 8192> noise_{};
    int listener_ = -1;
    int wake_ = -1;
    std::uint16_t port_ = 0;
    std::atomic<std::size_t> connections_{0};
    std::atomic<std::size_t> open_connections_{0};
    std::atomic<std::uint64_t> received_{0};
    std::atomic<std::uint64_t> sent_{0};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace support
