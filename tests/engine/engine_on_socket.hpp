#pragma once

#include "support/wait.hpp"

#include <sshpool/credentials.hpp>
#include <sshpool/detail/exec_op.hpp>
#include <sshpool/detail/parse_private_key.hpp>
#include <sshpool/detail/session_engine.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace engine_test {

using sshpool::detail::engine_op;
using sshpool::detail::engine_options;
using sshpool::detail::engine_probe;
using sshpool::detail::engine_time;
using sshpool::detail::exec_op;
using sshpool::detail::session_engine;
using sshpool::detail::session_stage;

/// A command whose result the test reads.
class recorded_exec : public exec_op {
public:
    using exec_op::exec_op;
    void attend() override {
        if (!chunks_.empty() && !hold_output) {
            for (auto& c : chunks_) {
                if (what().on_output()) what().on_output()(c.stream, c.bytes);
            }
            delivered(chunks_);
            chunks_.clear();
        }
        done = is_answered();
    }
    const sshpool::error_info& error() const { return error_; }
    const sshpool::command_result& result() const { return result_; }
    bool done = false;
    bool hold_output = false;  // as a slow on_output
};

class recorded_probe : public engine_probe {
public:
    void attend() override { done = true; }
    bool done = false;
};

/// An engine over a plain blocking-free socket, driven by poll(2) on the test's thread.
class engine_on_socket {
public:
    engine_on_socket(engine_options o, const std::string& host, std::uint16_t port) : engine(std::move(o)) {
        fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in where{};
        where.sin_family = AF_INET;
        where.sin_port = htons(port);
        ::inet_pton(AF_INET, host.c_str(), &where.sin_addr);
        if (::connect(fd_, reinterpret_cast<sockaddr*>(&where), sizeof where) != 0) throw std::runtime_error("cannot connect");
        const int on = 1;
        ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        ::fcntl(fd_, F_SETFL, O_NONBLOCK);
        engine.start(now());
        flush();
    }
    engine_on_socket(const engine_on_socket&) = delete;
    engine_on_socket& operator=(const engine_on_socket&) = delete;
    ~engine_on_socket() { ::close(fd_); }

    static engine_time now() { return std::chrono::steady_clock::now(); }

    /// Turns input into output until the condition holds. False past the limit.
    bool run_until(const std::function<bool()>& ready, std::chrono::milliseconds limit = std::chrono::seconds{20}) {
        const auto end = now() + limit * support::slowness;
        for (;;) {
            settle();
            if (ready()) return true;
            settle();  // the condition may have done something
            const auto left = std::min(end, engine.next_due()) - now();
            if (now() >= end) return false;
            pollfd p{fd_, static_cast<short>(ended_ ? 0 : POLLIN), 0};
            if (!pending_.empty()) p.events |= POLLOUT;
            const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
            ::poll(&p, 1, static_cast<int>(std::clamp<std::int64_t>(ms, 0, 1000)));
            if ((p.revents & POLLIN) != 0 || (p.revents & POLLHUP) != 0) receive();
            if (engine.next_due() <= now()) engine.advance(now());
        }
    }
    bool become_ready() {
        return run_until([&] {
                   if (engine.stage() == session_stage::host_key) engine.trust_host_key(now());
                   return engine.stage() == session_stage::ready || engine.stage() == session_stage::lost;
               }) &&
               engine.stage() == session_stage::ready;
    }
    std::shared_ptr<recorded_exec> submit(sshpool::command what) {
        const auto timeout = what.timeout().value_or(std::chrono::milliseconds{});
        auto op = std::make_shared<recorded_exec>(std::move(what));
        engine.submit(op, timeout, now());
        settle();
        return op;
    }
    /// Attends to operations, and sends.
    void settle() {
        for (const auto& op : engine.take_attention()) op->attend();
        flush();
    }

    session_engine engine;
    std::uint64_t cut_after = UINT64_MAX;  // bytes received, after which the connection ends
    std::uint64_t received = 0;
    std::uint64_t sent = 0;
    std::size_t largest_read = std::size_t{64} << 10;

private:
    void receive() {
        static std::array<char, std::size_t{64} << 10> buffer;
        const auto room = static_cast<std::size_t>(std::min<std::uint64_t>(std::min(buffer.size(), largest_read), cut_after - received));
        if (room == 0) {
            ended_ = true;
            return engine.end_of_input(now());
        }
        const auto n = ::recv(fd_, buffer.data(), room, 0);
        if (n > 0) {
            received += static_cast<std::uint64_t>(n);
            engine.feed({buffer.data(), static_cast<std::size_t>(n)}, now());
        } else if (n == 0 || errno != EAGAIN) {
            ended_ = true;
            engine.end_of_input(now());
        }
    }
    void flush() {
        while (true) {
            if (pending_.empty()) {
                engine.take_output(pending_);
                if (pending_.empty()) return;
            }
            const auto n = ::send(fd_, pending_.data(), pending_.size(), MSG_NOSIGNAL);
            if (n < 0) {
                if (errno != EAGAIN) pending_.clear();  // the loss shows on reading
                engine.sending(pending_.size(), now());
                return;
            }
            sent += static_cast<std::uint64_t>(n);
            pending_.erase(0, static_cast<std::size_t>(n));
            engine.sending(pending_.size(), now());
        }
    }

    int fd_ = -1;
    std::string pending_;
    bool ended_ = false;
};

template <class Server>
engine_options options_for(const Server& server) {
    engine_options o;
    o.key = server.address();
    o.user = server.user();
    o.methods = sshpool::detail::login_methods(sshpool::credentials::private_key_file(server.client_key()));
    return o;
}

}  // namespace engine_test
