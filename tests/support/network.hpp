#pragma once

#include "support/process.hpp"

#include <atomic>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace support {

/// Network namespaces in a row, each joined to the next by a cable: whoever stands in one reaches its neighbours and nobody else. Needs root.
class network_row {
public:
    explicit network_row(int length) {
        static std::atomic<int> made{0};
        const auto prefix = "sp" + std::to_string(::getpid()) + "x" + std::to_string(made++) + "-";
        try {
            for (int i = 0; i < length; ++i) {
                names_.push_back(prefix + std::to_string(i));
                ip({"netns", "add", names_.back()});
                ip({"-n", names_.back(), "link", "set", "lo", "up"});
            }
            for (int i = 0; i + 1 < length; ++i) {
                ip({"link", "add", "right", "netns", at(i), "type", "veth", "peer", "name", "left", "netns", at(i + 1)});
                ip({"-n", at(i), "addr", "add", right_address(i) + "/30", "dev", "right"});
                ip({"-n", at(i + 1), "addr", "add", left_address(i + 1) + "/30", "dev", "left"});
                ip({"-n", at(i), "link", "set", "right", "up"});
                ip({"-n", at(i + 1), "link", "set", "left", "up"});
            }
        } catch (...) {
            remove();
            throw;
        }
    }
    network_row(const network_row&) = delete;
    network_row& operator=(const network_row&) = delete;
    ~network_row() { remove(); }

    /// Whether namespaces can be made here.
    static bool is_possible() {
        if (::geteuid() != 0 || ::unshare(0) != 0) return false;
        try {
            const network_row one{1};
            return true;
        } catch (const std::exception&) {
            return false;
        }
    }

    const std::string& at(int place) const { return names_.at(static_cast<std::size_t>(place)); }
    std::string left_address(int place) const { return "198.18." + std::to_string(place) + ".2"; }
    std::string right_address(int place) const { return "198.18." + std::to_string(place + 1) + ".1"; }

    /// The calling thread makes its sockets there from now on.
    void enter(int place) const {
        const int fd = ::open(("/run/netns/" + at(place)).c_str(), O_RDONLY | O_CLOEXEC);
        const bool ok = fd >= 0 && ::setns(fd, CLONE_NEWNET) == 0;
        ::close(fd);
        if (!ok) throw std::runtime_error("cannot enter the network namespace " + at(place));
    }
    /// Takes the cable between a namespace and the next one away, without a word to either side's programs.
    void cut_right_of(int place) const { ip({"-n", at(place), "link", "set", "right", "down"}); }

    /// Every packet between a namespace and the next one is dropped on its way, as in a black hole: it goes to a card that nobody has.
    void drop_right_of(int place) const {
        ip({"-n", at(place), "neigh", "replace", left_address(place + 1), "lladdr", "02:00:00:00:00:99", "dev", "right", "nud", "permanent"});
        ip({"-n", at(place + 1), "neigh", "replace", right_address(place), "lladdr", "02:00:00:00:00:99", "dev", "left", "nud", "permanent"});
    }
    void carry_right_of(int place) const {
        ip({"-n", at(place), "neigh", "del", left_address(place + 1), "dev", "right"});
        ip({"-n", at(place + 1), "neigh", "del", right_address(place), "dev", "left"});
    }

private:
    static void ip(std::vector<std::string> words) {
        words.insert(words.begin(), "ip");
        run_program(std::move(words));
    }
    void remove() noexcept {
        for (const auto& name : names_) {
            try {
                ip({"netns", "del", name});
            } catch (const std::exception&) {  // it was not made
            }
        }
    }

    std::vector<std::string> names_;
};

}  // namespace support
