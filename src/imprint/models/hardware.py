"""Hardware: the device that computes, and the precision, memory layout and threads it is fastest and correct in."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imprint.core.errors import ImprintError, UsageError
from imprint.core.files import cache_folder, written_whole


def choose_device(name: str = "auto") -> torch.device:
    """Choose where to compute: ``"auto"`` (CUDA, else Apple's GPU, else the CPU) or a device that torch knows by name.

    Raises `UsageError` where it is unknown or missing on this machine.
    """
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


ROWS, BLOCKED, CHANNELS_LAST = "rows first", "blocked", "channels last"
# Largest relative error against float32, rows first; bfloat16 has 8 bits, GPUs may round float32 to 10.
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2, "float64": 2e-3}
MIN_SPEEDUP = 1.1  # over the first candidate; less is noise
ROUNDS, REPEATS = 3, 2
_checking = threading.Lock()
_adopted: set[tuple[str, int, str]] = set()  # keys of `_chosen` that a resumed run brought along
_chosen: dict[tuple[str, int, str], ComputeConfig] = {}  # in this process, by device and precision


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
        if not known or not 1 <= self.threads <= 4096:
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


def choose_compute_config(device: torch.device, precision: str = "auto") -> ComputeConfig:
    """Choose how to compute on a device, by a self-check of some 0.3 s whose outcome is kept in the cache folder.

    Each candidate is first compared with float32, rows first: outputs and gradients of two convolutions with batch
    normalisation. The fastest of the correct ones is chosen. `precision` may restrict them; float64 is there to compare
    runs, rows first.
    """
    if precision == "float64":
        return replace(choose_compute_config(device, "float32"), precision=precision, layout=ROWS)
    key = (device.type, device.index or 0, precision)
    with _checking:  # two self-checks at once would disturb each other's timing
        if key not in _chosen:
            _chosen[key] = _read_or_check(device, precision)
        return _chosen[key]


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
    """Compute as an earlier process did, since other ways round differently; by the precision that is asked for."""
    with _checking:
        for precision, config in chosen.items():
            key = device.type, device.index or 0, precision
            _chosen[key] = config
            _adopted.add(key)


def machine_name(device: torch.device) -> str:
    """Name a machine, in 16 letters, after what decides how it rounds: processor and torch's version."""
    return hashlib.sha256(_processor(device).encode()).hexdigest()[:16]


def _read_or_check(device: torch.device, precision: str) -> ComputeConfig:
    """Read what an earlier self-check of this machine chose, or check now."""
    path = cache_folder() / f"compute-{device.type}-{precision}.json"
    machine = _machine(device)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("machine") == machine and (not kept.pop("busy") or _busy()):
            return ComputeConfig(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing kept, or nothing usable
    chosen = self_check(device, precision)
    _keep(chosen, machine, path)
    return chosen


def self_check(device: torch.device, precision: str = "auto") -> ComputeConfig:
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
        seconds = probe.race([plain, *correct])
        best = _fastest(correct or [plain], seconds)
        if device.type == "cpu" and threads > 1:  # half of them, where two share one core
            half = replace(best, threads=threads // 2)
            seconds |= probe.race([half])
            best = _fastest([best, half], seconds)
        speed, error = seconds[plain] / seconds[best], probe.error(best, expected)
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
