"""Starting and resuming runs.

start_run   checks everything before it makes the folder, fits the baselines and builds the model
resume_run  opens a folder again, verifies that the data is the same, and restores the saved training state. A run that
            was killed before its first saved state starts again from its recipe.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch

from nextvec import ops
from nextvec.core.console import show
from nextvec.core.device import resolve_device, resolve_precision, seed_everything, set_threads
from nextvec.core.events import Event
from nextvec.core.files import keep_copy, make_folder, remove_leftovers, write_text
from nextvec.core.formatting import Status
from nextvec.core.process import give_back_memory, keep_memory
from nextvec.core.run_paths import (
    ENCODER_FOLDER,
    PREVIOUS_STATE,
    RECIPE_FILE,
    RESUME_STATE,
    SENTINEL_LOG,
    TRAINING_LOG,
)
from nextvec.data.checks import CheckReport
from nextvec.data.dataset import Dataset, open_dataset
from nextvec.data.seen_rows import hash_rows
from nextvec.data.store import ENCODER, Store
from nextvec.data.windows import WindowSet, index_windows
from nextvec.errors import CheckpointError, RecipeError, SpaceError, StoppedError, StoreError
from nextvec.evaluation.retrieval_faiss import require_faiss
from nextvec.evaluation.seen_data import measure_seen, seen_warning
from nextvec.guards.diagnosis.rules_data import find_space_mismatch
from nextvec.guards.gates import epochs_without_improvement
from nextvec.guards.sentinel import recipe_warnings, sentinel_lines
from nextvec.losses import Objective
from nextvec.models.base import LatentModel, count_parameters
from nextvec.models.checkpoint import Checkpoint
from nextvec.models.registry import create_model
from nextvec.recipe import DataRecipe, EvaluationRecipe, Recipe, RuntimeRecipe, load_recipe
from nextvec.training.baselines import baseline_cosines, fit_and_save, fit_on, restore_baselines
from nextvec.training.checkpoint import read_resume_checkpoint
from nextvec.training.initial_weights import initialize_weights, open_initial_model, require_same_vectors
from nextvec.training.optimizer import WeightAverage, make_optimizer
from nextvec.training.run import Run, RunLock, restore_state, save_state
from nextvec.training.run_folder import clear_run_folder, is_worthless, make_run_folder, require_usable
from nextvec.training.selection import log_trained, measure_start, restore_best
from nextvec.training.text_log import baseline_line, epoch_lines, header_lines

# Starting.


def start_run(recipe: Recipe, path: Path, *, force: bool = False, quiet: bool = False) -> Run:
    """Check the data, make the run's folder, fit the baselines and build the model.

    `path` may contain `{time}`: the folder then gets the time in its name, and a number if that name is in use.
    Raises StoreError if the data check is red and `force` is not set, and other InputErrors for unusable input;
    nothing is written before these checks are done. A folder of a run that was killed before its first saved state is
    used again.
    """
    require_usable(path)
    run, initial = _check_start(path, recipe, force=force, quiet=quiet)
    if not path.exists():
        run.path = make_run_folder(path, run.recipe)
    with RunLock(run.path) as run.lock:
        _prepare_folder(run, initial, force=force)
    return run


def _check_start(path: Path, recipe: Recipe, *, force: bool, quiet: bool) -> tuple[Run, Checkpoint | None]:
    """Return a new run in memory, and the checkpoint to start from, after all checks; nothing is written."""
    if recipe.evaluation.retrieval == "faiss":
        require_faiss()
    recipe, initial = open_initial_model(recipe)
    data = open_dataset(recipe.data, quiet=quiet)
    recipe = _with_absolute_paths(recipe, data)
    report = data.check(recipe.data.context, recipe.data.least_context)
    if report.status == Status.RED and not force:
        path, text = data.store_of(report.worst).path, report.worst.text
        raise StoreError(f"store {path}: {text} See 'nextvec data check', or pass --force to train anyway.")
    require_same_vectors(initial, data.store)
    return _build_run(path, recipe, data, report, quiet=quiet), initial


def _prepare_folder(run: Run, initial: Checkpoint | None, *, force: bool) -> None:
    """Write the first content of a run folder: recipe, data check, baselines, initial weights and state."""
    clear_run_folder(run.path)
    facts = _facts(run)
    write_text(run.path / RECIPE_FILE, run.recipe.to_toml())
    # A fitted encoder stays with the run, so that its model can encode text without the store.
    if fitted := sorted((run.data.store.path / ENCODER).glob("*")):
        make_folder(run.path / ENCODER_FOLDER)
        for file in fitted:
            keep_copy(file, run.path / ENCODER_FOLDER / file.name)
    run.event("started", **facts)
    run.event("checked", **run.check.to_dict())
    run.log(*header_lines(run.recipe, facts))
    for finding in run.check.findings:
        if finding.status != Status.GREEN:
            run.log(f"data check {finding.status}: {finding.text}")
    for warning in (*run.notices, *recipe_warnings(run.recipe, "ood" in run.sets)):
        run.warn(warning)

    # Baselines: every later score is compared with theirs on the same windows.
    run.baselines = fit_and_save(run)
    run.baseline_cosines = baseline_cosines(run.baselines, run.sets)
    run.event("baselines", cosines=run.baseline_cosines)
    for split, cosines in run.baseline_cosines.items():
        run.log(baseline_line(split, cosines))
        if split == "ood":
            run.log_sentinel(baseline_line(split, cosines))
    # If the ridge baseline fails on ood only, the ood vectors come from another embedding space.
    mismatch = find_space_mismatch(run.baseline_cosines)
    if mismatch and not force:
        run.event("failed", reason=mismatch)
        run.write_history("failed", reason=mismatch)
        raise SpaceError(
            f"OOD set of {run.data.store.path}: {mismatch} Build it with the encoder of the training set, or pass "
            "--force."
        )

    initialize_weights(run, initial)
    _record_seen_rows(run)
    measure_start(run)
    run.write_history("running")
    save_state(run)  # from here on the run can be resumed after any interruption


def _record_seen_rows(run: Run) -> None:
    """Add this run's rows to those of its ancestors, and warn if val or ood are among them."""
    run.seen_rows = run.seen_rows.after_run(run.recipe.name, hash_rows(run.train_windows))
    seen = measure_seen(run.seen_rows, {split: run.sets[split] for split in ("val", "ood") if split in run.sets})
    run.event("seen_data", **asdict(seen))
    if warning := seen_warning(run.recipe.model.kind, seen):
        run.warn(warning, seen.status)


