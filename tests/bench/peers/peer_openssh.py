#!/usr/bin/python3
"""OpenSSH's own client with ControlMaster: a master process per host, a client process per command. CPU and memory are those of all of them."""
import concurrent.futures
import os
import resource
import subprocess
import tempfile
import threading
import time

import bench_peer

GIVEN = bench_peer.options(["ssh-controlmaster"])
MASTERS, LOCKS, RESULT_LOCK = {}, {h: threading.Lock() for h in GIVEN.hosts}, threading.Lock()
WORK = tempfile.TemporaryDirectory(prefix="bench-")


def cpu_of_masters():
    ticks = 0
    for master in MASTERS.values():
        with open(f"/proc/{master.pid}/stat", encoding="ascii") as text:
            ticks += sum(int(f) for f in text.read().rpartition(")")[2].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_of_masters():
    kib = 0  # what they share is counted once
    for master in MASTERS.values():
        with open(f"/proc/{master.pid}/smaps_rollup", encoding="ascii") as text:
            kib += next(int(line.split()[1]) for line in text if line.startswith("Pss:"))
    return kib * 1024 / 1e6


RESULT = bench_peer.Measured(cpu=lambda: bench_peer.cpu_seconds() + bench_peer.cpu_seconds(resource.RUSAGE_CHILDREN) + cpu_of_masters(),
                             memory=memory_of_masters)


def socket_of(host):
    return f"{WORK.name}/{host[0]}-{host[1]}"


def ssh(host, *more):
    return ["ssh", "-F", "none", "-S", socket_of(host), "-p", str(host[1]), "-l", GIVEN.user, "-i", GIVEN.key, "-oIdentitiesOnly=yes", "-oBatchMode=yes",
            "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", *more]


def start_master(host):
    with LOCKS[host]:
        if host in MASTERS:
            return
        master = subprocess.Popen(ssh(host, "-M", "-N", host[0]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.exists(socket_of(host)) and master.poll() is None:
            time.sleep(0.002)
        with RESULT_LOCK:
            MASTERS[host] = master
            RESULT.connections += 1


def end(master):
    master.terminate()
    try:
        master.wait(2)
    except subprocess.TimeoutExpired:  # the signal came in just before it went to sleep
        master.kill()
        master.wait()


def caller(first, ops, width, measuring):
    for op in range(first, ops, width):
        since, host = time.monotonic(), GIVEN.hosts[op % len(GIVEN.hosts)]
        start_master(host)
        ok = subprocess.run(ssh(host, host[0], GIVEN.cmd), stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
        if measuring:
            with RESULT_LOCK:
                RESULT.add(since, ok)


def commands(ops, width, measuring):
    with concurrent.futures.ThreadPoolExecutor(max(1, min(width, ops))) as threads:
        for i in range(min(width, ops)):
            threads.submit(caller, i, ops, width, measuring)


def transfer(up):
    since, moved = time.monotonic(), 0
    host = GIVEN.hosts[0]
    start_master(host)
    line = "cat >/dev/null" if up else f"head -c {GIVEN.bytes} /dev/zero"
    with subprocess.Popen(ssh(host, host[0], line), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        if up:
            block = b"x" * (256 << 10)
            while moved < GIVEN.bytes:
                moved += client.stdin.write(block[:GIVEN.bytes - moved])
            client.stdin.close()
        else:
            while data := client.stdout.read(256 << 10):
                moved += len(data)
        status = client.wait()
    RESULT.add(since, status == 0 and moved == GIVEN.bytes)


commands(GIVEN.warm * len(GIVEN.hosts), len(GIVEN.hosts), False)
RESULT.begin()
if GIVEN.workload.startswith("W4"):
    transfer(GIVEN.workload == "W4-up")
elif GIVEN.workload == "W5":
    for n in range(GIVEN.ops):
        target, begin = GIVEN.hosts[n % len(GIVEN.hosts)], time.monotonic()
        start_master(target)
        RESULT.add(begin, True)
        end(MASTERS.pop(target))
elif GIVEN.workload == "W6":
    with concurrent.futures.ThreadPoolExecutor(32) as workers:
        begin = time.monotonic()
        for _ in workers.map(start_master, GIVEN.hosts):
            RESULT.add(begin, True)
else:
    commands(GIVEN.ops, GIVEN.concurrency, True)
RESULT.end()
time.sleep(GIVEN.hold)
RESULT.print(GIVEN)
for m in MASTERS.values():
    m.terminate()
for m in MASTERS.values():
    end(m)
