#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

namespace soak {

/// "--name number" pairs; an unknown name or what is no number ends the program with status 2.
inline std::map<std::string, std::uint64_t> options(int argc, char** argv, std::map<std::string, std::uint64_t> defaults) {
    const auto refuse = [&](const std::string& why) {
        std::fprintf(stderr, "%s: %s; options:", argv[0], why.c_str());
        for (const auto& [name, value] : defaults) std::fprintf(stderr, " %s %llu", name.c_str(), static_cast<unsigned long long>(value));
        std::fprintf(stderr, "\n");
        std::exit(2);
    };
    for (int i = 1; i < argc; i += 2) {
        const auto found = defaults.find(argv[i]);
        if (found == defaults.end()) refuse(std::string{"unknown option \""} + argv[i] + '"');
        char* end = nullptr;
        found->second = i + 1 < argc ? std::strtoull(argv[i + 1], &end, 10) : 0;
        if (end == nullptr || end == argv[i + 1] || *end != '\0') refuse(std::string{argv[i]} + " wants a number");
    }
    return defaults;
}

}  // namespace soak
