#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/sanitizers.hpp"
#include "support/temp_dir.hpp"
#include "support/wait.hpp"

#include <sshpool/detail/host_key_check.hpp>

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace sshpool;
using detail::host_key_answer;
using detail::host_key_verdict;
using support::run_program;

namespace {

/// A host key as a server shows it. Not a real one: nothing here looks into it.
struct shown_key {
    std::string type;
    std::string blob;
    std::string line;  // "type base64"
    std::string fingerprint;
};
shown_key make_key(const std::string& type, const std::string& salt) {
    shown_key key{type, {}, {}, {}};
    detail::append_string(key.blob, type);
    detail::append_string(key.blob, detail::digest(EVP_sha256(), type + salt));
    key.line = type + ' ' + detail::to_base64(key.blob);
    key.fingerprint = detail::fingerprint(key.blob);
    return key;
}
const shown_key& ed() {
    static const auto key = make_key("ssh-ed25519", "1");
    return key;
}
const shown_key& other_ed() {
    static const auto key = make_key("ssh-ed25519", "2");
    return key;
}
const shown_key& rsa() {
    static const auto key = make_key("ssh-rsa", "3");
    return key;
}
const shown_key& ecdsa() {
    static const auto key = make_key("ecdsa-sha2-nistp256", "4");
    return key;
}

/// A known_hosts file of one test.
class hosts_file {
public:
    explicit hosts_file(std::string text = {}) { write(text); }
    void write(const std::string& text) { support::write_file(file(), text); }
    std::string read() const { return support::read_file(file()); }
    std::filesystem::path file() const { return dir_ / "known_hosts"; }
    host_key_policy strict() const { return host_key_policy::known_hosts(file()); }
    host_key_policy trusting() const { return host_key_policy::trust_on_first_use(file()); }

    host_key_verdict asked(const shown_key& key, std::string_view host = "host", std::uint16_t port = 22) const {
        return detail::verify(strict(), host, port, key.blob);
    }
    host_key_answer answer(const shown_key& key, std::string_view host = "host", std::uint16_t port = 22) const { return asked(key, host, port).answer; }

private:
    support::temp_dir dir_;
};

mode_t mode_of(const std::filesystem::path& path) {
    struct stat s {};
    REQUIRE(::stat(path.c_str(), &s) == 0);
    return s.st_mode & 07777U;
}

}  // namespace

TEST_CASE("a known key is accepted, an unknown host and a changed key are told apart") {
    const hosts_file hosts{"# a comment\n\nhost,alias " + ed().line + " root@host\n"};
    CHECK(hosts.answer(ed()) == host_key_answer::accepted);
    CHECK_FALSE(hosts.asked(ed()).code());
    CHECK(hosts.answer(ed(), "alias") == host_key_answer::accepted);

    const auto unknown = hosts.asked(ed(), "stranger", 2222);
    CHECK(unknown.answer == host_key_answer::unknown);
    CHECK(unknown.code() == errc::host_key_unknown);
    CHECK(unknown.text == "the host key of stranger:2222 is not known: " + ed().fingerprint + " (ssh-ed25519); no line of \"" + hosts.file().string() +
                              "\" is for \"[stranger]:2222\"");

    const auto changed = hosts.asked(other_ed());
    CHECK(changed.answer == host_key_answer::mismatch);
    CHECK(changed.code() == errc::host_key_mismatch);
    CHECK(changed.text == "the host key of host:22 has changed, or somebody is on the way: the server showed " + other_ed().fingerprint +
                              " (ssh-ed25519), but \"" + hosts.file().string() + "\":3 expects " + ed().fingerprint + " (ssh-ed25519)");
}

TEST_CASE("a key of a type that is not known for the host is a mismatch, not an unknown host") {
    const hosts_file hosts{"host " + ed().line + "\n"};
    const auto verdict = hosts.asked(rsa());
    CHECK(verdict.answer == host_key_answer::mismatch);
    CHECK_THAT(verdict.text, Catch::Contains(rsa().fingerprint + " (ssh-rsa)") && Catch::Contains(ed().fingerprint + " (ssh-ed25519)"));
}

