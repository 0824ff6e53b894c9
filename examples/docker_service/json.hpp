#pragma once

#include "utf8.hpp"

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>

namespace docker {

/// Bytes that are no UTF-8 become U+FFFD.
inline std::string json_string(std::string_view text) {
    std::string out{'"'};
    for (std::size_t at = 0; at < text.size();) {
        const auto length = utf8_length(text, at);
        const auto byte = static_cast<unsigned char>(text[at]);
        if (length == 0) {
            out += "\\ufffd";
        } else if (byte == '"' || byte == '\\') {
            out += {'\\', text[at]};
        } else if (byte < 0x20 || byte == 0x7f) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
            out += escape;
        } else {
            out += text.substr(at, length);
        }
        at += length == 0 ? 1 : length;
    }
    return out + '"';
}

/// Writes one JSON object, or array, member by member.
class json_writer {
public:
    explicit json_writer(char open = '{') : close_(open == '{' ? '}' : ']'), text_(1, open) {}
    json_writer& add(std::string_view name, std::string_view value) { return raw(name, json_string(value)); }
    json_writer& add(std::string_view name, const char* value) { return raw(name, json_string(value)); }
    template <class T>
    requires std::is_arithmetic_v<T> json_writer& add(std::string_view name, T value) {
        if constexpr (std::is_same_v<T, bool>) {
            return raw(name, value ? "true" : "false");
        } else {
            return raw(name, std::to_string(value));
        }
    }
    json_writer& add(std::string_view name, const json_writer& value) { return raw(name, value.text()); }
    /// For arrays.
    json_writer& item(const json_writer& value) { return append(value.text()); }
    json_writer& item(std::string_view value) { return append(json_string(value)); }
    std::string text() const { return text_ + close_; }

private:
    json_writer& raw(std::string_view name, std::string_view value) { return append(json_string(name) + ":" + std::string{value}); }
    json_writer& append(std::string_view member) {
        if (text_.size() > 1) text_ += ',';
        text_ += member;
        return *this;
    }
    char close_;
    std::string text_;
};

}  // namespace docker
