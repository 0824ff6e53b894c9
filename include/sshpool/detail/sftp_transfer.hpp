#pragma once

#include <sshpool/detail/libssh2_init.hpp>
#include <sshpool/detail/sftp_client.hpp>
#include <sshpool/error.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// What is to be done with files of this machine. It may block, ends soon once `stop` is set, and owns everything that it touches.
using local_work = std::function<void(const std::atomic<bool>& stop)>;

/// What is sent or fetched over one sftp channel, decided in memory: what to ask next, and what a reply means.
///
/// It never touches a local file itself, since a disk may take its time: it gives out work, one piece at a time, to be done wherever blocking harms nobody.
class sftp_transfer {
public:
    sftp_transfer() = default;
    sftp_transfer(const sftp_transfer&) = delete;
    sftp_transfer& operator=(const sftp_transfer&) = delete;
    virtual ~sftp_transfer() = default;

    /// The next piece of work, unless one is out already or nothing is to be done. It may be done also when the transfer has gone.
    local_work take_work() {
        if (working_) return {};
        auto work = next_work();
        working_ = static_cast<bool>(work);
        return work;
    }
    /// The piece that was taken has been done, or could not be for want of memory or threads.
    void work_done(sftp_client& client, bool ok = true) {
        working_ = false;
        if (!ok) fail_here("has no memory, or no thread, for its part of the transfer");
        worked(client);
    }
    /// Asks for what comes next, until the client has enough to send or awaits enough.
    virtual void ask(sftp_client& client) = 0;
    virtual void take(sftp_client& client, const sftp_reply& reply) = 0;
    /// Nobody wants it any more: nothing new is begun, and what would be left behind on either side is removed.
    virtual void give_up(sftp_client& client) = 0;
    /// Complete, or failed with nothing left behind.
    virtual bool is_over() const = 0;
    /// After `give_up`: the server has something to remove yet.
    virtual bool owes_server() const { return !is_over(); }
    /// Replies with data are taken now; otherwise they wait, first with the server.
    virtual bool has_room() const noexcept { return true; }
    /// The server has more to send than words.
    virtual bool fetches() const noexcept = 0;
    /// What was fetched into memory.
    virtual std::string take_bytes() noexcept { return {}; }

    bool failed() const noexcept { return !trouble_.empty(); }
    errc code() const noexcept { return code_; }
    const std::string& trouble() const noexcept { return trouble_; }  // what the server did, or had done to it
    std::uint64_t done() const noexcept { return done_; }
    std::uint64_t total() const noexcept { return total_; }

protected:
    virtual local_work next_work() { return {}; }
    virtual void worked(sftp_client& /*client*/) {}
    bool is_working() const noexcept { return working_; }

    static constexpr std::size_t enough_output = std::size_t{64} << 10;

    /// The first trouble counts.
    void fail(errc code, std::string trouble) {
        if (failed()) return;
        code_ = code;
        trouble_ = std::move(trouble);
    }
    void fail_here(const std::string& local_words) { fail(errc::local_file, "was not served: this machine " + local_words); }
    /// `verb`: "open", …
    static std::pair<errc, std::string> describe(const sftp_reply& reply, const char* verb, std::string_view path) {
        const auto status = reply.status;
        auto words = printable(reply.words);
        if (words.empty()) words = "status " + std::to_string(static_cast<std::uint32_t>(status));
        if (status == sftp_status::failure && reply.to == sftp_request::write) words += " (sftp's word for a full disk, among others)";
        const auto code =
            status == sftp_status::no_such_file ? errc::file_not_found : (status == sftp_status::permission_denied ? errc::file_denied : errc::file_failed);
        return {code, std::string{"could not "} + verb + " " + quoted(path) + ": " + words};
    }
    void fail(const sftp_reply& reply, const char* verb, std::string_view path) {
        auto [code, text] = describe(reply, verb, path);
        fail(code, std::move(text));
    }
    static std::string quoted(std::string_view path) { return "\"" + printable(path) + "\""; }

    std::uint64_t done_ = 0;
    std::uint64_t total_ = 0;

private:
    errc code_ = errc::file_failed;
    std::string trouble_;
    bool working_ = false;
};

}  // namespace sshpool::detail
