#pragma once

#include <sshpool/detail/local_file.hpp>
#include <sshpool/detail/sftp_transfer.hpp>
#include <sshpool/transfer_options.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Fetches one file into memory, or into a local file that gets its name when it is complete.
///
/// What the server says of the file's size decides what is asked for, never what is allocated: memory and disk grow with the bytes that have come.
/// The file's end is where the server says so, whatever size it gave: files of /proc have none, and others grow.
///
/// A local file is written in pieces of `enough_to_write`, from where the replies came into memory; the next piece is collected meanwhile. When the disk takes
/// longer than that, the server waits.
class sftp_download final : public sftp_transfer {
public:
    sftp_download(std::string from, transfer_options options) : from_(std::move(from)), options_(std::move(options)) {
        limit_ = options_.max_size().value_or(transfer_options::default_max_size);
    }
    sftp_download(std::string from, std::filesystem::path to, transfer_options options, std::string tag)
        : from_(std::move(from)), to_(std::move(to)), options_(std::move(options)), tag_(std::move(tag)) {
        limit_ = options_.max_size().value_or(UINT64_MAX);
    }

    void ask(sftp_client& client) override {
        if (!asked_) {
            asked_ = true;
            client.open_to_read(0, from_);
            client.stat(0, from_);
        }
        if (!sized_ || !opened_ || (to_ && !sink_ready_) || is_stopped()) return;
        const auto block = client.read_block();
        while (client.output().size() < enough_output && client.has_room(block) && next_ < end_) {
            const bool beyond = next_ >= size_;
            if (beyond && beyond_ >= beyond_room_) return;
            const auto n = beyond ? block : static_cast<std::size_t>(std::min<std::uint64_t>(block, size_ - next_));
            client.read(0, handle_, next_, n);
            next_ += n;
            ++awaited_;
            if (beyond) ++beyond_;
        }
    }

    void take(sftp_client& client, const sftp_reply& reply) override {
        if (is_stopped()) return;
        switch (reply.to) {
            case sftp_request::stat:
                take_size(reply);
                break;
            case sftp_request::open:
                if (reply.status != sftp_status::ok) return fail(reply, "open", from_);
                opened_ = true;
                handle_ = reply.bytes;
                break;
            default:
                return take_data(client, reply);
        }
    }

    void give_up(sftp_client& /*client*/) override { stopped_ = true; }
    bool is_over() const override { return complete_ || (is_stopped() && (disk_ == nullptr || (discarding_ && !is_working()))); }

    bool owes_server() const override { return false; }
    bool has_room() const noexcept override { return waiting_.size < most_waiting; }
    bool fetches() const noexcept override { return true; }
    std::string take_bytes() noexcept override { return std::move(bytes_); }

private:
    static constexpr std::size_t enough_to_write = std::size_t{256} << 10;
    static constexpr std::size_t most_waiting = std::size_t{1} << 20;
    static constexpr std::size_t piece_cost = 64;  // in memory, beside its bytes: a server may send them one by one

    /// Bytes that have come, where they came.
    struct fetched {
        std::vector<std::pair<std::uint64_t, std::string_view>> pieces;  // and where in the file they belong
        std::vector<std::shared_ptr<sftp_client::input>> held;
        std::size_t size = 0;
    };
    /// Belongs to the work that is out, as long as one is.
    struct disk {
        local_sink sink;
        fetched bytes;
        std::string trouble;

        void write(const std::atomic<bool>& stop) {
            for (const auto& [offset, piece] : bytes.pieces) {
                if (trouble.empty() && !stop) trouble = sink.write(offset, piece);
            }
        }
    };

    bool is_stopped() const noexcept { return stopped_ || failed() || complete_; }

