"""From pictures to probabilities, in batches; and the predictions that come of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.arithmetic import choose_arithmetic
from imprint.augment import VIEWS
from imprint.familiarity import logits_and_features
from imprint.files import written_whole
from imprint.input_spec import InputSpec, prepare

CPU_BATCH = 128  # 28,000 digits took 0.55 s with 64, 0.45 with 128, 0.53 with 256, which leaves the cache
GPU_BATCH = 4096
HESITANT_SHARE = 0.05  # of the validation pictures; views changed no answer beyond the least sure 2 % (docs/LOG.md)


def predict_probabilities(
    net: nn.Module, pixels: UInt8[Tensor, "n c h w"], spec: InputSpec
) -> Float32[ndarray, "n classes"]:
    """Run a network over pictures, without augmentation or dropout, in float32.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits, on any device; its training mode is left as it was.
    pixels : Tensor of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Softmax of the logits; rows sum to 1.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> net = build_net("quick", 1, (28, 28), 10)
    >>> pixels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    >>> predict_probabilities(net, pixels, InputSpec(1, (28, 28), (28, 28))).shape
    (3, 10)
    """
    return _look(net, pixels, spec, other_views=lambda prepared: [])


@torch.inference_mode()
def predict_with_features(
    net: nn.Module, pixels: UInt8[Tensor, "n c h w"], spec: InputSpec
) -> tuple[Float32[ndarray, "n classes"], Float32[Tensor, "n features"]]:
    """Run a network over pictures as `predict_probabilities` does, and note its features on the way.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits, on any device; its training mode is left as it was.
    pixels : Tensor of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    probabilities : ndarray of float32, shape (n, classes)
        Softmax of the logits; rows sum to 1.
    features : Tensor of float32, shape (n, features)
        See `familiarity.logits_and_features`; on the network's device.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> net = build_net("quick", 1, (28, 28), 10)
    >>> pixels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    >>> predict_with_features(net, pixels, InputSpec(1, (28, 28), (28, 28)))[1].shape
    torch.Size([3, 208])
    """
    found, features = [], []
    for prepared, lay_out in _prepared_batches(net, pixels, spec):
        logits, noted = logits_and_features(net, lay_out(prepared))
        found.append(logits.softmax(dim=1))
        features.append(noted)
    return torch.cat(found).cpu().numpy(), torch.cat(features)


def look_again(
    net: nn.Module,
    pixels: UInt8[Tensor, "n c h w"],
    spec: InputSpec,
    views: str,
    found: Float32[ndarray, "n classes"],
    views_below: float,
) -> Float32[ndarray, "n classes"]:
    """Average what a network says of a picture's other views too, where it hesitates.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits, on any device; its training mode is left as it was.
    pixels : Tensor of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for.
    spec : InputSpec
        The model's input contract.
    views : {"none", "shifts", "mirror"}
        Which other views; see `augment.VIEWS`.
    found : ndarray of float32, shape (n, classes)
        What it says of the pictures as they are, from `predict_probabilities`.
    views_below : float
        Only pictures whose likeliest class has less probability than this are viewed again.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Rows sum to 1.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> net = build_net("quick", 1, (28, 28), 10)
    >>> pixels, spec = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), InputSpec(1, (28, 28), (28, 28))
    >>> look_again(net, pixels, spec, "shifts", predict_probabilities(net, pixels, spec), 1.0).shape
    (3, 10)
    """
    hesitant = np.flatnonzero(found.max(axis=1) < views_below)
    if views == "none" or not len(hesitant):
        return found
    viewed = found.copy()
    viewed[hesitant] = _look(net, pixels[torch.from_numpy(hesitant)], spec, VIEWS[views])
    return viewed


@torch.inference_mode()
def _look(
    net: nn.Module,
    pixels: UInt8[Tensor, "n c h w"],
    spec: InputSpec,
    other_views: Callable[[Float32[Tensor, "n c h w"]], list[Float32[Tensor, "n c h w"]]],
) -> Float32[ndarray, "n classes"]:
    """Average the probabilities of each prepared picture and its other views."""
    found = []
    for prepared, lay_out in _prepared_batches(net, pixels, spec):
        seen = [net(lay_out(view)).float().softmax(dim=1) for view in (prepared, *other_views(prepared))]
        found.append(torch.stack(seen).mean(dim=0))
    return torch.cat(found).cpu().numpy()


def _prepared_batches(
    net: nn.Module, pixels: UInt8[Tensor, "n c h w"], spec: InputSpec
) -> Iterator[tuple[Float32[Tensor, "n c h w"], Callable[[Tensor], Tensor]]]:
    """Prepare pictures batch by batch, and tell how to lay them out for a network that is not taught meanwhile."""
    device = next(net.parameters()).device
    arithmetic = choose_arithmetic(device, "float32")
    torch.set_num_threads(arithmetic.threads)
    was_training = net.training
    net.eval()
    for batch in pixels.split(CPU_BATCH if device.type == "cpu" else GPU_BATCH):
        yield prepare(batch.to(device), spec), arithmetic.lay_out
    net.train(was_training)


def doubts(probabilities: Float32[ndarray, "n classes"], distances: Float32[Tensor, " n"]) -> Float32[ndarray, " n"]:
    """Join the two reasons to be unsure: a picture unlike those taught with, and a class no likelier than others.

    ``ln(distance) - 2 ln(max(confidence, 1/2))``: a picture four times as far from its class as another is as
    doubtful as one whose class has half the probability. From one half down, another class may be as likely, and
    doubt of that kind rises no further; else strange things would hide behind a weak model's hard pictures.
    Nothing in it is fitted, so that the limit alone is chosen (docs/LOG.md tells how the 2 was).

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Calibrated; rows sum to 1.
    distances : Tensor of float32, shape (n,)
        From `Familiarity.distances`.

    Returns
    -------
    ndarray of float32, shape (n,)
        The larger, the more doubtful.

    Examples
    --------
    >>> two = np.array([[1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    >>> doubts(two, torch.tensor([1.0, 1.0])).tolist()
    [0.0, 1.3862...]
    """
    far = distances.clamp_min(1e-12).log().cpu().numpy()
    return np.asarray(far - 2 * np.log(probabilities.max(axis=1).clip(min=0.5)))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about pictures.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    class_names : tuple of str
        Names of the columns.
    sources : ndarray, shape (n,)
        Where each picture came from, as in `LabelledImages`.
    doubt : ndarray of float32, shape (n,)
        See `doubts`.
    unsure_above : float
        Predictions with more doubt than this are flagged unsure.

    Examples
    --------
    >>> two, doubt = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32), np.array([4.7, 6.2], dtype=np.float32)
    >>> predictions = Predictions(two, ("cat", "dog"), np.array([1, 2]), doubt, unsure_above=6.0)
    >>> predictions.names, predictions.unsure.tolist()
    (['cat', 'dog'], [False, True])
    """

    probabilities: Float32[ndarray, "n classes"]
    class_names: tuple[str, ...]
    sources: Shaped[ndarray, " n"]
    doubt: Float32[ndarray, " n"]
    unsure_above: float

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> Int64[ndarray, " n"]:
        """The likeliest class of each picture, as position in `class_names`."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def names(self) -> list[str]:
        """The likeliest class of each picture, by name as in the training data."""
        return [self.class_names[label] for label in self.labels]

    @property
    def confidence(self) -> Float32[ndarray, " n"]:
        """The likeliest class's probability."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def unsure(self) -> ndarray:
        """Whether each prediction is more doubtful than all but 1 % of those for genuine pictures."""
        return np.asarray(self.doubt > self.unsure_above)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Give each prediction as plain JSON values.

        Returns
        -------
        list of dict
            With `source`, `label`, `confidence` and `unsure`.

        Examples
        --------
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> Predictions(one, ("cat", "dog"), np.array(["a.png"]), np.zeros(1, dtype=np.float32), 0.5).to_dicts()
        [{'source': 'a.png', 'label': 'cat', 'confidence': 1.0, 'unsure': False}]
        """
        facts = zip(self.sources.tolist(), self.names, self.confidence.tolist(), self.unsure.tolist(), strict=True)
        keys = ("source", "label", "confidence", "unsure")
        return [dict(zip(keys, values, strict=True)) for values in facts]

    def to_csv(self) -> str:
        """Lay the predictions out as CSV: `ImageId,Label` for a CSV of pixels, ids from 1, else all four facts.

        Returns
        -------
        str
            A header and one line a picture, in the pictures' order.

        Examples
        --------
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> doubt = np.zeros(1, dtype=np.float32)
        >>> print(Predictions(one, ("cat", "dog"), np.array([5]), doubt, 0.5).to_csv())
        ImageId,Label
        1,cat
        >>> print(Predictions(one, ("cat", "dog"), np.array(["a.png"]), doubt, 0.5).to_csv())
        source,label,confidence,unsure
        a.png,cat,1.0000,no
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self.sources.dtype.kind == "i":
            writer.writerow(["ImageId", "Label"])
            writer.writerows(enumerate(self.names, start=1))
            return text.getvalue()
        writer.writerow(["source", "label", "confidence", "unsure"])
        for fact in self.to_dicts():
            confidence, unsure = f"{fact['confidence']:.4f}", "yes" if fact["unsure"] else "no"
            writer.writerow([fact["source"], fact["label"], confidence, unsure])
        return text.getvalue()

    def write_csv(self, path: str | Path) -> None:
        r"""Write the predictions to a file that appears once it is whole; see `to_csv` for its form.

        Parameters
        ----------
        path : str or Path
            The file; an older one is replaced.

        Raises
        ------
        UsageError
            When the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "result.csv"
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> Predictions(one, ("cat", "dog"), np.array([5]), np.zeros(1, dtype=np.float32), 0.5).write_csv(path)
        >>> path.read_text()
        'ImageId,Label\n1,cat\n'
        """
        with written_whole(path) as temporary:
            temporary.write_text(self.to_csv(), encoding="utf-8", newline="")
