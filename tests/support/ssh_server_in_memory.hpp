#pragma once

#include <sshpool/detail/digest.hpp>
#include <sshpool/detail/ssh_wire.hpp>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace support {

/// The numbers of RFC 4250 section 4.1.2 that are used here.
namespace ssh_message {
enum number : std::uint8_t {
    disconnect = 1,
    ignore = 2,
    debug = 4,
    service_request = 5,
    service_accept = 6,
    kexinit = 20,
    newkeys = 21,
    kex_ecdh_init = 30,
    kex_ecdh_reply = 31,
    userauth_request = 50,
    userauth_failure = 51,
    userauth_success = 52,
    userauth_banner = 53,
    userauth_pk_ok = 60,
    global_request = 80,
    request_success = 81,
    request_failure = 82,
    channel_open = 90,
    channel_open_confirmation = 91,
    channel_open_failure = 92,
    channel_window_adjust = 93,
    channel_data = 94,
    channel_extended_data = 95,
    channel_eof = 96,
    channel_close = 97,
    channel_request = 98,
    channel_success = 99,
    channel_failure = 100,
};
}

template <class Field>
void append_field(std::string& out, const Field& field) {
    if constexpr (std::is_same_v<Field, bool>) {
        out += field ? '\1' : '\0';
    } else if constexpr (std::is_integral_v<Field>) {
        sshpool::detail::append_u32(out, static_cast<std::size_t>(field));
    } else {
        sshpool::detail::append_string(out, field);
    }
}
/// A packet's payload: the message's number and its fields, numbers as uint32, texts as strings, truths as bytes (RFC 4251 section 5).
template <class... Fields>
std::string ssh_packet(std::uint8_t message, const Fields&... fields) {
    std::string out(1, static_cast<char>(message));
    (append_field(out, fields), ...);
    return out;
}

/// The server's end of SSH over memory: bytes in, bytes out. The key exchange, the cipher and the MAC are real ones, so that a test can say any packet to
/// a client that believes to be logged in; whatever no scenario forbids is answered as an honest server would.
///
/// It takes every password and every key, without looking. A command's output is its own command line, and its exit status 0.
class ssh_server_in_memory {
public:
    /// Sees every packet of the client's but those of the key exchange. True: it has dealt with it.
    using scenario = std::function<bool(ssh_server_in_memory&, std::string_view payload)>;

    explicit ssh_server_in_memory(scenario what = {}, std::string greeting = "SSH-2.0-memory") : scenario_(std::move(what)), greeting_(std::move(greeting)) {
        output_ = greeting_ + "\r\n";
        say_kexinit();
    }
    ssh_server_in_memory(const ssh_server_in_memory&) = delete;
    ssh_server_in_memory& operator=(const ssh_server_in_memory&) = delete;

    /// Bytes that the client has sent.
    void take(std::string_view bytes) {
        if (deaf_ || broken_) return;
        input_ += bytes;
        if (client_greeting_.empty() && !take_greeting()) return;
        while (const auto size = next_packet()) {
            const std::string payload = input_.substr(5, size - 5 - static_cast<unsigned char>(input_[4]));
            input_.erase(0, size + (in_.cipher ? mac_size : 0));
            ++in_.sequence;
            length_known_ = false;
            heard(payload);
        }
    }
    /// What the client is to be given: everything so far.
    std::string give() { return std::exchange(output_, {}); }
    std::size_t unsent() const noexcept { return output_.size(); }

    /// Says a packet, as things stand: in the clear, or encrypted.
    void say(std::string_view payload) {
        constexpr std::size_t block = 16, head = 5, least_padding = 4;
        const std::size_t padding = block - (head + payload.size()) % block;
        frame(payload, padding < least_padding ? padding + block : padding);
    }
    /// Bytes as they are, where packets belong.
    void say_raw(std::string_view bytes) { output_ += bytes; }

    /// Says again and again what `more` says: `say_more` is called by whoever carries the bytes, when there is room.
    void say_for_ever(std::function<void(ssh_server_in_memory&)> more) { more_ = std::move(more); }
    bool speaks_for_ever() const noexcept { return more_ != nullptr; }
    void say_more(std::size_t until) {
        while (more_ && output_.size() < until) {
            const auto before = output_.size();
            more_(*this);
            if (output_.size() == before) return;  // not now
        }
    }
    /// Takes nothing any more, not even from the stream.
    void stop_reading() noexcept { deaf_ = true; }
    bool is_deaf() const noexcept { return deaf_; }

