"""The child process of the server: imports torch, and trains, explains, examines and compares, one task at a time.

A task is a line of JSON on standard input; what becomes of it are lines on standard output. It ends when standard input
does, so that it never outlives the server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NICENESS = 10
EPOCH_LINE = re.compile(r"Epoch (\d+)/(\d+) - ([\d.]+)s - loss: ([\d.]+) - acc: ([\d.]+)(?:.* - val_acc: ([\d.]+))?")
Facts = dict[str, Any]
Tell = Callable[[Facts], None]


def main() -> None:
    """Do tasks until standard input ends."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    tasks: queue.SimpleQueue[Facts] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    from imprint.serve import lessons

    lessons.warm()
    _tell(told, {"event": "ready"})
    while True:
        task = tasks.get()
        number = task["id"]

        def tell(facts: Facts, number: int = number) -> None:
            _tell(told, {"id": number, **facts})

        try:
            with progress_told(tell):
                result = lessons.TASKS[task["do"]](task, tell)
            tell({"event": "done", "result": result})
        except Exception as error:  # the child lives on, whatever a task meets
            tell({"event": "failed", **_failure(error)})


def _read_tasks(tasks: queue.SimpleQueue[Facts]) -> None:
    for line in sys.stdin.buffer:
        tasks.put(json.loads(line))
    os._exit(0)  # the server has ended, and so does whatever is under way


def _tell(told: Any, facts: Facts) -> None:
    try:
        print(json.dumps(facts), file=told, flush=True)
    except BrokenPipeError:
        os._exit(0)


def _failure(error: Exception) -> Facts:
    from imprint.core.errors import ImprintError

    if isinstance(error, ImprintError):
        return {"status": 422, "title": f"{error.what}: {error.cause}", "detail": error.remedy}
    import traceback

    traceback.print_exc()  # into the server's log; never to the page
    return {"status": 500, "title": "Training failed", "detail": "Something unexpected happened; the log tells more."}


class _Progress(logging.Handler):
    """Tells epochs, which training logs, and how long the others will take."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell, self._started = tell, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one line, if it is an epoch's."""
        if (match := EPOCH_LINE.match(record.getMessage())) is None:
            return
        number, epochs = int(match[1]), int(match[2])
        accuracy = float(match[6] or match[5])
        left = (time.monotonic() - self._started) / number * (epochs - number)
        facts = {"epoch": number, "epochs": epochs, "accuracy": accuracy, "loss": float(match[4])}
        self._tell({"event": "progress", "message": "", "seconds_left": round(left, 1), **facts})


@contextmanager
def progress_told(tell: Tell) -> Iterator[None]:
    """Tell the progress of training meanwhile."""
    logger, handler = logging.getLogger("imprint"), _Progress(tell)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


if __name__ == "__main__":
    main()
