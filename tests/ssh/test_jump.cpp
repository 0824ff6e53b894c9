// Targets behind jump hosts: real servers on loopback, and once in network namespaces where there is no other way.
#include <algorithm>
#include <atomic>
#include <deque>
#include <map>

#include "ssh/pool_in_network.hpp"
#include "ssh/transport_on_sshd.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// The server under another of its addresses.
target to(const support::sshd_server& s, const std::string& host) {
    return target{s.address(host, s.port()), credentials::private_key_file(s.client_key()), host_key_policy::known_hosts(s.known_hosts())};
}
bool says(const std::string& text, const std::string& what) {
    INFO(text << "\nshould say: " << what);
    const bool said = text.find(what) != std::string::npos;
    CHECK(said);
    return said;
}

/// A connection to a jump host and one through it, on one thread.
struct pair_of_connections {
    running_transport outer;
    libssh2_transport inner{outer.io.get_executor()};
    std::shared_ptr<told> heard = std::make_shared<told>();

    open_report open_inner(const target& to, std::chrono::milliseconds timeout = 10s) {
        open_request<libssh2_transport> request{to, timeout * support::slowness, 1, 2s, outer.connection, {}};
        request.observer.lost = [t = heard](error_info e) {
            const std::lock_guard lock{t->mutex};
            t->lost.push_back(std::move(e));
        };
        auto promise = std::make_shared<std::promise<open_report>>();
        auto future = promise->get_future();
        inner.open(std::move(request), [promise](open_report r) { promise->set_value(std::move(r)); });
        return future.get();
    }
    run_outcome run_inner(command what) {
        struct state {
            error_info info;
            std::promise<run_outcome> promise;
        };
        auto s = std::make_shared<state>();
        auto future = s->promise.get_future();
        inner.async_run(std::move(what), s->info, [s](std::error_code ec, command_result result) { s->promise.set_value({ec, s->info, std::move(result)}); });
        return future.get();
    }
    void close_inner() {
        std::promise<void> closed;
        inner.close([&] { closed.set_value(); });
        closed.get_future().get();
    }
    ~pair_of_connections() { close_inner(); }
};

}  // namespace

TEST_CASE("commands run through a jump host, megabytes both ways, and the tunnel goes when its session is closed", "[ssh][jump]") {
    support::sshd_server bastion;
    support::sshd_server server;
    pair_of_connections p;
    REQUIRE_FALSE(p.outer.open(to(bastion)).error);
    const auto report = p.open_inner(to(server));
    INFO(report.error.text);
    REQUIRE_FALSE(report.error);
    CHECK(p.run_inner("echo inside").result.out == "inside\n");
    std::string bytes;
    for (unsigned i = 0; bytes.size() < (std::size_t{6} << 20); ++i) bytes += std::to_string(i * 7919) + ",";
    command cat("cat");
    cat.input(bytes);
    const auto back = p.run_inner(std::move(cat));
    INFO(back.info.text);
    CHECK((back.result.out == bytes));
    // The jump host's own commands are not disturbed, and its server sees the tunnel's end.
    CHECK(p.outer.run("echo outside").result.out == "outside\n");
    p.close_inner();
    CHECK(server.wait_for_log("Received disconnect"));
    CHECK(p.outer.run("echo outside").result.out == "outside\n");
    CHECK(p.outer.connection.is_usable());
}

TEST_CASE("a session that does not read through its tunnel stops the sender and nobody else", "[ssh][jump]") {
    support::sshd_server bastion;
    support::sshd_server server;
    pair_of_connections p;
    REQUIRE_FALSE(p.outer.open(to(bastion)).error);
    REQUIRE_FALSE(p.open_inner(to(server)).error);
    // `on_output` holds its thread: an executor of its own, so that the connections' thread goes on.
    asio::io_context slow;
    std::atomic<std::size_t> taken{0};
    std::promise<void> may_go_on;
    auto gate = may_go_on.get_future().share();
    command flood("head -c 20000000 /dev/zero; echo done >" + (server.home() / "end").string());
    flood.on_output([&, gate](output_stream, std::string_view bytes) {
        gate.wait();
        taken += bytes.size();
    });
    std::promise<run_outcome> ended;
    error_info info;
    p.inner.async_run(std::move(flood), info, asio::bind_executor(slow.get_executor(), [&](std::error_code ec, command_result r) {
                          ended.set_value({ec, info, std::move(r)});
                      }));
    std::thread reader([&] {
        auto work = asio::make_work_guard(slow);
        slow.run();
    });
    CHECK(p.run_inner("echo beside").result.out == "beside\n");
    CHECK(p.outer.run("echo beside").result.out == "beside\n");
    CHECK_FALSE(std::filesystem::exists(server.home() / "end"));  // 20 MB do not fit into all windows on the way
    may_go_on.set_value();
    const auto result = ended.get_future().get();
    CHECK_FALSE(result.ec);
    CHECK(taken == 20'000'000);
    slow.stop();
    reader.join();
}

