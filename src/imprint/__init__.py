"""Imprint trains a machine to recognise images with convolutional networks."""

from importlib import import_module

from imprint.core import __version__ as __version__

TYPE_CHECKING = False  # typing's own takes as long to import as Python to start
if TYPE_CHECKING:
    from imprint.analysis.doctor import check as check
    from imprint.analysis.error_analysis import ErrorAnalysis as ErrorAnalysis
    from imprint.analysis.error_analysis import Mistake as Mistake
    from imprint.analysis.error_analysis import analyse_errors as analyse_errors
    from imprint.analysis.evaluation import Comparison as Comparison
    from imprint.analysis.evaluation import compare as compare
    from imprint.analysis.evaluation import evaluate as evaluate
    from imprint.analysis.explanation import Explanation as Explanation
    from imprint.analysis.explanation import explain as explain
    from imprint.core.errors import DataError as DataError
    from imprint.core.errors import ImprintError as ImprintError
    from imprint.core.errors import ModelFileError as ModelFileError
    from imprint.core.errors import UsageError as UsageError
    from imprint.core.scores import AccuracyEstimate as AccuracyEstimate
    from imprint.core.scores import Score as Score
    from imprint.data.images import LabelledImages as LabelledImages
    from imprint.data.images import LoadedFrom as LoadedFrom
    from imprint.data.load import load as load
    from imprint.data.quality import Finding as Finding
    from imprint.data.quality import Findings as Findings
    from imprint.models.bulk import ShardResult as ShardResult
    from imprint.models.bulk import predict_shard as predict_shard
    from imprint.models.classifier import Classifier as Classifier
    from imprint.models.networks import register_network as register_network
    from imprint.models.onnx.classifier import OnnxClassifier as OnnxClassifier
    from imprint.models.onnx.exporting import Exported as Exported
    from imprint.models.onnx.exporting import Rounding as Rounding
    from imprint.models.onnx.exporting import export as export
    from imprint.models.ood import MahalanobisScore as MahalanobisScore
    from imprint.models.predictor import Predictions as Predictions
    from imprint.models.predictor import Predictor as Predictor
    from imprint.models.summary import Layer as Layer
    from imprint.preprocessing.glyph import GlyphForm as GlyphForm
    from imprint.preprocessing.input_spec import InputSpec as InputSpec
    from imprint.recipes import RECIPES as RECIPES
    from imprint.recipes import Recipe as Recipe
    from imprint.report.run_report import write_report as write_report
    from imprint.runs.estimator import ImageClassifier as ImageClassifier
    from imprint.runs.run import Run as Run
    from imprint.runs.training import train as train


# Read on first use, so that `imprint --help` need not wait for torch.
_HOMES = {
    "AccuracyEstimate": "imprint.core.scores",
    "Classifier": "imprint.models.classifier",
    "Comparison": "imprint.analysis.evaluation",
    "DataError": "imprint.core.errors",
    "ErrorAnalysis": "imprint.analysis.error_analysis",
    "Explanation": "imprint.analysis.explanation",
    "Exported": "imprint.models.onnx.exporting",
    "Finding": "imprint.data.quality",
    "Findings": "imprint.data.quality",
    "GlyphForm": "imprint.preprocessing.glyph",
    "ImageClassifier": "imprint.runs.estimator",
    "ImprintError": "imprint.core.errors",
    "InputSpec": "imprint.preprocessing.input_spec",
    "LabelledImages": "imprint.data.images",
    "Layer": "imprint.models.summary",
    "LoadedFrom": "imprint.data.images",
    "MahalanobisScore": "imprint.models.ood",
    "Mistake": "imprint.analysis.error_analysis",
    "ModelFileError": "imprint.core.errors",
    "OnnxClassifier": "imprint.models.onnx.classifier",
    "Predictions": "imprint.models.predictor",
    "Predictor": "imprint.models.predictor",
    "RECIPES": "imprint.recipes",
    "Recipe": "imprint.recipes",
    "Rounding": "imprint.models.onnx.exporting",
    "Run": "imprint.runs.run",
    "Score": "imprint.core.scores",
    "ShardResult": "imprint.models.bulk",
    "UsageError": "imprint.core.errors",
    "analyse_errors": "imprint.analysis.error_analysis",
    "check": "imprint.analysis.doctor",
    "compare": "imprint.analysis.evaluation",
    "evaluate": "imprint.analysis.evaluation",
    "explain": "imprint.analysis.explanation",
    "export": "imprint.models.onnx.exporting",
    "load": "imprint.data.load",
    "predict_shard": "imprint.models.bulk",
    "register_network": "imprint.models.networks",
    "train": "imprint.runs.training",
    "write_report": "imprint.report.run_report",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name == "ray":  # a module beside the names
        return import_module("imprint.ray")
    if name not in _HOMES:
        raise AttributeError(f"module 'imprint' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
