#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

namespace sshpool {

/// How a file is sent or fetched. A value; the setters return the options themselves, for chaining.
class transfer_options {
public:
    transfer_options() = default;

    /// Told how many bytes of file contents have arrived, of how many in all: on the caller's executor, one call at a time, at most as often as calls return.
    /// The transfer does not wait for it, but the operation completes only when the last call has returned. The total of a download is what the server says
    /// of the file; it may be 0 where the server does not know. What a call throws comes out of the `run()` of that executor's context.
    transfer_options& progress(std::function<void(std::uint64_t done, std::uint64_t total)> told) {
        progress_ = std::move(told);
        return *this;
    }
    /// The file on the other side gets exactly the permission bits of this one (`chmod`), without set-user-ID and its like. Not for directories.
    transfer_options& keep_mode() {
        keep_mode_ = true;
        return *this;
    }
    /// The file on the other side gets this one's time of last modification, in whole seconds. Not for directories.
    transfer_options& keep_time() {
        keep_time_ = true;
        return *this;
    }
    /// The permission bits that a file is made with, less the umask of the side that makes it. Without it, an uploaded file is made with the bits of
    /// the local one, any other with 0666. Throws `std::invalid_argument` for bits beyond 0777.
    transfer_options& mode(unsigned bits) {
        if (bits > 0777U) throw std::invalid_argument("a file's mode has bits beyond 0777");
        mode_ = bits;
        return *this;
    }
    /// Counts from having the connection; `errc::command_timeout` after it. None by default. Throws `std::invalid_argument` where it is not positive, or longer
    /// than ten years.
    transfer_options& timeout(std::chrono::milliseconds after) {
        if (after <= std::chrono::milliseconds::zero()) throw std::invalid_argument("a transfer's timeout must be positive");
        if (after > std::chrono::hours{24 * 3650}) throw std::invalid_argument("a transfer's timeout is longer than ten years");
        timeout_ = after;
        return *this;
    }
    /// The most that a fetched file may hold; a larger one gives `errc::output_limit`. 16 MiB by default for `async_read_file`, none for `async_download`.
    transfer_options& max_size(std::uint64_t bytes) {
        max_size_ = bytes;
        return *this;
    }

    const std::function<void(std::uint64_t, std::uint64_t)>& progress() const noexcept { return progress_; }
    bool keeps_mode() const noexcept { return keep_mode_; }
    bool keeps_time() const noexcept { return keep_time_; }
    std::optional<unsigned> mode() const noexcept { return mode_; }
    std::optional<std::chrono::milliseconds> timeout() const noexcept { return timeout_; }
    std::optional<std::uint64_t> max_size() const noexcept { return max_size_; }

    static constexpr std::uint64_t default_max_size = std::uint64_t{16} << 20;

private:
    std::function<void(std::uint64_t, std::uint64_t)> progress_;
    std::optional<unsigned> mode_;
    std::optional<std::chrono::milliseconds> timeout_;
    std::optional<std::uint64_t> max_size_;
    bool keep_mode_ = false;
    bool keep_time_ = false;
};

}  // namespace sshpool
