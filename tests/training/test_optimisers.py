import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from imprint import RECIPES
from imprint.models.networks import build_network
from imprint.training import optimisers
from imprint.training.optimisers import AdamW, KerasRMSprop, Muon, OneCycle, Plateau, build_optimisers, orthogonal

LESSON = RECIPES["tutorial"]


def test_rmsprop_is_kerass_formula():
    generator = np.random.default_rng(0)
    shapes = [(5, 3), (3,), (2, 2, 2)]
    weights = [generator.normal(size=shape) for shape in shapes]
    velocities = [np.zeros(shape) for shape in shapes]
    parameters = [nn.Parameter(torch.from_numpy(w.copy())) for w in weights]
    optimiser = KerasRMSprop(parameters)
    for _ in range(20):
        for i, parameter in enumerate(parameters):
            gradient = generator.normal(size=shapes[i]) * 10.0 ** generator.integers(-6, 1)
            parameter.grad = torch.from_numpy(gradient.copy())
            velocities[i] = 0.9 * velocities[i] + 0.1 * gradient**2
            weights[i] = weights[i] - 0.01 * gradient / np.sqrt(velocities[i] + 1e-7)
        optimiser.step(0.01)
    for parameter, weight in zip(parameters, weights, strict=True):
        assert np.allclose(parameter.detach().numpy(), weight, rtol=1e-10)


def test_epsilon_stands_inside_the_root():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    weight.grad = torch.full((1,), 1e-6, dtype=torch.float64)
    KerasRMSprop([weight]).step(1.0)
    assert weight.item() == pytest.approx(-1e-6 / math.sqrt(1e-13 + 1e-7))


def test_weights_without_gradient_stay():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    used.grad = torch.ones(2)
    KerasRMSprop([unused, used]).step(1e-3)
    assert unused.tolist() == [1, 1]
    assert used[0] < 1


def test_adamw_is_torchs_own():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    optimiser = AdamW([ours], rate=0.01, weight_decay=0.1)
    for step in range(20):
        ours.grad = torch.randn(50, generator=generator) * 10.0 ** (step % 7 - 5)
        theirs.grad = ours.grad.clone()
        optimiser.step(0.01 / (step + 1))
        reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        reference.step()
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (5, 5)])
def test_orthogonal_keeps_singular_vectors_and_levels_singular_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 100
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    levelled = left.mT @ orthogonal(matrix) @ right.mT
    values = levelled.diagonal()
    assert ((values > 0.3) & (values < 1.3)).all()
    assert (levelled - values.diag()).abs().max() < 1e-3


def test_muon_is_torchs_own_on_matrices():
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 20), torch.randn(5, 8, 20)
    ours, theirs = nn.Parameter(start.view(8, 5, 2, 2).clone()), nn.Parameter(start.clone())
    optimiser = Muon([ours], rate=0.1, weight_decay=0.01)
    reference = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.01, ns_steps=3)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.view(8, 5, 2, 2), gradient.clone()
        optimiser.step(0.1)
        reference.step()
    # torch's iterates in bfloat16.
    assert (ours.view(8, 20) - theirs).norm() < 0.03 * (theirs - start).norm()


