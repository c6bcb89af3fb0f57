"""The baselines of a run: fitted once on its training windows, kept in its folder, measured on its other splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nextvec.core.device import give_back_memory
from nextvec.core.run_paths import BASELINES_FILE
from nextvec.data.windows import WindowSet, sample
from nextvec.errors import DamagedCheckpointError
from nextvec.evaluation.metrics import score_windows
from nextvec.models.base import LatentModel
from nextvec.models.baselines import fit_baselines
from nextvec.models.registry import model_from_config
from nextvec.training.checkpoint import read_checkpoint, save_checkpoint
from nextvec.training.run import Run


def fit_on(train: WindowSet, most: int, seed: int, *, quiet: bool) -> dict[str, LatentModel]:
    """All baselines, fitted on a fixed sample of at most `most` training windows, on their device."""
    device = train.vectors.device
    index = sample(len(train), most, seed).to(device)
    batches = (train.batch(part) for part in index.split(512))
    fitted = fit_baselines(batches, train.vectors.shape[1], train.windows.context, quiet=quiet)
    give_back_memory()  # what ridge needs is more than a training step ever does
    return {name: baseline.to(device).eval() for name, baseline in fitted.items()}


def fit_and_save(run: Run) -> dict[str, LatentModel]:
    """Fit the baselines of a run and save them."""
    baselines = fit_on(run.sets["train"], run.recipe.evaluation.ridge_windows, run.recipe.seed, quiet=run.quiet)
    states = {name: {"config": model.config, "state": model.state_dict()} for name, model in baselines.items()}
    save_checkpoint(run.path / BASELINES_FILE, {"baselines": states, "model_state_dict": {}, "model_config": {}})
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


def restore_baselines(run: Run) -> str:
    """Load the baselines; where their file is damaged fit them again, as the same windows give the same ones.

    Returns what to say of it, empty where nothing is.
    """
    try:
        run.baselines = load_baselines(run.path / BASELINES_FILE, run.device)
    except DamagedCheckpointError as error:
        run.baselines = fit_and_save(run)
        return f"{error}; the baselines were fitted again"
    return ""


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