    /// The client's number of a channel that has this number here.
    std::uint32_t number_at_client(std::uint32_t ours) const {
        const auto found = channels_.find(ours);
        return found == channels_.end() ? 0 : found->second.theirs;
    }

    /// Opens a channel that the client has asked for under this number.
    void confirm_open(std::uint32_t theirs, std::uint32_t window) {
        const auto ours = next_channel_++;
        channels_[ours] = {theirs, {}, false};
        say(ssh_packet(ssh_message::channel_open_confirmation, theirs, ours, window, 32768));
    }

    void begin_rekey() {
        if (!exchanging_) say_kexinit();
    }
    bool is_exchanging_keys() const noexcept { return exchanging_; }

    std::size_t exchanges() const noexcept { return exchanges_; }  ///< of keys, so far
    std::size_t said() const noexcept { return out_.sequence; }    ///< packets, so far
    bool has_broken_input() const noexcept { return broken_; }     ///< the client sent what is no packet
    bool said_goodbye() const noexcept { return goodbye_; }        ///< the client did

private:
    struct free_ossl {
        void operator()(EVP_PKEY* p) const noexcept { EVP_PKEY_free(p); }
        void operator()(EVP_PKEY_CTX* p) const noexcept { EVP_PKEY_CTX_free(p); }
        void operator()(EVP_MD_CTX* p) const noexcept { EVP_MD_CTX_free(p); }
        void operator()(EVP_CIPHER_CTX* p) const noexcept { EVP_CIPHER_CTX_free(p); }
    };
    template <class T>
    using owned = std::unique_ptr<T, free_ossl>;

    struct direction {
        owned<EVP_CIPHER_CTX> cipher;
        std::string mac_key;
        std::uint32_t sequence = 0;
    };
    struct channel {
        std::uint32_t theirs;
        std::string unsent;  // the output, until there is a window for it
        bool closed = false;
    };
    static constexpr std::size_t mac_size = 32;
    static constexpr std::size_t longest_packet = std::size_t{256} << 10;

    static void check(bool good, const char* what) {
        if (!good) throw std::runtime_error(std::string{"ssh_server_in_memory: OpenSSL cannot "} + what);
    }
    /// Always the same keys: what the server says depends on the client alone.
    static owned<EVP_PKEY> make_key(int kind) {
        const std::string secret(32, 's');
        owned<EVP_PKEY> made{EVP_PKEY_new_raw_private_key(kind, nullptr, sshpool::detail::as_bytes(secret), secret.size())};
        check(made != nullptr, "make a key");
        return made;
    }
    static EVP_PKEY* host_key() {
        static const auto made = make_key(EVP_PKEY_ED25519);
        return made.get();
    }
    static EVP_PKEY* exchange_key() {
        static const auto made = make_key(EVP_PKEY_X25519);
        return made.get();
    }
    static std::string public_part(EVP_PKEY* of) {
        std::string out(32, '\0');
        std::size_t size = out.size();
        check(EVP_PKEY_get_raw_public_key(of, reinterpret_cast<unsigned char*>(out.data()), &size) == 1, "give a public key");
        return out;
    }

    // The transport layer (RFC 4253) ----------------------------------------------------------------------------------------------

    bool take_greeting() {
        const auto end = input_.find('\n');
        if (end == std::string::npos) return false;
        client_greeting_ = input_.substr(0, end);
        while (!client_greeting_.empty() && client_greeting_.back() == '\r') client_greeting_.pop_back();
        input_.erase(0, end + 1);
        return true;
    }
    /// The size of the next packet without its MAC, decrypted in place, once all of it is there; otherwise 0.
    std::size_t next_packet() {
        const std::size_t block = in_.cipher ? 16 : 8;
        if (broken_ || input_.size() < block) return 0;
        if (!std::exchange(length_known_, true)) decrypt(0, block);
        const std::size_t size = sshpool::detail::wire_reader{input_}.u32() + std::size_t{4};
        if (size < block || size > longest_packet || size % block != 0 || static_cast<unsigned char>(input_[4]) + std::size_t{6} > size) {
            broken_ = true;
            return 0;
        }
        const std::size_t whole = size + (in_.cipher ? mac_size : 0);
        if (input_.size() < whole) return 0;
        decrypt(block, size - block);
        if (in_.cipher && mac(in_, std::string_view{input_}.substr(0, size)) != std::string_view{input_}.substr(size, mac_size)) {
            broken_ = true;
            return 0;
        }
        return size;
    }
    void decrypt(std::size_t from, std::size_t size) {
        if (in_.cipher) crypt(in_, input_.data() + from, size);
    }
    static void crypt(direction& d, char* bytes, std::size_t size) {
        auto* const at = reinterpret_cast<unsigned char*>(bytes);
        int done = 0;
        check(EVP_CipherUpdate(d.cipher.get(), at, &done, at, static_cast<int>(size)) == 1, "encrypt");
    }
    static std::string mac(const direction& d, std::string_view packet) {
        std::string text;
        text.reserve(4 + packet.size());
        sshpool::detail::append_u32(text, d.sequence);
        text += packet;
        return sshpool::detail::hmac(EVP_sha256(), d.mac_key, text);
    }
    void frame(std::string_view payload, std::size_t padding) {
        std::string packet;
        packet.reserve(5 + payload.size() + padding);
        sshpool::detail::append_u32(packet, 1 + payload.size() + padding);
        packet += static_cast<char>(static_cast<unsigned char>(padding));
        packet += payload;
        packet.append(padding, '\0');
        const auto check_sum = out_.cipher ? mac(out_, packet) : std::string{};
        if (out_.cipher) crypt(out_, packet.data(), packet.size());
        output_ += packet;
        output_ += check_sum;
        ++out_.sequence;
    }

