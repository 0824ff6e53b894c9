#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

/// The format of known_hosts files: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
namespace sshpool::detail {

/// What a host is called there: "host", or "[host]:port" where the port is not 22.
inline std::string known_hosts_name(std::string_view host, std::uint16_t port) {
    return port == 22 ? std::string{host} : '[' + std::string{host} + "]:" + std::to_string(port);
}

/// `*` and `?` as in a shell. Goes back to the last `*` only, so that no pattern takes more than length times length steps.
inline bool matches_pattern(std::string_view text, std::string_view pattern) noexcept {
    std::size_t t = 0;
    std::size_t p = 0;
    std::size_t star = std::string_view::npos;
    std::size_t resume = 0;
    while (t != text.size()) {
        if (p != pattern.size() && pattern[p] == '*') {
            star = p++;
            resume = t;
        } else if (p != pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
            ++p;
            ++t;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            t = ++resume;
        } else {
            return false;
        }
    }
    return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

/// HMAC-SHA1 of one text under many salts. Ten thousand hashed lines are asked at each connect: OpenSSL's HMAC() takes several times as long.
class salted_names {
public:
    explicit salted_names(std::string_view name)
        : name_(name), ctx_(EVP_MD_CTX_new(), &EVP_MD_CTX_free), sha1_(EVP_MD_fetch(nullptr, "SHA1", nullptr), &EVP_MD_free) {}

    bool hash_is(std::string_view salt, std::string_view hash) {
        if (ctx_ == nullptr || sha1_ == nullptr || salt.size() > 64) return false;
        std::array<unsigned char, 64> pad{};
        std::array<unsigned char, 20> sum{};
        unsigned size = 0;
        const auto with_pad = [&](unsigned char value) {
            for (std::size_t i = 0; i != pad.size(); ++i)
                pad[i] = static_cast<unsigned char>((i < salt.size() ? static_cast<unsigned char>(salt[i]) : 0U) ^ value);
            return EVP_DigestInit_ex(ctx_.get(), sha1_.get(), nullptr) == 1 && EVP_DigestUpdate(ctx_.get(), pad.data(), pad.size()) == 1;
        };
        if (!with_pad(0x36) || EVP_DigestUpdate(ctx_.get(), name_.data(), name_.size()) != 1 || EVP_DigestFinal_ex(ctx_.get(), sum.data(), &size) != 1)
            return false;
        if (!with_pad(0x5c) || EVP_DigestUpdate(ctx_.get(), sum.data(), sum.size()) != 1 || EVP_DigestFinal_ex(ctx_.get(), sum.data(), &size) != 1)
            return false;
        return equal_in_constant_time({reinterpret_cast<const char*>(sum.data()), sum.size()}, hash);
    }

private:
    std::string_view name_;
    std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> ctx_;
    std::unique_ptr<EVP_MD, void (*)(EVP_MD*)> sha1_;
};

/// A parsed file. Immutable.
class known_hosts {
public:
    struct entry {
        std::size_t line = 0;
        bool revoked = false;
        std::string type;
        std::string blob;
    };

    static constexpr std::size_t largest_file = std::size_t{64} << 20U;
    static constexpr std::size_t longest_line = std::size_t{64} << 10U;
    static constexpr std::size_t longest_pattern = 1024;

    known_hosts() = default;
    explicit known_hosts(std::string_view text) {
        for (std::size_t line = 1; !text.empty(); ++line) {
            const auto end = std::min(text.find('\n'), text.size());
            if (!parse_line(text.substr(0, end), line)) ++skipped_;
            text.remove_prefix(std::min(end + 1, text.size()));
        }
    }

    /// The entries for a name in the order of the file.
    std::vector<const entry*> find(std::string_view name) const {
        std::vector<std::size_t> found;
        if (const auto plain = plain_.find(std::string{name}); plain != plain_.end()) found = plain->second;
        for (const auto& [patterns, index] : patterns_) {
            if (matches_list(name, patterns)) found.push_back(index);
        }
        if (!hashed_.empty()) {
            salted_names names{name};
            for (const auto& [salt, hash, index] : hashed_) {
                if (names.hash_is(salt, hash)) found.push_back(index);
            }
        }
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
        std::vector<const entry*> out;
        for (const auto index : found) out.push_back(&entries_[index]);
        return out;
    }

    /// Lines that could not be read, among them such as are too long.
    std::size_t skipped() const noexcept { return skipped_; }
    std::size_t size() const noexcept { return entries_.size(); }

private:
    static std::string_view word(std::string_view& rest) {
        constexpr std::string_view blank = " \t\r";
        rest.remove_prefix(std::min(rest.find_first_not_of(blank), rest.size()));
        const auto end = std::min(rest.find_first_of(blank), rest.size());
        const auto found = rest.substr(0, end);
        rest.remove_prefix(end);
        return found;
    }

    /// False for a line that should say something and does not.
    bool parse_line(std::string_view rest, std::size_t line) {
        if (rest.size() > longest_line) return false;
        auto names = word(rest);
        if (names.empty() || names.front() == '#') return true;
        entry e{line, false, {}, {}};
        if (names.front() == '@') {
            if (names == "@cert-authority") return true;
            if (names != "@revoked") return false;
            e.revoked = true;
            names = word(rest);
        }
        e.type = word(rest);
        auto blob = from_base64(word(rest));
        if (names.empty() || e.type.empty() || !blob || wire_reader{*blob}.string() != e.type || names.find('\0') != std::string_view::npos) return false;
        e.blob = std::move(*blob);
        return add_names(names, std::move(e));
    }

    bool add_names(std::string_view names, entry e) {
        const auto index = entries_.size();
        if (names.starts_with("|")) {
            if (!names.starts_with("|1|")) return false;
            names.remove_prefix(3);
            const auto bar = names.find('|');
            if (bar == std::string_view::npos) return false;
            auto salt = from_base64(names.substr(0, bar));
            auto hash = from_base64(names.substr(bar + 1));
            if (!salt || !hash || salt->empty() || salt->size() > 64 || hash->size() != 20) return false;
            hashed_.push_back({std::move(*salt), std::move(*hash), index});
        } else {
            std::string lower{names};
            for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
            if (lower.find_first_of("*?!") != std::string::npos) {
                patterns_.emplace_back(std::move(lower), index);
            } else {
                for_each_name(lower, [&](std::string_view name) {
                    auto& list = plain_[std::string{name}];
                    if (list.empty() || list.back() != index) list.push_back(index);
                });
            }
        }
        entries_.push_back(std::move(e));
        return true;
    }

    template <class F>
    static void for_each_name(std::string_view names, const F& call) {
        while (!names.empty()) {
            const auto comma = std::min(names.find(','), names.size());
            if (comma != 0 && comma <= longest_pattern) call(names.substr(0, comma));
            names.remove_prefix(std::min(comma + 1, names.size()));
        }
    }

    /// A pattern after '!' that matches makes the whole line not match.
    static bool matches_list(std::string_view name, std::string_view patterns) {
        bool matched = false;
        bool denied = false;
        for_each_name(patterns, [&](std::string_view pattern) {
            const bool negated = pattern.front() == '!';
            if (negated) pattern.remove_prefix(1);
            if (!matches_pattern(name, pattern)) return;
            (negated ? denied : matched) = true;
        });
        return matched && !denied;
    }

    struct hashed_name {
        std::string salt;
        std::string hash;
        std::size_t index = 0;
    };

    std::vector<entry> entries_;
    std::unordered_map<std::string, std::vector<std::size_t>> plain_;
    std::vector<std::pair<std::string, std::size_t>> patterns_;
    std::vector<hashed_name> hashed_;
    std::size_t skipped_ = 0;
};

}  // namespace sshpool::detail
