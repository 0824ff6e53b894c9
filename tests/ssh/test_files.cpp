// Files over a real sshd's sftp: round trips of every size, and everything that can stop one half-way.
#include <sys/stat.h>
#include <unistd.h>

#include <asio/bind_executor.hpp>
#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#include <atomic>
#include <filesystem>
#include <map>

#include "ssh/transport_on_sshd.hpp"
#include "support/temp_dir.hpp"

using namespace sshpool;
using namespace sshpool::test;
namespace fs = std::filesystem;

namespace {

struct file_outcome {
    std::error_code ec;
    error_info info;
    std::string bytes;
};
struct file_wait {
    std::promise<file_outcome> promise;
    error_info info;
};

/// `start(details, handler)` starts an operation; its outcome comes with the future.
template <class Start>
std::future<file_outcome> begin(Start&& start, asio::cancellation_slot slot = {}) {
    auto w = std::make_shared<file_wait>();
    auto future = w->promise.get_future();
    start(w->info, asio::bind_cancellation_slot(slot, [w](std::error_code ec, std::string bytes = {}) {
              w->promise.set_value({ec, w->info, std::move(bytes)});
          }));
    return future;
}
auto upload(running_transport& t, fs::path from, std::string to, transfer_options o = {}, asio::cancellation_slot slot = {}) {
    return begin([&](error_info& e, auto h) { t.connection.async_upload(std::move(from), std::move(to), std::move(o), e, std::move(h)); }, slot);
}
auto download(running_transport& t, std::string from, fs::path to, transfer_options o = {}, asio::cancellation_slot slot = {}) {
    return begin([&](error_info& e, auto h) { t.connection.async_download(std::move(from), std::move(to), std::move(o), e, std::move(h)); }, slot);
}
auto write_to(running_transport& t, std::string to, std::string bytes, transfer_options o = {}, asio::cancellation_slot slot = {}) {
    return begin([&](error_info& e, auto h) { t.connection.async_write_file(std::move(to), std::move(bytes), std::move(o), e, std::move(h)); }, slot);
}
auto read_from(running_transport& t, std::string from, transfer_options o = {}) {
    return begin([&](error_info& e, auto h) { t.connection.async_read_file(std::move(from), std::move(o), e, std::move(h)); });
}

std::string pattern(std::size_t size, std::uint32_t x = 1) {
    std::string bytes(size, '\0');
    for (auto& c : bytes) c = static_cast<char>((x = x * 1664525U + 1013904223U) >> 24U);
    return bytes;
}
std::size_t entries(const fs::path& dir) { return static_cast<std::size_t>(std::distance(fs::directory_iterator{dir}, fs::directory_iterator{})); }
bool has_temporaries(const fs::path& dir) {
    for (const auto& e : fs::directory_iterator{dir}) {
        if (e.path().filename().native().starts_with(".sshpool-")) return true;
    }
    return false;
}

}  // namespace

TEST_CASE("files of no byte, one byte and 30 MB come back from a real server as they went", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{30'000'000}}) {
        INFO(size);
        const auto bytes = pattern(size);
        support::write_file(dir / "there", bytes);
        const auto up = upload(t, dir / "there", "file").get();
        INFO(up.info.text);
        REQUIRE_FALSE(up.ec);
        CHECK((support::read_file(server.home() / "file") == bytes));
        CHECK(t.run("sha256sum < file").result.out.substr(0, 64) == support::run_program({"sha256sum", (dir / "there").string()}).substr(0, 64));
        REQUIRE_FALSE(download(t, "file", dir / "back").get().ec);
        CHECK((support::read_file(dir / "back") == bytes));
        const auto read = read_from(t, "file", transfer_options{}.max_size(size)).get();
        REQUIRE_FALSE(read.ec);
        CHECK((read.bytes == bytes));
        REQUIRE_FALSE(write_to(t, "file", "replaced").get().ec);
        CHECK(support::read_file(server.home() / "file") == "replaced");
        CHECK(entries(server.home()) == 1);
        CHECK(entries(dir.path()) == 2);
    }
    CHECK_THAT(read_from(t, "/proc/version").get().bytes, Catch::Contains("Linux"));  // a file whose size is 0
}

