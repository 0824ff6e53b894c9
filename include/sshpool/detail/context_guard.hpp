#pragma once

#include <sshpool/detail/home_process.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/execution/context.hpp>
#include <asio/execution_context.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace sshpool::detail {

/// Whether an execution context is still there. Shared by the object that asks and the service that knows.
struct context_life {
    std::mutex mutex;
    std::atomic<bool> alive{true};  // changes under the mutex
    const home_process home;
    std::function<void()> on_shutdown;
};

/// The part of an execution context that tells guarded objects when the context goes.
class context_service : public asio::execution_context::service {
public:
    using key_type = context_service;
    inline static asio::execution_context::id id;

    explicit context_service(asio::execution_context& context) : asio::execution_context::service(context) {}

    void add(std::shared_ptr<context_life> life) {
        const std::lock_guard lock{mutex_};
        auto* const p = life.get();
        lives_.emplace(p, std::move(life));
    }
    void remove(const context_life* life) {
        const std::lock_guard lock{mutex_};
        lives_.erase(life);
    }

private:
    std::shared_ptr<context_life> next() {
        const std::lock_guard lock{mutex_};
        if (lives_.empty()) return nullptr;
        return std::move(lives_.extract(lives_.begin()).mapped());
    }
    void shutdown() override {
        while (const auto life = next()) {
            if (!life->home.is_here()) {
                life->alive = false;
                continue;
            }
            {
                const std::lock_guard lock{life->mutex};
                life->alive = false;
            }
            life->on_shutdown();
        }
    }

    std::mutex mutex_;
    std::map<const context_life*, std::shared_ptr<context_life>> lives_;
};

/// Guards an object that holds Asio objects and may outlive their context: an Asio object that does, and a post to a context that
/// is gone, are use after free.
///
/// `on_shutdown` is called once, from the context's destruction, and must let go of everything that belongs to the context.
/// In a forked child nothing is alive, and no lock is taken to find that out: another thread may have held it at the moment of the fork.
class context_guard {
public:
    context_guard(asio::execution_context& context, std::function<void()> on_shutdown) : service_(&asio::use_service<context_service>(context)) {
        life_->on_shutdown = std::move(on_shutdown);
        service_->add(life_);
    }
    context_guard(const context_guard&) = delete;
    context_guard& operator=(const context_guard&) = delete;
    ~context_guard() {
        with_context([this] { service_->remove(life_.get()); });
    }

    /// Calls `f` if the context is still there, and keeps it there meanwhile. `f` must not run other people's code.
    template <class F>
    bool with_context(F&& f) {
        if (is_forked()) return false;
        const std::lock_guard lock{life_->mutex};
        if (!life_->alive) return false;
        std::forward<F>(f)();
        return true;
    }
    bool is_alive() const noexcept { return has_context() && !is_forked(); }
    bool has_context() const noexcept { return life_->alive; }
    /// This is a child of the process whose object it is.
    bool is_forked() const noexcept { return !life_->home.is_here(); }

private:
    context_service* service_;
    std::shared_ptr<context_life> life_ = std::make_shared<context_life>();
};

}  // namespace sshpool::detail
