#pragma once

#include <sshpool/command.hpp>
#include <sshpool/detail/completion.hpp>
#include <sshpool/detail/session_owner.hpp>
#include <sshpool/detail/stream_op.hpp>
#include <sshpool/error.hpp>

#include <asio/any_io_executor.hpp>
#include <asio/buffer.hpp>
#include <asio/error.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace sshpool::detail {

/// The first buffers of a sequence: what one `async_read_some` or `async_write_some` looks at.
template <class Buffer>
class few_buffers {
public:
    template <class Sequence>
    explicit few_buffers(const Sequence& all) {
        for (auto it = asio::buffer_sequence_begin(all); it != asio::buffer_sequence_end(all) && count_ < list_.size(); ++it) {
            const Buffer b{*it};
            if (b.size() != 0) list_[count_++] = b;
        }
    }
    const Buffer* begin() const noexcept { return list_.data(); }
    const Buffer* end() const noexcept { return list_.data() + count_; }
    bool empty() const noexcept { return count_ == 0; }

private:
    std::array<Buffer, 8> list_;
    std::size_t count_ = 0;
};

/// What a `channel` is a handle to: the channel's streams, and who waits for what on them.
///
/// `start…`, `close` and `notify` may come from any thread and go to the session's strand; everything else happens there.
class channel_core final : public stream_op {
public:
    template <class... What>
    channel_core(std::shared_ptr<session_owner> owner, std::shared_ptr<void> share, asio::any_io_executor executor, What&&... what)
        : stream_op(std::forward<What>(what)...),
          session_(owner->session),
          owner_(std::move(owner)),
          share_(std::move(share)),
          executor_(std::move(executor)) {}

    const asio::any_io_executor& executor() const noexcept { return executor_; }

    /// `opened` is called once, on the strand, and must not run user code.
    void start(std::chrono::milliseconds timeout, std::function<void(error_info)> opened) {
        opener_ = std::move(opened);
        session_->run(self(), timeout);
    }
    /// Gives up an open that has not been answered; later it does nothing.
    void cancel_open() { session_->cancel(self()); }

    template <class Handler, class Sequence>
    void start_read(output_stream from, const Sequence& buffers, error_info* details, Handler handler) {
        call<std::size_t>(std::move(handler), details, [from, into = few_buffers<asio::mutable_buffer>{buffers}](channel_core& core, auto who) {
            core.reads_[from == output_stream::out ? 0 : 1].push_back({into, std::move(who)});
        });
    }
    template <class Handler, class Sequence>
    void start_write(const Sequence& buffers, error_info* details, Handler handler) {
        call<std::size_t>(std::move(handler), details, [from = few_buffers<asio::const_buffer>{buffers}](channel_core& core, auto who) {
            core.writes_.push_back({from, std::move(who), nullptr});
        });
    }
    template <class Handler>
    void start_send_eof(error_info* details, Handler handler) {
        call<no_result>(std::move(handler), details, [](channel_core& core, auto who) {
            core.writes_.push_back({few_buffers<asio::const_buffer>{asio::const_buffer{}}, nullptr, std::move(who)});
        });
    }
    template <class Handler>
    void start_wait_exit(error_info* details, Handler handler) {
        call<command_result>(std::move(handler), details, [](channel_core& core, auto who) { core.exits_.push_back(std::move(who)); });
    }
    void notify(notice n) {
        session_->change([core = self(), n = std::move(n)]() mutable {
            if (!core->is_answered()) core->send(std::move(n));
        });
    }
    void close() {
        session_->change([core = self()] { core->closing_ = true; });
        session_->cancel(self());
    }

    void cancel(session_engine& engine, engine_time now) override {
        if (opener_ || closing_) stream_op::cancel(engine, now);
    }
    void attend() override {
        if (is_answered()) {  // given back before anybody hears of the end
            share_.reset();
            owner_.reset();
        }
        if (opener_ && (is_open() || is_answered())) std::exchange(opener_, nullptr)(is_open() ? error_info{} : error_);
        if (closing_) {
            from(output_stream::out).bytes.clear();
            from(output_stream::err).bytes.clear();
        }
        serve_reads(output_stream::out);
        serve_reads(output_stream::err);
        for (auto& done : std::exchange(done_, {})) done();
        if (is_answered()) end_all();
    }
    void abandon() noexcept override {
        opener_ = nullptr;
        const auto reads = std::exchange(reads_, {});
        const auto writes = std::exchange(writes_, {});
        const auto exits = std::exchange(exits_, {});
        const auto done = std::exchange(done_, {});
    }

private:
    struct read_call {
        few_buffers<asio::mutable_buffer> into;
        std::shared_ptr<awaiter<std::size_t>> who;
    };
    struct write_call {
        few_buffers<asio::const_buffer> from;
        std::shared_ptr<awaiter<std::size_t>> who;  // of bytes
        std::shared_ptr<awaiter<no_result>> eof;    // or of the end
    };

    std::shared_ptr<channel_core> self() { return std::static_pointer_cast<channel_core>(shared_from_this()); }

