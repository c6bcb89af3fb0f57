"""Judging what was trained: the best checkpoint of a run, or any checkpoint, read back from the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from nextvec.core.device import resolve_device
from nextvec.core.formatting import Status
from nextvec.core.run_paths import BASELINES_FILE, BEST_MODEL
from nextvec.data.checks.statistics import shared_rows
from nextvec.data.dataset import Dataset, open_data, open_ood
from nextvec.data.space import require_same
from nextvec.data.store import MANIFEST, Store, open_store
from nextvec.data.windows import WindowSet
from nextvec.errors import CheckpointError
from nextvec.evaluation.bootstrap import assign_blocks
from nextvec.evaluation.evaluate import evaluate_predictors
from nextvec.evaluation.latency import measure_latency
from nextvec.evaluation.results import Evaluation
from nextvec.models.base import LatentModel
from nextvec.models.baselines import ContextMean, CopyLast
from nextvec.recipe import DataRecipe
from nextvec.training.baselines import fit_on, load_baselines
from nextvec.training.checkpoint import Checkpoint, read_checkpoint
from nextvec.training.run import Run, show

EVALUATED_SPLITS = ("val", "ood")
LATENCY_BATCHES = (1, 64)
"""Windows at a time for which the judgement tells the latency."""


def evaluate_best(run: Run) -> Evaluation:
    """Judge the best checkpoint of a run beside its baselines, and check that it scores as it did in training."""
    checkpoint = read_checkpoint(run.path / BEST_MODEL)
    if checkpoint.notice:
        run.warn(checkpoint.notice)
    model = checkpoint.model().to(run.device)
    latency = measure_latency(model, run.recipe.data.context, run.device, batches=LATENCY_BATCHES, repeats=50)
    evaluation = evaluate_predictors(
        {run.recipe.model.kind: model, **run.baselines},
        _evaluated_sets(run.data, run.sets, EVALUATED_SPLITS),
        run.recipe.evaluation,
        seed=run.recipe.seed,
        model=run.recipe.model.kind,
        notes=run.data.notes,
        latency=latency,
        quiet=run.quiet,
    )
    trained = checkpoint.values["metrics"]["val_cosine"]
    evaluated = evaluation.splits["val"].predictors[run.recipe.model.kind].cosine.value
    if abs(trained - evaluated) > 1e-6:
        run.event("mismatch", trained=trained, evaluated=evaluated)
        run.say(f"warning: best_model.pt scores {evaluated:.6f} on val, in training it scored {trained:.6f}")
    return evaluation


def evaluate_checkpoint(
    path: Path,
    *,
    data: str = "",
    ood_data: str = "",
    context: int | None = None,
    min_context: int | None = None,
    retrieval: Literal["exact", "faiss"] | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Evaluation:
    """Judge a checkpoint beside the baselines on the val and ood splits of a store, or on an ood set alone.

    `data` and `ood_data` are stores or .npz files of windows. With `ood_data` alone only that set is judged, beside the
    baselines that the run fitted. Raises CheckpointError or SpaceError where checkpoint and data don't fit each other.
    """
    checkpoint = read_checkpoint(path)
    model = checkpoint.model()
    trained_on = _trained_on(checkpoint)
    dataset = _dataset(checkpoint, trained_on, data, ood_data, quiet=quiet)
    home = dataset.ood if ood_data and not data and dataset.ood else dataset.store
    if model.dimensions != home.dimensions:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: {model.dimensions}-D, but store {home.path} is {home.dimensions}-D"
        )
    if checkpoint.space is not None:
        require_same(checkpoint.space, home.space, f"checkpoint {checkpoint.path} and store {home.path}")
    recipe = checkpoint.recipe
    steps = context or recipe.data.context
    kept = recipe.data.min_context if steps == recipe.data.context and min_context is None else min_context
    least = DataRecipe(context=steps, min_context=kept).least_context
    chosen, notice = resolve_device(device)
    if notice:
        show((notice,), quiet=quiet)
    model.to(chosen)
    sets = dataset.windows(steps, least, chosen)
    notes = dataset.notes + _leaks(trained_on, dataset)
    notes += [checkpoint.notice] if checkpoint.notice else []
    if dataset.ood is not None and dataset.store is not dataset.ood:
        notes += [
            item.text
            for item in dataset.check(steps, least).findings
            if item.status == Status.RED and "ood" in item.name
        ]
    baselines = _baselines(checkpoint, dataset, sets, steps, notes, chosen, quiet=quiet)
    evaluated = ("ood",) if ood_data and not data else EVALUATED_SPLITS
    return evaluate_predictors(
        {model.name: model, **baselines},
        _evaluated_sets(dataset, sets, evaluated),
        recipe.evaluation if retrieval is None else recipe.evaluation.model_copy(update={"retrieval": retrieval}),
        seed=recipe.seed,
        model=model.name,
        notes=notes,
        latency=measure_latency(model, steps, chosen, batches=LATENCY_BATCHES, repeats=50),
        quiet=quiet,
    )


def _evaluated_sets(dataset: Dataset, sets: Mapping[str, WindowSet], splits: tuple[str, ...]) -> dict[str, WindowSet]:
    """The splits to judge, with blocks of windows for documents where these are not known."""
    evaluated = {split: sets[split] for split in splits if split in sets}
    for split, windows in evaluated.items():
        if not dataset.knows_documents(split):
            groups_W = torch.from_numpy(assign_blocks(windows.windows.groups.cpu().numpy())).to(windows.windows.groups)
            evaluated[split] = replace(windows, windows=replace(windows.windows, groups=groups_W))
    return evaluated


def _trained_on(checkpoint: Checkpoint) -> Store | None:
    """The store that a checkpoint was trained on; None where it is not known, or not there any more."""
    name = checkpoint.values.get("data", {}).get("store", "")
    return open_store(name) if name and (Path(name) / MANIFEST).is_file() else None


def _dataset(checkpoint: Checkpoint, trained_on: Store | None, data: str, ood_data: str, *, quiet: bool) -> Dataset:
    """What is to be judged on. An ood set whose training store is unknown stands alone, in both places."""
    if data:
        store = open_data(data, quiet=quiet)
        return Dataset(store, open_ood(ood_data, store, quiet=quiet) if ood_data else None)
    if trained_on is not None:
        ood = ood_data or checkpoint.values["data"].get("ood", "")
        return Dataset(trained_on, open_ood(ood, trained_on, quiet=quiet) if ood else None)
    if ood_data:
        alone = open_data(ood_data, "ood", quiet=quiet)
        alone = open_ood(ood_data, alone, quiet=quiet)
        return Dataset(alone, alone)
    named = checkpoint.values.get("data", {}).get("store", "")
    why = (
        f"the store that it was trained on, {named}, is not there"
        if named
        else "it does not say what it was trained on"
    )
    raise CheckpointError(f"checkpoint {checkpoint.path}: {why}; give --data STORE or --ood-data FILE")


def _leaks(trained_on: Store | None, dataset: Dataset) -> list[str]:
    """What a judgement on another store than the trained one must say: rows that the model has seen."""
    if trained_on is None or trained_on.store_hash == dataset.store.store_hash:
        return []
    if trained_on.dimensions != dataset.store.dimensions:
        return []
    shares = {split: shared_rows(trained_on, dataset.store, split) for split in EVALUATED_SPLITS}
    return [
        f"{share:.1%} of the rows of {split} were in the model's training set: its score there is too high"
        for split, share in shares.items()
        if share > 0
    ]


def _baselines(
    checkpoint: Checkpoint,
    dataset: Dataset,
    sets: Mapping[str, WindowSet],
    steps: int,
    notes: list[str],
    device: torch.device,
    *,
    quiet: bool,
) -> dict[str, LatentModel]:
    """The baselines that the run fitted, if it was on these data; else fitted on the store's train split.

    Where there is neither, only those that need no fitting; a note is added that says so.
    """
    recipe = checkpoint.recipe
    fitted_before = checkpoint.path.parent / BASELINES_FILE
    same_context = steps == recipe.data.context and fitted_before.is_file()
    same_data = checkpoint.values.get("data", {}).get("store_hash") == dataset.store.store_hash
    if same_context and (same_data or "train" not in sets):
        return load_baselines(fitted_before, device)
    if "train" not in sets:
        notes.append("no train windows here and no baselines beside the checkpoint: only those that need no fitting")
        plain = (CopyLast(dataset.store.dimensions), ContextMean(dataset.store.dimensions))
        return {baseline.name: baseline.to(device).eval() for baseline in plain}
    return fit_on(sets["train"], recipe.evaluation.ridge_windows, recipe.seed, quiet=quiet)


def reopen(path: Path, *, quiet: bool = False) -> tuple[LatentModel, dict[str, LatentModel], dict[str, WindowSet]]:
    """The model of a run's best checkpoint, its baselines, and the windows of each split, on the CPU.

    Raises CheckpointError as `judge_checkpoint` does, where the checkpoint or what it was trained on is not there.
    """
    checkpoint = read_checkpoint(path)
    recipe, cpu = checkpoint.recipe, torch.device("cpu")
    dataset = _dataset(checkpoint, _trained_on(checkpoint), "", "", quiet=quiet)
    sets = dataset.windows(recipe.data.context, recipe.data.least_context, cpu)
    baselines = _baselines(checkpoint, dataset, sets, recipe.data.context, [], cpu, quiet=quiet)
    return checkpoint.model(), baselines, sets
