// A transfer that ends while keys are exchanged: libssh2 is then committed to bytes that it has seen and not sent.

#include "engine/engine_in_memory.hpp"
#include "support/catch.hpp"

#include <sshpool/detail/sftp_op.hpp>
#include <sshpool/detail/sftp_upload.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

using namespace engine_test;
using sshpool::errc;
using sshpool::detail::append_string;
using sshpool::detail::append_u32;
using sshpool::detail::wire_reader;
using support::ssh_packet;
using support::ssh_server_in_memory;
namespace msg = support::ssh_message;

namespace {

class recorded_upload final : public sshpool::detail::sftp_op {
public:
    explicit recorded_upload(std::string bytes)
        : sftp_op(std::make_unique<sshpool::detail::sftp_upload>("/there", std::move(bytes), sshpool::transfer_options{}, "tag")) {}
    void attend() override { done = is_answered(); }
    const sshpool::error_info& error() const { return error_; }
    bool done = false;
};

std::string content(std::size_t size) {
    std::string bytes;
    for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * 31 % 251);
    return bytes;
}

/// An sftp server that exchanges keys in the middle of an upload, and then says that the disk is full and ends.
class failing_sftp {
public:
    failing_sftp(const std::string& wanted, std::size_t writes) : wanted_(wanted), last_write_(writes) {}

    bool operator()(ssh_server_in_memory& server, std::string_view payload) {
        wire_reader fields{payload.substr(1)};
        const auto ours = fields.u32();
        if (payload.front() == msg::channel_request && fields.string() == "subsystem") {
            channel_ = server.number_at_client(ours);
            server.say(ssh_packet(msg::channel_success, channel_));
            return true;
        }
        if (payload.front() != msg::channel_data || server.number_at_client(ours) != channel_) return false;
        const auto bytes = fields.string();
        stream_ += bytes;
        server.say(ssh_packet(msg::channel_window_adjust, channel_, bytes.size()));
        while (next(server)) {
        }
        return true;
    }
    bool is_right = true;  // everything so far: packets, and the file's bytes in them

private:
    bool next(ssh_server_in_memory& server) {
        wire_reader head{stream_};
        const std::string packet{head.string()};
        if (!head.ok()) return false;
        stream_.erase(0, 4 + packet.size());
        wire_reader fields{std::string_view{packet}.substr(1)};
        const auto id = fields.u32();
        const auto packet_of = [&](char type, const std::string& rest) {
            std::string body(1, type);
            if (type != 2) append_u32(body, id);
            std::string whole;
            append_string(whole, body + rest);
            return whole;
        };
        const auto reply = [&](char type, const std::string& rest) { server.say(ssh_packet(msg::channel_data, channel_, packet_of(type, rest))); };
        const auto status = [&](std::size_t code) {
            std::string rest;
            append_u32(rest, code);
            append_string(rest, code == 4 ? "disk full" : "");
            append_string(rest, "");
            return rest;
        };
        switch (packet.front()) {
            case 1:  // init
                return reply(2, std::string("\0\0\0\3", 4)), true;
            case 17:  // stat: there is none
                return reply(101, status(2)), true;
            case 3: {  // open
                std::string handle;
                append_string(handle, "h");
                reply(102, handle);
                if (last_write_ == 0) fail_with_new_keys(server, {});
                return true;
            }
            case 6: {  // write
                is_right = is_right && fields.string() == "h";
                const auto at = std::uint64_t{fields.u32()} << 32U | fields.u32();
                const auto bytes = fields.string();
                is_right = is_right && fields.done() && at < wanted_.size() && std::string_view{wanted_}.substr(at, bytes.size()) == bytes;
                if (++writes_ == last_write_) fail_with_new_keys(server, packet_of(101, status(4)));
                if (writes_ != last_write_) reply(101, status(0));
                return true;
            }
            case 4:   // close
            case 13:  // remove
                return true;
            default:
                is_right = false;
                return false;
        }
    }
    /// What it says then comes with the new keys, before the client has gone on with what it was about to send.
    void fail_with_new_keys(ssh_server_in_memory& server, const std::string& words) {
        const auto before = server.exchanges();
        server.begin_rekey();
        server.say_for_ever([before, words, channel = channel_, said = false](ssh_server_in_memory& s) mutable {
            if (s.exchanges() == before || std::exchange(said, true)) return;
            if (!words.empty()) s.say(ssh_packet(msg::channel_data, channel, words));
            s.say(ssh_packet(msg::channel_eof, channel));
        });
    }

    const std::string& wanted_;
    const std::size_t last_write_;
    std::size_t writes_ = 0;
    std::string stream_;
    std::uint32_t channel_ = 0;
};

}  // namespace

TEST_CASE("a transfer that fails while keys are exchanged sends what libssh2 is committed to, and nothing else", "[fault]") {
    const auto wanted = content(std::size_t{1} << 20);
    const auto writes = GENERATE(range(std::size_t{0}, std::size_t{24}));
    INFO("the keys are exchanged after " << writes << " writes");
    failing_sftp sftp{wanted, writes};
    engine_in_memory m{[&](ssh_server_in_memory& server, std::string_view payload) { return sftp(server, payload); }};
    REQUIRE(m.become_ready());
    const auto op = std::make_shared<recorded_upload>(wanted);
    m.engine.submit(op, std::chrono::minutes{1}, m.now);
    REQUIRE(m.run_until([&] { return op->done; }));
    INFO(op->error().text);
    CHECK(op->error().code == errc::file_failed);
    CHECK(m.run("beside")->result().out == "beside\n");
    CHECK(m.server.exchanges() == 2);
    CHECK(sftp.is_right);
    CHECK_FALSE(m.server.has_broken_input());
}
