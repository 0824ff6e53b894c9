#pragma once

#include "support/fault_server.hpp"
#include "support/loopback_listener.hpp"
#include "support/wait.hpp"

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
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

enum class direction { to_server, to_client };

/// How a connection through a delay_proxy breaks. Bytes are those that come from the server.
enum class trouble {
    none,
    reset,           ///< both ends get a reset
    half_close,      ///< the client sees an orderly end; what it sends goes on to the server
    silence,         ///< nothing comes any more; the server hears and answers
    black_hole,      ///< the client's packets are dropped, and nothing comes back; from byte 0 on connecting gets no answer either
    trickle,         ///< a byte each 40 ms
    garbage,         ///< random bytes instead, endlessly
    endless_banner,  ///< lines of text instead, endlessly
    flipped_bit,     ///< the lowest bit of one byte is turned over
};

/// A TCP proxy on loopback that holds every byte back for half a round trip in each direction, and can break in the ways networks do.
/// A warm command's time divided by the round-trip time is its number of round trips. All members may be called from any thread.
class delay_proxy {
public:
    using clock = std::chrono::steady_clock;

    delay_proxy(const std::string& host, std::uint16_t port, std::chrono::microseconds round_trip = {}) : listener_("delay_proxy"), delay_(round_trip / 2) {
        server_.sin_family = AF_INET;
        server_.sin_port = htons(port);
        if (::inet_pton(AF_INET, host.c_str(), &server_.sin_addr) != 1) throw std::invalid_argument("delay_proxy wants an IPv4 address, not " + host);
        thread_ = std::thread([this] { run(); });
    }
    delay_proxy(const delay_proxy&) = delete;
    delay_proxy& operator=(const delay_proxy&) = delete;
    ~delay_proxy() {
        stop_ = true;
        listener_.wake();
        thread_.join();
    }

    std::string host() const { return "127.0.0.1"; }
    std::uint16_t port() const noexcept { return listener_.port(); }
    std::size_t connections() const noexcept { return connections_; }            ///< accepted so far
    std::size_t open_connections() const noexcept { return open_connections_; }  ///< now
    std::uint64_t bytes(direction d) const noexcept { return totals_[index(d)]; }
    /// How often bytes went towards the server after bytes had come from it: what a chain of requests and replies cost.
    std::uint64_t turns() const noexcept { return turns_; }

    void set_round_trip(std::chrono::microseconds round_trip) { delay_ = round_trip / 2; }
    /// Cuts every connection now, with a reset.
    void cut() { break_now(trouble::reset); }
    /// Resets each connection, those to come too, once it has carried that many bytes in that direction.
    void cut_after(direction d, std::uint64_t bytes) { cut_after_[index(d)] = bytes; }
    /// Turns one bit over, once, in the byte at that place of the stream of the next connection that gets so far.
    void flip_bit(direction d, std::uint64_t offset, unsigned bit = 0) {
        flip_mask_ = 1U << bit;
        flip_at_[index(d)] = offset;
    }
    /// While set nothing is carried any more, and nothing is said of it: bytes are read and forgotten.
    void black_hole(bool on) { black_hole_ = on; }
    /// While set connecting is refused.
    void refuse(bool on) {
        change([&] {
            if (on) {
                listener_.stop_listening();
            } else {
                listener_.listen();
            }
        });
    }

    /// Breaks every open connection, at once; a bit is flipped in the next byte.
    void break_now(trouble what) {
        change([&] {
            for (auto& l : links_) {
                l.planned = what;
                l.planned_at = l.halves[1].seen;
                if (what != trouble::flipped_bit) begin(l);
            }
        });
    }
    /// Breaks every open connection at the byte that comes after so many more.
    void break_later(trouble what, std::uint64_t after = 0) {
        change([&] {
            for (auto& l : links_) {
                l.planned = what;
                l.planned_at = l.halves[1].seen + after;
            }
        });
    }
    /// Breaks each connection to come, at that byte of its stream.
    void break_new(trouble what, std::uint64_t at = 0) {
        change([&] {
            new_trouble_ = what;
            new_trouble_at_ = at;
            listener_.drop(what == trouble::black_hole && at == 0);
        });
    }
    /// Connections to come are whole; broken ones are reset, those too that were only meant to break.
    void heal() {
        refuse(false);
        change([&] {
            new_trouble_ = trouble::none;
            listener_.drop(false);
            for (auto& l : links_) l.dead = l.dead || l.broken != trouble::none || l.planned != trouble::none;
        });
    }

private:
    static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();
    static constexpr std::chrono::milliseconds trickle_pause{40 * slowness};
    static constexpr std::size_t most_held = std::size_t{8} << 20;
    static std::size_t index(direction d) noexcept { return d == direction::to_server ? 0U : 1U; }

