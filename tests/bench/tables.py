#!/usr/bin/env python3
"""From the lines that tests/bench/run wrote to tables, each goal's verdict and a chart. Medians over the repetitions; what failed is said, never left out."""
import argparse
import datetime
import html
import json
import math
import os
import platform
import re
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "sshpool": "**sshpool**", "floor": "floor: raw libssh2", "ssh-controlmaster": "OpenSSH, ControlMaster", "asyncssh": "asyncssh, kept connections",
    "asyncssh-pool": "asyncssh, simple pool", "asyncssh-each": "asyncssh, one connection per command", "paramiko": "paramiko, kept connections",
    "go": "Go x/crypto/ssh, kept connections", "go-each": "Go x/crypto/ssh, one connection per command"}
PEERS = [name for name in NAMES if name not in ("sshpool", "floor")]
NOISY = 0.30  # of the floor's own repetitions: (largest - smallest) / median
PACKAGES = ["libssh2-1-dev", "libssl-dev", "libasio-dev", "g++", "openssh-server", "python3-asyncssh", "python3-paramiko", "golang-go", "golang-golang-x-crypto-dev"]


class Results:
    def __init__(self, file):
        with open(file, encoding="utf-8") as lines:
            self.all = [json.loads(line) for line in lines]

    def of(self, table, contender, rtt=0, hosts=None):
        """Those that ran to their end; `hosts` where a table has several sizes."""
        return [r for r in self.all if r["table"] == table and r["contender"] == contender and r["rtt_ms"] == rtt and "error" not in r and hosts in (None, r["hosts"])]

    def broken(self, table, contender, rtt=0):
        """How many repetitions gave no result, and how many operations of the others failed."""
        mine = [r for r in self.all if r["table"] == table and r["contender"] == contender and r["rtt_ms"] == rtt]
        return sum("error" in r for r in mine), sum(r.get("failed", 0) for r in mine)

    def median(self, value, *where, **more):
        values = [value(r) for r in self.of(*where, **more)]
        return statistics.median(values) if values else None

    def programs(self, workload):
        """What bench_core and bench_pool printed."""
        return [r for r in self.all if r["table"] == "P" and r["workload"] == workload]

    def hosts(self, table):
        return max((r["hosts"] for r in self.all if r["table"] == table and "hosts" in r), default=0)


def p50(r):
    return r["p50_ms"]


def wall(r):
    return r["wall_s"]


def cpu_per_op(r):
    return r["cpu_s"] / max(r["ops"], 1) * 1e3


def made(r):
    return r["connections_made"]


def rate(r):
    return int(re.search(r"--bytes (\d+)", r["options"])[1]) / r["wall_s"] / 1e6


def shown(value, digits=3):
    """So many digits that count, none that do not."""
    if value is None:
        return "–"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def ratio(a, b):
    return a / b if a is not None and b else None


class Column:
    def __init__(self, heading, value, table, rtt=0, more_is_better=False, of_contender=None, compare=True):
        self.heading, self.value, self.table, self.rtt, self.more_is_better = heading, value, table, rtt, more_is_better
        self.of_contender, self.compare = of_contender, compare

    def get(self, results, contender):
        if self.of_contender is not None:
            return self.of_contender(contender)
        return results.median(self.value, self.table, contender, self.rtt)

    def cell(self, results, contender, with_failures=True):
        text = shown(self.get(results, contender))
        if not with_failures:
            return text
        ended, failed = results.broken(self.table, contender, self.rtt)
        if ended:
            text += f" ({ended} run{'s' if ended > 1 else ''} broke off)"
        return text + (f" ({failed} failed)" if failed else "")

    def best_peer(self, results):
        """Of those that do not fail."""
        values = [self.get(results, peer) for peer in PEERS if self.get(results, peer) is not None and results.broken(self.table, peer, self.rtt) == (0, 0)]
        if not values:
            return None
        return max(values) if self.more_is_better else min(values)

    def ahead(self, results):
        """How many times better than the best peer."""
        mine, peer = self.get(results, "sshpool"), self.best_peer(results)
        return ratio(mine, peer) if self.more_is_better else ratio(peer, mine)

    def to_floor(self, results):
        return ratio(self.get(results, "sshpool"), self.get(results, "floor"))


