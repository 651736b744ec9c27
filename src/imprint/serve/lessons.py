"""What the child process does: images from samples, training, export, score, comparison, explanation, the doctor."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray

import imprint
from imprint.analysis.doctor import check
from imprint.analysis.evaluation import Comparison, comparison
from imprint.core.errors import DataError
from imprint.core.metrics import wilson_interval
from imprint.core.scores import FEWEST_TO_TELL
from imprint.data.decoding.decode import decode
from imprint.data.decoding.image_list import is_grey
from imprint.data.images import LabelledImages
from imprint.data.split import deal_folds
from imprint.models.backbones import find_weights
from imprint.models.classifier import Classifier
from imprint.models.predictor import Predictor
from imprint.preprocessing.glyph import GlyphForm, glyph_steps
from imprint.preprocessing.input_spec import InputSpec, fit
from imprint.recipes import PHOTOS, PROBE, QUICK, SMALL_SIDE
from imprint.runs.read_run import RunRecord, read_run
from imprint.runs.run import Run
from imprint.runs.training import train
from imprint.serve.heat import drawn
from imprint.serve.hints import MOST_TOLD
from imprint.serve.samples import SampleStore, encode_pixels
from imprint.serve.versions import EXPORTED_NAME, MODEL_NAME
from imprint.training.plan import FEWEST_IN_ALL, FEWEST_IN_CLASS

Facts = dict[str, Any]
Tell = Callable[[Facts], None]
Listed = Sequence[Sequence[str]]  # file, class, scene and kind of take of each sample

# Ink is brought into the form of MNIST's digits; box and stroke are what the model is told of it.
GLYPH = GlyphForm(28, 28, 0, 255, 20.0, "mass", 13.5, 13.5, 2.4)
ON_PAPER = 0.9  # of the samples are ink on paper, or they are taken for photos
PHOTO_SIDE = PROBE.largest_side  # pixels of the shorter side of photos
KEPT, IN_MEMORY = 2000, 2**29  # photos that are kept decoded, and bytes of a training's images in memory
PROVED_ON = 4  # images that an export is compared on
FOLDS, CROSS_VALIDATED = 3, 400  # up to so many images are cross-validated; of more a part is held out
HELD_OUT = 0.15
# `quick` takes smaller batches of few images, ten digits, 3 seeds, seconds of CPU: of 5, 24 and 40 of each 0.917, 0.976
# and 0.994 in 3.6 to 3.9 s, instead of 0.917, 0.978 and 0.995 in 4.2, 9.8 and 10.6 s; half as many steps of the large
# batches gave 0.904, 0.975 and 0.994 in 1.7, 4.9 and 5.2 s (docs/log/serving.md, "Few drawings").
FEW_BATCH = 64
FEATURE_SECONDS = 0.03  # of an image's features on two cores, until they are known
TOO_FEW = "No score yet: too few pictures to tell."
ONE_TAKE = "Record each class once more, in another place, for an honest score."


@dataclass(frozen=True)
class Taught:
    """Images that train, with the form that ink was brought into; None of photos."""

    images: LabelledImages
    form: GlyphForm | None


def warm() -> None:
    """Do once what the first training would wait for: imports, and what this machine is fastest with."""
    import imprint.models.onnx.graph  # noqa: F401, I001  # first, since it turns off onnxruntime's telemetry
    import onnxruntime  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch.onnx

    from imprint.models.hardware import choose_compute_config

    for precision in (PROBE.precision, "float32"):
        choose_compute_config(torch.device("cpu"), precision)


@lru_cache(maxsize=KEPT)
def _photo(path: str) -> UInt8[ndarray, "h w k"]:
    """Decode a sample, whose file never changes, at a shorter side of at most `PHOTO_SIDE`."""
    pixels = decode(Path(path), shorter=PHOTO_SIDE).pixels
    size = _within(pixels.shape[:2])
    spec = InputSpec(pixels.shape[2], size, size)
    return np.ascontiguousarray(fit(pixels, spec).transpose(1, 2, 0))


@lru_cache(maxsize=10 * KEPT)
def _glyph(path: str) -> tuple[UInt8[ndarray, "1 h w"], bool]:
    """Bring a sample's ink into the form of glyphs; tells whether it is ink on paper."""
    pixels = decode(Path(path)).pixels
    steps = glyph_steps(pixels, GLYPH)
    on_paper = len(steps) > 2 or GLYPH.holds(pixels)  # else the image is only scaled, or blank
    return steps[-1][1].transpose(2, 0, 1), on_paper