TEST_CASE("any of several keys of a host is accepted") {
    const hosts_file hosts{"host " + ed().line + "\nhost " + rsa().line + "\n*st " + ecdsa().line + "\n"};
    CHECK(hosts.answer(ed()) == host_key_answer::accepted);
    CHECK(hosts.answer(rsa()) == host_key_answer::accepted);
    CHECK(hosts.answer(ecdsa()) == host_key_answer::accepted);
    CHECK(hosts.answer(other_ed()) == host_key_answer::mismatch);
}

TEST_CASE("names are matched with wildcards, negation, ports and in lower case") {
    struct question {
        std::string names, host;
        std::uint16_t port;
        bool known;
    };
    for (const auto& [names, host, port, known] : std::vector<question>{
             {"*.example.com", "a.example.com", 22, true},
             {"*.example.com", "example.com", 22, false},
             {"*.example.com", "a.example.com", 2222, false},
             {"h?st", "host", 22, true},
             {"h?st", "hst", 22, false},
             {"*", "anything", 22, true},
             {"*", "anything", 2222, true},
             {"*,!bad", "good", 22, true},
             {"*,!bad", "bad", 22, false},
             {"!bad,*", "bad", 22, false},
             {"!bad", "good", 22, false},
             {"a,b,c", "b", 22, true},
             {"a,b,c", "a,b", 22, false},
             {"[host]:2222", "host", 2222, true},
             {"[host]:2222", "host", 22, false},
             {"[host]:2222", "host", 222, false},
             {"host", "host", 2222, false},
             {"[*]:2222", "host", 2222, true},
             {"HOST.Example", "host.example", 22, true},
             {"2001:db8::1", "2001:db8::1", 22, true},
             {"[2001:db8::1]:2222", "2001:db8::1", 2222, true},
             {"10.0.0.?", "10.0.0.7", 22, true},
             {"***a***", "bab", 22, true},
             {",,host,,", "host", 22, true},
         }) {
        INFO(names << " " << host << " " << port);
        const hosts_file hosts{names + " " + ed().line + "\n"};
        CHECK((hosts.answer(ed(), host, port) == host_key_answer::accepted) == known);
        CHECK((hosts.answer(other_ed(), host, port) == host_key_answer::mismatch) == known);
    }
}

