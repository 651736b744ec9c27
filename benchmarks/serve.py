"""`imprint serve` under load, each row with its target, beside FastAPI with onnxruntime and LitServe in the same run.

A row is asked over some connections, each again once it is answered; `overload` at five times the rate that 16 clients
reached. The client is a process of its own on the same machine, and the share of a core that it took is printed.
"""

import argparse
import atexit
import base64
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from common import IMPRINT, machine
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
PREDICT, TOKEN = "/v1/predict", "a token for this benchmark"
PNG, JPEG, RAW, JSON, FORM = (
    "image/png",
    "image/jpeg",
    "application/octet-stream",
    "application/json",
    "multipart/form-data; boundary=x",
)
OVERLOAD, OVERLOAD_CONNECTIONS = 5, 240  # times the capacity; connections, of which the server takes 256
SLOW = 500  # connections
TRAINED = 600  # digits that are trained on while it is asked
ASKED_MEANWHILE = 50  # requests a second


# What is sent


def as_png(image):
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def form(files):
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    ]
    return b"".join([*parts, b"--x--\r\n"])


def digits_for(model):
    """64 of the bundled digits in the form that an exported model takes [64, channels, height, width]."""
    import imprint
    from imprint.models.onnx.classifier import OnnxClassifier
    from imprint.preprocessing.input_spec import fit_all

    return fit_all(imprint.load("digits").pixels[:64], OnnxClassifier.load(model).spec)


def drawing(side=280):
    """A digit as somebody draws it on a page."""
    paper = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(paper)
    pen.line([(90, 70), (190, 70), (120, 220)], fill=0, width=22, joint="curve")
    return paper


def photo(width=4000, height=3000):
    """12 megapixels of soft colour."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def bomb(side=60_000):
    """A PNG whose header claims 3.6 gigapixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(1000)


# Servers


class Server:
    """A server process, until it is ended."""

    def __init__(self, command, port, ready):
        self.port, self.started = port, time.perf_counter()
        home = {**os.environ, "XDG_DATA_HOME": tempfile.mkdtemp()}
        quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=home, start_new_session=True, **quiet)
        atexit.register(self.kill)  # also where a row fails
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5):
                    break
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - self.started > 120:
                    raise SystemExit(f"{command} did not start") from None
                time.sleep(0.02)
        self.seconds = time.perf_counter() - self.started

    @classmethod
    def of(cls, *options, ready="/readyz"):
        """Start `imprint serve`."""
        port = free_port()
        return cls([*IMPRINT, "serve", *map(str, options), "--port", str(port), "--no-browser"], port, ready)

    def memory(self, children=True):
        """Resident memory in MB, of its children too."""
        total, waiting = 0.0, [self.process.pid]
        while waiting:
            one = waiting.pop()
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
                for task in Path(f"/proc/{one}/task").iterdir() if children else ():
                    waiting += map(int, (task / "children").read_text().split())
        return total

    def start_load(self, path, kind, *bodies, **options):
        """Start the client, which sends the bodies in turn, in a process of its own."""
        folder = tempfile.TemporaryDirectory()
        files = [Path(folder.name, str(i)) for i in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        given = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, HERE / "load.py", str(self.port), path, kind, *files, *given]
        return subprocess.Popen(command, stdout=subprocess.PIPE), folder

    def load(self, path, kind, *bodies, **options):
        """Run the client, and give what it measured."""
        return ended(*self.start_load(path, kind, *bodies, **options))

    def ask(self, method, path, body=None, kind=JSON):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or "null")

    def stop(self):
        """End it gracefully, and give the seconds that takes."""
        started = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        seconds = time.perf_counter() - started
        self.kill()
        return seconds

    def kill(self):
        """End it with its children, which LitServe leaves behind."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)


class SlowClients:
    """Connections that each send a byte of a request's head a second, and come again when they are cut."""

    def __init__(self, port, connections):
        self._address, self._sockets = ("127.0.0.1", port), [None] * connections
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self):
        while not self._ended.is_set():
            for i, one in enumerate(self._sockets):
                try:
                    if one is None:
                        self._sockets[i] = one = socket.create_connection(self._address, timeout=1)
                        one.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
                    else:
                        one.sendall(b"x")
                except OSError:
                    self._sockets[i] = None
                self._ended.wait(1 / len(self._sockets))

    def stop(self):
        self._ended.set()
        self._thread.join()
        for one in self._sockets:
            if one is not None:
                one.close()


