#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/completion.hpp>
#include <sshpool/detail/session_owner.hpp>
#include <sshpool/detail/sftp_download.hpp>
#include <sshpool/detail/sftp_op.hpp>
#include <sshpool/detail/sftp_upload.hpp>
#include <sshpool/error.hpp>
#include <sshpool/transfer_options.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/associated_executor.hpp>
#include <asio/post.hpp>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace sshpool::detail {

/// What is to be sent or fetched: a value, so that an operation may be started whenever its token wants.
struct transfer_request {
    enum class kind { upload, write_file, download, read_file };

    kind what;
    std::string remote;
    std::filesystem::path local;
    std::string bytes;
    transfer_options options;

    /// Throws `std::invalid_argument` for names that no file can have.
    void check() const {
        if (remote.empty()) throw std::invalid_argument("the name of a remote file is empty");
        if (remote.size() > command::longest_line) throw std::invalid_argument("the name of a remote file is longer than 32 KiB");
        if (remote.find('\0') != std::string::npos) throw std::invalid_argument("the name of a remote file holds a NUL byte");
        if (what != kind::upload && what != kind::download) return;
        if (local.empty()) throw std::invalid_argument("the name of a local file is empty");
        if (local.native().find('\0') != std::string::npos) throw std::invalid_argument("the name of a local file holds a NUL byte");
    }
    std::unique_ptr<sftp_transfer> make() && {
        switch (what) {
            case kind::upload:
                return std::make_unique<sftp_upload>(std::move(remote), std::move(local), std::move(options), random_tag());
            case kind::write_file:
                return std::make_unique<sftp_upload>(std::move(remote), std::move(bytes), std::move(options), random_tag());
            case kind::download:
                return std::make_unique<sftp_download>(std::move(remote), std::move(local), std::move(options), random_tag());
            case kind::read_file:
                break;
        }
        return std::make_unique<sftp_download>(std::move(remote), std::move(options));
    }

private:
    static std::string random_tag() {
        constexpr std::string_view digits = "0123456789abcdef";
        std::random_device random;
        std::string tag;
        for (auto bits = std::uint64_t{random()} << 32U | random(); tag.size() < 16; bits >>= 4U) tag += digits[bits & 15U];
        return tag;
    }
};

/// The file operations of `libssh2_transport`: carries the request to the session, the progress and the result to the caller.
/// `Result` is what the caller gets beside the error: a `std::string`, or `no_result`.
template <class Result>
class transfer_op final : public sftp_op {
public:
    /// How far it is, in bytes: done, and in all.
    using progress = std::pair<std::uint64_t, std::uint64_t>;

    template <class Handler>
    static void start(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share, Handler handler, transfer_request what, error_info* details) {
        const auto session = owner->session;
        const auto executor = session->executor();
        if (!executor) return;  // its context has gone: nothing completes there any more
        const auto timeout = what.options.timeout().value_or(std::chrono::milliseconds{});
        auto told = what.options.progress();
        what.options.progress(nullptr);
        const auto op = std::make_shared<transfer_op>(std::move(owner), std::move(share), std::move(what).make());
        if (told) {
            op->post_progress_ = [to = asio::get_associated_executor(handler, *executor), told = std::move(told), weak = std::weak_ptr{op}](progress now) {
                asio::post(to, [back = returning{weak.lock()}, told, now] { told(now.first, now.second); });
            };
        }
        on_cancellation(handler, [session = std::weak_ptr{session}, weak = std::weak_ptr<session_op>{op}] {
            if (const auto s = session.lock()) s->cancel(weak);
        });
        op->caller_ = std::make_shared<handler_awaiter<Handler, Result>>(std::move(handler), *executor, details);
        session->run(op, timeout);
    }

    transfer_op(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share, std::unique_ptr<sftp_transfer> transfer)
        : sftp_op(std::move(transfer)), session_(owner->session), owner_(std::move(owner)), share_(std::move(share)) {}

    void attend() override {
        if (auto work = take_work()) do_aside(std::move(work));
        if (caller_ == nullptr || telling_) return;
        if (has_news() && !error_) {
            telling_ = true;
            told_ = now_at();
            return post_progress_(told_);
        }
        if (!is_answered()) return;
        share_.reset();  // given back before the caller hears of the end
        owner_.reset();
        post_progress_ = nullptr;
        Result result{};
        if constexpr (std::is_same_v<Result, std::string>) {
            if (!error_) result = take_bytes();
        }
        std::exchange(caller_, nullptr)->answer(std::move(error_), std::move(result));
    }

private:
    void work(session_engine& engine, engine_time now) override {
        sftp_op::work(engine, now);
        if (!is_answered() && !telling_ && has_news()) engine.attend(*this);
    }
    void do_aside(local_work work) {
        const auto session = session_.lock();
        if (session == nullptr) return;
        session->aside(std::move(work), [op = std::static_pointer_cast<transfer_op>(this->shared_from_this())](bool ok) {
            op->work_done(ok);
            op->attend();
        });
    }
    progress now_at() const noexcept { return {transfer().done(), transfer().total()}; }
    bool has_news() const noexcept { return post_progress_ && now_at() != told_; }

    /// Goes when the callback has returned, or has thrown.
    struct returning {
        explicit returning(std::shared_ptr<transfer_op> o) noexcept : op(std::move(o)) {}
        returning(returning&&) noexcept = default;
        returning& operator=(returning&&) = delete;
        ~returning() {
            if (op == nullptr) return;
            try {
                const auto session = op->owner_->session;
                session->change([op = op] {
                    op->telling_ = false;
                    op->attend();
                });
            } catch (...) {  // out of memory: the transfer ends with its timeout or its connection
            }
        }
        std::shared_ptr<transfer_op> op;
    };

    const std::weak_ptr<ssh_session> session_;
    std::shared_ptr<session_owner> owner_;
    std::shared_ptr<void> share_;
    std::shared_ptr<awaiter<Result>> caller_;
    std::function<void(progress)> post_progress_;
    progress told_{};
    bool telling_ = false;  // the callback runs
};

}  // namespace sshpool::detail
