"""The server: its sockets, what it says at the start, the model file that it watches, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from imprint.core.errors import ImprintError, UsageError
from imprint.core.malloc import return_freed_memory
from imprint.core.progress import say, warn
from imprint.models.model_file import check_model_file, find_model
from imprint.serve.app import create_app
from imprint.serve.connections import PatientProtocol
from imprint.serve.engine import Served
from imprint.serve.exporting import export_in_child, is_exported, kept_export
from imprint.serve.project import Project, default_folder, folder_for
from imprint.serve.security import Sessions, Settings, addresses_of_machine, is_any_address, origin, read_secret
from imprint.serve.teacher import begin, stored_images
from imprint.serve.training_process import Trainer

if TYPE_CHECKING:
    from starlette.applications import Starlette

POLL = 1.0  # seconds between looks at the model file
DRAIN = 0.5  # seconds that it still answers, as not ready, after it was told to end
GRACE = 4  # seconds for requests under way after that
SWITCH_INTERVAL = 0.002  # seconds that a tiny request waits for a worker; with 0.0005 overload is mostly switching
BACKLOG = 512
WEAK_TOKEN = 16  # characters


class ModelFile:
    """The model that the command line named: made ready, and watched for changes."""

    def __init__(self, path: Path, served: Served) -> None:
        self.path, self._served = path, served
        self._seen: tuple[int, int, int] | None = None
        self.error: ImprintError | None = None

    def make_ready(self) -> None:
        """Load the model at once where it is exported or its export is kept, else note that it is being prepared.

        Raises `ImprintError` for a file that is no model.
        """
        file = find_model(self.path)
        self._seen = _identity(file)
        if is_exported(file):
            self._served.swap(file)
            return
        check_model_file(file)
        if kept_export(file).is_file():
            self._served.swap(export_in_child(file))
        else:
            self._served.preparing()

    def prepare(self) -> bool:
        """Prepare the model where that is still to be done; false where it cannot be, and `error` says why."""
        if self._served.current is None:
            say("preparing the model: exporting it once, which takes some seconds")
            try:
                self._served.swap(export_in_child(find_model(self.path)))
                say("ready")
            except ImprintError as error:
                self._served.failed(str(error))
                self.error = error
        return self.error is None

    def watch(self, stopped: threading.Event, stored: Callable[[], list[bytes]]) -> None:
        """Exchange the model whenever its file changes, once it has been tried on stored images."""
        before = self._seen
        while not stopped.wait(POLL):
            now = _identity(find_model(self.path))
            if now == before and now not in (None, self._seen):  # it has been written whole, as far as one can tell
                self._exchange(now, stored)
            before = now

    def _exchange(self, now: Any, stored: Callable[[], list[bytes]]) -> None:
        self._seen = now
        try:
            file = find_model(self.path)
            engine = self._served.swap(file if is_exported(file) else export_in_child(file), stored())
            say(f"the model file changed; from now on {engine.digest[:12]} answers")
        except (ImprintError, OSError) as error:
            warn(f"the model file changed and cannot be used, so the model before goes on: {error}")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class GracefulServer(uvicorn.Server):
    """uvicorn, which on SIGTERM first says that it is not ready, then answers what it has accepted, and ends."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._state = app.state
        self._stop_at = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; unlike uvicorn's, they are not raised again after a graceful end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to end; a second Ctrl-C ends at once."""
        if self._state.stopping and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        if not self._state.stopping:
            self._state.stopping = True
            self._stop_at = time.monotonic() + (DRAIN if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        """Tell, ten times a second, whether it is time to end."""
        if self._state.stopping and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and drop the loop's own reports of clients that vanished."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # going through all that is loaded, again and again, took a seventh of a busy server's time
        asyncio.get_running_loop().set_exception_handler(_log_quietly)


def _log_quietly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not isinstance(error, ConnectionError | TimeoutError):
        warn(f"event loop: {context.get('message', '')} {error!r}")


def bind(settings: Settings) -> list[socket.socket]:
    """Bind the address; raises `UsageError` where that cannot be done."""
    host = "127.0.0.1" if settings.host.lower() == "localhost" else settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        if os.name != "nt":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, settings.port))
        bound.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        number = getattr(error, "errno", None)
        told = getattr(error, "strerror", None) or str(error)
        remedy = "Give another --port, or 0 for any that is free." if number == errno.EADDRINUSE else "Give another."
        raise UsageError(
            "address", f"{settings.host}:{settings.port}", f"it cannot be bound ({told})", remedy
        ) from None
    bound.setblocking(False)
    return [bound]


def data_folder() -> Path:
    """Where this user's secret and projects lie: imprint in $XDG_DATA_HOME or ~/.local/share."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share").absolute() / "imprint"


def make_sessions(port: int) -> Sessions:
    """Make the sessions of this computer; where its secret cannot be kept, they end with the server."""
    try:
        return Sessions(read_secret(data_folder()), port)
    except (UsageError, RuntimeError) as error:
        warn(f"sessions will not survive a restart: {error}")
        return Sessions(os.urandom(32), port)


@dataclass(frozen=True)
class Teaching:
    """A project and the child process that trains."""

    project: Project
    trainer: Trainer

    def close(self) -> None:
        """End the child, and give the project's folder free."""
        self.trainer.close()
        self.project.close()


