"""Every public name is documented in one form: meaning, arguments, returns, one runnable example."""

import importlib
import inspect
import pkgutil

import pytest
from numpydoc.validate import validate

import imprint

# Missing docstring; summary's full stop and form; arguments missing, unknown, out of order, without
# type or text; returns missing or without text; yields; example missing.
ERRORS = {"GL08", "SS03", "SS04", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "RT03", "YD01", "EX01"}
VERBS = ("imprint.__main__", "imprint.cli.app", "imprint.verbs.")  # their docstrings are help texts


def public_names():
    modules = [module.name for module in pkgutil.walk_packages(imprint.__path__, "imprint.")]
    for module_name in modules:
        if module_name.startswith(VERBS):
            continue
        module = importlib.import_module(module_name)
        for name, thing in vars(module).items():
            mine = getattr(thing, "__module__", None) == module_name
            if name.startswith("_") or not mine or not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            yield f"{module_name}.{name}"
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    inherited = any(hasattr(base, method) for base in thing.__mro__[1:])  # told there
                    routine = inspect.isroutine(value) and not type(value).__module__.startswith("sklearn.")
                    if routine and not method.startswith("_") and not inherited:
                        yield f"{module_name}.{name}.{method}"


NAMES = sorted(public_names())


def test_public_names_are_found():
    assert "imprint.runs.run.train" in NAMES
    assert "imprint.models.predictor.Predictor.predict" in NAMES
    assert len(NAMES) > 50


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name):
    # nn.Module's own __init__ takes anything; a layer without one of its own takes nothing.
    problems = [e for e in validate(name)["errors"] if e[0] in ERRORS and "'*args'" not in e[1]]
    assert not problems
