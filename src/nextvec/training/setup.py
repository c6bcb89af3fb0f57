"""Starting a run and taking one up again.

start_run   checks everything that can be checked before the folder is made, measures the baselines, makes the model
resume_run  opens a folder again, verifies that the data is the same, and takes up the saved position
"""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from nextvec import ops
from nextvec.core.device import (
    give_back_memory,
    keep_memory,
    resolve_device,
    resolve_precision,
    seed_everything,
    set_threads,
)
from nextvec.core.events import Event
from nextvec.core.files import make_folder, remove_leftovers, write_text
from nextvec.core.formatting import Status
from nextvec.core.run_paths import PREVIOUS_STATE, RECIPE_FILE, RESUME_STATE, SENTINEL_LOG, TRAINING_LOG
from nextvec.data.checks import CheckReport
from nextvec.data.dataset import Dataset, open_dataset
from nextvec.data.space import require_same
from nextvec.data.store import Store
from nextvec.data.store.writer import require_new
from nextvec.data.windows import index_windows
from nextvec.errors import CheckpointError, RecipeError, SpaceError, StoppedError, StoreError
from nextvec.evaluation.retrieval_faiss import require_faiss
from nextvec.guards.diagnosis.rules_data import find_space_mismatch
from nextvec.guards.sentinel import recipe_warnings, sentinel_lines
from nextvec.losses import Objective
from nextvec.models.base import count_parameters
from nextvec.models.load_weights import load_weights
from nextvec.models.registry import create_model
from nextvec.recipe import DataRecipe, EvaluationRecipe, Recipe, load_recipe
from nextvec.training.baselines import baseline_cosines, fit_and_save, fit_on, restore_baselines
from nextvec.training.checkpoint import Checkpoint, read_checkpoint, read_position
from nextvec.training.optimizer import Average, make_optimizer
from nextvec.training.run import FolderHold, Position, Run, restore, save_position, show
from nextvec.training.text_log import epoch_lines, header_lines


def start_run(recipe: Recipe, path: Path, *, force: bool = False, quiet: bool = False) -> Run:
    """Check the data, make the run's folder, measure the baselines and make the model.

    Raises StoreError if the preflight is red and `force` is not given, and other InputErrors for what can't be used;
    nothing is written before these checks are over.
    """
    require_new(path)
    if recipe.evaluation.retrieval == "faiss":
        require_faiss()
    data = open_dataset(recipe.data, quiet=quiet)
    recipe = _with_whole_paths(recipe, data)
    store = data.store
    report = data.check(recipe.data.context, recipe.data.least_context)
    if report.status == Status.RED and not force:
        raise StoreError(f"store {store.path}: {report.worst.text} See 'nextvec data check', or use --force.")
    warm = _warm_start(recipe, store)
    run = _open(path, recipe, data, report, quiet=quiet)

    make_folder(path, new=True)
    with FolderHold(path) as run.hold:
        _begin(run, warm, force=force)
    return run


def _begin(run: Run, warm: Checkpoint | None, *, force: bool) -> None:
    """Write what a run begins with into its new folder: recipe, findings, baselines, first weights, first position."""
    write_text(run.path / RECIPE_FILE, run.recipe.to_toml())
    run.event("started", **_facts(run))
    run.event("checked", **run.check.to_dict())
    run.say(*header_lines(run.recipe, _facts(run)))
    for finding in run.check.findings:
        if finding.status != Status.GREEN:
            run.say(f"data check {finding.status}: {finding.text}")
    for warning in recipe_warnings(run.recipe, "ood" in run.sets):
        run.warn(warning)

    run.baselines = fit_and_save(run)
    run.baseline_cosines = baseline_cosines(run.baselines, run.sets)
    run.event("baselines", cosines=run.baseline_cosines)
    for split, cosines in run.baseline_cosines.items():
        line = f"baselines on {split}: " + ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())
        run.say(line)
        if split == "ood":
            run.say_sentinel(line)
    mismatch = find_space_mismatch(run.baseline_cosines)
    if mismatch and not force:
        run.event("failed", reason=mismatch)
        run.write_history("failed", reason=mismatch)
        raise SpaceError(
            f"OOD set of {run.data.store.path}: {mismatch} Build it with the encoder of the training set, or pass "
            "--force."
        )

    if warm is not None:
        loaded = load_weights(run.model, warm.weights)
        run.event("warm_start", file=str(warm.path), **loaded.to_dict())
        run.say(f"warm start from {warm.path}: {loaded.summary()}")
    run.write_history("running")
    save_position(run)  # from here on the run can be taken up again, whatever happens


