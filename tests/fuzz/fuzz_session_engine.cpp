#define OPENSSL_SUPPRESS_DEPRECATED  // RAND_set_rand_method has no successor that reaches every context of the process

#include "fuzz.hpp"

#include "engine/engine_in_memory.hpp"
#include "support/libssh2_leak.hpp"

#include <sshpool/detail/channel_op.hpp>
#include <sshpool/detail/direct_tcpip.hpp>

#include <openssl/rand.h>

#include <memory>
#include <utility>

// The engine by what a server says, before the login and after it.
//
// The first byte says which. Before: the rest is what the server sends in the clear, whatever the engine says. After: an honest server of the tests' own
// has let the engine log in, and the rest is a script of packets, which that server encrypts, of replies, commands and time.
//
// This process's random numbers are always the same, so an engine always sends the same bytes: a recorded key exchange stays valid, and its mutations
// get as far as the real ones.

namespace {

using namespace engine_test;
using support::ssh_packet;
namespace msg = support::ssh_message;

class same_random_numbers {
public:
    same_random_numbers() {
        static const RAND_METHOD method{nullptr, &fill, nullptr, nullptr, &fill, [] { return 1; }};
        RAND_set_rand_method(&method);
    }
    static void restart() noexcept { next_ = 1; }

private:
    static int fill(unsigned char* into, int size) {
        for (int i = 0; i < size; ++i) {
            next_ = next_ * 6364136223846793005U + 1442695040888963407U;
            into[i] = static_cast<unsigned char>(next_ >> 56U);
        }
        return 1;
    }
    inline static std::uint64_t next_ = 1;
};
const same_random_numbers same_numbers;

/// libssh2's own assertion on the length of a packet: nothing that this library could prevent. Thrown through it; the session is then freed.
struct assertion_of_libssh2 {};

}  // namespace

extern "C" [[noreturn]] void assertion_failed(const char* what, const char* file, unsigned line, const char* where) __asm__("__assert_fail");
void assertion_failed(const char* what, const char* file, unsigned line, const char* /*where*/) {
    if (std::string_view{what}.find("blocksize") != std::string_view::npos) throw assertion_of_libssh2{};
    std::cerr << file << ":" << line << ": assertion " << what << std::endl;
    std::abort();
}

namespace {

/// What a command was told is remembered: once, and never a status together with an error.
class watched_exec final : public recorded_exec {
public:
    using recorded_exec::recorded_exec;
    void attend() override {
        recorded_exec::attend();
        if (done) promise(!error() || !result().exit_status, "an error is never also a status");
        if (done) no_control_characters(error().text);
    }
};
class watched_tunnel final : public sshpool::detail::channel_op {
public:
    watched_tunnel() : channel_op({}), own_(sshpool::detail::direct_tcpip("inside", 80)) {}
    const sshpool::detail::own_channel* wants() const noexcept override { return &own_; }
    void attend() override { done = is_answered(); }
    bool done = false;

private:
    void work(session_engine& engine, engine_time now) override {
        if (sent_ < 5) sent_ += write(engine, std::string_view{"hello"}.substr(sent_));
        std::array<char, 512> buffer{};
        while (const auto n = read(engine, sshpool::output_stream::out, buffer.data(), buffer.size())) {
            if (*n == 0) return engine.answer(*this, now);
            done_with(*n);
        }
    }
    const sshpool::detail::own_channel own_;
    std::size_t sent_ = 0;
};

/// An engine and a server, looked at after every step.
class watched_session : public engine_in_memory {
public:
    using engine_in_memory::engine_in_memory;