def markdown(headings, rows):
    return "\n".join(["| " + " | ".join(headings) + " |", "|" + "|".join([" --- "] + [" ---: "] * (len(headings) - 1)) + "|"] +
                     ["| " + " | ".join(row) + " |" for row in rows])


def compared(results, columns):
    places = [(column.table, column.rtt) for column in columns]  # failures are said once for each run
    rows = [[NAMES[c]] + [column.cell(results, c, places.index(place) == i) for i, (column, place) in enumerate(zip(columns, places))]
            for c in NAMES if any(column.get(results, c) is not None or results.broken(column.table, c, column.rtt) != (0, 0) for column in columns)]
    if not rows:
        return ""
    rows.append(["*sshpool to the floor*"] + [times(column.to_floor(results)) if column.compare else "" for column in columns])
    rows.append(["*sshpool ahead of the best peer*"] + [times(column.ahead(results)) if column.compare else "" for column in columns])
    return markdown([""] + [column.heading for column in columns], rows)


def times(value):
    return "–" if value is None else f"{value:.2f} ×"


class Goals:
    """Each with what was measured and the limit."""

    def __init__(self):
        self.rows = []

    def at_most(self, what, measured, limit, show=times):
        self.add(what, measured, limit, "≤", show, None if measured is None or limit is None else measured / limit - 1)

    def at_least(self, what, measured, limit, show=times):
        self.add(what, measured, limit, "≥", show, None if measured is None or limit is None else 1 - measured / limit)

    def add(self, what, measured, limit, sign, show, short):
        if short is None:
            verdict = "not measured"
        elif short <= 0:
            verdict = "met"
        elif math.isfinite(short):
            verdict = f"**missed by {max(short * 100, 0.1):.{0 if short > 0.02 else 1}f} %**"
        else:
            verdict = "**missed**"
        self.rows.append([what, show(measured), "–" if limit is None else f"{sign} {show(limit)}", verdict])

    def none(self, what, count):
        verdict = "not measured" if count is None else "met" if count == 0 else "**missed**"
        self.rows.append([what, "–" if count is None else str(count), "0", verdict])

    def missed(self):
        return [row for row in self.rows if "missed" in row[3]]


def memory_per_connection(results, contender, hosts):
    """Kilobytes, of each connection after the first."""
    one = results.median(lambda r: r["rss_mb"], "W6", contender, hosts=1)
    many = results.median(lambda r: r["rss_mb"], "W6", contender, hosts=hosts)
    return None if one is None or many is None or hosts < 2 else (many - one) * 1e3 / (hosts - 1)


def columns_of(results):
    """The columns of every table of contenders."""
    idle = sorted({r["hosts"] for r in results.all if r["table"] == "W6" and r.get("hosts", 1) > 1})
    return {
        "W1": [Column(f"RTT {rtt} ms: p50, ms", p50, "W1", rtt) for rtt in (0, 10, 50)],
        "W2": [Column(f"RTT {rtt} ms: {what}", value, "W2", rtt, compare=value is not made) for rtt in (0, 10)
               for what, value in (("wall, s", wall), ("client CPU per command, ms", cpu_per_op), ("connections", made))],
        "W2-free": [Column("client CPU per command, ms", cpu_per_op, "W2-free"), Column("p50, ms", p50, "W2-free"),
                    Column("commands per second", lambda r: r["ops_per_s"], "W2-free", more_is_better=True)],
        "W3": [Column("wall, s", wall, "W3"), Column("p99, ms", lambda r: r["p99_ms"], "W3"), Column("connections", made, "W3", compare=False)],
        "W4": [Column(f"{way}, RTT {rtt} ms: MB/s", rate, f"W4-{way}", rtt, more_is_better=True) for rtt in (0, 50) for way in ("down", "up")],
        "W5": [Column("client CPU, ms", cpu_per_op, "W5"), Column("RTT 0 ms: p50, ms", p50, "W5"),
               Column("RTT 50 ms: p50 in round trips", lambda r: r["p50_ms"] / r["rtt_ms"], "W5", 50)],
        "W6": [Column(f"{n:,} connections: kB each", None, "W6", of_contender=lambda c, n=n: memory_per_connection(results, c, n)) for n in idle],
    }


