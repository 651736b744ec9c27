"""Parent, the trained model that a run starts from, and SeenImages, which images it was trained on.

A score on images that the start weights were trained on would be too good without a word. So every run writes hashes
of its images beside its model, those of its parent's among them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.errors import DataError, ModelFileError, UsageError, did_you_mean
from imprint.core.files import written_whole
from imprint.data.images import LabelledImages, kind_of
from imprint.data.readers.layout import IMAGE_ENDINGS
from imprint.models.classifier import RESUME, parts_of
from imprint.models.layers import members_of
from imprint.models.model_file import (
    SEEN_NAME,
    broken,
    check_model_file,
    find_model,
    inconsistent,
    parse_tensors,
    read_model_file,
    write_model_file,
)
from imprint.models.networks import class_axes
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import Recipe

# What a run that has not ended keeps of its parent, whose own file may be replaced meanwhile.
PARENT_NAME, PARENT_SEEN_NAME = "parent.safetensors", "parent-seen.safetensors"
NO_SOURCE = 0
DO_WITHOUT = "Take the file away to do without it: the score will then be called an upper estimate."
MAX_CLASSES_NAMED = 5  # in a message
UPPER_ESTIMATE = "upper estimate: take it as the most to expect, and measure on new images with imprint evaluate"


@dataclass(frozen=True, eq=False)
class ImageKeys:
    """What images are known again by: the hash of their pixels, and of their file's path, or 0 where none is known.

    The path finds files again that another version of a decoder reads a little differently.
    """

    pixels: Int64[ndarray, " n"]
    paths: Int64[ndarray, " n"]

    @classmethod
    def of(cls, images: LabelledImages) -> ImageKeys:
        """Hash images and the paths of their files."""
        paths = np.full(len(images), NO_SOURCE, dtype=np.int64)
        if images.loaded_from is not None and not images.from_pixel_table:
            folders = dict[str, str]()
            for place, source in enumerate(images.sources):
                if source.lower().endswith(IMAGE_ENDINGS):
                    name = _resolved(source, folders).encode("utf-8", "surrogateescape")
                    paths[place] = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)
        return cls(images.pixel_hashes.view(np.int64), paths)

    def among(self, keys: Int64[ndarray, " k"]) -> Bool[ndarray, " n"]:
        """Tell of each image whether its pixels or its path are among the keys."""
        paths = np.isin(self.paths, keys) & (self.paths != NO_SOURCE)
        return np.asarray(np.isin(self.pixels, keys) | paths)

    def __getitem__(self, places: Int64[ndarray, " m"]) -> ImageKeys:
        """Select those of some images."""
        return ImageKeys(self.pixels[places], self.paths[places])

    @property
    def all(self) -> Int64[ndarray, " k"]:
        """Give every key, each once."""
        keys = np.unique(np.concatenate([self.pixels, self.paths]))
        return np.asarray(keys[keys != NO_SOURCE])

    def joined(self, earlier: SeenImages | None, held_out: ImageKeys) -> SeenImages:
        """Count these images to those that a model was trained on `earlier`; none of them counts as held out."""
        trained_on = self.all if earlier is None else np.union1d(earlier.trained_on, self.all)
        return SeenImages(trained_on, np.setdiff1d(held_out.all, trained_on))


def _resolved(path: str, folders: dict[str, str]) -> str:
    """Resolve a path as `Path.resolve` does, but each of its `folders` once: that is most of the work."""
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    found = os.path.join(folders[folder], name)  # noqa: PTH118
    return os.path.realpath(found) if os.path.islink(found) else found  # noqa: PTH114


@dataclass(frozen=True, eq=False)
class SeenImages:
    """Keys of the images that a model and its ancestors were trained on, and of those held out from all of them."""

    trained_on: Int64[ndarray, " n"]
    held_out: Int64[ndarray, " m"]

    def save(self, path: Path, digest: str) -> None:
        """Write them to a file that says which model they belong to."""
        tensors = {"trained_on": torch.from_numpy(self.trained_on), "held_out": torch.from_numpy(self.held_out)}
        write_model_file(path, tensors, {"model": digest})

    @classmethod
    def load(cls, path: Path, digest: str) -> SeenImages | None:
        """Read those of a model; None where there is no file, or it belongs to another model."""
        if not path.is_file():
            return None
        try:
            tensors, facts = read_model_file(path)
        except ModelFileError as error:
            raise broken(path, error.cause, DO_WITHOUT) from None
        if facts.get("model") != digest:
            return None
        parts = [tensors.get(name) for name in ("trained_on", "held_out")]
        if len(tensors) != len(parts) or any(
            part is None or part.dtype != torch.int64 or part.ndim != 1 for part in parts
        ):
            raise broken(path, "it holds no hashes of images", DO_WITHOUT)
        return cls(*(part.numpy() for part in parts if part is not None))


@dataclass(frozen=True, eq=False)
class Parent:
    """The model that a run starts from: its weights by network, and what it was made for and of.

    `seen` is None where nothing tells which images it was trained on; `content` is its file.
    """

    path: str
    digest: str
    class_names: tuple[str, ...]
    recipe: Recipe
    spec: InputSpec
    weights: tuple[Mapping[str, Tensor], ...]
    seen: SeenImages | None
    content: bytes

    @property
    def form(self) -> InputSpec:
        """How images are to be read, so that they are as those it was trained on."""
        spec = self.spec
        return InputSpec.from_shape((spec.channels, *spec.image_size), spec.pixel_range, spec.background)

    def keep(self, folder: Path) -> None:
        """Write what a resumed run needs of it into a run folder."""
        with written_whole(folder / PARENT_NAME) as temporary:
            temporary.write_bytes(self.content)
        if self.seen is not None:
            self.seen.save(folder / PARENT_SEEN_NAME, self.digest)

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe whose weights are not those of this model."""
        given, own = ((one.name, one.networks, one.is_probe) for one in (recipe, self.recipe))
        if given == own:
            return
        cause = f"the model was trained by {self.recipe.name}, networks {'+'.join(self.recipe.networks)}"
        if recipe.networks == self.recipe.networks and self.recipe.is_probe:
            cause += ", whose pretrained weights this recipe begins with by itself"
        what = f"recipe {recipe.name}, networks {'+'.join(recipe.networks)}"
        raise UsageError(what, f"--from {self.path}", cause, "Leave --recipe out for the model's own, or --from out.")

    def check_classes(self, images: LabelledImages, chosen: bool) -> tuple[str, ...]:
        """Refuse images that lack a class of the model, unless the classes were chosen; gives what to warn of."""
        counts = images.class_counts()
        missing = [name for name in self.class_names if not counts.get(name)]
        if not missing:
            return ()
        shown = ", ".join(map(repr, missing[:MAX_CLASSES_NAMED]))
        shown += f" and {len(missing) - MAX_CLASSES_NAMED} more" if len(missing) > MAX_CLASSES_NAMED else ""
        what = f"{'class' if len(missing) == 1 else 'classes'} {shown}"
        them = "it" if len(missing) == 1 else "them"
        if chosen:
            return (f"{what}: the old model knows {them}, the new one will not",)
        meant = did_you_mean(missing[0], [name for name in counts if name not in self.class_names])
        remedy = f"{meant}Give images of {them} too, or name the classes to learn, without {them}: --classes A,B."
        raise DataError(what, images.name, f"no images, and the model of --from {self.path} knows {them}", remedy)

    def check_form(self, spec: InputSpec, images: LabelledImages) -> None:
        """Refuse another input contract than the model's."""
        self.spec.check(images.shape, images.name, images.pixel_range, images.background)
        if spec.input_size != self.spec.input_size:
            (height, width), (old_height, old_width) = spec.input_size, self.spec.input_size
            cause = f"the model takes them at {old_width}×{old_height}"
            remedy = "Leave largest_side and smallest_side as they were, or --from out."
            raise UsageError(f"images at {width}×{height}", f"--from {self.path}", cause, remedy)

    @torch.no_grad()
    def fill(self, network: nn.Module, member: int, class_names: tuple[str, ...]) -> None:
        """Copy the weights of one of its networks into a fresh one; classes by name, new ones stay as initialised."""
        weights, tensors = self.weights[member], network.state_dict()
        axes = {} if class_names == self.class_names else class_axes(self.recipe.networks[member], self.spec)
        known = [name for name in class_names if name in self.class_names]
        new, old = (torch.tensor([names.index(name) for name in known]) for names in (class_names, self.class_names))
        for name, tensor in tensors.items():
            given = weights[name].to(tensor.device)
            if name not in axes:
                tensor.copy_(given)
            else:
                rows = given.index_select(axes[name], old.to(tensor.device))
                tensor.index_copy_(axes[name], new.to(tensor.device), rows)

    def leak(self, held_out: ImageKeys) -> str:
        """Say whether it may have been trained on images held out; empty where it was not."""
        count, total = len(held_out.pixels), f"{len(held_out.pixels):,} images held out"
        if not count:
            return ""
        if self.seen is None:
            return (
                f"the old model may have been trained on the {total}, since nothing tells its images; {UPPER_ESTIMATE}"
            )
        known = int(held_out.among(self.seen.trained_on).sum())
        all_of = "all" if known == count else f"{known:,}"
        return f"the old model was trained on {all_of} of the {total}; {UPPER_ESTIMATE}" if known else ""

    def facts(self, leak: str) -> dict[str, str]:
        """Give what tells it, as plain JSON values; `leak` is empty where the score does not flatter."""
        return {"model": self.path, "sha256": self.digest, "leak": leak}

    def describe(self, images: ImageKeys) -> str:
        """Say what a run starts from, and which of its images are new."""
        text = f"starting from {self.path} (SHA-256 {self.digest[:12]}…)"
        if self.recipe.is_probe:
            return f"{text}: its frozen network, with a head fitted anew"
        if self.seen is None:
            return f"{text}; nothing tells which of the images it was trained on"
        known, held_out = images.among(self.seen.trained_on), images.among(self.seen.held_out)
        held_out &= ~known
        new = len(known) - int(known.sum()) - int(held_out.sum())
        return (
            f"{text}: {known.sum():,} images that it was trained on, {held_out.sum():,} that it held out, {new:,} new"
        )


