// Pools on a real server that end in the middle of their work.

#include <array>
#include <filesystem>
#include <functional>
#include <optional>

#include "ssh/channel_on_sshd.hpp"
#include "ssh/pool_on_sshd.hpp"
#include "support/held_leases.hpp"
#include "support/self.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

/// Where the pools below work: the server twice, for it is two hosts to a pool, and a file that takes its time.
struct workplace {
    support::sshd_server sshd{[] {
        support::sshd_server::options o;
        o.addresses = {"127.0.0.1", "127.0.2.1"};
        o.config = {"MaxStartups 100"};
        return o;
    }()};
    support::temp_dir dir;
    std::filesystem::path large = dir / "large";

    workplace() {
        support::write_file(large, "");
        std::filesystem::resize_file(large, std::uintmax_t{256} << 20U);
    }
    target at(const std::string& host) const {
        return {sshd.address(host, sshd.port()), credentials::private_key_file(sshd.client_key()), host_key_policy::known_hosts(sshd.known_hosts())};
    }
};

/// A pool with connects, commands, a stream, a transfer and a host that is kept warm, all at the same time, and a thread that runs it.
class busy_pool : public support::held_leases<lease<libssh2_transport>> {
public:
    explicit busy_pool(const workplace& place) {
        pool_params params;
        params.on_event = [told = token_](const pool_event&) {};
        pool_.emplace(io_->get_executor(), params);
        const auto to = place.at("127.0.0.1");
        pool_->keep_warm(std::vector{place.at("127.0.2.1")});
        ask<warm_report>([&](auto done) { pool_->async_warm(std::vector{to}, std::move(done)); });
        for (const auto* line : {"true", "echo one; sleep 0.1; echo two", "exec sleep 3"})
            ask<command_result>([&](auto done) { pool_->async_run(to, line, std::move(done)); });
        ask<lease<libssh2_transport>>([&](auto done) { pool_->async_get_connection(to, std::move(done)); },
                                      [this, large = place.large](auto lent) { work_with(std::move(lent), large); });
        thread_ = std::thread{[this] { io_->run(); }};
    }
    busy_pool(const busy_pool&) = delete;
    busy_pool& operator=(const busy_pool&) = delete;
    ~busy_pool() { stop(); }

    /// True: the io_context has run out of work by itself, then.
    bool end_pool() {
        pool_.reset();
        const bool ran_out = support::wait_until([this] { return io_->stopped(); });
        stop();
        return ran_out;
    }
    void end_context() {
        stop();
        io_.reset();
    }
    void drop_pool() { pool_.reset(); }
    void drop_stream() { stream_.close(); }

    std::size_t asked() const noexcept { return answers_.size(); }
    std::size_t answered(int times) const {
        return static_cast<std::size_t>(std::count_if(answers_.begin(), answers_.end(), [&](const auto& a) { return *a == times; }));
    }
    /// Whoever still holds a handler or the event callback.
    long held() const { return token_.use_count() - 1; }
    bool has_streamed() const noexcept { return streamed_; }
    bool was_uploading() const noexcept { return uploading_; }

private:
    void stop() {
        if (!thread_.joinable()) return;
        io_->stop();
        thread_.join();
    }
    template <class Result, class Start>
    void ask(Start start, std::function<void(Result)> then = {}) {
        const auto& answers = answers_.emplace_back(std::make_shared<std::atomic<int>>(0));
        start([answers, then = std::move(then), held = token_](std::error_code ec, Result result) {
            ++*answers;
            if (!ec && then) then(std::move(result));
        });
    }
    void work_with(lease<libssh2_transport> lent, const std::filesystem::path& large) {
        auto& on = *leases_.emplace_back(std::move(lent));
        const auto options = transfer_options{}.progress([this](auto, auto) { uploading_ = true; });
        ask<int>([&](auto done) {
            on.async_upload(large, "large", options, [this, done = std::move(done)](std::error_code ec) mutable {
                if (!ec) uploading_ = false;
                done(ec, 0);
            });
        });
        ask<command_result>([&](auto done) { on.async_run(command{"cat"}.input(std::string(1'000'000, 'x')), std::move(done)); });
        ask<channel>([&](auto done) { on.async_open("while :; do echo line; done", std::move(done)); },
                     [this](channel c) {
                         stream_ = std::move(c);
                         read_on();
                     });
    }
    void read_on() {
        ask<std::size_t>([this](auto done) { stream_.async_read_some(asio::buffer(line_), std::move(done)); },
                         [this](std::size_t) {
                             streamed_ = true;
                             read_on();
                         });
    }

