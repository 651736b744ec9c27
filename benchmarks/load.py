"""A client for HTTP load, cheap enough that the server is what is measured.

Closed loop: each connection asks again once it is answered. Open loop (--rate): requests are due at a fixed rate, and
each is timed from when it was due, however late a connection was free to send it, so that a slow server is not asked
less and then found fast (coordinated omission). Sockets and epoll, no library: about 20 µs of CPU a request. It waits
in whole milliseconds, so that times of an open loop are up to 1 ms too long.
"""

import argparse
import contextlib
import json
import re
import select
import socket
import time
from collections import deque
from itertools import cycle
from pathlib import Path

import numpy as np

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
READ = 2**18  # bytes at once
PATIENCE = 20.0  # seconds for answers after the last request
LOST = 0  # the status of a request whose connection ended


def as_request(address, path, kind, body, token=""):
    lines = [f"POST {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {len(body)}"] + ([f"Authorization: Bearer {token}"] if token else [])
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """Connections to one address that send the same requests in turn; results are (status, seconds)."""

    def __init__(self, address, requests, connections):
        self._address, self._requests, self._epoll = address, cycle(requests), select.epoll()
        self._sockets, self._due, self._rest, self._received = {}, {}, {}, {}
        self.results, self.idle = [], [self._open() for _ in range(connections)]

    @property
    def pending(self):
        return len(self._due)

    def _open(self):
        one = socket.create_connection(self._address, timeout=10)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
        self._sockets[one.fileno()] = one
        self._epoll.register(one.fileno(), select.EPOLLIN)
        return one.fileno()

    def ask(self, number, due):
        """Send the next request over an idle connection; its time counts from `due`."""
        self._due[number] = due
        self._send(number, next(self._requests))

    def _send(self, number, content):
        try:
            sent = self._sockets[number].send(content)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose(number)
            return
        if sent < len(content):
            self._rest[number] = memoryview(content)[sent:]
            self._epoll.modify(number, select.EPOLLIN | select.EPOLLOUT)
        elif self._rest.pop(number, None) is not None:
            self._epoll.modify(number, select.EPOLLIN)

    def wait(self, seconds):
        """Wait so many seconds at most for answers; connections that are free again are in `idle`."""
        for number, event in self._epoll.poll(seconds):
            if event & select.EPOLLOUT and number in self._rest:
                self._send(number, self._rest[number])
            if event & ~select.EPOLLOUT and number in self._sockets:
                self._receive(number)

    def _receive(self, number):
        try:
            content = self._sockets[number].recv(READ)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if not content:
            self._lose(number)
            return
        if number in self._received:
            content = self._received.pop(number) + content
        end = content.find(b"\r\n\r\n")
        length = LENGTH.search(content, 0, end + 2) if end >= 0 else None
        if length is None or len(content) < end + 4 + int(length[1]):
            self._received[number] = content
        elif number in self._due:
            self.results.append((int(content[9:12]), time.perf_counter() - self._due.pop(number)))
            self.idle.append(number)

    def _lose(self, number):
        """Replace a connection that ended."""
        self._sockets.pop(number).close()
        self._rest.pop(number, None)
        self._received.pop(number, None)
        if (due := self._due.pop(number, None)) is not None:
            self.results.append((LOST, time.perf_counter() - due))
        with contextlib.suppress(OSError):
            self.idle.append(self._open())


def closed(client, seconds):
    """Ask over all connections, each again as soon as it is answered."""
    started = time.perf_counter()
    until = started + seconds
    while (now := time.perf_counter()) < until:
        free, client.idle = client.idle, []
        for number in free:
            client.ask(number, time.perf_counter())
        client.wait(until - now)
    within = len(client.results)
    while client.pending and time.perf_counter() < until + PATIENCE:
        client.wait(0.1)
    return within, time.perf_counter() - started


def opened(client, rate, seconds):
    """Ask at a fixed rate, whether answers come or not; what finds no free connection waits, and its time counts."""
    started = time.perf_counter()
    total, sent, waiting = round(rate * seconds), 0, deque()
    lags = []  # seconds from due to sent, of those that found a connection: the client's own slowness
    while sent < total or waiting or client.pending:
        now = time.perf_counter()
        if now > started + seconds + PATIENCE:
            break
        while sent < total and (due := started + sent / rate) <= now:
            sent += 1
            if client.idle:
                lags.append(time.perf_counter() - due)
                client.ask(client.idle.pop(), due)
            else:
                waiting.append(due)
        client.wait(max(0.0, started + sent / rate - time.perf_counter()) if sent < total else 0.1)
        free = client.idle if waiting else []
        while waiting and free:
            client.ask(free.pop(), waiting.popleft())
    return time.perf_counter() - started, lags


def percentiles(taken):
    """Give median and 99th percentile in milliseconds."""
    return (np.percentile(taken, [50, 99]) * 1e3).round(2).tolist()


def summary(results, seconds):
    """Give counts, and percentiles in milliseconds, of answers, refusals and failures."""
    facts = {"seconds": seconds, "asked": len(results)}
    for name, wanted in (("answered", (200,)), ("refused", (503, 429)), ("failed", None)):
        taken = [t for status, t in results if (status in wanted if wanted else status not in (200, 503, 429))]
        facts[name] = len(taken)
        if taken:
            facts[f"{name}_p50"], facts[f"{name}_p99"] = percentiles(taken)
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("kind")
    parser.add_argument("bodies", type=Path, nargs="+")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rate", type=float, help="requests a second, open loop")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--token", default="")
    given = parser.parse_args()
    address = "127.0.0.1", given.port
    requests = [as_request(address, given.path, given.kind, one.read_bytes(), given.token) for one in given.bodies]
    client = Client(address, requests, given.connections)
    before = time.process_time()
    if given.rate:
        seconds, lags = opened(client, given.rate, given.seconds)
        facts = summary(client.results, seconds) | {"lag_p99": percentiles(lags)[1] if lags else 0.0}
        facts["rate"] = facts["answered"] / given.seconds
    else:
        count, seconds = closed(client, given.seconds)
        facts = summary(client.results, seconds)
        facts["rate"] = sum(status == 200 for status, _ in client.results[:count]) / given.seconds
    facts["client"] = round((time.process_time() - before) / seconds, 3)  # of a core
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
