"""A sweep: many trainings of one recipe, each with other values, in search of the best.

Values are proposed by optuna's tree-structured Parzen estimator from the val gains of the trials before. What a gate
stops, what is not finite, and what lags behind the median of the others at the same epoch is pruned. Everything lies
in the sweep's folder (optuna's journal, the runs), so that a sweep that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nextvec.core.display import Displayable
from nextvec.core.files import make_folder, write_json, write_text
from nextvec.core.formatting import format_number
from nextvec.core.run_paths import EVALUATION_FILE, RECIPE_FILE, RESUME_STATE
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.errors import InputError, Interrupted, MissingExtraError, NextvecError, NotFiniteError, StoppedError

if TYPE_CHECKING:
    import optuna

    from nextvec.experiments.search_space import Dimension
    from nextvec.recipe import Recipe, RecipeLike
    from nextvec.training.run import Run


SWEEP_FILE, JOURNAL, BEST_RECIPE = "sweep.json", "journal.log", "best.toml"

STARTUP_TRIALS = 5
"""Trials before the median of the others prunes any."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    number: int
    state: str
    """complete, pruned or running."""
    values: dict[str, str]
    """Field → value, as overrides write them."""
    val_gain: float | None
    """The best over its epochs, over the best baseline."""
    epochs: int
    reason: str
    """Why it was pruned."""

    @property
    def row(self) -> Row:
        """The trial as a table row: number, state, gain on val, values and why it was pruned."""
        values = " ".join(f"{field}={value}" for field, value in self.values.items())
        gain = Cell(format_number(self.val_gain, "+.4f"), self.val_gain)
        return Row((Cell(str(self.number), self.number), Cell(self.state), gain, Cell(values), Cell(self.reason)))


@dataclass(frozen=True)
class SweepResult(Displayable):
    """Where a sweep stands when it ends."""

    path: Path
    trials: tuple[Trial, ...]
    """The best val gain first."""
    ood: str
    """What the winner reaches on ood, looked at once, after it was chosen."""

    def view(self) -> View:
        """Return one row per trial, and the file of the best recipe."""
        # Values and reasons are the long columns; they may take several lines.
        columns = (
            *(Column("trial"), Column("state", "left"), Column("val gain")),
            *(Column("values", "left", "fold"), Column("pruned because", "left", "fold")),
        )
        table = Table(f"sweep {self.path}, sorted by val gain", columns, tuple(trial.row for trial in self.trials))
        lines = [Line(self.ood)] if self.ood else []
        if self.trials and self.trials[0].state == "complete":
            lines.insert(0, Line(f"best: trial {self.trials[0].number}, {self.path / BEST_RECIPE}", style="path"))
        return View((table, *lines))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"sweep": str(self.path), "trials": [asdict(trial) for trial in self.trials], "ood": self.ood}


class _LagsBehindError(NextvecError):
    """The median of the other trials at this epoch is better."""


def run_sweep(
    recipe: RecipeLike,
    overrides: tuple[str, ...] = (),
    *,
    space: tuple[str, ...] = (),
    trials: int = 20,
    out: str = "artifacts/sweep",
    quiet: bool = False,
) -> SweepResult:
    """Search for the values of a recipe that give the highest gain on val; started again, it goes on."""
    from nextvec.experiments.search_space import parse_space
    from nextvec.recipe import load_recipe  # pydantic takes half of the time that a help text may

    loaded, dimensions, folder = load_recipe(recipe, overrides), parse_space(space), Path(out)
    for dimension in dimensions:  # before the first: what is no recipe is told at once
        for end in dimension.ends:
            load_recipe(recipe, (*overrides, end))
    if trials < 1:
        raise InputError(f"--trials {trials}: a sweep needs at least one")
    _require_data(loaded, quiet=quiet)
    study = _open_study(folder, loaded, dimensions)
    try:
        while (trial := _next_trial(study, dimensions, trials)) is not None:
            values = {dimension.field: _spelt(dimension, trial.params) for dimension in dimensions}
            changes = (*overrides, *(f"{field}={value}" for field, value in values.items()))
            _run_trial(study, trial, load_recipe(recipe, changes), _run_folder(folder, trial.number), quiet=quiet)
    except (Interrupted, KeyboardInterrupt) as error:
        named = str(recipe) if isinstance(recipe, str | Path) else loaded.name
        words = ["nextvec", "sweep", named, *overrides, "--space", *space, "--trials", str(trials), "--out", out]
        raise Interrupted(f"sweep interrupted; to continue: {shlex.join(words)}") from error
    return _conclude(study, folder, dimensions)


