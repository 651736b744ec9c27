"""The process: readiness, its model file, how it ends, and what it says."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import imprint
from helpers import refused
from serve_helpers import form, png

IMAGE = png(np.zeros((8, 8), dtype=np.uint8))


def test_it_tells_what_it_is(server):
    facts = server.get("/v1/model").json
    assert facts["classes"] == [str(digit) for digit in range(10)]
    assert facts["image"] == {"channels": 1, "height": 8, "width": 8}
    assert server.get("/healthz").json == {"status": "ok"}
    assert server.get("/readyz").json == {"status": "ready", "model": facts["model"]}


def test_unknown_addresses_and_methods_are_problems(server):
    for answer, status in ((server.get("/nothing"), 404), (server.get("/v1/predict"), 405), (server.get("/v1/"), 404)):
        assert (answer.status, answer.kind) == (status, "application/problem+json")
        assert answer.json["title"]
    assert server.get("/v1/predict").headers["Allow"] == "POST"


def test_metrics_count(server):
    def counted(name):
        lines = server.get("/metrics").content.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = counted('imprint_requests_total{path="/v1/predict",status="200"}'), counted("imprint_images_total")
    server.predict(form([("a", IMAGE), ("b", IMAGE)]), "multipart/form-data; boundary=x")
    after = counted('imprint_requests_total{path="/v1/predict",status="200"}'), counted("imprint_images_total")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 2)
    assert 30e6 < counted("process_resident_memory_bytes") < 250e6
    lines = dict(line.rsplit(" ", 1) for line in server.get("/metrics").content.decode().splitlines())
    assert lines['imprint_request_seconds_bucket{le="+Inf"}'] == lines["imprint_request_seconds_count"]
    server.get("/x" * 50)
    assert b"/x/x" not in server.get("/metrics").content  # any address might be asked


def test_it_never_imports_torch(onnx_file, tmp_path):
    script = (
        "import sys, threading, os, signal\n"
        "from pathlib import Path\n"
        "from imprint.serve.security import Settings\n"
        "from imprint.serve.server import serve\n"
        "threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        f"serve(Settings(port=0), Path({str(onnx_file)!r}), None, browser=False)\n"
        "heavy = [name for name in ('torch', 'sklearn', 'scipy', 'matplotlib', 'polars') if name in sys.modules]\n"
        "print(heavy)\n"
    )
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_answers_what_it_has_accepted(started, onnx_file, number):
    server = started(onnx_file)
    drawing = png(np.pad(np.zeros((20, 60), dtype=np.uint8), 100, constant_values=255))
    answers = []
    body = form([(f"{i}.png", drawing) for i in range(20)])
    thread = threading.Thread(
        target=lambda: answers.append(server.predict(body, "multipart/form-data; boundary=x").status)
    )
    thread.start()
    time.sleep(0.15)
    started_at = time.perf_counter()
    server.process.send_signal(number)
    if number == signal.SIGTERM:
        time.sleep(0.1)
        answer = server.get("/readyz")
        assert (answer.status, answer.json["title"]) == (503, "Stopping")
        assert server.get("/healthz").status == 200
    assert server.stop(signal.SIGCONT) == 0
    thread.join()
    assert answers == [200]
    assert time.perf_counter() - started_at < 8
    assert not any("rror" in line for line in server.lines), server.lines


def test_a_model_file_is_exported_once_and_then_kept(started, model_file, tmp_path):
    cache = {"IMPRINT_CACHE": str(tmp_path / "cache")}
    server = started(model_file, wait="/healthz", **cache)
    answer = server.get("/readyz")
    assert answer.status == 503
    assert answer.json["title"] == "Preparing"
    early = server.predict(IMAGE)
    assert (early.status, early.json["title"], early.headers["Retry-After"]) == (503, "Preparing", "1")
    while server.get("/readyz").status != 200:
        assert server.process.poll() is None, server.lines
        time.sleep(0.1)
    assert server.predict(IMAGE).status == 200
    (kept,) = (tmp_path / "cache" / "exports").iterdir()
    digest = server.get("/v1/model").json["model"]
    server.stop()
    again = started(model_file, wait="", **cache)
    assert again.get("/readyz").json == {"status": "ready", "model": digest}  # at once
    assert [kept] == list((tmp_path / "cache" / "exports").iterdir())


def test_a_changed_model_file_is_exchanged_and_a_broken_one_is_not(started, onnx_file, model, tmp_path):
    path = tmp_path / "model.onnx"
    shutil.copy(onnx_file, path)
    server = started(path)
    first = server.get("/v1/model").json["model"]
    path.write_bytes(b"no model")
    wait_for(lambda: any("cannot be used" in line for line in server.lines))
    assert server.predict(IMAGE).json["model"] == first
    imprint.export(model, tmp_path / "new.onnx", plain=True)
    (tmp_path / "new.onnx").replace(path)
    wait_for(lambda: server.get("/v1/model").json["model"] != first)
    assert server.predict(IMAGE).status == 200
    path.unlink()
    time.sleep(1.5)
    assert server.predict(IMAGE).status == 200


def wait_for(condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_its_log_has_one_line_an_event(started, onnx_file):
    server = started(onnx_file)
    server.get("/%0aforged%20line", headers={"X-Request-Id": "x"})
    server.predict(form([("a\nforged: line.png", b"no"), ("b", IMAGE)]), "multipart/form-data; boundary=x")
    server.stop()
    assert not any(line.startswith("forged") for line in server.lines)


def test_bad_starts_are_refused_in_one_line(onnx_file, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert "bad.onnx" in refused("serve", tmp_path / "bad.onnx", "--no-browser", cwd=tmp_path)
    assert "none.onnx" in refused("serve", tmp_path / "none.onnx", "--no-browser", cwd=tmp_path)
    assert "--cert and --key" in refused("serve", onnx_file, "--cert", "c.pem", cwd=tmp_path)
    assert "--allow-origin" in refused("serve", onnx_file, "--allow-origin", "*", cwd=tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = refused("serve", onnx_file, "--port", taken.getsockname()[1], "--no-browser", cwd=tmp_path)
        assert "--port" in line
    assert "9.9.9.9" in refused("serve", onnx_file, "--host", "9.9.9.9", "--port", "0", "--no-browser", cwd=tmp_path)
    (tmp_path / "c.pem").write_text("no certificate")
    given = ["--cert", tmp_path / "c.pem", "--key", tmp_path / "c.pem", "--port", "0", "--no-browser"]
    assert "certificate" in refused("serve", onnx_file, *given, cwd=tmp_path)


def test_without_a_disk_to_write_to_a_model_is_served_all_the_same(started, onnx_file, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    server = started(onnx_file, "--host", "0.0.0.0", folder=blocked, wait="/readyz")
    assert any("sessions will not survive" in line for line in server.lines)
    assert any("no teaching here" in line for line in server.lines)
    assert server.stop() == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_https(started, onnx_file, tmp_path):
    made = [tmp_path / "cert.pem", tmp_path / "key.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-out", made[0], "-keyout", made[1]], check=True, capture_output=True)
    server = started(onnx_file, "--cert", made[0], "--key", made[1], wait="")
    trusted = ssl.create_default_context(cafile=str(made[0]))
    trusted.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trusted, timeout=30)
    connection.request("GET", f"/login?code={server.code}")
    answer = connection.getresponse()
    assert answer.status == 303
    assert "Secure" in answer.headers["Set-Cookie"]
    connection.close()


def test_without_the_extra_it_says_what_to_install(tmp_path):
    script = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
        "sys.argv = ['imprint', 'serve']\n"
        "from imprint.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "error: package uvicorn at this Python: it is missing, and serve needs it. "
        "Install what it needs: pip install starlette uvicorn httptools python-multipart segno onnx onnxruntime.\n"
    )


def test_help_needs_no_package_of_the_extra():
    script = (
        "import sys\nfrom imprint.cli.app import app\nprint([m for m in ('starlette', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout.replace("'", '"')) == []
