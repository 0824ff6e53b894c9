// fork() in a program that has a pool, and the end of a program that has one.

#include <sshpool/blocking_ssh_pool.hpp>

#include <asio/bind_executor.hpp>
#include <asio/buffer.hpp>
#include <asio/io_context.hpp>

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "ssh/pool_on_sshd.hpp"
#include "support/forked.hpp"
#include "support/sanitizers.hpp"
#include "support/temp_dir.hpp"

using namespace sshpool;
using namespace sshpool::test;
using support::direction;
using support::forked;

// What a child does not destroy is no leak: it is its parent's.
extern "C" int __lsan_is_turned_off();  // NOLINT
extern "C" int __lsan_is_turned_off() { return forked::is_child() ? 1 : 0; }

namespace {

#ifdef SSHPOOL_TESTED_BY_THREAD_SANITIZER
constexpr bool children_have_threads = false;  // ThreadSanitizer ends a child that starts one
#else
constexpr bool children_have_threads = true;
#endif

/// A pool whose io_context runs only inside of `drive`: a fork finds nobody in it. Everything goes through a proxy that counts.
struct parent {
    parent() {
        params.max_connections_per_host = 4;
        params.leases_per_connection = 1;
        io = std::make_unique<asio::io_context>();
        pool = std::make_unique<ssh_pool<>>(io->get_executor(), params);
        target t{sshd.address(proxy.host(), proxy.port()), credentials::private_key_file(sshd.client_key()),
                 host_key_policy::trust_on_first_use(dir / "known_hosts")};
        where.emplace(std::move(t));
        // Three connections: one with a command, one lent with an open channel, one idle.
        pool->async_run(*where, "until test -e go; do sleep 0.05; done; echo it ran", [this](std::error_code ec, command_result r) {
            ended = true;
            ran = r.out + ec.message();
        });
        drive([&] { return sshd.log().find("Starting session: command") != std::string::npos; });
        std::optional<lease<libssh2_transport>> spare;
        pool->async_get_connection(*where, [&](std::error_code, auto l) { lent = std::move(l); });
        drive([&] { return static_cast<bool>(lent); });
        pool->async_get_connection(*where, [&](std::error_code, auto l) { spare = std::move(l); });
        drive([&] { return spare.has_value(); });
        spare.reset();
        lent->async_open("cat", [this](std::error_code, channel c) { stream = std::move(c); });
        drive([&] { return static_cast<bool>(stream); });
        drive([&, same = 0]() mutable {  // the next channels are opened ahead
            const auto now = proxy.bytes(direction::to_server);
            same = now == sent ? same + 1 : 0;
            sent = now;
            return same > 10;
        });
        logins = sshd.accepted_logins();
        note_what_was_sent();
    }
    parent(const parent&) = delete;
    parent& operator=(const parent&) = delete;

    template <class Ready>
    void drive(Ready ready) {
        const bool in_time = support::wait_until([&] {
            io->restart();
            io->run_for(10ms);
            return ready();
        });
        if (!in_time) throw std::runtime_error("something that the pool was asked for has not happened");
    }
    /// From here on nothing is driven, and so nothing more is sent.
    void note_what_was_sent() {
        REQUIRE(support::wait_until([&, same = 0]() mutable {
            const auto now = proxy.bytes(direction::to_server);
            same = now == sent ? same + 1 : 0;
            sent = now;
            return same > 25;
        }));
    }
    /// The child has sent nothing and taken nothing: everything still works here.
    void check_whole() {
        CHECK(proxy.bytes(direction::to_server) == sent);
        CHECK(lent);
        char reply[16] = {};
        std::size_t got = 0;
        stream.async_write_some(asio::buffer("word", 4), [](std::error_code, std::size_t) {});
        stream.async_read_some(asio::buffer(reply), [&](std::error_code, std::size_t n) { got = n; });
        drive([&] { return got != 0; });
        CHECK(std::string(reply, got) == "word");
        std::string out;
        pool->async_run(*where, "echo idle", [&](std::error_code ec, command_result r) { out = r.out + ec.message(); });
        drive([&] { return !out.empty(); });
        CHECK(out == "idle\nSuccess");
        CHECK_FALSE(ended);
        support::write_file(sshd.home() / "go", "");
        drive([&] { return ended; });
        CHECK(ran == "it ran\nSuccess");
        CHECK(sshd.accepted_logins() == logins);
        CHECK(pool->get_stats().connections_closed.total() == 0);
    }

