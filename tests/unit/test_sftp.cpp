// The sftp client and its transfers in memory, against a server that is scripted, slow, forgetful or hostile.
#include "unit/sftp_server_in_memory.hpp"

#include <sys/stat.h>

#include <filesystem>

#include "support/catch.hpp"
#include "support/temp_dir.hpp"

using namespace sshpool;
using namespace sshpool::test;
using detail::sftp_client;
using detail::sftp_download;
using detail::sftp_transfer;
using detail::sftp_upload;

namespace {

using server = sftp_server_in_memory;

std::string pattern(std::size_t size) {
    std::string bytes(size, '\0');
    std::uint32_t x = 12345;
    for (auto& c : bytes) c = static_cast<char>((x = x * 1664525U + 1013904223U) >> 24U);
    return bytes;
}

/// A client whose server has said hello, with one read of ten bytes under way.
std::uint32_t greet_and_read(sftp_client& client, server& s) {
    std::uint32_t id = 0;
    client.read(7, "h", 100, 10);
    s.instead = [&](const server::request& r) -> std::optional<std::string> {
        if (r.type == 5) id = r.id;
        return r.type == 1 ? std::nullopt : std::optional<std::string>{""};
    };
    s.serve(client);
    CHECK_FALSE(client.next());
    return id;
}

std::size_t temporaries(const server& s) {
    std::size_t n = 0;
    for (const auto& [name, f] : s.files) n += name.find(".sshpool-") != std::string::npos ? 1 : 0;
    return n;
}
std::size_t entries(const std::filesystem::path& dir) {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator{dir}, std::filesystem::directory_iterator{}));
}

}  // namespace

TEST_CASE("replies are matched with their requests in any order", "[sftp]") {
    sftp_client client;
    server s;
    for (std::uint32_t i = 0; i < 100; ++i) client.remove(i, "/nothing" + std::to_string(i));
    s.newest_first = true;
    s.serve(client);
    for (std::uint32_t i = 100; i-- > 0;) {
        const auto reply = client.next();
        REQUIRE(reply);
        CHECK(reply->file == i);
        CHECK(reply->to == detail::sftp_request::remove);
        CHECK((reply->status == detail::sftp_status::no_such_file));
    }
    CHECK_FALSE(client.next());
    CHECK(client.fault().empty());
}

TEST_CASE("input may come in pieces of any size", "[sftp]") {
    for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{7}, std::size_t{1000}}) {
        sftp_client client;
        server s;
        const auto id = greet_and_read(client, s);
        const auto bytes = server::with_string(103, id, "0123456789");
        std::size_t at = 0;
        std::string got;
        while (at < bytes.size()) {
            const auto n = std::min(piece, bytes.size() - at);
            server::give(client, std::string_view{bytes}.substr(at, n));
            at += n;
            while (const auto reply = client.next()) got += reply->bytes;
            CHECK((at == bytes.size()) == !got.empty());
        }
        CHECK(got == "0123456789");
    }
}

