// Never twice, never falsely done: commands that each append a unique line on their server, while connections are cut at random moments. Then the lines
// are counted. chaos --commands 20000 --hosts 50 --seed 1

#include "soak/fleet.hpp"
#include "soak/options.hpp"
#include "support/libssh2_leak.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <mutex>

using namespace sshpool;
using namespace std::chrono_literals;

namespace {

/// `answered`: with a status or a signal, which is right only where the server's processes were killed. `none`: with nothing that says what became of it.
enum class fate { done, not_started, unknown, answered, none };
constexpr std::size_t fates = 5;

class chaos {
public:
    chaos(soak::fleet& f, std::size_t commands, std::uint64_t seed)
        : fleet_(f), random_(seed), fates_(commands, fate::none), pool_(io_.get_executor(), params()) {}

    void run() {
        constexpr std::size_t at_once = 4;  // of a host
        for (std::size_t i = 0; i < at_once; ++i) {
            for (auto& h : fleet_.hosts) next(*h);
        }
        std::thread other([this] { io_.run(); });
        io_.run();
        other.join();
    }
    bool is_busy(const soak::fleet::host& h) const { return pool_.get_stats(h.where.key()).in_use > 0; }

    const std::vector<fate>& fates() const { return fates_; }
    std::size_t host_of(std::size_t id) const { return host_of_.at(id); }
    std::map<std::string, std::size_t> errors;  // by text of the code

private:
    static pool_params params() {
        pool_params p;
        p.max_connections = 60;
        p.connect_timeout = 10s * support::slowness;
        p.acquire_timeout = 30s * support::slowness;
        // Or on a slow machine most commands would come to nothing but "it failed a moment ago".
        p.when_backing_off = backing_off_policy::wait;
        p.backoff_max = 500ms;
        return p;
    }
    static std::string file_on(const soak::fleet::host& h) { return "ran." + std::to_string(h.number); }

    void next(soak::fleet::host& h) {
        std::size_t id = 0;
        std::size_t style = 0;
        {
            const std::lock_guard lock{mutex_};
            if (begun_ == fates_.size()) return;
            id = begun_++;
            host_of_[id] = h.number;
            style = random_() % 4;
        }
        const std::string append = "echo " + std::to_string(id) + " >> " + file_on(h);
        command what{style == 0 ? "sleep 0.02; " + append : style == 1 ? append + "; sleep 0.05" : append};
        pool_.async_run(h.where, std::move(what), [this, &h, id](std::error_code ec, const command_result& r) { ended(h, id, ec, r); });
    }
    void ended(soak::fleet::host& h, std::size_t id, std::error_code ec, const command_result& r) {
        const bool last = [&] {
            const std::lock_guard lock{mutex_};
            if (!ec && r.ok()) {
                fates_[id] = fate::done;
            } else if (ec == command_fate::not_started) {
                fates_[id] = fate::not_started;
            } else if (ec == command_fate::unknown) {
                fates_[id] = fate::unknown;
            } else if (!ec && (r.exit_signal == "KILL" || r.exit_status == 128 + SIGKILL)) {
                fates_[id] = fate::answered;
            }
            if (ec) {
                ++errors[ec.message()];
            } else if (!r.ok()) {
                ++errors["ended with " + (r.exit_status ? "status " + std::to_string(*r.exit_status) : "signal " + r.exit_signal)];
            }
            return ++ended_ == fates_.size();
        }();
        if (last) return pool_.async_shutdown(5s, [](std::error_code) {});
        if (!ec) return next(h);
        auto pause = std::make_shared<asio::steady_timer>(io_, 20ms);  // a host that is away would use up all commands
        pause->async_wait([this, &h, pause](std::error_code) { next(h); });
    }

    soak::fleet& fleet_;
    std::mutex mutex_;
    std::mt19937_64 random_;
    std::vector<fate> fates_;
    std::map<std::size_t, std::size_t> host_of_;
    std::size_t begun_ = 0;
    std::size_t ended_ = 0;
    asio::io_context io_;
    ssh_pool<> pool_;
};

}  // namespace

int main(int argc, char** argv) {
    const auto given = soak::options(argc, argv, {{"--commands", 20'000}, {"--hosts", 50}, {"--seed", 1}});
    const auto commands = given.at("--commands");
    soak::fleet fleet{given.at("--hosts")};
    chaos world{fleet, commands, given.at("--seed")};
    const auto start = std::chrono::steady_clock::now();
    soak::wrecker wrecker{fleet, 20ms, given.at("--seed") + 1, [&](const auto& h) { return world.is_busy(h); }};
    world.run();
    wrecker.stop();
    const auto took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (auto& s : fleet.servers) s->stop();  // nothing writes any more

    std::vector<std::size_t> lines(commands, 0);
    std::size_t strange = 0;
    for (const auto& h : fleet.hosts) {
        std::string text;
        try {
            text = support::read_file(h->server->home() / ("ran." + std::to_string(h->number)));
        } catch (const std::exception&) {
            continue;  // no command of this host came so far
        }
        for (std::size_t at = 0; at < text.size();) {
            const auto end = std::min(text.find('\n', at), text.size());
            const auto id = std::strtoull(text.substr(at, end - at).c_str(), nullptr, 10);
            if (id < commands && world.host_of(id) == h->number) {
                ++lines[id];
            } else {
                ++strange;
            }
            at = end + 1;
        }
    }
    std::array<std::size_t, fates> of{}, there{};
    std::size_t twice = 0;
    for (std::size_t id = 0; id < commands; ++id) {
        const auto f = static_cast<std::size_t>(world.fates()[id]);
        ++of[f];
        there[f] += lines[id] > 0 ? 1 : 0;
        twice += lines[id] > 1 ? 1 : 0;
    }
    const auto least = [&](std::size_t of_20000) { return std::max<std::size_t>(1, of_20000 * commands / 20'000); };
    std::printf("%zu commands on %zu hosts in %.1f s\n", static_cast<std::size_t>(commands), fleet.hosts.size(), took);
    std::printf(
        "faults: %zu cuts, %zu of them while a command was on the connection (at least %zu wanted); among them %zu hosts refused for a while, %zu connects "
        "broken, %zu times a server's session processes killed; %zu more cuts at a random byte\n",
        wrecker.done.cuts.load(), wrecker.done.while_running.load(), least(200), wrecker.done.refusals.load(), wrecker.done.broken_connects.load(),
        wrecker.done.kills.load(), wrecker.done.at_a_byte.load());
    constexpr std::array<const char*, fates> names{"done", "not_started", "unknown", "killed with the server", "without any fate"};
    for (std::size_t f = 0; f < fates; ++f) std::printf("%s %zu: %zu lines are there\n", names[f], of[f], there[f]);
    std::printf("lines twice: %zu; lines of nobody: %zu\n", twice, strange);
    for (const auto& [text, count] : world.errors) std::printf("  %6zu x %s\n", count, text.c_str());
    bool good = twice == 0 && strange == 0 && there[0] == of[0] && there[1] == 0 && of[4] == 0 && wrecker.done.while_running >= least(200);
    for (std::size_t f = 0; f < 3; ++f) good = good && of[f] >= least(50);
    std::printf("%s\n", good ? "every promise was kept" : "BROKEN");
    return good ? 0 : 1;
}
