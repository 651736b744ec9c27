"""Why a network decides as it does on one image: filters, layer outputs, Grad-CAM and integrated gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.errors import UsageError, brief
from imprint.core.progress import track
from imprint.data.images import LabelledImages
from imprint.data.load import Data
from imprint.models.classifier import Classifier
from imprint.models.layers import ConvNet, Dense, Ensemble, GlobalPool, ReLU, Residual
from imprint.models.predictor import Predictions
from imprint.preprocessing.prepare import prepare, scale

SHOWN_LAYERS = (nn.Conv2d, nn.MaxPool2d, ReLU, Residual, GlobalPool, Dense)  # the others only rescale or reshape
COARSEST_MAP = 5  # pixels of the shorter side; a pixel of a 3×3 map covers a third of the image
# Between the blank and the whole image. Of 60 digits and three networks, no sum was off by more than 0.15, and with 128
# pixels changed by 0.02 to 0.03 of the strongest (median; at most 0.10).
PATH_STEPS = 64


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """The output of one layer for one image: one map a channel, or one number a feature."""

    name: str
    output: Float32[ndarray, "c h w"] | Float32[ndarray, " features"]

    @property
    def form(self) -> str:
        """The output's shape in words: rows × columns and channels, or numbers."""
        if self.output.ndim == 1:
            return f"{len(self.output)} numbers"
        channels, height, width = self.output.shape
        return f"{height}×{width}, {channels} channels"


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model computes from one image, and which pixels its prediction rests on.

    Parameters
    ----------
    where : str
        Which image, in words.
    image : ndarray of uint8, shape (c, h, w)
        The image as the network gets it, scaled to its input size.
    prediction : Predictions
        The model's prediction for this one image.
    truth : str or None
        Its label, where known.
    network : str
        Which network of an ensemble `filters`, `layers` and `looked` are of; empty for a model of one network.
    filter_layer : str
        Name of the layer that `filters` are of; empty where there are none.
    filters : ndarray of float32, shape (k, inputs, rows, columns)
        Weights of the first convolution; k is 0 for a network without one.
    layers : tuple of LayerOutput
        The layers' outputs (each with `name`, `output` and `form`) from the first to the logits. Of a network that
        is no plain chain of layers: its feature maps, embedding and logits.
    looked : tuple of (str, ndarray of float32, shape (map_rows, map_columns))
        Grad-CAM maps, at least 0, of the predicted class and of its rival: the true class of an image that is
        predicted wrongly, else the second likeliest. Empty where the network has no feature maps.
    weighed : ndarray of float32, shape (h, w)
        Integrated gradients of each pixel: above 0 it speaks for the predicted class, below 0 against it.

    Examples
    --------
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> [layer.form for layer in explain(model, "digits").layers][:2]
    ['12×12, 32 channels', '12×12, 32 channels']
    """

    where: str
    image: UInt8[ndarray, "c h w"]
    prediction: Predictions
    truth: str | None
    network: str
    filter_layer: str
    filters: Float32[ndarray, "k inputs rows columns"]
    layers: tuple[LayerOutput, ...]
    looked: tuple[tuple[str, Float32[ndarray, "map_rows map_columns"]], ...]
    weighed: Float32[ndarray, "h w"]

    def __repr__(self) -> str:
        said = f"{self.prediction.names[0]} ({self.prediction.confidence[0]:.4f})"
        return brief(self, f"{self.where}: {said}, {len(self.layers)} layers")

    def facts(self) -> dict[str, Any]:
        """Give the prediction, and what it was compared with, as plain JSON values.

        Returns
        -------
        dict
            `source`, `label`, `confidence`, `unsure`, `why` as predictions have them, `truth` (None where unknown),
            `network`, `compared` (the two classes that have a Grad-CAM map) and `layers` (`name` and `shape` of each).

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> explain(model, "digits").facts()["layers"][0]
        {'name': 'conv2d', 'shape': [32, 12, 12]}
        """
        return self.prediction.to_dicts()[0] | {
            "truth": self.truth,
            "network": self.network,
            "compared": [name for name, _ in self.looked],
            "layers": [{"name": layer.name, "shape": list(layer.output.shape)} for layer in self.layers],
        }


def explain(model: Classifier, images: LabelledImages | Data, index: int = 0, network: int = 1) -> Explanation:
    """Explain a model's prediction for one image.

    Works with any network that has `forward_features` and `forward_head`, timm's names.

    Parameters
    ----------
    model : Classifier
        The model.
    images : LabelledImages, or data as `load` takes it
        One image or several. Image files are brought into the size that the model was trained on; LabelledImages must
        have it.
    index : int, default=0
        Which image, counted from 0.
    network : int, default=1
        Which network of an ensemble, counted from 1.

    Returns
    -------
    Explanation
        Filters, layer outputs, Grad-CAM maps and integrated gradients.

    Raises
    ------
    UsageError
        When there is no such image or network.
    DataError
        When the images cannot be read, or have another size or number of channels.

    References
    ----------
    Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV 2017,
    arXiv:1610.02391. Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017,
    arXiv:1703.01365.

    Examples
    --------
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> explanation = explain(model, "digits", index=3)
    >>> explanation.where, explanation.truth, explanation.filters.shape
    ('digits#4', '3', (32, 1, 5, 5))
    """
    networks = _networks(model, network)
    ready = model.ready(images)
    _require(f"index {index}", 0 <= index < len(ready), ready.name, f"it holds {len(ready):,} images", "0")
    one, chosen = ready[index : index + 1], networks[network - 1]
    prediction = model.predict(one)
    truth = None if one.labels is None else one.class_names[one.labels[0]]
    compared = _compared_classes(prediction, truth)

    pixels = torch.from_numpy(one.pixels)
    prepared = prepare(pixels, model.spec).to(next(chosen.parameters()).device)
    outputs, cams = layer_outputs(chosen, prepared), [grad_cam(chosen, prepared, label) for label in compared]
    attributions = integrated_gradients(model.network, prepared, compared[0]).sum(dim=1)
    filter_layer, filters = first_filters(chosen)
    return Explanation(
        where=f"row {one.sources[0]} of {ready.name}" if ready.from_pixel_table else str(one.sources[0]),
        image=scale(pixels, model.spec)[0].numpy(),
        prediction=prediction,
        truth=truth,
        network=f"network {network} of {len(networks)}" if len(networks) > 1 else "",
        filter_layer=filter_layer,
        filters=filters.cpu().numpy(),
        layers=tuple(LayerOutput(name, outputs[name][0].cpu().numpy()) for name in _shown_layers(chosen, outputs)),
        looked=tuple(
            (model.class_names[label], cam[0].cpu().numpy())
            for label, cam in zip(compared, cams, strict=True)
            if cam is not None
        ),
        weighed=attributions[0].cpu().numpy(),
    )


@dataclass(frozen=True, eq=False)
class BriefExplanation:
    """What a model says of one of several images: `prediction` as facts, its label if known, and where it looked.

    `image` is the image as the network gets it, `evidence` the Grad-CAM map of the predicted class, None for a network
    without feature maps.
    """

    image: UInt8[ndarray, "c h w"]
    prediction: dict[str, Any]
    truth: str | None
    evidence: Float32[ndarray, "map_rows map_columns"] | None


def explain_briefly(model: Classifier, images: LabelledImages, network: int = 1) -> list[BriefExplanation]:
    """Explain a model's prediction for each image; raises `UsageError` where there is no such network."""
    chosen = _networks(model, network)[network - 1]
    predictions = model.predict(images)
    facts, device = predictions.to_dicts(), next(chosen.parameters()).device
    explained = []
    for place, label in enumerate(track(predictions.labels.tolist(), "explaining", total=len(images))):
        pixels = torch.from_numpy(images.pixels[place : place + 1])
        cam = grad_cam(chosen, prepare(pixels, model.spec).to(device), label)
        truth = None if images.labels is None else images.class_names[images.labels[place]]
        evidence = None if cam is None else cam[0].cpu().numpy()
        explained.append(BriefExplanation(scale(pixels, model.spec)[0].numpy(), facts[place], truth, evidence))
    return explained


