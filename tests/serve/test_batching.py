"""Batches, lanes and refusals, with a stand-in for the model."""

import asyncio
import threading
import time

import numpy as np
import pytest

from imprint.preprocessing.glyph import GlyphForm
from imprint.preprocessing.input_spec import InputSpec
from imprint.serve.batching import BATCH_IMAGES, FEW, HEAVY_LIMIT, QUICK, TURN, Batcher, Job
from imprint.serve.bodies import Numbers, Upload
from imprint.serve.engine import Engine
from imprint.serve.predicting import GLYPH_COST, TINY_COST, estimate_cost
from imprint.serve.problems import Problem
from serve_helpers import png

SPEC = InputSpec(1, (8, 8), (8, 8), GlyphForm(8, 8, 0, 255, 6.0, "mass", 3.5, 3.5, 1.0))
INK = np.zeros((8, 8), dtype=np.uint8)
INK[2:6, 3:5] = 255
TINY, LARGE = Upload("tiny", png(INK)), Upload("large", png(np.full((300, 300), 255, dtype=np.uint8)))


class Slow(Engine):
    """An engine that notes its batches, and waits until it may answer."""

    def __init__(self, spec=SPEC, digest="a"):
        self.spec, self.digest, self.batches, self.go = spec, digest, [], threading.Event()
        self.class_names = ("0", "1")

    def predict(self, pixels):
        self.batches.append(len(pixels))
        assert self.go.wait(10)
        return [{"label": self.digest, "first": int(image.flat[0])} for image in pixels]


async def never():
    await asyncio.sleep(60)


def served(work):
    """Run something with a batcher that is started, and end its workers."""

    async def run():
        batcher = Batcher(10**6)
        batcher.start()
        try:
            return await asyncio.wait_for(work(batcher), 20)
        finally:
            batcher.stop()

    return asyncio.run(run())


def test_what_queued_while_it_was_busy_makes_a_batch():
    engine = Slow()

    async def work(batcher):
        jobs = [Job([TINY], engine) for _ in range(100)]
        first = asyncio.ensure_future(batcher.answer(jobs[0], never))
        while not engine.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(batcher.answer(job, never)) for job in jobs[1:]]
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(first, *others)
        assert all(next(job.named_answers())["label"] == "a" for job in jobs)

    served(work)
    assert engine.batches[0] == 1
    assert sum(engine.batches) == 100
    assert max(engine.batches) == BATCH_IMAGES
    assert len(engine.batches) <= 6