def judge(results, columns):
    goals = Goals()
    w1 = dict(zip((0, 10, 50), columns["W1"]))
    milliseconds = lambda v: shown(v) + " ms" if v is not None else "–"
    server = w1[0].get(results, "floor")
    for rtt in (10, 50):
        limit = None if server is None else 1.1 * rtt + server
        goals.at_most(f"W1 at {rtt} ms: p50 to 1.1 round trips and the floor's p50 at 0 ms", w1[rtt].get(results, "sshpool"), limit, milliseconds)
    for rtt in (10, 50):
        goals.at_least(f"W1 at {rtt} ms: faster than every peer", w1[rtt].ahead(results), 1.8)
    goals.at_most("W1 at 0 ms: p50 to the floor's", w1[0].to_floor(results), 1.1)
    for i, rtt in enumerate((0, 10)):
        took, cpu, connections = columns["W2"][3 * i:3 * i + 3]
        goals.at_most(f"W2 at {rtt} ms: wall time to the floor's", took.to_floor(results), 1.05)
        goals.at_most(f"W2 at {rtt} ms: client CPU to the floor's", cpu.to_floor(results), 1.2)
        goals.at_most(f"W2 at {rtt} ms: connections", connections.get(results, "sshpool"), results.hosts("W2") or None, lambda v: "–" if v is None else f"{v:.0f}")
    goals.at_most("W2, free server, warm: client CPU per command to the floor's", columns["W2-free"][0].to_floor(results), 1.2)
    burst = results.of("W3", "sshpool")
    goals.none("W3: commands that failed, of 64", sum(results.broken("W3", "sshpool")) if burst else None)
    goals.at_least("W3: faster than every peer that does not fail", columns["W3"][0].ahead(results), 1.0)
    for column, way in zip(columns["W4"][:2], ("down", "up")):
        goals.at_least(f"W4 {way} at 0 ms: rate to the floor's", column.to_floor(results), 1.0)
    for column, way in zip(columns["W4"][2:], ("down", "up")):
        goals.at_least(f"W4 {way} at 50 ms: rate to the best peer's", column.ahead(results), 1.0)
    goals.at_most("W5: client CPU of connect and login to the floor's", columns["W5"][0].to_floor(results), 1.1)
    goals.at_most("W5: round trips of connect and login, counted with 50 ms, to the floor's", columns["W5"][2].to_floor(results), 1.0)
    for column in columns["W6"]:
        goals.at_most("W6: memory of an idle pooled connection to the floor's, " + column.heading.split(":")[0], column.to_floor(results), 1.15)

    hops = results.programs("P1")
    goals.at_most("P1: acquire and release to three bare strand hops, one thread", hops[0]["ratio"] if hops else None, 1.3)
    threads = {r["threads"]: r["acquire_release_ns"] for r in results.programs("P1-threads")}
    for n in (2, 4, 8):
        goals.at_least(f"P1 with {n} threads: rate to that of one", ratio(threads.get(1), threads.get(n)), 0.7)
    sizes = {r["connections"]: r for r in results.programs("P2")}
    for n in (10_000, 100_000):
        for what, field in (("one warm host", "same_host_ns"), ("random hosts, cache misses included", "random_host_ns"), ("a sweep with nothing due", "sweep_nothing_due_ns"),
                            ("a sweep, per entry that is due", "sweep_ns_per_due")):
            goals.at_most(f"P2 with {n:,} entries, to 100: {what}", ratio(sizes.get(n, {}).get(field), sizes.get(100, {}).get(field)), 1.3)
    beside_plain = lambda n: ratio(sizes.get(n, {}).get("random_host_ns"), sizes.get(n, {}).get("plain_map_and_list_random_ns"))
    for n in (10_000, 100_000):
        goals.at_most(f"P2 with {n:,} entries, to 100: random hosts, each size measured by a plain map and list of that size", ratio(beside_plain(n), beside_plain(100)), 1.3)
    waiters = {r["waiters"]: r for r in results.programs("P3")}
    for what in ("cancel", "serve"):
        grown = ratio(waiters.get(20_000, {}).get(what + "_ns"), waiters.get(200, {}).get(what + "_ns"))
        goals.at_most(f"P3: {what} one of 20,000 waiters, to one of 200 (limit: the logarithms' ratio)", grown, math.log(20_000) / math.log(200))
    return goals