    support::temp_dir dir;
    support::sshd_server sshd{std::vector<std::string>{"ClientAliveInterval 1", "ClientAliveCountMax 100"}};  // asks each second, to be answered
    support::delay_proxy proxy{sshd.host(), sshd.port()};
    pool_params params;
    std::unique_ptr<asio::io_context> io;
    std::unique_ptr<ssh_pool<>> pool;
    std::optional<target> where;
    lease<libssh2_transport> lent;
    channel stream;
    bool ended = false;
    std::string ran;
    std::size_t logins = 0;
    std::uint64_t sent = 0;
};

/// In a child: whether all that the parent's objects give is an error that says why.
int use_everything(parent& p) {
    asio::io_context io;
    std::vector<std::string> wrong;
    int answers = 0;
    const auto expect = [&](bool as_it_should_be, const char* what) {
        if (as_it_should_be) return;
        std::fprintf(stderr, "in the child: %s\n", what);
        wrong.emplace_back(what);
    };
    const auto here = [&](auto handler) {
        return asio::bind_executor(io, [&, handler](auto... result) {
            ++answers;
            handler(std::move(result)...);
        });
    };
    error_info get, run, on_lease, open, read;
    char byte = 0;
    p.pool->async_get_connection(*p.where, get,
                                 here([&](std::error_code ec, const auto& l) { expect(ec == errc::pool_closed && !l, "async_get_connection"); }));
    p.pool->async_run(*p.where, "echo twice", run, here([&](std::error_code ec, const command_result&) {
        expect(ec == errc::pool_closed && ec == command_fate::not_started, "async_run");
    }));
    p.pool->async_warm(std::vector<target>{*p.where},
                       here([&](std::error_code ec, const warm_report& r) { expect(!ec && r.failed.size() == 1, "async_warm"); }));
    p.pool->async_shutdown(1s, here([&](std::error_code ec) { expect(!ec, "async_shutdown"); }));
    p.lent->async_run("echo twice", on_lease, here([&](std::error_code ec, const command_result&) {
                          expect(ec == errc::connection_lost && ec == command_fate::not_started, "async_run on a lease");
                      }));
    p.lent->async_open("echo twice", open, here([&](std::error_code ec, const channel&) { expect(ec == errc::connection_lost, "async_open"); }));
    p.stream.async_read_some(asio::buffer(&byte, 1), read,
                             here([&](std::error_code ec, std::size_t) { expect(ec == errc::connection_lost, "async_read_some"); }));
    io.run_for(10s);
    expect(answers == 7, "not everybody was answered");
    for (const auto* info : {&get, &run, &on_lease, &open, &read})
        expect(info->text.find("before fork()") != std::string::npos, "an error says nothing of fork()");
    expect(!p.lent, "a lease lives");
    expect(!p.pool->try_get_connection(*p.where), "try_get_connection");
    expect(p.pool->get_stats().pool_size == 0, "get_stats");
    expect(p.pool->explain(p.where->key()).find("before fork()") != std::string::npos, "explain");
    expect(!p.pool->watch()(1), "watch");
    expect(p.lent.info().id == 0, "info");
    p.pool->keep_warm(std::vector<target>{*p.where});
    p.pool->forget_warm(p.where->key());
    p.pool->invalidate(p.where->key());
    p.pool->close_all();
    p.lent.discard();
    return static_cast<int>(wrong.size());
}

}  // namespace