    std::shared_ptr<int> token_ = std::make_shared<int>(0);
    std::vector<std::shared_ptr<std::atomic<int>>> answers_;
    std::array<char, 4096> line_{};
    bool streamed_ = false;
    bool uploading_ = false;
    std::unique_ptr<asio::io_context> io_ = std::make_unique<asio::io_context>();
    std::optional<ssh_pool<>> pool_;
    channel stream_;
    std::thread thread_;
};

constexpr std::array lease_ends{&busy_pool::drop_leases, &busy_pool::drop_leases_unwinding, &busy_pool::drop_leases_elsewhere, &busy_pool::discard_leases};

/// Begins a pool's work again and again, lets it have more time at each turn, and ends it.
template <class End>
void end_at_every_moment(End end) {
    workplace place;
    const auto descriptors = support::open_descriptors();
    std::size_t turns = 0, streams = 0, uploads = 0;
    // On a busy machine it takes longer until everything is under way.
    for (auto after = 0ms; after <= 300ms || ((streams == 0 || uploads == 0) && after <= 3s); after += after < 300ms ? 5ms : 100ms) {
        if (++turns % 4 == 0) {  // from 9.8 on sshd locks out who leaves before the login too often: it forgets
            CHECK(support::wait_until([&] { return place.sshd.session_processes() == 0; }));
            place.sshd.restart();
        }
        busy_pool p{place};
        std::this_thread::sleep_for(after * support::slowness);
        INFO("it went after " << after.count() << " ms");
        end(p);
        CHECK(p.live_leases() == 0);
        (p.*lease_ends[turns % lease_ends.size()])();
        p.drop_leases();
        p.drop_stream();
        p.end_context();
        CHECK(p.held() == 0);
        CHECK(p.answered(0) + p.answered(1) == p.asked());
        CHECK(support::open_descriptors() == descriptors);
        streams += p.has_streamed() ? 1 : 0;
        uploads += p.was_uploading() ? 1 : 0;
    }
    CHECK(streams > 0);
    CHECK(uploads > 0);
    CHECK(support::wait_until([&] { return place.sshd.session_processes() == 0; }));
}

}  // namespace

TEST_CASE("a pool that goes at any moment of its work on a server answers everybody once, and leaves nothing behind", "[ssh][pool][lifetime]") {
    end_at_every_moment([](busy_pool& p) {
        CHECK(p.end_pool());
        CHECK(p.answered(0) == 0);
    });
}

TEST_CASE("an io_context that goes at any moment of a pool's work on a server answers nobody, and leaves nothing behind", "[ssh][pool][lifetime]") {
    end_at_every_moment([](busy_pool& p) {
        p.end_context();
        const auto unanswered = p.answered(0);
        p.drop_pool();
        CHECK(p.answered(0) == unanswered);
    });
}

TEST_CASE("a lease dropped by an exception gives its connection back once the command on it has ended", "[ssh][pool][lifetime]") {
    support::sshd_server sshd;
    running_pool p;
    const auto go = sshd.home() / "go";
    std::future<ended<command_result>> running;
    try {
        const auto lent = p.get(to(sshd)).result;
        REQUIRE(lent);
        running = lent->async_run("while [ ! -e go ]; do sleep 0.02; done; echo done", as_end);
        throw std::runtime_error("something else went wrong");
    } catch (const std::runtime_error&) {
    }
    CHECK(p.run(to(sshd), "echo beside").result.out == "beside\n");
    CHECK(p.pool.get_stats().in_use == 1);
    support::write_file(go, "");
    CHECK(end_of(std::move(running)).result.out == "done\n");
    CHECK(support::wait_until([&] { return p.pool.get_stats().in_use == 0; }));
    CHECK(sshd.accepted_logins() == 1);
}
