"""Starting a run and taking one up again.

start_run   checks everything that can be checked before the folder is made, measures the baselines, makes the model
resume_run  opens a folder again, verifies that the data is the same, and takes up the saved position
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from nextvec.data.check import CheckReport, check_store
from nextvec.data.space import require_same
from nextvec.data.split import SPLITS
from nextvec.data.store import Store, open_store, require_new
from nextvec.data.windows import gather, index_windows, sample
from nextvec.errors import CheckpointError, RecipeError, StoreError
from nextvec.events import Event
from nextvec.files import make_folder, write_text
from nextvec.judge.metrics import score_windows
from nextvec.models.base import LatentModel, count_parameters
from nextvec.models.baselines import fit_baselines
from nextvec.models.registry import create_model, model_from_config
from nextvec.models.weights import load_weights
from nextvec.objective import Objective
from nextvec.recipe import Recipe, load_recipe
from nextvec.runtime import resolve_device, resolve_precision, seed_everything, set_threads
from nextvec.training.checkpoint import BASELINES, RESUME, Checkpoint, read_checkpoint, save_checkpoint
from nextvec.training.log import epoch_lines, header_lines
from nextvec.training.optimizer import make_optimizer
from nextvec.training.run import LOG_FILE, RECIPE_FILE, Position, Run, restore, save_position, show


def start_run(recipe: Recipe, path: Path, *, force: bool = False, quiet: bool = False) -> Run:
    """Check the data, make the run's folder, measure the baselines and make the model.

    Raises StoreError if the preflight is red and `force` is not given, and other InputErrors for what can't be used;
    nothing is written before these checks are over.
    """
    require_new(path)
    store = _store_of(recipe)
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"store": str(store.path.resolve())})}
    )  # the run's folder must not depend on the working folder
    report = check_store(store, recipe.data.context, recipe.data.min_context)
    if report.light == "red" and not force:
        raise StoreError(f"store {store.path}: {report.worst.text}; see 'nextvec data check', or use --force")
    warm = _warm_start(recipe, store)
    run = _open(path, recipe, store, report, quiet=quiet)

    make_folder(path)
    write_text(path / RECIPE_FILE, recipe.to_toml())
    run.event("started", **_facts(run))
    run.event("checked", **report.to_dict())
    run.say(*header_lines(run.recipe, _facts(run)))
    for finding in report.findings:
        if finding.light != "green":
            run.say(f"data check {finding.light}: {finding.text}")

    run.baselines = _fit_baselines(run)
    _measure_baselines(run)
    run.event("baselines", cosines=run.baseline_cosines)
    for split, cosines in run.baseline_cosines.items():
        run.say(f"baselines on {split}: " + ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items()))

    if warm is not None:
        loaded = load_weights(run.model, warm.weights)
        run.event("warm_start", file=str(warm.path), **loaded.to_dict())
        run.say(f"warm start from {warm.path}: {loaded.summary()}")
    run.write_history("running")
    save_position(run)  # from here on the run can be taken up again, whatever happens
    return run


def resume_run(path: Path, *, quiet: bool = False) -> Run:
    """Open a run's folder and take up its last saved position.

    Raises CheckpointError if there is no saved position, StoreError if the data is not the data it was trained on.
    """
    if not (path / RECIPE_FILE).is_file():
        raise CheckpointError(f"run {path}: no {RECIPE_FILE} there; name the folder of a run")
    recipe = load_recipe(str(path / RECIPE_FILE))
    if not (path / RESUME).is_file():
        raise CheckpointError(
            f"run {path}: it ended before its first saved position; start it again with 'nextvec train'"
        )
    saved = read_checkpoint(path / RESUME)
    store = _store_of(recipe)
    trained_on = saved.values["data"]["fingerprint"]
    if store.fingerprint != trained_on:
        raise StoreError(f"store {store.path}: not the data that run {path} was trained on (SHA-256 differs)")
    report = check_store(store, recipe.data.context, recipe.data.min_context)
    run = _open(path, recipe, store, report, quiet=quiet)
    run.baselines = load_baselines(path / BASELINES, run.device)
    restore(run, saved)
    run.event("resumed")
    _rewind_log(run)
    show((f"resumed after epoch {run.position.epoch}, step {run.position.step_in_epoch} of the next one",), quiet=quiet)
    return run


def _rewind_log(run: Run) -> None:
    """Write training.log anew up to the position: what stands before the first epoch, and the finished epochs."""
    file = run.path / LOG_FILE
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    opening = text.partition("Epoch 1/")[0]
    lines = [line for record in run.position.history for line in epoch_lines(record, run.recipe)]
    write_text(file, opening + "".join(f"{line}\n" for line in lines))


def _store_of(recipe: Recipe) -> Store:
    if not recipe.data.store:
        raise RecipeError(f"recipe {recipe.name}: data.store is empty; name the folder of a vector store")
    return open_store(recipe.data.store)


def _open(path: Path, recipe: Recipe, store: Store, report: CheckReport, *, quiet: bool) -> Run:
    """The run in memory, with fresh weights."""
    device, notice = resolve_device(recipe.runtime.device)
    if notice:
        show((notice,), quiet=quiet)
    set_threads(recipe.runtime.threads)
    windows = {
        split: index_windows(store.documents, split, recipe.data.context, recipe.data.min_context) for split in SPLITS
    }
    windows = {split: index.to(device) for split, index in windows.items() if len(index)}
    for split in ("train", "val"):
        if split not in windows:
            raise StoreError(
                f"store {store.path}: no {split} windows with context {recipe.data.context}; add documents"
            )
    if len(windows["train"]) < recipe.training.batch:
        raise RecipeError(
            f"recipe {recipe.name}: training.batch is {recipe.training.batch}, but there are only "
            f"{len(windows['train'])} training windows; make the batch smaller"
        )
    seed_everything(recipe.seed)
    model = create_model(recipe.model, store.dimensions).to(device)
    return Run(
        path=path,
        recipe=recipe,
        store=store,
        device=device,
        precision=resolve_precision(recipe.training.precision, device),
        vectors=torch.from_numpy(store.vectors).to(device),
        windows=windows,
        check=report,
        model=model,
        optimizer=make_optimizer(model, recipe.training),
        objective=Objective(recipe.objective),
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
    if kind != recipe.model.kind:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: it is of model '{kind}', the recipe's is '{recipe.model.kind}'"
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
        "recipe_fingerprint": run.recipe.fingerprint,
        "data_fingerprint": run.store.fingerprint,
        "space": str(run.store.space),
        "windows": {split: len(windows) for split, windows in run.windows.items()},
        "parameters": count_parameters(run.model),
        "steps_per_epoch": run.steps_per_epoch,
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {"nextvec": version("nextvec"), "torch": torch.__version__, "python": platform.python_version()},
    }


def _fit_baselines(run: Run) -> dict[str, LatentModel]:
    """Fit the baselines on (a fixed sample of) the training windows and save them."""
    windows = run.windows["train"]
    chosen = sample(len(windows), run.recipe.judge.ridge_windows, run.recipe.seed).to(run.device)
    batches = (gather(run.vectors, windows, index) for index in chosen.split(4096))
    baselines = fit_baselines(batches, run.store.dimensions, run.recipe.data.context, quiet=run.quiet)
    states = {name: {"config": model.config, "state": model.state_dict()} for name, model in baselines.items()}
    save_checkpoint(run.path / BASELINES, {"baselines": states, "model_state_dict": {}, "model_config": {}})
    return {name: model.to(run.device).eval() for name, model in baselines.items()}


def load_baselines(path: Path, device: torch.device) -> dict[str, LatentModel]:
    """The baselines that a run saved in its file `path`, on `device`."""
    states = read_checkpoint(path).values["baselines"]
    baselines = {}
    for name, saved in states.items():
        model = model_from_config(saved["config"])
        model.load_state_dict(saved["state"])
        baselines[name] = model.to(device).eval()
    return baselines


def _measure_baselines(run: Run) -> None:
    """Score every baseline on the splits that the model will be scored on, before the first step."""
    run.baseline_cosines = {
        split: {
            name: score_windows(model, run.vectors, run.windows[split]).mean_cosine
            for name, model in run.baselines.items()
        }
        for split in ("val", "ood")
        if split in run.windows
    }
