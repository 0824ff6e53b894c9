#pragma once

#include <sshpool/credentials.hpp>
#include <sshpool/detail/agent_protocol.hpp>
#include <sshpool/detail/memory_session.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/user_certificate.hpp>

#include <libssh2.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
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
/// decrypt a key file with a passphrase twice on every login. An agent's answers come from outside, since only a thread that may block can ask it:
/// until one is there the callback says EAGAIN, and libssh2 asks again.
class login {
public:
    static constexpr std::size_t most_agent_keys = 5;  // of sshd's MaxAuthTries, which is 6

    login(memory_session& session, std::string user, std::vector<login_method> methods)
        : session_(session), user_(std::move(user)), methods_(std::move(methods)) {
        const auto is_password = [](const login_method& m) { return std::holds_alternative<login_password>(m); };
        // It may be in any packet that waits when the questions begin, so from the first one on.
        if (libssh2_version(0x010b00) == nullptr && std::any_of(methods_.begin(), methods_.end(), is_password)) session_.pad(longest_question);
    }
    /// A server's question may name lengths that libssh2 1.10 believes: it then allocates so much, at the most, and copies it from behind the packet's end.
    static constexpr std::size_t longest_question = std::size_t{128} << 10;
    login(const login&) = delete;
    login& operator=(const login&) = delete;

    /// To be called on every input, with the gate open.
    login_progress step() {
        while (next_ < methods_.size()) {
            const int rc = std::visit([this](const auto& method) { return attempt(method); }, methods_[next_]);
            if (rc == 0) return login_progress::accepted;
            if (awaits_agent_ && session_.input_ended()) return login_progress::broken;  // libssh2 does not look before it has its signature
            if (rc == LIBSSH2_ERROR_EAGAIN) return login_progress::pending;
            // A loss while an answer is awaited comes back as -19, like a refusal by libssh2 itself.
            if (is_lost() || rc < 0) return login_progress::broken;
            ++next_;
            way_ = way::first;
        }
        return refusals_ > 0 ? login_progress::refused : login_progress::unusable;
    }

    /// What was tried and how it ended, for a message: "the key ssh-ed25519 SHA256:… was refused".
    const std::string& account() const noexcept { return account_; }
    bool any_refused() const noexcept { return refusals_ > 0; }

    /// Something to ask an agent, if there is; `agent_answered` is called with the answer, then `step`.
    std::optional<agent_question> take_question() { return std::exchange(question_, std::nullopt); }
    void agent_answered(agent_answer answer) {
        awaits_agent_ = false;
        answer_of_agent_ = std::move(answer);
    }

private:
    enum class way { first, offered, interactive, without_certificate, listing, agent_keys };
    static constexpr int given_up = 1;  // this method cannot log in; the next one may

    bool is_lost() const noexcept { return session_.at_end() || session_.over_allowance() || session_.out_of_memory(); }
    static bool is_refusal(int rc) noexcept {
        return rc == LIBSSH2_ERROR_AUTHENTICATION_FAILED || rc == LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED || rc == LIBSSH2_ERROR_PASSWORD_EXPIRED;
    }
    void note(const std::string& what) { account_ += (account_.empty() ? "" : "; ") + what; }

    /// What libssh2 answered to one key or password that is called `name`: 0, EAGAIN and errors as they are, otherwise a note.
    int judge(int rc, const std::string& name) {
        if (rc == 0 || rc == LIBSSH2_ERROR_EAGAIN) return rc;
        if (!sign_error_.empty()) {
            note(name + " could not sign (" + sign_error_ + ")");
            return given_up;
        }
        // That is no refusal. A stream that broke while the answer was awaited has the number of one; libssh2's words alone differ.
        if (is_lost() || session_.last_words().starts_with("Waiting for")) {
            note(name + " was being tried");
            return rc;
        }
        note(name + " was refused");
        ++refusals_;
        return is_refusal(rc) ? given_up : rc;
    }

    int offer(std::string_view blob) {
        sign_error_.clear();
        void* self = this;
        return libssh2_userauth_publickey(session_.raw(), user_.c_str(), reinterpret_cast<const unsigned char*>(blob.data()), blob.size(), &sign_hook, &self);
    }

    // A key -------------------------------------------------------------------------------------------------------------------

    int attempt(const login_key& method) {
        const auto name = "the key " + method.key->type() + " " + method.key->fingerprint();
        signing_key_ = method.key.get();
        if (way_ == way::first) {
            const auto* const certificate = method.certificate.get();
            if (certificate != nullptr && !is_usable_key_type(certificate->type)) {
                note(certificate->words + " cannot be used, for it is of the type " + certificate->type);
            } else if (certificate != nullptr) {
                certificate_type_ = certificate->type;
                const int rc = judge(offer(certificate->blob), certificate->words + " of " + name);
                if (rc != given_up) return rc;
            }
            certificate_type_.clear();
            way_ = way::without_certificate;
        }
        return judge(offer(method.key->userauth_blob()), name);
    }

    // An agent ----------------------------------------------------------------------------------------------------------------

