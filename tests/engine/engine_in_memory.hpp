#pragma once

#include "engine/engine_on_socket.hpp"
#include "support/ssh_server_in_memory.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace engine_test {

/// An engine and a server in one thread, with a clock that moves only when both have nothing more to say: then to the engine's next deadline.
class engine_in_memory {
public:
    static constexpr std::size_t most_at_once = std::size_t{64} << 10;  // from the server to the engine, as a session reads it

    explicit engine_in_memory(support::ssh_server_in_memory::scenario scenario = {}, engine_options o = options())
        : server(std::move(scenario)), engine(std::move(o)) {
        engine.start(now);
    }

    static engine_options options() {
        engine_options o;
        o.key = "user@memory:22";
        o.user = "user";
        o.methods = sshpool::detail::login_methods(sshpool::credentials::password("secret"));
        return o;
    }

    /// False when the condition does not come about within so many bytes of the server's and so much time.
    bool run_until(const std::function<bool()>& ready, std::size_t bytes = std::size_t{256} << 20, std::chrono::seconds limit = std::chrono::minutes{5}) {
        const auto last_byte = fed + bytes;
        const auto end = now + limit;
        for (;;) {
            const bool moved = exchange();
            if (ready()) return true;
            if (fed >= last_byte) return false;
            if (moved) continue;
            const auto due = engine.next_due();
            if (due > end) return false;
            now = std::max(now, due);
            engine.advance(now);
        }
    }
    bool become_ready() {
        return run_until([&] { return engine.stage() == session_stage::ready || engine.stage() == session_stage::lost; }) &&
               engine.stage() == session_stage::ready;
    }
    bool is_lost() const { return engine.stage() == session_stage::lost; }
    std::shared_ptr<recorded_exec> submit(sshpool::command what) {
        const auto timeout = what.timeout().value_or(std::chrono::milliseconds{});
        auto op = std::make_shared<recorded_exec>(std::move(what));
        engine.submit(op, timeout, now);
        return op;
    }
    std::shared_ptr<recorded_exec> run(sshpool::command what) {
        auto op = submit(std::move(what));
        run_until([&] { return op->done; });
        return op;
    }
    /// Carries bytes both ways, once. False when nothing moved.
    bool exchange() {
        bool moved = false;
        for (const auto& op : engine.take_attention()) op->attend();
        if (engine.stage() == session_stage::host_key && !host_key_is_looked_up) {
            engine.trust_host_key(now);
            moved = true;
        }
        if (!server.is_deaf() && engine.has_output()) {  // otherwise it stays unsent
            std::string said;
            engine.take_output(said);
            server.take(said);
            engine.sending(0, now);
            moved = true;
        }
        server.say_more(most_at_once);
        on_the_way_ += server.give();
        if (!on_the_way_.empty() && !is_lost()) {
            const auto n = std::min(most_at_once, on_the_way_.size());
            engine.feed(std::string_view{on_the_way_}.substr(0, n), now);
            on_the_way_.erase(0, n);
            fed += n;
            moved = true;
        }
        most_memory = std::max(most_memory, engine.memory_used());
        most_unsent = std::max(most_unsent, engine.unsent());
        for (const auto& op : engine.take_attention()) {
            op->attend();
            moved = true;
        }
        return moved;
    }

    support::ssh_server_in_memory server;
    engine_time now{std::chrono::hours{1}};
    session_engine engine;
    bool host_key_is_looked_up = false;  // which then takes for ever
    std::size_t fed = 0;                 // bytes of the server's that the engine has had
    std::size_t most_memory = 0;         // of libssh2's, after any turn
    std::size_t most_unsent = 0;

private:
    std::string on_the_way_;
};

}  // namespace engine_test
