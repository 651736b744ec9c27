"""What verbs share: their arguments, reading a model or a part of data, and printing."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imprint.core.errors import UsageError
from imprint.core.files import similar_path
from imprint.core.progress import say, warn

if TYPE_CHECKING:
    from imprint.data.images import LabelledImages
    from imprint.models.classifier import Classifier
    from imprint.models.predictor import Predictor

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, images, .csv, .npz, .parquet, IDX file, .zip of these, or digits (bundled).",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(metavar="REGEX|COLUMN", help="What images share that must stay on one side of a split."),
]
Label = Annotated[
    str | None,
    typer.Option(metavar="COLUMN|REGEX", help="The column of labels, or what matches the label in an image's path."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv", help="A list of source,label, as evaluate --mistakes writes it: its labels replace DATA's."
    ),
]
Ids = Annotated[
    str | None, typer.Option("--id", metavar="COLUMN", help="The column of ids, which predictions are written under.")
]
AllowBad = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="SHARE", help="Share of the images that may be unreadable; else 0.2."),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help='Only these classes of the data; those with a comma in their name by JSON: ["a,b"].'
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, an exported .onnx, or a run folder.")]
OTHER_TABLES = (".xlsx", ".xls", ".ods", ".pdf", ".docx", ".parquet")  # endings of what is no text
MODEL_ENDINGS = (".safetensors", ".onnx")
Processes = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Share the work among so many processes of this machine, by torchrun."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def share_out(processes: int | None) -> None:
    """Run this command in several processes instead, and end with their status; returns in each of them."""
    started = int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 0
    if processes is None or processes == max(1, started):
        return
    if started:
        cause = f"torchrun has started {started}"
        raise UsageError(f"--processes {processes}", "imprint", cause, "Leave the option out.")
    from imprint.training.launching import launch

    sys.exit(launch(processes, sys.argv[1:]))


def writable(path: Path | None) -> Path | None:
    """Refuse an output that cannot be written before anything is spent on it."""
    if path is not None:
        from imprint.core.files import check_output

        if path.suffix.lower() in OTHER_TABLES:
            cause = f"what is written is CSV, which a {path.suffix} file does not hold"
            raise UsageError(path.name, "output", cause, f"Name it {path.stem}.csv, which such programs open.")
        check_output(path)
    return path


def is_folder(output: str) -> bool:
    """Tell an output that is a folder, which is there already or ends in a slash, from a file."""
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def writable_or_folder(output: str | None) -> str | None:
    """Do as `writable`, but for a folder, which may still have to be made."""
    if output is not None and not is_folder(output):
        writable(Path(output))
    elif output is not None:
        from imprint.models.bulk import check_folder

        check_folder(Path(output))
    return output


def read_model(path: Path, data: str = "") -> Predictor:
    """Read a model in whichever form it is, and say where its training was stopped; an exported one needs no torch.

    Raises `UsageError` where `data`, the argument after it, is the model.
    """
    if data and not _is_model(path) and _is_model(Path(data)):
        raise UsageError(str(path), "MODEL", f"it is no model, but {data} is", f"Swap the two: {data} {path}.")
    if path.suffix.lower() == ".onnx":
        from imprint.models.onnx.classifier import OnnxClassifier

        return OnnxClassifier.load(path)
    from imprint.models.model_file import check_model_file, find_model

    check_model_file(find_model(path))  # before torch is imported, which takes longer than refusing
    from imprint.runs.folder import unfinished_note

    model, unfinished = load_classifier(path), unfinished_note(path)
    if unfinished:
        say(unfinished)
    return model


def _is_model(path: Path) -> bool:
    """Whether a path looks like a model: a file named like one, or a run folder with one."""
    from imprint.models.model_file import find_model

    return find_model(path).is_file() and (path.is_dir() or path.suffix.lower() in MODEL_ENDINGS)


def load_classifier(path: str | Path, device: str = "auto") -> Classifier:
    """Load a model, and compute with as many threads as this machine is fastest with."""
    from imprint.models.classifier import Classifier

    set_threads(device)
    return Classifier.load(path, device)


def set_threads(device: str = "auto") -> None:
    """Let torch use as many threads as this machine predicts fastest with; only the command line owns its process."""
    import torch

    from imprint.models.hardware import choose_compute_config, choose_device

    torch.set_num_threads(choose_compute_config(choose_device(device), "float32").threads)


def joined_fields(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Join the fields of ``--set`` with those of options of their own; raises `UsageError` where both give one."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in settings and settings[name] != value:
            option = f"--{name.replace('_', '-')} {value}"
            raise UsageError(
                option, "train", f"--set {name}={settings[name]} says otherwise", "Leave one of the two out."
            )
    return {**settings, **given}


def unused(option: str, when: str) -> UsageError:
    """Make the error for an option that would change nothing."""
    return UsageError(option, "imprint", f"it changes nothing {when}", "Leave it out, or see --help.")


def share_or_data(text: str | None) -> float | str | None:
    """Read --validation: a number is a share, anything else is data."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def class_list(text: str | None) -> list[str] | None:
    """Read --classes: names with commas between them, or a JSON list."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if isinstance(names := json.loads(text), list):
            return [str(name) for name in names]
    return [name.strip() for name in text.split(",")]


def dated(folder: Path) -> Path:
    """Write today's date, such as 2026-11-28, for {date} in the name of a run folder."""
    return Path(str(folder).replace("{date}", f"{datetime.now().astimezone():%Y-%m-%d}"))


