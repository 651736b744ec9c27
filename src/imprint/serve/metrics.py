"""Metrics: counts and times of this process in Prometheus's text format, version 0.0.4."""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
Samples = list[tuple[dict[str, str], float]]


class Metrics:
    """What is counted while serving; gauges are read when somebody asks."""

    def __init__(self) -> None:
        self.requests = Counter[tuple[str, int]]()  # by place and status
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0
        self._gauges = list[tuple[str, str, str, Callable[[], Samples]]]()

    def gauge(self, name: str, text: str, read: Callable[[], float | Samples], kind: str = "gauge") -> None:
        """Add a number, or several with labels, that `read` gives."""

        def samples() -> Samples:
            value = read()
            return value if isinstance(value, list) else [({}, value)]

        self._gauges.append((name, text, kind, samples))

    def observe(self, place: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests[place, status] += 1
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def text(self) -> str:
        """Write all of them."""
        lines = list[str]()
        requests = [({"path": place, "status": str(status)}, n) for (place, status), n in self.requests.items()]
        lines += _family("imprint_requests_total", "Requests answered.", "counter", requests)
        lines += self._histogram()
        for name, text, kind, samples in self._gauges:
            lines += _family(name, text, kind, samples())
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterator[str]:
        name = "imprint_request_seconds"
        yield from _family(name, "Time from a request's head to its answer.", "histogram", [])
        sums = list(accumulate(self._buckets))
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), sums, strict=True):
            yield _line(f"{name}_bucket", {"le": bound}, count)
        yield _line(f"{name}_sum", {}, self._seconds)
        yield _line(f"{name}_count", {}, sums[-1])


def resident_bytes(process: int | None = None) -> float:
    """Measure the resident memory of this process, or of a child; NaN where the system does not tell."""
    try:
        with open(f"/proc/{process or os.getpid()}/statm") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    if process is None and sys.platform == "darwin":
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return float("nan")


def _family(name: str, text: str, kind: str, samples: Sequence[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield _line(name, labels, value)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {value:.12g}" if pairs else f"{name} {value:.12g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
