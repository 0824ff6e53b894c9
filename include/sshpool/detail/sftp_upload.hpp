#pragma once

#include <sshpool/detail/local_file.hpp>
#include <sshpool/detail/sftp_transfer.hpp>
#include <sshpool/transfer_options.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// Sends a text, a file, or a directory with everything in it. Every file goes to a temporary name beside its own, and is renamed when
/// the server has confirmed every byte of it. Files are sent side by side, so a directory of small ones costs few round trips.
class sftp_upload final : public sftp_transfer {
public:
    /// `tag` makes the temporary names unlike any others.
    sftp_upload(std::string to, std::string bytes, transfer_options options, std::string tag)
        : to_(std::move(to)), bytes_(std::move(bytes)), options_(std::move(options)), tag_(std::move(tag)) {}
    sftp_upload(std::string to, std::filesystem::path from, transfer_options options, std::string tag)
        : to_(std::move(to)), from_(std::move(from)), options_(std::move(options)), tag_(std::move(tag)) {}

    void prepare() override {
        if (bytes_) {
            total_ = bytes_->size();
            files_.push_back({to_, {}, total_});
            return;
        }
        std::error_code ec;
        const auto status = std::filesystem::status(from_, ec);
        if (std::filesystem::is_directory(status)) {
            while (to_.size() > 1 && to_.back() == '/') to_.pop_back();
            list_directory(from_, to_, 0);
        } else {
            files_.push_back({to_, from_, 0});  // what is wrong with it shows when it is opened
        }
    }

    void ask(sftp_client& client) override {
        if (stopping_) return;
        if (!asked_about_target_ && levels_.empty()) client.stat(target, to_);  // that it is a directory would otherwise show at the end
        asked_about_target_ = true;
        while (!failed() && client.output().size() < enough_output) {
            if (level_ < levels_.size()) {
                if (!make_directories(client)) return;
            } else if (next_file_ < files_.size() && sending_.size() < most_open && client.has_room()) {
                open_next(client);
            } else if (!write_some(client)) {
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
            it = f.now == step::over && f.awaited == 0 ? sending_.erase(it) : std::next(it);
        }
    }
    bool is_over() const override {
        return sending_.empty() && directories_awaited_ == 0 && (stopping_ || failed() || (next_file_ == files_.size() && level_ == levels_.size()));
    }
    bool fetches() const noexcept override { return false; }

private:
    static constexpr std::size_t most_open = 64;  // far below what a process may have open
    static constexpr std::size_t most_files = 1'000'000;
    static constexpr std::size_t deepest = 100;
    static constexpr std::uint32_t target = UINT32_MAX;

    struct file {
        std::string to;
        std::filesystem::path from;
        std::uint64_t size = 0;  // as listed
    };
    struct directory {
        std::string to;
        bool made = false;
        bool there = false;
        std::optional<std::pair<errc, std::string>> trouble;
    };
    enum class step {
        opening,
        writing,
        settling,  // everything is sent, not everything is confirmed
        renaming,
        replacing,  // without posix-rename: the old file is removed first
        over,       // done, or removed
    };
    struct sent_file {
        const file* what = nullptr;
        local_source source;
        std::string temporary;
        std::string handle;
        std::uint64_t size = 0;
        std::uint64_t next = 0;
        std::size_t awaited = 0;  // replies
        step now = step::opening;
        bool removed_old = false;
    };

    /// Links to files are sent as files. Links to directories could lead in circles.
    void list_directory(const std::filesystem::path& from, const std::string& to, std::size_t depth) {
        if (levels_.size() == depth) levels_.emplace_back();
        levels_[depth].push_back({to, false, false, std::nullopt});
        std::error_code ec;
        auto entry = std::filesystem::directory_iterator{from, ec};
        for (; !ec && entry != std::filesystem::directory_iterator{} && !failed(); entry.increment(ec)) {
            const auto path = entry->path();
            auto name = (to == "/" ? to : to + "/") + path.filename().native();
            std::error_code problem;
            const auto status = entry->status(problem);
            if (files_.size() == most_files || depth == deepest) return fail_here("has too many files or levels of directories in " + from_.string());
            if (std::filesystem::is_directory(status) && !entry->is_symlink(problem)) {
                list_directory(path, name, depth + 1);
            } else if (std::filesystem::is_regular_file(status)) {
                const auto size = entry->file_size(problem);
                files_.push_back({std::move(name), path, problem ? 0 : size});
                total_ += files_.back().size;
            } else {
                return fail_here("cannot send " + path.string() + ": it is neither a file nor a directory nor a link to a file");
            }
        }
        if (ec) fail_here("cannot read the directory " + from.string() + ": " + ec.message());
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

    void open_next(sftp_client& client) {
        const auto number = static_cast<std::uint32_t>(next_file_);
        const auto& what = files_[next_file_++];
        sent_file f;
        f.what = &what;
        if (bytes_) {
            f.size = bytes_->size();
        } else {
            if (const auto trouble = f.source.open(what.from); !trouble.empty()) return fail_here(trouble);
            f.size = f.source.size();
            total_ += f.size - what.size;
        }
        f.temporary = temporary_beside(what.to, tag_ + (files_.size() > 1 ? "-" + std::to_string(number) : std::string{}));
        client.open_new(number, f.temporary, options_.mode().value_or(bytes_ ? 0666U : f.source.mode()));
        f.awaited = 1;
        sending_.emplace(number, std::move(f));
    }

    /// True when a request was made.
    bool write_some(sftp_client& client) {
        const auto block = client.write_block();
        if (!client.has_room(block)) return false;
        for (auto& [number, f] : sending_) {
            if (f.now != step::writing) continue;
            const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(block, f.size - f.next));
            const auto n = client.write(number, f.handle, f.next, wanted, [&f = f, this](char* into, std::size_t size) {
                if (!bytes_) return f.source.read(f.next, into, size);
                std::memcpy(into, bytes_->data() + f.next, size);
                return size;
            });
            if (n > 0) ++f.awaited;
            f.next += n;
            if (n < wanted) {
                fail_here(f.source.trouble().empty() ? "has a file that became shorter while it was sent: " + f.what->from.string() : f.source.trouble());
            } else if (f.next == f.size) {
                settle(client, number, f);
            }
            return true;
        }
        return false;
    }
    void settle(sftp_client& client, std::uint32_t number, sent_file& f) {
        f.now = step::settling;
        sftp_attributes kept;
        if (options_.keeps_mode() && !bytes_) kept.mode = f.source.mode();
        if (options_.keeps_time() && !bytes_) kept.time = f.source.time();
        if (kept.mode || kept.time) {
            client.set_attributes(number, f.handle, kept);
            ++f.awaited;
        }
        client.close(number, f.handle);
        ++f.awaited;
        f.source = {};
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
            case step::over:
                return;
        }
    }
    static const char* verb(sftp_request what) {
        return what == sftp_request::write ? "write" : (what == sftp_request::close ? "close" : "set the mode or time of");
    }

    std::string to_;
    std::optional<std::string> bytes_;
    std::filesystem::path from_;
    const transfer_options options_;
    const std::string tag_;
    std::vector<std::vector<directory>> levels_;  // of the tree
    std::vector<file> files_;
    std::map<std::uint32_t, sent_file> sending_;  // by their places in `files_`
    std::size_t level_ = 0;
    std::size_t directory_ = 0;  // the next to be made, of this level
    std::size_t directories_awaited_ = 0;
    std::size_t next_file_ = 0;
    bool asked_about_target_ = false;
    bool stopping_ = false;
};

}  // namespace sshpool::detail
