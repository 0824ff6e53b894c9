#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <map>
#include <string_view>
#include <vector>

namespace docker {

/// What an operation does, one after another. An error names the step it happened in.
enum class step {
    validate,
    connect,
    log_in,
    pull,
    replace,
    create_volume,
    create,
    start,
    wait_until_running,
    set_up_sshd,
    add_keys,
    remove_keys,
    verify_keys,
    install_jupyter,
    wait_for_jupyter,
    stop,
    remove_container,
    remove_volume,
    prune_images,
    look,
    clean_up,
};

/// Whether doing a step twice does what doing it once does. If not, it is done again only when it certainly never started.
enum class repeatable { yes, no };

struct step_entry {
    step value;
    std::string_view name;
    repeatable again;
    std::chrono::milliseconds timeout;  ///< for the commands of one such step, all attempts together; waiting for a connection is bounded by the pool
};

/// The one list of steps.
inline constexpr std::array step_list{
    step_entry{step::validate, "validate", repeatable::yes, std::chrono::seconds{1}},
    step_entry{step::connect, "connect", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::log_in, "log_in", repeatable::yes, std::chrono::seconds{60}},
    step_entry{step::pull, "pull", repeatable::yes, std::chrono::hours{3}},
    step_entry{step::replace, "replace", repeatable::yes, std::chrono::seconds{60}},
    step_entry{step::create_volume, "create_volume", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::create, "create", repeatable::no, std::chrono::seconds{120}},
    step_entry{step::start, "start", repeatable::yes, std::chrono::seconds{120}},
    step_entry{step::wait_until_running, "wait_until_running", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::set_up_sshd, "set_up_sshd", repeatable::yes, std::chrono::minutes{10}},
    step_entry{step::add_keys, "add_keys", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::remove_keys, "remove_keys", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::verify_keys, "verify_keys", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::install_jupyter, "install_jupyter", repeatable::no, std::chrono::minutes{30}},
    step_entry{step::wait_for_jupyter, "wait_for_jupyter", repeatable::yes, std::chrono::minutes{2}},
    step_entry{step::stop, "stop", repeatable::yes, std::chrono::seconds{60}},  // beside the grace that the container is given
    step_entry{step::remove_container, "remove_container", repeatable::yes, std::chrono::seconds{60}},
    step_entry{step::remove_volume, "remove_volume", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::prune_images, "prune_images", repeatable::yes, std::chrono::minutes{5}},
    step_entry{step::look, "look", repeatable::yes, std::chrono::seconds{30}},
    step_entry{step::clean_up, "clean_up", repeatable::yes, std::chrono::seconds{60}},
};

constexpr const step_entry& entry_of(step s) noexcept { return step_list[static_cast<std::size_t>(s)]; }
constexpr std::string_view to_string(step s) noexcept { return entry_of(s).name; }

constexpr bool steps_are_in_order() {
    for (std::size_t i = 0; i < step_list.size(); ++i) {
        if (step_list[i].value != static_cast<step>(i)) return false;
    }
    return true;
}
static_assert(steps_are_in_order());

/// How long a step took, all its commands and attempts together.
struct phase {
    step what;
    std::size_t commands = 0;  ///< attempts counted in
    std::chrono::nanoseconds time{};
};
using phases = std::vector<phase>;

/// Other limits than those of the list.
using step_timeouts = std::map<step, std::chrono::milliseconds>;

}  // namespace docker
