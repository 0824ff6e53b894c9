#pragma once

#include <sshpool/detail/descriptor.hpp>
#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/secret.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

namespace sshpool::detail {

inline constexpr std::size_t largest_key_file = std::size_t{1} << 20;

/// Without iostreams, whose buffers would keep a copy of the key. Opened without blocking, so that a FIFO cannot hold the caller.
/// `what` it should be, for messages.
inline secret read_key_file(const std::filesystem::path& file, const std::string& what = "the private key") {
    const auto name = what + " " + file_in_quotes(file.string());
    const auto because = [&](int error) { return key_error(name + " cannot be read: " + std::generic_category().message(error)); };
    if (file.empty()) throw key_error(what + "'s file name is empty");
    if (file.native().find('\0') != std::string::npos) throw key_error(name + " cannot be read: a file name holds no NUL byte");
    const descriptor fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (fd.get() < 0) throw because(errno);
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) throw because(errno);
    if (S_ISDIR(status.st_mode)) throw key_error(name + " is a directory");
    if (!S_ISREG(status.st_mode)) throw key_error(name + " is no regular file");
    if (static_cast<unsigned long long>(status.st_size) > largest_key_file) throw key_error(name + " is larger than 1 MiB: that is no key");
    secret text;
    text.resize(static_cast<std::size_t>(status.st_size));
    std::size_t have = 0;
    while (have < text.size()) {
        const auto got = ::read(fd.get(), text.data() + have, text.size() - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw because(errno);
        if (got == 0) break;
        have += static_cast<std::size_t>(got);
    }
    text.resize(have);
    if (text.empty()) throw key_error(name + " is empty");
    return text;
}

}  // namespace sshpool::detail
