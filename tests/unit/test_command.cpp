#include "support/catch.hpp"
#include "support/process.hpp"

#include <sshpool/command.hpp>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

using namespace sshpool;
using namespace std::chrono_literals;

namespace {

/// What a shell makes of a command line: the words, each followed by a NUL.
std::string read_by(const std::string& shell, const std::string& locale, const std::string& line) {
    support::spawn_options options;
    options.env = {"PATH=/usr/bin:/bin", "LC_ALL=" + locale};
    return support::run_program({shell, "-c", line}, std::move(options));
}

std::string with_nuls(const std::vector<std::string>& words) {
    std::string out;
    for (const auto& word : words) out += word + '\0';
    return out;
}

}  // namespace

TEST_CASE("words reach the program as they are, whatever bytes they hold") {
    std::vector<std::string> words{""};
    std::string all;
    for (int c = 1; c != 256; ++c) {
        words.emplace_back(1, static_cast<char>(c));
        words.push_back("a" + std::string(1, static_cast<char>(c)) + "b");
        all += static_cast<char>(c);
    }
    words.push_back(all);
    for (const char* trap : {"'",  "''", "'\\''", "$(exit 3)", "`exit 3`",     "$HOME",     "~",        "~root", "*",   "a;b",  "a&&b",   "a|b",
                             ">x", "<x", "#",     "!",         "!!",           "{a,b}",     "[a]",      "\\",    "\\n", "a\nb", "a\r\nb", "-n",
                             "--", "%s", "a=b",   "\xc3\xa4",  "\xe2\x80\x99", "\xff\xfe'", "$'\\x41'", " ",     "\t",  "if",   "&"}) {
        words.emplace_back(trap);
    }
    std::mt19937 random{1};  // NOLINT: the same words in every run
    for (int i = 0; i != 300; ++i) {
        std::string word;
        const std::string nasty = "'\\\"$`!*?;&|<> \n\t#~(){}[]ab\xc3\xa4";
        for (auto size = random() % 12; size != 0; --size) word += nasty[random() % nasty.size()];
        words.push_back(word);
    }
    std::vector<std::string> argv{"printf", "%s\\0"};
    argv.insert(argv.end(), words.begin(), words.end());
    const auto line = command::argv(argv).line();
    int shells = 0;
    for (const std::string shell : {"/bin/sh", "/bin/bash", "/bin/dash", "/bin/zsh", "/bin/ksh"}) {
        if (!std::filesystem::exists(shell)) continue;
        for (const std::string locale : {"C", "C.UTF-8"}) {
            INFO(shell << " " << locale);
            CHECK(read_by(shell, locale, line) == with_nuls(words));
            ++shells;
        }
    }
    CHECK(shells >= 2);
}

TEST_CASE("the first word is a program's name, never an assignment, a keyword or an alias") {
    for (const std::string word : {"X=1", "if", "!", "{", "(", "~/x", "\\ls", "#"}) {
        INFO(word);
        support::spawn_options options;
        options.env = {"PATH=/usr/bin:/bin", "LC_ALL=C"};
        support::process shell({"/bin/sh", "-c", command::argv(word, "x").line()}, std::move(options));
        CHECK(shell.wait() == 127);
        CHECK_THAT(shell.output(), Catch::Contains("not found") && Catch::Contains(word));
    }
    CHECK(command::argv("printf", "%s", "it's").line() == R"('printf' %s 'it'\''s')");
}

TEST_CASE("words may be strings of any kind, one by one or as a vector") {
    const std::string string = "b c";
    const std::string_view view = "d";
    const auto expected = std::string{"'a' 'b c' d e ''"};
    CHECK(command::argv("a", string, view, std::string{"e"}, "").line() == expected);
    std::vector<std::string> words{"a", "b c", "d", "e", ""};
    CHECK(command::argv(words).line() == expected);
    CHECK(command::argv(std::as_const(words)).line() == expected);
    CHECK(command::argv(std::move(words)).line() == expected);
    CHECK(command::argv("a").line() == "'a'");
}