def one_or_files(data: list[str]) -> str | list[str]:
    """Give data as it is, or the names of several images; refuse several of anything else."""
    if len(data) == 1:
        return data[0]
    from imprint.data.readers.layout import IMAGE_ENDINGS

    for name in data:
        if Path(name).is_dir() or (Path(name).suffix and not name.lower().endswith(IMAGE_ENDINGS)):
            raise UsageError(name, "DATA", "of several, each is the file of an image", "Give other data one by one.")
        if not Path(name).is_file():
            remedy = f"{similar_path(name)}Check the path."
            raise UsageError("data", name, "there is no such file", remedy)
    return data


def part_to_score(data: str) -> str | None:
    """Tell which part of divided data was kept for scoring."""
    from imprint.data.load import parts
    from imprint.data.remote import without_secrets

    part = next((part for part in ("test", "validation") if part in parts(data)), None)
    if part is not None:
        say(f"scoring the {part} part of {without_secrets(data)}")
    return part


def part_to_predict(data: str) -> str | None:
    """Tell which part of divided data is there to be predicted, rather than learnt from."""
    from imprint.data.load import parts
    from imprint.data.remote import without_secrets
    from imprint.data.split import TO_PREDICT

    part = next((part for part in TO_PREDICT if part in parts(data)), None)
    if part is not None:
        say(f"predicting the {part} part of {without_secrets(data)}")
    return part


def learnt_from(model: Path, images: LabelledImages) -> tuple[list[str], int | None]:
    """Warn where a model is scored on images that it was trained on, or that its confidence was fitted to.

    Gives what was said, and how many of the images it was trained on; None where nothing tells, as of a file alone.
    """
    from imprint.data.images import has_fingerprint
    from imprint.models.model_file import PROVENANCE_NAME

    told = {
        "training": "has learnt from this very data: expect less of new images; its metrics.json tells how much",
        "validation": "had its confidence fitted to this very data: expect slightly less of new images",
    }
    notes, known = list[str](), _count_trained_on(model, images)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a model that stands alone does not tell
        provenance = json.loads(
            ((model if model.is_dir() else model.parent) / PROVENANCE_NAME).read_text(encoding="utf-8")
        )
        for data, words in told.items():
            if provenance[data] is not None and has_fingerprint(images, provenance[data]["fingerprint"]):
                notes.append(f"{model} {words}")
        if known is None and not notes and model.suffix.lower() != ".onnx" and provenance.get("parent") is not None:
            notes.append(f"nothing tells which images {model} was trained on, since nothing tells its old model's")
    if known and not notes:
        notes.append(f"{model} was trained on {known:,} of these {len(images):,} images: expect less of new ones")
    for note in notes:
        warn(note)
    return notes, known


def _count_trained_on(model: Path, images: LabelledImages) -> int | None:
    """Count the images that a run was trained on, where its folder tells; an exported file needs no torch."""
    from imprint.models.model_file import SEEN_NAME, find_model

    if model.suffix.lower() == ".onnx" or not find_model(model).with_name(SEEN_NAME).is_file():
        return None
    from imprint.training.parent import count_trained_on

    return count_trained_on(model, images)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(content, ensure_ascii=False))
