#pragma once

#include <sshpool/detail/flow_room.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

// Version 3 of the SSH File Transfer Protocol: draft-ietf-secsh-filexfer-02, with the extensions posix-rename@openssh.com and limits@openssh.com.

enum class sftp_request : std::uint8_t {
    init = 1,
    open = 3,
    close = 4,
    read = 5,
    write = 6,
    fsetstat = 10,
    remove = 13,
    mkdir = 14,
    stat = 17,
    rename = 18,
    limits = 200
};

enum class sftp_status : std::uint32_t { ok = 0, eof = 1, no_such_file = 2, permission_denied = 3, failure = 4, op_unsupported = 8 };

struct sftp_attributes {
    std::optional<std::uint64_t> size;
    std::optional<std::uint32_t> mode;  // as in `struct stat`
    std::optional<std::uint32_t> time;  // of the last modification

    bool is_directory() const noexcept { return mode && (*mode & 0170000U) == 0040000U; }
};

/// A reply, with what its request was. The views are good until the client is used again.
struct sftp_reply {
    sftp_request to = sftp_request::init;
    std::uint32_t file = 0;    // as the request was given
    std::uint64_t offset = 0;  // of a read or write
    std::size_t size = 0;      // the same
    sftp_status status = sftp_status::ok;
    std::string_view words;  // the server's, with a status
    std::string_view bytes;  // a handle, or data
    sftp_attributes attributes;
};

/// The client's side of the protocol in memory: requests in, bytes out; bytes in, replies out. Any number of requests may be under way, up to
/// `most_requests` and what `flow_room` gives; replies are matched by their numbers, in any order.
///
/// The server is not trusted: a packet is at most `longest_packet`, a reply must be one that its request can have, with no more data than was asked
/// for. Anything else is a fault, after which nothing is read any more. Memory: one packet in, or one piece of `kept_room` where replies are held; what was
/// asked out.
class sftp_client {
public:
    static constexpr std::size_t longest_packet = std::size_t{256} << 10;  // OpenSSH's own bound
    static constexpr std::size_t longest_handle = 256;                     // the draft, section 6.3
    static constexpr std::size_t most_requests = 256;
    static constexpr std::size_t usual_block = std::size_t{32} << 10;  // what every server takes (the draft, section 3)
    static constexpr std::size_t largest_block = std::size_t{255} << 10;
    static constexpr std::size_t kept_room = std::size_t{512} << 10;  // with room for two of the longest packets

    /// The first request. Others may follow at once.
    sftp_client() {
        begin(5, 1);
        append_u32(out_, 3);
    }

    /// Tells the time: what is asked, and what comes, is of now.
    void at(flow_room::time now) noexcept { now_ = now; }

    // Requests; `file` comes back with the reply ------------------------------------------------------------------------------

    bool has_room() const noexcept { return under_way_ < most_requests; }
    bool has_room(std::size_t block) noexcept {
        const bool room = has_room() && (bytes_under_way_ == 0 || bytes_under_way_ + block <= room_.bytes());
        full_ = full_ || !room;
        return room;
    }
    std::size_t under_way() const noexcept { return under_way_; }

