// The example `service`, told by signals to stop and to reload while its commands run on a real sshd.

#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/http_get.hpp"
#include "support/process.hpp"
#include "support/sshd_server.hpp"
#include "support/temp_dir.hpp"

namespace {

using namespace std::chrono_literals;

/// The service on two hosts that are one sshd. Its command tells a log on the server when it begins, waits for a file there, and tells when it ends.
struct running_service {
    explicit running_service(std::vector<std::string> more = {}, const std::string& command = until_told) : service(arguments(std::move(more), command)) {}

    static support::sshd_server::options two_hosts() {
        support::sshd_server::options o;
        o.addresses = {"127.0.2.1", "127.0.2.2"};
        return o;
    }
    std::vector<std::string> arguments(std::vector<std::string> more, const std::string& command) const {
        write_inventory(2);
        std::vector<std::string> all{
            SERVICE_PROGRAM, "-i", inventory(), "--key", sshd.client_key().string(), "--known-hosts", sshd.known_hosts().string(), "--ready", ready().string()};
        all.insert(all.end(), more.begin(), more.end());
        all.insert(all.end(), {"--", command});
        return all;
    }
    void write_inventory(int hosts) const {
        std::string lines;
        for (int i = 1; i <= hosts; ++i) lines += sshd.address("127.0.2." + std::to_string(i), sshd.port()) + "\n";
        support::write_file(files / "inventory", lines);
    }
    std::string inventory() const { return (files / "inventory").string(); }
    std::filesystem::path ready() const { return files / "ready"; }

    std::size_t times(const std::string& word) const {
        if (!std::filesystem::exists(sshd.home() / "log")) return 0;
        const auto text = support::read_file(sshd.home() / "log");
        std::size_t n = 0;
        for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
        return n;
    }
    bool wait_for(const std::string& word, std::size_t n) const {
        return support::wait_until([&] { return times(word) >= n; });
    }
    bool wait_to_say(const std::string& words) {
        return support::wait_until([&] { return service.output().find(words) != std::string::npos; });
    }
    void let_commands_end() const { support::write_file(sshd.home() / "go", ""); }

    static constexpr auto until_told = "echo begun >>log; while ! test -e go; do sleep 0.05; done; echo ended >>log";
    support::sshd_server sshd{two_hosts()};
    support::temp_dir files;
    support::process service;
};

}  // namespace

TEST_CASE("the service told to stop begins nothing, lets commands under way end, and ends with 0", "[examples]") {
    const int number = GENERATE(SIGTERM, SIGINT);
    running_service r{{"--every", "1ms", "--grace", "60s"}};
    REQUIRE(r.wait_for("begun", 2));
    CHECK(std::filesystem::exists(r.ready()));
    r.service.signal(number);
    REQUIRE(r.wait_to_say("stopping, 2 commands under way"));
    CHECK_FALSE(std::filesystem::exists(r.ready()));
    r.let_commands_end();
    CHECK(r.service.wait() == 0);
    CHECK(r.times("ended") == 2);
    CHECK(r.times("begun") == 2);
    CHECK(r.service.output().find("status 0") != std::string::npos);
}

TEST_CASE("the service cuts what does not end within the grace time, and its exit status says so", "[examples]") {
    running_service r{{"--grace", "300ms"}};
    REQUIRE(r.wait_for("begun", 2));
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 1);
    CHECK(r.service.output().find("stopped, 2 commands cut") != std::string::npos);
    CHECK(r.times("ended") == 0);
}

TEST_CASE("a second signal ends the service at once", "[examples]") {
    running_service r{{"--grace", "60m"}};
    REQUIRE(r.wait_for("begun", 2));
    r.service.signal(SIGTERM);
    REQUIRE(r.wait_to_say("stopping"));
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 1);
}

TEST_CASE("a service whose commands are done ends at once, however long its pause and its grace time", "[examples]") {
    running_service r{{"--every", "60m", "--grace", "60m"}, "echo begun >>log"};
    REQUIRE(r.wait_to_say("127.0.2.1:" + std::to_string(r.sshd.port()) + ": status 0"));
    REQUIRE(r.wait_to_say("127.0.2.2:" + std::to_string(r.sshd.port()) + ": status 0"));
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 0);
}

