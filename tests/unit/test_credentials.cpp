#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/temp_dir.hpp"

#include <sshpool/credentials.hpp>

#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <future>
#include <sstream>
#include <string>
#include <vector>

using namespace sshpool;
using support::run_program;

namespace {

struct key_kind {
    std::string name;
    std::vector<std::string> make;  // arguments of ssh-keygen
    std::string type;               // in SSH
    std::string signature;          // what its signatures are called
};
const std::vector<key_kind>& key_kinds() {
    static const std::vector<key_kind> kinds{
        {"ed25519", {"-t", "ed25519"}, "ssh-ed25519", "ssh-ed25519"},
        {"p256", {"-t", "ecdsa", "-b", "256"}, "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"},
        {"p384", {"-t", "ecdsa", "-b", "384"}, "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"},
        {"p521", {"-t", "ecdsa", "-b", "521"}, "ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"},
        {"rsa1024", {"-t", "rsa", "-b", "1024"}, "ssh-rsa", "rsa-sha2-256"},
        {"rsa2048", {"-t", "rsa", "-b", "2048"}, "ssh-rsa", "rsa-sha2-256"},
    };
    return kinds;
}

/// A fresh key without a passphrase.
std::filesystem::path make_key(const support::temp_dir& dir, const std::vector<std::string>& how = {"-t", "ed25519"}, const std::string& name = "key") {
    std::vector<std::string> argv{"ssh-keygen", "-q", "-N", "", "-C", "a comment", "-f", (dir / name).string()};
    argv.insert(argv.end(), how.begin(), how.end());
    run_program(argv);
    return dir / name;
}

/// The same key in another format or with another passphrase.
std::filesystem::path rewrite_key(const std::filesystem::path& key, const std::string& suffix, const std::string& passphrase,
                                  const std::vector<std::string>& how) {
    const auto copy = std::filesystem::path{key.string() + suffix};
    std::filesystem::copy_file(key, copy, std::filesystem::copy_options::overwrite_existing);
    std::vector<std::string> argv{"ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-f", copy.string()};
    argv.insert(argv.end(), how.begin(), how.end());
    run_program(argv);
    return copy;
}

std::string second_word(const std::string& line) {
    std::istringstream in{line};
    std::string word;
    in >> word >> word;
    return word;
}
std::string keygen_fingerprint(const std::filesystem::path& key) { return second_word(run_program({"ssh-keygen", "-l", "-f", key.string() + ".pub"})); }

const detail::private_key& key_of(const credentials& login) { return *std::get<detail::login_key>(detail::login_methods(login).at(0)).key; }

/// What `make` throws, checked to be a `key_unusable`.
template <class F>
std::string refusal(F make) {
    try {
        make();
    } catch (const ssh_error& e) {
        CHECK(e.code() == errc::key_unusable);
        CHECK(e.code() == command_fate::not_started);
        CHECK(e.info().phase == "key");
        return e.what();
    }
    return "nothing was thrown";
}
std::string refusal_of_key(const std::string& text, std::string_view passphrase = {}) {
    return refusal([&] { credentials::private_key(text, passphrase); });
}
std::string refusal_of_file(const std::filesystem::path& file, std::string_view passphrase = {}) {
    return refusal([&] { credentials::private_key_file(file, passphrase); });
}

/// Has ssh-keygen judge a signature made by `key`, in the format of its -Y (PROTOCOL.sshsig).
bool keygen_accepts(const support::temp_dir& dir, const detail::private_key& key, const std::string& algorithm, const std::string& message) {
    const auto fields = [&](std::string& out) {
        detail::append_string(out, "test");
        detail::append_string(out, "");
        detail::append_string(out, "sha512");
    };
    std::string to_sign = "SSHSIG";
    fields(to_sign);
    detail::append_string(to_sign, detail::digest(EVP_sha512(), message));
    std::string signature;
    detail::append_string(signature, algorithm);
    detail::append_string(signature, key.sign({detail::as_bytes(to_sign), to_sign.size()}));
    std::string blob = "SSHSIG";
    detail::append_u32(blob, 1);
    detail::append_string(blob, key.public_blob());
    fields(blob);
    detail::append_string(blob, signature);
    auto text = detail::to_base64(blob);
    std::string armoured = "-----BEGIN SSH SIGNATURE-----\n";
    for (; !text.empty(); text.erase(0, 70)) armoured += text.substr(0, 70) + '\n';
    support::write_file(dir / "sig", armoured + "-----END SSH SIGNATURE-----\n");
    support::spawn_options options;
    options.input = message;
    support::process child({"ssh-keygen", "-Y", "check-novalidate", "-n", "test", "-s", (dir / "sig").string()}, std::move(options));
    return child.wait() == 0;
}

std::string pem_of(EVP_PKEY* key) {
    BIO* out = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
    char* data = nullptr;
    const auto size = BIO_get_mem_data(out, &data);
    std::string text(data, static_cast<std::size_t>(size));
    BIO_free(out);
    return text;
}

}  // namespace

