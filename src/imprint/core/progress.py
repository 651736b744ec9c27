"""Progress messages through `logging`, progress bars through rich, both on stderr; in a notebook on its page.

All messages go to the logger "imprint", which prints nothing by itself: `say` at INFO, `detail` at DEBUG, `warn` at
WARNING. `shown` prints them on stderr: the command line calls it for the whole process, `train` and `check` for one
call unless they get ``verbose=False``. Where the host program has given that logger a level or a handler, it gets the
records, and `shown` prints none.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from imprint.core.errors import spelled
from imprint.core.notebook import in_notebook, notebook_bar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
LONGEST_SILENCE = 25.0  # seconds without a line, where there is no terminal to draw a bar on

logger = logging.getLogger("imprint")
logger.addHandler(logging.NullHandler())

_muted: ContextVar[bool] = ContextVar("_muted", default=False)


class _StderrHandler(logging.Handler):
    """Prints each record as one line on stderr, above the progress bar if there is one."""

    console: Console | None = None  # of the bar on screen
    printed = 0.0  # when the last line was, by time.monotonic

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        if sys.stderr is None:  # closed, or a window without a console
            return
        self.printed = time.monotonic()
        if self.console is not None:
            self.console.print(record.getMessage(), markup=False, soft_wrap=True)
        else:
            # A notebook shows what stands on stderr as errors, in red.
            plain = in_notebook() and record.levelno < logging.WARNING
            print(record.getMessage(), file=sys.stdout if plain else sys.stderr, flush=True)


_handler = _StderrHandler()


def say(line: str) -> None:
    """Log a progress message at level INFO."""
    if not _muted.get():
        logger.info("%s", spelled(line))


def detail(line: str) -> None:
    """Log, at level DEBUG, what most people need not know."""
    if not _muted.get():
        logger.debug("%s", spelled(line))


def is_heard() -> bool:
    """Whether anybody gets what `say` says."""
    return not _muted.get() and logger.isEnabledFor(logging.INFO)


def warn(line: str) -> None:
    """Log, at level WARNING, that something may be wrong."""
    if not _muted.get():
        logger.warning("%s", spelled(f"warning: {line}"))


@contextmanager
def shown(verbose: bool = True) -> Iterator[None]:
    """Show messages and bars on stderr; with ``verbose=False`` mute them in this block, for the host's handlers too."""
    muted = _muted.set(_muted.get() or not verbose)
    attach = verbose and not _is_configured()
    propagate = logger.propagate
    try:
        if attach:
            logger.addHandler(_handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        yield
    finally:
        _muted.reset(muted)
        if attach:
            logger.removeHandler(_handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = propagate


@contextmanager
def warnings_only(only: bool = True) -> Iterator[None]:
    """Keep back messages and bars in this block, but for warnings, if `only`."""
    level = logger.level
    try:
        if only:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def details_too(too: bool = True) -> Iterator[None]:
    """Show details as well in this block, if `too`, unless `warnings_only` holds messages back."""
    level = logger.level
    try:
        if too and logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.DEBUG)
        yield
    finally:
        logger.setLevel(level)


def _is_configured() -> bool:
    """Whether the host program, or `shown` around this one, has given the logger a level or a handler."""
    return logger.level != logging.NOTSET or any(not isinstance(h, logging.NullHandler) for h in logger.handlers)


@dataclass(eq=False)
class _Bar:
    """A bar that is open: how much of its total is done, and the amounts between which inner bars fill it."""

    total: float | int
    draw: Callable[[float], object]
    done: float | int = 0.0
    stage: tuple[float, float] | None = None

    def fill(self, done: float | int) -> None:
        """Draw that so much is done; it never becomes less."""
        self.done = min(max(self.done, done), self.total)
        self.draw(self.done)


_bar: ContextVar[_Bar | None] = ContextVar("_bar", default=None)


@contextmanager
def progress_bar(title: str, total: float | int) -> Iterator[Callable[[], None]]:
    """Show a bar with the time left, if messages are shown; yields what advances it by one of `total`.

    Where stderr is no terminal, a line tells how far it is after each `LONGEST_SILENCE`. Within the `stage` of another
    bar it fills that instead of being shown; within another bar but no stage it is not shown.
    """
    quiet = not is_heard() or _handler not in logger.handlers or sys.stderr is None
    if (outer := _bar.get()) is not None:
        _bar.set(_Bar(1.0, draw=lambda done: None))  # bars within this one have no stage
        try:
            yield _filling(outer, total)
        finally:
            _bar.set(outer)
    elif quiet or _handler.console is not None:
        yield lambda: None
    else:
        draws = _notebook_bar if in_notebook() else _drawn_bar if sys.stderr.isatty() else _told_bar
        with draws(title, total) as bar:
            _bar.set(bar)
            try:
                yield lambda: bar.fill(bar.done + 1)
            finally:
                _bar.set(None)


@contextmanager
def stage(amount: float | int) -> Iterator[None]:
    """Let a bar that is opened in this block fill `amount` of the one around it; at the end so much is done."""
    bar = _bar.get()
    if bar is None:
        yield
        return
    start, before = bar.done, bar.stage
    bar.stage = start, start + amount
    try:
        yield
        bar.fill(start + amount)
    finally:
        bar.stage = before


def _filling(outer: _Bar, total: float | int) -> Callable[[], None]:
    """Give what advances the stage of an outer bar by one of `total`."""
    if outer.stage is None:
        return lambda: None
    start, end = outer.stage
    inner = _Bar(total, draw=lambda done: outer.fill(start + (end - start) * done / total))
    return lambda: inner.fill(inner.done + 1)


@contextmanager
def _drawn_bar(title: str, total: float | int) -> Iterator[_Bar]:
    """Draw a bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        _handler.console = progress.console
        try:
            yield _Bar(total, draw=lambda done: progress.update(task, completed=done))
        finally:
            _handler.console = None


@contextmanager
def _notebook_bar(title: str, total: float | int) -> Iterator[_Bar]:
    """Draw a bar on a notebook's page."""
    with notebook_bar(title, total) as draw:
        yield _Bar(total, draw)


@contextmanager
def _told_bar(title: str, total: float | int) -> Iterator[_Bar]:
    """Tell by lines how far it is; a thread of its own does, since a single step may take long."""
    bar, started, ended = _Bar(total, draw=lambda done: None), time.monotonic(), threading.Event()

    def tell() -> None:
        while not ended.wait(max(started, _handler.printed) + LONGEST_SILENCE - time.monotonic()):
            if time.monotonic() - max(started, _handler.printed) >= LONGEST_SILENCE:
                share, passed = bar.done / (bar.total or 1.0), time.monotonic() - started
                left = f", {duration(passed / share - passed)} left" if share else ""
                logger.info("%s", spelled(f"{title}: {100 * share:.0f} %{left}"))

    teller = threading.Thread(target=tell, name="imprint progress", daemon=True)
    teller.start()
    try:
        yield bar
    finally:
        ended.set()
        teller.join()


def duration(seconds: float | int) -> str:
    """Say roughly how long something takes: two digits, in seconds, minutes or hours."""
    rounded = float(f"{seconds:.2g}")
    if rounded < 120:
        return f"about {max(rounded, 1):.0f} s"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min"
    return f"about {float(f'{seconds / 3600:.2g}'):g} h"


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield `items`, counting each in a bar of `total` steps."""
    with progress_bar(title, total) as advance:
        for item in items:
            yield item
            advance()
