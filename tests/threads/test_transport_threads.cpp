// One connection used from many threads at once; meant for ThreadSanitizer.
#include <link.h>

#include <atomic>

#include "ssh/transport_on_sshd.hpp"

using namespace sshpool;
using namespace sshpool::test;

TEST_CASE("commands, cancellations, probes and questions from many threads meet on one connection", "[threads]") {
    support::sshd_server server;
    running_transport t{4};
    REQUIRE_FALSE(t.open(to(server)).error);
    std::atomic<int> right{0};
    std::atomic<int> cancelled{0};
    std::vector<std::thread> users;
    for (int user = 0; user < 4; ++user) {
        users.emplace_back([&, user] {
            for (int i = 0; i < 15; ++i) {
                const auto word = std::to_string(user * 100 + i);
                std::atomic<std::size_t> streamed{0};
                asio::cancellation_signal stop;
                const bool give_up = i % 5 == 4;
                auto what = command{"echo " + word};
                if (i % 3 == 0) what.on_output([&](output_stream, std::string_view bytes) { streamed += bytes.size(); });
                auto running = t.start(std::move(what), stop.slot());
                if (give_up) stop.emit(asio::cancellation_type::terminal);
                const auto end = running.get();
                if (end.ec == errc::cancelled) {
                    ++cancelled;
                } else if (!end.ec && (end.result.out == word + "\n" || streamed == word.size() + 1)) {
                    ++right;
                }
            }
        });
    }
    std::thread asker([&] {
        for (int i = 0; i < 20; ++i) {
            CHECK(t.connection.is_usable());
            CHECK(t.connection.last_heard().time_since_epoch().count() > 0);
            CHECK_FALSE(t.probe());
        }
    });
    for (auto& u : users) u.join();
    asker.join();
    CHECK(right + cancelled == 60);
    CHECK(right >= 48);
}

TEST_CASE("connections open, work and close from many threads", "[threads]") {
    support::sshd_server server({"MaxStartups 100"});
    const auto where = to(server);
    asio::io_context io;
    auto work = asio::make_work_guard(io);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back([&] { io.run(); });
    std::atomic<int> right{0};
    std::vector<std::thread> users;
    for (int user = 0; user < 3; ++user) {
        users.emplace_back([&] {
            for (int i = 0; i < 4; ++i) {
                libssh2_transport connection{io.get_executor()};
                std::promise<open_report> opened;
                connection.open({where, 20s * support::slowness, 1, 2s, {}, {}}, [&](open_report r) { opened.set_value(std::move(r)); });
                if (opened.get_future().get().error) continue;
                std::promise<command_result> ran;
                connection.async_run("echo x", [&](std::error_code, command_result r) { ran.set_value(std::move(r)); });
                if (ran.get_future().get().out == "x\n") ++right;
                if (i % 2 == 0) {
                    std::promise<void> closed;
                    connection.close([&] { closed.set_value(); });
                    closed.get_future().get();
                }  // otherwise the last handle's going closes it
            }
        });
    }
    for (auto& u : users) u.join();
    work.reset();
    for (auto& t : threads) t.join();
    CHECK(right == 12);
}

TEST_CASE("losses, closes and commands race without harm", "[threads]") {
    support::sshd_server server({"MaxStartups 100"});
    support::delay_proxy proxy(server.host(), server.port());
    for (int i = 0; i < 6; ++i) {
        running_transport t{4};
        REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
        std::vector<std::future<run_outcome>> running;
        for (int k = 0; k < 8; ++k) running.push_back(t.start("echo " + std::string(20000, 'x') + "; sleep 0.05"));
        std::thread cutter([&] { proxy.cut(); });
        std::thread closer([&] {
            if (i % 2 == 0) t.close();
        });
        for (auto& r : running) {
            const auto end = r.get();
            CHECK((!end.ec || end.ec == errc::connection_lost));
            CHECK(end.result.exit_status.has_value() == !end.ec);
        }
        cutter.join();
        closer.join();
    }
}

// A thread's static part lies on its stack: with 64 KiB of it, threads with small stacks could not be created.
TEST_CASE("a program with this library has next to nothing in every thread's static part", "[threads]") {
    std::size_t bytes = 0;
    ::dl_iterate_phdr(
        [](dl_phdr_info* object, std::size_t, void* into) {  // the first one is the program
            for (int i = 0; i < object->dlpi_phnum; ++i) {
                if (object->dlpi_phdr[i].p_type == PT_TLS) *static_cast<std::size_t*>(into) = object->dlpi_phdr[i].p_memsz;
            }
            return 1;
        },
        &bytes);
    CHECK(bytes > 0);
    constexpr std::size_t sanitizers_own = support::slowness > 1 ? 4096 : 0;  // clang links its sanitizers into the program
    CHECK(bytes < 1024 + sanitizers_own);
}
