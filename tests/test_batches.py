import numpy as np
import pytest
import torch
from torch import nn

from imprint.batches import CPU_BATCH, in_batches
from imprint.input_spec import InputSpec

SPECS = {
    "digits": (InputSpec(1, (28, 28), (28, 28)), CPU_BATCH),
    "photos": (InputSpec(3, (128, 170), (96, 128)), 14),
    "one photo": (InputSpec(3, (800, 800), (800, 800)), 1),
}


@pytest.mark.parametrize("kind", SPECS)
def test_large_pictures_go_in_smaller_batches(kind):
    spec, size = SPECS[kind]
    pixels = np.zeros((2 * size + 1, spec.channels, *spec.picture_size), dtype=np.uint8)
    seen = []

    def look(prepared, lay_out):
        seen.append(len(prepared))
        return [prepared.mean(dim=(1, 2, 3))]

    assert in_batches(nn.Linear(1, 1), pixels, spec, look)[0].shape == (2 * size + 1,)
    assert seen == [size, size, 1]


def test_rows_are_those_of_the_pictures_chosen_in_their_order():
    pixels = np.arange(250, dtype=np.uint8).repeat(4).reshape(250, 1, 2, 2)
    chosen = np.random.default_rng(0).permutation(250)[:200]
    net = nn.Linear(1, 1).train()

    def look(prepared, lay_out):
        assert not net.training
        return prepared[:, 0, 0, 0], prepared.flatten(1)

    first, whole = in_batches(net, pixels, InputSpec(1, (2, 2), (2, 2)), look, chosen)
    assert torch.equal((first * 255).round(), torch.from_numpy(chosen).float())
    assert torch.equal(whole, first[:, None].expand(200, 4))
    assert net.training