TEST_CASE("every kind of key has the fingerprint that ssh-keygen prints and signs what ssh-keygen verifies") {
    const support::temp_dir dir;
    for (const auto& kind : key_kinds()) {
        INFO(kind.name);
        const auto file = make_key(dir, kind.make, kind.name);
        const auto login = credentials::private_key_file(file);
        const auto& key = key_of(login);
        CHECK(key.type() == kind.type);
        CHECK(login.identity() == keygen_fingerprint(file));
        for (int i = 0; i != 5; ++i) CHECK(keygen_accepts(dir, key, kind.signature, "message " + std::to_string(i)));
        CHECK_FALSE(keygen_accepts(dir, key, kind.type == "ssh-rsa" ? "rsa-sha2-512" : "ssh-dss", "message"));

        std::istringstream pub{support::read_file(file.string() + ".pub")};
        std::string type;
        std::string base64;
        pub >> type >> base64;
        CHECK(detail::to_base64(key.public_blob()) == base64);
        if (kind.type == "ssh-rsa") {
            CHECK(detail::wire_reader{key.userauth_blob()}.string() == "rsa-sha2-256");
            CHECK(key.userauth_blob().substr(4 + 12) == key.public_blob().substr(4 + 7));
        } else {
            CHECK(key.userauth_blob() == key.public_blob());
        }
    }
}

TEST_CASE("a key is the same key in every format, cipher and passphrase") {
    const support::temp_dir dir;
    for (const auto& kind : key_kinds()) {
        const auto file = make_key(dir, kind.make, kind.name);
        const auto expected = keygen_fingerprint(file);
        const std::string passphrase = "correct horse";
        std::vector<std::pair<std::string, std::vector<std::string>>> ways{{"openssh", {"-a", "2"}}};
        if (kind.name != "ed25519") {  // OpenSSH 9.2 writes Ed25519 in its own format only
            ways.push_back({"pem", {"-m", "PEM"}});
            ways.push_back({"pkcs8", {"-m", "PKCS8"}});
        }
        for (const auto& [suffix, how] : ways) {
            INFO(kind.name << " " << suffix);
            const auto plain = rewrite_key(file, ".plain-" + suffix, "", how);
            CHECK(credentials::private_key_file(plain).identity() == expected);
            CHECK(credentials::private_key_file(plain, "a passphrase that is not needed").identity() == expected);
            CHECK(credentials::private_key(support::read_file(plain)).identity() == expected);
            const auto sealed = rewrite_key(file, ".sealed-" + suffix, passphrase, how);
            CHECK(credentials::private_key_file(sealed, passphrase).identity() == expected);
            CHECK_THAT(refusal_of_file(sealed), Catch::Contains("is encrypted and no passphrase was given") && Catch::Contains(sealed.string()));
            CHECK_THAT(refusal_of_file(sealed, "incorrect horse"), Catch::Contains("the passphrase for the private key") && Catch::Contains("is wrong"));
        }
    }
}

TEST_CASE("an Ed25519 key that OpenSSL wrote can be used, encrypted with pbkdf2 or scrypt too") {
    const support::temp_dir dir;
    run_program({"openssl", "genpkey", "-algorithm", "ed25519", "-out", (dir / "plain").string()});
    const auto expected = credentials::private_key_file(dir / "plain").identity();
    for (const std::vector<std::string>& how : {std::vector<std::string>{}, {"-scrypt"}, {"-iter", "5000"}, {"-v1", "PBE-SHA1-3DES"}}) {
        std::vector<std::string> argv{"openssl",  "pkcs8",      "-topk8", "-in", (dir / "plain").string(), "-out", (dir / "sealed").string(),
                                      "-passout", "pass:secret"};
        argv.insert(argv.end(), how.begin(), how.end());
        run_program(argv);
        CHECK(credentials::private_key_file(dir / "sealed", "secret").identity() == expected);
        CHECK_THAT(refusal_of_file(dir / "sealed", "wrong"), Catch::Contains("is wrong"));
    }
}