TEST_CASE("what is wrong on the way is told with the hop that it happened on", "[ssh][jump]") {
    support::sshd_server server;
    {
        support::sshd_server bastion;
        pair_of_connections p;
        REQUIRE_FALSE(p.outer.open(to(bastion)).error);
        const auto nobody = support::free_port();
        const target dead{server.address("127.0.0.1", nobody), credentials::private_key_file(server.client_key()), host_key_policy::accept_any()};
        const auto report = p.open_inner(dead);
        CHECK((report.error.code == errc::connect_failed));
        CHECK(report.error.phase == "tcp");
        CHECK(report.error.key == dead.key());
        says(report.error.text, dead.key() + " could not be reached");
        says(report.error.text, "the jump host " + bastion.address() + " could not open a connection to 127.0.0.1:" + std::to_string(nobody));
        CHECK(p.outer.connection.is_usable());
    }
    {
        support::sshd_server bastion({"AllowTcpForwarding no"});
        pair_of_connections p;
        REQUIRE_FALSE(p.outer.open(to(bastion)).error);
        const auto report = p.open_inner(to(server));
        CHECK((report.error.code == errc::jump_failed));
        CHECK(report.error.phase == "jump host");
        says(report.error.text, "the jump host " + bastion.address() + " could not open a connection to");
        says(report.error.text, "AllowTcpForwarding");
        CHECK(p.outer.run("echo on").result.out == "on\n");
    }
    {
        support::sshd_server bastion;
        pair_of_connections p;
        REQUIRE_FALSE(p.outer.open(to(bastion)).error);
        // The login behind the tunnel fails as any login does.
        const target wrong{server.address(), credentials::private_key_file(server.make_stranger_key()), host_key_policy::known_hosts(server.known_hosts())};
        CHECK((p.open_inner(wrong).error.code == errc::auth_failed));
    }
    {
        support::sshd_server bastion;
        const support::fault_server silent(support::fault::silence);
        pair_of_connections p;
        REQUIRE_FALSE(p.outer.open(to(bastion)).error);
        const target dumb{server.address("127.0.0.1", silent.port()), credentials::private_key_file(server.client_key()), host_key_policy::accept_any()};
        const auto report = p.open_inner(dumb, 500ms);
        CHECK((report.error.code == errc::connect_timeout));
        CHECK(report.error.phase == "banner");
        // Its tunnel goes with it.
        CHECK(support::wait_until([&] { return silent.open_connections() == 0; }));
    }
    {
        libssh2_transport alone{asio::system_executor()};
        std::promise<open_report> opened;
        alone.open({to(server).via(target("root@jump", credentials::password("x"))), 1s, 1, 2s, {}, {}}, [&](open_report r) { opened.set_value(r); });
        CHECK((opened.get_future().get().error.code == errc::jump_failed));
    }
}

