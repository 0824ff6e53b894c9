#!/usr/bin/env python3
"""Checks of the source tree that need no compiler; one word says which: floors, sizes, layout, umbrella, readme. `snippets` writes a file to compile."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "include" / "sshpool"
LONGEST_HEADER = 450
TOP_LEVEL = {"include", "tests", "examples", "cmake", "CMakeLists.txt", "README.md", "LICENSE"}

# A file includes only its own floor and lower ones, and of other libraries only those named here. The lease stands on floor 2: the machinery hands it out.
FLOORS = {
    "vocabulary": (0, {"openssl", "system"}, """error target credentials host_key_policy command pool_params pool_stats pool_event connection_info transfer_options warm_report
        detail/address detail/agent_protocol detail/bcrypt_pbkdf detail/descriptor detail/digest detail/home_process detail/host_key_check detail/key_file detail/known_hosts detail/local_file detail/openssh_key detail/openssl_init
        detail/parse_private_key detail/private_key detail/secret detail/ssh_wire detail/user_certificate"""),
    "decisions": (1, set(), """detail/pool_actions detail/pool_core detail/pool_routes detail/pool_failures detail/back_off detail/expiring_map detail/outage_watch detail/pool_admission detail/pool_explain detail/pool_report detail/pool_upkeep detail/connection_table
        detail/pooled_connection detail/estimates detail/intrusive_list"""),
    "engine": (1, {"libssh2", "openssl"}, """detail/byte_queue detail/channel_op detail/direct_tcpip detail/engine_op detail/exec_op detail/flow_room detail/libssh2_init detail/login detail/memory_session
        detail/session_engine detail/session_engine_turn detail/session_engine_words detail/session_op detail/stream_op detail/read_ahead detail/upload_tree detail/sftp_client detail/sftp_download detail/sftp_op detail/sftp_transfer detail/sftp_upload"""),
    "machinery": (2, {"asio", "libssh2", "openssl", "system"}, """transport lease detail/agent_client detail/off_strand detail/pool_driver detail/pool_driver_actions detail/lease_share detail/caller detail/channel_core detail/completion detail/context_guard detail/suspend_watch detail/deadline_timer
        detail/event_queue detail/byte_stream detail/connection_fate detail/stream_connect detail/tcp_connect detail/tunnel_stream detail/ssh_session detail/ssh_session_steps detail/session_owner detail/run_op
        detail/acquire_op detail/transfer_op detail/pool_run_op detail/shutdown_op detail/warm_op"""),
    "public": (3, {"asio", "libssh2", "openssl", "system"}, "ssh_pool libssh2_transport channel blocking_ssh_pool prometheus"),
    "umbrella": (4, set(), "sshpool version"),
}
# One class in two files: the second holds members too long for the first.
SPLIT = {("detail/pool_driver", "detail/pool_driver_actions"), ("detail/session_engine", "detail/session_engine_turn"), ("detail/session_engine", "detail/session_engine_words"), ("detail/ssh_session", "detail/ssh_session_steps")}
# errc::cancelled is asio::error::operation_aborted, whose category is Asio's own.
ALLOWED = {("error", "asio/error.hpp")}


def headers():
    return {str(f.relative_to(HEADERS).with_suffix("")): f for f in sorted(HEADERS.rglob("*.hpp"))}


def includes(file):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', file.read_text(), re.M)


def library(include):
    for prefix in ("asio", "openssl"):
        if include == prefix + ".hpp" or include.startswith(prefix + "/"):
            return prefix
    if include.startswith("libssh2"):
        return "libssh2"
    if include.endswith(".h"):
        return "system"
    return "std" if "/" not in include and "." not in include else include


def check_floors():
    place = {}
    for kind, (floor, libraries, names) in FLOORS.items():
        for name in names.split():
            place[name] = (kind, floor, libraries)
    graph, faults = {}, []
    for name, file in headers().items():
        if name not in place:
            faults.append(f"{name}.hpp stands on no floor: add it to the table in tests/static/check_tree.py")
            continue
        kind, floor, libraries = place[name]
        graph[name] = []
        for include in includes(file):
            if include.startswith("sshpool/"):
                other = include[len("sshpool/"):-len(".hpp")]
                graph[name].append(other)
                if other not in headers():
                    faults.append(f"{name}.hpp includes {include}, which does not exist")
                elif other in place and place[other][1] > floor:
                    faults.append(f"{name}.hpp ({kind}, floor {floor}) includes {include} ({place[other][0]}, floor {place[other][1]})")
                elif kind == "decisions" and other in place and place[other][0] == "engine" or kind == "engine" and other in place and place[other][0] == "decisions":
                    faults.append(f"{name}.hpp ({kind}) includes {include}: the two cores know nothing of each other")
            elif library(include) not in libraries | {"std"} and (name, include) not in ALLOWED:
                faults.append(f"{name}.hpp ({kind}) includes <{include}>: {kind} may use the standard library{''.join(' and ' + x for x in sorted(libraries))}")

    state = {}

    def visit(name, path):
        if state.get(name) == "done" or name not in graph:
            return
        if state.get(name) == "open":
            faults.append("a circle of includes: " + " -> ".join(path[path.index(name):] + [name]))
            return
        state[name] = "open"
        for other in graph[name]:
            if (name, other) not in SPLIT and (other, name) not in SPLIT:
                visit(other, path + [name])
        state[name] = "done"

    for name in graph:
        visit(name, [])
    return faults, len(graph)


def check_sizes():
    faults = []
    for name, file in headers().items():
        text = file.read_text()
        lines = text.count("\n")
        if lines > LONGEST_HEADER:
            faults.append(f"{name}.hpp has {lines} lines: {LONGEST_HEADER} at most")
        if not text.startswith("#pragma once\n"):
            faults.append(f"{name}.hpp does not begin with #pragma once")
    return faults, len(headers())


def tracked():
    try:
        out = subprocess.run(["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
        return [f for f in out.splitlines() if (ROOT / f).exists()]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        return [str(f.relative_to(ROOT)) for f in ROOT.rglob("*") if f.is_file() and f.relative_to(ROOT).parts[0] != "build"]


def check_layout():
    files = tracked()
    top = {f.split("/")[0] for f in files}
    faults = [f"{name} does not belong at the top level" for name in sorted(top) if name not in TOP_LEVEL and not name.startswith(".")]
    for f in files:
        text = (ROOT / f).read_bytes()
        if re.search(rb"\b(TODO|FIXME|XXX)\b", text) and not f.endswith("check_tree.py"):
            faults.append(f"{f} holds a TODO, FIXME or XXX")
    return faults, len(files)


def check_names():
    """CMake splits a test's name at each semicolon, and then looks for tests that nobody wrote. Catch2 v2 indents what follows a colon by all before it, and
    aborts in place of reporting a failure when that is a whole line."""
    sources = sorted((ROOT / "tests").rglob("*.cpp"))
    names = [(f, name) for f in sources for name in re.findall(r'\bTEST_CASE\(\s*"((?:[^"\\]|\\.)*)"', f.read_text())]
    faults = [f"{f.relative_to(ROOT)}: the name of a test holds a semicolon: {name}" for f, name in names if ";" in name]
    faults += [f"{f.relative_to(ROOT)}: the name of a test has its first colon past column 70: {name}" for f, name in names if name.find(": ") > 70]
    return faults, len(names)


def check_umbrella():
    public = {n for n in headers() if not n.startswith("detail/")} - {"sshpool", "prometheus"}
    there = {i[len("sshpool/"):-len(".hpp")] for i in includes(HEADERS / "sshpool.hpp")}
    faults = [f"sshpool.hpp does not include {n}.hpp" for n in sorted(public - there)] + [f"sshpool.hpp includes {n}.hpp, which is not public" for n in sorted(there - public)]
    return faults, len(public)


def check_dashboard():
    """The Grafana dashboard asks for every metric that prometheus.hpp gives, and for no other; likewise for labels."""
    source = (HEADERS / "prometheus.hpp").read_text()
    given = set(re.findall(r'"(ssh_pool_[a-z_]+)"', source))
    labels = set(re.findall(r'with\(\w+, "([a-z]+)"', source)) | {"pool", "le"}
    targets = [t for p in json.loads((ROOT / "examples" / "grafana-dashboard.json").read_text())["panels"] for t in p["targets"]]
    asked = {name for t in targets for name in re.findall(r"ssh_pool_[a-z_]+", t["expr"])}
    asked = {re.sub("_bucket$", "", name) for name in asked}
    used = {label.strip() for t in targets for group in re.findall(r"by \(([^)]*)\)", t["expr"]) for label in group.split(",")}
    used |= {label for t in targets for label in re.findall(r"{{(\w+)}}", t["legendFormat"])}
    faults = [f"the dashboard asks for {name}, which is not exported" for name in sorted(asked - given)]
    faults += [f"{name} is exported, but not in the dashboard" for name in sorted(given - asked)]
    faults += [f"the dashboard goes by the label {label}, which no metric has" for label in sorted(used - labels)]
    return faults, len(given)


def blocks(readme):
    """(line number, what the comment on the line before the fence says, text) of every ```cpp block."""
    found, lines, i = [], readme.read_text().split("\n"), 0
    while i < len(lines):
        if lines[i].strip() == "```cpp":
            note = re.search(r"<!--\s*(.*?)\s*-->", lines[i - 1]) if i else None
            body = []
            start = i + 1
            i += 1
            while i < len(lines) and lines[i].strip() != "```":
                body.append(lines[i])
                i += 1
            found.append((start + 1, note.group(1) if note else "", "\n".join(body) + "\n"))
        i += 1
    return found


