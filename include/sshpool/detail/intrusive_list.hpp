#pragma once

#include <cstddef>

namespace sshpool::detail {

/// A place in one intrusive_list; an object has one for every list it can be in.
template <class T>
struct list_hook {
    T* before = nullptr;
    T* after = nullptr;
    bool linked = false;
};

/// A doubly linked list through its elements: nothing is allocated, and an element leaves in O(1). It owns nothing.
template <class T, list_hook<T> T::*Hook>
class intrusive_list {
public:
    bool empty() const noexcept { return first_ == nullptr; }
    std::size_t size() const noexcept { return size_; }
    T* front() const noexcept { return first_; }
    T* back() const noexcept { return last_; }
    static T* after(const T& t) noexcept { return (t.*Hook).after; }
    static T* before(const T& t) noexcept { return (t.*Hook).before; }
    static bool linked(const T& t) noexcept { return (t.*Hook).linked; }

    void push_front(T& t) noexcept { insert_after(nullptr, t); }
    void push_back(T& t) noexcept { insert_after(last_, t); }
    /// Puts `t` behind `place`; at the front when that is null.
    void insert_after(T* place, T& t) noexcept {
        auto& hook = t.*Hook;
        hook.before = place;
        hook.after = place != nullptr ? (place->*Hook).after : first_;
        (place != nullptr ? (place->*Hook).after : first_) = &t;
        (hook.after != nullptr ? (hook.after->*Hook).before : last_) = &t;
        hook.linked = true;
        ++size_;
    }
    void erase(T& t) noexcept {
        auto& hook = t.*Hook;
        (hook.before != nullptr ? (hook.before->*Hook).after : first_) = hook.after;
        (hook.after != nullptr ? (hook.after->*Hook).before : last_) = hook.before;
        hook = {};
        --size_;
    }

private:
    T* first_ = nullptr;
    T* last_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace sshpool::detail
