"""Which device computes, and in which precision, memory layout and number of threads it is fastest and right."""

from __future__ import annotations

import hashlib
import json
import os
import platform
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
    """Choose where to compute.

    Parameters
    ----------
    name : str, default="auto"
        ``"auto"`` (CUDA, else Apple's GPU, else the CPU) or any name that torch knows,
        such as ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Returns
    -------
    torch.device
        A device that is there.

    Raises
    ------
    UsageError
        When the device is unknown or missing on this machine.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
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


@contextmanager
def compute_settings(threads: int) -> Iterator[None]:
    """Compute with so many threads and denormal floats as zero meanwhile; the caller's own settings come back.

    Denormals slowed ReLU's gradient 20-fold on some CPUs. How the caller treats them is found out by arithmetic, since
    torch does not tell. For training only: threads are the whole process's, and a server's belong to the server.
    """
    before, flushed = torch.get_num_threads(), not float(torch.tensor(1e-30) * torch.tensor(1e-10))
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
TOLERANCE = {"float32": 2e-3, "bfloat16": 2e-2}
WORTH = 1.1  # a departure from the plainest way must be this much faster
ROUNDS, REPEATS = 3, 2
_chosen: dict[tuple[str, int, str], ComputeConfig] = {}  # in this process, by device and precision


@dataclass(frozen=True)
class ComputeConfig:
    """How a machine computes.

    Parameters
    ----------
    precision : {"float32", "bfloat16"}
        Of convolutions and matrix products; weights and sums stay float32.
    layout : {"rows first", "blocked", "channels last"}
        Of images in memory; ``"blocked"`` is oneDNN's own.
    threads : int
        On the CPU.
    speed : float
        Times the speed of float32, rows first, all threads.
    error : float
        Largest relative difference of outputs and gradients from it.

    Raises
    ------
    ValueError
        When there is no such precision or layout.

    Examples
    --------
    >>> print(ComputeConfig("bfloat16", "channels last", 2, speed=2.5, error=0.004))
    bfloat16, channels last, 2 threads (self-check: 2.5 times plain float32, off by 0.40 %)
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
        """Lay a batch out in memory.

        Parameters
        ----------
        pixels : Tensor of float, shape (n, c, h, w)
            A batch, rows first.

        Returns
        -------
        Tensor of float, shape (n, c, h, w)
            The same numbers.

        Examples
        --------
        >>> ComputeConfig("float32", "channels last", 1, 1.0, 0.0).to_layout(torch.ones(2, 3, 4, 4)).stride()
        (48, 1, 12, 3)
        """
        if self.layout == BLOCKED:
            return pixels.to_mkldnn()
        if self.layout == CHANNELS_LAST and pixels.shape[1] == 1:
            # Of one channel both layouts are the same memory; the strides tell what is to follow.
            _, _, height, width = pixels.shape
            return pixels.contiguous().as_strided(pixels.shape, (height * width, 1, width, 1))
        if self.layout == CHANNELS_LAST:
            return pixels.contiguous(memory_format=torch.channels_last)
        return pixels

    def autocast(self, device: torch.device) -> torch.autocast:
        """Open a context in which convolutions and matrix products have this precision.

        Parameters
        ----------
        device : torch.device
            Where to compute.

        Returns
        -------
        torch.autocast
            Does nothing for float32.

        Examples
        --------
        >>> with ComputeConfig("bfloat16", "rows first", 1, 1.0, 0.0).autocast(torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
        """
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def choose_compute_config(device: torch.device, precision: str = "auto") -> ComputeConfig:
    """Choose how to compute on a device, by a self-check of some 0.3 s whose outcome is kept for the machine.

    Every way is first compared with float32, rows first: outputs and gradients of two
    convolutions with batch normalisation. Of those that are right, the fastest is taken.

    Parameters
    ----------
    device : torch.device
        Where to compute.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Which precisions to choose from.

    Returns
    -------
    ComputeConfig
        The choice.

    Examples
    --------
    >>> choose_compute_config(torch.device("cpu"), "float32").precision
    'float32'
    """
    key = (device.type, device.index or 0, precision)
    if key not in _chosen:
        _chosen[key] = _kept_or_checked(device, precision)
    return _chosen[key]


def adopt_compute_configs(device: torch.device, chosen: Mapping[str, ComputeConfig]) -> None:
    """Compute as an earlier process did, for the rest of this one: other ways round otherwise.

    Parameters
    ----------
    device : torch.device
        Where to compute.
    chosen : mapping of str to ComputeConfig
        By the precision that `choose_compute_config` is asked for.

    Examples
    --------
    >>> before = choose_compute_config(torch.device("cpu"), "float32")
    >>> adopt_compute_configs(torch.device("cpu"), {"float32": before})
    >>> choose_compute_config(torch.device("cpu"), "float32") == before
    True
    """
    for precision, config in chosen.items():
        _chosen[device.type, device.index or 0, precision] = config


def machine_name(device: torch.device) -> str:
    """Name a machine after what decides how an `ComputeConfig` rounds on it: processor and torch's version.

    Parameters
    ----------
    device : torch.device
        Where to compute.

    Returns
    -------
    str
        The same for machines that round alike.

    Examples
    --------
    >>> len(machine_name(torch.device("cpu")))
    16
    """
    return hashlib.sha256(_processor(device).encode()).hexdigest()[:16]