TEST_CASE("a service that is told to stop while it connects does not wait for hosts that do not answer", "[examples]") {
    running_service r{{"--every", "60m", "--grace", "60m"}, "echo begun >>log"};
    REQUIRE(r.wait_to_say("127.0.2.1:" + std::to_string(r.sshd.port()) + ": status 0"));
    REQUIRE(r.wait_to_say("127.0.2.2:" + std::to_string(r.sshd.port()) + ": status 0"));
    r.sshd.suspend();
    r.service.signal(SIGHUP);
    REQUIRE(r.wait_to_say("connecting: generation 2"));
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 0);
}

TEST_CASE("the service told to reload connects anew with other parameters and hosts, while old commands end in peace", "[examples]") {
    running_service r{{"--every", "1ms", "--grace", "60s"}};
    REQUIRE(r.wait_for("begun", 2));
    const auto logins = r.sshd.accepted_logins();
    r.write_inventory(1);
    r.service.signal(SIGHUP);
    REQUIRE(r.wait_to_say("ready: generation 2, 1 of 1 hosts connected"));
    REQUIRE(r.wait_for("begun", 3));  // on the new pool, while two still run on the old one
    CHECK(r.times("ended") == 0);
    CHECK(r.sshd.accepted_logins() == logins + 1);
    CHECK(std::filesystem::exists(r.ready()));
    r.let_commands_end();
    REQUIRE(r.wait_for("begun", 10));
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 0);
    CHECK(r.times("ended") == r.times("begun"));
    CHECK(r.service.output().find("127.0.2.2:" + std::to_string(r.sshd.port()) + ": status 0") != std::string::npos);  // begun before, ended after
}

TEST_CASE("the service goes on as before when what it should reload is wrong, and names the mistake", "[examples]") {
    const support::temp_dir files;
    const auto params = (files / "params").string();
    support::write_file(params, "# of the pool\nmax_connections = 7\nidle_timeout = 90s\n");
    running_service r{{"--every", "1ms", "--params", params}, "echo begun >>log"};
    REQUIRE(r.wait_for("begun", 2));
    support::write_file(params, "max_connections = many\n");
    r.service.signal(SIGHUP);
    REQUIRE(r.wait_to_say("not reloaded, all goes on as before: max_connections wants a number"));
    support::write_file(params, "max_conections = 7\n");
    r.service.signal(SIGHUP);
    REQUIRE(r.wait_to_say("unknown parameter \"max_conections\""));
    const auto before = r.times("begun");
    CHECK(r.wait_for("begun", before + 2));
    CHECK(r.service.output().find("generation 2") == std::string::npos);
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 0);
}

#ifdef SERVICE_HAS_METRICS
TEST_CASE("the service serves its pool's figures to Prometheus, those of the pool it reloaded, too", "[examples]") {
    running_service r{{"--every", "1ms", "--metrics", "127.0.0.1:0"}, "echo begun >>log"};
    REQUIRE(r.wait_to_say("metrics on port "));
    REQUIRE(r.wait_for("begun", 4));
    const auto said = r.service.output();
    const auto port = std::stoi(said.substr(said.find("metrics on port ") + 16));
    CHECK_THAT(support::http_get(port, "/metrics"),
               Catch::Contains("ssh_pool_misses_total{pool=\"1\"} 2\n") && Catch::Contains("ssh_pool_hits_total{pool=\"1\"}"));
    r.service.signal(SIGHUP);
    REQUIRE(r.wait_to_say("ready: generation 2"));
    CHECK(support::wait_until([&] {
        const auto text = support::http_get(port, "/metrics");
        return text.find("pool=\"2\"") != std::string::npos && text.find("pool=\"1\"") == std::string::npos;  // the old one has gone, and its series with it
    }));
    r.service.signal(SIGTERM);
    CHECK(r.service.wait() == 0);
}
#endif
