#include "fuzz.hpp"

#include <sshpool/detail/known_hosts.hpp>

namespace {

std::string blob_of(const std::string& type) {
    std::string blob;
    sshpool::detail::append_string(blob, type);
    sshpool::detail::append_string(blob, std::string(32, 'k'));
    return blob;
}
const std::string& line() {
    static const std::string text = "ssh-ed25519 " + sshpool::detail::to_base64(blob_of("ssh-ed25519"));
    return text;
}

}  // namespace

const std::vector<std::string>& seeds() {
    static const std::vector<std::string> all = [] {
        const std::string salt(20, 's');
        const auto hashed = "|1|" + sshpool::detail::to_base64(salt) + "|" + sshpool::detail::to_base64(sshpool::detail::hmac(EVP_sha1(), salt, "host"));
        return std::vector<std::string>{"host,alias " + line() + " a comment\n", "*.example.com,!bad,h?st " + line() + "\n", "[host]:2222 " + line() + "\r\n",
                                        hashed + " " + line() + "\n", "@revoked * " + line() + "\n@cert-authority *.x " + line() + "\n# comment\n\n"};
    }();
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using sshpool::detail::known_hosts;
    const std::string text{reinterpret_cast<const char*>(data), size};
    const known_hosts hosts{text};
    for (const auto* name : {"host", "[host]:2222", "a.example.com", ""}) {
        for (const auto* entry : hosts.find(name))
            promise(sshpool::detail::wire_reader{entry->blob}.string() == entry->type, "a key is of the type that its line says");
    }
    // What trust_on_first_use adds is found again, whatever stands before it.
    const known_hosts more{text + (text.empty() || text.back() == '\n' ? "" : "\n") + "new.host " + line() + "\n"};
    const auto found = more.find("new.host");
    promise(!found.empty() && found.back()->blob == blob_of("ssh-ed25519") && !found.back()->revoked, "an added line is found");
    promise(more.skipped() == hosts.skipped(), "an added line is read");
    return 0;
}
