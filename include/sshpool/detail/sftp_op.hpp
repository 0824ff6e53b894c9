#pragma once

#include <sshpool/detail/channel_op.hpp>
#include <sshpool/detail/sftp_transfer.hpp>
#include <sshpool/error.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// One transfer on one channel, which runs the sftp subsystem for it.
///
/// A caller who gives up is answered at once; the channel is kept until the server has removed what would be left behind. What this machine has to
/// remove it does when its disk lets it, with or without the channel.
class sftp_op : public channel_op {
protected:
    explicit sftp_op(std::unique_ptr<sftp_transfer> transfer) : channel_op(channel_start::subsystem("sftp")), transfer_(std::move(transfer)) {
        // With the heads of packets: everything that may be asked for at once.
        if (transfer_->fetches()) window_ = flow_room::most + (std::size_t{256} << 10);
    }

    op_next step(session_engine& engine, engine_time now) override {
        if (answered_ && is_started() && !ended_) {
            transfer_->give_up(client_);
            carry(engine, now);
            if (!ended_ && transfer_->owes_server()) return op_next::again;
        }
        return channel_op::step(engine, now);
    }

    void work(session_engine& engine, engine_time now) override {
        carry(engine, now);
        if (transfer_->is_over()) {
            if (transfer_->failed()) return fail(engine, transfer_->code(), transfer_->trouble(), now);
            return engine.answer(*this, now);
        }
        if (!client_.fault().empty()) return fail(engine, errc::protocol_error, "broke the sftp protocol: " + client_.fault() + what_it_printed(), now);
        if (!ended_) return;
        if (!client_.is_greeted()) return fail(engine, errc::subsystem_refused, "ended the sftp subsystem before its first word" + what_it_printed(), now);
        fail(engine, errc::file_failed, "ended the sftp subsystem in the middle of a transfer" + what_it_printed(), now);
    }
    std::string doing() const override { return "carrying a file transfer"; }
    void lost(const session_engine& engine, const error_info& cause) override {
        channel_op::lost(engine, cause);
        if (is_started()) error_.phase = "file";
        transfer_->give_up(client_);
    }

    /// To be done where it may block; then `work_done`.
    local_work take_work() {
        if (!is_started()) return {};
        return work_ ? std::exchange(work_, nullptr) : transfer_->take_work();
    }
    void work_done(bool ok) { transfer_->work_done(client_, ok); }

    const sftp_transfer& transfer() const noexcept { return *transfer_; }
    std::string take_bytes() noexcept { return transfer_->take_bytes(); }

private:
    void fail(session_engine& engine, errc code, const std::string& text, engine_time now) {
        stop(engine, code, text, now);
        error_.phase = "file";
        transfer_->give_up(client_);
    }

    void carry(session_engine& engine, engine_time now) {
        client_.at(now);
        receive(engine);
        if (!client_.fault().empty()) ended_ = true;
        while (!ended_) {
            transfer_->ask(client_);
            // Last of all, so that what libssh2 is committed to is where it was told.
            const auto out = client_.output();
            const auto n = write(engine, out);
            client_.sent(n);
            if (n < out.size() || out.empty()) break;
        }
        if (!work_) work_ = transfer_->take_work();
        if (work_) engine.attend(*this);
    }
    // What tidies up after a transfer has been appended meanwhile.
    void write_committed(session_engine& engine) override { client_.sent(write(engine, client_.output().substr(0, committed()))); }
    void receive(session_engine& engine) {
        constexpr std::size_t at_once = std::size_t{64} << 10;
        while (transfer_->has_room()) {
            const auto n = read(engine, output_stream::out, client_.room(at_once), at_once);
            if (!n || *n == 0) {
                ended_ = ended_ || (n && *n == 0);
                break;
            }
            client_.received(*n);
            done_with(*n);
            while (const auto reply = client_.next()) transfer_->take(client_, *reply);
        }
        std::array<char, 256> words{};
        for (;;) {
            const auto n = read(engine, output_stream::err, words.data(), words.size());
            if (!n || *n == 0) return;
            done_with(*n);
            if (words_.size() < words.size()) words_.append(words.data(), *n);
        }
    }
    /// Often the answer: a start-up file of the account that prints, a program that is not there.
    std::string what_it_printed() const {
        const auto words = printable(words_.empty() && !client_.is_greeted() ? client_.unread() : std::string_view{words_});
        return words.empty() ? std::string{} : "; it printed: " + words;
    }

    sftp_client client_;
    std::unique_ptr<sftp_transfer> transfer_;
    local_work work_;     // not begun with yet
    std::string words_;   // on standard error
    bool ended_ = false;  // nothing more can be asked
};

}  // namespace sshpool::detail