TEST_CASE("a child sends nothing and takes nothing on its parent's connections, whatever it does with them", "[ssh][fork]") {
    parent p;
    std::function<int()> in_child;
    SECTION("it destroys the pool, then the rest") {
        in_child = [&] {
            p.pool.reset();
            p.stream = {};
            p.lent = {};
            return 0;
        };
    }
    SECTION("it destroys the pool last") {
        in_child = [&] {
            p.stream = {};
            p.lent = {};
            p.pool.reset();
            return 0;
        };
    }
    SECTION("it destroys the pool, the leases, the io_context") {
        in_child = [&] {
            p.pool.reset();
            p.stream = {};
            p.lent = {};
            p.io.reset();
            return 0;
        };
    }
    SECTION("it destroys the io_context before everything else") {
        in_child = [&] {
            p.io.reset();
            if (p.lent || p.pool->try_get_connection(*p.where)) return 1;
            p.pool->async_run(*p.where, "true", [](std::error_code, const command_result&) {});
            p.stream = {};
            p.lent = {};
            p.pool.reset();
            return 0;
        };
    }
    SECTION("it uses the pool, and a lease, and a channel") {
        in_child = [&] {
            const int wrong = use_everything(p);
            p.pool.reset();
            return wrong;
        };
    }
    SECTION("it exits, and its statics go") {
        in_child = [&]() -> int {
            static const auto pool = std::move(p.pool);
            static const auto lent = std::move(p.lent);
            std::exit(0);
        };
    }
    SECTION("it goes on running the io_context, as Asio lets it") {
        in_child = [&] {
            p.io->notify_fork(asio::execution_context::fork_child);
            p.io->restart();
            p.io->run_for(2s);
            p.pool.reset();
            p.io->run_for(100ms);
            p.stream = {};
            p.lent = {};
            p.io.reset();
            return 0;
        };
        p.io->notify_fork(asio::execution_context::fork_prepare);
    }
    SECTION("it goes on running the io_context while a connection is being made") {
        p.pool->async_get_connection(through(p.proxy, p.sshd), [](std::error_code, const auto&) {});
        REQUIRE(support::wait_until([&] {
            p.io->restart();
            p.io->poll_one();
            return support::wait_until([&] { return p.proxy.connections() == 4; }, 5ms);
        }));
        p.note_what_was_sent();
        in_child = [&] {
            p.io->notify_fork(asio::execution_context::fork_child);
            p.io->restart();
            p.io->run_for(500ms);
            p.pool.reset();
            p.io.reset();
            return 0;
        };
        p.io->notify_fork(asio::execution_context::fork_prepare);
        ++p.logins;
    }
    SECTION("it makes a pool of its own, on the parent's io_context") {
        in_child = [&] {
            p.io->notify_fork(asio::execution_context::fork_child);
            ssh_pool<> mine{p.io->get_executor()};
            std::string out;
            mine.async_run(to(p.sshd), "echo mine", [&](std::error_code ec, command_result r) { out = r.out + ec.message(); });
            p.drive([&] { return !out.empty(); });
            p.logins = 0;
            return out == "mine\nSuccess" ? 0 : 1;
        };
        p.io->notify_fork(asio::execution_context::fork_prepare);
        ++p.logins;
    }
    forked child{[&] { return in_child(); }};
    p.io->notify_fork(asio::execution_context::fork_parent);
    CHECK(child.wait() == 0);
    p.check_whole();
}

TEST_CASE("what a parent closes is closed at once, though a child has the descriptors too", "[ssh][fork]") {
    parent p;
    REQUIRE(p.proxy.open_connections() == 3);
    forked child{[] { return ::pause(); }};
    p.proxy.break_now(support::trouble::silence);  // the server's own end of it does not count
    p.pool->close_all();
    p.pool->async_shutdown(0ms, [](std::error_code) {});
    CHECK(support::wait_until([&] {
        p.io->restart();
        p.io->run_for(10ms);
        return p.proxy.open_connections() == 0;
    }));
}

