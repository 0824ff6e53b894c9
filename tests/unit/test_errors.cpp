#include "support/catch.hpp"

#include <sshpool/error.hpp>
#include <sshpool/pool_params.hpp>

#include <asio/error.hpp>

#include <cerrno>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

using namespace sshpool;
using namespace std::chrono_literals;

namespace {
const auto fates = {command_fate::not_started, command_fate::unknown};
}

TEST_CASE("every code equals its own errc and no other") {
    for (const auto& entry : detail::errors) {
        for (const auto fate : fates) {
            const auto ec = make_error(entry.value, fate);
            INFO(entry.name << ": " << ec.message());
            CHECK(ec);
            for (const auto& other : detail::errors) {
                CHECK((ec == other.value) == (entry.value == other.value));
                CHECK((ec != other.value) == (entry.value != other.value));
            }
        }
    }
}

TEST_CASE("every code says whether the command may have run") {
    for (const auto& entry : detail::errors) {
        for (const auto fate : fates) {
            const auto ec = make_error(entry.value, fate);
            INFO(entry.name);
            const bool may_have_run = entry.when == detail::fates::after || (entry.when != detail::fates::before && fate == command_fate::unknown);
            CHECK((ec == command_fate::unknown) == may_have_run);
            CHECK((ec == command_fate::not_started) == !may_have_run);
        }
    }
    for (const auto e : {errc::connection_lost, errc::protocol_error, errc::command_timeout}) {
        const auto before = make_error(e, command_fate::not_started);
        const auto after = make_error(e, command_fate::unknown);
        CHECK(before != after);
        CHECK(before == e);
        CHECK(after == e);
        CHECK_THAT(before.message(), Catch::Contains("did not start"));
        CHECK_THAT(after.message(), Catch::Contains("may have run"));
    }
}

TEST_CASE("a cancellation is Asio's operation_aborted and our cancelled at once") {
    const auto ours = make_error(errc::cancelled);
    const std::error_code asios = asio::error::operation_aborted;
    CHECK(ours == asios);
    CHECK(asios == ours);
    CHECK(ours == asio::error::operation_aborted);
    CHECK(ours == errc::cancelled);
    CHECK(asios == errc::cancelled);
    CHECK(errc::cancelled == asios);
    CHECK(std::error_code{ECANCELED, std::system_category()} == errc::cancelled);  // as the system gives it
    CHECK(asios == command_fate::unknown);
    CHECK_FALSE(asios == command_fate::not_started);
    CHECK_FALSE(asios == errc::pool_closed);
    CHECK_FALSE(std::error_code{} == errc::cancelled);
}

TEST_CASE("an error of somebody else is none of ours") {
    for (const std::error_code ec : {std::error_code{}, std::make_error_code(std::errc::timed_out), std::error_code{asio::error::eof},
                                     std::error_code{1, std::system_category()}, std::error_code{1, std::generic_category()}}) {
        for (const auto& entry : detail::errors) CHECK_FALSE(ec == entry.value);
        for (const auto fate : fates) CHECK_FALSE(ec == fate);
    }
    CHECK_FALSE(make_error(errc::command_timeout) == std::errc::timed_out);
}

TEST_CASE("every error has a name and a text of its own") {
    std::set<std::string_view> names;
    std::set<std::string> texts;
    for (const auto& entry : detail::errors) {
        names.insert(entry.name);
        texts.insert(std::string{entry.text});
        CHECK(to_string(entry.value) == entry.name);
        CHECK(std::error_condition{entry.value}.message() == entry.text);
        if (entry.value != errc::cancelled) CHECK(std::string{make_error(entry.value).category().name()} == "sshpool");
    }
    CHECK(names.size() == detail::errors.size());
    CHECK(texts.size() == detail::errors.size());
    // The list holds every enumerator: they count from 1 without a gap, and `cancelled` is the last.
    for (int value = 1; value <= static_cast<int>(errc::cancelled); ++value) CHECK(detail::find_error(value) != nullptr);
    CHECK(detail::errors.size() == static_cast<std::size_t>(errc::cancelled));
    CHECK(std::error_code(9999, detail::codes()).message() == "unknown sshpool error");
    CHECK(std::error_code(-1, detail::codes()).message() == "unknown sshpool error");
    CHECK(to_string(static_cast<errc>(9999)) == "unknown");
}

