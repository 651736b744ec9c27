"""A project: everything can be undone, nothing accepted is lost, and the exam is never trained on."""

import os
import stat

import pytest

from imprint.core.errors import DataError, UsageError
from imprint.serve.hints import alike
from imprint.serve.problems import Problem
from imprint.serve.project import Given, Project, default_folder
from imprint.serve.samples import encode
from imprint.serve.state import is_held_out
from serve.pictures import drawing, photo, png, saved


@pytest.fixture
def project(tmp_path):
    opened = Project(tmp_path / "p")
    yield opened
    opened.close()


def pictures(*seeds):
    return [Given(f"{seed}.png", png(seed)) for seed in seeds]


def filled(project, *, takes=1, size=2, kind="camera"):
    """Add classes Rock and Paper with some takes each; gives their ids."""
    keys = [project.add_class(name) for name in ("Rock", "Paper")]
    seed = 0
    for _ in range(takes):
        for key in keys:
            project.add_samples(project.add_take(key, kind), pictures(*range(seed, seed + size)))
            seed += size
    return keys


def facts(project):
    """What a page sees of classes and samples."""
    summary = project.summary()
    return [
        (each["name"], [(take["id"], take["count"]) for take in project.takes_of(each["id"])], each["thumbnails"])
        for each in summary["classes"]
    ]


def test_it_is_private_and_locked_against_a_second_server(tmp_path):
    first = Project(tmp_path / "p")
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "p/journal.jsonl").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="another imprint serve uses it"):
        Project(tmp_path / "p")
    first.close()
    Project(tmp_path / "p").close()


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    before = stat.S_IMODE(tmp_path.stat().st_mode)
    with pytest.raises(UsageError, match="something else"):
        Project(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == before
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_the_users_folder_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "imprint" / "project"


def test_everything_can_be_undone_and_done_again_and_survives_a_restart(project, tmp_path):
    states = [facts(project)]
    rock = project.add_class("Rock")
    states.append(facts(project))
    paper = project.add_class("Paper")
    states.append(facts(project))
    added, _ = project.add_samples(project.add_take(rock, "camera"), pictures(1, 2, 3))
    states.append(facts(project))
    project.rename_class(rock, "Stone")
    states.append(facts(project))
    project.move_samples(added[:1], paper)
    states.append(facts(project))
    project.delete_samples(added[1:2])
    states.append(facts(project))
    project.correct(paper, given=Given("a", png(9)))
    states.append(facts(project))
    project.add_folders({"Stone": pictures(20), "Lizard": pictures(21, 22)})
    states.append(facts(project))
    project.delete_class(paper)
    states.append(facts(project))
    for state in reversed(states[:-1]):
        project.undo()
        assert facts(project) == state
    with pytest.raises(Problem, match="Nothing to undo"):
        project.undo()
    for state in states[1:5]:
        project.redo()
        assert facts(project) == state
    project.close()
    again = Project(tmp_path / "p")
    assert facts(again) == states[4]
    for state in states[5:]:
        again.redo()
        assert facts(again) == state
    with pytest.raises(Problem, match="Nothing to redo"):
        again.redo()
    assert all(again.sample(sha)[0] for _, _, shas in facts(again) for sha in shas)
    again.close()


def test_a_recording_in_several_requests_is_undone_at_once(project):
    rock = project.add_class("Rock")
    take = project.add_take(rock, "camera")
    project.add_samples(take, pictures(1, 2))
    project.add_samples(take, pictures(3))
    project.add_take(rock, "camera")  # begun, and no picture came
    project.undo()
    assert facts(project) == [("Rock", [], [])]
    with pytest.raises(Problem, match="No such take"):
        project.add_samples(take, pictures(4))


def test_ids_are_never_used_twice(project, tmp_path):
    key = project.add_class("Rock")
    take = project.add_take(key, "camera")
    project.undo()
    project.close()
    again = Project(tmp_path / "p")
    assert again.add_class("Paper") not in (key, take)
    again.close()


@pytest.mark.parametrize("name", ["../x", "CON", "<img src=x onerror=alert(1)>", "right\u202eleft", "日本", "a/b\\c"])
def test_any_name_is_a_label_and_never_a_path(project, tmp_path, name):
    key = project.add_class(name)
    project.add_samples(project.add_take(key, "upload"), pictures(1))
    assert project.summary()["classes"][0]["name"] == name
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"p", "samples"}
    assert {path.stem for path in (tmp_path / "p/samples").iterdir()} == {encode(png(1), "").sha}


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "a\nb", "x" * 10_000, "half \ud800", "Rock"])
def test_other_names_are_refused_in_words(project, name):
    project.add_class("Rock")
    with pytest.raises(Problem) as refused:
        project.add_class(name)
    assert refused.value.status == 422
    assert len(project.summary()["classes"]) == 1


