#pragma once

#include <sshpool/detail/local_file.hpp>
#include <sshpool/detail/sftp_transfer.hpp>
#include <sshpool/transfer_options.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

namespace sshpool::detail {

/// Fetches one file into memory, or into a local file that gets its name when it is complete.
///
/// What the server says of the file's size decides what is asked for, never what is allocated: memory and disk grow with the bytes that have come.
/// The file's end is where the server says so, whatever size it gave: files of /proc have none, and others grow.
class sftp_download final : public sftp_transfer {
public:
    sftp_download(std::string from, transfer_options options) : from_(std::move(from)), options_(std::move(options)) {
        limit_ = options_.max_size().value_or(transfer_options::default_max_size);
    }
    sftp_download(std::string from, std::filesystem::path to, transfer_options options, std::string tag)
        : from_(std::move(from)), to_(std::move(to)), options_(std::move(options)), tag_(std::move(tag)) {
        limit_ = options_.max_size().value_or(UINT64_MAX);
    }

    void prepare() override {}

    void ask(sftp_client& client) override {
        if (!asked_) {
            asked_ = true;
            client.open_to_read(0, from_);
            client.stat(0, from_);
        }
        if (!sized_ || !opened_ || is_over()) return;
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
        if (is_over()) return;
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
        if (sized_ && opened_ && to_) {
            if (const auto trouble = sink_.open(*to_, tag_, creation_mode()); !trouble.empty()) fail_here(trouble);
        }
    }

    void give_up(sftp_client& /*client*/) override {
        stopped_ = true;
        sink_.discard();
    }
    bool is_over() const override { return stopped_ || failed() || complete_; }

    bool fetches() const noexcept override { return true; }
    std::string take_bytes() noexcept override { return std::move(bytes_); }

private:
    unsigned creation_mode() const { return options_.mode().value_or(options_.keeps_mode() && attributes_.mode ? *attributes_.mode & 0777U : 0666U); }

    void take_size(const sftp_reply& reply) {
        sized_ = true;
        if (reply.status != sftp_status::ok) return;  // opening it tells why
        attributes_ = reply.attributes;
        if (attributes_.is_directory()) return fail(errc::file_failed, "could not read " + quoted(from_) + ": it is a directory");
        size_ = total_ = attributes_.size.value_or(0);
        if (size_ > limit_) fail_limit();
    }
    void fail_limit() {
        sink_.discard();
        fail(errc::output_limit, "has more than the allowed " + std::to_string(limit_) + " bytes in " + quoted(from_));
    }
    void fail_local(const std::string& trouble) {
        sink_.discard();
        fail_here(trouble);
    }

    void take_data(sftp_client& client, const sftp_reply& reply) {
        --awaited_;
        const bool beyond = reply.offset >= size_;
        if (beyond) --beyond_;
        if (reply.status == sftp_status::eof) {
            end_ = std::min(end_, reply.offset);
        } else if (reply.status != sftp_status::ok) {
            sink_.discard();
            return fail(reply, "read", from_);
        } else {
            const auto n = reply.bytes.size();
            if (n > limit_ || reply.offset > limit_ - n) return fail_limit();
            if (to_) {
                if (const auto trouble = sink_.write(reply.offset, reply.bytes); !trouble.empty()) return fail_local(trouble);
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
        if (highest_ != end_ || done_ != end_) {
            sink_.discard();
            return fail(errc::file_failed, "has changed " + quoted(from_) + " while it was read");
        }
        total_ = done_;
        if (to_) {
            const auto mode = options_.keeps_mode() ? attributes_.mode : std::nullopt;
            if (const auto trouble = sink_.finish(mode, options_.keeps_time() ? attributes_.time : std::nullopt); !trouble.empty()) return fail_local(trouble);
        }
        complete_ = true;
    }

    const std::string from_;
    const std::optional<std::filesystem::path> to_;
    const transfer_options options_;
    const std::string tag_;
    std::uint64_t limit_ = 0;
    std::string bytes_;
    local_sink sink_;
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
    bool complete_ = false;
    bool stopped_ = false;
};

}  // namespace sshpool::detail
