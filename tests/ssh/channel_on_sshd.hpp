#pragma once

#include <sshpool/channel.hpp>

#include <array>
#include <asio/buffer.hpp>
#include <asio/read.hpp>
#include <asio/use_future.hpp>
#include <asio/write.hpp>
#include <cstddef>
#include <future>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "ssh/transport_on_sshd.hpp"

namespace sshpool::test {

/// How a call ended, without exceptions.
template <class Result>
struct ended {
    std::error_code ec;
    Result result{};
};

template <class Result>
ended<Result> end_of(std::future<Result> f) {
    if (f.wait_for(60s) != std::future_status::ready) throw std::runtime_error("a call did not end within a minute");
    try {
        return {{}, f.get()};
    } catch (const std::system_error& e) {
        return {e.code(), {}};
    }
}
inline std::error_code end_of(std::future<void> f) {
    if (f.wait_for(60s) != std::future_status::ready) throw std::runtime_error("a call did not end within a minute");
    try {
        f.get();
        return {};
    } catch (const std::system_error& e) {
        return e.code();
    }
}

inline channel open_channel(running_transport& t, command what) { return end_of(t.connection.async_open(std::move(what), asio::use_future)).result; }

/// Reads to the end of a stream, in a future.
template <class Stream>
std::future<std::string> read_all(Stream& from) {
    struct state {
        std::string text;
        std::promise<std::string> promise;
    };
    const auto s = std::make_shared<state>();
    asio::async_read(from, asio::dynamic_buffer(s->text), [s](std::error_code ec, std::size_t) {
        if (ec == asio::error::eof) {
            s->promise.set_value(std::move(s->text));
        } else {
            s->promise.set_exception(std::make_exception_ptr(std::system_error(ec)));
        }
    });
    return s->promise.get_future();
}
template <class Stream>
std::string read_exactly(Stream& from, std::size_t bytes) {
    std::string text(bytes, '\0');
    const auto end = end_of(asio::async_read(from, asio::buffer(text), asio::use_future));
    text.resize(end.result);
    return text;
}

inline std::string random_bytes(std::size_t size, unsigned seed) {
    std::mt19937_64 random{seed};
    std::string bytes(size, '\0');
    for (auto& b : bytes) b = static_cast<char>(random());
    return bytes;
}

}  // namespace sshpool::test
