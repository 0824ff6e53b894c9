#pragma once

// The floor: the same workloads on raw libssh2, as little as it can be. One session per host over its socket, no pool, no limits; the next
// channel is opened while a command runs; one epoll loop on one thread. It does one command at a time on a host, checks no host key, and
// gives up on the first error: what remains is what libssh2 and the kernel cost.

#include "bench/bench_options.hpp"

#include <libssh2.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

namespace bench {

/// One connection and the command that runs on it. `turn` goes on wherever it can; whoever polls the socket calls it.
class raw_session {
public:
    raw_session(const options& o, const host& to, const std::string& key_text, int epoll) : o_(o), key_(key_text), epoll_(epoll) {
        fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        set(TCP_NODELAY);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(to.port);
        if (::inet_pton(AF_INET, to.address.c_str(), &address.sin_addr) != 1) throw std::invalid_argument("no IPv4 address: " + to.address);
        if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 && errno != EINPROGRESS) fail("connect");
        epoll_event e{EPOLLOUT, {}};
        e.data.ptr = this;
        ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd_, &e);
        session_ = libssh2_session_init_ex(nullptr, nullptr, nullptr, this);
        libssh2_session_set_blocking(session_, 0);
        // libssh2 asks the socket until it has nothing more; after a short read that is known without asking.
        libssh2_session_callback_set(session_, LIBSSH2_CALLBACK_RECV, reinterpret_cast<void*>(&receive));
        // The list that the library offers too: the default one may cost a large group exchange.
        libssh2_session_method_pref(session_, LIBSSH2_METHOD_KEX, "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256");
    }
    raw_session(const raw_session&) = delete;
    raw_session& operator=(const raw_session&) = delete;
    ~raw_session() {
        ::shutdown(fd_, SHUT_RDWR);
        while (libssh2_session_free(session_) == LIBSSH2_ERROR_EAGAIN) dry_ = false;
        ::close(fd_);
    }

    bool is_ready() const noexcept { return stage_ == stage::ready && spare_ != nullptr; }

    /// `done` is called from a later turn, or from this call where everything is there already.
    void run(std::string line, std::uint64_t to_send, std::function<void(bool)> done) {
        line_ = std::move(line);
        to_send_ = to_send;
        done_ = std::move(done);
        wanted_ = true;
        if (is_ready()) turn();
    }
    void when_ready(std::function<void()> ready) { ready_ = std::move(ready); }
    std::uint64_t received() const noexcept { return received_; }

    void turn() {
        dry_ = false;
        bool more = true;
        while (more) {  // a step may read what another one waits for
            const auto before = heard_;
            while (step()) {
            }
            more = heard_ != before;
        }
        watch();
    }

