"""From pictures to probabilities by torch, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.augment import VIEWS
from imprint.batches import LayOut, in_batches
from imprint.familiarity import logits_and_features
from imprint.input_spec import InputSpec

HESITANT_SHARE = 0.05  # of the validation pictures; views changed no answer beyond the least sure 2 % (docs/LOG.md)
GRADUAL = 0.01  # of confidence below the limit, over which other views come to count in full
NEAREST = 1e-12  # distance that still has a logarithm
LEAST = 0.5  # confidence; less adds no more doubt
GUARDED = 0.2  # what the guard's doubt weighs; 0.1 to 0.3 found as much (docs/LOG.md)
LEAST_GUARDED = 1e-3  # what it takes a picture for; less adds no more doubt


def predict_probabilities(
    net: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec
) -> Float32[ndarray, "n classes"]:
    """Run a network over pictures, without augmentation or dropout, in float32.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for, in memory or mapped from a file.
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
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> predict_probabilities(net, pixels, InputSpec(1, (28, 28), (28, 28))).shape
    (3, 10)
    """
    return _look(net, pixels, spec, None, other_views=lambda prepared: [])


def predict_with_features(
    net: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None = None,
) -> tuple[Float32[ndarray, "m classes"], Float32[Tensor, "m features"]]:
    """Run a network over pictures as `predict_probabilities` does, and note its features on the way.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    chosen : ndarray of int64, shape (m,), or None, default=None
        Positions of the pictures to look at; None looks at all n of them.

    Returns
    -------
    probabilities : ndarray of float32, shape (m, classes)
        Softmax of the logits; rows sum to 1.
    features : Tensor of float32, shape (m, features)
        See `familiarity.logits_and_features`; on the network's device.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> net = build_net("quick", 1, (28, 28), 10)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> predict_with_features(net, pixels, InputSpec(1, (28, 28), (28, 28)))[1].shape
    torch.Size([3, 208])
    """

    def look(prepared: Tensor, lay_out: LayOut) -> Sequence[Tensor]:
        logits, features = logits_and_features(net, lay_out(prepared))
        return logits.softmax(dim=1), features

    found, features = in_batches(net, pixels, spec, look, chosen)
    return found.cpu().numpy(), features


def look_again(
    net: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    views: str,
    found: Float32[ndarray, "n classes"],
    views_below: float,
) -> Float32[ndarray, "n classes"]:
    """Average what a network says of a picture's other views too, where it hesitates.

    Just below the limit the average comes in gradually: were it a switch, another machine's
    rounding could turn an answer about.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for, in memory or mapped from a file.
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
    >>> pixels, spec = np.zeros((3, 1, 28, 28), dtype=np.uint8), InputSpec(1, (28, 28), (28, 28))
    >>> look_again(net, pixels, spec, "shifts", predict_probabilities(net, pixels, spec), 1.0).shape
    (3, 10)
    """
    confidence = found.max(axis=1)
    hesitant = np.flatnonzero(confidence < views_below)
    if views == "none" or not len(hesitant):
        return found
    seen = _look(net, pixels, spec, hesitant, VIEWS[views])
    share = ((views_below - confidence[hesitant, None]) / GRADUAL).clip(max=1)
    viewed = found.copy()
    viewed[hesitant] += share * (seen - found[hesitant])
    return viewed


def _look(
    net: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None,
    other_views: Callable[[Float32[Tensor, "n c h w"]], list[Float32[Tensor, "n c h w"]]],
) -> Float32[ndarray, "m classes"]:
    """Average the probabilities of each prepared picture and its other views."""

    def look(prepared: Tensor, lay_out: LayOut) -> Sequence[Tensor]:
        seen = [net(lay_out(view)).float().softmax(dim=1) for view in (prepared, *other_views(prepared))]
        return [torch.stack(seen).mean(dim=0)]

    return in_batches(net, pixels, spec, look, chosen)[0].cpu().numpy()


def recognised(
    guard: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, predicted: Int64[ndarray, " n"]
) -> Float32[ndarray, " n"]:
    """Ask a guard whether pictures are of the classes that they are taken for, as they stand.

    Parameters
    ----------
    guard : nn.Module
        Taught with `strangers.make_strangers`, on any device.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    predicted : ndarray of int64, shape (n,)
        The classes.

    Returns
    -------
    ndarray of float32, shape (n,)
        Probability that it is so, neither of another class nor a stranger.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> guard = build_net("quick", 1, (28, 28), 51)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> recognised(guard, pixels, InputSpec(1, (28, 28), (28, 28)), np.array([0, 1, 9])).shape
    (3,)
    """
    found = predict_probabilities(guard, pixels, spec)
    return np.take_along_axis(found, predicted[:, None], axis=1)[:, 0]


def doubts(
    probabilities: Float32[ndarray, "n classes"],
    distances: Float32[Tensor, " n"],
    known: Float32[ndarray, " n"] | None = None,
) -> Float32[ndarray, " n"]:
    """Join the reasons to be unsure: a picture unlike those taught with, and a class no likelier than others.

    ``ln(distance / max(confidence, 1/2))``: the unlikelier the class and the less the picture is like its others, the
    more doubt. From one half down, another class may be as likely, and doubt of that kind rises no further; else
    strange things would hide behind a weak model's hard pictures. Of a model with a guard, a fifth of what the guard
    doubts is added: ``-ln(max(known, 1/1000)) / 5``. Nothing in it is fitted, so that the limit alone is chosen.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Calibrated; rows sum to 1.
    distances : Tensor of float32, shape (n,)
        From `Familiarity.distances`.
    known : ndarray of float32, shape (n,), or None, default=None
        From `recognised`, of a model with a guard.

    Returns
    -------
    ndarray of float32, shape (n,)
        The larger, the more doubtful.

    Examples
    --------
    >>> two = np.array([[1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    >>> doubts(two, torch.tensor([1.0, 1.0])).tolist()
    [0.0, 0.6931...]
    """
    far = distances.clamp_min(NEAREST).log().cpu().numpy()
    doubt = far - np.log(probabilities.max(axis=1).clip(min=LEAST))
    return np.asarray(doubt if known is None else doubt - GUARDED * np.log(known.clip(min=LEAST_GUARDED)))
