"""Starting a run and taking one up again.

start_run   checks everything that can be checked before the folder is made, measures the baselines, makes the model
resume_run  opens a folder again, verifies that the data is the same, and takes up the saved position
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from nextvec.data.check import CheckReport
from nextvec.data.dataset import Dataset, open_dataset
from nextvec.data.space import require_same
from nextvec.data.store import Store, require_new
from nextvec.data.windows import WindowSet, sample
from nextvec.errors import CheckpointError, RecipeError, SpaceError, StoppedError, StoreError
from nextvec.events import Event
from nextvec.files import make_folder, write_text
from nextvec.judge.approximate import require_faiss
from nextvec.judge.metrics import score_windows
from nextvec.judge.sentinel import foreign_space, sentinel_lines, warnings_of
from nextvec.models.base import LatentModel, count_parameters
from nextvec.models.baselines import fit_baselines
from nextvec.models.registry import create_model, model_from_config
from nextvec.models.weights import load_weights
from nextvec.objective import Objective
from nextvec.recipe import DataRecipe, JudgeRecipe, Recipe, load_recipe
from nextvec.runtime import keep_memory, resolve_device, resolve_precision, seed_everything, set_threads
from nextvec.training.checkpoint import BASELINES, RESUME, Checkpoint, read_checkpoint, save_checkpoint
from nextvec.training.log import epoch_lines, header_lines
from nextvec.training.optimizer import make_optimizer
from nextvec.training.run import LOG_FILE, RECIPE_FILE, SENTINEL_FILE, Position, Run, restore, save_position, show


def start_run(recipe: Recipe, path: Path, *, force: bool = False, quiet: bool = False) -> Run:
    """Check the data, make the run's folder, measure the baselines and make the model.

    Raises StoreError if the preflight is red and `force` is not given, and other InputErrors for what can't be used;
    nothing is written before these checks are over.
    """
    require_new(path)
    if recipe.judge.retrieval == "faiss":
        require_faiss()
    data = open_dataset(recipe.data, quiet=quiet)
    recipe = _with_whole_paths(recipe, data)
    store = data.store
    report = data.check(recipe.data.context, recipe.data.least_context)
    if report.light == "red" and not force:
        raise StoreError(f"store {store.path}: {report.worst.text}; see 'nextvec data check', or use --force")
    warm = _warm_start(recipe, store)
    run = _open(path, recipe, data, report, quiet=quiet)

    make_folder(path)
    write_text(path / RECIPE_FILE, recipe.to_toml())
    run.event("started", **_facts(run))
    run.event("checked", **report.to_dict())
    run.say(*header_lines(run.recipe, _facts(run)))
    for finding in report.findings:
        if finding.light != "green":
            run.say(f"data check {finding.light}: {finding.text}")
    for warning in warnings_of(recipe, "ood" in run.sets):
        run.event("warning", text=warning)
        run.say(f"warning: {warning}")

    run.baselines = _fit_baselines(run)
    run.baseline_cosines = baseline_cosines(run.baselines, run.sets)
    run.event("baselines", cosines=run.baseline_cosines)
    for split, cosines in run.baseline_cosines.items():
        line = f"baselines on {split}: " + ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())
        run.say(line)
        if split == "ood":
            run.say_sentinel(line)
    foreign = foreign_space(run.baseline_cosines)
    if foreign and not force:
        run.event("failed", reason=foreign)
        run.write_history("failed", reason=foreign)
        raise SpaceError(f"ood set of {store.path}: {foreign}, or use --force")

    if warm is not None:
        loaded = load_weights(run.model, warm.weights)
        run.event("warm_start", file=str(warm.path), **loaded.to_dict())
        run.say(f"warm start from {warm.path}: {loaded.summary()}")
    run.write_history("running")
    save_position(run)  # from here on the run can be taken up again, whatever happens
    return run


def resume_run(path: Path, *, force: bool = False, quiet: bool = False) -> Run:
    """Open a run's folder and take up its last saved position.

    Raises CheckpointError if there is no saved position, StoreError if the data is not the data it was trained on,
    StoppedError if a gate stopped the run and `force` is not given.
    """
    if not (path / RECIPE_FILE).is_file():
        raise CheckpointError(f"run {path}: no {RECIPE_FILE} there; name the folder of a run")
    recipe = load_recipe(str(path / RECIPE_FILE))
    if not (path / RESUME).is_file():
        raise CheckpointError(
            f"run {path}: it ended before its first saved position; start it again with 'nextvec train'"
        )
    saved = read_checkpoint(path / RESUME)
    data = open_dataset(recipe.data, quiet=quiet)
    trained_on = saved.values["data"]
    for home, now, then in (
        (data.store, data.fingerprint, trained_on["fingerprint"]),
        (data.ood, data.ood_fingerprint, trained_on["ood_fingerprint"]),
    ):
        if home is not None and now != then:
            raise StoreError(f"store {home.path}: not the data that run {path} was trained on (SHA-256 differs)")
    report = data.check(recipe.data.context, recipe.data.least_context)
    run = _open(path, recipe, data, report, quiet=quiet)
    run.baselines = load_baselines(path / BASELINES, run.device)
    restore(run, saved)
    if run.position.stopped and not force:
        raise StoppedError(f"run {path} was stopped: {run.position.stopped}; to go on all the same, use --force")
    run.position.stopped = ""
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
    baselines = [line for line in opening.splitlines() if line.startswith("baselines on ood")]
    checks = [line for record in run.position.history for line in sentinel_lines(record)]
    write_text(run.path / SENTINEL_FILE, "".join(f"{line}\n" for line in baselines + checks))


def _with_whole_paths(recipe: Recipe, data: Dataset) -> Recipe:
    """The recipe with whole paths of stores, so that the run's folder does not depend on the working folder."""
    places = {"store": str(data.store.path.resolve()), "ood": str(data.ood.path.resolve()) if data.ood else ""}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=places)})


