"""Starting a run: everything is checked before its folder is made; then baselines, initial weights and first state.

`resume.py` opens a folder again.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch

from nextvec import ops
from nextvec.core.console import show
from nextvec.core.device import available_cores, resolve_device, resolve_precision, seed_everything, set_threads
from nextvec.core.events import Event
from nextvec.core.files import keep_copy, make_folder, write_text
from nextvec.core.formatting import Status
from nextvec.core.process import give_back_memory, keep_memory
from nextvec.core.run_paths import (
    ENCODER_FOLDER,
    RECIPE_FILE,
)
from nextvec.data.checks import CheckReport
from nextvec.data.dataset import Dataset, open_dataset
from nextvec.data.seen_rows import hash_rows
from nextvec.data.store import ENCODER, Store
from nextvec.data.windows import WindowSet, index_windows
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import RecipeError, SpaceError, StoreError
from nextvec.evaluation.retrieval_faiss import require_faiss
from nextvec.evaluation.seen_data import measure_seen, seen_warning
from nextvec.guards.diagnosis.rules_data import find_space_mismatch
from nextvec.guards.sentinel import recipe_warnings
from nextvec.losses import Objective
from nextvec.models.base import LatentModel, count_parameters
from nextvec.models.checkpoint import Checkpoint
from nextvec.models.registry import create_model
from nextvec.recipe import DataRecipe, EvaluationRecipe, Recipe, RuntimeRecipe
from nextvec.training.baselines import baseline_cosines, fit_and_save, fit_on
from nextvec.training.initial_weights import initialize_weights, open_initial_model, require_same_vectors
from nextvec.training.optimizer import WeightAverage, make_optimizer
from nextvec.training.orders import OpenOrder, restore_others
from nextvec.training.run import Run, RunLock
from nextvec.training.run_folder import clear_run_folder, make_run_folder, require_usable
from nextvec.training.saved_state import save_state
from nextvec.training.selection import measure_start
from nextvec.training.text_log import baseline_line, header_lines

# Starting.


def start_run(
    recipe: Recipe, path: Path, *, force: bool = False, quiet: bool = False, processes: ProcessGroup = ALONE
) -> Run:
    """Check the data, make the run's folder, fit the baselines and build the model.

    `path` may contain `{time}`: the folder then gets the time in its name, and a number if that name is in use.
    Raises StoreError if the data check is red and `force` is not set, and other InputErrors for unusable input;
    nothing is written before these checks are done. A folder of a run that was killed before its first saved state is
    used again.
    """
    require_usable(path)
    run, initial = check_start(path, recipe, processes, force=force, quiet=quiet)
    if not path.exists():
        run.path = make_run_folder(path, run.recipe)
    with RunLock(run.path) as run.lock:
        prepare_folder(run, initial, force=force)
    return run


def check_start(
    path: Path, recipe: Recipe, processes: ProcessGroup, *, force: bool, quiet: bool
) -> tuple[Run, Checkpoint | None]:
    """Return a new run in memory, and the checkpoint to start from, after all checks; nothing is written."""
    if recipe.evaluation.retrieval == "faiss":
        require_faiss()
    recipe, initial = open_initial_model(recipe)
    data = open_dataset(recipe.data, quiet=quiet)
    recipe = _with_absolute_paths(recipe, data)
    report = data.check(recipe.data.context, recipe.data.least_context)
    if report.status == Status.RED and not force:
        store, text = data.store_of(report.worst), report.worst.text
        raise StoreError(f"store {store.name}: {text} See 'nextvec data check', or pass --force to train anyway.")
    require_same_vectors(initial, data.store)
    return build_run(path, recipe, data, report, processes, quiet=quiet), initial


def prepare_folder(run: Run, initial: Checkpoint | None, *, force: bool) -> None:
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
    run.baseline_cosines = baseline_cosines(run.baselines, run.sets, run.processes)
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
            f"OOD set of {run.data.store.name}: {mismatch} Build it with the encoder of the training set, or pass "
            "--force."
        )

    initialize_weights(run, initial)
    _record_seen_rows(run)
    restore_others(run)
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
    """Return the recipe with absolute store paths, so that the run does not depend on the working directory.

    A URL stays: its copy in the cache is of this machine.
    """
    paths = {
        name: (store.url or str(store.path.resolve())) if store else ""
        for name, store in (("store", data.store), ("ood", data.ood))
    }
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=paths)})


# Following.


def open_follower(order: OpenOrder, processes: ProcessGroup) -> Run:
    """Return the run as another process than the main one has it: without a folder, and with untrained weights."""
    data = open_dataset(order.recipe.data, quiet=True)
    return build_run(Path(), order.recipe, data, order.check, processes, quiet=True)


# All.


def build_run(
    path: Path, recipe: Recipe, data: Dataset, report: CheckReport, processes: ProcessGroup = ALONE, *, quiet: bool
) -> Run:
    """Return the run in memory, with freshly initialized weights; nothing is written."""
    if processes.size > recipe.training.batch_size:
        raise RecipeError(
            f"recipe {recipe.name}: training.batch_size is {recipe.training.batch_size}, but there are "
            f"{processes.size} processes. Raise training.batch_size, which is that of all processes together"
        )
    if processes.is_main:
        processes.broadcast(OpenOrder(recipe, report))
    device, notice = setup_device(recipe.runtime, processes.local_size)
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
        objective=Objective(recipe.objective, precision, processes),
        processes=processes,
        quiet=quiet,
        notices=(notice,) if notice else (),
    )


def setup_device(runtime: RuntimeRecipe, local_size: int = 1) -> tuple[torch.device, str | None]:
    """Apply the recipe's runtime settings to this process; return the device, and a notice if it falls back.

    `local_size` processes share the cores of this machine, and torchrun would give each only one thread.
    """
    device, notice = resolve_device(runtime.device)
    give_back_memory()  # what the data check has freed
    threads = runtime.threads
    if threads is None and local_size > 1:
        threads = max(1, available_cores() // local_size)
    set_threads(threads)
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
            raise StoreError(f"store {store.name}: no {split} windows with context {context}. Add documents")


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
        "processes": run.processes.size,
        "precision": str(run.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu_ops": ops.backend(run.device) if run.recipe.runtime.native_ops else "torch",
        "versions": software_versions(),
    }


def software_versions() -> dict[str, str]:
    """Return the versions of what computes a result: package → version."""
    return {"nextvec": version("nextvec"), "torch": torch.__version__, "python": platform.python_version()}


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