def noise(results, given):
    """Why the figures may mislead, a sentence each."""
    notices = []
    if given.busy > 10:
        notices.append(f"Others used {given.busy} % of the machine when this began: too noisy for every figure of time.")
    for table, value, what in (("W1", p50, "p50"), ("W2", wall, "wall time"), ("W2-free", cpu_per_op, "CPU"), ("W4-down", wall, "wall time"), ("W4-up", wall, "wall time"), ("W5", cpu_per_op, "CPU")):
        for rtt in (0, 10, 50):
            values = [value(r) for r in results.of(table, "floor", rtt)]
            if len(values) > 1 and (max(values) - min(values)) / statistics.median(values) > NOISY:
                spread = (max(values) - min(values)) / statistics.median(values)
                notices.append(f"{table} at {rtt} ms: the floor's own {what} differs by {spread * 100:.0f} % between repetitions: too noisy for its ratios.")
    if given.turns < 3:
        notices.append(f"{given.turns} repetition{'s' if given.turns != 1 else ''}: too few to tell noise.")
    if given.turns < given.asked:
        notices.append(f"{given.turns} of {given.asked} repetitions were made: the time was over.")
    return notices


def run(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def circumstances(given):
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))[1]) / 1e6
    version = ".".join(re.findall(r"#define SSHPOOL_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", (ROOT / "include/sshpool/version.hpp").read_text(encoding="utf-8")))
    commit = run("git", "rev-parse", "--short", "HEAD")
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', Path("/etc/os-release").read_text(encoding="utf-8"), re.M)
    packages = run("dpkg-query", "-W", "-f", "${Package} ${Version}, ", *PACKAGES).rstrip(", ")
    links = "netem in a network namespace" if given.links == "netem" else "a proxy that holds bytes back (the kernel has no netem)"
    return "\n".join([
        f"- {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, `{given.command}`, medians of up to {given.turns} repetitions in interleaved order (of peers: up to {min(given.turns, 3)})",
        f"- {model[1] if model else platform.machine()}, {os.cpu_count()} cores, {memory:.1f} GB; {system[1] if system else ''}, Linux {platform.release()}",
        f"- sshpool {version}{f' at {commit}' if commit else ''}; {packages}",
        f"- servers and clients on this one machine; round trips by {links}"])


