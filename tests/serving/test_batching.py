"""Micro-batches: what runs together, that it does not change results, and what a full or closed queue refuses."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from nextvec.serving import batching
from nextvec.serving.batching import Batcher
from nextvec.serving.errors import RequestError
from nextvec.serving.work import PredictWork, TextWork


@dataclass(eq=False)
class Item:
    value: int
    size: int = 1


class Other(Item):
    pass


class Runner:
    """Doubles numbers; a negative one fails the whole batch. The first batch waits until `release` is set."""

    def __init__(self):
        self.batches, self.release = [], threading.Event()

    def __call__(self, works):
        self.batches.append([work.value for work in works])
        assert self.release.wait(10)
        if min(work.value for work in works) < 0:
            raise ValueError("negative")
        return [2 * work.value for work in works]


def run(test):
    """Run a coroutine with a runner and a batcher."""

    async def outer():
        runner = Runner()
        batcher = Batcher(runner)
        try:
            await test(runner, batcher)
        finally:
            runner.release.set()
            batcher.close()

    # In a thread of its own: the main one may have an event loop, which a browser of another test uses.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, outer()).result()


async def started(runner, count=1):
    """Wait until a number of batches has started."""
    while len(runner.batches) < count:
        await asyncio.sleep(0.001)


def test_work_that_waits_runs_together_by_type_and_size(monkeypatch):
    monkeypatch.setattr(batching, "MAX_BATCH", 6)

    async def test(runner, batcher):
        first = batcher.submit(Item(0))
        await started(runner)
        items = [Item(1, 3), Other(2), Item(3, 3), Item(4), Other(5), Item(6, 99)]
        jobs = [batcher.submit(item) for item in items]
        assert len(batcher) == 6
        runner.release.set()
        assert await asyncio.gather(first.future, *(job.future for job in jobs)) == [0, 2, 4, 6, 8, 10, 12]
        assert runner.batches == [[0], [1, 3], [2, 5], [4], [6]] and len(batcher) == 0
        assert [job.batch_size for job in jobs] == [2, 2, 2, 1, 2, 1]

    run(test)


def test_only_the_cause_of_an_error_fails():
    async def test(runner, batcher):
        first = batcher.submit(Item(0))
        await started(runner)
        jobs = [batcher.submit(Item(value)) for value in (1, -1, 2)]
        runner.release.set()
        results = await asyncio.gather(first.future, *(job.future for job in jobs), return_exceptions=True)
        assert results[:2] == [0, 2] and isinstance(results[2], ValueError) and results[3] == 4

    run(test)


def test_work_of_a_client_that_has_gone_is_not_run():
    async def test(runner, batcher):
        first = batcher.submit(Item(0))
        await started(runner)
        jobs = [batcher.submit(Item(value)) for value in (1, 2)]
        jobs[0].future.cancel()
        await asyncio.sleep(0.01)
        runner.release.set()
        await asyncio.gather(first.future, jobs[1].future)
        assert runner.batches == [[0], [2]]

    run(test)


def test_a_full_and_a_closed_queue_refuse_work(monkeypatch):
    monkeypatch.setattr(batching, "MAX_QUEUED", 3)

    async def test(runner, batcher):
        first = batcher.submit(Item(0))
        await started(runner)
        jobs = [batcher.submit(Item(value)) for value in range(3)]
        with pytest.raises(RequestError, match="the queue is full") as refused:
            batcher.submit(Item(9))
        assert refused.value.status == 503 and refused.value.headers == {"retry-after": "1"}
        batcher.close()
        with pytest.raises(RequestError, match="is stopping"):
            batcher.submit(Item(9))
        runner.release.set()
        results = await asyncio.gather(first.future, *(job.future for job in jobs), return_exceptions=True)
        assert results[0] == 0, "the batch that runs is finished"
        assert all(isinstance(result, RequestError) and result.status == 503 for result in results[1:])

    run(test)


def test_the_batch_does_not_change_a_prediction(service, vectors):
    runner = service.runner
    works = [PredictWork(list(vectors(1 + number % 3, 1 + number % 4, seed=number))) for number in range(40)]
    together = runner.run(works)
    for work, result in zip(works, together, strict=True):
        alone = runner.run([work])[0]
        np.testing.assert_allclose(result.prediction_ND, alone.prediction_ND, atol=1e-6)
        np.testing.assert_allclose(result.query_ND, alone.query_ND, atol=1e-6)


def test_the_batch_does_not_change_what_is_said_of_a_text(service, paragraphs):
    runner = service.runner
    tasks = ("next", "score", "generate", "next", "score")
    works = [TextWork(task, paragraphs[n : n + 3], 2) for n, task in enumerate(tasks)]
    bad = TextWork("next", ["a", " "], 2)
    together = runner.run([*works[:2], bad, *works[2:]])
    assert "text 1: is empty" in str(together.pop(2))
    for work, result in zip(works, together, strict=True):
        assert numbers(result) == pytest.approx(numbers(runner.run([work])[0]), abs=1e-5)


def numbers(value):
    """Return all numbers of a result, in order."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []
