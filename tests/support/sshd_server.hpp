#pragma once

#include "support/process.hpp"
#include "support/temp_dir.hpp"
#include "support/wait.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace support {

/// A TCP port of `address` that nobody listens on just now.
inline std::uint16_t free_port(const std::string& address = "127.0.0.1") {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    ::inet_pton(AF_INET, address.c_str(), &where.sin_addr);
    socklen_t size = sizeof where;
    auto* const generic = reinterpret_cast<sockaddr*>(&where);
    const bool ok = fd >= 0 && ::bind(fd, generic, size) == 0 && ::getsockname(fd, generic, &size) == 0;
    if (fd >= 0) ::close(fd);
    if (!ok) throw std::runtime_error("no free port on " + address);
    return ntohs(where.sin_port);
}

/// A private OpenSSH server on loopback: own port, own host keys, own client key, own user.
///
/// Its user exists for this server alone, by way of libnss-wrapper: named "sshpool", with /bin/sh as login shell and an empty home of its
/// own. So nothing depends on who runs the tests, no start-up file of a real account slows a command down, and the machine is
/// not changed. sshd runs without privileges: as whoever runs the tests, or, when that is root, as a user number nobody has.
///
/// Everything ends with the object: listener, sessions, and the commands they run. Errors throw with sshd's own words.
class sshd_server {
public:
    struct options {
        std::vector<std::string> config;                     ///< extra lines; they win over the fixture's own ("MaxSessions 3")
        std::vector<std::string> host_key_types{"ed25519"};  ///< also "rsa", "ecdsa"
        std::vector<std::string> addresses{"127.0.0.1"};     ///< at most 16: all on one port
        bool password_login = false;                         ///< password() then logs in
        std::string sftp = "internal-sftp";                  ///< what serves the sftp subsystem; empty: nothing does
        std::string pam;         ///< the lines of a PAM service (see write_pam_service): keyboard-interactive then asks what that asks
        std::string netns;       ///< the network namespace it lives in; needs `port`, and root
        std::uint16_t port = 0;  ///< 0: one that is free
    };

    explicit sshd_server(std::vector<std::string> config = {}) : sshd_server(with_config(std::move(config))) {}
    explicit sshd_server(options o) : options_(std::move(o)), user_(pick_user()) {
        std::filesystem::permissions(dir_.path(), std::filesystem::perms{0711});
        make_home();
        for (const auto& type : options_.host_key_types) {
            const auto file = dir_ / ("host_" + type);
            generate_key(file, type, "", false);
            give_away(file);
        }
        client_key_ = make_client_key();
        write_known_hosts();
        start();
    }
    sshd_server(const sshd_server&) = delete;
    sshd_server& operator=(const sshd_server&) = delete;
    ~sshd_server() { stop(); }

    const std::string& host() const noexcept { return options_.addresses.front(); }
    std::uint16_t port() const noexcept { return port_; }
    std::string user() const { return "sshpool"; }
    std::string password() const { return password_; }
    std::string address() const { return address(host(), port_); }  ///< "user@host:port"
    std::string address(const std::string& through_host, std::uint16_t through_port) const {
        return user() + "@" + through_host + ":" + std::to_string(through_port);
    }
    const std::filesystem::path& dir() const noexcept { return dir_.path(); }
    const std::filesystem::path& home() const noexcept { return home_; }  ///< where commands start; empty at first

    const std::filesystem::path& client_key() const noexcept { return client_key_; }  ///< an authorised Ed25519 key, no passphrase
    /// One more authorised key: type "ed25519", "ecdsa" or "rsa"; OpenSSH's format, or PEM.
    std::filesystem::path make_client_key(const std::string& type = "ed25519", const std::string& passphrase = {}, bool pem = false) {
        auto file = make_stranger_key(type, passphrase, pem);
        authorized_ += read_file(file.string() + ".pub");
        write_file(dir_ / "authorized_keys", authorized_);
        return file;
    }
    /// A key that the server does not know.
    std::filesystem::path make_stranger_key(const std::string& type = "ed25519", const std::string& passphrase = {}, bool pem = false) {
        auto file = dir_ / ("client_" + std::to_string(keys_++));
        generate_key(file, type, passphrase, pem);
        return file;
    }
    /// Locks a key out again; sessions that used it live on, as with any sshd.
    void revoke(const std::filesystem::path& key) {
        const auto line = read_file(key.string() + ".pub");
        if (const auto at = authorized_.find(line); at != std::string::npos) authorized_.erase(at, line.size());
        write_file(dir_ / "authorized_keys", authorized_);
    }

