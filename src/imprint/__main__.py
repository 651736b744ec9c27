"""The way in: runs a command, and turns every expected failure into one line and an exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from typing import NoReturn

import typer

from imprint.cli import app
from imprint.errors import ImprintError, StoppedError, spelled

STOPPED = 130  # what a shell makes of Ctrl-C: 128 and the signal's number


def _fail(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def _stop(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STOPPED)  # sys.exit ends by the signal instead where it came while a library built code of text


def _let_go_of_stdout() -> None:
    """Point stdout at nothing: what it could not take must not fail once more when Python ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run a command; turn every expected failure into one line on stderr and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks × or a label's letters
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's wish to end is Ctrl-C
    try:
        status = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except typer.TyperException as error:
        if os.environ.get("IMPRINT_TRACEBACK"):
            raise
        message = " ".join(error.format_message().split())
        if not message:  # no verb: the help has been printed
            sys.exit(2)
        _fail(f"usage at imprint: {message.rstrip('.')}. Try imprint --help.")
    except StoppedError as error:
        _stop(str(error))
    except ImprintError as error:
        if os.environ.get("IMPRINT_TRACEBACK"):
            raise
        _fail(str(error))
    except BrokenPipeError:  # the reader has seen enough
        _let_go_of_stdout()
        sys.exit(1)
    except OSError as error:
        if os.environ.get("IMPRINT_TRACEBACK"):
            raise
        if error.filename is None:
            _let_go_of_stdout()
        where = error.filename or "standard output"
        _fail(spelled(f"file at {where}: {error.strerror or error}. Check its permissions and the space left."))
    except KeyboardInterrupt:  # before Typer looks out for it
        status = STOPPED
    if status == STOPPED:
        _stop("run at Ctrl-C: stopped before there was anything to keep. Nothing was lost.")
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
