#pragma once

#include "support/process.hpp"
#include "support/temp_dir.hpp"
#include "support/wait.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace support {

/// A private Docker Engine: own socket, own data, no bridge, no firewall rules. Containers have no network, or the machine's own.
///
/// It runs in process and mount namespaces of its own, with its data in a tmpfs mounted there: when the object goes, or the test dies in whatever way,
/// engine, containers, mounts and data are gone with them. What a killed test leaves, empty directories, goes with the next engine's start.
/// Needs root; errors throw with the engine's own words.
class docker_engine {
public:
    docker_engine() {
        if (::geteuid() != 0) throw std::runtime_error("a Docker Engine needs root: run the tests as root");
        for (const char* program : {docker(), "/bin/busybox"}) {
            if (::access(program, X_OK) != 0) throw std::runtime_error(std::string{program} + " is missing: the packages docker.io and busybox-static");
        }
        remove_remains();
        write_file(dir_ / "owner", std::to_string(::getpid()));
        std::filesystem::permissions(dir_.path(), std::filesystem::perms{0711});
        std::filesystem::create_directory(dir_ / "data");
        start();
        make_image();
    }
    docker_engine(const docker_engine&) = delete;
    docker_engine& operator=(const docker_engine&) = delete;
    ~docker_engine() {
        try {
            remove_all();
        } catch (const std::exception&) {  // its processes are killed below in any case
        }
        engine_.reset();
        remove_cgroups(cgroup());
    }

    static const char* docker() noexcept { return "/usr/bin/docker"; }
    std::string host() const { return "unix://" + socket(); }
    std::string socket() const { return (dir_ / "docker.sock").string(); }
    /// busybox with an sshd, under which the image's users can log in; httpd is there too.
    static std::string image() { return "sshpool/box:1"; }

    /// Lets the owner of `home` use the engine; nobody else but root can.
    void allow(const std::filesystem::path& home) const {
        struct stat who {};
        if (::stat(home.c_str(), &who) != 0 || ::chown(socket().c_str(), who.st_uid, who.st_gid) != 0) throw std::runtime_error("cannot chown " + socket());
    }

    /// Runs docker and gives what it printed.
    std::string run(std::vector<std::string> words) const {
        words.insert(words.begin(), {docker(), "-H", host()});
        return run_program(std::move(words));
    }
    std::set<std::string> containers() const { return lines(run({"ps", "--all", "--format", "{{.Names}}"})); }
    std::set<std::string> volumes() const { return lines(run({"volume", "ls", "--quiet"})); }
    void remove_all() const {
        for (const auto& name : containers()) run({"rm", "--force", "--volumes", name});
        for (const auto& name : volumes()) run({"volume", "rm", "--force", name});
    }
    std::string log() const { return read_file(dir_ / "log"); }

private:
    static std::set<std::string> lines(const std::string& text) {
        std::set<std::string> found;
        for (std::size_t at = 0; at < text.size();) {
            const auto end = std::min(text.find('\n', at), text.size());
            if (end > at) found.insert(text.substr(at, end - at));
            at = end + 1;
        }
        return found;
    }
    std::string cgroup() const { return dir_.path().filename().string(); }

