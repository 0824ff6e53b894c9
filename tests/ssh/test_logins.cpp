#include <sshpool/detail/ssh_wire.hpp>

#include <algorithm>

#include "ssh/transport_on_sshd.hpp"
#include "support/ssh_agent.hpp"

using namespace sshpool;
using namespace sshpool::test;

namespace {

credentials agent_at(const std::string& socket) {
    const support::scoped_env env("SSH_AUTH_SOCK", socket);
    return credentials::agent();
}
open_report log_in(const support::sshd_server& server, const credentials& login, std::chrono::milliseconds timeout = 10s) {
    running_transport t;
    auto report = t.open({server.address(), login, host_key_policy::known_hosts(server.known_hosts())}, timeout);
    if (!report.error) CHECK(t.run("echo in").result.out == "in\n");
    return report;
}
bool says(const open_report& report, const std::string& what) {
    INFO(report.error.text << "\nshould say: " << what);
    const bool said = report.error.text.find(what) != std::string::npos;
    CHECK(said);
    return said;
}
std::string framed(const std::string& message) {
    std::string out;
    detail::append_string(out, message);
    return out;
}
std::string list_of(const std::vector<std::string>& blobs) {
    std::string out{'\x0c'};
    detail::append_u32(out, blobs.size());
    for (const auto& blob : blobs) {
        detail::append_string(out, blob);
        detail::append_string(out, "a comment");
    }
    return framed(out);
}
/// An authority that signs keys, and a server that believes it and no key by itself.
struct authority {
    support::temp_dir dir;
    std::unique_ptr<support::sshd_server> server;

