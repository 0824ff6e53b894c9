#include "support/catch.hpp"
#include "support/process.hpp"
#include "support/sanitizers.hpp"
#include "support/temp_dir.hpp"

#include <sshpool/credentials.hpp>
#include <sshpool/detail/key_file.hpp>
#include <sshpool/detail/secret.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

using namespace sshpool;

namespace {

/// Looks at memory as it is given back.
struct watch {
    static inline int returned = 0;
    static inline int dirty = 0;
};
template <class T>
struct watching_allocator {
    using value_type = T;
    T* allocate(std::size_t n) { return std::allocator<T>{}.allocate(n); }
    void deallocate(T* p, std::size_t n) {
        ++watch::returned;
        if (std::any_of(p, p + n, [](T c) { return c != T{}; })) ++watch::dirty;
        std::allocator<T>{}.deallocate(p, n);
    }
    friend bool operator==(const watching_allocator&, const watching_allocator&) { return true; }
};
using watched_secret = detail::basic_secret<watching_allocator<char>>;

/// Something to look for that is not itself in memory.
class needle {
public:
    explicit needle(std::string_view plain) {
        for (const char c : plain) hidden_ += static_cast<char>(c ^ mask);
    }
    bool begins_at(const char* at) const {
        for (std::size_t i = 0; i != hidden_.size(); ++i) {
            if ((at[i] ^ mask) != hidden_[i]) return false;
        }
        return true;
    }
    std::size_t size() const { return hidden_.size(); }

private:
    static constexpr char mask = 0x5a;
    std::string hidden_;
};

/// How often it stands in the memory that this process can write to.
[[maybe_unused]] int copies_in_memory(const needle& wanted) {
    struct region {
        unsigned long from = 0, to = 0;
    };
    std::vector<region> regions;
    std::ifstream maps{"/proc/self/maps"};
    for (std::string line; std::getline(maps, line);) {
        region r;
        char mode[5] = {};
        if (std::sscanf(line.c_str(), "%lx-%lx %4s", &r.from, &r.to, mode) == 3 && mode[0] == 'r' && mode[1] == 'w' && r.to - r.from < (256UL << 20U))
            regions.push_back(r);
    }
    const detail::descriptor memory{::open("/proc/self/mem", O_RDONLY | O_CLOEXEC)};
    REQUIRE(memory.get() >= 0);
    int found = 0;
    detail::secret chunk;  // wiped, or the next search would find what this one read
    chunk.resize(std::size_t{1} << 16U);
    for (const auto& r : regions) {
        for (auto at = r.from; at < r.to; at += chunk.size() - wanted.size() + 1) {
            const auto own = reinterpret_cast<unsigned long>(chunk.data());
            const auto got = ::pread(memory.get(), chunk.data(), std::min(chunk.size(), r.to - at), static_cast<off_t>(at));
            if (got < static_cast<ssize_t>(wanted.size())) continue;
            for (std::size_t i = 0; i + wanted.size() <= static_cast<std::size_t>(got); ++i) {
                if (at + i >= own && at + i < own + chunk.size()) continue;
                if (wanted.begins_at(chunk.data() + i)) ++found;
            }
        }
    }
    return found;
}

}  // namespace

TEST_CASE("a secret's memory is zero when it is given back, however it moved or grew") {
    watch::returned = watch::dirty = 0;
    {
        watched_secret a{"short"};
        watched_secret b{std::string(1000, 'x')};
        watched_secret c{std::move(a)};
        CHECK(a.empty());  // NOLINT: that is the point
        CHECK(c.view() == "short");
        b = std::move(c);
        CHECK(watch::returned == 1);
        CHECK(b.view() == "short");
        b.resize(10);
        CHECK(b.view() == std::string_view("short\0\0\0\0\0", 10));
        CHECK(watch::returned == 2);
        b.resize(2);
        CHECK(b.view() == "sh");
        CHECK(std::string_view(b.data(), 10) == std::string_view("sh\0\0\0\0\0\0\0\0", 10));  // cut off is wiped at once
        b.resize(10);
        CHECK(b.view() == std::string_view("sh\0\0\0\0\0\0\0\0", 10));
        auto& self = b;
        b = std::move(self);
        CHECK(b.size() == 10);
        const watched_secret empty{""};
        CHECK(empty.view().empty());
    }
    CHECK(watch::returned == 3);
    CHECK(watch::dirty == 0);
    CHECK(sizeof(watched_secret) <= 3 * sizeof(void*));  // no room for a copy inside the object
}