    void say_kexinit() {
        exchanging_ = true;
        own_kexinit_ = ssh_packet(ssh_message::kexinit) + std::string(16, '\0');
        for (const char* names : {"curve25519-sha256", "ssh-ed25519", "aes128-ctr", "aes128-ctr", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""})
            sshpool::detail::append_string(own_kexinit_, names);
        own_kexinit_ += std::string(5, '\0');
        say(own_kexinit_);
    }
    void exchange_keys(std::string_view client_key) {
        std::string host_blob, secret(32, '\0'), text;
        sshpool::detail::append_string(host_blob, "ssh-ed25519");
        sshpool::detail::append_string(host_blob, public_part(host_key()));
        const owned<EVP_PKEY> theirs{EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, sshpool::detail::as_bytes(client_key), client_key.size())};
        const owned<EVP_PKEY_CTX> derive{EVP_PKEY_CTX_new(exchange_key(), nullptr)};
        std::size_t size = secret.size();
        check(theirs && derive && EVP_PKEY_derive_init(derive.get()) == 1 && EVP_PKEY_derive_set_peer(derive.get(), theirs.get()) == 1 &&
                  EVP_PKEY_derive(derive.get(), reinterpret_cast<unsigned char*>(secret.data()), &size) == 1,
              "agree on a secret");
        const auto own_key = public_part(exchange_key());
        for (const std::string_view part : {std::string_view{client_greeting_}, std::string_view{greeting_}, std::string_view{client_kexinit_},
                                            std::string_view{own_kexinit_}, std::string_view{host_blob}, client_key, std::string_view{own_key}})
            sshpool::detail::append_string(text, part);
        std::string shared;
        sshpool::detail::append_mpint(shared, secret);
        const auto hash = sshpool::detail::digest(EVP_sha256(), text + shared);
        if (session_id_.empty()) session_id_ = hash;

        std::string signature_bytes(64, '\0'), signature;
        const owned<EVP_MD_CTX> sign{EVP_MD_CTX_new()};
        size = signature_bytes.size();
        check(
            sign && EVP_DigestSignInit(sign.get(), nullptr, nullptr, nullptr, host_key()) == 1 &&
                EVP_DigestSign(sign.get(), reinterpret_cast<unsigned char*>(signature_bytes.data()), &size, sshpool::detail::as_bytes(hash), hash.size()) == 1,
            "sign");
        sshpool::detail::append_string(signature, "ssh-ed25519");
        sshpool::detail::append_string(signature, signature_bytes);
        say(ssh_packet(ssh_message::kex_ecdh_reply, host_blob, own_key, signature));
        say(ssh_packet(ssh_message::newkeys));