TEST_CASE("every cipher and number of rounds that ssh-keygen offers can be decrypted") {
    const support::temp_dir dir;
    const auto file = make_key(dir);
    const auto expected = keygen_fingerprint(file);
    for (const auto& cipher : detail::key_ciphers) {
        INFO(cipher.name);
        const auto sealed = rewrite_key(file, ".sealed", "pass", {"-a", "1", "-Z", std::string{cipher.name}});
        CHECK(credentials::private_key_file(sealed, "pass").identity() == expected);
        CHECK_THAT(refusal_of_file(sealed, "Pass"), Catch::Contains("is wrong"));
    }
    for (const std::string rounds : {"1", "2", "3", "7", "16", "33"}) {
        INFO(rounds);
        const auto sealed = rewrite_key(file, ".sealed", "pass", {"-a", rounds});
        CHECK(credentials::private_key_file(sealed, "pass").identity() == expected);
    }
    const auto unusual = rewrite_key(file, ".unusual", "pass", {"-a", "1", "-Z", "chacha20-poly1305@openssh.com"});
    CHECK_THAT(refusal_of_file(unusual, "pass"), Catch::Contains("unsupported cipher \"chacha20-poly1305@openssh.com\""));
}

TEST_CASE("Blowfish's tables begin and end as published, and bcrypt_pbkdf fills keys of any length") {
    const auto& tables = detail::blowfish::initial();
    CHECK(tables.word(0) == 0x243F6A88U);
    CHECK(tables.word(17) == 0x8979FB1BU);
    CHECK(tables.word(18) == 0xD1310BA6U);
    CHECK(tables.word(18 + 1023) == 0x3AC372E6U);
    // OpenBSD's regress/lib/libutil/bcrypt_pbkdf: 4 rounds, "password", "salt", 32 bytes
    CHECK(detail::to_hex(detail::bcrypt_pbkdf("password", "salt", 4, 32).view()) == "5bbf0cc293587f1c3635555c27796598d47e579071bf427e9d8fbe842aba34d9");
    for (const std::size_t size : {1U, 31U, 32U, 33U, 48U, 63U, 64U, 65U}) CHECK(detail::bcrypt_pbkdf("p", "s", 1, size).size() == size);
}

TEST_CASE("a key file may demand only bounded work") {
    const support::temp_dir dir;
    const auto file = make_key(dir);
    const auto sealed = rewrite_key(file, ".sealed", "pass", {"-a", "1"});
    auto text = support::read_file(sealed);
    const auto first = text.find('\n') + 1;
    const auto last = text.find("-----END");
    std::string body;
    for (const char c : text.substr(first, last - first)) {
        if (c != '\n') body += c;
    }
    auto bytes = detail::from_base64(body).value();
    // "openssh-key-v1\0", cipher "aes256-ctr", kdf "bcrypt", options: length, salt of 16 bytes, rounds
    const std::size_t rounds = 15 + (4 + 10) + (4 + 6) + 4 + (4 + 16);
    REQUIRE(bytes.substr(rounds, 4) == std::string("\0\0\0\1", 4));
    const auto with_rounds = [&](const std::string& value) {
        auto changed = bytes;
        changed.replace(rounds, 4, value);
        return "-----BEGIN OPENSSH PRIVATE KEY-----\n" + detail::to_base64(changed) + "\n-----END OPENSSH PRIVATE KEY-----\n";
    };
    CHECK_THAT(refusal_of_key(with_rounds(std::string("\0\0\4\1", 4)), "pass"), Catch::Contains("asks for 1025 rounds of bcrypt") && Catch::Contains("1024"));
    CHECK_THAT(refusal_of_key(with_rounds("\xff\xff\xff\xff"), "pass"), Catch::Contains("asks for 4294967295 rounds"));
    CHECK_THAT(refusal_of_key(with_rounds(std::string(4, '\0')), "pass"), Catch::Contains("is damaged"));
    CHECK_THAT(refusal_of_key(with_rounds(std::string("\0\0\0\2", 4)), "pass"), Catch::Contains("is wrong"));

    run_program({"openssl", "genpkey", "-algorithm", "ed25519", "-out", (dir / "plain").string()});
    run_program({"openssl", "pkcs8", "-topk8", "-in", (dir / "plain").string(), "-out", (dir / "costly").string(), "-passout", "pass:x", "-iter", "4000001"});
    CHECK_THAT(refusal_of_file(dir / "costly", "x"), Catch::Contains("more work to decrypt it than is allowed"));
}

