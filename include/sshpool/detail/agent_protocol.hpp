#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// What an SSH agent is asked and answers: draft-miller-ssh-agent. Bytes only; who carries them is another matter.
namespace sshpool::detail {

inline constexpr std::size_t largest_agent_message = std::size_t{256} << 10;  // as OpenSSH's own
inline constexpr std::size_t largest_agent_key = std::size_t{16} << 10;       // a certificate with much in it; the packet with it must stay below 32 KiB
inline constexpr std::size_t largest_agent_signature = 4096;                  // twice what an RSA key of 16384 bits makes

/// One request to an agent, without its length.
struct agent_question {
    std::string socket;
    std::string request;
};

/// The reply, without its length; or why there is none.
struct agent_answer {
    std::string reply;
    std::string problem;
};

struct agent_key {
    std::string blob;
    std::string type;
};

enum class agent_message : std::uint8_t { failure = 5, request_identities = 11, identities_answer = 12, sign_request = 13, sign_response = 14 };

inline std::string agent_list_request() { return {static_cast<char>(agent_message::request_identities)}; }

/// RSA keys are asked for SHA-256 signatures (RFC 8332): without the flag an agent makes SHA-1 ones.
inline std::string agent_sign_request(const agent_key& key, std::string_view data) {
    constexpr std::size_t rsa_sha2_256 = 2;
    std::string request{static_cast<char>(agent_message::sign_request)};
    append_string(request, key.blob);
    append_string(request, data);
    append_u32(request, key.type == "ssh-rsa" ? rsa_sha2_256 : 0);
    return request;
}

inline bool agent_said(std::string_view reply, agent_message what) noexcept { return !reply.empty() && reply.front() == static_cast<char>(what); }

/// The keys that an agent lists; nothing where the reply is no list.
inline std::optional<std::vector<agent_key>> parse_agent_keys(std::string_view reply) {
    if (!agent_said(reply, agent_message::identities_answer)) return std::nullopt;
    wire_reader in{reply.substr(1)};
    const auto count = in.u32();
    std::vector<agent_key> keys;
    for (std::uint32_t i = 0; i != count; ++i) {
        const auto blob = in.string();
        in.string();  // the comment
        if (!in.ok()) return std::nullopt;
        keys.push_back({std::string{blob}, std::string{wire_reader{blob}.string()}});
    }
    return in.done() ? std::optional{std::move(keys)} : std::nullopt;
}

/// The signature proper, which libssh2 puts a name before; nothing where the reply holds none by an algorithm of that name.
inline std::optional<std::string> parse_agent_signature(std::string_view reply, std::string_view algorithm) {
    if (!agent_said(reply, agent_message::sign_response)) return std::nullopt;
    wire_reader in{reply.substr(1)};
    wire_reader signature{in.string()};
    const auto name = signature.string();
    const auto bytes = signature.string();
    if (!in.done() || !signature.done() || name != algorithm || bytes.empty() || bytes.size() > largest_agent_signature) return std::nullopt;
    return std::string{bytes};
}

}  // namespace sshpool::detail