def check_readme():
    readme = ROOT / "README.md"
    if not readme.exists():
        return ["there is no README.md"], 0
    found = blocks(readme)
    if not found:
        return ["the README holds no ```cpp block"], 0
    faults = []
    if found[0][2] != (ROOT / "examples" / "readme.cpp").read_text():
        faults.append(f"README.md, line {found[0][0]}: the first program is not examples/readme.cpp, byte by byte")
    return faults, len(found)


def write_snippets(readme, target):
    """Every block of the README in one translation unit. A block with #include is a whole program; one after <!-- declarations --> stands in a
    namespace of its own; any other is the inside of a coroutine that has the names of the parameter list below."""
    top, rest = ["#include <sshpool/sshpool.hpp>", "#include <asio.hpp>", "#include <iostream>"], ["using namespace std::chrono_literals;"]
    for number, (line, note, text) in enumerate(blocks(Path(readme))):
        body = []
        for offset, row in enumerate(text.split("\n")):
            if re.match(r"\s*#\s*include", row):
                top.append(row)
                body.append("")
            else:
                body.append(row)
        where = [f'#line {line} "{readme}"'] + body
        rest.append(f"namespace snippet_{number} {{")
        if "#include" in text or note == "declarations":
            rest += where
        else:
            rest.append("[[maybe_unused]] asio::awaitable<void> body([[maybe_unused]] asio::io_context& io, [[maybe_unused]] sshpool::ssh_pool<>& pool, "
                        "[[maybe_unused]] sshpool::target host, [[maybe_unused]] std::vector<sshpool::target> hosts, [[maybe_unused]] std::string key_text) {")
            rest += where + ["co_return;", "}"]
        rest.append("}")
    Path(target).write_text("\n".join(dict.fromkeys(top)) + "\n" + "\n".join(rest) + "\n")


def main(args):
    if args[:1] == ["snippets"] and len(args) == 3:
        write_snippets(args[1], args[2])
        return 0
    checks = {"floors": check_floors, "sizes": check_sizes, "layout": check_layout, "names": check_names, "umbrella": check_umbrella, "readme": check_readme, "dashboard": check_dashboard}
    if len(args) != 1 or args[0] not in checks:
        print(f"usage: check_tree.py {'|'.join(checks)} | snippets README TARGET", file=sys.stderr)
        return 2
    faults, looked_at = checks[args[0]]()
    for fault in faults:
        print(fault)
    print(f"{looked_at} looked at, {len(faults)} faults")
    return 1 if faults or looked_at == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