private:
    enum class stage { connecting, handshake, login, ready };

    /// One attempt of everything that waits; true if something came to its end.
    bool step() {
        switch (stage_) {
            case stage::connecting: {
                int error = 0;
                socklen_t size = sizeof error;
                ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error != 0) fail("connect");
                return stage_ = stage::handshake, true;
            }
            case stage::handshake:
                set(TCP_QUICKACK);
                return reached(stage::login, libssh2_session_handshake(session_, fd_), "key exchange");
            case stage::login:
                set(TCP_QUICKACK);
                return reached(stage::ready,
                               libssh2_userauth_publickey_frommemory(session_, o_.user.c_str(), o_.user.size(), nullptr, 0, key_.c_str(), key_.size(), nullptr),
                               "login");
            case stage::ready:
                break;
        }
        if (!opened_once_) set(TCP_QUICKACK);
        if (wanted_ && running_ == nullptr && spare_ != nullptr) {
            running_ = std::exchange(spare_, nullptr);
            wanted_ = false;
            started_ = sent_eof_ = false;
        }
        const bool command = running_ != nullptr && step_command();
        const bool open = spare_ == nullptr && step_open();
        if (open && ready_) std::exchange(ready_, nullptr)();
        return command || open;
    }
    bool step_open() {
        spare_ = libssh2_channel_open_ex(session_, "session", 7, window(), LIBSSH2_CHANNEL_PACKET_DEFAULT, nullptr, 0);
        if (spare_ == nullptr && libssh2_session_last_errno(session_) != LIBSSH2_ERROR_EAGAIN) fail("channel-open");
        if (spare_ != nullptr) opened_once_ = true;
        return spare_ != nullptr;
    }
    bool step_command() {
        if (!started_) {
            const int rc = libssh2_channel_process_startup(running_, "exec", 4, line_.data(), static_cast<unsigned>(line_.size()));
            if (rc == LIBSSH2_ERROR_EAGAIN) return false;
            if (rc != 0) fail("exec");
            started_ = true;
        }
        while (to_send_ > 0) {
            static const std::string block(std::size_t{256} << 10, 'x');  // all of it in turn, as a file is read
            const auto at = static_cast<std::size_t>(to_send_ % block.size());
            const auto n = libssh2_channel_write(running_, block.data() + (at == 0 ? 0 : block.size() - at), at == 0 ? block.size() : at);
            if (n == LIBSSH2_ERROR_EAGAIN) return false;
            if (n < 0) fail("write");
            to_send_ -= static_cast<std::uint64_t>(n);
        }
        if (!sent_eof_) {
            if (libssh2_channel_send_eof(running_) == LIBSSH2_ERROR_EAGAIN) return false;
            sent_eof_ = true;
        }
        static char buffer[65536];
        for (int stream = 0; stream < 2; ++stream) {
            for (;;) {
                const auto n = libssh2_channel_read_ex(running_, stream, buffer, sizeof buffer);
                if (n > 0) received_ += static_cast<std::uint64_t>(n);
                if (n < 0 && n != LIBSSH2_ERROR_EAGAIN) fail("read");
                if (n <= 0) break;
            }
        }
        if (libssh2_channel_eof(running_) == 0 || libssh2_channel_close(running_) == LIBSSH2_ERROR_EAGAIN) return false;
        const bool ok = libssh2_channel_get_exit_status(running_) == 0;
        libssh2_channel_free(running_);
        running_ = nullptr;
        std::exchange(done_, nullptr)(ok);
        return true;
    }
    bool reached(stage next, int rc, const char* what) {
        if (rc == LIBSSH2_ERROR_EAGAIN) return false;
        if (rc != 0) fail(what);
        return stage_ = next, true;
    }
    /// What a link of this round trip carries without waiting, at 100 MB/s; libssh2's own size at the least.
    unsigned window() const { return std::max(LIBSSH2_CHANNEL_WINDOW_DEFAULT, static_cast<int>(o_.rtt_ms * 100e3)); }

    void watch() {
        const bool out = stage_ == stage::connecting || (libssh2_session_block_directions(session_) & LIBSSH2_SESSION_BLOCK_OUTBOUND) != 0;
        const auto wanted = EPOLLIN | (out ? EPOLLOUT : 0U);
        if (wanted == watched_) return;
        epoll_event e{watched_ = wanted, {}};
        e.data.ptr = this;
        ::epoll_ctl(epoll_, EPOLL_CTL_MOD, fd_, &e);
    }
    static ssize_t receive(libssh2_socket_t fd, void* into, std::size_t size, int flags, void** self) {
        auto& session = *static_cast<raw_session*>(*self);
        if (session.dry_) return -EAGAIN;
        const auto n = ::recv(fd, into, size, flags);
        if (n < 0) return session.dry_ = true, -errno;
        session.dry_ = static_cast<std::size_t>(n) < size;
        session.heard_ += static_cast<std::uint64_t>(n);
        return n;
    }
    void set(int option) const {
        const int on = 1;
        ::setsockopt(fd_, IPPROTO_TCP, option, &on, sizeof on);
    }
    [[noreturn]] void fail(const char* what) const {
        char* text = nullptr;
        if (session_ != nullptr) libssh2_session_last_error(session_, &text, nullptr, 0);
        throw std::runtime_error(std::string{"the floor failed: "} + what + (text != nullptr ? std::string{": "} + text : ""));
    }

    const options& o_;
    const std::string& key_;
    const int epoll_;
    int fd_ = -1;
    LIBSSH2_SESSION* session_ = nullptr;
    stage stage_ = stage::connecting;
    unsigned watched_ = EPOLLOUT;
    bool dry_ = false, opened_once_ = false, wanted_ = false, started_ = false, sent_eof_ = false;
    std::uint64_t heard_ = 0, to_send_ = 0, received_ = 0;
    LIBSSH2_CHANNEL *spare_ = nullptr, *running_ = nullptr;
    std::string line_;
    std::function<void(bool)> done_;
    std::function<void()> ready_;
};

