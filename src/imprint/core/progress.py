"""Words on stderr while something long goes on: a live bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from imprint.core.errors import spelled

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Item = TypeVar("Item")


class Reporter:
    """Tells a person how far a long job is.

    Parameters
    ----------
    silent : bool, default=False
        Say nothing at all.

    Examples
    --------
    >>> reporter = Reporter(silent=True)
    >>> with reporter.job("Training", total=2):
    ...     for step in reporter.steps(range(2)):
    ...         reporter.say("never seen")
    """

    def __init__(self, silent: bool = False) -> None:
        self._silent = silent or sys.stderr is None  # closed, or a window without a console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def job(self, title: str, total: int) -> Iterator[None]:
        """Show a bar with the time left for `total` steps, where stderr is a terminal.

        Parameters
        ----------
        title : str
            What is going on.
        total : int
            Number of steps, all of them counted by `steps`.

        Yields
        ------
        None
            The bar stands while the block runs.

        Examples
        --------
        >>> with Reporter(silent=True).job("Training", total=640):
        ...     pass
        """
        if self._silent or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
        console = Console(stderr=True, highlight=False)
        bar = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console, transient=True)
        with bar:
            self._bar, self._task = bar, bar.add_task(title, total=total)
            try:
                yield
            finally:
                self._bar = self._task = None

    def steps(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` on, counting each towards the current job.

        Parameters
        ----------
        items : iterable
            What to go through.

        Yields
        ------
        object
            Each of `items`.

        Examples
        --------
        >>> list(Reporter(silent=True).steps("ab"))
        ['a', 'b']
        """
        for item in items:
            yield item
            if self._bar is not None and self._task is not None:
                self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """Print one line to stderr, above the bar if there is one.

        Parameters
        ----------
        line : str
            Plain text; what cannot be printed, such as a line end in a file's name, is spelled.

        Examples
        --------
        >>> Reporter(silent=True).say("Epoch 1/30")
        """
        if self._silent:
            return
        line = spelled(line)
        if self._bar is not None:
            self._bar.console.print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)
