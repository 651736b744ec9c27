"""Bulk prediction: any number of images in constant memory, each exactly once in the output, whatever is killed.

A shard's output is named after the shard and the model, appears by one rename, and is skipped where it is there. So a
task may be run twice, by anything that runs tasks.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError, StoppedError, UsageError, brief
from imprint.core.files import make_folder, written_whole
from imprint.core.progress import say, shown
from imprint.data.decoding.content import remedy_for
from imprint.data.decoding.decode import without_warnings
from imprint.data.decoding.image_list import MOST_NOTES, ImageList, block_ranges, decode_blocks
from imprint.data.images import LabelledImages
from imprint.data.load import parts
from imprint.data.remote import is_address, without_secrets
from imprint.data.shards import Shard, find_shards
from imprint.data.split import TO_PREDICT
from imprint.models.model_file import find_model
from imprint.models.predictor import Predictor

FORMAT = 1  # of the output; it decides its names
ROWS = 512  # of a file of many images, predicted at a time: the most that a kill loses
COLUMNS = ("source", "label", "confidence", "unsure", "error")
SUMMARY, OUTDATED = "summary.json", "_outdated"  # Spark and others pass by what begins with _
KEY = "imprint"  # in a file's metadata: how many parts and images its shard has
OURS = re.compile(r".+-[0-9]{5}-[0-9a-f]{32}\.parquet")
UNSAFE, LONGEST = re.compile(r"[^\w. -]"), 60  # in a file's name
FILES_AT_ONCE = 1000
SILENCE = 10.0  # seconds between two lines of how far it is

Row = tuple[str, str | None, float | None, bool | None, str | None]


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard.

    Parameters
    ----------
    files : tuple of str
        The names of the files that hold its rows.
    inputs : int
        Number of images that it has, readable or not.
    said : int
        Number of rows with a label.
    failed : int
        Number of rows with an error: `said` and `failed` make up `inputs`.
    cause : str
        The first row's that failed: its source and its error; empty where none did.
    notes : dict of str to int
        What was decided while decoding, with the number of images.
    found : bool
        Whether all of it had been predicted before.

    Examples
    --------
    >>> ShardResult(("a.parquet",), 3, 2, 1, "b.jpg: it is empty", {}, False).failed
    1
    """

    files: tuple[str, ...]
    inputs: int
    said: int
    failed: int
    cause: str
    notes: dict[str, int]
    found: bool

    def __repr__(self) -> str:
        return brief(self, f"{self.inputs:,} images, {self.said:,} said and {self.failed:,} failed")


def predict_shard(model: str | Path, shard: str | Path | Sequence[str | Path] | Shard, out: str | Path) -> ShardResult:
    """Predict a shard of a larger collection into a folder, or find that this has been done.

    The output is one or more Parquet files, each named after the shard and the model, with a row an image: `source`,
    `label`, `confidence`, `unsure` and `error`, which is empty unless the image could not be read. A file appears once
    it is whole, so that a task that was killed, or that two machines do at once, is simply done again.

    Parameters
    ----------
    model : str or Path
        A model file, an exported ``.onnx`` or a run folder. It is read once a process.
    shard : str, Path, or sequence of these
        A file of many images, as `load` takes it, such as a ``.tar``, ``.zip`` or ``.parquet``; or the files of some
        images.
    out : str or Path
        The folder, made where it does not exist.

    Returns
    -------
    ShardResult
        The files, and how many images were named and how many could not be read.

    Raises
    ------
    DataError
        When a file of many images cannot be read at all.
    ModelFileError
        When there is no such model, or it is not whole.
    UsageError
        When the output cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import imprint
    >>> model = imprint.train("digits", "quick", epochs=1, min_steps=1, verbose=False).model
    >>> folder = Path(tempfile.mkdtemp())
    >>> model.save(folder / "digits.safetensors")
    >>> predict_shard(folder / "digits.safetensors", "digits", folder / "out").said
    1797
    """
    if isinstance(shard, str | Path):
        divided = parts(str(shard))
        shard = Shard((str(shard),), True, next((part for part in TO_PREDICT if part in divided), None))
    elif not isinstance(shard, Shard):
        shard = Shard(tuple(map(str, shard)))
    make_folder(Path(out))
    predictor, digest = open_model(str(model))
    with shown(False):  # a word for each of many shards would hide the others
        return _predict(predictor, digest, shard, Path(out))


