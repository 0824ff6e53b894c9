// What an SSH agent answers, and what stands in a certificate's file.
#include "fuzz.hpp"

#include <sshpool/detail/agent_protocol.hpp>
#include <sshpool/detail/private_key.hpp>
#include <sshpool/detail/user_certificate.hpp>

#include <openssl/evp.h>

using namespace sshpool;

namespace {

const detail::private_key& key() {
    static const detail::private_key made{detail::pkey_ptr{EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")}, "the key"};
    return made;
}

std::string certificate(std::size_t kind) {
    detail::wire_reader own{key().public_blob()};
    const auto type = std::string{own.string()} + std::string{detail::certificate_suffix};
    std::string blob;
    detail::append_string(blob, type);
    detail::append_string(blob, "nonce");
    blob += own.rest();
    blob.append(8, '\x01');  // serial number
    detail::append_u32(blob, kind);
    detail::append_string(blob, "somebody");
    detail::append_string(blob, "principals");
    blob.append(8, '\0');
    blob.append(8, '\xff');
    for (int i = 0; i != 5; ++i) detail::append_string(blob, "more");
    return type + " " + detail::to_base64(blob) + " a comment\n";
}

}  // namespace

const std::vector<std::string>& seeds() {
    static const auto all = [] {
        std::string list{'\x0c'};
        detail::append_u32(list, 2);
        for (const auto& blob : {key().public_blob(), std::string{"odd"}}) {
            detail::append_string(list, blob);
            detail::append_string(list, "a comment");
        }
        std::string signature;
        detail::append_string(signature, "ssh-ed25519");
        detail::append_string(signature, std::string(64, 's'));
        std::string signed_reply{'\x0e'};
        detail::append_string(signed_reply, signature);
        return std::vector<std::string>{list, signed_reply, "\x05", certificate(1), certificate(2)};
    }();
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string bytes{reinterpret_cast<const char*>(data), size};
    if (const auto keys = detail::parse_agent_keys(bytes)) {
        std::size_t sum = 0;
        for (const auto& k : *keys) sum += k.blob.size() + 8;
        promise(sum <= size, "a list holds no more than the reply");
    }
    if (const auto signature = detail::parse_agent_signature(bytes, "ssh-ed25519"))
        promise(signature->size() < size && !signature->empty(), "a signature is of the reply");
    try {
        const auto read = detail::parse_certificate(bytes, key(), "the certificate");
        no_control_characters(read->words);
        promise(detail::wire_reader{read->blob}.string() == read->type && read->blob.size() < size, "a certificate is what the text says");
    } catch (const ssh_error& e) {
        no_control_characters(e.what());
    }
    return 0;
}