def ended(client, folder):
    """Wait for a client, and give what it measured."""
    told, _ = client.communicate()
    folder.cleanup()
    return json.loads(told)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# What is printed


def told(name, measured, verdict, more=""):
    print(f"{name:44} {measured:58} {verdict}{more}", flush=True)


def verdict(*pairs):
    """Say whether each value keeps its target: ("p99", 12, "<=", 25)."""
    words = []
    for name, value, sign, target in pairs:
        kept = value <= target if sign == "<=" else value >= target
        words.append(f"{name} {'≤' if sign == '<=' else '≥'} {target:,} {'kept' if kept else 'MISSED'}")
    return ", ".join(words)


def row(name, facts, images=1, p50=None, p99=None, rate=None):
    """Print a row with its targets, in milliseconds and images a second."""
    reached = facts["rate"] * images
    median, tail = facts.get("answered_p50", float("inf")), facts.get("answered_p99", float("inf"))
    pairs = [("p50", median, "<=", p50), ("p99", tail, "<=", p99), ("rate", reached, ">=", rate)]
    odd = facts["refused"] + facts["failed"]
    more = f"; client {facts['client']:.0%} of a core" + (f"; {odd} refused or failed" if odd else "")
    measured = f"p50 {median:8.2f} ms, p99 {tail:8.2f} ms, {reached:9,.0f} {'images' if images > 1 else ''}/s"
    told(name, measured, verdict(*(pair for pair in pairs if pair[3] is not None)), more)
    return facts


