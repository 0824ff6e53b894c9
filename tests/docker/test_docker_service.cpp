// The seven operations on a real Docker Engine, behind a real sshd.
#include "executor.hpp"
#include "support/catch.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/post.hpp>

#include <iomanip>
#include <mutex>
#include <set>
#include <sstream>

namespace docker::test {
namespace {

using sshpool::output_stream;

/// Whether a key logs in to the sshd inside the container.
bool logs_in(const support::temp_dir& dir, const std::string& key, std::uint16_t port) {
    support::process ssh({"ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no",
                          "-o", "UserKnownHostsFile=/dev/null", "-i", (dir / key).string(), "-p", std::to_string(port), "root@127.0.0.1", "true"});
    return ssh.wait() == 0;
}

/// The operations' times, as a table.
class transcript {
public:
    explicit transcript(const executor& ex) : executor_(ex) {}
    void add(const char* what, const phases& steps) {
        std::chrono::nanoseconds total{};
        for (const auto& p : steps) total += p.time;
        const auto commands = executor_.sshd.started_commands();
        const auto logins = executor_.sshd.accepted_logins();
        text_ << std::fixed << std::setprecision(0) << "| " << std::left << std::setw(22) << what << std::right << " | " << std::setw(5) << ms(total) << " | "
              << std::setw(8) << commands - commands_ << " | " << std::setw(15) << logins - logins_ << " |";
        for (const auto& p : steps)
            text_ << ' ' << to_string(p.what) << ' ' << ms(p.time) << (p.commands > 1 ? " (" + std::to_string(p.commands) + " commands)" : std::string{});
        text_ << " |\n";
        commands_ = commands;
        logins_ = logins;
    }
    void print() const {
        std::cout << "| operation              |    ms | commands | new connections | of which, ms |\n|---|---:|---:|---:|---|\n" << text_.str() << std::flush;
    }

private:
    static double ms(std::chrono::nanoseconds t) { return std::chrono::duration<double, std::milli>(t).count(); }
    const executor& executor_;
    std::size_t commands_ = 0;
    std::size_t logins_ = 0;
    std::ostringstream text_;
};

/// A web server under the same steps as Jupyter: it writes its token where the test can read it.
constexpr auto small_web_server = "echo \"$JUPYTER_TOKEN\" >/www/api\nhttpd -p \"127.0.0.1:$port\" -h /www </dev/null >/dev/null 2>&1\n";

}  // namespace

TEST_CASE("the seven operations work on a real engine, all through one connection") {
    executor ex;
    const support::temp_dir dir;
    const auto first = make_public_key(dir, "first", "the first");
    const auto second = make_public_key(dir, "second", "the second's; $(id)");
    transcript times(ex);
    ex.warn();  // what docker warns of on standard error is no failure: its status counts

    auto wish = executor::box("pod_1");
    wish.network = "host";
    wish.volumes.emplace_back("data_1", "/data");
    wish.environment = {{"GREETING", "it's $(id) \"here\""}, {"EMPTY", ""}};
    wish.sshd.emplace();
    wish.sshd->port = support::free_port();
    wish.ssh_keys = {first};
    wish.jupyter.emplace(support::free_port());
    wish.jupyter->script = small_web_server;
    const auto made = executor::wait(ex.create(wish));
    times.add("create_container", made.phases);
    CHECK(made.id.size() == 64);
    CHECK(ex.engine.containers() == std::set<std::string>{"pod_1"});
    CHECK(ex.engine.volumes() == std::set<std::string>{"data_1"});
    CHECK(ex.inside("pod_1", {"sh", "-c", "echo \"$GREETING\""}) == "it's $(id) \"here\"\n");
    REQUIRE(made.jupyter);
    CHECK(ex.inside("pod_1", {"cat", "/www/api"}) == made.jupyter->token + "\n");
    CHECK(logs_in(dir, "first", wish.sshd->port));

    CHECK_FALSE(logs_in(dir, "second", wish.sshd->port));
    times.add("add_ssh_key", executor::wait(ex.add_keys("pod_1", {second})).phases);
    CHECK(logs_in(dir, "second", wish.sshd->port));

    times.add("remove_ssh_keys", executor::wait(ex.remove_keys("pod_1", {first, second})).phases);
    CHECK_FALSE(logs_in(dir, "first", wish.sshd->port));
    CHECK_FALSE(logs_in(dir, "second", wish.sshd->port));

    times.add("stop_container", executor::wait(ex.service.async_stop_container(ex.target(), "pod_1", 0s, {}, asio::use_future)).phases);
    CHECK(ex.engine.run({"container", "inspect", "--format", "{{.State.Status}}", "pod_1"}) == "exited\n");
    times.add("start_container", executor::wait(ex.service.async_start_container(ex.target(), "pod_1", {}, asio::use_future)).phases);
    CHECK(ex.engine.run({"container", "inspect", "--format", "{{.State.Status}}", "pod_1"}) == "running\n");

    jupyter_setup again{support::free_port()};
    again.script = small_web_server;
    const auto server = executor::wait(ex.service.async_install_jupyter_server(ex.target(), "pod_1", again, {}, asio::use_future));
    times.add("install_jupyter_server", server.phases);
    CHECK(server.port == again.port);
    CHECK(ex.inside("pod_1", {"cat", "/www/api"}) == server.token + "\n");

    delete_request gone{"pod_1"};
    gone.volumes = {"data_1"};
    gone.prune_images = true;
    const auto deleted = executor::wait(ex.service.async_delete_container(ex.target(), gone, {}, asio::use_future));
    times.add("delete_container", deleted.phases);
    CHECK_FALSE(deleted.was_gone);
    CHECK(deleted.warnings.empty());
    CHECK(ex.engine.containers().empty());
    CHECK(ex.engine.volumes().empty());

    const auto words = ex.words_given();
    for (const auto& secret : {made.jupyter->token, server.token, first, second, wish.environment["GREETING"]}) CHECK(words.find(secret) == std::string::npos);
    CHECK(ex.pool.get_stats().connections_created == 1);
    CHECK(ex.sshd.accepted_logins() == 1);
    times.print();
}

TEST_CASE("an image is pulled with progress, and its registry's password stands in no argument, no message and no file that stays") {
    executor ex;
    const std::string password = "open'; touch pwned; echo $(touch pwned2) \"sesame";
    const registry images("the user", password);
    std::mutex mutex;
    std::string told;
    const progress_function note = [&](step s, output_stream stream, std::string_view line) {
        const std::lock_guard lock(mutex);
        told += std::string{to_string(s)} + (stream == output_stream::err ? " err: " : ": ") + std::string{line} + "\n";
    };
    auto wish = executor::box("pulled_1");
    wish.image = images.image();
    wish.pull = pull_policy::always;
    wish.login.emplace("the user", "not it: " + password);
    wish.login->server = images.host();

    const auto refused = executor::failure_of(ex.create(wish, note));
    CHECK(refused.where == step::log_in);
    CHECK(refused.code == errc::command_failed);
    CHECK(refused.exit_status == 1);
    CHECK(told.find("log_in err: Error response from daemon") != std::string::npos);
    CHECK(refused.text.find("sesame") == std::string::npos);
    CHECK(refused.left_behind.empty());

    wish.login->password = password;
    executor::wait(ex.create(wish, note));
    CHECK(ex.engine.containers() == std::set<std::string>{"pulled_1"});
    CHECK(told.find("pull: Status: Downloaded newer image for " + images.image()) != std::string::npos);
    CHECK(told.find("sesame") == std::string::npos);
    const auto words = ex.words_given();
    CHECK(words.find("sesame") == std::string::npos);
    std::size_t directories = 0;
    for (auto at = words.find("--config\n"); at != std::string::npos; at = words.find("--config\n", at + 1)) {
        const auto from = at + 9;
        CHECK_FALSE(std::filesystem::exists(words.substr(from, words.find('\n', from) - from)));
        ++directories;
    }
    CHECK(directories == 3);  // the login that was refused, the other one and its pull
    CHECK_FALSE(std::filesystem::exists(ex.sshd.home() / "pwned"));
    CHECK_FALSE(std::filesystem::exists(ex.sshd.home() / "pwned2"));
    CHECK_FALSE(std::filesystem::exists(ex.sshd.home() / ".docker"));
    wish.pull = pull_policy::if_missing;
    wish.replace = true;
    told.clear();
    executor::wait(ex.create(wish, note));
    CHECK(told.find("pull: ") == std::string::npos);
    CHECK(ex.engine.containers() == std::set<std::string>{"pulled_1"});
}

TEST_CASE("keys are added once whatever the file looked like, and the only key is really removed") {
    executor ex;
    const support::temp_dir dir;
    const auto one = make_public_key(dir, "one", "O'Brien's \"laptop\" $(touch /pwned) `touch /pwned` ; touch /pwned # \\");
    const auto two = make_public_key(dir, "two", "two");
    executor::wait(ex.create(executor::box("pod_1")));
    const auto file = [&] { return ex.inside("pod_1", {"cat", "/root/.ssh/authorized_keys"}); };

    CHECK_THROWS(file());  // no ~/.ssh at all
    executor::wait(ex.add_keys("pod_1", {one}));
    CHECK(file() == one + "\n");
    CHECK(ex.inside("pod_1", {"stat", "-c", "%a", "/root/.ssh", "/root/.ssh/authorized_keys"}) == "700\n600\n");
    executor::wait(ex.add_keys("pod_1", {one, two, one}));
    CHECK(file() == one + "\n" + two + "\n");

    executor::wait(ex.remove_keys("pod_1", {two}));
    CHECK(file() == one + "\n");
    executor::wait(ex.remove_keys("pod_1", {one}));
    CHECK(file().empty());
    CHECK(ex.inside("pod_1", {"stat", "-c", "%a", "/root/.ssh/authorized_keys"}) == "600\n");
    executor::wait(ex.remove_keys("pod_1", {one}));  // and again: nothing to do is no failure

    ex.inside("pod_1", {"sh", "-c", "printf '%s' 'ssh-rsa AAAA no newline here' >/root/.ssh/authorized_keys"});
    executor::wait(ex.add_keys("pod_1", {two}));
    CHECK(file() == "ssh-rsa AAAA no newline here\n" + two + "\n");
    const auto blob = two.substr(0, two.rfind(' '));
    ex.inside("pod_1", {"sh", "-c", "echo 'restrict,command=\"id\"   " + blob + "  another comment' >>/root/.ssh/authorized_keys"});
    // sshd reads a second file, too, and this one ends without a newline.
    ex.inside("pod_1", {"sh", "-c", "printf '%s' '" + two + "' >/root/.ssh/authorized_keys2"});
    executor::wait(ex.remove_keys("pod_1", {two}));
    CHECK(file() == "ssh-rsa AAAA no newline here\n");
    CHECK(ex.inside("pod_1", {"cat", "/root/.ssh/authorized_keys2"}).empty());
    CHECK_THROWS(ex.inside("pod_1", {"ls", "/pwned"}));
    CHECK(ex.inside("pod_1", {"ls", "-A", "/root/.ssh", "/dev/shm"}) == "/dev/shm:\n\n/root/.ssh:\nauthorized_keys\nauthorized_keys2\n");

    executor::wait(ex.service.async_stop_container(ex.target(), "pod_1", 0s, {}, asio::use_future));
    const auto stopped = executor::failure_of(ex.remove_keys("pod_1", {one}));
    CHECK(stopped.where == step::remove_keys);
    CHECK(stopped.code == errc::container_not_running);
    const auto missing = executor::failure_of(ex.add_keys("pod_2", {one}));
    CHECK(missing.where == step::add_keys);
    CHECK(missing.code == errc::no_such_container);
}

TEST_CASE("what is gone can be deleted, and cannot be stopped or started") {
    executor ex;
    const auto first = executor::wait(ex.service.async_delete_container(ex.target(), delete_request{"nobody"}, {}, asio::use_future));
    CHECK(first.was_gone);
    delete_request with_volume{"nobody"};
    with_volume.volumes = {"no_volume"};
    CHECK(executor::wait(ex.service.async_delete_container(ex.target(), with_volume, {}, asio::use_future)).warnings.empty());
    const auto stop = executor::failure_of(ex.service.async_stop_container(ex.target(), "nobody", 0s, {}, asio::use_future));
    CHECK(stop.where == step::stop);
    CHECK(stop.code == errc::no_such_container);
    const auto start = executor::failure_of(ex.service.async_start_container(ex.target(), "nobody", {}, asio::use_future));
    CHECK(start.where == step::start);
    CHECK(start.code == errc::no_such_container);
}

TEST_CASE("a create that fails removes what it made, and nothing of others") {
    executor ex;
    executor::wait(ex.create(executor::box("mine")));
    ex.engine.run({"volume", "create", "kept"});

    SECTION("the container ends at once") {
        auto wish = executor::box("short");
        wish.volumes.emplace_back("new", "/new");
        wish.volumes.emplace_back("kept", "/kept");
        wish.environment = {{"SECRET", "swordfish"}};
        wish.arguments = {"sh", "-c", "echo last words: $SECRET >&2; exit 7"};
        const auto f = executor::failure_of(ex.create(wish));
        CHECK(f.where == step::wait_until_running);
        CHECK(f.code == errc::container_exited);
        CHECK(f.text == "the container ended with status 7: last words: ***");
    }
    SECTION("a secret stands where its last words are cut off") {
        auto wish = executor::box("long");
        wish.environment = {{"SECRET", "swordfish"}};
        wish.arguments = {"sh", "-c", "printf '%0495d%s\\n%04093d%s\\n' 0 $SECRET 0 $SECRET; exit 7"};
        std::mutex mutex;
        std::string told;
        const auto f = executor::failure_of(ex.create(wish, [&](step, output_stream, std::string_view line) {
            const std::lock_guard lock(mutex);
            told += std::string{line} + "\n";
        }));
        CHECK(f.code == errc::container_exited);
        CHECK(f.text.find("0000***…") != std::string::npos);
        CHECK(f.text.find("sw") == std::string::npos);
        CHECK(told.size() > 4500);
        CHECK(told.find("sw") == std::string::npos);
    }
    SECTION("docker fails and does not say why") {
        ex.hold(executor::when::instead, "start");
        auto wish = executor::box("silent");
        wish.volumes.emplace_back("new", "/new");
        const auto f = executor::failure_of(ex.create(wish));
        CHECK(f.where == step::start);
        CHECK(f.code == errc::command_failed);
        CHECK(f.exit_status == 9);
        CHECK(f.text == "the command ended with status 9: it said nothing");
    }
    SECTION("its program is not in the image") {
        auto wish = executor::box("wrong");
        wish.entrypoint = "/no/such; touch pwned";
        const auto f = executor::failure_of(ex.create(wish));
        CHECK(f.where == step::start);
        CHECK(f.code == errc::command_failed);
    }
    SECTION("its name is another's") {
        const auto f = executor::failure_of(ex.create(executor::box("mine")));
        CHECK(f.where == step::create);
        CHECK(f.code == errc::name_in_use);
    }
    SECTION("its image is not there") {
        auto wish = executor::box("none");
        wish.image = "no/such/image:1";
        const auto f = executor::failure_of(ex.create(wish));
        CHECK(f.where == step::create);
        CHECK(f.code == errc::command_failed);
    }
    SECTION("nothing answers at Jupyter's port") {
        auto wish = executor::box("deaf");
        wish.jupyter.emplace(support::free_port());
        wish.jupyter->script = ":";
        service_options impatient;
        impatient.timeouts[step::wait_for_jupyter] = 300ms;
        impatient.docker = {support::docker_engine::docker(), "-H", ex.engine.host()};
        docker_service service(ex.pool, impatient);
        const auto f = executor::failure_of(service.async_create_container(ex.target(), wish, {}, asio::use_future));
        CHECK(f.where == step::wait_for_jupyter);
        CHECK(f.code == errc::no_answer);
    }
    CHECK(ex.engine.containers() == std::set<std::string>{"mine"});
    CHECK(ex.engine.volumes() == std::set<std::string>{"kept"});
    CHECK_FALSE(std::filesystem::exists(ex.sshd.home() / "pwned"));
}

TEST_CASE("a step that takes too long is named, and what was made until then is removed") {
    service_options impatient;
    impatient.timeouts[step::start] = 300ms;
    executor ex(impatient);
    ex.hold(executor::when::before, "start");
    const auto f = executor::failure_of(ex.create(executor::box("slow")));
    CHECK(f.where == step::start);
    CHECK(f.code == sshpool::errc::command_timeout);
    CHECK(f.left_behind.empty());
    CHECK(ex.engine.containers().empty());
}

TEST_CASE("a container that uses all of its grace is stopped, however short the step's own limit is") {
    service_options impatient;
    impatient.timeouts[step::stop] = 5s;
    executor ex(impatient);
    executor::wait(ex.create(executor::box("deaf")));  // no handler: the first process of a container takes no SIGTERM
    const auto done = executor::wait(ex.service.async_stop_container(ex.target(), "deaf", 6s, {}, asio::use_future));
    CHECK(done.phases.back().time >= 6s);
    CHECK(ex.engine.run({"container", "inspect", "--format", "{{.State.ExitCode}}", "deaf"}) == "137\n");
}

TEST_CASE("a create that is cancelled removes what it made") {
    executor ex;
    ex.hold(executor::when::after, "start");
    asio::cancellation_signal cancel;
    auto wish = executor::box("unwanted");
    wish.volumes.emplace_back("unwanted", "/data");
    std::promise<std::exception_ptr> ended;
    ex.service.async_create_container(ex.target(), wish, {},
                                      asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr e, const created_container&) { ended.set_value(e); }));
    REQUIRE(support::wait_until([&] { return ex.times_held() == 1; }, 30s));
    CHECK(ex.engine.containers() == std::set<std::string>{"unwanted"});
    asio::post(ex.io, [&] { cancel.emit(asio::cancellation_type::total); });
    auto future = ended.get_future();
    const auto error = executor::wait(std::move(future));
    try {
        std::rethrow_exception(error);
    } catch (const operation_failed& e) {
        CHECK(e.info().where == step::start);
        CHECK(e.info().code == sshpool::errc::cancelled);
    }
    CHECK(ex.engine.containers().empty());
    CHECK(ex.engine.volumes().empty());
}