class Timed(Slow):
    """An engine that takes a while, and notes the thread in which it answers."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.go.set()
        self.seconds, self.threads = seconds, []

    def predict(self, pixels):
        self.threads.append(threading.current_thread().name)
        until = time.thread_time() + self.seconds
        while time.thread_time() < until:
            pass
        return super().predict(pixels)


def test_tiny_images_of_a_quick_model_are_computed_in_the_event_loop():
    engine = Timed()

    async def work(batcher):
        for pace, thread in ((None, "imprint-tiny"), (QUICK / 2, "MainThread"), (QUICK * 2, "imprint-tiny")):
            batcher.light.pace = pace or batcher.light.pace
            await batcher.answer(Job([TINY], engine), never)
            assert engine.threads.pop() == thread
        batcher.light.pace = QUICK / 2
        await batcher.answer(Job([TINY], Timed(10 * QUICK)), never)
        assert batcher.light.pace > QUICK  # one batch tells that it is quick no more

    served(work)


def test_many_tiny_images_of_a_request_are_the_workers():
    engine = Timed()

    async def work(batcher):
        batcher.light.pace = QUICK / 2
        await batcher.answer(Job([TINY] * (FEW + 1), engine), never)
        assert engine.batches == [FEW + 1]
        assert engine.threads == ["imprint-tiny"]

    served(work)


def test_the_event_loop_computes_a_few_images_and_takes_what_came_meanwhile():
    engine = Timed()

    async def work(batcher):
        batcher.light.pace = TURN / 5
        tasks = [asyncio.ensure_future(batcher.answer(Job([TINY], engine), never)) for _ in range(12)]
        await asyncio.sleep(0)
        batcher._turn()
        assert engine.batches == [5]
        batcher.light.pace = 2 * QUICK  # from now on it is the worker's
        batcher._turn()
        await asyncio.gather(*tasks)
        assert sum(engine.batches) == 12
        assert "imprint-tiny" in engine.threads  # the loop may take an image more before that

    served(work)


def test_large_images_hold_up_no_tiny_ones():
    slow, quick = Slow(), Slow(digest="b")
    quick.go.set()

    async def work(batcher):
        large = asyncio.ensure_future(batcher.answer(Job([LARGE], slow), never))
        while not slow.batches:
            await asyncio.sleep(0.001)
        await batcher.answer(Job([TINY], quick), never)  # while the other lane is busy
        assert not large.done()
        slow.go.set()
        await large

    served(work)


def test_a_tiny_image_without_the_models_form_goes_to_the_other_lane():
    engine = Slow()
    engine.go.set()
    noisy = Upload("noisy", png(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)))

    async def work(batcher):
        job = Job([noisy, TINY, LARGE], engine)
        assert [item.cost > TINY_COST for item in job.items] == [False, False, True]
        await batcher.answer(job, never)
        assert (batcher.light.images, batcher.heavy.images) == (2, 2)
        assert [one["source"] for one in job.named_answers()] == ["noisy", "tiny", "large"]
        assert all("label" in one for one in job.named_answers())

    served(work)


def test_more_than_a_second_of_work_is_refused_with_when_to_come_back():
    engine = Slow()

    async def work(batcher):
        jobs = [Job([LARGE], engine) for _ in range(round(HEAVY_LIMIT / GLYPH_COST) + 10)]
        waiting, refused = [], []
        for job in jobs:
            task = asyncio.ensure_future(batcher.answer(job, never))
            await asyncio.sleep(0)
            (refused if task.done() else waiting).append(task)
        assert len(refused) >= 9
        for task in refused:
            problem = task.exception()
            assert (problem.status, problem.title) == (503, "Overloaded")
            assert int(problem.headers["Retry-After"]) >= 1
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(*waiting)
        await batcher.answer(Job([LARGE], engine), never)  # there is room again

    served(work)


def test_one_request_that_is_larger_than_the_limit_is_answered():
    engine = Slow()
    engine.go.set()

    async def work(batcher):
        job = Job([LARGE] * 64, engine)
        job.items[0].cost = 10.0
        await batcher.answer(job, never)

    served(work)


def test_what_nobody_waits_for_is_not_computed():
    engine = Slow()

    async def work(batcher):
        async def gone():
            return {"type": "http.disconnect"}

        first = asyncio.ensure_future(batcher.answer(Job([TINY], engine), never))
        while not engine.batches:
            await asyncio.sleep(0.001)
        with pytest.raises(Problem, match="gone"):
            await batcher.answer(Job([TINY], engine), gone)
        engine.go.set()
        await first
        await batcher.answer(Job([TINY], engine), never)
        assert batcher.light.dropped == 1

    served(work)
    assert sum(engine.batches) == 2


def test_requests_under_way_keep_their_model():
    old, new = Slow(digest="old"), Slow(digest="new")
    new.go.set()

    async def work(batcher):
        first = Job([TINY], old)
        tasks = [asyncio.ensure_future(batcher.answer(first, never))]
        while not old.batches:
            await asyncio.sleep(0.001)
        jobs = [Job([TINY], engine) for engine in (old, new, old)]
        tasks += [asyncio.ensure_future(batcher.answer(job, never)) for job in jobs]
        await asyncio.sleep(0)
        old.go.set()
        await asyncio.gather(*tasks)
        assert [job.answers[0]["label"] for job in jobs] == ["old", "new", "old"]

    served(work)


def test_a_failure_is_that_of_its_batch_alone():
    broken, good = Slow(digest="broken"), Slow()
    broken.predict = lambda pixels: 1 / 0
    good.go.set()

    async def work(batcher):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            await batcher.answer(Job([TINY], broken), never)
        await batcher.answer(Job([TINY], good), never)

    served(work)


def test_numbers_in_the_models_form_are_tiny_and_others_are_not():
    engine = Slow()
    pixels = np.stack([INK, INK, np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)])
    job = Job([Numbers("", pixels), Numbers("", np.zeros((100, 100), dtype=np.uint8))], engine)
    assert [item.ready for item in job.items] == [True, True, False, False]
    assert [item.cost == TINY_COST for item in job.items] == [True, True, False, False]
    assert job.cost > GLYPH_COST


def test_costs_are_told_by_the_header():
    photos = InputSpec(3, (128, 128), (128, 128))
    assert estimate_cost(TINY, SPEC) == TINY_COST
    assert estimate_cost(LARGE, SPEC) > GLYPH_COST
    assert estimate_cost(TINY, photos) > TINY_COST
    large = Upload("", b"\xff\xd8" + b"\0" * 10**6)
    assert estimate_cost(large, photos) > 10 * estimate_cost(TINY, photos)


def test_a_worker_that_has_ended_or_is_stuck_shows(monkeypatch):
    engine = Slow()

    async def work(batcher):
        assert batcher.is_healthy
        task = asyncio.ensure_future(batcher.answer(Job([TINY], engine), never))
        while not engine.batches:
            await asyncio.sleep(0.001)
        assert batcher.is_healthy
        monkeypatch.setattr("imprint.serve.batching.STUCK", 0.0)
        assert not batcher.is_healthy
        monkeypatch.undo()
        engine.go.set()
        await task
        batcher.light.close()
        for _ in range(200):
            if not batcher.is_healthy:
                break
            await asyncio.sleep(0.01)
        assert not batcher.is_healthy

    served(work)


def test_an_idle_batcher_ends():
    before = threading.active_count()
    served(lambda batcher: asyncio.sleep(0.01))
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.02)
    assert threading.active_count() <= before + 1  # asyncio's own may stay
