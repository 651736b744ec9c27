"""The routes below /api: what the page asks of a project and of its teacher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from imprint.core.errors import ImprintError
from imprint.serve import archive
from imprint.serve.bodies import is_multipart, parse_json, read_body, read_form, read_uploads
from imprint.serve.engine import Served
from imprint.serve.problems import Problem
from imprint.serve.project import Given, Project
from imprint.serve.samples import MAX_PIXELS
from imprint.serve.teacher import Teacher
from imprint.serve.training_process import Trainer

MAX_FILES = 64  # of one request
MAX_LISTED = 10_000
POLL, KEEP_ALIVE = 0.2, 15.0  # seconds
PNG, JPEG = "image/png", "image/jpeg"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def routes(project: Project, trainer: Trainer | None, served: Served, settings: Any = None) -> list[Route]:
    """Give all routes of a project; the child that trains ends with this process."""
    most = getattr(settings, "max_pixels", None) or MAX_PIXELS
    return Teaching(Teacher(project, trainer or Trainer(), served, most), most).routes()


class Teaching:
    """Handlers: each reads a request, calls the project or the teacher in a thread, and answers in JSON."""

    def __init__(self, teacher: Teacher, max_pixels: int) -> None:
        self.teacher, self.project, self.max_pixels = teacher, teacher.project, max_pixels

    def routes(self) -> list[Route]:
        """Give the table of routes."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/api/project", self._show),
            ("PATCH", "/api/project", self._rename_project),
            ("POST", "/api/classes", self._add_class),
            ("PATCH", "/api/classes/{id}", self._rename_class),
            ("DELETE", "/api/classes/{id}", self._delete_class),
            ("GET", "/api/classes/{id}/samples", self._list_samples),
            ("GET", "/api/classes/{id}/takes", self._list_takes),
            ("POST", "/api/takes", self._add_take),
            ("POST", "/api/takes/{id}/samples", self._add_samples),
            ("POST", "/api/folder", self._add_folder),
            ("POST", "/api/samples/delete", self._delete_samples),
            ("POST", "/api/samples/move", self._move_samples),
            ("GET", "/api/samples/{sha}", self._show_sample),
            ("GET", "/api/samples/{sha}/thumbnail", self._show_thumbnail),
            ("POST", "/api/undo", self._undo),
            ("POST", "/api/redo", self._redo),
            ("POST", "/api/warm", self._warm),
            ("POST", "/api/train", self._train),
            ("GET", "/api/train", self._show_training),
            ("DELETE", "/api/train", self._cancel),
            ("GET", "/api/train/events", self._stream_training),
            ("GET", "/api/versions", self._list_versions),
            ("POST", "/api/versions/{number:int}/use", self._use_version),
            ("GET", "/api/check", self._check),
            ("POST", "/api/check/doctor", self._doctor),
            ("POST", "/api/corrections", self._correct),
            ("POST", "/api/explain", self._explain),
            ("GET", "/api/project/file", self._save),
            ("POST", "/api/project/open", self._open),
            ("GET", "/api/export/model.onnx", self._export_model),
            ("GET", "/api/export/folder.zip", self._export_folders),
        ]
        return [Route(path, _in_words(handler), methods=[method]) for method, path, handler in table]

    # The project

    def _summary(self) -> dict[str, Any]:
        engine, facts = self.teacher.served.current, self.teacher.current()
        status = getattr(self.teacher.served, "status", "none")  # the page need not ask for a model that is not there
        model = {"version": self.project.used, "digest": getattr(engine, "digest", None), "status": status}
        known = {"score": facts.get("score"), "why_no_score": facts.get("why_no_score")}
        known |= {"changed": self.teacher.has_changed()}
        return {**self.project.summary(), "model": model, "training": self.teacher.status(), **known}

    async def _show(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._summary))

    async def _rename_project(self, request: Request) -> Response:
        given = await _json(request, {"name": str})
        await run_in_threadpool(self.project.rename, given["name"])
        return await self._show(request)

    async def _add_class(self, request: Request) -> Response:
        given = await _json(request, {"name": str})
        return JSONResponse({"id": await run_in_threadpool(self.project.add_class, given["name"])}, 201)

    async def _rename_class(self, request: Request) -> Response:
        given, key = await _json(request, {"name": str}), request.path_params["id"]
        await run_in_threadpool(self.project.rename_class, key, given["name"])
        return JSONResponse({"id": key})

    async def _delete_class(self, request: Request) -> Response:
        await run_in_threadpool(self.project.delete_class, request.path_params["id"])
        return Response(status_code=204)

    async def _list_samples(self, request: Request) -> Response:
        offset, limit = _number(request, "offset", 0, 10**9), _number(request, "limit", 200, 1000)
        key = request.path_params["id"]
        return JSONResponse(await run_in_threadpool(self.project.samples_of, key, offset, limit))

    async def _list_takes(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.project.takes_of, request.path_params["id"]))

    async def _add_take(self, request: Request) -> Response:
        given = await _json(request, {"class": str, "kind": str})
        return JSONResponse({"id": await run_in_threadpool(self.project.add_take, given["class"], given["kind"])}, 201)

    async def _add_samples(self, request: Request) -> Response:
        given = [Given(each.name, each.content) for each in await read_uploads(request, MAX_FILES)]
        take = request.path_params["id"]
        added, problems = await run_in_threadpool(self.project.add_samples, take, given, self.max_pixels)
        await run_in_threadpool(self.teacher.read_ahead, added)
        return JSONResponse({"added": added, "problems": problems})

    async def _add_folder(self, request: Request) -> Response:
        folders: dict[str, list[Given]] = {}
        for each in await read_uploads(request, MAX_FILES):
            parts = [part for part in each.name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            if len(parts) < 2:
                cause = "Drop folders whose images lie in one folder a class, such as class/name.jpg."
                raise Problem(422, "No folder", cause)
            if not parts[-1].startswith("."):
                folders.setdefault(parts[-2], []).append(Given(each.name, each.content))
        added, problems = await run_in_threadpool(self.project.add_folders, folders, self.max_pixels)
        every = [sha for each in added.values() for sha in each]
        await run_in_threadpool(self.teacher.read_ahead, every)
        return JSONResponse({"classes": added, "added": every, "problems": problems})

    async def _delete_samples(self, request: Request) -> Response:
        given = await _json(request, {"samples": list}, {"class": str})
        shas = _shas(given["samples"])
        return JSONResponse({"deleted": await run_in_threadpool(self.project.delete_samples, shas, given["class"])})

    async def _move_samples(self, request: Request) -> Response:
        given = await _json(request, {"samples": list, "class": str})
        shas = _shas(given["samples"])
        moved = await run_in_threadpool(self.project.move_samples, shas, given["class"])
        return JSONResponse({"moved": moved})

    async def _show_sample(self, request: Request) -> Response:
        content, kind = await run_in_threadpool(self.project.sample, request.path_params["sha"])
        return Response(content, media_type=kind, headers=FOREVER)

    async def _show_thumbnail(self, request: Request) -> Response:
        content, kind = await run_in_threadpool(self.project.sample, request.path_params["sha"], True)
        return Response(content, media_type=kind, headers=FOREVER)

    async def _undo(self, request: Request) -> Response:
        await run_in_threadpool(self.project.undo)
        return await self._show(request)

    async def _redo(self, request: Request) -> Response:
        await run_in_threadpool(self.project.redo)
        return await self._show(request)

    # Training

    async def _warm(self, request: Request) -> Response:
        await run_in_threadpool(self.teacher.trainer.warm)
        return JSONResponse(self.teacher.status(), 202)

    async def _train(self, request: Request) -> Response:
        given = await _json(request, {}, {"recipe": str, "seed": int, "held_out": (int, float)})
        options = given["recipe"], given["seed"], given["held_out"]
        return JSONResponse(await run_in_threadpool(self.teacher.start, *options), 202)

    async def _show_training(self, request: Request) -> Response:
        return JSONResponse(self.teacher.status())

    async def _cancel(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.teacher.cancel))

    async def _stream_training(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            seen, quiet = -1, 0.0
            while not (request.app.state.stopping or await request.is_disconnected()):
                if self.teacher.changes != seen:
                    seen, quiet = self.teacher.changes, 0.0
                    yield f"data: {json.dumps(self.teacher.status())}\n\n".encode()
                elif quiet >= KEEP_ALIVE:
                    quiet = 0.0
                    yield b": still here\n\n"
                await asyncio.sleep(POLL)
                quiet += POLL

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    async def _list_versions(self, request: Request) -> Response:
        return JSONResponse(self.teacher.versions())

    async def _use_version(self, request: Request) -> Response:
        await run_in_threadpool(self.teacher.use, request.path_params["number"])
        return JSONResponse(self.teacher.versions())

    async def _check(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.teacher.check))

    async def _doctor(self, request: Request) -> Response:
        await run_in_threadpool(self.teacher.doctor)
        return JSONResponse(await run_in_threadpool(self.teacher.check))

    async def _correct(self, request: Request) -> Response:
        if is_multipart(request.headers.get("content-type", "")):
            form = await read_form(request, MAX_FILES)
            key = form.fields.get("class") or request.query_params.get("class", "")
            if not form.uploads:
                raise Problem(422, "No file", "The form holds no file.")
            given = [Given(each.name, each.content) for each in form.uploads]
            added = [await run_in_threadpool(self.project.correct, key, None, each) for each in given]
        else:
            body = await _json(request, {"image": (str, list), "class": str})
            listed = [body["image"]] if isinstance(body["image"], str) else _shas(body["image"])
            added = [await run_in_threadpool(self.project.correct, body["class"], sha) for sha in listed]
        return JSONResponse({"added": [sha for each in added for sha in each]})

    async def _explain(self, request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("application/json"):
            given = await _json(request, {"sample": str})
            content, _ = await run_in_threadpool(self.project.sample, given["sample"])
        else:
            content = (await read_uploads(request, 1))[0].content
        return Response(await run_in_threadpool(self.teacher.explain, content), media_type=PNG)

    # Files

    async def _save(self, request: Request) -> Response:
        path = await run_in_threadpool(archive.save, self.project)
        return _download(path, "project.imprint.zip")

    async def _open(self, request: Request) -> Response:
        path = archive.new_file(self.project)
        try:
            await archive.receive(request.stream(), path)
            version = await run_in_threadpool(archive.open_file, self.project, path)
        finally:
            path.unlink(missing_ok=True)
        if version is not None:
            await run_in_threadpool(self.teacher.use, version)
        return await self._show(request)

    async def _export_model(self, request: Request) -> Response:
        if (version := self.project.used) is None:
            raise Problem(404, "No model yet", "Train first.")
        path = self.project.versions.exported(version)
        return FileResponse(path, media_type="application/octet-stream", filename="model.onnx")

    async def _export_folders(self, request: Request) -> Response:
        path = await run_in_threadpool(archive.save_folders, self.project)
        return _download(path, "images.zip")


def _download(path: Any, name: str) -> Response:
    """Send a temporary file, and remove it afterwards."""
    from starlette.background import BackgroundTask

    removal = BackgroundTask(path.unlink, missing_ok=True)
    return FileResponse(path, media_type="application/zip", filename=name, background=removal)


def _in_words(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Turn errors of bad input into problems."""

    async def handled(request: Request) -> Response:
        try:
            return await handler(request)
        except ImprintError as error:
            raise Problem(422, "It cannot be used", f"{error.cause}. {error.remedy}") from None

    return handled


async def _json(request: Request, wanted: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object with certain members of certain types; what is optional and missing is None."""
    optional = optional or {}
    body = await read_body(request)
    given = parse_json(body) if body or wanted else {}
    if not isinstance(given, dict):
        raise Problem(422, "Not an object", "The body is no JSON object.")
    for key, kind in (wanted | optional).items():
        value = given.get(key)
        if value is None and key in optional:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Problem(422, f"Member {key}", f"The member {key!r} is missing or has the wrong type.")
    if unknown := set(given) - {*wanted, *optional}:
        raise Problem(422, "Unknown member", f"There is no member {min(unknown)[:40]!r}.")
    return {key: given.get(key) for key in (*wanted, *optional)}


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or int(text) > most:
        raise Problem(422, f"Parameter {name}", f"It is a whole number from 0 to {most:,}.")
    return int(text)


def _shas(given: list[Any]) -> list[str]:
    if len(given) > MAX_LISTED or not all(isinstance(sha, str) and len(sha) <= 64 for sha in given):
        raise Problem(422, "Samples", f"Name at most {MAX_LISTED:,} samples by their keys.")
    return given
