"""A run that starts from an earlier model: its weights, its classes, and the images that it has seen."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import imprint
from helpers import pixel_table
from imprint import Classifier, DataError, ModelFileError, UsageError
from imprint.data.images import LoadedFrom
from imprint.models.model_file import check_model_file, read_model_file
from imprint.models.networks import NETWORKS, class_axes, register_network
from imprint.preprocessing.input_spec import InputSpec
from imprint.report.run_report import write_report
from imprint.runs.listing import check_deletable, list_runs
from imprint.training.checkpoint import start_network
from imprint.training.parent import SEEN_NAME, ImageKeys, SeenImages, read_parent
from imprint.training.plan import make_plan

SHORT = {"epochs": 2, "min_steps": 2, "device": "cpu", "verbose": False}
UNKNOWN = "the old model may have been trained on the 48 images held out"


@pytest.fixture(scope="module")
def old(digits, tmp_path_factory):
    """A run on the first 400 digits, of which 32 are held out."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    return imprint.train(digits[:400], "quick", epochs=4, min_steps=4, run=folder, verbose=False)


@pytest.fixture
def alone(old, tmp_path):
    """Its model without its run folder."""
    return shutil.copy(old.folder / "model.safetensors", tmp_path / "lonely.safetensors")


def plan_from(images, model, recipe=None, **options):
    return make_plan(images, recipe, device="cpu", parent=read_parent(model), **options)


def prints(images):
    return set(images.pixel_hashes.tolist())


def test_training_starts_with_the_old_weights(old, digits):
    state = start_network(plan_from(digits, old.folder))
    expected = old.model.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.network.state_dict().items())


def test_an_ensemble_starts_network_by_network(digits, tmp_path):
    run = imprint.train(digits[:300], "best", ood_detector="", run=tmp_path / "best", **SHORT)
    plan = plan_from(digits[:400], run.folder)
    first = start_network(plan)
    second = start_network(plan, [first.network], [{}, {}])
    for state, member in zip((first, second), run.model.network.members, strict=True):
        expected = member.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.network.state_dict().items())


@pytest.mark.parametrize("recipe", ["tutorial", "photos"])
def test_other_recipes_start_from_their_models(digits, tmp_path, recipe):
    images = digits[:200]
    if recipe == "photos":
        images = replace(images, pixels=np.kron(images.pixels, np.ones((1, 3, 4, 4), dtype=np.uint8)))
    short = {"steps_per_epoch": 2} if recipe == "tutorial" else {"min_steps": 1}
    run = imprint.train(images, recipe, epochs=1, run=tmp_path / "run", verbose=False, **short)
    again = imprint.train(images, from_model=run.folder, verbose=False)
    assert again.recipe == run.recipe
    assert again.parent["sha256"] == check_model_file(run.folder / "model.safetensors")[0]["sha256"]


def test_rows_of_old_classes_are_kept_by_name_and_new_ones_drawn(digits, tmp_path):
    run = imprint.train(digits.select(["1", "3", "7"])[:200], "quick", run=tmp_path / "run", **SHORT)
    turned = replace(digits, labels=9 - digits.labels, class_names=tuple(reversed(digits.class_names)))
    state = start_network(plan_from(turned, run.folder))
    new, given = state.network.state_dict(), run.model.network.state_dict()
    heads = [name for name in new if new[name].shape != given[name].shape]
    assert sorted(new[name].ndim for name in heads) == [1, 2]
    for name in heads:
        axis = list(new[name].shape).index(10)
        for place, label in enumerate(("1", "3", "7")):
            assert torch.equal(new[name].select(axis, 9 - int(label)), given[name].select(axis, place))
        assert new[name].ndim == 1 or new[name].select(axis, 9 - 8).std() > 0
    assert all(torch.equal(new[name], given[name]) for name in new if name not in heads)


def test_the_same_classes_in_another_order_give_the_same_answers(old, digits):
    turned = replace(digits, labels=9 - digits.labels, class_names=tuple(reversed(digits.class_names)))
    plan = plan_from(turned, old.folder)
    state = start_network(plan)
    images = torch.zeros(1, 1, *plan.spec.input_size) + 0.3
    with torch.no_grad():
        expected, found = old.model.network(images), state.network.eval()(images)
    assert torch.allclose(found.flip(1), expected, atol=1e-5)


