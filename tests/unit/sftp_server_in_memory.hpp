#pragma once

#include <sshpool/detail/sftp_download.hpp>
#include <sshpool/detail/sftp_upload.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sshpool::test {

/// An sftp server of a few files in memory, driven by hand. It can answer in any order, and a test may put in a reply of its own.
class sftp_server_in_memory {
public:
    struct request {
        std::uint8_t type = 0;
        std::uint32_t id = 0;
        std::string path;    // or handle
        std::string second;  // the new name, the data, or an extension's name
        std::uint64_t offset = 0;
        std::uint32_t size = 0;
        std::uint32_t mode = 0;
        std::uint32_t time = 0;
    };
    struct file {
        std::string bytes;
        std::uint32_t mode = 0644;
        std::uint32_t time = 0;
    };

    std::map<std::string, file> files;
    std::set<std::string> directories{"", "/"};
    std::vector<std::pair<std::string, std::string>> extensions{{"posix-rename@openssh.com", "1"}, {"limits@openssh.com", "1"}};
    std::uint64_t largest = 64 << 10;                                   // of a read or write, as its limits say
    std::size_t most_per_read = SIZE_MAX;                               // short reads
    std::size_t disk = SIZE_MAX;                                        // bytes that it has room for
    bool newest_first = false;                                          // the order of answers
    std::optional<std::uint64_t> claimed_size;                          // of every file
    std::function<std::optional<std::string>(const request&)> instead;  // a reply of the test's own: whole packets, or nothing at all
    std::vector<request> seen;
    int slow_disk = 0;       // this machine's: the trips that a piece of work takes
    std::size_t rounds = 0;  // trips of requests and answers
    std::size_t most_awaited = 0;

    static std::string packet(std::string_view body) {
        std::string out;
        detail::append_string(out, body);
        return out;
    }
    static std::string reply(std::uint8_t type, std::uint32_t id, std::string_view rest) {
        std::string body(1, static_cast<char>(type));
        detail::append_u32(body, id);
        body += rest;
        return packet(body);
    }
    static std::string status(std::uint32_t id, std::uint32_t code, std::string_view words) {
        std::string rest;
        detail::append_u32(rest, code);
        detail::append_string(rest, words);
        detail::append_string(rest, "");
        return reply(101, id, rest);
    }
    static std::string with_string(std::uint8_t type, std::uint32_t id, std::string_view text) {
        std::string rest;
        detail::append_string(rest, text);
        return reply(type, id, rest);
    }

    /// Takes everything that the client has to send, and answers it. What a transfer has no room for comes when it has.
    void serve(detail::sftp_client& client, detail::sftp_transfer* transfer = nullptr) {
        auto out = client.output();
        input_ += out;
        client.sent(out.size());
        std::deque<request> now;
        while (input_.size() >= 4) {
            const auto size = detail::wire_reader{input_}.u32();
            if (input_.size() < size + 4) break;
            now.push_back(parse(std::string_view{input_}.substr(4, size)));
            input_.erase(0, size + 4);
        }
        if (!now.empty()) ++rounds;
        most_awaited = std::max(most_awaited, now.size());
        std::deque<std::string> answers;
        for (const auto& r : now) {
            seen.push_back(r);
            std::optional<std::string> own;
            if (instead) own = instead(r);
            answers.push_back(own ? *own : answer(r));
        }
        if (newest_first && answers.size() > 1) std::reverse(answers.begin() + (now.front().type == 1 ? 1 : 0), answers.end());
        std::move(answers.begin(), answers.end(), std::back_inserter(unsent_));
        while (!unsent_.empty() && (transfer == nullptr || transfer->has_room())) {
            give(client, unsent_.front());
            unsent_.pop_front();
            if (transfer == nullptr) continue;
            while (const auto reply = client.next()) transfer->take(client, *reply);
        }
    }
    static void give(detail::sftp_client& client, std::string_view bytes) {
        std::copy(bytes.begin(), bytes.end(), client.room(bytes.size()));
        client.received(bytes.size());
    }
    std::size_t count(std::uint8_t type) const {
        return static_cast<std::size_t>(std::count_if(seen.begin(), seen.end(), [&](const request& r) { return r.type == type; }));
    }

private:
    static std::uint64_t u64(detail::wire_reader& in) {
        const std::uint64_t high = in.u32();
        return high << 32U | in.u32();
    }
    static request parse(std::string_view packet) {
        request r;
        r.type = static_cast<std::uint8_t>(packet.front());
        detail::wire_reader in{packet.substr(1)};
        r.id = in.u32();
        if (r.type == 1) return r;
        r.path = in.string();
        const auto attributes = [&] {
            const auto flags = in.u32();
            if ((flags & 4U) != 0) r.mode = in.u32();
            if ((flags & 8U) == 0) return;
            in.u32();
            r.time = in.u32();
        };
        switch (r.type) {
            case 3:
                r.size = in.u32();  // the flags
                attributes();
                break;
            case 5:
                r.offset = u64(in);
                r.size = in.u32();
                break;
            case 6:
                r.offset = u64(in);
                r.second = in.string();
                break;
            case 10:
            case 14:
                attributes();
                break;
            case 18:
                r.second = in.string();
                break;
            case 200:
                r.second = r.path;
                if (r.second == "posix-rename@openssh.com") {
                    r.path = in.string();
                    r.mode = 1;
                    r.second = in.string();
                }
                break;
            default:
                break;
        }
        if (!in.done()) r.type = 255;  // a request that is longer or shorter than it should be
        return r;
    }
    static std::string parent(const std::string& path) {
        const auto slash = path.rfind('/');
        return slash == std::string::npos ? std::string{} : path.substr(0, slash);
    }
    std::size_t used() const {
        std::size_t sum = 0;
        for (const auto& [name, f] : files) sum += f.bytes.size();
        return sum;
    }

