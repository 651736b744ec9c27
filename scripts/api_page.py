"""Write docs/api.md from the docstrings of what `imprint` offers, so that the page and `help()` cannot differ."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from numpydoc.docscrape import NumpyDocString, Parameter

import imprint

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
HEAD = """\
# The Python interface

Everything that `imprint` exports. This page is made from the docstrings by `make docs`; the tests run every example
on it, and `help(imprint.train)` says the same. What is not on it may change without notice
([CONTRIBUTING.md](../CONTRIBUTING.md)). On the command line, `imprint VERB --help` lists every option.

The examples assume `from imprint import *`, `import numpy as np` and `from pathlib import Path`.
"""
# Listed in this order; whatever is missing here comes after, so that nothing is left out.
ORDER = (
    "load",
    "train",
    "evaluate",
    "compare",
    "check",
    "analyse_errors",
    "explain",
    "export",
    "predict_shard",
    "write_report",
    "Run",
    "Classifier",
    "OnnxClassifier",
    "ImageClassifier",
    "Predictions",
    "LabelledImages",
    "InputSpec",
    "Recipe",
    "RECIPES",
)
PROPERTIES = (property, cached_property)


def api_page() -> str:
    """Lay the whole page out."""
    names = [*ORDER, *(name for name in imprint.__all__ if name not in ORDER)]
    contents = "\n".join(f"- [`imprint.{name}`](#imprint{name.lower()}): {_summary(name)}" for name in names)
    return "\n".join([HEAD, contents, "", *(line for name in names for line in _entry(name))])


def _thing(name: str) -> Any:
    return getattr(imprint, name)


def _summary(name: str) -> str:
    thing = _thing(name)
    if isinstance(thing, dict):
        return "The named recipes."
    return " ".join(_parsed(thing)["Summary"])


def _parsed(thing: Any) -> NumpyDocString:
    return NumpyDocString(inspect.getdoc(thing) or "")


def _entry(name: str) -> Iterator[str]:
    thing = _thing(name)
    yield f"## imprint.{name}\n"
    if isinstance(thing, dict):
        kind = type(next(iter(thing.values()))).__name__
        yield f"`dict` of `str` to `{kind}`: {', '.join(f'`{key}`' for key in thing)}.\n"
        return
    yield from _described(f"imprint.{name}", thing)
    if inspect.isclass(thing):
        for member, value in members(thing):
            yield f"### {name}.{member}\n"
            yield from _described(f"{name}.{member}", value)
        if inherited := _inherited(thing):
            yield f"From scikit-learn: {', '.join(f'`{member}`' for member in inherited)}.\n"


def members(thing: type) -> Iterator[tuple[str, Any]]:
    """List the public methods and properties of a class that are Imprint's own, in the order of the code."""
    homes = [base for base in thing.__mro__ if base.__module__.startswith("imprint.")]
    seen = set()
    for base in homes:
        for member, value in vars(base).items():
            routine = inspect.isroutine(value) or isinstance(value, (*PROPERTIES, classmethod, staticmethod))
            made_by_sklearn = type(value).__module__.startswith("sklearn.")
            if routine and not made_by_sklearn and not member.startswith("_") and member not in seen:
                seen.add(member)
                yield member, value if isinstance(value, PROPERTIES) else getattr(thing, member)


def _inherited(thing: type) -> list[str]:
    bases = [base for base in thing.__mro__ if base.__module__.startswith("sklearn.")]
    names = {name for base in bases for name, value in vars(base).items() if inspect.isroutine(value)}
    return sorted(name for name in names - set(vars(thing)) if not name.startswith("_"))


def _described(title: str, thing: Any) -> Iterator[str]:
    doc = _parsed(thing)
    if not isinstance(thing, PROPERTIES):
        yield f"```python\n{_signature(title, thing)}\n```\n"
    yield " ".join(doc["Summary"]) + "\n"
    if doc["Extended Summary"]:
        yield "\n".join(doc["Extended Summary"]).strip() + "\n"
    for section in ("Parameters", "Attributes"):
        yield from _table(section, doc[section])
    for section in ("Returns", "Yields", "Raises"):
        yield from _list(section, doc[section])
    if doc["Examples"]:
        code = "\n".join(doc["Examples"]).strip("\n")
        yield f"```pycon\n{code}\n```\n"


def _signature(title: str, thing: Callable[..., Any]) -> str:
    """Give the call with defaults but without types, which the table has."""
    signature = inspect.signature(thing)
    bare = [
        parameter.replace(annotation=parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    call = str(signature.replace(parameters=bare, return_annotation=signature.empty)).replace("'", '"')
    if len(title) + len(call) > 100:
        inner = ",\n    ".join(re.split(r", (?![^(\[]*[)\]])", call[1:-1]))
        call = f"(\n    {inner},\n)"
    return title + call


def _table(section: str, parameters: list[Parameter]) -> Iterator[str]:
    if parameters:
        rows = [f"| `{one.name}` | {_cell([one.type])} | {_cell(one.desc)} |" for one in parameters]
        yield "\n".join([f"| {section.removesuffix('s').lower()} | type | meaning |", "| --- | --- | --- |", *rows, ""])


def _cell(lines: list[str]) -> str:
    return " ".join(lines).replace("|", "\\|")


def _list(section: str, values: list[Parameter]) -> Iterator[str]:
    if values:
        kinds = (f"`{one.name}` ({one.type})" if one.name else f"`{one.type}`" for one in values)
        lines = [f"- {kind}: {' '.join(one.desc)}" for kind, one in zip(kinds, values, strict=True)]
        yield "\n".join([f"{section}:\n", *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(api_page(), encoding="utf-8")
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE} written", file=sys.stderr)
