// Runs one operation on one executor and prints what came of it as JSON. `--help` lists the options.
#include "command_line.hpp"
#include "docker_service.hpp"
#include "json.hpp"

#include <sshpool/sshpool.hpp>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>

#include <chrono>
#include <csignal>
#include <exception>
#include <functional>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace docker;

json_writer phases_json(const phases& steps) {
    json_writer all('[');
    for (const auto& p : steps) {
        json_writer one;
        one.add("step", to_string(p.what)).add("commands", p.commands).add("ms", std::chrono::duration<double, std::milli>(p.time).count());
        all.item(one);
    }
    return all;
}
json_writer list_json(const std::vector<std::string>& items) {
    json_writer all('[');
    for (const auto& i : items) all.item(i);
    return all;
}

void add(json_writer& json, const outcome& done) { json.add("warnings", list_json(done.warnings)).add("phases", phases_json(done.phases)); }
void add(json_writer& json, const jupyter_server& done) {
    json.add("port", done.port).add("token", done.token);
    add(json, static_cast<const outcome&>(done));
}
void add(json_writer& json, const created_container& done) {
    json.add("id", done.id).add("name", done.name);
    if (done.jupyter) {
        json_writer jupyter;
        jupyter.add("port", done.jupyter->port).add("token", done.jupyter->token);
        json.add("jupyter", jupyter);
    }
    add(json, static_cast<const outcome&>(done));
}
void add(json_writer& json, const deleted_container& done) {
    json.add("was_gone", done.was_gone);
    add(json, static_cast<const outcome&>(done));
}

std::string code_name(const std::error_code& code) {
    if (code.category() == category()) return std::string{to_string(static_cast<errc>(code.value()))};
    return std::string{sshpool::to_string(static_cast<sshpool::errc>(code.default_error_condition().value()))};
}

/// As `--help` says.
int status_of(const std::error_code& code) {
    if (code == errc::invalid_request) return 2;
    if (code == sshpool::errc::cancelled) return 130;
    const bool reached = code == sshpool::errc::command_timeout || code == sshpool::errc::output_limit || code == sshpool::errc::command_too_long;
    return code.category() == category() || reached ? 1 : 3;
}

int tell_failure(const failure& f, json_writer& json) {
    json_writer error;
    error.add("step", to_string(f.where)).add("code", f.code == sshpool::errc::cancelled ? "cancelled" : code_name(f.code)).add("text", f.text);
    if (f.exit_status) error.add("exit_status", *f.exit_status);
    error.add("left_behind", list_json(f.left_behind));
    json.add("ok", false).add("error", error).add("phases", phases_json(f.phases));
    return status_of(f.code);
}

/// Starts the operation; `done` gets how it ended.
void start(docker_service& service, const sshpool::target& where, const command_line& c, const progress_function& progress, asio::cancellation_slot stop,
           const std::function<void(std::exception_ptr, json_writer)>& done) {
    const auto tell = [done](std::exception_ptr failed, const auto& result) {
        json_writer json;
        if (!failed) {
            json.add("ok", true);
            add(json, result);
        }
        done(std::move(failed), json);
    };
    if (c.operation == "create_container") return service.async_create_container(where, *c.create, progress, asio::bind_cancellation_slot(stop, tell));
    if (c.operation == "stop_container") return service.async_stop_container(where, c.name, c.grace, progress, asio::bind_cancellation_slot(stop, tell));
    if (c.operation == "start_container") return service.async_start_container(where, c.name, progress, asio::bind_cancellation_slot(stop, tell));
    if (c.operation == "install_jupyter_server")
        return service.async_install_jupyter_server(where, c.name, *c.create->jupyter, progress, asio::bind_cancellation_slot(stop, tell));
    if (c.operation == "add_ssh_key") return service.async_add_ssh_key(where, c.name, c.keys, progress, asio::bind_cancellation_slot(stop, tell));
    if (c.operation == "remove_ssh_keys") return service.async_remove_ssh_keys(where, c.name, c.keys, progress, asio::bind_cancellation_slot(stop, tell));
    delete_request wish{c.name};
    wish.volumes = c.delete_volumes;
    wish.prune_images = c.prune_images;
    service.async_delete_container(where, wish, progress, asio::bind_cancellation_slot(stop, tell));
}

int run(const command_line& c) {
    const auto trust = c.known_hosts_file.empty() ? sshpool::host_key_policy::known_hosts() : sshpool::host_key_policy::known_hosts(c.known_hosts_file);
    const sshpool::target where{c.target, sshpool::credentials::private_key_file(c.key_file), trust};
    service_options options;
    options.docker = c.docker_program;
    options.docker_host = c.docker_host;
    progress_function progress;
    if (c.progress) {
        progress = [](step s, sshpool::output_stream, std::string_view line) { std::cerr << to_string(s) << ": " << line << '\n'; };
    }

    asio::io_context io;
    sshpool::ssh_pool<> pool(io.get_executor());
    docker_service service(pool, options);
    asio::cancellation_signal stop;
    asio::signal_set interrupted(io, SIGINT, SIGTERM);
    interrupted.async_wait([&](std::error_code ec, int) {
        if (!ec) stop.emit(asio::cancellation_type::total);  // a create undoes what it did
    });
    int status = 0;
    start(service, where, c, progress, stop.slot(), [&](std::exception_ptr failed, json_writer json) {
        if (failed) {
            try {
                std::rethrow_exception(failed);
            } catch (const operation_failed& e) {
                std::cerr << "docker_service: " << e.what() << '\n';
                status = tell_failure(e.info(), json);
            }
        }
        json.add("operation", c.operation).add("target", where.key()).add("connections", pool.get_stats().connections_created);
        std::cout << json.text() << std::endl;
        interrupted.cancel();
        pool.async_shutdown(std::chrono::seconds{1}, [](std::error_code) {});
    });
    io.run();
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const auto c = parse_command_line({argv + 1, argv + argc});
        if (c.help) {
            std::cout << usage_text;
            return 0;
        }
        return run(c);
    } catch (const usage_error& e) {
        std::cerr << "docker_service: " << e.what() << " (--help lists the options)\n";
    } catch (const std::exception& e) {
        std::cerr << "docker_service: " << e.what() << '\n';
    }
    return 2;
}