RunShards = Callable[[Iterable[Shard]], Iterable[ShardResult]]


def predict_folder(
    model: str | Path, data: str | Sequence[str], out: Path, run: RunShards | None = None
) -> dict[str, Any]:
    """Predict data of any size into a folder, and go on where that was stopped; gives what `summary.json` tells.

    `run` predicts the shards wherever and in whatever order it likes. Raises `UsageError` for a folder that holds
    anything else, `DataError` where not one image could be read, `StoppedError` after Ctrl-C.
    """
    if isinstance(data, str) and not is_address(data):
        data = data.rstrip("/") or data
    facts: dict[str, Any] = {"data": without_secrets(data) if isinstance(data, str) else list(data)}
    facts |= {"model_sha256": open_model(str(model))[1], "format": FORMAT}
    shards = find_shards(data)
    first = next(shards)  # the data are there, before anything is written
    _check_same(out, data, facts)
    _write_summary(out, {**facts, "complete": False})
    files, counts, causes, notes = set[str](), Counter[str](), list[str](), Counter[str]()
    started = told = time.monotonic()
    try:
        for result in (run or _here(model, out))(chain([first], shards)):
            files.update(result.files)
            counts.update(inputs=result.inputs, said=result.said, found=result.inputs * result.found)
            causes += [result.cause] if result.cause and not causes else []
            notes.update(result.notes)
            if (now := time.monotonic()) - told > SILENCE:
                new, told = counts["inputs"] - counts["found"], now
                say(f"{counts['inputs']:,} images, {new / (now - started):,.0f}/s")
    except KeyboardInterrupt:
        cause = f"stopped, {counts['inputs']:,} images are predicted"
        raise StoppedError("prediction", str(out), cause, "The same command goes on.") from None
    _set_outdated_aside(out, files)
    said, failed = _count_rows(out, files)
    if (said + failed, said) != (counts["inputs"], counts["said"]):
        cause = f"it has {said + failed:,} rows for {counts['inputs']:,} images"
        raise UsageError("output", str(out), cause, "Something else has changed it meanwhile: run the command again.")
    summary = {**facts, "complete": True, "inputs": counts["inputs"], "said": said, "failed": failed}
    _write_summary(out, summary)
    _tell(summary, counts["found"], causes, notes, out)
    return summary


def _tell(summary: Mapping[str, Any], found: int, causes: Sequence[str], notes: Counter[str], out: Path) -> None:
    """Say what became of all images; raises `DataError` where none could be read."""
    inputs, failed = summary["inputs"], summary["failed"]
    for note, count in notes.most_common(MOST_NOTES):
        say(f"{count:,} images: {note}")
    if found:
        say(f"{found:,} of {inputs:,} images were predicted before")
    if not summary["said"]:
        cause = causes[0] if causes else "there are none"
        remedy = remedy_for(cause.rpartition(": ")[2], "them")
        raise DataError(f"{inputs:,} images", str(summary["data"]), f"not one can be used, first {cause}", remedy)
    if failed:
        say(f"{failed:,} of {inputs:,} images could not be read, first {causes[0]}")
    say(f"wrote {summary['said']:,} predictions to {out}")


def _here(model: str | Path, out: Path) -> Callable[[Iterable[Shard]], Iterator[ShardResult]]:
    return lambda shards: (predict_shard(model, shard, out) for shard in shards)


