"""Training on several processes; what takes longer is in scripts/scale.py, whose workers these tests start too."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import scale
import torch
from torch import nn

import imprint
from helpers import refused
from imprint.models.layers import Dropout
from imprint.recipes import RECIPES
from imprint.training.augmentation import Rows, augment
from imprint.training.checkpoint import read_resumable_run, start_network
from imprint.training.coupling import GlobalBatchNorm, coupled
from imprint.training.distributed import ALONE, Crew
from imprint.training.fit import fit
from imprint.training.plan import dealt_to, make_plan, network_plan, seed_random_numbers, share_plan


class Recorded(Crew):
    """A process whose others have said before what they would say: one sum an exchange."""

    def __init__(self, rank, size, sums):
        super().__init__(rank, size)
        self.sums, self.said = iter(sums), []

    def add_up(self, tensors):
        self.said.append([tensor.detach().clone() for tensor in tensors])
        return next(self.sums, self.said[-1])


def test_shares_of_a_batch_are_even_and_whole():
    for size in (1, 2, 3, 7):
        crews = [Crew(rank, size) for rank in range(size)]
        for count in (0, 1, 6, 50, 256):
            rows = np.concatenate([np.arange(count)[crew.share(count)] for crew in crews])
            assert rows.tolist() == list(range(count))
            assert crews[0].shares(count) == [crew.share(count).stop - crew.share(count).start for crew in crews]
            assert max(crews[0].shares(count)) - min(crews[0].shares(count)) <= 1
    order = torch.arange(12)
    assert torch.cat([Crew(rank, 3).own_rows(order, 4) for rank in range(3)]).sort().values.tolist() == list(range(12))
    assert Crew(2, 3).own_rows(order, 4).tolist() == [2, 3, 6, 7, 10, 11]


def test_an_image_is_changed_the_same_whoever_does_it(digits):
    recipe = replace(
        RECIPES["quick"], elastic=0.5, hflip="yes", color_jitter=0.2, min_crop_area=0.6, downscale=0.5, tta="none"
    )
    pixels = torch.from_numpy(digits[:50].pixels).double() / 255
    torch.manual_seed(0)
    together, after = augment(pixels, recipe), torch.rand(())
    for own in (torch.tensor([0, 3, 4, 17, 49]), torch.tensor([1]), torch.arange(50)):
        torch.manual_seed(0)
        assert torch.allclose(augment(pixels[own], recipe, Rows(50, own)), together[own], rtol=0, atol=1e-14)
        assert torch.rand(()) == after  # as many numbers were drawn
    assert not torch.equal(together, pixels)


def test_dropout_keeps_the_rows_of_the_whole_batch():
    layer, whole = Dropout(0.4), torch.ones(10, 3, 4, 4)
    for laid_out in (whole, whole.contiguous(memory_format=torch.channels_last)):
        torch.manual_seed(0)
        together = layer(laid_out)
        for rank in range(3):
            crew = Crew(rank, 3)
            with coupled(nn.Sequential(layer), crew, 10):
                torch.manual_seed(0)
                assert torch.equal(layer(laid_out[crew.share(10)]), together[crew.share(10)])
    assert (layer.whole, layer.first) == (0, 0)


def one_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


def test_a_batch_is_normalised_as_a_whole():
    images, labels = torch.randn(10, 1, 8, 8).double(), torch.arange(10) % 3
    reference = one_network()
    nn.functional.cross_entropy(reference(images), labels).backward()

    def own(rank, sums):
        network, crew = one_network(), Recorded(rank, 3, sums)
        rows = crew.share(10)
        with coupled(network, crew, 10):
            assert type(network[1]) is GlobalBatchNorm
            (nn.functional.cross_entropy(network(images[rows]), labels[rows], reduction="sum") / 10).backward()
        assert type(network[1]) is nn.BatchNorm2d
        return network, crew.said

    sums = []
    for _ in range(2):  # what one says at the second exchange depends on what all have said at the first
        said = [own(rank, sums)[1][len(sums)] for rank in range(3)]
        sums.append([sum(parts) for parts in zip(*said, strict=True)])
    networks = [own(rank, sums)[0] for rank in range(3)]
    for parameters in zip(reference.parameters(), *(one.parameters() for one in networks), strict=True):
        whole, *parts = (one.grad for one in parameters)
        assert torch.allclose(sum(parts), whole, rtol=0, atol=1e-14)
    for name, expected in reference.state_dict().items():
        for network in networks:
            assert torch.allclose(network.state_dict()[name].double(), expected.double(), rtol=0, atol=1e-14), name


def test_networks_are_dealt_there_and_back():
    assert [dealt_to(rank, 2, 8) for rank in range(2)] == [[0, 3, 4, 7], [1, 2, 5, 6]]
    assert sorted(place for rank in range(3) for place in dealt_to(rank, 3, 8)) == list(range(8))
    assert dealt_to(0, 1, 3) == [0, 1, 2]


def test_several_networks_are_dealt_and_single_ones_shared(digits):
    best, quick = (make_plan(digits[:300], name, device="cpu") for name in ("best", "quick"))
    assert share_plan(best, Crew(0, 2)).dealt
    assert not share_plan(best, Crew(0, 3)).dealt
    assert not share_plan(quick, Crew(0, 2)).dealt
    assert "batches shared by 3 processes" in str(share_plan(quick, Crew(0, 3)))
    assert "networks dealt to 2 processes" in share_plan(best, Crew(0, 2)).work_line
    assert share_plan(best, ALONE, dealt=True).dealt  # as it began
    seeds = [network_plan(best, member).recipe.seed for member in range(2)]
    assert seeds[0] == best.recipe.seed
    assert seeds[1] not in range(best.recipe.seed, best.recipe.seed + 1000)


def test_batches_smaller_than_the_number_of_processes_are_refused(digits):
    plan = make_plan(digits[:300], "quick", device="cpu", batch_size=3)
    with pytest.raises(imprint.UsageError, match="a batch has 3 images, fewer than one for each"):
        share_plan(plan, Crew(0, 4))


def test_one_process_exchanges_nothing(digits):
    plan = make_plan(digits[:300], "quick", device="cpu")
    assert share_plan(plan, ALONE).crew is ALONE
    with ALONE.agreement() as facts, ALONE.joined(plan.device):
        facts["anything"] = 1
    assert ALONE.told(lambda: "made") == "made"
    assert ALONE.gather(3) == [3]
    tensor = torch.ones(2)
    assert ALONE.add_up([tensor])[0] is tensor


def test_another_number_of_processes_than_torchruns_is_refused(tmp_path, monkeypatch):
    for name, value in (("MASTER_ADDR", "localhost"), ("WORLD_SIZE", "3"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    line = refused("train", "digits", "--processes", "2", cwd=tmp_path)
    assert line == "error: --processes 2 at imprint: torchrun has started 3. Leave the option out."


def test_three_processes_give_what_one_gives_and_one_goes_on_with_what_they_began(tmp_path):
    scale.worker_weights(tmp_path / "one.npz")
    one = dict(np.load(tmp_path / "one.npz"))
    three = scale.weights(tmp_path, 3, keep=tmp_path)
    assert scale.difference(one, three) < 1e-12
    assert (one["orders"] == three["orders"]).all()
    for name in ("loss", "acc", "val_loss", "val_acc"):
        assert np.allclose(one[f"history/{name}"], three[f"history/{name}"], rtol=0, atol=1e-7)
    assert one["history/acc"][-1] > 0.5  # so that it has learnt, and hard images were drawn
    for count in (101, 3, 2):  # of 2 images one process has none
        assert np.allclose(one[f"predicted/{count}"], three[f"predicted/{count}"], rtol=0, atol=1e-6)
        assert np.allclose(three[f"predicted/{count}"].sum(axis=1), 1, atol=1e-6)
    scale.worker_weights(tmp_path / "taken-up.npz", resume=tmp_path)
    assert scale.difference(one, dict(np.load(tmp_path / "taken-up.npz"))) < 1e-12


def test_one_process_of_torchrun_writes_the_bytes_of_a_plain_run(tmp_path):
    (line,) = scale.row_same_bytes(tmp_path, None)
    assert line == "same bytes: True"


def test_a_fault_of_one_process_is_that_of_all(tmp_path):
    wrong_label, missing = scale.row_odd(tmp_path, None, kinds=("label", "missing"))
    assert "['error: data of rank 1 at the start: it is not that of rank 0" in wrong_label
    assert "nowhere.csv (rank 1)" in missing
    for line in (wrong_label, missing):
        assert line.count("error:") == 1
        assert line.endswith("False")  # no folder was made


def test_a_killed_process_is_named_and_the_checkpoint_is_whole(tmp_path):
    folder = tmp_path / "run"
    process, ranks = scale.start(folder, 2)
    with process:
        os.kill(ranks[1], signal.SIGKILL)
        (line,) = scale.errors(process.stderr.read())
    assert line.startswith("error: rank 1 at training: no answer any more")
    assert process.returncode
    assert len(read_resumable_run(folder).epochs)


def test_networks_are_dealt_and_gathered(digits, tmp_path):
    fields = {"networks": "quick+quick+quick", "epochs": 1, "min_steps": 2, "elastic": 0, "precision": "float64"}
    words = ["train", "digits", "--recipe", "best", "--set", "ood_detector=", "--processes", "2"]
    for name, value in fields.items():
        words += ["--set", f"{name}={value}"]
    lines = scale.run([*scale.IMPRINT, *words, "--run", str(tmp_path / "run")])
    assert any("networks dealt to 2 processes" in line for line in lines)
    assert not list((tmp_path / "run").glob("network-*"))
    found = scale.tensors(tmp_path / "run" / "model.safetensors")
    plan = make_plan(digits, "best", device="cpu", ood_detector="", **fields)
    for member in range(3):
        alone = network_plan(plan, member)
        seed_random_numbers(alone)
        state = start_network(alone)
        fit(state, torch.from_numpy(digits.pixels), torch.from_numpy(digits.labels))
        for name, weight in state.network.state_dict().items():
            assert np.allclose(found[f"members.{member}.{name}"], weight, rtol=1e-5, atol=1e-6), (member, name)
