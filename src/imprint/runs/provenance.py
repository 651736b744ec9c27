"""Origin: what a run came from, so that it can be told and repeated: command, data, versions, machine."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from imprint.data.load import load
from imprint.core.errors import DataError
from imprint.data.images import LabelledImages
from imprint.preprocessing.input_spec import InputSpec
from imprint.training.plan import Plan
from imprint.core.progress import Reporter

PACKAGES = ("imprint", "torch", "numpy", "pillow", "polars")


@dataclass(frozen=True)
class DataOrigin:
    """Where pictures came from, and which they were.

    Parameters
    ----------
    name : str
        As messages name it.
    path : str
        As `load` takes it, from anywhere.
    options : dict
        `part`, `side`, `group` and `allow_bad` of `load`, and `form`: channels, height and width that the
        pictures were brought into, if they were.
    images : int
        How many.
    shape : tuple of int
        Channels, height and width.
    classes : dict of str to int
        Pictures of each class.
    fingerprint : str
        Of pixels and labels; other data have another.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> data_origin(load("digits"), "digits").classes["9"]
    180
    """

    name: str
    path: str
    options: dict[str, Any]
    images: int
    shape: tuple[int, int, int]
    classes: dict[str, int]
    fingerprint: str

    def read_again(self, path: str | None = None, reporter: Reporter | None = None) -> LabelledImages:
        """Read the same pictures once more.

        Parameters
        ----------
        path : str or None, default=None
            Where they stand now; None is where they stood.
        reporter : Reporter or None, default=None
            Told what is read; None keeps silent.

        Returns
        -------
        LabelledImages
            The same, to the bit, in the same order.

        Raises
        ------
        DataError
            When they cannot be read, or are others by now.

        Examples
        --------
        >>> from imprint.data.load import load
        >>> len(data_origin(load("digits"), "digits").read_again())
        1797
        """
        options = dict(self.options)
        if form := options.pop("form", None):
            options["spec"] = InputSpec(form[0], (form[1], form[2]), (form[1], form[2]))
        images = load(self.path if path is None else path, reporter=reporter, **options)
        if images.fingerprint != self.fingerprint:
            cause = "they are not the pictures and labels of the run: the data has changed, or is another"
            raise DataError("data", images.name, cause, "Name the run's data with --data, or train again.")
        return images


@dataclass(frozen=True)
class Origin:
    """What a run came from.

    Parameters
    ----------
    command : str
        What was typed.
    made : str
        When, as ISO 8601 in UTC.
    settled : str
        What was decided for the run, in a sentence.
    versions : dict of str to str
        Of Imprint, Python and the libraries that decide results.
    machine : str
        System, processor and device.
    training : DataOrigin
        The data given; where validation pictures were held out of it, they are counted too.
    validation : DataOrigin or None
        The validation data, where it was other data.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> from imprint.training.plan import plan_training
    >>> digits = load("digits")
    >>> origin = origin_of(plan_training(digits), "imprint train digits", data_origin(digits, "digits"))
    >>> Origin.from_dict(origin.to_dict()) == origin
    True
    """

    command: str
    made: str
    settled: str
    versions: dict[str, str]
    machine: str
    training: DataOrigin
    validation: DataOrigin | None

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON values.

        Returns
        -------
        dict
            For `from_dict`.

        Examples
        --------
        >>> from imprint.data.load import load
        >>> from imprint.training.plan import plan_training
        >>> digits = load("digits")
        >>> origin_of(plan_training(digits), "imprint train digits", data_origin(digits, "digits")).to_dict()["command"]
        'imprint train digits'
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Origin:
        """Read it from plain JSON values.

        Parameters
        ----------
        values : dict
            From `to_dict`.

        Returns
        -------
        Origin
            The same.

        Raises
        ------
        TypeError, ValueError, KeyError, AttributeError
            When the values do not hold together.

        Examples
        --------
        >>> Origin.from_dict({})
        Traceback (most recent call last):
        KeyError: 'training'
        """
        data = {
            key: None if values[key] is None else _data_from_dict(values[key]) for key in ("training", "validation")
        }
        texts = {key: str(values[key]) for key in ("command", "made", "settled", "machine")}
        versions = {str(name): str(number) for name, number in values["versions"].items()}
        if data["training"] is None:
            raise ValueError("no training data")
        return cls(**texts, versions=versions, training=data["training"], validation=data["validation"])


def _data_from_dict(values: dict[str, Any]) -> DataOrigin:
    channels, height, width = (int(side) for side in values["shape"])
    given = values["options"]
    options = {key: given[key] for key in ("part", "side", "group", "allow_bad", "form") if key in given}
    return DataOrigin(
        str(values["name"]),
        str(values["path"]),
        options,
        int(values["images"]),
        (channels, height, width),
        {str(name): int(count) for name, count in values["classes"].items()},
        str(values["fingerprint"]),
    )


def data_origin(images: LabelledImages, path: str, **options: Any) -> DataOrigin:
    """Note where pictures came from.

    Parameters
    ----------
    images : LabelledImages
        As they were read.
    path : str
        What `load` was given.
    **options : object
        What else it was given; see `DataOrigin`. None counts as not given.

    Returns
    -------
    DataOrigin
        Plain values.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> data_origin(load("digits"), "digits", part=None).options
    {}
    """
    return DataOrigin(
        images.name,
        path if path == "digits" else _plain(str(Path(path).absolute())),
        {key: value for key, value in options.items() if value is not None},
        len(images),
        images.shape,
        images.class_counts(),
        images.fingerprint,
    )


def origin_of(plan: Plan, command: str, training: DataOrigin, validation: DataOrigin | None = None) -> Origin:
    """Note what a run comes from.

    Parameters
    ----------
    plan : Plan
        The run.
    command : str
        What was typed.
    training : DataOrigin
        The data given.
    validation : DataOrigin or None, default=None
        The validation data, where it is other data.

    Returns
    -------
    Origin
        With the versions and the machine of this moment.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> from imprint.training.plan import plan_training
    >>> digits = load("digits")
    >>> origin = origin_of(plan_training(digits), "imprint train digits", data_origin(digits, "digits"))
    >>> sorted(origin.versions)
    ['imprint', 'numpy', 'pillow', 'polars', 'python', 'torch']
    """
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    device = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else plan.device.type
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, trained on {device}"
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(_plain(command), made, _plain(str(plan)), versions, machine, training, validation)


def _plain(text: str) -> str:
    """Spell letters that no file can hold, as names of files that are not UTF-8 have."""
    return text.encode("utf-8", "backslashreplace").decode()
