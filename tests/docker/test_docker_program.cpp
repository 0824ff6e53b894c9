// What needs no connection: checks of requests, docker's arguments; and the program from its command line to its exit status.
#include "docker_service/docker_argv.hpp"
#include "docker_service/json.hpp"
#include "docker_service/ssh_keys.hpp"
#include "docker_service/validate.hpp"
#include "support/catch.hpp"
#include "support/docker_engine.hpp"
#include "support/process.hpp"
#include "support/sshd_server.hpp"
#include "support/temp_dir.hpp"

#include <csignal>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace docker::test {
namespace {

create_request everything() {
    create_request wish{"pod_1", "registry.example:5000/team/pod:1.2"};
    wish.network = "pods";
    wish.ports.emplace_back(std::uint16_t{20022}, std::uint16_t{22});
    wish.ports.emplace_back(std::uint16_t{20053}, std::uint16_t{53}, protocol::udp);
    wish.ports.back().address = "127.0.0.1";
    wish.volumes.emplace_back("data_1", "/data");
    wish.volumes.emplace_back("models", "/models");
    wish.volumes.back().read_only = true;
    wish.environment = {{"TOKEN", "swordfish"}, {"EMPTY", ""}, {"TEXT", "it's = $(here)"}};
    wish.entrypoint = "/usr/bin/env";
    wish.arguments = {"python3", "-m", "worker", "--name=it's $(here)"};
    wish.limits.cpus = 1.5;
    wish.limits.memory_mb = 2048;
    wish.limits.shm_mb = 512;
    wish.limits.gpus = {"GPU-1a2b", "GPU-3c4d"};
    return wish;
}

std::string refusal(const create_request& wish) {
    try {
        check(wish);
    } catch (const std::invalid_argument& e) {
        return e.what();
    }
    return "";
}
std::string key_refusal(std::string_view key) {
    try {
        parse_public_key(key);
    } catch (const std::invalid_argument& e) {
        return e.what();
    }
    return "";
}

struct result {
    int status;
    std::string out;
};

constexpr auto ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1QkO6Gk0kqzQ0Rk8vQ5mYb0cVvYV0n4bXl8m2l3G7a";

}  // namespace

TEST_CASE("a request becomes docker's arguments as in the golden file, and the environment a file") {
    const auto wish = everything();
    CHECK(refusal(wish).empty());
    std::string text;
    for (const auto& word : create_words(wish, "0123456789abcdef")) text += word + "\n";
    CHECK(text == support::read_file(SSHPOOL_TEST_GOLDEN));
    CHECK(environment_file(wish) == "EMPTY=\nTEXT=it's = $(here)\nTOKEN=swordfish\n");

    volume disk{"data_1", "/data"};
    disk.driver = "vloopback";
    disk.options = {{"size", "10g"}};
    CHECK(create_volume_words(disk, "12") == words{"volume", "create", "--label=sshpool.request=12", "--driver=vloopback", "--opt=size=10g", "--", "data_1"});
    registry_login login{"me", "secret"};
    login.server = "registry.example";
    CHECK(login_words(login) == words{"login", "--username=me", "--password-stdin", "--", "registry.example"});
}

TEST_CASE("a real engine takes the golden arguments for what they say") {
    const support::docker_engine engine;
    auto wish = everything();
    wish.image = support::docker_engine::image();
    wish.network = "none";     // the only one it has beside the machine's own
    wish.environment.clear();  // standard input
    engine.run(create_words(wish, "1"));
    const auto says = [&](const std::string& what) { return engine.run({"container", "inspect", "--format", what, "pod_1"}); };
    CHECK(says("{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.ShmSize}}") == "1500000000 2147483648 536870912\n");
    CHECK(says("{{json .HostConfig.PortBindings}}") == R"({"22/tcp":[{"HostIp":"","HostPort":"20022"}],"53/udp":[{"HostIp":"127.0.0.1","HostPort":"20053"}]})"
                                                       "\n");
    CHECK(says("{{range .HostConfig.DeviceRequests}}{{json .DeviceIDs}}{{end}}") == "[\"GPU-1a2b\",\"GPU-3c4d\"]\n");
    CHECK(says("{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}}") == "unless-stopped none\n");
    CHECK(says("{{range .Mounts}}{{.Name}} {{.Destination}} {{.RW}};{{end}}").find("models /models false;") != std::string::npos);
    CHECK(says("{{json .Config.Entrypoint}} {{json .Config.Cmd}}") == "[\"/usr/bin/env\"] [\"python3\",\"-m\",\"worker\",\"--name=it's $(here)\"]\n");
}