    std::string answer(const request& r) {
        switch (r.type) {
            case 1: {
                std::string body(1, '\2');
                detail::append_u32(body, 3);
                for (const auto& [name, value] : extensions) {
                    detail::append_string(body, name);
                    detail::append_string(body, value);
                }
                return packet(body);
            }
            case 3: {
                if ((r.size & 8U) != 0) {
                    if (!directories.contains(parent(r.path))) return status(r.id, 2, "No such file");
                    if (files.contains(r.path)) return status(r.id, 4, "Failure");
                    files[r.path] = {"", r.mode, 0};
                } else if (!files.contains(r.path)) {
                    return status(r.id, 2, "No such file");
                }
                const auto handle = "h" + std::to_string(next_handle_++);
                handles_[handle] = r.path;
                return with_string(102, r.id, handle);
            }
            case 4:
                return status(r.id, handles_.erase(r.path) == 1 ? 0 : 4, "");
            case 5: {
                const auto& bytes = files[handles_.at(r.path)].bytes;
                if (r.offset >= bytes.size()) return status(r.id, 1, "End of file");
                return with_string(103, r.id, std::string_view{bytes}.substr(r.offset, std::min<std::size_t>(r.size, most_per_read)));
            }
            case 6: {
                if (used() + r.second.size() > disk) return status(r.id, 4, "Failure");
                auto& bytes = files[handles_.at(r.path)].bytes;
                bytes.resize(std::max<std::size_t>(bytes.size(), r.offset + r.second.size()));
                bytes.replace(r.offset, r.second.size(), r.second);
                return status(r.id, 0, "");
            }
            case 10: {
                auto& f = files[handles_.at(r.path)];
                if (r.mode != 0) f.mode = r.mode;
                if (r.time != 0) f.time = r.time;
                return status(r.id, 0, "");
            }
            case 13:
                return status(r.id, files.erase(r.path) == 1 ? 0 : 2, "");
            case 14:
                if (directories.contains(r.path)) return status(r.id, 4, "Failure");
                if (!directories.contains(parent(r.path))) return status(r.id, 2, "No such file");
                directories.insert(r.path);
                return status(r.id, 0, "");
            case 17: {
                std::string rest;
                const auto f = files.find(r.path);
                if (f == files.end() && !directories.contains(r.path)) return status(r.id, 2, "No such file");
                detail::append_u32(rest, 1 | 4 | 8);
                const auto size = claimed_size.value_or(f == files.end() ? 0 : f->second.bytes.size());
                detail::append_u32(rest, size >> 32U);
                detail::append_u32(rest, static_cast<std::uint32_t>(size));
                detail::append_u32(rest, f == files.end() ? 0040755U : 0100000U | f->second.mode);
                detail::append_u32(rest, 0);
                detail::append_u32(rest, f == files.end() ? 0U : f->second.time);
                return reply(105, r.id, rest);
            }
            case 18:
                if (files.contains(r.second)) return status(r.id, 4, "Failure");
                [[fallthrough]];
            case 200: {
                if (r.second == "limits@openssh.com") {
                    std::string rest;
                    for (const std::uint64_t n : {std::uint64_t{256} << 10, largest, largest, std::uint64_t{100}}) {
                        detail::append_u32(rest, n >> 32U);
                        detail::append_u32(rest, static_cast<std::uint32_t>(n));
                    }
                    return reply(201, r.id, rest);
                }
                auto found = files.extract(r.path);
                if (found.empty() || directories.contains(r.second)) return status(r.id, 4, "Failure");
                files[r.second] = std::move(found.mapped());
                return status(r.id, 0, "");
            }
            default:
                return status(r.id, 5, "Bad message");
        }
    }

    std::string input_;
    std::deque<std::string> unsent_;
    std::map<std::string, std::string> handles_;
    int next_handle_ = 0;
};

/// Carries requests and replies between the two, with the work on local files done in between, until the transfer is over or the client has a fault; false:
/// neither, within `most` trips.
inline bool carry(detail::sftp_client& client, detail::sftp_transfer& transfer, sftp_server_in_memory& server, int most = 10'000) {
    const std::atomic<bool> stop{false};
    detail::local_work out;
    int due = 0;
    const auto work = [&](int round) {
        for (;;) {
            if (!out) {
                out = transfer.take_work();
                due = round + server.slow_disk;
            }
            if (!out || round < due) return;
            std::exchange(out, nullptr)(stop);
            transfer.work_done(client);
        }
    };
    for (int i = 0; i < most; ++i) {
        work(i);
        transfer.ask(client);
        work(i);
        if (transfer.is_over() || !client.fault().empty()) return true;
        server.serve(client, &transfer);
        work(i);
        if (transfer.is_over() || !client.fault().empty()) return true;
    }
    return false;
}

}  // namespace sshpool::test
