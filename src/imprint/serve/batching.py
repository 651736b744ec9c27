"""Micro-batching without a timer: what has queued while others were computed is taken together.

An idle server so answers in the time of one image, and a busy one computes many at once. Two lanes by estimated cost:
tiny images, and all others, so that photos never hold up digits. Each has a worker; tiny images of a quick model are
computed in the event loop. Over a lane's limit of queued work a request is refused at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError, spelled
from imprint.data.decoding.decode import without_warnings
from imprint.preprocessing.glyph import which_hold
from imprint.preprocessing.input_spec import InputSpec
from imprint.serve.bodies import Numbers, Upload
from imprint.serve.engine import Engine
from imprint.serve.predicting import (
    GLYPH_COST,
    TINY_COST,
    as_pixels,
    decode_for,
    estimate_cost,
    fitted,
    problem_entry,
    slow_to_fit,
)
from imprint.serve.problems import Problem

logger = logging.getLogger("imprint")

BATCH_IMAGES, BATCH_COST = 32, 0.005  # seconds of estimated cost
# Tiny images are computed in the event loop while one takes less than QUICK seconds, for some TURN seconds at a time:
# worker and loop would wait for each other's hold of Python's lock longer than that takes (docs/log/serving.md).
QUICK, TURN = 0.001, 0.003
FEW = 8  # images of a request; more are computed by the worker, in larger batches
# Seconds of queued work. An accepted tiny image waits at most a moment; a photo has one anyway.
LIGHT_LIMIT, HEAVY_LIMIT = 0.15, 1.0
STUCK = 60.0  # seconds of one batch
LEARNING_RATE = 0.05  # of how far estimated costs are from measured ones on this machine
PACE_RATE = 0.25  # of how long an image takes, so that one batch tells a model that is not quick


@dataclass(slots=True, eq=False)
class Item:
    """An image of a job: a file, a decoded image [h, w, k], or with `ready` one in the model's form [c, h, w]."""

    job: Job
    index: int
    image: Upload | UInt8[ndarray, "_ _ _"]
    cost: float
    ready: bool = False


class Job:
    """The images of one request, their answers, and the model that gives them."""

    def __init__(self, images: Sequence[Upload | Numbers], engine: Engine) -> None:
        self.engine, self.names, self.items = engine, list[str](), list[Item]()
        self.gone = False  # its client no longer waits
        self.future: asyncio.Future[None] | None = None
        for image in images:
            self._add(image, engine.spec)
        self.answers: list[dict[str, Any]] = [{}] * len(self.items)
        self.left = len(self.items)

    def _add(self, image: Upload | Numbers, spec: InputSpec) -> None:
        if isinstance(image, Upload):
            self.items.append(Item(self, len(self.items), image, estimate_cost(image, spec)))
            self.names.append(image.name)
            return
        pixels = as_pixels(image, spec)
        in_form = pixels.shape[1:] == (spec.channels, *spec.image_size)
        ready = np.full(len(pixels), in_form)
        if spec.glyph is not None and in_form:
            ready = which_hold(pixels, spec.glyph)
        for one, is_fit in zip(pixels, ready.tolist(), strict=True):
            cost = estimate_cost(one, spec)
            if not is_fit and spec.glyph is not None:  # here one need not trust the size
                cost = max(cost, GLYPH_COST)
            shown = one if is_fit else one.transpose(1, 2, 0)
            self.items.append(Item(self, len(self.items), shown, cost, is_fit))
            self.names.append(image.name)

    @property
    def cost(self) -> float:
        """Estimated seconds of all its images."""
        return sum(item.cost for item in self.items)

    def named_answers(self) -> Iterator[dict[str, Any]]:
        """Give its answers in order, each with its source: the file's name, or its position from 1."""
        for position, (name, answer) in enumerate(zip(self.names, self.answers, strict=True), start=1):
            yield {"source": name or str(position), **answer}


Finished = list[tuple[Job, Exception | None]]


