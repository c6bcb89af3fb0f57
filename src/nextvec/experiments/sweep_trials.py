"""The trials of a sweep: which one is next, its run, and how it ended.

The driver of a sweep asks the study for trials, and tells it how they ended. The process of a trial reports every epoch
to the same study, and reads there whether the trial is below the median of the others. Both may be one process, or many
on several machines: the study is a journal, a file that they append to under a lock.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.core.run_paths import RESUME_STATE
from nextvec.errors import NextvecError, NotFiniteError, StoppedError
from nextvec.experiments.search_space import Dimension
from nextvec.experiments.single_run import train_and_evaluate
from nextvec.recipe import Recipe, RecipeLike, load_recipe
from nextvec.trackers.tracking import tracking
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.setup import start_run

if TYPE_CHECKING:
    import optuna

JOURNAL, STUDY = "journal.log", "sweep"

STARTUP_TRIALS = 5
"""Completed trials before the median prunes any: a median of fewer is too noisy."""


class _BelowMedianError(NextvecError):
    """The val gain is below the median of the other trials at this epoch."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    val_gain: float | None = None
    """Highest val gain of all epochs; None if the trial was pruned."""
    reason: str = ""
    """Why it was pruned."""


@dataclass
class TrialPlan:
    """The trials of a study: those that were interrupted first, then new ones."""

    folder: Path
    study: optuna.Study
    base: RecipeLike
    overrides: tuple[str, ...]
    dimensions: Sequence[Dimension]
    trials: int
    """Total number of trials."""

    @property
    def is_complete(self) -> bool:
        """Whether no trial is left to run."""
        return len(self.study.trials) >= self.trials and not any(
            not trial.state.is_finished() for trial in self.study.trials
        )

    def next_trial(self, running: Sequence[int] = ()) -> optuna.Trial | None:
        """Return an interrupted trial, else a new one; None if the sweep has enough trials.

        Trials with the numbers `running` are not interrupted.
        """
        import optuna

        for frozen in self.study.trials:
            if frozen.state == optuna.trial.TrialState.RUNNING and frozen.number not in running:
                return optuna.Trial(self.study, frozen._trial_id)
        if len(self.study.trials) >= self.trials:
            return None
        # Ask for one value per dimension; choices are strings in override syntax.
        trial = self.study.ask()
        for dimension in self.dimensions:
            if dimension.choices:
                trial.suggest_categorical(dimension.field, dimension.choices)
            elif dimension.integer:
                trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
            else:
                trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)
        return trial

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """Return the recipe of a trial."""
        values = values_of(self.dimensions, trial.params)
        return load_recipe(self.base, (*self.overrides, *(f"{field}={value}" for field, value in values.items())))

    def finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Record how a trial ended."""
        import optuna

        if outcome.val_gain is None:
            trial.set_user_attr("reason", outcome.reason)
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, outcome.val_gain)


def values_of(dimensions: Sequence[Dimension], params: dict[str, Any]) -> dict[str, str]:
    """Return field → value in override syntax."""
    return {dimension.field: dimension.to_text(params[dimension.field]) for dimension in dimensions}


def trial_folder(folder: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return folder / f"trial-{number:03d}"


def open_journal(folder: Path) -> optuna.storages.JournalStorage:
    """Open the journal of a sweep folder. It is append-only, so a killed process loses at most its last line."""
    import optuna.storages.journal

    # Its lock is a link: NFS makes links atomically, and 30 s after its owner was killed another process takes it.
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))


def run_trial(folder: Path, trial_id: int, recipe: Recipe, *, trackers: Sequence[str], quiet: bool) -> Outcome:
    """Train or resume a trial of the sweep in `folder`, and return how it ended. Its epochs are in the journal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    study = optuna.load_study(study_name=STUDY, storage=open_journal(folder), pruner=pruner)
    trial = optuna.Trial(study, trial_id)

    def prune(run: Run) -> None:
        track(run)
        # A killed trial may have finished epochs without reporting them, so report every epoch that is missing.
        reported = study.trials[trial.number].intermediate_values
        for metrics in run.state.history:
            if metrics["epoch"] not in reported:
                trial.report(metrics["val_gain"], metrics["epoch"])
        if trial.should_prune():
            raise _BelowMedianError(f"below the median of the other trials at epoch {run.state.epoch}")

    path = trial_folder(folder, trial.number)
    if (path / RESUME_STATE).is_file():
        run = resume_run(path, force=True, quiet=quiet)
    else:
        # A trial that was killed before its first checkpoint starts again.
        shutil.rmtree(path, ignore_errors=True)
        run = start_run(recipe, path, quiet=quiet)
    try:
        with tracking(run, trackers) as track:
            train_and_evaluate(run, after_epoch=prune)
    except (StoppedError, NotFiniteError, _BelowMedianError) as error:
        # The table shows the reason only, not the command to continue the run.
        return Outcome(reason=str(error).partition(" Everything is saved")[0])
    return Outcome(max(metrics["val_gain"] for metrics in run.state.history))