TEST_CASE("mode and time of a file are kept on request, and new files take the server's umask otherwise", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    support::write_file(dir / "script", "#!/bin/sh\necho it runs\n");
    fs::permissions(dir / "script", fs::perms{0775});
    const timespec when[2] = {{1'234'567'890, 0}, {1'234'567'890, 0}};
    REQUIRE(::utimensat(AT_FDCWD, (dir / "script").c_str(), when, 0) == 0);

    REQUIRE_FALSE(upload(t, dir / "script", "plain").get().ec);
    CHECK(t.run("umask; stat -c %a plain; ./plain").result.out == "0022\n755\nit runs\n");
    REQUIRE_FALSE(upload(t, dir / "script", "kept", transfer_options{}.keep_mode().keep_time()).get().ec);
    CHECK(t.run("stat -c '%a %Y' kept").result.out == "775 1234567890\n");
    REQUIRE_FALSE(write_to(t, "secret", "s", transfer_options{}.mode(0600)).get().ec);
    CHECK(t.run("stat -c %a secret").result.out == "600\n");
    REQUIRE_FALSE(download(t, "kept", dir / "back", transfer_options{}.keep_mode().keep_time()).get().ec);
    struct stat status {};
    REQUIRE(::stat((dir / "back").c_str(), &status) == 0);
    CHECK((status.st_mode & 07777U) == 0775);
    CHECK(status.st_mtime == 1'234'567'890);
}

TEST_CASE("a directory of 200 files goes in a few dozen turns of the connection", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    support::delay_proxy proxy(server.host(), server.port(), 20ms);
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
    fs::create_directories(dir / "scripts/lib/deep");
    std::map<std::string, std::string> sent;
    for (std::uint32_t i = 0; i < 200; ++i) {
        const auto name = std::string{i % 3 == 0 ? "lib/deep/" : (i % 3 == 1 ? "lib/" : "")} + "run " + std::to_string(i) + ".sh";
        sent[name] = pattern(i * 41, i);
        support::write_file(dir / ("scripts/" + name), sent[name]);
    }
    fs::permissions(dir / "scripts/run 2.sh", fs::perms{0755});
    for (int again = 0; again < 2; ++again) {  // the second time over the first
        const auto before = proxy.turns();
        const auto up = upload(t, dir / "scripts", "scripts", transfer_options{}.keep_mode().keep_time()).get();
        INFO(up.info.text);
        REQUIRE_FALSE(up.ec);
        CHECK(proxy.turns() - before < 200);  // one file after the other: 5 each
    }
    for (const auto& [name, bytes] : sent) CHECK((support::read_file(server.home() / "scripts" / name) == bytes));
    CHECK(t.run("find scripts -type f | wc -l").result.out == "200\n");
    CHECK(t.run("stat -c %a 'scripts/run 2.sh'").result.out == "755\n");
}

TEST_CASE("eight transfers and a command run on one connection at the same time", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t{2};
    REQUIRE_FALSE(t.open(to(server)).error);
    std::vector<std::string> contents;
    std::vector<std::future<file_outcome>> running;
    for (std::uint32_t i = 0; i < 8; ++i) contents.push_back(pattern(2'000'000 + i, i));
    for (std::uint32_t i = 0; i < 8; ++i) running.push_back(write_to(t, "f" + std::to_string(i), contents[i]));
    CHECK(t.run("echo beside").result.out == "beside\n");
    for (auto& r : running) CHECK_FALSE(r.get().ec);
    running.clear();
    for (std::uint32_t i = 0; i < 8; ++i) {
        if (i % 2 == 0)
            running.push_back(read_from(t, "f" + std::to_string(i)));
        else
            running.push_back(download(t, "f" + std::to_string(i), dir / std::to_string(i)));
    }
    for (std::uint32_t i = 0; i < 8; ++i) {
        const auto end = running[i].get();
        CHECK_FALSE(end.ec);
        CHECK(((i % 2 == 0 ? end.bytes : support::read_file(dir / std::to_string(i))) == contents[i]));
    }
    CHECK(t.heard->count_lost() == 0);
}

TEST_CASE("names are taken as they are, whatever they hold", "[ssh][files]") {
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    const std::vector<std::string> names{"-rf",    "a b",  "a'b\"c", "$(touch oops)", "*?[", "line\nbreak",
                                         "\\back", "über", "...",    "tab\there",     "~",   std::string(255, 'n')};
    for (const auto& name : names) {
        INFO(name);
        const auto up = write_to(t, name, name).get();
        INFO(up.info.text);
        REQUIRE_FALSE(up.ec);
        CHECK(support::read_file(server.home() / name) == name);
        CHECK(read_from(t, name).get().bytes == name);
    }
    CHECK_FALSE(fs::exists(server.home() / "oops"));
    CHECK((write_to(t, std::string(300, 'n'), "x").get().ec == errc::file_failed));
    CHECK_THROWS_AS(write_to(t, "", "x"), std::invalid_argument);
    CHECK_THROWS_AS(write_to(t, std::string("a\0b", 3), "x"), std::invalid_argument);
    CHECK_THROWS_AS(read_from(t, std::string(40'000, 'n')), std::invalid_argument);
    CHECK_THROWS_AS(upload(t, "", "x"), std::invalid_argument);
    CHECK_THROWS_AS(download(t, "x", std::string("a\0b", 3)), std::invalid_argument);
}

TEST_CASE("what a server refuses is a typed error with its words, and leaves everything as it was", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    REQUIRE(t.run("mkdir closed d; echo old > closed/f; echo secret > closed/s; chmod 0 closed/s; chmod 555 closed; echo text > d/f").result.ok());
    const auto is = [&](const file_outcome& end, errc code, const std::string& words) {
        INFO(end.info.text);
        CHECK((end.ec == code));
        CHECK(end.info.code == end.ec);
        CHECK(end.info.phase == "file");
        CHECK_THAT(end.info.text, Catch::StartsWith(server.address()) && Catch::Contains(words));
        CHECK(end.bytes.empty());
    };
    is(read_from(t, "nothing").get(), errc::file_not_found, "\"nothing\": No such file");
    is(download(t, "nothing", dir / "f").get(), errc::file_not_found, "No such file");
    is(write_to(t, "no/where", "x").get(), errc::file_not_found, "No such file");
    is(read_from(t, "closed/s").get(), errc::file_denied, "Permission denied");
    is(write_to(t, "closed/f", "new").get(), errc::file_denied, "Permission denied");
    is(write_to(t, "closed/g", "new").get(), errc::file_denied, "Permission denied");
    is(read_from(t, "d").get(), errc::file_failed, "is a directory");
    is(write_to(t, "d", "x").get(), errc::file_failed, "is a directory");
    is(upload(t, dir.path(), "d/f").get(), errc::file_failed, "Failure");
    is(read_from(t, "d/f", transfer_options{}.max_size(3)).get(), errc::output_limit, "allowed 3 bytes");
    is(upload(t, dir / "none", "x").get(), errc::local_file, (dir / "none").string());
    is(download(t, "d/f", dir / "no/where").get(), errc::local_file, "no/where");
    CHECK(entries(dir.path()) == 0);
    CHECK(t.run("cat closed/f; ls -A . closed d").result.out == "old\n.:\nclosed\nd\n\nclosed:\nf\ns\n\nd:\nf\n");
    CHECK(read_from(t, "d/f").get().bytes == "text\n");
    t.run("chmod 755 closed");
}

TEST_CASE("a server without sftp, or with one that cannot start, says so", "[ssh][files]") {
    support::sshd_server::options o;
    o.sftp = "";
    support::sshd_server without(o);
    running_transport t;
    REQUIRE_FALSE(t.open(to(without)).error);
    const auto end = read_from(t, "f").get();
    CHECK((end.ec == errc::subsystem_refused));
    CHECK((end.ec == command_fate::not_started));
    CHECK_THAT(end.info.text, Catch::Contains("sftp"));
    CHECK(t.run("echo on").result.out == "on\n");

    o.sftp = "/nonexistent/sftp-server";
    support::sshd_server broken(o);
    running_transport u;
    REQUIRE_FALSE(u.open(to(broken)).error);
    const auto other = write_to(u, "f", "x").get();
    INFO(other.info.text);
    CHECK((other.ec == errc::subsystem_refused));
    CHECK_THAT(other.info.text, Catch::Contains("before its first word"));

    o.sftp = "/bin/echo Welcome to this fine host, stranger";  // as a start-up file that prints
    support::sshd_server chatty(o);
    running_transport v;
    REQUIRE_FALSE(v.open(to(chatty)).error);
    const auto third = write_to(v, "f", "x").get();
    INFO(third.info.text);
    CHECK((third.ec == errc::protocol_error));
    CHECK_THAT(third.info.text, Catch::Contains("Welcome to this fine host"));
    CHECK(v.run("echo on").result.out == "on\n");
}

TEST_CASE("a subsystem that echoes, floods or keeps silent harms its own transfer alone", "[ssh][files]") {
    struct row {
        const char* program;
        errc code;
        const char* words;
    };
    for (const auto& row : std::vector<row>{{"/bin/cat", errc::protocol_error, "before its version"},
                                            {"/bin/cat /dev/zero", errc::protocol_error, "a packet of 0 bytes"},
                                            {"yes endless words", errc::protocol_error, "it printed: endless words"},
                                            {"/bin/sleep 600", errc::command_timeout, "after its timeout"}}) {
        INFO(row.program);
        support::sshd_server::options o;
        o.sftp = row.program;
        support::sshd_server server(o);
        support::temp_dir dir;
        running_transport t;
        REQUIRE_FALSE(t.open(to(server)).error);
        for (const bool up : {true, false}) {
            const auto options = transfer_options{}.timeout(row.code == errc::command_timeout ? 300ms : 10'000ms);
            const auto end = up ? write_to(t, "f", pattern(1'000'000), options).get() : download(t, "f", dir / "f", options).get();
            INFO(end.info.text);
            CHECK((end.ec == row.code));
            CHECK((end.ec == command_fate::unknown));
            CHECK_THAT(end.info.text, Catch::Contains(row.words));
            CHECK(t.run("echo on").result.out == "on\n");
        }
        CHECK(entries(dir.path()) == 0);
        CHECK(t.heard->count_lost() == 0);
    }
}

TEST_CASE("a full disk, the server's or this machine's, leaves the old file and no half one", "[ssh][files]") {
    if (!support::small_disk::is_possible()) SKIP_TEST("mounting a disk needs root");
    const support::small_disk disk{2};
    support::sshd_server server;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    support::write_file(server.home() / "large", pattern(5'000'000));
    const auto name = (disk / "f").string();
    SECTION("the server's") {
        const auto small = pattern(500'000);
        REQUIRE_FALSE(write_to(t, name, "old").get().ec);
        const auto end = upload(t, server.home() / "large", name).get();
        INFO(end.info.text);
        CHECK((end.ec == errc::file_failed));
        CHECK_THAT(end.info.text, Catch::Contains("could not write \"" + name + "\": Failure") && Catch::Contains("full disk"));
        CHECK(t.run("head -c 99 " + name + "; ls -A " + disk.path().string()).result.out == "oldf\n");  // cleaned before the answer
        REQUIRE_FALSE(write_to(t, name, small).get().ec);
        CHECK((support::read_file(name) == small));
    }
    SECTION("this machine's") {
        support::write_file(name, "old");
        const auto end = download(t, "large", name).get();
        INFO(end.info.text);
        CHECK((end.ec == errc::local_file));
        CHECK_THAT(end.info.text, Catch::Contains("cannot write " + name + ": No space left on device"));
        CHECK(support::read_file(name) == "old");
        CHECK(entries(disk.path()) == 1);  // cleaned before the answer
        REQUIRE_FALSE(write_to(t, "small", "new").get().ec);
        REQUIRE_FALSE(download(t, "small", name).get().ec);
        CHECK(support::read_file(name) == "new");
    }
    CHECK(t.run("echo on").result.out == "on\n");
    CHECK(t.heard->count_lost() == 0);
}

TEST_CASE("a connection that is cut in the middle leaves nothing under the real name", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    const auto old = pattern(6'000'000, 7);
    support::write_file(server.home() / "old", old);
    const auto fresh = pattern(6'000'000, 8);
    support::delay_proxy proxy(server.host(), server.port());
    for (const std::uint64_t bytes : {std::uint64_t{6'000}, std::uint64_t{60'000}, std::uint64_t{3'000'000}, std::uint64_t{5'500'000}}) {
        INFO(bytes);
        {
            running_transport t;
            REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
            proxy.cut_after(support::direction::to_server, bytes);
            const auto end = write_to(t, "new", fresh).get();
            INFO(end.info.text);
            CHECK((end.ec == errc::connection_lost));
        }
        proxy.cut_after(support::direction::to_server, UINT64_MAX);
        {
            running_transport t;
            REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
            proxy.cut_after(support::direction::to_client, bytes);
            CHECK((download(t, "old", dir / "old").get().ec == errc::connection_lost));
        }
        proxy.cut_after(support::direction::to_client, UINT64_MAX);
        CHECK_FALSE(fs::exists(server.home() / "new"));
        CHECK(entries(dir.path()) == 0);
    }
    CHECK((support::read_file(server.home() / "old") == old));

    running_transport t;  // and where the server's side goes
    REQUIRE_FALSE(t.open(to(server)).error);
    std::atomic<bool> under_way{false};
    auto up = write_to(t, "new", pattern(200'000'000), transfer_options{}.progress([&](auto, auto) { under_way = true; }));
    REQUIRE(support::wait_until([&] { return under_way.load(); }));
    server.kill_sessions();
    const auto end = up.get();
    INFO(end.info.text);
    CHECK((end.ec == errc::connection_lost || end.ec == errc::file_failed));  // the part that serves sftp may go first
    CHECK((end.ec == command_fate::unknown));
    CHECK_FALSE(fs::exists(server.home() / "new"));
}

TEST_CASE("a transfer that is cancelled or out of time is answered at once and tidied up after", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    support::delay_proxy proxy(server.host(), server.port(), 100ms);  // so that nothing is over before it is stopped
    running_transport t;
    REQUIRE_FALSE(t.open(through(server, proxy.host(), proxy.port())).error);
    support::write_file(server.home() / "big", pattern(20'000'000));
    for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial, asio::cancellation_type::total}) {
        std::atomic<bool> under_way{false};
        const auto options = transfer_options{}.progress([&](auto done, auto) { under_way = under_way || done > 0; });
        asio::cancellation_signal stop;
        auto up = write_to(t, "new", pattern(20'000'000), options, stop.slot());
        REQUIRE(support::wait_until([&] { return under_way.load(); }));
        stop.emit(type);
        auto end = up.get();
        CHECK((end.ec == asio::error::operation_aborted));
        CHECK_THAT(end.info.text, Catch::Contains("file transfer that the caller cancelled"));

        under_way = false;
        asio::cancellation_signal enough;
        auto down = download(t, "big", dir / "big", options, enough.slot());
        REQUIRE(support::wait_until([&] { return under_way.load(); }));
        enough.emit(type);
        CHECK((down.get().ec == errc::cancelled));
        CHECK(support::wait_until([&] { return entries(dir.path()) == 0; }));
        CHECK(support::wait_until([&] { return !has_temporaries(server.home()); }));
        CHECK_FALSE(fs::exists(server.home() / "new"));
    }
    const auto late = write_to(t, "new", pattern(20'000'000), transfer_options{}.timeout(250ms)).get();
    CHECK((late.ec == errc::command_timeout));
    CHECK((late.ec == command_fate::unknown));
    CHECK(support::wait_until([&] { return !has_temporaries(server.home()); }));
    CHECK_FALSE(fs::exists(server.home() / "new"));

    asio::cancellation_signal before;  // before it has a channel
    auto never = write_to(t, "never", "x", {}, before.slot());
    before.emit(asio::cancellation_type::terminal);
    CHECK((never.get().ec == errc::cancelled));
    CHECK(t.run("ls -A").result.out == "big\n");
    CHECK(t.heard->count_lost() == 0);
}

namespace {

/// All of a context's threads for local files, held: as by a disk that does not answer.
class dead_disk {
public:
    explicit dead_disk(asio::io_context& io) {
        for (int i = 0; i < threads; ++i)
            asio::use_service<detail::blocking_work>(io).run(
                detail::blocking::files,
                [on = on_, held = held_] {
                    ++*held;
                    on.wait();
                },
                std::make_shared<std::atomic<bool>>(false));
        if (!support::wait_until([&] { return *held_ == threads; })) throw std::runtime_error("there are fewer threads for files than expected");
    }
    dead_disk(const dead_disk&) = delete;
    dead_disk& operator=(const dead_disk&) = delete;
    ~dead_disk() { recover(); }
    void recover() {
        if (!std::exchange(well_, true)) go_.set_value();
    }

private:
    static constexpr int threads = 8;
    std::promise<void> go_;
    std::shared_future<void> on_{go_.get_future()};
    std::shared_ptr<std::atomic<int>> held_ = std::make_shared<std::atomic<int>>(0);
    bool well_ = false;
};

}  // namespace

TEST_CASE("a disk of this machine that does not answer holds up only whoever needs it, and they can still give up", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    dead_disk disk{t.io};
    REQUIRE_FALSE(t.open(to(server)).error);
    const auto bytes = pattern(3'000'000);
    support::write_file(dir / "f", bytes);
    support::write_file(server.home() / "there", bytes);
    auto up = upload(t, dir / "f", "arrived");
    auto down = download(t, "there", dir / "back");
    asio::cancellation_signal stop;
    auto unwanted = download(t, "there", dir / "unwanted", {}, stop.slot());
    auto tree = upload(t, dir.path(), "tree", transfer_options{}.timeout(200ms));

    CHECK(t.run("echo beside").result.out == "beside\n");
    CHECK((read_from(t, "there").get().bytes == bytes));
    CHECK_FALSE(write_to(t, "text", "no disk of ours").get().ec);
    CHECK((tree.get().ec == errc::command_timeout));
    libssh2_transport other{t.io.get_executor()};  // whose host key is written to a file
    std::promise<open_report> opened;
    const auto known = host_key_policy::trust_on_first_use(server.home() / "known");
    other.open({target{server.address(), credentials::private_key_file(server.client_key()), known}, 10s, 1, 2s, {}, {}},
               [&](open_report report) { opened.set_value(std::move(report)); });
    CHECK_FALSE(opened.get_future().get().error);
    other.close([] {});
    asio::post(t.io, [&] { stop.emit(asio::cancellation_type::total); });
    CHECK((unwanted.get().ec == errc::cancelled));
    CHECK_FALSE(t.probe());
    CHECK(t.run("sleep 2.3").result.ok());
    CHECK(t.heard->last_capacity() != 0);  // after `reap_grace`: the channels of those who gave up have gone
    CHECK(up.wait_for(0s) == std::future_status::timeout);
    CHECK(down.wait_for(0s) == std::future_status::timeout);
    CHECK(entries(dir.path()) == 1);

    disk.recover();
    CHECK_FALSE(up.get().ec);
    CHECK_FALSE(down.get().ec);
    CHECK((support::read_file(server.home() / "arrived") == bytes));
    CHECK((support::read_file(dir / "back") == bytes));
    CHECK(support::wait_until([&] { return entries(dir.path()) == 2; }));
    CHECK(t.run("ls -A").result.out == "arrived\nknown\ntext\nthere\n");
}

TEST_CASE("a transfer that waits for a dead disk is answered when its connection is lost, and leaves nothing", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    support::write_file(server.home() / "there", pattern(50'000'000));
    std::atomic<bool> under_way{false};
    auto down = download(t, "there", dir / "back", transfer_options{}.progress([&](auto done, auto) { under_way = under_way || done > 0; }));
    REQUIRE(support::wait_until([&] { return under_way.load(); }));
    dead_disk disk{t.io};
    server.kill_sessions();
    const auto end = down.get();
    INFO(end.info.text);
    CHECK((end.ec == errc::connection_lost || end.ec == errc::file_failed));
    disk.recover();
    CHECK(support::wait_until([&] { return entries(dir.path()) == 0; }));
}

TEST_CASE("a pipe is no file, and asking for one holds up nobody", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
    auto up = upload(t, dir / "pipe", "arrived");
    CHECK(t.run("echo beside").result.out == "beside\n");
    const auto end = up.get();
    CHECK((end.ec == errc::local_file));
    CHECK_THAT(end.info.text, Catch::Contains("is no regular file"));
    CHECK(entries(server.home()) == 0);
    support::write_file(server.home() / "there", "bytes");
    REQUIRE_FALSE(download(t, "there", dir / "pipe").get().ec);  // takes its place, and is not written into it
    CHECK(support::read_file(dir / "pipe") == "bytes");
}

TEST_CASE("progress comes on the caller's executor, grows, one call at a time, and ends before the operation does", "[ssh][files]") {
    support::sshd_server server;
    asio::thread_pool callers{4};
    running_transport t;  // ends first: its threads post to the callers'
    REQUIRE_FALSE(t.open(to(server)).error);
    for (const bool up : {true, false}) {
        struct {
            std::atomic<int> inside{0};
            std::uint64_t last = 0;
            std::uint64_t total = 0;
            int calls = 0;
            bool good = true;
        } seen;
        std::promise<std::error_code> ended;
        const auto options = transfer_options{}.progress([&](std::uint64_t done, std::uint64_t total) {
            if (seen.inside++ != 0 || done < seen.last || done > total || !callers.get_executor().running_in_this_thread()) seen.good = false;
            if (support::wait_until([&] { return seen.inside > 1; }, 3ms)) seen.good = false;  // a second call would come now
            seen.last = done;
            seen.total = total;
            ++seen.calls;
            --seen.inside;
        });
        const auto finish = [&](std::error_code ec) {
            if (seen.inside != 0) seen.good = false;
            ended.set_value(ec);
        };
        if (up) {
            t.connection.async_write_file("f", pattern(10'000'000), options, asio::bind_executor(callers, finish));
        } else {
            t.connection.async_read_file("f", options, asio::bind_executor(callers, [&](std::error_code ec, const std::string& /*bytes*/) { finish(ec); }));
        }
        CHECK_FALSE(ended.get_future().get());
        CHECK(seen.good);
        CHECK(seen.last == 10'000'000);
        CHECK(seen.total == 10'000'000);
        CHECK(seen.calls > 1);
    }
}

TEST_CASE("file operations are asked for in every way that Asio has", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    running_transport t;
    REQUIRE_FALSE(t.open(to(server)).error);
    support::write_file(dir / "f", "from here");
    t.connection.async_upload(dir / "f", "f", asio::use_future).get();
    CHECK(t.connection.async_read_file("f", asio::use_future).get() == "from here");
    CHECK_THROWS_AS(t.connection.async_read_file("g", asio::use_future).get(), std::system_error);
    const auto whole = [&]() -> asio::awaitable<std::string> {
        co_await t.connection.async_write_file("g", "by a coroutine", transfer_options{}.mode(0600), asio::use_awaitable);
        co_await t.connection.async_download("g", dir / "g", asio::use_awaitable);
        auto lazy = t.connection.async_read_file("g", transfer_options{}.max_size(100), asio::use_awaitable);
        co_return co_await std::move(lazy);
    };
    CHECK(asio::co_spawn(t.io, whole(), asio::use_future).get() == "by a coroutine");
    CHECK(support::read_file(dir / "g") == "by a coroutine");
}

TEST_CASE("an execution context may go in the middle of a transfer", "[ssh][files]") {
    support::sshd_server server;
    support::temp_dir dir;
    support::write_file(server.home() / "big", pattern(20'000'000));
    auto io = std::make_unique<asio::io_context>();
    libssh2_transport connection{io->get_executor()};
    bool completed = false;
    std::uint64_t had = 0;
    open_request<libssh2_transport> request{to(server), 10s, 1, 2s, {}, {}};
    connection.open(std::move(request), [&](const open_report& report) {
        REQUIRE_FALSE(report.error);
        const auto options = transfer_options{}.progress([&](std::uint64_t done, std::uint64_t) { had = done; });
        connection.async_download("big", dir / "big", options, [&](std::error_code) { completed = true; });
    });
    while (had == 0 && !completed) io->run_one();
    CHECK_FALSE(completed);
    io.reset();
    CHECK_FALSE(completed);
    CHECK(entries(dir.path()) == 0);
}