class Lane:
    """A queue of images with its worker; `cost` is the estimated work that it holds, running or waiting."""

    def __init__(self, name: str, limit: float) -> None:
        self.name, self.limit = name, limit
        self.items = deque[Item]()
        self.changed = threading.Condition()  # whose lock a thread may take twice
        self.cost, self.factor = 0.0, 1.0  # measured to estimated seconds, smoothed
        self.pace = math.inf  # measured CPU seconds an image, smoothed; until then it may be any
        self.held = 0  # images, running or waiting
        self.batches = self.images = self.dropped = 0
        self.busy_since: float | None = None  # of the batch that is computed
        self.closed = False

    def close(self) -> None:
        """Let the worker end once it has no more to do."""
        with self.changed:
            self.closed = True
            self.changed.notify()

    @property
    def seconds(self) -> float:
        """The queued work, in seconds of this machine."""
        return self.cost * self.factor

    def accepts(self, cost: float) -> bool:
        """Whether there is room for more; something fits into an empty lane always."""
        return self.cost == 0 or (self.cost + cost) * self.factor <= self.limit

    def put(self, items: Sequence[Item]) -> None:
        """Queue images."""
        with self.changed:
            self.items.extend(items)
            self.held += len(items)
            self.cost += sum(item.cost for item in items)

    def wake(self) -> None:
        """Let the worker take what is queued."""
        with self.changed:
            self.changed.notify()

    def wait(self) -> list[Item]:
        """Wait for images, and take a batch; none once the lane is closed."""
        with self.changed:
            while not self.items and not self.closed:
                self.changed.wait()
            return self.take(BATCH_IMAGES)

    def take(self, most: int) -> list[Item]:
        """Take the images that make a batch: of one model, few enough."""
        with self.changed:
            batch, cost = list[Item](), 0.0
            while self.items and len(batch) < most and cost < BATCH_COST:
                if batch and self.items[0].job.engine is not batch[0].job.engine:
                    break
                batch.append(self.items.popleft())
                cost += batch[-1].cost
            return batch

    def done(self, batch: Sequence[Item], seconds: float, worked: float) -> None:
        """Note that a batch has been answered: how long that took, and how long without waiting for Python's lock."""
        estimated = sum(item.cost for item in batch)
        with self.changed:
            self.held -= len(batch)
            self.cost = self.cost - estimated if self.items else 0.0
            if estimated:
                ratio = min(max(seconds / estimated, 0.1), 20)
                self.factor += LEARNING_RATE * (ratio - self.factor)
            pace = worked / len(batch)
            self.pace = pace if math.isinf(self.pace) else self.pace + PACE_RATE * (pace - self.pace)
            self.batches += 1
            self.images += len(batch)