    struct chunk {
        clock::time_point due;
        std::string bytes;
        std::size_t sent = 0;
        trouble then = trouble::none;  // after the bytes: half_close (the sender has finished), reset
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
        trouble planned = trouble::none;
        std::uint64_t planned_at = 0;
        trouble broken = trouble::none;
        std::size_t flooded = 0;

        std::string_view flood() const {
            if (broken == trouble::garbage) return endless_bytes(fault::garbage);
            return broken == trouble::endless_banner ? endless_bytes(fault::endless_banner) : std::string_view{};
        }
    };

    static bool hides_server(const link& l) noexcept { return l.broken != trouble::none && l.broken != trouble::trickle && l.broken != trouble::flipped_bit; }
    template <class Change>
    void change(Change make) {
        {
            const std::lock_guard lock{mutex_};
            make();
        }
        listener_.wake();
    }
    void begin(link& l) const {
        l.broken = std::exchange(l.planned, trouble::none);
        if (l.broken == trouble::reset) l.dead = true;
        if (l.broken == trouble::black_hole) drop_packets(l.client, true);
        if (l.broken == trouble::half_close) l.halves[1].held.push_back({clock::now() + delay_.load(), {}, 0, trouble::half_close});
    }
    static void no_delay(int fd) {
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }

    void accept_all() {
        for (;;) {
            const int client = listener_.accept();
            if (client < 0) return;
            ++connections_;
            const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            no_delay(client);
            no_delay(server);
            if (::connect(server, reinterpret_cast<const sockaddr*>(&server_), sizeof server_) != 0 && errno != EINPROGRESS) {
                reset_connection(client);
                ::close(server);
                continue;
            }
            auto& l = links_.emplace_back();
            l.client = client;
            l.server = server;
            l.halves[0] = {client, server, {}, 0, 0, false, false};
            l.halves[1] = {server, client, {}, 0, 0, false, false};
            ++open_connections_;
            l.planned = new_trouble_;
            l.planned_at = new_trouble_at_;
            if (l.planned_at == 0 && l.planned != trouble::flipped_bit) begin(l);
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
            if (which == 1 && hides_server(l)) return;
            h.held.push_back({due, {}, 0, trouble::half_close});
            return;
        }
        if (black_hole_ || l.broken == trouble::black_hole) return;
        std::string bytes(buffer, static_cast<std::size_t>(n));
        if (which == 1 && !break_stream(l, bytes)) return;
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
        h.held.push_back({due, std::move(bytes), 0, trouble::none});
        if (which == 1 && l.broken == trouble::reset) h.held.push_back({due, {}, 0, trouble::reset});
    }
    /// What the trouble of this connection makes of bytes from the server. False: nothing of them goes on.
    bool break_stream(link& l, std::string& bytes) const {
        const auto seen = l.halves[1].seen;
        if (l.planned != trouble::none && seen + bytes.size() > l.planned_at) {
            const auto at = static_cast<std::size_t>(l.planned_at - std::min(l.planned_at, seen));
            if (l.planned == trouble::flipped_bit) {
                bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ 1U);
                l.planned = trouble::none;
                l.broken = trouble::flipped_bit;
                return true;
            }
            if (l.planned != trouble::trickle) bytes.resize(at);
            if (l.planned == trouble::reset) {
                l.planned = trouble::none;
                l.broken = trouble::reset;  // once these bytes are through
                return true;
            }
            if (!bytes.empty()) l.halves[1].held.push_back({clock::now() + delay_.load(), std::exchange(bytes, {}), 0, trouble::none});
            begin(l);
            return false;
        }
        return !hides_server(l);
    }
    void write_due(link& l, half& h, clock::time_point now) {
        while (!h.held.empty() && h.held.front().due <= now && !l.dead) {
            auto& c = h.held.front();
            if (c.then == trouble::reset) {
                l.dead = true;
                return;
            }
            if (c.then == trouble::half_close) {
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
            const bool trickles = l.broken == trouble::trickle && &h == &l.halves[1];
            const ssize_t n = ::send(h.to, c.bytes.data() + c.sent, trickles ? 1 : c.bytes.size() - c.sent, MSG_NOSIGNAL);
            if (trickles) c.due = now + trickle_pause;
            if (n < 0) {
                if (errno != EAGAIN && errno != EINTR) l.dead = true;
                return;
            }
            c.sent += static_cast<std::size_t>(n);
            if (c.sent < c.bytes.size()) {
                if (trickles) continue;
                return;
            }
            if (trickles && h.held.size() > 1) h.held[1].due = std::max(h.held[1].due, c.due);
            h.held_bytes -= std::min(h.held_bytes, c.bytes.size());
            h.held.pop_front();
        }
    }
    static void pour(link& l) {
        const auto what = l.flood();
        const auto next = what.substr(l.flooded % what.size());
        const ssize_t n = ::send(l.client, next.data(), next.size(), MSG_NOSIGNAL);
        if (n > 0) l.flooded += static_cast<std::size_t>(n);
        if (n < 0 && errno != EAGAIN && errno != EINTR) l.dead = true;
    }
    void close_link(link& l) {
        if (l.dead) {
            reset_connection(l.client);
            reset_connection(l.server);
        } else {
            ::close(l.client);
            ::close(l.server);
        }
        --open_connections_;
    }

    void run() {
        ::prctl(PR_SET_TIMERSLACK, 1UL);  // nanoseconds; the kernel's 50 µs each way would count as the link's
        std::vector<pollfd> polled;
        std::unique_lock lock{mutex_};
        while (!stop_) {
            polled.clear();
            polled.push_back(listener_.polled_listener());
            polled.push_back(listener_.polled_wake());
            auto next = clock::time_point::max();
            auto now = clock::now();
            for (auto& l : links_) {
                for (std::size_t i = 0; i < 2; ++i) {
                    const int fd = i == 0 ? l.client : l.server;
                    const half& out = l.halves[1 - i];  // what goes to this descriptor
                    short events = 0;
                    if (!l.halves[i].ended && l.halves[i].held_bytes < most_held && (l.connected || i == 1)) events |= POLLIN;
                    if (i == 0 && l.connected && !l.flood().empty()) events |= POLLOUT;
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
            lock.unlock();
            if (::ppoll(polled.data(), polled.size(), limit, nullptr) < 0 && errno != EINTR) std::abort();
            if ((polled[1].revents & POLLIN) != 0) listener_.forget_wakes();
            lock.lock();
            now = clock::now();
            std::size_t at = 2;
            for (auto& l : links_) {
                const auto client = polled[at++].revents;
                const auto server = polled[at++].revents;
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
                    if (!l.flood().empty() && (client & POLLOUT) != 0) pour(l);
                    write_due(l, l.halves[0], now);
                    write_due(l, l.halves[1], now);
                }
            }
            links_.remove_if([this](link& l) {
                const bool over = l.dead || (l.halves[0].finished && (l.halves[1].finished || (l.halves[1].ended && hides_server(l))));
                if (over) close_link(l);
                return over;
            });
            if ((polled[0].revents & POLLIN) != 0) accept_all();
        }
        for (auto& l : links_) close_link(l);
        links_.clear();
    }

    sockaddr_in server_{};
    std::mutex mutex_;  // links and what is planned for them
    loopback_listener listener_;
    std::list<link> links_;
    trouble new_trouble_ = trouble::none;
    std::uint64_t new_trouble_at_ = 0;
    std::atomic<std::chrono::microseconds> delay_;
    std::atomic<std::size_t> connections_{0};
    std::atomic<std::size_t> open_connections_{0};
    std::atomic<std::uint64_t> totals_[2]{};
    std::atomic<std::uint64_t> turns_{0};
    std::atomic<std::uint64_t> cut_after_[2]{never, never};
    std::atomic<std::uint64_t> flip_at_[2]{never, never};
    std::atomic<unsigned> flip_mask_{1};
    std::atomic<bool> black_hole_{false};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace support
