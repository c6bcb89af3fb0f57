"""Resuming a run: its folder is opened again, its data must be the same, and its saved state is restored."""

from __future__ import annotations

from pathlib import Path

from nextvec.core.console import show
from nextvec.core.files import remove_leftovers, write_text
from nextvec.core.run_paths import PREVIOUS_STATE, RECIPE_FILE, RESUME_STATE, SENTINEL_LOG, TRAINING_LOG
from nextvec.data.dataset import open_dataset
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import CheckpointError, StoppedError, StoreError
from nextvec.guards.gates import epochs_without_improvement
from nextvec.guards.sentinel import sentinel_lines
from nextvec.models.checkpoint import Checkpoint
from nextvec.recipe import Recipe, load_recipe
from nextvec.training.baselines import restore_baselines
from nextvec.training.checkpoint import read_resume_checkpoint
from nextvec.training.orders import restore_others
from nextvec.training.run import Run, RunLock
from nextvec.training.run_folder import is_worthless
from nextvec.training.saved_state import restore_state
from nextvec.training.selection import log_trained, restore_best
from nextvec.training.setup import build_run, check_start, prepare_folder
from nextvec.training.text_log import epoch_lines


def resume_run(path: Path, *, force: bool = False, quiet: bool = False, processes: ProcessGroup = ALONE) -> Run:
    """Open a run's folder and restore its last saved training state.

    If that state is damaged, the one saved before it is used. A run that was killed before its first saved state
    starts again from its recipe. Raises OutputError if another process is training in the folder, CheckpointError if
    the saved state is missing or belongs to another recipe, StoreError if the data has changed, StoppedError if a gate
    stopped the run and `force` is not set.
    """
    if not (path / RECIPE_FILE).is_file():
        raise CheckpointError(f"run {path}: it has no {RECIPE_FILE}. Name a run folder.")
    with RunLock(path) as run_lock:
        if is_worthless(path):
            recipe = load_recipe(path / RECIPE_FILE)
            run, initial = check_start(path, recipe, processes, force=force, quiet=quiet)
            run.lock = run_lock
            show((f"run {path}: it has no saved state yet, so it starts again from its recipe",), quiet=quiet)
            prepare_folder(run, initial, force=force)
            return run
        run, notices = _restore_run(path, run_lock, processes, force=force, quiet=quiet)
        state = run.state
        if state.stop_reason and not force:
            raise StoppedError(f"run {path} was stopped: {state.stop_reason} To continue anyway, pass --force.")
        state.stop_reason = ""
        run.event("resumed")
        _rewrite_logs(run)
        for notice in (*notices, *run.notices, restore_best(run)):
            if notice:
                run.warn(notice)
        if state.is_done:
            log_trained(run)
            run.log(_why_done(run))
        else:
            show((f"resumed after epoch {state.epoch}, step {state.step_in_epoch} of the next epoch",), quiet=quiet)
    return run


def _why_done(run: Run) -> str:
    """Return why a resumed run has nothing left to train, and how to train on."""
    recipe = run.recipe.training
    if run.state.epoch >= recipe.epochs:
        reason, remedy = f"all {run.state.epoch} epochs are trained", "raise training.epochs"
    else:
        waited = epochs_without_improvement(run.scores)
        reason = f"early stopping ended it: {recipe.best_metric} has not improved for {waited} epochs"
        remedy = "set training.early_stop to 0 or a larger number"
    return (
        f"nothing to train: {reason}. To train on, {remedy} in {run.path / RECIPE_FILE} and run 'nextvec resume "
        f"{run.path} --force'."
    )


def _restore_run(
    path: Path, run_lock: RunLock, processes: ProcessGroup, *, force: bool, quiet: bool
) -> tuple[Run, list[str]]:
    """Return the run in its last saved state, after checking recipe and data, and the warnings to log."""
    recipe = load_recipe(str(path / RECIPE_FILE))
    if not (path / RESUME_STATE).is_file() and not (path / PREVIOUS_STATE).is_file():
        raise CheckpointError(
            f"run {path}: its training state {RESUME_STATE} is missing. Restore it, or train again into a new folder."
        )
    saved = read_resume_checkpoint(path)
    if not force:
        _require_same_recipe(recipe, saved)
    data = open_dataset(recipe.data, quiet=quiet)
    saved_data = saved.values.get("data", {})
    for store, current, expected in (
        (data.store, data.store_hash, saved_data.get("store_hash")),
        (data.ood, data.ood_store_hash, saved_data.get("ood_store_hash")),
    ):
        if store is not None and current != expected:
            raise StoreError(
                f"store {store.name}: it has changed since run {path} started (SHA-256 mismatch). Restore the store"
            )
    report = data.check(recipe.data.context, recipe.data.least_context)
    run = build_run(path, recipe, data, report, processes, quiet=quiet)
    run.lock = run_lock
    notices = [saved.notice, restore_baselines(run)]
    restore_state(run, saved)
    restore_others(run)
    # The recipe may have changed (--force): its epochs and its early stopping decide, not those of the saved run.
    run.state.is_done = run.is_complete
    remove_leftovers(path)
    return run, [notice for notice in notices if notice]


def _require_same_recipe(recipe: Recipe, saved: Checkpoint) -> None:
    """Raise CheckpointError if the saved state belongs to another recipe in a section that the weights depend on."""
    for section in ("seed", "model", "objective", "training"):
        if getattr(recipe, section) != getattr(saved.recipe, section):
            raise CheckpointError(
                f"checkpoint {saved.path}: saved by another recipe than {RECIPE_FILE} beside it: {section} differs. "
                f"Restore the run's files, or use --force to continue with {RECIPE_FILE}"
            )


def _rewrite_logs(run: Run) -> None:
    """Rewrite training.log and ood_sentinel.log up to the restored state: the header and the finished epochs."""
    file = run.path / TRAINING_LOG
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    header = text.partition("Epoch 1/")[0]
    lines = [line for metrics in run.state.history for line in epoch_lines(metrics, run.recipe)]
    write_text(file, header + "".join(f"{line}\n" for line in lines))
    baselines = [line for line in header.splitlines() if line.startswith("baselines on ood")]
    checks = [line for metrics in run.state.history for line in sentinel_lines(metrics)]
    write_text(run.path / SENTINEL_LOG, "".join(f"{line}\n" for line in baselines + checks))