def sections(results, columns):
    hosts = results.hosts("W2")
    sizes = {(r["contender"], r["rtt_ms"]): int(re.search(r"--bytes (\d+)", r["options"])[1]) >> 20 for r in results.all if r["table"] == "W4-down" and "error" not in r}
    largest = {rtt: max([size for (_, at), size in sizes.items() if at == rtt], default=0) for rtt in (0, 50)}
    slow = min(sizes.values(), default=0)
    commands = next((r["ops"] for r in results.of("W2", "sshpool")), 0)
    yield "W1: one host, one warm command after another", compared(results, columns["W1"]), "The command is `true` through an sshd's `/bin/sh`."
    yield (f"W2: {hosts} hosts, {commands // max(hosts, 1)} commands each, connecting included", compared(results, columns["W2"]),
           "One command at a time on a host, all hosts at once. CPU is the client's; OpenSSH's is that of all its processes.")
    yield ("W2, free server: 100 warm hosts whose server answers at once", compared(results, columns["W2-free"]),
           "The client's own cost. The floor is one event loop over raw libssh2.")
    yield ("W3: a burst of 64 commands on one sshd with default settings", compared(results, columns["W3"]),
           "The floor does one command at a time and has no part in this. sshd's defaults: 10 channels a connection; logins beyond 10 at once are dropped at random.")
    yield ("W4: one file's worth of bytes through one channel", compared(results, columns["W4"]),
           f"{largest[0]} MiB at RTT 0 and {largest[50]} MiB at RTT 50, {slow} MiB for asyncssh and paramiko: the rate is compared.")
    yield "W5: connect and login, one after another", compared(results, columns["W5"]), "A public key, ed25519."
    yield ("W6: memory of an idle connection", compared(results, columns["W6"]),
           "Resident memory with so many connections less that with one, divided. OpenSSH's is a process each.")
    hops, threads = results.programs("P1"), results.programs("P1-threads")
    if hops:
        rows = [["three bare strand hops, 1 thread", "1", shown(hops[0]["three_strand_hops_ns"])],
                ["the same where the context has no sockets or timers, and never asks the kernel", "1", shown(hops[0].get("without_events_ns"))],
                ["acquire + release, 1 thread", "1", shown(hops[0]["acquire_release_ns"])]]
        rows += [[f"acquire + release, {r['threads']} thread{'s' if r['threads'] > 1 else ''}", str(r["callers"]), shown(r["acquire_release_ns"])] for r in threads]
        yield "P1: lending over a scripted transport", markdown(["", "callers", "ns"], rows), "The network costs nothing. Of one caller: the processor's time; of several together: the time that passes from one to the next, whoever they belong to."
        rows = [[f"{r['connections']:,}"] + [shown(r[f]) for f in ("same_host_ns", "random_host_ns", "plain_map_and_list_random_ns", "sweep_nothing_due_ns", "sweep_ns_per_due")]
                for r in results.programs("P2")]
        yield ("P2: the decisions alone, by entries in the pool", markdown(["entries", "one host, ns", "random hosts, ns", "plain map and list, random, ns", "sweep, nothing due, ns", "sweep, ns per entry due"], rows),
               "Acquire and release of a warm connection. The plain map and list is what the same walk through memory costs at the least.")
        rows = [[f"{r['waiters']:,}", shown(r["cancel_ns"]), shown(r["serve_ns"])] for r in results.programs("P3")]
        yield "P3: waiters", markdown(["waiters", "cancel one, ns", "serve one, ns"], rows), ""
    compiling = [r for r in results.all if r["table"] == "C"]
    if compiling:
        words = {"asio": "`#include <asio.hpp>` alone", "include": "`#include <sshpool/sshpool.hpp>` alone", "readme": "the README's program, `examples/readme.cpp`",
                 "precompiling": "precompiling both headers, once", "readme-precompiled": "the README's program with them precompiled"}
        compiling.sort(key=lambda r: list(words).index(r["contender"]))
        rows = [[words[r["contender"]], shown(r["cpu_s"]), "–" if r["contender"] == "precompiling" else shown(r["bytes"] / 1e3), "–" if r["contender"] == "precompiling" else shown(r["code_bytes"] / 1e3)]
                for r in compiling]
        yield "C: compiling, `g++ -O2`", markdown(["", "CPU, s", "object file, kB", "code and data in it, kB"], rows), ""


