"""A client for HTTP load: closed loop (each connection asks again once it is answered) or open loop (a fixed rate)."""

import argparse
import asyncio
import json
import time
from pathlib import Path

import numpy as np


def as_request(address, path, kind, body, token=""):
    lines = [f"POST {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {len(body)}"] + ([f"Authorization: Bearer {token}"] if token else [])
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """Sends a request when told, and reports status and seconds."""

    def __init__(self, report):
        self.report, self.buffer, self.sent, self.transport = report, b"", None, None

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, request, due=None):
        self.sent = due or time.perf_counter()
        self.transport.write(request)

    def data_received(self, data):
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        if len(rest) >= length:
            self.buffer = rest[length:]
            self.report(self, int(head[9:12]), time.perf_counter() - self.sent)

    def connection_lost(self, error):
        if self.sent is not None:
            self.report(self, 0, time.perf_counter() - self.sent)


async def closed(address, request, connections, seconds):
    """Ask over some connections, each again as soon as it is answered."""
    loop, results, ended = asyncio.get_running_loop(), [], asyncio.Event()
    until = time.perf_counter() + seconds

    def report(connection, status, taken):
        results.append((status, taken))
        connection.sent = None
        if time.perf_counter() < until and status:
            connection.ask(request)
        else:
            open_ones.discard(connection)
            connection.transport.close()
            if not open_ones:
                ended.set()

    open_ones = set()
    started = time.perf_counter()
    for _ in range(connections):
        _, one = await loop.create_connection(lambda: Connection(report), *address)
        open_ones.add(one)
        one.ask(request)
    await asyncio.wait_for(ended.wait(), seconds + 30)
    return results, time.perf_counter() - started


async def opened(address, request, rate, seconds, most=200):
    """Ask at a fixed rate, whether answers come or not, over at most some connections; what finds none is `late`."""
    loop, results, idle, pending = asyncio.get_running_loop(), [], [], 0

    def report(connection, status, taken):
        nonlocal pending, made
        results.append((status, taken))
        connection.sent, pending = None, pending - 1
        if status:
            idle.append(connection)
        else:
            made -= 1

    async def fresh(due):
        nonlocal pending
        try:
            _, one = await loop.create_connection(lambda: Connection(report), *address)
            one.ask(request, due)
        except OSError:
            results.append((0, time.perf_counter() - due))
            pending -= 1

    started, sent, made, tasks = time.perf_counter(), 0, 0, set()
    while (now := time.perf_counter() - started) < seconds:
        while sent < now * rate:
            due, pending, sent = started + sent / rate, pending + 1, sent + 1
            while idle and idle[-1].transport.is_closing():
                idle.pop()
            if idle:
                idle.pop().ask(request, due)
            elif made >= most:
                results.append((-1, 0.0))
                pending -= 1
            else:
                made += 1
                task = asyncio.ensure_future(fresh(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.001)
    for _ in range(500):
        if not pending:
            break
        await asyncio.sleep(0.01)
    return results, time.perf_counter() - started


def summary(results, seconds):
    """Give rate and percentiles, in milliseconds, of answers and of refusals."""
    facts = {"seconds": seconds, "asked": len(results)}
    for name, wanted in (("answered", [200]), ("refused", [503, 429]), ("failed", None)):
        known = (200, 503, 429, -1)
        taken = [t for status, t in results if (status in wanted if wanted else status not in known)]
        facts[name] = len(taken)
        if taken:
            facts[f"{name}_p50"], facts[f"{name}_p99"] = (np.percentile(taken, [50, 99]) * 1e3).round(2).tolist()
    facts["late"] = sum(status == -1 for status, _ in results)
    facts["rate"] = facts["answered"] / seconds
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("kind")
    parser.add_argument("body", type=Path)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second, open loop")
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    address = "127.0.0.1", given.port
    request = as_request(address, given.path, given.kind, given.body.read_bytes())
    work = (
        opened(address, request, given.rate, given.seconds)
        if given.rate
        else closed(address, request, given.connections, given.seconds)
    )
    try:
        import uvloop

        results = uvloop.run(work)
    except ModuleNotFoundError:
        results = asyncio.run(work)
    print(json.dumps(summary(*results)))


if __name__ == "__main__":
    main()
