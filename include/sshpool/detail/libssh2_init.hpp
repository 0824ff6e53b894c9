#pragma once

#include <libssh2.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>

namespace sshpool::detail {

/// Starts libssh2 once per process. Never `libssh2_exit`: its counter is not atomic, and other users of libssh2 in the process share it.
inline void start_libssh2() {
    static std::once_flag once;
    std::call_once(once, [] {
        if (libssh2_init(0) != 0) throw std::runtime_error("libssh2 could not be initialised");
    });
}

template <class Function>
void set_libssh2_callback(LIBSSH2_SESSION* session, int which, Function* function) {
#if LIBSSH2_VERSION_NUM >= 0x010b01
    libssh2_session_callback_set2(session, which, reinterpret_cast<libssh2_cb_generic*>(function));
#else
    libssh2_session_callback_set(session, which, reinterpret_cast<void*>(function));
#endif
}

/// A server's words, fit for a message: control characters become blanks, other bytes beyond ASCII '?', at most 200 bytes.
inline std::string printable(std::string_view words) {
    constexpr std::size_t longest = 200;
    std::string text;
    for (const char c : words.substr(0, longest)) {
        const auto byte = static_cast<unsigned char>(c);
        text += byte < 0x20 || byte == 0x7f ? ' ' : (byte < 0x80 ? c : '?');
    }
    const auto last = text.find_last_not_of(' ');
    text.resize(last == std::string::npos ? 0 : last + 1);
    text.erase(0, text.find_first_not_of(' '));
    return text;
}

}  // namespace sshpool::detail
