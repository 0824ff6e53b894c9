#!/usr/bin/python3
"""asyncssh: one kept connection per host (asyncssh), a connection per command (asyncssh-each), or a pool of the usual simple kind (asyncssh-pool): an LRU
dict with one connection per user@host:port, one lock, and an `echo 1` before each lend."""
import asyncio
import collections
import time

import asyncssh
import bench_peer

GIVEN = bench_peer.options(["asyncssh", "asyncssh-each", "asyncssh-pool"])
RESULT = bench_peer.Measured()


async def connect(host):
    RESULT.connections += 1
    return await asyncssh.connect(host[0], host[1], username=GIVEN.user, client_keys=[GIVEN.key], known_hosts=None, config=None, agent_path=None)


class Kept:
    def __init__(self):
        self.connections = {}

    async def acquire(self, host):
        if host not in self.connections:
            self.connections[host] = asyncio.ensure_future(connect(host))
        return await self.connections[host]

    async def release(self, host, connection):
        pass

    async def close(self):
        for connection in self.connections.values():
            (await connection).close()


class Each:
    async def acquire(self, host):
        return await connect(host)

    async def release(self, host, connection):
        connection.close()

    async def close(self):
        pass


class Pool:
    def __init__(self, limit):
        self.limit, self.lock, self.pooled, self.in_use = limit, asyncio.Lock(), collections.OrderedDict(), set()

    async def acquire(self, host):
        async with self.lock:
            connection = self.pooled.get(host)
            if connection is not None and host not in self.in_use:
                if (await connection.run("echo 1")).exit_status == 0:
                    self.pooled.move_to_end(host)
                    self.in_use.add(host)
                    return connection
                del self.pooled[host]
                connection.close()
            while len(self.pooled) >= self.limit:
                idle = next((h for h in self.pooled if h not in self.in_use), None)
                if idle is None:
                    break
                self.pooled.pop(idle).close()
        connection = await connect(host)
        async with self.lock:
            self.pooled[host] = connection
            self.in_use.add(host)
        return connection

    async def release(self, host, connection):
        self.in_use.discard(host)

    async def close(self):
        for connection in self.pooled.values():
            connection.close()


async def commands(way, ops, width, measuring):
    async def caller(first):
        for op in range(first, ops, width):
            since, ok = time.monotonic(), False
            host = GIVEN.hosts[op % len(GIVEN.hosts)]
            try:
                connection = await way.acquire(host)
                try:
                    ok = (await connection.run(GIVEN.cmd)).exit_status == 0
                finally:
                    await way.release(host, connection)
            except (OSError, asyncssh.Error):
                pass
            if measuring:
                RESULT.add(since, ok)

    await asyncio.gather(*(caller(i) for i in range(min(width, ops))))


async def transfer(way, up):
    since, moved = time.monotonic(), 0
    connection = await way.acquire(GIVEN.hosts[0])
    line = "cat >/dev/null" if up else f"head -c {GIVEN.bytes} /dev/zero"
    process = await connection.create_process(line, encoding=None)
    if up:
        block = b"x" * (256 << 10)
        while moved < GIVEN.bytes:
            process.stdin.write(block[:GIVEN.bytes - moved])
            moved += min(len(block), GIVEN.bytes - moved)
            await process.stdin.drain()
        process.stdin.write_eof()
    else:
        while data := await process.stdout.read(256 << 10):
            moved += len(data)
    await process.wait_closed()
    RESULT.add(since, process.exit_status == 0 and moved == GIVEN.bytes)


async def log_in():
    for op in range(GIVEN.ops):
        since = time.monotonic()
        connection = await connect(GIVEN.hosts[op % len(GIVEN.hosts)])
        RESULT.add(since, True)
        connection.close()


async def main():
    way = {"asyncssh": Kept, "asyncssh-each": Each}.get(GIVEN.contender, lambda: Pool(max(50, len(GIVEN.hosts))))()
    await commands(way, GIVEN.warm * len(GIVEN.hosts), len(GIVEN.hosts), False)
    RESULT.begin()
    if GIVEN.workload.startswith("W4"):
        await transfer(way, GIVEN.workload == "W4-up")
    elif GIVEN.workload == "W5":
        await log_in()
    elif GIVEN.workload == "W6":
        gate = asyncio.Semaphore(32)

        async def one(host):
            async with gate:
                since = time.monotonic()
                await way.acquire(host)
                RESULT.add(since, True)

        await asyncio.gather(*(one(h) for h in GIVEN.hosts))
    else:
        await commands(way, GIVEN.ops, GIVEN.concurrency, True)
    RESULT.end()
    await asyncio.sleep(GIVEN.hold)
    RESULT.print(GIVEN)
    await way.close()


asyncio.run(main())