def _kept_or_checked(device: torch.device, precision: str) -> ComputeConfig:
    """Find what an earlier self-check of this machine chose, or check now."""
    path = cache_folder() / f"arithmetic-{device.type}-{precision}.json"
    machine = _machine(device)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("machine") == machine and (not kept.pop("busy") or _busy()):
            return ComputeConfig(**kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # nothing kept, or nothing of use
    chosen = self_check(device, precision)
    _keep(chosen, machine, path)
    return chosen


def self_check(device: torch.device, precision: str = "auto") -> ComputeConfig:
    """Measure the ways to compute, and check them; see `choose_compute_config`.

    Parameters
    ----------
    device : torch.device
        Where to compute.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Which precisions to choose from.

    Returns
    -------
    ComputeConfig
        The fastest that is right; float32, rows first, where no other is.

    Examples
    --------
    >>> self_check(torch.device("cpu"), "float32").error < 0.002
    True
    """
    threads = torch.get_num_threads()
    plain = ComputeConfig("float32", ROWS, threads, 1.0, 0.0)
    wanted = ("float32", "bfloat16") if precision == "auto" else (precision,)
    layouts = (BLOCKED, CHANNELS_LAST) if device.type == "cpu" else (CHANNELS_LAST,)
    ways = [ComputeConfig(p, layout, threads, 1.0, 0.0) for p in wanted for layout in layouts]
    quiet = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with compute_settings(threads), quiet, torch.inference_mode(False):
        torch.manual_seed(0)
        probe = _Probe(device)
        expected = probe.results(plain)
        right = [way for way in ways if probe.error(way, expected) <= TOLERANCE[way.precision]]
        seconds = probe.race([plain, *right])
        best = _fastest(right or [plain], seconds)
        if device.type == "cpu" and threads > 1:  # half of them, where two share one core
            half = replace(best, threads=threads // 2)
            seconds |= probe.race([half])
            best = _fastest([best, half], seconds)
        speed, error = seconds[plain] / seconds[best], probe.error(best, expected)
    return replace(best, speed=round(speed, 2), error=round(error, 6))


def _fastest(ways: list[ComputeConfig], seconds: dict[ComputeConfig, float]) -> ComputeConfig:
    """Find the fastest way, or the first if the gain would be within noise."""
    best = min(ways, key=lambda way: seconds[way])
    return best if seconds[best] * WORTH < seconds[ways[0]] else ways[0]


class _Probe:
    """Two convolutions and batch normalisation between, small enough to be measured in milliseconds.

    No ReLU or pooling: rounding may change which numbers pass, and with them whole gradients, by 4 %.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pixels = torch.randn(128, 16, 14, 14, device=device)
        self.filters = [torch.randn(32, fan // 9, 3, 3, device=device) / fan**0.5 for fan in (144, 288)]
        self.scale, self.shift = torch.ones(32, device=device), torch.zeros(32, device=device)

    def results(self, way: ComputeConfig) -> list[Tensor]:
        """Compute the output and the loss's gradients towards images and filters, as float32 rows."""
        if torch.get_num_threads() != way.threads:
            torch.set_num_threads(way.threads)
        pixels, *filters = (tensor.clone().requires_grad_() for tensor in (self.pixels, *self.filters))
        with way.autocast(self.device):
            inner = F.conv2d(way.to_layout(pixels), filters[0])
            inner = F.batch_norm(inner, None, None, self.scale, self.shift, training=True)
            outer = F.conv2d(inner, filters[1])
        outer = (outer.to_dense() if outer.is_mkldnn else outer).float()
        outer.square().sum().backward()
        return [outer.detach(), *(tensor.grad for tensor in (pixels, *filters) if tensor.grad is not None)]

    def error(self, way: ComputeConfig, expected: list[Tensor]) -> float:
        """Compare with the plain way: the largest relative difference, infinite where it does not run at all."""
        try:
            found = self.results(way)
            return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
        except (RuntimeError, NotImplementedError):
            return float("inf")

    def race(self, ways: list[ComputeConfig]) -> dict[ComputeConfig, float]:
        """Time the ways, in turn so that a neighbour's burst of work hits all alike; the least seconds of each."""
        rounds = [{way: self.seconds(way) for way in ways} for _ in range(ROUNDS)]
        return {way: min(seconds[way] for seconds in rounds) for way in ways}

    def seconds(self, way: ComputeConfig) -> float:
        """Time a few steps."""
        self.results(way)
        started = time.perf_counter()
        for _ in range(REPEATS):
            last = self.results(way)[-1]
        float(last.sum())  # a GPU answers only when it is done
        return time.perf_counter() - started


def _machine(device: torch.device) -> str:
    """Describe what the outcome of the self-check depends on."""
    return f"{_processor(device)} | {torch.get_num_threads()} threads"


def _processor(device: torch.device) -> str:
    """Describe what computes."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        cpu = " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"{cpu} | {gpu} | torch {torch.__version__}"


def _busy() -> bool:
    """Tell whether other programs keep the machine busy."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)


def _keep(chosen: ComputeConfig, machine: str, path: Path) -> None:
    """Write the outcome down, and whether the machine was busy: then it is found anew on a quiet one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(asdict(chosen) | {"machine": machine, "busy": _busy()}), encoding="utf-8")
    except (OSError, ImprintError):
        pass  # a machine whose cache cannot be written is checked each time
