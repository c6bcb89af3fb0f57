"""The steps of a suite as tasks of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nextvec.core.run_paths import RECIPE_FILE
from nextvec.experiments.ray_options import RayOptions
from nextvec.experiments.ray_runs import Call, RayRuns, open_ray_runs
from nextvec.experiments.suite_state import RecoveryLog, Step
from nextvec.experiments.suite_steps import begin_step, compare, compare_steps, recipe_of, train_step
from nextvec.recipe import load_recipe


def run_steps(
    log: RecoveryLog, steps: Sequence[Step], options: RayOptions, *, device: str, force: bool, trackers: Sequence[str]
) -> None:
    """Train or resume steps on a Ray cluster, then compare all models there. Errors are those of the same steps here.

    Raises Interrupted after a signal; the runs have then saved their states.
    """
    with open_ray_runs(options, log.folder, [recipe_of(log, step) for step in steps], "a suite") as runs:
        runs.complete(_Training(log, steps, runs, force=force, trackers=trackers))

        def call(paths: tuple[str, ...], **arguments: Any) -> None:
            # The comparison evaluates every model, so it needs what the largest run needs.
            needed = [runs.resources(load_recipe(Path(path) / RECIPE_FILE)) for path in paths]
            largest = max(needed, key=lambda resources: (resources["gpus"], resources["cpus"]))
            arguments |= {"runs": paths, "quiet": True}
            runs.complete(_Comparison(Call("comparison", compare, arguments, log.folder, "comparison", **largest)))

        compare_steps(log, device, call)


class _Training:
    """The training steps; see `Work`."""

    def __init__(
        self, log: RecoveryLog, steps: Sequence[Step], runs: RayRuns, *, force: bool, trackers: Sequence[str]
    ) -> None:
        self._log, self._runs, self._force, self._trackers = log, runs, force, trackers
        self._waiting = deque(steps)
        self._running: dict[Any, Step] = {}

    def next_call(self) -> Call | None:
        while self._waiting:
            step = begin_step(self._log, self._waiting.popleft(), force=self._force, reason="queued on the cluster")
            if step is None:
                continue
            self._running[step.key] = step
            # The function is the one that trains the step without Ray.
            path, recipe = self._log.folder / step.run, recipe_of(self._log, step)
            options = {"force": self._force, "trackers": self._trackers, "quiet": True}
            arguments = {"recipe": recipe, "path": path, **options}
            return Call(f"run {path}", train_step, arguments, path, step.key, **self._runs.resources(recipe))
        return None

    def started(self, call: Call, place: str) -> None:
        self._change(call, reason=f"running on {place}")

    def ended(self, call: Call, value: dict[str, Any]) -> None:
        self._change(call, **value)

    def lost(self, call: Call, reason: str) -> None:
        # The next attempt resumes from the saved state, or starts again in a new folder if there is none.
        self._waiting.appendleft(self._change(call, reason=reason))

    def interrupted(self, call: Call, reason: str) -> None:
        self._change(call, reason=reason)

    def _change(self, call: Call, **changes: Any) -> Step:
        step = self._running[call.key] = self._log.change(self._running[call.key], **changes)
        return step


class _Comparison:
    """The comparison alone; see `Work`."""

    def __init__(self, call: Call) -> None:
        self._waiting: Call | None = call

    def next_call(self) -> Call | None:
        call, self._waiting = self._waiting, None
        return call

    def started(self, call: Call, place: str) -> None:
        pass

    def ended(self, call: Call, value: Any) -> None:
        pass

    def lost(self, call: Call, reason: str) -> None:
        self._waiting = call

    def interrupted(self, call: Call, reason: str) -> None:
        pass