def resume_run(path: Path, *, force: bool = False, quiet: bool = False) -> Run:
    """Open a run's folder and take up its last saved position.

    A position that is damaged gives way to the one saved before it. Raises OutputError if another trainer is at work in
    the folder, CheckpointError if there is no saved position or one of another recipe, StoreError if the data is not
    the data it was trained on, StoppedError if a gate stopped the run and `force` is not given.
    """
    if not (path / RECIPE_FILE).is_file():
        raise CheckpointError(f"run {path}: no {RECIPE_FILE} there; name the folder of a run")
    with FolderHold(path) as hold:
        run, notices = _take_up(path, hold, force=force, quiet=quiet)
        if run.position.stopped and not force:
            raise StoppedError(f"run {path} was stopped: {run.position.stopped} To continue anyway, pass --force.")
        run.position.stopped = ""
        run.event("resumed")
        _rewind_log(run)
        for notice in notices:
            run.warn(notice)
        where = f"epoch {run.position.epoch}, step {run.position.step_in_epoch} of the next one"
        show((f"resumed after {where}",), quiet=quiet)
    return run


def _take_up(path: Path, hold: FolderHold, *, force: bool, quiet: bool) -> tuple[Run, list[str]]:
    """The run in its last saved position, once that is known to fit recipe and data; and what is to be said of it."""
    recipe = load_recipe(str(path / RECIPE_FILE))
    if not (path / RESUME_STATE).is_file() and not (path / PREVIOUS_STATE).is_file():
        raise CheckpointError(
            f"run {path}: it ended before its first saved position; start it again with 'nextvec train'"
        )
    saved = read_position(path)
    if not force:
        _require_same_recipe(recipe, saved)
    data = open_dataset(recipe.data, quiet=quiet)
    trained_on = saved.values.get("data", {})
    for home, now, then in (
        (data.store, data.store_hash, trained_on.get("store_hash")),
        (data.ood, data.ood_store_hash, trained_on.get("ood_store_hash")),
    ):
        if home is not None and now != then:
            raise StoreError(f"store {home.path}: not the data that run {path} was trained on (SHA-256 differs)")
    report = data.check(recipe.data.context, recipe.data.least_context)
    run = _open(path, recipe, data, report, quiet=quiet)
    run.hold = hold
    notices = [saved.notice, restore_baselines(run)]
    restore(run, saved)
    remove_leftovers(path)
    return run, [notice for notice in notices if notice]


def _require_same_recipe(recipe: Recipe, saved: Checkpoint) -> None:
    """Raise CheckpointError if a position is of another recipe than the folder's, in what the weights depend on."""
    for section in ("seed", "model", "objective", "training"):
        now, then = getattr(recipe, section), getattr(saved.recipe, section)
        if now != then:
            raise CheckpointError(
                f"checkpoint {saved.path}: saved by another recipe than {RECIPE_FILE} beside it: {section} differs; "
                "bring back the run's own files, or use --force to go on as that recipe says"
            )


def _rewind_log(run: Run) -> None:
    """Write training.log anew up to the position: what stands before the first epoch, and the finished epochs."""
    file = run.path / TRAINING_LOG
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    opening = text.partition("Epoch 1/")[0]
    lines = [line for record in run.position.history for line in epoch_lines(record, run.recipe)]
    write_text(file, opening + "".join(f"{line}\n" for line in lines))
    baselines = [line for line in opening.splitlines() if line.startswith("baselines on ood")]
    checks = [line for record in run.position.history for line in sentinel_lines(record)]
    write_text(run.path / SENTINEL_LOG, "".join(f"{line}\n" for line in baselines + checks))


