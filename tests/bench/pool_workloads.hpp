#pragma once

// The workloads of bench_ssh through the library's public interface: one io_context, one thread, completion handlers.

#include "bench/bench_options.hpp"

#include <sshpool/sshpool.hpp>

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/write.hpp>

#include <functional>
#include <memory>
#include <utility>

namespace bench {

class pool_workload {
public:
    explicit pool_workload(const options& o) : o_(o), pool_(io_.get_executor(), params(o)) {
        const auto login = sshpool::credentials::private_key_file(o.key);
        for (const auto& h : o.hosts) targets_.emplace_back(o.user, h.address, h.port, login, sshpool::host_key_policy::accept_any());
    }

    measured run() {
        std::function<void()> work;
        if (o_.workload == "W1" || o_.workload == "W2" || o_.workload == "W3") {
            work = [this] { commands(o_.ops, o_.concurrency, true, [this] { finish(); }); };
        } else if (o_.workload == "W4-down") {
            work = [this] { download(); };
        } else if (o_.workload == "W4-up") {
            work = [this] { upload(); };
        } else if (o_.workload == "W5") {
            work = [this] { log_in(o_.ops); };
        } else if (o_.workload == "W6") {
            work = [this] { connect_all(); };
        } else {
            throw std::invalid_argument("unknown workload \"" + o_.workload + '"');
        }
        commands(o_.warm * targets_.size(), targets_.size(), false, [&] {
            result_.begin();
            work();
        });
        io_.run();
        return result_;
    }

private:
    static sshpool::pool_params params(const options& o) {
        sshpool::pool_params p;
        p.max_connections = std::max<std::size_t>(o.hosts.size(), p.max_connections);
        p.acquire_timeout = std::chrono::minutes{5};  // slow machines: what is late is to be measured, not to fail
        p.connect_timeout = std::chrono::minutes{1};
        return p;
    }

    /// `ops` commands, `width` at once.
    void commands(std::size_t ops, std::size_t width, bool measuring, std::function<void()> done) {
        if (ops == 0) return done();
        struct state {
            std::size_t next = 0, ended = 0;
            std::function<void()> done;
        };
        const auto all = std::make_shared<state>(state{0, 0, std::move(done)});
        const auto one = std::make_shared<std::function<void(std::size_t)>>();
        *one = [this, all, ops, width, measuring, weak = std::weak_ptr{one}](std::size_t op) {
            const auto since = clock::now();
            pool_.async_run(targets_[op % targets_.size()], o_.cmd,
                            [this, all, ops, width, measuring, op, since, again = weak.lock()](std::error_code ec, const sshpool::command_result& r) {
                                if (measuring) result_.add(since, !ec && r.ok());
                                if (op + width < ops) (*again)(op + width);
                                if (++all->ended == ops) all->done();
                            });
        };
        for (std::size_t i = 0; i < std::min(width, ops); ++i) (*one)(i);
    }

    void download() {
        sshpool::command what{"head -c " + std::to_string(o_.bytes) + " /dev/zero"};
        what.on_output([this](sshpool::output_stream, std::string_view bytes) { carried_ += bytes.size(); });
        pool_.async_run(targets_[0], std::move(what), [this, since = clock::now()](std::error_code ec, const sshpool::command_result& r) {
            result_.add(since, !ec && r.ok() && carried_ == o_.bytes);
            finish();
        });
    }

    void upload() {
        pool_.async_get_connection(targets_[0], [this, since = clock::now()](std::error_code ec, auto lease) {
            if (ec) return result_.add(since, false), finish();
            lease->async_open("cat >/dev/null", [this, since](std::error_code failed, sshpool::channel opened) {
                if (failed) return result_.add(since, false), finish();
                channel_ = std::move(opened);
                block_.assign(std::size_t{256} << 10, 'x');
                write_on(since);
            });
        });
    }
    void write_on(clock::time_point since) {
        if (carried_ == o_.bytes) {
            return channel_.async_send_eof([this, since](std::error_code) {
                channel_.async_wait_exit([this, since](std::error_code ec, const sshpool::command_result& r) {
                    result_.add(since, !ec && r.ok());
                    channel_.close();
                    finish();
                });
            });
        }
        const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(block_.size(), o_.bytes - carried_));
        asio::async_write(channel_, asio::buffer(block_.data(), size), [this, since](std::error_code ec, std::size_t written) {
            if (ec) return result_.add(since, false), finish();
            carried_ += written;
            write_on(since);
        });
    }

    void log_in(std::size_t left) {
        if (left == 0) return finish();
        pool_.async_get_connection(targets_[left % targets_.size()], [this, left, since = clock::now()](std::error_code ec, auto lease) {
            result_.add(since, !ec);
            lease.discard();
            log_in(left - 1);
        });
    }

    void connect_all() {
        pool_.async_warm(targets_, [this, since = clock::now()](std::error_code, const sshpool::warm_report& report) {
            for (std::size_t i = 0; i < report.connected; ++i) result_.add(since, true);
            for (std::size_t i = 0; i < report.failed.size(); ++i) result_.add(since, false);
            finish();
        });
    }

    void finish() {
        result_.end();
        result_.connections = pool_.get_stats().connections_created;
        hold_.expires_after(std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>{o_.hold}));
        hold_.async_wait([this](std::error_code) {
            result_.memory();
            pool_.async_shutdown(std::chrono::seconds{1}, [](std::error_code) {});
        });
    }

    const options& o_;
    measured result_;
    asio::io_context io_{1};
    sshpool::ssh_pool<> pool_;
    asio::steady_timer hold_{io_};
    std::vector<sshpool::target> targets_;
    std::uint64_t carried_ = 0;
    sshpool::channel channel_;
    std::string block_;
};

}  // namespace bench