def open_project(folder: Path | None, model: Path | None) -> Teaching | None:
    """Open the project of a folder, else that of the model, else the user's own.

    None where a model alone is served and its project cannot be opened, since a second server has it, or the disk is
    not to be written to: it answers all the same. Raises `UsageError` where the project is what was asked for.
    """
    try:
        return Teaching(Project(folder or (default_folder() if model is None else folder_for(model))), Trainer())
    except (ImprintError, OSError, RuntimeError) as error:
        if folder is None and model is not None:
            say(f"no teaching here: {error}")
            return None
        if isinstance(error, ImprintError):
            raise
        cause = f"it cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise UsageError(
            "project", str(folder or "of this user"), cause, "Name another folder: --project DIR."
        ) from None


def serve(settings: Settings, model: Path | None, folder: Path | None, *, browser: bool) -> None:
    """Serve until told to end; raises `ImprintError` where model, project or address cannot be used."""
    served = Served()
    watched = None if model is None else ModelFile(model, served)
    if watched is not None:
        watched.make_ready()
    sockets = bind(settings)
    with contextlib.closing(sockets[0]), ExitStack() as stack:
        teaching = open_project(folder, model)
        if teaching is not None:
            stack.callback(teaching.close)
        port = sockets[0].getsockname()[1]
        sessions = make_sessions(port)
        settings = replace(settings, port=port, token=settings.token or sessions.token)
        given = (None, None) if teaching is None else (teaching.project, teaching.trainer)
        app = create_app(served, settings, given[0], sessions, given[1])
        app.state.address = page_address(settings)
        server = GracefulServer(_config(app, settings), app)
        _tune_process()
        stopped = threading.Event()
        stack.callback(stopped.set)
        work = partial(_look_after, served, watched, teaching, server, stopped)
        threading.Thread(target=work, name="imprint-model", daemon=True).start()
        greet(settings, sessions, browser=browser)
        server.run(sockets)
    if watched is not None and watched.error is not None:
        raise watched.error


def _look_after(
    served: Served,
    watched: ModelFile | None,
    teaching: Teaching | None,
    server: uvicorn.Server,
    stopped: threading.Event,
) -> None:
    """Prepare the model, take the project up where it ended, and watch the model's file; beside the event loop."""
    if watched is not None and not watched.prepare():
        server.should_exit = True
        return
    if teaching is not None:
        begin(teaching.project, teaching.trainer, served, None if watched is None else watched.path)
    if watched is not None:
        watched.watch(stopped, lambda: [] if teaching is None else stored_images(teaching.project))


def _tune_process() -> None:
    """Settle what holds for the whole process, which is the server's own."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    return_freed_memory()
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs each byte that it did not expect


def _config(app: Starlette, settings: Settings) -> uvicorn.Config:
    try:
        config = uvicorn.Config(
            app,
            http=type("Protocol", (PatientProtocol,), {"admission": app.state.admission}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=settings.cert,
            ssl_keyfile=settings.key,
        )
        config.load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        told = getattr(error, "strerror", None) or str(error)
        raise UsageError("certificate", str(settings.cert), f"it cannot be used ({told})", "Give PEM files.") from None
    return config


def page_address(settings: Settings) -> str:
    """Give the address for a browser: of another machine where they can reach this one, else of this machine."""
    host = settings.host.strip("[]")
    if is_any_address(host):
        host = next(iter(addresses_of_machine()), "127.0.0.1")
    return origin(settings.scheme, host, settings.port)


def greet(settings: Settings, sessions: Sessions, *, browser: bool) -> None:
    """Say where it answers, and who can reach it; open the browser."""
    address = page_address(settings)
    if not settings.is_local:
        plain = "" if settings.cert else ", and can read what is sent, since there is no --cert"
        warn(f"--host {settings.host}: other machines of the network can reach this server{plain}")
        say("programs need the token: that of --token or IMPRINT_TOKEN, else the one under ⚙ on the page")
        if len(settings.token) < WEAK_TOKEN:
            warn(f"the token has fewer than {WEAK_TOKEN} characters, and can be guessed")
        _print_qr(f"{address}/login?code={sessions.new_code()}")
    own = f"{address}/login?code={sessions.new_code()}"
    say(f"open {own}")
    say(f"programs: curl --data-binary @image.png -H 'Content-Type: image/png' {address}/v1/predict; Ctrl-C ends")
    if browser:
        threading.Thread(target=_open_browser, args=(own,), daemon=True).start()


def _open_browser(address: str) -> None:
    time.sleep(0.3)  # until it answers
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(address)


def _print_qr(address: str) -> None:
    import segno

    if sys.stderr is not None and sys.stderr.isatty():
        segno.make(address, micro=False).terminal(out=sys.stderr, compact=True)
    say(f"for a phone: {address}")