def _require_data(recipe: Recipe, *, quiet: bool) -> None:
    """Raise what is wrong with the data before the sweep's folder is made."""
    from nextvec.data.dataset import open_dataset

    open_dataset(recipe.data, quiet=quiet)


def _open_study(folder: Path, recipe: Recipe, dimensions: Sequence[Dimension]) -> optuna.Study:
    """The study of the folder, a new one where there is none. Raises InputError if it is of another recipe or space."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise MissingExtraError("optuna", "sweep", "a sweep") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = {"recipe": recipe.recipe_hash, "space": [dimension.to_dict() for dimension in dimensions]}
    file = folder / SWEEP_FILE
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"sweep {folder}: {SWEEP_FILE} is damaged; take another folder") from error
        if before != settings:
            raise InputError(f"sweep {folder}: it is of another recipe or space; take another folder with --out")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"sweep {folder}: the folder is not empty and holds no sweep; take another with --out")
    else:
        make_folder(folder)
        write_json(file, settings)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    sampler = optuna.samplers.TPESampler(seed=recipe.seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(
        storage=storage, study_name="sweep", sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
    )
    # Proposals go on from where they were, instead of repeating the first ones.
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(study.trials))
    return study


def _next_trial(study: optuna.Study, dimensions: Sequence[Dimension], trials: int) -> optuna.Trial | None:
    """The trial that was interrupted, or a new one; None when there are enough."""
    import optuna

    for frozen in study.trials:
        if frozen.state == optuna.trial.TrialState.RUNNING:
            return optuna.Trial(study, frozen._trial_id)
    if len(study.trials) >= trials:
        return None
    trial = study.ask()
    for dimension in dimensions:
        if dimension.choices:
            trial.suggest_categorical(dimension.field, dimension.choices)
        elif dimension.whole:
            trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)
    return trial


def _spelt(dimension: Dimension, params: dict[str, Any]) -> str:
    value = params[dimension.field]
    return str(value) if dimension.choices else dimension.spell(value)


def _run_folder(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:03d}"


def _run_trial(study: optuna.Study, trial: optuna.Trial, recipe: Recipe, folder: Path, *, quiet: bool) -> None:
    """Train one trial, or take it up again, and tell the study how it ended."""
    import optuna

    from nextvec.experiments.single_run import train_and_evaluate
    from nextvec.training.setup import resume_run, start_run

    def prune(run: Run) -> None:
        told = trial.study.trials[trial.number].intermediate_values
        for record in run.state.history:  # a trial that was killed may have finished epochs it did not tell
            if record["epoch"] not in told:
                trial.report(record["val_gain"], record["epoch"])
        if trial.should_prune():
            raise _LagsBehindError(f"behind the median of the other trials at epoch {run.state.epoch}")

    if (folder / RESUME_STATE).is_file():
        run = resume_run(folder, force=True, quiet=quiet)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # it ended before its first saved position: nothing to keep
        run = start_run(recipe, folder, quiet=quiet)
    try:
        train_and_evaluate(run, after_epoch=prune)
    except (StoppedError, NotFiniteError, _LagsBehindError) as error:
        trial.set_user_attr("reason", str(error).partition(" Everything is saved")[0])
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, max(record["val_gain"] for record in run.state.history))


def _conclude(study: optuna.Study, folder: Path, dimensions: Sequence[Dimension]) -> SweepResult:
    """The trials in order, and the recipe of the best."""
    found = []
    for frozen in study.trials:
        reached = list(frozen.intermediate_values.values())
        values = {dimension.field: _spelt(dimension, frozen.params) for dimension in dimensions}
        gain = max(reached, default=None)
        state = frozen.state.name.lower()
        found.append(Trial(frozen.number, state, values, gain, len(reached), frozen.user_attrs.get("reason", "")))
    found.sort(key=lambda trial: (trial.state != "complete", -(trial.val_gain if trial.val_gain is not None else -2)))
    if not found or found[0].state != "complete":
        _none_finished(folder, found)
    best = _run_folder(folder, found[0].number)
    write_text(folder / BEST_RECIPE, (best / RECIPE_FILE).read_text(encoding="utf-8"))
    evaluation = json.loads((best / EVALUATION_FILE).read_text(encoding="utf-8"))
    ood = evaluation["splits"].get("ood")
    told = ""
    if ood and ood["gain"]:
        gain = ood["gain"]
        told = f"ood gain of the best: {gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    return SweepResult(folder, tuple(found), told)


def _none_finished(folder: Path, found: Sequence[Trial]) -> NoReturn:
    reason = next((trial.reason for trial in found if trial.reason), "")
    raise StoppedError(f"sweep {folder}: all {len(found)} trials were pruned, the first because: {reason}")
