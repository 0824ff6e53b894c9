#pragma once

#include <sshpool/credentials.hpp>
#include <sshpool/detail/memory_session.hpp>
#include <sshpool/detail/private_key.hpp>

#include <libssh2.h>

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace sshpool::detail {

enum class login_progress { pending, accepted, refused, unusable, broken };

/// Logs in over a session whose host key was accepted: the methods in order, until one is accepted.
///
/// Keys of all types sign through libssh2's callback: libssh2 1.10 would sign RSA with SHA-1 only, which OpenSSH refuses since 8.8, and would
/// decrypt a key file with a passphrase twice on every login.
class login {
public:
    login(memory_session& session, std::string user, std::vector<login_method> methods)
        : session_(session), user_(std::move(user)), methods_(std::move(methods)) {}
    login(const login&) = delete;
    login& operator=(const login&) = delete;

    /// To be called on every input, with the gate open.
    login_progress step() {
        while (next_ < methods_.size()) {
            const int rc = std::visit([this](const auto& method) { return attempt(method); }, methods_[next_]);
            if (rc == 0) return login_progress::accepted;
            if (rc == LIBSSH2_ERROR_EAGAIN) return login_progress::pending;
            // A loss while an answer is awaited comes back as -19, like a refusal by libssh2 itself.
            if (session_.at_end() || session_.over_allowance() || session_.out_of_memory()) return login_progress::broken;
            if (rc != skipped && rc != LIBSSH2_ERROR_AUTHENTICATION_FAILED && rc != LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED && rc != LIBSSH2_ERROR_PASSWORD_EXPIRED)
                return login_progress::broken;
            if (rc != skipped) ++refusals_;
            ++next_;
            way_ = way::first;
        }
        return refusals_ > 0 ? login_progress::refused : login_progress::unusable;
    }

    /// What was tried and how it ended, for a message: "the key ssh-ed25519 SHA256:… was refused".
    const std::string& account() const noexcept { return account_; }
    bool any_refused() const noexcept { return refusals_ > 0; }

private:
    enum class way { first, list, interactive };
    static constexpr int skipped = 1;

    int attempt(const login_key& method) {
        const auto& blob = method.key->userauth_blob();
        signing_key_ = method.key.get();
        sign_error_.clear();
        void* self = this;
        const int rc =
            libssh2_userauth_publickey(session_.raw(), user_.c_str(), reinterpret_cast<const unsigned char*>(blob.data()), blob.size(), &sign_hook, &self);
        if (rc == 0 || rc == LIBSSH2_ERROR_EAGAIN) return rc;
        const auto name = "the key " + method.key->type() + " " + method.key->fingerprint();
        if (!sign_error_.empty()) {
            note(name + " could not sign (" + sign_error_ + ")");
            return skipped;
        }
        note(name + " was refused");
        return rc;
    }

    int attempt(const login_password& method) {
        if (way_ == way::first) {
            const auto text = method.text->view();
            const int rc = libssh2_userauth_password_ex(session_.raw(), user_.c_str(), static_cast<unsigned>(user_.size()), text.data(),
                                                        static_cast<unsigned>(text.size()), nullptr);
            if (rc == LIBSSH2_ERROR_PASSWORD_EXPIRED) note("the password has expired");
            if (rc != LIBSSH2_ERROR_AUTHENTICATION_FAILED || session_.at_end()) return rc;
            way_ = way::list;
        }
        if (way_ == way::list) {
            // Only now: a server that takes passwords, but not this one, must not see it a second time as an answer to a question.
            const char* const list = libssh2_userauth_list(session_.raw(), user_.c_str(), static_cast<unsigned>(user_.size()));
            if (list == nullptr) {
                if (libssh2_userauth_authenticated(session_.raw()) != 0) return 0;
                const int rc = libssh2_session_last_errno(session_.raw());
                if (rc != LIBSSH2_ERROR_EAGAIN) note("the password was refused");
                return rc;
            }
            const std::string_view offered{list};
            const auto offers = [&](std::string_view name) {
                return ("," + std::string{offered} + ",").find("," + std::string{name} + ",") != std::string::npos;
            };
            if (offers("password") || !offers("keyboard-interactive")) {
                note("the password was refused (the server offers " + printable(offered) + ")");
                return LIBSSH2_ERROR_AUTHENTICATION_FAILED;
            }
            way_ = way::interactive;
            answered_ = false;
            // A server's question may name lengths that libssh2 1.10 believes: no block larger than the largest packet.
            session_.allow_memory(session_.memory_used() + (std::size_t{128} << 10));
        }
        answer_ = method.text.get();
        login_of_callback_ = this;
        const int rc = libssh2_userauth_keyboard_interactive_ex(session_.raw(), user_.c_str(), static_cast<unsigned>(user_.size()), &question_hook);
        login_of_callback_ = nullptr;
        if (rc != LIBSSH2_ERROR_EAGAIN) session_.allow_memory(memory_session::base_memory);
        if (rc != 0 && rc != LIBSSH2_ERROR_EAGAIN) note("the password was refused (as an answer to keyboard-interactive)");
        return rc;
    }

    int attempt(const login_agent& /*method*/) {
        note("logins through an SSH agent are not possible with this version of the library");
        return skipped;
    }

    void note(const std::string& what) { account_ += (account_.empty() ? "" : "; ") + what; }

    static LIBSSH2_USERAUTH_PUBLICKEY_SIGN_FUNC(sign_hook) {
        (void)session;
        auto& self = *static_cast<login*>(*abstract);
        try {
            const auto signature = self.signing_key_->sign(std::span{data, data_len});
            void* const copy = self.session_.allocate(signature.size());
            if (copy == nullptr) return -1;
            std::memcpy(copy, signature.data(), signature.size());
            *sig = static_cast<unsigned char*>(copy);
            *sig_len = signature.size();
            return 0;
        } catch (const std::exception& e) {
            self.sign_error_ = e.what();
            return -1;
        }
    }

    static LIBSSH2_USERAUTH_KBDINT_RESPONSE_FUNC(question_hook) {
        (void)name;
        (void)name_len;
        (void)instruction;
        (void)instruction_len;
        (void)abstract;
        auto& self = *login_of_callback_;
        for (int i = 0; i < num_prompts; ++i) {
            // The password once, to the first question that hides what is typed; nothing to any other.
            responses[i].text = nullptr;
            responses[i].length = 0;
            if (prompts[i].echo != 0 || self.answered_) continue;
            const auto text = self.answer_->view();
            void* const copy = self.session_.allocate(text.size());
            if (copy == nullptr) return;
            std::memcpy(copy, text.data(), text.size());
            responses[i].text = static_cast<char*>(copy);
            responses[i].length = static_cast<unsigned>(text.size());
            self.answered_ = true;
        }
    }

    memory_session& session_;
    std::string user_;  // libssh2 reads it again on every step
    std::vector<login_method> methods_;
    std::size_t next_ = 0;
    way way_ = way::first;
    const private_key* signing_key_ = nullptr;
    const secret* answer_ = nullptr;
    bool answered_ = false;
    int refusals_ = 0;
    std::string sign_error_;
    std::string account_;

    inline static thread_local login* login_of_callback_ = nullptr;  // the session's own pointer is the memory_session
};

}  // namespace sshpool::detail