    local_work next_work() override {
        if (!to_ || complete_ || discarding_) return {};
        if (is_stopped()) {
            if (disk_ == nullptr) return {};
            discarding_ = true;
            return [d = disk_](const std::atomic<bool>&) { d->sink.discard(); };
        }
        if (!sized_ || !opened_) return {};
        if (disk_ == nullptr) {
            disk_ = std::make_shared<disk>();
            return [d = disk_, to = *to_, tag = tag_, mode = creation_mode()](const std::atomic<bool>&) { d->trouble = d->sink.open(to, tag, mode); };
        }
        if (!came_ && waiting_.size < enough_to_write) return {};
        std::swap(disk_->bytes, waiting_);
        if (!came_) return [d = disk_](const std::atomic<bool>& stop) { d->write(stop); };
        finishing_ = true;
        const auto mode = options_.keeps_mode() ? attributes_.mode : std::nullopt;
        const auto time = options_.keeps_time() ? attributes_.time : std::nullopt;
        return [d = disk_, mode, time](const std::atomic<bool>& stop) {
            d->write(stop);
            if (d->trouble.empty() && !stop) d->trouble = d->sink.finish(mode, time);
        };
    }
    void worked(sftp_client& client) override {
        if (discarding_) return;
        sink_ready_ = true;
        for (auto& held : disk_->bytes.held) client.give_back(std::move(held));
        disk_->bytes = {};
        if (!disk_->trouble.empty()) return fail_here(disk_->trouble);
        complete_ = finishing_ && !failed();
    }

    unsigned creation_mode() const { return options_.mode().value_or(options_.keeps_mode() && attributes_.mode ? *attributes_.mode & 0777U : 0666U); }

    void take_size(const sftp_reply& reply) {
        sized_ = true;
        if (reply.status != sftp_status::ok) return;  // opening it tells why
        attributes_ = reply.attributes;
        if (attributes_.is_directory()) return fail(errc::file_failed, "could not read " + quoted(from_) + ": it is a directory");
        size_ = total_ = attributes_.size.value_or(0);
        if (size_ > limit_) fail_limit();
    }
    void fail_limit() { fail(errc::output_limit, "has more than the allowed " + std::to_string(limit_) + " bytes in " + quoted(from_)); }

    void take_data(sftp_client& client, const sftp_reply& reply) {
        --awaited_;
        const bool beyond = reply.offset >= size_;
        if (beyond) --beyond_;
        if (reply.status == sftp_status::eof) {
            end_ = std::min(end_, reply.offset);
        } else if (reply.status != sftp_status::ok) {
            return fail(reply, "read", from_);
        } else {
            const auto n = reply.bytes.size();
            if (n > limit_ || reply.offset > limit_ - n) return fail_limit();
            if (to_) {
                waiting_.pieces.emplace_back(reply.offset, reply.bytes);
                waiting_.size += n + piece_cost;
                if (auto held = client.hold(); waiting_.held.empty() || waiting_.held.back() != held) waiting_.held.push_back(std::move(held));
            } else {
                // Grows by no more than what may be under way.
                if (bytes_.size() < reply.offset + n) bytes_.resize(static_cast<std::size_t>(reply.offset) + n);
                std::memcpy(bytes_.data() + reply.offset, reply.bytes.data(), n);
            }
            done_ += n;
            highest_ = std::max(highest_, reply.offset + n);
            if (beyond) ++beyond_room_;
            if (n < reply.size) {  // the rest, or the end
                client.read(0, handle_, reply.offset + n, reply.size - n);
                ++awaited_;
                if (reply.offset + n >= size_) ++beyond_;
            }
        }
        if (awaited_ == 0 && end_ != UINT64_MAX) finish();
    }
    void finish() {
        if (highest_ != end_ || done_ != end_) return fail(errc::file_failed, "has changed " + quoted(from_) + " while it was read");
        total_ = done_;
        came_ = true;
        complete_ = !to_;
    }

    const std::string from_;
    const std::optional<std::filesystem::path> to_;
    const transfer_options options_;
    const std::string tag_;
    std::uint64_t limit_ = 0;
    std::string bytes_;
    std::shared_ptr<disk> disk_;
    fetched waiting_;  // to be written
    std::string handle_;
    sftp_attributes attributes_;
    std::uint64_t size_ = 0;          // as the server said
    std::uint64_t end_ = UINT64_MAX;  // as the server has shown
    std::uint64_t next_ = 0;          // to be asked for
    std::uint64_t highest_ = 0;       // end of what has come
    std::size_t awaited_ = 0;         // reads
    std::size_t beyond_ = 0;          // of them, how many begin beyond `size_`
    std::size_t beyond_room_ = 1;     // how many may: one, and one more for each that brought something
    bool asked_ = false;
    bool sized_ = false;
    bool opened_ = false;
    bool sink_ready_ = false;
    bool came_ = false;  // everything is here
    bool finishing_ = false;
    bool discarding_ = false;
    bool complete_ = false;
    bool stopped_ = false;
};

}  // namespace sshpool::detail