def read_ahead(task: Facts, tell: Tell) -> Facts:
    """Read samples that were just added, so that a training need not: finding ink takes 7 to 45 ms each."""
    for path in task["samples"]:
        pixels = _photo(path)
        if pixels.shape[2] == 1 or is_grey(pixels):
            _glyph(path)
    return {}


def _within(size: Sequence[float]) -> tuple[int, int]:
    share = min(1.0, PHOTO_SIDE / min(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def read_images(listed: Listed) -> Taught:
    """Read samples for training: small grey images as they are, ink on paper as glyphs, all else as photos."""
    paths = [each[0] for each in listed]
    shapes, grey = list[tuple[int, ...]](), True
    for path in paths:
        pixels = _photo(path)
        shapes.append(pixels.shape[:2])
        grey = grey and (pixels.shape[2] == 1 or is_grey(pixels))
    as_they_are = grey and len(set(shapes)) == 1 and max(shapes[0]) <= SMALL_SIDE
    if not as_they_are and (grey or all(each[3] == "drawing" for each in listed)):
        glyphs = [_glyph(path) for path in paths]
        if sum(on_paper for _, on_paper in glyphs) >= ON_PAPER * len(glyphs):
            return Taught(_labelled(np.stack([glyph for glyph, _ in glyphs]), listed), GLYPH)
    size = _within(np.median(shapes, axis=0).tolist())
    spec = InputSpec(1 if grey else 3, size, size)
    pixels = _room((len(paths), spec.channels, *size))
    for place, path in enumerate(paths):
        pixels[place] = fit(_photo(path), spec)
    return Taught(_labelled(pixels, listed), None)


def _room(shape: tuple[int, ...]) -> UInt8[ndarray, "n c h w"]:
    """Make an array, in a file without a name where it is large."""
    if np.prod(shape) <= IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    return np.memmap(TemporaryFile(), dtype=np.uint8, mode="w+", shape=shape)


def _labelled(pixels: UInt8[ndarray, "n c h w"], listed: Listed) -> LabelledImages:
    names = tuple(sorted({each[1] for each in listed}))
    labels = np.array([names.index(each[1]) for each in listed], dtype=np.int64)
    sources, scenes = np.array([Path(each[0]).stem for each in listed]), np.array([each[2] for each in listed])
    return LabelledImages(np.ascontiguousarray(pixels), labels, names, sources, "the project", groups=scenes)


def train_version(task: Facts, tell: Tell) -> Facts:
    """Train, export and compare with the version before; tells the model as soon as it can answer, then scores it."""
    listed, exam, folder = task["training"], task["exam"], Path(task["folder"])
    tell({"event": "progress", "message": "Looking at the pictures.", "seconds_left": None})
    taught = read_images(listed)
    images = taught.images
    options: Facts = {} if task["seed"] is None else {"seed": task["seed"]}
    recipe, because = task["recipe"] or _default_recipe(images), _no_score_because(images)
    if recipe == QUICK.name and len(images) <= CROSS_VALIDATED:
        options["batch_size"] = FEW_BATCH
    seconds = round(1 + FEATURE_SECONDS * len(images), 1) if recipe == PROBE.name else None
    tell({"event": "progress", "message": "Training.", "seconds_left": seconds})
    started = time.monotonic()
    run = train(images, recipe, validation=_held_out(images, recipe, task["held_out"], because), **options)
    lasted = time.monotonic() - started
    model = run.model
    if taught.form is not None:
        model = replace(model, spec=replace(model.spec, glyph=taught.form))
    model.save(folder / MODEL_NAME)
    imprint.export(model, folder / EXPORTED_NAME, _proving(images))
    facts: Facts = {"recipe": run.recipe.name, "seed": run.recipe.seed, "classes": list(model.class_names)}
    facts |= {"score": None, "why_no_score": because or (run.no_score_because and TOO_FEW) or None}
    facts |= {"confusion": None, "mistakes": [], "comparison": None, "exam": None}
    if exam:
        facts |= _examine(model, task["previous"], exam)
    if run.validation is not None and run.predictions is not None and not because:
        facts |= _scored(images, run)
    tell({"event": "model", "result": facts})
    if run.validation is None and not facts["why_no_score"]:
        return _cross_validated(images, run, lasted, tell)
    return {}


def _default_recipe(images: LabelledImages) -> str:
    """Choose what answers in seconds."""
    if images.shape[0] == 1 and max(images.shape[1:]) <= SMALL_SIDE:
        return QUICK.name
    return PROBE.name if find_weights(PROBE.networks[0]) is not None else PHOTOS.name


def _held_out(images: LabelledImages, recipe: str, asked: float | None, because: str) -> float:
    """Settle which share validates: none where the method is cross-validated, or where no score can be claimed."""
    if asked is not None:
        return asked
    cross_validated = recipe == PROBE.name or (recipe == QUICK.name and len(images) <= CROSS_VALIDATED)
    return 0.0 if cross_validated or because else HELD_OUT


def _no_score_because(images: LabelledImages) -> str:
    """Say why no score can be claimed; empty where one can."""
    assert images.labels is not None
    assert images.groups is not None
    counts = images.class_counts()
    if min(counts.values()) < FEWEST_IN_CLASS or len(images) < FEWEST_IN_ALL:
        return TOO_FEW
    scenes = [len(np.unique(images.groups[images.labels == label])) for label in range(len(counts))]
    return ONE_TAKE if min(scenes) < 2 else ""


def _proving(images: LabelledImages) -> LabelledImages:
    """Give negatives of a few images, which the model has not learnt, to compare the export on.

    Of images that it has learnt the distance is near 0, and so its logarithm is not the same to three digits.
    """
    few = images.pixels[:: max(1, len(images) // PROVED_ON)][:PROVED_ON]
    return LabelledImages(255 - few, None, (), np.arange(1, len(few) + 1), "negatives")


def _scored(images: LabelledImages, run: Run) -> Facts:
    """Give score, confusion and mistakes of a run's own validation."""
    assert run.validation is not None
    assert run.predictions is not None
    places = {source: place for place, source in enumerate(images.sources.tolist())}
    chosen = np.array([places[source] for source in run.predictions.sources.tolist()])
    interval = run.expected.interval if run.expected is not None else None
    return _score_facts(images[chosen], run.predictions.probabilities, run.validation.method, interval)


def _score_facts(
    images: LabelledImages, probabilities: ndarray, method: str, interval: tuple[float, float] | None = None
) -> Facts:
    assert images.labels is not None
    answers, labels, names = probabilities.argmax(axis=1), images.labels, images.class_names
    right = int((answers == labels).sum())
    low, high = interval or wilson_interval(right, len(labels))
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (labels, answers), 1)
    wrong = [int(place) for place in np.flatnonzero(answers != labels)]
    wrong.sort(key=lambda place: -float(probabilities[place].max()))
    return {
        "why_no_score": None,
        "score": {
            "accuracy": right / len(labels),
            "interval": [round(low, 4), round(high, 4)],
            "images": len(labels),
            "right": right,
            "method": method,
            "baseline": float(np.bincount(labels).max() / len(labels)),
            "text": f"{right} of {len(labels)} right ({low * 100:.0f} to {high * 100:.0f} of 100)",
        },
        "confusion": {"classes": list(names), "counts": counts.tolist()},
        "mistakes": [
            {
                "sha": str(images.sources[place]),
                "label": names[labels[place]],
                "answer": names[answers[place]],
                "confidence": round(float(probabilities[place].max()), 4),
            }
            for place in wrong
        ],
    }


def _cross_validated(images: LabelledImages, run: Run, lasted: float, tell: Tell) -> Facts:
    """Estimate the method: each third of the takes is predicted by a network that was trained on the others.

    `lasted` are the seconds that the training on all of them took.
    """
    from imprint.core.scores import estimate_accuracy

    assert images.labels is not None
    assert images.groups is not None
    folds = deal_folds(images.labels, images.groups, FOLDS, run.recipe.seed)
    probabilities = np.zeros((len(images), len(images.class_names)), dtype=np.float32)
    for number in range(FOLDS):
        left = round(lasted * (1 - 1 / FOLDS) * (FOLDS - number), 1)
        tell({"event": "progress", "message": "Estimating how good it is.", "seconds_left": left})
        seen, unseen = folds != number, folds == number
        if not unseen.any():
            continue
        if len(np.unique(images.labels[seen])) < 2:
            return {"why_no_score": ONE_TAKE}
        model = train(images[seen], run.recipe, validation=0.0).model
        columns = [images.class_names.index(name) for name in model.class_names]
        probabilities[np.ix_(unseen, columns)] = model.predict(images[unseen]).probabilities
    correct = probabilities.argmax(axis=1) == images.labels
    expected = estimate_accuracy(correct, images.groups, 1, "cross-validated", FOLDS)
    return _score_facts(images, probabilities, "cross-validated", expected.interval)


def _examine(model: Predictor, previous: str | None, exam: Listed) -> Facts:
    """Have a model, and the one before, answer the exam."""
    new = _right(model, exam)
    right = int(new.sum())
    low, high = wilson_interval(right, len(new))
    text = f"{right} of {len(new)} right ({low * 100:.0f} to {high * 100:.0f} of 100)"
    facts: Facts = {"exam": {"images": len(new), "right": right, "interval": [low, high], "text": text}}
    if previous is None:
        return facts
    old = _right(Classifier.load(previous, "cpu"), exam)
    return facts | {"comparison": comparison_facts(new, old, [Path(each[0]).stem for each in exam])}


def _right(model: Predictor, exam: Listed) -> Bool[ndarray, " n"]:
    """Mark the pictures of the exam that a model names rightly; a class that it does not know is named wrongly."""
    names = model.predict([Path(each[0]) for each in exam]).names
    return np.array([name == each[1] for name, each in zip(names, exam, strict=True)], dtype=bool)


def comparison_facts(new: Bool[ndarray, " n"], old: Bool[ndarray, " n"], shas: Sequence[str]) -> Facts:
    """Put a comparison of two versions on the exam into words, and say which to keep."""
    found = comparison(new, old)
    worse = found.difference < 0 and found.verdict != "no difference beyond noise"
    enough = len(new) >= FEWEST_TO_TELL
    return {
        "text": _comparison_text(found) if enough else _unproven(found),
        "images": len(new),
        "before": found.accuracy[1],
        "after": found.accuracy[0],
        "difference": found.difference,
        "interval": list(found.interval),
        "p_value": found.p_value,
        "mended": [sha for sha, is_new, was in zip(shas, new, old, strict=True) if is_new and not was],
        "newly_wrong": [sha for sha, is_new, was in zip(shas, new, old, strict=True) if was and not is_new],
        "keep": "old" if worse and enough else "new",
    }


def _comparison_text(found: Comparison) -> str:
    low, high = (_of_hundred(end) for end in found.interval)
    luck = "could still be luck" if found.verdict == "no difference beyond noise" else "more than luck"
    size = round(abs(found.difference) * 100)
    if not found.difference:
        return f"As good as before ({low} to {high}): {luck}."
    return f"{'Better' if found.difference > 0 else 'Worse'} by {size} in 100 ({low} to {high}): {luck}."


def _unproven(found: Comparison) -> str:
    pictures = "picture" if found.images == 1 else "pictures"
    return f"Cannot be proven yet: the exam has {found.images} {pictures}, and needs {FEWEST_TO_TELL}."


def _of_hundred(share: float) -> str:
    return f"{share * 100:.0f}".replace("-0", "0").replace("-", "−")


def explain_image(task: Facts, tell: Tell) -> Facts:
    """Draw where a model looks in an image: Grad-CAM over the image as the model sees it, as a PNG."""
    from imprint.analysis.explanation import grad_cam
    from imprint.models.layers import Ensemble
    from imprint.preprocessing.prepare import prepare, scale

    model = Classifier.load(task["model"], "cpu")
    ready = model.ready([Path(task["image"]).read_bytes()])
    network = model.network.members[0] if isinstance(model.network, Ensemble) else model.network
    pixels = torch.from_numpy(np.ascontiguousarray(ready.pixels))
    label = int(model.predict(ready).labels[0])
    heat = grad_cam(network, prepare(pixels, model.spec), label)
    image = scale(pixels, model.spec)[0].numpy().transpose(1, 2, 0)
    drawn(image, None if heat is None else heat[0].numpy()).save(task["drawn"], "PNG")
    return {"label": model.class_names[label]}


def find_faults(task: Facts, tell: Tell) -> Facts:
    """Have the data doctor look at all samples; those of the exam must not be among the others."""
    training, exam = task["training"], task["exam"]
    together = read_images([*training, *exam]).images
    against = [together[np.arange(len(training), len(together))]] if exam else []
    findings = check(together[np.arange(len(training))], against=against, verbose=True)
    classes = {Path(each[0]).stem: each[1] for each in (*training, *exam)}
    found = []
    for one in findings.findings[:MOST_TOLD]:
        where = [str(place) for place in one.where if str(place) in classes][:MOST_TOLD]
        message = one.message[:1].upper() + one.message[1:] + "."
        found.append({"kind": one.kind, "where": where, "message": message, "class": None, "blocks": False})
    return {"findings": found}


def import_run(task: Facts, tell: Tell) -> Facts:
    """Read the images of a run again, and write them as samples; also its model, and that exported."""
    record = read_run(Path(task["run"]))
    learnt, held_out = record.read_images()
    if (images := len(learnt) + (0 if held_out is None else len(held_out))) > task["most"]:
        cause = f"it has {images:,} images, and a project holds {task['most']:,}"
        raise DataError("run", record.folder.name, cause, "Train on the command line instead.")
    store, listed = SampleStore(Path(task["samples"])), list[list[Any]]()
    for part, is_exam in ((learnt, False), (held_out, True)):
        if part is None:
            continue
        assert part.labels is not None
        scenes = [None] * len(part) if part.groups is None else part.groups.tolist()
        for pixels, label, scene in zip(part.pixels, part.labels, scenes, strict=True):
            sample = encode_pixels(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            store.write([sample], at_once=False)
            listed.append([sample.sha, sample.look.to_dict(), part.class_names[label], scene, is_exam])
    if hasattr(os, "sync"):
        os.sync()
    folder = Path(task["folder"])
    (folder / "images.json").write_text(json.dumps(listed))
    record.model.save(folder / MODEL_NAME)
    imprint.export(record.model, folder / EXPORTED_NAME, _proving(learnt))
    return {"name": learnt.name, "facts": _run_facts(record)}


def _run_facts(record: RunRecord) -> Facts:
    """Give what a version's page shows of a run."""
    validation, model = record.metrics.get("validation"), record.model
    facts: Facts = {"recipe": model.recipe.name, "seed": model.recipe.seed, "classes": list(model.class_names)}
    facts |= {"confusion": None, "mistakes": [], "comparison": None, "exam": None}
    facts |= {"when": datetime.now(UTC).isoformat(timespec="seconds"), "score": None, "why_no_score": TOO_FEW}
    if validation:
        right = round(validation["accuracy"] * validation["images"])
        low, high = validation["interval"]
        text = f"{right} of {validation['images']} right ({low * 100:.0f} to {high * 100:.0f} of 100)"
        keys = ("accuracy", "interval", "images", "method", "baseline")
        score = {key: validation.get(key) for key in keys} | {"right": right, "text": text}
        facts |= {"score": score, "why_no_score": None}
    return facts


TASKS: dict[str, Callable[[Facts, Tell], Facts]] = {
    "read": read_ahead,
    "train": train_version,
    "explain": explain_image,
    "doctor": find_faults,
    "import": import_run,
}
