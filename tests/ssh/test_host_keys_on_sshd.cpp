// Host keys as a pool's caller meets them: a real server, its key changed under a file that knows the old one.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "ssh/pool_on_sshd.hpp"
#include "ssh/transport_on_sshd.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

target with(const support::sshd_server& server, const host_key_policy& policy) {
    return {server.address(), credentials::private_key_file(server.client_key()), policy};
}
void check_says(const std::string& text, const std::string& what) {
    INFO(text << "\nshould say: " << what);
    CHECK(text.find(what) != std::string::npos);
}

}  // namespace

TEST_CASE("explain() shows both fingerprints of a changed host key, also where only a key of another type was known", "[ssh][host keys]") {
    support::sshd_server::options o;
    o.host_key_types = {"ed25519"};
    support::sshd_server server(o);
    o.host_key_types = {"ecdsa"};
    support::sshd_server before_reinstallation(o);
    const support::temp_dir dir;
    const auto line = before_reinstallation.known_hosts_line(server.host(), server.port(), "ecdsa");
    for (const bool on_first_use : {false, true}) {
        support::write_file(dir / "known_hosts", line);
        const auto policy = on_first_use ? host_key_policy::trust_on_first_use(dir / "known_hosts") : host_key_policy::known_hosts(dir / "known_hosts");
        running_pool p;
        const auto outcome = p.run(with(server, policy), "true");
        CHECK((outcome.ec == errc::host_key_mismatch));
        CHECK((outcome.ec == command_fate::not_started));
        const auto text = p.pool.explain(server.address());
        check_says(text, server.fingerprint("ed25519"));
        check_says(text, before_reinstallation.fingerprint("ecdsa"));
        check_says(text, "known_hosts\":1");
        CHECK(support::read_file(dir / "known_hosts") == line);
    }
}

TEST_CASE("a revoked host key is refused by every pool, also on first use", "[ssh][host keys]") {
    support::sshd_server server;
    const support::temp_dir dir;
    support::write_file(dir / "known_hosts",
                        server.known_hosts_line(server.host(), server.port()) + "@revoked * " + server.known_hosts_line("x", 22).substr(2));
    running_pool p;
    for (const auto& policy : {host_key_policy::known_hosts(dir / "known_hosts"), host_key_policy::trust_on_first_use(dir / "known_hosts")}) {
        const auto outcome = p.run(with(server, policy), "true");
        CHECK((outcome.ec == errc::host_key_mismatch));
        check_says(outcome.info.text, "is revoked");
    }
}

TEST_CASE("the fingerprint that ssh shows can be pinned where the server has keys of all types", "[ssh][host keys]") {
    support::sshd_server::options o;
    o.host_key_types = {"rsa", "ecdsa", "ed25519"};
    support::sshd_server server{o};
    running_pool p;
    const auto outcome = p.run(with(server, host_key_policy::pinned(server.fingerprint("ed25519"))), "true");
    INFO(outcome.info.text);
    CHECK_FALSE(outcome.ec);
}

TEST_CASE("a known_hosts file that another process has locked holds up nobody but those who must write to it", "[ssh][host keys]") {
    support::sshd_server server;
    const support::temp_dir dir;
    support::write_file(dir / "known_hosts", "");
    const int fd = ::open((dir / "known_hosts").c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(::flock(fd, LOCK_EX) == 0);
    running_transport t;  // one thread
    auto waiting = t.start_open(with(server, host_key_policy::trust_on_first_use(dir / "known_hosts")));
    REQUIRE(server.wait_for_log("Connection from "));
    libssh2_transport neighbour{t.io.get_executor()};
    std::promise<open_report> opened;
    neighbour.open({to(server), 10s, 1, 2s, {}, {}}, [&](open_report r) { opened.set_value(std::move(r)); });
    CHECK_FALSE(opened.get_future().get().error);
    CHECK(waiting.wait_for(0s) == std::future_status::timeout);
    CHECK(support::read_file(dir / "known_hosts").empty());
    ::close(fd);
    const auto report = waiting.get();
    INFO(report.error.text);
    CHECK_FALSE(report.error);
    CHECK(support::read_file(dir / "known_hosts") == server.known_hosts_line(server.host(), server.port()));
    std::promise<void> closed;
    neighbour.close([&] { closed.set_value(); });
    closed.get_future().get();
}
