"""Judging what was trained: the best checkpoint of a run, or any checkpoint, read back from the disk."""

from __future__ import annotations

from pathlib import Path

import torch

from nextvec.data.space import require_same
from nextvec.data.store import open_store
from nextvec.data.windows import gather, index_windows, sample
from nextvec.errors import CheckpointError
from nextvec.judge.evaluate import judge_predictors
from nextvec.judge.judgement import Judgement
from nextvec.models.baselines import fit_baselines
from nextvec.runtime import resolve_device
from nextvec.training.checkpoint import BASELINES, BEST, read_checkpoint
from nextvec.training.run import Run, show
from nextvec.training.start import load_baselines

JUDGED_SPLITS = ("val", "ood")


def judge_best(run: Run) -> Judgement:
    """Judge the best checkpoint of a run beside its baselines, and check that it scores as it did in training."""
    checkpoint = read_checkpoint(run.path / BEST)
    model = checkpoint.model().to(run.device)
    judgement = judge_predictors(
        {run.recipe.model.kind: model, **run.baselines},
        run.vectors,
        run.store.documents,
        {split: run.windows[split] for split in JUDGED_SPLITS if split in run.windows},
        run.recipe.judge,
        seed=run.recipe.seed,
        model=run.recipe.model.kind,
        quiet=run.quiet,
    )
    trained = checkpoint.values["metrics"]["val_cosine"]
    judged = judgement.splits["val"].predictors[run.recipe.model.kind].cosine.value
    if abs(trained - judged) > 1e-6:
        run.event("mismatch", trained=trained, judged=judged)
        run.say(f"warning: best_model.pt scores {judged:.6f} on val, in training it scored {trained:.6f}")
    return judgement


def judge_checkpoint(path: Path, *, data: str, context: int | None, device: str, quiet: bool) -> Judgement:
    """Judge a checkpoint on the val and ood splits of a store, beside baselines fitted on the store's train split.

    Raises CheckpointError or SpaceError where checkpoint and store don't fit each other.
    """
    checkpoint = read_checkpoint(path)
    store_path = data or checkpoint.values.get("data", {}).get("store", "")
    if not store_path:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: it does not say what it was trained on; give --data STORE"
        )
    store = open_store(store_path)
    model = checkpoint.model()
    if model.dimensions != store.dimensions:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: {model.dimensions}-D, but store {store.path} is {store.dimensions}-D"
        )
    if checkpoint.space is not None:
        require_same(checkpoint.space, store.space, f"checkpoint {checkpoint.path} and store {store.path}")
    recipe = checkpoint.recipe
    steps = context or recipe.data.context
    least = recipe.data.min_context if steps == recipe.data.context else None
    chosen, notice = resolve_device(device)
    if notice:
        show((notice,), quiet=quiet)
    vectors = torch.from_numpy(store.vectors).to(chosen)
    same_data = checkpoint.values.get("data", {}).get("fingerprint") == store.fingerprint
    fitted_before = checkpoint.path.parent / BASELINES
    if same_data and steps == recipe.data.context and fitted_before.is_file():
        baselines = load_baselines(fitted_before, chosen)
    else:
        train = index_windows(store.documents, "train", steps, least).to(chosen)
        if not len(train):
            raise CheckpointError(
                f"store {store.path}: no train windows, so no baselines to judge beside; add a train split"
            )
        index = sample(len(train), recipe.judge.ridge_windows, recipe.seed).to(chosen)
        batches = (gather(vectors, train, part) for part in index.split(4096))
        fitted = fit_baselines(batches, store.dimensions, steps, quiet=quiet)
        baselines = {name: baseline.to(chosen).eval() for name, baseline in fitted.items()}
    windows = {split: index_windows(store.documents, split, steps, least).to(chosen) for split in JUDGED_SPLITS}
    return judge_predictors(
        {model.name: model.to(chosen), **baselines},
        vectors,
        store.documents,
        {split: index for split, index in windows.items() if len(index)},
        recipe.judge,
        seed=recipe.seed,
        model=model.name,
        quiet=quiet,
    )
