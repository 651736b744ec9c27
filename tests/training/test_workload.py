import torch

from imprint.models import hardware
from imprint.models.hardware import BLOCKED, CHANNELS_LAST, ROWS, ComputeConfig, Workload, choose_compute_config
from imprint.training.checkpoint import init_network
from imprint.training.plan import make_plan
from imprint.training.workload import training_workload


def configs():
    return [ComputeConfig(*one, 1, 1.0, 0.0) for one in (("float32", ROWS), ("bfloat16", CHANNELS_LAST))]


def test_a_step_is_timed_in_each_way_and_draws_no_random_numbers(digits):
    plan = make_plan(digits[:200], "quick", batch_size=16, device="cpu")
    workload = training_workload("quick", plan)
    before = torch.get_rng_state()
    assert all(0 < workload.seconds(config) < 60 for config in configs())
    assert torch.equal(torch.get_rng_state(), before)
    assert workload.name == "quick-16x1x28x28x10"


def test_what_does_not_run_takes_for_ever(digits, monkeypatch):
    def broken(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("torch.nn.functional.cross_entropy", broken)
    assert training_workload("quick", make_plan(digits[:200], "quick", device="cpu")).seconds(configs()[0]) == torch.inf


def test_a_gpu_is_asked_by_the_workload_and_a_cpu_by_the_probe(tmp_path, monkeypatch):
    """Apple's GPU stands for any, on a probe that the CPU computes."""
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path))
    monkeypatch.setattr(hardware, "_chosen", {})
    monkeypatch.setattr(hardware, "_Probe", lambda device, kind=hardware._Probe: kind(torch.device("cpu")))
    asked = []

    def seconds(config):
        asked.append((config.precision, config.layout))
        return 1.0 if config.precision == "bfloat16" else 3.0

    workload = Workload("quick-256x1x28x28x10", seconds)
    chosen = choose_compute_config(torch.device("mps"), "auto", workload)
    assert (chosen.precision, chosen.layout, chosen.speed) == ("bfloat16", CHANNELS_LAST, 3.0)
    assert asked[0] == ("float32", ROWS)
    assert BLOCKED not in {layout for _, layout in asked}
    assert [path.name for path in tmp_path.iterdir()] == ["compute-mps-auto-quick-256x1x28x28x10.json"]
    asked.clear()
    assert choose_compute_config(torch.device("mps"), "auto", workload) is chosen
    assert hardware.chosen_compute_configs(torch.device("mps")) == {"auto-quick-256x1x28x28x10": chosen}
    choose_compute_config(torch.device("cpu"), "auto", workload)
    assert not asked


def test_where_nothing_runs_float32_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path))
    monkeypatch.setattr(hardware, "_chosen", {})
    monkeypatch.setattr(hardware, "_Probe", lambda device, kind=hardware._Probe: kind(torch.device("cpu")))
    chosen = choose_compute_config(torch.device("mps"), "auto", Workload("large", lambda config: torch.inf))
    assert (chosen.precision, chosen.layout, chosen.speed) == ("float32", ROWS, 1.0)


def test_networks_of_a_recipe_are_built_without_timing_on_a_cpu(digits, monkeypatch):
    monkeypatch.setattr("imprint.training.workload._time_passes", lambda *_: 1 / 0)
    network, compute = init_network("quick", make_plan(digits[:200], "quick", device="cpu"))
    assert compute.threads >= 1
    assert len(network) > 5
