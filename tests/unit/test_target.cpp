#include "support/catch.hpp"

#include <sshpool/target.hpp>

#include <array>
#include <functional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_set>
#include <vector>

using namespace sshpool;

namespace {

const credentials& login() {
    static const auto some = credentials::password("secret");
    return some;
}

target at(std::string_view address) { return {address, login(), host_key_policy::accept_any()}; }

std::string refusal_of(std::string_view address) {
    try {
        return "accepted as " + at(address).key();
    } catch (const std::invalid_argument& e) {
        return e.what();
    }
}

const std::string pin_a = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const std::string pin_b = "SHA256:BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

}  // namespace

TEST_CASE("an address is read as a person means it") {
    const std::vector<std::tuple<std::string, std::string, std::string, int>> good{
        {"root@example.com", "root", "example.com", 22},
        {"root@Example.COM:2222", "root", "example.com", 2222},
        {"Root@10.0.0.1:1", "Root", "10.0.0.1", 1},
        {"a@b:65535", "a", "b", 65535},
        {"a@b:00022", "a", "b", 22},
        {"root@[2001:db8::1]:22", "root", "2001:db8::1", 22},
        {"root@[2001:0DB8:0:0::0001]", "root", "2001:db8::1", 22},
        {"root@[::1]:2222", "root", "::1", 2222},
        {"root@[fe80::1%eth0]:22", "root", "fe80::1%eth0", 22},
        {"someone@corp.example@host:22", "someone@corp.example", "host", 22},
        {"CORP\\someone@host", "CORP\\someone", "host", 22},
        {"j\xc3\xb6rg@host_1.local.", "j\xc3\xb6rg", "host_1.local.", 22},
    };
    for (const auto& [address, user, host, port] : good) {
        INFO(address);
        const auto t = at(address);
        CHECK(t.user() == user);
        CHECK(t.host() == host);
        CHECK(t.port() == port);
        const bool ipv6 = host.find(':') != std::string::npos;
        CHECK(t.endpoint() == (ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port));
        CHECK(t.key() == user + "@" + t.endpoint());
        CHECK(t.jump() == nullptr);
        CHECK(target(user, host, static_cast<std::uint16_t>(port), login(), host_key_policy::accept_any()) == t);
        CHECK(at(t.key()) == t);
    }
}

TEST_CASE("a bad address is quoted, and the message says what is wrong with it") {
    using namespace std::string_literals;
    const std::vector<std::pair<std::string, std::string>> bad{
        {"", "no '@'"},
        {"example.com", "no '@'"},
        {"@host", "the user is empty"},
        {"user@", "the host is empty"},
        {"user@:22", "the host is empty"},
        {"user@[]", "the host is empty"},
        {"user@host:", "the port is missing"},
        {"user@host:0", "the port is zero"},
        {"user@host:65536", "larger than 65535"},
        {"user@host:99999999999999999999999", "larger than 65535"},
        {"user@host:-1", "the port is no number"},
        {"user@host:22x", "the port is no number"},
        {"user@host: 22", "the port is no number"},
        {"user@2001:db8::1", "put the address in brackets"},
        {"user@::1", "put the address in brackets"},
        {"user@host:22:33", "put the address in brackets"},
        {"user@[2001:db8::1", "'[' without ']'"},
        {"user@2001]", "stray bracket"},
        {"user@ho[st", "stray bracket"},
        {"user@[::1]x", "only ':' and a port may follow"},
        {"user@[::1]:", "the port is missing"},
        {"user@[::1]]:22", "only ':' and a port may follow"},
        {"user@[[::1]]:22", "stray bracket"},
        {"user@[example.com]:22", "only an IPv6 address stands in brackets"},
        {"user@[1:2:3]", "no IPv6 address"},
        {"user@[::1%]", "bad zone"},
        {"user@[::1%a/b]", "holds '/'"},
        {"user@ host", "blank or a control character"},
        {"user@host ", "blank or a control character"},
        {"us er@host", "blank or a control character"},
        {"user\t@host", "blank or a control character"},
        {"user@ho\nst", "blank or a control character"},
        {"user@ho\0st"s, "NUL"},
        {"us\0er@host"s, "NUL"},
        {"user@b\xc3\xbc"
         "cher.example",
         "\"xn--\" form"},
        {"user@host/path", "not a URL"},
        {"user@*", "holds '*'"},
        {"user@a,b", "holds ','"},
        {"user@!a", "holds '!'"},
        {"user@-oProxyCommand=x", "holds '='"},
        {"user@-host", "begins with '-'"},
        {std::string(256, 'u') + "@host", "user is longer than 255"},
        {"user@" + std::string(256, 'h'), "host is longer than 255"},
    };
    for (const auto& [address, why] : bad) {
        INFO(address);
        const auto message = refusal_of(address);
        CHECK_THAT(message, Catch::Contains(why));
        CHECK_THAT(message, Catch::StartsWith("bad address " + detail::in_quotes(address) + ": "));
        for (const char c : message) CHECK(static_cast<unsigned char>(c) >= ' ');
    }
}

