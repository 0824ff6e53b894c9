#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <limits>
#include <list>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

enum class direction { to_server, to_client };

/// A TCP proxy on loopback that holds every byte back for half a round trip in each direction, and can break in the ways networks do.
/// A warm command's time divided by the round-trip time is its number of round trips. All members may be called from any thread.
class delay_proxy {
public:
    using clock = std::chrono::steady_clock;

    delay_proxy(const std::string& host, std::uint16_t port, std::chrono::microseconds round_trip = {}) : delay_(round_trip / 2) {
        server_.sin_family = AF_INET;
        server_.sin_port = htons(port);
        if (::inet_pton(AF_INET, host.c_str(), &server_.sin_addr) != 1) throw std::invalid_argument("delay_proxy wants an IPv4 address, not " + host);
        listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        sockaddr_in here{};
        here.sin_family = AF_INET;
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof here;
        auto* const generic = reinterpret_cast<sockaddr*>(&here);
        if (listener_ < 0 || ::bind(listener_, generic, size) != 0 || ::listen(listener_, 512) != 0 || ::getsockname(listener_, generic, &size) != 0)
            throw std::runtime_error("delay_proxy cannot listen");
        port_ = ntohs(here.sin_port);
        wake_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        thread_ = std::thread([this] { run(); });
    }
    delay_proxy(const delay_proxy&) = delete;
    delay_proxy& operator=(const delay_proxy&) = delete;
    ~delay_proxy() {
        stop_ = true;
        wake();
        thread_.join();
        ::close(listener_);
        ::close(wake_);
    }

    std::string host() const { return "127.0.0.1"; }
    std::uint16_t port() const noexcept { return port_; }
    std::size_t connections() const noexcept { return connections_; }            ///< accepted so far
    std::size_t open_connections() const noexcept { return open_connections_; }  ///< now
    std::uint64_t bytes(direction d) const noexcept { return totals_[index(d)]; }
    /// How often bytes went towards the server after bytes had come from it: what a chain of requests and replies cost.
    std::uint64_t turns() const noexcept { return turns_; }

    void set_round_trip(std::chrono::microseconds round_trip) { delay_ = round_trip / 2; }
    /// Cuts every connection now, with a reset.
    void cut() {
        cut_now_ = true;
        wake();
    }
    /// Resets each connection, those to come too, once it has carried that many bytes in that direction.
    void cut_after(direction d, std::uint64_t bytes) { cut_after_[index(d)] = bytes; }
    /// Turns one bit over, once, in the byte at that place of the stream of the next connection that gets so far.
    void flip_bit(direction d, std::uint64_t offset, unsigned bit = 0) {
        flip_mask_ = 1U << bit;
        flip_at_[index(d)] = offset;
    }
    /// While set nothing is carried any more, and nothing is said of it: bytes are read and forgotten.
    void black_hole(bool on) { black_hole_ = on; }
    /// While set new connections are reset at once.
    void refuse(bool on) { refuse_ = on; }

private:
    static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();
    static constexpr std::size_t most_held = std::size_t{8} << 20;
    static std::size_t index(direction d) noexcept { return d == direction::to_server ? 0U : 1U; }

    struct chunk {
        clock::time_point due;
        std::string bytes;
        std::size_t sent = 0;
        bool end = false;  // the sender has finished
    };
    struct half {  // one direction of one connection
        int from = -1;
        int to = -1;
        std::deque<chunk> held;
        std::size_t held_bytes = 0;
        std::uint64_t seen = 0;
        bool ended = false;     // nothing more to read
        bool finished = false;  // the end was passed on
    };
    struct link {
        half halves[2];
        int client = -1;
        int server = -1;
        bool connected = false;
        bool dead = false;
        bool server_spoke_last = true;
    };

    void wake() const {
        const std::uint64_t one = 1;
        if (::write(wake_, &one, sizeof one) < 0) return;  // full: it is awake anyway
    }
    static void reset(int fd) {
        const linger hard{1, 0};
        ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        ::close(fd);
    }
    static void no_delay(int fd) {
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }

