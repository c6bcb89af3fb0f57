"""Runs on a Ray cluster: each is one task, and a lost one starts again on another node, from its last saved state.

    with open_ray_runs(options, folder, recipes, "a suite") as runs:
        runs.complete(work)

The folder is on a file system that all nodes share. What a task does is what the sequential engine does for one run, so
run folders, results and exit codes are the same.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from nextvec.core.device import available_cores
from nextvec.core.run_paths import RESUME_STATE
from nextvec.distributed.ray_cluster import ray_cluster
from nextvec.distributed.ray_nodes import check_nodes, require_folder
from nextvec.distributed.ray_results import error_values, raise_error
from nextvec.errors import InputError, Interrupted, NextvecError, OutputError, one_line
from nextvec.experiments.ray_options import RayOptions
from nextvec.recipe import Recipe
from nextvec.training.run import RunLock
from nextvec.training.signals import stop_signals

POLL_SECONDS = 0.5
"""How long the driver waits for news before it sees whether a signal has arrived."""
SAVE_SECONDS = 10.0
"""How long a run may take to save its state after a signal. Then it is interrupted at once, and resumes from an earlier
state."""
KILL_SECONDS = 5.0
"""How long a run may then take to end, before its process is killed."""
LOCK_SECONDS = 60.0
"""How long a run waits for the lock of its folder: Ray takes some time to end the processes of a killed driver."""
MAX_LOSSES = 3
"""Losses of a run in a row, without a new saved state in between, that end the job: the run itself is the reason."""


class WorkerLostError(NextvecError):
    """The process of a run was lost again and again."""

    exit_code = 1


@dataclass(frozen=True)
class Call:
    """A function call that the cluster makes; its errors of type NextvecError are raised by the driver."""

    name: str
    """Such as "run demo", for messages."""
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    folder: Path
    """The folder of the run, which only one process at a time may use."""
    key: Hashable
    """The same for all attempts."""
    cpus: int = 1
    gpus: float = 0.0


class Work(Protocol):
    """The calls of a job, and what the driver notes about them."""

    def next_call(self) -> Call | None:
        """Return the next call to start; None if there is none now."""

    def started(self, call: Call, place: str) -> None:
        """Note that a call runs, and where."""

    def ended(self, call: Call, value: Any) -> None:
        """Note what a call returned."""

    def lost(self, call: Call, reason: str) -> None:
        """Note that a call's process was lost. `next_call` must return the call again."""

    def interrupted(self, call: Call, reason: str) -> None:
        """Note that a call ended early, because the job ends."""


@dataclass
class _Task:
    """A call on the cluster."""

    call: Call
    results: Any
    """Ray's generator: the place of the process, then the outcome."""
    place: str = ""


