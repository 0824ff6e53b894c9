#pragma once

#include <sshpool/detail/libssh2_init.hpp>

#include <libssh2.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace sshpool::detail {

/// A libssh2 session whose socket is memory: bytes are given to it and taken from it.
///
/// The send callback only appends, so libssh2 never holds a half-sent packet: with one, a rekey hangs 1.10.0 to 1.11.1. The receive
/// callback gives bytes only while the gate is open. Allocations are counted and bounded, because a server decides how much libssh2 queues.
class memory_session {
public:
    static constexpr std::size_t base_memory = std::size_t{8} << 20;
    /// Two for each packet that libssh2 keeps. It looks through all of them for each one that it frees with a channel: at 100,000 packets, which fit in
    /// 8 MiB, that takes half a minute. What comes in one turn is less than half of this, and is taken in the same turn.
    static constexpr std::size_t most_blocks = std::size_t{16} << 10;

    memory_session() {
        start_libssh2();
        raw_ = libssh2_session_init_ex(&allocate_hook, &free_hook, &reallocate_hook, this);
        if (raw_ == nullptr) throw std::bad_alloc();
        libssh2_session_set_blocking(raw_, 0);
        set_libssh2_callback(raw_, LIBSSH2_CALLBACK_SEND, &send_hook);
        set_libssh2_callback(raw_, LIBSSH2_CALLBACK_RECV, &receive_hook);
        set_libssh2_callback(raw_, LIBSSH2_CALLBACK_DISCONNECT, &disconnect_hook);
    }
    memory_session(const memory_session&) = delete;
    memory_session& operator=(const memory_session&) = delete;
    ~memory_session() { die(); }

    LIBSSH2_SESSION* raw() const noexcept { return raw_; }

    /// No descriptor has this number, so libssh2 neither changes nor restores the mode of anybody's socket.
    static constexpr int no_socket = INT_MAX;

    /// Sets what is asked for in the key exchange, in that order; names that this libssh2 does not know are left out, and where it knows none, its own
    /// list stays. Left out here, because libssh2 (1.10 to 1.11.1) does so with a memcpy that overlaps.
    void prefer(int method, std::string_view names) {
        const char** known = nullptr;
        const int count = libssh2_session_supported_algs(raw_, method, &known);
        std::string list;
        while (!names.empty()) {
            const auto name = names.substr(0, names.find(','));
            names.remove_prefix(std::min(names.size(), name.size() + 1));
            if (std::any_of(known, known + std::max(count, 0), [&](const char* k) { return name == k; })) list.append(list.empty() ? "" : ",").append(name);
        }
        if (count > 0) libssh2_free(raw_, known);
        if (!list.empty()) libssh2_session_method_pref(raw_, method, list.c_str());
    }

    // Input -----------------------------------------------------------------------------------------------------------------

    /// `bytes` need to live until `keep_rest`.
    void give(std::string_view bytes) {
        if (kept_.empty()) {
            in_ = bytes;
        } else {
            kept_.erase(0, kept_.size() - in_.size());
            kept_ += bytes;
            in_ = kept_;
        }
        if (preamble_.size() < 255) preamble_ += bytes.substr(0, 255 - preamble_.size());
    }
    /// Keeps what libssh2 has not taken yet.
    void keep_rest() {
        if (in_.empty()) {
            if (!kept_.empty()) std::string{}.swap(kept_);
        } else if (kept_.empty()) {
            kept_.assign(in_);
        } else {
            kept_.erase(0, kept_.size() - in_.size());
        }
        in_ = kept_;
    }
    void end_input() noexcept { ended_ = true; }
    bool input_ended() const noexcept { return ended_; }
    bool has_input() const noexcept { return !in_.empty(); }
    std::size_t kept() const noexcept { return in_.size(); }
    std::uint64_t consumed() const noexcept { return consumed_; }

    /// libssh2 may take no more than `bytes` from now on; `over_allowance` tells that it wanted to.
    void allow(std::uint64_t bytes) noexcept { allowance_ = bytes > UINT64_MAX - consumed_ ? UINT64_MAX : consumed_ + bytes; }
    bool over_allowance() const noexcept { return over_allowance_; }

    /// Lets libssh2 read for as long as the object lives.
    class open_gate {
    public:
        explicit open_gate(memory_session& s, bool open = true) noexcept : session_(s), before_(std::exchange(s.gate_, open)) {}
        open_gate(const open_gate&) = delete;
        open_gate& operator=(const open_gate&) = delete;
        ~open_gate() { session_.gate_ = before_; }

    private:
        memory_session& session_;
        bool before_;
    };

