#pragma once

#include <sshpool/ssh_pool.hpp>

#include <asio/io_context.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/manual_clock.hpp"
#include "support/scripted_transport.hpp"

namespace sshpool::test {

using namespace std::chrono_literals;

inline target host(const std::string& name, const std::string& password = "secret") {
    return target{"root@" + name, credentials::password(password), host_key_policy::accept_any()};
}

/// The real driver and core over a scripted network and a clock that stands still: nothing here sleeps.
struct pool_fixture {
    using pool_type = ssh_pool<scripted_transport, manual_clock>;
    using lease_type = pool_type::lease_type;

    struct asked {
        bool done = false;
        int answers = 0;
        std::error_code ec;
        error_info info;
        lease_type lease;
    };
    struct ran {
        bool done = false;
        int answers = 0;
        std::error_code ec;
        error_info info;
        command_result result;
    };

    explicit pool_fixture(pool_params p = {}) : params(std::move(p)) {
        network->now = [] { return std::chrono::steady_clock::time_point{manual_clock::now().time_since_epoch()}; };
        pool.emplace(io.get_executor(), params, [n = network](asio::any_io_executor ex) { return scripted_transport{std::move(ex), n}; });
    }

    void settle() {
        do io.restart();
        while (io.poll() != 0);
    }
    void advance(std::chrono::nanoseconds by) {
        manual_clock::advance(by);
        settle();
    }

    std::shared_ptr<asked> ask(const target& to) {
        auto a = std::make_shared<asked>();
        pool->async_get_connection(to, a->info, [a](std::error_code ec, lease_type l) {
            a->done = true;
            ++a->answers;
            a->ec = ec;
            a->lease = std::move(l);
        });
        return a;
    }
    std::shared_ptr<asked> get(const target& to) {
        auto a = ask(to);
        settle();
        return a;
    }
    std::shared_ptr<ran> run(const target& to, command what) {
        auto r = std::make_shared<ran>();
        pool->async_run(to, std::move(what), r->info, [r](std::error_code ec, command_result c) {
            r->done = true;
            ++r->answers;
            r->ec = ec;
            r->result = std::move(c);
        });
        settle();
        return r;
    }
    void give_back(const std::shared_ptr<asked>& a) {
        a->lease.release();
        settle();
    }

    asio::io_context io;
    std::shared_ptr<scripted_network> network = std::make_shared<scripted_network>();
    pool_params params;
    std::optional<pool_type> pool;
};

inline pool_params with(void (*change)(pool_params&)) {
    pool_params p;
    change(p);
    return p;
}
/// A host has one connection, and that one holder: whoever else comes waits.
inline pool_params one_at_a_time() {
    return with([](pool_params& p) {
        p.leases_per_connection = 1;
        p.max_connections_per_host = 1;
    });
}

}  // namespace sshpool::test