    int attempt(const login_agent& method) {
        signing_key_ = nullptr;
        const auto agent = "the SSH agent " + file_in_quotes(method.socket);
        if (way_ == way::first) {
            way_ = way::listing;
            ask({method.socket, agent_list_request()});
        }
        if (way_ == way::listing) {
            if (!answer_of_agent_) return LIBSSH2_ERROR_EAGAIN;
            if (!take_keys(*answer_of_agent_, agent)) return given_up;
            way_ = way::agent_keys;
        }
        for (; !agent_keys_.empty(); agent_keys_.erase(agent_keys_.begin())) {
            const auto& key = agent_keys_.front();
            agent_socket_ = method.socket;
            const int rc = judge(offer(blob_to_show(key)), "the agent's key " + in_words(key.type) + " " + fingerprint(key.blob));
            if (rc != given_up) return rc;
            answer_of_agent_.reset();
        }
        return given_up;
    }
    void ask(agent_question question) {
        answer_of_agent_.reset();
        question_ = std::move(question);
        awaits_agent_ = true;
    }
    bool take_keys(const agent_answer& answer, const std::string& agent) {
        auto keys = parse_agent_keys(answer.reply);
        std::string problem = answer.problem;
        if (problem.empty() && agent_said(answer.reply, agent_message::failure)) problem = agent + " refused to list its keys";
        if (problem.empty() && !keys) problem = agent + " broke the protocol";
        if (problem.empty() && keys->empty()) problem = agent + " holds no keys, or is locked";
        answer_of_agent_.reset();
        if (!problem.empty()) {
            note(problem);
            return false;
        }
        const auto held = keys->size();
        std::erase_if(*keys, [](const agent_key& k) { return !is_usable_key_type(k.type) || k.blob.size() > largest_agent_key; });
        if (const auto unusable = held - keys->size(); unusable != 0)
            note(std::to_string(unusable) + " of the " + std::to_string(held) + " keys of " + agent + " are of types that cannot be used");
        if (keys->size() > most_agent_keys) {
            note("of the " + std::to_string(keys->size()) + " keys of " + agent + " only the first " + std::to_string(most_agent_keys) +
                 " were tried, since servers cut the connection after a few");
            keys->resize(most_agent_keys);
        }
        agent_keys_ = std::move(*keys);
        return true;
    }
    static std::string blob_to_show(const agent_key& key) {
        wire_reader in{key.blob};
        if (in.string() != "ssh-rsa") return key.blob;
        std::string blob;
        append_string(blob, signature_algorithm("ssh-rsa"));  // see private_key::userauth_blob
        return blob.append(in.rest());
    }
    static std::string_view signature_algorithm(std::string_view type) noexcept { return type == "ssh-rsa" ? "rsa-sha2-256" : plain_key_type(type); }
    static std::string in_words(std::string_view type) {
        const auto text = in_quotes(type);
        return text.substr(1, text.size() - 2);
    }

    // Signatures --------------------------------------------------------------------------------------------------------------

    /// Nothing: the agent has not answered yet.
    std::optional<std::string> sign(std::span<const unsigned char> data) {
        if (signing_key_ != nullptr) return signing_key_->sign(data);
        const auto& key = agent_keys_.front();
        if (!answer_of_agent_) {
            if (!awaits_agent_) ask({agent_socket_, agent_sign_request(key, {reinterpret_cast<const char*>(data.data()), data.size()})});
            return std::nullopt;
        }
        const auto answer = std::move(*std::exchange(answer_of_agent_, std::nullopt));
        if (!answer.problem.empty()) throw key_error(answer.problem);
        if (agent_said(answer.reply, agent_message::failure)) throw key_error("the agent refused");
        auto signature = parse_agent_signature(answer.reply, signature_algorithm(key.type));
        if (!signature) throw key_error("the agent gave no signature of the kind that was asked for");
        return signature;
    }
    /// As what the key was shown that signs now, where libssh2 will put a wrong name before the signature: 1.10 takes that of the certificate for all
    /// but ECDSA keys.
    std::string_view wrong_name() const noexcept {
        const std::string_view type = signing_key_ != nullptr ? certificate_type_ : agent_keys_.front().type;
        const bool is_wrong = type.ends_with(certificate_suffix) && !type.starts_with("ecdsa-") && libssh2_version(0x010b00) == nullptr;
        return is_wrong ? type : std::string_view{};
    }
    /// By how much the wrong name is too long.
    std::size_t excess() const noexcept { return wrong_name().empty() ? 0 : certificate_suffix.size(); }
    /// Memory of libssh2's with the signature for it to send. With a wrong name before it, it is given as many bytes less as the name is too long; when
    /// libssh2 has put both into its packet it frees them, and then the packet's end is put right.
    void* hand_over(const std::string& signature, std::string_view data) {
        const auto wrong = wrong_name();
        const auto size = signature.size() - excess();
        void* const memory = session_.allocate(size);
        if (memory == nullptr) return nullptr;
        std::memcpy(memory, signature.data(), size);
        if (!wrong.empty()) {
            const auto end_of_packet = [](std::string_view name, std::string_view bytes) {
                std::string inner;
                append_string(inner, name);
                append_string(inner, bytes);
                std::string end;
                append_string(end, inner);
                return end;
            };
            wire_reader signed_data{data};
            signed_data.string();  // the session's id
            session_.when_given_back(memory, [&session = session_, packet = std::string{signed_data.rest()},
                                              composed = end_of_packet(wrong, std::string_view{signature}.substr(0, size)),
                                              right = end_of_packet(plain_key_type(wrong), signature)] {
                char* const found = session.find_memory(packet, packet.size() + right.size());
                if (found != nullptr && std::memcmp(found + packet.size(), composed.data(), composed.size()) == 0)
                    std::memcpy(found + packet.size(), right.data(), right.size());
            });
        }
        return memory;
    }