def _with_absolute_paths(recipe: Recipe, data: Dataset) -> Recipe:
    """Return the recipe with absolute store paths, so that the run does not depend on the working directory."""
    paths = {"store": str(data.store.path.resolve()), "ood": str(data.ood.path.resolve()) if data.ood else ""}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=paths)})


# Resuming.


def resume_run(path: Path, *, force: bool = False, quiet: bool = False) -> Run:
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
            run, initial = _check_start(path, load_recipe(path / RECIPE_FILE), force=force, quiet=quiet)
            run.lock = run_lock
            show((f"run {path}: it has no saved state yet, so it starts again from its recipe",), quiet=quiet)
            _prepare_folder(run, initial, force=force)
            return run
        run, notices = _restore_run(path, run_lock, force=force, quiet=quiet)
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


def _restore_run(path: Path, run_lock: RunLock, *, force: bool, quiet: bool) -> tuple[Run, list[str]]:
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
                f"store {store.path}: it has changed since run {path} started (SHA-256 mismatch). Restore the store"
            )
    report = data.check(recipe.data.context, recipe.data.least_context)
    run = _build_run(path, recipe, data, report, quiet=quiet)
    run.lock = run_lock
    notices = [saved.notice, restore_baselines(run)]
    restore_state(run, saved)
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


# Both.


