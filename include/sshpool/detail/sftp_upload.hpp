#pragma once

#include <sshpool/detail/local_file.hpp>
#include <sshpool/detail/read_ahead.hpp>
#include <sshpool/detail/sftp_transfer.hpp>
#include <sshpool/detail/upload_tree.hpp>
#include <sshpool/transfer_options.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Sends a text, a file, or a directory with everything in it. Every file goes to a temporary name beside its own, and is renamed when
/// the server has confirmed every byte of it. Files are sent side by side, so a directory of small ones costs few round trips.
///
/// Local files are listed, opened and read ahead of what is sent, at most `most_ahead` in all: of a large file one piece is read while another is sent.
class sftp_upload final : public sftp_transfer {
public:
    /// `tag` makes the temporary names unlike any others.
    sftp_upload(std::string to, std::string bytes, transfer_options options, std::string tag)
        : to_(std::move(to)), text_(std::move(bytes)), options_(std::move(options)), tag_(std::move(tag)), listed_(true) {
        total_ = text_->size();
        files_.push_back({to_, {}, total_});
    }
    sftp_upload(std::string to, std::filesystem::path from, transfer_options options, std::string tag)
        : to_(std::move(to)), from_(std::move(from)), options_(std::move(options)), tag_(std::move(tag)) {}

    void ask(sftp_client& client) override {
        if (stopping_ || !listed_) return;
        if (!asked_about_target_ && levels_.empty()) client.stat(target, to_);  // that it is a directory would otherwise show at the end
        asked_about_target_ = true;
        begin_files();
        while (!failed() && client.output().size() < enough_output) {
            if (level_ < levels_.size()) {
                if (!make_directories(client)) return;
            } else if (!open_some(client) && !write_some(client)) {
                return;
            }
        }
        if (failed()) give_up(client);
    }

    void take(sftp_client& client, const sftp_reply& reply) override {
        if (reply.to == sftp_request::mkdir || reply.to == sftp_request::stat) {
            take_directory(reply);
        } else if (const auto found = sending_.find(reply.file); found != sending_.end()) {
            take_file(client, found->second, reply);
            if (found->second.now == step::over && found->second.awaited == 0) sending_.erase(found);
        }
        if (failed() && !stopping_) give_up(client);
    }

    void give_up(sftp_client& client) override {
        stopping_ = true;
        for (auto it = sending_.begin(); it != sending_.end();) {
            auto& f = it->second;
            if (f.now == step::writing || f.now == step::settling) clean(client, f);
            if (f.now == step::reading) f.now = step::over;
            it = f.now == step::over && f.awaited == 0 ? sending_.erase(it) : std::next(it);
        }
    }
    bool is_over() const override {
        return sending_.empty() && directories_awaited_ == 0 && (stopping_ || failed() || (listed_ && next_file_ == files_.size() && level_ == levels_.size()));
    }
    bool fetches() const noexcept override { return false; }

private:
    static constexpr std::size_t most_open = 64;  // far below what a process may have open
    static constexpr std::uint32_t target = UINT32_MAX;
    static constexpr std::size_t piece_size = std::size_t{512} << 10;
    static constexpr std::size_t most_ahead = 4 * piece_size;

    enum class step {
        reading,  // for the first time
        opening,
        writing,
        settling,  // everything is sent, not everything is confirmed
        renaming,
        replacing,  // without posix-rename: the old file is removed first
        over,       // done, or removed
    };
    struct sent_file {
        const upload_file* what = nullptr;
        std::shared_ptr<read_ahead> local;  // until everything has been sent; none for a text
        file_piece now_sent;
        std::string temporary;
        std::string handle;
        std::uint64_t size = 0;
        std::uint64_t next = 0;
        std::size_t awaited = 0;  // replies
        step now = step::reading;
        bool removed_old = false;

        bool is_read() const noexcept { return local == nullptr || (!local->out && local->is_open); }
        /// True when something is there to be sent.
        bool has_piece() {
            if (now_sent.left() == 0 && local != nullptr && !local->out) std::swap(now_sent, local->next);
            return now_sent.left() > 0;
        }
    };