TEST_CASE("a lost jump host ends what runs through it with a cause that names it", "[ssh][jump]") {
    support::sshd_server bastion;
    support::sshd_server server;
    pair_of_connections p;
    REQUIRE_FALSE(p.outer.open(to(bastion)).error);
    REQUIRE_FALSE(p.open_inner(to(server)).error);
    SECTION("killed in the middle of a command") {
        std::promise<run_outcome> ended;
        error_info info;
        p.inner.async_run(command("echo begun; sleep 60"), info, [&](std::error_code ec, command_result r) { ended.set_value({ec, info, std::move(r)}); });
        REQUIRE(server.wait_for_log("Starting session: "));
        bastion.kill_sessions();
        const auto outcome = ended.get_future().get();
        CHECK((outcome.ec == errc::connection_lost));
        CHECK((outcome.ec == command_fate::unknown));
        says(outcome.info.text, "the jump host was lost: " + bastion.address());
        CHECK_FALSE(outcome.result.exit_status.has_value());
    }
    SECTION("killed while idle") {
        bastion.kill_sessions();
        REQUIRE(support::wait_until([&] { return p.heard->count_lost() == 1; }));
        says(p.heard->lost.front().text, "the jump host was lost: " + bastion.address());
        CHECK_FALSE(p.inner.is_usable());
    }
    SECTION("closed by its owner") {
        p.outer.close();
        REQUIRE(support::wait_until([&] { return p.heard->count_lost() == 1; }));
        says(p.heard->lost.front().text, "the jump host was lost: " + bastion.address() + " was closed");
    }
    SECTION("the target itself, which is no fault of the jump host") {
        server.kill_sessions();
        REQUIRE(support::wait_until([&] { return p.heard->count_lost() == 1; }));
        CHECK(p.heard->lost.front().text.find("jump host") == std::string::npos);
        CHECK(p.outer.run("echo on").result.out == "on\n");
    }
}

TEST_CASE("whoever hears that a jump host is lost, and closes what runs through it, cannot hide why it ended", "[ssh][jump]") {
    support::sshd_server bastion;
    support::sshd_server server;
    running_transport host(2);  // one thread to wait in, one to close
    libssh2_transport outer{host.io.get_executor()};
    libssh2_transport inner{host.io.get_executor()};
    std::promise<open_report> outer_open;
    std::promise<open_report> inner_open;
    open_request<libssh2_transport> request{to(bastion), 10s, 1, 2s, {}, {}};
    request.observer.lost = [&](error_info) {
        std::promise<void> closed;
        inner.close([&] { closed.set_value(); });
        closed.get_future().wait_for(10s);
    };
    outer.open(std::move(request), [&](open_report r) { outer_open.set_value(std::move(r)); });
    REQUIRE_FALSE(outer_open.get_future().get().error);
    inner.open({to(server), 10s, 1, 2s, outer, {}}, [&](open_report r) { inner_open.set_value(std::move(r)); });
    REQUIRE_FALSE(inner_open.get_future().get().error);
    std::promise<error_info> ended;
    error_info info;
    inner.async_run(command("sleep 60"), info, [&](std::error_code, command_result) { ended.set_value(info); });
    REQUIRE(server.wait_for_log("Starting session: "));
    bastion.kill_sessions();
    says(ended.get_future().get().text, "the jump host was lost: " + bastion.address());
    std::promise<void> closed;
    outer.close([&] { closed.set_value(); });
    closed.get_future().get();
}

TEST_CASE("the fate of a jump host is known through any number of others", "[jump]") {
    const auto outermost = std::make_shared<detail::connection_fate>();
    const auto middle = std::make_shared<detail::connection_fate>();
    detail::connection_fate last;
    middle->runs_through(outermost);
    last.runs_through(middle);
    CHECK(last.cause().empty());
    outermost->ended("a was cut");
    outermost->ended("a was closed");
    CHECK(last.cause() == "the jump host was lost: a was cut");
    middle->ended("b lost the connection: " + middle->cause());
    CHECK(last.cause() == "the jump host was lost: b lost the connection: the jump host was lost: a was cut");
    CHECK(outermost->cause().empty());
}

TEST_CASE("an execution context may go with sessions in each other, and handles may outlive it", "[ssh][jump]") {
    support::sshd_server bastion;
    support::sshd_server server;
    std::optional<libssh2_transport> kept;
    for (const bool while_opening : {false, true}) {
        asio::io_context io;
        libssh2_transport outer{io.get_executor()};
        libssh2_transport inner{io.get_executor()};
        bool outer_open = false;
        bool inner_open = false;
        outer.open({to(bastion), 10s, 1, 2s, {}, {}}, [&](open_report r) { outer_open = !r.error; });
        while (!outer_open) REQUIRE(io.run_one_for(10s) == 1);
        inner.open({to(server), 10s, 1, 2s, outer, {}}, [&](open_report r) { inner_open = !r.error; });
        if (while_opening) {
            for (int i = 0; i < 12; ++i) io.run_one_for(20ms);
        } else {
            while (!inner_open) REQUIRE(io.run_one_for(10s) == 1);
            inner.async_run(command("sleep 60"), [](std::error_code, command_result) {});
            io.run_for(20ms);
        }
        kept.emplace(inner);
    }
    CHECK_FALSE(kept->is_usable());
}

