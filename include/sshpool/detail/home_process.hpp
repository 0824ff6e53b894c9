#pragma once

#include <sshpool/error.hpp>

#include <atomic>
#include <memory>
#include <string>
#include <system_error>

#include <pthread.h>

namespace sshpool::detail {

/// Remembers the process that made an object. A child made by `fork()` has a copy of the object, and shares the sockets, the epoll set and the timer
/// behind it with its parent; the threads are not there, and what they had locked stays locked.
class home_process {
public:
    home_process() : forks_(count_forks()) {}
    bool is_here() const noexcept { return forks_ == forks.load(std::memory_order_relaxed); }

private:
    static unsigned count_forks() {
        static const int failed = ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
        if (failed != 0) throw std::system_error(failed, std::generic_category(), "pthread_atfork");
        return forks.load(std::memory_order_relaxed);
    }

    inline static std::atomic<unsigned> forks{0};
    unsigned forks_;
};

/// The one `T` of this process, made when it is asked for first. Never destroyed, so that code that runs during static destruction may still use it. A child
/// has one of its own: a lock in its parent's may be held by a thread that is not there.
template <class T>
T& one_of_this_process() {
    struct kept {
        const home_process home;
        T value;
    };
    static std::atomic<kept*> latest{nullptr};
    auto* found = latest.load();
    while (found == nullptr || !found->home.is_here()) {
        auto fresh = std::make_unique<kept>();
        if (latest.compare_exchange_strong(found, fresh.get())) found = fresh.release();
    }
    return found->value;
}

/// Deletes an object in the process that made it. A child leaves its copy as it is, whole: whatever the object would say goodbye to is its parent's, and
/// whatever it would wait for is not there.
class delete_at_home {
public:
    template <class T>
    void operator()(T* object) const noexcept {
        if (home_.is_here()) delete object;
    }
    bool is_here() const noexcept { return home_.is_here(); }

private:
    home_process home_;
};

/// The answer to everything that a child asks its parent's pool.
inline error_info asked_in_a_child(const std::string& key) {
    return {make_error(errc::pool_closed), key, "waiting",
            "the pool was made before fork(), and belongs to the parent process: a child makes a pool of its own"};
}

template <class T>
std::shared_ptr<T> shared_at_home(T* object) {
    return std::shared_ptr<T>(object, delete_at_home{});
}

}  // namespace sshpool::detail
