#pragma once

#include "support/loopback_listener.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
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

/// What an endless fault says again and again.
inline std::string_view endless_bytes(fault what) {
    static const std::string noise = [] {
        std::minstd_rand random{7};
        std::string made(8192, '\0');
        for (auto& c : made) c = static_cast<char>(random());
        return made;
    }();
    static const std::string line(4096, 'x');
    switch (what) {
        case fault::garbage:
            return noise;
        case fault::endless_banner:
            return "Please wait while the system comes up.\r\n";
        case fault::endless_line:
            return line;
        default:
            return {};
    }
}

/// A TCP server on loopback that misbehaves on purpose. Reads and counts whatever it is sent.
class fault_server {
public:
    explicit fault_server(fault what, std::string bytes = {}) : what_(what), bytes_(std::move(bytes)), listener_("fault_server") {
        thread_ = std::thread([this] { run(); });
    }
    fault_server(const fault_server&) = delete;
    fault_server& operator=(const fault_server&) = delete;
    ~fault_server() {
        stop_ = true;
        listener_.wake();
        thread_.join();
    }

    std::string host() const { return "127.0.0.1"; }
    std::uint16_t port() const noexcept { return listener_.port(); }
    std::size_t connections() const noexcept { return connections_; }            ///< accepted so far
    std::size_t open_connections() const noexcept { return open_connections_; }  ///< now
    std::uint64_t received() const noexcept { return received_; }                ///< bytes, of all connections
    std::uint64_t sent() const noexcept { return sent_; }

private:
    struct peer {
        int fd;
        std::size_t said = 0;
    };

    bool has_more(const peer& p) const { return !endless_.empty() || p.said < bytes_.size(); }

    bool say(peer& p) {  // false: the connection is over
        const auto next = endless_.empty() ? std::string_view{bytes_}.substr(p.said) : endless_.substr(p.said % endless_.size());
        const ssize_t n = ::send(p.fd, next.data(), next.size(), MSG_NOSIGNAL);
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
            polled.assign({listener_.polled_listener(), listener_.polled_wake()});
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
            for (int fd = listener_.accept(); fd >= 0; fd = listener_.accept()) {
                ++connections_;
                if (what_ == fault::close_at_once || what_ == fault::reset_at_once) {
                    if (what_ == fault::reset_at_once) {
                        reset_connection(fd);
                    } else {
                        ::close(fd);
                    }
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
    const std::string_view endless_ = endless_bytes(what_);
    loopback_listener listener_;
    std::atomic<std::size_t> connections_{0};
    std::atomic<std::size_t> open_connections_{0};
    std::atomic<std::uint64_t> received_{0};
    std::atomic<std::uint64_t> sent_{0};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace support