    static LIBSSH2_USERAUTH_PUBLICKEY_SIGN_FUNC(sign_hook) {
        (void)session;
        auto& self = *static_cast<login*>(*abstract);
        try {
            const auto signature = self.sign(std::span{data, data_len});
            if (!signature) return LIBSSH2_ERROR_EAGAIN;
            if (signature->size() <= self.excess()) throw key_error("the agent gave " + std::to_string(signature->size()) + " bytes as a signature");
            *sig = static_cast<unsigned char*>(self.hand_over(*signature, {reinterpret_cast<const char*>(data), data_len}));
            *sig_len = signature->size() - self.excess();
            return *sig == nullptr ? -1 : 0;
        } catch (const std::exception& e) {
            self.sign_error_ = e.what();
            return -1;
        }
    }

    // A password --------------------------------------------------------------------------------------------------------------

    int attempt(const login_password& method) {
        sign_error_.clear();
        if (way_ == way::first) {
            const auto text = method.text->view();
            const int rc = libssh2_userauth_password_ex(session_.raw(), user_.c_str(), static_cast<unsigned>(user_.size()), text.data(),
                                                        static_cast<unsigned>(text.size()), nullptr);
            if (rc == LIBSSH2_ERROR_PASSWORD_EXPIRED) {
                note("the password has expired");
                ++refusals_;
                return given_up;
            }
            if (rc != LIBSSH2_ERROR_AUTHENTICATION_FAILED || session_.at_end()) return judge(rc, "the password");
            way_ = way::offered;
        }
        if (way_ == way::offered) {
            // Only now: a server that takes passwords, but not this one, must not see it a second time as an answer to a question.
            const char* const list = libssh2_userauth_list(session_.raw(), user_.c_str(), static_cast<unsigned>(user_.size()));
            if (list == nullptr) {
                if (libssh2_userauth_authenticated(session_.raw()) != 0) return 0;
                return judge(libssh2_session_last_errno(session_.raw()), "the password");
            }
            const std::string_view offered{list};
            const auto offers = [&](std::string_view name) {
                return ("," + std::string{offered} + ",").find("," + std::string{name} + ",") != std::string::npos;
            };
            if (offers("password") || !offers("keyboard-interactive")) {
                note("the password was refused (the server offers " + printable(offered) + ")");
                ++refusals_;
                return given_up;
            }
            way_ = way::interactive;
            answered_ = false;
            unanswered_.clear();
            session_.allow_memory(session_.memory_used() + longest_question);
        }
        answer_ = method.text.get();
        login_of_callback_ = this;
        const int rc = libssh2_userauth_keyboard_interactive_ex(session_.raw(), user_.c_str(), static_cast<unsigned>(user_.size()), &question_hook);
        login_of_callback_ = nullptr;
        if (rc != LIBSSH2_ERROR_EAGAIN) session_.allow_memory(memory_session::base_memory);
        const auto also = unanswered_.empty() ? std::string{} : ", which also asked " + in_quotes(unanswered_) + ",";
        return judge(rc, "the password, as an answer to keyboard-interactive" + (also.empty() ? "," : also));
    }

    /// The text's type differs between versions.
    static std::string text_of(const LIBSSH2_USERAUTH_KBDINT_PROMPT& prompt) {
        const std::string_view text{reinterpret_cast<const char*>(prompt.text), prompt.length};
        return std::string{text.substr(0, 100)};
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
            if (prompts[i].echo != 0 || self.answered_) {
                if (self.unanswered_.empty() && prompts[i].text != nullptr) self.unanswered_ = text_of(prompts[i]);
                continue;
            }
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
    int refusals_ = 0;
    std::string account_;

    const private_key* signing_key_ = nullptr;  // none: the agent signs
    std::string certificate_type_;
    std::string sign_error_;
    std::vector<agent_key> agent_keys_;  // those not refused yet
    std::string agent_socket_;
    std::optional<agent_question> question_;
    std::optional<agent_answer> answer_of_agent_;
    bool awaits_agent_ = false;

    const secret* answer_ = nullptr;
    bool answered_ = false;
    std::string unanswered_;                                         // the first other question
    inline static thread_local login* login_of_callback_ = nullptr;  // the session's own pointer is the memory_session
};

}  // namespace sshpool::detail
