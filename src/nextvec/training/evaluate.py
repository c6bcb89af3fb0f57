"""Evaluating trained models: the best checkpoint of a run, or any checkpoint on any data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from nextvec.core.console import show
from nextvec.core.device import resolve_device
from nextvec.core.formatting import Status
from nextvec.core.run_paths import BASELINES_FILE, BEST_MODEL
from nextvec.core.urls import is_url
from nextvec.data.checks import compare_with_train
from nextvec.data.dataset import Dataset, open_data, open_ood
from nextvec.data.seen_rows import SeenRows
from nextvec.data.store import MANIFEST, Store, open_store
from nextvec.data.windows import WindowSet
from nextvec.distributed.process_group import ProcessGroup
from nextvec.errors import CheckpointError, NextvecError
from nextvec.evaluation.bootstrap import assign_blocks
from nextvec.evaluation.evaluate import Measured, Samples, draw_samples, evaluate_predictors, measure_predictors
from nextvec.evaluation.latency import measure_latency
from nextvec.evaluation.metrics import Predictor
from nextvec.evaluation.results import Evaluation, OffsetProfile
from nextvec.inference.load import open_checkpoint
from nextvec.models.base import LatentModel
from nextvec.models.baselines import ContextMean, CopyLast
from nextvec.models.checkpoint import Checkpoint, read_baselines, read_checkpoint
from nextvec.models.knn import KNN
from nextvec.recipe import DataRecipe
from nextvec.training.baselines import attach_baselines, fit_on
from nextvec.training.checkpoint import require_same_space
from nextvec.training.orders import MeasureOrder
from nextvec.training.run import Run

EVALUATED_SPLITS = ("val", "ood")
LATENCY_BATCHES = (1, 64)
"""Batch sizes for which an evaluation reports the latency."""
LATENCY_REPEATS = 50
MAX_SCORE_DIFFERENCE = 1e-6
"""A best checkpoint must score on val as it did in training, up to rounding of the mean."""


def evaluate_best(run: Run) -> Evaluation:
    """Evaluate the best checkpoint of a run and its baselines, and check that it scores as it did in training."""
    checkpoint = read_checkpoint(run.path / BEST_MODEL)
    if checkpoint.notice:
        run.warn(checkpoint.notice)
    model = checkpoint.model().to(run.device)
    kind = run.recipe.model.kind
    context = run.recipe.data.context
    evaluation = evaluate_predictors(
        {kind: model, **run.baselines},
        _evaluated_sets(run.data, run.sets, EVALUATED_SPLITS),
        run.recipe.evaluation,
        seed=run.recipe.seed,
        model=kind,
        notes=run.data.notes,
        latency=measure_latency(model, context, run.device, batches=LATENCY_BATCHES, repeats=LATENCY_REPEATS),
        record=_seen_rows(checkpoint),
        measure=partial(_measure_together, run.processes),
        quiet=run.quiet,
    )
    trained = checkpoint.values["metrics"]["val_cosine"]
    evaluated = evaluation.splits["val"].predictors[kind].cosine.value
    if abs(trained - evaluated) > MAX_SCORE_DIFFERENCE:
        run.event("mismatch", trained=trained, evaluated=evaluated)
        run.log(f"warning: {BEST_MODEL} scores val_cosine={evaluated:.6f}, but it scored {trained:.6f} in training.")
    return evaluation


def _measure_together(
    processes: ProcessGroup,
    predictors: Mapping[str, Predictor],
    samples: Samples,
    profiles: Mapping[str, OffsetProfile],
    after_each: Callable[[], object],
) -> dict[str, Measured]:
    """Measure all predictors of an evaluation, each in one of the processes of the run."""
    processes.broadcast(MeasureOrder(samples.windows.split, predictors, profiles))
    return measure_predictors(predictors, samples, profiles, after_each, processes)


def measure_share(
    run: Run, split: str, predictors: Mapping[str, Predictor], profiles: Mapping[str, OffsetProfile]
) -> None:
    """Measure this process's share of the predictors that the main process evaluates; see `evaluate_best`."""
    for predictor in predictors.values():
        if isinstance(predictor, LatentModel):
            predictor.to(run.device).eval()
    attach_baselines(predictors, run.sets["train"])
    windows = _evaluated_sets(run.data, run.sets, (split,))[split]
    samples = draw_samples(windows, run.recipe.evaluation, run.recipe.seed)
    measure_predictors(predictors, samples, profiles, processes=run.processes)