TEST_CASE("a tunnel keeps the jump host's connection and its share of it", "[ssh][jump]") {
    support::sshd_server bastion;
    support::sshd_server server;
    running_transport host;  // its thread
    auto share = std::make_shared<int>(1);
    libssh2_transport inner{host.io.get_executor()};
    {
        libssh2_transport outer{host.io.get_executor()};
        std::promise<open_report> opened;
        outer.open({to(bastion), 10s, 1, 2s, {}, {}}, [&](open_report r) { opened.set_value(std::move(r)); });
        REQUIRE_FALSE(opened.get_future().get().error);
        std::promise<open_report> opened_too;
        inner.open({to(server), 10s, 1, 2s, outer.lend(share), {}}, [&](open_report r) { opened_too.set_value(std::move(r)); });
        REQUIRE_FALSE(opened_too.get_future().get().error);
    }
    CHECK(share.use_count() > 1);  // no handle to the jump host is left
    std::promise<std::string> out;
    inner.async_run(command("echo in"), [&](std::error_code, command_result r) { out.set_value(r.out); });
    CHECK(out.get_future().get() == "in\n");
    std::promise<void> closed;
    inner.close([&] { closed.set_value(); });
    closed.get_future().get();
    CHECK(support::wait_until([&] { return share.use_count() == 1; }));
    CHECK(support::wait_until([&] { return bastion.session_processes() == 0; }));
}

TEST_CASE("twenty targets behind one jump host share one connection to it, whose loss names it, and the next commands succeed", "[ssh][jump]") {
    support::sshd_server bastion({"MaxStartups 100"});
    support::sshd_server::options o;
    o.config = {"MaxStartups 100"};
    o.addresses.clear();
    for (int i = 1; i <= 10; ++i) o.addresses.push_back("127.0.0." + std::to_string(i));
    support::sshd_server one(o);
    support::sshd_server two(o);
    const auto jump = to(bastion);
    std::vector<target> targets;
    for (const auto* server : {&one, &two}) {
        for (const auto& a : o.addresses) targets.push_back(to(*server, a).via(jump));
    }
    std::mutex mutex;
    std::vector<pool_event> closed;
    pool_params params;
    params.on_event = [&](const pool_event& e) {
        const std::lock_guard lock{mutex};
        if (e.kind == event_kind::closed) closed.push_back(e);
    };
    running_pool p(params, 2);
    const auto everywhere = [&](const std::string& line) {
        std::vector<std::future<running_pool::run_outcome>> all;
        for (const auto& t : targets) all.push_back(p.start(t, line));
        return all;
    };
    for (auto& f : everywhere("echo ok")) {
        const auto outcome = running_pool::finish(std::move(f));
        INFO(outcome.info.text);
        CHECK(outcome.result.out == "ok\n");
    }
    CHECK(bastion.accepted_logins() == 1);
    CHECK(one.accepted_logins() + two.accepted_logins() == 20);
    CHECK(p.pool.get_stats().pool_size == 21);
    says(p.pool.explain(targets[0].key()), "through " + jump.key());
    const auto before = one.started_commands() + two.started_commands();
    auto running = everywhere("sleep 60");
    REQUIRE(support::wait_until([&] { return one.started_commands() + two.started_commands() >= before + 20; }));
    bastion.kill_sessions();
    for (auto& f : running) {
        const auto outcome = running_pool::finish(std::move(f));
        CHECK((outcome.ec == errc::connection_lost));
        CHECK((outcome.ec == command_fate::unknown));
        says(outcome.info.text, "the jump host");
        says(outcome.info.text, jump.key());
    }
    for (auto& f : everywhere("echo again")) {
        const auto outcome = running_pool::finish(std::move(f));
        INFO(outcome.info.text);
        CHECK(outcome.result.out == "again\n");
    }
    CHECK(bastion.accepted_logins() == 2);
    const std::lock_guard lock{mutex};
    CHECK(closed.size() == 21);
    for (const auto& e : closed) says(e.error.text, jump.key());
}

