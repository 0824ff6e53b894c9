#pragma once

#include "steps.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace docker {

/// What can be wrong beside the way there. Trouble with the way there keeps the code that the pool gave: `code == sshpool::errc::connection_lost`
/// says nothing about the container.
enum class errc {
    invalid_request = 1,    ///< the request was refused before anything was done
    command_failed,         ///< the command ended with a status that is not 0
    name_in_use,            ///< there is another container of that name
    no_such_container,      ///< there is none of that name
    container_not_running,  ///< it is there, and does not run
    container_exited,       ///< it was started and has ended
    not_verified,           ///< the change was made, and reading it back did not show it
    no_answer,              ///< nothing answered HTTP at the port
    unexpected_output,      ///< docker printed what this program cannot read
};

inline std::string_view to_string(errc e) noexcept {
    switch (e) {
        case errc::invalid_request:
            return "invalid_request";
        case errc::command_failed:
            return "command_failed";
        case errc::name_in_use:
            return "name_in_use";
        case errc::no_such_container:
            return "no_such_container";
        case errc::container_not_running:
            return "container_not_running";
        case errc::container_exited:
            return "container_exited";
        case errc::not_verified:
            return "not_verified";
        case errc::no_answer:
            return "no_answer";
        case errc::unexpected_output:
            return "unexpected_output";
    }
    return "unknown";
}

class error_category final : public std::error_category {
public:
    const char* name() const noexcept override { return "docker"; }
    std::string message(int value) const override { return std::string{to_string(static_cast<errc>(value))}; }
};
inline const std::error_category& category() noexcept {
    static const error_category instance;
    return instance;
}
inline std::error_code make_error_code(errc e) noexcept { return {static_cast<int>(e), category()}; }

/// Everything known of an operation that failed. Holds no secret.
struct failure {
    std::string operation;                 ///< "create_container"
    std::string key;                       ///< "user@host:port"
    step where = step::validate;           ///< the step that failed
    std::error_code code;                  ///< compare with `docker::errc` and `sshpool::errc`
    std::optional<int> exit_status;        ///< of the command, when it was that
    std::string text;                      ///< one sentence for people
    std::vector<std::string> left_behind;  ///< what could not be cleaned up: "container pod_1"; empty: nothing is left
    docker::phases phases;                 ///< the steps until then, with the cleaning up
};

/// What every operation throws. `what()` names operation, host and step, then the sentence.
class operation_failed : public std::system_error {
public:
    explicit operation_failed(failure f)
        : std::system_error(f.code),
          words_(std::make_shared<const std::string>(f.operation + " on " + f.key + " failed at step " + std::string{to_string(f.where)} + ": " + f.text)),
          info_(std::make_shared<const failure>(std::move(f))) {}
    const char* what() const noexcept override { return words_->c_str(); }
    const failure& info() const noexcept { return *info_; }

private:
    std::shared_ptr<const std::string> words_;  // shared: copying an exception must not throw
    std::shared_ptr<const failure> info_;
};

}  // namespace docker

template <>
struct std::is_error_code_enum<docker::errc> : std::true_type {};
