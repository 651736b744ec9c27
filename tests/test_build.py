"""What pip installs is whole: built as PyPI would get it, installed into an empty folder, and run from there."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_sdist, build_wheel

import imprint

ROOT = Path(__file__).parent.parent
DISTRIBUTION = f"imprint_vision-{imprint.__version__}"  # imprint is another project's name on PyPI
NEEDED = (
    "imprint/py.typed",
    "imprint/report/templates/findings.html",
    "imprint/models/templates/model_card.md",
    "imprint/data/readers/csv.py",
    "imprint/runs/training.py",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    before = Path.cwd()
    os.chdir(ROOT)  # as PEP 517 asks of who calls
    try:
        return folder / build_wheel(str(folder)), folder / build_sdist(str(folder))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", folder]
    subprocess.run([sys.executable, "-m", "pip", *install, built[0]], check=True)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = archive.namelist()
    assert set(NEEDED) <= set(names)
    assert {name.split("/")[0] for name in names} == {"imprint", f"{DISTRIBUTION}.dist-info"}
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources <= set(names)


def test_the_sdist_holds_what_a_packager_needs(built):
    with tarfile.open(built[1]) as archive:
        names = set(archive.getnames())
    for name in (
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "constraints.txt",
        "tests/conftest.py",
    ):
        assert f"{DISTRIBUTION}/{name}" in names
    assert {f"{DISTRIBUTION}/src/{name}" for name in NEEDED} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".safetensors", ".npz", ".zip"))]


def test_a_packager_builds_the_same_wheel_from_the_sdist(built, tmp_path, monkeypatch):
    with tarfile.open(built[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / DISTRIBUTION)
    with zipfile.ZipFile(built[0]) as first, zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as again:
        assert {name: first.read(name) for name in first.namelist()} == {
            name: again.read(name) for name in again.namelist()
        }


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_installed_command_runs(installed):
    script = "import imprint, sys; print(imprint.__file__, imprint.__version__)"
    where, version = run(installed, "-c", script).split()
    assert Path(where).is_relative_to(installed)
    assert version == imprint.__version__
    assert "train" in run(installed, "-m", "imprint", "--help")
    assert (installed / "bin" / "imprint").is_file() or (installed / "Scripts" / "imprint.exe").is_file()
    assert run(installed, "-m", "imprint", "--version").split()[-1] == imprint.__version__
    assert "digits" in run(installed, "-m", "imprint", "show", "digits")
