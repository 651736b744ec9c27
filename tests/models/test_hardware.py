import json
import math
import os
from pathlib import Path

import pytest
import torch

from imprint.models import hardware
from imprint.models.hardware import (
    BLOCKED,
    CHANNELS_LAST,
    ROWS,
    ComputeConfig,
    choose_compute_config,
    compute_settings,
    self_check,
)

CPU = torch.device("cpu")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing remembered in this process."""
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(hardware, "_chosen", {})
    return tmp_path / "cache" / "compute-cpu-auto.json"


@pytest.fixture
def checks(monkeypatch):
    """The self-checks that were made, each of which takes no time."""
    made = []
    outcome = ComputeConfig("float32", ROWS, 1, 1.0, 0.0)
    monkeypatch.setattr(hardware, "self_check", lambda *asked: made.append(asked) or outcome)
    return made


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


def test_the_choice_is_one_that_was_asked_for_and_correct():
    for precision in ("auto", "float32", "bfloat16"):
        chosen = self_check(CPU, precision)
        assert precision in ("auto", chosen.precision) or chosen == ComputeConfig(
            "float32", ROWS, chosen.threads, 1.0, 0.0
        )
        assert chosen.error <= hardware.TOLERANCE[chosen.precision]
        assert 1 <= chosen.threads <= torch.get_num_threads()


def test_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    self_check(CPU)
    assert torch.get_num_threads() == before


def test_wrong_results_are_never_chosen(monkeypatch):
    honest = hardware._Probe.results

    def results(self, config):
        found = honest(self, config)
        return [tensor * 1.1 for tensor in found] if config.precision == "bfloat16" else found

    monkeypatch.setattr(hardware._Probe, "results", results)
    monkeypatch.setattr(hardware._Probe, "seconds", lambda self, config: 1.0 if config.precision == "float32" else 0.1)
    assert self_check(CPU).precision == "float32"
    assert self_check(CPU, "bfloat16") == ComputeConfig("float32", ROWS, torch.get_num_threads(), 1.0, 0.0)


def test_what_does_not_run_is_never_chosen(monkeypatch):
    honest = hardware._Probe.results

    def results(self, config):
        if config.precision == "bfloat16" or config.layout != ROWS:
            raise RuntimeError("not on this machine")
        return honest(self, config)

    monkeypatch.setattr(hardware._Probe, "results", results)
    assert self_check(CPU).layout == ROWS


def test_the_fastest_correct_config_is_chosen(monkeypatch):
    def seconds(self, config):
        return 1.0 if (config.layout, config.precision) == (CHANNELS_LAST, "bfloat16") else 2.0

    monkeypatch.setattr(hardware._Probe, "seconds", seconds)
    chosen = self_check(CPU)
    assert (chosen.layout, chosen.precision, chosen.speed) == (CHANNELS_LAST, "bfloat16", 2.0)


def test_a_gain_within_noise_is_none(monkeypatch):
    monkeypatch.setattr(
        hardware._Probe,
        "seconds",
        lambda self, config: 0.95 if config.precision == "bfloat16" or config.threads == 1 else 1.0,
    )
    chosen = self_check(CPU)
    assert (chosen.precision, chosen.threads) == ("float32", torch.get_num_threads())


def test_the_outcome_is_kept_for_the_machine(fresh, monkeypatch):
    first = choose_compute_config(CPU)
    hardware._chosen.clear()
    monkeypatch.setattr(hardware, "self_check", lambda *_: pytest.fail("checked again"))
    assert choose_compute_config(CPU) == first
    assert [path.name for path in fresh.parent.iterdir()] == [fresh.name]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": "another"}', "{broken", None])
def test_what_cannot_be_used_is_checked_again(fresh, checks, content):
    expected = choose_compute_config(CPU)
    if content is None:
        content = json.dumps({"machine": hardware._machine(CPU), "banana": 1})
    fresh.write_text(content)
    hardware._chosen.clear()
    assert choose_compute_config(CPU) == expected
    assert len(checks) == 2
    assert json.loads(fresh.read_text()).keys() >= {"precision", "machine"}


def test_what_a_busy_machine_found_holds_until_it_is_quiet(fresh, checks, monkeypatch):
    for load in (1000.0, 1000.0, 0.0, 0.0, 1000.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        hardware._chosen.clear()
        choose_compute_config(CPU)
    assert len(checks) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(fresh):
    fresh.parent.write_text("a file where the folder should be")
    assert choose_compute_config(CPU).threads >= 1


def test_what_was_adopted_is_used_and_not_kept_for_others(fresh):
    adopted = ComputeConfig("float32", ROWS, 1, 1.0, 0.0)
    hardware.adopt_compute_configs(CPU, {"auto": adopted})
    assert choose_compute_config(CPU) is adopted
    assert choose_compute_config(torch.device("cpu", 0)) is adopted
    assert not fresh.exists()


def test_threads_do_not_make_another_machine():
    before = torch.get_num_threads()
    name = hardware.machine_name(CPU)
    torch.set_num_threads(before + 1)
    assert hardware.machine_name(CPU) == name
    torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_have_the_precision_asked_for(precision, dtype):
    with ComputeConfig(precision, ROWS, 1, 1.0, 0.0).autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("flushed", [False, True])
def test_threads_and_denormals_are_the_callers_again(flushed):
    before = torch.get_num_threads()
    torch.set_flush_denormal(flushed)
    try:
        with compute_settings(before + 1):
            assert torch.get_num_threads() == before + 1
            assert float(torch.tensor(1e-30) * 1e-10) == 0
        assert torch.get_num_threads() == before
        assert (float(torch.tensor(1e-30) * 1e-10) == 0) == flushed
    finally:
        torch.set_flush_denormal(False)


@pytest.fixture
def machine(monkeypatch):
    """Four cores, and the times that are read of them: one row a call of time and seconds of other programs."""
    monkeypatch.setattr(hardware, "count_cores", lambda: 4)
    monkeypatch.setattr(hardware, "_last", hardware._Reading())
    before = torch.get_num_threads()

    def told(*rows):
        readings = iter(rows)

        def seconds():
            now, others = next(readings)
            monkeypatch.setattr("time.perf_counter", lambda: now)
            return others

        monkeypatch.setattr(hardware, "_seconds_of_others", seconds)

    yield told
    torch.set_num_threads(before)


def test_threads_go_by_the_cores_that_other_programs_leave(machine):
    machine((100, 50), (101, 50.1), (103, 52.1), (104, 56), (105, 56.0))
    assert hardware.share_cores(4) == 4  # nothing is known yet
    assert hardware.share_cores(4) == 4  # a tenth of a core is nobody
    assert hardware.share_cores(4) == 3
    assert hardware.share_cores(4) == 1
    assert hardware.share_cores(4) == 4
    assert torch.get_num_threads() == 4


def test_never_more_threads_than_the_self_check_found(machine):
    machine((100, 0), (101, 0), (102, 4))
    assert [hardware.share_cores(2) for _ in range(3)] == [2, 2, 1]


def test_a_moment_is_too_short_to_tell(machine):
    machine((100, 0), (101, 3), (101.01, 3.01), (101.02, 3.05), (102, 3.05))
    assert [hardware.share_cores(4) for _ in range(5)] == [4, 1, 1, 1, 4]


def test_threads_that_are_settled_stay_so(machine):
    machine((100, 0), (101, 4))
    assert [hardware.share_cores(4, settled=2) for _ in range(2)] == [2, 2]


def test_where_nothing_tells_all_threads_compute(machine):
    machine((100, math.nan), (101, math.nan))
    assert [hardware.share_cores(4) for _ in range(2)] == [4, 4]


STAT = """cpu  1000 100 50 9000 10 5 5 10 0 0
cpu0 400 60 20 4000 5 2 2 6 0 0
cpu1 600 40 30 5000 5 3 3 4 0 0
intr 1
"""


@pytest.mark.parametrize(("cores", "ticks"), [({0, 1}, 1170), ({1}, 680)])
def test_seconds_of_others_are_those_of_our_cores(monkeypatch, cores, ticks):
    monkeypatch.setattr(Path, "read_text", lambda self, **_: STAT)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: cores, raising=False)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    monkeypatch.setattr("time.process_time", lambda: 2.0)
    assert hardware._seconds_of_others() == pytest.approx(ticks / 100 - 2)


@pytest.mark.parametrize("content", ["", "cpu 1 2 3", "nonsense\n", None])
def test_a_system_that_does_not_tell_is_no_fault(monkeypatch, content):
    def read_text(self, **_):
        if content is None:
            raise FileNotFoundError
        return content

    monkeypatch.setattr(Path, "read_text", read_text)
    assert math.isnan(hardware._seconds_of_others())


def test_settings_of_a_gpu_change_nothing_elsewhere():
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    with hardware.cuda_settings(CPU, deterministic=True):
        assert (cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()) == before


@pytest.mark.parametrize("deterministic", [False, True])
def test_settings_of_a_gpu_are_the_callers_again(monkeypatch, deterministic):
    cudnn, asked = torch.backends.cudnn, []
    monkeypatch.setattr("torch.use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    with pytest.raises(KeyError), hardware.cuda_settings(torch.device("cuda"), deterministic):
        assert (cudnn.benchmark, cudnn.deterministic) == (not deterministic, deterministic)
        raise KeyError
    assert (cudnn.benchmark, cudnn.deterministic) == (False, False)
    assert asked == ([True, False] if deterministic else [])


def test_cublas_is_told_before_it_is_used(monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.empty", lambda *_, **__: None)
    monkeypatch.delenv(hardware.CUBLAS_SETTING, raising=False)
    hardware.choose_device("cuda")
    assert hardware.CUBLAS_SETTING not in os.environ
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    hardware.choose_device("cuda", deterministic=True)
    assert "before Python starts" in caplog.text
    assert hardware.CUBLAS_SETTING not in os.environ
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    hardware.choose_device("cuda", deterministic=True)
    assert os.environ[hardware.CUBLAS_SETTING] == ":4096:8"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.48 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_too_small_a_memory_is_told_from_other_errors(error, told):
    assert hardware.is_out_of_memory(error) == told
