#pragma once

#include <sshpool/detail/pool_actions.hpp>

#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>

namespace sshpool::detail {

/// Tells trouble of one's own from trouble of others: many hosts that fail at once are probably well, and the network in between is not.
///
/// The rule: at least five different hosts could not be reached within the last minute, nothing was heard from any host since the first of these,
/// and they are at least as many as the hosts that the pool is still connected to.
class outage_watch {
public:
    static constexpr std::size_t few = 5, most_counted = 4096;
    static constexpr std::chrono::seconds window{60};

    /// True: the network is taken to be down from now on.
    bool failed(const std::string& endpoint, instant now, std::size_t connected) {
        while (!order_.empty() && (order_.front().when + window <= now || order_.size() >= most_counted)) forget(order_.begin());
        if (const auto known = hosts_.find(endpoint); known != hosts_.end()) forget(known->second);
        hosts_[endpoint] = order_.insert(order_.end(), {endpoint, now});
        if (down_ || order_.size() < few || order_.size() < connected) return false;
        down_ = true;
        since_ = order_.front().when;
        return true;
    }
    /// Bytes came from some host at that time. True: the network was taken to be down until now.
    bool heard(instant when) {
        while (!order_.empty() && order_.front().when <= when) forget(order_.begin());
        if (!down_ || when < since_) return false;
        down_ = false;
        return true;
    }
    /// Nothing to be learned from hearing something.
    bool at_rest() const noexcept { return order_.empty() && !down_; }
    bool down() const noexcept { return down_; }
    instant since() const noexcept { return since_; }
    std::size_t hosts() const noexcept { return order_.size(); }

private:
    struct entry {
        std::string endpoint;
        instant when;
    };
    void forget(std::list<entry>::iterator it) {
        hosts_.erase(it->endpoint);
        order_.erase(it);
    }

    std::list<entry> order_;
    std::unordered_map<std::string, std::list<entry>::iterator> hosts_;
    bool down_ = false;
    instant since_{};
};

}  // namespace sshpool::detail