// ThreadSanitizer keeps several times the program's memory about it, to search which takes minutes and tells of nothing else.
#ifndef SSHPOOL_TESTED_BY_THREAD_SANITIZER
TEST_CASE("a password is nowhere in memory once the last credentials with it are gone") {
    const auto make = [] {
        detail::secret plain{"tr0ub4dor&"};
        for (int i = 0; i != 3; ++i) {  // longer than any constant of this program
            const auto size = plain.size();
            plain.resize(size + 10);
            for (std::size_t n = 0; n != 10; ++n) plain.data()[size + n] = static_cast<char>(plain.data()[n] + i);
        }
        return credentials::password(plain.view());
    };
    // Its end: the allocator writes into the beginning of what it gets back.
    const needle wanted{std::get<detail::login_password>(detail::login_methods(make())[0]).text->view().substr(24)};
    CHECK(copies_in_memory(wanted) == 0);
    std::optional<credentials> login{make()};
    std::optional<credentials> copy{login};
    copy->or_else(credentials::password("another")).as_principal("label");
    CHECK(copies_in_memory(wanted) == 1);
    login.reset();
    CHECK(copies_in_memory(wanted) == 1);
    copy.reset();
    CHECK(copies_in_memory(wanted) == 0);
}

TEST_CASE("neither a private key nor its passphrase is left in memory when the credentials are gone") {
    const support::temp_dir dir;
    support::run_program({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", (dir / "key").string()});
    std::filesystem::copy_file(dir / "key", dir / "sealed");
    support::write_file(dir / "script",
                        "ssh-keygen -q -p -P '' -N \"$(cat '" + (dir / "passphrase").string() + "')\" -a 1 -f '" + (dir / "sealed").string() + "'");
    support::run_program({"sh", "-c", "head -c 24 /dev/urandom | base64 >'" + (dir / "passphrase").string() + "'"});
    support::run_program({"sh", (dir / "script").string()});

    std::optional<needle> text;  // a line of the file that holds a part of the seed
    std::optional<needle> seed;
    {
        const auto pem = detail::read_key_file(dir / "key");
        const auto body = pem.view().substr(pem.view().find('\n') + 1);
        detail::secret joined{body.substr(0, body.find("-----END"))};
        joined.resize(static_cast<std::size_t>(std::remove(joined.data(), joined.data() + joined.size(), '\n') - joined.data()));
        detail::secret bytes;
        REQUIRE(detail::from_base64(joined.view(), bytes));
        const auto at = bytes.view().rfind(std::string_view("\0\0\0\x40", 4)) + 4;
        seed.emplace(bytes.view().substr(at, 32));
        text.emplace(joined.view().substr(at / 3 * 4 + 4, 32));
    }
    const auto passphrase_file = detail::read_key_file(dir / "passphrase");
    const needle passphrase{passphrase_file.view().substr(0, 32)};

    std::optional<credentials> plain{credentials::private_key_file(dir / "key")};
    CHECK(copies_in_memory(*seed) == 1);  // in OpenSSL's key
    CHECK(copies_in_memory(*text) == 0);
    std::optional<credentials> sealed{credentials::private_key_file(dir / "sealed", passphrase_file.view().substr(0, 32))};
    CHECK(sealed->identity() == plain->identity());
    CHECK(copies_in_memory(passphrase) == 1);  // the test's own
    CHECK(copies_in_memory(*seed) == 2);
    CHECK(std::get<detail::login_key>(detail::login_methods(*sealed)[0]).key->sign({detail::as_bytes("x"), 1}).size() == 64);
    plain.reset();
    sealed.reset();
    CHECK(copies_in_memory(*seed) == 0);
    CHECK(copies_in_memory(*text) == 0);
    CHECK(copies_in_memory(passphrase) == 1);
}
#endif
