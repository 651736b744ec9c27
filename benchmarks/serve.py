"""`imprint serve` under load, beside FastAPI with onnxruntime and LitServe in the same run.

Each row is asked over some connections, each again once it is answered; then at five times the rate that was reached.
The client runs on the same machine and takes its share of it.
"""

import argparse
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
from common import IMPRINT, machine
from PIL import Image, ImageDraw

HERE = Path(__file__).parent


def as_png(image):
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def form(files):
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{i}.png"\r\n\r\n'.encode() + content + b"\r\n"
        for i, content in enumerate(files)
    ]
    return b"".join([*parts, b"--x--\r\n"])


def drawing(side=280):
    """A digit as somebody draws it on a page."""
    paper = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(paper)
    pen.line([(90, 70), (190, 70), (120, 220)], fill=0, width=22, joint="curve")
    return paper


def photo():
    """12 megapixels of soft colour."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


class Server:
    """A server process, until it is ended."""

    def __init__(self, command, port, ready):
        self.port, self.started = port, time.perf_counter()
        home = {**os.environ, "XDG_DATA_HOME": tempfile.mkdtemp()}
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=home)
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5):
                    break
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - self.started > 120:
                    raise SystemExit(f"{command} did not start") from None
                time.sleep(0.02)
        self.seconds = time.perf_counter() - self.started

    def memory(self):
        """Resident memory in MB, of its children too."""
        total, waiting = 0.0, [self.process.pid]
        while waiting:
            one = waiting.pop()
            try:
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096 / 1e6
                for task in Path(f"/proc/{one}/task").iterdir():
                    waiting += map(int, (task / "children").read_text().split())
            except OSError:
                continue
        return total

    def load(self, path, kind, body, **options):
        """Run the client in a process of its own, and give what it measured."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(body)
            file.flush()
            given = [f"--{name}={value}" for name, value in options.items()]
            command = [sys.executable, HERE / "load.py", str(self.port), path, kind, file.name, *given]
            return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

    def stop(self):
        """End it gracefully, and give the seconds that takes."""
        started = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return time.perf_counter() - started


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def row(name, facts, images=1):
    rate = facts["rate"] * images
    unit = "images/s" if images > 1 else "/s"
    times = f"p50 {facts.get('answered_p50', 0):7.2f} ms, p99 {facts.get('answered_p99', 0):7.2f} ms"
    odd = facts["refused"] + facts["failed"]
    print(f"{name:55} {times} {rate:9,.0f} {unit}{f', {odd} refused or failed' if odd else ''}", flush=True)
    return facts


def serve_imprint(model, photos, seconds):
    port = free_port()
    server = Server([*IMPRINT, "serve", str(model), "--port", str(port), "--no-browser"], port, "/readyz")
    print(f"imprint serve: ready after {server.seconds:.2f} s, {server.memory():.0f} MB", flush=True)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/model") as answer:
        shape = json.load(answer)["image"]
    height, width = shape["height"], shape["width"]
    tiny = np.asarray(drawing().resize((width, height), Image.Resampling.BOX))
    tiny = 255 - tiny
    content, batch = as_png(Image.fromarray(tiny)), np.repeat(tiny[None], 64, axis=0)
    numbers = json.dumps({"pixels": tiny.tolist()}).encode()
    many = json.dumps({"pixels": batch.tolist()}).encode()
    kinds = {"png": "image/png", "form": "multipart/form-data; boundary=x", "json": "application/json"}
    raw, path = "application/octet-stream", "/v1/predict"
    name = f"PNG {width}×{height}, raw body"
    row(f"{name}, 1 client", server.load(path, kinds["png"], content, seconds=seconds))
    busy = row(f"{name}, 16 clients", server.load(path, kinds["png"], content, seconds=seconds, connections=16))
    for kind, body in (("form", form([content])), ("json", numbers)):
        for clients in (1, 16):
            facts = server.load(path, kinds[kind], body, seconds=seconds, connections=clients)
            row(f"the same as {kind}, {clients} client{'s' * (clients > 1)}", facts)
    for clients in (1, 4):
        facts = server.load(path, kinds["png"], as_png(drawing()), seconds=seconds, connections=clients)
        row(f"drawing of 280×280, {clients} client{'s' * (clients > 1)}", facts)
    for told, kind, body, query in (
        ("raw", raw, batch.tobytes(), f"?shape=64,{height},{width}"),
        ("JSON", kinds["json"], many, ""),
        ("PNG", kinds["form"], form([content] * 64), ""),
    ):
        facts = server.load(path + query, kind, body, seconds=seconds, connections=2)
        row(f"batch of 64 as {told}, 2 clients", facts, 64)
    behind = subprocess.Popen(
        [sys.executable, __file__, "--photos-to", str(port), "--seconds", str(seconds)], stdout=subprocess.DEVNULL
    )
    time.sleep(0.5)
    row("PNG, 1 client, while 4 clients send photos", server.load(path, kinds["png"], content, seconds=seconds))
    behind.wait()
    over = server.load(path, kinds["png"], content, rate=5 * busy["rate"], seconds=3 * seconds)
    row("five times too much", over)
    share = over["rate"] / busy["rate"]
    refusals = over.get("refused_p99", 0)
    print(f"  {share:.0%} of capacity answered; refusals p99 {refusals} ms; {over['late']} found no connection")
    row("a second later, 1 client", server.load(path, kinds["png"], content, seconds=seconds))
    memory = server.memory()
    print(f"  {memory:.0f} MB after the load; ended in {server.stop():.2f} s", flush=True)
    if photos is not None:
        port = free_port()
        server = Server([*IMPRINT, "serve", str(photos), "--port", str(port), "--no-browser"], port, "/readyz")
        for clients in (1, 4):
            facts = server.load(path, "image/jpeg", photo(), seconds=seconds, connections=clients)
            row(f"12-megapixel JPEG, photo model, {clients} client{'s' * (clients > 1)}", facts)
        server.stop()
    return content, busy


