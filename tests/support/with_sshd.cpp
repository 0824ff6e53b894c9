// Runs a program against a private sshd: with_sshd [--expect STATUS] [--none-left] [--addresses N] [--config LINE]... program args...
// In the arguments {address}, {key}, {known_hosts}, {inventory}, {log} (sshd's own) and {web} (the port of a web server on loopback) are replaced; HOME is a
// directory whose .ssh/known_hosts trusts the server. Ends with the program's own status, or 1 when that is not the one expected, or when with --none-left a
// command that the program started runs on after it.
#include "support/sshd_server.hpp"
#include "support/web_server.hpp"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

void replace_all(std::string& text, const std::string& what, const std::string& by) {
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) text.replace(at, what.size(), by);
}

/// Commands start in the server's home, and stay there when the session that they belonged to has gone.
std::string commands_in(const std::filesystem::path& home) {
    std::string found;
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
        if (std::filesystem::read_symlink(entry.path() / "cwd", ec) != home) continue;
        std::string words;
        std::getline(std::ifstream(entry.path() / "cmdline"), words);
        std::replace(words.begin(), words.end(), '\0', ' ');
        found += words + "\n";
    }
    return found;
}

int run(std::vector<std::string> args) {
    support::sshd_server::options options;
    int expected = 0;
    bool none_left = false;
    const auto take = [&] {
        if (args.size() < 3) throw std::invalid_argument("with_sshd: " + args.at(0) + " wants a value, and a program after it");
        auto value = args[1];
        args.erase(args.begin(), args.begin() + 2);
        return value;
    };
    for (bool more = true; more;) {
        if (args.empty()) throw std::invalid_argument("with_sshd: no program");
        if (args[0] == "--expect") {
            expected = std::stoi(take());
        } else if (args[0] == "--none-left") {
            none_left = true;
            args.erase(args.begin());
        } else if (args[0] == "--config") {
            options.config.push_back(take());
        } else if (args[0] == "--addresses") {
            options.addresses.clear();
            for (int i = 1, n = std::stoi(take()); i <= n; ++i) options.addresses.push_back("127.0.2." + std::to_string(i));
        } else {
            more = false;
        }
    }
    support::sshd_server server(options);
    const support::temp_dir home;
    std::filesystem::create_directory(home / ".ssh");
    std::filesystem::copy_file(server.known_hosts(), home / ".ssh/known_hosts");
    std::string inventory = "# the hosts of this test\n\n";
    for (const auto& a : options.addresses) inventory += server.address(a, server.port()) + "\n";
    support::write_file(home / "inventory", inventory);
    const support::web_server web("a page from inside\n");
    for (auto& a : args) {
        replace_all(a, "{web}", std::to_string(web.port()));
        replace_all(a, "{log}", (server.dir() / "log").string());
        replace_all(a, "{address}", server.address());
        replace_all(a, "{key}", server.client_key().string());
        replace_all(a, "{known_hosts}", server.known_hosts().string());
        replace_all(a, "{inventory}", (home / "inventory").string());
    }
    ::setenv("HOME", home.path().c_str(), 1);
    support::process child(args);
    const int status = child.wait(std::chrono::seconds{60});
    std::cout << child.output() << std::flush;
    if (none_left && !support::wait_until([&] { return commands_in(server.home()).empty(); })) {
        std::cout << args[0] << " ended with " << status << ", not without commands that run on:\n" << commands_in(server.home()) << std::flush;
        return 1;
    }
    if (status == expected) return 0;
    std::cout << args[0] << " ended with " << status << ", not " << expected << '\n' << server.log() << std::flush;
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const std::exception& e) {
        std::cerr << e.what() << '\n';
        return 1;
    }
}