        const auto derived = [&](char which) { return sshpool::detail::digest(EVP_sha256(), shared + hash + which + session_id_); };
        next_in_ = keyed(derived('C'), derived('A'), derived('E'), 0);
        out_ = keyed(derived('D'), derived('B'), derived('F'), out_.sequence);
        ++exchanges_;
    }
    static direction keyed(const std::string& cipher_key, const std::string& iv, std::string mac_key, std::uint32_t sequence) {
        direction d{owned<EVP_CIPHER_CTX>{EVP_CIPHER_CTX_new()}, std::move(mac_key), sequence};
        // Counter mode is the same in both directions.
        check(d.cipher &&
                  EVP_EncryptInit_ex(d.cipher.get(), EVP_aes_128_ctr(), nullptr, sshpool::detail::as_bytes(cipher_key), sshpool::detail::as_bytes(iv)) == 1,
              "make a cipher");
        return d;
    }

    // What an honest server answers ------------------------------------------------------------------------------------------------

    void heard(std::string_view payload) {
        const auto message = payload.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(payload.front());
        sshpool::detail::wire_reader fields{payload.substr(std::min<std::size_t>(1, payload.size()))};
        switch (message) {
            case ssh_message::kexinit:
                client_kexinit_ = payload;
                return begin_rekey();
            case ssh_message::kex_ecdh_init: {
                const auto client_key = fields.string();
                if (client_key.size() == 32 && exchanging_) return exchange_keys(client_key);
                broken_ = true;
                return;
            }
            case ssh_message::newkeys:
                next_in_.sequence = in_.sequence;
                in_ = std::exchange(next_in_, {});
                exchanging_ = false;
                return;
            case ssh_message::disconnect:
                goodbye_ = true;
                return;
            default:
                if (!scenario_ || !scenario_(*this, payload)) answer(message, fields);
        }
    }
    void answer(std::uint8_t message, sshpool::detail::wire_reader fields) {
        switch (message) {
            case ssh_message::service_request:
                return say(ssh_packet(ssh_message::service_accept, fields.string()));
            case ssh_message::userauth_request:
                return log_in(fields);
            case ssh_message::global_request:
                fields.string();
                if (fields.raw(1) == std::string_view{"\1", 1}) say(ssh_packet(ssh_message::request_failure));
                return;
            case ssh_message::channel_open: {
                fields.string();
                return confirm_open(fields.u32(), std::uint32_t{1} << 20U);
            }
            default:
                break;
        }
        const auto found = channels_.find(fields.u32());
        if (message < ssh_message::channel_window_adjust || !fields.ok() || found == channels_.end()) return;
        auto& c = found->second;
        if (message == ssh_message::channel_window_adjust && !c.unsent.empty()) {
            finish(c);
        } else if (message == ssh_message::channel_data) {
            say(ssh_packet(ssh_message::channel_window_adjust, c.theirs, fields.string().size()));
        } else if (message == ssh_message::channel_close) {
            if (!c.closed) say(ssh_packet(ssh_message::channel_close, c.theirs));
            channels_.erase(found);
        } else if (message == ssh_message::channel_request) {
            const bool exec = fields.string() == "exec";
            if (fields.raw(1) == std::string_view{"\1", 1}) say(ssh_packet(exec ? ssh_message::channel_success : ssh_message::channel_failure, c.theirs));
            if (exec) c.unsent = std::string{fields.string()} + "\n";
        }
    }
    void log_in(sshpool::detail::wire_reader fields) {
        fields.string();  // the user
        fields.string();  // the service
        const auto method = fields.string();
        if (method == "none") return say(ssh_packet(ssh_message::userauth_failure, "publickey,password", false));
        if (method == "publickey" && fields.raw(1) == std::string_view{"\0", 1}) {
            const auto algorithm = fields.string();
            return say(ssh_packet(ssh_message::userauth_pk_ok, algorithm, fields.string()));
        }
        say(ssh_packet(ssh_message::userauth_success));
    }
    void finish(channel& c) {
        say(ssh_packet(ssh_message::channel_data, c.theirs, std::exchange(c.unsent, {})));
        say(ssh_packet(ssh_message::channel_eof, c.theirs));
        say(ssh_packet(ssh_message::channel_request, c.theirs, "exit-status", false, std::uint32_t{0}));
        say(ssh_packet(ssh_message::channel_close, c.theirs));
        c.closed = true;
    }

    scenario scenario_;
    const std::string greeting_;
    std::string client_greeting_;
    std::string client_kexinit_;
    std::string own_kexinit_;
    std::string session_id_;
    std::string input_;
    std::string output_;
    direction in_;
    direction out_;
    direction next_in_;
    std::function<void(ssh_server_in_memory&)> more_;
    std::map<std::uint32_t, channel> channels_;
    std::uint32_t next_channel_ = 0;
    std::size_t exchanges_ = 0;
    bool exchanging_ = false;
    bool length_known_ = false;
    bool deaf_ = false;
    bool broken_ = false;
    bool goodbye_ = false;
};

}  // namespace support
