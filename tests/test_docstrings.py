"""What `imprint` exports has the whole docstring; everything else only what a reader cannot see from the code."""

import ast
import inspect
from pathlib import Path

import pytest
from api_page import PROPERTIES, members
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import imprint

SOURCE = Path(__file__).parent.parent / "src"

# Missing docstring; summary's full stop and form; arguments missing, unknown, out of order, without
# type or text; returns missing or without text; yields; example missing.
ERRORS = {"GL08", "SS03", "SS04", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "RT03", "YD01", "EX01"}
LONGEST, LONGEST_OF_A_CLASS = 3, 8  # lines, where nothing is exported
DEFINITIONS = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def exports():
    """What `imprint` exports and the public methods of its classes, by dotted name; its properties apart."""
    methods, properties = {}, {}
    for thing in (getattr(imprint, name) for name in imprint.__all__):
        if isinstance(thing, dict):
            continue
        methods[f"{thing.__module__}.{thing.__qualname__}"] = thing
        for member, value in members(thing) if inspect.isclass(thing) else ():
            base = next(base for base in thing.__mro__ if member in vars(base))
            kind = properties if isinstance(value, PROPERTIES) else methods
            kind[f"{base.__module__}.{base.__qualname__}.{member}"] = value
    return methods, properties


WHOLE, WHOLE_PROPERTIES = exports()


def definitions(tree, parent):
    """Each class and function of a file with its dotted name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, DEFINITIONS):
            yield f"{parent}.{node.name}", node
        yield from definitions(node, f"{parent}.{node.name}" if isinstance(node, DEFINITIONS) else parent)


def module_name(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(SOURCE.rglob("*.py"))
DEFINED = {
    name: node for path in FILES for name, node in definitions(ast.parse(path.read_text("utf-8")), module_name(path))
}


def test_exports_are_found():
    assert {"imprint.runs.training.train", "imprint.models.predictor.Predictor.predict"} <= set(WHOLE)
    assert "imprint.models.predictor.Predictions.names" in WHOLE_PROPERTIES
    assert len(WHOLE) > 50
    assert set(DEFINED) >= {*WHOLE, *WHOLE_PROPERTIES}


def raised(node):
    """The errors that a function raises in its own body."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call) and isinstance(inner.exc.func, ast.Name):
            yield inner.exc.func.id


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_exports_have_the_whole_docstring(name):
    assert not [error for error in validate(name)["errors"] if error[0] in ERRORS]
    doc = NumpyDocString(inspect.getdoc(WHOLE[name]))
    assert ">>> " in "\n".join(doc["Examples"]), "no example that the tests run"
    if not inspect.isclass(WHOLE[name]):
        told = {entry.type for entry in doc["Raises"]}
        assert {error for error in raised(DEFINED[name]) if error in imprint.__all__} <= told


@pytest.mark.parametrize("name", sorted(WHOLE_PROPERTIES))
def test_properties_say_what_they_are(name):
    doc = ast.get_docstring(DEFINED[name])
    assert doc
    assert doc.splitlines()[0].endswith(".")


OTHERS = sorted(
    (name, node)
    for name, node in DEFINED.items()
    if name not in {*WHOLE, *WHOLE_PROPERTIES} and ast.get_docstring(node) is not None
)


@pytest.mark.parametrize(("name", "node"), OTHERS, ids=[name for name, _ in OTHERS])
def test_everything_else_has_few_lines(name, node):
    lines = [line for line in ast.get_docstring(node).splitlines() if line.strip()]
    assert len(lines) <= (LONGEST_OF_A_CLASS if isinstance(node, ast.ClassDef) else LONGEST)


def counted(path):
    """Lines of docstrings, and lines of code: neither blank, comment nor docstring."""
    text = path.read_text("utf-8")
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DEFINITIONS | ast.Module) and ast.get_docstring(node) is not None:
            told |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in told]
    return len(told), sum(bool(line) and not line.startswith("#") for line in lines)


def test_docstrings_have_at_most_half_the_lines_of_code():
    docstrings, code = map(sum, zip(*map(counted, FILES), strict=True))
    assert docstrings <= code / 2, f"{docstrings} lines of docstrings, {code} of code"
