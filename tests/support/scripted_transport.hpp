#pragma once

#include <sshpool/command.hpp>
#include <sshpool/transport.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/bind_executor.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace sshpool::test {

class scripted_transport;

/// What a test makes of the network: how connections open, answer and close. Thread-safe.
class scripted_network : public std::enable_shared_from_this<scripted_network> {
public:
    enum class answer { at_once, when_told };

    struct connection {
        std::optional<target> where;
        connection_observer observer;
        std::function<void(open_report)> opening;
        std::vector<std::function<void(error_info)>> probing;
        std::function<void()> closing;
        std::vector<std::function<void(error_info, command_result)>> running;
        std::vector<std::string> commands;  // those that were started
        bool open = false;
        bool gone = false;
        std::atomic<bool> usable{true};
        std::atomic<std::chrono::steady_clock::rep> heard{0};
    };
    using connection_pointer = std::shared_ptr<connection>;

    std::atomic<answer> opens{answer::at_once};
    std::atomic<answer> probes{answer::at_once};
    std::atomic<answer> closes{answer::at_once};
    std::atomic<answer> runs{answer::at_once};
    std::function<std::chrono::steady_clock::time_point()> now = [] { return std::chrono::steady_clock::now(); };

    /// Every following open fails, or probe, until it is set to an empty error.
    void fail_opens(error_info error) { set(open_error_, std::move(error)); }
    void fail_probes(error_info error) { set(probe_error_, std::move(error)); }
    /// The next command fails without having been started.
    void fail_next_run(error_info error) {
        const std::lock_guard lock{mutex_};
        run_errors_.push_back(std::move(error));
    }
    void set_phases(connect_phases phases) { set(phases_, phases); }

    std::vector<connection_pointer> all() const {
        const std::lock_guard lock{mutex_};
        return all_;
    }
    connection_pointer at(std::size_t index) const {
        const std::lock_guard lock{mutex_};
        return all_.at(index);
    }
    std::size_t opened() const {  // ever asked for
        const std::lock_guard lock{mutex_};
        return all_.size();
    }
    std::size_t live() const {  // opening, open or closing
        const std::lock_guard lock{mutex_};
        return live_;
    }
    std::size_t most_live() const {
        const std::lock_guard lock{mutex_};
        return most_live_;
    }
    std::size_t probed() const {
        const std::lock_guard lock{mutex_};
        return probed_;
    }

    // What tests tell connections that wait to be told.
    void finish_open(std::size_t index, error_info error = {}) { finish_open(at(index), std::move(error)); }
    void finish_probe(std::size_t index, error_info error = {}) {
        for (auto& done : take(&connection::probing, index)) done(error);
    }
    void finish_close(std::size_t index) {
        if (auto done = take(&connection::closing, index)) done();
    }
    void finish_runs(std::size_t index, error_info error = {}, command_result result = {}) {
        for (auto& done : take(&connection::running, index)) done(error, result);
    }
    /// The server cuts the connection.
    void lose(std::size_t index, std::string text = "reset by peer") {
        const auto c = at(index);
        c->usable = false;
        const error_info error{make_error(errc::connection_lost), c->where->key(), "idle", std::move(text)};
        const error_info running{make_error(errc::connection_lost, command_fate::unknown), c->where->key(), "command", error.text};
        for (auto& done : take(&connection::running, index)) done(running, {});
        if (c->observer.lost) c->observer.lost(error);
    }

private:
    friend class scripted_transport;

    template <class T>
    void set(T& field, T value) {
        const std::lock_guard lock{mutex_};
        field = std::move(value);
    }
    template <class T>
    T take(T connection::*field, std::size_t index) {
        const std::lock_guard lock{mutex_};
        return std::exchange(*all_.at(index).*field, T{});
    }
    void end(const connection_pointer& c) {
        if (std::exchange(c->gone, true)) return;
        --live_;
    }
    void finish_open(const connection_pointer& c, error_info error) {
        std::function<void(open_report)> done;
        open_report report;
        {
            const std::lock_guard lock{mutex_};
            if (!c->opening) return;
            done = std::exchange(c->opening, {});
            report.phases = phases_;
            report.error = error ? std::move(error) : open_error_;
            c->open = !report.error;
            c->heard = now().time_since_epoch().count();
            if (report.error) end(c);
        }
        done(std::move(report));
    }

    mutable std::mutex mutex_;
    std::vector<connection_pointer> all_;
    std::size_t live_ = 0, most_live_ = 0, probed_ = 0;
    error_info open_error_, probe_error_;
    std::vector<error_info> run_errors_;
    connect_phases phases_;
};

/// A connection to a scripted network.
class scripted_transport {
public:
    scripted_transport(asio::any_io_executor executor, std::shared_ptr<scripted_network> network)
        : executor_(std::move(executor)), network_(std::move(network)), connection_(std::make_shared<scripted_network::connection>()) {}

