#include "http_probe.hpp"

#include <asio/buffer.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/read_until.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include <charconv>
#include <system_error>
#include <utility>

namespace docker {
namespace {

constexpr std::size_t longest_first_line = 1024;

/// "HTTP/1.1 200 OK" → 200; 0 for anything else.
int status_of(const std::string& line) {
    int status = 0;
    if (line.rfind("HTTP/1.", 0) != 0 || line.size() < 12) return 0;
    const auto [end, ec] = std::from_chars(line.data() + 9, line.data() + 12, status);
    return ec == std::errc{} && end == line.data() + 12 && status >= 100 ? status : 0;
}

/// How far an exchange has come.
enum class reached { nobody, executor, server };

asio::awaitable<http_answer> exchange(operation& op, std::uint16_t port, std::string path, reached& whom) {
    http_answer answer;
    sshpool::error_info error;
    std::error_code ec;
    auto lease = co_await op.pool().async_get_connection(op.where(), error, asio::redirect_error(asio::use_awaitable, ec));
    if (ec) {
        answer.why = error.text;
        answer.way = ec;
        co_return answer;
    }
    whom = reached::executor;
    const std::string here = "127.0.0.1";
    auto tunnel = co_await lease->async_open_tcp(here, port, error, asio::redirect_error(asio::use_awaitable, ec));
    if (ec) {
        answer.why = error.text;
        if (ec == sshpool::errc::connection_lost || ec == sshpool::errc::channel_refused) answer.way = ec;
        co_return answer;
    }
    whom = reached::server;
    const auto request = "GET " + path + " HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    co_await asio::async_write(tunnel, asio::buffer(request), asio::redirect_error(asio::use_awaitable, ec));
    std::string text;
    if (!ec) co_await asio::async_read_until(tunnel, asio::dynamic_buffer(text, longest_first_line), '\n', asio::redirect_error(asio::use_awaitable, ec));
    answer.status = status_of(text);
    if (answer.status == 0 && ec == sshpool::errc::connection_lost) {
        answer.why = ec.message();
        answer.way = ec;
        co_return answer;
    }
    if (answer.status == 0) {
        answer.why = ec ? "what answers there speaks no HTTP: " + ec.message() : std::string{"what answers there speaks no HTTP"};
    } else if (answer.status >= 500) {
        answer.why = "HTTP status " + std::to_string(answer.status);
    }
    co_return answer;
}

}  // namespace

asio::awaitable<http_answer> probe_http(operation& op, step s, std::uint16_t port, std::string path, std::chrono::milliseconds limit) {
    using namespace asio::experimental::awaitable_operators;
    co_await op.stop_if_cancelled(s);
    const operation::stopwatch counted(op, s);
    asio::steady_timer timer(co_await asio::this_coro::executor, limit);
    auto whom = reached::nobody;
    auto first = co_await (exchange(op, port, std::move(path), whom) || timer.async_wait(asio::use_awaitable));
    if (first.index() == 0) co_return std::get<0>(std::move(first));
    http_answer answer;
    const auto time = " within " + std::to_string(limit.count()) + " ms";
    if (whom == reached::server) {
        answer.why = "no answer" + time;
    } else if (whom == reached::executor) {
        answer.why = "the executor opened no tunnel" + time;
        answer.way = sshpool::make_error(sshpool::errc::command_timeout);
    } else {
        answer.why = "no connection to the executor" + time;
        answer.way = sshpool::make_error(sshpool::errc::acquire_timeout);
    }
    co_return answer;
}

}  // namespace docker