TEST_CASE("what was meant as a password in an address stands in no message") {
    for (const std::string address : {"user:hunter2@host", "ssh://user:hunter2@host", "user:hunter2@host:99999"}) {
        CHECK_THAT(refusal_of(address), Catch::Contains("':'") && !Catch::Contains("hunter2"));
    }
    CHECK_THROWS_WITH(target("user:hunter2", "host", 22, login()), Catch::Contains("':'") && !Catch::Contains("hunter2"));
}

TEST_CASE("the parts of a target are checked as an address is") {
    CHECK_THROWS_WITH(target("", "host", 22, login()), Catch::Contains("the user is empty"));
    CHECK_THROWS_WITH(target("user", "", 22, login()), Catch::Contains("the host is empty"));
    CHECK_THROWS_WITH(target("user", "host", 0, login()), Catch::Contains("the port is zero"));
    CHECK_THROWS_WITH(target("user", "[::1]", 22, login()), Catch::Contains("stray bracket"));
    CHECK_THROWS_WITH(target("user", "host:22", 22, login()), Catch::Contains("no IPv6 address"));
    CHECK_THROWS_WITH(target("us\ner", "host", 22, login()), Catch::Contains("control character"));
    CHECK_THROWS_WITH(target("user", "a@b", 22, login()), Catch::Contains("holds '@'"));
}

TEST_CASE("targets that differ in one field do not share a connection, whichever field it is") {
    // One pair for each field of detail::target_parts. match_fields does not compile when a field is added there, and this does not when one is added to it.
    const auto key_pair = [](const credentials& a, const credentials& b) { return std::pair{target("u", "h", 22, a), target("u", "h", 22, b)}; };
    const auto policy_pair = [](const host_key_policy& a, const host_key_policy& b) {
        return std::pair{target("u", "h", 22, login(), a), target("u", "h", 22, login(), b)};
    };
    const std::array<std::pair<target, target>, detail::target_fields> pairs{
        std::pair{at("u@h"), at("v@h")},
        std::pair{at("u@h"), at("u@i")},
        std::pair{at("u@h:22"), at("u@h:23")},
        key_pair(login(), credentials::password("other")),
        policy_pair(host_key_policy::accept_any(), host_key_policy::known_hosts("/x")),
        std::pair{at("u@h"), at("u@h").via(at("u@jump"))},
    };
    std::size_t field = 0;
    for (const auto& [a, b] : pairs) {
        INFO("field " << field);
        CHECK(a.match() != b.match());
        CHECK_FALSE(a == b);
        CHECK(a.hash() != b.hash());
        const auto parts = [](const target& t) {
            return detail::match_fields(
                {t.user(), t.host(), t.port(), t.login(), t.host_keys(), t.jump() == nullptr ? nullptr : std::make_shared<const target>(*t.jump())});
        };
        const auto of_a = parts(a);
        const auto of_b = parts(b);
        for (std::size_t i = 0; i != detail::target_fields; ++i) CHECK((of_a[i] == of_b[i]) == (i != field));
        ++field;
    }
    // Within the fields: everything that an identity, a policy and a jump are made of.
    const auto more = std::vector{
        key_pair(login(), credentials{login()}.as_principal("p")),
        key_pair(credentials{login()}.as_principal("p"), credentials{login()}.as_principal("q")),
        key_pair(login(), credentials{login()}.or_else(credentials::password("other"))),
        policy_pair(host_key_policy::known_hosts("/x"), host_key_policy::known_hosts("/y")),
        policy_pair(host_key_policy::known_hosts("/x"), host_key_policy::trust_on_first_use("/x")),
        policy_pair(host_key_policy::pinned(pin_a), host_key_policy::pinned(pin_b)),
        policy_pair(host_key_policy::pinned(pin_a), host_key_policy::pinned(pin_a, pin_b)),
        policy_pair(host_key_policy::pinned(pin_a), host_key_policy::accept_any()),
        std::pair{at("u@h").via(at("u@j")), at("u@h").via(at("u@k"))},
        std::pair{at("u@h").via(at("u@j")), at("u@h").via(target("u@j", credentials::password("other"), host_key_policy::accept_any()))},
        std::pair{at("u@h").via(at("u@j")), at("u@h").via(target("u@j", login(), host_key_policy::known_hosts("/x")))},
        std::pair{at("u@h").via(at("u@j")), at("u@h").via(at("u@j").via(at("u@k")))},
    };
    for (const auto& [a, b] : more) {
        CHECK(a.key() == b.key());
        CHECK(a.match() != b.match());
        CHECK_FALSE(a == b);
    }
}

