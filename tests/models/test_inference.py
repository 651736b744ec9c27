from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from imprint.models import inference
from imprint.models.hardware import ROWS, choose_compute_config
from imprint.models.inference import (
    GRADUAL,
    features,
    in_batches,
    nearest,
    network_compute_config,
    predict_probabilities,
)
from imprint.models.layers import Ensemble
from imprint.models.networks import build_network
from imprint.models.ood import MahalanobisScore
from imprint.preprocessing.input_spec import CPU_BATCH, InputSpec
from imprint.preprocessing.prepare import prepare

SPECS = {
    "digits": (InputSpec(1, (28, 28), (28, 28)), CPU_BATCH),
    "photos": (InputSpec(3, (128, 170), (96, 128)), 28),
    "one photo": (InputSpec(3, (800, 800), (800, 800)), 1),
}


@pytest.mark.parametrize("kind", SPECS)
def test_large_images_go_in_smaller_batches(kind):
    spec, size = SPECS[kind]
    pixels = np.zeros((2 * size + 1, spec.channels, *spec.image_size), dtype=np.uint8)
    seen = []

    def run(prepared, to_layout):
        seen.append(len(prepared))
        return [prepared.mean(dim=(1, 2, 3))]

    assert in_batches(nn.Linear(1, 1), pixels, spec, run)[0].shape == (2 * size + 1,)
    assert seen == [size, size, 1]


def test_rows_are_those_of_the_images_chosen_in_their_order():
    pixels = np.arange(250, dtype=np.uint8).repeat(4).reshape(250, 1, 2, 2)
    chosen = np.random.default_rng(0).permutation(250)[:200]
    network = nn.Linear(1, 1).train()

    def run(prepared, to_layout):
        assert not network.training
        return prepared[:, 0, 0, 0], prepared.flatten(1)

    first, whole = in_batches(network, pixels, InputSpec(1, (2, 2), (2, 2)), run, chosen)
    assert torch.equal((first * 255).round(), torch.from_numpy(chosen).float())
    assert torch.equal(whole, first[:, None].expand(200, 4))
    assert network.training


def test_the_last_layer_decides_by_them(model, digits):
    pixels = digits.pixels[:20]
    found = features(model.network, pixels, model.spec)
    assert torch.allclose(found.norm(dim=1), torch.ones(20))
    with torch.no_grad():
        directions = (found @ model.network[-1].weight).numpy()
    # Scaled to length 1 and without the last layer's bias they give other numbers, but mostly the same answer.
    same = directions.argmax(axis=1) == predict_probabilities(model.network, pixels, model.spec).argmax(axis=1)
    assert same.mean() > 0.9


def test_nearest_are_scikit_learns(model, digits):
    from sklearn.neighbors import NearestNeighbors

    found = features(model.network, digits.pixels[:700], model.spec)
    places, distances = nearest(found[600:], found[:600], 3)
    theirs, positions = NearestNeighbors(n_neighbors=3).fit(found[:600].numpy()).kneighbors(found[600:].numpy())
    assert np.allclose(distances, theirs, atol=1e-3)
    assert (places == positions).mean() > 0.99


def test_an_ensembles_are_its_members_together(model, digits):
    pixels = digits.pixels[:5]
    one = features(model.network, pixels, model.spec)
    two = features(Ensemble([model.network, model.network]).eval(), pixels, model.spec)
    assert two.shape == (5, 2 * one.shape[1])
    assert torch.allclose(two @ two.T, one @ one.T, atol=1e-5)


def test_fewer_than_asked_for():
    assert nearest(torch.eye(2), torch.eye(2)[:1], 3)[0].tolist() == [[0], [0]]


@pytest.mark.parametrize("name", ["tutorial", "quick"])
@pytest.mark.parametrize("count", [1, CPU_BATCH, 2 * CPU_BATCH + 1])
def test_batches_and_layout_do_not_show(digits, name, count):
    torch.manual_seed(0)
    built = build_network(name, 1, (28, 28), 10)
    spec = InputSpec(1, (8, 8), (28, 28))
    pixels = digits.pixels[:count]
    ours = predict_probabilities(built, pixels, spec)
    with torch.no_grad():
        expected = built.eval()(prepare(torch.from_numpy(pixels), spec)).softmax(1).numpy()
    assert np.abs(ours - expected).max() < 1e-6
    assert np.abs(ours.sum(1) - 1).max() < 1e-5


