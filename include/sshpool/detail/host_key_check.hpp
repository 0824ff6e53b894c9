#pragma once

#include <sshpool/detail/descriptor.hpp>
#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/home_process.hpp>
#include <sshpool/detail/known_hosts.hpp>
#include <sshpool/detail/ssh_wire.hpp>
#include <sshpool/error.hpp>
#include <sshpool/host_key_policy.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace sshpool::detail {

enum class host_key_answer : std::uint8_t { accepted, unknown, mismatch, unreadable };

struct host_key_verdict {
    host_key_answer answer{};
    std::string text;  // one sentence for people; empty where there is nothing to tell

    /// What a connect ends with. A file that cannot be read knows no host.
    std::error_code code() const noexcept {
        if (answer == host_key_answer::accepted) return {};
        return make_error(answer == host_key_answer::mismatch ? errc::host_key_mismatch : errc::host_key_unknown);
    }
};

struct known_hosts_read {
    std::shared_ptr<const known_hosts> hosts;  // nullptr where it could not be read
    bool missing = false;
    std::string problem;
};

inline std::string message_of(int error) { return std::generic_category().message(error); }

/// Reads and parses what a descriptor holds, from its start.
inline known_hosts_read read_known_hosts(int fd, const std::string& file) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return {nullptr, false, file_in_quotes(file) + " cannot be read: " + message_of(errno)};
    if (!S_ISREG(status.st_mode))
        return {nullptr, false, file_in_quotes(file) + " cannot be read: it is " + (S_ISDIR(status.st_mode) ? "a directory" : "no regular file")};
    if (static_cast<unsigned long long>(status.st_size) > known_hosts::largest_file) return {nullptr, false, file_in_quotes(file) + " is larger than 64 MiB"};
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    std::size_t have = 0;
    while (have < text.size()) {
        const auto got = ::pread(fd, text.data() + have, text.size() - have, static_cast<off_t>(have));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return {nullptr, false, file_in_quotes(file) + " cannot be read: " + message_of(errno)};
        if (got == 0) break;
        have += static_cast<std::size_t>(got);
    }
    text.resize(have);
    return {std::make_shared<const known_hosts>(text), false, {}};
}

/// Parsed files of this process, so that a thousand connects read a file once. A file is read anew when its inode, size or times have
/// changed, or were so young when it was read that a change may hide behind the clock's grain.
class known_hosts_cache {
public:
    static known_hosts_cache& instance() { return one_of_this_process<known_hosts_cache>(); }

    known_hosts_read get(const std::string& file) {
        const std::lock_guard lock{mutex_};
        const descriptor fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
        if (fd.get() < 0 && errno == ENOENT) return {nullptr, true, file_in_quotes(file) + " does not exist"};
        if (fd.get() < 0) return {nullptr, false, file_in_quotes(file) + " cannot be read: " + message_of(errno)};
        const auto now = stamp_of(fd.get());
        const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const kept& k) { return k.file == file; });
        if (found != kept_.end() && found->stamp == now && !found->young) {
            std::rotate(kept_.begin(), found, found + 1);  // most recently used first
            return {kept_.front().hosts, false, {}};
        }
        if (found != kept_.end()) kept_.erase(found);
        auto read = read_known_hosts(fd.get(), file);
        if (read.hosts == nullptr) return read;
        if (kept_.size() == most_files) kept_.pop_back();
        kept_.insert(kept_.begin(), {file, now, is_young(now), read.hosts});
        return read;
    }

private:
    using stamp = std::array<std::int64_t, 7>;
    struct kept {
        std::string file;
        detail::known_hosts_cache::stamp stamp;
        bool young;
        std::shared_ptr<const known_hosts> hosts;
    };

    static stamp stamp_of(int fd) {
        struct stat s {};
        if (::fstat(fd, &s) != 0) return {-1};
        return {static_cast<std::int64_t>(s.st_dev),
                static_cast<std::int64_t>(s.st_ino),
                s.st_size,
                s.st_mtim.tv_sec,
                s.st_mtim.tv_nsec,
                s.st_ctim.tv_sec,
                s.st_ctim.tv_nsec};
    }
    static bool is_young(const stamp& s) {
        struct timespec now {};
        ::clock_gettime(CLOCK_REALTIME, &now);
        return now.tv_sec - std::max(s[3], s[5]) < 2;
    }

    static constexpr std::size_t most_files = 16;
    std::mutex mutex_;
    std::vector<kept> kept_;
};