TEST_CASE("ssh-keygen finds a host in the same files, hashed ones too") {
    const support::temp_dir dir;
    std::mt19937 random{7};  // NOLINT: the same names in every run
    const std::vector<std::string> names{"a", "b.example", "*.example", "!c.example", "h?", "[a]:2222", "[*]:2222", "10.0.0.1", "2001:db8::1", "A.EXAMPLE"};
    const std::vector<std::pair<std::string, std::uint16_t>> asked{{"a", 22},        {"a", 2222},       {"b.example", 22}, {"c.example", 22},   {"ha", 22},
                                                                   {"10.0.0.1", 22}, {"a.example", 22}, {"z", 2222},       {"2001:db8::1", 22}, {"nobody", 22}};
    run_program({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", (dir / "key").string()});
    const auto pub = support::read_file(dir / "key.pub");
    const auto line = pub.substr(0, pub.find(' ', pub.find(' ') + 1));
    shown_key key{"ssh-ed25519", detail::from_base64(line.substr(line.find(' ') + 1)).value(), line, {}};
    int found = 0;
    for (int round = 0; round != 12; ++round) {
        std::string text;
        for (int n = 0; n != 3; ++n) {
            auto list = names[random() % names.size()];
            while (random() % 2 == 0) list += "," + names[random() % names.size()];
            text += list + " " + key.line + "\n";
        }
        const hosts_file hosts{text};
        for (const bool hashed : {false, true}) {
            if (hashed) run_program({"ssh-keygen", "-q", "-H", "-f", hosts.file().string()});
            for (const auto& [host, port] : asked) {
                INFO(text << "asked for " << host << " " << port << (hashed ? " after hashing" : ""));
                support::process search({"ssh-keygen", "-F", detail::known_hosts_name(host, port), "-f", hosts.file().string()});
                const bool there = search.wait() == 0;
                CHECK((hosts.answer(key, host, port) == host_key_answer::accepted) == there);
                found += there ? 1 : 0;
            }
        }
        CHECK(hosts.read().find(detail::known_hosts_name("nobody", 22)) == std::string::npos);
    }
    CHECK(found > 20);
    CHECK(found < 200);
}

TEST_CASE("a hashed name is found, and only that one") {
    const auto salted = [](const std::string& name) {
        const std::string salt(20, 'x');
        return "|1|" + detail::to_base64(salt) + "|" + detail::to_base64(detail::hmac(EVP_sha1(), salt, name));
    };
    const hosts_file hashed{salted("host") + " " + ed().line + "\n" + salted("[host]:2222") + " " + other_ed().line + "\n"};
    CHECK(hashed.answer(ed()) == host_key_answer::accepted);
    CHECK(hashed.answer(other_ed()) == host_key_answer::mismatch);
    CHECK(hashed.answer(other_ed(), "host", 2222) == host_key_answer::accepted);
    CHECK(hashed.answer(ed(), "hosu") == host_key_answer::unknown);
}

TEST_CASE("a revoked key is refused, whatever else stands in the file") {
    for (const auto& text : {"host " + ed().line + "\n@revoked * " + ed().line + "\n", "@revoked host " + ed().line + "\nhost " + ed().line + "\n"}) {
        const hosts_file hosts{text};
        const auto verdict = hosts.asked(ed());
        CHECK(verdict.answer == host_key_answer::mismatch);
        CHECK_THAT(verdict.text, Catch::Contains("is revoked") && Catch::Contains(ed().fingerprint));
    }
    const hosts_file others{"@revoked * " + rsa().line + "\n"};
    CHECK(others.answer(ed()) == host_key_answer::unknown);  // a revoked key says nothing about another
    CHECK(others.answer(rsa(), "anything", 2222) == host_key_answer::mismatch);
    const hosts_file rotated{"host " + ed().line + "\n@revoked host " + other_ed().line + "\n"};
    CHECK(rotated.answer(ed()) == host_key_answer::accepted);
}

TEST_CASE("a revoked key is not added on first use") {
    hosts_file hosts{"@revoked * " + ed().line + "\n"};
    CHECK(detail::verify(hosts.trusting(), "host", 22, ed().blob).answer == host_key_answer::mismatch);
    CHECK(hosts.read() == "@revoked * " + ed().line + "\n");
}

TEST_CASE("a line of a certificate authority trusts nothing") {
    const hosts_file hosts{"@cert-authority * " + ed().line + "\n"};
    CHECK(hosts.answer(ed()) == host_key_answer::unknown);
}

TEST_CASE("lines that make no sense are passed over and counted") {
    using namespace std::string_literals;
    const std::vector<std::string> bad{
        "host",
        "host ssh-ed25519",
        "host ssh-ed25519 !!!!",
        "host ssh-ed25519 AAAA",
        "host ssh-rsa " + ed().line.substr(ed().line.find(' ') + 1),  // another type than the key's own
        "host 1024 35 1234567890",
        "@unknown host " + ed().line,
        "|1|bad host " + ed().line,
        "|1|AAAA|AAAA " + ed().line,
        "|2|AAAA|AAAA " + ed().line,
        "ho\0st "s + ed().line,
        "host " + ed().line.substr(0, ed().line.size() - 1),
        std::string(70'000, 'x') + " " + ed().line,
        "host " + ed().line + " " + std::string(70'000, 'c'),
    };
    std::string text;
    for (const auto& line : bad) {
        INFO(line.substr(0, 80));
        const hosts_file alone{line + "\n"};
        CHECK(alone.answer(ed()) == host_key_answer::unknown);
        CHECK_THAT(alone.asked(ed()).text, Catch::Contains("(1 lines of it could not be read)"));
        text += line + "\n";
    }
    const hosts_file all{text + "host\t \t" + ed().line + "\r\n"};
    CHECK(all.answer(ed()) == host_key_answer::accepted);
    CHECK_THAT(all.asked(ed(), "other").text, Catch::Contains("(" + std::to_string(bad.size()) + " lines of it"));
}

TEST_CASE("a file that is missing knows no host, and one that cannot be read is no reason to trust") {
    const support::temp_dir dir;
    const auto ask = [&](const std::filesystem::path& file) { return detail::verify(host_key_policy::known_hosts(file), "host", 22, ed().blob); };
    const auto missing = ask(dir / "nowhere");
    CHECK(missing.answer == host_key_answer::unknown);
    CHECK_THAT(missing.text, Catch::Contains("nowhere\" does not exist"));
    CHECK(ask(dir.path()).answer == host_key_answer::unreadable);
    CHECK_THAT(ask(dir.path()).text, Catch::Contains("it is a directory"));
    CHECK(ask("/dev/null").answer == host_key_answer::unreadable);
    CHECK(ask("/dev/null").code() == errc::host_key_unknown);
    REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
    CHECK(ask(dir / "fifo").answer == host_key_answer::unreadable);
    {
        support::write_file(dir / "large", "");
        REQUIRE(::truncate((dir / "large").c_str(), (64 << 20) + 1) == 0);
        CHECK_THAT(ask(dir / "large").text, Catch::Contains("larger than 64 MiB"));
    }
    support::write_file(dir / "empty", "");
    CHECK(ask(dir / "empty").answer == host_key_answer::unknown);
}

TEST_CASE("what a server calls its key cannot forge a line or a message") {
    const hosts_file hosts;
    for (const std::string type : {"", "ssh ed25519", "x\nhost ssh-ed25519 AAAA", "a\x1b[2J"}) {
        const auto key = make_key(type, "1");
        const auto verdict = detail::verify(hosts.trusting(), "host", 22, key.blob);
        CHECK(verdict.answer == host_key_answer::unknown);
        CHECK_THAT(verdict.text, Catch::Contains("is malformed"));
    }
    CHECK(detail::verify(hosts.trusting(), "host", 22, "").answer == host_key_answer::unknown);
    CHECK(detail::verify(hosts.trusting(), "host", 22, std::string("\xff\xff\xff\xff", 4)).answer == host_key_answer::unknown);
    auto large = ed();
    large.blob += std::string(20'000, 'x');
    CHECK(detail::verify(hosts.trusting(), "host", 22, large.blob).answer == host_key_answer::unknown);
    CHECK(hosts.read().empty());
    const hosts_file hostile{"host x\x1b[2J\x07 " + ed().line.substr(ed().line.find(' ') + 1) + "\n"};
    CHECK(hostile.asked(other_ed()).text.find('\x1b') == std::string::npos);
}

TEST_CASE("a pinned key is accepted, and a message names both when another is shown") {
    const auto pinned = host_key_policy::pinned(rsa().fingerprint, ed().fingerprint + "=");
    CHECK(detail::verify(pinned, "host", 22, ed().blob).answer == host_key_answer::accepted);
    CHECK(detail::verify(pinned, "host", 22, rsa().blob).answer == host_key_answer::accepted);
    const auto verdict = detail::verify(pinned, "host", 22, ecdsa().blob);
    CHECK(verdict.answer == host_key_answer::mismatch);
    CHECK_THAT(verdict.text,
               Catch::Contains(ecdsa().fingerprint) && Catch::Contains(ed().fingerprint) && Catch::Contains(rsa().fingerprint) && Catch::Contains("host:22"));
    std::vector<std::string> many;
    for (int i = 0; i != 20; ++i) many.push_back(make_key("ssh-rsa", "many" + std::to_string(i)).fingerprint);
    CHECK_THAT(detail::verify(host_key_policy::pinned(many), "h", 22, ed().blob).text, Catch::Contains("and 16 more"));
    CHECK(detail::verify(host_key_policy::accept_any(), "host", 22, ecdsa().blob).answer == host_key_answer::accepted);
}

TEST_CASE("a pin that is no SHA256 fingerprint is refused, and the message says where to get one") {
    const auto good = ed().fingerprint;
    for (const std::string& bad :
         {std::string{}, std::string{"SHA256:"}, good.substr(7), good + "A", good.substr(0, good.size() - 1), "MD5:" + good.substr(7),
          good + "==", "sha256:" + good.substr(7), good.substr(0, 20) + " " + good.substr(21), std::string{"MD5:c9:a8:10:fc"}, ed().line}) {
        INFO(bad);
        CHECK_THROWS_AS(host_key_policy::pinned(bad), std::invalid_argument);
        CHECK_THROWS_WITH(host_key_policy::pinned(bad), Catch::Contains("ssh-keygen -l") && Catch::Contains(detail::in_quotes(bad)));
        CHECK_THROWS_AS(host_key_policy::pinned(good, bad), std::invalid_argument);
    }
    CHECK_THROWS_AS(host_key_policy::pinned(std::vector<std::string>{}), std::invalid_argument);
    // The last character carries bits that mean nothing: another spelling is the same pin.
    auto spelled = good;
    spelled.back() = static_cast<char>(spelled.back() + 1);
    CHECK(detail::match_of(host_key_policy::pinned(good)) == detail::match_of(host_key_policy::pinned(spelled)));
    const char* text = good.c_str();
    CHECK(detail::match_of(host_key_policy::pinned(std::string_view{good}, text)) == detail::match_of(host_key_policy::pinned(good)));
}

TEST_CASE("the default file is that of the home directory, and a relative one stays where it was named") {
    const char* home = std::getenv("HOME");
    const std::string before = home == nullptr ? "" : home;
    ::setenv("HOME", "/somewhere", 1);
    CHECK(detail::parts_of(host_key_policy::known_hosts()).file == "/somewhere/.ssh/known_hosts");
    ::unsetenv("HOME");
    CHECK_THAT(detail::parts_of(host_key_policy::known_hosts()).file, Catch::EndsWith("/.ssh/known_hosts"));
    if (!before.empty()) ::setenv("HOME", before.c_str(), 1);
    CHECK(detail::parts_of(host_key_policy::known_hosts("some/file")).file == std::filesystem::current_path().string() + "/some/file");
    CHECK_THROWS_AS(host_key_policy::known_hosts(std::filesystem::path{}), std::invalid_argument);
    CHECK_THROWS_AS(host_key_policy::trust_on_first_use(std::filesystem::path{}), std::invalid_argument);
}

TEST_CASE("trust on first use adds an unknown host once and refuses its changed key") {
    const support::temp_dir dir;
    const auto file = dir / "new" / "known_hosts";
    const auto policy = host_key_policy::trust_on_first_use(file);
    const auto ask = [&](const shown_key& key, std::string_view host = "host", std::uint16_t port = 22) {
        return detail::verify(policy, host, port, key.blob);
    };
    const auto first = ask(ed());
    CHECK(first.answer == host_key_answer::accepted);
    CHECK_THAT(first.text, Catch::Contains("trusted from now on") && Catch::Contains(ed().fingerprint) && Catch::Contains(file.string()));
    CHECK(mode_of(file) == 0600);
    CHECK(mode_of(file.parent_path()) == 0700);
    CHECK(support::read_file(file) == "host " + ed().line + "\n");
    CHECK(ask(ed()).text.empty());
    CHECK(ask(other_ed()).answer == host_key_answer::mismatch);
    CHECK(ask(rsa()).answer == host_key_answer::mismatch);
    CHECK(ask(rsa(), "host", 2222).answer == host_key_answer::accepted);
    CHECK(ask(ecdsa(), "2001:db8::1", 22).answer == host_key_answer::accepted);
    CHECK(support::read_file(file) == "host " + ed().line + "\n[host]:2222 " + rsa().line + "\n2001:db8::1 " + ecdsa().line + "\n");
    CHECK(detail::verify(host_key_policy::known_hosts(file), "host", 2222, rsa().blob).answer == host_key_answer::accepted);
    run_program({"ssh-keygen", "-F", "[host]:2222", "-f", file.string()});
}

TEST_CASE("trust on first use begins a line of its own, and keeps what was there") {
    hosts_file hosts{"other " + rsa().line};
    ::chmod(hosts.file().c_str(), 0640);
    CHECK(detail::verify(hosts.trusting(), "host", 22, ed().blob).answer == host_key_answer::accepted);
    CHECK(hosts.read() == "other " + rsa().line + "\nhost " + ed().line + "\n");
    CHECK(mode_of(hosts.file()) == 0640);
}

TEST_CASE("of many first connects at once one adds the host, and a different key is refused") {
    hosts_file hosts;
    const auto policy = hosts.trusting();
    std::vector<std::future<host_key_verdict>> all;
    for (int i = 0; i != 8; ++i) {
        all.push_back(std::async(std::launch::async, [&, i] { return detail::verify(policy, "host", 22, (i % 2 == 0 ? ed() : other_ed()).blob); }));
    }
    int accepted = 0;
    for (auto& one : all) accepted += one.get().answer == host_key_answer::accepted ? 1 : 0;
    CHECK(accepted == 4);
    const auto text = hosts.read();
    CHECK((text == "host " + ed().line + "\n" || text == "host " + other_ed().line + "\n"));
}

TEST_CASE("trust on first use waits for another process that holds the file, and sees what it wrote") {
    hosts_file hosts;
    auto lock = std::make_unique<detail::descriptor>(::open(hosts.file().c_str(), O_RDWR));
    REQUIRE(::flock(lock->get(), LOCK_EX) == 0);
    auto answer = std::async(std::launch::async, [&] { return detail::verify(hosts.trusting(), "host", 22, ed().blob); });
    CHECK(answer.wait_for(std::chrono::milliseconds{50}) == std::future_status::timeout);
    support::write_file(hosts.file(), "host " + other_ed().line + "\n");
    lock.reset();
    CHECK(answer.get().answer == host_key_answer::mismatch);

    hosts_file held;
    lock = std::make_unique<detail::descriptor>(::open(held.file().c_str(), O_RDWR));
    REQUIRE(::flock(lock->get(), LOCK_EX) == 0);
    auto replaced = std::async(std::launch::async, [&] { return detail::verify(held.trusting(), "host", 22, ed().blob); });
    CHECK(replaced.wait_for(std::chrono::milliseconds{50}) == std::future_status::timeout);
    support::write_file(held.file().string() + ".new", "other " + rsa().line + "\n");
    std::filesystem::rename(held.file().string() + ".new", held.file());  // as ssh-keygen -R does
    lock.reset();
    CHECK(replaced.get().answer == host_key_answer::accepted);
    CHECK(held.read() == "other " + rsa().line + "\nhost " + ed().line + "\n");
}

TEST_CASE("a host is not trusted when its key cannot be written down") {
    const support::temp_dir dir;
    const auto ask = [&](const std::filesystem::path& file) { return detail::verify(host_key_policy::trust_on_first_use(file), "host", 22, ed().blob); };
    CHECK(ask(dir / "no" / "such" / "directory").answer == host_key_answer::unreadable);
    CHECK_THAT(ask(dir / "no" / "such" / "directory").text, Catch::Contains("cannot be added"));
    CHECK(ask(dir.path()).answer == host_key_answer::unreadable);
    CHECK(ask("/dev/full").answer == host_key_answer::unreadable);
}

TEST_CASE("a file that changes is read anew, however quickly") {
    hosts_file hosts{"host " + ed().line + "\n"};
    for (int i = 0; i != 50; ++i) {  // the same size each time, within one tick of the file system's clock
        hosts.write("host " + other_ed().line + "\n");
        CHECK(hosts.answer(other_ed()) == host_key_answer::accepted);
        hosts.write("host " + ed().line + "\n");
        CHECK(hosts.answer(other_ed()) == host_key_answer::mismatch);
    }
    std::filesystem::remove(hosts.file());
    CHECK(hosts.answer(ed()) == host_key_answer::unknown);
}

TEST_CASE("a file that does not change is read once") {
    const hosts_file hosts{"host " + ed().line + "\n"};
    auto& cache = detail::known_hosts_cache::instance();
    const auto young = cache.get(hosts.file().string()).hosts;
    CHECK(cache.get(hosts.file().string()).hosts != young);  // just written: another change could hide behind the clock's grain
    CHECK(support::wait_until([&] { return cache.get(hosts.file().string()).hosts == cache.get(hosts.file().string()).hosts; }, std::chrono::seconds{10}));
    const auto old = cache.get(hosts.file().string()).hosts;
    const hosts_file other{"x " + ed().line + "\n"};
    CHECK(other.answer(ed(), "x") == host_key_answer::accepted);
    CHECK(cache.get(hosts.file().string()).hosts == old);
    for (int i = 0; i != 40; ++i) {  // more files than are kept
        const hosts_file more{"x " + ed().line + "\n"};
        CHECK(more.answer(ed(), "x") == host_key_answer::accepted);
    }
    CHECK(cache.get(hosts.file().string()).hosts != old);
    CHECK(hosts.answer(ed()) == host_key_answer::accepted);
}

TEST_CASE("known key types are asked for first, so that a host with several keys shows a known one") {
    using types = std::vector<std::string>;
    const hosts_file hosts{"a " + rsa().line + "\na " + ecdsa().line + "\na " + ed().line + "\nb " + rsa().line + "\n@revoked c " + ed().line + "\nc " +
                           ecdsa().line + "\n[a]:2222 " + ecdsa().line + "\n"};
    const auto asked = [&](std::string_view host, std::uint16_t port = 22) { return detail::preferred_key_types(hosts.strict(), host, port); };
    CHECK(asked("a") == types{"ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"});
    CHECK(asked("b") == types{"rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"});
    CHECK(asked("c") == types{"ecdsa-sha2-nistp256"});
    CHECK(asked("a", 2222) == types{"ecdsa-sha2-nistp256"});
    CHECK(asked("nobody").empty());
    CHECK(detail::preferred_key_types(host_key_policy::accept_any(), "a", 22).empty());
    CHECK(detail::preferred_key_types(host_key_policy::pinned(ed().fingerprint), "a", 22).empty());
    CHECK(detail::preferred_key_types(host_key_policy::known_hosts("/nonexistent/file"), "a", 22).empty());
}

TEST_CASE("a connect looks into a file of ten thousand lines within milliseconds") {
    std::string plain;
    std::string hashed;
    const auto key = make_key("ssh-ed25519", "x");
    for (int i = 0; i != 10'000; ++i) {
        plain += "host" + std::to_string(i) + ".example.com,10." + std::to_string(i / 65536) + "." + std::to_string(i / 256 % 256) + "." +
                 std::to_string(i % 256) + " " + key.line + "\n";
        const auto salt = detail::digest(EVP_sha1(), std::to_string(i));
        hashed += "|1|" + detail::to_base64(salt) + "|" + detail::to_base64(detail::hmac(EVP_sha1(), salt, "host" + std::to_string(i) + ".example.com")) + " " +
                  key.line + "\n";
    }
    const auto timed = [](const auto& work) {
        const auto start = std::chrono::steady_clock::now();
        work();
        return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
    };
    std::optional<detail::known_hosts> file;
    const auto parse = timed([&] { file.emplace(plain); });
    CHECK(file->size() == 10'000);
    const auto find = timed([&] { CHECK(file->find("host9999.example.com").size() == 1); });
    const detail::known_hosts secretive{hashed};
    const auto find_hashed = timed([&] { CHECK(secretive.find("host9999.example.com").size() == 1); });
    INFO("10,000 lines: parsed in " << parse.count() << " us, a plain name found in " << find.count() << " us, a hashed one in " << find_hashed.count()
                                    << " us");
    // Wide enough for sanitizers and a busy machine, and far below what a scan by a slow parser at each connect would take.
    CHECK(find < std::chrono::milliseconds{20});
    CHECK(parse < std::chrono::seconds{2});
    CHECK(find_hashed < std::chrono::seconds{1});
}

TEST_CASE("a pattern made to be slow is not") {
    std::string pattern;
    for (int i = 0; i != 500; ++i) pattern += "a*";
    const auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(detail::matches_pattern(std::string(255, 'a'), pattern + "b"));
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds{1});
    CHECK(detail::matches_pattern("", ""));
    CHECK(detail::matches_pattern("", "*"));
    CHECK_FALSE(detail::matches_pattern("", "?"));
    CHECK_FALSE(detail::matches_pattern("a", ""));
    CHECK(detail::matches_pattern("abcabd", "*abd"));
    CHECK(detail::matches_pattern("abc", "a*c"));
    CHECK_FALSE(detail::matches_pattern("abcd", "a*c"));
}

#ifndef SSHPOOL_TESTED_BY_ADDRESS_SANITIZER  // its own allocator may be locked in such a child, for ever
TEST_CASE("A child made while another thread reads known hosts reads them, too", "[host-keys][fork]") {
    std::string text;
    for (int i = 0; i < 20'000; ++i) text += "host" + std::to_string(i) + ' ' + ed().line + '\n';
    const hosts_file hosts{text};  // so young that it is read anew each time
    std::atomic<bool> enough{false};
    std::atomic<int> times{0};
    std::thread reader{[&] {
        while (!enough) {
            (void)detail::known_hosts_cache::instance().get(hosts.file().string());
            ++times;
        }
    }};
    int well = 0;
    for (int i = 0; i < 5; ++i) {
        const auto before = times.load();
        support::wait_until([&] { return times != before; });
        const auto child = ::fork();
        if (child == 0) {
            ::alarm(10);
            const auto read = detail::known_hosts_cache::instance().get(hosts.file().string());
            ::_exit(read.hosts != nullptr ? 0 : 1);
        }
        int status = -1;
        ::waitpid(child, &status, 0);
        well += status == 0 ? 1 : 0;
        if (status != 0) break;
    }
    enough = true;
    reader.join();
    CHECK(well == 5);
}
#endif