TEST_CASE("targets made alike are equal, also as keys of a hash table") {
    const auto make = [] { return target("u@H:2", credentials{login()}.as_principal("p"), host_key_policy::pinned(pin_b, pin_a + "=", pin_a)).via(at("j@k")); };
    CHECK(make() == make());
    CHECK(make().match() == make().match());
    CHECK(make().hash() == make().hash());
    CHECK(make() ==
          target("u", "h", 2, credentials::password("a key that goes by the same label").as_principal("p"), host_key_policy::pinned(std::vector{pin_a, pin_b}))
              .via(at("j@K:22")));
    CHECK(make().credential_digest() != target("u", "h", 2, credentials::password("another").as_principal("p")).credential_digest());
    std::unordered_set<target> set{make(), make(), at("u@h"), at("u@H")};
    CHECK(set.size() == 2);
    CHECK(make().identity() == "p");
}

TEST_CASE("a copy of a target is not changed by what is done to the original") {
    auto original = at("u@h");
    const auto copy = original;
    original.via(at("u@j"));
    CHECK(copy.jump() == nullptr);
    REQUIRE(original.jump() != nullptr);
    CHECK(original.jump()->key() == "u@j:22");
    CHECK(copy.key() == original.key());
    CHECK(sizeof(target) == sizeof(std::shared_ptr<int>));
    CHECK(sizeof(credentials) == sizeof(std::shared_ptr<int>));
    CHECK(sizeof(host_key_policy) == sizeof(std::shared_ptr<int>));
}

TEST_CASE("a way over jump hosts has at most eight of them, each said once") {
    auto far = at("u@h0");
    for (int i = 1; i <= 8; ++i) far = at("u@h" + std::to_string(i)).via(far);
    CHECK(far.jumps() == 8);
    CHECK_THROWS_WITH(at("u@h9").via(far), Catch::Contains("more than 8 jump hosts") && Catch::Contains("u@h9:22"));
    auto twice = at("u@h").via(at("u@a"));
    CHECK_THROWS_WITH(twice.via(at("u@b")), Catch::Contains("has a jump host already (u@a:22)"));
    CHECK(twice.jump()->key() == "u@a:22");
    auto self = at("u@h");
    self.via(self);
    CHECK(self.jumps() == 1);
}

TEST_CASE("neither a target nor its credentials can be made as an aggregate") {
    // g++ 12 destroys aggregate temporaries inside co_await twice.
    CHECK_FALSE(std::is_aggregate_v<target>);
    CHECK_FALSE(std::is_aggregate_v<credentials>);
    CHECK_FALSE(std::is_aggregate_v<host_key_policy>);
}
