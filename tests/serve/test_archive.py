"""A project as one file: all of it comes back, and hostile files change nothing."""

import asyncio
import io
import json
import stat
import zipfile

import pytest

from imprint.core.errors import DataError
from imprint.serve import archive
from imprint.serve.problems import Problem
from imprint.serve.project import Project
from serve.pictures import png
from serve.test_project import facts, filled, pictures


@pytest.fixture
def project(tmp_path):
    opened = Project(tmp_path / "p")
    filled(opened, takes=5)  # of which one at least is held out
    yield opened
    opened.close()


@pytest.fixture
def other(tmp_path):
    opened = Project(tmp_path / "other")
    key = opened.add_class("Mine")
    opened.add_samples(opened.add_take(key, "upload"), pictures(77))
    yield opened
    opened.close()


def with_version(project):
    folder = project.versions.new_folder()
    (folder / "model.safetensors").write_bytes(b"model")
    (folder / "model.onnx").write_bytes(b"exported")
    training, _ = project.training_sets()
    facts = {"trained": [sha for sha, _ in training], "when": "now", "images": 3, "recipe": "probe", "score": None}
    project.use(project.versions.add(folder, facts))


def without_ids(project):
    return [(name, [count for _, count in takes], shas) for name, takes, shas in facts(project)]


def test_a_saved_project_comes_back_whole_and_undo_brings_the_old_one_back(project, other):
    with_version(project)
    before, path = facts(other), archive.save(project)
    version = archive.open_file(other, path)
    assert without_ids(other) == without_ids(project)
    exam = [[sha for sha, take in one.state.samples() if take.exam] for one in (project, other)]
    assert exam[0] == exam[1] != []
    for sha, _ in project.state.samples():
        assert other.sample(sha) == project.sample(sha)
    assert other.versions.exported(version).read_bytes() == b"exported"
    assert other.versions.trained() == project.versions.trained()
    other.undo()
    assert facts(other) == before


def test_it_survives_a_restart_and_can_be_saved_again(project, other, tmp_path):
    archive.open_file(other, archive.save(project))
    other.close()
    again = Project(tmp_path / "other")
    assert without_ids(again) == without_ids(project)
    archive.open_file(project, archive.save(again))
    again.close()


def entries_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def changed_facts(**changes):
    def change(entries):
        known = json.loads(entries["project.json"])
        for key, value in changes.items():
            known[key] = value(known[key]) if callable(value) else value
        return {**entries, "project.json": json.dumps(known)}

    return change


def changed_state(change):
    def changed(state):
        change(state)
        return state

    return changed_facts(state=changed)


