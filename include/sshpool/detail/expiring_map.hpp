#pragma once

#include <sshpool/detail/pool_actions.hpp>

#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// Remembers things by name until a time. Needs no timer: what is over goes when the next comes, and past `most` the one that would go first.
template <class Value>
class expiring_map {
public:
    static constexpr std::size_t most = 16'384;

    bool empty() const noexcept { return entries_.empty(); }
    std::size_t size() const noexcept { return entries_.size(); }

    const Value* find(std::string_view name, instant now) const {
        const auto it = entries_.find(name);
        return it == entries_.end() || it->second.until <= now ? nullptr : &it->second.value;
    }
    /// The value of that name, a new one where there is none, kept until `until(value)`.
    template <class Change, class Until>
    Value& change(std::string name, instant now, Change change, Until until) {
        while (!order_.empty() && (order_.begin()->first <= now || order_.size() >= most)) erase(entries_.find(*order_.begin()->second));
        const auto it = entries_.try_emplace(std::move(name)).first;
        order_.erase({it->second.until, &it->first});
        change(it->second.value);
        it->second.until = until(it->second.value);
        order_.insert({it->second.until, &it->first});
        return it->second.value;
    }
    void erase(std::string_view name) { erase(entries_.find(name)); }
    /// Everything whose name begins so.
    void erase_all(std::string_view prefix) {
        for (auto it = entries_.lower_bound(prefix); it != entries_.end() && it->first.starts_with(prefix);) it = erase(it);
    }
    template <class Do>
    void for_each(std::string_view prefix, instant now, Do do_it) const {
        for (auto it = entries_.lower_bound(prefix); it != entries_.end() && it->first.starts_with(prefix); ++it) {
            if (it->second.until > now) do_it(it->second.value);
        }
    }
    void clear() {
        order_.clear();
        entries_.clear();
    }

private:
    struct entry {
        Value value{};
        instant until{};
    };
    using map = std::map<std::string, entry, std::less<>>;

    typename map::iterator erase(typename map::iterator it) {
        if (it == entries_.end()) return it;
        order_.erase({it->second.until, &it->first});
        return entries_.erase(it);
    }

    map entries_;
    std::set<std::pair<instant, const std::string*>> order_;
};

}  // namespace sshpool::detail
