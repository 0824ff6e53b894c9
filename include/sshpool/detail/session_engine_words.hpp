#pragma once

#include <sshpool/detail/session_engine.hpp>

// How the session engine tells what went wrong. Included by session_engine.hpp.

namespace sshpool::detail {

/// The server's version line, once it is there: other lines may stand before it (RFC 4253 section 4.2).
inline std::optional<std::string_view> session_engine::greeting() const noexcept {
    const std::string_view heard = io_.preamble();
    std::size_t at = 0;
    while (heard.substr(at, 4) != "SSH-") {
        at = heard.find('\n', at);
        if (at++ == std::string_view::npos) return std::nullopt;
    }
    const auto end = heard.find_first_of("\r\n", at);
    return heard.substr(at, end == std::string_view::npos ? end : end - at);
}

/// dropbear, as of 2026.94, closes every session channel on which nothing runs yet when the command of another one ends, and ends the connection when a
/// command is then started on such a channel. So there it is one session channel at a time.
inline bool session_engine::is_dropbear() const noexcept { return greeting().value_or(std::string_view{}).starts_with("SSH-2.0-dropbear"); }

inline error_info session_engine::describe_greeting_failure(int rc) const {
    const auto& heard = io_.preamble();
    const auto greeted = greeting().has_value();
    if (greeted) {
        auto why = !io_.disconnect_words().empty() ? "said: " + io_.disconnect_words() : std::string{};
        if (why.empty() && io_.over_allowance()) why = "sent more than " + std::to_string(greeting_allowance >> 10U) + " KiB before the key exchange had ended";
        if (why.empty() && io_.at_end())
            why = (end_words_.empty() ? "closed the connection" : "lost the connection (" + end_words_ + ")") + " during the key exchange";
        if (why.empty()) why = "failed the key exchange (libssh2 error " + std::to_string(rc) + ": " + io_.last_words() + ")";
        return trouble(errc::handshake_failed, "key exchange", why);
    }
    const auto line = printable(std::string_view{heard}.substr(0, heard.find_first_of("\r\n")));
    if (line.empty() && !io_.over_allowance())
        return trouble(errc::server_busy, "banner", "dropped the connection before its banner: it takes no more logins at the moment");
    // sshd's own words, up to 9.7 and from 9.8 on
    if (line.starts_with("Exceeded MaxStartups") || line.starts_with("Not allowed at this time"))
        return trouble(errc::server_busy, "banner", "takes no more logins at the moment; it said: " + line);
    return trouble(errc::handshake_failed, "banner", "does not answer as an SSH server; it said: " + line);
}

inline error_info session_engine::describe_login_failure(login_progress how) const {
    const auto tried = login_.account().empty() ? std::string{} : "; " + login_.account();
    const auto as_whom = "as user " + options_.user;
    if (how == login_progress::unusable) return trouble(errc::key_unusable, "login", "cannot be logged in to " + as_whom + tried);
    if (how == login_progress::refused) return trouble(errc::auth_failed, "login", "refused the login " + as_whom + tried);
    if (io_.over_allowance())
        return trouble(errc::protocol_error, "login", "sent more than " + std::to_string(login_allowance >> 10U) + " KiB before the login had ended");
    const auto& words = io_.disconnect_words();
    const auto said = words.empty() ? std::string{} : "; it said: " + words;
    if (io_.was_disconnected() && words.find("authentication failures") != std::string::npos)  // sshd's MaxAuthTries
        return trouble(errc::auth_failed, "login", "refused the login " + as_whom + tried + said);
    if (io_.at_end() || io_.input_ended())
        return trouble(
            errc::connection_lost, "login",
            (end_words_.empty() ? "closed the connection" : "lost the connection (" + end_words_ + ")") + " during the login " + as_whom + tried + said);
    return trouble(errc::protocol_error, "login", "broke the protocol during the login " + as_whom + " (" + io_.last_words() + ")" + tried + said);
}

inline error_info session_engine::describe_loss(int rc, const char* phase) const {
    if (io_.out_of_memory()) return trouble(errc::protocol_error, phase, "made this end keep more memory for it than a connection may use");
    if (!io_.disconnect_words().empty()) return trouble(errc::connection_lost, phase, "ended the connection; it said: " + io_.disconnect_words());
    if (rc == LIBSSH2_ERROR_SOCKET_RECV || rc == LIBSSH2_ERROR_SOCKET_DISCONNECT || rc == LIBSSH2_ERROR_SOCKET_SEND || io_.at_end())
        return trouble(errc::connection_lost, phase, end_words_.empty() ? "closed the connection" : "lost the connection: " + end_words_);
    return trouble(errc::protocol_error, phase, "broke the protocol (libssh2 error " + std::to_string(rc) + ": " + io_.last_words() + ")");
}

}  // namespace sshpool::detail