TEST_CASE("a bad command is refused when it is made, and the message says what is wrong") {
    using namespace std::string_literals;
    const char* null = nullptr;
    CHECK_THROWS_WITH(command{"a\0b"s}, Catch::Contains("NUL"));
    CHECK_THROWS_AS(command{"a\0b"s}, std::invalid_argument);
    CHECK_THROWS_WITH(command{null}, Catch::Contains("null pointer"));
    CHECK_THROWS_WITH(command::argv("a", "b\0c"s), Catch::Contains("a word of the command holds a NUL byte"));
    CHECK_THROWS_WITH(command::argv(""), Catch::Contains("first word"));
    CHECK_THROWS_WITH(command::argv("", "x"), Catch::Contains("first word"));
    CHECK_THROWS_WITH(command::argv(std::vector<std::string>{}), Catch::Contains("at least one word"));
    CHECK_THROWS_WITH(command{"x"}.env("", "v"), Catch::Contains("must not be empty"));
    CHECK_THROWS_WITH(command{"x"}.env("a=b", "v"), Catch::Contains("'='"));
    CHECK_THROWS_WITH(command{"x"}.env("a\0b"s, "v"), Catch::Contains("name holds a NUL"));
    CHECK_THROWS_WITH(command{"x"}.env("a", "v\0"s), Catch::Contains("value holds a NUL"));
    CHECK_THROWS_WITH(command{"x"}.env("a", std::string(32 * 1024, 'v')), Catch::Contains("longer than 32 KiB"));
    CHECK_THROWS_WITH(command{"x"}.timeout(0ms), Catch::Contains("positive"));
    CHECK_THROWS_WITH(command{"x"}.timeout(-1ms), Catch::Contains("positive"));
    CHECK_THROWS_WITH(command{"x"}.timeout(std::chrono::milliseconds::max()), Catch::Contains("ten years"));
}

TEST_CASE("a command holds what was set, and nothing that was not") {
    command plain{"uptime"};
    CHECK(plain.line() == "uptime");
    CHECK(plain.input().empty());
    CHECK(plain.env().empty());
    CHECK_FALSE(plain.timeout());
    CHECK(plain.output_limit() == std::size_t{16} * 1024 * 1024);
    CHECK_FALSE(plain.on_output());

    using namespace std::string_literals;
    auto full = command{std::string_view{"cat"}}.input("a\0b"s).env("A", "1").env("B", "").timeout(5s).max_output(10);
    CHECK(full.input() == "a\0b"s);
    CHECK(full.env() == std::vector<std::pair<std::string, std::string>>{{"A", "1"}, {"B", ""}});
    CHECK(full.timeout() == 5000ms);
    CHECK(full.output_limit() == 10U);
    CHECK(command{"x"}.env("A", std::string(32 * 1024 - 1, 'v')).env().size() == 1);
}

TEST_CASE("output that is handed on as it arrives is limited only where a limit was set") {
    const auto sink = [](output_stream, std::string_view) {};
    CHECK_FALSE(command{"x"}.on_output(sink).output_limit());
    CHECK(command{"x"}.on_output(sink).max_output(7).output_limit() == 7U);
    CHECK(command{"x"}.max_output(0).output_limit() == 0U);
    CHECK(command{"x"}.on_output(nullptr).output_limit() == command::default_max_output);
}

TEST_CASE("only an exit status of zero is ok") {
    command_result result;
    CHECK_FALSE(result.ok());
    result.exit_status = 0;
    CHECK(result.ok());
    result.exit_status = 1;
    CHECK_FALSE(result.ok());
    result.exit_status.reset();
    result.exit_signal = "KILL";
    CHECK_FALSE(result.ok());
}

TEST_CASE("a command is no aggregate") {
    CHECK_FALSE(std::is_aggregate_v<command>);  // g++ 12 destroys aggregate temporaries inside co_await twice
}
