#pragma once

#include <sshpool/detail/connection_fate.hpp>
#include <sshpool/detail/home_process.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/basic_stream_socket.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/strand.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace sshpool::detail {

using session_strand = asio::strand<asio::any_io_executor>;

/// What a session runs over: a TCP connection, or anything else that carries bytes both ways. Used from the session's strand only.
class byte_stream {
public:
    using ready_handler = std::function<void(std::error_code)>;

    byte_stream() = default;
    byte_stream(const byte_stream&) = delete;
    byte_stream& operator=(const byte_stream&) = delete;
    virtual ~byte_stream() = default;

    virtual void wait_readable(ready_handler done) = 0;
    virtual void wait_writable(ready_handler done) = 0;

    /// Takes what is there: `asio::error::would_block` where that is nothing, `asio::error::eof` at the end.
    virtual std::size_t read_some(char* into, std::size_t room, std::error_code& ec) = 0;
    virtual std::size_t write_some(std::string_view bytes, std::error_code& ec) = 0;

    /// The fate of the connection that it runs through, if it does.
    virtual std::shared_ptr<const connection_fate> jump() const { return nullptr; }
    /// The next bytes from the other side are waited for by somebody: acknowledge them at once.
    virtual void hurry() noexcept {}
    /// Waits end with an error; nothing is sent any more.
    virtual void close() noexcept = 0;
};

using tcp_socket = asio::basic_stream_socket<asio::ip::tcp, session_strand>;

/// A child shares the socket and the epoll set with its parent: it must neither close the one nor take it out of the other.
using tcp_socket_pointer = std::unique_ptr<tcp_socket, delete_at_home>;

/// In a forked child it carries nothing, in no direction.
class tcp_stream final : public byte_stream {
public:
    /// Takes a connected socket.
    explicit tcp_stream(tcp_socket_pointer socket) : socket_(std::move(socket)) {
        std::error_code ignored;
        socket_->non_blocking(true, ignored);
        socket_->set_option(asio::ip::tcp::no_delay{true}, ignored);
        socket_->set_option(asio::socket_base::keep_alive{true}, ignored);
        // A peer that has vanished is noticed within about half a minute, whether bytes are under way or not.
#ifdef TCP_USER_TIMEOUT
        set(TCP_USER_TIMEOUT, 20'000);
#endif
#ifdef TCP_KEEPIDLE
        set(TCP_KEEPIDLE, 15);
        set(TCP_KEEPINTVL, 5);
        set(TCP_KEEPCNT, 3);
#endif
    }

    void wait_readable(ready_handler done) override { socket_->async_wait(tcp_socket::wait_read, std::move(done)); }
    void wait_writable(ready_handler done) override { socket_->async_wait(tcp_socket::wait_write, std::move(done)); }
    std::size_t read_some(char* into, std::size_t room, std::error_code& ec) override {
        return is_ours(ec) ? socket_->read_some(asio::buffer(into, room), ec) : 0;
    }
    std::size_t write_some(std::string_view bytes, std::error_code& ec) override { return is_ours(ec) ? socket_->write_some(asio::buffer(bytes), ec) : 0; }
    void hurry() noexcept override {
#ifdef TCP_QUICKACK
        set(TCP_QUICKACK, 1);  // the kernel forgets it: to be said before every wait
#endif
    }
    void close() noexcept override {
        std::error_code ec;
        if (!is_ours(ec)) return;
        socket_->shutdown(tcp_socket::shutdown_both, ec);  // a child may have a copy of the descriptor: closing ours alone tells the server nothing
        socket_->close(ec);
    }

private:
    bool is_ours(std::error_code& ec) const noexcept {
        if (socket_.get_deleter().is_here()) return true;
        ec = asio::error::bad_descriptor;
        return false;
    }
    void set(int option, int value) noexcept { ::setsockopt(socket_->native_handle(), IPPROTO_TCP, option, &value, sizeof value); }

    tcp_socket_pointer socket_;
};

}  // namespace sshpool::detail