TEST_CASE("programs that this one starts get no descriptor of a connection", "[ssh][fork]") {
    parent p;
    std::size_t connections = 0, inherited = 0;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
        const auto name = entry.path().filename().string();
        int fd = -1;
        std::from_chars(name.data(), name.data() + name.size(), fd);
        sockaddr_in other{};
        socklen_t size = sizeof other;
        if (::getpeername(fd, reinterpret_cast<sockaddr*>(&other), &size) != 0 || other.sin_family != AF_INET || ntohs(other.sin_port) != p.proxy.port())
            continue;
        ++connections;
        if ((::fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0) ++inherited;
    }
    CHECK(connections == 3);
    CHECK(inherited == 0);
}

TEST_CASE("a child hangs on no lock that another thread held at the moment of the fork", "[ssh][fork]") {
    support::sshd_server sshd;
    pool_params params;
    params.leases_per_connection = 2;
    running_pool p{params, 2};
    auto* const pool = new ssh_pool<>{p.io.get_executor(), params};  // given up in a child, and here below
    std::atomic<bool> stop{false};
    std::atomic<int> ran{0}, failed{0};
    std::vector<std::thread> busy;
    for (int i = 0; i < 3; ++i) {
        busy.emplace_back([&, i] {
            const auto where = to(sshd);
            while (!stop) {
                if (i == 0) {
                    std::promise<std::error_code> done;
                    pool->async_run(where, "true", [&](std::error_code ec, const command_result&) { done.set_value(ec); });
                    ++(done.get_future().get() ? failed : ran);
                } else {  // locks, for most of the time
                    (void)pool->try_get_connection(where);
                    (void)pool->get_stats();
                    (void)pool->explain(where.key());
                    pool->invalidate("nobody@nowhere:22");
                }
            }
        });
    }
    REQUIRE(support::wait_until([&] { return ran > 0; }));
    std::vector<int> statuses;
    for (int i = 0; i < 60; ++i) {
        auto held = pool->try_get_connection(to(sshd));
        forked child{[&] {
            (void)pool->get_stats();
            if (held) held->release();
            delete pool;
            return 0;
        }};
        if (const int status = child.wait(); status != 0) statuses.push_back(status);
        if (!statuses.empty()) break;
    }
    CHECK(statuses.empty());
    const int before = ran;
    CHECK(support::wait_until([&] { return ran > before; }));
    stop = true;
    for (auto& t : busy) t.join();
    CHECK(failed == 0);
    std::promise<void> drained;
    pool->async_shutdown(5s, [&](std::error_code) { drained.set_value(); });
    drained.get_future().wait();
    delete pool;
}

TEST_CASE("a child leaves its parent's blocking pools alone, and may have its own", "[ssh][fork][blocking]") {
    support::sshd_server sshd;
    support::delay_proxy proxy{sshd.host(), sshd.port()};
    pool_params params;
    params.max_connections_per_host = 3;
    params.leases_per_connection = 1;
    auto pool = std::make_unique<blocking_ssh_pool>(params);
    const auto where = through(proxy, sshd);
    auto& process_wide = init_ssh_pool(params);
    std::string ran;
    std::thread runs{[&] { ran = pool->run(where, "until test -e go; do sleep 0.05; done; echo it ran").out; }};
    REQUIRE(sshd.wait_for_log("Starting session: command"));
    auto lease = pool->get_connection(where);
    CHECK(process_wide.run(where, "true").ok());
    auto sent = proxy.bytes(direction::to_server);
    CHECK(support::wait_until([&, same = 0]() mutable {
        const auto now = proxy.bytes(direction::to_server);
        same = now == sent ? same + 1 : 0;
        sent = now;
        return same > 50;
    }));

    const auto refused = [](auto&& call) {
        try {
            call();
        } catch (const ssh_error& e) {
            return e.code() == errc::pool_closed && std::string{e.what()}.find("before fork()") != std::string::npos;
        }
        return false;
    };
    std::function<int()> in_child;
    SECTION("it calls them, then they go") {
        in_child = [&] {
            const bool ok = refused([&] { pool->run(where, "echo twice"); }) && refused([&] { pool->get_connection(where); }) &&
                            refused([&] { lease.run("echo twice"); }) && refused([&] { process_wide.run(where, "echo twice"); }) &&
                            refused([&] { (void)pool->get_stats(); }) && !lease;
            pool->shutdown(1h);
            lease.release();
            pool.reset();
            close_ssh_pool_within(1h);
            return ok ? 0 : 1;
        };
    }
    SECTION("it exits, and its statics go") {
        in_child = [&]() -> int {
            static const auto gone = std::move(pool);
            static const auto last = std::move(lease);
            std::exit(0);
        };
    }
    if (children_have_threads) {
        SECTION("it has pools of its own") {
            in_child = [&] {
                blocking_ssh_pool mine;
                auto& wide = init_ssh_pool();
                const bool ok = &wide != &process_wide && mine.run(to(sshd), "echo mine").out == "mine\n" && wide.run(to(sshd), "echo wide").out == "wide\n" &&
                                &get_ssh_pool() == &wide;
                close_ssh_pool();
                return ok ? 0 : 1;
            };
        }
    }
    forked child{[&] { return in_child(); }};
    CHECK(child.wait() == 0);
    CHECK(proxy.bytes(direction::to_server) == sent);
    support::write_file(sshd.home() / "go", "");
    runs.join();
    CHECK(ran == "it ran\n");
    CHECK(lease.run("echo as before").out == "as before\n");
    CHECK(proxy.connections() == 3);
    close_ssh_pool();
}

