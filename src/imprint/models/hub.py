"""Hugging Face: a model's card, and transfers from and to the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imprint.core import __version__
from imprint.core.errors import ModelFileError, UsageError
from imprint.core.files import written_whole
from imprint.models.backbones import weights_source
from imprint.preprocessing.input_spec import InputSpec, describe

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
MAX_SHOWN = 50  # classes


def write_card(
    folder: str | Path, facts: Mapping[str, Any], spec: InputSpec, parameters: int, source: str, license: str | None
) -> None:
    """Write a model card, ``README.md``, with the Hub's metadata at its head, into an existing folder.

    `facts` are those of a model file, of which class_names, recipe, score and unsure_below are shown; the card says to
    load the model from `source`. Raises `UsageError` where the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("imprint.models"), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    names = [_escaped(name) for name in facts["class_names"]]
    more = len(names) - MAX_SHOWN
    height, width = spec.input_size
    card = environment.get_template("model_card.md").render(
        name=source.rstrip("/").rpartition("/")[2],
        source=source,
        license=license,
        version=__version__,
        classes=names,
        shown=", ".join(names[:MAX_SHOWN]) + (f" and {more:,} more" if more > 0 else ""),
        parameters=parameters,
        recipe=facts["recipe"],
        score=facts["score"],
        unsure_below=facts["unsure_below"],
        parent=facts.get("parent"),
        pretrained=[source for name in facts["recipe"]["networks"] if (source := weights_source(name))],
        form=describe((spec.channels, *spec.image_size)),
        scaled=None if spec.input_size == spec.image_size else f"{width}×{height}",
        glyphs=spec.glyph is not None,
    )
    with written_whole(Path(folder) / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def download(source: str, filename: str, revision: str | None, token: str | None) -> Path:
    """Fetch one file of a repository of the Hub, or find it in the Hub's cache.

    Raises `ModelFileError` where it cannot be had, `UsageError` where huggingface_hub is missing.
    """
    if not REPOSITORY.fullmatch(source):
        cause, remedy = "there is no such folder, and it names no repository", "a repository such as me/digits"
        raise ModelFileError("model", source, cause, f"Give a folder that save_pretrained wrote, or {remedy}.")
    _require_library()
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, filename, revision=revision, token=token))
    except Exception as error:  # the library's errors and its HTTP client's have no base of their own
        raise ModelFileError(
            "model",
            source,
            f"there is no such folder, nor can the Hub give it ({_first_line(error)})",
            "Check the name.",
        ) from None


def upload(folder: str | Path, repository: str, *, private: bool | None, token: str | None) -> str:
    """Upload a folder into a repository of the Hub, which is made where it does not exist; gives its URL.

    Raises `UsageError` where the name is not one of a repository, huggingface_hub is missing, or the Hub refuses.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"repository {repository!r}", "Hugging Face", "it names none", "Write it as me/digits.")
    _require_library()
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A model that Imprint trained")
        return str(made)
    except Exception as error:  # the library's errors and its HTTP client's have no base of their own
        cause, remedy = f"it refuses ({_first_line(error)})", "Check name, token and connection."
        raise UsageError(f"repository {repository!r}", "Hugging Face", cause, remedy) from None


def _require_library() -> None:
    if find_spec("huggingface_hub") is None:
        raise UsageError("huggingface_hub", "Hugging Face", "it is not installed", "pip install huggingface_hub.")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def _escaped(name: str) -> str:
    """Escape a class name, so that it is read neither as Markdown nor as HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&])", r"\\\1", " ".join(name.split()))
