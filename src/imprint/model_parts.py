"""The parts of a saved model, read from its file and checked against each other before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imprint.augment import VIEWS
from imprint.familiarity import Familiarity, count_features
from imprint.input_spec import InputSpec
from imprint.model_file import broken, read_model_file
from imprint.nets import build_net, smallest_side
from imprint.recipe import Recipe
from imprint.strangers import guard_classes

RESUME = "resume"  # the fact, and the start of tensors' names, that a checkpoint holds beyond a model
FAMILIARITY = "familiarity."  # before the names of its tensors in the file
FAMILIARITY_TENSORS = ("centres", "whitening")
GUARD = "guard."  # before the names of its tensors
MOST_CLASSES = 100_000  # a file that claims more is not believed


def read_parts(path: Path) -> dict[str, Any]:
    """Read what a model file holds.

    Parameters
    ----------
    path : Path
        A model file, or a checkpoint, of which the best epoch is taken.

    Returns
    -------
    dict
        Every field of a `Classifier`.

    Raises
    ------
    ModelFileError
        When the file is not a whole model.

    Examples
    --------
    >>> read_parts(Path("pyproject.toml"))
    Traceback (most recent call last):
    imprint.errors.ModelFileError: model at pyproject.toml: ...
    """
    tensors, facts = read_model_file(path)
    try:
        parts = _parts(facts)
        begun = RESUME not in facts or bool(facts[RESUME]["epochs"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise broken(path, f"its header does not hold together ({error})") from None
    if not begun:
        remedy = f"Go on with imprint train --resume {path.parent}."
        raise broken(path, "training was stopped before its first epoch had ended", remedy)
    usual = {name: tensors.pop(f"{FAMILIARITY}{name}", None) for name in FAMILIARITY_TENSORS}
    net, guard, classes = parts["net"], parts["guard"], len(parts["class_names"])
    if guard is not None:
        of_guard = [name for name in tensors if name.startswith(GUARD)]
        _fill(guard, {name.removeprefix(GUARD): tensors.pop(name) for name in of_guard}, path)
    _fill(net, {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{RESUME}/")}, path)
    features = count_features(net)
    familiarity = _unknown(classes, features) if RESUME in facts else _familiarity(usual, classes, features, path)
    return parts | {"familiarity": familiarity}


def _parts(facts: dict[str, Any]) -> dict[str, Any]:
    """Check a model file's facts; the network's weights are not yet there."""
    spec = InputSpec.from_dict(facts["input_spec"])
    if spec.glyph is not None and (spec.glyph.height, spec.glyph.width) != spec.picture_size:
        raise ValueError("the size of glyphs")
    names, score = tuple(facts["class_names"]), facts["score"]
    recipe = Recipe.from_dict(facts["recipe"])
    if recipe.views not in (*VIEWS, "none"):
        raise ValueError("views")
    if not 1 <= len(set(names)) == len(names) <= MOST_CLASSES:
        raise ValueError("classes")
    listed = isinstance(facts["class_names"], list) and all(isinstance(name, str) for name in names)
    if not listed or not isinstance(score, dict | None):
        raise ValueError("class names or score")
    if min(spec.input_size) < smallest_side(recipe.every_net):
        raise ValueError("pictures too small")
    with torch.device("meta"):
        net = build_net(recipe.net, spec.channels, spec.input_size, len(names))
        told_apart = guard_classes(recipe, spec.picture_size, len(names))
        guard = build_net(recipe.guard, spec.channels, spec.input_size, told_apart) if recipe.guard else None
    temperature, unsure_above, views_below = (
        float(facts[key]) for key in ("temperature", "unsure_above", "views_below")
    )
    if not 0 < temperature < math.inf:
        raise ValueError("temperature")
    notes = facts.get("notes")
    if not isinstance(notes, dict | None):
        raise ValueError("notes")
    if not (math.isfinite(unsure_above) and math.isfinite(views_below)):
        raise ValueError("limits")
    return {
        "net": net,
        "guard": guard,
        "class_names": names,
        "spec": spec,
        "recipe": recipe,
        "temperature": temperature,
        "unsure_above": unsure_above,
        "views_below": views_below,
        "score": score,
        "notes": notes,
    }


def _familiarity(given: Mapping[str, Tensor | None], classes: int, features: int, path: Path) -> Familiarity:
    """Check what a file says of usual features against the network whose features they are."""
    each_or_one = [(count, features, features) for count in (classes, 1)]
    shapes: dict[str, Sequence[tuple[int, ...]]] = {"centres": [(classes, features)], "whitening": each_or_one}
    for name, tensor in given.items():
        if tensor is None or tuple(tensor.shape) not in shapes[name] or tensor.dtype != torch.float32:
            raise broken(path, f"tensor {FAMILIARITY}{name} is missing, or has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {FAMILIARITY}{name} holds numbers that are not finite")
    return Familiarity(**{name: tensor for name, tensor in given.items() if tensor is not None})


def _unknown(classes: int, features: int) -> Familiarity:
    """Stand in for what a run that was stopped has not measured yet: everything lies near."""
    return Familiarity(torch.zeros(classes, features), torch.zeros(1, features, features))


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put a file's tensors into a network whose own are only outlines, if every name, shape and number fits."""
    outlines = net.state_dict()
    if set(outlines) != set(tensors):
        raise broken(path, f"its tensors are not those of the network ({', '.join(set(outlines) ^ set(tensors))})")
    for name, tensor in tensors.items():
        if tensor.shape != outlines[name].shape or tensor.dtype != outlines[name].dtype:
            raise broken(path, f"tensor {name} has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {name} holds numbers that are not finite")
    net.load_state_dict(tensors, assign=True)