class floor_workload {
public:
    explicit floor_workload(const options& o) : o_(o), sessions_(o.hosts.size()) {
        libssh2_init(0);
        std::ifstream in(o.key);
        key_.assign(std::istreambuf_iterator<char>{in}, {});
        if (key_.empty()) throw std::invalid_argument("cannot read the key " + o.key);
    }
    floor_workload(const floor_workload&) = delete;
    floor_workload& operator=(const floor_workload&) = delete;
    ~floor_workload() {
        sessions_.clear();
        ::close(epoll_);
    }

    measured run() {
        const bool transfer = o_.workload == "W4-down" || o_.workload == "W4-up";
        if (o_.workload == "W1" || o_.workload == "W2" || o_.workload == "W3") {
            if (o_.concurrency != o_.hosts.size())
                throw std::invalid_argument("the floor runs one command at a time on each host: --concurrency is the number of hosts");
        } else if (!transfer && o_.workload != "W5" && o_.workload != "W6") {
            throw std::invalid_argument("unknown workload \"" + o_.workload + '"');
        }
        commands(o_.warm * o_.hosts.size(), false);
        result_.begin();
        if (transfer) {
            move_bytes(o_.workload == "W4-up");
        } else if (o_.workload == "W5") {
            log_in();
        } else if (o_.workload == "W6") {
            for (std::size_t i = 0; i < o_.hosts.size(); ++i) connect(i, clock::now());
        } else {
            commands(o_.ops, true);
        }
        while (open_ > 0) poll();
        result_.end();
        result_.connections = made_;
        const auto until = clock::now() + std::chrono::duration<double>{o_.hold};
        while (clock::now() < until) poll(10);
        result_.memory();
        return result_;
    }

private:
    raw_session& at(std::size_t i) {
        if (sessions_[i] == nullptr) {
            sessions_[i] = std::make_unique<raw_session>(o_, o_.hosts[i], key_, epoll_);
            ++made_;
        }
        return *sessions_[i];
    }

    void commands(std::size_t ops, bool measuring) {
        for (std::size_t i = 0; i < std::min(o_.hosts.size(), ops); ++i) one(i, i, ops, measuring);
        while (open_ > 0) poll();
    }
    void one(std::size_t i, std::size_t op, std::size_t ops, bool measuring) {
        ++open_;
        at(i).run(o_.cmd, 0, [this, i, op, ops, measuring, since = clock::now()](bool ok) {
            --open_;
            if (measuring) result_.add(since, ok);
            if (op + o_.hosts.size() < ops) one(i, op + o_.hosts.size(), ops, measuring);
        });
    }
    void move_bytes(bool up) {
        ++open_;
        auto& session = at(0);
        const auto line = up ? std::string{"cat >/dev/null"} : "head -c " + std::to_string(o_.bytes) + " /dev/zero";
        session.run(line, up ? o_.bytes : 0, [this, up, &session, since = clock::now(), before = session.received()](bool ok) {
            --open_;
            result_.add(since, ok && (up || session.received() - before == o_.bytes));
        });
    }
    void connect(std::size_t i, clock::time_point since) {
        ++open_;
        at(i).when_ready([this, since] {
            --open_;
            result_.add(since, true);
        });
    }
    void log_in() {
        for (std::size_t n = 0; n < o_.ops; ++n) {
            const auto i = n % o_.hosts.size();
            sessions_[i].reset();
            connect(i, clock::now());
            while (open_ > 0) poll();
        }
    }
    void poll(int timeout = -1) {
        epoll_event events[64];
        const int n = ::epoll_wait(epoll_, events, 64, timeout);
        for (int i = 0; i < n; ++i) static_cast<raw_session*>(events[i].data.ptr)->turn();
    }

    const options& o_;
    measured result_;
    std::string key_;
    const int epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
    std::vector<std::unique_ptr<raw_session>> sessions_;
    std::size_t open_ = 0, made_ = 0;
};

}  // namespace bench