/// One question about one host's key, and its answer.
class host_key_check {
public:
    host_key_check(const host_key_parts& policy, std::string_view host, std::uint16_t port, std::string_view blob, const std::atomic<bool>& stop)
        : policy_(policy), name_(known_hosts_name(host, port)), blob_(blob), type_(wire_reader{blob}.string()), stop_(stop) {
        const bool bare_ipv6 = host.find(':') != std::string_view::npos;
        who_ = (bare_ipv6 ? '[' + std::string{host} + ']' : std::string{host}) + ':' + std::to_string(port);
    }

    host_key_verdict answer() const {
        constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-@.";
        if (policy_.rule == host_key_rule::accept_any) return {};
        if (type_.empty() || type_.size() > 64 || type_.find_first_not_of(allowed) != std::string_view::npos || blob_.size() > 16384)
            return {host_key_answer::unknown, "the host key of " + who_ + " is malformed"};
        if (policy_.rule == host_key_rule::pinned) return by_pins();
        if (policy_.file.empty())
            return {host_key_answer::unreadable, "the host key of " + who_ + " cannot be checked: there is no home directory, so no known_hosts file"};
        const auto read = known_hosts_cache::instance().get(policy_.file);
        if (read.hosts == nullptr && !read.missing) return {host_key_answer::unreadable, "the host key of " + who_ + " cannot be checked: " + read.problem};
        auto verdict = read.missing ? unknown(read.problem) : by_file(*read.hosts);
        if (policy_.rule == host_key_rule::trust_on_first_use && verdict.answer == host_key_answer::unknown) return add();
        return verdict;
    }

private:
    std::string shown() const { return fingerprint(blob_) + " (" + std::string{type_} + ")"; }

    host_key_verdict unknown(const std::string& why) const {
        return {host_key_answer::unknown, "the host key of " + who_ + " is not known: " + shown() + "; " + why};
    }

    host_key_verdict by_pins() const {
        const auto mine = fingerprint(blob_);
        std::string wanted;
        for (std::size_t i = 0; i != policy_.pins.size(); ++i) {
            if (equal_in_constant_time(policy_.pins[i], mine)) return {};
            if (i < most_named) wanted += (i == 0 ? "" : ", ") + policy_.pins[i];
        }
        if (policy_.pins.size() > most_named) wanted += " and " + std::to_string(policy_.pins.size() - most_named) + " more";
        return {host_key_answer::mismatch, "the host key of " + who_ + " is not a pinned one: the server showed " + shown() + ", pinned: " + wanted};
    }

    host_key_verdict by_file(const known_hosts& hosts) const {
        const auto at = [&](const known_hosts::entry& e) { return file_in_quotes(policy_.file) + ":" + std::to_string(e.line); };
        const auto entries = hosts.find(name_);
        const known_hosts::entry* same = nullptr;
        std::size_t others = 0;
        std::string wanted;
        for (const auto* e : entries) {
            const bool equal = e->blob == blob_;
            if (equal && e->revoked)
                return {host_key_answer::mismatch, "the host key of " + who_ + " is revoked: the server showed " + shown() + ", " + at(*e)};
            if (equal && same == nullptr) same = e;
            if (equal || e->revoked) continue;
            if (others < most_named) wanted += (others == 0 ? "" : ", ") + at(*e) + " expects " + fingerprint(e->blob) + " (" + in_words(e->type) + ")";
            ++others;
        }
        if (same != nullptr) return {host_key_answer::accepted, {}};
        if (others > most_named) wanted += ", and " + std::to_string(others - most_named) + " more";
        if (others != 0)
            return {host_key_answer::mismatch,
                    "the host key of " + who_ + " has changed, or somebody is on the way: the server showed " + shown() + ", but " + wanted};
        return unknown("no line of " + file_in_quotes(policy_.file) + " is for " + in_quotes(name_, 300) +
                       (hosts.skipped() == 0 ? "" : " (" + std::to_string(hosts.skipped()) + " lines of it could not be read)"));
    }

    static std::string in_words(std::string_view type) {
        const auto text = in_quotes(type, 64);
        return text.substr(1, text.size() - 2);
    }

