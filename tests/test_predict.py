from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from imprint.batches import CPU_BATCH
from imprint.input_spec import InputSpec
from imprint.nets import build_net
from imprint.predict import GRADUAL, look_again, predict_probabilities
from imprint.preparation import prepare


@pytest.mark.parametrize("net", ["tutorial", "quick"])
@pytest.mark.parametrize("count", [1, CPU_BATCH, 2 * CPU_BATCH + 1])
def test_batches_and_layout_do_not_show(digits, net, count):
    torch.manual_seed(0)
    built = build_net(net, 1, (28, 28), 10)
    spec = InputSpec(1, (8, 8), (28, 28))
    pixels = digits.pixels[:count]
    ours = predict_probabilities(built, pixels, spec)
    with torch.no_grad():
        expected = built.eval()(prepare(torch.from_numpy(pixels), spec)).softmax(1).numpy()
    assert np.abs(ours - expected).max() < 1e-6
    assert np.abs(ours.sum(1) - 1).max() < 1e-5


def test_training_mode_is_left_as_it_was():
    built = build_net("quick", 1, (28, 28), 10).train()
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    predict_probabilities(built, np.zeros((3, 1, 28, 28), dtype=np.uint8), InputSpec(1, (28, 28), (28, 28)))
    assert built.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.state_dict().items())


def test_other_views_come_to_count_gradually(digits):
    torch.manual_seed(0)
    net, spec = build_net("quick", 1, (28, 28), 10), InputSpec(1, (8, 8), (28, 28))
    pixels = digits.pixels[:20]
    found = predict_probabilities(net, pixels, spec)
    fully = look_again(net, pixels, spec, "shifts", found, 2.0)
    assert (np.abs(fully - found).max(axis=1) > 1e-4).all()
    confidence = found.max(axis=1)
    for share in (0.5, 0.001, 0.0):
        limit = float(np.float64(confidence[3]) + share * GRADUAL)
        viewed = look_again(net, pixels, spec, "shifts", found, limit)
        assert np.abs(viewed[3] - (found[3] + share * (fully[3] - found[3]))).max() < 1e-5
        sure = confidence >= limit
        assert np.array_equal(viewed[sure], found[sure])


def test_threads_that_ask_at_once_get_what_one_gets(model, digits):
    expected = model.predict_proba(digits)
    model.net.train()  # as if training had just ended
    replaced = replace(model)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda start: replaced.predict_proba(digits[start:]), [0, 1, 2, 3] * 3))
    for start, answer in zip([0, 1, 2, 3] * 3, answers, strict=True):
        assert np.abs(answer - expected[start:]).max() < 1e-4
