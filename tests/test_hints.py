"""What users are told to install is what they need: on PyPI the name imprint belongs to another project."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIBRARIES = {
    re.split(r"[\[>=<~!; ]", requirement)[0]
    for requirement in (*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra))
}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("templates/*")]
CODE = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
COMMAND = re.compile(r"pip install ([^`»\n]*)")
WORD = re.compile(r"""'[^']*'|"[^"]*"|\S+""")


def texts(path):
    """The whole file, and in code each string as it is shown, however its line is broken."""
    whole = path.read_text(encoding="utf-8")
    yield whole
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(whole)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def wrong_hints(text):
    """What a text tells one to install that is neither a library that Imprint uses nor the clone itself."""
    if "imprint[" in text:
        yield "imprint["
    for command in COMMAND.findall(text):
        words = [word.rstrip("\"'.,;:)").lstrip("\"'") for word in WORD.findall(command)]
        known = {*LIBRARIES - {PROJECT["name"]}, "-c", "constraints.txt", "-e", "."}
        for word in words:
            extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
            if word and word not in known and not (extras and set(extras[1].split(",")) <= set(EXTRAS)):
                yield word


@pytest.mark.parametrize("path", [*PAGES, *CODE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_hint_names_what_is_missing(path):
    assert not [word for text in texts(path) for word in wrong_hints(text)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("it is missing: pip install onnx onnxruntime", []),
        ("`pip install huggingface_hub`, or `pip install -e '.[hub,export]'`", []),
        (".venv/bin/python -m pip install -c constraints.txt -e '.[dev]'", []),
        ("pip install imprint", ["imprint"]),
        ("pip install imprint-vision", ["imprint-vision"]),
        ("Install it: pip install 'imprint[export]'.", ["imprint[", "imprint[export]"]),
        ("pip install -e '.[nonsense]'", [".[nonsense]"]),
        ("pip install onyx", ["onyx"]),
    ],
)
def test_a_wrong_hint_is_noticed(text, wrong):
    assert list(wrong_hints(text)) == wrong