TEST_CASE("what docker or a shell could misread is refused, by name, and without quoting secrets") {
    struct bad {
        const char* says;
        std::function<void(create_request&)> spoil;
    };
    const std::vector<bad> all{
        {"the container name", [](auto& w) { w.name = "-rf"; }},
        {"the container name", [](auto& w) { w.name = "a b"; }},
        {"the container name", [](auto& w) { w.name = ""; }},
        {"the container name", [](auto& w) { w.name = std::string(129, 'a'); }},
        {"the image", [](auto& w) { w.image = "--privileged"; }},
        {"the image", [](auto& w) { w.image = "a;b"; }},
        {"the volume name", [](auto& w) { w.volumes[0].name = "/etc"; }},
        {"the volume name", [](auto& w) { w.volumes[0].name = "../etc"; }},
        {"the volume's path", [](auto& w) { w.volumes[0].path = "data"; }},
        {"the volume's path", [](auto& w) { w.volumes[0].path = "/"; }},
        {"the volume's path", [](auto& w) { w.volumes[0].path = "/a,readonly"; }},
        {"stands there twice", [](auto& w) { w.volumes[0].path = "/models"; }},
        {"the volume driver", [](auto& w) { w.volumes[0].driver = "-x"; }},
        {"the volume option", [](auto& w) { w.volumes[0].options["a=b"] = "c"; }},
        {"port of the host must not be 0", [](auto& w) { w.ports[0].host = 0; }},
        {"is no IP address", [](auto& w) { w.ports[0].address = "$(id)"; }},
        {"the environment variable", [](auto& w) { w.environment["1A"] = "x"; }},
        {"the environment variable", [](auto& w) { w.environment["A B"] = "x"; }},
        {"the environment variable", [](auto& w) { w.environment[""] = "x"; }},
        {"the value of TOKEN has more than one line", [](auto& w) { w.environment["TOKEN"] = "swordfish\n"; }},
        {"the value of TOKEN is no UTF-8", [](auto& w) { w.environment["TOKEN"] = "swordfish\xff"; }},
        {"the value of TOKEN is no UTF-8", [](auto& w) { w.environment["TOKEN"] = "swordfish\xe2\x82"; }},
        {"the value of TOKEN is no UTF-8", [](auto& w) { w.environment["TOKEN"] = "swordfish\xed\xa0\x80"; }},
        {"longer than 32 KiB", [](auto& w) { w.environment["TOKEN"] = std::string(40000, 'x'); }},
        {"cpus", [](auto& w) { w.limits.cpus = -1; }},
        {"cpus", [](auto& w) { w.limits.cpus = std::numeric_limits<double>::quiet_NaN(); }},
        {"memory_mb", [](auto& w) { w.limits.memory_mb = 1; }},
        {"the GPU", [](auto& w) { w.limits.gpus = {"\"all\",count=1"}; }},
        {"either \"all\" or ids",
         [](auto& w) {
             w.limits.gpus = {"all", "GPU-1"};
         }},
        {"the network", [](auto& w) { w.network = "-x"; }},
        {"the arguments",
         [](auto& w) {
             w.arguments = {std::string{"a\0b", 3}};
         }},
        {"the entrypoint", [](auto& w) { w.entrypoint = "a\nb"; }},
        {"the registry's user", [](auto& w) { w.login.emplace("-u", "swordfish"); }},
        {"the registry's password", [](auto& w) { w.login.emplace("u", "swordfish\n"); }},
        {"Jupyter's port", [](auto& w) { w.jupyter.emplace(std::uint16_t{0}); }},
        {"Jupyter's token", [](auto& w) { w.jupyter.emplace(std::uint16_t{1}).token = "swordfish';x"; }},
        {"Jupyter's path", [](auto& w) { w.jupyter.emplace(std::uint16_t{1}).probe_path = "/ HTTP/1.0\r\nX: y"; }},
        {"public key", [](auto& w) { w.ssh_keys = {"swordfish"}; }},
    };
    for (const auto& b : all) {
        auto wish = everything();
        b.spoil(wish);
        const auto said = refusal(wish);
        INFO(b.says << " <- " << said);
        CHECK(said.find(b.says) != std::string::npos);
        CHECK(said.find("swordfish") == std::string::npos);
    }
    auto fine = everything();
    fine.environment["TEXT"] = "tab\t, ümläut, \xe2\x82\xac and \xf0\x9f\x90\xb3";
    CHECK(refusal(fine).empty());
}