def test_matrices_at_once_are_levelled_as_each_alone():
    matrices = torch.randn(4, 24, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for some in (matrices, matrices.mT):
        assert torch.allclose(orthogonal(some), torch.stack([orthogonal(one) for one in some]), atol=1e-12)


def three_steps(recipe, as_tensors, dtype=torch.float64):
    """Train filters of two shapes, with the numbers of each step as Python's or in a tensor."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 2, 3, 3), (8, 6, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (8,), (5, 10)]
    network = nn.ParameterList([torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes])
    built = build_optimisers(LESSON.with_fields({"optimiser": recipe, "weight_decay": 0.1}), network)
    for rate in (0.1, 0.05, 0.02):
        for weight in network.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=dtype)
        for optimiser in built:
            factors = optimiser.factors(rate)
            optimiser.update(torch.tensor(factors, dtype=dtype) if as_tensors else factors)
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


@pytest.mark.parametrize("optimiser", ["rmsprop", "adamw", "muon"])
def test_the_numbers_of_a_step_may_stand_in_a_tensor(optimiser):
    expected = three_steps(optimiser, as_tensors=False)
    assert torch.allclose(three_steps(optimiser, as_tensors=True), expected, rtol=0, atol=1e-12)


def test_filters_of_one_shape_are_updated_at_once_as_on_a_gpu(monkeypatch):
    expected, groups = three_steps("muon", as_tensors=False), []

    def by_shape(weights, *others):
        rows = list(zip(weights, *others, strict=True))
        shapes = dict.fromkeys(weight.shape for weight, *_ in rows)
        found = [tuple(map(list, zip(*[row for row in rows if row[0].shape == one], strict=True))) for one in shapes]
        groups.append([len(own) for own, *_ in found])
        return found

    monkeypatch.setattr(optimisers, "_by_shape", by_shape)
    assert torch.allclose(three_steps("muon", as_tensors=False), expected, rtol=0, atol=1e-12)
    assert groups == [[1, 2]] * 3


def test_every_weight_has_one_optimiser():
    network = build_network("quick", 1, (28, 28), 10)
    adamw, muon = build_optimisers(RECIPES["quick"], network)
    filters, others = ({id(w) for w in o.weights} for o in (muon, adamw))
    assert filters == {id(w) for w in (network.conv2d_1.weight, network.conv2d_2.weight, network.conv2d_3.weight)}
    assert filters | others == {id(w) for w in network.parameters()}
    assert not filters & others


@pytest.mark.parametrize("optimiser", ["rmsprop", "adamw", "muon"])
def test_memory_is_all_that_an_optimiser_remembers(optimiser):
    recipe = LESSON.with_fields({"optimiser": optimiser})
    gradients = [torch.randn(3, 4, 2, 3, 3) for _ in range(2)]
    first, second = (
        [nn.Parameter(torch.ones(4, 2, 3, 3)), nn.Parameter(torch.ones(4, 2, 3, 3)), nn.Parameter(torch.ones(4))]
        for _ in range(2)
    )

    def step(built, weights, number):
        for weight, gradient in zip(weights[:2], gradients, strict=True):
            weight.grad = gradient[number].clone()
        weights[2].grad = gradients[0][number].mean(dim=(1, 2, 3))
        for one in built:
            one.step(0.1)

    built = build_optimisers(recipe, nn.ParameterList(first))
    step(built, first, 0)
    again = build_optimisers(recipe, nn.ParameterList(second))
    with torch.no_grad():
        for weight, known in zip(second, first, strict=True):
            weight.copy_(known)
        for one, known in zip(again, built, strict=True):
            one.steps = known.steps
            for name, tensor in one.state.items():
                tensor.copy_(known.state[name])
    for number in (1, 2):
        step(built, first, number)
        step(again, second, number)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def keras_plateau(accuracies, rate=1e-3):
    """Keras's ReduceLROnPlateau with mode max, factor 0.5, patience 3, min_delta 1e-4, min_lr 1e-5, restated."""
    best, wait, rates = -math.inf, 0, []
    for accuracy in accuracies:
        if accuracy > best + 1e-4:
            best, wait = accuracy, 0
        else:
            wait += 1
            if wait >= 3:
                if rate > 1e-5:
                    rate = max(rate * 0.5, 1e-5)
                wait = 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize("seed", range(20))
def test_plateau_is_kerass(seed):
    generator = np.random.default_rng(seed)
    accuracies = (0.99 + np.cumsum(generator.normal(scale=2e-4, size=80)) / 5).tolist()
    schedule = Plateau(LESSON)
    rates = []
    for accuracy in accuracies:
        schedule.end_epoch(accuracy)
        rates.append(schedule.rate(1e-3, done=0))
    assert rates == pytest.approx(keras_plateau(accuracies))
    assert min(rates) >= 1e-5


def test_plateau_stops_at_the_floor():
    schedule = Plateau(LESSON)
    rates = []
    for _ in range(40):
        schedule.end_epoch(0.5)
        rates.append(schedule.rate(1e-3, done=0))
    assert rates[:4] == [1e-3, 1e-3, 1e-3, 5e-4]
    assert rates[-1] == 1e-5


def test_a_rise_within_min_delta_is_none():
    schedule = Plateau(LESSON)
    for accuracy in (0.99, 0.99005, 0.99009, 0.9901):
        schedule.end_epoch(accuracy)
    assert schedule.rate(1e-3, done=0) == 5e-4


def test_one_cycle_rises_to_the_rate_and_falls_to_nothing():
    schedule = OneCycle(steps=100)
    rates = [schedule.rate(0.01, done) for done in range(100)]
    assert max(rates) == pytest.approx(0.01)
    assert rates[0] < 0.001
    assert rates[-1] < 2e-4
    assert rates.index(max(rates)) == 24


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_one_cycle_of_few_steps(steps):
    assert all(0 < OneCycle(steps).rate(0.01, done) <= 0.01 for done in range(steps))


def test_a_schedule_goes_on_where_another_was():
    accuracies = [0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7]
    whole = Plateau(RECIPES["tutorial"])
    expected = []
    for accuracy in accuracies:
        whole.end_epoch(accuracy)
        expected.append(whole.rate(1e-3, 0))
    assert len(set(expected)) == 3
    for stop in range(len(accuracies)):
        first, second = Plateau(RECIPES["tutorial"]), Plateau(RECIPES["tutorial"])
        for accuracy in accuracies[:stop]:
            first.end_epoch(accuracy)
        second.restore(*json.loads(json.dumps(first.state())))
        for accuracy, rate in zip(accuracies[stop:], expected[stop:], strict=True):
            second.end_epoch(accuracy)
            assert second.rate(1e-3, 0) == rate
    with pytest.raises(ValueError, match="too many"):
        OneCycle(steps=10).restore(1.0)
    with pytest.raises(ValueError, match="unpack"):
        whole.restore(1.0)
