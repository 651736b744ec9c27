import pytest
import torch

import imprint
from imprint.models.layers import ConvNet, Dropout
from imprint.preprocessing.prepare import prepare
from imprint.training.checkpoint import start_network
from imprint.training.fit import epoch_order, step_factors, train_step
from imprint.training.plan import make_plan


def test_a_whole_pass_deals_every_image_once():
    torch.manual_seed(0)
    order = epoch_order(torch.zeros(100), 100, hard_fraction=0.5)
    assert order.sort().values.tolist() == list(range(100))
    assert order.tolist() != list(range(100))


def test_beyond_a_pass_none_comes_twice_as_often():
    counts = epoch_order(torch.zeros(10), 25, hard_fraction=0.0).bincount(minlength=10)
    assert counts.sum() == 25
    assert set(counts.tolist()) == {2, 3}


def test_the_hardest_come_surely_and_others_by_chance():
    torch.manual_seed(0)
    losses = torch.arange(1000.0)
    orders = torch.stack([epoch_order(losses, 100, hard_fraction=0.6) for _ in range(200)])
    assert (orders.sort(dim=1).values.diff(dim=1) > 0).all()
    counts = orders.flatten().bincount(minlength=1000)
    assert (counts[-60:] == 200).all()
    assert abs(counts[:470].float().mean() / counts[470:-60].float().mean() - 1) < 0.05
    assert counts[:-60].max() < 30  # 200 × 40 / 940 is 8.5


def test_images_not_seen_yet_come_first():
    losses = torch.tensor([5.0, torch.inf, 4.0, torch.inf])
    assert epoch_order(losses, 2, hard_fraction=1.0).sort().values.tolist() == [1, 3]


def one_step(digits, parts, network="tutorial"):
    """Take one step of a network without dropout in so many parts; gives its gradients, losses and hits."""
    plan = make_plan(digits[:64], "quick", networks=network, device="cpu", precision="float32", batch_size=50)
    torch.manual_seed(0)
    state = start_network(plan)
    state.parts = parts
    for layer in state.network:
        if isinstance(layer, Dropout):
            layer.share = 0.0
    pixels = prepare(torch.from_numpy(digits[:50].pixels), plan.spec)
    losses, hits = train_step(state, pixels, torch.from_numpy(digits[:50].labels), step_factors(state, 0, 1)[0])
    gradient = torch.cat([weight.grad.flatten() for weight in state.network.parameters()])
    return gradient, losses, hits


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_parts_of_a_batch_have_its_gradient(digits, parts):
    gradient, losses, hits = one_step(digits, 1)
    in_parts, losses_in_parts, hits_in_parts = one_step(digits, parts)
    assert torch.allclose(in_parts, gradient, rtol=0, atol=1e-6)
    assert gradient.abs().max() > 0.01
    assert torch.allclose(losses_in_parts, losses, atol=1e-5)
    assert torch.equal(hits_in_parts, hits)


def limited(monkeypatch, most):
    """Let a device hold so many images' activations at most; gives the sizes that were tried."""
    tried, forward = [], ConvNet.forward

    def checked(self, images):
        tried.append(len(images))
        if self.training and len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, images)

    monkeypatch.setattr(ConvNet, "forward", checked)
    return tried


def test_too_small_a_memory_takes_batches_in_parts(digits, monkeypatch, caplog):
    tried = limited(monkeypatch, 20)
    caplog.set_level("INFO", "imprint")
    run = imprint.train(digits[:300], "quick", epochs=1, min_steps=2, batch_size=64, device="cpu", run=False)
    assert len(run.history["loss"]) == 1
    said = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert said == [
        "memory of the device is too small: batches of 64 images are computed 32 at a time",
        "memory of the device is too small: batches of 64 images are computed 16 at a time",
    ]
    assert {16, 32, 64} <= set(tried)


def test_a_memory_for_not_even_a_few_images_is_refused(digits, monkeypatch):
    limited(monkeypatch, 1)
    with pytest.raises(imprint.UsageError, match="its memory does not hold a part of them"):
        imprint.train(digits[:300], "quick", epochs=1, min_steps=2, device="cpu", verbose=False)


def test_other_errors_of_a_step_go_on(digits, monkeypatch):
    def broken(self, images):
        raise RuntimeError("something else")

    monkeypatch.setattr(ConvNet, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        imprint.train(digits[:300], "quick", epochs=1, min_steps=2, device="cpu", verbose=False)
