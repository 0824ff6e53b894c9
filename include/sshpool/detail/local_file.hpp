#pragma once

#include <sshpool/detail/descriptor.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace sshpool::detail {

/// What went wrong with a file of this machine, as a sentence: "cannot open /x: No such file or directory".
inline std::string local_trouble(const char* what, const std::filesystem::path& file, int error) {
    std::string text = std::string{"cannot "} + what + " " + file.string() + ": " + std::generic_category().message(error);
    return text;
}

/// Where a file is written before it gets its name: beside it, so that the renaming is one step.
inline std::string temporary_beside(std::string_view path, std::string_view tag) {
    const auto slash = path.rfind('/');
    std::string name{slash == std::string_view::npos ? std::string_view{} : path.substr(0, slash + 1)};
    return name.append(".sshpool-").append(tag);
}

/// A regular file that is read.
class local_source {
public:
    /// The other members only after an empty answer; otherwise it says what went wrong.
    std::string open(const std::filesystem::path& file) {
        file_ = file;
        // Without blocking, so that a FIFO cannot hold the caller.
        fd_ = std::make_unique<descriptor>(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
        if (fd_->get() < 0) return local_trouble("open", file, errno);
        struct stat s {};
        if (::fstat(fd_->get(), &s) != 0) return local_trouble("read", file, errno);
        if (S_ISDIR(s.st_mode)) return local_trouble("read", file, EISDIR);
        if (!S_ISREG(s.st_mode)) return "cannot read " + file.string() + ": it is no regular file";
        size_ = static_cast<std::uint64_t>(s.st_size);
        mode_ = static_cast<std::uint32_t>(s.st_mode & 0777U);
        time_ = static_cast<std::uint32_t>(s.st_mtim.tv_sec);
        return {};
    }
    std::uint64_t size() const noexcept { return size_; }
    std::uint32_t mode() const noexcept { return mode_; }
    std::uint32_t time() const noexcept { return time_; }

    /// Gives how many bytes it has read: fewer than asked at the end of the file, and after an error, which `trouble` then tells.
    std::size_t read(std::uint64_t offset, char* into, std::size_t size) {
        std::size_t have = 0;
        while (have < size) {
            const auto n = ::pread(fd_->get(), into + have, size - have, static_cast<off_t>(offset + have));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) trouble_ = local_trouble("read", file_, errno);
            if (n <= 0) break;
            have += static_cast<std::size_t>(n);
        }
        return have;
    }
    const std::string& trouble() const noexcept { return trouble_; }

private:
    std::filesystem::path file_;
    std::unique_ptr<descriptor> fd_;
    std::uint64_t size_ = 0;
    std::uint32_t mode_ = 0;
    std::uint32_t time_ = 0;
    std::string trouble_;
};

/// A new file of this machine that gets its name when it is complete. Without that it goes with the object.
class local_sink {
public:
    local_sink() = default;
    local_sink(const local_sink&) = delete;
    local_sink& operator=(const local_sink&) = delete;
    ~local_sink() { discard(); }

    // Each gives an empty string, or what went wrong.

    std::string open(const std::filesystem::path& file, std::string_view tag, unsigned mode) {
        file_ = file;
        std::error_code ignored;
        if (std::filesystem::is_directory(file, ignored)) return local_trouble("replace", file, EISDIR);
        temporary_ = temporary_beside(file.native(), tag);
        fd_ = std::make_unique<descriptor>(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, static_cast<mode_t>(mode)));
        if (fd_->get() >= 0) return {};
        const int error = errno;
        fd_.reset();
        return local_trouble("make a file beside", file, error);
    }
    std::string write(std::uint64_t offset, std::string_view bytes) {
        while (!bytes.empty()) {
            const auto n = ::pwrite(fd_->get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return local_trouble("write", file_, n < 0 ? errno : ENOSPC);
            offset += static_cast<std::uint64_t>(n);
            bytes.remove_prefix(static_cast<std::size_t>(n));
        }
        return {};
    }
    std::string finish(std::optional<std::uint32_t> mode, std::optional<std::uint32_t> time) {
        if (mode && ::fchmod(fd_->get(), static_cast<mode_t>(*mode & 0777U)) != 0) return local_trouble("set the mode of", file_, errno);
        if (time) {
            const timespec when{static_cast<time_t>(*time), 0};
            const timespec both[] = {when, when};
            if (::futimens(fd_->get(), both) != 0) return local_trouble("set the time of", file_, errno);
        }
        if (::close(fd_->release()) != 0) return local_trouble("write", file_, errno);
        if (std::rename(temporary_.c_str(), file_.c_str()) != 0) return local_trouble("rename a file to", file_, errno);
        fd_.reset();
        return {};
    }
    void discard() noexcept {
        if (fd_ == nullptr) return;
        fd_.reset();
        ::unlink(temporary_.c_str());
    }

private:
    std::filesystem::path file_;
    std::string temporary_;
    std::unique_ptr<descriptor> fd_;  // there as long as the temporary file is
};

}  // namespace sshpool::detail
