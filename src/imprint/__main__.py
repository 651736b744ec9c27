"""The way in: runs a command, and turns every expected failure into one line and an exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import TyperException

BAD_USAGE = 2  # the exit status of bad usage and bad input
INTERRUPTED = 130  # the exit status by which shells know Ctrl-C: 128 and the signal's number
TO_BE_TOLD = 1.0  # second
NOTHING_KEPT = "run at Ctrl-C: stopped before there was anything to keep. Nothing was lost."


def _follows() -> bool:
    """Whether another of the processes that torchrun has started speaks for this one."""
    return "MASTER_ADDR" in os.environ and os.environ.get("RANK", "0") != "0"


def _tell(line: str, muted: bool | None = None) -> None:
    """Print an error; where another process does, leave it the time, since torchrun ends all when one has ended."""
    if _follows() if muted is None else muted:
        time.sleep(TO_BE_TOLD)
    else:
        print(f"error: {line}", file=sys.stderr)


def _failed(line: str, muted: bool | None = None) -> int:
    _tell(line, muted)
    return BAD_USAGE


def _usage(error: TyperException) -> str:
    """Put a wrong use of the command line into one line that names the help of its verb."""
    context = getattr(error, "ctx", None)
    command = "imprint" if context is None or context.parent is None else f"imprint {context.info_name}"
    message = " ".join(error.format_message().split())
    message += "" if message.endswith((".", "?")) else "."
    return f"usage at {command}: {message} Try {command} --help."


def _stop(line: str, muted: bool | None = None) -> None:
    _tell(line, muted)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(INTERRUPTED)  # sys.exit ends by the signal instead where it came while a library built code of text


def _discard_stdout() -> None:
    """Redirect stdout to devnull so that the flush at exit cannot raise again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _handle(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
    """Install a signal handler, unless the signal is ignored, as shells start what runs in the background."""
    ignored = signal.getsignal(number) is signal.SIG_IGN
    if threading.current_thread() is threading.main_thread() and not ignored:
        signal.signal(number, handler)


def main() -> None:
    """Run a command; Ctrl-C ends it in one line from the first moment, while Python still imports."""
    _handle(signal.SIGINT, lambda *_: _stop(NOTHING_KEPT))  # an import could catch an exception
    from imprint.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks × or a label's letters
    _run(app)


def _run(app: Callable[..., int | None]) -> None:
    """Run a command; turn every expected failure into one line on stderr and an exit status."""
    import typer

    from imprint.core.errors import ImprintError, StoppedError, spelled
    from imprint.core.malloc import tune_malloc
    from imprint.core.progress import shown

    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # a service manager ends a process by SIGTERM: as by Ctrl-C
            _handle(number, signal.default_int_handler)
        tune_malloc()
        if _follows():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        with shown(not _follows()):
            status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        if not sys.argv[1:]:
            status = BAD_USAGE
        if sys.stdout is not None:
            sys.stdout.flush()
    except typer.TyperException as error:
        if os.environ.get("IMPRINT_TRACEBACK"):
            raise
        status = _failed(_usage(error))
    except StoppedError as error:
        _stop(str(error), error.muted)
    except ImprintError as error:
        if os.environ.get("IMPRINT_TRACEBACK"):
            raise
        status = _failed(str(error), error.muted)
    except BrokenPipeError:  # the reader has seen enough
        _discard_stdout()
        status = 1
    except OSError as error:
        if os.environ.get("IMPRINT_TRACEBACK"):
            raise
        if error.filename is None:
            _discard_stdout()
        where = error.filename or "standard output"
        line = f"file at {where}: {error.strerror or error}. Check its permissions and the space left."
        status = _failed(spelled(line))
    except KeyboardInterrupt:  # before Typer looks out for it
        status = INTERRUPTED
    if status == INTERRUPTED:
        _stop(NOTHING_KEPT)
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
