// examples/demo, the README's first command, interrupted as by Ctrl-C on a terminal: all that it started and made goes again. It makes a build of its own, so
// one build of the tests does this for all.
#ifdef DEMO
#include <csignal>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/temp_dir.hpp"
#include "support/wait.hpp"

#include <unistd.h>

namespace {

using namespace std::chrono_literals;

struct running_process {
    std::string session, user;
    bool operator<(const running_process& other) const { return std::pair{session, user} < std::pair{other.session, other.user}; }
};
std::set<running_process> all_that_run() {
    std::set<running_process> all;
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
        if (entry.path().filename().string().find_first_not_of("0123456789") != std::string::npos) continue;
        try {
            std::istringstream stat(support::read_file(entry.path() / "stat"));
            std::istringstream status(support::read_file(entry.path() / "status"));
            running_process one;
            std::string word;
            stat.ignore(1000, ')');
            stat >> word >> word >> word >> one.session;
            while (status >> word && word != "Uid:") {
            }
            status >> one.user;
            all.insert(one);
        } catch (const std::exception&) {  // it has ended
        }
    }
    return all;
}

}  // namespace

TEST_CASE("the demo leaves no process and no file behind when it is interrupted, whatever it is about") {
    struct moment {
        const char* words;  // once it has said them
        int signal;
    };
    const auto when = GENERATE(moment{"Building", SIGINT}, moment{"Started", SIGINT}, moment{"The same commands twice", SIGINT},
                               moment{" of 40000 commands", SIGINT}, moment{" of 40000 commands", SIGTERM});
    INFO("interrupted after \"" << when.words << "\" by signal " << when.signal);
    const support::temp_dir files;
    std::filesystem::permissions(files.path(), std::filesystem::perms{0711});
    // A terminal sends its signal to everything in the foreground: to a process group, here that of a session of its own.
    support::process demo({"setsid", "env", "TMPDIR=" + files.path().string(), std::string{"BUILD_DIR="} + DEMO_BUILD, DEMO, "--no-install", "--hosts", "20",
                           "--commands", "2000"});
    REQUIRE(support::wait_until([&] { return !demo.running() || demo.output().find(when.words) != std::string::npos; }, 280s));
    INFO(demo.output());
    REQUIRE(demo.running());
    const auto session = std::to_string(demo.pid());
    ::kill(-demo.pid(), when.signal);
    CHECK(demo.wait() == 128 + when.signal);
    CHECK(std::filesystem::is_empty(files.path()));
    const auto fleet_user = std::to_string(61106 + demo.pid() % 78);  // as cmake/scripts/sshd_fleet.sh has it for root
    CHECK(support::wait_until([&] {
        for (const auto& one : all_that_run()) {
            if (one.session == session || (::geteuid() == 0 && one.user == fleet_user)) return false;
        }
        return true;
    }));
}

#endif
