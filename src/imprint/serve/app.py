"""The application: its addresses, and what every request passes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imprint.core import __version__
from imprint.core.errors import ImprintError, spelled
from imprint.serve import metrics as prometheus
from imprint.serve import pages, teaching
from imprint.serve.admission import PREDICT, Admission, RequestIds
from imprint.serve.batching import Batcher, Job
from imprint.serve.bodies import Counted, Held, parse_images, read_body
from imprint.serve.engine import Engine, Served
from imprint.serve.metrics import Metrics
from imprint.serve.openapi import interface
from imprint.serve.problems import Problem, http_problem
from imprint.serve.project import Project
from imprint.serve.security import HEADERS, PREFLIGHT, Door, Sessions, Settings, header_map
from imprint.serve.training_process import Trainer

logger = logging.getLogger("imprint")

PARSED_AT_ONCE = 2**16  # bytes of a body; larger ones are parsed beside the event loop


def create_app(
    served: Served,
    settings: Settings,
    project: Project | None = None,
    sessions: Sessions | None = None,
    trainer: Trainer | None = None,
) -> Starlette:
    """Make the application that answers with the served model, and teaches where there is a project."""
    sessions = sessions or Sessions(settings.token.encode(), settings.port)
    counted, batcher = Metrics(), Batcher(settings.max_pixels)
    door, ids = Door(settings, sessions), RequestIds()
    document = interface(__version__)
    table = pages.static_files()
    table["/docs"] = pages.interface_page(document)
    table["/openapi.json"] = pages.Page(json.dumps(document).encode(), pages.TYPES["json"])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher.start()
        try:
            yield
        finally:
            batcher.stop()

    addresses = [
        Route(PREDICT, predict, methods=["POST"]),
        Route("/v1/model", model, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", show_metrics, methods=["GET"]),
        Route("/login", login, methods=["GET"]),
        Route("/api/session/end", end_session, methods=["POST"]),
        Route("/api/session/code", new_code, methods=["POST"]),
        *pages.routes(table),
    ]
    if project is not None:
        addresses += teaching.routes(project, trainer, served, settings)
    app = Starlette(
        routes=addresses,
        middleware=[Middleware(Entrance, door=door, counted=counted, ids=ids)],
        exception_handlers={HTTPException: _not_routed},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    state = app.state
    state.served, state.settings, state.sessions, state.batcher = served, settings, sessions, batcher
    state.admission = Admission(batcher, counted, door, ids)
    state.held, state.metrics, state.stopping, state.address = Held(), counted, False, ""
    _add_gauges(counted, app)
    if trainer is not None:
        name, text = "imprint_child_resident_memory_bytes", "Resident memory of the process that trains."
        counted.gauge(name, text, lambda: prometheus.resident_bytes(trainer.pid) if trainer.pid else 0.0)
    return app


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    raise http_problem(error.status_code, error.headers)


class Entrance:
    """What every request passes: the door, an id, the headers of its answer, problems, and counting."""

    def __init__(self, app: ASGIApp, door: Door, counted: Metrics, ids: RequestIds) -> None:
        self._app, self._door, self._metrics, self._ids = app, door, counted, ids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the lifespan; uvicorn is told to speak no WebSocket
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers, hosts = header_map(scope["headers"])
        request_id = self._ids.of(headers)
        added = [*HEADERS, (b"x-request-id", request_id), *self._door.cors(headers)]
        status, body = 0, None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in added if one[0] not in own)]
            await send(message)

        try:
            self._door.check(scope, headers, hosts)
            body = Counted(receive, scope, headers, scope["app"].state.held)
            if self._door.is_preflight(scope["method"], headers):
                added += PREFLIGHT
                await Response(status_code=204)(scope, receive, send_with_headers)
            elif scope["path"] == PREDICT and scope["method"] == "POST":  # past the router, which takes as long again
                response = await predict(Request(scope, body.receive))
                await response(scope, receive, send_with_headers)
            else:
                await self._app(scope, body.receive, send_with_headers)
        except Exception as error:
            problem = _as_problem(error, scope, request_id.decode())
            if status:  # the answer has begun: the connection ends, as a sign that it is not whole
                raise
            await problem.response(request_id.decode())(scope, receive, send_with_headers)
        finally:
            if body is not None:
                body.release()
            self._metrics.observe(_place(scope["path"]), status, time.perf_counter() - started)


def _as_problem(error: Exception, scope: Scope, request_id: str) -> Problem:
    """Turn what was raised into a problem; what nobody foresaw is logged under the request's id, and only there."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ImprintError):
        return Problem.of(error)
    told = spelled("".join(traceback.format_exception(error)))
    logger.error("request %s %s %s failed: %s", request_id, scope["method"], spelled(scope["path"]), told)
    detail = "The cause is in the server's log, under the id of this answer."
    return Problem(500, "The server failed", detail)


def _place(path: str) -> str:
    """Name an address for counting; of unknown ones there may be any number."""
    first = "/".join(path.split("/", 3)[:3])
    known = (PREDICT, "/v1/model", "/healthz", "/readyz", "/metrics")
    return first if first in known else "/api" if path.startswith("/api/") else "other"


