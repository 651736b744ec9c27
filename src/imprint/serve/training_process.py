"""The child process that trains, seen from the server: started when wanted, one task at a time, ended with it.

The server never imports torch. It speaks with `python -m imprint.serve.trainer` by JSON lines, and goes on when that
dies; the child ends by itself when its standard input does, however the server ended.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from imprint.serve.problems import Problem

COMMAND = (sys.executable, "-m", "imprint.serve.trainer")
Facts = dict[str, Any]


class Trainer:
    """Hands tasks to the child process. All methods may be called from several threads."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command, self._lock = command, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._task: tuple[int, Future[Facts], Callable[[Facts], None]] | None = None
        self.ready = False

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def busy(self) -> bool:
        """Whether it works on a task."""
        return self._task is not None

    def warm(self) -> None:
        """Start the child where there is none, so that torch is imported by the time that it is needed."""
        with self._lock:
            self._start()

    def ask(self, task: Facts, heard: Callable[[Facts], None] = lambda told: None) -> Future[Facts]:
        """Begin a task; `heard` gets what the child tells meanwhile. Raises `Problem` while another is under way.

        The future raises `Problem` where the task fails, the child dies, or the task is cancelled.
        """
        with self._lock:
            if self._task is not None:
                detail = "One thing at a time: wait until it is done, or cancel it."
                raise Problem(409, "Training is under way", detail)
            process = self._start()
            number = next(self._numbers)
            future: Future[Facts] = Future()
            self._task = number, future, heard
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps({"id": number, **task}).encode() + b"\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it has just died, which its reader tells
                pass
            return future

    def prepare(self, task: Facts) -> None:
        """Have a child that is there do what a later task would have to, before that; nobody waits for its end."""
        with self._lock:
            if self.ready and self._process is not None:
                with contextlib.suppress(OSError, ValueError):  # it has just died
                    assert self._process.stdin is not None
                    self._process.stdin.write(json.dumps({"id": 0, **task}).encode() + b"\n")
                    self._process.stdin.flush()

    def cancel(self) -> bool:
        """End what is under way, and start a new child; False where nothing was."""
        with self._lock:
            task, process = self._task, self._process
            if task is None or process is None:
                return False
            self._task = None
            process.kill()
            process.wait()
            self._process, self.ready = None, False
            self._start()
        task[1].set_exception(Problem(409, "Cancelled", "It was cancelled."))
        return True

    def close(self) -> None:
        """End the child."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.ready = False
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            reader = threading.Thread(target=self._read, args=(self._process,), daemon=True, name="trainer")
            reader.start()
        return self._process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Take in what one child tells, until it ends."""
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told["event"] == "ready":
                self.ready = True
            elif (task := self._task) is not None and told["id"] == task[0]:
                self._take_in(told, task[1], task[2])
        process.stdout.close()
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        process.wait()
        with self._lock:
            task, current = self._task, process is self._process
            if current:
                self._task, self._process, self.ready = None, None, False
        if task is not None and current:
            detail = "The training process ended unexpectedly. Your pictures are safe; try again."
            task[1].set_exception(Problem(500, "Training stopped", detail))

    def _take_in(self, told: Facts, future: Future[Facts], heard: Callable[[Facts], None]) -> None:
        if told["event"] not in ("done", "failed"):
            heard(told)
            return
        with self._lock:
            if self._task is None or self._task[1] is not future:  # cancelled meanwhile
                return
            self._task = None
        if told["event"] == "done":
            future.set_result(told["result"])
        else:
            future.set_exception(Problem(told["status"], told["title"], told["detail"]))
