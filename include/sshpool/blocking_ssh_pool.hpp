#pragma once

#include <sshpool/ssh_pool.hpp>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace sshpool {

class blocking_ssh_pool;

namespace detail {

struct process_pool;

/// An io_context with its threads and a pool on it; what blocking calls wait on.
class blocking_engine {
public:
    explicit blocking_engine(pool_params params, std::size_t threads) : pool_(io_.get_executor(), std::move(params)) {
        try {
            for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { io_.run(); });
        } catch (...) {
            work_.reset();
            for (auto& thread : threads_) thread.join();
            throw;
        }
    }
    blocking_engine(const blocking_engine&) = delete;
    blocking_engine& operator=(const blocking_engine&) = delete;
    ~blocking_engine() { close(std::chrono::milliseconds::zero()); }

    ssh_pool<>& pool() noexcept { return pool_; }
    bool is_open() const noexcept { return !closed_; }
    /// For calls that change something.
    ssh_pool<>& open_pool() {
        if (closed_) throw pool_closed();
        return pool_;
    }
    /// Throws in a child of the process that has the threads, before any lock is touched.
    void refuse_children() const {
        if (!home_.is_here()) throw ssh_error{asked_in_a_child({})};
    }

    /// Starts an operation with `start(error_info&, handler)` and waits for its result; throws `ssh_error`.
    template <class Result, class Start>
    Result wait(Start&& start) {
        struct answer {
            std::promise<void> came;
            Result result{};
            error_info error;
        };
        const auto a = std::make_shared<answer>();
        refuse_children();
        {
            const std::shared_lock open{closing_};  // an operation that has started ends before the threads do
            if (closed_) throw pool_closed();
            std::forward<Start>(start)(a->error, [a](std::error_code ec, Result value = {}) {
                a->result = std::move(value);
                if (ec && !a->error) a->error.code = ec;
                a->came.set_value();
            });
        }
        a->came.get_future().get();                                           // throws only where the operation was dropped with its io_context
        if (a->error && closed_ && a->error.code == errc::connection_lost) {  // cut by the closing: its fate is as it was
            a->error.code = make_error(errc::pool_closed, a->error.code == command_fate::unknown ? command_fate::unknown : command_fate::not_started);
            a->error.text = "the pool was closed meanwhile: " + a->error.text;
        }
        if (a->error) throw ssh_error{std::move(a->error)};
        return std::move(a->result);
    }

    /// Returns when nothing is left, also for a second caller. In a child there is nothing that could be waited for.
    void close(std::chrono::milliseconds grace) {
        if (!home_.is_here()) return;
        {
            const std::unique_lock alone{closing_};
            closed_ = true;
        }
        const std::lock_guard one{joining_};
        if (threads_.empty()) return;
        std::promise<void> drained;
        pool_.async_shutdown(grace, [&](std::error_code) { drained.set_value(); });
        drained.get_future().wait();
        work_.reset();
        for (auto& thread : threads_) thread.join();
        threads_.clear();
    }

    static ssh_error pool_closed() { return ssh_error{error_info{make_error(errc::pool_closed), {}, "waiting", "the pool is closed"}}; }

private:
    asio::io_context io_;
    asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
    ssh_pool<> pool_;
    std::vector<std::thread> threads_;
    std::shared_mutex closing_;
    std::mutex joining_;
    std::atomic<bool> closed_{false};  // changes under `closing_`
    const home_process home_;
};

}  // namespace detail

/// A pooled connection, lent to code without Asio. Move-only; gives the connection back when it goes. One thread at a time.
class blocking_lease {
public:
    blocking_lease() = default;