    /// Under a lock that holds off other processes, and after having looked again: two first connects may meet here, also with different keys.
    host_key_verdict add() const {
        const auto failed = [&](const std::string& why) {
            return host_key_verdict{host_key_answer::unreadable, "the host key of " + who_ + " cannot be added: " + why};
        };
        const auto file = file_in_quotes(policy_.file);
        const auto directory = std::filesystem::path{policy_.file}.parent_path();
        if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
            return failed(file_in_quotes(directory.string()) + " cannot be made: " + message_of(errno));
        const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds{10};
        for (;;) {
            const descriptor fd{::open(policy_.file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600)};
            if (fd.get() < 0) return failed(file + " cannot be opened for writing: " + message_of(errno));
            while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
                if (errno != EWOULDBLOCK && errno != EINTR) return failed(file + " cannot be locked: " + message_of(errno));
                if (stop_ || std::chrono::steady_clock::now() > give_up) return failed(file + " is locked by another process");
                std::this_thread::sleep_for(std::chrono::milliseconds{2});
            }
            if (!still_at_path(fd.get())) {  // ssh-keygen -R puts a new file in its place
                if (std::chrono::steady_clock::now() > give_up) return failed(file + " changes all the time");
                continue;
            }
            const auto read = read_known_hosts(fd.get(), policy_.file);
            if (read.hosts == nullptr) return failed(read.problem);
            auto verdict = by_file(*read.hosts);
            if (verdict.answer != host_key_answer::unknown) return verdict;
            if (const int error = append(fd.get()); error != 0) return failed(file + " cannot be written: " + message_of(error));
            return {host_key_answer::accepted, "the host key of " + who_ + " was not known and is trusted from now on: " + shown() + " was added to " + file};
        }
    }

    bool still_at_path(int fd) const {
        struct stat locked {};
        struct stat there {};
        return ::fstat(fd, &locked) == 0 && ::stat(policy_.file.c_str(), &there) == 0 && locked.st_dev == there.st_dev && locked.st_ino == there.st_ino;
    }

    /// 0, or an errno. One write, so that a reader never sees half a line; what was written in part is taken back.
    int append(int fd) const {
        struct stat before {};
        if (::fstat(fd, &before) != 0) return errno;
        std::string line;
        if (before.st_size > 0) {
            char last = '\n';
            if (::pread(fd, &last, 1, before.st_size - 1) != 1) return EIO;
            if (last != '\n') line += '\n';
        }
        line += name_ + ' ' + std::string{type_} + ' ' + to_base64(blob_) + '\n';
        ssize_t written = 0;
        do written = ::write(fd, line.data(), line.size());
        while (written < 0 && errno == EINTR);
        if (written == static_cast<ssize_t>(line.size())) return ::fsync(fd) == 0 ? 0 : errno;
        const int error = written < 0 ? errno : ENOSPC;
        if (written > 0 && ::ftruncate(fd, before.st_size) != 0) return errno;
        return error;
    }

    static constexpr std::size_t most_named = 4;

    const host_key_parts& policy_;
    std::string name_;
    std::string who_;
    std::string_view blob_;
    std::string_view type_;
    const std::atomic<bool>& stop_;
};

inline const std::atomic<bool> never_stopped{false};

/// Whether to trust the key that a server showed, as it stands on the wire. May read a file. With `trust_on_first_use` it may write one, and wait up to
/// ten seconds for another process that has locked it, or until `stop` is set.
inline host_key_verdict verify(const host_key_policy& policy, std::string_view host, std::uint16_t port, std::string_view key_blob,
                               const std::atomic<bool>& stop = never_stopped) {
    return host_key_check{parts_of(policy), host, port, key_blob, stop}.answer();
}

/// The signature algorithms of the keys that are known for a host, so that the key exchange asks for those first. Empty where nothing is known.
inline std::vector<std::string> preferred_key_types(const host_key_policy& policy, std::string_view host, std::uint16_t port) {
    const auto& parts = parts_of(policy);
    if (parts.file.empty()) return {};
    const auto read = known_hosts_cache::instance().get(parts.file);
    if (read.hosts == nullptr) return {};
    const auto entries = read.hosts->find(known_hosts_name(host, port));
    const auto has = [&](std::string_view type) {
        return std::any_of(entries.begin(), entries.end(), [&](const known_hosts::entry* e) { return !e->revoked && e->type == type; });
    };
    std::vector<std::string> types;
    for (const std::string_view type : {"ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"}) {
        if (has(type)) types.emplace_back(type);
    }
    if (has("ssh-rsa")) types.insert(types.end(), {"rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"});
    return types;
}

}  // namespace sshpool::detail
