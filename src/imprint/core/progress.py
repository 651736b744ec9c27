"""Words and bars while something long goes on: words through `logging`, bars through rich, both on stderr.

Everything is said to the logger "imprint". Nobody hears it until a terminal is attached: the command line attaches one
for the whole process, `train` and `check` for the time of the call unless they get ``verbose=False``. A program that has
given that logger a level or a handler of its own gets the records instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from imprint.core.errors import spelled

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

logger = logging.getLogger("imprint")
logger.addHandler(logging.NullHandler())

_muted: ContextVar[bool] = ContextVar("_muted", default=False)


class _Terminal(logging.Handler):
    """Prints each record as one line on stderr, above the bar while there is one."""

    console: Console | None = None  # of the bar that is shown

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        if sys.stderr is None:  # closed, or a window without a console
            return
        if self.console is not None:
            self.console.print(record.getMessage(), markup=False, soft_wrap=True)
        else:
            print(record.getMessage(), file=sys.stderr, flush=True)


_terminal = _Terminal()


def say(line: str) -> None:
    """Say one line of progress, at level INFO."""
    if not _muted.get():
        logger.info("%s", spelled(line))


def warn(line: str) -> None:
    """Say that something may be wrong, at level WARNING."""
    if not _muted.get():
        logger.warning("%s", spelled(f"warning: {line}"))


@contextmanager
def shown(verbose: bool = True) -> Iterator[None]:
    """Show words and bars on stderr meanwhile, or with ``verbose=False`` nothing, whoever else may be listening."""
    muted = _muted.set(not verbose)
    own = logger.level != logging.NOTSET or any(not isinstance(h, logging.NullHandler) for h in logger.handlers)
    attach = verbose and not own
    try:
        if attach:
            logger.addHandler(_terminal)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        yield
    finally:
        _muted.reset(muted)
        if attach:
            logger.removeHandler(_terminal)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar with the time left, where words are shown on a terminal; gives what counts one step of `total`."""
    quiet = _muted.get() or _terminal not in logger.handlers or _terminal.console is not None
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        _terminal.console = bar.console
        try:
            yield lambda: bar.advance(task)
        finally:
            _terminal.console = None


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Pass `items` on, counting each in a bar of `total` steps."""
    with progress_bar(title, total) as advance:
        for item in items:
            yield item
            advance()