def open_model(path: str) -> tuple[Predictor, str]:
    """Read a model, once a process, and the SHA-256 of its file."""
    file = find_model(path)
    status = file.stat() if file.is_file() else None
    return _open_model(path, str(file), None if status is None else (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)
def _open_model(path: str, file: str, _changed: tuple[int, int] | None) -> tuple[Predictor, str]:
    predictor: Predictor
    if path.lower().endswith(".onnx"):
        from imprint.models.onnx.classifier import OnnxClassifier

        predictor = OnnxClassifier.load(path)
    else:
        from imprint.models.classifier import Classifier

        predictor = Classifier.load(path)
    with open(file, "rb") as content:
        return predictor, hashlib.file_digest(content, "sha256").hexdigest()


def _predict(model: Predictor, digest: str, shard: Shard, out: Path) -> ShardResult:
    """Predict a shard part by part, but for the parts that are there already."""
    key = hashlib.blake2b(f"{FORMAT} {ROWS} {digest} {shard.digest}".encode(), digest_size=16).hexdigest()
    stem = f"{UNSAFE.sub('_', shard.name)[:LONGEST]}-{{:05}}-{key}.parquet"
    if (found := _find_shard(out, stem)) is not None:
        return found
    with _listed(shard, model) as listed:
        return _predict_parts(model, listed, shard.is_container, out, stem)


def _predict_parts(
    model: Predictor, listed: ImageList | LabelledImages, in_parts: bool, out: Path, stem: str
) -> ShardResult:
    """Predict listed images into one file or several, but for those that are there."""
    left_out = listed.unreadable if isinstance(listed, ImageList) else ()
    total, notes, results = len(listed.sources), Counter[str](), list[ShardResult]()
    length = ROWS if in_parts else total or 1
    ranges = [range(i, min(i + length, total)) for i in range(0, total, length)] or [range(0)]
    told = json.dumps({"parts": len(ranges), "inputs": total + len(left_out)})
    for number, positions in enumerate(ranges):
        path = out / stem.format(number)
        if (result := _read_part(path)) is None:
            tables = [_table([]), *_tables(model, listed, positions, notes)]
            tables += [_table([_failed(source, cause) for source, cause in left_out])] if number == 0 else []
            table = polars.concat(tables)
            content = BytesIO()  # so that it is Python which meets a full disk
            table.write_parquet(content, metadata={KEY: told})
            with written_whole(path) as temporary:
                temporary.write_bytes(content.getbuffer())
            result = _counted(path.name, table)
        results.append(result)
    return replace(_joined(results), inputs=total + len(left_out), notes=dict(notes), found=False)


def predict_files(model: Predictor, contents: Sequence[bytes], sources: Sequence[str]) -> polars.DataFrame:
    """Predict the contents of image files; gives the rows that a shard has."""
    listed = ImageList("images", sources, contents.__getitem__, [])
    return polars.concat([_table([]), *_tables(model, listed, range(len(contents)), Counter())])


@contextmanager
def _listed(shard: Shard, model: Predictor) -> Iterator[ImageList | LabelledImages]:
    """List a shard's images; a file that cannot be read is an unreadable image where it is one of many."""
    with ExitStack() as stack:
        try:
            listed = stack.enter_context(shard.opened(model.spec))
        except DataError as error:
            if not shard.is_one_of_many:
                raise
            failed = without_secrets(shard.files[0]), error.cause
            listed = ImageList(shard.name, [], lambda _: b"", [], unreadable=(failed,))
        yield listed


def _tables(
    model: Predictor, listed: ImageList | LabelledImages, positions: range, notes: Counter[str]
) -> Iterator[polars.DataFrame]:
    """Predict some images, decoding those of files on all cores, a block after another."""
    start, spec = positions.start, model.spec
    if isinstance(listed, LabelledImages):
        some = listed[start : positions.stop]
        sources = [f"{listed.name}#{row}" for row in some.sources] if listed.from_pixel_table else some.sources.tolist()
        yield _table([(source, *said, None) for source, said in zip(sources, _said(model, some), strict=True)])
        return
    blocks = [range(start + block.start, start + block.stop) for block in block_ranges(len(positions), spec)]
    with without_warnings():
        for block, decoded in zip(blocks, decode_blocks(listed.open, blocks, spec), strict=True):
            notes.update(decoded.notes)
            causes = dict(decoded.bad)
            said = iter(_said(model, _images(decoded.pixels, model)) if len(decoded.pixels) else [])
            rows = list[Row]()
            for i in block:
                row = _failed(listed.sources[i], causes[i]) if i in causes else (listed.sources[i], *next(said), None)
                rows.append(row)
            yield _table(rows)


def _images(pixels: UInt8[ndarray, "n c h w"], model: Predictor) -> LabelledImages:
    places = np.arange(len(pixels)).astype(str)
    settled = model.spec.pixel_range, model.spec.background
    return LabelledImages(pixels, None, (), places, pixel_range=settled[0], background=settled[1])


def _said(model: Predictor, images: LabelledImages) -> list[tuple[str, float, bool]]:
    """Give label, confidence and whether it is unsure of each image."""
    found = model.predict(images)
    return list(zip(found.names, found.confidence.tolist(), found.unsure.tolist(), strict=True))


def _failed(source: str, cause: str) -> Row:
    return source, None, None, None, cause


def _table(rows: Sequence[Row]) -> polars.DataFrame:
    kinds = polars.String, polars.String, polars.Float32, polars.Boolean, polars.String
    return polars.DataFrame(list(rows), schema=dict(zip(COLUMNS, kinds, strict=True)), orient="row")


def _find_shard(out: Path, stem: str) -> ShardResult | None:
    """Find a shard that has been predicted wholly."""
    try:
        told = json.loads(polars.read_parquet_metadata(out / stem.format(0))[KEY])
    except (OSError, polars.exceptions.PolarsError, KeyError):
        return None
    parts = [_read_part(out / stem.format(number)) for number in range(told["parts"])]
    whole = [part for part in parts if part is not None]
    return replace(_joined(whole), inputs=told["inputs"]) if len(whole) == len(parts) else None


def _read_part(path: Path) -> ShardResult | None:
    """Count the rows of a file; None where it is not there or not whole."""
    try:
        return _counted(path.name, polars.read_parquet(path, columns=["source", "label", "error"]))
    except (OSError, polars.exceptions.PolarsError):
        return None


def _counted(name: str, table: polars.DataFrame) -> ShardResult:
    failed = table.filter(polars.col("error").is_not_null())
    cause = f"{failed['source'][0]}: {failed['error'][0]}" if len(failed) else ""
    return ShardResult((name,), len(table), table["label"].count(), len(failed), cause, {}, True)


def _joined(parts: Sequence[ShardResult]) -> ShardResult:
    inputs, said, failed = (sum(getattr(part, key) for part in parts) for key in ("inputs", "said", "failed"))
    cause = next((part.cause for part in parts if part.cause), "")
    return ShardResult(tuple(name for part in parts for name in part.files), inputs, said, failed, cause, {}, True)


def check_folder(out: Path) -> None:
    """Raise `UsageError` for a folder that holds other files than predictions."""
    if out.exists() and not (out / SUMMARY).is_file() and (not out.is_dir() or any(out.iterdir())):
        cause = "it is a folder that holds other files" if out.is_dir() else "it is no folder"
        raise UsageError("output", str(out), cause, "Name a new folder, or a file such as result.csv.")


def _check_same(out: Path, data: str | Sequence[str], facts: Mapping[str, Any]) -> None:
    """Make the output's folder; refuse one of other predictions, or within the data."""
    if isinstance(data, str) and Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        remedy = "Choose a folder beside the data."
        raise UsageError("output", str(out), f"it lies within {data}, whose files are the images to predict", remedy)
    check_folder(out)
    make_folder(out)
    try:
        before = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        other = [key for key in facts if before.get(key) != facts[key]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError):
        raise UsageError("output", str(out), f"its {SUMMARY} is damaged", "Name a new folder.") from None
    if other:
        what = "other data" if "data" in other else "another model"
        raise UsageError("output", str(out), f"it holds predictions of {what}", "Name a new folder.")


def _set_outdated_aside(out: Path, files: set[str]) -> None:
    """Move what was predicted of files that are gone or changed since, so that no image is there twice."""
    outdated = [path for path in out.glob("*.parquet") if path.name not in files and OURS.fullmatch(path.name)]
    for path in outdated:
        make_folder(out / OUTDATED)
        path.replace(out / OUTDATED / path.name)
    if outdated:
        say(f"the data have changed: {len(outdated):,} files of predictions are outdated, now in {out / OUTDATED}")


def _count_rows(out: Path, files: Iterable[str]) -> tuple[int, int]:
    """Count the rows on disk with a label, and those with an error."""
    said, failed, paths = 0, 0, [out / name for name in files]
    for start in range(0, len(paths), FILES_AT_ONCE):
        table = polars.scan_parquet(paths[start : start + FILES_AT_ONCE])
        counts = table.select(polars.col("label").count(), polars.col("error").count()).collect()
        said, failed = said + counts["label"][0], failed + counts["error"][0]
    return said, failed


def _write_summary(out: Path, facts: Mapping[str, Any]) -> None:
    with written_whole(out / SUMMARY) as temporary:
        text = json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names that are no UTF-8