TEST_CASE("a chain of two jump hosts works, link by link through the pool", "[ssh][jump]") {
    support::sshd_server outer;
    support::sshd_server inner;
    support::sshd_server server;
    running_pool p;
    auto middle = to(inner);
    middle.via(to(outer));
    auto last = to(server);
    last.via(middle);
    const auto outcome = p.run(last, "echo far");
    INFO(outcome.info.text);
    CHECK(outcome.result.out == "far\n");
    CHECK(p.run(middle, "echo half").result.out == "half\n");
    CHECK(outer.accepted_logins() == 1);
    CHECK(inner.accepted_logins() == 1);
    CHECK(p.pool.get_stats().pool_size == 3);
    // The outermost is lost in the middle of a command: the cause goes all the way.
    const auto before = server.started_commands();
    auto running = p.start(last, "sleep 60");
    REQUIRE(server.wait_for_log("Starting session: ", before + 1));
    outer.kill_sessions();
    const auto lost = running_pool::finish(std::move(running));
    CHECK((lost.ec == errc::connection_lost));
    says(lost.info.text, outer.address());
    CHECK(p.run(last, "echo again").result.out == "again\n");
}

TEST_CASE("a jump host that refuses, or is away, fails those behind it at once and by name", "[ssh][jump]") {
    support::sshd_server server;
    running_pool p;
    {
        support::sshd_server bastion({"AllowTcpForwarding no"});
        const auto outcome = p.run(to(server).via(to(bastion)), "true");
        CHECK((outcome.ec == errc::jump_failed));
        CHECK((outcome.ec == command_fate::not_started));
        says(outcome.info.text, bastion.address());
        CHECK(p.run(to(bastion), "echo itself").result.out == "itself\n");
    }
    const target away{"nobody@127.0.0.1:" + std::to_string(support::free_port()), credentials::private_key_file(server.client_key()),
                      host_key_policy::accept_any()};
    const auto outcome = p.run(to(server).via(away), "true");
    CHECK((outcome.ec == errc::jump_failed));
    says(outcome.info.text, "the jump host " + away.key() + " could not be used");
}

TEST_CASE("an executor that only a bastion can reach is reached through it, and through two where that takes two", "[ssh][jump][netns]") {
    if (!support::network_row::is_possible()) SKIP_TEST("network namespaces need root");
    const int bastions = GENERATE(1, 2);
    const support::network_row net(bastions + 2);  // client, bastions, executor
    std::deque<support::sshd_server> servers;
    std::vector<target> ways;  // to each server, through all before it
    for (int place = 1; place <= bastions + 1; ++place) {
        auto way = to(servers.emplace_back(server_at(net, place)));
        if (!ways.empty()) way.via(ways.back());
        ways.push_back(std::move(way));
    }
    pool_params params;
    params.connect_timeout = 3s * support::slowness;
    running_pool p(params);
    enter_first(p, net);
    const auto& through = ways.back();
    const auto& last_bastion = ways[ways.size() - 2];
    CHECK((p.run(to(servers.back()), "true").ec == errc::connect_failed));
    if (bastions == 2) {
        const auto one_too_few = p.run(to(servers.back()).via(ways.front()), "true");
        CHECK((one_too_few.ec == errc::connect_failed));
        says(one_too_few.info.text, "the jump host " + ways.front().key() + " could not open a connection");
    }
    const auto outcome = p.run(through, "echo $SSH_CONNECTION");
    INFO(outcome.info.text);
    CHECK(outcome.result.out.starts_with(net.right_address(bastions) + " "));  // it sees the last bastion, not the client
    // The cable between the last bastion and the executor is cut: no host answers, and the error says which hop it was.
    net.cut_right_of(bastions);
    p.pool.close_all();
    const auto cut = p.run(through, "true");
    CHECK((cut.ec == errc::connect_failed || cut.ec == errc::connect_timeout));
    says(cut.info.text, "jump host " + last_bastion.key());
    for (int i = 0; i < bastions; ++i) CHECK(p.run(ways[static_cast<std::size_t>(i)], "echo bastion").result.out == "bastion\n");
}