    void check() {
        channels_ = std::max(channels_, engine.channels() + engine.own_channels());
        constexpr std::size_t slack = 2;  // channels that came and went within a turn
        promise(engine.memory_used() <= sshpool::detail::memory_session::base_memory + 2 * std::size_t{engine_options{}.window} * (channels_ + slack),
                "a session's memory is bounded");
        promise(engine.unsent() <= session_engine::most_unsent + most_at_once, "what waits to be sent is bounded");
        promise(engine.channels() <= session_engine::most_channels && engine.spares() <= engine.channels(), "channels are bounded");
        promise(keys_are_others || !server.has_broken_input(), "whatever a server says, it is sent packets");
        if (!is_lost()) return;
        promise(static_cast<bool>(engine.failure().code), "a lost session says why");
        promise(engine.next_due() == engine_time::max() && engine.memory_used() == 0, "nothing is left of a lost session");
        no_control_characters(engine.failure().text);
    }
    void end() {
        engine.end_of_input(now);
        exchange();
        promise(is_lost(), "the end of the stream ends a session");
        check();
    }
    bool keys_are_others = false;  // the server has said what its own end of the key exchange does not know of

private:
    std::size_t channels_ = 0;
};

void before_the_login(std::string_view said) {
    watched_session m;
    const std::size_t piece = said.empty() ? 1 : std::size_t{1} + static_cast<unsigned char>(said.front());
    for (said.remove_prefix(std::min<std::size_t>(1, said.size())); !said.empty(); said.remove_prefix(std::min(piece, said.size()))) {
        m.engine.feed(said.substr(0, piece), m.now);
        std::string unread;
        m.engine.take_output(unread);
        m.engine.sending(0, m.now);
        if (m.engine.stage() == session_stage::host_key) m.engine.trust_host_key(m.now);
        m.check();
    }
    m.keys_are_others = true;
    m.end();
}

/// The script: each step is a byte, and what that byte needs.
class script {
public:
    explicit script(std::string_view bytes) : rest_(bytes) {}
    bool over() const noexcept { return rest_.empty(); }
    std::uint8_t byte() noexcept {
        if (rest_.empty()) return 0;
        const auto b = static_cast<std::uint8_t>(rest_.front());
        rest_.remove_prefix(1);
        return b;
    }
    std::string_view bytes() noexcept {
        const auto n = std::min<std::size_t>(byte(), rest_.size());
        const auto found = rest_.substr(0, n);
        rest_.remove_prefix(n);
        return found;
    }

private:
    std::string_view rest_;
};

enum step : std::uint8_t {
    packet,
    packets,
    data,
    end,
    honest_on,
    honest_off,
    run,
    run_with_input,
    tunnel,
    probe,
    give_up,
    rekey,
    wait,
    nudge,
    steps_there_are
};

void after_the_login(script steps) {
    constexpr std::size_t most_packets = 1'000;
    int rekeys_left = 2;  // each takes longer than everything else that a script does
    bool honest = true;
    std::vector<std::shared_ptr<watched_exec>> commands;
    std::vector<std::shared_ptr<watched_tunnel>> tunnels;
    auto options = engine_in_memory::options();
    options.spare_channels = steps.byte() % 3;
    watched_session m{[&](support::ssh_server_in_memory&, std::string_view) { return !honest; }, options};
    promise(m.become_ready(), "an honest server is logged in to");
    const auto say = [&](std::string_view text) {
        constexpr std::uint8_t first_of_kex = 20, last_of_kex = 49;  // RFC 4250 section 4.1.2
        const auto type = text.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(text.front());
        m.keys_are_others = m.keys_are_others || (type >= first_of_kex && type <= last_of_kex);
        m.server.say(text);
    };
    while (!steps.over() && !m.is_lost() && m.server.said() < most_packets) {
        switch (steps.byte() % steps_there_are) {
            case packet:
                say(steps.bytes());
                break;
            case packets: {
                const auto text = steps.bytes();
                for (unsigned i = 0, n = 1U << (steps.byte() % 8U); i < n; ++i) say(text);
                break;
            }
            case data: {
                const auto kind = steps.byte() % 2U == 0 ? msg::channel_data : msg::channel_extended_data;
                const auto channel = steps.byte();
                say(kind == msg::channel_data ? ssh_packet(kind, channel, steps.bytes()) : ssh_packet(kind, channel, steps.byte(), steps.bytes()));
                break;
            }
            case end: {
                const auto channel = steps.byte();
                const auto how = steps.byte();
                if ((how & 1U) != 0) say(ssh_packet(msg::channel_eof, channel));
                if ((how & 2U) != 0) say(ssh_packet(msg::channel_request, channel, "exit-status", (how & 4U) != 0, how));
                if ((how & 8U) != 0) say(ssh_packet(msg::channel_request, channel, "exit-signal", false, steps.bytes(), false, "", ""));
                if ((how & 16U) != 0) say(ssh_packet(msg::channel_close, channel));
                break;
            }
            case honest_on:
                honest = true;
                break;
            case honest_off:
                honest = false;
                break;
            case run:
                commands.push_back(std::make_shared<watched_exec>(sshpool::command{"line"}));
                m.engine.submit(commands.back(), std::chrono::milliseconds{steps.byte() * 10}, m.now);
                break;
            case run_with_input:
                commands.push_back(
                    std::make_shared<watched_exec>(sshpool::command{"cat"}.input(std::string(steps.byte() * std::size_t{997}, 'i')).env("A", "b")));
                m.engine.submit(commands.back(), {}, m.now);
                break;
            case tunnel:
                tunnels.push_back(std::make_shared<watched_tunnel>());
                m.engine.submit(tunnels.back(), {}, m.now);
                break;
            case probe:
                m.engine.submit(std::make_shared<recorded_probe>(), std::chrono::seconds{1}, m.now);
                break;
            case give_up:
                if (!commands.empty()) commands[steps.byte() % commands.size()]->cancel(m.engine, m.now);
                break;
            case rekey:
                if (rekeys_left-- > 0) m.server.begin_rekey();
                break;
            case wait:
                m.now += std::chrono::milliseconds{steps.byte() * 100};
                m.engine.advance(m.now);
                break;
            default:
                m.engine.nudge(m.now);
                break;
        }
        m.check();
        for (int i = 0; i < 4 && m.exchange(); ++i) m.check();
    }
    m.end();
    for (const auto& c : commands) promise(c->done, "every command is answered");
    for (const auto& t : tunnels) promise(t->done, "every tunnel is answered");
}

/// A whole honest connection, as the engine hears it.
std::string recorded_connection() {
    same_random_numbers::restart();
    support::ssh_server_in_memory server;
    session_engine engine{engine_in_memory::options()};
    const engine_time now{std::chrono::hours{1}};
    std::string heard;
    engine.start(now);
    for (int i = 0; i < 20; ++i) {
        std::string said;
        engine.take_output(said);
        server.take(said);
        const auto reply = server.give();
        heard += reply;
        engine.feed(reply, now);
        if (engine.stage() == session_stage::host_key) engine.trust_host_key(now);
    }
    promise(engine.stage() == session_stage::ready, "the recorded login succeeds");
    return heard;
}

std::string counted(std::string_view bytes) { return static_cast<char>(bytes.size()) + std::string{bytes.substr(0, 255)}; }

}  // namespace