TEST_CASE("a public key is one line of a known type, and is known by its key alone") {
    CHECK(key_refusal(ed25519).empty());
    CHECK(key_refusal(std::string{ed25519} + " O'Brien's $(id)\n").empty());
    CHECK(key_refusal("").find("empty") != std::string::npos);
    CHECK(key_refusal(std::string{ed25519} + "\n" + ed25519).find("more than one line") != std::string::npos);
    CHECK(key_refusal("command=\"id\" " + std::string{ed25519}).find("options are not") != std::string::npos);
    CHECK(key_refusal("ssh-ed25519").find("nothing after it") != std::string::npos);
    CHECK(key_refusal("ssh-ed25519 AAAA").find("damaged") != std::string::npos);
    CHECK(key_refusal("ssh-ed25519 AAAA*").find("damaged") != std::string::npos);
    CHECK(key_refusal("ssh-rsa" + std::string{ed25519}.substr(11)).find("damaged") != std::string::npos);
    CHECK(key_refusal(std::string{ed25519} + " a\x1b[2Jb").find("control character") != std::string::npos);

    const auto key = parse_public_key(std::string{ed25519} + " one");
    CHECK(file_holds(std::string{ed25519} + " another comment\n", key));
    CHECK(file_holds("# x\n\nrestrict,pty   " + std::string{ed25519}, key));
    CHECK_FALSE(file_holds("# " + std::string{ed25519} + "\n", key));
    CHECK_FALSE(file_holds("", key));
    CHECK(json_string("a\"b\\c\n\x7f") == R"("a\"b\\c\u000a\u007f")");
    CHECK(json_string("\xc3\xa9\xe9 \xe2\x82") == "\"\xc3\xa9\\ufffd \\ufffd\\ufffd\"");
}