    void open_to_read(std::uint32_t file, std::string_view path) {
        constexpr std::size_t read_flag = 1;
        begin_request(sftp_request::open, file, path.size() + 12);
        append_string(out_, path);
        append_u32(out_, read_flag);
        append_u32(out_, 0);
    }
    /// Makes the file; one that is there already makes it fail.
    void open_new(std::uint32_t file, std::string_view path, std::uint32_t mode) {
        constexpr std::size_t write_create_exclusive = 0x02 | 0x08 | 0x20;
        begin_request(sftp_request::open, file, path.size() + 16);
        append_string(out_, path);
        append_u32(out_, write_create_exclusive);
        append_u32(out_, has_mode);
        append_u32(out_, mode);
    }
    void close(std::uint32_t file, std::string_view handle) {
        begin_request(sftp_request::close, file, handle.size() + 4);
        append_string(out_, handle);
    }
    void read(std::uint32_t file, std::string_view handle, std::uint64_t offset, std::size_t size) {
        begin_request(sftp_request::read, file, handle.size() + 16, offset, size);
        append_string(out_, handle);
        append_u64(out_, offset);
        append_u32(out_, size);
    }
    void write(std::uint32_t file, std::string_view handle, std::uint64_t offset, std::string_view bytes) {
        begin_request(sftp_request::write, file, handle.size() + 16 + bytes.size(), offset, bytes.size());
        append_string(out_, handle);
        append_u64(out_, offset);
        append_string(out_, bytes);
    }
    void stat(std::uint32_t file, std::string_view path) {
        begin_request(sftp_request::stat, file, path.size() + 4);
        append_string(out_, path);
    }
    void set_attributes(std::uint32_t file, std::string_view handle, const sftp_attributes& a) {
        begin_request(sftp_request::fsetstat, file, handle.size() + 8 + (a.mode ? 4 : 0) + (a.time ? 8 : 0));
        append_string(out_, handle);
        append_u32(out_, (a.mode ? has_mode : 0U) | (a.time ? has_times : 0U));
        if (a.mode) append_u32(out_, *a.mode);
        if (!a.time) return;
        append_u32(out_, *a.time);  // of the last access: the same
        append_u32(out_, *a.time);
    }
    void make_directory(std::uint32_t file, std::string_view path) {
        begin_request(sftp_request::mkdir, file, path.size() + 8);
        append_string(out_, path);
        append_u32(out_, 0);
    }
    void remove(std::uint32_t file, std::string_view path) {
        begin_request(sftp_request::remove, file, path.size() + 4);
        append_string(out_, path);
    }
    /// Over a file that has the name, where `renames_over_files`.
    void rename(std::uint32_t file, std::string_view from, std::string_view to) {
        constexpr std::string_view name = "posix-rename@openssh.com";
        begin_request(sftp_request::rename, file, from.size() + to.size() + 8 + (posix_rename_ ? name.size() + 4 : 0), 0, 0, posix_rename_ ? extended : 0);
        if (posix_rename_) append_string(out_, name);
        append_string(out_, from);
        append_string(out_, to);
    }

    // The server's version, once it is there ----------------------------------------------------------------------------------

    bool is_greeted() const noexcept { return greeted_; }
    bool renames_over_files() const noexcept { return posix_rename_; }
    // A few of them fit into the room, so that the link does not fall silent between two.
    std::size_t read_block() const noexcept { return std::min(read_block_, std::max(room_.bytes() / 4, usual_block)); }
    std::size_t write_block() const noexcept { return std::min(write_block_, std::max(room_.bytes() / 4, usual_block)); }

    // Bytes -------------------------------------------------------------------------------------------------------------------

    /// To be sent. What was given out stays the same bytes until it is reported as sent.
    std::string_view output() const noexcept { return std::string_view{out_}.substr(sent_); }
    void sent(std::size_t bytes) noexcept { sent_ += bytes; }

    struct input {
        explicit input(std::size_t s) : bytes(std::make_unique_for_overwrite<char[]>(s)), size(s) {}
        std::unique_ptr<char[]> bytes;
        std::size_t size;
    };
    /// Room for at least `size` bytes of input, of which `received` tells how many were used. Replies taken before are gone, but for those that are held.
    char* room(std::size_t size) {
        const auto have = end_ - begin_;
        if (held_ && end_ + size <= in_->size) return in_->bytes.get() + end_;
        const auto before = in_;
        if (in_ == nullptr || held_ || have + size > in_->size) {
            const auto wanted = std::max(have + size, held_ ? kept_room : longest_packet / 2);
            in_ = spare_ != nullptr && spare_->size >= wanted ? std::exchange(spare_, nullptr) : std::make_shared<input>(wanted);
            held_ = false;
        }
        if (have > 0) std::memmove(in_->bytes.get(), before->bytes.get() + begin_, have);
        begin_ = 0;
        end_ = have;
        return in_->bytes.get() + end_;
    }
    void received(std::size_t bytes) noexcept { end_ += bytes; }

    /// The next reply; nothing when more input is needed, or after a fault. The server's version and limits are not given out.
    std::optional<sftp_reply> next() {
        while (fault_.empty() && end_ - begin_ >= 4) {
            const std::string_view waiting{in_->bytes.get() + begin_, end_ - begin_};
            const std::size_t size = wire_reader{waiting}.u32();
            if (size == 0 || size > longest_packet) {
                fault("sent a packet of " + std::to_string(size) + " bytes");
                break;
            }
            if (waiting.size() < size + 4) break;
            begin_ += size + 4;
            if (auto reply = take(waiting.substr(4, size))) return reply;
        }
        return std::nullopt;
    }

