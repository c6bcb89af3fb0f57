"""The trials of a sweep as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nextvec.core.console import show
from nextvec.core.formatting import format_number
from nextvec.experiments.ray_options import RayOptions
from nextvec.experiments.ray_runs import Call, RayRuns, open_ray_runs
from nextvec.experiments.sweep_trials import Outcome, TrialPlan, run_trial, trial_folder
from nextvec.recipe import Recipe

if TYPE_CHECKING:
    import optuna


def run_trials(plan: TrialPlan, recipe: Recipe, options: RayOptions, *, trackers: Sequence[str], quiet: bool) -> None:
    """Run the trials of a sweep on a Ray cluster, several at a time. Errors are those of the same trials here.

    Raises Interrupted after a signal; the runs have then saved their states.
    """
    with open_ray_runs(options, plan.folder, [recipe], "a sweep") as runs:
        runs.complete(_Trials(plan, runs, trackers=trackers, quiet=quiet))


class _Trials:
    """The trials; see `Work`."""

    def __init__(self, plan: TrialPlan, runs: RayRuns, *, trackers: Sequence[str], quiet: bool) -> None:
        self._plan, self._runs, self._trackers, self._quiet = plan, runs, trackers, quiet
        self._running: dict[Any, optuna.Trial] = {}

    def next_call(self) -> Call | None:
        trial = self._plan.next_trial(running=tuple(self._running))
        if trial is None:
            return None
        # The worker opens the study by its folder, and finds the trial by its id: objects of optuna do not travel.
        self._running[trial.number] = trial
        recipe, path = self._plan.recipe(trial), trial_folder(self._plan.folder, trial.number)
        arguments = {"folder": self._plan.folder, "trial_id": trial._trial_id, "recipe": recipe}
        arguments |= {"trackers": self._trackers, "quiet": True}
        return Call(f"run {path}", run_trial, arguments, path, trial.number, **self._runs.resources(recipe))

    def started(self, call: Call, place: str) -> None:
        self._show(call, f"running on {place}")

    def ended(self, call: Call, value: Outcome) -> None:
        self._plan.finish(self._running.pop(call.key), value)
        gain = format_number(value.val_gain, "+.4f")
        self._show(call, f"pruned: {value.reason}" if value.val_gain is None else f"complete, val gain {gain}")

    def lost(self, call: Call, reason: str) -> None:
        # The study keeps the trial as running: it is the next one, with the same values, from its saved state.
        trial = self._running.pop(call.key)
        trial.set_user_attr("lost", [*trial.user_attrs.get("lost", []), reason])
        self._show(call, reason)

    def interrupted(self, call: Call, reason: str) -> None:
        self._show(call, reason)

    def _show(self, call: Call, text: str) -> None:
        show((f"trial {call.key}: {text}",), quiet=self._quiet)