def ready_engine(request: Request) -> Engine:
    """Give the model that answers; raises a `Problem` while there is none."""
    served: Served = request.app.state.served
    engine = served.current
    if engine is None:
        raise _not_ready(served)
    return engine


def _not_ready(served: Served) -> Problem:
    if served.status == "preparing":
        return Problem(503, "Preparing", "The model is being made ready. Try again in a second.", {"Retry-After": "1"})
    if served.status == "failed":
        return Problem(503, "No model", f"The model could not be made ready: {served.cause}", {"Retry-After": "5"})
    detail = "There is no model yet. Teach one on the page, or start the server with a model."
    return Problem(503, "No model", detail, {"Retry-After": "5"})


async def predict(request: Request) -> Response:
    """Answer with the class of each image."""
    state = request.app.state
    engine = ready_engine(request)
    batcher: Batcher = state.batcher
    batcher.check_room()  # before a body is read that could not be worked on
    body = await read_body(request)
    kind, query = request.headers.get("content-type", ""), request.scope["query_string"]
    make: Callable[[], Job] = lambda: Job(parse_images(kind, query, body), engine)  # noqa: E731
    loop = asyncio.get_running_loop()
    job = make() if len(body) <= PARSED_AT_ONCE else await loop.run_in_executor(None, make)
    await batcher.answer(job, request.receive)
    answers = list(job.named_answers())
    if len(answers) == 1 and "status" in answers[0]:
        raise Problem(**{key: answers[0][key] for key in ("status", "title", "detail")})
    content = json.dumps({"model": engine.digest, "predictions": answers}, ensure_ascii=False)
    return Response(content.encode("utf-8", "replace"), media_type="application/json")


async def model(request: Request) -> Response:
    """Tell what the model is."""
    engine = ready_engine(request)
    channels, (height, width) = engine.spec.channels, engine.spec.image_size
    facts = {
        "model": engine.digest,
        "classes": list(engine.class_names),
        "recipe": engine.recipe,
        "image": {"channels": channels, "height": height, "width": width},
        "reads_glyphs": engine.spec.glyph is not None,
        "imprint": __version__,
    }
    return JSONResponse(facts)


async def healthz(request: Request) -> Response:
    """Tell that the process answers and its workers live."""
    if not request.app.state.batcher.is_healthy:
        raise Problem(503, "Unhealthy", "A worker has ended, or is stuck. Start the server anew.")
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Tell whether a request to predict would be answered now."""
    state = request.app.state
    if state.stopping:
        raise Problem(503, "Stopping", "The server is being stopped.", {"Retry-After": "5"})
    engine = ready_engine(request)
    return JSONResponse({"status": "ready", "model": engine.digest})


async def show_metrics(request: Request) -> Response:
    """Write the metrics for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=prometheus.MEDIA_TYPE)


async def login(request: Request) -> Response:
    """Start a session by a code that works once, and open the page."""
    state = request.app.state
    codes = parse_qs(request.scope["query_string"].decode("latin-1")).get("code", [""])
    if not state.sessions.redeem(codes[-1]):
        detail = "This address works once, and has been used or was never given. imprint serve prints one at its start."
        raise Problem(403, "Not signed in", detail)
    cookie = state.sessions.cookie_header(secure=state.settings.cert is not None)
    return RedirectResponse("/", 303, {"Set-Cookie": cookie, "Cache-Control": "no-store"})


async def end_session(request: Request) -> Response:
    """End the session of this browser."""
    state = request.app.state
    cookie = state.sessions.cookie_header(secure=state.settings.cert is not None, ended=True)
    return Response(status_code=204, headers={"Set-Cookie": cookie})


async def new_code(request: Request) -> Response:
    """Give an address that signs in another browser, such as a phone's, once; and what curl sends."""
    state = request.app.state
    address = f"{state.address}/login?code={state.sessions.new_code()}"
    return JSONResponse({"address": address, "token": state.settings.token}, headers={"Cache-Control": "no-store"})


def _add_gauges(counted: Metrics, app: Starlette) -> None:
    state = app.state
    lanes = (state.batcher.light, state.batcher.heavy)

    def of_lanes(attribute: str) -> Callable[[], list[tuple[dict[str, str], float]]]:
        return lambda: [({"lane": lane.name}, getattr(lane, attribute)) for lane in lanes]

    counted.gauge("imprint_queued_seconds", "Estimated work that waits or runs.", of_lanes("seconds"))
    counted.gauge("imprint_images_total", "Images worked on.", of_lanes("images"), "counter")
    counted.gauge("imprint_batches_total", "Batches computed.", of_lanes("batches"), "counter")
    counted.gauge("imprint_dropped_total", "Images left out, since their client went.", of_lanes("dropped"), "counter")
    counted.gauge("imprint_held_bytes", "Bytes of bodies held.", lambda: state.held.bytes)
    counted.gauge("imprint_ready", "Whether a model answers.", lambda: float(state.served.current is not None))
    counted.gauge("imprint_model_swaps_total", "Models made ready.", lambda: state.served.swaps, "counter")
    counted.gauge("imprint_model_failures_total", "Models refused.", lambda: state.served.failed_swaps, "counter")
    counted.gauge("process_resident_memory_bytes", "Resident memory.", prometheus.resident_bytes)