    void accept_all() {
        for (;;) {
            const int client = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (client < 0) return;
            ++connections_;
            if (refuse_) {
                reset(client);
                continue;
            }
            const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            no_delay(client);
            no_delay(server);
            if (::connect(server, reinterpret_cast<const sockaddr*>(&server_), sizeof server_) != 0 && errno != EINPROGRESS) {
                reset(client);
                ::close(server);
                continue;
            }
            auto& l = links_.emplace_back();
            l.client = client;
            l.server = server;
            l.halves[0] = {client, server, {}, 0, 0, false, false};
            l.halves[1] = {server, client, {}, 0, 0, false, false};
            ++open_connections_;
        }
    }
    void read_some(link& l, std::size_t which) {
        half& h = l.halves[which];
        char buffer[65536];
        const ssize_t n = ::recv(h.from, buffer, sizeof buffer, 0);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR) l.dead = true;
            return;
        }
        const auto due = clock::now() + delay_.load();
        if (n == 0) {
            h.ended = true;
            h.held.push_back({due, {}, 0, true});
            return;
        }
        if (black_hole_) return;
        std::string bytes(buffer, static_cast<std::size_t>(n));
        const auto flip = flip_at_[which].load();
        if (flip >= h.seen && flip < h.seen + bytes.size()) {
            flip_at_[which] = never;
            auto& c = bytes[static_cast<std::size_t>(flip - h.seen)];
            c = static_cast<char>(static_cast<unsigned char>(c) ^ flip_mask_);
        }
        if (which == 0 && std::exchange(l.server_spoke_last, false)) ++turns_;
        if (which == 1) l.server_spoke_last = true;
        const auto limit = cut_after_[which].load();
        if (h.seen + bytes.size() >= limit) l.dead = true;
        h.seen += bytes.size();
        totals_[which] += bytes.size();
        h.held_bytes += bytes.size();
        h.held.push_back({due, std::move(bytes), 0, false});
    }
    void write_due(link& l, half& h, clock::time_point now) {
        while (!h.held.empty() && h.held.front().due <= now && !l.dead) {
            auto& c = h.held.front();
            if (c.end) {
                ::shutdown(h.to, SHUT_WR);
                h.finished = true;
                h.held.pop_front();
                continue;
            }
            if (black_hole_) {
                h.held_bytes -= c.bytes.size();
                h.held.pop_front();
                continue;
            }
            const ssize_t n = ::send(h.to, c.bytes.data() + c.sent, c.bytes.size() - c.sent, MSG_NOSIGNAL);
            if (n < 0) {
                if (errno != EAGAIN && errno != EINTR) l.dead = true;
                return;
            }
            c.sent += static_cast<std::size_t>(n);
            if (c.sent < c.bytes.size()) return;
            h.held_bytes -= c.bytes.size();
            h.held.pop_front();
        }
    }
    void close_link(link& l) {
        if (l.dead) {
            reset(l.client);
            reset(l.server);
        } else {
            ::close(l.client);
            ::close(l.server);
        }
        --open_connections_;
    }

    void run() {
        std::vector<pollfd> polled;
        while (!stop_) {
            polled.clear();
            polled.push_back({listener_, POLLIN, 0});
            polled.push_back({wake_, POLLIN, 0});
            auto next = clock::time_point::max();
            auto now = clock::now();
            for (auto& l : links_) {
                for (std::size_t i = 0; i < 2; ++i) {
                    const int fd = i == 0 ? l.client : l.server;
                    const half& out = l.halves[1 - i];  // what goes to this descriptor
                    short events = 0;
                    if (!l.halves[i].ended && l.halves[i].held_bytes < most_held && (l.connected || i == 1)) events |= POLLIN;
                    if ((!l.connected && i == 1) || (l.connected && !out.held.empty() && out.held.front().due <= now)) events |= POLLOUT;
                    if (l.connected && !out.held.empty() && out.held.front().due > now) next = std::min(next, out.held.front().due);
                    polled.push_back({events == 0 ? -1 : fd, events, 0});
                }
            }
            timespec wait{};
            const timespec* limit = nullptr;
            if (next != clock::time_point::max()) {
                const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::max(next - now, clock::duration::zero())).count();
                wait = {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
                limit = &wait;
            }
            if (::ppoll(polled.data(), polled.size(), limit, nullptr) < 0 && errno != EINTR) std::abort();
            std::uint64_t ignored = 0;
            if ((polled[1].revents & POLLIN) != 0 && ::read(wake_, &ignored, sizeof ignored) < 0) ignored = 0;
            const bool cut = cut_now_.exchange(false);
            now = clock::now();
            std::size_t at = 2;
            for (auto& l : links_) {
                const auto client = polled[at++].revents;
                const auto server = polled[at++].revents;
                if (cut) l.dead = true;
                if (!l.connected && (server & (POLLOUT | POLLERR | POLLHUP)) != 0) {
                    int error = 0;
                    socklen_t size = sizeof error;
                    ::getsockopt(l.server, SOL_SOCKET, SO_ERROR, &error, &size);
                    if (error != 0) {
                        l.dead = true;
                    } else {
                        l.connected = true;
                    }
                }
                if (!l.dead && l.connected && (client & (POLLIN | POLLERR | POLLHUP)) != 0 && !l.halves[0].ended) read_some(l, 0);
                if (!l.dead && l.connected && (server & (POLLIN | POLLERR | POLLHUP)) != 0 && !l.halves[1].ended) read_some(l, 1);
                if (!l.dead && l.connected) {
                    write_due(l, l.halves[0], now);
                    write_due(l, l.halves[1], now);
                }
            }
            links_.remove_if([this](link& l) {
                const bool over = l.dead || (l.halves[0].finished && l.halves[1].finished);
                if (over) close_link(l);
                return over;
            });
            if ((polled[0].revents & POLLIN) != 0) accept_all();
        }
        for (auto& l : links_) close_link(l);
        links_.clear();
    }

    sockaddr_in server_{};
    int listener_ = -1;
    int wake_ = -1;
    std::uint16_t port_ = 0;
    std::list<link> links_;  // only the thread's
    std::atomic<std::chrono::microseconds> delay_;
    std::atomic<std::size_t> connections_{0};
    std::atomic<std::size_t> open_connections_{0};
    std::atomic<std::uint64_t> totals_[2]{};
    std::atomic<std::uint64_t> turns_{0};
    std::atomic<std::uint64_t> cut_after_[2]{never, never};
    std::atomic<std::uint64_t> flip_at_[2]{never, never};
    std::atomic<unsigned> flip_mask_{1};
    std::atomic<bool> cut_now_{false};
    std::atomic<bool> black_hole_{false};
    std::atomic<bool> refuse_{false};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace support
