#!/usr/bin/python3
"""paramiko: one kept connection per host, a thread per caller."""
import concurrent.futures
import logging
import threading
import time

import bench_peer
import paramiko

GIVEN = bench_peer.options(["paramiko"])
RESULT = bench_peer.Measured()
CLIENTS, LOCKS, RESULT_LOCK = {}, {h: threading.Lock() for h in GIVEN.hosts}, threading.Lock()
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def connect(host):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.MissingHostKeyPolicy())
    client.connect(host[0], host[1], GIVEN.user, key_filename=GIVEN.key, look_for_keys=False, allow_agent=False, banner_timeout=120, auth_timeout=120)
    with RESULT_LOCK:
        RESULT.connections += 1
    return client


def client_of(host):
    with LOCKS[host]:
        if host not in CLIENTS:
            CLIENTS[host] = connect(host)
        return CLIENTS[host]


def caller(first, ops, width, measuring):
    for op in range(first, ops, width):
        since, ok = time.monotonic(), False
        try:
            _, out, _ = client_of(GIVEN.hosts[op % len(GIVEN.hosts)]).exec_command(GIVEN.cmd)
            out.read()
            ok = out.channel.recv_exit_status() == 0
        except (OSError, EOFError, paramiko.SSHException):
            pass
        if measuring:
            with RESULT_LOCK:
                RESULT.add(since, ok)


def commands(ops, width, measuring):
    with concurrent.futures.ThreadPoolExecutor(max(1, min(width, ops))) as threads:
        for i in range(min(width, ops)):
            threads.submit(caller, i, ops, width, measuring)


def transfer(up):
    since, moved = time.monotonic(), 0
    channel = client_of(GIVEN.hosts[0]).get_transport().open_session()
    channel.exec_command("cat >/dev/null" if up else f"head -c {GIVEN.bytes} /dev/zero")
    if up:
        block = b"x" * (256 << 10)
        while moved < GIVEN.bytes:
            size = min(len(block), GIVEN.bytes - moved)
            channel.sendall(block[:size])
            moved += size
        channel.shutdown_write()
    else:
        while data := channel.recv(256 << 10):
            moved += len(data)
    RESULT.add(since, channel.recv_exit_status() == 0 and moved == GIVEN.bytes)


commands(GIVEN.warm * len(GIVEN.hosts), len(GIVEN.hosts), False)
RESULT.begin()
if GIVEN.workload.startswith("W4"):
    transfer(GIVEN.workload == "W4-up")
elif GIVEN.workload == "W5":
    for n in range(GIVEN.ops):
        begin = time.monotonic()
        made = connect(GIVEN.hosts[n % len(GIVEN.hosts)])
        RESULT.add(begin, True)
        made.close()
elif GIVEN.workload == "W6":
    with concurrent.futures.ThreadPoolExecutor(32) as workers:
        begin = time.monotonic()
        for _ in workers.map(client_of, GIVEN.hosts):
            RESULT.add(begin, True)
else:
    commands(GIVEN.ops, GIVEN.concurrency, True)
RESULT.end()
time.sleep(GIVEN.hold)
RESULT.print(GIVEN)
for c in CLIENTS.values():
    c.close()