def read_parent(path: str | Path, named: str = "", seen_name: str = SEEN_NAME) -> Parent:
    """Read the model to start from, a file or run folder; `named` is what to call it in messages.

    Raises `ModelFileError` where it is none, or was stopped before its end.
    """
    if not isinstance(path, str | Path):
        cause, remedy = f"{kind_of(path)} is no path", "Save the model first, and give its file."
        raise UsageError("from_model", "train", cause, remedy)
    file = find_model(path)
    facts, content = check_model_file(file)
    if RESUME in facts:
        remedy = f"Resume it first: imprint train --resume {file.parent}."
        raise broken(file, "its training was stopped before its end", remedy)
    parts: dict[str, Any] = parts_of(parse_tensors(content, file), facts, file)
    weights = tuple(member.state_dict() for member in members_of(parts["network"]))
    digest = str(facts["sha256"])
    seen = SeenImages.load(file.with_name(seen_name), digest)
    known = (parts["class_names"], parts["recipe"], parts["spec"])
    return Parent(named or str(path), digest, *known, weights, seen, content)


def count_trained_on(model: Path, images: LabelledImages) -> int | None:
    """Count the images that a model, or one that it was started from, was trained on; None where nothing tells.

    Raises `ModelFileError` where the file that tells is broken.
    """
    file = find_model(model)
    if file.suffix.lower() == ".onnx" or not file.with_name(SEEN_NAME).is_file():
        return None
    seen = SeenImages.load(file.with_name(SEEN_NAME), str(check_model_file(file)[0]["sha256"]))
    return None if seen is None else int(ImageKeys.of(images).among(seen.trained_on).sum())


def read_kept_parent(folder: Path, facts: Any) -> Parent:
    """Read again what a stopped run began from, as its checkpoint tells; `ModelFileError` where it is not there."""
    path = folder / PARENT_NAME
    try:
        named, digest = str(facts["model"]), str(facts["sha256"])
    except (TypeError, KeyError) as error:
        raise inconsistent(path, error) from None
    if not path.is_file():
        cause = f"the run began from {named}, of which it kept a copy here, and that is gone"
        raise ModelFileError("model", str(path), cause, "Put it back, or begin a new run.")
    parent = read_parent(path, named, PARENT_SEEN_NAME)
    if parent.digest != digest:
        cause = f"it is not what the run began from: its SHA-256 is {parent.digest[:12]}…, not {digest[:12]}…"
        raise broken(path, cause, f"Put a copy of {named} there, or begin a new run.")
    return parent
