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

/// How a call ended.
template <class Result>
struct ended {
    std::error_code ec;
    Result result{};
};

/// A completion token: a future of how the call ended, which never throws. (ThreadSanitizer cannot see how libstdc++ counts the owners of an exception.)
struct keep_end {
    template <class Result>
    ended<Result> operator()(std::error_code ec, Result result) const {
        return {ec, std::move(result)};
    }
    std::error_code operator()(std::error_code ec) const { return ec; }
};
inline const auto as_end = asio::use_future(keep_end{});

template <class End>
End end_of(std::future<End> f) {
    if (f.wait_for(60s) != std::future_status::ready) throw std::runtime_error("a call did not end within a minute");
    return f.get();
}

inline channel open_channel(running_transport& t, command what) { return end_of(t.connection.async_open(std::move(what), as_end)).result; }

/// Reads to the end of a stream: no error but its end is none here.
template <class Stream>
std::future<ended<std::string>> read_all(Stream& from) {
    struct state {
        std::string text;
        std::promise<ended<std::string>> promise;
    };
    const auto s = std::make_shared<state>();
    asio::async_read(from, asio::dynamic_buffer(s->text), [s](std::error_code ec, std::size_t) {
        s->promise.set_value({ec == asio::error::eof ? std::error_code{} : ec, std::move(s->text)});
    });
    return s->promise.get_future();
}
template <class Stream>
std::string read_exactly(Stream& from, std::size_t bytes) {
    std::string text(bytes, '\0');
    const auto end = end_of(asio::async_read(from, asio::buffer(text), as_end));
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