class Bench:
    """The rows; a server of the digits' model is started for the first of them, and kept."""

    def __init__(self, given):
        self.seconds, self.given = given.seconds, given
        self.folder = Path(tempfile.mkdtemp())
        self.server, self.capacity = None, None

    @property
    def model(self):
        if self.given.model is None:
            import imprint

            self.given.model = self.folder / "digits.onnx"
            imprint.export(imprint.train("digits", verbose=False).model, self.given.model)
        return self.given.model

    def start(self):
        """Start the server of the digits' model unless it runs; 64 digits in the form that it takes are what is asked.

        A few digits in a hundred are seen again in other views; scribbles all are, which takes four times as long.
        """
        if self.server is not None:
            return
        self.server = Server.of(self.model)
        self.digits = digits_for(self.model)
        self.pngs = [as_png(Image.fromarray(one.transpose(1, 2, 0).squeeze())) for one in self.digits]
        self.start_memory = self.server.memory(children=False)
        self.run(PNG, *self.pngs, seconds=1, connections=4)  # warm

    def run(self, kind, *bodies, path=PREDICT, **options):
        return self.server.load(path, kind, *bodies, **{"seconds": self.seconds, **options})

    def close(self):
        if self.server is not None:
            seconds = self.server.stop()
            told("ended by SIGTERM", f"{seconds:.2f} s", verdict(("s", seconds, "<=", 5)))

    def ready(self):
        """Ready in time and memory."""
        self.start()
        seconds, memory = round(self.server.seconds, 2), round(self.start_memory)
        told("ready", f"{seconds} s, {memory} MB", verdict(("s", seconds, "<=", 1.5), ("MB", memory, "<=", 200)))

    def png_row(self):
        """A PNG in training's form as the body."""
        self.start()
        row("PNG, raw body, 1 client", self.run(PNG, *self.pngs), p50=0.8, p99=4)
        self.capacity = row("PNG, raw body, 16 clients", self.run(PNG, *self.pngs, connections=16), p99=25, rate=2000)

    def form_row(self):
        """The same as a form."""
        self.start()
        self._tiny("form", FORM, *(form([("a.png", one)]) for one in self.pngs))

    def json_row(self):
        """The same as JSON of numbers."""
        self.start()
        self._tiny("JSON", JSON, *(json.dumps({"pixels": one[None].tolist()}).encode() for one in self.digits))

    def _tiny(self, name, kind, *bodies):
        row(f"the same as {name}, 1 client", self.run(kind, *bodies), p50=1.0, p99=5)
        row(f"the same as {name}, 16 clients", self.run(kind, *bodies, connections=16), p99=30, rate=1500)

    def drawing(self):
        """A drawing of 280×280."""
        self.start()
        body = as_png(drawing())
        row("drawing of 280×280, 1 client", self.run(PNG, body), p50=20, p99=40)
        row("drawing of 280×280, 4 clients", self.run(PNG, body, connections=4), p99=120, rate=60)

    def photo(self):
        """A 12-megapixel JPEG, photo model."""
        server, body = Server.of(self.photos), photo()
        server.load(PREDICT, JPEG, body, seconds=1)
        for clients, targets in ((1, {"p50": 70, "p99": 150}), (4, {"p99": 300, "rate": 25})):
            facts = server.load(PREDICT, JPEG, body, seconds=max(self.seconds, 5), connections=clients)
            row(f"12-megapixel JPEG, photo model, {clients} client{'s' * (clients > 1)}", facts, **targets)
        server.stop()

    @property
    def photos(self):
        if self.given.photos is None:
            import imprint

            chance = np.random.default_rng(0)
            pixels = chance.integers(0, 256, (24, 3, 96, 96), dtype=np.uint8)
            images = imprint.LabelledImages(pixels, np.arange(24) % 2, ("even", "odd"), np.arange(24).astype(str))
            self.given.photos = self.folder / "photos.onnx"
            run = imprint.train(images, "photos", epochs=1, min_steps=1, validation=0.0, verbose=False)
            imprint.export(run.model, self.given.photos)
        return self.given.photos

    def batch_raw(self):
        """64 images as raw bytes."""
        self.start()
        self._batch("raw", RAW, self.digits.tobytes(), f"?shape={','.join(map(str, self.digits.shape))}", 6, 10_000)

    def batch_json(self):
        """64 images as JSON."""
        self.start()
        self._batch("JSON", JSON, json.dumps({"pixels": self.digits.tolist()}).encode(), "", 10, 5000)

    def batch_png(self):
        """64 images as a form of PNGs."""
        self.start()
        self._batch("PNG", FORM, form([(f"{i}.png", one) for i, one in enumerate(self.pngs)]), "", 20, 2500)

    def _batch(self, name, kind, body, query, p50, rate):
        row(f"batch of 64 as {name}, 1 client", self.run(kind, body, path=PREDICT + query), 64, p50=p50)
        facts = self.run(kind, body, path=PREDICT + query, connections=2)
        row(f"batch of 64 as {name}, 2 clients", facts, 64, p99=40, rate=rate)

    def beside_photos(self):
        """Tiny ones while 4 clients send photos."""
        self.start()
        behind = self.server.start_load(PREDICT, JPEG, photo(), seconds=self.seconds + 1, connections=4)
        time.sleep(0.5)
        row("PNG, 1 client, while 4 send photos", self.run(PNG, *self.pngs), p99=50)
        ended(*behind)

    def training(self):
        """Tiny ones while it trains, and training while it answers."""
        import imprint

        digits = imprint.load("digits")
        server = Server.of("--project", self.folder / "project", "--token", TOKEN, ready="/healthz")
        files = [
            (f"{digits.class_names[label]}/{i}.png", as_png(Image.fromarray(pixels[0])))
            for i, (pixels, label) in enumerate(zip(digits.pixels[:TRAINED], digits.labels[:TRAINED], strict=True))
        ]
        for start in range(0, len(files), 64):
            server.ask("POST", "/api/folder", form(files[start : start + 64]), FORM)
        png = as_png(Image.fromarray(digits.pixels[0, 0]))
        self._trained(server)  # imports, and a first model
        alone = min(self._trained(server) for _ in range(2))
        behind = server.start_load(PREDICT, PNG, png, seconds=alone, rate=ASKED_MEANWHILE, connections=8, token=TOKEN)
        slowed = self._trained(server)
        facts = ended(*behind)
        row(f"PNG, {ASKED_MEANWHILE}/s, while it trains", facts, p50=5, p99=60)
        measured = f"{alone:.1f} s alone, {slowed:.1f} s meanwhile; both processes {server.memory():.0f} MB"
        told("training meanwhile", measured, verdict(("times", round(slowed / alone, 2), "<=", 1.5)))
        server.stop()

    def _trained(self, server):
        server.ask("POST", "/api/train", b"{}")
        while (status := server.ask("GET", "/api/train"))["state"] in ("warming", "training"):
            time.sleep(0.05)
        if status["state"] != "done":
            raise SystemExit(f"training ended so: {status}")
        return status["seconds"]

    def overload(self):
        """Five times too much, then normal again."""
        self.start()
        if self.capacity is None:
            self.capacity = self.run(PNG, *self.pngs, connections=16)
        capacity, seconds = self.capacity["rate"], self.given.overload_seconds
        options = {"rate": OVERLOAD * capacity, "seconds": seconds, "connections": OVERLOAD_CONNECTIONS}
        facts = self.run(PNG, *self.pngs, **options)
        row(f"{OVERLOAD} times {capacity:,.0f}/s, open loop, {seconds:g} s", facts, p99=250)
        share, refusals = facts["rate"] / capacity, facts.get("refused_p99", 0.0)
        measured = (
            f"{share:.0%} of capacity answered; refusals p99 {refusals:.2f} ms; client late p99 {facts['lag_p99']} ms"
        )
        told("  of it", measured, verdict(("share", round(share, 2), ">=", 0.9), ("refusals", refusals, "<=", 5)))
        time.sleep(1)
        row("  a second later, 1 client", self.run(PNG, *self.pngs, seconds=min(self.seconds, 2)), p50=0.8, p99=4)

    def hostile(self):
        """Memory under hostile load, and what a normal client sees of it."""
        self.start()
        bodies = [
            (JPEG, photo(), 8),
            (JSON, json.dumps({"pixels": np.zeros((64, 28, 28), int).tolist()}).encode(), 8),
            (PNG, bomb(), 8),
            (JSON, b"[" * 100_000, 4),
            (FORM, b"-" * 1_000_000, 4),
            (RAW, bytes(32 * 2**20), 4),
        ]
        slow = SlowClients(self.server.port, SLOW)
        time.sleep(2)
        row(f"PNG, 1 client, beside {SLOW} slow connections", self.run(PNG, *self.pngs), p99=50)
        behind = [
            self.server.start_load(PREDICT, kind, body, seconds=self.seconds + 1, connections=clients)
            for kind, body, clients in bodies
        ]
        most, stopped = [0.0], threading.Event()

        def watch():
            while not stopped.wait(0.05):
                most[0] = max(most[0], self.server.memory(children=False))

        watching = threading.Thread(target=watch)
        watching.start()
        time.sleep(0.5)
        facts = self.run(PNG, *self.pngs)
        for one in behind:
            ended(*one)
        stopped.set()
        watching.join()
        slow.stop()
        row("  and under other hostile load", facts)
        told("  memory at most", f"{most[0]:.0f} MB", verdict(("MB", round(most[0]), "<=", 700)))

    def million(self):
        """Memory over 1,000,000 requests."""
        self.start()
        wanted, done, first = self.given.requests, 0, 0.0
        while done < wanted:
            facts = self.run(PNG, *self.pngs, connections=16, seconds=10)
            done += facts["answered"]
            memory = self.server.memory(children=False)
            first = first or memory
            print(f"  {done:,} requests, {memory:.1f} MB, {facts['rate']:,.0f}/s", flush=True)
        grown = round((memory / first - 1) * 100, 1)
        told(f"{done:,} requests", f"{first:.0f} MB, then {memory:.0f}", verdict(("% more", grown, "<=", 5)))

    def peers(self):
        """FastAPI with onnxruntime, and LitServe, by their own tutorials."""
        self.start()
        if self.capacity is None:
            self.capacity = self.run(PNG, *self.pngs, connections=16)
        for kind in ("fastapi", "litserve"):
            if has_package(self.given.peers, kind):
                self._peer(kind)
            else:
                print(f"{kind}: left out, since --peers names no Python that has benchmarks/serve-requirements.txt")

    def _peer(self, kind):
        port, seconds = free_port(), self.seconds
        ready = "/docs" if kind == "fastapi" else "/health"
        server = Server([self.given.peers, HERE / "serve_peer.py", kind, str(self.model), str(port)], port, ready)
        print(f"{kind}: ready after {server.seconds:.2f} s, {server.memory():.0f} MB", flush=True)
        path, media, bodies, name = "/raw", PNG, self.pngs, "raw body"
        if kind == "litserve":
            bodies = [json.dumps({"image": base64.b64encode(one).decode()}).encode() for one in self.pngs]
            path, media, name = "/predict", JSON, "base64"
        row(f"{kind}, PNG, {name}, 1 client", server.load(path, media, *bodies, seconds=seconds))
        busy = row(
            f"{kind}, PNG, {name}, 16 clients", server.load(path, media, *bodies, seconds=seconds, connections=16)
        )
        if kind == "fastapi":
            facts = server.load(
                "/form", FORM, *(form([("a.png", one)]) for one in self.pngs), seconds=seconds, connections=16
            )
            row(f"{kind}, the same as a form, 16 clients", facts)
        if busy["rate"]:
            print(f"  imprint serve answers {self.capacity['rate'] / busy['rate']:.1f} times as many")
            options = {"rate": OVERLOAD * busy["rate"], "seconds": seconds, "connections": OVERLOAD_CONNECTIONS}
            row(f"{kind}, {OVERLOAD} times too much", server.load(path, media, *bodies, **options))
        server.stop()