def _build_run(path: Path, recipe: Recipe, data: Dataset, report: CheckReport, *, quiet: bool) -> Run:
    """Return the run in memory, with freshly initialized weights; nothing is written."""
    device, notice = setup_device(recipe.runtime)
    precision = resolve_precision(recipe.training.precision, device)
    sets, train_windows = load_windows(recipe, data, device)
    model = build_model(recipe, data.store.dimensions, device)
    return Run(
        path=path,
        recipe=recipe,
        data=data,
        device=device,
        precision=precision,
        sets=sets,
        train_windows=train_windows,
        check=report,
        model=model,
        ema=WeightAverage(model, recipe.training.ema_decay) if recipe.training.ema_decay else None,
        optimizer=make_optimizer(model, recipe.training),
        objective=Objective(recipe.objective, precision),
        quiet=quiet,
        notices=(notice,) if notice else (),
    )


def setup_device(runtime: RuntimeRecipe) -> tuple[torch.device, str | None]:
    """Apply the recipe's runtime settings to this process; return the device, and a notice if it falls back."""
    device, notice = resolve_device(runtime.device)
    give_back_memory()  # the data check's samples were larger than anything that follows
    set_threads(runtime.threads)
    return device, notice


def load_windows(recipe: Recipe, data: Dataset, device: torch.device) -> tuple[dict[str, WindowSet], WindowSet]:
    """Return the windows of each split, and those to train on. Raises StoreError or RecipeError if there are too few.

    The windows to train on are those of train, and shorter ones if `data.train_min_context` asks for them.
    """
    sets = data.windows(recipe.data.context, recipe.data.least_context, device)
    _require_train_and_val(sets, data.store, recipe.data.context)
    train_windows = sets["train"]
    if recipe.data.train_min_context is not None:
        index = index_windows(data.store.documents, "train", recipe.data.context, recipe.data.train_min_context)
        train_windows = replace(train_windows, windows=index.to(device))
    if len(train_windows) < recipe.training.batch_size:
        raise RecipeError(
            f"recipe {recipe.name}: training.batch_size is {recipe.training.batch_size}, but there are only "
            f"{len(train_windows)} training windows. Lower training.batch_size"
        )
    return sets, train_windows


def _require_train_and_val(sets: dict[str, WindowSet], store: Store, context: int) -> None:
    for split in ("train", "val"):
        if split not in sets:
            raise StoreError(f"store {store.path}: no {split} windows with context {context}. Add documents")


def build_model(recipe: Recipe, dimensions: int, device: torch.device) -> LatentModel:
    """Return the recipe's network with weights initialized from the recipe's seed."""
    keep_memory()
    seed_everything(recipe.seed)
    return create_model(recipe.model, dimensions).to(device)


def _facts(run: Run) -> Event:
    """Return the fields of a run's first event."""
    return {
        "name": run.recipe.name,
        "recipe": run.recipe.model_dump(exclude_none=True),
        "recipe_hash": run.recipe.recipe_hash,
        "store_hash": run.data.store_hash,
        "ood_store_hash": run.data.ood_store_hash,
        "synthetic": run.data.synthetic,
        "space": str(run.data.store.space),
        "vectors": len(run.data.store.vectors),
        "windows": {split: len(windows) for split, windows in run.sets.items()},
        "train_windows": len(run.train_windows),
        "parameters": count_parameters(run.model),
        "steps_per_epoch": run.steps_per_epoch,
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu_ops": ops.backend(run.device) if run.recipe.runtime.native_ops else "torch",
        "versions": {"nextvec": version("nextvec"), "torch": torch.__version__, "python": platform.python_version()},
    }


def measure_data(store: str, ood: str, context: int, device: str, *, quiet: bool) -> dict[str, dict[str, float]]:
    """Return the scores of the baselines on val and ood of a store: split → baseline → mean cosine.

    Raises StoreError if there are no train windows to fit them on, or no val windows.
    """
    data_recipe = DataRecipe(store=store, ood=ood, context=context)
    data = open_dataset(data_recipe, quiet=quiet)
    torch_device, notice = resolve_device(device)
    if notice:
        show((notice,), quiet=quiet)
    sets = data.windows(context, data_recipe.least_context, torch_device)
    _require_train_and_val(sets, data.store, context)
    return baseline_cosines(fit_on(sets["train"], EvaluationRecipe().ridge_windows, 0, quiet=quiet), sets)