def _networks(model: Classifier, network: int) -> list[nn.Module]:
    """Give the networks of a model; raises `UsageError` where there is none of that number."""
    networks = list(model.network.members) if isinstance(model.network, Ensemble) else [model.network]
    _require(f"network {network}", 1 <= network <= len(networks), "the model", f"it has {len(networks)}", "1")
    return networks


def _compared_classes(prediction: Predictions, truth: str | None) -> list[int]:
    """Give the predicted class, and the true one where it differs, else the second likeliest."""
    order: list[int] = prediction.probabilities[0].argsort()[::-1].tolist()
    if truth in prediction.class_names and truth != prediction.names[0]:
        order.insert(1, prediction.class_names.index(truth))
    return order[:2]


def _shown_layers(network: nn.Module, outputs: dict[str, Float[Tensor, "n ..."]]) -> list[str]:
    if isinstance(network, ConvNet):
        return [name for name, layer in network.named_children() if isinstance(layer, SHOWN_LAYERS)]
    return [name for name, output in outputs.items() if output.ndim in (2, 4)]


def first_filters(network: nn.Module) -> tuple[str, Float32[Tensor, "k inputs rows columns"]]:
    """Give name and weights of a network's first convolution; no name and no filters where it has none."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            return name, layer.weight.detach()
    return "", torch.empty(0, 0, 0, 0)


@torch.enable_grad()  # without gradients our ReLU overwrites its input, which is an output to show
def layer_outputs(network: nn.Module, prepared: Float32[Tensor, "n c h w"]) -> dict[str, Float[Tensor, "n ..."]]:
    """Give the output of every layer of a ConvNet; of any other network its feature maps, embedding and logits."""
    outputs, activations = {}, prepared
    if isinstance(network, ConvNet):
        for name, layer in network.named_children():
            activations = layer(activations)
            outputs[name] = activations.detach()
        return outputs
    features = cast(Any, network).forward_features(prepared).detach()
    forward_head = cast(Any, network).forward_head
    # Copies, since a head may begin with an activation that overwrites its input.
    embedding, logits = forward_head(features.clone(), pre_logits=True), forward_head(features.clone())
    return {"feature maps": features, "embedding": embedding.detach(), "logits": logits.detach()}


@torch.enable_grad()
def grad_cam(
    network: nn.Module, prepared: Float32[Tensor, "n c h w"], label: int, coarsest: int = COARSEST_MAP
) -> Float32[Tensor, "n rows columns"] | None:
    """Map where a network finds evidence for a class, at least 0, by equations 1 and 2 of arXiv:1610.02391.

    Of a ConvNet the last layer is taken whose maps have at least `coarsest` rows and columns, of any other network the
    output of `forward_features`; None where that has no rows and columns.
    """
    maps, forward_rest = _split_at_maps(network, prepared, coarsest)
    if maps.ndim != 4:
        return None
    maps.requires_grad_()
    logits = forward_rest(maps.clone())  # a copy, since a head may begin with an activation that overwrites its input
    (slopes,) = torch.autograd.grad(logits[:, label].sum(), maps)
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    return (weights * maps).sum(dim=1).relu().detach()


def _split_at_maps(
    network: nn.Module, prepared: Float32[Tensor, "n c h w"], coarsest: int
) -> tuple[Float[Tensor, "n ..."], Callable[[Tensor], Tensor]]:
    """Give the maps that Grad-CAM weights, and the part of the network that turns them into logits."""
    if not isinstance(network, ConvNet):
        features = cast(Any, network).forward_features(prepared).detach()
        return features, cast(Any, network).forward_head
    outputs = list(layer_outputs(network, prepared).values())
    fine = [place for place, maps in enumerate(outputs) if maps.ndim == 4 and min(maps.shape[2:]) >= coarsest]
    return outputs[fine[-1]], network[fine[-1] + 1 :]


@torch.enable_grad()
def integrated_gradients(
    network: nn.Module, prepared: Float32[Tensor, "n c h w"], label: int, steps: int = PATH_STEPS
) -> Float32[Tensor, "n c h w"]:
    """Attribute a class's log-probability to the pixels, by equation 1 of arXiv:1703.01365.

    An image's attributions sum to the log-probability for it less that for a blank image, all zeros.
    """
    slopes = torch.zeros_like(prepared)
    for step in range(steps):
        part = (prepared * ((step + 0.5) / steps)).requires_grad_()
        (slope,) = torch.autograd.grad(network(part).log_softmax(dim=1)[:, label].sum(), part)
        slopes += slope
    return prepared * slopes / steps


def _require(what: str, holds: bool, where: str, cause: str, first: str) -> None:
    if not holds:
        raise UsageError(what, where, cause, f"Count from {first}.")
