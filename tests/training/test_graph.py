"""The recording of a step, with the step itself standing for the GPU that would replay it."""

import pytest
import torch

from imprint.training.checkpoint import start_network
from imprint.training.fit import step_factors, train_step
from imprint.training.graph import WARM_UP, RecordedStep
from imprint.training.plan import make_plan

STEPS, BATCH = 7, 32
CPU = torch.device("cpu")


def replayed(step, inputs, stream):
    """Record as a GPU does: what is replayed reads and writes where it did at first, and nothing else."""
    results = []

    def replay():
        found = step(*inputs)
        if results:
            torch._foreach_copy_(results, found)
        results.extend(found if not results else [])

    return replay, results


def learnt(digits, recipe, make_step):
    """Train for some steps, by the step that `make_step` makes of the plain one; gives weights, losses and hits."""
    plan = make_plan(digits[:300], recipe, device="cpu", batch_size=BATCH, min_steps=STEPS, epochs=1)
    torch.manual_seed(0)
    state = start_network(plan)
    step = make_step(lambda batch, targets, *factors: train_step(state, batch, targets, factors))
    torch.manual_seed(1)
    seen = []
    for row in step_factors(state, 0, STEPS):
        batch, targets = torch.rand(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
        factors = [torch.tensor(one) for one in row]
        losses, hits = step(batch, targets, *factors)
        seen.append((losses.clone(), hits.clone()))
    return state.network.state_dict(), seen


@pytest.mark.parametrize("recipe", ["quick", "tutorial"])  # batch normalisation, and dropout
def test_a_recorded_step_does_what_the_step_does(digits, recipe):
    expected, every = learnt(digits, recipe, lambda step: step)
    recorded = []

    def make_step(step):
        recorded.append(RecordedStep(step, CPU, replayed))
        return recorded[0]

    found, seen = learnt(digits, recipe, make_step)
    assert recorded[0]._replay is not None
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(
        torch.equal(*pair) for one, other in zip(every, seen, strict=True) for pair in zip(one, other, strict=True)
    )


def test_what_is_recorded_is_recorded_once_and_not_in_the_warm_up():
    run, recorded = [], []

    def step(one):
        run.append(one)
        return [one + 1]

    def record(recorded_step, inputs, stream):
        recorded.append(inputs)
        return replayed(recorded_step, inputs, stream)

    one = RecordedStep(step, CPU, record)
    results = [int(one(torch.tensor([number]))[0]) for number in range(WARM_UP + 3)]
    assert results == [number + 1 for number in range(WARM_UP + 3)]
    assert len(recorded) == 1
    assert all(given is recorded[0][0] for given in run[WARM_UP:])
    assert not any(given is recorded[0][0] for given in run[:WARM_UP])


def test_another_shape_passes_by_the_recording():
    one = RecordedStep(lambda numbers: [numbers * 2], CPU, replayed)
    for _ in range(WARM_UP + 1):
        one(torch.ones(3))
    assert one(torch.ones(2))[0].tolist() == [2, 2]
    assert one(torch.full((3,), 5.0))[0].tolist() == [10, 10, 10]


def test_a_step_that_was_forgotten_is_recorded_again():
    recorded = []

    def record(step, inputs, stream):
        recorded.append(inputs)
        return replayed(step, inputs, stream)

    one = RecordedStep(lambda numbers: [numbers * 2], CPU, record)
    for _ in range(2):
        for _ in range(WARM_UP + 1):
            one(torch.ones(3))
        one.forget()
    assert len(recorded) == 2
