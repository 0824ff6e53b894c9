#pragma once

#include <sshpool/error.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace sshpool::detail {

/// A file to be sent.
struct upload_file {
    std::string to;
    std::filesystem::path from;
    std::uint64_t size = 0;  // as listed
};

/// A directory to be made.
struct upload_directory {
    std::string to;
    bool made = false;
    bool there = false;
    std::optional<std::pair<errc, std::string>> trouble;
};

/// What is to be sent: a file, or a directory with everything in it, as it is found on this machine. Looking may block.
class upload_tree {
public:
    std::vector<std::vector<upload_directory>> levels;
    std::vector<upload_file> files;
    std::uint64_t size = 0;
    std::string trouble;  // why it cannot be sent

    void list(const std::filesystem::path& from, std::string to, const std::atomic<bool>& stop) {
        std::error_code ec;
        const auto status = std::filesystem::status(from, ec);
        if (!std::filesystem::is_directory(status)) {  // what is wrong with it shows when it is opened
            size = std::filesystem::is_regular_file(status) ? std::filesystem::file_size(from, ec) : 0;
            if (ec) size = 0;
            files.push_back({std::move(to), from, size});
            return;
        }
        while (to.size() > 1 && to.back() == '/') to.pop_back();
        list_directory(from, from, to, 0, stop);
    }

private:
    static constexpr std::size_t most_files = 1'000'000;
    static constexpr std::size_t deepest = 100;

    /// Links to files are sent as files. Links to directories could lead in circles.
    void list_directory(const std::filesystem::path& root, const std::filesystem::path& from, const std::string& to, std::size_t depth,
                        const std::atomic<bool>& stop) {
        if (levels.size() == depth) levels.emplace_back();
        levels[depth].push_back({to, false, false, std::nullopt});
        std::error_code ec;
        auto entry = std::filesystem::directory_iterator{from, ec};
        for (; !ec && entry != std::filesystem::directory_iterator{} && trouble.empty() && !stop; entry.increment(ec)) {
            const auto path = entry->path();
            auto name = (to == "/" ? to : to + "/") + path.filename().native();
            std::error_code problem;
            const auto status = entry->status(problem);
            if (files.size() == most_files || depth == deepest) {
                trouble = "has too many files or levels of directories in " + root.string();
            } else if (std::filesystem::is_directory(status) && !entry->is_symlink(problem)) {
                list_directory(root, path, name, depth + 1, stop);
            } else if (std::filesystem::is_regular_file(status)) {
                const auto bytes = entry->file_size(problem);
                files.push_back({std::move(name), path, problem ? 0 : bytes});
                size += files.back().size;
            } else {
                trouble = "cannot send " + path.string() + ": it is neither a file nor a directory nor a link to a file";
            }
        }
        if (ec) trouble = "cannot read the directory " + from.string() + ": " + ec.message();
    }
};

}  // namespace sshpool::detail