TEST_CASE("an ssh_error says its sentence, carries its code, and is copied without throwing") {
    const error_info info{make_error(errc::auth_failed), "u@h:22", "login", "h refused all of them: publickey"};
    try {
        throw ssh_error{info};
    } catch (const std::system_error& e) {
        CHECK(std::string{e.what()} == info.text);
        CHECK(e.code() == errc::auth_failed);
    }
    CHECK(ssh_error{info}.info() == info);
    CHECK_THAT(ssh_error(error_info{make_error(errc::pool_closed), {}, {}, {}}).what(), Catch::Contains("the pool is closed"));
    CHECK(std::is_nothrow_copy_constructible_v<ssh_error>);
    CHECK_FALSE(error_info{});
    CHECK(error_info{info});
}

TEST_CASE("the default parameters of a pool are valid") { CHECK_NOTHROW(detail::validate({})); }

TEST_CASE("each bad parameter of a pool is refused by its name") {
    constexpr auto minus_one = static_cast<std::size_t>(-1);
    const std::vector<std::pair<std::string, std::function<void(pool_params&)>>> bad{
        {"max_connections must be at least 1", [](auto& p) { p.max_connections = 0; }},
        {"max_connections is", [](auto& p) { p.max_connections = minus_one; }},
        {"max_connections_per_host must", [](auto& p) { p.max_connections_per_host = 0; }},
        {"max_connections_per_host is", [](auto& p) { p.max_connections_per_host = minus_one; }},
        {"leases_per_connection must", [](auto& p) { p.leases_per_connection = 0; }},
        {"leases_per_connection is", [](auto& p) { p.leases_per_connection = minus_one; }},
        {"spare_channels is", [](auto& p) { p.spare_channels = minus_one; }},
        {"max_handshakes must", [](auto& p) { p.max_handshakes = 0; }},
        {"max_handshakes is", [](auto& p) { p.max_handshakes = minus_one; }},
        {"max_handshakes_per_host must", [](auto& p) { p.max_handshakes_per_host = 0; }},
        {"max_handshakes_per_host is", [](auto& p) { p.max_handshakes_per_host = minus_one; }},
        {"max_unpooled is", [](auto& p) { p.max_unpooled = minus_one; }},
        {"connection_ttl is -1 ms", [](auto& p) { p.connection_ttl = -1ms; }},
        {"connection_ttl is longer than ten years", [](auto& p) { p.connection_ttl = std::chrono::milliseconds::max(); }},
        {"idle_timeout is -1 ms", [](auto& p) { p.idle_timeout = -1ms; }},
        {"idle_timeout is longer", [](auto& p) { p.idle_timeout = std::chrono::milliseconds::max(); }},
        {"health_check_interval is -1 ms", [](auto& p) { p.health_check_interval = -1ms; }},
        {"health_check_interval is longer", [](auto& p) { p.health_check_interval = std::chrono::milliseconds::max(); }},
        {"acquire_timeout is 0 ms: it must be positive", [](auto& p) { p.acquire_timeout = 0ms; }},
        {"acquire_timeout is longer", [](auto& p) { p.acquire_timeout = std::chrono::milliseconds::max(); }},
        {"connect_timeout is 0 ms", [](auto& p) { p.connect_timeout = 0ms; }},
        {"connect_timeout is longer", [](auto& p) { p.connect_timeout = std::chrono::milliseconds::max(); }},
        {"probe_timeout is 0 ms", [](auto& p) { p.probe_timeout = 0ms; }},
        {"probe_timeout is longer", [](auto& p) { p.probe_timeout = std::chrono::milliseconds::max(); }},
        {"reap_grace is -1 ms", [](auto& p) { p.reap_grace = -1ms; }},
        {"reap_grace is longer", [](auto& p) { p.reap_grace = std::chrono::milliseconds::max(); }},
        {"ttl_jitter must", [](auto& p) { p.ttl_jitter = -0.01; }},
        {"ttl_jitter must", [](auto& p) { p.ttl_jitter = 1.0; }},
        {"ttl_jitter must", [](auto& p) { p.ttl_jitter = std::numeric_limits<double>::quiet_NaN(); }},
        {"ttl_jitter must", [](auto& p) { p.ttl_jitter = std::numeric_limits<double>::infinity(); }},
        {"when_full is no full_policy", [](auto& p) { p.when_full = static_cast<full_policy>(7); }},
        {"max_busy_retries is 18446744073709551615: more than 10000000 (a negative number?)", [](auto& p) { p.max_busy_retries = minus_one; }},
        {"backoff_initial is 0 ms: it must be positive", [](auto& p) { p.backoff_initial = 0ms; }},
        {"backoff_initial is -1 ms: it must be positive", [](auto& p) { p.backoff_initial = -1ms; }},
        {"backoff_initial is longer", [](auto& p) { p.backoff_initial = p.backoff_max = std::chrono::milliseconds::max(); }},
        {"backoff_factor must be at least 1 and at most 100", [](auto& p) { p.backoff_factor = 0.99; }},
        {"backoff_factor must", [](auto& p) { p.backoff_factor = -2.0; }},
        {"backoff_factor must", [](auto& p) { p.backoff_factor = 100.1; }},
        {"backoff_factor must", [](auto& p) { p.backoff_factor = std::numeric_limits<double>::quiet_NaN(); }},
        {"backoff_factor must", [](auto& p) { p.backoff_factor = std::numeric_limits<double>::infinity(); }},
        {"backoff_max is 0 ms: it must be positive", [](auto& p) { p.backoff_max = 0ms; }},
        {"backoff_max is longer", [](auto& p) { p.backoff_max = std::chrono::milliseconds::max(); }},
        {"backoff_max must be at least backoff_initial", [](auto& p) { p.backoff_initial = 2s, p.backoff_max = 1999ms; }},
        {"auth_cooldown is -1 ms: it must be zero (no limit) or positive", [](auto& p) { p.auth_cooldown = -1ms; }},
        {"auth_cooldown is longer", [](auto& p) { p.auth_cooldown = std::chrono::milliseconds::max(); }},
        {"when_backing_off is no backing_off_policy", [](auto& p) { p.when_backing_off = static_cast<backing_off_policy>(2); }},
        {"max_lease_time is -1 ms: it must be zero (no limit) or positive", [](auto& p) { p.max_lease_time = -1ms; }},
        {"max_lease_time is longer", [](auto& p) { p.max_lease_time = std::chrono::milliseconds::max(); }},
    };
    std::set<std::string> named;
    for (const auto& [message, spoil] : bad) named.insert(message.substr(0, message.find(' ')));
    // Every field but on_event, which takes any function. This does not compile when a field is added: it wants a line above.
    const auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16, on_event, f18, f19, f20, f21, f22, f23, f24] = pool_params{};
    (void)on_event;
    CHECK(named.size() == 23);
    for (const auto& [message, spoil] : bad) {
        pool_params p;
        spoil(p);
        CHECK_THROWS_AS(detail::validate(p), std::invalid_argument);
        CHECK_THROWS_WITH(detail::validate(p), Catch::StartsWith("pool_params::" + message));
    }
}