def test_a_class_without_images_is_refused_unless_the_classes_are_named(old, digits, tmp_path):
    fewer = digits[digits.labels < 8]
    with pytest.raises(
        DataError, match=r"classes '8', '9' at digits: no images, and the model of --from .* knows them"
    ):
        plan_from(replace(fewer, loaded_from=LoadedFrom("digits", {})), old.folder)
    assert "classes '8', '9': the old model knows them, the new one will not" in plan_from(fewer, old.folder).warnings
    run = imprint.train("digits", classes=list("01234567"), from_model=old.folder, **SHORT)
    assert run.model.class_names == tuple("01234567")
    (tmp_path / "fewer.csv").write_text(pixel_table(fewer))
    with pytest.raises(DataError, match="name the classes to learn, without them: --classes A,B"):
        imprint.train(tmp_path / "fewer.csv", from_model=old.folder, **SHORT)
    run = imprint.train(tmp_path / "fewer.csv", classes=list("01234567"), from_model=old.folder, **SHORT)
    assert run.model.class_names == tuple("01234567")
    assert run.facts()["warnings"] == ["classes '8', '9': the old model knows them, the new one will not"]


def test_a_renamed_class_is_asked_about(digits, tmp_path):
    named = replace(digits[:300], class_names=tuple(f"digit {name}" for name in digits.class_names))
    run = imprint.train(named, "quick", run=tmp_path / "run", **SHORT)
    renamed = replace(named, class_names=(*named.class_names[:9], "Digit_9"), loaded_from=LoadedFrom("x", {}))
    with pytest.raises(DataError, match="Did you mean Digit_9"):
        plan_from(renamed, run.folder)


def test_another_recipe_network_or_form_is_refused(old, digits):
    with pytest.raises(
        UsageError, match=r"recipe best, networks deep.broad at --from .*: the model was trained by quick"
    ):
        plan_from(digits, old.folder, "best")
    with pytest.raises(UsageError, match="networks deep at --from"):
        plan_from(digits, old.folder, networks="deep")
    with pytest.raises(UsageError, match=r"images at 20×20 at --from .*: the model takes them at 28×28"):
        plan_from(digits, old.folder, largest_side=4)
    for pixels in (digits.pixels.repeat(2, axis=3), digits.pixels.repeat(3, axis=1)):
        with pytest.raises(DataError, match="the model was trained on images of 8×8 grey"):
            plan_from(replace(digits, pixels=pixels), old.folder)


def test_what_is_no_model_is_refused(old, digits, tmp_path, onnx_file):
    (tmp_path / "text").write_text("no model")
    for path in (tmp_path / "text", tmp_path / "missing", tmp_path, onnx_file):
        with pytest.raises(ModelFileError):
            imprint.train(digits, from_model=path, **SHORT)


def test_a_model_in_memory_is_refused(old, digits, unchecked):
    with pytest.raises(UsageError, match=r"from_model at train: Classifier is no path. Save the model first"):
        imprint.train(digits, from_model=old.model, **SHORT)


def test_what_the_old_model_held_out_stays_held_out_and_only_new_images_join(old, digits, caplog):
    earlier = make_plan(digits[:400], "quick")
    held_before, learnt_before = prints(earlier.validation), prints(digits[:400][earlier.training])
    shuffled = digits[np.random.default_rng(0).permutation(600)]
    plan = plan_from(shuffled, old.folder)
    held = prints(plan.validation)
    assert held >= held_before
    assert not held & learnt_before
    assert not held & prints(shuffled[plan.training])
    assert len(plan.validation) == 32 + 16  # 8 % of 200 new ones
    assert len(plan.training) == 600 - 48
    assert plan.leak == ""
    caplog.set_level("INFO", logger="imprint")
    run = imprint.train(shuffled, from_model=old.folder, **(SHORT | {"verbose": True}))
    assert "368 images that it was trained on, 32 that it held out, 200 new" in caplog.text
    assert run.parent == run.facts()["parent"] == {**run.model.parent, "model": str(old.folder)}
    assert run.leak == ""
    assert "upper estimate" not in run.expectation