def serve_peer(kind, python, model, content, seconds, ours):
    port = free_port()
    ready = "/docs" if kind == "fastapi" else "/health"
    server = Server([python, HERE / "serve_peer.py", kind, str(model), str(port)], port, ready)
    print(f"{kind}: ready after {server.seconds:.2f} s, {server.memory():.0f} MB", flush=True)
    path, media, body, told = "/raw", "image/png", content, "raw body"
    if kind == "litserve":
        body = json.dumps({"image": base64.b64encode(content).decode()}).encode()
        path, media, told = "/predict", "application/json", "base64"
    row(f"{kind}, PNG, {told}, 1 client", server.load(path, media, body, seconds=seconds))
    busy = row(f"{kind}, PNG, {told}, 16 clients", server.load(path, media, body, seconds=seconds, connections=16))
    if kind == "fastapi":
        parts = form([content])
        facts = server.load("/form", "multipart/form-data; boundary=x", parts, seconds=seconds, connections=16)
        row(f"{kind}, the same as a form, 16 clients", facts)
    if busy["rate"]:
        print(f"  imprint serve answers {ours['rate'] / busy['rate']:.1f} times as many")
    over = server.load(path, media, body, rate=5 * busy["rate"], seconds=3 * seconds)
    row(f"{kind}, five times too much", over)
    server.stop()


def has_package(python, name):
    if python is None or not python.exists():
        return False
    return not subprocess.run([python, "-c", f"import {name}"], stderr=subprocess.DEVNULL).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an exported model; without it, one of the bundled digits")
    parser.add_argument("--photos", type=Path, help="an exported model of photos")
    parser.add_argument("--peers", type=Path, help="a Python that has benchmarks/serve-requirements.txt")
    parser.add_argument("--seconds", type=float, default=5, help="of each row")
    parser.add_argument("--photos-to", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.photos_to:
        background = Server.__new__(Server)
        background.port = given.photos_to
        background.load("/v1/predict", "image/jpeg", photo(), seconds=given.seconds + 1, connections=4)
        return
    print(machine(), flush=True)
    model = given.model
    if model is None:
        import imprint

        folder = Path(tempfile.mkdtemp())
        model = folder / "digits.onnx"
        imprint.export(imprint.train("digits", verbose=False).model, model)
    content, ours = serve_imprint(model, given.photos, given.seconds)
    for kind in ("fastapi", "litserve"):
        if has_package(given.peers, kind):
            serve_peer(kind, given.peers, model, content, given.seconds, ours)
        else:
            print(f"{kind}: left out, since --peers names no Python that has benchmarks/serve-requirements.txt")


if __name__ == "__main__":
    main()