class Batcher:
    """The two lanes and their workers; `submit` is called in the event loop."""

    def __init__(self, max_pixels: int) -> None:
        self.light, self.heavy = Lane("tiny", LIGHT_LIMIT), Lane("large", HEAVY_LIMIT)
        self._max_pixels = max_pixels
        self._workers = list[threading.Thread]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack = ExitStack()
        self._turn_due = False

    def start(self) -> None:
        """Start the workers, within the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._stack.enter_context(without_warnings())
        for lane in (self.light, self.heavy):
            worker = threading.Thread(target=self._work, args=(lane,), name=f"imprint-{lane.name}", daemon=True)
            self._workers.append(worker)
            worker.start()

    @property
    def is_healthy(self) -> bool:
        """Whether both workers live, and neither has been at one batch for a minute."""
        now = time.perf_counter()
        busy = [now - since for lane in (self.light, self.heavy) if (since := lane.busy_since) is not None]
        return all(worker.is_alive() for worker in self._workers) and max(busy, default=0) < STUCK

    def stop(self) -> None:
        """Let the workers end after what they are at."""
        for lane in (self.light, self.heavy):
            lane.close()
        self._stack.close()

    @property
    def has_room(self) -> bool:
        """Whether one more tiny image would be taken."""
        return self.light.accepts(TINY_COST)

    def check_room(self, cost: float = 0.0, lane: Lane | None = None) -> None:
        """Raise a `Problem` that says when to come back, where a lane has too much work queued."""
        lane = lane or self.light
        if not lane.accepts(cost):
            seconds = max(1, math.ceil(lane.seconds))
            detail = f"About {lane.seconds:.1f} s of work is queued. Try again in {seconds} s."
            raise Problem(503, "Overloaded", detail, {"Retry-After": str(seconds)})

    async def answer(self, job: Job, receive: Any) -> None:
        """Queue a job's images and wait for its answers, or until its client goes away."""
        assert self._loop is not None
        light = [item for item in job.items if item.cost <= TINY_COST]
        heavy = [item for item in job.items if item.cost > TINY_COST]
        for lane, items in ((self.light, light), (self.heavy, heavy)):
            if items:
                self.check_room(sum(item.cost for item in items), lane)
        job.future = self._loop.create_future()
        for lane, items in ((self.light, light), (self.heavy, heavy)):
            if items:
                self._queue(lane, items)
        watcher = _Watcher(self._loop, job, receive)
        try:
            await job.future
        finally:
            job.gone = True
            watcher.stop()

    def _queue(self, lane: Lane, items: Sequence[Item]) -> None:
        lane.put(items)
        if len(items) > FEW:
            lane.wake()
        else:
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        """See to it that what is queued is taken: in the next turn of the loop, or by the worker."""
        if lane is not self.light or lane.pace > QUICK:
            lane.wake()
        elif not self._turn_due and self._loop is not None:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Compute a few tiny images in the event loop, which then takes what came meanwhile."""
        self._turn_due = False
        if batch := self.light.take(min(BATCH_IMAGES, max(1, int(TURN / self.light.pace)))):
            _deliver(self._timed(self.light, batch))
        if self.light.items:
            self._go_on(self.light)

    def _work(self, lane: Lane) -> None:
        while batch := lane.wait():
            finished = self._timed(lane, batch)
            if finished and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_deliver, finished)

    def _timed(self, lane: Lane, batch: Sequence[Item]) -> Finished:
        lane.busy_since = started = time.perf_counter()
        worked = time.thread_time()
        finished = self._compute(lane, batch)
        lane.busy_since = None
        lane.done(batch, time.perf_counter() - started, time.thread_time() - worked)
        return finished

    def _compute(self, lane: Lane, batch: Sequence[Item]) -> Finished:
        """Answer a batch; gives the jobs that have all their answers, or an error for all of them."""
        finished, engine = Finished(), batch[0].job.engine
        wanted = [item for item in batch if not item.job.gone]
        lane.dropped += len(batch) - len(wanted)
        decoded = [item for item in wanted if item.ready or _attempt(item, finished, self._decode)]
        if lane is self.light:
            decoded = self._without_slow(decoded, engine.spec, finished)
        ready = [item for item in decoded if item.ready or _attempt(item, finished, _fit)]
        if not ready:
            return finished
        try:
            pixels = np.stack([item.image for item in ready])  # type: ignore[misc]
            for item, answer in zip(ready, engine.predict(pixels), strict=True):
                _settle(item, answer, finished)
        except Exception as error:
            logger.exception("batch")
            finished += [(item.job, error) for item in ready]
        return finished

    def _decode(self, item: Item) -> None:
        if isinstance(item.image, Upload):
            item.image = decode_for(item.image, item.job.engine.spec, self._max_pixels)

    def _without_slow(self, items: list[Item], spec: InputSpec, finished: Finished) -> list[Item]:
        """Leave to the other lane what takes long to fit, which only shows once it is decoded."""
        slow = slow_to_fit([item.image for item in items if not item.ready], spec)
        kept = []
        for item in items:
            if item.ready or not next(slow):
                if spec.glyph is not None and not item.ready:  # it has the form, and need not be looked at again
                    item.image, item.ready = item.image.transpose(2, 0, 1)[:1], True  # type: ignore[union-attr]
                kept.append(item)
                continue
            try:
                self.check_room(GLYPH_COST, self.heavy)
                self._queue(self.heavy, [Item(item.job, item.index, item.image, GLYPH_COST)])
            except Problem as problem:
                finished.append((item.job, problem))
        return kept


def _fit(item: Item) -> None:
    assert isinstance(item.image, ndarray)
    item.image = fitted(item.image, item.job.engine.spec)


def _attempt(item: Item, finished: Finished, step: Callable[[Item], None]) -> bool:
    """Take a step with an image; false where it failed, which is its answer, or the end of its job."""
    try:
        step(item)
        return True
    except DataError as error:
        _settle(item, problem_entry(error, item.job.names[item.index]), finished)
    except Exception as error:  # a decoder's or our own fault: the others have their answers all the same
        logger.exception("image of a request")
        finished.append((item.job, error))
    return False


class _Watcher:
    """Notices that the client of a job has gone, once the job takes longer than most do."""

    PATIENCE = 0.02  # seconds

    def __init__(self, loop: asyncio.AbstractEventLoop, job: Job, receive: Any) -> None:
        self._job, self._receive = job, receive
        self._task: asyncio.Task[None] | None = None
        self._timer = loop.call_later(self.PATIENCE, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._job.gone = True
        if self._job.future is not None and not self._job.future.done():
            self._job.future.set_exception(Problem(499, "The client has gone"))

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


def _settle(item: Item, answer: dict[str, Any], finished: Finished) -> None:
    """Note an image's answer; with the last one its job is finished."""
    job = item.job
    job.answers[item.index] = answer
    with _COUNTING:
        job.left -= 1
    if not job.left:
        finished.append((job, None))


_COUNTING = threading.Lock()  # one job may have images in both lanes


def _deliver(finished: Finished) -> None:
    for job, error in finished:
        if job.future is not None and not job.future.done():
            if error is None:
                job.future.set_result(None)
            else:
                job.future.set_exception(error if isinstance(error, Problem) else RuntimeError(spelled(repr(error))))