def test_training_mode_is_left_as_it_was():
    built = build_network("quick", 1, (28, 28), 10).train()
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    predict_probabilities(built, np.zeros((3, 1, 28, 28), dtype=np.uint8), InputSpec(1, (28, 28), (28, 28)))
    assert built.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.state_dict().items())


def test_other_versions_come_to_count_gradually(digits):
    torch.manual_seed(0)
    network, spec = build_network("quick", 1, (28, 28), 10), InputSpec(1, (8, 8), (28, 28))
    pixels = digits.pixels[:20]
    found = predict_probabilities(network, pixels, spec)
    fully = inference.apply_tta(network, pixels, spec, "shifts", found, 2.0)
    assert (np.abs(fully - found).max(axis=1) > 1e-4).all()
    confidence = found.max(axis=1)
    for share in (0.5, 0.001, 0.0):
        limit = float(np.float64(confidence[3]) + share * GRADUAL)
        averaged = inference.apply_tta(network, pixels, spec, "shifts", found, limit)
        assert np.abs(averaged[3] - (found[3] + share * (fully[3] - found[3]))).max() < 1e-5
        sure = confidence >= limit
        assert np.array_equal(averaged[sure], found[sure])


def test_threads_that_ask_at_once_get_what_one_gets(model, digits):
    expected = model.predict_proba(digits)
    model.network.train()  # as if training had just ended
    replaced = replace(model)
    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(lambda start: replaced.predict_proba(digits[start:]), [0, 1, 2, 3] * 3))
    for start, found in zip([0, 1, 2, 3] * 3, each, strict=True):
        assert np.abs(found - expected[start:]).max() < 1e-4


def test_only_networks_of_our_own_leave_rows_first():
    own, other = build_network("quick", 1, (28, 28), 10), nn.Linear(1, 1)
    cpu = torch.device("cpu")
    assert network_compute_config(own, cpu) == choose_compute_config(cpu, "float32")
    assert network_compute_config(Ensemble([own, own]), cpu) == choose_compute_config(cpu, "float32")
    assert network_compute_config(other, cpu).layout == ROWS
    assert network_compute_config(Ensemble([own, other]), cpu).layout == ROWS


def test_other_versions_are_shifted_with_repeated_edges_or_mirrored():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert inference.shifted(row)[3].tolist() == [[[[1.0, 1.0, 2.0]]]]
    assert len(inference.shifted(row)) == 8
    assert inference.mirrored(row)[0].tolist() == [[[[3.0, 2.0, 1.0]]]]


def test_uncertainty_joins_distance_confidence_and_the_ood_detector():
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.3, 0.3]], dtype=np.float32)
    distances = torch.ones(3)
    score = MahalanobisScore(torch.zeros(2, 1), torch.ones(1, 1, 1))
    plain = inference.uncertainty_score(score, probabilities, distances)
    assert plain == pytest.approx([0, np.log(2), np.log(2)])
    known = np.array([1.0, 0.1, 0.0], dtype=np.float32)
    added = inference.uncertainty_score(score, probabilities, distances, known) - plain
    assert added == pytest.approx([0, -0.2 * np.log(0.1), -0.2 * np.log(1e-3)], abs=1e-6)


def test_the_distance_of_wide_embeddings_decides_alone():
    score = MahalanobisScore(torch.zeros(2, 1), precision=torch.ones(1))
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    assert inference.uncertainty_score(score, probabilities, torch.tensor([1.0, 2.0])) == pytest.approx([0, np.log(2)])


def test_a_batch_too_large_for_the_memory_goes_in_halves(monkeypatch):
    monkeypatch.setattr(inference, "cpu_batch_size", lambda spec: 50)
    pixels = np.arange(120, dtype=np.uint8).repeat(4).reshape(120, 1, 2, 2)
    seen = []

    def run(prepared, to_layout):
        seen.append(len(prepared))
        if len(prepared) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [prepared.flatten(1), prepared[:, 0, 0, 0]]

    rows, firsts = in_batches(nn.Linear(1, 1), pixels, InputSpec(1, (2, 2), (2, 2)), run)
    assert torch.equal((firsts * 255).round(), torch.arange(120).float())
    assert torch.equal(rows, firsts[:, None].expand(120, 4))
    assert set(seen) == {50, 25, 12, 13, 20}


def test_a_memory_too_small_for_one_image_is_an_error():
    def run(prepared, to_layout):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(nn.Linear(1, 1), np.zeros((3, 1, 2, 2), dtype=np.uint8), InputSpec(1, (2, 2), (2, 2)), run)
