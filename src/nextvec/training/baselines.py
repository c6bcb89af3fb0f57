"""The baselines of a run: fitted once on its training windows, saved in its folder, scored on its other splits."""

from __future__ import annotations

from collections.abc import Mapping

from nextvec.core.process import give_back_memory
from nextvec.core.run_paths import BASELINES_FILE
from nextvec.data.windows import WindowSet, sample
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import DamagedCheckpointError
from nextvec.evaluation.metrics import score_windows
from nextvec.models.base import LatentModel, at_least_float32
from nextvec.models.baselines import RetrievalDecay, fit_baselines
from nextvec.models.checkpoint import read_baselines
from nextvec.models.knn import KNN
from nextvec.models.ridge import Ridge, divide_windows
from nextvec.models.ridge_retrieval import fit_ridge_retrieval
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.knn import attach_knn, fit_knn
from nextvec.training.orders import FitOrder, ScoreOrder
from nextvec.training.query_start import fit_query_decay
from nextvec.training.run import Run

FIT_BATCH = 512
"""Windows per batch when baselines are fitted; the result depends on it only by rounding."""
WHITENING_WINDOWS = 10_000
"""Targets whose covariance whitens those of ridge-retrieval."""


def fit_on(
    train: WindowSet, max_windows: int, seed: int, *, processes: ProcessGroup = ALONE, quiet: bool
) -> dict[str, LatentModel]:
    """Fit all baselines on a fixed sample of at most `max_windows` training windows and return them by name.

    If several processes call it together, each reads its part of the windows, and the main one gets the baselines.
    """
    device = train.vectors.device
    index_W = sample(len(train), max_windows, seed).to(device)
    own_W = index_W[divide_windows(train.windows.take(index_W).groups, processes.size)[processes.rank]]
    batches = (train.batch(index_B) for index_B in own_W.split(FIT_BATCH))
    origin_D = at_least_float32(train.targets(index_W[:FIT_BATCH])[0]).mean(dim=0)
    baselines = fit_baselines(batches, origin_D, train.windows.context, processes=processes, quiet=quiet)
    give_back_memory()  # ridge needs more memory than any training step
    if not processes.is_main:
        return {}
    # The baselines that are made for retrieval, and the nearest training windows.
    ridge = baselines["ridge"]
    assert isinstance(ridge, Ridge), ridge
    retrieval_decay = RetrievalDecay(ridge.dimensions)
    decay, mrr = fit_query_decay(train, seed)
    retrieval_decay.decay.fill_(decay)
    retrieval_decay.train_mrr.fill_(mrr)
    target_WD = train.targets(index_W[sample(len(index_W), WHITENING_WINDOWS, seed).to(device)])[0]
    for baseline in (retrieval_decay, fit_ridge_retrieval(ridge, target_WD), fit_knn(train, index_W, seed)):
        baselines[baseline.name] = baseline
    return {name: baseline.to(device).eval() for name, baseline in baselines.items()}


def attach_baselines(baselines: Mapping[str, object], train: WindowSet) -> None:
    """Give loaded baselines that read the training windows these windows."""
    for baseline in baselines.values():
        if isinstance(baseline, KNN):
            attach_knn(baseline, train)


def fit_share(run: Run) -> dict[str, LatentModel]:
    """Fit the baselines of a run together with its other processes; see `fit_on`."""
    train, limit = run.sets["train"], run.recipe.evaluation.ridge_windows
    return fit_on(train, limit, run.recipe.seed, processes=run.processes, quiet=run.quiet)


def fit_and_save(run: Run) -> dict[str, LatentModel]:
    """Fit the baselines of a run and write baselines.pt."""
    run.processes.broadcast(FitOrder())
    baselines = fit_share(run)
    states = {name: {"config": model.config, "state": model.state_dict()} for name, model in baselines.items()}
    save_checkpoint(run.path / BASELINES_FILE, {"baselines": states, "model_state_dict": {}, "model_config": {}})
    return baselines


def restore_baselines(run: Run) -> str:
    """Load the baselines of a run and return an empty string.

    If their file is damaged, fit them again (the same windows give the same baselines) and return a warning.
    """
    try:
        run.baselines = read_baselines(run.path / BASELINES_FILE, run.device)
        attach_baselines(run.baselines, run.sets["train"])
    except DamagedCheckpointError as error:
        run.baselines = fit_and_save(run)
        return f"{error}. The baselines were fitted again."
    return ""


def baseline_cosines(
    baselines: Mapping[str, LatentModel], sets: Mapping[str, WindowSet], processes: ProcessGroup = ALONE
) -> dict[str, dict[str, float]]:
    """Return the mean cosine of every baseline on val and ood: split → baseline → cosine."""

    def mean_cosine(split: str, model: LatentModel) -> float:
        processes.broadcast(ScoreOrder(split, model))
        return score_windows(model, sets[split].vectors, sets[split].windows, processes=processes).mean_cosine

    return {
        split: {name: mean_cosine(split, model) for name, model in baselines.items()}
        for split in ("val", "ood")
        if split in sets
    }
