"""Hyperparameter sweeps over a recipe.

Optuna's tree-structured Parzen estimator proposes values from the val gains of earlier trials. A trial is pruned if a
gate stops it, if it becomes non-finite, or if it is below the median of the other trials at the same epoch. The sweep
folder contains Optuna's journal and the runs, so an interrupted sweep can be resumed.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.core.display import Displayable
from nextvec.core.files import write_json, write_text
from nextvec.core.formatting import Status, format_number
from nextvec.core.locks import locked_folder
from nextvec.core.run_paths import EVALUATION_FILE, RECIPE_FILE, RESUME_STATE
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.data.dataset import open_dataset
from nextvec.errors import InputError, Interrupted, MissingExtraError, NextvecError, NotFiniteError, StoppedError
from nextvec.experiments.search_space import Dimension, parse_space
from nextvec.experiments.single_run import train_and_evaluate
from nextvec.recipe import Recipe, RecipeLike, load_recipe
from nextvec.trackers.tracker import require_trackers
from nextvec.trackers.tracking import tracking
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.setup import start_run

if TYPE_CHECKING:
    import optuna


SWEEP_FILE, JOURNAL, BEST_RECIPE = "sweep.json", "journal.log", "best.toml"

STARTUP_TRIALS = 5
"""Completed trials before the median prunes any: a median of fewer is too noisy."""


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


class _BelowMedianError(NextvecError):
    """The val gain is below the median of the other trials at this epoch."""


def run_sweep(
    recipe: RecipeLike,
    overrides: tuple[str, ...] = (),
    *,
    space: tuple[str, ...] = (),
    trials: int = 20,
    out: str = "artifacts/sweep",
    trackers: Sequence[str] = (),
    quiet: bool = False,
) -> SweepResult:
    """Search for the recipe values with the highest gain on val. Rerun to resume.

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
        try:
            while (trial := _next_trial(study, dimensions, trials)) is not None:
                values = _values(dimensions, trial.params)
                changes = (*overrides, *(f"{field}={value}" for field, value in values.items()))
                trial_recipe, path = load_recipe(recipe, changes), _run_folder(folder, trial.number)
                _run_trial(study, trial, trial_recipe, path, trackers=trackers, quiet=quiet)
        except (Interrupted, KeyboardInterrupt) as error:
            name = str(recipe) if isinstance(recipe, str | Path) else loaded.name
            argv = ["nextvec", "sweep", name, *overrides, "--space", *space, "--trials", str(trials), "--out", out]
            argv += [word for name in trackers for word in ("--tracker", name)]
            raise Interrupted(f"Sweep interrupted. To continue: {shlex.join(argv)}") from error
        return _conclude(study, folder, dimensions)


def _open_study(folder: Path, recipe: Recipe, dimensions: Sequence[Dimension]) -> optuna.Study:
    """Open the study of a sweep folder, or create it. Raises InputError if recipe or space differ."""
    import optuna.storages.journal

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

    # The journal is an append-only file, so a killed sweep loses at most its last line.
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    sampler = optuna.samplers.TPESampler(seed=recipe.seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(
        storage=storage, study_name="sweep", sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
    )
    # A resumed sweep needs another seed: with the same one, the sampler would propose the first values again.
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(study.trials))
    return study


def _next_trial(study: optuna.Study, dimensions: Sequence[Dimension], trials: int) -> optuna.Trial | None:
    """Return the interrupted trial, else a new one; None if the sweep has enough trials."""
    import optuna

    for frozen in study.trials:
        if frozen.state == optuna.trial.TrialState.RUNNING:
            return optuna.Trial(study, frozen._trial_id)
    if len(study.trials) >= trials:
        return None
    # Ask for one value per dimension; choices are strings in override syntax.
    trial = study.ask()
    for dimension in dimensions:
        if dimension.choices:
            trial.suggest_categorical(dimension.field, dimension.choices)
        elif dimension.integer:
            trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)
    return trial


def _values(dimensions: Sequence[Dimension], params: dict[str, Any]) -> dict[str, str]:
    """Return field → value in override syntax."""
    return {dimension.field: dimension.to_text(params[dimension.field]) for dimension in dimensions}


def _run_folder(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:03d}"


def _run_trial(
    study: optuna.Study, trial: optuna.Trial, recipe: Recipe, folder: Path, *, trackers: Sequence[str], quiet: bool
) -> None:
    """Train or resume a trial, and report its result to the study."""
    import optuna

    def prune(run: Run) -> None:
        track(run)
        # A killed trial may have finished epochs without reporting them, so report every epoch that is missing.
        reported = trial.study.trials[trial.number].intermediate_values
        for metrics in run.state.history:
            if metrics["epoch"] not in reported:
                trial.report(metrics["val_gain"], metrics["epoch"])
        if trial.should_prune():
            raise _BelowMedianError(f"below the median of the other trials at epoch {run.state.epoch}")

    if (folder / RESUME_STATE).is_file():
        run = resume_run(folder, force=True, quiet=quiet)
    else:
        # A trial that was killed before its first checkpoint starts again.
        shutil.rmtree(folder, ignore_errors=True)
        run = start_run(recipe, folder, quiet=quiet)
    try:
        with tracking(run, trackers) as track:
            train_and_evaluate(run, after_epoch=prune)
    except (StoppedError, NotFiniteError, _BelowMedianError) as error:
        # The table shows the reason only, not the command to continue the run.
        trial.set_user_attr("reason", str(error).partition(" Everything is saved")[0])
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, max(metrics["val_gain"] for metrics in run.state.history))


def _conclude(study: optuna.Study, folder: Path, dimensions: Sequence[Dimension]) -> SweepResult:
    """Sort the trials, save the best recipe, and return the result. Raises StoppedError if all were pruned."""
    trials = []
    for frozen in study.trials:
        gains = list(frozen.intermediate_values.values())
        values, reason = _values(dimensions, frozen.params), frozen.user_attrs.get("reason", "")
        trials.append(
            Trial(frozen.number, frozen.state.name.lower(), values, max(gains, default=None), len(gains), reason)
        )
    # Complete trials first, then by gain; a trial without a gain is last (a gain is at least -2).
    trials.sort(key=lambda trial: (trial.state != "complete", -(trial.val_gain if trial.val_gain is not None else -2)))
    if not trials or trials[0].state != "complete":
        reason = next((trial.reason for trial in trials if trial.reason), "")
        raise StoppedError(f"sweep {folder}: all {len(trials)} trials were pruned. Reason of the first: {reason}")

    best = _run_folder(folder, trials[0].number)
    write_text(folder / BEST_RECIPE, (best / RECIPE_FILE).read_text(encoding="utf-8"))
    # Only the best trial's ood gain is reported: a choice among ood gains would make ood a second val.
    evaluation = json.loads((best / EVALUATION_FILE).read_text(encoding="utf-8"))
    gain = (evaluation["splits"].get("ood") or {}).get("gain")
    ood = f"ood gain of the best: {gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" if gain else ""
    verdict = Status(evaluation["verdict"]["status"]), str(evaluation["verdict"]["sentence"])
    return SweepResult(folder, tuple(trials), ood, verdict)