def chart(results, columns):
    """Bars, the shorter the better but for the last panel."""
    panels = [("One command, 10 ms round trip: p50, ms", columns["W1"][1]), ("One command, 50 ms round trip: p50, ms", columns["W1"][2]),
              (f"{results.hosts('W2')} hosts, all their commands: s", columns["W2"][0]), ("Download, 50 ms round trip: MB/s (more is better)", columns["W4"][2])]
    width, label, bar, gap = 920, 330, 16, 6
    y, parts = 10, []
    for title, column in panels:
        bars = [(c, column.get(results, c)) for c in NAMES if column.get(results, c) is not None]
        if not bars:
            continue
        largest = max(value for _, value in bars)
        y += 22
        parts.append(f'<text x="10" y="{y}" class="title">{html.escape(title)}</text>')
        y += 10
        for contender, value in bars:
            length = max(1.0, value / largest * (width - label - 90))
            name = html.escape(NAMES[contender].strip("*"))
            parts.append(f'<text x="{label - 8}" y="{y + 12}" text-anchor="end">{name}</text><rect x="{label}" y="{y}" width="{length:.1f}" height="{bar}" class="{contender}"/>'
                         f'<text x="{label + length + 6:.1f}" y="{y + 12}">{shown(value)}</text>')
            y += bar + gap
    style = ("text{font:13px sans-serif;fill:#222}.title{font-weight:bold}rect{fill:#9aa5b1}.sshpool{fill:#1f77b4}.floor{fill:#d0d6dc}.background{fill:#fff}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 14}" viewBox="0 0 {width} {y + 14}" role="img" aria-label="sshpool beside other clients">'
            f"<style>{style}</style><rect width=\"100%\" height=\"100%\" class=\"background\"/>" + "\n".join(parts) + "</svg>\n")


def summary(results, columns, goals, notices, given):
    """What the README shows."""
    idle = columns["W6"][0] if columns["W6"] else None
    chosen = [("command, RTT 0, ms", columns["W1"][0]), ("RTT 10, ms", columns["W1"][1]), ("RTT 50, ms", columns["W1"][2]), (f"{results.hosts('W2')} hosts, s", columns["W2"][0]),
              ("download, RTT 50, MB/s", columns["W4"][2]), ("login's CPU, ms", columns["W5"][0])] + ([("idle connection, kB", idle)] if idle else [])
    rows = [[NAMES[c]] + [column.cell(results, c) for _, column in chosen] for c in NAMES if any(column.get(results, c) is not None for _, column in chosen)]
    judged = [row for row in goals.rows if row[3] != "not measured"]
    lost = [f"- {what}: {measured} (goal {limit}), {verdict.strip('*')}" for what, measured, limit, verdict in goals.missed()]
    return "\n\n".join(
        ["![bars of the figures below](tests/bench/performance.svg)", markdown([""] + [heading for heading, _ in chosen], rows)] + notices +
        [f"{len(judged) - len(lost)} of {len(judged)} [goals](tests/bench/performance.md) were met" + (". The others:" if lost else ".")] + (["\n".join(lost)] if lost else []) +
        [circumstances(given)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, help="JSON lines")
    parser.add_argument("--out", required=True, type=Path, help="the directory for performance.md and performance.svg")
    parser.add_argument("--command", required=True)
    parser.add_argument("--turns", required=True, type=int, help="repetitions made")
    parser.add_argument("--asked", required=True, type=int, help="repetitions asked for")
    parser.add_argument("--links", required=True, choices=["netem", "proxies"])
    parser.add_argument("--busy", required=True, type=int, help="how much of the machine others used before the measuring, in percent")
    parser.add_argument("--readme", type=Path, help="put the summary between its marks")
    parser.add_argument("--keep", type=Path, help="a second directory for both files")
    given = parser.parse_args()

    results = Results(given.results)
    columns = columns_of(results)
    goals = judge(results, columns)
    notices = noise(results, given)
    text = ["# Performance", circumstances(given), *[f"**{notice}**" for notice in notices],
            "The floor is raw libssh2: one session per host, no pool, the next channel opened ahead. Ratios are between medians of one run.",
            "## Goals", markdown(["goal", "measured", "limit", "verdict"], goals.rows)]
    for title, table, note in sections(results, columns):
        if table:
            text += ["## " + title] + ([note] if note else []) + [table]
    text.append("![bars of some of these figures](performance.svg)")
    for directory in filter(None, (given.out, given.keep)):
        (directory / "performance.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
        (directory / "performance.svg").write_text(chart(results, columns), encoding="utf-8")
    print("\n\n".join(text))
    if given.readme:
        begin, end = "<!-- performance: begin -->\n", "<!-- performance: end -->\n"
        before, _, rest = given.readme.read_text(encoding="utf-8").partition(begin)
        _, _, after = rest.partition(end)
        given.readme.write_text(before + begin + summary(results, columns, goals, notices, given) + end + after, encoding="utf-8")


main()
