"""Kills the server of a project at random moments, starts it again, and looks whether every accepted sample is there.

python scripts/project_kills.py [KILLS] [--seed N]: a client adds, moves, deletes and undoes over HTTP while the server
is killed with SIGKILL; afterwards the project must open, hold all that was acknowledged, and nothing half done.
"""

import argparse
import collections
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

SERVER = """
import sys
from pathlib import Path
import uvicorn
from imprint.serve.app import create_app
from imprint.serve.engine import Served
from imprint.serve.project import Project
from imprint.serve.security import Settings
app = create_app(Served(), Settings("127.0.0.1", int(sys.argv[2]), "kills"), Project(Path(sys.argv[1])))
uvicorn.run(app, port=int(sys.argv[2]), log_level="critical")
"""
HEADERS = {"Authorization": "Bearer kills", "Content-Type": "application/json"}


def picture(number):
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Client:
    """Changes a project over HTTP, and keeps what the server has acknowledged."""

    def __init__(self, port, generator):
        self.port, self.generator = port, generator
        self.classes, self.samples, self.gone, self.number = [], {}, set(), 0
        self.unsure = set()  # samples of a request whose answer never came: there or not, but nothing in between

    def ask(self, method, path, body=None, headers=HEADERS):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status < 300, (path, answer.status, content)
        return json.loads(content) if content else None

    def add(self):
        key = self.generator.choice(self.classes)
        take = self.ask("POST", "/api/takes", {"class": key, "kind": "camera"})["id"]
        for _ in range(self.generator.randint(1, 3)):
            count = self.generator.randint(1, 4)
            parts = b""
            for _ in range(count):
                self.number += 1
                head = f'--x\r\nContent-Disposition: form-data; name="f"; filename="{self.number}.png"\r\n\r\n'
                parts += head.encode() + picture(self.number) + b"\r\n"
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            answer = self.ask("POST", f"/api/takes/{take}/samples", parts + b"--x--\r\n", HEADERS | kind)
            assert len(answer["added"]) == count, answer
            self.samples |= dict.fromkeys(answer["added"], key)

    def move(self):
        if self.samples:
            sha, key = self.generator.choice(list(self.samples)), self.generator.choice(self.classes)
            self.unsure = {sha}
            self.ask("POST", "/api/samples/move", {"samples": [sha], "class": key})
            self.samples[sha], self.unsure = key, set()

    def delete(self):
        if len(self.samples) > 5:
            sha = self.generator.choice(list(self.samples))
            self.unsure = {sha}
            self.ask("POST", "/api/samples/delete", {"samples": [sha]})
            del self.samples[sha]
            if self.generator.random() < 0.5:
                self.unsure = {sha}
                self.ask("POST", "/api/undo")
                self.check()
            self.unsure = set()

    def check(self):
        """Compare what the server has with what it acknowledged."""
        found = {}
        for key in self.classes:
            offset, total = 0, 1
            while offset < total:
                page = self.ask("GET", f"/api/classes/{key}/samples?offset={offset}&limit=1000")
                found |= {sample["sha"]: key for sample in page["samples"]}
                offset, total = offset + 1000, page["total"]
        lost = {sha for sha, key in self.samples.items() if found.get(sha) != key} - self.unsure
        assert not lost, f"{len(lost)} accepted samples lost"
        for sha in self.generator.sample(sorted(found), min(5, len(found))):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("GET", f"/api/samples/{sha}", headers=HEADERS)
            Image.open(io.BytesIO(connection.getresponse().read())).load()
        self.samples = found

    def go_on(self):
        while True:
            self.generator.choice([self.add, self.add, self.move, self.delete])()


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def start(folder, port):
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder), str(port)])
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/api/project", headers=HEADERS)
            assert connection.getresponse().status == 200
            return server
        except OSError:
            assert server.poll() is None, "the server did not start again"
            time.sleep(0.05)
    raise AssertionError("the server did not answer")


def main(kills, seed):
    generator, counts = random.Random(seed), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="imprint-kills-") as home:
        folder, port = Path(home) / "project", free_port()
        server = start(folder, port)
        client = Client(port, generator)
        try:
            client.classes = [client.ask("POST", "/api/classes", {"name": name})["id"] for name in ("Rock", "Paper")]
            for _ in range(kills):
                killer = threading.Timer(generator.uniform(0.02, 0.6), os.kill, (server.pid, signal.SIGKILL))
                killer.start()
                try:
                    client.go_on()
                except (OSError, http.client.HTTPException) as error:
                    counts[type(error).__name__] += 1
                killer.join()
                server.wait()
                server = start(folder, port)
                client.check()
                client.unsure = set()
                stray = [path.name for path in (folder / "samples").iterdir() if path.name.startswith(".")]
                assert not stray, stray
        finally:
            server.kill()
            server.wait()
    print(f"{kills} kills, {len(client.samples)} samples: every accepted one is there")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    main(given.kills, given.seed)