namespace {

/// Something static that does a last thing when the program ends; the exit status is then 3 if that fails.
struct last_words {
    explicit last_words(std::function<bool()> what) : say(std::move(what)) {}
    last_words(const last_words&) = delete;
    last_words& operator=(const last_words&) = delete;
    ~last_words() {
        if (!say()) ::_exit(3);
    }
    std::function<bool()> say;
};

}  // namespace

TEST_CASE("a program may end in any order", "[ssh][blocking]") {
    support::sshd_server sshd;
    std::function<void()> program;  // and then exit(0)
    SECTION("what is older than the process-wide pool, and than OpenSSL, uses it at the very end") {
        program = [&] {
            static const last_words at_the_end{[&] { return get_ssh_pool().run(to(sshd), "echo last").out == "last\n"; }};
            if (get_ssh_pool().run(to(sshd), "echo first").out != "first\n") ::_exit(2);
        };
    }
    SECTION("what is older than the process-wide pool asks it when it was closed") {
        program = [&] {
            static const last_words at_the_end{[&] {
                try {
                    get_ssh_pool().run(to(sshd), "true");
                } catch (const ssh_error& e) {
                    return e.code() == errc::pool_closed;
                }
                return false;
            }};
            if (!get_ssh_pool().run(to(sshd), "true").ok()) ::_exit(2);
            close_ssh_pool();
        };
    }
    SECTION("the process-wide pool is closed at the very end") {
        program = [&] {
            static const last_words at_the_end{[] {
                close_ssh_pool();
                return true;
            }};
            if (!get_ssh_pool().run(to(sshd), "true").ok()) ::_exit(2);
        };
    }
    SECTION("a static lease goes after its static pool") {
        program = [&] {
            static blocking_lease lease;
            static const last_words between{[&] { return !lease; }};
            static blocking_ssh_pool pool;
            lease = pool.get_connection(to(sshd));
            if (!lease.run("true").ok()) ::_exit(2);
        };
    }
    SECTION("a static lease goes before its static pool") {
        program = [&] {
            static blocking_ssh_pool pool;
            static blocking_lease lease = pool.get_connection(to(sshd));
            if (!lease.run("true").ok()) ::_exit(2);
        };
    }
    SECTION("commands run on the process-wide pool when the program ends") {
        program = [&] {
            static std::atomic<int> ran{0};
            for (int i = 0; i < 4; ++i) {
                std::thread{[where = to(sshd)] {
                    for (;;) {
                        if (get_ssh_pool().run(where, "head -c 100000 /dev/zero").ok()) ++ran;
                    }
                }}.detach();
            }
            if (!support::wait_until([] { return ran > 8; })) ::_exit(2);
        };
    }
    for (int i = 0; i < 3; ++i) {
        forked child{[&]() -> int {
            program();
            std::exit(0);
        }};
        CHECK(child.wait() == 0);
    }
}
