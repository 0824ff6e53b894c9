#pragma once

#include <sshpool/detail/agent_protocol.hpp>
#include <sshpool/detail/descriptor.hpp>
#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

namespace sshpool::detail {

/// Carries one question to an SSH agent, and its answer back. Blocks, so never on a strand; for no longer than it is told, whatever the agent does.
class agent_client {
public:
    agent_client(std::chrono::milliseconds limit, const std::atomic<bool>& stop) : limit_(limit), end_(clock::now() + limit), stop_(stop) {}

    agent_answer ask(const agent_question& question) {
        const auto who = "the SSH agent " + file_in_quotes(question.socket);
        sockaddr_un where{};
        where.sun_family = AF_UNIX;
        if (question.socket.size() >= sizeof where.sun_path) return {{}, who + " cannot be reached: the name of its socket is too long"};
        std::memcpy(where.sun_path, question.socket.data(), question.socket.size());
        const descriptor fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
        if (fd.get() < 0) return {{}, who + " cannot be reached: " + words(errno)};
        while (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0) {
            // A socket whose queue is full says EAGAIN, and nothing tells when there is room.
            if (errno != EAGAIN && errno != EINTR) return {{}, who + " cannot be reached: " + words(errno)};
            if (!pause()) return {{}, who + silence()};
        }
        std::string message;
        append_string(message, question.request);
        std::size_t done = 0;
        while (done < message.size()) {
            const auto n = ::send(fd.get(), message.data() + done, message.size() - done, MSG_NOSIGNAL);
            if (n > 0) done += static_cast<std::size_t>(n);
            if (n < 0 && !again(fd.get(), POLLOUT)) return {{}, who + trouble_};
        }
        std::string length(4, '\0');
        if (!read(fd.get(), length)) return {{}, who + trouble_};
        const auto size = wire_reader{length}.u32();
        if (size == 0 || size > largest_agent_message) return {{}, who + " broke the protocol: its answer is " + std::to_string(size) + " bytes long"};
        std::string reply(size, '\0');
        if (!read(fd.get(), reply)) return {{}, who + trouble_};
        return {std::move(reply), {}};
    }

private:
    using clock = std::chrono::steady_clock;

    static std::string words(int error) { return std::generic_category().message(error); }
    std::string silence() const { return " did not answer within " + std::to_string(limit_.count()) + " ms"; }

    bool read(int fd, std::string& into) {
        std::size_t done = 0;
        while (done < into.size()) {
            const auto n = ::recv(fd, into.data() + done, into.size() - done, 0);
            if (n > 0) done += static_cast<std::size_t>(n);
            if (n == 0) trouble_ = " closed the connection without an answer";
            if (n == 0 || (n < 0 && !again(fd, POLLIN))) return false;
        }
        return true;
    }
    /// After a call that failed: true when it is to be tried again.
    bool again(int fd, short what) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            trouble_ = " cannot be talked to: " + words(errno);
            return false;
        }
        for (;;) {
            const int slice = next_slice();
            if (slice < 0) {
                trouble_ = silence();
                return false;
            }
            pollfd p{fd, what, 0};
            if (::poll(&p, 1, slice) > 0) return true;
        }
    }
    bool pause() {
        const int slice = next_slice();
        if (slice < 0) return false;
        ::poll(nullptr, 0, std::min(slice, 10));
        return true;
    }
    /// How many ms to wait before looking at `stop` again; -1: no longer.
    int next_slice() const {
        constexpr std::chrono::milliseconds longest{100};
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end_ - clock::now());
        return stop_ || left.count() <= 0 ? -1 : static_cast<int>(std::min(left, longest).count());
    }

    std::chrono::milliseconds limit_;
    clock::time_point end_;
    const std::atomic<bool>& stop_;
    std::string trouble_;
};

inline agent_answer ask_agent(const agent_question& question, std::chrono::milliseconds limit, const std::atomic<bool>& stop) {
    return agent_client{limit, stop}.ask(question);
}

}  // namespace sshpool::detail