    /// As `libssh2_transport::async_run`; waits for the end. Throws `ssh_error`.
    command_result run(command what) {
        return wait<command_result>([&](error_info& error, auto handler) { lease_->async_run(std::move(what), error, std::move(handler)); });
    }
    /// As `libssh2_transport::async_upload` and its like; each waits for the end. Throw `ssh_error`; `std::invalid_argument` for a name that no file can have.
    void upload(std::filesystem::path from, std::string to, transfer_options options = {}) {
        wait<detail::no_result>(
            [&](error_info& error, auto handler) { lease_->async_upload(std::move(from), std::move(to), std::move(options), error, std::move(handler)); });
    }
    void download(std::string from, std::filesystem::path to, transfer_options options = {}) {
        wait<detail::no_result>(
            [&](error_info& error, auto handler) { lease_->async_download(std::move(from), std::move(to), std::move(options), error, std::move(handler)); });
    }
    void write_file(std::string to, std::string bytes, transfer_options options = {}) {
        wait<detail::no_result>(
            [&](error_info& error, auto handler) { lease_->async_write_file(std::move(to), std::move(bytes), std::move(options), error, std::move(handler)); });
    }
    std::string read_file(std::string from, transfer_options options = {}) {
        return wait<std::string>(
            [&](error_info& error, auto handler) { lease_->async_read_file(std::move(from), std::move(options), error, std::move(handler)); });
    }
    /// False for an empty lease, and for one whose pool was shut down.
    explicit operator bool() const noexcept { return engine_ != nullptr && engine_->is_open() && static_cast<bool>(lease_); }
    void release() noexcept { lease_.release(); }
    void discard() noexcept { lease_.discard(); }
    connection_info info() const { return lease_.info(); }

private:
    friend class blocking_ssh_pool;
    template <class Result, class Start>
    Result wait(Start&& start) {
        if (engine_ != nullptr) engine_->refuse_children();
        if (engine_ == nullptr || !*this) throw detail::blocking_engine::pool_closed();
        return engine_->wait<Result>(std::forward<Start>(start));
    }
    blocking_lease(std::shared_ptr<detail::blocking_engine> engine, lease<libssh2_transport> lent) : engine_(std::move(engine)), lease_(std::move(lent)) {}

    std::shared_ptr<detail::blocking_engine> engine_;  // goes after the lease
    lease<libssh2_transport> lease_;
};

/// The pool for code without Asio: commands and files, each call waiting for its end; errors are thrown as `ssh_error`. Streams and tunnels are for
/// `ssh_pool` alone.
///
/// **Threads**: every member may be called from any thread. It owns its io_context and the threads that run it. Callbacks
/// (`pool_params::on_event`, `command::on_output`) run on those threads and must not call the pool,
/// nor throw: nobody would catch it, and the program would end.
/// **Lifetime**: leases may outlive it, and are then dead. Going away without `shutdown` cuts what runs.
/// **fork()**: a child has none of the threads: there every call throws `errc::pool_closed`, shutting down and going away do nothing, and the connections
/// stay the parent's. A child makes a pool of its own.
class blocking_ssh_pool {
public:
    /// Throws `std::invalid_argument` that names the field of `params` that cannot be, or for no threads.
    explicit blocking_ssh_pool(pool_params params = {}, std::size_t threads = 2) { open(std::move(params), threads); }
    blocking_ssh_pool(const blocking_ssh_pool&) = delete;
    blocking_ssh_pool& operator=(const blocking_ssh_pool&) = delete;
    ~blocking_ssh_pool() { engine_->close(std::chrono::milliseconds::zero()); }

    /// As `ssh_pool::async_run`.
    command_result run(const target& where, command what, std::source_location caller = std::source_location::current()) {
        const auto engine = current();
        return engine->wait<command_result>(
            [&](error_info& error, auto handler) { engine->pool().async_run(where, std::move(what), error, std::move(handler), caller); });
    }
    /// As `get_connection` and the lease's own.
    void upload(const target& where, std::filesystem::path from, std::string to, transfer_options options = {},
                std::source_location caller = std::source_location::current()) {
        get_connection(where, caller).upload(std::move(from), std::move(to), std::move(options));
    }
    void download(const target& where, std::string from, std::filesystem::path to, transfer_options options = {},
                  std::source_location caller = std::source_location::current()) {
        get_connection(where, caller).download(std::move(from), std::move(to), std::move(options));
    }
    void write_file(const target& where, std::string to, std::string bytes, transfer_options options = {},
                    std::source_location caller = std::source_location::current()) {
        get_connection(where, caller).write_file(std::move(to), std::move(bytes), std::move(options));
    }
    std::string read_file(const target& where, std::string from, transfer_options options = {}, std::source_location caller = std::source_location::current()) {
        return get_connection(where, caller).read_file(std::move(from), std::move(options));
    }
    /// As `ssh_pool::async_get_connection`.
    blocking_lease get_connection(const target& where, std::source_location caller = std::source_location::current()) {
        const auto engine = current();
        return {engine, engine->wait<lease<libssh2_transport>>(
                            [&](error_info& error, auto handler) { engine->pool().async_get_connection(where, error, std::move(handler), caller); })};
    }
    /// As `ssh_pool::try_get_connection`.
    std::optional<blocking_lease> try_get_connection(const target& where, std::source_location caller = std::source_location::current()) {
        const auto engine = current();
        auto lent = engine->open_pool().try_get_connection(where, caller);
        if (!lent) return std::nullopt;
        return blocking_lease{engine, std::move(*lent)};
    }
    /// As `ssh_pool::async_warm`.
    template <class Range>
    warm_report warm(const Range& targets) {
        const auto engine = current();
        return engine->wait<warm_report>([&](error_info&, auto handler) { engine->pool().async_warm(targets, std::move(handler)); });
    }
    /// As `ssh_pool::keep_warm`.
    template <class Range>
    void keep_warm(const Range& targets) {
        current()->open_pool().keep_warm(targets);
    }
    /// These are as in `ssh_pool`.
    void forget_warm(std::string_view key) { current()->open_pool().forget_warm(key); }
    void invalidate(std::string_view key) { current()->open_pool().invalidate(key); }
    void invalidate_principal(std::string_view label) { current()->open_pool().invalidate_principal(label); }
    void close_all() { current()->open_pool().close_all(); }
    pool_stats get_stats() const { return current()->pool().get_stats(); }
    pool_stats get_stats(std::string_view key) const { return current()->pool().get_stats(key); }
    /// As `ssh_pool::watch`; of the process-wide pool, until it is closed.
    pool_watcher watch() const { return current()->pool().watch(); }
    std::string explain(std::string_view key) const { return current()->pool().explain(key); }

