"""The model file: weights, and all that is needed to use them, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imprint.errors import ModelFileError
from imprint.files import written_whole

KEY = "imprint"  # the one entry of the safetensors header: a JSON text
FORMAT = 2  # 1 had no familiarity


def write_model_file(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts to one file, which appears once it is whole.

    Parameters
    ----------
    path : str or Path
        The file; an existing one is replaced.
    tensors : mapping of str to Tensor
        Weights and buffers by name.
    facts : mapping
        Everything else, as plain JSON values.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "m.safetensors"
    >>> write_model_file(path, {"w": torch.ones(2)}, {"classes": ["a", "b"]})
    >>> read_model_file(path)[1]["classes"]
    ['a', 'b']
    """
    header = {KEY: json.dumps({"format": FORMAT, **facts}, ensure_ascii=False)}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as temporary:
        save_file(whole, temporary, metadata=header)


def read_model_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `write_model_file` wrote.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    tensors : dict of str to Tensor
        Weights and buffers by name.
    facts : dict
        Everything else.

    Raises
    ------
    ModelFileError
        When the file is missing, cut short, or not a model of Imprint's.

    Examples
    --------
    >>> read_model_file("pyproject.toml")
    Traceback (most recent call last):
    imprint.errors.ModelFileError: model at pyproject.toml: ...
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise broken(path, f"it cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise broken(path, f"it is no whole safetensors file ({error})") from None
    except (KeyError, ValueError):
        raise broken(path, "it is a safetensors file, but not one of Imprint's") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        version = facts.get("format") if isinstance(facts, dict) else None
        raise broken(path, f"its format is {version!r}, and this Imprint reads {FORMAT}")
    return tensors, facts


def broken(path: str | Path, cause: str) -> ModelFileError:
    """Make the error for a file that cannot be used as a model.

    Parameters
    ----------
    path : str or Path
        The file.
    cause : str
        What is wrong with it.

    Returns
    -------
    ModelFileError
        To be raised.

    Examples
    --------
    >>> print(broken("a.csv", "it is a table"))
    model at a.csv: it is a table. Name a model.safetensors or run folder that imprint train wrote.
    """
    return ModelFileError("model", str(path), cause, "Name a model.safetensors or run folder that imprint train wrote.")
