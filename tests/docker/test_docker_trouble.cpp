// What goes wrong on the way: connections cut in the middle of every step, and every injection that the original let through.
#include "executor.hpp"
#include "support/catch.hpp"

#include <functional>
#include <optional>
#include <set>

namespace docker::test {
namespace {

enum class cuts { once, always };

/// Starts an operation and cuts the server's sessions when docker is held: once, or each time. Gives how it failed, if it did.
template <class T>
std::optional<failure> cut(executor& ex, cuts how, const std::function<std::future<T>()>& start) {
    const auto before = ex.times_held();
    auto f = start();
    std::size_t done = 0;
    const auto ended = [&] { return f.wait_for(0s) == std::future_status::ready; };
    while (support::wait_until([&] { return ended() || ex.times_held() > before + done; }, 30s) && !ended()) {
        ++done;
        if (how == cuts::once) ex.hold_nothing();
        ex.sshd.kill_sessions();
    }
    ex.hold_nothing();
    CHECK(done > 0);
    try {
        executor::wait(std::move(f));
    } catch (const operation_failed& e) {
        return e.info();
    }
    return std::nullopt;
}

struct place {
    step where;
    const char* words;    // of the command in whose middle the connection is cut
    std::size_t passing;  // how many such commands come before
};

void check_cuts(executor& ex, const create_request& wish, const std::vector<place>& places) {
    for (const auto& p : places) {
        for (const auto w : {executor::when::before, executor::when::after}) {
            for (const auto how : {cuts::once, cuts::always}) {
                if (how == cuts::always && w == executor::when::after) continue;  // each attempt is cut, whatever docker did: as before
                INFO("cut in " << to_string(p.where) << (w == executor::when::before ? " before" : " after") << " docker did it, "
                               << (how == cuts::once ? "once" : "each time"));
                ex.hold(w, p.words, p.passing);
                const auto f = cut<created_container>(ex, how, [&] { return ex.create(wish); });
                const bool fails = how == cuts::always || entry_of(p.where).again == repeatable::no;
                REQUIRE(f.has_value() == fails);
                if (fails) {
                    CHECK(f->where == p.where);
                    CHECK(f->code == sshpool::errc::connection_lost);
                    CHECK(f->code == sshpool::command_fate::unknown);
                    CHECK(f->left_behind.empty());
                } else {
                    CHECK(ex.engine.containers() == std::set<std::string>{wish.name});
                    ex.engine.remove_all();
                }
                CHECK(ex.engine.containers().empty());
                CHECK(ex.engine.volumes().empty());
            }
        }
    }
}

}  // namespace

TEST_CASE("a connection cut in the middle of a step, done again where that is safe and else named, and nothing is left behind (registry)") {
    executor ex;
    const registry images("user", "open sesame");
    auto wish = executor::box("pod_1");
    wish.image = images.image();
    wish.pull = pull_policy::always;
    wish.login.emplace("user", "open sesame");
    wish.login->server = images.host();
    wish.replace = true;
    check_cuts(ex, wish, {{step::log_in, "login", 0}, {step::pull, "pull", 0}, {step::replace, "rm", 0}});
    const auto words = ex.words_given();
    for (auto at = words.find("--config\n"); at != std::string::npos; at = words.find("--config\n", at + 1))
        CHECK_FALSE(std::filesystem::exists(words.substr(at + 9, words.find('\n', at + 9) - at - 9)));
}

TEST_CASE("a connection cut in the middle of a step, done again where that is safe and else named, and nothing is left behind (container)") {
    executor ex;
    auto wish = executor::box("pod_1");
    wish.volumes.emplace_back("data_1", "/data");
    check_cuts(ex, wish,
               {{step::create_volume, "volume create", 0},
                {step::create, "create", 0},
                {step::start, "start", 0},
                {step::wait_until_running, "container inspect", 0}});
    // A caller who tries again after all that meets nothing in the way.
    executor::wait(ex.create(wish));
    CHECK(ex.engine.containers() == std::set<std::string>{"pod_1"});
}

TEST_CASE("a connection cut in the middle of a step, done again where that is safe and else named, and nothing is left behind (inside)") {
    executor ex;
    const support::temp_dir dir;
    auto wish = executor::box("pod_1");
    wish.volumes.emplace_back("data_1", "/data");
    wish.ssh_keys = {make_public_key(dir, "one", "one")};
    wish.sshd.emplace();
    wish.sshd->port = support::free_port();
    wish.network = "host";
    wish.jupyter.emplace(support::free_port());
    wish.jupyter->script = "echo x >/www/api\nhttpd -p \"127.0.0.1:$port\" -h /www </dev/null >/dev/null 2>&1\n";
    check_cuts(ex, wish, {{step::set_up_sshd, "exec", 0}, {step::add_keys, "exec", 1}, {step::verify_keys, "exec", 2}, {step::install_jupyter, "exec", 3}});
}

TEST_CASE("a container that a lost create makes late is found and removed all the same") {
    service_options patient;
    patient.settle = 20s * support::slowness;
    executor ex(patient);
    ex.hold(executor::when::before, "create");
    auto f = ex.create(executor::box("late"));
    REQUIRE(support::wait_until([&] { return ex.times_held() == 1; }, 30s));
    const auto given = ex.words_given();
    ex.hold_nothing();
    ex.sshd.kill_sessions();
    // The cleaning up has looked, and found nothing; now docker does there what it was told before the connection was cut.
    const auto looks = [&] { return ex.words_given().substr(given.size()).find("\nps\n"); };
    REQUIRE(support::wait_until([&] { return looks() != std::string::npos; }, 30s));
    CHECK(ex.engine.containers().empty());
    CHECK(f.wait_for(0s) != std::future_status::ready);
    std::vector<std::string> words;
    for (auto at = given.find("\ncreate\n") + 1; at < given.size(); at = given.find('\n', at) + 1) words.push_back(given.substr(at, given.find('\n', at) - at));
    ex.engine.run(words);
    const auto failed = executor::failure_of(std::move(f));
    CHECK(failed.where == step::create);
    CHECK(failed.code == sshpool::errc::connection_lost);
    CHECK(failed.left_behind.empty());
    CHECK(ex.engine.containers().empty());
}

TEST_CASE("an executor that is gone for good is no server that does not answer, and what is left behind there is named") {
    const bool hangs = GENERATE(false, true);
    INFO((hangs ? "it hangs" : "it refuses connections"));
    service_options impatient;
    impatient.timeouts[step::wait_for_jupyter] = 3s * support::slowness;
    impatient.timeouts[step::install_jupyter] = 20s;
    impatient.timeouts[step::clean_up] = 2s;
    executor ex(impatient);
    auto wish = executor::box("pod_1");
    wish.volumes.emplace_back("data_1", "/data");
    wish.network = "host";
    wish.jupyter.emplace(support::free_port());
    wish.jupyter->script = "echo x >/www/started\n";
    auto f = ex.create(wish);
    const auto waits = [&] {
        support::process look({support::docker_engine::docker(), "-H", ex.engine.host(), "exec", "pod_1", "cat", "/www/started"});
        return look.wait() == 0;
    };
    REQUIRE(support::wait_until(waits, 30s));
    if (hangs) {
        ex.sshd.suspend();
    } else {
        ex.sshd.stop();
    }
    const auto failed = executor::failure_of(std::move(f));
    CHECK((failed.where == step::wait_for_jupyter || failed.where == step::install_jupyter));  // whose end was just on its way
    INFO(failed.text);
    CHECK(failed.code != errc::no_answer);
    CHECK(failed.code.category() != category());
    REQUIRE(failed.left_behind.size() == 2);
    const auto label = failed.left_behind[0].substr(failed.left_behind[0].find("sshpool.request="), 16 + 32);
    CHECK(failed.left_behind[0].rfind("containers with label " + label, 0) == 0);
    CHECK(failed.left_behind[1].rfind("volumes with label " + label, 0) == 0);
    CHECK(ex.engine.run({"ps", "--all", "--filter", "label=" + label, "--format", "{{.Names}}"}) == "pod_1\n");
    CHECK(ex.engine.run({"volume", "ls", "--quiet", "--filter", "label=" + label}) == "data_1\n");
}

TEST_CASE("a connection cut while a notebook server is waited for is no answer of the server's, and the wait goes on") {
    executor ex;
    auto wish = executor::box("pod_1");
    wish.network = "host";
    wish.jupyter.emplace(support::free_port());
    // Who asks gets no answer until the test says so; then there is a server.
    wish.jupyter->script =
        "(until [ -e /go ]; do nc -l -p \"$port\" -e sh -c 'echo x >/asked; until [ -e /go ]; do sleep 0.1; done'; done; httpd -p \"$port\" -h /www) "
        "</dev/null >/dev/null 2>&1 &\necho x >/www/api\n";
    auto f = ex.create(wish);
    const auto asked = [&] {
        support::process look({support::docker_engine::docker(), "-H", ex.engine.host(), "exec", "pod_1", "cat", "/asked"});
        return look.wait() == 0;
    };
    REQUIRE(support::wait_until(asked, 30s));
    CHECK(f.wait_for(0s) != std::future_status::ready);
    ex.sshd.kill_sessions();
    ex.inside("pod_1", {"touch", "/go"});
    CHECK(executor::wait(std::move(f)).jupyter->port == wish.jupyter->port);
    CHECK(ex.sshd.accepted_logins() == 2);
}

TEST_CASE("the other operations, cut in the middle of a step: done again where that is safe, and the step is named when it does not help") {
    executor ex;
    const support::temp_dir dir;
    const auto key = make_public_key(dir, "one", "one");
    executor::wait(ex.create(executor::box("pod_1")));
    ex.engine.run({"volume", "create", "data_1"});
    delete_request gone{"pod_1"};
    gone.volumes = {"data_1"};
    gone.prune_images = true;
    struct case_of {
        step where;
        const char* words;
        std::function<std::future<outcome>()> start;
    };
    const auto start_delete = [&] { return ex.service.async_delete_container(ex.target(), gone, {}, asio::use_future); };
    const std::vector<case_of> cases{
        {step::add_keys, "exec", [&] { return ex.add_keys("pod_1", {key}); }},
        {step::remove_keys, "exec", [&] { return ex.remove_keys("pod_1", {key}); }},
        {step::stop, "stop", [&] { return ex.service.async_stop_container(ex.target(), "pod_1", 0s, {}, asio::use_future); }},
        {step::start, "start", [&] { return ex.service.async_start_container(ex.target(), "pod_1", {}, asio::use_future); }},
    };
    for (const auto& c : cases) {
        INFO("cut in " << to_string(c.where));
        ex.hold(executor::when::before, c.words);
        const auto f = cut<outcome>(ex, cuts::always, c.start);
        REQUIRE(f);
        CHECK(f->where == c.where);
        CHECK(f->code == sshpool::errc::connection_lost);
        ex.hold(executor::when::after, c.words);
        CHECK_FALSE(cut<outcome>(ex, cuts::once, c.start).has_value());
    }
    // Cleaning up after a failure is a step like the others; the failure is told as it was.
    auto wrong = executor::box("pod_2");
    wrong.entrypoint = "/no/such";
    ex.hold(executor::when::before, "ps --all --quiet");
    const auto undone = cut<created_container>(ex, cuts::once, [&] { return ex.create(wrong); });
    REQUIRE(undone);
    CHECK(undone->where == step::start);
    CHECK(undone->code == errc::command_failed);
    CHECK(undone->left_behind.empty());
    CHECK(ex.engine.containers() == std::set<std::string>{"pod_1"});
    for (const auto& [where, words] : {std::pair{step::look, "ps"}, std::pair{step::remove_container, "rm"}, std::pair{step::remove_volume, "volume rm"},
                                       std::pair{step::prune_images, "image prune"}}) {
        INFO("cut in " << to_string(where));
        ex.hold(executor::when::before, words);
        const auto f = cut<deleted_container>(ex, cuts::always, start_delete);
        REQUIRE(f);
        CHECK(f->where == where);
        CHECK(f->code == sshpool::errc::connection_lost);
    }
    CHECK(ex.engine.containers().empty());
    ex.engine.run({"volume", "create", "data_1"});
    executor::wait(ex.create(executor::box("pod_1")));
    ex.hold(executor::when::after, "rm");
    CHECK_FALSE(cut<deleted_container>(ex, cuts::once, start_delete).has_value());
    CHECK(ex.engine.containers().empty());
    CHECK(ex.engine.volumes().empty());
}

TEST_CASE("each injection that the original let through is harmless") {
    executor ex;
    const support::temp_dir dir;
    const auto pwned = (ex.sshd.home() / "pwned").string();
    const auto touch = "touch " + pwned;  // on the executor; inside a container the directory is missing, so that a file /pwned is looked for there
    const auto payloads = std::vector<std::string>{"$(" + touch + ")",  "`" + touch + "`", "'; " + touch + "; '", "\"; " + touch + "; \"",
                                                   "; " + touch + " #", "O'Brien",         "$(touch /pwned)",     "'; touch /pwned; '"};
    std::string table;
    const auto row = [&](const std::string& field, const std::string& payload, const std::string& what) {
        table += "  " + field + std::string(field.size() < 26 ? 26 - field.size() : 1, ' ') + payload +
                 std::string(payload.size() < 24 ? 24 - payload.size() : 1, ' ') + what + "\n";
    };
    const auto shortened = [&](std::string p) {
        for (auto at = p.find(pwned); at != std::string::npos; at = p.find(pwned)) p.replace(at, pwned.size(), "pwned");
        return p;
    };
    const auto harmless = [&](const std::string& field, const std::string& payload, const std::string& what) {
        INFO(field << ": " << payload);
        CHECK_FALSE(std::filesystem::exists(pwned));
        row(field, shortened(payload), what);
    };

    // Where the payload is no valid value it is refused before anything is sent.
    const auto refused = [&](const std::string& field, const std::string& payload, const create_request& wish) {
        INFO(field << ": " << payload);
        const auto f = executor::failure_of(ex.create(wish));
        CHECK(f.where == step::validate);
        CHECK(f.code == errc::invalid_request);
        harmless(field, payload, "refused: nothing sent");
    };
    for (std::size_t i = 0; i < 5; ++i) {
        const auto& p = payloads[i];
        refused("container name", p, executor::box("pod" + p));
        auto wish = executor::box("pod_1");
        wish.image += p;
        refused("image", p, wish);
        wish = executor::box("pod_1");
        wish.volumes.emplace_back("data" + p, "/data");
        refused("volume name", p, wish);
        wish = executor::box("pod_1");
        wish.environment = {{"NAME" + p, "value"}};
        refused("environment name", p, wish);
    }
    for (const auto& p : {"--privileged", "-v/:/host"}) {
        auto wish = executor::box("pod_1");
        wish.image = p;
        refused("image", p, wish);
        refused("container name", p, executor::box(p));
    }
    auto bound = executor::box("pod_1");
    bound.volumes.emplace_back("/", "/host");
    refused("volume name", "/", bound);
    bound.volumes = {volume{"data", "/data,source=/etc"}};
    refused("volume path", "/data,source=/etc", bound);
    bound.volumes.clear();
    bound.environment = {{"A", "b\nPATH=/evil"}};
    refused("environment value", "b\\nPATH=/evil", bound);
    const auto honest = make_public_key(dir, "honest", "honest");
    bound.environment.clear();
    for (const auto& [what, key] : {std::pair{std::string{"two lines"}, honest + "\ncommand=\"id\" " + honest},
                                    std::pair{std::string{"command=\"…\" option"}, "command=\"id\" " + honest}}) {
        bound.ssh_keys = {key};
        refused("key", what, bound);
    }
    CHECK(ex.sshd.accepted_logins() == 0);  // it never came to a connection

    // A program of such a name is looked for, not run by a shell.
    for (std::size_t i = 0; i < 5; ++i) {
        auto odd = executor::box("pod_1");
        odd.entrypoint = payloads[i];
        const auto f = executor::failure_of(ex.create(odd));
        CHECK(f.where == step::start);
        CHECK(f.code == errc::command_failed);
        harmless("entrypoint", payloads[i], "no such program, removed");
    }

    // Where it is a valid value it arrives as it is.
    auto wish = executor::box("pod_1");
    wish.arguments = {"sh", "-c", "for word; do echo \"$word\"; done >/words; exec sleep 600", "sh"};
    for (std::size_t i = 0; i < payloads.size(); ++i) {
        wish.arguments.push_back(payloads[i]);
        wish.arguments.push_back("line\n" + payloads[i]);
        wish.environment["VALUE_" + std::to_string(i)] = payloads[i];
        wish.ssh_keys.push_back(make_public_key(dir, "key" + std::to_string(i), payloads[i]));
    }
    wish.volumes.emplace_back("data", "/da ta'; touch /pwned; '$(touch /pwned)");
    wish.login.emplace("'; " + touch + "; '", "$(" + touch + ")");
    executor::wait(ex.create(wish));
    std::string words, keys;
    for (std::size_t i = 0; i < payloads.size(); ++i) {
        const auto& p = payloads[i];
        words += p + "\nline\n" + p + "\n";
        keys += wish.ssh_keys[i] + "\n";
        CHECK(ex.inside("pod_1", {"sh", "-c", "echo \"$VALUE_" + std::to_string(i) + "\""}) == p + "\n");
        harmless("environment value", p, "arrived as it is");
        harmless("argument, after a newline", p, "arrived as it is");
        harmless("key comment, add", p, "arrived as it is");
    }
    CHECK(ex.inside("pod_1", {"cat", "/words"}) == words);
    CHECK(ex.inside("pod_1", {"cat", "/root/.ssh/authorized_keys"}) == keys);
    CHECK(ex.engine.run({"inspect", "--format", "{{range .Mounts}}{{.Destination}}{{end}}", "pod_1"}) == wish.volumes[0].path + "\n");
    harmless("volume path", wish.volumes[0].path, "mounted there");

    for (std::size_t i = 0; i < payloads.size(); ++i) {
        executor::wait(ex.remove_keys("pod_1", {wish.ssh_keys[i]}));
        harmless("key comment, remove", payloads[i], i + 1 == payloads.size() ? "removed, the only one" : "removed");
    }
    CHECK(ex.inside("pod_1", {"cat", "/root/.ssh/authorized_keys"}).empty());

    // The registry's user and password, which a real registry refuses.
    auto pulled = executor::box("pod_2");
    pulled.pull = pull_policy::always;
    pulled.image = "127.0.0.1:1/no/image";
    for (const auto& p : payloads) {
        pulled.login.emplace("user" + p, p);
        pulled.login->server = "127.0.0.1:1";
        const auto f = executor::failure_of(ex.create(pulled));
        CHECK(f.where == step::log_in);
        CHECK(f.code == errc::command_failed);
        harmless("registry user, password", p, "login refused by the registry");
    }
    CHECK_THROWS(ex.inside("pod_1", {"ls", "/pwned"}));
    std::cout << table << std::flush;
}

}  // namespace docker::test
