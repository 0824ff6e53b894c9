// Files over sftp beside OpenSSH's own client: a large one both ways, then over a link with a round trip of 20 ms beside one block at a time, then a
// directory of small ones; and what a loop of `true` on the same connection notices of a large file. Each figure of a file is a median of interleaved runs,
// connecting included, against a private sshd.
// bench_sftp [MIB [RUNS]]; TMPDIR=/dev/shm keeps the disk out of it.

#include <sshpool/libssh2_transport.hpp>

#include <asio/io_context.hpp>

#include "support/delay_proxy.hpp"
#include "support/process.hpp"
#include "support/sshd_server.hpp"
#include "support/temp_dir.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <sys/stat.h>

namespace {

using namespace sshpool;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

struct cost {
    double wall = 0;
    double cpu = 0;  // of this process, or of the client that was run
};

double cpu_of(int who) {
    rusage u{};
    ::getrusage(who, &u);
    return static_cast<double>(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + static_cast<double>(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}
cost measure(int who, const std::function<void()>& work) {
    const auto cpu = cpu_of(who);
    const auto begin = std::chrono::steady_clock::now();
    work();
    return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), cpu_of(who) - cpu};
}
cost median(std::vector<cost> all) {
    const auto middle = static_cast<std::ptrdiff_t>(all.size() / 2);
    std::nth_element(all.begin(), all.begin() + middle, all.end(), [](const cost& a, const cost& b) { return a.wall < b.wall; });
    const double wall = all[static_cast<std::size_t>(middle)].wall;
    std::nth_element(all.begin(), all.begin() + middle, all.end(), [](const cost& a, const cost& b) { return a.cpu < b.cpu; });
    return {wall, all[static_cast<std::size_t>(middle)].cpu};
}

void or_exit(std::error_code ec) {
    if (ec) std::fprintf(stderr, "%s\n", ec.message().c_str()), std::exit(1);
}

/// Connects, calls `work(connection, done)`, and waits for the end.
void with_connection(const target& to, const std::function<void(libssh2_transport&, std::function<void(std::error_code)>)>& work) {
    asio::io_context io{1};
    libssh2_transport connection{io.get_executor()};
    open_request<libssh2_transport> request{to, 10s, 1, 2s, {}, {}};
    const auto done = [&](std::error_code ec) {
        or_exit(ec);
        connection.close([] {});
    };
    connection.open(std::move(request), [&](const open_report& report) {
        if (report.error) return done(report.error.code);
        work(connection, done);
    });
    io.run();
}

/// Runs `true` one after another while `go_on()`, and notes how long each took.
void run_true(libssh2_transport& connection, const std::shared_ptr<std::vector<double>>& took, const std::function<bool()>& go_on,
              const std::function<void()>& then) {
    if (!go_on()) return then();
    const auto begin = std::chrono::steady_clock::now();
    connection.async_run("true", [&connection, took, go_on, then, begin](std::error_code ec, const command_result&) {
        or_exit(ec);
        took->push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
        run_true(connection, took, go_on, then);
    });
}
/// `transfer(connection, done)` goes on meanwhile; none: two seconds of nothing.
void true_beside(const char* what, const target& to, const std::function<void(libssh2_transport&, std::function<void(std::error_code)>)>& transfer) {
    const auto took = std::make_shared<std::vector<double>>();
    with_connection(to, [&](libssh2_transport& connection, const std::function<void(std::error_code)>& done) {
        const auto over = std::make_shared<bool>(false);
        const auto end = std::chrono::steady_clock::now() + 2s;
        if (transfer) {
            transfer(connection, [over](std::error_code ec) {
                or_exit(ec);
                *over = true;
            });
        }
        const bool timed = !transfer;
        run_true(
            connection, took, [=] { return timed ? std::chrono::steady_clock::now() < end : !*over; }, [done] { done({}); });
    });
    std::sort(took->begin(), took->end());
    const auto at = [&](double part) { return (*took)[std::min(took->size() - 1, static_cast<std::size_t>(part * static_cast<double>(took->size())))]; };
    std::printf("%-34s %5zu commands, p50 %6.2f ms, p99 %6.2f ms\n", what, took->size(), at(0.5), at(0.99));
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    const std::size_t mib = argc > 1 ? std::stoul(argv[1]) : 256;
    const int runs = argc > 2 ? std::stoi(argv[2]) : 5;
    support::sshd_server server;
    support::temp_dir dir;
    const auto key = credentials::private_key_file(server.client_key());
    const auto up = [&](const target& to, const fs::path& from, const std::string& name) {
        with_connection(to, [&](auto& c, auto done) { c.async_upload(from, name, done); });
    };
    const auto down = [&](const target& to, const std::string& name, const fs::path& file) {
        with_connection(to, [&](auto& c, auto done) { c.async_download(name, file, done); });
    };
    const auto sftp = [&](std::uint16_t port, const std::string& batch, std::vector<std::string> options = {}) {
        std::vector<std::string> argv_sftp{"sftp",
                                           "-q",
                                           "-b",
                                           "-",
                                           "-F",
                                           "none",
                                           "-oStrictHostKeyChecking=no",
                                           "-oUserKnownHostsFile=/dev/null",
                                           "-oLogLevel=ERROR",
                                           "-oIdentitiesOnly=yes",
                                           "-i",
                                           server.client_key().string(),
                                           "-P",
                                           std::to_string(port)};
        argv_sftp.insert(argv_sftp.end(), options.begin(), options.end());
        argv_sftp.push_back(server.user() + "@127.0.0.1");
        support::spawn_options o;
        o.input = batch + "\n";
        support::run_program(std::move(argv_sftp), std::move(o));
    };
    const auto row = [](const char* what, double megabytes, const std::vector<cost>& ours, const std::vector<cost>& theirs, const char* other) {
        const auto a = median(ours);
        const auto b = median(theirs);
        std::printf("%-34s sshpool %7.3f s %6.1f MB/s cpu %6.3f s | %s %7.3f s %6.1f MB/s cpu %6.3f s | %.2f times as fast\n", what, a.wall, megabytes / a.wall,
                    a.cpu, other, b.wall, megabytes / b.wall, b.cpu, b.wall / a.wall);
        std::fflush(stdout);
    };

    const target direct{server.address(), key, host_key_policy::accept_any()};
    const auto big = dir / "big";
    support::run_program({"sh", "-c", "head -c " + std::to_string(mib << 20U) + " /dev/urandom > " + big.string()});
    const auto megabytes = static_cast<double>(mib << 20U) * 1e-6;
    std::vector<cost> ours_alone;
    std::vector<cost> sftp_alone;
    std::vector<cost> ours_up;
    std::vector<cost> ours_down;
    std::vector<cost> sftp_up;
    std::vector<cost> sftp_down;
    for (int i = 0; i < runs; ++i) {
        ours_alone.push_back(measure(RUSAGE_SELF, [&] { with_connection(direct, [](auto&, auto done) { done({}); }); }));
        sftp_alone.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(server.port(), "pwd"); }));
        ours_up.push_back(measure(RUSAGE_SELF, [&] { up(direct, big, "a"); }));
        sftp_up.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(server.port(), "put " + big.string() + " b"); }));
        ours_down.push_back(measure(RUSAGE_SELF, [&] { down(direct, "a", dir / "a"); }));
        sftp_down.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(server.port(), "get b " + (dir / "b").string()); }));
    }
    support::run_program({"cmp", (dir / "a").string(), big.string()});
    std::printf("%-34s sshpool %7.3f s cpu %6.3f s | sftp %7.3f s cpu %6.3f s\n", "connecting, part of what follows", median(ours_alone).wall,
                median(ours_alone).cpu, median(sftp_alone).wall, median(sftp_alone).cpu);
    row("upload", megabytes, ours_up, sftp_up, "sftp");
    row("download", megabytes, ours_down, sftp_down, "sftp");

    true_beside("`true`, alone", direct, {});
    true_beside("`true` beside an upload", direct, [&](auto& c, auto done) { c.async_upload(big, "a", done); });
    true_beside("`true` beside a download", direct, [&](auto& c, auto done) { c.async_download("a", dir / "a", done); });

    support::delay_proxy proxy(server.host(), server.port(), 20ms);
    const target far{server.address(proxy.host(), proxy.port()), key, host_key_policy::accept_any()};
    const auto some = dir / "some";
    constexpr std::size_t some_size = std::size_t{16} << 20;
    support::run_program({"sh", "-c", "head -c " + std::to_string(some_size) + " /dev/urandom > " + some.string()});
    std::vector<cost> far_up;
    std::vector<cost> far_down;
    std::vector<cost> sftp_far_up;
    std::vector<cost> sftp_far_down;
    std::vector<cost> one_up;
    std::vector<cost> one_down;
    const std::vector<std::string> one_block{"-R", "1", "-B", "32768"};
    for (int i = 0; i < std::min(runs, 3); ++i) {
        far_up.push_back(measure(RUSAGE_SELF, [&] { up(far, some, "c"); }));
        sftp_far_up.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(proxy.port(), "put " + some.string() + " d"); }));
        one_up.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(proxy.port(), "put " + some.string() + " d", one_block); }));
        far_down.push_back(measure(RUSAGE_SELF, [&] { down(far, "c", dir / "c"); }));
        sftp_far_down.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(proxy.port(), "get d " + (dir / "d").string()); }));
        one_down.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(proxy.port(), "get d " + (dir / "d").string(), one_block); }));
    }
    row("upload, 16 MiB at 20 ms", some_size * 1e-6, far_up, sftp_far_up, "sftp");
    row("upload, 16 MiB at 20 ms", some_size * 1e-6, far_up, one_up, "one block at a time");
    row("download, 16 MiB at 20 ms", some_size * 1e-6, far_down, sftp_far_down, "sftp");
    row("download, 16 MiB at 20 ms", some_size * 1e-6, far_down, one_down, "one block at a time");

    fs::create_directory(dir / "scripts");
    for (int i = 0; i < 200; ++i) support::write_file(dir / ("scripts/" + std::to_string(i) + ".sh"), std::string(2000, 'x'));
    std::vector<cost> ours_tree;
    std::vector<cost> sftp_tree;
    for (int i = 0; i < std::min(runs, 3); ++i) {
        ours_tree.push_back(measure(RUSAGE_SELF, [&] { up(far, dir / "scripts", "tree"); }));
        sftp_tree.push_back(measure(RUSAGE_CHILDREN, [&] { sftp(proxy.port(), "-mkdir tree2\nput -r " + (dir / "scripts").string() + " tree2"); }));
    }
    row("200 files of 2 kB at 20 ms", 0.4, ours_tree, sftp_tree, "sftp");
}
