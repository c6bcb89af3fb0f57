"""Numbered pieces of a build on the workers of a Ray cluster: blocks to encode, or groups of sources to read.

Ray Data hands the numbers to a pool of actors. An actor writes the files of a piece into the build directory, which all
nodes share, and returns facts about it. A piece is complete or absent, and it has the same bytes whoever makes it. So
the death of a worker, a node or the main process costs at most the pieces under way.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from nextvec.core.files import writing
from nextvec.data.store import JOURNAL
from nextvec.distributed.ray_results import error_values, raise_error, reason
from nextvec.errors import InputError, ServerError, StoreError

_MAX_TASKS = 4096
"""Maximum number of Ray tasks; with more pieces than that, a task has several."""
MAX_DEATHS = 5
"""Workers that may die with one piece. Ray would start others for ever, although the piece may be the reason."""
_FRUITLESS_ATTEMPTS = 3
"""Attempts in a row without a single new piece, after which the build ends."""


@dataclass(frozen=True)
class RayJob:
    """A job of a build, as its workers know it."""

    folder: Path
    """The build directory, absolute."""
    arguments: str
    """The arguments of the build as JSON."""
    pieces: Path
    """The folder of the pieces in it, absolute."""
    nextvec: str = field(default=version("nextvec"), kw_only=True)
    max_deaths: int = field(default=MAX_DEATHS, kw_only=True)
    token: str = field(default_factory=lambda: secrets.token_hex(4), kw_only=True)
    """Distinguishes the attempts of this job from those of a killed one."""

    def require_current(self) -> None:
        """Raise StoreError if the folder belongs to another build: a user may have started again after a kill."""
        try:
            journal = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            journal = {}
        if journal.get("arguments") != json.loads(self.arguments):
            raise StoreError(f"{self.folder}: this build has ended, or was started again.")

    def require_node(self) -> None:
        """Raise InputError if this node has another version of nextvec, or does not see the build.

        The nodes were asked when the build started, but others may join at any time.
        """
        if version("nextvec") != self.nextvec:
            raise InputError(f"has nextvec {version('nextvec')}, but the main process has {self.nextvec}.")
        if not self.folder.is_dir():
            raise InputError(
                f"does not see the folder {self.folder}. Choose one on a file system that all nodes share."
            )


Job = TypeVar("Job", bound=RayJob)


class RayWorker(Generic[Job]):
    """An actor that makes pieces. Its errors are values: the user sees their message, and Ray repeats no task."""

    is_able = False
    """Whether this node has everything that the pieces need, so that an error is not one of the node."""

    def __init__(self, job: Job) -> None:
        # Nothing else, because an error of a constructor would be an error of Ray.
        self.job = job

    def facts(self, piece: int) -> dict[str, Any] | None:
        """Return what is known about a complete piece; None if it is missing."""
        raise NotImplementedError

    def make(self, piece: int) -> None:
        """Make a piece; it is on disk when this returns."""
        raise NotImplementedError

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the pieces of a batch; return a line of JSON about each."""
        return {"result": np.array([json.dumps(self._result(int(piece))) for piece in batch["item"]], object)}

    def _result(self, piece: int) -> dict[str, Any]:
        """Make a piece unless it is complete, and return its facts, or the error that prevents it."""
        try:
            self.job.require_node()
            facts = self.facts(piece)
            # Ray repeats the tasks of a node that died, also those whose piece was complete.
            if facts is None:
                with self._counted(piece):
                    self.make(piece)
                facts = self.facts(piece)
            return {"piece": piece, **(facts or {})}
        except Exception as error:
            where = "" if self.is_able else f"Ray node {socket.gethostname()}: "
            return {"piece": piece, **error_values(error, where)}

    @contextmanager
    def _counted(self, piece: int) -> Iterator[None]:
        """Count in a file who begins a piece; only a worker that dies leaves it. Raises ServerError after too many."""
        file = self.job.pieces / f".{piece:06d}-{self.job.token}.tmp"
        with writing(file), file.open("a+") as attempts:
            attempts.write(".")
            count = attempts.tell()
        if count > self.job.max_deaths:
            raise ServerError(
                f"{count - 1} worker{'s' * (count > 2)} died with piece {piece} of the build. Check the nodes' memory."
            )
        try:
            yield
        finally:
            with writing(file):
                file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Pool:
    """The actors of a job."""

    size: int
    """Maximum number."""
    resources: dict[str, float]
    """CPUs and GPUs of each: num_cpus, num_gpus."""


def make_pieces(
    ray: Any, worker: type[RayWorker[Job]], job: Job, missing: Callable[[], list[int]], pool: Pool
) -> Iterator[dict[str, Any]]:
    """Make the missing pieces, and yield the facts of each when it is complete, with its number as ``piece``.

    `missing` returns the numbers of the missing pieces. Raises the error of the first piece that cannot be made,
    ServerError if workers die again and again, StoreError if Ray loses results.
    """
    pending, fruitless = set(missing()), 0
    while pending:
        before = len(missing())
        try:
            for facts in _results(ray, worker, job, sorted(pending), pool):
                pending.discard(facts["piece"])
                yield facts
        except ray.exceptions.RayError as error:
            # The pieces whose answer was lost are complete; their worker only reports them.
            fruitless = 0 if len(missing()) < before else fruitless + 1
            if fruitless == _FRUITLESS_ATTEMPTS:
                raise ServerError(
                    f"Ray cluster: its workers died {fruitless} times without any result ({reason(error)}). "
                    "Check the nodes' memory and Ray's logs."
                ) from error
        else:
            if pending:
                raise StoreError(f"Ray cluster: returned no result for {len(pending):,} pieces of the build.")


def _results(
    ray: Any, worker: type[RayWorker[Job]], job: Job, pieces: list[int], pool: Pool
) -> Iterator[dict[str, Any]]:
    """Run one Ray Data job, and yield the facts of pieces. Raises the error of the lowest piece that has one."""
    pending, errors = set(pieces), dict[int, dict[str, Any]]()
    size = min(pool.size, len(pieces))
    # An idle actor is given up for one that lost its node, and actors that do not fit yet wait for new nodes.
    strategy = {"min_size": 1, "max_size": size, "initial_size": size, "max_tasks_in_flight_per_actor": 2}
    with _quiet_data(ray):
        dataset = ray.data.from_items(pieces, override_num_blocks=min(len(pieces), _MAX_TASKS)).map_batches(
            worker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(**strategy),
            **pool.resources,
        )
        for row in dataset.iter_rows():
            result = json.loads(row["result"])
            pending.discard(result["piece"])
            if "error" in result:
                errors[result["piece"]] = result
            else:
                yield result
            # As without Ray, the error of the lowest piece is the one that is reported.
            if errors and not any(piece < min(errors) for piece in pending):
                raise_error(errors[min(errors)])


@contextmanager
def _quiet_data(ray: Any) -> Iterator[None]:
    """Use Ray Data without its progress bars and messages; its log files remain."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    # All handlers that write to a stream and not to a file.
    handlers = [h for h in logging.getLogger("ray.data").handlers if h.__class__.__name__ == "PlainRayHandler"]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