HOSTILE = {
    "absolute": lambda entries: {**entries, "/etc/cron.d/x": b"x"},
    "above": lambda entries: {**entries, "../x": b"x"},
    "nested": lambda entries: {**entries, "versions/1/a.zip": b"PK"},
    "no facts": lambda entries: {name: entries[name] for name in entries if name != "project.json"},
    "no samples": lambda entries: {"project.json": entries["project.json"]},
    "deep": lambda entries: {**entries, "project.json": "[" * 100_000},
    "other json": lambda entries: {**entries, "project.json": "[1]"},
    "html as a sample": lambda entries: {**entries, "samples/0.bin": b"<html>" + entries["samples/0.bin"][6:]},
    "cut samples": lambda entries: {**entries, "samples/0.bin": entries["samples/0.bin"][:-1]},
    "sample named like a path": changed_facts(samples=lambda listed: [["../../x", *listed[0][1:]], *listed[1:]]),
    "huge size": changed_facts(samples=lambda listed: [[listed[0][0], 10**30, 0], *listed[1:]]),
    "unknown sample in a take": changed_state(lambda state: state["takes"][0]["samples"].append("0" * 64)),
    "unknown class of a take": changed_state(lambda state: state["takes"][0].update({"class": "c999"})),
    "a class without a name": changed_state(lambda state: state["classes"][0].update(name="")),
    "a name with a line break": changed_state(lambda state: state["classes"][0].update(name="a\nb")),
    "one name twice": changed_state(lambda state: state["classes"][0].update(name="Paper")),
    "exam is no truth value": changed_state(lambda state: state["takes"][0].update(exam="no")),
    "missing version": changed_facts(versions={"7": {"trained": []}}),
    "version named like a path": changed_facts(versions={"../7": {"trained": []}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_changes_nothing(project, other, tmp_path, name):
    path = packed(tmp_path / "hostile.zip", HOSTILE[name](entries_of(archive.save(project))))
    before, files = facts(other), sorted(tmp_path.rglob("*"))
    with pytest.raises((DataError, Problem)):
        archive.open_file(other, path)
    assert facts(other) == before
    assert sorted(tmp_path.rglob("*")) == files


def test_links_bombs_and_crowds_are_refused(project, other, tmp_path, monkeypatch):
    entries = entries_of(archive.save(project))
    link = zipfile.ZipInfo("versions/1/model.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    bomb = packed(tmp_path / "bomb.zip", {**entries, "samples/1.bin": bytes(2 * 10**7)}, zipfile.ZIP_DEFLATED)
    crowd = packed(tmp_path / "crowd.zip", {f"samples/{number}.bin": b"" for number in range(10_001)})
    for path, cause in (("link.zip", "a link"), (bomb, "100 times"), (crowd, "10,000 entries")):
        with pytest.raises(DataError, match=cause):
            archive.open_file(other, tmp_path / path)
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="1 GB"):
        archive.open_file(other, packed(tmp_path / "large.zip", entries))


def test_an_entry_that_lies_about_its_size_is_cut_off_while_inflating(project, other, tmp_path):
    content = packed(tmp_path / "a.zip", {"project.json": b" " * 5_000_000}, zipfile.ZIP_DEFLATED).read_bytes()
    lying = content.replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lying != content
    (tmp_path / "b.zip").write_bytes(lying)
    with pytest.raises(DataError):
        archive.open_file(other, tmp_path / "b.zip")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", png(1), b"\x1f\x8b" + bytes(100)])
def test_another_file_is_refused(other, tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="another program's"):
        archive.open_file(other, tmp_path / "a.zip")


def test_flipped_bytes_never_break_the_server_and_change_nothing(project, other, tmp_path):
    import random

    content, before = archive.save(project).read_bytes(), facts(other)
    for seed in range(60):
        chosen, flipped = random.Random(seed), bytearray(content)
        for _ in range(3):
            flipped[chosen.randrange(len(flipped))] ^= 1 << chosen.randrange(8)
        (tmp_path / "a.zip").write_bytes(flipped)
        try:
            archive.open_file(other, tmp_path / "a.zip")
        except (DataError, Problem):
            assert facts(other) == before
        else:  # what no checksum covers, such as a date
            assert without_ids(other) == without_ids(project)
            other.undo()


def test_a_body_of_more_than_1_gb_is_refused_while_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 10)

    async def parts():
        for _ in range(100):
            yield b"1234"

    with pytest.raises(Problem) as refused:
        asyncio.run(archive.receive(parts(), tmp_path / "a"))
    assert refused.value.status == 413


def test_class_folders_leave_as_folders_that_train_reads(project, tmp_path):
    from imprint import load

    for seed, name in enumerate(("../../up", "CON", "a/b", "x" * 150), start=1000):
        key = project.add_class(name)
        project.add_samples(project.add_take(key, "upload"), pictures(seed))
    content = archive.save_folders(project).read_bytes()
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert all(name.count("/") == 1 and name.strip("/.") == name for name in names)
    assert not any(name.startswith(("/", "CON/")) for name in names)
    (tmp_path / "f.zip").write_bytes(content)
    assert load(tmp_path / "f.zip").class_counts()["Rock"] == 10
