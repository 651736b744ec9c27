"""What docs/serving.md shows is run as it stands there, against a real server."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from PIL import Image

from imprint.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(digits, tmp_path, monkeypatch):
    for name, position in (("seven", 7), ("one", 1)):
        Image.fromarray(digits.pixels[position, 0]).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples(language, server):
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [one.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{server.port}") for one in found]


def test_python(server, folder, capsys):
    (code,) = examples("python", server)
    exec(code, {})
    assert re.fullmatch(r"7 [01]\.\d{4} (sure|low confidence)\n", capsys.readouterr().out)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(server, folder):
    lines = [line for code in examples("sh", server) for line in code.splitlines() if line.startswith("curl")]
    assert len(lines) == 2
    answers = [
        json.loads(subprocess.run([*shlex.split(line), "-s"], capture_output=True, check=True).stdout) for line in lines
    ]
    assert [[one["label"] for one in answer["predictions"]] for answer in answers] == [["7"], ["7", "1"]]


def test_the_answer_shown_has_the_keys_of_a_real_one(server, folder):
    (shown,) = examples("json", server)
    shown = json.loads(shown)
    real = server.predict((folder / "seven.png").read_bytes()).json
    assert list(shown) == list(real)
    assert list(shown["predictions"][0]) == list(real["predictions"][0])


def test_every_option_is_told():
    verb = typer.main.get_command(app).commands["serve"]
    options = {name for one in verb.params for name in one.opts if name.startswith("--")}
    untold = {name for name in options if f"`{name}" not in PAGE} - {"--browser", "--quiet", "--help"}
    assert not untold