def evaluate_checkpoint(
    source: str | Path | Checkpoint,
    *,
    data: str = "",
    ood_data: str = "",
    context: int | None = None,
    min_context: int | None = None,
    retrieval: Literal["exact", "faiss"] | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a model and the baselines on the val and ood splits of a store, or on an ood set alone.

    `source` is one of `load_model`, or a checkpoint in memory. `data` and `ood_data` are stores or .npz files of
    windows. With `ood_data` alone only that set is evaluated, with the baselines that the run fitted. Raises
    CheckpointError or SpaceError if model and data don't match.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    train_store = _train_store(checkpoint, is_needed=not data, quiet=quiet)
    dataset = _open_evaluated(checkpoint, train_store, data, ood_data, quiet=quiet)
    is_ood_only = bool(ood_data) and not data
    require_same_space(checkpoint, dataset.ood if is_ood_only and dataset.ood else dataset.store)
    # The windows: those of the recipe, unless another context is requested.
    recipe = checkpoint.recipe
    length = context or recipe.data.context
    if length == recipe.data.context and min_context is None:
        min_context = recipe.data.min_context
    least = DataRecipe(context=length, min_context=min_context).least_context
    torch_device, notice = resolve_device(device)
    if notice:
        show((notice,), quiet=quiet)
    model = checkpoint.model().to(torch_device)
    sets = dataset.windows(length, least, torch_device)
    # Notes: everything that makes the scores hard to compare.
    notes = dataset.notes + ([checkpoint.notice] if checkpoint.notice else [])
    if dataset.ood is not None and dataset.store is not dataset.ood:
        findings = dataset.check(length, least).findings
        notes += [finding.text for finding in findings if finding.status == Status.RED and "ood" in finding.name]
    notes += _space_notes(train_store, dataset)
    baselines = _baselines(checkpoint, dataset, sets, length, notes, torch_device, quiet=quiet)
    return evaluate_predictors(
        {model.name: model, **baselines},
        _evaluated_sets(dataset, sets, ("ood",) if is_ood_only else EVALUATED_SPLITS),
        recipe.evaluation if retrieval is None else recipe.evaluation.model_copy(update={"retrieval": retrieval}),
        seed=recipe.seed,
        model=model.name,
        notes=notes,
        latency=measure_latency(model, length, torch_device, batches=LATENCY_BATCHES, repeats=LATENCY_REPEATS),
        record=_seen_rows(checkpoint),
        quiet=quiet,
    )


def _evaluated_sets(dataset: Dataset, sets: Mapping[str, WindowSet], splits: tuple[str, ...]) -> dict[str, WindowSet]:
    """Return the splits to evaluate; if their documents are unknown, blocks of windows are the bootstrap's groups."""
    evaluated = {split: sets[split] for split in splits if split in sets}
    for split, windows in evaluated.items():
        if not dataset.knows_documents(split):
            rows = windows.windows.take(torch.arange(len(windows), device=windows.vectors.device))
            groups_W = torch.from_numpy(assign_blocks(rows.groups.cpu().numpy())).to(rows.groups)
            evaluated[split] = replace(windows, windows=replace(rows, groups=groups_W))
    return evaluated


def _train_store(checkpoint: Checkpoint, *, is_needed: bool = True, quiet: bool = False) -> Store | None:
    """Return the store that a checkpoint was trained on; None if it is unknown or no longer exists.

    A store at a URL that is not needed is opened only if it is in the cache.
    """
    name = checkpoint.values.get("data", {}).get("store", "")
    if is_url(name):
        if is_needed:
            return open_store(name, quiet=quiet)
        with suppress(NextvecError):
            return open_store(name, quiet=quiet, download=False)
        return None
    return open_store(name) if name and (Path(name) / MANIFEST).is_file() else None


def _open_evaluated(
    checkpoint: Checkpoint, train_store: Store | None, data: str, ood_data: str, *, quiet: bool
) -> Dataset:
    """Return the data to evaluate on: `data`, else the training store; an ood set without either is used alone."""
    if data:
        store = open_data(data, quiet=quiet)
        return Dataset(store, open_ood(ood_data, store, quiet=quiet) if ood_data else None)
    if train_store is not None:
        ood = ood_data or checkpoint.values["data"].get("ood", "")
        return Dataset(train_store, open_ood(ood, train_store, quiet=quiet) if ood else None)
    if ood_data:
        store = open_data(ood_data, "ood", quiet=quiet)
        store = open_ood(ood_data, store, quiet=quiet)
        return Dataset(store, store)
    name = checkpoint.values.get("data", {}).get("store", "")
    reason = f"its training store {name} does not exist" if name else "it does not name its training store"
    raise CheckpointError(f"checkpoint {checkpoint.path}: {reason}. Use --data STORE or --ood-data FILE")


def _space_notes(train_store: Store | None, dataset: Dataset) -> list[str]:
    """Return a note for each evaluated split that may be in another embedding space than the model's training set."""
    if train_store is None or train_store.store_hash == dataset.store.store_hash:
        return []  # unknown, or the data check has compared them
    stores = {"val": dataset.store, "ood": dataset.ood or dataset.store}
    return [finding.text for finding in compare_with_train(train_store, stores) if finding.status != Status.GREEN]


def _seen_rows(checkpoint: Checkpoint) -> SeenRows:
    """Return the rows that a checkpoint's weights were trained on; an incomplete record if it has none."""
    return SeenRows.from_values(checkpoint.values.get("seen_rows"))


def _baselines(
    checkpoint: Checkpoint,
    dataset: Dataset,
    sets: Mapping[str, WindowSet],
    context: int,
    notes: list[str],
    device: torch.device,
    *,
    quiet: bool,
) -> dict[str, LatentModel]:
    """Return the baselines that the run fitted if they fit this data, else baselines fitted on its train split.

    Without either, only baselines that need no fitting; a note is appended to `notes`.
    """
    recipe, saved = checkpoint.recipe, checkpoint.path.parent / BASELINES_FILE
    has_saved = context == recipe.data.context and saved.is_file()
    is_same_data = checkpoint.values.get("data", {}).get("store_hash") == dataset.store.store_hash
    if has_saved and (is_same_data or "train" not in sets):
        baselines = read_baselines(saved, device)
        if "train" in sets:
            attach_baselines(baselines, sets["train"])
        elif baselines.pop(KNN.name, None) is not None:
            notes.append("no train windows: knn, which predicts from them, is not reported")
        return baselines
    if "train" not in sets:
        notes.append("no train windows and no saved baselines: only the baselines that need no fitting are reported")
        unfitted = (CopyLast(dataset.store.dimensions), ContextMean(dataset.store.dimensions))
        return {baseline.name: baseline.to(device).eval() for baseline in unfitted}
    return fit_on(sets["train"], recipe.evaluation.ridge_windows, recipe.seed, quiet=quiet)


def reopen(path: Path, *, quiet: bool = False) -> tuple[LatentModel, dict[str, LatentModel], dict[str, WindowSet]]:
    """Return the model of a run's best checkpoint, its baselines, and the windows of each split, on the CPU.

    Raises CheckpointError if the checkpoint or the store that it was trained on does not exist.
    """
    checkpoint = read_checkpoint(path)
    recipe, cpu = checkpoint.recipe, torch.device("cpu")
    dataset = _open_evaluated(checkpoint, _train_store(checkpoint, quiet=quiet), "", "", quiet=quiet)
    sets = dataset.windows(recipe.data.context, recipe.data.least_context, cpu)
    baselines = _baselines(checkpoint, dataset, sets, recipe.data.context, [], cpu, quiet=quiet)
    return checkpoint.model(), baselines, sets