ROWS = {
    "ready": Bench.ready,
    "png": Bench.png_row,
    "form": Bench.form_row,
    "json": Bench.json_row,
    "drawing": Bench.drawing,
    "batch-raw": Bench.batch_raw,
    "batch-json": Bench.batch_json,
    "batch-png": Bench.batch_png,
    "beside-photos": Bench.beside_photos,
    "overload": Bench.overload,
    "photo": Bench.photo,
    "training": Bench.training,
    "hostile": Bench.hostile,
    "peers": Bench.peers,
    "million": Bench.million,
}


def has_package(python, name):
    if python is None or not python.exists():
        return False
    return not subprocess.run([python, "-c", f"import {name}"], stderr=subprocess.DEVNULL).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an exported model; without it, one of the bundled digits")
    parser.add_argument("--photos", type=Path, help="an exported model of photos; without it, one of noise, as slow")
    parser.add_argument("--peers", type=Path, help="a Python that has benchmarks/serve-requirements.txt")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--overload-seconds", type=float, default=30)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the row million")
    left = [name for name in ROWS if name != "million"]
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=left, help="all but million by default")
    bench = Bench(parser.parse_args())
    print(machine(), flush=True)
    for name in bench.given.rows:
        ROWS[name](bench)
    bench.close()


if __name__ == "__main__":
    main()
