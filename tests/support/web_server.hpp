#pragma once

#include "support/loopback_listener.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace support {

/// Answers every HTTP request on loopback with one text.
class web_server {
public:
    explicit web_server(std::string text)
        : answer_("HTTP/1.0 200 OK\r\nContent-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text), thread_([this] { serve(); }) {}
    web_server(const web_server&) = delete;
    web_server& operator=(const web_server&) = delete;
    ~web_server() {
        ended_ = true;
        listener_.wake();
        thread_.join();
    }
    std::uint16_t port() const noexcept { return listener_.port(); }

private:
    void serve() {
        while (!ended_) {
            std::array<pollfd, 2> waits{listener_.polled_listener(), listener_.polled_wake()};
            ::poll(waits.data(), waits.size(), -1);
            const int fd = listener_.accept();
            if (fd < 0) continue;
            std::string heard;
            while (heard.find("\r\n\r\n") == std::string::npos && heard.size() < 4096) {
                std::array<char, 1024> bytes{};
                pollfd readable{fd, POLLIN, 0};
                const auto n = ::poll(&readable, 1, 10'000) == 1 ? ::recv(fd, bytes.data(), bytes.size(), 0) : 0;
                if (n <= 0) break;
                heard.append(bytes.data(), static_cast<std::size_t>(n));
            }
            if (heard.starts_with("GET ")) (void)::send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL);
            ::close(fd);
        }
    }

    loopback_listener listener_{"the web server"};
    std::string answer_;
    std::atomic<bool> ended_{false};
    std::thread thread_;
};

}  // namespace support