    /// Lets libssh2 sort all input into its queues, whatever channel it is for. Gives 0, or libssh2's error; `left_over` then tells whether it stopped
    /// before it had seen everything, of which up to 16 KiB may be in its own buffer already.
    ///
    /// `wait_eof` and not a read of length 0 where possible: such a read gives back the window of what was read before, without waiting for
    /// whoever has not finished with that yet.
    int pump(LIBSSH2_CHANNEL* any_live_channel) {
        const open_gate gate{*this};
        for (int idle = 0; idle < 2;) {
            starved_ = false;
            const auto before = consumed_;
            int rc = libssh2_channel_wait_eof(any_live_channel);
            if (rc == 0) {
                char unused = 0;
                rc = static_cast<int>(libssh2_channel_read_ex(any_live_channel, 0, &unused, 0));
            }
            if (rc < 0 && rc != LIBSSH2_ERROR_EAGAIN) return rc;
            if (starved_) break;
            if (consumed_ == before) ++idle;  // packets that it had taken before
        }
        return 0;
    }
    bool left_over() const noexcept { return !starved_; }

    // Output ----------------------------------------------------------------------------------------------------------------

    /// Swaps what is to be sent into `buffer`, which must be empty.
    void take_output(std::string& buffer) noexcept {
        buffer.swap(out_);
        taken_ += buffer.size();
    }
    bool has_output() const noexcept { return !out_.empty(); }
    std::size_t queued() const noexcept { return out_.size(); }
    std::uint64_t appended() const noexcept { return taken_ + out_.size(); }  // since the beginning
    std::uint64_t taken() const noexcept { return taken_; }

    // Life ------------------------------------------------------------------------------------------------------------------

    /// Frees everything at once, in whatever phase it is: with both callbacks failing, `libssh2_session_free` cannot say EAGAIN, which would leak.
    void die() noexcept {
        dead_ = true;
        wiping_ = true;
        if (raw_ != nullptr) libssh2_session_free(std::exchange(raw_, nullptr));
        while (blocks_.next != &blocks_) deallocate(reinterpret_cast<std::byte*>(blocks_.next) + header);
    }
    bool is_dead() const noexcept { return dead_; }

    /// The server will send no more: the stream ended, or it said goodbye.
    bool at_end() const noexcept { return dead_ || end_seen_ || disconnected_; }
    bool was_disconnected() const noexcept { return disconnected_; }
    const std::string& disconnect_words() const noexcept { return disconnect_words_; }

    /// The first bytes of the connection as they came.
    const std::string& preamble() const noexcept { return preamble_; }

    std::string last_words() const {
        char* text = nullptr;
        int size = 0;
        if (raw_ == nullptr || libssh2_session_last_error(raw_, &text, &size, 0) == 0 || text == nullptr || size <= 0) return {};
        return printable({text, static_cast<std::size_t>(size)});
    }

    // Memory ----------------------------------------------------------------------------------------------------------------

    void allow_memory(std::size_t bytes) noexcept { memory_limit_ = bytes; }
    /// From now on every block has so much room behind it that nobody uses; there may be `most_padded_blocks` of them.
    void pad(std::size_t bytes) noexcept { padding_ = bytes; }
    static constexpr std::size_t most_padded_blocks = 1024;
    bool out_of_memory() const noexcept { return out_of_memory_; }
    std::size_t memory_used() const noexcept { return memory_used_; }

    /// What libssh2 frees is wiped until this is called, and again when the session ends: passwords and keys pass through its memory.
    void stop_wiping() noexcept { wiping_ = false; }