TEST_CASE("the program runs each operation, prints JSON, and its exit status says whose fault it was") {
    const support::docker_engine engine;
    support::sshd_server sshd;
    engine.allow(sshd.home());
    const support::temp_dir dir;
    support::run_program({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "it's $(me)", "-f", (dir / "key").string()});
    support::write_file(dir / "env", "# comment\nGREETING=hello swordfish\n");
    support::write_file(dir / "script", "httpd -p \"127.0.0.1:$port\" -h /www </dev/null >/dev/null 2>&1\n");
    const auto port = std::to_string(support::free_port());
    const auto run = [&](std::vector<std::string> words) {
        words.insert(words.begin(), SSHPOOL_TEST_DOCKER_SERVICE);
        words.insert(words.end(), {"--key", sshd.client_key().string(), "--known-hosts", sshd.known_hosts().string(), "--docker",
                                   support::docker_engine::docker(), "--docker-host", engine.host()});
        support::process child(std::move(words));
        const int status = child.wait(std::chrono::seconds{40});
        return result{status, child.output()};
    };
    const auto on = [&](std::vector<std::string> words) {
        words.insert(words.end(), {"--target", sshd.address(), "--name", "pod_1"});
        return run(std::move(words));
    };
    const auto done = [&](std::vector<std::string> words) {
        const auto name = words.front();
        const auto r = on(std::move(words));
        INFO(r.out);
        CHECK(r.status == 0);
        support::spawn_options json;
        json.input = r.out;
        const auto read = support::run_program(
            {"python3", "-c", "import json,sys; o=json.load(sys.stdin); print(o['ok'], o['operation'], o['connections'], len(o['phases']) > 1)"}, json);
        CHECK(read == "True " + name + " 1 True\n");
        return r.out;
    };
    done({"create_container", "--image", support::docker_engine::image(), "--pull", "never", "--network", "host", "--env-file", (dir / "env").string(),
          "--volume", "data_1:/data:ro", "--ssh-keys", (dir / "key.pub").string(), "--argument", "sleep", "--argument", "600"});
    CHECK(engine.run({"exec", "pod_1", "sh", "-c", "echo $GREETING"}) == "hello swordfish\n");
    done({"remove_ssh_keys", "--ssh-keys", (dir / "key.pub").string()});
    CHECK(engine.run({"exec", "pod_1", "cat", "/root/.ssh/authorized_keys"}).empty());
    done({"add_ssh_key", "--ssh-keys", (dir / "key.pub").string()});
    CHECK(engine.run({"exec", "pod_1", "cat", "/root/.ssh/authorized_keys"}) == support::read_file(dir / "key.pub"));
    done({"stop_container", "--grace", "0"});
    done({"start_container"});
    const auto jupyter = done({"install_jupyter_server", "--jupyter-port", port, "--jupyter-script", (dir / "script").string()});
    CHECK(jupyter.find("\"port\":" + port + ",\"token\":\"") != std::string::npos);
    done({"delete_container", "--volume", "data_1"});
    CHECK(engine.containers().empty());
    CHECK(engine.volumes().empty());

    // Interrupted, a create undoes what it did.
    support::write_file(dir / "nothing", ":\n");
    support::process interrupted({SSHPOOL_TEST_DOCKER_SERVICE,
                                  "create_container",
                                  "--target",
                                  sshd.address(),
                                  "--name",
                                  "pod_2",
                                  "--image",
                                  support::docker_engine::image(),
                                  "--pull",
                                  "never",
                                  "--network",
                                  "none",
                                  "--argument",
                                  "sleep",
                                  "--argument",
                                  "600",
                                  "--jupyter-port",
                                  port,
                                  "--jupyter-script",
                                  (dir / "nothing").string(),
                                  "--key",
                                  sshd.client_key().string(),
                                  "--known-hosts",
                                  sshd.known_hosts().string(),
                                  "--docker",
                                  support::docker_engine::docker(),
                                  "--docker-host",
                                  engine.host()});
    REQUIRE(support::wait_until([&] { return engine.containers() == std::set<std::string>{"pod_2"}; }, std::chrono::seconds{30}));
    interrupted.signal(SIGTERM);
    CHECK(interrupted.wait() == 130);
    CHECK(interrupted.output().find("\"code\":\"cancelled\"") != std::string::npos);
    CHECK(interrupted.output().find("\"left_behind\":[]") != std::string::npos);
    CHECK(engine.containers().empty());

    const auto missing = on({"stop_container"});
    CHECK(missing.status == 1);
    CHECK(missing.out.find("\"error\":{\"step\":\"stop\",\"code\":\"no_such_container\"") != std::string::npos);
    const auto invalid = run({"start_container", "--target", sshd.address(), "--name", "a;b"});
    CHECK(invalid.status == 2);
    CHECK(invalid.out.find("\"step\":\"validate\",\"code\":\"invalid_request\"") != std::string::npos);
    const auto away = run({"start_container", "--target", "sshpool@127.0.0.1:1", "--name", "pod_1"});
    CHECK(away.status == 3);
    CHECK(away.out.find("\"step\":\"connect\",\"code\":\"connect_failed\"") != std::string::npos);
    for (const auto& [words, says] : std::vector<std::pair<std::vector<std::string>, std::string>>{
             {{"create_container"}, "--image is missing"},
             {{"fly"}, "unknown operation \"fly\""},
             {{"start_container", "--image", "x"}, "unknown option \"--image\" of start_container"},
             {{"add_ssh_key"}, "--ssh-keys is missing"},
             {{"stop_container", "--ssh-keys", "x"}, "unknown option \"--ssh-keys\" of stop_container"},
             {{"create_container", "--image", "x", "--cpus", "many"}, "--cpus wants a number"}}) {
        const auto r = on(words);
        CHECK(r.status == 2);
        CHECK(r.out.find(says) != std::string::npos);
    }
    const auto help = run({"--help"});
    CHECK(help.status == 0);
    CHECK(help.out.rfind("usage: docker_service OPERATION", 0) == 0);
}

TEST_CASE("HTTP over docker system dial-stdio tells the engine's version, or why there is none") {
    const support::docker_engine engine;
    const support::sshd_server sshd;
    engine.allow(sshd.home());
    const support::temp_dir home;
    std::filesystem::create_directory(home / ".ssh");
    std::filesystem::copy_file(sshd.known_hosts(), home / ".ssh/known_hosts");
    const auto ask = [&](const std::string& docker_host) {
        support::process child(
            {"env", "HOME=" + home.path().string(), SSHPOOL_TEST_DOCKER_OVER_STDIO, sshd.address(), sshd.client_key().string(), docker_host});
        const int status = child.wait();
        return result{status, child.output()};
    };
    const auto there = ask(engine.host());
    CHECK(there.out == "Docker Engine " + engine.run({"version", "--format", "{{.Server.Version}}"}));
    CHECK(there.status == 0);
    CHECK(sshd.started_commands() == 1);  // both requests went through one
    const auto nowhere = ask("unix://" + (home / "no.sock").string());
    CHECK(nowhere.status == 1);
    CHECK(nowhere.out.find("no.sock") != std::string::npos);
}

}  // namespace docker::test
