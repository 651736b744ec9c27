"""Progress in a notebook, whose output is a page and no terminal: a bar that is updated in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape

REFRESH = 0.2  # seconds between updates, each of which is a message to the browser


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def notebook_bar(title: str, total: float | int) -> Iterator[Callable[[float | int], None]]:
    """Show a bar with the time left, gone at the end; yields what draws how much of `total` is done."""
    from IPython.display import display

    start = shown = time.monotonic()
    handle = display(_bar(title, 0, total, 0.0), raw=True, display_id=True)

    def draw(done: float | int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= REFRESH:
            shown = now
            handle.update(_bar(title, done, total, now - start), raw=True)

    try:
        yield draw
    finally:
        handle.update({"text/html": "", "text/plain": ""}, raw=True)


def _bar(title: str, done: float | int, total: float | int, seconds: float) -> dict[str, str]:
    """Draw the bar as HTML, and in words where that is not shown."""
    left = f", {seconds / done * (total - done):,.0f} s left" if done else ""
    words = f"{100 * done / (total or 1):.0f} %{left}"
    bar = f'<progress max="{total or 1:g}" value="{done:g}" style="width:16em;vertical-align:middle"></progress>'
    style = "font:13px/1.5 system-ui,sans-serif"
    return {
        "text/html": f'<div style="{style}">{escape(title)} {bar} {words}</div>',
        "text/plain": f"{title} {words}",
    }