    /// For what libssh2 will free: signatures and answers.
    void* allocate(std::size_t bytes) noexcept {
        if (bytes > memory_limit_ || memory_used_ > memory_limit_ - bytes || blocks_used_ >= (padding_ == 0 ? most_blocks : most_padded_blocks)) {
            out_of_memory_ = true;
            return nullptr;
        }
        // Zeroed: libssh2 reads some of what a server said it would send and did not (the name of an exit signal).
        void* const room = padding_ == 0 ? std::calloc(1, bytes + header) : std::malloc(bytes + header + padding_);
        if (room == nullptr) return nullptr;
        if (padding_ != 0) std::memset(room, 0, bytes + header);
        auto* const b = new (room) block{&blocks_, blocks_.next, bytes};
        b->next->previous = b;
        blocks_.next = b;
        memory_used_ += bytes;
        ++blocks_used_;
        return static_cast<std::byte*>(room) + header;
    }
    /// Calls `then` once, when libssh2 frees `memory`. It must not throw.
    void when_given_back(const void* memory, std::function<void()> then) {
        awaited_ = memory;
        when_given_back_ = std::move(then);
    }
    /// A piece of libssh2's memory that begins with `bytes` and is at least so long; nullptr: there is none.
    char* find_memory(std::string_view bytes, std::size_t size) noexcept {
        for (auto* b = blocks_.next; b != &blocks_; b = b->next) {
            char* const memory = reinterpret_cast<char*>(b) + header;
            if (b->bytes >= std::max(size, bytes.size()) && std::memcmp(memory, bytes.data(), bytes.size()) == 0) return memory;
        }
        return nullptr;
    }
    void deallocate(void* memory) noexcept {
        if (memory == nullptr) return;
        if (memory == awaited_) {
            awaited_ = nullptr;
            std::exchange(when_given_back_, nullptr)();
        }
        auto* const b = block_of(memory);
        b->previous->next = b->next;
        b->next->previous = b->previous;
        memory_used_ -= b->bytes;
        --blocks_used_;
        if (wiping_) OPENSSL_cleanse(memory, b->bytes);
        std::free(b);
    }

private:
    /// Stands before every piece of memory that libssh2 has: it forgets some (104 bytes a rekey up to 1.11.1), which are freed with the session.
    struct block {
        block* previous;
        block* next;
        std::size_t bytes;
    };
    static constexpr std::size_t header = (sizeof(block) + alignof(std::max_align_t) - 1) / alignof(std::max_align_t) * alignof(std::max_align_t);

    static block* block_of(void* memory) noexcept { return reinterpret_cast<block*>(static_cast<std::byte*>(memory) - header); }

    void* reallocate(void* memory, std::size_t bytes) noexcept {
        void* const fresh = allocate(bytes);
        if (fresh != nullptr && memory != nullptr) {
            std::memcpy(fresh, memory, std::min(bytes, block_of(memory)->bytes));
            deallocate(memory);
        }
        return fresh;
    }

    static memory_session& from(void** abstract) noexcept { return *static_cast<memory_session*>(*abstract); }
    static LIBSSH2_ALLOC_FUNC(allocate_hook) { return from(abstract).allocate(count); }
    static LIBSSH2_REALLOC_FUNC(reallocate_hook) { return from(abstract).reallocate(ptr, count); }
    static LIBSSH2_FREE_FUNC(free_hook) { from(abstract).deallocate(ptr); }

    static LIBSSH2_SEND_FUNC(send_hook) {
        auto& self = from(abstract);
        if (self.dead_ || socket != no_socket) return -EPIPE;
        (void)flags;
        try {
            self.out_.append(static_cast<const char*>(buffer), length);
        } catch (const std::bad_alloc&) {
            return -ENOMEM;
        }
        return static_cast<ssize_t>(length);
    }
    static LIBSSH2_RECV_FUNC(receive_hook) {
        auto& self = from(abstract);
        (void)flags;
        if (self.dead_ || socket != no_socket) return -ECONNRESET;
        if (!self.gate_) return -EAGAIN;
        if (self.in_.empty()) {
            if (self.ended_) {
                self.end_seen_ = true;
                return 0;
            }
            self.starved_ = true;
            return -EAGAIN;
        }
        if (self.consumed_ >= self.allowance_) {
            self.over_allowance_ = true;
            return -ECONNRESET;
        }
        const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(std::min(length, self.in_.size()), self.allowance_ - self.consumed_));
        std::memcpy(buffer, self.in_.data(), n);
        self.in_.remove_prefix(n);
        self.consumed_ += n;
        return static_cast<ssize_t>(n);
    }
    static LIBSSH2_DISCONNECT_FUNC(disconnect_hook) {
        (void)session;
        (void)reason;
        (void)language;
        (void)language_len;
        auto& self = from(abstract);
        self.disconnected_ = true;
        if (message != nullptr && message_len > 0) self.disconnect_words_ = printable({message, static_cast<std::size_t>(message_len)});
    }

    LIBSSH2_SESSION* raw_ = nullptr;
    std::string kept_;
    std::string_view in_;
    std::string out_;
    std::string preamble_;
    std::string disconnect_words_;
    std::uint64_t consumed_ = 0;
    std::uint64_t taken_ = 0;
    std::uint64_t allowance_ = UINT64_MAX;
    block blocks_{&blocks_, &blocks_, 0};
    std::size_t memory_used_ = 0;
    std::size_t blocks_used_ = 0;
    std::size_t memory_limit_ = base_memory;
    std::size_t padding_ = 0;
    const void* awaited_ = nullptr;
    std::function<void()> when_given_back_;
    bool gate_ = false;
    bool starved_ = false;
    bool ended_ = false;
    bool end_seen_ = false;
    bool dead_ = false;
    bool disconnected_ = false;
    bool over_allowance_ = false;
    bool out_of_memory_ = false;
    bool wiping_ = true;
};

}  // namespace sshpool::detail
