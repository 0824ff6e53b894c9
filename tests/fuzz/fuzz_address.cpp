#include "fuzz.hpp"

#include <sshpool/target.hpp>

const std::vector<std::string>& seeds() {
    static const std::vector<std::string> all{"root@example.com", "root@example.com:2222",   "a@[2001:db8::1]:22", "a@[fe80::1%eth0]", "a@b@c:1", "a:b@c",
                                              "user@2001:db8::1", "a@[::ffff:1.2.3.4]:65535"};
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto login = sshpool::credentials::password("x");
    static const auto policy = sshpool::host_key_policy::accept_any();
    const std::string text{reinterpret_cast<const char*>(data), size};
    try {
        const sshpool::target t{text, login, policy};
        promise(sshpool::target{t.key(), login, policy} == t, "a key is an address of the same target");
        promise(sshpool::target{t.user(), t.host(), t.port(), login, policy} == t, "the parts make the same target");
        no_control_characters(t.key());
        promise(t.port() != 0 && !t.user().empty() && !t.host().empty() && t.host().find_first_of("@,*?!|[]/ ") == std::string::npos, "a host is a host");
    } catch (const std::invalid_argument& e) {
        no_control_characters(e.what());
    }
    return 0;
}