    /// Refuses new calls, wakes those that wait for a connection (`errc::pool_closed`), lets what runs go on for at most `grace`,
    /// then cuts it: `errc::pool_closed` with the fate `unknown`. Returns when nothing is left. Calls after it throw `errc::pool_closed`; only `get_stats`,
    /// `watch` and `explain` still tell how it ended.
    void shutdown(std::chrono::milliseconds grace) {
        if (home_.is_here()) current()->close(grace);
    }

private:
    friend struct detail::process_pool;
    void open(pool_params params, std::size_t threads) {
        if (threads == 0) throw std::invalid_argument("a blocking_ssh_pool needs at least one thread");
        auto engine = detail::shared_at_home(new detail::blocking_engine{std::move(params), threads});
        {
            const std::lock_guard lock{mutex_};
            engine_.swap(engine);
        }
    }
    std::shared_ptr<detail::blocking_engine> current() const {
        if (!home_.is_here()) throw ssh_error{detail::asked_in_a_child({})};  // before the mutex, which may be locked there for ever
        const std::lock_guard lock{mutex_};
        return engine_;
    }

    const detail::home_process home_;
    mutable std::mutex mutex_;
    std::shared_ptr<detail::blocking_engine> engine_;
};

namespace detail {

/// The process-wide pool.
struct process_pool {
    static process_pool& instance() { return one_of_this_process<process_pool>(); }

    std::mutex mutex;
    std::unique_ptr<blocking_ssh_pool> pool;
    bool open = false;

    std::shared_ptr<blocking_engine> engine() const;
    void reopen(pool_params params);
};

}  // namespace detail

inline std::shared_ptr<detail::blocking_engine> detail::process_pool::engine() const { return pool->current(); }
inline void detail::process_pool::reopen(pool_params params) {
    if (pool == nullptr) {
        pool = std::make_unique<blocking_ssh_pool>(std::move(params));
    } else {
        pool->open(std::move(params), 2);
    }
    open = true;
}

/// Makes the process-wide pool. Throws `std::logic_error` if there is one that is not closed, and
/// `std::invalid_argument` that names the field of `params` that cannot be. The reference is valid for the life of the process.
/// A child made by `fork()` begins without one, whatever its parent had.
inline blocking_ssh_pool& init_ssh_pool(pool_params params = {}) {
    auto& process = detail::process_pool::instance();
    const std::lock_guard lock{process.mutex};
    if (process.open) throw std::logic_error("init_ssh_pool: the process-wide pool exists already; close_ssh_pool first");
    process.reopen(std::move(params));
    return *process.pool;
}

/// The process-wide pool; made with default parameters when there never was one. After `close_ssh_pool` and until an
/// `init_ssh_pool` every operation on it throws `errc::pool_closed`. It is never destroyed: close it before `main` returns, or its
/// threads run into the end of the process.
inline blocking_ssh_pool& get_ssh_pool() {
    auto& process = detail::process_pool::instance();
    const std::lock_guard lock{process.mutex};
    if (process.pool == nullptr) process.reopen({});
    return *process.pool;
}

/// Closes the process-wide pool as `blocking_ssh_pool::shutdown` does, with so much time for what runs. Nothing happens when there is none.
inline void close_ssh_pool_within(std::chrono::milliseconds grace) {
    auto& process = detail::process_pool::instance();
    std::shared_ptr<detail::blocking_engine> engine;  // this one, also where another thread makes the next meanwhile
    {
        const std::lock_guard lock{process.mutex};
        if (!std::exchange(process.open, false)) return;
        engine = process.engine();
    }
    engine->close(grace);
}

/// The same, with 10 s; in a form that `std::atexit` takes.
inline void close_ssh_pool() { close_ssh_pool_within(std::chrono::seconds{10}); }

}  // namespace sshpool
