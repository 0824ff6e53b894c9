"""What the peers written in Python share with bench_ssh: its options, what is measured, and the one JSON object that is printed."""
import argparse
import json
import os
import resource
import time


def options(contenders):
    parser = argparse.ArgumentParser(description="One workload by one contender; prints one JSON object, as bench_ssh does.")
    parser.add_argument("--contender", choices=contenders, default=contenders[0])
    parser.add_argument("--workload", required=True, choices=["W1", "W2", "W3", "W4-down", "W4-up", "W5", "W6"])
    parser.add_argument("--hosts-file", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ops", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--rtt-ms", type=float, default=0)
    parser.add_argument("--warm", type=int, default=0)
    parser.add_argument("--hold", type=float, default=0)
    parser.add_argument("--cmd", default="true")
    parser.add_argument("--bytes", type=int, default=256 << 20)
    given = parser.parse_args()
    given.hosts = []
    with open(given.hosts_file, encoding="ascii") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                address, _, port = line.strip().partition(":")
                given.hosts.append((address, int(port or 22)))
    return given


def cpu_seconds(who=resource.RUSAGE_SELF):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def resident_mb(pid="self"):
    with open(f"/proc/{pid}/statm", encoding="ascii") as text:
        return int(text.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Measured:
    def __init__(self, cpu=cpu_seconds, memory=resident_mb):
        self.cpu, self.memory = cpu, memory
        self.took, self.failed, self.connections = [], 0, 0

    def begin(self):
        self.cpu_begin, self.wall_begin = self.cpu(), time.monotonic()

    def add(self, since, ok):
        self.took.append((time.monotonic() - since) * 1e3)
        self.failed += not ok

    def end(self):
        self.wall, self.cpu_used = time.monotonic() - self.wall_begin, self.cpu() - self.cpu_begin

    def print(self, given):
        took = sorted(self.took) or [0.0]
        at = lambda share: round(took[int(share * (len(took) - 1) + 0.5)], 4)
        print(json.dumps({
            "contender": given.contender, "workload": given.workload, "hosts": len(given.hosts), "ops": len(self.took), "concurrency": given.concurrency,
            "rtt_ms": given.rtt_ms, "wall_s": round(self.wall, 6), "ops_per_s": round(len(self.took) / max(self.wall, 1e-9), 2), "p50_ms": at(0.5),
            "p99_ms": at(0.99), "failed": self.failed, "connections_made": self.connections, "cpu_s": round(self.cpu_used, 6),
            "rss_mb": round(self.memory(), 3)}), flush=True)