def test_the_images_of_every_earlier_model_count(old, digits, tmp_path):
    second = imprint.train(digits[400:600], from_model=old.folder, run=tmp_path / "second", **SHORT)
    plan = plan_from(digits[:700], second.folder)
    assert not prints(plan.validation) & prints(digits[:400][make_plan(digits[:400], "quick").training])
    assert not prints(plan.validation) & prints(digits[400:600][plan_from(digits[400:600], old.folder).training])


def test_groups_and_copies_stay_on_one_side(old, digits):
    images = digits[np.r_[:600, :600]]
    plan = plan_from(images, old.folder)
    assert not prints(plan.validation) & prints(images[plan.training])
    persons = replace(digits[:600], groups=(np.arange(600) // 50).astype(str))  # each has learnt images up to 400
    plan = plan_from(persons, old.folder)
    assert plan.held_out.min() >= 400
    assert not set(persons.groups[plan.held_out]) & set(persons.groups[plan.training])


def test_where_every_image_was_learnt_no_score_is_claimed(digits, tmp_path):
    first = imprint.train(digits[:200], "quick", validation=0.0, run=tmp_path / "a", **SHORT)
    again = imprint.train(digits[:200], from_model=first.folder, validation=0.2, **SHORT)
    assert again.validation is None
    assert "the old model was trained on these images, so that none of them can be held out" in again.expectation


def test_where_nothing_tells_what_it_has_seen_the_score_is_an_upper_estimate(alone, digits, tmp_path):
    run = imprint.train(digits[:600], from_model=alone, run=tmp_path / "run", **SHORT)
    assert run.leak.startswith(UNKNOWN)
    assert UNKNOWN in run.expectation
    assert run.facts()["parent"]["leak"] == run.leak
    assert Classifier.load(run.folder).parent["leak"] == run.leak
    assert UNKNOWN in write_report(run.folder).read_text(encoding="utf-8")
    run.model.save_pretrained(tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert UNKNOWN[1:] in card
    assert run.parent["sha256"] in card
    assert "did not learn from" not in card
    assert not (run.folder / SEEN_NAME).exists()  # so its own children cannot tell either
    assert imprint.train(digits[:600], from_model=run.folder, **SHORT).leak.startswith(UNKNOWN)


def test_given_validation_images_that_were_learnt_are_counted(old, alone, digits):
    plan = plan_from(digits[400:], old.folder, validation=digits[:400])
    assert plan.leak.startswith("the old model was trained on 368 of the 400 images held out; upper estimate")
    assert plan_from(digits[:400], old.folder, validation=digits[400:]).leak == ""
    assert "nothing tells its images" in plan_from(digits[:400], alone, validation=digits[400:]).leak


def test_hashes_of_another_model_are_not_believed(old, alone, digits, tmp_path):
    folder = shutil.copytree(old.folder, tmp_path / "copy")
    assert read_parent(folder).seen is not None
    assert read_parent(folder / "model.safetensors").seen is not None
    SeenImages.load(folder / SEEN_NAME, read_parent(folder).digest).save(folder / SEEN_NAME, "0" * 64)
    assert read_parent(folder).seen is None
    damaged = bytearray((old.folder / SEEN_NAME).read_bytes())
    damaged[-1] ^= 1
    (folder / SEEN_NAME).write_bytes(damaged)
    with pytest.raises(ModelFileError, match=r"seen.safetensors: it is damaged.* Take the file away to do without it"):
        read_parent(folder)


def test_a_file_decoded_a_little_differently_is_known_by_its_path(digits, tmp_path):
    for place in range(40):
        folder = tmp_path / "images" / digits.class_names[digits.labels[place] % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(digits.pixels[place, 0], np.ones((4, 4), dtype=np.uint8))).save(folder / f"{place}.png")
    images = imprint.load(tmp_path / "images")
    other = replace(images, pixels=images.pixels ^ 1)
    keys = ImageKeys.of(images)
    assert ImageKeys.of(other).among(keys.all).all()
    assert not ImageKeys.of(replace(other, loaded_from=None)).among(keys.all).any()
    assert not ImageKeys.of(images[:20]).among(ImageKeys.of(other[20:]).all).any()


def test_paths_are_resolved_as_by_pathlib(digits, tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    (tmp_path / "pets.zip").touch()
    (tmp_path / "linked").symlink_to("cat")
    (tmp_path / "cat" / "2.png").symlink_to("1.png")
    (tmp_path / "cat" / "circle.png").symlink_to("circle.png")
    monkeypatch.chdir(tmp_path)
    names = ["cat/1.png", "cat/2.png", "linked/1.png", "linked/2.png", "linked/../cat/1.png", "./cat//1.png"]
    names += [f"{tmp_path}/cat/1.png", "pets.zip/cat/1.png", "https://a.org//b/1.png", "1.png", "gone/1.png", "/1.png"]
    images = replace(digits[: len(names)], sources=np.array(names), loaded_from=LoadedFrom("x", {}))
    paths = [hashlib.blake2b(str(Path(name).resolve()).encode(), digest_size=8).digest() for name in names]
    assert ImageKeys.of(images).paths.tobytes() == b"".join(paths)
    assert len(set(ImageKeys.of(images).paths[:7].tolist())) == 1
    circle = replace(digits[:1], sources=np.array(["cat/circle.png"]), loaded_from=LoadedFrom("x", {}))
    assert ImageKeys.of(circle).paths[0]


def test_files_are_brought_into_the_old_form(digits, tmp_path):
    def save(places, folder, side):
        for place in places:
            name = tmp_path / folder / digits.class_names[digits.labels[place] % 2]
            name.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.pixels[place, 0]).resize((side, side)).save(name / f"{place}.png")

    save(range(60), "week1", 32)
    run = imprint.train(tmp_path / "week1", "quick", run=tmp_path / "run", validation=0.2, **SHORT)
    save(range(60), "week2", 32)
    save(range(60, 100), "week2", 48)
    again = imprint.train(tmp_path / "week2", from_model=run.folder, **SHORT)
    assert again.model.spec.image_size == run.model.spec.image_size == (32, 32)
    assert again.validation.images == 12 + 8


def test_runs_origin_and_report_name_the_parent(old, digits, tmp_path):
    run = imprint.train("digits", from_model=old.folder, run=tmp_path / "new", **SHORT)
    digest = check_model_file(old.folder / "model.safetensors")[0]["sha256"]
    origin = json.loads((run.folder / "origin.json").read_text())
    assert origin["parent"] == {"model": str(old.folder), "sha256": digest, "leak": ""}
    assert json.loads((run.folder / "metrics.json").read_text())["parent"] == origin["parent"]
    assert list_runs(tmp_path)[0].parent == f"{old.folder} ({digest[:8]})"
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert f"SHA-256 {digest}" in page
    assert "that it was not trained on" in page
    check_deletable([run.folder])
    assert not (run.folder / "parent.safetensors").exists()  # only a run that has not ended needs it


def test_a_model_without_a_parent_has_the_same_file_as_before(old):
    assert "parent" not in read_model_file(old.folder / "model.safetensors")[1]


def test_several_seeds_start_from_one_model(old, digits):
    from imprint.runs.training import train_seeds

    runs = list(train_seeds(digits[:600], seeds=2, from_model=old.folder, **SHORT))
    assert [run.parent["model"] for run in runs] == [str(old.folder)] * 2
    assert runs[0].validation.images == 48


def test_rows_of_classes_are_found_in_any_network():
    spec = InputSpec.from_shape((1, 28, 28))
    assert len(class_axes("quick", spec)) == 2
    assert len(class_axes("lite0", replace(spec, input_size=(32, 32)))) == 2

    class Pairs(nn.Module):
        def __init__(self, channels, height, width, classes):
            super().__init__()
            self.num_features = channels * height * width
            self.head = nn.Linear(self.num_features, classes * classes)
            self.classes = classes

        def forward_features(self, images):
            return images

        def forward_head(self, features, pre_logits=False):
            flat = features.flatten(1)
            return flat if pre_logits else self.head(flat).reshape(len(flat), self.classes, -1).sum(2)

        def forward(self, images):
            return self.forward_head(self.forward_features(images))

    register_network("pairs", Pairs)
    try:
        with pytest.raises(UsageError, match=r"network pairs at --from: its tensor head.* has no rows for classes"):
            class_axes("pairs", spec)
    finally:
        del NETWORKS["pairs"]