def test_the_quota_is_told_in_words_and_nothing_is_lost(tmp_path):
    project = Project(tmp_path / "p", max_samples=3)
    rock = project.add_class("Rock")
    take = project.add_take(rock, "camera")
    project.add_samples(take, pictures(1, 2))
    with pytest.raises(Problem, match="full") as refused:
        project.add_samples(take, pictures(3, 4))
    assert refused.value.status == 507
    assert "at most 3 pictures" in refused.value.detail
    assert len(list((tmp_path / "p/samples").iterdir())) == 2
    project.add_samples(take, pictures(3))
    project.close()


def test_what_was_deleted_gives_way_when_only_that_fills_the_quota(tmp_path):
    size = encode(png(1), "").look.size
    project = Project(tmp_path / "p", max_bytes=size * 5 // 2)
    rock = project.add_class("Rock")
    for seed in range(8):
        project.add_samples(project.add_take(rock, "upload"), pictures(seed))
        project.delete_samples([encode(png(seed), "").sha])
    assert len(list((tmp_path / "p/samples").iterdir())) <= 5
    project.add_samples(project.add_take(rock, "upload"), pictures(50))
    before = facts(project)
    project.close()
    again = Project(tmp_path / "p")
    assert facts(again) == before
    again.close()


@pytest.mark.parametrize("call", ["fsync", "write", "replace"])
def test_a_full_disk_keeps_the_project_as_it_was(project, tmp_path, monkeypatch, call):
    rock, _ = filled(project)
    take, before = project.add_take(rock, "camera"), facts(project)
    files = {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()}

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(
            *{"fsync": (os, "fsync"), "write": (os, "write"), "replace": ("pathlib.Path.replace",)}[call][:2], refuse
        )
        for change in (
            lambda: project.add_samples(take, pictures(70, 71)),
            lambda: project.correct(rock, given=Given("a", png(72))),
            lambda: call != "replace" and project.add_class("new"),
            lambda: call != "replace" and project.undo(),
        ):
            try:
                change()
            except Problem as problem:
                assert problem.status == 507
                assert "isk is full" in problem.title
            else:
                assert call == "replace"
    assert facts(project) == before
    assert {path: path.read_bytes() for path in (tmp_path / "p").rglob("*") if path.is_file()} == files
    project.add_samples(take, pictures(70))
    assert project.state.count() == 5


def test_what_can_never_be_redone_leaves_the_disk(project, tmp_path):
    rock, _ = filled(project)
    for seed in range(90, 95):
        project.add_samples(project.add_take(rock, "upload"), pictures(seed))
        project.undo()
    assert len(list((tmp_path / "p/samples").iterdir())) == 5  # the last can still be redone
    project.redo()
    assert project.state.count() == 5


def test_a_project_of_another_imprint_is_refused_and_left_alone(project, tmp_path):
    project._journal.append({"unit": "u", "next": 9, "events": [{"do": "fly"}]})
    project.close()
    before = (tmp_path / "p/journal.jsonl").read_bytes()
    with pytest.raises(DataError, match="not as this Imprint writes them"):
        Project(tmp_path / "p")
    assert (tmp_path / "p/journal.jsonl").read_bytes() == before


def test_a_kill_between_storing_and_noting_leaves_no_litter(project, tmp_path):
    filled(project)
    project.close()
    stray = encode(png(99), "")
    (tmp_path / "p/samples" / f"{stray.sha}.png").write_bytes(stray.content)
    (tmp_path / "p/samples" / ".x.png.part").write_bytes(b"half")
    again = Project(tmp_path / "p")
    assert len(list((tmp_path / "p/samples").iterdir())) == 4
    again.close()


def test_a_bad_picture_has_its_problem_and_the_others_are_added(project):
    take = project.add_take(project.add_class("Rock"), "upload")
    added, problems = project.add_samples(take, [*pictures(1), Given("x.svg", b"<svg></svg>"), *pictures(1)])
    assert len(added) == 1
    assert [each["source"] for each in problems] == ["x.svg", "1.png"]
    assert "SVG" in problems[0]["detail"]
    assert problems[1]["title"] == "There already"


def test_the_exam_is_one_take_of_three_by_hash_from_the_third_on(project):
    rock, _ = filled(project, takes=11, size=1)
    held_out = [take.exam for take in project.state.takes_of(rock)]
    assert not any(held_out[:2])
    assert [sum(held_out[start : start + 3]) for start in (2, 5, 8)] == [1, 1, 1]
    assert held_out == [is_held_out(project.key, rock, number, "camera") for number in range(11)]
    places = {tuple(is_held_out(f"{key}", "c", made, "camera") for made in (2, 3, 4)) for key in range(50)}
    assert len(places) == 3  # it is not always the same of the three


def test_corrections_never_join_the_exam_and_what_is_in_the_exam_stays_there(project):
    rock, paper = filled(project, takes=5, size=1)
    for seed in range(100, 120):
        project.correct(rock, given=Given("a", png(seed)))
    assert not any(take.exam for take in project.state.takes_of(rock) if take.kind == "correction")
    before = {sha for sha, take in project.state.samples() if take.exam}
    assert before
    sha = next(sha for take in project.state.takes_of(rock) if take.exam for sha in take.samples)
    project.correct(paper, sha)
    project.move_samples([sha], rock)
    project.move_samples([sha], paper)
    assert {sha for sha, take in project.state.samples() if take.exam} == before
    content = project.sample(sha)[0]
    with pytest.raises(Problem, match="In the exam"):
        project.correct(rock, given=Given("a", content))
    training, exam = project.training_sets()
    assert {sha for sha, _ in exam} == before
    assert not before & {sha for sha, _ in training}


def test_no_version_trains_on_the_exam_whatever_is_done(project):
    rock, paper = filled(project, takes=5, size=2)
    training, exam = project.training_sets()
    folder = project.versions.new_folder()
    project.versions.add(folder, {"trained": [sha for sha, _ in training]})
    shown = project.sample(training[0][0])[0]
    project.delete_samples([training[0][0]])
    while True:  # the same picture comes back in a take that is held out: it was trained on, so it tests nothing
        take = project.add_take(rock, "upload")
        if project.state.takes[take].exam:
            break
    project.add_samples(take, [Given("again", shown)])
    again, exam_again = project.training_sets()
    assert training[0][0] not in {sha for sha, _ in exam_again}
    assert not {sha for sha, _ in again} & {sha for sha, _ in exam}
    for sha, _ in exam:  # moved and back, it is still held out
        project.move_samples([sha], paper)
    assert not {sha for sha, _ in project.training_sets()[0]} & {sha for sha, _ in exam}


def test_moved_samples_stay_with_the_scene_they_were_recorded_in(project):
    rock, paper = filled(project)
    take = project.state.takes_of(rock)[0]
    project.move_samples([next(iter(take.samples))], paper)
    assert project.state.takes_of(paper)[-1].scene == take.id


def test_the_same_picture_in_two_classes_is_found_and_a_move_chooses(project):
    rock, paper = filled(project)
    project.add_samples(project.add_take(paper, "upload"), pictures(0))
    [found] = [each for each in project.summary()["findings"] if each["kind"] == "conflict"]
    assert found["blocks"]
    assert found["classes"] == [rock, paper]
    project.move_samples(found["where"], paper)
    assert not project.summary()["findings"]
    assert [len(project.state.takes_of(key)) for key in (rock, paper)] == [1, 2]


def test_hints_speak_of_darkness_likeness_and_uneven_classes(project):
    from PIL import Image

    rock, _ = filled(project, size=1)
    dark = [Given("a", saved(Image.new("RGB", (30, 30), (level, 9, 9)), "PNG")) for level in (5, 20)]
    project.add_samples(project.add_take(rock, "camera"), dark)
    still = [Given("a", photo(0, 3))] + [Given("a", photo(0, 3)[:-2] + bytes([0, 0])) for _ in range(1)]
    project.add_samples(project.add_take(rock, "camera"), still)
    project.add_samples(project.add_take(rock, "upload"), pictures(*range(40, 45)))
    summary = project.summary()
    hints = {each["name"]: each["hints"] for each in summary["classes"]}
    assert "2 too dark" in hints["Rock"]
    assert hints["Paper"] == []
    kinds = {each["kind"]: each for each in summary["findings"]}
    assert len(kinds["dark"]["where"]) == 2
    assert "Paper only 1" in kinds["imbalance"]["message"]
    assert not kinds["imbalance"]["blocks"]


def test_near_copies_within_a_take_are_counted():
    import numpy as np

    assert alike(np.array([0b1111_0000, 0b1111_0001, 2**60 - 1, 0b1111_0000], dtype=np.uint64)) == 2


def test_ten_thousand_samples_are_summed_up_and_listed_in_pages(project, monkeypatch):
    rock = project.add_class("Rock")
    sample = encode(png(1), "")
    looks = {f"{number:064x}": sample.look.to_dict() | {"print": number << 20} for number in range(10_000)}
    for start in range(0, 10_000, 100):
        take = project._take_event(rock, "camera")
        chosen = dict(list(looks.items())[start : start + 100])
        project._do("u", [take, {"do": "add", "take": take["id"], "samples": chosen}])
    assert project.summary()["classes"][0]["samples"] == 10_000
    page = project.samples_of(rock, 9_900, 200)
    assert page["total"] == 10_000
    assert len(page["samples"]) == 100


def test_drawings_are_not_called_dark_or_alike(project):
    key = project.add_class("Ring")
    for seed in range(3):
        project.add_samples(project.add_take(key, "drawing"), [Given("a", drawing(0, seed))])
    assert project.summary()["classes"][0]["hints"] == []
