"""Images whose label is probably wrong, by confident learning over cross-validated predictions."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from numpy import ndarray

from imprint.core.progress import progress_bar, say
from imprint.data.images import LabelledImages
from imprint.data.quality import Finding
from imprint.data.split import deal_folds
from imprint.models.backbones import find_weights
from imprint.recipes import PROBE, Recipe, default_recipe
from imprint.runs.training import train
from imprint.training.plan import make_plan
from imprint.training.probe import frozen_features, predict_folds, pretrained_network

FOLDS = 3  # networks, each judging the third of the images that it was not trained on
MIN_TRAINING = 4  # images of a class; with fewer a network cannot know the class
MIN_MARGIN = 0.5  # by which another class's probability exceeds the label's, for a label that cleanlab does not count
NOT_CHECKED = "wrong labels were not looked for"
TOO_FEW = f"{NOT_CHECKED}: too few images or groups of two classes or more"
MISSING = f"{NOT_CHECKED}, since cleanlab is missing: pip install cleanlab"


def judging_recipe(shape: tuple[int, int, int]) -> Recipe:
    """Choose how to train the networks that judge labels: as for images of that shape, but shorter.

    Hard images come no more often than others: the hardest are those with wrong labels, which a network that sees them
    often memorises.
    """
    recipe = replace(
        default_recipe(shape, 0, 0.0, weights_found=False)[0], hard_fraction=0.0, tta="none", validation_fraction=0.0
    )
    # On 2,062 photos 48 pixels and 8 epochs predicted 0.994 of the classes correctly, in a seventh of the time.
    return replace(recipe, epochs=min(recipe.epochs, 8), largest_side=48) if recipe.largest_side else recipe


def find_label_errors(
    images: LabelledImages,
    groups: Shaped[ndarray, " n"],
    *,
    recipe: str | Recipe | None = None,
    seed: int = 7,
    device: str = "auto",
) -> tuple[list[Finding], list[str]]:
    """Find images whose label is probably wrong, the worst first; and say why not every label could be judged.

    Each image is judged by a network that was trained on no image of its group: copies, or images of one person.
    """
    if images.labels is None:
        return [], [f"{NOT_CHECKED}: there are no labels"]
    fold = deal_folds(images.labels, groups, FOLDS, seed)
    judged = np.flatnonzero(can_be_judged(images.labels, fold))
    known = np.unique(images.labels[judged])
    if len(known) < 2:
        return [], [TOO_FEW]
    if find_spec("cleanlab") is None:
        return [], [MISSING]
    if recipe is None and _has_pretrained(images):
        everything = _probabilities_by_features(images, fold, seed, device)
    else:
        everything = cross_validated_probabilities(images, fold, recipe or judging_recipe(images.shape), seed, device)
    probabilities = everything[np.ix_(judged, known)]
    given = np.searchsorted(known, images.labels[judged])
    names = [images.class_names[label] for label in known]
    found = []
    for i in likely_errors(given, probabilities):
        likely, image = int(probabilities[i].argmax()), int(judged[i])
        message = f"labelled {names[given[i]]}, looks like {names[likely]} ({probabilities[i, likely]:.0%})"
        score = 1 - float(probabilities[i, given[i]])
        found.append(Finding("label", (images.sources[image].item(),), message, score, (image,), names[likely]))
    left = len(images) - len(judged)
    return found, [f"{left:,} labels were not judged: too few images or groups of their classes"] if left else []


def can_be_judged(labels: Int64[ndarray, " n"], fold: Int64[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Mark images whose label can be judged: the other folds hold enough of its class, and a second class."""
    counts = np.zeros((FOLDS, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (fold, labels), 1)
    in_training = counts.sum(axis=0) - counts
    several = (in_training > 0).sum(axis=1) > 1
    return np.asarray((in_training[fold, labels] >= MIN_TRAINING) & several[fold])


def cross_validated_probabilities(
    images: LabelledImages, fold: Int64[ndarray, " n"], recipe: str | Recipe, seed: int, device: str
) -> Float32[ndarray, "n classes"]:
    """Predict each fold by a network trained on the others; rows are 0 where those hold fewer than two classes."""
    labels = images.labels_among(images.class_names)
    probabilities = np.zeros((len(images), len(images.class_names)), dtype=np.float32)
    with progress_bar("looking for wrong labels", total=FOLDS) as advance:
        for number in range(FOLDS):
            seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            if not len(unseen) or len(np.unique(labels[seen])) < 2:
                continue
            say(f"looking for wrong labels: training network {number + 1} of {FOLDS} on {len(seen):,} images")
            model = train(images[seen], recipe, validation=0.0, seed=seed, device=device, verbose=False).model
            probabilities[unseen] = model.predict_proba(images[unseen])
            advance()
    return probabilities


def _has_pretrained(images: LabelledImages) -> bool:
    """Tell whether features of a pretrained network can judge these images: all but small grey ones."""
    weights_found = find_weights(PROBE.networks[0]) is not None
    return default_recipe(images.shape, 0, 0.0, weights_found)[0] is PROBE


def _probabilities_by_features(
    images: LabelledImages, fold: Int64[ndarray, " n"], seed: int, device: str
) -> Float32[ndarray, "n classes"]:
    """Predict each fold by a linear head on frozen features that was fitted to the others."""
    say(f"looking for wrong labels by the features of {len(images):,} images")
    plan = make_plan(images, PROBE, device=device, seed=seed)
    network = pretrained_network(plan)
    features = frozen_features(network, images, plan.spec)
    labels = images.labels_among(images.class_names)
    return predict_folds(features, labels, fold, len(images.class_names), "regression").probabilities


def likely_errors(given: Int64[ndarray, " n"], probabilities: Float32[ndarray, "n classes"]) -> Int64[ndarray, " m"]:
    """List the positions of labels that are probably wrong, the worst first; every class must occur in `given`."""
    # Those are as many as confident learning counts from one class to another (arXiv:1911.00068), and all that fall
    # behind another class by `MIN_MARGIN`: cleanlab's count alone missed up to 9 of 100 changed labels, since a network
    # trained on smoothed labels is less sure than its classes' averages demand (docs/log/doctor.md, "The data doctor").
    with warnings.catch_warnings():  # cleanlab warns of classes with one image, and on import adds filters
        warnings.simplefilter("ignore")
        from cleanlab.filter import find_label_issues

        counted = find_label_issues(given, probabilities, n_jobs=1)
    label_probability = probabilities[np.arange(len(given)), given]
    clear = probabilities.max(axis=1) - label_probability > MIN_MARGIN
    found = np.flatnonzero(counted | clear)
    return np.asarray(found[np.argsort(label_probability[found], kind="stable")])