TEST_CASE("operations at once on one executor share a connection and do not disturb each other") {
    executor ex;
    const support::temp_dir dir;
    std::vector<std::string> keys;
    for (int i = 0; i < 4; ++i) keys.push_back(make_public_key(dir, "key" + std::to_string(i), "key " + std::to_string(i)));
    auto a = ex.create(executor::box("pod_a"));
    auto b = ex.create(executor::box("pod_b"));
    executor::wait(std::move(a));
    executor::wait(std::move(b));
    CHECK(ex.engine.containers() == std::set<std::string>{"pod_a", "pod_b"});

    // Edits of one file: none of them is lost.
    executor::wait(ex.add_keys("pod_a", {keys[0]}));
    auto add = ex.add_keys("pod_a", {keys[1], keys[2]});
    auto remove = ex.remove_keys("pod_a", {keys[0]});
    auto stop = ex.service.async_stop_container(ex.target(), "pod_b", 0s, {}, asio::use_future);
    executor::wait(std::move(add));
    executor::wait(std::move(remove));
    executor::wait(std::move(stop));
    const auto file = ex.inside("pod_a", {"cat", "/root/.ssh/authorized_keys"});
    CHECK(file == keys[1] + "\n" + keys[2] + "\n");
    CHECK(ex.sshd.accepted_logins() == 1);
}

}  // namespace docker::test