def _with_whole_paths(recipe: Recipe, data: Dataset) -> Recipe:
    """The recipe with whole paths of stores, so that the run's folder does not depend on the working folder."""
    places = {"store": str(data.store.path.resolve()), "ood": str(data.ood.path.resolve()) if data.ood else ""}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=places)})


def _open(path: Path, recipe: Recipe, data: Dataset, report: CheckReport, *, quiet: bool) -> Run:
    """The run in memory, with fresh weights."""
    device, notice = resolve_device(recipe.runtime.device)
    if notice:
        show((notice,), quiet=quiet)
    give_back_memory()  # the check's samples are larger than anything that comes
    set_threads(recipe.runtime.threads)
    sets = data.windows(recipe.data.context, recipe.data.least_context, device)
    for split in ("train", "val"):
        if split not in sets:
            raise StoreError(
                f"store {data.store.path}: no {split} windows with context {recipe.data.context}; add documents"
            )
    train_windows = sets["train"]
    if recipe.data.train_min_context is not None:
        least = recipe.data.train_min_context
        index = index_windows(data.store.documents, "train", recipe.data.context, least)
        train_windows = replace(train_windows, windows=index.to(device))
    if len(train_windows) < recipe.training.batch_size:
        raise RecipeError(
            f"recipe {recipe.name}: training.batch_size is {recipe.training.batch_size}, but there are only "
            f"{len(train_windows)} training windows; make the batch smaller"
        )
    keep_memory()
    seed_everything(recipe.seed)
    model = create_model(recipe.model, data.store.dimensions).to(device)
    precision = resolve_precision(recipe.training.precision, device)
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
        average=Average(model, recipe.training.ema_decay) if recipe.training.ema_decay else None,
        optimizer=make_optimizer(model, recipe.training),
        objective=Objective(recipe.objective, precision),
        baselines={},
        baseline_cosines={},
        position=Position(),
        quiet=quiet,
    )


def _warm_start(recipe: Recipe, store: Store) -> Checkpoint | None:
    """The checkpoint to start from, once it is known to fit the store."""
    if not recipe.training.init_from:
        return None
    checkpoint = read_checkpoint(recipe.training.init_from)
    dimensions, kind = checkpoint.config["dimensions"], checkpoint.config["kind"]
    variant = checkpoint.config.get("variant", "original")
    if kind != recipe.model.kind:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: it is of model '{kind}', the recipe's is '{recipe.model.kind}'"
        )
    if variant != recipe.model.variant:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: it is of the {variant} {kind}, the recipe's is the {recipe.model.variant} "
            f"one; set model.variant={variant}"
        )
    if dimensions != store.dimensions:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: {dimensions}-D, but store {store.path} is {store.dimensions}-D"
        )
    if checkpoint.space is not None:
        require_same(checkpoint.space, store.space, f"checkpoint {checkpoint.path} and store {store.path}")
    return checkpoint


def _facts(run: Run) -> Event:
    """What a run's first event says."""
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
    """What the baselines reach on val and ood of some data: split → baseline → mean cosine.

    Raises StoreError if there are no windows to fit them on, or none of val.
    """
    chosen_data = DataRecipe(store=store, ood=ood, context=context)
    data = open_dataset(chosen_data, quiet=quiet)
    chosen, notice = resolve_device(device)
    if notice:
        show((notice,), quiet=quiet)
    sets = data.windows(context, chosen_data.least_context, chosen)
    for split in ("train", "val"):
        if split not in sets:
            raise StoreError(f"store {data.store.path}: no {split} windows with context {context}; add documents")
    evaluation = EvaluationRecipe()
    return baseline_cosines(fit_on(sets["train"], evaluation.ridge_windows, 0, quiet=quiet), sets)