    authority() {
        support::run_program({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", (dir / "ca").string()});
        std::filesystem::permissions(dir.path(), std::filesystem::perms{0755});
        server = std::make_unique<support::sshd_server>(std::vector<std::string>{"TrustedUserCAKeys " + (dir / "ca.pub").string()});
    }
    /// Writes KEY-cert.pub beside the key.
    void sign(const std::filesystem::path& key, std::vector<std::string> options = {"-n", "sshpool"}) const {
        std::vector<std::string> argv{"ssh-keygen", "-q", "-s", (dir / "ca").string(), "-I", "alice"};
        argv.insert(argv.end(), options.begin(), options.end());
        argv.push_back(key.string() + ".pub");
        support::run_program(std::move(argv));
    }
};
std::filesystem::path certificate_of(const std::filesystem::path& key) { return key.string() + "-cert.pub"; }
std::string public_blob(const std::filesystem::path& key) {
    const auto text = support::read_file(key.string() + ".pub");
    const auto from = text.find(' ') + 1;
    return detail::from_base64(text.substr(from, text.find(' ', from) - from)).value();
}

}  // namespace

TEST_CASE("an agent logs in with every type of key it holds", "[ssh][logins]") {
    support::sshd_server server;
    for (const std::string type : {"ed25519", "ecdsa", "rsa"}) {
        support::ssh_agent agent;
        agent.add(server.make_client_key(type));
        INFO(type);
        const auto report = log_in(server, agent_at(agent.socket()));
        INFO(report.error.text);
        CHECK_FALSE(report.error);
    }
}

TEST_CASE("an agent's keys are tried in its order, and a refusal names each", "[ssh][logins]") {
    support::sshd_server server;
    support::ssh_agent agent;
    const auto stranger = server.make_stranger_key("ecdsa");
    const auto stranger_too = server.make_stranger_key("rsa");
    agent.add(stranger);
    agent.add(stranger_too);
    const auto report = log_in(server, agent_at(agent.socket()));
    CHECK((report.error.code == errc::auth_failed));
    const auto first = report.error.text.find("the agent's key ecdsa-sha2-nistp256 " + credentials::private_key_file(stranger).identity() + " was refused");
    const auto second = report.error.text.find("the agent's key ssh-rsa " + credentials::private_key_file(stranger_too).identity() + " was refused");
    INFO(report.error.text);
    CHECK(first < second);
    CHECK(second != std::string::npos);
    agent.add(server.client_key());
    CHECK_FALSE(log_in(server, agent_at(agent.socket())).error);
}

TEST_CASE("of an agent with many keys five are tried, so that the server does not cut the connection", "[ssh][logins]") {
    support::sshd_server server;
    support::ssh_agent agent;
    for (int i = 0; i < 7; ++i) agent.add(server.make_stranger_key());
    const auto report = log_in(server, agent_at(agent.socket()));
    CHECK((report.error.code == errc::auth_failed));
    says(report, "of the 7 keys of the SSH agent");
    says(report, "only the first 5 were tried");
    CHECK(server.log().find("Too many authentication failures") == std::string::npos);
    // The way after the agent is still open.
    auto login = agent_at(agent.socket());
    CHECK_FALSE(log_in(server, login.or_else(credentials::private_key_file(server.client_key()))).error);
}

TEST_CASE("an agent that is of no use says why: missing, dead, silent, locked, empty, or talking nonsense", "[ssh][logins]") {
    support::sshd_server server;
    const auto fails = [&](const std::string& socket, const std::string& why, std::chrono::milliseconds timeout = 10s) {
        const auto report = log_in(server, agent_at(socket), timeout);
        CHECK((report.error.code == errc::key_unusable));
        CHECK(report.error.phase == "login");
        says(report, "\"" + socket + "\"");
        says(report, why);
    };
    const support::temp_dir dir;
    fails((dir / "nobody").string(), "cannot be reached: No such file or directory");
    {
        std::string dead;
        {
            dead = support::scripted_agent([](const std::string&) { return std::string{}; }).socket();
        }
        support::write_file(dir / "file", "");
        fails((dir / "file").string(), "cannot be reached: Connection refused");
    }
    fails((dir / std::string(200, 'x')).string(), "the name of its socket is too long");
    {
        support::ssh_agent agent;
        fails(agent.socket(), "holds no keys, or is locked");
        agent.add(server.client_key());
        agent.lock("word");
        fails(agent.socket(), "holds no keys, or is locked");
        agent.suspend();
        fails(agent.socket(), "did not answer within", 1s);
    }
    const std::vector<std::pair<std::string, std::string>> answers{{"close", "closed the connection without an answer"},
                                                                   {framed("\x05"), "refused to list its keys"},
                                                                   {framed("\x0c"), "broke the protocol"},
                                                                   {framed(std::string{"\x0c\xff\xff\xff\xff", 5}), "broke the protocol"},
                                                                   {framed("hello"), "broke the protocol"},
                                                                   {std::string(4, '\0'), "its answer is 0 bytes long"},
                                                                   {"\x7f\xff\xff\xff", "its answer is 2147483647 bytes long"}};
    for (const auto& [bytes, why] : answers) {
        support::scripted_agent agent([b = bytes](const std::string&) { return b; });
        fails(agent.socket(), why);
        CHECK(agent.questions() == 1);
    }
}

TEST_CASE("an agent that lists keys and then does not sign fails the login in time, and the next way is tried", "[ssh][logins]") {
    support::sshd_server server;
    const auto blob = public_blob(server.client_key());
    std::string wrong_signature{'\x0e'};
    detail::append_string(wrong_signature, std::string{"\0\0\0\x03"
                                                       "xxx\0\0\0\x01x",
                                                       12});
    for (const auto& [reply, why] : std::vector<std::pair<std::string, std::string>>{
             {"", "did not answer within"}, {framed("\x05"), "the agent refused"}, {framed(wrong_signature), "no signature of the kind"}}) {
        support::scripted_agent agent([&, r = reply](const std::string& request) { return request.front() == '\x0b' ? list_of({blob}) : r; });
        auto login = agent_at(agent.socket());
        const auto report = log_in(server, login, 2s);
        CHECK((report.error.code == errc::key_unusable));
        says(report, why);
        CHECK_FALSE(log_in(server, login.or_else(credentials::private_key_file(server.client_key())), 4s).error);
    }
}

TEST_CASE("an agent's keys of types that cannot be used are passed over and counted", "[ssh][logins]") {
    support::sshd_server server;
    std::string strange;
    detail::append_string(strange, "sk-ssh-ed25519@openssh.com");
    std::string huge;
    detail::append_string(huge, "ssh-ed25519");
    huge.append(40'000, 'x');
    support::scripted_agent agent([&](const std::string&) { return list_of({strange, "", "short", huge}); });
    const auto report = log_in(server, agent_at(agent.socket()));
    CHECK((report.error.code == errc::key_unusable));
    says(report, "4 of the 4 keys of the SSH agent");
}

TEST_CASE("a slow agent holds up nobody else on the same thread", "[ssh][logins]") {
    support::sshd_server server;
    support::scripted_agent silent([](const std::string&) { return std::string{}; });
    running_transport slow;  // one thread
    auto pending = slow.start_open({server.address(), agent_at(silent.socket()), host_key_policy::known_hosts(server.known_hosts())}, 20s);
    REQUIRE(support::wait_until([&] { return silent.questions() == 1; }));
    libssh2_transport neighbour{slow.io.get_executor()};
    std::promise<open_report> opened;
    neighbour.open({to(server), 10s, 1, 2s, {}, {}}, [&](open_report r) { opened.set_value(std::move(r)); });
    CHECK_FALSE(opened.get_future().get().error);
    CHECK(pending.wait_for(0s) == std::future_status::timeout);
    std::promise<void> closed;
    neighbour.close([&] { closed.set_value(); });
    closed.get_future().get();
    slow.close();
    CHECK((pending.get().error.code == errc::cancelled));
}

TEST_CASE("an execution context may go while an agent is being asked", "[ssh][logins]") {
    support::sshd_server server;
    support::scripted_agent silent([](const std::string&) { return std::string{}; });
    const auto before = std::chrono::steady_clock::now();
    {
        asio::io_context io;
        libssh2_transport connection{io.get_executor()};
        connection.open({{server.address(), agent_at(silent.socket()), host_key_policy::accept_any()}, 60s, 1, 2s, {}, {}},
                        [](const open_report& r) { FAIL("completed: " << r.error.text); });
        while (silent.questions() == 0) io.run_one_for(10ms);
    }
    CHECK(std::chrono::steady_clock::now() - before < 20s);
}

TEST_CASE("a connection that is cut while it waits for an agent is lost, not refused", "[ssh][logins]") {
    support::sshd_server server;
    support::delay_proxy proxy(server.host(), server.port());
    const auto blob = public_blob(server.client_key());
    support::scripted_agent agent([&](const std::string& request) {
        if (request.front() == '\x0b') return list_of({blob});
        proxy.cut();
        return std::string{};
    });
    running_transport t;
    const auto report = t.open({server.address(proxy.host(), proxy.port()), agent_at(agent.socket()), host_key_policy::accept_any()});
    CHECK((report.error.code == errc::connection_lost));
    CHECK(report.error.phase == "login");
}

TEST_CASE("a connection cut at any byte of a login is lost, and no key counts as refused", "[ssh][logins]") {
    support::sshd_server server;
    const auto stranger = credentials::private_key_file(server.make_stranger_key());
    support::delay_proxy proxy(server.host(), server.port());
    const target where{server.address(proxy.host(), proxy.port()), stranger, host_key_policy::accept_any()};
    std::uint64_t whole = 0;
    {
        running_transport t;
        const auto report = t.open(where);
        CHECK((report.error.code == errc::auth_failed));
        whole = proxy.bytes(support::direction::to_client);
    }
    int lost_in_login = 0;
    for (const std::uint64_t back : {1U, 20U, 60U, 90U}) {
        proxy.cut_after(support::direction::to_client, whole - back);
        running_transport t;
        const auto report = t.open(where);
        INFO(back << " bytes before the end: " << report.error.text);
        CHECK((report.error.code == errc::connection_lost || (back > 60 && report.error.phase != "login")));
        CHECK(report.error.text.find("was refused") == std::string::npos);
        lost_in_login += report.error.phase == "login" ? 1 : 0;
    }
    CHECK(lost_in_login > 0);
}

TEST_CASE("a certificate beside a key logs in where the key alone would not", "[ssh][logins]") {
    const authority ca;
    for (const std::string type : {"ed25519", "ecdsa"}) {
        INFO(type);
        const auto key = ca.server->make_stranger_key(type);
        CHECK((log_in(*ca.server, credentials::private_key_file(key)).error.code == errc::auth_failed));
        ca.sign(key);
        const auto report = log_in(*ca.server, credentials::private_key_file(key));
        INFO(report.error.text);
        CHECK_FALSE(report.error);
        auto from_memory = credentials::private_key(support::read_file(key));
        from_memory.certificate(support::read_file(certificate_of(key)));
        CHECK_FALSE(log_in(*ca.server, from_memory).error);
        support::ssh_agent agent;
        agent.add(key);  // with its certificate
        CHECK_FALSE(log_in(*ca.server, agent_at(agent.socket())).error);
    }
    CHECK(ca.server->count_in_log("Accepted certificate") + ca.server->count_in_log("ID \"alice\"") > 0);
}

TEST_CASE("a signature too short to be one, of an agent that holds a certificate, fails the login with these words", "[ssh][logins]") {
    const authority ca;
    const auto key = ca.server->make_stranger_key();
    ca.sign(key);
    const auto blob = public_blob(key.string() + "-cert");
    for (const std::string bytes : {"x", "twenty bytes of rest."}) {
        std::string signature, reply{'\x0e'};
        detail::append_string(signature, "ssh-ed25519");
        detail::append_string(signature, bytes);
        detail::append_string(reply, signature);
        support::scripted_agent agent([&](const std::string& request) { return request.front() == '\x0b' ? list_of({blob}) : framed(reply); });
        const auto report = log_in(*ca.server, agent_at(agent.socket()), 4s);
        INFO(report.error.text);
        const bool cuts_it_short = libssh2_version(0x010b00) == nullptr;  // later ones put no wrong name before it: the server refuses it
        CHECK((report.error.code == (cuts_it_short ? errc::key_unusable : errc::auth_failed)));
        if (cuts_it_short) says(report, "bytes as a signature");
    }
}

TEST_CASE("a certificate that is expired or for somebody else is refused by name, and the key alone is tried after it", "[ssh][logins]") {
    const authority ca;
    for (const auto& options : std::vector<std::vector<std::string>>{{"-n", "sshpool", "-V", "20200101000000:20200102000000"}, {"-n", "somebody"}}) {
        const auto stranger = ca.server->make_stranger_key();
        ca.sign(stranger, options);
        const auto report = log_in(*ca.server, credentials::private_key_file(stranger));
        CHECK((report.error.code == errc::auth_failed));
        says(report, "the certificate \"alice\" (valid from ");
        says(report, "of the key ssh-ed25519 " + credentials::private_key(support::read_file(stranger)).identity() + " was refused; the key ssh-ed25519 ");
        const auto known = ca.server->make_client_key();
        ca.sign(known, options);
        CHECK_FALSE(log_in(*ca.server, credentials::private_key_file(known)).error);
    }
}

TEST_CASE("an RSA certificate is passed over and said so, its key logs in by itself", "[ssh][logins]") {
    const authority ca;
    const auto stranger = ca.server->make_stranger_key("rsa");
    ca.sign(stranger);
    const auto report = log_in(*ca.server, credentials::private_key_file(stranger));
    CHECK((report.error.code == errc::auth_failed));
    says(report, "cannot be used, for it is of the type ssh-rsa-cert-v01@openssh.com");
    const auto known = ca.server->make_client_key("rsa");
    ca.sign(known);
    CHECK_FALSE(log_in(*ca.server, credentials::private_key_file(known)).error);
}

TEST_CASE("a key with a certificate is another identity than the key alone, and a certificate of another key is refused when it is read", "[logins]") {
    const support::temp_dir dir;
    const auto key = dir / "key";
    const auto other = dir / "other";
    for (const auto& file : {key, other, dir / "ca"}) support::run_program({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "c", "-f", file.string()});
    const auto plain = credentials::private_key_file(key);
    const auto sign = [&](std::vector<std::string> options) {
        std::vector<std::string> argv{"ssh-keygen", "-q", "-s", (dir / "ca").string(), "-I", "alice"};
        argv.insert(argv.end(), options.begin(), options.end());
        argv.push_back(key.string() + ".pub");
        support::run_program(std::move(argv));
        return support::read_file(certificate_of(key));
    };
    const auto text = sign({"-n", "one"});
    const auto with = credentials::private_key_file(key);
    CHECK(plain.identity() != with.identity());
    CHECK(with.identity().find(plain.identity()) == 0);
    CHECK_FALSE(target("a@b", plain) == target("a@b", with));
    auto from_memory = credentials::private_key(support::read_file(key));
    CHECK(from_memory.certificate(text).identity() == with.identity());
    const auto for_another_name = sign({"-n", "two"});
    CHECK(credentials::private_key_file(key).identity() != with.identity());
    auto labelled = credentials::private_key(support::read_file(key));
    CHECK(labelled.as_principal("door").certificate(text).identity() == "door");

    const auto why = [](credentials c, const std::string& certificate) -> std::string {
        try {
            c.certificate(certificate);
        } catch (const ssh_error& e) {
            CHECK((e.code() == errc::key_unusable));
            return e.what();
        }
        return "taken";
    };
    const auto bare = credentials::private_key(support::read_file(key));
    CHECK(why(bare, "").find("is no OpenSSH certificate") != std::string::npos);
    CHECK(why(bare, support::read_file(key.string() + ".pub")).find("is no OpenSSH certificate") != std::string::npos);
    CHECK(why(credentials::private_key_file(other), text).find("is for another key than SHA256:") != std::string::npos);
    CHECK(why(bare, sign({"-h", "-n", "host"})).find("for a host, not for a user") != std::string::npos);
    CHECK_THROWS_AS(credentials::password("word").certificate(text), std::invalid_argument);
    // Cut anywhere, or with a byte changed, it is refused or read, never worse.
    for (std::size_t i = 0; i < text.size(); ++i) {
        CHECK_FALSE((i < text.find(' ', 40) - 4 && why(bare, text.substr(0, i)) == "taken"));
        auto changed = text;
        changed[i] = 'Q';
        why(bare, changed);
    }
    std::filesystem::copy_file(certificate_of(key), certificate_of(other));
    CHECK_THROWS_AS(credentials::private_key_file(other), ssh_error);
}

TEST_CASE("a password answers keyboard-interactive where the server takes no passwords otherwise", "[ssh][logins]") {
    support::sshd_server::options o;
    o.password_login = true;
    o.config = {"PasswordAuthentication no"};
    const std::string matrix = "{pam_wrapper}/pam_matrix.so passdb={dir}/passdb";
    const std::string rest = "account required " + matrix + "\nsession required " + matrix + "\npassword required " + matrix + "\n";
    SECTION("one question") {
        o.pam = "auth required " + matrix + "\n" + rest;
        support::sshd_server server(o);
        const auto report = log_in(server, credentials::password(server.password()));
        INFO(report.error.text << server.log());
        CHECK_FALSE(report.error);
        const auto refused = log_in(server, credentials::password("not-the-word"));
        CHECK((refused.error.code == errc::auth_failed));
        says(refused, "the password, as an answer to keyboard-interactive, was refused");
        CHECK(refused.error.text.find("not-the-word") == std::string::npos);
        auto login = credentials::password("not-the-word");
        CHECK_FALSE(log_in(server, login.or_else(credentials::private_key_file(server.client_key()))).error);
    }
    SECTION("a great deal of talk before the question") {
        o.pam = "auth optional {pam_wrapper}/pam_chatty.so num_lines=16 info error\nauth required " + matrix + "\n" + rest;
        support::sshd_server server(o);
        const auto report = log_in(server, credentials::password(server.password()));
        INFO(report.error.text << server.log());
        CHECK_FALSE(report.error);
    }
    SECTION("a second question, which only a person can answer") {
        o.pam = "auth required " + matrix + "\nauth required " + matrix + " echo\n" + rest;
        support::sshd_server server(o);
        const auto report = log_in(server, credentials::password(server.password()));
        INFO(server.log());
        CHECK((report.error.code == errc::auth_failed));
        says(report, "which also asked \"");
    }
    SECTION("a password that has expired") {
        o.pam = "auth required " + matrix + "\naccount required pam_debug.so acct=new_authtok_reqd\npassword required " + matrix + "\nsession required " +
                matrix + "\n";
        support::sshd_server server(o);
        const auto report = log_in(server, credentials::password(server.password()));
        INFO(server.log());
        CHECK((report.error.code == errc::auth_failed));
        says(report, "which also asked \"");
        CHECK(report.error.text.find(server.password()) == std::string::npos);
    }
}

TEST_CASE("ways to log in are tried in order, whatever they are, and the account of a refusal lists them so", "[ssh][logins]") {
    support::sshd_server::options o;
    o.password_login = true;
    support::sshd_server server(o);
    support::ssh_agent agent;
    agent.add(server.make_stranger_key("ecdsa"));
    const support::temp_dir dir;
    auto login = agent_at((dir / "nobody").string());
    login.or_else(credentials::password("not-the-word")).or_else(credentials::private_key_file(server.make_stranger_key())).or_else(agent_at(agent.socket()));
    const auto report = log_in(server, login);
    CHECK((report.error.code == errc::auth_failed));
    std::size_t at = 0;
    for (const std::string part :
         {"cannot be reached: No such file", "the password was refused", "the key ssh-ed25519 ", "the agent's key ecdsa-sha2-nistp256 "}) {
        const auto found = report.error.text.find(part, at);
        INFO(part << " in " << report.error.text);
        REQUIRE(found != std::string::npos);
        at = found;
    }
    CHECK_FALSE(log_in(server, login.or_else(credentials::password(server.password()))).error);
}

TEST_CASE("an encrypted key is decrypted once, where the credentials are made: no login needs its file or its passphrase again", "[ssh][logins]") {
    support::sshd_server server;
    const auto key = server.make_client_key("ed25519", "the passphrase");
    const auto login = credentials::private_key_file(key, "the passphrase");
    std::filesystem::remove(key);
    for (int i = 0; i < 3; ++i) CHECK_FALSE(log_in(server, login).error);
    CHECK_THROWS_AS(credentials::private_key_file(key, "the passphrase"), ssh_error);
}
