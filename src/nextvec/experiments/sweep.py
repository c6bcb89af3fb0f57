"""Hyperparameter sweeps over a recipe.

Optuna's tree-structured Parzen estimator proposes values from the val gains of earlier trials. A trial is pruned if a
gate stops it, if it becomes non-finite, or if it is below the median of the other trials at the same epoch. The sweep
folder contains Optuna's journal and the runs, so an interrupted sweep can be resumed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.core.display import Displayable
from nextvec.core.files import write_json, write_text
from nextvec.core.formatting import Status, format_number
from nextvec.core.locks import locked_folder
from nextvec.core.run_paths import EVALUATION_FILE, RECIPE_FILE
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.data.dataset import open_dataset
from nextvec.errors import InputError, Interrupted, MissingExtraError, StoppedError
from nextvec.experiments.ray_options import RayOptions
from nextvec.experiments.search_space import Dimension, parse_space
from nextvec.experiments.sweep_trials import STUDY, TrialPlan, open_journal, run_trial, trial_folder, values_of
from nextvec.recipe import Recipe, RecipeLike, load_recipe
from nextvec.trackers.tracker import require_trackers

if TYPE_CHECKING:
    import optuna


SWEEP_FILE, BEST_RECIPE = "sweep.json", "best.toml"


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    number: int
    state: str
    """complete, pruned or running."""
    values: dict[str, str]
    """Field → value in override syntax."""
    val_gain: float | None
    """Highest val gain over the best baseline of all epochs."""
    epochs: int
    reason: str
    """Why the trial was pruned."""

    @property
    def row(self) -> Row:
        """The trial as a table row: number, state, val gain, values and reason."""
        values = " ".join(f"{field}={value}" for field, value in self.values.items())
        gain = Cell(format_number(self.val_gain, "+.4f"), self.val_gain)
        return Row((Cell(str(self.number), self.number), Cell(self.state), gain, Cell(values), Cell(self.reason)))


@dataclass(frozen=True)
class SweepResult(Displayable):
    """The trials of a sweep after a call of `run_sweep`."""

    path: Path
    trials: tuple[Trial, ...]
    """Trials by val gain, the highest first."""
    ood: str
    """The ood gain of the best trial as a line; ood is evaluated once, after the choice."""
    verdict: tuple[Status, str]
    """Status and sentence of the best trial's verdict."""

    def view(self) -> View:
        """Return one row per trial, and the file of the best recipe."""
        # Values and reasons are long: fold them over several lines.
        columns = (
            *(Column("trial"), Column("state", "left"), Column("val gain")),
            *(Column("values", "left", "fold"), Column("pruned because", "left", "fold")),
        )
        table = Table(f"sweep {self.path}, sorted by val gain", columns, tuple(trial.row for trial in self.trials))
        lines = [Line(self.ood)] if self.ood else []
        if self.trials and self.trials[0].state == "complete":
            best = Line(f"best: trial {self.trials[0].number}, {self.path / BEST_RECIPE}", style="path")
            status, sentence = self.verdict
            lines = [best, Line(sentence, status, "heading"), *lines]
        return View((table, *lines))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        status, sentence = self.verdict
        return {
            "sweep": str(self.path),
            "trials": [asdict(trial) for trial in self.trials],
            "ood": self.ood,
            "verdict": {"status": status, "sentence": sentence},
        }