const std::vector<std::string>& seeds() {
    static const std::vector<std::string> all = [] {
        const auto login = recorded_connection();
        std::vector<std::string> made{std::string{"\0\xff", 2} + login, std::string{"\0\x06", 2} + login};
        const auto script_of = [&](std::initializer_list<int> bytes) {
            std::string text{"\1\1"};
            for (const int b : bytes) text += static_cast<char>(b);
            return text;
        };
        made.push_back(script_of({run, 0, run_with_input, 9, tunnel, probe, nudge, rekey, run, 20, wait, 3, nudge, nudge}));
        made.push_back(script_of({honest_off, run, 5, run, 0, honest_on, give_up, 1, wait, 2, run, 0, wait, 255, wait, 255}));
        // What a dishonest one could say on the channel of a command, one kind of packet a seed.
        const auto begun = script_of({run, 0, honest_off, run, 0, nudge, packet}) + counted(ssh_packet(msg::channel_success, 1));
        made.push_back(begun + script_of({data, 0, 1}).substr(2) + counted("output") + script_of({data, 1, 1, 1}).substr(2) + counted("error") +
                       script_of({end, 1, 19, nudge, data, 0, 1}).substr(2) + counted("late"));
        made.push_back(begun + script_of({end, 1, 25}).substr(2) + counted("KILL"));
        for (const auto& said : {ssh_packet(msg::disconnect, 2, "words", ""),
                                 ssh_packet(msg::ignore, "x"),
                                 ssh_packet(msg::debug, true, "x", ""),
                                 ssh_packet(3, 7),
                                 ssh_packet(7, 1, "server-sig-algs", "ssh-ed25519"),
                                 ssh_packet(msg::global_request, "keepalive@openssh.com", true),
                                 ssh_packet(msg::global_request, "hostkeys-00@openssh.com", false, "key"),
                                 ssh_packet(msg::request_success, "x"),
                                 ssh_packet(msg::channel_open, "forwarded-tcpip", 1, 1 << 20, 32768, "127.0.0.1", 80, "127.0.0.1", 1234),
                                 ssh_packet(msg::channel_open, "x11", 1, 1 << 20, 32768, "127.0.0.1", 80),
                                 ssh_packet(msg::channel_open, "auth-agent@openssh.com", 1, 1 << 20, 32768),
                                 ssh_packet(msg::channel_open_confirmation, 2, 2, 1 << 20, 32768),
                                 ssh_packet(msg::channel_open_failure, 2, 4, "no", ""),
                                 ssh_packet(msg::channel_window_adjust, 1, 0xffff'ffffU),
                                 ssh_packet(msg::channel_extended_data, 1, 7, "x"),
                                 ssh_packet(msg::channel_failure, 1),
                                 ssh_packet(msg::channel_request, 1, "keepalive@openssh.com", true),
                                 ssh_packet(msg::userauth_success),
                                 ssh_packet(msg::userauth_banner, "x", ""),
                                 ssh_packet(msg::kexinit),
                                 ssh_packet(msg::newkeys),
                                 ssh_packet(192, "x")})
            made.push_back(begun + script_of({packets}).substr(2) + counted(said) + script_of({4, nudge, honest_on, run, 0, nudge, nudge}).substr(2));
        return made;
    }();
    return all;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view rest{reinterpret_cast<const char*>(data) + 1, size - 1};
    same_random_numbers::restart();
    try {
        if (data[0] % 4 == 0) {
            before_the_login(rest);
        } else {
            after_the_login(script{rest});
        }
    } catch (const assertion_of_libssh2&) {
    }
    return 0;
}
