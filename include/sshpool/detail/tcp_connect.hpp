#pragma once

#include <sshpool/detail/byte_stream.hpp>
#include <sshpool/detail/stream_connect.hpp>
#include <sshpool/error.hpp>

#include <asio/ip/address.hpp>
#include <asio/ip/basic_resolver.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

namespace sshpool::detail {

/// Makes a TCP connection: resolves the name, tries every address. The deadline is shared out, so that one address that does not answer cannot
/// keep the others from being tried.
class tcp_connect final : public stream_connect, public std::enable_shared_from_this<tcp_connect> {
public:
    tcp_connect(const session_strand& strand, handler done)
        : strand_(strand), resolver_(strand), socket_(new tcp_socket(strand)), timer_(strand), done_(std::move(done)) {}

    void start(const std::string& host, std::uint16_t port, clock::time_point deadline) override {
        started_ = clock::now();
        deadline_ = deadline;
        std::error_code ec;
        const auto address = asio::ip::make_address(host, ec);
        if (!ec) {  // no resolver: it would start a thread
            endpoints_.emplace_back(address, port);
            return try_next();
        }
        resolver_.async_resolve(host, std::to_string(port), asio::ip::resolver_base::numeric_service,
                                [self = shared_from_this()](std::error_code error, const asio::ip::tcp::resolver::results_type& found) {
                                    if (self->is_wanted()) self->resolved(error, found);
                                });
    }
    std::string phase() const override { return endpoints_.empty() ? "resolve" : "tcp"; }
    std::string failures() const override { return failures_; }

    void cancel() noexcept override {
        done_ = nullptr;
        std::error_code ignored;
        if (!socket_.get_deleter().is_here()) return;
        resolver_.cancel();
        if (socket_) socket_->close(ignored);
        timer_.cancel(ignored);
    }

private:
    void resolved(std::error_code error, const asio::ip::tcp::resolver::results_type& found) {
        resolve_time_ = clock::now() - started_;
        if (error)
            return finish({make_error(errc::resolve_failed), "resolve", "its name could not be resolved: " + error.message(), nullptr, resolve_time_, {}});
        for (const auto& entry : found) {
            if (std::find(endpoints_.begin(), endpoints_.end(), entry.endpoint()) == endpoints_.end()) endpoints_.push_back(entry.endpoint());
        }
        try_next();
    }

    void try_next() {
        if (next_ == endpoints_.size()) {
            const auto tcp = clock::now() - started_ - resolve_time_;
            if (dropped_) return finish({make_error(errc::server_busy), "banner", "dropped before its banner: " + failures_, nullptr, resolve_time_, tcp});
            return finish({make_error(errc::connect_failed), "tcp", failures_, nullptr, resolve_time_, tcp});
        }
        const auto endpoint = endpoints_[next_++];
        std::error_code ec;
        socket_->close(ec);
        open_socket(endpoint.protocol());
        const auto attempt = next_;
        if (endpoints_.size() > 1) {
            const auto now = clock::now();
            timer_.expires_at(now + (deadline_ - now) / static_cast<int>(endpoints_.size() - next_ + 1));
            timer_.async_wait([self = shared_from_this(), attempt](std::error_code error) {
                if (!error && self->is_wanted() && self->next_ == attempt) {
                    std::error_code ignored;
                    self->socket_->close(ignored);  // ends the attempt
                }
            });
        }
        socket_->async_connect(endpoint, [self = shared_from_this(), endpoint](std::error_code error) {
            if (self->is_wanted()) self->tried(endpoint, error);
        });
    }

    void tried(const asio::ip::tcp::endpoint& endpoint, std::error_code error) {
        std::error_code ignored;
        timer_.cancel(ignored);
        if (!error) {
            const auto tcp = clock::now() - started_ - resolve_time_;
            return finish({{}, {}, {}, std::make_unique<tcp_stream>(std::move(socket_)), resolve_time_, tcp});
        }
        // A closed port refuses. A reset comes from a server that took the connection, and dropped it before we had looked.
        dropped_ = dropped_ || error == asio::error::connection_reset;
        if (!failures_.empty()) failures_ += "; ";
        if (endpoints_.size() > 1) failures_ += endpoint.address().to_string() + ": ";
        failures_ += error == asio::error::operation_aborted || error == asio::error::bad_descriptor ? "no answer" : error.message();
        try_next();
    }

    /// What is begun in one process is not finished in its child.
    bool is_wanted() const noexcept { return done_ && socket_.get_deleter().is_here(); }

    /// The programs that this one starts do not get the descriptor. Without this, and where it fails, the socket is opened as it is connected.
    void open_socket([[maybe_unused]] const asio::ip::tcp& protocol) {
#ifdef SOCK_CLOEXEC
        const int fd = ::socket(protocol.family(), protocol.type() | SOCK_CLOEXEC, protocol.protocol());
        std::error_code ec;
        if (fd >= 0 && socket_->assign(protocol, fd, ec)) ::close(fd);
#endif
    }

    void finish(result r) { std::exchange(done_, nullptr)(std::move(r)); }

    session_strand strand_;
    asio::ip::basic_resolver<asio::ip::tcp, session_strand> resolver_;
    tcp_socket_pointer socket_;
    asio::basic_waitable_timer<clock, asio::wait_traits<clock>, session_strand> timer_;
    handler done_;
    clock::time_point started_{};
    clock::time_point deadline_{};
    std::chrono::nanoseconds resolve_time_{};
    std::vector<asio::ip::tcp::endpoint> endpoints_;
    std::size_t next_ = 0;
    std::string failures_;
    bool dropped_ = false;
};

}  // namespace sshpool::detail
