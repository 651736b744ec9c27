"""Hardware: the device that computes, and the precision, memory layout and threads it is fastest and correct in."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imprint.core.errors import ImprintError, UsageError
from imprint.core.files import cache_folder, written_whole
from imprint.core.progress import warn

CUBLAS_SETTING = "CUBLAS_WORKSPACE_CONFIG"


def choose_device(name: str = "auto", deterministic: bool = False) -> torch.device:
    """Choose where to compute: ``"auto"`` (CUDA, else Apple's GPU, else the CPU) or a device that torch knows by name.

    For `deterministic` computation on a GPU, cuBLAS has to be told before the first use of that, for good; see
    `cuda_settings` for the rest. Raises `UsageError` where the device is unknown or missing on this machine.
    """
    if deterministic and name != "cpu" and CUBLAS_SETTING not in os.environ:
        if torch.cuda.is_initialized():
            warn(f"deterministic=yes: the GPU is in use already; set {CUBLAS_SETTING}=:4096:8 before Python starts")
        elif torch.cuda.is_available():
            os.environ[CUBLAS_SETTING] = ":4096:8"  # docs.nvidia.com/cuda/cublas, "Results reproducibility"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        name = "mps" if name == "cpu" and torch.backends.mps.is_available() else name
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r}",
            "--device",
            "this machine has none that torch can use",
            "Use --device cpu, or leave the option out.",
        ) from error
    return device


def free_memory(device: torch.device, all_of_it: bool = False) -> int:
    """Give the bytes of a CUDA device's memory that nothing needs, or all that it has."""
    free, total = torch.cuda.mem_get_info(device)
    return total if all_of_it else free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's memory was too small: CUDA, its libraries and Apple's GPU say it in their own ways."""
    errors = (error, error.__context__)  # a recording that ends so raises another on the way
    return any(words in str(one) for one in errors for words in ("out of memory", "ALLOC_FAILED"))


@contextmanager
def compute_settings(threads: int) -> Iterator[None]:
    """Compute with `threads` threads, and denormal floats as zero, until the caller's own settings are restored.

    Denormals slowed ReLU's gradient 20-fold on some CPUs. How the caller treats them is found out by a multiplication,
    since torch has no query for it. For training only: threads belong to the whole process, such as a server.
    """
    before, flushed = torch.get_num_threads(), not float(torch.full((), 1e-30, dtype=torch.float32) * 1e-10)
    if before != threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def cuda_settings(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Compute on a CUDA device with the algorithms that cuDNN finds fastest by trying, or always with the same.

    Until the caller's own settings are restored; nothing on other devices.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, warned = torch.backends.cudnn, torch.is_deterministic_algorithms_warn_only_enabled()
    before = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
    with warnings.catch_warnings():
        if deterministic:
            # Torch calls the gradient of max pooling nondeterministic, since it adds in any order; windows that do not
            # overlap, as ours, have nothing to add.
            warnings.filterwarnings("ignore", message=".*deterministic")
            torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before[:2]
            if deterministic:
                torch.use_deterministic_algorithms(before[2], warn_only=warned)


SHORTEST_READ = 0.1  # second; the system counts in hundredths
SPARE = 0.35  # of a core that other programs may take before all are better off with a thread less


@dataclass
class _Reading:
    """The seconds that other programs had computed by some time, and how many cores they left before that."""

    at: float = 0.0
    others: float = math.nan
    free: float = math.inf


_last = _Reading()


def free_cores() -> float:
    """Measure how many cores other programs have left since the last call in this process; infinite where unknown.

    Threads that wait spin, so that their own time tells nothing: what is read is the time that others took, on Linux.
    Programs of low priority count too: they give way within one session only (man 7 sched, autogroup).
    """
    others, now = _seconds_of_others(), time.perf_counter()
    if now - _last.at >= SHORTEST_READ:
        taken = (others - _last.others) / (now - _last.at)
        _last.free = math.inf if math.isnan(taken) else count_cores() - taken
        _last.at, _last.others = now, others
    return _last.free


def share_cores(most: int, settled: int = 0) -> int:
    """Let torch compute with the threads that other programs leave cores for, `most` at most; gives their number.

    With as many as are `settled`, where that is not 0.
    """
    threads = settled or int(max(1, min(most, free_cores() + SPARE)))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds_of_others() -> float:
    """Read how long the cores of this process have worked for other programs, since the system started."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        rows = {name: list(map(int, numbers)) for name, *numbers in map(str.split, lines) if name.startswith("cpu")}
        ticks = [rows[f"cpu{core}"] for core in os.sched_getaffinity(0)]
    except (OSError, ValueError, KeyError, AttributeError):
        return math.nan
    # user, nice, system, idle, iowait, irq, softirq, steal (man 5 proc_stat)
    worked = sum(user + nice + system + sum(rest[:3]) for user, nice, system, _, _, *rest in ticks)
    return worked / os.sysconf("SC_CLK_TCK") - time.process_time()


ROWS, BLOCKED, CHANNELS_LAST = "rows first", "blocked", "channels last"
# Largest relative error against float32, rows first; bfloat16 has 8 bits, GPUs may round float32 to 10.
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float64": 2e-3}
MIN_SPEEDUP = 1.1  # over the first candidate; less is noise
ROUNDS, REPEATS = 3, 2
MOST_THREADS = 4096
_checking = threading.Lock()
_adopted: set[tuple[str, int, str]] = set()  # keys of `_chosen` that a resumed run brought along
_chosen: dict[tuple[str, int, str], ComputeConfig] = {}  # in this process, by device and what was asked for


@dataclass(frozen=True)
class ComputeConfig:
    """How a machine computes: precision of convolutions and matrix products, layout of images in memory, CPU threads.

    Weights and sums stay float32, but in float64. The layout ``"blocked"`` is oneDNN's own. `speed` is relative to
    float32, rows first, with all threads; `error` is the largest relative difference of outputs and gradients from it.
    """

    precision: str
    layout: str
    threads: int
    speed: float
    error: float

    def __post_init__(self) -> None:
        known = self.precision in TOLERANCE and self.layout in (ROWS, BLOCKED, CHANNELS_LAST)
        if not known or not 1 <= self.threads <= MOST_THREADS:
            raise ValueError("precision, layout or threads")

    def __str__(self) -> str:
        checked = f"self-check: {self.speed:.1f} times plain float32, off by {self.error:.2%}".replace("%", " %")
        return f"{self.precision}, {self.layout}, {self.threads} thread{'s' * (self.threads > 1)} ({checked})"

    def to_layout(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Lay a batch out in memory; the numbers stay the same."""
        if self.layout == BLOCKED:
            return pixels.to_mkldnn()
        if self.layout == CHANNELS_LAST and pixels.shape[1] == 1:
            # Of one channel both layouts are the same memory; its strides decide the layout of the outputs.
            _, _, height, width = pixels.shape
            return pixels.contiguous().as_strided(pixels.shape, (height * width, 1, width, 1))
        if self.layout == CHANNELS_LAST:
            return pixels.contiguous(memory_format=torch.channels_last)
        return pixels

    def autocast(self, device: torch.device) -> torch.autocast:
        """Open a context in which convolutions and matrix products have this precision; none for float32."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass(frozen=True)
class Workload:
    """What a GPU is to compute, by a name that tells all its sizes, and how long one round of it takes in each way."""

    name: str
    seconds: Callable[[ComputeConfig], float]


def choose_compute_config(
    device: torch.device, precision: str = "auto", workload: Workload | None = None
) -> ComputeConfig:
    """Choose how to compute on a device, by a self-check of some 0.3 s whose outcome is kept in the cache folder.

    Of the candidates that compute as float32, rows first, does, the fastest is chosen: by two convolutions with batch
    normalisation, on a GPU, where these would mostly wait for Python, by a `workload`. `precision` may restrict them.
    """
    if precision == "float64":  # for comparing runs, where speed counts less; oneDNN's own layout lacks it
        return replace(choose_compute_config(device, "float32"), precision=precision, layout=ROWS)
    workload = None if device.type == "cpu" else workload
    asked = precision if workload is None else f"{precision}-{workload.name}"
    key = (device.type, device.index or 0, asked)
    with _checking:  # two self-checks at once would disturb each other's timing
        if key not in _chosen:
            _chosen[key] = _read_or_check(device, precision, workload, asked)
        return _chosen[key]


def chosen_compute_configs(device: torch.device) -> dict[str, ComputeConfig]:
    """Give what was chosen on a device in this process, by what was asked for, for `adopt_compute_configs`."""
    with _checking:
        return {
            asked: config for (*where, asked), config in _chosen.items() if where == [device.type, device.index or 0]
        }


@contextmanager
def own_compute_configs() -> Iterator[None]:
    """Forget afterwards what `adopt_compute_configs` has adopted meanwhile."""
    before = dict(_chosen)
    try:
        yield
    finally:
        with _checking:
            for key in _adopted:
                del _chosen[key]
                if key in before:
                    _chosen[key] = before[key]
            _adopted.clear()


def adopt_compute_configs(device: torch.device, chosen: Mapping[str, ComputeConfig]) -> None:
    """Compute as an earlier process did, since other ways round differently; by what is asked for."""
    with _checking:
        for asked, config in chosen.items():
            key = device.type, device.index or 0, asked
            _chosen[key] = config
            _adopted.add(key)


def machine_name(device: torch.device) -> str:
    """Name a machine, in 16 letters, after what decides how it rounds: processor and torch's version."""
    return hashlib.sha256(_processor(device).encode()).hexdigest()[:16]


def _read_or_check(device: torch.device, precision: str, workload: Workload | None, asked: str) -> ComputeConfig:
    """Read what an earlier self-check of this machine chose, or check now."""
    path = cache_folder() / f"compute-{device.type}-{asked}.json"
    machine = _machine(device)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("machine") == machine and (not kept.pop("busy") or _busy()):
            return ComputeConfig(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing kept, or nothing usable
    chosen = self_check(device, precision, workload)
    _keep(chosen, machine, path)
    return chosen


def self_check(device: torch.device, precision: str = "auto", workload: Workload | None = None) -> ComputeConfig:
    """Choose the fastest correct candidate by measuring; float32, rows first, where no other is correct."""
    threads = torch.get_num_threads()
    plain = ComputeConfig("float32", ROWS, threads, 1.0, 0.0)
    precisions = ("float32", "bfloat16") if precision == "auto" else (precision,)
    layouts = (BLOCKED, CHANNELS_LAST) if device.type == "cpu" else (CHANNELS_LAST,)
    candidates = [ComputeConfig(p, layout, threads, 1.0, 0.0) for p in precisions for layout in layouts]
    with compute_settings(threads), torch.inference_mode(False):
        probe = _Probe(device)
        expected = probe.results(plain)
        correct = [one for one in candidates if probe.error(one, expected) <= TOLERANCE[one.precision]]
        if workload is None:
            seconds = probe.race([plain, *correct])
            best = _fastest(correct or [plain], seconds)
        else:
            seconds = {one: workload.seconds(one) for one in (plain, *correct)}
            best = _fastest([plain, *correct], seconds)
        if device.type == "cpu" and threads > 1:  # half of them, where two share one core
            half = replace(best, threads=threads // 2)
            seconds |= probe.race([half])
            best = _fastest([best, half], seconds)
        speed = seconds[plain] / seconds[best] if math.isfinite(seconds[plain]) else 1.0
        error = probe.error(best, expected)
    return replace(best, speed=round(speed, 2), error=round(error, 6))


def _fastest(candidates: list[ComputeConfig], seconds: dict[ComputeConfig, float]) -> ComputeConfig:
    """Find the fastest candidate, or the first if the gain is within noise."""
    best = min(candidates, key=lambda one: seconds[one])
    return best if seconds[best] * MIN_SPEEDUP < seconds[candidates[0]] else candidates[0]


class _Probe:
    """Two convolutions with batch normalisation between, small enough to be measured in milliseconds.

    No ReLU or pooling: rounding may change which numbers pass, and with them whole gradients, by 4 %.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        own = torch.Generator(device).manual_seed(0)  # the host's random numbers are left alone
        self.pixels = torch.randn(128, 16, 14, 14, device=device, generator=own)
        self.filters = [torch.randn(32, fan // 9, 3, 3, device=device, generator=own) / fan**0.5 for fan in (144, 288)]
        self.scale, self.shift = torch.ones(32, device=device), torch.zeros(32, device=device)

    def results(self, config: ComputeConfig) -> list[Tensor]:
        """Compute the output and the loss's gradients with respect to images and filters, as float32, rows first."""
        if torch.get_num_threads() != config.threads:
            torch.set_num_threads(config.threads)
        pixels, *filters = (tensor.clone().requires_grad_() for tensor in (self.pixels, *self.filters))
        with config.autocast(self.device):
            inner = F.conv2d(config.to_layout(pixels), filters[0])
            inner = F.batch_norm(inner, None, None, self.scale, self.shift, training=True)
            outer = F.conv2d(inner, filters[1])
        outer = (outer.to_dense() if outer.is_mkldnn else outer).float()
        outer.square().sum().backward()
        return [outer.detach(), *(tensor.grad for tensor in (pixels, *filters) if tensor.grad is not None)]

    def error(self, config: ComputeConfig, expected: list[Tensor]) -> float:
        """Measure the largest relative difference from the expected results; infinite where it does not run."""
        try:
            found = self.results(config)
            return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
        except (RuntimeError, NotImplementedError):
            return float("inf")

    def race(self, configs: list[ComputeConfig]) -> dict[ComputeConfig, float]:
        """Time the configs in turn, so that a neighbour's burst of work hits all alike; the least seconds of each."""
        rounds = [{config: self.seconds(config) for config in configs} for _ in range(ROUNDS)]
        return {config: min(seconds[config] for seconds in rounds) for config in configs}

    def seconds(self, config: ComputeConfig) -> float:
        """Time a few steps."""
        self.results(config)
        started = time.perf_counter()
        for _ in range(REPEATS):
            last = self.results(config)[-1]
        float(last.sum())  # makes Python wait until a GPU is done
        return time.perf_counter() - started


def _machine(device: torch.device) -> str:
    """Describe all that the outcome of the self-check depends on."""
    return f"{_processor(device)} | {torch.get_num_threads()} threads"


def _processor(device: torch.device) -> str:
    """Describe processor, GPU and version of torch."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        cpu = " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"{cpu} | {gpu} | torch {torch.__version__}"


def _busy() -> bool:
    """Whether other programs keep the machine busy."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)


def _keep(chosen: ComputeConfig, machine: str, path: Path) -> None:
    """Keep the outcome, and whether the machine was busy: then a quiet one is checked again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(asdict(chosen) | {"machine": machine, "busy": _busy()}), encoding="utf-8")
    except (OSError, ImprintError):
        pass  # a machine whose cache cannot be written is checked each time