TEST_CASE("line ends, indentation and text around a key do not matter") {
    const support::temp_dir dir;
    for (const std::vector<std::string>& how :
         {std::vector<std::string>{"-t", "ed25519"}, {"-t", "ecdsa", "-m", "PEM"}, {"-t", "rsa", "-b", "1024", "-m", "PKCS8"}}) {
        const auto file = make_key(dir, how, "key" + how[1]);
        const auto text = support::read_file(file);
        const auto expected = keygen_fingerprint(file);
        std::string crlf;
        std::string indented = "key: |\n";
        for (std::istringstream in{text}; in.good();) {
            std::string line;
            std::getline(in, line);
            crlf += line + "\r\n";
            indented += "    " + line + " \t\n";
        }
        CHECK(credentials::private_key(crlf).identity() == expected);
        CHECK(credentials::private_key(indented).identity() == expected);
        CHECK(credentials::private_key("Bag Attributes\n  friendlyName: x\n\n" + text + "\ntrailing").identity() == expected);
        CHECK(credentials::private_key("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + text).identity() == expected);
        CHECK(credentials::private_key(text.substr(0, text.size() - 1)).identity() == expected);
    }
}

TEST_CASE("each unusable key says what is wrong with it") {
    const support::temp_dir dir;
    const auto file = make_key(dir);
    const auto text = support::read_file(file);

    CHECK_THAT(refusal_of_file(file.string() + ".pub"), Catch::Contains("key.pub\" is a public key: give the private one"));
    const auto rsa = make_key(dir, {"-t", "rsa", "-b", "1024"}, "rsa");
    for (const std::string format : {"RFC4716", "PKCS8", "PEM"}) {
        INFO(format);
        CHECK_THAT(refusal_of_key(run_program({"ssh-keygen", "-e", "-m", format, "-f", rsa.string() + ".pub"})), Catch::Contains("is a public key"));
    }
    CHECK_THAT(refusal_of_file(dir / "nowhere"), Catch::Contains("nowhere\" cannot be read: No such file or directory"));
    CHECK_THAT(refusal_of_file(dir.path()), Catch::Contains("is a directory"));
    CHECK_THAT(refusal_of_file(""), Catch::Contains("file name is empty"));
    CHECK_THAT(refusal_of_file("/dev/null"), Catch::Contains("no regular file"));
    REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
    CHECK_THAT(refusal_of_file(dir / "fifo"), Catch::Contains("no regular file"));
    support::write_file(dir / "empty", "");
    CHECK_THAT(refusal_of_file(dir / "empty"), Catch::Contains("is empty"));
    CHECK_THAT(refusal_of_key(""), Catch::Contains("the private key is empty"));
    support::write_file(dir / "large", std::string((1U << 20U) + 1, 'x'));
    CHECK_THAT(refusal_of_file(dir / "large"), Catch::Contains("larger than 1 MiB"));
    CHECK_THAT(refusal_of_key(std::string((1U << 20U) + 1, 'x')), Catch::Contains("larger than 1 MiB"));
    if (::geteuid() != 0) {
        ::chmod(file.c_str(), 0);
        CHECK_THAT(refusal_of_file(file), Catch::Contains("Permission denied"));
        ::chmod(file.c_str(), 0600);
    }

    CHECK_THAT(refusal_of_key("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"), Catch::Contains("PuTTY's format") && Catch::Contains("puttygen"));
    CHECK_THAT(refusal_of_key("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n"), Catch::Contains("ssh.com"));
    CHECK_THAT(refusal_of_key("hello, I am no key"), Catch::Contains("no private key in OpenSSH's or PEM format"));
    CHECK_THAT(refusal_of_key("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Catch::Contains("holds no private key, but \"CERTIFICATE\""));
    CHECK_THAT(refusal_of_key("-----BEGIN OPENSSH PRIVATE KEY-----\n!!!!\n-----END OPENSSH PRIVATE KEY-----\n"), Catch::Contains("not base64"));
    CHECK_THAT(refusal_of_key("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), Catch::Contains("is damaged"));
    CHECK_THAT(refusal_of_key(text, std::string(1025, 'p')), Catch::Contains("longer than 1024 bytes"));

    CHECK_THAT(refusal_of_key("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n"), Catch::Contains("DSA"));
    const auto openssh_of_type = [](const std::string& type) {
        std::string blob;
        detail::append_string(blob, type);
        std::string bytes("openssh-key-v1\0", 15);
        detail::append_string(bytes, "none");
        detail::append_string(bytes, "none");
        detail::append_string(bytes, "");
        detail::append_u32(bytes, 1);
        detail::append_string(bytes, blob);
        detail::append_string(bytes, std::string(16, '\0'));
        return "-----BEGIN OPENSSH PRIVATE KEY-----\n" + detail::to_base64(bytes) + "\n-----END OPENSSH PRIVATE KEY-----\n";
    };
    CHECK_THAT(refusal_of_key(openssh_of_type("ssh-dss")), Catch::Contains("DSA"));
    CHECK_THAT(refusal_of_key(openssh_of_type("sk-ssh-ed25519@openssh.com")), Catch::Contains("hardware token"));
    CHECK_THAT(refusal_of_key(openssh_of_type("ssh-xmss\x1b[2J")), Catch::Contains("unsupported type \"ssh-xmss\\x1b[2J\""));
    for (const std::vector<std::string>& how :
         {std::vector<std::string>{"-algorithm", "ed448"}, {"-algorithm", "x25519"}, {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"}}) {
        CHECK_THAT(refusal_of_key(run_program([&] {
                       std::vector<std::string> argv{"openssl", "genpkey"};
                       argv.insert(argv.end(), how.begin(), how.end());
                       return argv;
                   }())),
                   Catch::Contains(how.size() == 2 ? "unsupported type" : "only nistp256, nistp384 and nistp521"));
    }
    EVP_PKEY* small = EVP_RSA_gen(768U);
    REQUIRE(small != nullptr);
    CHECK_THAT(refusal_of_key(pem_of(small)), Catch::Contains("RSA key of 768 bits: at least 1024"));
    EVP_PKEY_free(small);
}

TEST_CASE("a truncated or altered key is refused at every byte, and never crashes") {
    const support::temp_dir dir;
    for (const std::vector<std::string>& how :
         {std::vector<std::string>{"-t", "ed25519"}, {"-t", "ecdsa"}, {"-t", "rsa", "-b", "1024"}, {"-t", "ecdsa", "-m", "PEM"}}) {
        const auto file = make_key(dir, how, "k" + std::to_string(how.size()) + how[1]);
        const auto text = support::read_file(file);
        const auto whole = credentials::private_key(text).identity();
        for (std::size_t size = 0; size < text.size() - 1; size += 7) CHECK_FALSE(refusal_of_key(text.substr(0, size)) == "nothing was thrown");

        const auto first = text.find('\n') + 1;
        const auto last = text.find("-----END");
        std::string body;
        for (const char c : text.substr(first, last - first)) {
            if (c != '\n') body += c;
        }
        const auto bytes = detail::from_base64(body).value();
        const auto comment = bytes.find("a comment");
        for (std::size_t at = 0; at < bytes.size(); at += how[1] == "rsa" ? 5 : 1) {
            if (comment != std::string::npos && at >= comment - 4 && at < comment + 9) continue;
            auto changed = bytes;
            changed[at] = static_cast<char>(static_cast<unsigned char>(changed[at]) ^ 0x10U);
            INFO("byte " << at << " of " << bytes.size());
            const auto altered = text.substr(0, first) + detail::to_base64(changed) + '\n' + text.substr(last);
            std::string identity = "refused";
            try {
                identity = credentials::private_key(altered).identity();
            } catch (const ssh_error& e) {
                CHECK(e.code() == errc::key_unusable);
            }
            if (how.back() == "PEM" && identity != "refused") {
                CHECK(identity == whole);  // DER says some things twice: what still parses is the very same key
            } else {
                CHECK(identity == "refused");
            }
        }
    }
}

TEST_CASE("an RSA key with the factors of another key is refused") {
    // OpenSSL itself would not notice: it signs again without the factors when they give a wrong result.
    const support::temp_dir dir;
    struct rsa_file {
        std::string before;  // up to the private part
        std::string check;
        std::vector<std::string> numbers;  // n, e, d, 1/q mod p, p, q
    };
    const auto read = [&](const std::string& name) {
        const auto text = support::read_file(make_key(dir, {"-t", "rsa", "-b", "1024"}, name));
        std::string body;
        for (const char c : text.substr(text.find('\n'), text.find("-----END") - text.find('\n'))) {
            if (c != '\n') body += c;
        }
        const auto bytes = detail::from_base64(body).value();
        detail::wire_reader in{std::string_view{bytes}.substr(15)};
        for (int i = 0; i != 3; ++i) in.string();
        in.u32();
        in.string();
        rsa_file file{bytes.substr(0, bytes.size() - in.rest().size()), {}, {}};
        detail::wire_reader part{in.string()};
        file.check = part.raw(8);
        REQUIRE(part.string() == "ssh-rsa");
        for (int i = 0; i != 6; ++i) file.numbers.emplace_back(part.string());
        REQUIRE(part.ok());
        return file;
    };
    const auto a = read("a");
    const auto b = read("b");
    const auto mixed = [&](std::size_t own) {
        auto part = a.check;
        detail::append_string(part, "ssh-rsa");
        for (std::size_t i = 0; i != 6; ++i) detail::append_string(part, (i < own ? a : b).numbers[i]);
        detail::append_string(part, "");
        auto bytes = a.before;
        detail::append_string(bytes, part);
        return "-----BEGIN OPENSSH PRIVATE KEY-----\n" + detail::to_base64(bytes) + "\n-----END OPENSSH PRIVATE KEY-----\n";
    };
    CHECK(credentials::private_key(mixed(6)).identity() == credentials::private_key_file(dir / "a").identity());
    for (std::size_t own = 1; own != 6; ++own) CHECK_THAT(refusal_of_key(mixed(own)), Catch::Contains("damaged"));
}

TEST_CASE("no message repeats the passphrase or a part of the key") {
    const support::temp_dir dir;
    const auto file = make_key(dir);
    const auto sealed = rewrite_key(file, ".sealed", "right", {"-a", "1"});
    const auto text = support::read_file(file);
    const std::string passphrase = "hunter2-hunter2";
    const auto secret_part = text.substr(text.size() / 2, 12);
    for (const auto& message : {refusal_of_file(sealed, passphrase), refusal_of_key(text.substr(0, text.size() - 60), passphrase),
                                refusal_of_key("x" + passphrase, passphrase), refusal_of_key(text.substr(text.size() / 2), passphrase)}) {
        CHECK(message != "nothing was thrown");
        CHECK(message.find(passphrase) == std::string::npos);
        CHECK(message.find(secret_part) == std::string::npos);
    }
}

TEST_CASE("a key signs from many threads at once") {
    const support::temp_dir dir;
    for (const auto& how : {std::vector<std::string>{"-t", "ed25519"}, {"-t", "rsa", "-b", "2048"}, {"-t", "ecdsa"}}) {
        const auto login = credentials::private_key_file(make_key(dir, how, how[1]));
        const auto& key = key_of(login);
        const std::string message = "message";
        std::vector<std::future<std::string>> all;
        for (int i = 0; i != 4; ++i) {
            all.push_back(std::async(std::launch::async, [&] {
                std::string out;
                for (int n = 0; n != 20; ++n) out = key.sign({detail::as_bytes(message), message.size()});
                return out;
            }));
        }
        for (auto& one : all) CHECK(one.get().size() >= 64);
    }
}

TEST_CASE("a key that changes its file later changes nothing") {
    const support::temp_dir dir;
    const auto file = make_key(dir);
    const auto login = credentials::private_key_file(file);
    const auto before = login.identity();
    std::filesystem::remove(file);
    CHECK(login.identity() == before);
    CHECK(key_of(login).sign({detail::as_bytes("x"), 1}).size() == 64);
}

TEST_CASE("a password's identity tells equal from different passwords, and nothing else") {
    const auto a = credentials::password("swordfish");
    CHECK(a.identity() == credentials::password("swordfish").identity());
    CHECK(a.identity() != credentials::password("swordfisj").identity());
    CHECK(a.identity().find("swordfish") == std::string::npos);
    // A digest without a key of this process would be found by whoever tries passwords.
    CHECK(a.identity().find(detail::to_hex(detail::digest(EVP_sha256(), "swordfish"))) == std::string::npos);
    CHECK_THROWS_WITH(credentials::password(""), Catch::Contains("empty"));
    CHECK_THROWS_AS(credentials::password(""), std::invalid_argument);
    CHECK_THROWS_WITH(credentials::password({"a\0b", 3}), Catch::Contains("NUL"));
    CHECK_THROWS_WITH(credentials::password(std::string(1025, 'x')), Catch::Contains("1024"));
    const auto& method = std::get<detail::login_password>(detail::login_methods(a).at(0));
    CHECK(method.text->view() == "swordfish");
}

TEST_CASE("the agent is the one that SSH_AUTH_SOCK names when credentials are made") {
    const char* found = std::getenv("SSH_AUTH_SOCK");
    const std::string before = found == nullptr ? "" : found;
    ::setenv("SSH_AUTH_SOCK", "/run/agent-1", 1);
    const auto login = credentials::agent();
    ::setenv("SSH_AUTH_SOCK", "/run/agent-2", 1);
    CHECK(login.identity() == "/run/agent-1");
    CHECK(std::get<detail::login_agent>(detail::login_methods(login).at(0)).socket == "/run/agent-1");
    CHECK(credentials::agent().identity() == "/run/agent-2");
    ::unsetenv("SSH_AUTH_SOCK");
    CHECK_THAT(refusal([] { credentials::agent(); }), Catch::Contains("SSH_AUTH_SOCK is not set"));
    if (!before.empty()) ::setenv("SSH_AUTH_SOCK", before.c_str(), 1);
}

TEST_CASE("ways to log in are tried in the order in which they were added") {
    auto login = credentials::password("one");
    const auto copy = login;
    CHECK(&login.or_else(credentials::password("two")).or_else(credentials::password("three")) == &login);
    std::vector<std::string> order;
    for (const auto& method : detail::login_methods(login)) order.emplace_back(std::get<detail::login_password>(method).text->view());
    CHECK(order == std::vector<std::string>{"one", "two", "three"});
    CHECK(detail::login_methods(copy).size() == 1);  // a copy made before is as it was
    CHECK(copy.identity() == credentials::password("one").identity());
    CHECK(login.identity() != copy.identity());
    auto reversed = credentials::password("three");
    reversed.or_else(credentials::password("two")).or_else(credentials::password("one"));
    CHECK(reversed.identity() != login.identity());
    auto self = credentials::password("one");
    self.or_else(self);
    CHECK(detail::login_methods(self).size() == 2);
    CHECK_THROWS_AS(
        [&] {
            for (int i = 0; i != 20; ++i) login.or_else(copy);
        }(),
        std::invalid_argument);
}

TEST_CASE("a label is the identity of whatever key goes by it, and is never taken for a key") {
    const support::temp_dir dir;
    const auto old_key = credentials::private_key_file(make_key(dir, {"-t", "ed25519"}, "old"));
    const auto new_key = credentials::private_key_file(make_key(dir, {"-t", "ed25519"}, "new"));
    auto a = old_key;
    auto b = new_key;
    a.as_principal("deploy");
    b.as_principal("deploy");
    CHECK(a.identity() == "deploy");
    CHECK(detail::credential_match(a) == detail::credential_match(b));
    CHECK(detail::credential_digest(a) != detail::credential_digest(b));
    CHECK(detail::credential_digest(a) == detail::credential_digest(old_key));
    CHECK(a.has_principal("deploy"));
    CHECK_FALSE(a.has_principal("deplo"));
    CHECK_FALSE(a.has_principal(""));
    CHECK_FALSE(old_key.has_principal(""));
    CHECK(old_key.identity() != "deploy");  // the original is as it was

    auto disguised = new_key;
    disguised.as_principal(old_key.identity());
    CHECK(disguised.identity() == old_key.identity());
    CHECK(detail::credential_match(disguised) != detail::credential_match(old_key));

    auto more = a;
    more.or_else(credentials::password("x"));  // the password was not said to open that door
    CHECK(detail::credential_match(more) != detail::credential_match(a));
    CHECK(more.has_principal("deploy"));
    CHECK(more.identity() != "deploy");
    auto both = old_key;
    both.or_else(new_key).as_principal("deploy");
    CHECK(both.identity() == "deploy");
    CHECK(detail::credential_match(both) == detail::credential_match(a));

    CHECK_THROWS_WITH(credentials{old_key}.as_principal(""), Catch::Contains("empty"));
    CHECK_THROWS_WITH(credentials{old_key}.as_principal("a\nb"), Catch::Contains("control character: \"a\\x0ab\""));
    CHECK_THROWS_AS(credentials{old_key}.as_principal(std::string(256, 'x')), std::invalid_argument);
}
