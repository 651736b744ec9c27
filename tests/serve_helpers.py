"""`imprint serve` as a process, and what its tests send."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from io import BytesIO
from types import SimpleNamespace

from PIL import Image


class Server:
    """`imprint serve` as a process of its own, at a port that was free."""

    def __init__(self, *options, folder, wait="/readyz", **environment):
        command = [sys.executable, "-m", "imprint", "serve", "--port", "0", "--no-browser", *map(str, options)]
        environment = {**os.environ, "XDG_DATA_HOME": str(folder), "PYTHONWARNINGS": "error", **environment}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
        self.lines, self.port = [], 0
        self._begun = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._begun.wait(60), "it said nothing"
        while wait and self.process.poll() is None and self.get(wait).status != 200:
            time.sleep(0.05)

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := re.match(r"open https?://[^:/]+:(\d+)/", line):
                self.port = int(found[1])
                self._begun.set()
        self._begun.set()

    @property
    def code(self):
        """The one-time code that it printed."""
        return next(line.partition("code=")[2] for line in self.lines if line.startswith("open "))

    def ask(self, method, path, body=None, headers=(), host=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            given = dict(headers)
            for name in (host,) if host is not None else (f"127.0.0.1:{self.port}",):
                connection.putheader("Host", name)
            if body is not None and "Content-Length" not in given and "Transfer-Encoding" not in given:
                given["Content-Length"] = str(len(body))
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            kind = answer.getheader("Content-Type", "")
            return SimpleNamespace(
                status=answer.status,
                headers=answer.headers,
                content=content,
                kind=kind,
                json=json.loads(content) if "json" in kind else None,
            )
        finally:
            connection.close()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def predict(self, body, kind="image/png", query="", **headers):
        given = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.ask("POST", f"/v1/predict{query}", body, given)

    def raw(self, content, timeout=15):
        """Send bytes as they are, and give what comes until the connection ends, and after how long."""
        started = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(content)
            received = b""
            while part := connection.recv(65536):
                received += part
        return received, time.perf_counter() - started

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(30)
        self._reader.join(5)
        self.process.stderr.close()
        return status


def png(image):
    """Write an array or PIL image as a PNG."""
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")
    return file.getvalue()


def form(files, boundary="x", fields=()):
    """Write a multipart body."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    parts += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()])
