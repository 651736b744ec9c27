"""Images whose label is probably wrong, judged by cross-validated predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from numpy import ndarray

from imprint.analysis.label_noise import ASSUMED_RATE, LikelyErrors, likely_errors
from imprint.core.progress import progress_bar, say
from imprint.data.images import LabelledImages
from imprint.data.quality import Finding
from imprint.data.split import deal_folds
from imprint.models.backbones import find_weights
from imprint.recipes import PROBE, Recipe, default_recipe
from imprint.runs.training import train
from imprint.training.distributed import current_crew, train_alone
from imprint.training.plan import make_plan
from imprint.training.probe import frozen_features, mean_over_deals, pretrained_network

FOLDS = 3  # networks, each judging the third of the images that it was not trained on
MIN_TRAINING = 4  # images of a class; with fewer a network cannot know the class
# Heads judge after each of several deals of the images into folds: they cost seconds, and by the mean they find more.
DEALS, HEAD_FOLDS = 3, 5
WEAK = 0.1  # of wrong labels; judges that would list fewer are too weak
NOT_CHECKED = "wrong labels were not looked for"
TOO_FEW = f"{NOT_CHECKED}: too few images or groups of two classes or more"


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
    """Find images whose label is probably wrong, the worst first; and say how far to trust that, and what was left.

    Each image is judged by networks or heads that were fitted to no image of its group: copies, or images of one
    person.
    """
    if images.labels is None:
        return [], [f"{NOT_CHECKED}: there are no labels"]
    by_features = recipe is None and _has_pretrained(images)
    number, folds = (DEALS, HEAD_FOLDS) if by_features else (1, FOLDS)
    deals = [deal_folds(images.labels, groups, folds, (seed + i) % 2**32) for i in range(number)]
    judged = np.flatnonzero(np.logical_and.reduce([can_be_judged(images.labels, fold) for fold in deals]))
    known = np.unique(images.labels[judged])
    if len(known) < 2:
        return [], [TOO_FEW]
    if by_features:
        everything = _probabilities_by_features(images, deals, seed, device)
    else:
        everything = cross_validated_probabilities(
            images, deals[0], recipe or judging_recipe(images.shape), seed, device
        )
    probabilities = everything[np.ix_(judged, known)]
    given = np.searchsorted(known, images.labels[judged])
    names = [images.class_names[label] for label in known]
    errors, found = likely_errors(given, probabilities), []
    for i, score in zip(errors.positions, errors.scores, strict=True):
        likely, image = int(probabilities[i].argmax()), int(judged[i])
        message = f"labelled {names[given[i]]}, looks like {names[likely]} ({probabilities[i, likely]:.0%})"
        found.append(Finding("label", (images.sources.item(image),), message, float(score), (image,), names[likely]))
    notes = [_trust(errors, float((probabilities.argmax(axis=1) == given).mean()))]
    if left := len(images) - len(judged):
        notes.append(f"{left:,} labels were not judged: too few images or groups of their classes")
    return found, notes


def _trust(errors: LikelyErrors, agreement: float) -> str:
    """Say how far the judges can be trusted."""
    found = f"{errors.recall:.0%} of labels that are wrong by chance"
    if errors.recall_alike < errors.recall - 0.1:
        found += f", {errors.recall_alike:.0%} where the two classes look alike"
    if len(errors.positions):
        return f"about {errors.precision:.0%} of the labels listed as wrong are; the list holds about {found}"
    judges = f"no label is listed as wrong; the judges agree with {agreement:.0%} of the labels"
    if errors.recall < WEAK:
        return f"{judges}, too few to find wrong ones"
    return f"{judges}, and would list {found}, if {ASSUMED_RATE:.0%} were"


def can_be_judged(labels: Int64[ndarray, " n"], fold: Int64[ndarray, " n"]) -> Bool[ndarray, " n"]:
    """Mark images whose label can be judged: the other folds hold enough of its class, and a second class."""
    counts = np.zeros((int(fold.max()) + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (fold, labels), 1)
    in_training = counts.sum(axis=0) - counts
    several = (in_training > 0).sum(axis=1) > 1
    return np.asarray((in_training[fold, labels] >= MIN_TRAINING) & several[fold])


def cross_validated_probabilities(
    images: LabelledImages, fold: Int64[ndarray, " n"], recipe: str | Recipe, seed: int, device: str
) -> Float32[ndarray, "n classes"]:
    """Predict each fold by a network trained on the others; rows are 0 where those hold fewer than two classes."""
    labels, crew = images.labels_among(images.class_names), current_crew()
    probabilities = np.zeros((len(images), len(images.class_names)), dtype=np.float32)
    own = range(FOLDS)[crew.rank :: crew.size]  # of several processes each trains some of the networks
    with progress_bar("looking for wrong labels", total=len(own)) as advance, train_alone():
        for number in own:
            seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            if not len(unseen) or len(np.unique(labels[seen])) < 2:
                continue
            say(f"looking for wrong labels: training network {number + 1} of {FOLDS} on {len(seen):,} images")
            model = train(images[seen], recipe, validation=0.0, seed=seed, device=device, verbose=False).model
            known = np.array([images.class_names.index(name) for name in model.class_names])  # those with images here
            probabilities[np.ix_(unseen, known)] = model.predict_proba(images[unseen])
            advance()
    return crew.sum_of_all(probabilities)


def _has_pretrained(images: LabelledImages) -> bool:
    """Tell whether features of a pretrained network can judge these images: all but small grey ones."""
    weights_found = find_weights(PROBE.networks[0]) is not None
    return default_recipe(images.shape, 0, 0.0, weights_found)[0] is PROBE


def _probabilities_by_features(
    images: LabelledImages, deals: Sequence[Int64[ndarray, " n"]], seed: int, device: str
) -> Float32[ndarray, "n classes"]:
    """Predict each fold by a linear head on frozen features that was fitted to the others; the mean over deals."""
    say(f"looking for wrong labels by the features of {len(images):,} images")
    plan = make_plan(images, PROBE, device=device, seed=seed)
    features = frozen_features(pretrained_network(plan), images, plan.spec)
    labels = images.labels_among(images.class_names)
    return mean_over_deals(features, labels, deals, len(images.class_names))
