#include "fuzz.hpp"

#include <sshpool/detail/sftp_download.hpp>
#include <sshpool/detail/sftp_upload.hpp>

namespace {

using namespace sshpool::detail;

std::string packet(std::uint8_t type, std::string_view rest) {
    std::string out;
    append_string(out, std::string(1, static_cast<char>(type)) + std::string{rest});
    return out;
}
std::string numbers(std::initializer_list<std::uint32_t> all) {
    std::string out;
    for (const auto n : all) append_u32(out, n);
    return out;
}
std::string hello() { return packet(2, numbers({3})); }

/// Feeds a transfer with what a server may say. The first byte says in what pieces.
void carry(sftp_transfer& transfer, std::string_view said, std::size_t piece) {
    sftp_client client;
    while (!transfer.is_over() && client.fault().empty()) {
        transfer.ask(client);
        client.sent(client.output().size());
        if (said.empty()) transfer.give_up(client);
        const auto n = std::min(piece, said.size());
        if (n == 0) break;
        std::memcpy(client.room(n), said.data(), n);
        client.received(n);
        said.remove_prefix(n);
        while (const auto reply = client.next()) {
            promise(reply->bytes.size() <= std::max(reply->size, sftp_client::longest_handle), "no more data than was asked");
            transfer.take(client, *reply);
        }
        promise(client.under_way() <= 2 * sftp_client::most_requests, "requests under way are bounded");
    }
    no_control_characters(transfer.trouble());
    no_control_characters(client.fault());
    promise(transfer.failed() || transfer.done() <= 4096, "no more arrives than was said");
}

}  // namespace

const std::vector<std::string>& seeds() {
    // The numbers are those that a client gives first: 4096 and what follows.
    static const std::vector<std::string> all = [] {
        const auto handle = packet(102, numbers({4096, 1}) + "h");
        const auto size = packet(105, numbers({4097, 1, 0, 3}));
        const auto data = packet(103, numbers({4098, 3}) + "abc");
        const auto end = packet(101, numbers({4099, 1, 3}) + "EOF" + numbers({0}));
        const auto limits = packet(2, numbers({3, 18}) + "limits@openssh.com" + numbers({1}) + "1");
        return std::vector<std::string>{"\x08" + hello() + handle + size + data + end, "\x40" + limits + size + handle + data, "\x01" + hello() + end,
                                        "\x20" + hello() + packet(101, numbers({4096, 2, 2}) + "no" + numbers({0}))};
    }();
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view said{reinterpret_cast<const char*>(data) + 1, size - 1};
    const std::size_t piece = std::size_t{1} + data[0];
    sftp_download down{"/f", sshpool::transfer_options{}.max_size(4096)};
    carry(down, said, piece);
    promise(down.failed() || down.take_bytes().size() <= 4096, "memory grows with what came");
    sftp_upload up{"/f", std::string(1000, 'x'), {}, "tag"};
    carry(up, said, piece);
    return 0;
}