    /// Where the views of the last reply look: they stay good for as long as somebody has this, whatever comes after.
    std::shared_ptr<input> hold() {
        held_ = true;
        return in_;
    }
    /// For replies to come, if nobody else has it.
    void give_back(std::shared_ptr<input> held) {
        if (held.use_count() == 1) spare_ = std::move(held);
    }

    /// What the server did wrong, if anything: "sent …".
    const std::string& fault() const noexcept { return fault_; }

    /// The input that could not be read, for a message: a start-up file of the account may have printed something.
    std::string_view unread() const noexcept { return in_ == nullptr ? std::string_view{} : std::string_view{in_->bytes.get() + begin_, end_ - begin_}; }

private:
    struct request {
        sftp_request what = sftp_request::init;
        std::uint32_t file = 0;
        std::uint64_t offset = 0;
        std::size_t size = 0;
        std::uint32_t id = 0;
        flow_room::time asked_at{};
        bool is_under_way = false;
    };
    static constexpr std::uint32_t has_mode = 4;
    static constexpr std::uint32_t has_times = 8;
    static constexpr std::uint8_t extended = 200;

    static void append_u64(std::string& out, std::uint64_t value) {
        append_u32(out, static_cast<std::uint32_t>(value >> 32U));
        append_u32(out, static_cast<std::uint32_t>(value));
    }
    static std::uint64_t read_u64(wire_reader& in) noexcept {
        const std::uint64_t high = in.u32();
        return high << 32U | in.u32();
    }

    /// Makes room at the front of the output.
    void compact() {
        if (sent_ < out_.size() / 2) return;
        out_.erase(0, std::exchange(sent_, 0));
    }
    void begin(std::size_t size, std::uint8_t type) {
        compact();
        append_u32(out_, size);
        out_ += static_cast<char>(type);
    }
    /// `size`: of what follows the number of the request.
    void begin_request(sftp_request what, std::uint32_t file, std::size_t size, std::uint64_t offset = 0, std::size_t bytes = 0, std::uint8_t type = 0) {
        std::size_t slot = 0;
        if (free_.empty()) {
            slot = slots_.size();
            slots_.emplace_back();
        } else {
            slot = free_.back();
            free_.pop_back();
        }
        // The number tells the slot, and differs from those that the slot had before.
        const auto id = static_cast<std::uint32_t>(slots_[slot].id + slot_numbers) / slot_numbers * slot_numbers + static_cast<std::uint32_t>(slot);
        slots_[slot] = {what, file, offset, bytes, id, now_, true};
        ++under_way_;
        bytes_under_way_ += bytes;
        begin(size + 5, type != 0 ? type : static_cast<std::uint8_t>(what));
        append_u32(out_, id);
    }
    void end_request(std::size_t slot) {
        slots_[slot].is_under_way = false;
        free_.push_back(slot);
        --under_way_;
        bytes_under_way_ -= slots_[slot].size;
    }
    static constexpr std::uint32_t slot_numbers = 1U << 12U;  // more than there are ever slots

    void fault(std::string what) { fault_ = std::move(what); }