@dataclass
class RayRuns:
    """Makes calls on a cluster; see `open_ray_runs`."""

    ray: Any
    options: RayOptions
    folder: Path
    _tasks: list[_Task] = field(default_factory=list)
    _losses: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    """Key of a call → losses in a row, and the time of the saved state at the last one."""

    @property
    def has_gpus(self) -> bool:
        """Whether a node of the cluster has a GPU."""
        return any(resources.get("GPU") for resources in self._nodes())

    def resources(self, recipe: Recipe) -> dict[str, Any]:
        """Return the CPUs and the share of a GPU of a run, as arguments of `Call`."""
        return {"cpus": self.options.cpus(recipe), "gpus": self.options.gpus(recipe, self.has_gpus)}

    def capacity(self, cpus: int, gpus: float) -> int:
        """Return how many calls the cluster can run at a time."""
        count = 0
        for resources in self._nodes():
            places = int(resources.get("CPU", 0) // cpus)
            if gpus:
                # A share of a GPU is on one GPU: of 0.3, three fit on each.
                number = resources.get("GPU", 0)
                places = min(places, int(number // gpus if gpus >= 1 else number * (1 // gpus)))
            count += places
        return count

    def require_room(self, recipe: Recipe) -> None:
        """Raise InputError if no node is large enough for a run."""
        resources = self.resources(recipe)
        if self.capacity(**resources):
            return
        needed = f"{resources['cpus']} CPUs" + (f" and {resources['gpus']:g} GPUs" if resources["gpus"] else "")
        raise InputError(
            f"recipe {recipe.name}: no node of the Ray cluster has {needed}. Add one, or lower --cpus-per-run or "
            "--gpus-per-run."
        )

    def complete(self, work: Work) -> None:
        """Make the calls of a job until it has no more.

        Raises Interrupted after a signal, WorkerLostError if a call's process is lost again and again, and the first
        NextvecError of a call. The other calls are then stopped, and their runs save their states.
        """
        with stop_signals() as stop:
            try:
                while True:
                    self._start_calls(work)
                    # Nothing runs, and nothing is left to start.
                    if not self._tasks:
                        return
                    for task in self._with_news(POLL_SECONDS):
                        self._read(task, work)
                    if stop.is_set():
                        raise Interrupted("interrupted")
            except BaseException as error:
                self._stop(work, "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "stopped")
                raise

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _start_calls(self, work: Work) -> None:
        """Start as many calls as there is room for; at least one waits for a node if all of them are lost."""
        while True:
            if self._tasks and len(self._tasks) >= self._limit(self._tasks[0].call):
                return
            call = work.next_call()
            if call is None:
                return
            # No retries by Ray: the driver notes each loss, and decides from the run's folder how it continues.
            remote = self.ray.remote(_execute).options(
                num_cpus=call.cpus, num_gpus=call.gpus, num_returns="streaming", max_retries=0
            )
            self._tasks.append(_Task(call, remote.remote(call, str(self.folder.resolve()), str(Path.cwd()))))

    def _limit(self, call: Call) -> int:
        """Return how many calls like this one run at a time. The cluster may have grown or shrunk."""
        return self.options.concurrency or self.capacity(call.cpus, call.gpus)

    def _with_news(self, seconds: float) -> list[_Task]:
        """Wait for the next result of any task, and return the tasks that have one."""
        ready, _ = self.ray.wait([task.results for task in self._tasks], timeout=seconds)
        return [task for task in self._tasks if task.results in ready]

    def _read(self, task: _Task, work: Work) -> None:
        """Read the next result of a task."""
        errors = self.ray.exceptions
        try:
            result = self.ray.get(next(task.results))
        except errors.RayError as error:
            self._tasks.remove(task)
            cause = getattr(error, "cause", None) or error
            if isinstance(error, errors.RayTaskError) and not isinstance(cause, errors.TaskCancelledError):
                work.interrupted(task.call, one_line(cause))
                raise cause from error
            self._note_loss(task, work, _reason_of_loss(errors, cause))
            return
        # The first result says that the call has begun, and where.
        if not task.place:
            task.place = result
            work.started(task.call, task.place)
            return
        self._tasks.remove(task)
        try:
            raise_error(result)
        except Interrupted:
            # A signal to the process alone: its node is being shut down.
            self._note_loss(task, work, "its process was told to end")
        except NextvecError as error:
            work.interrupted(task.call, str(error))
            raise
        else:
            work.ended(task.call, result["value"])

    def _note_loss(self, task: _Task, work: Work, reason: str) -> None:
        """Note a loss. Raises WorkerLostError if the run has been lost too often without any progress."""
        key, place = task.call.key, task.place or "the cluster"
        # A state saved since the last loss is progress: the run can end, however often it is lost.
        state = task.call.folder / RESUME_STATE
        saved = state.stat().st_mtime_ns if state.is_file() else 0
        before, saved_before = self._losses.get(key, (0, 0))
        losses = before + 1 if saved == saved_before else 1
        self._losses[key] = losses, saved
        work.lost(task.call, f"lost on {place}: {reason}")
        if losses >= MAX_LOSSES:
            raise WorkerLostError(
                f"{task.call.name}: lost {losses} times without progress, last on {place} ({reason}). Check the memory "
                "of its node, and run the command again."
            )

    def _stop(self, work: Work, reason: str) -> None:
        """Stop all tasks: their runs save their states, or are interrupted at once, or are killed."""
        try:
            # As with Ctrl-C: the first signal lets a run save its state, the second one ends it at once.
            for seconds in (SAVE_SECONDS, KILL_SECONDS):
                for task in self._tasks:
                    self.ray.cancel(task.results)
                self._await_ends(work, reason, time.monotonic() + seconds)
        finally:
            for task in self._tasks:
                self.ray.cancel(task.results, force=True)
                work.interrupted(task.call, reason)
            self._tasks.clear()

    def _await_ends(self, work: Work, reason: str, deadline: float) -> None:
        """Wait until all tasks have ended, or until the deadline."""
        while self._tasks and time.monotonic() < deadline:
            for task in self._with_news(POLL_SECONDS):
                try:
                    result = self.ray.get(next(task.results))
                except (self.ray.exceptions.RayError, StopIteration):
                    result = None
                if isinstance(result, str) and not task.place:
                    task.place = result  # the task had started just before
                    continue
                self._tasks.remove(task)
                work.interrupted(task.call, reason)


@contextmanager
def open_ray_runs(options: RayOptions, folder: Path, recipes: Sequence[Recipe], purpose: str) -> Iterator[RayRuns]:
    """Connect to a cluster, and yield what makes calls on it.

    Raises MissingExtraError without Ray, ServerError if the cluster does not answer, InputError if a node can't be used
    or if no node is large enough for a recipe.
    """
    with ray_cluster(options.address or None, f"{purpose} with --engine ray") as ray:
        runs = RayRuns(ray, options, folder)
        for recipe in recipes:
            runs.require_room(recipe)
        check_nodes(ray, folder)
        yield runs


def _reason_of_loss(errors: Any, error: Exception) -> str:
    """Return why Ray lost a task, in a few words if it is one of the usual reasons."""
    reasons = {
        errors.NodeDiedError: "the node is gone",
        errors.OutOfMemoryError: "the node was out of memory",
        errors.WorkerCrashedError: "its process died",
        errors.TaskCancelledError: "its task was canceled",
    }
    return reasons.get(type(error)) or one_line(error)


def _execute(call: Call, folder: str, working_folder: str) -> Iterator[Any]:
    """Make a call on a node: yield the place of this process, then the value or the error (see `ray_results`)."""
    yield f"{socket.gethostname()} (process {os.getpid()})"
    try:
        require_folder(Path(folder))
        # Relative paths in recipes start at the driver's working folder, if this node has it.
        with chdir(working_folder) if Path(working_folder).is_dir() else nullcontext():
            # Ray doesn't limit the CPUs of a task. A recipe with runtime.threads sets its own number.
            torch.set_num_threads(min(call.cpus, available_cores()))
            _await_lock(call.folder)
            value = call.function(**call.arguments)
    except NextvecError as error:
        yield error_values(error)
    else:
        yield {"value": value}


def _await_lock(folder: Path) -> None:
    """Wait while another process trains in a run folder: one of a killed driver, or on a node that seemed lost."""
    deadline = time.monotonic() + LOCK_SECONDS
    while folder.is_dir() and time.monotonic() < deadline:
        try:
            RunLock(folder).release()
            return
        except OutputError:
            time.sleep(POLL_SECONDS)