    void start() {
        // The machine's own settings for docker, and what docker writes beside them, are out of the way.
        constexpr auto script =
            "exec >\"$1/log\" 2>&1 && mount -t tmpfs -o size=2g,mode=711 tmpfs \"$1/data\" && "
            "{ [ ! -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker; } && case $1 in /run/*) ;; *) mount -t tmpfs tmpfs /run ;; esac && "
            "init=$(command -v docker-init || true) && "
            "exec ${init:+\"$init\" -s --} dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs "
            "--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent=\"/$2\" "
            "--data-root=\"$1/data/root\" --exec-root=\"$1/data/exec\" --pidfile=\"$1/data/pid\" --host=\"unix://$1/docker.sock\"";
        spawn_options o;
        o.capture = false;
        o.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
        engine_ = std::make_unique<process>(std::vector<std::string>{"unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                                                                     script, "sh", dir_.path().string(), cgroup()},
                                            std::move(o));
        const auto answers = [&] {
            if (!std::filesystem::exists(socket())) return false;
            process ask({docker(), "-H", host(), "version"});
            return ask.wait() == 0;
        };
        const bool up = wait_until([&] { return !engine_->running() || answers(); }, std::chrono::seconds{60});
        if (!up || !engine_->running())
            throw std::runtime_error("the Docker Engine does not start:\n" + (std::filesystem::exists(dir_ / "log") ? log() : std::string{"no word of it"}));
    }

    void make_image() {
        const auto tree = dir_ / "tree";
        for (const char* d : {"bin", "etc/ssh", "root", "tmp", "run", "usr/sbin", "usr/bin", "lib64", "var/empty", "www"})
            std::filesystem::create_directories(tree / d);
        std::filesystem::copy_file("/bin/busybox", tree / "bin/busybox");
        for (const auto& applet : lines(run_program({"/bin/busybox", "--list"}))) {
            if (applet != "busybox") std::filesystem::create_symlink("busybox", tree / "bin" / applet);
        }
        write_file(tree / "etc/passwd", "root:x:0:0::/root:/bin/sh\nsshd:x:74:74::/run/sshd:/bin/false\n");
        write_file(tree / "etc/group", "root:x:0:\nsshd:x:74:\n");
        write_file(tree / "etc/shadow", "root:*:19000:0:99999:7:::\n");
        write_file(tree / "etc/ssh/sshd_config", "UsePAM no\nUseDNS no\n");
        for (const char* program : {"/usr/sbin/sshd", "/usr/bin/ssh-keygen"}) {
            std::filesystem::copy_file(program, tree / std::filesystem::path{program}.relative_path());
            for (const auto& line : lines(run_program({"ldd", program}))) {
                const auto from = line.find('/');
                if (from == std::string::npos) continue;
                const std::filesystem::path library = line.substr(from, line.find(' ', from) - from);
                const auto to = tree / library.relative_path();
                std::filesystem::create_directories(to.parent_path());
                std::filesystem::copy_file(library, to, std::filesystem::copy_options::skip_existing);
            }
        }
        // Its host keys come with it, and the RSA one is short: making a usual one takes a second of a processor, and who logs in goes by another.
        for (const char* type : {"rsa", "ecdsa", "ed25519"}) {
            std::vector<std::string> make{"ssh-keygen", "-q", "-t", type,
                                          "-N",         "",   "-f", (tree / "etc/ssh" / ("ssh_host_" + std::string{type} + "_key")).string()};
            if (std::string_view{type} == "rsa") make.insert(make.end(), {"-b", "1024"});
            run_program(std::move(make));
        }
        const auto tar = (dir_ / "image.tar").string();
        run_program({"tar", "--owner=0", "--group=0", "-C", tree.string(), "-cf", tar, "."});
        run({"import", tar, image()});
        std::filesystem::remove_all(tree);
        std::filesystem::remove(tar);
    }

    // The kernel keeps the (empty) directories that containers were counted in.
    static void remove_cgroups(const std::string& cgroup) {
        std::error_code ignored;
        std::vector<std::filesystem::path> roots{"/sys/fs/cgroup/" + cgroup};
        for (const auto& controller : std::filesystem::directory_iterator("/sys/fs/cgroup", ignored)) roots.push_back(controller.path() / cgroup);
        for (const auto& root : roots) {
            if (!std::filesystem::is_directory(root, ignored)) continue;
            for (const auto& child : std::filesystem::directory_iterator(root, ignored)) {
                if (child.is_directory(ignored)) wait_until([&] { return ::rmdir(child.path().c_str()) == 0 || errno != EBUSY; }, std::chrono::seconds{2});
            }
            wait_until([&] { return ::rmdir(root.c_str()) == 0 || errno != EBUSY; }, std::chrono::seconds{2});
        }
    }

    static void remove_remains() {
        std::error_code ignored;
        for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::temp_directory_path(), ignored)) {
            const auto owner = entry.path() / "owner";
            if (!entry.path().filename().string().starts_with("sshpool-test-") || !std::filesystem::exists(owner, ignored)) continue;
            pid_t pid = 0;
            try {
                pid = static_cast<pid_t>(std::stol(read_file(owner)));
            } catch (const std::exception&) {
                continue;  // just being made, or just being removed
            }
            if (pid <= 0 || ::kill(pid, 0) == 0 || errno != ESRCH) continue;
            remove_cgroups(entry.path().filename().string());
            std::filesystem::remove_all(entry.path(), ignored);
        }
    }

    temp_dir dir_;
    std::unique_ptr<process> engine_;
};

}  // namespace support