    template <class Result, class Handler, class Add>
    void call(Handler handler, error_info* details, Add add) {
        const auto executor = session_->executor();
        if (!executor) return;  // its context has gone: nothing completes there any more
        const auto who = std::make_shared<handler_awaiter<Handler, Result>>(std::move(handler), *executor, details);
        if (session_->is_forked()) return who->answer(session_->made_before_fork(), {});
        on_cancellation(who->handler(), [session = std::weak_ptr{session_}, core = std::weak_ptr{self()}, weak = std::weak_ptr{who}] {
            if (const auto s = session.lock())
                s->change([core, weak] {
                    const auto c = core.lock();
                    const std::shared_ptr<awaiter<Result>> w = weak.lock();
                    if (c && w) c->cancel_call(w.get());
                });
        });
        session_->change([core = self(), who, add = std::move(add)]() mutable {
            add(*core, std::shared_ptr<awaiter<Result>>{std::move(who)});
            core->attend();
        });
    }

    void cancel_call(const void* who) {
        const error_info why{make_error(errc::cancelled), session_->key(), phase(), session_->key() + ": the caller cancelled this call on a channel"};
        const auto answer_in = [&](auto& list, auto&& awaiter_of) {
            for (auto it = list.begin(); it != list.end(); ++it) {
                if (awaiter_of(*it).get() != who) continue;
                const auto found = awaiter_of(*it);
                list.erase(it);
                return found->answer(why);
            }
        };
        for (auto& list : reads_) answer_in(list, [](const read_call& c) { return c.who; });
        answer_in(writes_, [](const write_call& c) { return c.who; });
        answer_in(writes_, [](const write_call& c) { return c.eof; });
        answer_in(exits_, [](const auto& c) { return c; });
    }

    void serve_reads(output_stream stream) {
        auto& waiting = reads_[stream == output_stream::out ? 0 : 1];
        auto& have = from(stream);
        while (!waiting.empty() && (!have.bytes.empty() || waiting.front().into.empty())) {
            const auto call = std::move(waiting.front());
            waiting.pop_front();
            std::size_t total = 0;
            for (const auto& b : call.into) {
                std::size_t filled = 0;
                while (filled < b.size() && !have.bytes.empty()) {
                    const auto n = asio::buffer_copy(b + filled, asio::buffer(have.bytes.front()));
                    take(stream, n);
                    filled += n;
                }
                total += filled;
            }
            call.who->answer({}, total);
        }
        if (!have.ended) return;
        for (const auto& call : std::exchange(waiting, {})) call.who->answer({asio::error::eof, session_->key(), "command", "the stream has ended"});
    }

    outgoing next_to_send(std::string& into) override {
        if (writes_.empty()) return outgoing::nothing;
        if (writes_.front().eof && !no_more_writes_) return outgoing::eof;
        auto call = std::move(writes_.front());
        writes_.pop_front();
        if (call.eof) {
            done_.push_back([who = std::move(call.eof)] { who->answer({}); });
        } else if (no_more_writes_) {
            done_.push_back([who = std::move(call.who)] { who->answer({asio::error::broken_pipe, {}, "command", "the end of the input has been sent"}); });
        } else {
            for (const auto& b : call.from) into.append(static_cast<const char*>(b.data()), std::min(b.size(), most_taken - into.size()));
            done_.push_back([who = std::move(call.who), n = into.size()] { who->answer({}, n); });
        }
        return outgoing::bytes;
    }
    void eof_sent() override {
        done_.push_back([who = std::move(writes_.front().eof)] { who->answer({}); });
        writes_.pop_front();
        no_more_writes_ = true;
    }

    void end_all() {
        const auto why = [&](std::error_code otherwise, const char* text) { return error_ ? error_ : error_info{otherwise, session_->key(), "command", text}; };
        for (auto& list : reads_) {
            for (const auto& call : std::exchange(list, {})) call.who->answer(why(asio::error::eof, "the stream has ended"));
        }
        for (const auto& call : std::exchange(writes_, {})) {
            auto error = why(asio::error::broken_pipe, "the other side has closed the channel");
            if (call.eof) {
                call.eof->answer(no_more_writes_ && !error_ ? error_info{} : std::move(error));
            } else {
                call.who->answer(std::move(error));
            }
        }
        exit_.elapsed = answered_at_ - submitted_at_;
        for (const auto& who : std::exchange(exits_, {})) who->answer(error_, error_ ? command_result{} : exit_);
    }

    static constexpr std::size_t most_taken = std::size_t{64} << 10;  // of one write at a time

    const std::shared_ptr<ssh_session> session_;
    std::shared_ptr<session_owner> owner_;
    std::shared_ptr<void> share_;
    const asio::any_io_executor executor_;
    std::function<void(error_info)> opener_;
    std::array<std::deque<read_call>, 2> reads_;
    std::deque<write_call> writes_;
    std::deque<std::shared_ptr<awaiter<command_result>>> exits_;
    std::deque<std::function<void()>> done_;  // writes that the engine's pass has taken
    bool closing_ = false;
    bool no_more_writes_ = false;
};

}  // namespace sshpool::detail