def run_sweep(
    recipe: RecipeLike,
    overrides: tuple[str, ...] = (),
    *,
    space: tuple[str, ...] = (),
    trials: int = 20,
    out: str = "artifacts/sweep",
    trackers: Sequence[str] = (),
    ray: RayOptions | None = None,
    quiet: bool = False,
) -> SweepResult:
    """Search for the recipe values with the highest gain on val, also on a Ray cluster. Rerun to resume.

    Raises RecipeError or InputError if the arguments or the folder cannot be used, MissingExtraError without Optuna,
    StoppedError if every trial was pruned.
    """
    # Check both bounds of every dimension before the first trial, so that an error does not appear after hours.
    loaded, dimensions, folder = load_recipe(recipe, overrides), parse_space(space), Path(out)
    for dimension in dimensions:
        for bound in dimension.bounds:
            load_recipe(recipe, (*overrides, bound))
    if trials < 1:
        raise InputError(f"--trials {trials}: must be at least 1")
    trackers = require_trackers(trackers)
    open_dataset(loaded.data, quiet=quiet)  # raises if the data cannot be used

    if find_spec("optuna") is None:
        raise MissingExtraError("optuna", "sweep", "a sweep")

    # Two processes would take each other's running trial for an interrupted one.
    with locked_folder(folder, f"sweep {folder}: another process is running it. Wait until it ends."):
        study = _open_study(folder, loaded, dimensions)
        plan = TrialPlan(folder, study, recipe, overrides, dimensions, trials)
        try:
            if ray is None:
                while (trial := plan.next_trial()) is not None:
                    outcome = run_trial(folder, trial._trial_id, plan.recipe(trial), trackers=trackers, quiet=quiet)
                    plan.finish(trial, outcome)
            elif not plan.is_complete:
                from nextvec.experiments.sweep_on_ray import run_trials  # an extra

                run_trials(plan, loaded, ray, trackers=trackers, quiet=quiet)
        except (Interrupted, KeyboardInterrupt) as error:
            name = str(recipe) if isinstance(recipe, str | Path) else loaded.name
            argv = ["nextvec", "sweep", name, *overrides, "--space", *space, "--trials", str(trials), "--out", out]
            argv += [word for name in trackers for word in ("--tracker", name)]
            argv += ray.argv if ray else []
            raise Interrupted(f"Sweep interrupted. To continue: {shlex.join(argv)}") from error
        return _conclude(study, folder, dimensions)


def _open_study(folder: Path, recipe: Recipe, dimensions: Sequence[Dimension]) -> optuna.Study:
    """Open the study of a sweep folder, or create it. Raises InputError if recipe or space differ."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    # Trials of different recipes or spaces must not share a study: their gains are not comparable.
    settings = {"recipe": recipe.recipe_hash, "space": [dimension.to_dict() for dimension in dimensions]}
    file = folder / SWEEP_FILE
    if file.is_file():
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"sweep {folder}: {SWEEP_FILE} is damaged. Choose another --out.") from error
        if stored != settings:
            raise InputError(f"sweep {folder}: belongs to another recipe or space. Choose another --out.")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"sweep {folder}: the folder is not empty and contains no sweep. Choose another --out.")
    else:
        write_json(file, settings)

    sampler = optuna.samplers.TPESampler(seed=recipe.seed)
    study = optuna.create_study(
        storage=open_journal(folder), study_name=STUDY, sampler=sampler, direction="maximize", load_if_exists=True
    )
    # A resumed sweep needs another seed: with the same one, the sampler would propose the first values again.
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(study.trials))
    return study


def _conclude(study: optuna.Study, folder: Path, dimensions: Sequence[Dimension]) -> SweepResult:
    """Sort the trials, save the best recipe, and return the result. Raises StoppedError if all were pruned."""
    trials = []
    for frozen in study.trials:
        gains = list(frozen.intermediate_values.values())
        values, reason = values_of(dimensions, frozen.params), frozen.user_attrs.get("reason", "")
        trials.append(
            Trial(frozen.number, frozen.state.name.lower(), values, max(gains, default=None), len(gains), reason)
        )
    # Complete trials first, then by gain; a trial without a gain is last (a gain is at least -2).
    trials.sort(key=lambda trial: (trial.state != "complete", -(trial.val_gain if trial.val_gain is not None else -2)))
    if not trials or trials[0].state != "complete":
        reason = next((trial.reason for trial in trials if trial.reason), "")
        raise StoppedError(f"sweep {folder}: all {len(trials)} trials were pruned. Reason of the first: {reason}")

    best = trial_folder(folder, trials[0].number)
    write_text(folder / BEST_RECIPE, (best / RECIPE_FILE).read_text(encoding="utf-8"))
    # Only the best trial's ood gain is reported: a choice among ood gains would make ood a second val.
    evaluation = json.loads((best / EVALUATION_FILE).read_text(encoding="utf-8"))
    gain = (evaluation["splits"].get("ood") or {}).get("gain")
    ood = f"ood gain of the best: {gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" if gain else ""
    verdict = Status(evaluation["verdict"]["status"]), str(evaluation["verdict"]["sentence"])
    return SweepResult(folder, tuple(trials), ood, verdict)
