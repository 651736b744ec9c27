"""A network that Imprint does not know, with no more than the protocol, can do all that its own can."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import imprint
from imprint import Classifier, ModelFileError, UsageError
from imprint.models.inference import features
from imprint.models.model_file import read_model_file, write_model_file
from imprint.models.networks import NETWORKS, build_network, build_networks, normalisation
from imprint.models.ood import count_embeddings, logits_and_embeddings
from imprint.models.summary import summarise
from imprint.training.checkpoint import Checkpoint

MEAN, STD = (0.3,), (0.4,)


class Mixer(nn.Module):
    """Patches, a grid of positions that no file holds, GELU, two kinds of normalisation, and a view of its own."""

    def __init__(self, channels, height, width, classes):
        super().__init__()
        self.num_features = 24
        self.patches = nn.Conv2d(channels, 16, 4, stride=4)
        self.norm = nn.GroupNorm(4, 16)
        self.shift = nn.Parameter(torch.zeros(16, 1, 1))
        self.register_buffer("grid", torch.linspace(-1, 1, width // 4), persistent=False)
        self.embed = nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24), nn.GELU())
        self.unused = nn.Identity()
        self.head = nn.Linear(24, classes)

    def forward_features(self, images):
        return nn.functional.gelu(self.norm(self.patches(images)) + self.shift) * (1 + 0.1 * self.grid)

    def forward_head(self, features, pre_logits=False):
        embedding = self.embed(features.view(len(features), 16, -1).mean(dim=2))
        return embedding if pre_logits else self.head(embedding)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


FIELDS = {"epochs": 2, "min_steps": 20, "precision": "float32"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    imprint.register_network("mixer", Mixer, smallest_side=8, mean=MEAN, std=STD)
    yield
    del NETWORKS["mixer"]


@pytest.fixture(scope="module")
def trained(registered, digits):
    return imprint.train(digits, "quick", networks="mixer", verbose=False, **FIELDS)


def test_it_learns_and_is_saved_and_loaded(trained, digits, tmp_path):
    model = trained.model
    assert (model.spec.mean, model.spec.std) == (MEAN, STD)
    assert trained.validation.accuracy > 0.3
    assert trained.history["loss"][1] < trained.history["loss"][0]
    model.save(tmp_path / "m.safetensors")
    loaded = Classifier.load(tmp_path / "m.safetensors")
    one, other = model.predict(digits), loaded.predict(digits)
    assert np.array_equal(one.probabilities, other.probabilities)
    assert np.array_equal(one.uncertainty, other.uncertainty)
    assert loaded.spec == model.spec


def test_noise_is_flagged_more_often_than_digits(trained, digits):
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8), dtype=np.uint8)
    genuine, strange = ((trained.model.predict(images).why == "strange").mean() for images in (digits, noise))
    assert genuine < 0.05
    assert strange > max(0.1, 3 * genuine)


def test_scores_come_from_its_penultimate_embedding(trained, digits):
    network = trained.model.network
    assert count_embeddings(network) == 24
    with torch.inference_mode():
        prepared = torch.rand(3, 1, 8, 8)
        logits, embeddings = logits_and_embeddings(network, prepared)
        assert torch.equal(logits, network(prepared))
        assert torch.equal(embeddings, network.forward_head(network.forward_features(prepared), pre_logits=True))
    found = features(network, digits.pixels[:10], trained.model.spec)
    assert found.shape == (10, 24)
    assert torch.allclose(found.norm(dim=1), torch.ones(10))


def test_its_summary_lists_its_children_and_leaves_no_hook(trained):
    network = trained.model.network
    layers = trained.model.summary()
    assert [(layer.name, layer.type, layer.output_shape) for layer in layers] == [
        ("patches", "Conv2d", (None, 2, 2, 16)),
        ("norm", "GroupNorm", (None, 2, 2, 16)),
        ("embed", "Sequential", (None, 24)),
        ("head", "Linear", (None, 10)),
        ("unused", "Identity", (None,)),
        ("(itself)", "Mixer", (None, 10)),
    ]
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_an_ensemble_of_it_and_one_of_our_own(digits, tmp_path):
    run = imprint.train(
        digits, "quick", networks="mixer+quick", ood_detector="quick", tta="shifts", verbose=False, **FIELDS
    )
    model = run.model
    assert (model.spec.mean, model.spec.std) == (MEAN, STD)
    assert model.recipe.networks == ("mixer", "quick")
    assert model.recipe.ood_detector == "quick"
    assert count_embeddings(model.network) == 24 + 208
    assert features(model.network, digits.pixels[:3], model.spec).shape[1] > 24
    assert [layer.name for layer in summarise(model.network, (1, 28, 28))][5:7] == ["1/(itself)", "2/conv2d"]
    model.save(tmp_path / "m.safetensors")
    again = Classifier.load(tmp_path / "m.safetensors").predict(digits)
    assert np.array_equal(again.probabilities, model.predict(digits).probabilities)
    assert np.array_equal(again.uncertainty, model.predict(digits).uncertainty)


def test_a_model_file_with_a_network_not_registered_is_one_line(trained, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    trained.model.save(path)
    monkeypatch.delitem(NETWORKS, "mixer")
    with pytest.raises(ModelFileError) as caught:
        Classifier.load(path)
    line = "its network 'mixer' is none of Imprint's. Register it first with imprint.register_network."
    assert str(caught.value) == f"model at {path}: {line}"


def test_a_file_that_does_not_fit_it_is_refused(trained, tmp_path):
    path = tmp_path / "m.safetensors"
    trained.model.save(path)
    tensors, facts = read_model_file(path)
    write_model_file(path, tensors, facts | {"class_names": facts["class_names"][1:]})
    with pytest.raises(ModelFileError, match=r"tensor head.* has the wrong shape"):
        Classifier.load(path)


def test_a_killed_run_of_it_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    whole, killed, written = tmp_path / "whole", tmp_path / "killed", Checkpoint.write

    def write(self, state):
        written(self, state)
        if len(state.epochs) == 1:
            shutil.copytree(whole, killed)  # as if the run had been killed here

    monkeypatch.setattr(Checkpoint, "write", write)
    imprint.train("digits", "quick", networks="mixer", run=whole, test="digits", verbose=False, **FIELDS)
    monkeypatch.undo()
    assert not (killed / "model.safetensors").exists()
    assert imprint.Classifier.load(killed).recipe.networks == ("mixer",)
    imprint.train(resume=killed, verbose=False)
    for name in ("model.safetensors", "result.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


class Headless(Mixer):
    forward_head = None

    def __init__(self, *form):
        super().__init__(*form)
        del self.num_features

    def __getattr__(self, name):
        if name == "num_features":
            raise AttributeError(name)
        return super().__getattr__(name)


class Miscounted(Mixer):
    def __init__(self, *form):
        super().__init__(*form)
        self.num_features = 25


class Contradicting(Mixer):
    def forward(self, images):
        return 2 * super().forward(images) + 1


class Asking(Mixer):
    def __init__(self, *form):
        super().__init__(*form)
        self.rate = torch.linspace(0, 1, 2)[1].item()


@pytest.mark.parametrize(
    ("name", "build", "options", "words"),
    [
        ("quick", Mixer, {}, "Imprint has one of that name"),
        ("a+b", Mixer, {}, "a name has letters, digits"),
        ("other", lambda *form: len, {}, "its build gives no nn.Module"),
        (
            "other",
            lambda *form: nn.Linear(1, 1),
            {},
            "it has no forward_features and no forward_head and no num_features",
        ),
        ("other", Headless, {}, "it has no num_features"),
        ("other", Miscounted, {}, "gives 24 numbers, not its num_features"),
        ("other", Contradicting, {}, "other logits than forward"),
        ("other", Asking, {}, "meta device"),
        ("other", Mixer, {"std": (0.0,)}, "not a usable number"),
        ("other", Mixer, {"mean": (0.1, 0.2), "std": (1.0, 1.0, 1.0)}, "2 and 3 numbers for 3 channels"),
    ],
)
def test_what_does_not_follow_the_protocol_is_refused(name, build, options, words):
    before = dict(NETWORKS)
    with pytest.raises(UsageError, match=words):
        imprint.register_network(name, build, **options)
    assert before == NETWORKS


def test_registering_draws_no_random_number_of_the_callers():
    before = torch.get_rng_state()
    imprint.register_network("mixer", Mixer, smallest_side=8, mean=MEAN, std=STD)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_that_disagree_on_mean_and_std_are_refused(monkeypatch, digits):
    monkeypatch.setitem(NETWORKS, "plain", replace(NETWORKS["mixer"], mean=(0.0,), std=(1.0,)))
    monkeypatch.setitem(NETWORKS, "colour", replace(NETWORKS["mixer"], mean=(0.4, 0.5, 0.6)))
    with pytest.raises(UsageError, match=r"mixer\+plain at networks: they ask for images of different mean and std"):
        imprint.train(digits, "quick", networks="mixer+plain", verbose=False)
    with pytest.raises(UsageError, match="numbers for 1 channels"):
        imprint.train(digits, "quick", networks="colour", verbose=False)
    assert normalisation(("quick", "mixer"), 1) == (MEAN, STD)
    assert normalisation(("quick", "deep"), 3) == ((0.0,), (1.0,))


def test_ensembles_of_any_mix_are_built():
    network = build_networks(("tutorial", "mixer", "residual"), 1, (28, 28), 4).eval()
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 4)
    assert isinstance(build_network("mixer", 1, (28, 28), 4), Mixer)