    local_work next_work() override {
        if (stopping_ || failed()) return {};
        if (!listed_) {
            tree_ = std::make_shared<upload_tree>();
            return [t = tree_, from = from_, to = to_](const std::atomic<bool>& stop) { t->list(from, to, stop); };
        }
        begin_files();
        std::vector<std::pair<std::shared_ptr<read_ahead>, std::size_t>> to_read;
        for (auto& [number, f] : sending_) {
            if (f.local == nullptr || (f.has_piece() && f.local->next.left() > 0)) continue;
            const auto left = f.local->is_open ? f.local->source.size() - f.local->begin : f.what->size;
            if (f.local->is_open && left == 0) continue;
            const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(piece_size, left));
            if (ahead_ + wanted > most_ahead && ahead_ > 0) break;
            ahead_ += wanted;
            f.local->out = true;
            to_read.emplace_back(f.local, wanted);
        }
        if (to_read.empty()) return {};
        out_ = to_read;
        return [all = std::move(to_read)](const std::atomic<bool>& stop) {
            for (const auto& [local, room] : all) {
                if (!stop) local->read(room);
            }
        };
    }
    void worked(sftp_client& client) override {
        if (const auto found = std::exchange(tree_, nullptr)) {
            listed_ = true;
            levels_ = std::move(found->levels);
            files_ = std::move(found->files);
            total_ = found->size;
            if (!found->trouble.empty()) fail_here(found->trouble);
        }
        for (const auto& [local, room] : std::exchange(out_, {})) {
            local->out = false;
            ahead_ -= room - local->next.size;
            if (!local->trouble.empty()) fail_here(local->trouble);
        }
        if (failed() && !stopping_) give_up(client);
    }
    void begin_files() {
        while (next_file_ < files_.size() && sending_.size() < most_open) {
            auto& f = sending_[static_cast<std::uint32_t>(next_file_)];
            f.what = &files_[next_file_++];
            if (text_) {
                f.size = f.now_sent.size = text_->size();
            } else {
                f.local = std::make_shared<read_ahead>();
                f.local->from = f.what->from;
            }
        }
    }

    /// Level by level: the server may do things in another order than they were asked. True while there may be more to ask.
    bool make_directories(sftp_client& client) {
        auto& level = levels_[level_];
        if (directory_ < level.size()) {
            if (!client.has_room()) return false;
            const auto number = static_cast<std::uint32_t>(directory_++);
            client.make_directory(number, level[number].to);
            client.stat(number, level[number].to);  // where there is one already, making it fails
            directories_awaited_ += 2;
            return true;
        }
        if (directories_awaited_ > 0) return false;
        for (auto& d : level) {
            if (!d.made && !d.there) fail(d.trouble->first, d.trouble->second);
        }
        ++level_;
        directory_ = 0;
        return true;
    }
    void take_directory(const sftp_reply& reply) {
        if (reply.file == target) {
            if (reply.attributes.is_directory()) fail(errc::file_failed, "could not replace " + quoted(to_) + ": it is a directory");
            return;
        }
        --directories_awaited_;
        auto& d = levels_[level_][reply.file];
        if (reply.to == sftp_request::stat) {
            d.there = reply.status == sftp_status::ok && (reply.attributes.is_directory() || !reply.attributes.mode);
        } else if (reply.status == sftp_status::ok) {
            d.made = true;
        } else {
            d.trouble = describe(reply, "make the directory", d.to);
        }
    }

    /// True when a request was made.
    bool open_some(sftp_client& client) {
        if (!client.has_room()) return false;
        for (auto& [number, f] : sending_) {
            if (f.now != step::reading || !f.is_read()) continue;
            if (f.local != nullptr) {
                f.size = f.local->source.size();
                total_ += f.size - f.what->size;
            }
            f.temporary = temporary_beside(f.what->to, tag_ + (files_.size() > 1 ? "-" + std::to_string(number) : std::string{}));
            client.open_new(number, f.temporary, options_.mode().value_or(text_ ? 0666U : f.local->source.mode()));
            f.now = step::opening;
            f.awaited = 1;
            return true;
        }
        return false;
    }

    /// True when a request was made.
    bool write_some(sftp_client& client) {
        const auto block = client.write_block();
        if (!client.has_room(block)) return false;
        for (auto& [number, f] : sending_) {
            if (f.now != step::writing || !f.has_piece()) continue;
            const auto left = f.now_sent.left();
            const auto requests = (left + block - 1) / block;  // of one size, rather than a small one at the end
            const auto n = (left + requests - 1) / requests;
            const char* const bytes = text_ ? text_->data() : f.now_sent.room.data();
            client.write(number, f.handle, f.next, {bytes + f.now_sent.used, n});
            ++f.awaited;
            f.next += n;
            f.now_sent.used += n;
            if (!text_) ahead_ -= n;
            if (f.next == f.size) settle(client, number, f);
            return true;
        }
        return false;
    }
    void settle(sftp_client& client, std::uint32_t number, sent_file& f) {
        f.now = step::settling;
        sftp_attributes kept;
        if (options_.keeps_mode() && !text_) kept.mode = f.local->source.mode();
        if (options_.keeps_time() && !text_) kept.time = f.local->source.time();
        if (kept.mode || kept.time) {
            client.set_attributes(number, f.handle, kept);
            ++f.awaited;
        }
        client.close(number, f.handle);
        ++f.awaited;
        f.local = nullptr;
        f.now_sent = {};
    }
    /// Removes the temporary file.
    void clean(sftp_client& client, sent_file& f) {
        const auto number = static_cast<std::uint32_t>(f.what - files_.data());
        if (f.now == step::opening || f.now == step::writing) {
            client.close(number, f.handle);
            ++f.awaited;
        }
        client.remove(number, f.temporary);
        ++f.awaited;
        f.now = step::over;
    }

    void take_file(sftp_client& client, sent_file& f, const sftp_reply& reply) {
        --f.awaited;
        const bool ok = reply.status == sftp_status::ok;
        switch (f.now) {
            case step::opening:
                if (!ok) {
                    f.now = step::over;
                    return fail(reply, "make a file beside", f.what->to);
                }
                f.handle = reply.bytes;
                if (stopping_) return clean(client, f);
                f.now = step::writing;
                if (f.size == 0) settle(client, reply.file, f);
                return;
            case step::writing:
            case step::settling:
                if (!ok) return fail(reply, verb(reply.to), f.what->to);
                if (reply.to == sftp_request::write) done_ += reply.size;
                if (f.now == step::writing || f.awaited > 0) return;
                f.now = step::renaming;
                client.rename(reply.file, f.temporary, f.what->to);
                ++f.awaited;
                return;
            case step::renaming:
                if (ok) {
                    f.now = step::over;
                    return;
                }
                if (client.renames_over_files() || stopping_) {
                    fail(reply, "rename a file to", f.what->to);
                    return clean(client, f);
                }
                f.now = step::replacing;
                client.remove(reply.file, f.what->to);
                client.rename(reply.file, f.temporary, f.what->to);
                f.awaited += 2;
                return;
            case step::replacing:
                if (reply.to == sftp_request::remove) {
                    f.removed_old = ok;
                    return;
                }
                f.now = step::over;
                if (ok) return;
                if (!f.removed_old) {
                    fail(reply, "rename a file to", f.what->to);
                    return clean(client, f);
                }
                // The only copy that is left.
                return fail(reply, "rename a file, after the old one was removed: the new one stays under another name, beside", f.what->to);
            case step::reading:
            case step::over:
                return;
        }
    }
    static const char* verb(sftp_request what) {
        return what == sftp_request::write ? "write" : (what == sftp_request::close ? "close" : "set the mode or time of");
    }

    std::string to_;
    const std::optional<std::string> text_;
    const std::filesystem::path from_;
    const transfer_options options_;
    const std::string tag_;
    std::vector<std::vector<upload_directory>> levels_;  // of the tree
    std::vector<upload_file> files_;
    std::map<std::uint32_t, sent_file> sending_;  // by their places in `files_`
    std::size_t level_ = 0;
    std::size_t directory_ = 0;  // the next to be made, of this level
    std::size_t directories_awaited_ = 0;
    std::size_t next_file_ = 0;
    bool asked_about_target_ = false;
    std::size_t ahead_ = 0;                                                 // bytes read, or being read, and not sent
    std::shared_ptr<upload_tree> tree_;                                     // while it is listed
    std::vector<std::pair<std::shared_ptr<read_ahead>, std::size_t>> out_;  // being read, with the room that each was given
    bool listed_ = false;
    bool stopping_ = false;
};

}  // namespace sshpool::detail