    std::optional<sftp_reply> take(std::string_view packet) {
        enum : std::uint8_t { version = 2, status = 101, handle = 102, data = 103, attributes = 105, extended_reply = 201 };
        const auto type = static_cast<std::uint8_t>(packet.front());
        wire_reader in{packet.substr(1)};
        if (!greeted_) {
            if (type != version) {
                fault("sent a packet of type " + std::to_string(type) + " before its version");
            } else {
                take_version(in);
            }
            return std::nullopt;
        }
        const auto id = in.u32();
        const auto slot = static_cast<std::size_t>(id % slot_numbers);
        if (!in.ok() || slot >= slots_.size() || !slots_[slot].is_under_way || slots_[slot].id != id) {
            fault("sent a packet of type " + std::to_string(type) + " that answers no request");
            return std::nullopt;
        }
        const auto asked = slots_[slot];
        end_request(slot);
        room_.answered(asked.size, now_ - asked.asked_at, std::exchange(full_, false));
        sftp_reply reply{asked.what, asked.file, asked.offset, asked.size, sftp_status::ok, {}, {}, {}};
        bool fits = true;
        switch (type) {
            case status:
                reply.status = static_cast<sftp_status>(in.u32());
                if (!in.rest().empty()) reply.words = in.string();  // old servers leave it out
                // Only what is answered with a status can be answered with "ok", and only a read has an end.
                fits = (reply.status != sftp_status::ok || is_answered_by_status(asked.what)) &&
                       (reply.status != sftp_status::eof || asked.what == sftp_request::read);
                break;
            case handle:
                reply.bytes = in.string();
                fits = asked.what == sftp_request::open && reply.bytes.size() <= longest_handle;
                break;
            case data:
                reply.bytes = in.string();
                // Nothing may stand behind the data: who holds the reply holds all of it, and counts the data.
                fits = asked.what == sftp_request::read && !reply.bytes.empty() && reply.bytes.size() <= asked.size && in.done();
                break;
            case attributes:
                reply.attributes = take_attributes(in);
                fits = asked.what == sftp_request::stat;
                break;
            case extended_reply:
                fits = asked.what == sftp_request::limits;
                if (fits) take_limits(in);
                break;
            default:
                fits = false;
        }
        if (!fits || !in.ok()) {
            fault("sent a packet of type " + std::to_string(type) + " and " + std::to_string(packet.size()) + " bytes that does not answer its request");
            return std::nullopt;
        }
        if (asked.what == sftp_request::limits) return std::nullopt;  // refused or not
        return reply;
    }
    static bool is_answered_by_status(sftp_request what) noexcept {
        return what != sftp_request::open && what != sftp_request::read && what != sftp_request::stat && what != sftp_request::limits;
    }

    void take_version(wire_reader& in) {
        const auto number = in.u32();
        if (!in.ok() || number != 3) return fault("speaks version " + std::to_string(number) + " of the protocol, not 3");
        bool limits = false;
        while (in.ok() && !in.done()) {
            const auto name = in.string();
            const auto value = in.string();
            if (name == "posix-rename@openssh.com" && value == "1") posix_rename_ = true;
            if (name == "limits@openssh.com" && value == "1") limits = true;
        }
        if (!in.ok()) return fault("sent a version packet that does not fit its length");
        greeted_ = true;
        if (!limits) return;
        constexpr std::string_view name = "limits@openssh.com";
        begin_request(sftp_request::limits, 0, name.size() + 4, 0, 0, extended);
        append_string(out_, name);
    }
    void take_limits(wire_reader& in) {
        const auto bounded = [](std::uint64_t said) { return static_cast<std::size_t>(std::clamp<std::uint64_t>(said, usual_block, largest_block)); };
        read_u64(in);  // of a packet
        const auto read = read_u64(in);
        const auto write = read_u64(in);
        if (!in.ok()) return;
        if (read != 0) read_block_ = bounded(read);  // 0: unlimited, which is no figure to rely on
        if (write != 0) write_block_ = bounded(write);
    }
    static sftp_attributes take_attributes(wire_reader& in) {
        sftp_attributes a;
        const auto flags = in.u32();
        if ((flags & 1U) != 0) a.size = read_u64(in);
        if ((flags & 2U) != 0) in.raw(8);
        if ((flags & has_mode) != 0) a.mode = in.u32();
        if ((flags & has_times) != 0) {
            in.u32();
            a.time = in.u32();
        }
        // What extensions may follow is of no interest.
        return in.ok() ? a : sftp_attributes{};
    }

    std::string out_;
    std::size_t sent_ = 0;
    std::shared_ptr<input> in_;
    std::shared_ptr<input> spare_;
    bool held_ = false;  // somebody looks into `in_`
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    std::vector<request> slots_;
    std::vector<std::size_t> free_;
    std::size_t under_way_ = 0;
    std::size_t bytes_under_way_ = 0;
    std::size_t read_block_ = usual_block;
    std::size_t write_block_ = usual_block;
    flow_room room_;
    flow_room::time now_{};
    bool full_ = false;  // something waited for room since the last reply
    bool greeted_ = false;
    bool posix_rename_ = false;
    std::string fault_;
};

}  // namespace sshpool::detail
