"""Micro-batches: one thread runs the model for the requests of all clients together.

While a batch runs, new work waits; it then runs together as the next batch. New work is handed to the thread when the
event loop has read everything that has arrived: at once if there is one client, in large batches if there are many. A
context costs the model a third as much in a batch of 64 as in a batch of 8.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nextvec.serving.errors import RequestError
from nextvec.serving.limits import MAX_QUEUED, RETRY_AFTER

MAX_BATCH = 256
"""Contexts or texts of a batch: larger ones are no faster per context, and all their clients wait longer."""
WAIT_SECONDS = 0.02
"""The longest time that work waits for other requests to be read. Only many clients together can cause it."""
HANDOVER_STEPS = 3
"""Rounds of the event loop in which a request that has arrived is read, starts to run, and submits its work."""


class Work(Protocol):
    """What a request asks the model for. Work of one type runs together."""

    @property
    def size(self) -> int:
        """The number of contexts or texts."""


@dataclass(eq=False)
class Job:
    """Work in the queue, and the future of its result."""

    work: Work
    future: asyncio.Future[Any]
    batch_size: int = 0
    """Number of requests that ran together; 0 before the work has run."""


Run = Callable[[Sequence[Any]], list[Any]]
"""Runs work of one type; returns a result or an exception for each."""


class Batcher:
    """A bounded queue of work and the thread that runs it. All methods are called in the event loop's thread."""

    def __init__(self, run: Run, *, observe: Callable[[int, int], None] = lambda requests, size: None) -> None:
        """Run batches by `run`; `observe` gets the number of requests of each batch, and of its contexts or texts."""
        self._run, self._observe = run, observe
        self._arriving: list[Job] = []
        self._arrived = 0.0
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="nextvec-model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of requests that wait."""
        return len(self._queue) + len(self._arriving)

    def submit(self, work: Work) -> Job:
        """Put work in the queue. Raises RequestError (503) if the queue is full or the service stops."""
        if self._is_closed:
            raise RequestError("The service is stopping.", 503, RETRY_AFTER)
        if len(self) >= MAX_QUEUED:
            raise RequestError("The service is busy: the queue is full. Try again later.", 503, RETRY_AFTER)
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future())
        self._arriving.append(job)
        if len(self._arriving) == 1:
            self._arrived = loop.time()
            loop.call_soon(self._step, loop, HANDOVER_STEPS)
        elif loop.time() - self._arrived > WAIT_SECONDS:
            self._hand_over()
        return job

    def _step(self, loop: asyncio.AbstractEventLoop, rest: int) -> None:
        """Let the event loop run what has arrived, then hand all work over."""
        if rest > 1:
            loop.call_soon(self._step, loop, rest - 1)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the thread the work that has arrived."""
        with self._changed:
            self._queue.extend(self._arriving)
            self._arriving.clear()
            self._changed.notify()

    def close(self) -> None:
        """Refuse new work and what still waits, and end the thread after its current batch."""
        with self._changed:
            waiting, self._is_closed = [*self._queue, *self._arriving], True
            self._queue.clear()
            self._arriving.clear()
            self._changed.notify()
        for job in waiting:
            if not job.future.done():
                job.future.set_exception(RequestError("The service is stopping.", 503, RETRY_AFTER))

    def _work(self) -> None:
        """Run batches until the batcher is closed; the body of the thread."""
        while jobs := self._take():
            results = self._run_all([job.work for job in jobs])
            size = sum(job.work.size for job in jobs)
            self._observe(len(jobs), size)
            # One call wakes the event loop for all requests of the batch. After the end of the loop nobody waits.
            loop = jobs[0].future.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, jobs, results)

    def _run_all(self, works: list[Work]) -> list[Any]:
        """Run a batch. If it fails as a whole, run its work one by one, so that only the cause fails."""
        try:
            return self._run(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
        return [result for work in works for result in self._run_all([work])]

    def _take(self) -> list[Job]:
        """Wait for work; return the oldest and others of its type. Returns nothing if the batcher is closed."""
        with self._changed:
            while True:
                while not self._queue and not self._is_closed:
                    self._changed.wait()
                taken = self._pop_batch()
                if taken or self._is_closed:
                    return taken

    def _pop_batch(self) -> list[Job]:
        """Remove the oldest work, and as much of its type as fits in a batch, from the queue."""
        taken: list[Job] = []
        kept: deque[Job] = deque()
        size = 0
        for job in self._queue:
            # Nobody waits for a request whose client has gone.
            if job.future.cancelled():
                continue
            fits = not taken or (type(job.work) is type(taken[0].work) and size + job.work.size <= MAX_BATCH)
            (taken if fits else kept).append(job)
            size += job.work.size if fits else 0
        self._queue = kept
        return taken


def _deliver(jobs: Sequence[Job], results: Sequence[Any]) -> None:
    """Hand the results of a batch to the requests."""
    for job, result in zip(jobs, results, strict=True):
        job.batch_size = len(jobs)
        if job.future.done():
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