    /// Holds this server's keys under every address and port it listens on.
    std::filesystem::path known_hosts() const { return dir_ / "known_hosts"; }
    /// A line for a known_hosts file; for a proxy in front of the server, with the proxy's port.
    std::string known_hosts_line(const std::string& host, std::uint16_t port, const std::string& type = "ed25519") const {
        const auto text = read_file(dir_ / ("host_" + type + ".pub"));
        const auto end_of_key = text.find(' ', text.find(' ') + 1);
        return (port == 22 ? host : "[" + host + "]:" + std::to_string(port)) + " " + text.substr(0, end_of_key) + "\n";
    }
    void trust(const std::string& host, std::uint16_t port) {
        for (const auto& type : options_.host_key_types) known_hosts_text_ += known_hosts_line(host, port, type);
        write_file(known_hosts(), known_hosts_text_);
    }
    /// "SHA256:…", as ssh-keygen -l prints it.
    std::string fingerprint(const std::string& type = "ed25519") const {
        const auto text = run_program({"ssh-keygen", "-l", "-f", (dir_ / ("host_" + type + ".pub")).string()});
        const auto from = text.find("SHA256:");
        return text.substr(from, text.find(' ', from) - from);
    }
    /// New host keys, as after a reinstallation, or as an impostor would have. Takes effect with the next start.
    void change_host_keys() {
        for (const auto& type : options_.host_key_types) {
            const auto file = dir_ / ("host_" + type);
            std::filesystem::remove(file);
            std::filesystem::remove(file.string() + ".pub");
            generate_key(file, type, "", false);
            give_away(file);
        }
    }

    /// The server's user as a number, where that is another than the test's own.
    std::optional<unsigned> run_as() const noexcept { return user_ ? std::optional{user_->number} : std::nullopt; }
    /// What a program needs so that the server's user exists for it.
    std::vector<std::string> environment() const {
        return {"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LD_PRELOAD=" + library("libnss_wrapper.so", "libnss-wrapper"),
                "NSS_WRAPPER_PASSWD=" + (dir_ / "passwd").string(), "NSS_WRAPPER_GROUP=" + (dir_ / "group").string(),
                "NSS_WRAPPER_SHADOW=" + (dir_ / "shadow").string()};
    }

    std::string log() const { return read_file(dir_ / "log"); }
    std::size_t count_in_log(std::string_view what) const {
        const auto text = log();
        std::size_t n = 0;
        for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size())) ++n;
        return n;
    }
    bool wait_for_log(std::string_view what, std::size_t times = 1, std::chrono::milliseconds limit = std::chrono::seconds{10}) const {
        return wait_until([&] { return count_in_log(what) >= times; }, limit);
    }
    std::size_t accepted_logins() const { return count_in_log("Accepted publickey") + count_in_log("Accepted password"); }
    std::size_t started_commands() const { return count_in_log("Starting session: "); }
    std::size_t tcp_connections() const { return count_in_log("Connection from "); }

    /// Starts it, on the port it had before if it had one. Returns when it listens.
    void start() {
        if (listener_) throw std::logic_error("sshd runs already");
        for (int attempt = 0; attempt < 20; ++attempt) {
            if (port_ == 0 || (attempt > 0 && !served_)) {
                port_ = options_.port != 0 ? options_.port : free_port(host());
                known_hosts_text_.clear();
                for (const auto& a : options_.addresses) trust(a, port_);
            }
            write_config();
            if (try_start()) {
                served_ = true;
                return;
            }
        }
        throw std::runtime_error("sshd does not start: " + last_words_);
    }
    /// Ends the listener, all sessions and all their commands.
    void stop() {
        resume();
        kill_all(true);
        if (!options_.pam.empty()) remove_pam_directories();
    }
    void restart() {
        stop();
        start();
    }
    /// New connections are refused; sessions live on.
    void stop_listening() {
        remember_sessions();
        listener_.reset();
    }
    /// Cuts every session from the server's side, with its commands; the listener stays.
    void kill_sessions() { kill_all(false); }
    /// Every process of the server stands still, as on a machine that hangs; TCP connections stay.
    void suspend() {
        for (const auto pid : everything()) ::kill(pid, SIGSTOP);
        suspended_ = true;
    }
    void resume() {
        if (!std::exchange(suspended_, false)) return;
        for (const auto pid : everything()) ::kill(pid, SIGCONT);
    }
    /// How many processes serve sessions now, commands not counted in.
    std::size_t session_processes() const { return listener_ ? descendants(listener_->pid()).size() : 0; }

private:
    static options with_config(std::vector<std::string> config) {
        options o;
        o.config = std::move(config);
        return o;
    }

    static constexpr unsigned first_user = 60706;  // 60706…61183 belong to nobody by systemd's plan of user numbers; the last 78 are for fleets (sshd_fleet.sh)
    static constexpr unsigned users = 400;
    /// A number that no other server of this machine has: its owner kills whatever runs by that number. Taken by the name of a socket, which goes with it.
    struct reserved_user {
        unsigned number;
        int socket;
        reserved_user(unsigned n, int s) : number(n), socket(s) {}
        reserved_user(const reserved_user&) = delete;
        reserved_user& operator=(const reserved_user&) = delete;
        ~reserved_user() { ::close(socket); }
    };
    static std::unique_ptr<reserved_user> pick_user() {
        if (::geteuid() != 0) return nullptr;
        for (unsigned i = 0; i < users; ++i) {
            const auto number = first_user + (static_cast<unsigned>(::getpid()) * 7U + i) % users;
            const int s = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
            if (s < 0) break;
            auto taken = std::make_unique<reserved_user>(number, s);
            sockaddr_un name{};
            name.sun_family = AF_UNIX;
            const auto text = "sshpool-test-user-" + std::to_string(number);
            text.copy(name.sun_path + 1, sizeof name.sun_path - 1);  // behind a NUL: a name without a file
            const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
            if (::bind(s, reinterpret_cast<const sockaddr*>(&name), size) == 0) return taken;
        }
        throw std::runtime_error("no number of a user is free for a private sshd");
    }
    /// SSHPOOL_TEST_SSHD names another one: an absolute path, which sshd itself asks for.
    static std::string sshd_path() {
        if (const char* const chosen = std::getenv("SSHPOOL_TEST_SSHD")) return chosen;
        for (const char* path : {"/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"}) {
            if (::access(path, X_OK) == 0) return path;
        }
        throw std::runtime_error("no sshd found: the package openssh-server is missing");
    }
    static std::string library(const std::string& name, const std::string& package) {
        for (const char* dir : {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib"}) {
            const auto path = std::string{dir} + "/" + name;
            if (::access(path.c_str(), R_OK) == 0) return path;
        }
        throw std::runtime_error("no " + name + " found: the package " + package + " is missing");
    }
    /// Every {dir} is the server's directory, every {pam_wrapper} that of libpam-wrapper's modules.
    void write_pam_service() const {
        auto text = options_.pam;
        const auto replace = [&text](std::string_view what, const std::string& with) {
            for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size())) text.replace(at, what.size(), with);
        };
        replace("{dir}", dir_.path().string());
        replace("{pam_wrapper}", std::filesystem::path{library("pam_wrapper/pam_matrix.so", "libpam-wrapper")}.parent_path().string());
        std::filesystem::create_directory(dir_ / "pam");
        write_file(dir_ / "pam" / "sshd", text);
        write_file(dir_ / "passdb", user() + ":" + password_ + ":sshd\n");
        give_away(dir_ / "passdb");
    }
    /// libpam-wrapper makes a directory per process, /tmp/pam.X, of which there can be 62, and leaves it behind when the process is killed. It removes those of
    /// its own user when it starts; these servers have another user each.
    static void remove_pam_directories() {
        std::error_code ec;
        for (const auto& entry : std::filesystem::directory_iterator("/tmp", ec)) {
            const auto name = entry.path().filename().string();
            struct stat status {};
            if (name.size() != 5 || !name.starts_with("pam.") || ::lstat(entry.path().c_str(), &status) != 0) continue;
            if (!S_ISDIR(status.st_mode) || status.st_uid < first_user || status.st_uid >= first_user + users) continue;
            pid_t pid = 0;
            try {
                pid = static_cast<pid_t>(std::stol(read_file(entry.path() / "pid")));
            } catch (const std::exception&) {
                continue;  // just being made, or just being removed
            }
            if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) std::filesystem::remove_all(entry.path(), ec);
        }
    }
    static void generate_key(const std::filesystem::path& file, const std::string& type, const std::string& passphrase, bool pem) {
        std::vector<std::string> argv{"ssh-keygen", "-q", "-t", type, "-N", passphrase, "-C", "sshpool test", "-f", file.string()};
        if (type == "rsa") argv.insert(argv.end(), {"-b", "2048"});
        if (pem) argv.insert(argv.end(), {"-m", "PEM"});
        run_program(std::move(argv));
    }
    void give_away(const std::filesystem::path& file) const {
        if (user_ && ::chown(file.c_str(), user_->number, user_->number) != 0) throw std::runtime_error("cannot chown " + file.string());
    }
    unsigned user_number() const { return user_ ? user_->number : static_cast<unsigned>(::geteuid()); }

    void make_home() {
        home_ = dir_ / "home";
        std::filesystem::create_directory(home_);
        give_away(home_);
        write_file(dir_ / "log", "");
        give_away(dir_ / "log");
        const auto id = std::to_string(user_number());
        const auto group = std::to_string(user_ ? user_->number : static_cast<unsigned>(::getegid()));
        write_file(dir_ / "passwd", user() + ":x:" + id + ":" + group + "::" + home_.string() + ":/bin/sh\n");
        write_file(dir_ / "group", user() + ":x:" + group + ":\n");
        std::string hash = "*";
        if (options_.password_login) {
            std::random_device random;
            for (int i = 0; i < 20; ++i) password_ += static_cast<char>('a' + random() % 26);
            spawn_options with_input;
            with_input.input = password_ + "\n";
            hash = run_program({"openssl", "passwd", "-6", "-stdin"}, std::move(with_input));
            hash.erase(hash.find_last_not_of('\n') + 1);
        }
        write_file(dir_ / "shadow", user() + ":" + hash + ":19000:0:99999:7:::\n");
        std::filesystem::permissions(dir_ / "shadow", std::filesystem::perms{0600});
        give_away(dir_ / "shadow");
    }
    void write_known_hosts() { write_file(known_hosts(), ""); }
    void write_config() const {
        std::string text;
        for (const auto& line : options_.config) text += line + "\n";
        for (const auto& a : options_.addresses) text += "ListenAddress " + a + ":" + std::to_string(port_) + "\n";
        for (const auto& type : options_.host_key_types) text += "HostKey " + (dir_ / ("host_" + type)).string() + "\n";
        text += "AuthorizedKeysFile " + (dir_ / "authorized_keys").string() + "\n";
        text += std::string{"PasswordAuthentication "} + (options_.password_login ? "yes" : "no") + "\n";
        if (!options_.pam.empty()) text += "UsePAM yes\nKbdInteractiveAuthentication yes\n";
        text += "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\nLogLevel VERBOSE\nUseDNS no\nPrintMotd no\n";
        if (!options_.sftp.empty()) text += "Subsystem sftp " + options_.sftp + "\n";
        write_file(dir_ / "sshd_config", text);
    }
    bool try_start() {
        const auto before = count_in_log("Server listening on ");
        spawn_options o;
        o.run_as = run_as();
        o.env = environment();
        if (!options_.pam.empty()) {
            remove_pam_directories();  // of runs that were killed
            write_pam_service();
            o.env[1] += " " + library("libpam_wrapper.so", "libpam-wrapper");
            o.env.insert(o.env.end(), {"PAM_WRAPPER=1", "PAM_WRAPPER_SERVICE_DIR=" + (dir_ / "pam").string(), "TMPDIR=" + home_.string()});
        }
        std::vector<std::string> argv{sshd_path(), "-D", "-E", (dir_ / "log").string(), "-f", (dir_ / "sshd_config").string()};
        if (!options_.netns.empty()) {  // only root may enter it: privileges are given up afterwards
            const auto id = std::to_string(user_number());
            argv.insert(argv.begin(), {"nsenter", "--net=/run/netns/" + options_.netns, "--setuid=" + id, "--setgid=" + id, "--"});
            o.run_as.reset();
        }
        auto child = std::make_unique<process>(std::move(argv), std::move(o));
        const auto wanted = before + options_.addresses.size();
        wait_until([&] { return !child->running() || count_in_log("Server listening on ") >= wanted; });
        if (child->running() && count_in_log("Server listening on ") >= wanted) {
            listener_ = std::move(child);
            return true;
        }
        last_words_ = child->output() + log();
        return false;
    }

    struct process_entry {
        pid_t pid;
        pid_t parent;
        std::string start;  // tells a process from a later one with its number
    };
    static std::vector<process_entry> all_processes() {
        std::vector<process_entry> all;
        std::error_code ec;
        for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
            const auto name = entry.path().filename().string();
            if (name.empty() || std::isdigit(static_cast<unsigned char>(name.front())) == 0) continue;
            std::string text;
            try {
                text = read_file(entry.path() / "stat");
            } catch (const std::exception&) {
                continue;  // it has ended
            }
            const auto close = text.rfind(')');
            if (close == std::string::npos) continue;
            std::vector<std::string> fields;
            for (std::size_t at = close + 2; at < text.size();) {
                const auto end = std::min(text.find(' ', at), text.size());
                fields.push_back(text.substr(at, end - at));
                at = end + 1;
            }
            if (fields.size() < 20 || fields[0] == "Z") continue;
            all.push_back({static_cast<pid_t>(std::stol(name)), static_cast<pid_t>(std::stol(fields[1])), fields[19]});
        }
        return all;
    }
    static std::vector<process_entry> descendants(pid_t root) {
        const auto all = all_processes();
        std::vector<process_entry> found;
        std::vector<pid_t> todo{root};
        while (!todo.empty()) {
            const auto parent = todo.back();
            todo.pop_back();
            for (const auto& p : all) {
                if (p.parent != parent) continue;
                found.push_back(p);
                todo.push_back(p.pid);
            }
        }
        return found;
    }
    void remember_sessions() {
        if (!listener_) return;
        for (const auto& p : descendants(listener_->pid())) remembered_.insert({p.pid, p.start});
    }
    // Sessions and commands: what descends from the listener, what did when it ended, what runs as the server's user, what stands in its home.
    std::vector<pid_t> sessions_and_commands() {
        remember_sessions();
        std::vector<pid_t> found;
        for (const auto& p : all_processes()) {
            if (listener_ && p.pid == listener_->pid()) continue;
            bool ours = remembered_.contains({p.pid, p.start});
            std::error_code ec;
            const auto proc = std::filesystem::path{"/proc"} / std::to_string(p.pid);
            if (!ours && std::filesystem::read_symlink(proc / "cwd", ec) == home_) ours = true;
            if (!ours && user_ && owner(proc) == user_->number) ours = true;
            if (ours) found.push_back(p.pid);
        }
        return found;
    }
    static unsigned owner(const std::filesystem::path& proc) {
        try {
            const auto text = read_file(proc / "status");
            const auto at = text.find("\nUid:\t");
            return at == std::string::npos ? 0U : static_cast<unsigned>(std::stoul(text.substr(at + 6)));
        } catch (const std::exception&) {
            return 0U;
        }
    }
    std::vector<pid_t> everything() {
        auto pids = sessions_and_commands();
        if (listener_) pids.push_back(listener_->pid());
        return pids;
    }
    void kill_all(bool with_listener) {
        const auto now = sessions_and_commands();
        if (with_listener) listener_.reset();
        wait_until([&] {
            auto left = sessions_and_commands();
            // With the listener there, clients may come back at once: only those of the first look go.
            if (!with_listener) std::erase_if(left, [&](pid_t pid) { return std::find(now.begin(), now.end(), pid) == now.end(); });
            for (const auto pid : left) ::kill(pid, SIGKILL);
            return left.empty();
        });
        remembered_.clear();
    }

    options options_;
    const std::unique_ptr<reserved_user> user_;
    temp_dir dir_;
    std::filesystem::path home_;
    std::filesystem::path client_key_;
    std::string password_;
    std::string authorized_;
    std::string known_hosts_text_;
    std::string last_words_;
    std::uint16_t port_ = 0;
    int keys_ = 0;
    bool served_ = false;
    bool suspended_ = false;
    std::set<std::pair<pid_t, std::string>> remembered_;
    std::unique_ptr<process> listener_;
};

}  // namespace support