    void open(open_request<scripted_transport> request, std::function<void(open_report)> done) {
        {
            const std::lock_guard lock{network_->mutex_};
            connection_->where = std::move(request.target);
            connection_->observer = std::move(request.observer);
            connection_->opening = std::move(done);
            network_->all_.push_back(connection_);
            network_->most_live_ = std::max(network_->most_live_, ++network_->live_);
        }
        if (network_->opens == scripted_network::answer::at_once) network_->finish_open(connection_, {});
    }
    void probe(std::chrono::milliseconds, std::function<void(error_info)> done) {
        error_info error;
        {
            const std::lock_guard lock{network_->mutex_};
            ++network_->probed_;
            error = network_->probe_error_;
            if (!error) connection_->heard = network_->now().time_since_epoch().count();
            if (network_->probes == scripted_network::answer::when_told) {
                connection_->probing.push_back(std::move(done));
                return;
            }
        }
        done(error);
    }
    void close(std::function<void()> done) {
        std::vector<std::function<void(error_info, command_result)>> cut;
        {
            const std::lock_guard lock{network_->mutex_};
            cut.swap(connection_->running);
        }
        for (auto& end : cut)
            end(error_info{make_error(errc::connection_lost, command_fate::unknown), connection_->where->key(), "command", "the connection was closed"}, {});
        network_->finish_open(connection_, error_info{make_error(errc::cancelled), connection_->where->key(), "tcp", "closed while it was opened"});
        auto last = [network = network_, c = connection_, done = std::move(done)] {
            {
                const std::lock_guard lock{network->mutex_};
                network->end(c);
                c->open = false;
            }
            done();
        };
        if (network_->closes == scripted_network::answer::at_once) return last();
        const std::lock_guard lock{network_->mutex_};
        connection_->closing = std::move(last);
    }
    bool is_usable() const noexcept { return connection_->usable; }
    std::chrono::steady_clock::time_point last_heard() const noexcept {
        return std::chrono::steady_clock::time_point{std::chrono::steady_clock::duration{connection_->heard.load()}};
    }
    scripted_transport lend(std::shared_ptr<void> share) const {
        auto copy = *this;
        copy.share_ = std::move(share);
        return copy;
    }

    template <class Token>
    auto async_run(command what, Token&& token) {
        return run(std::move(what), nullptr, std::forward<Token>(token));
    }
    template <class Token>
    auto async_run(command what, error_info& details, Token&& token) {
        return run(std::move(what), &details, std::forward<Token>(token));
    }

    const scripted_network::connection& state() const { return *connection_; }

private:
    template <class Handler>
    struct running {
        explicit running(Handler h, const asio::any_io_executor& fallback, error_info* info, std::shared_ptr<void> held)
            : handler(std::move(h)), work(asio::get_associated_executor(handler, fallback)), details(info), share(std::move(held)) {}
        void end(error_info error, command_result result) {
            if (ended.exchange(true)) return;
            const auto executor = work.get_executor();
            asio::post(asio::bind_executor(executor, [w = std::move(work), h = std::move(handler), info = details, s = std::exchange(share, nullptr),
                                                      error = std::move(error), result = std::move(result)]() mutable {
                w.reset();
                s.reset();
                if (info != nullptr && error) *info = error;
                std::move(h)(error.code, std::move(result));
            }));
        }
        Handler handler;
        asio::executor_work_guard<asio::associated_executor_t<Handler, asio::any_io_executor>> work;
        error_info* details;
        std::shared_ptr<void> share;
        std::atomic<bool> ended{false};
    };

    template <class Token>
    auto run(command what, error_info* details, Token&& token) {
        return asio::async_initiate<Token, void(std::error_code, command_result)>(
            [self = *this](auto handler, command line, error_info* info) {
                using op = running<decltype(handler)>;
                const auto r = std::make_shared<op>(std::move(handler), self.executor_, info, self.share_);
                auto slot = asio::get_associated_cancellation_slot(r->handler);
                if (slot.is_connected()) {
                    slot.assign([weak = std::weak_ptr{r}](asio::cancellation_type) {
                        if (const auto alive = weak.lock()) alive->end(error_info{make_error(errc::cancelled), {}, "command", "cancelled"}, {});
                    });
                }
                error_info error;
                {
                    const std::lock_guard lock{self.network_->mutex_};
                    auto& errors = self.network_->run_errors_;
                    if (!errors.empty()) {
                        error = errors.front();
                        errors.erase(errors.begin());
                    } else {
                        self.connection_->commands.push_back(line.line());
                        if (self.network_->runs == scripted_network::answer::when_told) {
                            self.connection_->running.push_back([r](error_info e, command_result c) { r->end(std::move(e), std::move(c)); });
                            return;
                        }
                    }
                }
                command_result result;
                if (!error) {
                    result.exit_status = 0;
                    result.out = line.line();
                }
                r->end(std::move(error), std::move(result));
            },
            token, std::move(what), details);
    }

    asio::any_io_executor executor_;
    std::shared_ptr<scripted_network> network_;
    std::shared_ptr<scripted_network::connection> connection_;
    std::shared_ptr<void> share_;
};

static_assert(transport<scripted_transport>);

}  // namespace sshpool::test
