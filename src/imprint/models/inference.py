"""Batches: many images through a network, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.memmap import in_chunks
from imprint.models.hardware import choose_compute_config
from imprint.models.layers import Ensemble
from imprint.models.ood import logits_and_embeddings
from imprint.preprocessing.input_spec import InputSpec
from imprint.preprocessing.prepare import prepare

CPU_BATCH = 128  # 28,000 digits took 0.55 s with 64, 0.45 with 128, 0.53 with 256, which leaves the cache
CPU_NUMBERS = 2**19  # in a batch at most, so that one of photos has fewer
GPU_BATCH = 4096
ToLayout = Callable[[Float[Tensor, "n c h w"]], Tensor]
Look = Callable[[Float32[Tensor, "n c h w"], ToLayout], Sequence[Shaped[Tensor, "n ..."]]]


@torch.inference_mode()
def in_batches(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    look: Look,
    chosen: Int64[ndarray, " m"] | None = None,
) -> list[Shaped[Tensor, "m ..."]]:
    """Prepare images batch by batch, and gather what is made of each by a network that is not trained meanwhile.

    What is made of a batch is copied to its place at once. Kept batch by batch, it came to lie between the network's
    large tensors, whose memory could then not be used again: that of photos grew from 0.6 to 1.6 GB.

    Parameters
    ----------
    net : nn.Module
        The network, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    look : callable
        From a prepared batch, and a function that lays one out in memory as the network is fastest with, to tensors
        with a row for each image.
    chosen : ndarray of int64, shape (m,), or None, default=None
        Positions of the images to take; None takes all n of them.

    Returns
    -------
    list of Tensor
        As `look` gives them, for all images together; on the network's device.

    Examples
    --------
    >>> import numpy as np
    >>> pixels, spec = np.full((300, 1, 2, 2), 255, dtype=np.uint8), InputSpec(1, (2, 2), (2, 2))
    >>> brightness = in_batches(nn.Linear(1, 1), pixels, spec, lambda batch, to_layout: [batch.mean(dim=(1, 2, 3))])
    >>> len(brightness), brightness[0].shape, float(brightness[0].min())
    (1, torch.Size([300]), 1.0)
    """
    device = next(network.parameters()).device
    compute = choose_compute_config(device, "float32")
    was_training = network.training
    if was_training:  # only while it is being trained, which one thread does
        network.eval()
    gathered: list[Tensor] = []
    done, count = 0, len(pixels) if chosen is None else len(chosen)
    for batch in in_chunks(pixels, _batch_size(device, spec), chosen):
        found = look(prepare(torch.from_numpy(batch).to(device), spec), compute.to_layout)
        gathered = gathered or [one.new_empty(count, *one.shape[1:]) for one in found]
        for rows, one in zip(gathered, found, strict=True):
            rows[done : done + len(one)] = one
        done += len(batch)
    if was_training:
        network.train()
    return gathered


def _batch_size(device: torch.device, spec: InputSpec) -> int:
    """Choose how many images to take at once."""
    if device.type != "cpu":
        return GPU_BATCH
    return max(1, min(CPU_BATCH, CPU_NUMBERS // (spec.channels * math.prod(spec.input_size))))


TTA_SHARE = 0.05  # of the validation images; views changed no answer beyond the least sure 2 % (docs/LOG.md)
GRADUAL = 0.01  # of confidence below the limit, over which other views come to count in full
NEAREST = 1e-12  # distance that still has a logarithm
LEAST = 0.5  # confidence; less adds no more doubt
DETECTOR_WEIGHT = 0.2  # what the guard's doubt weighs; 0.1 to 0.3 found as much (docs/LOG.md)
LEAST_DETECTED = 1e-3  # what it takes an image for; less adds no more doubt
TOGETHER = 8192  # images that a guard tells apart at once: of 1,000 classes it gives 20 kB for each


def predict_probabilities(
    network: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec
) -> Float32[ndarray, "n classes"]:
    """Run a network over images, without augmentation or dropout, in float32.

    Parameters
    ----------
    net : nn.Module
        From prepared images to logits, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Softmax of the logits; rows sum to 1.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> network = build_network("quick", 1, (28, 28), 10)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> predict_probabilities(network, pixels, InputSpec(1, (28, 28), (28, 28))).shape
    (3, 10)
    """
    return _look(network, pixels, spec, None, other_views=lambda prepared: [])


def predict_with_embeddings(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None = None,
) -> tuple[Float32[ndarray, "m classes"], Float32[Tensor, "m features"]]:
    """Run a network over images as `predict_probabilities` does, and note its features on the way.

    Parameters
    ----------
    net : nn.Module
        From prepared images to logits, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    chosen : ndarray of int64, shape (m,), or None, default=None
        Positions of the images to look at; None looks at all n of them.

    Returns
    -------
    probabilities : ndarray of float32, shape (m, classes)
        Softmax of the logits; rows sum to 1.
    features : Tensor of float32, shape (m, features)
        See `familiarity.logits_and_embeddings`; on the network's device.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> network = build_network("quick", 1, (28, 28), 10)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> predict_with_embeddings(network, pixels, InputSpec(1, (28, 28), (28, 28)))[1].shape
    torch.Size([3, 208])
    """

    def look(prepared: Tensor, to_layout: ToLayout) -> Sequence[Tensor]:
        logits, features = logits_and_embeddings(network, to_layout(prepared))
        return logits.softmax(dim=1), features

    found, features = in_batches(network, pixels, spec, look, chosen)
    return found.cpu().numpy(), features


def test_time_augment(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    views: str,
    found: Float32[ndarray, "n classes"],
    tta_below: float,
) -> Float32[ndarray, "n classes"]:
    """Average what a network says of an image's other views too, where it hesitates.

    Just below the limit the average comes in gradually: were it a switch, another machine's
    rounding could turn an answer about.

    Parameters
    ----------
    net : nn.Module
        From prepared images to logits, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    views : {"none", "shifts", "hflip"}
        Which other views; see `augment.TTA_VIEWS`.
    found : ndarray of float32, shape (n, classes)
        What it says of the images as they are, from `predict_probabilities`.
    tta_below : float
        Only images whose likeliest class has less probability than this are viewed again.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Rows sum to 1.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> network = build_network("quick", 1, (28, 28), 10)
    >>> pixels, spec = np.zeros((3, 1, 28, 28), dtype=np.uint8), InputSpec(1, (28, 28), (28, 28))
    >>> test_time_augment(network, pixels, spec, "shifts", predict_probabilities(network, pixels, spec), 1.0).shape
    (3, 10)
    """
    confidence = found.max(axis=1)
    hesitant = np.flatnonzero(confidence < tta_below)
    if views == "none" or not len(hesitant):
        return found
    seen = _look(network, pixels, spec, hesitant, TTA_VIEWS[views])
    share = ((tta_below - confidence[hesitant, None]) / GRADUAL).clip(max=1)
    viewed = found.copy()
    viewed[hesitant] += share * (seen - found[hesitant])
    return viewed


def _look(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None,
    other_views: Callable[[Float32[Tensor, "n c h w"]], list[Float32[Tensor, "n c h w"]]],
) -> Float32[ndarray, "m classes"]:
    """Average the probabilities of each prepared image and its other views."""

    def look(prepared: Tensor, to_layout: ToLayout) -> Sequence[Tensor]:
        seen = [network(to_layout(view)).float().softmax(dim=1) for view in (prepared, *other_views(prepared))]
        return [torch.stack(seen).mean(dim=0)]

    return in_batches(network, pixels, spec, look, chosen)[0].cpu().numpy()


def in_distribution(
    ood_detector: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, predicted: Int64[ndarray, " n"]
) -> Float32[ndarray, " n"]:
    """Ask a guard whether images are of the classes that they are taken for, as they stand.

    Parameters
    ----------
    guard : nn.Module
        Trained with `strangers.make_synthetic_ood`, on any device.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for, in memory or mapped from a file.
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
    >>> from imprint.models.networks import build_network
    >>> ood_detector = build_network("quick", 1, (28, 28), 51)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> in_distribution(ood_detector, pixels, InputSpec(1, (28, 28), (28, 28)), np.array([0, 1, 9])).shape
    (3,)
    """
    parts = zip(in_chunks(pixels, TOGETHER), in_chunks(predicted, TOGETHER), strict=True)
    known = [predict_probabilities(ood_detector, part, spec)[np.arange(len(part)), classes] for part, classes in parts]
    return np.concatenate(known)


def uncertainty_score(
    probabilities: Float32[ndarray, "n classes"],
    distances: Float32[Tensor, " n"],
    known: Float32[ndarray, " n"] | None = None,
) -> Float32[ndarray, " n"]:
    """Join the reasons to be unsure: an image unlike those trained on, and a class no likelier than others.

    ``ln(distance / max(confidence, 1/2))``: the unlikelier the class and the less the image is like its others, the
    more doubt. From one half down, another class may be as likely, and doubt of that kind rises no further; else
    strange things would hide behind a weak model's hard images. Of a model with a guard, a fifth of what the guard
    doubts is added: ``-ln(max(known, 1/1000)) / 5``. Nothing in it is fitted, so that the limit alone is chosen.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Calibrated; rows sum to 1.
    distances : Tensor of float32, shape (n,)
        From `MahalanobisScore.distances`.
    known : ndarray of float32, shape (n,), or None, default=None
        From `recognised`, of a model with a guard.

    Returns
    -------
    ndarray of float32, shape (n,)
        The larger, the more doubtful.

    Examples
    --------
    >>> two = np.array([[1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    >>> uncertainty_score(two, torch.tensor([1.0, 1.0])).tolist()
    [0.0, 0.6931...]
    """
    far = distances.clamp_min(NEAREST).log().cpu().numpy()
    uncertainty = far - np.log(probabilities.max(axis=1).clip(min=LEAST))
    return np.asarray(
        uncertainty if known is None else uncertainty - DETECTOR_WEIGHT * np.log(known.clip(min=LEAST_DETECTED))
    )


ROWS = 512  # images compared at once


def features(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None = None,
) -> Float32[Tensor, "m features"]:
    """Give each image as the numbers that a network's last layer decides by, scaled to length 1.

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of them, whose features are put one behind the other.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    chosen : ndarray of int64, shape (m,), or None, default=None
        Positions of the images to look at; None looks at all n of them.

    Returns
    -------
    Tensor of float32, shape (m, features)
        On the CPU. The product of two rows is the cosine of the angle between them.

    Examples
    --------
    >>> import numpy as np
    >>> from imprint.models.networks import build_network
    >>> network = build_network("tutorial", 1, (28, 28), 10)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> features(network, pixels, InputSpec(1, (28, 28), (28, 28))).shape
    torch.Size([3, 50])
    """
    chains = network.members if isinstance(network, Ensemble) else [network]

    def look(prepared: Tensor, to_layout: ToLayout) -> Sequence[Tensor]:
        parts = [F.normalize(_all_but_last(chain)(to_layout(prepared)).float().flatten(1)) for chain in chains]
        return [F.normalize(torch.cat(parts, dim=1))]

    return in_batches(network, pixels, spec, look, chosen)[0].cpu()


def _all_but_last(chain: nn.Module) -> nn.Sequential:
    assert isinstance(chain, nn.Sequential)
    return nn.Sequential(*list(chain)[:-1])


def nearest(
    of: Float32[Tensor, "n features"], among: Float32[Tensor, "m features"], count: int
) -> tuple[Int64[ndarray, "n count"], Float32[ndarray, "n count"]]:
    """Find the images whose features are most alike.

    Parameters
    ----------
    of : Tensor of float32, shape (n, features)
        From `features`.
    among : Tensor of float32, shape (m, features)
        From `features`.
    count : int
        How many for each; fewer where there are no more.

    Returns
    -------
    positions : ndarray of int64, shape (n, count)
        In `among`, the nearest first.
    distances : ndarray of float32, shape (n, count)
        Distances of the features, from 0 (the same) to 2 (opposite).

    Examples
    --------
    >>> corners = torch.eye(3)
    >>> nearest(corners[:1], corners, count=2)
    (array([[0, 1]]), array([[0.       , 1.4142135]], dtype=float32))
    """
    count = min(count, len(among))
    found = [(rows @ among.T).topk(count, dim=1) for rows in of.split(ROWS)]
    cosines = torch.cat([values for values, _ in found]).clamp(max=1)
    return torch.cat([places for _, places in found]).numpy(), (2 - 2 * cosines).sqrt().numpy()


def shifted(pixels: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n c h w"]]:
    """Move images by a 28th of their height and width, at least a pixel, in the eight directions.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images.

    Returns
    -------
    list of Tensor of float, shape (n, c, h, w)
        Eight batches; what comes in at an edge repeats it.

    Examples
    --------
    >>> shifted(torch.tensor([[[[1.0, 2.0, 3.0]]]]))[3]
    tensor([[[[1., 1., 2.]]]])
    """
    height, width = pixels.shape[2:]
    down, across = max(1, round(height / 28)), max(1, round(width / 28))
    padded = F.pad(pixels, (across, across, down, down), mode="replicate")
    moves = [(y, x) for y in (-down, 0, down) for x in (-across, 0, across) if (y, x) != (0, 0)]
    return [padded[:, :, down + y :, across + x :][:, :, :height, :width] for y, x in moves]


def mirrored(pixels: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n c h w"]]:
    """Turn left and right about.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images.

    Returns
    -------
    list of Tensor of float, shape (n, c, h, w)
        One batch.

    Examples
    --------
    >>> mirrored(torch.tensor([[[[1.0, 2.0, 3.0]]]]))
    [tensor([[[[3., 2., 1.]]]])]
    """
    return [pixels.flip(3)]


TTA_VIEWS = {"shifts": shifted, "hflip": mirrored}
