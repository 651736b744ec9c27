"""Imprint teaches a machine to recognise images with convolutional networks."""

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes as long to import as Python to start
if TYPE_CHECKING:
    from imprint.checking import check as check
    from imprint.classifier import Classifier as Classifier
    from imprint.clinic import diagnose as diagnose
    from imprint.data import load as load
    from imprint.errors import DataError as DataError
    from imprint.errors import ImprintError as ImprintError
    from imprint.errors import ModelFileError as ModelFileError
    from imprint.errors import UsageError as UsageError
    from imprint.estimator import ImageClassifier as ImageClassifier
    from imprint.evaluation import evaluate as evaluate
    from imprint.explanation import Explanation as Explanation
    from imprint.explanation import explain as explain
    from imprint.exporting import Exported as Exported
    from imprint.exporting import export as export
    from imprint.findings import Finding as Finding
    from imprint.findings import Findings as Findings
    from imprint.images import LabelledImages as LabelledImages
    from imprint.onnx_classifier import OnnxClassifier as OnnxClassifier
    from imprint.predictions import Predictions as Predictions
    from imprint.recipe import Recipe as Recipe
    from imprint.recipes import RECIPES as RECIPES
    from imprint.score import Score as Score
    from imprint.training import Run as Run
    from imprint.training import train as train

__version__ = "0.1.0"

# Read on first use, so that `imprint --help` need not wait for torch.
_HOMES = {
    "Classifier": "imprint.classifier",
    "DataError": "imprint.errors",
    "Exported": "imprint.exporting",
    "Explanation": "imprint.explanation",
    "Finding": "imprint.findings",
    "Findings": "imprint.findings",
    "ImageClassifier": "imprint.estimator",
    "ImprintError": "imprint.errors",
    "LabelledImages": "imprint.images",
    "ModelFileError": "imprint.errors",
    "OnnxClassifier": "imprint.onnx_classifier",
    "Predictions": "imprint.predictions",
    "RECIPES": "imprint.recipes",
    "Recipe": "imprint.recipe",
    "Run": "imprint.training",
    "Score": "imprint.score",
    "UsageError": "imprint.errors",
    "check": "imprint.checking",
    "diagnose": "imprint.clinic",
    "evaluate": "imprint.evaluation",
    "export": "imprint.exporting",
    "explain": "imprint.explanation",
    "load": "imprint.data",
    "train": "imprint.training",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'imprint' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
