import json

import pytest
import torch

from imprint import arithmetic
from imprint.models.hardware import BLOCKED, CHANNELS_LAST, ROWS, ComputeConfig, choose_compute_config, self_check

CPU = torch.device("cpu")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing remembered in this process."""
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    arithmetic._chosen.clear()
    yield tmp_path / "cache" / "arithmetic-cpu-auto.json"
    arithmetic._chosen.clear()


@pytest.mark.parametrize("layout", [ROWS, BLOCKED, CHANNELS_LAST])
@pytest.mark.parametrize("channels", [1, 3])
def test_layouts_hold_the_same_numbers(layout, channels):
    pixels = torch.rand(2, channels, 5, 7)
    laid_out = ComputeConfig("float32", layout, 1, 1.0, 0.0).to_layout(pixels)
    assert torch.equal(laid_out.to_dense() if laid_out.is_mkldnn else laid_out, pixels)


def test_grey_images_lead_to_channels_last_too():
    # Otherwise the first convolution gives rows first, whose pooling took four times as long.
    pixels = ComputeConfig("float32", CHANNELS_LAST, 1, 1.0, 0.0).to_layout(torch.rand(4, 1, 28, 28))
    assert torch.nn.Conv2d(1, 8, 3)(pixels).is_contiguous(memory_format=torch.channels_last)


def test_the_choice_is_one_that_was_asked_for_and_right():
    for precision in ("auto", "float32", "bfloat16"):
        chosen = self_check(CPU, precision)
        assert precision in ("auto", chosen.precision) or chosen == ComputeConfig(
            "float32", ROWS, chosen.threads, 1.0, 0.0
        )
        assert chosen.error <= arithmetic.TOLERANCE[chosen.precision]
        assert 1 <= chosen.threads <= torch.get_num_threads()


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    self_check(CPU)
    assert torch.get_num_threads() == before


def test_wrong_arithmetic_is_never_chosen(monkeypatch):
    honest = arithmetic._Probe.results

    def results(self, way):
        found = honest(self, way)
        return [tensor * 1.1 for tensor in found] if way.precision == "bfloat16" else found

    monkeypatch.setattr(arithmetic._Probe, "results", results)
    monkeypatch.setattr(arithmetic._Probe, "seconds", lambda self, way: 1.0 if way.precision == "float32" else 0.1)
    assert self_check(CPU).precision == "float32"
    assert self_check(CPU, "bfloat16") == ComputeConfig("float32", ROWS, torch.get_num_threads(), 1.0, 0.0)


def test_arithmetic_that_does_not_run_is_never_chosen(monkeypatch):
    honest = arithmetic._Probe.results

    def results(self, way):
        if way.precision == "bfloat16" or way.layout != ROWS:
            raise RuntimeError("not on this machine")
        return honest(self, way)

    monkeypatch.setattr(arithmetic._Probe, "results", results)
    assert self_check(CPU).layout == ROWS


def test_the_fastest_right_way_is_chosen(monkeypatch):
    def seconds(self, way):
        return 1.0 if (way.layout, way.precision) == (CHANNELS_LAST, "bfloat16") else 2.0

    monkeypatch.setattr(arithmetic._Probe, "seconds", seconds)
    chosen = self_check(CPU)
    assert (chosen.layout, chosen.precision, chosen.speed) == (CHANNELS_LAST, "bfloat16", 2.0)


def test_a_gain_within_noise_is_none(monkeypatch):
    monkeypatch.setattr(
        arithmetic._Probe, "seconds", lambda self, way: 0.95 if way.precision == "bfloat16" or way.threads == 1 else 1.0
    )
    chosen = self_check(CPU)
    assert (chosen.precision, chosen.threads) == ("float32", torch.get_num_threads())


def test_the_outcome_is_kept_for_the_machine(fresh, monkeypatch):
    first = choose_compute_config(CPU)
    arithmetic._chosen.clear()
    monkeypatch.setattr(arithmetic, "self_check", lambda *_: pytest.fail("checked again"))
    assert choose_compute_config(CPU) == first
    assert [path.name for path in fresh.parent.iterdir()] == [fresh.name]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": "another"}', "{broken", None])
def test_what_is_no_use_is_checked_anew(fresh, content):
    expected = choose_compute_config(CPU)
    if content is None:
        content = json.dumps({"machine": arithmetic._machine(CPU), "banana": 1})
    fresh.write_text(content)
    arithmetic._chosen.clear()
    assert choose_compute_config(CPU).precision in ("float32", "bfloat16")
    assert json.loads(fresh.read_text()).keys() >= {"precision", "machine"}
    assert expected.threads >= 1


def test_what_a_busy_machine_found_holds_until_it_is_quiet(fresh, monkeypatch):
    found = []
    monkeypatch.setattr(arithmetic, "self_check", lambda *asked: found.append(asked) or self_check(*asked))
    for load in (1000.0, 1000.0, 0.0, 0.0, 1000.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        arithmetic._chosen.clear()
        choose_compute_config(CPU)
    assert len(found) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(fresh):
    fresh.parent.write_text("a file where the folder should be")
    assert choose_compute_config(CPU).threads >= 1


def test_what_was_adopted_is_used_and_not_kept_for_others(fresh):
    adopted = ComputeConfig("float32", ROWS, 1, 1.0, 0.0)
    arithmetic.adopt_compute_configs(CPU, {"auto": adopted})
    assert choose_compute_config(CPU) is adopted
    assert choose_compute_config(torch.device("cpu", 0)) is adopted
    assert not fresh.exists()


def test_threads_do_not_make_another_machine():
    before = torch.get_num_threads()
    name = arithmetic.machine_name(CPU)
    torch.set_num_threads(before + 1)
    assert arithmetic.machine_name(CPU) == name
    torch.set_num_threads(before)