TEST_CASE("parameters at the edge of what is allowed are taken as they are") {
    const std::vector<std::function<void(pool_params&)>> good{
        [](auto& p) { p.connection_ttl = p.idle_timeout = p.health_check_interval = p.reap_grace = 0ms; },
        [](auto& p) { p.acquire_timeout = p.connect_timeout = p.probe_timeout = 1ms; },
        [](auto& p) { p.ttl_jitter = 0.0; },
        [](auto& p) { p.ttl_jitter = 0.999; },
        [](auto& p) { p.spare_channels = p.max_unpooled = 0; },
        [](auto& p) { p.max_connections = p.max_connections_per_host = p.leases_per_connection = p.max_handshakes = p.max_handshakes_per_host = 1; },
        [](auto& p) { p.when_full = full_policy::open_unpooled; },
        [](auto& p) { p.when_full = full_policy::fail; },
        [](auto& p) { p.max_busy_retries = 0; },
        [](auto& p) { p.backoff_initial = p.backoff_max = 1ms, p.backoff_factor = 1.0; },
        [](auto& p) { p.backoff_factor = 100.0; },
        [](auto& p) { p.auth_cooldown = p.max_lease_time = 0ms; },
        [](auto& p) { p.when_backing_off = backing_off_policy::wait; },
    };
    for (const auto& set : good) {
        pool_params p;
        set(p);
        CHECK_NOTHROW(detail::validate(p));
    }
}
