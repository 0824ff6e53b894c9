#pragma once

#include "support/loopback_listener.hpp"
#include "support/ssh_server_in_memory.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

/// A thread that serves an ssh_server_in_memory to every connection it gets on loopback.
class ssh_server_on_socket {
public:
    /// `scenario` makes one for each connection.
    explicit ssh_server_on_socket(std::function<ssh_server_in_memory::scenario()> scenario = {})
        : scenario_(std::move(scenario)), listener_("ssh_server_on_socket"), thread_([this] { run(); }) {}
    ssh_server_on_socket(const ssh_server_on_socket&) = delete;
    ssh_server_on_socket& operator=(const ssh_server_on_socket&) = delete;
    ~ssh_server_on_socket() {
        stop_ = true;
        listener_.wake();
        thread_.join();
    }

    std::string address() const { return "user@127.0.0.1:" + std::to_string(listener_.port()); }
    std::size_t connections() const noexcept { return connections_; }            ///< accepted so far
    std::size_t open_connections() const noexcept { return open_connections_; }  ///< now
    std::uint64_t sent() const noexcept { return sent_; }                        ///< bytes, of all connections

private:
    struct peer {
        int fd;
        std::unique_ptr<ssh_server_in_memory> server;
        std::string unsent;
    };

    bool say(peer& p) {  // false: the connection is over
        constexpr std::size_t at_once = std::size_t{64} << 10;
        for (bool others_wait = false; !others_wait; others_wait = p.server->speaks_for_ever()) {
            if (!p.unsent.empty()) {
                const auto n = ::send(p.fd, p.unsent.data(), p.unsent.size(), MSG_NOSIGNAL);
                if (n < 0) return errno == EAGAIN || errno == EINTR;
                sent_ += static_cast<std::uint64_t>(n);
                p.unsent.erase(0, static_cast<std::size_t>(n));
            }
            p.server->say_more(at_once);
            p.unsent += p.server->give();
            if (p.unsent.empty()) return true;
        }
        return true;
    }
    static bool listen_to(peer& p) {
        std::array<char, 16384> buffer{};
        const auto n = ::recv(p.fd, buffer.data(), buffer.size(), 0);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        p.server->take({buffer.data(), static_cast<std::size_t>(n)});
        return n > 0;
    }
    void run() {
        std::vector<peer> peers;
        std::vector<pollfd> polled;
        while (!stop_) {
            polled.assign({listener_.polled_listener(), listener_.polled_wake()});
            for (const auto& p : peers) {
                polled.push_back({p.fd, static_cast<short>((p.server->is_deaf() ? 0 : POLLIN) | (p.unsent.empty() ? 0 : POLLOUT)), 0});
            }
            if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) return;
            for (std::size_t i = 0; i < peers.size(); ++i) {
                auto& p = peers[i];
                const auto events = polled[i + 2].revents;
                bool alive = (events & POLLERR) == 0 && ((events & (POLLIN | POLLHUP)) == 0 || listen_to(p));
                alive = alive && say(p);
                if (alive) continue;
                ::close(std::exchange(p.fd, -1));
                --open_connections_;
            }
            std::erase_if(peers, [](const peer& p) { return p.fd < 0; });
            for (int fd = -1; (polled[0].revents & POLLIN) != 0 && (fd = listener_.accept()) >= 0;) {
                ++connections_;
                ++open_connections_;
                peers.push_back({fd, std::make_unique<ssh_server_in_memory>(scenario_ ? scenario_() : ssh_server_in_memory::scenario{}), {}});
                say(peers.back());
            }
        }
        for (const auto& p : peers) ::close(p.fd);
    }

    const std::function<ssh_server_in_memory::scenario()> scenario_;
    loopback_listener listener_;
    std::atomic<bool> stop_{false};
    std::atomic<std::size_t> connections_{0};
    std::atomic<std::size_t> open_connections_{0};
    std::atomic<std::uint64_t> sent_{0};
    std::thread thread_;
};

}  // namespace support