TEST_CASE("a reply that its request cannot have is a fault, after which nothing is read", "[sftp]") {
    struct row {
        const char* what;
        std::function<std::string(std::uint32_t)> bytes;
    };
    const auto number = [](std::uint32_t n) {
        std::string s;
        detail::append_u32(s, n);
        return s;
    };
    const std::vector<row> rows{
        {"a packet without end", [&](auto) { return number(0xffffffffU); }},
        {"a packet of more than 256 KiB", [&](auto) { return number((256U << 10U) + 1); }},
        {"an empty packet", [&](auto) { return number(0); }},
        {"words of a shell", [](auto) { return std::string{"Welcome to this host!\n"}; }},
        {"a number that was never given", [](auto id) { return server::with_string(103, id + 4096, "x"); }},
        {"a number of a slot that there is not", [](auto id) { return server::with_string(103, id + 77, "x"); }},
        {"a packet too short for a number", [](auto) { return server::packet("\x65\x01"); }},
        {"more data than was asked", [](auto id) { return server::with_string(103, id, "12345678901"); }},
        {"something behind the data", [&](auto id) { return server::reply(103, id, number(1) + "x" + std::string(200'000, 'y')); }},
        {"no data at all", [](auto id) { return server::with_string(103, id, ""); }},
        {"data shorter than it says", [&](auto id) { return server::reply(103, id, number(10) + "abc"); }},
        {"a handle for a read", [](auto id) { return server::with_string(102, id, "h"); }},
        {"attributes for a read", [&](auto id) { return server::reply(105, id, number(0)); }},
        {"names for a read", [&](auto id) { return server::reply(104, id, number(0)); }},
        {"endless names", [&](auto id) { return server::reply(104, id, number(0xffffffffU)); }},
        {"an extended reply for a read", [](auto id) { return server::reply(201, id, ""); }},
        {"success without data", [](auto id) { return server::status(id, 0, "fine"); }},
        {"a status without a code", [](auto id) { return server::reply(101, id, ""); }},
        {"a status with words longer than it", [&](auto id) { return server::reply(101, id, number(4) + number(1000) + "x"); }},
        {"a type that does not exist", [](auto id) { return server::reply(99, id, ""); }},
        {"the answer twice", [](auto id) { return server::with_string(103, id, "x") + server::with_string(103, id, "x"); }},
        {"a second version",
         [](auto) {
             return server::packet(std::string{"\2\0\0\0\3", 5});
         }},
    };
    for (const auto& row : rows) {
        INFO(row.what);
        sftp_client client;
        server s;
        const auto id = greet_and_read(client, s);
        server::give(client, row.bytes(id));
        while (client.next()) continue;
        CHECK_FALSE(client.fault().empty());
        CHECK(client.fault().starts_with("sent "));
        server::give(client, server::with_string(103, id, "x"));
        CHECK_FALSE(client.next());
    }
}

TEST_CASE("only version 3 of the protocol is spoken, and only after a hello", "[sftp]") {
    for (const auto& [bytes, words] : std::vector<std::pair<std::string, std::string>>{{std::string{"\2\0\0\0\2", 5}, "version 2"},
                                                                                       {std::string{"\2\0\0\0\6", 5}, "version 6"},
                                                                                       {std::string{"\2\0\0", 3}, "version 0"},
                                                                                       {std::string{"\2\0\0\0\3\0\0\0\x9x", 10}, "does not fit"},
                                                                                       {std::string{"\x65\0\0\0\1", 5}, "before its version"}}) {
        sftp_client client;
        server::give(client, server::packet(bytes));
        CHECK_FALSE(client.next());
        CHECK_THAT(client.fault(), Catch::Contains(words));
    }
}

TEST_CASE("files of every size around a block arrive as they are, in memory and on disk, whatever the order of answers and however slow the disk", "[sftp]") {
    support::temp_dir dir;
    constexpr std::size_t block = 64 << 10;
    for (const auto& [backwards, slow_disk] : {std::pair{false, 0}, {true, 0}, {false, 1}, {false, 5}, {true, 5}}) {
        for (const std::size_t size : {std::size_t{0}, std::size_t{1}, block - 1, block, block + 1, 5 * block + 17, std::size_t{12} << 20}) {
            INFO(size << (backwards ? " backwards" : "") << ", a disk that takes " << slow_disk << " trips");
            const auto bytes = pattern(size);
            server s;
            s.newest_first = backwards;
            s.slow_disk = slow_disk;
            {
                sftp_client client;
                sftp_upload up{"/f", bytes, {}, "tag"};
                REQUIRE(carry(client, up, s));
                CHECK(up.trouble().empty());
                CHECK(up.done() == size);
                CHECK(up.total() == size);
            }
            CHECK((s.files.at("/f").bytes == bytes));
            CHECK(s.files.size() == 1);
            {
                sftp_client client;
                sftp_download down{"/f", {}};
                REQUIRE(carry(client, down, s));
                CHECK(down.trouble().empty());
                CHECK(down.done() == size);
                CHECK((down.take_bytes() == bytes));
            }
            {
                sftp_client client;
                sftp_download down{"/f", dir / "f", {}, "tag"};
                REQUIRE(carry(client, down, s));
                CHECK(down.trouble().empty());
                CHECK((support::read_file(dir / "f") == bytes));
            }
            {
                sftp_client client;
                sftp_upload up{"/g", dir / "f", {}, "tag"};
                REQUIRE(carry(client, up, s));
                CHECK((s.files.at("/g").bytes == bytes));
            }
            CHECK(entries(dir.path()) == 1);
        }
    }
}

TEST_CASE("what has come is bounded while the disk does not take it, and so is what is read ahead of a server that does not", "[sftp]") {
    support::temp_dir dir;
    server s;
    s.files["/f"].bytes = pattern(12 << 20);
    {
        sftp_client client;
        sftp_download down{"/f", dir / "f", {}, "tag"};
        CHECK_FALSE(carry(client, down, s, 1));  // its sink is open
        s.slow_disk = 1'000'000;
        CHECK_FALSE(carry(client, down, s, 500));
        CHECK(down.done() > 0);
        CHECK(down.done() <= 3U << 20U);
    }
    support::write_file(dir / "g", s.files["/f"].bytes);
    s = {};
    sftp_client client;
    sftp_upload up{"/g", dir / "g", {}, "tag"};
    std::vector<std::uint32_t> unanswered;
    s.instead = [&](const server::request& r) -> std::optional<std::string> {
        if (r.type != 6) return std::nullopt;
        unanswered.push_back(r.id);
        return "";
    };
    CHECK_FALSE(carry(client, up, s, 500));
    CHECK_FALSE(unanswered.empty());
    std::filesystem::resize_file(dir / "g", 5 << 20);  // what lies behind has not been read yet
    s.instead = nullptr;
    for (const auto id : unanswered) server::give(client, server::status(id, 0, ""));
    while (const auto reply = client.next()) up.take(client, *reply);
    CHECK(carry(client, up, s));
    CHECK_THAT(up.trouble(), Catch::Contains("shorter"));
}

TEST_CASE("a server without extensions is served with what every server takes", "[sftp]") {
    server s;
    s.extensions.clear();
    s.files["/f"].bytes = "old";
    const auto bytes = pattern(300'000);
    sftp_client client;
    sftp_upload up{"/f", bytes, {}, "tag"};
    REQUIRE(carry(client, up, s));
    CHECK(up.trouble().empty());
    CHECK((s.files.at("/f").bytes == bytes));  // removed, then renamed
    CHECK(s.files.size() == 1);
    for (const auto& r : s.seen) CHECK(r.second.size() <= (r.type == 6 ? 32U << 10U : 100U));
    sftp_client next;
    sftp_download down{"/f", {}};
    REQUIRE(carry(next, down, s));
    CHECK((down.take_bytes() == bytes));
    for (const auto& r : s.seen) CHECK((r.type != 5 || r.size <= 32U << 10U));
}

TEST_CASE("limits that a server makes up are bounded", "[sftp]") {
    for (const std::uint64_t claimed : {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX}) {
        server s;
        s.largest = claimed;
        sftp_client client;
        sftp_upload up{"/f", pattern(600'000), {}, "tag"};
        REQUIRE(carry(client, up, s));
        CHECK(client.write_block() >= sftp_client::usual_block);
        CHECK(client.write_block() <= sftp_client::largest_block);
        CHECK(client.read_block() <= sftp_client::largest_block);
    }
}

TEST_CASE("short reads are filled, and files that grow or have no size are read to their end", "[sftp]") {
    const auto bytes = pattern(200'000);
    for (const std::uint64_t claimed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{150'000}, std::uint64_t{200'000}, std::uint64_t{4'000'000}}) {
        for (const std::size_t most : {std::size_t{999}, std::size_t{4096}, SIZE_MAX}) {
            INFO(claimed << " " << most);
            server s;
            s.files["/f"].bytes = bytes;
            s.claimed_size = claimed;
            s.most_per_read = most;
            sftp_client client;
            sftp_download down{"/f", {}};
            REQUIRE(carry(client, down, s));
            CHECK(down.trouble().empty());
            CHECK((down.take_bytes() == bytes));
        }
    }
}

TEST_CASE("a size that a server makes up costs no memory, and what it sends is bounded by max_size", "[sftp]") {
    server s;
    s.files["/f"].bytes = pattern(1000);
    s.claimed_size = UINT64_MAX - 5;
    {
        sftp_client client;
        sftp_download down{"/f", transfer_options{}.max_size(UINT64_MAX)};
        REQUIRE(carry(client, down, s));
        CHECK(down.trouble().empty());
        CHECK(down.take_bytes().size() == 1000);
    }
    {
        sftp_client client;
        sftp_download down{"/f", {}};
        REQUIRE(carry(client, down, s));
        CHECK((down.code() == errc::output_limit));
        CHECK_THAT(down.trouble(), Catch::Contains("16777216"));
    }
    // A file without end: as /dev/zero, whose size is 0.
    s.claimed_size = 0;
    s.instead = [](const server::request& r) -> std::optional<std::string> {
        if (r.type != 5) return std::nullopt;
        return server::with_string(103, r.id, std::string(r.size, 'z'));
    };
    sftp_client client;
    sftp_download down{"/f", transfer_options{}.max_size(1'000'000)};
    REQUIRE(carry(client, down, s));
    CHECK((down.code() == errc::output_limit));
    CHECK(down.take_bytes().size() <= 1'000'000);
}

TEST_CASE("a file that ends in two places is reported, not guessed", "[sftp]") {
    support::temp_dir dir;
    server s;
    s.files["/f"].bytes = pattern(1'000'000);
    bool once = false;
    s.instead = [&](const server::request& r) -> std::optional<std::string> {
        if (r.type != 5 || r.offset < 300'000 || std::exchange(once, true)) return std::nullopt;
        return server::status(r.id, 1, "End of file");
    };
    sftp_client client;
    sftp_download down{"/f", dir / "f", {}, "tag"};
    REQUIRE(carry(client, down, s));
    CHECK((down.code() == errc::file_failed));
    CHECK_THAT(down.trouble(), Catch::Contains("changed"));
    CHECK(entries(dir.path()) == 0);
}

TEST_CASE("what the server refuses has its own error, with the server's words", "[sftp]") {
    struct row {
        std::uint8_t type;
        std::uint32_t status;
        const char* words;
        errc code;
    };
    for (const auto& row : std::vector<row>{{3, 2, "No such file", errc::file_not_found},
                                            {3, 3, "Permission denied", errc::file_denied},
                                            {3, 4, "Failure", errc::file_failed},
                                            {6, 4, "Failure", errc::file_failed},
                                            {6, 99, "quota\nexceeded", errc::file_failed},
                                            {10, 3, "Permission denied", errc::file_denied},
                                            {4, 4, "Failure", errc::file_failed},
                                            {200, 3, "Permission denied", errc::file_denied},
                                            {200, 8, "", errc::file_failed}}) {
        INFO(static_cast<int>(row.type) << " " << row.status);
        support::temp_dir dir;
        support::write_file(dir / "f", pattern(100'000));
        server s;
        s.files["/f"].bytes = "old";
        s.instead = [&](const server::request& r) -> std::optional<std::string> {
            if (r.type != row.type || r.second == "limits@openssh.com") return std::nullopt;
            return server::status(r.id, row.status, row.words);
        };
        sftp_client client;
        sftp_upload up{"/f", dir / "f", transfer_options{}.keep_mode(), "tag"};
        REQUIRE(carry(client, up, s));
        CHECK((up.code() == row.code));
        CHECK_THAT(up.trouble(), Catch::Contains("/f\""));
        CHECK_THAT(up.trouble(), Catch::Contains(row.words[0] == '\0' ? "status 8" : std::string{row.words}.substr(0, 5)));
        CHECK(up.trouble().find('\n') == std::string::npos);
        CHECK(s.files.at("/f").bytes == "old");
        CHECK(temporaries(s) == 0);
    }
}

TEST_CASE("a full disk leaves the old file, and nothing else", "[sftp]") {
    server s;
    s.files["/f"].bytes = "old";
    s.disk = 500'000;
    sftp_client client;
    sftp_upload up{"/f", pattern(3'000'000), {}, "tag"};
    REQUIRE(carry(client, up, s));
    CHECK((up.code() == errc::file_failed));
    CHECK_THAT(up.trouble(), Catch::Contains("Failure") && Catch::Contains("full disk"));
    CHECK(s.files.at("/f").bytes == "old");
    CHECK(s.files.size() == 1);
}

TEST_CASE("an upload that is given up at any moment leaves no temporary file and no half one", "[sftp]") {
    for (int when = 0; when < 12; ++when) {
        INFO(when);
        server s;
        sftp_client client;
        const auto bytes = pattern(600'000);
        sftp_upload up{"/f", bytes, {}, "tag"};
        carry(client, up, s, when);
        up.give_up(client);
        REQUIRE(carry(client, up, s));
        CHECK(temporaries(s) == 0);
        if (s.files.contains("/f")) CHECK((s.files.at("/f").bytes == bytes));
        if (when < 4) CHECK(s.files.empty());
    }
}

TEST_CASE("a directory is sent with everything in it, many files at a time", "[sftp]") {
    support::temp_dir dir;
    std::map<std::string, std::string> sent;
    for (int d = 0; d < 4; ++d) {
        const auto sub = "d" + std::to_string(d);
        std::filesystem::create_directories(dir / ("tree/" + sub + "/deep"));
        for (int i = 0; i < 50; ++i) {
            const auto name = sub + (i % 5 == 0 ? "/deep/" : "/") + "script " + std::to_string(i) + ".sh";
            sent["to/" + name] = pattern(static_cast<std::size_t>(i) * 37);
            support::write_file(dir / ("tree/" + name), sent["to/" + name]);
        }
    }
    std::filesystem::create_symlink("script 1.sh", dir / "tree/d0/link");
    sent["to/d0/link"] = sent["to/d0/script 1.sh"];
    std::filesystem::create_directory(dir / "tree/empty");
    for (const bool there : {false, true}) {
        server s;
        if (there) s.directories.insert({"to", "to/d0", "to/d0/deep"});
        sftp_client client;
        sftp_upload up{"to/", dir / "tree", {}, "tag"};
        REQUIRE(carry(client, up, s));
        CHECK(up.trouble().empty());
        CHECK(s.files.size() == sent.size());
        for (const auto& [name, bytes] : sent) CHECK(s.files.at(name).bytes == bytes);
        CHECK(s.directories.contains("to/empty"));
        CHECK(s.directories.contains("to/d3/deep"));
        CHECK(up.done() == up.total());
        CHECK(s.rounds < 20);  // 201 files of four requests each
        CHECK(s.most_awaited <= 4 * sftp_client::most_requests);
    }
}

TEST_CASE("a directory with something in it that cannot be sent is refused by its name", "[sftp]") {
    for (const char* what : {"fifo", "loop", "elsewhere", "dangling"}) {
        support::temp_dir dir;
        std::filesystem::create_directory(dir / "tree");
        const auto odd = dir / (std::string{"tree/"} + what);
        if (std::string{what} == "fifo") REQUIRE(::mkfifo(odd.c_str(), 0600) == 0);
        if (std::string{what} == "loop") std::filesystem::create_directory_symlink("../tree", odd);
        if (std::string{what} == "elsewhere") std::filesystem::create_directory_symlink("/proc/self/fdinfo", odd);
        if (std::string{what} == "dangling") std::filesystem::create_symlink("nothing", odd);
        server s;
        sftp_client client;
        sftp_upload up{"to", dir / "tree", {}, "tag"};
        REQUIRE(carry(client, up, s));
        CHECK((up.code() == errc::local_file));
        CHECK_THAT(up.trouble(), Catch::Contains(odd.string()));
        CHECK(s.files.empty());
    }
}

TEST_CASE("a directory that cannot be made, or is a file, fails the upload with the server's words", "[sftp]") {
    support::temp_dir dir;
    std::filesystem::create_directories(dir / "tree/sub");
    support::write_file(dir / "tree/sub/f", "x");
    server s;
    s.files["to"].bytes = "a file";
    s.directories.erase("to");
    sftp_client client;
    sftp_upload up{"nowhere/to", dir / "tree", {}, "tag"};
    REQUIRE(carry(client, up, s));
    CHECK((up.code() == errc::file_not_found));
    CHECK_THAT(up.trouble(), Catch::Contains("nowhere/to") && Catch::Contains("No such file"));
    sftp_client next;
    server t;
    t.directories.insert("dir");
    sftp_upload over{"dir", std::string{"bytes"}, {}, "tag"};
    REQUIRE(carry(next, over, t));
    CHECK((over.code() == errc::file_failed));
    CHECK_THAT(over.trouble(), Catch::Contains("is a directory"));
    CHECK(t.files.empty());
}

TEST_CASE("mode and time are kept on request, and what is not asked for is not sent", "[sftp]") {
    support::temp_dir dir;
    const auto file = dir / "f";
    support::write_file(file, "#!/bin/sh\n");
    std::filesystem::permissions(file, std::filesystem::perms{0751});
    const timespec when[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
    REQUIRE(::utimensat(AT_FDCWD, file.c_str(), when, 0) == 0);
    const auto upload = [&](transfer_options o) {
        server s;
        sftp_client client;
        sftp_upload up{"/f", file, std::move(o), "tag"};
        CHECK(carry(client, up, s));
        return s;
    };
    CHECK(upload({}).files.at("/f").mode == 0751);
    CHECK(upload({}).files.at("/f").time == 0);
    CHECK(upload({}).count(10) == 0);
    CHECK(upload(transfer_options{}.mode(0600)).files.at("/f").mode == 0600);
    auto s = upload(transfer_options{}.mode(0600).keep_mode().keep_time());
    CHECK(s.files.at("/f").mode == 0751);
    CHECK(s.files.at("/f").time == 1'000'000'000);

    s.files["/f"].mode = 04755;  // a set-user-ID bit is not taken from a server
    sftp_client client;
    sftp_download down{"/f", dir / "back", transfer_options{}.keep_mode().keep_time(), "tag"};
    REQUIRE(carry(client, down, s));
    struct stat status {};
    REQUIRE(::stat((dir / "back").c_str(), &status) == 0);
    CHECK((status.st_mode & 07777U) == 0755);
    CHECK(status.st_mtime == 1'000'000'000);
}

TEST_CASE("trouble with a local file is local_file, and leaves nothing on either side", "[sftp]") {
    support::temp_dir dir;
    server s;
    s.files["/f"].bytes = pattern(100'000);
    const auto upload = [&](const std::filesystem::path& from) {
        sftp_client client;
        sftp_upload up{"/g", from, {}, "tag"};
        CHECK(carry(client, up, s));
        CHECK((up.code() == errc::local_file));
        CHECK_THAT(up.trouble(), Catch::Contains(from.string()));
        CHECK(s.files.size() == 1);
    };
    upload(dir / "nothing");
    REQUIRE(::mkfifo((dir / "fifo").c_str(), 0600) == 0);
    upload(dir / "fifo");
    support::write_file(dir / "f", pattern(5'000'000));  // more than is read ahead
    {
        sftp_client client;
        sftp_upload up{"/g", dir / "f", {}, "tag"};
        carry(client, up, s, 1);
        std::filesystem::resize_file(dir / "f", 1000);
        CHECK(carry(client, up, s));
        CHECK((up.code() == errc::local_file));
        CHECK_THAT(up.trouble(), Catch::Contains("shorter"));
        CHECK(s.files.size() == 1);
    }
    std::filesystem::remove(dir / "f");
    std::filesystem::remove(dir / "fifo");
    std::filesystem::create_directory(dir / "d");
    for (const auto& to : {dir / "nowhere/f", dir / "d"}) {
        sftp_client client;
        sftp_download down{"/f", to, {}, "tag"};
        CHECK(carry(client, down, s));
        CHECK((down.code() == errc::local_file));
        CHECK_THAT(down.trouble(), Catch::Contains(to.string()));
        CHECK(entries(dir.path()) == 1);
        CHECK(entries(dir / "d") == 0);
    }
    CHECK(entries(dir.path()) == 1);
}

TEST_CASE("a mode beyond 0777 and a timeout of nothing cannot be asked for", "[sftp]") {
    CHECK_THROWS_AS(transfer_options{}.mode(01000), std::invalid_argument);
    CHECK_THROWS_AS(transfer_options{}.timeout(std::chrono::milliseconds{0}), std::invalid_argument);
    CHECK_NOTHROW(transfer_options{}.mode(0777));
}

namespace {

struct on_a_link {
    double used;                      // of what the link carries
    std::chrono::nanoseconds waited;  // by the slowest of the last replies
    std::size_t room;
};

/// Blocks over a link of that speed and round trip, as many under way as there is room for.
on_a_link use_link(double bytes_per_second, std::chrono::nanoseconds round_trip) {
    detail::flow_room room;
    constexpr std::size_t block = 32 << 10;
    const std::chrono::nanoseconds per_block{static_cast<std::int64_t>(block / bytes_per_second * 1e9)};
    std::deque<std::chrono::nanoseconds> asked;
    std::chrono::nanoseconds now{};
    std::chrono::nanoseconds link_free{};
    std::chrono::nanoseconds waited{};
    std::deque<std::chrono::nanoseconds> due;
    constexpr int blocks = 20'000;
    std::chrono::nanoseconds half_way{};
    for (int answered = 0; answered < blocks; ++answered) {
        while (asked.empty() || (asked.size() + 1) * block <= room.bytes()) {
            asked.push_back(now);
            link_free = std::max(link_free, now) + per_block;
            due.push_back(link_free + round_trip);
        }
        now = std::max(now, due.front());
        const auto took = now - asked.front();
        due.pop_front();
        asked.pop_front();
        room.answered(block, took, true);
        if (answered == blocks / 2) half_way = now;
        if (answered > blocks * 9 / 10) waited = std::max(waited, took);
    }
    const auto seconds = std::chrono::duration<double>(now - half_way).count();
    return {block * (blocks / 2.0) / seconds / bytes_per_second, waited, room.bytes()};
}

}  // namespace

TEST_CASE("as much is under way as fills the link, and not so much that others wait long behind it", "[sftp]") {
    using namespace std::chrono_literals;
    for (const auto& [speed, round_trip] : std::vector<std::pair<double, std::chrono::nanoseconds>>{
             {200e6, 100us}, {1000e6, 100us}, {12e6, 1ms}, {100e6, 20ms}, {12e6, 20ms}, {12e6, 100ms}, {1e6, 50ms}}) {
        INFO(speed << " bytes/s, " << round_trip.count() << " ns");
        const auto link = use_link(speed, round_trip);
        CHECK(link.used > 0.95);
        CHECK(link.room >= detail::flow_room::least);
        CHECK(link.room <= detail::flow_room::most);
        // Twice the quickest and a little, or what the smallest room takes.
        const auto smallest = std::chrono::nanoseconds{static_cast<std::int64_t>(1.5 * detail::flow_room::least / speed * 1e9)};
        CHECK(link.waited <= std::max(3 * round_trip + 2 * detail::flow_room::patience, smallest + round_trip));
    }
    CHECK(use_link(200e6, 100us).room <= 2U << 20U);
    CHECK(use_link(1000e6, 100ms).room == detail::flow_room::most);
}
