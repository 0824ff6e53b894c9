#pragma once

#include "ssh_keys.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace docker {

// What is done inside a container: programs for `docker exec -i NAME sh -s`, sent over its standard input. No shell reads them but that one. Data
// stands in here-documents whose end is quoted, where a shell expands nothing, and each program is a function that the last line calls: one that was cut
// on the way does nothing.

namespace scripts {

/// Root's authorized_keys: by the user database, not by $HOME, which the container's environment may have changed: sshd does the same.
/// There is a second file that sshd reads if it is there; keys are added to the first, and removed from both.
inline constexpr std::string_view find_keys = R"sh(    home=~root
    case $home in /*) ;; *) home=/root ;; esac
    file=$home/.ssh/authorized_keys
)sh";

/// One edit at a time: /dev/shm is empty again when the container starts, so no lock outlives its holder for good.
inline constexpr std::string_view lock = R"sh(    lock=/dev/shm/authorized_keys.lock
    tries=0
    until mkdir "$lock" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -gt 10 ]; then echo "another edit of authorized_keys holds $lock" >&2; exit 75; fi
        sleep 1
    done
    trap 'rmdir "$lock"; rm -f "$file.data" "$file.new"' EXIT
)sh";

inline std::string program(std::string_view body) { return "main() {\n    set -eu\n" + std::string{body} + "}\nmain\n"; }

inline std::string here_document(const std::vector<std::string>& lines, std::string_view to) {
    std::string text = "    cat >" + std::string{to} + " <<'end of sshpool data'\n";
    for (const auto& line : lines) text += line + "\n";
    return text + "end of sshpool data\n";
}

/// Adds the keys that are not there yet.
inline std::string add_keys(const std::vector<ssh_public_key>& keys) {
    std::vector<std::string> lines;
    for (const auto& k : keys) lines.push_back(k.line);
    return program(std::string{find_keys} + "    umask 077\n    mkdir -p \"$home/.ssh\"\n    chmod 700 \"$home/.ssh\"\n" + std::string{lock} +
                   here_document(lines, "\"$file.data\"") +
                   R"sh(    touch "$file"
    chmod 600 "$file"
    if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >>"$file"; fi
    while IFS= read -r line; do
        printf '%s\n' "$line" >"$file.new"
        if ! grep -qxF -f "$file.new" "$file"; then cat "$file.new" >>"$file"; fi
    done <"$file.data"
)sh");
}

/// Removes every line that lets one of the keys in, whatever its comment or options. The last one leaves an empty file.
inline std::string remove_keys(const std::vector<ssh_public_key>& keys) {
    std::vector<std::string> blobs;
    for (const auto& k : keys) blobs.push_back(k.blob);
    return program(std::string{find_keys} + "    if [ ! -d \"$home/.ssh\" ]; then return 0; fi\n    umask 077\n" + std::string{lock} +
                   here_document(blobs, "\"$file.data\"") +
                   R"sh(    for each in "$file" "${file}2"; do
        if [ ! -e "$each" ]; then continue; fi
        grep -vF -f "$file.data" "$each" >"$file.new" || [ $? -eq 1 ]
        mv "$file.new" "$each"
    done
)sh");
}

/// Prints the files.
inline std::string list_keys() {
    return program(std::string{find_keys} + R"sh(    for each in "$file" "${file}2"; do
        if [ -e "$each" ]; then cat "$each"; fi
        echo
    done
)sh");
}

/// Installs an sshd where there is none, and starts it unless it runs.
inline std::string set_up_sshd(std::uint16_t port) {
    return program("    port=" + std::to_string(port) + R"sh(
    if [ ! -x /usr/sbin/sshd ]; then
        if command -v apt-get >/dev/null; then
            apt-get update -q
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends openssh-server
        elif command -v apk >/dev/null; then
            apk add --no-cache openssh
        elif command -v dnf >/dev/null; then
            dnf install -y openssh-server
        else
            echo "the image has no sshd, and neither apt-get, apk nor dnf to install one" >&2
            exit 69
        fi
    fi
    mkdir -p /run/sshd
    ssh-keygen -A
    if [ -e /run/sshd.pid ] && [ "$(cat "/proc/$(cat /run/sshd.pid)/comm" 2>/dev/null)" = sshd ]; then return 0; fi
    /usr/sbin/sshd -p "$port" -o PidFile=/run/sshd.pid -o PasswordAuthentication=no </dev/null >/dev/null
)sh");
}

/// Jupyter in an environment of its own, which needs the image's package manager, where there is no Python, and a network.
inline constexpr std::string_view default_jupyter = R"sh(
    if command -v jupyter-lab >/dev/null; then
        jupyter=jupyter-lab
    else
        if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null; then
            if command -v apt-get >/dev/null; then
                apt-get update -q
                DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3 python3-venv
            elif command -v apk >/dev/null; then
                apk add --no-cache python3
            fi
        fi
        python3 -m venv /opt/jupyter
        /opt/jupyter/bin/pip install --quiet --no-input jupyterlab
        jupyter=/opt/jupyter/bin/jupyter-lab
    fi
    cd ~root
    nohup "$jupyter" --ip=0.0.0.0 --port="$port" --no-browser --allow-root </dev/null >>/var/log/jupyter.log 2>&1 &
)sh";

/// The token goes into the environment: Jupyter takes it from there, and it never stands among a process's arguments.
inline std::string install_jupyter(std::uint16_t port, std::string_view token, std::string_view script) {
    return program("    port=" + std::to_string(port) + "\n    JUPYTER_TOKEN=" + std::string{token} + "\n    export JUPYTER_TOKEN\n" +
                   std::string{script.empty() ? default_jupyter : script} + "\n");
}

}  // namespace scripts
}  // namespace docker
