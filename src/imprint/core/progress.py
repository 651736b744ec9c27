"""Progress messages through `logging`, progress bars through rich, both on stderr; in a notebook on its page.

All messages go to the logger "imprint", which prints nothing by itself. `shown` prints them on stderr: the command
line calls it for the whole process, `train` and `check` for one call unless they get ``verbose=False``. Where the host
program has given that logger a level or a handler, it gets the records, and `shown` prints none.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from imprint.core.errors import spelled
from imprint.core.notebook import in_notebook, notebook_bar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

logger = logging.getLogger("imprint")
logger.addHandler(logging.NullHandler())

_muted: ContextVar[bool] = ContextVar("_muted", default=False)


class _StderrHandler(logging.Handler):
    """Prints each record as one line on stderr, above the progress bar if there is one."""

    console: Console | None = None  # of the bar on screen

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        if sys.stderr is None:  # closed, or a window without a console
            return
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


def _is_configured() -> bool:
    """Whether the host program, or `shown` around this one, has given the logger a level or a handler."""
    return logger.level != logging.NOTSET or any(not isinstance(h, logging.NullHandler) for h in logger.handlers)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar with the time left, if messages are shown on a terminal; yields what advances it by one of `total`."""
    quiet = (
        _muted.get()
        or not logger.isEnabledFor(logging.INFO)
        or _handler not in logger.handlers
        or _handler.console is not None
    )
    if not quiet and in_notebook():
        with notebook_bar(title, total) as advance:
            yield advance
        return
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        _handler.console = bar.console
        try:
            yield lambda: bar.advance(task)
        finally:
            _handler.console = None


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield `items`, counting each in a bar of `total` steps."""
    with progress_bar(title, total) as advance:
        for item in items:
            yield item
            advance()