def _open(path: Path, recipe: Recipe, data: Dataset, report: CheckReport, *, quiet: bool) -> Run:
    """The run in memory, with fresh weights."""
    device, notice = resolve_device(recipe.runtime.device)
    if notice:
        show((notice,), quiet=quiet)
    set_threads(recipe.runtime.threads)
    sets = data.windows(recipe.data.context, recipe.data.least_context, device)
    for split in ("train", "val"):
        if split not in sets:
            raise StoreError(
                f"store {data.store.path}: no {split} windows with context {recipe.data.context}; add documents"
            )
    if len(sets["train"]) < recipe.training.batch:
        raise RecipeError(
            f"recipe {recipe.name}: training.batch is {recipe.training.batch}, but there are only "
            f"{len(sets['train'])} training windows; make the batch smaller"
        )
    keep_memory()
    seed_everything(recipe.seed)
    model = create_model(recipe.model, data.store.dimensions).to(device)
    return Run(
        path=path,
        recipe=recipe,
        data=data,
        device=device,
        precision=resolve_precision(recipe.training.precision, device),
        sets=sets,
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
        "recipe_fingerprint": run.recipe.fingerprint,
        "data_fingerprint": run.data.fingerprint,
        "ood_fingerprint": run.data.ood_fingerprint,
        "synthetic": run.data.synthetic,
        "space": str(run.data.store.space),
        "vectors": len(run.data.store.vectors),
        "windows": {split: len(windows) for split, windows in run.sets.items()},
        "parameters": count_parameters(run.model),
        "steps_per_epoch": run.steps_per_epoch,
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "versions": {"nextvec": version("nextvec"), "torch": torch.__version__, "python": platform.python_version()},
    }


def fit_on(train: WindowSet, most: int, seed: int, *, quiet: bool) -> dict[str, LatentModel]:
    """All baselines, fitted on a fixed sample of at most `most` training windows, on their device."""
    device = train.vectors.device
    index = sample(len(train), most, seed).to(device)
    batches = (train.batch(part) for part in index.split(4096))
    fitted = fit_baselines(batches, train.vectors.shape[1], train.windows.context, quiet=quiet)
    return {name: baseline.to(device).eval() for name, baseline in fitted.items()}


def _fit_baselines(run: Run) -> dict[str, LatentModel]:
    """Fit the baselines and save them."""
    baselines = fit_on(run.sets["train"], run.recipe.judge.ridge_windows, run.recipe.seed, quiet=run.quiet)
    states = {name: {"config": model.config, "state": model.state_dict()} for name, model in baselines.items()}
    save_checkpoint(run.path / BASELINES, {"baselines": states, "model_state_dict": {}, "model_config": {}})
    return baselines


def load_baselines(path: Path, device: torch.device) -> dict[str, LatentModel]:
    """The baselines that a run saved in its file `path`, on `device`."""
    states = read_checkpoint(path).values["baselines"]
    baselines = {}
    for name, saved in states.items():
        model = model_from_config(saved["config"])
        model.load_state_dict(saved["state"])
        baselines[name] = model.to(device).eval()
    return baselines


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
    judge = JudgeRecipe()
    return baseline_cosines(fit_on(sets["train"], judge.ridge_windows, 0, quiet=quiet), sets)


def baseline_cosines(
    baselines: Mapping[str, LatentModel], sets: Mapping[str, WindowSet]
) -> dict[str, dict[str, float]]:
    """The mean cosine of every baseline on the splits that a model is scored on: split → baseline → cosine."""
    return {
        split: {
            name: score_windows(model, sets[split].vectors, sets[split].windows).mean_cosine
            for name, model in baselines.items()
        }
        for split in ("val", "ood")
        if split in sets
    }
