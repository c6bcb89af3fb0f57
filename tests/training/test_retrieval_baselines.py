"""The baselines that are made for retrieval, and kNN, equal their definitions, computed with numpy in float64."""

import numpy as np
import pytest
import torch

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable
from nextvec.data.windows import WindowSet, gather, index_windows
from nextvec.evaluation.metrics import predict_block, score_windows
from nextvec.evaluation.retrieval import candidates_at, target_ranks
from nextvec.models import knn as knn_module
from nextvec.models.baselines import DecayedMean
from nextvec.models.checkpoint import read_baselines
from nextvec.models.knn import KNN
from nextvec.models.ridge import is_held_out
from nextvec.models.ridge_retrieval import SHRINKAGE
from nextvec.training import knn as knn_fit
from nextvec.training.baselines import attach_baselines, fit_on
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.query_start import QUERY_DECAYS

CONTEXT = 4


def normalized(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def sets():
    """60 train and 20 val documents; the next vector depends on the newest two, differently by dimension."""
    rng = np.random.default_rng(0)
    rows = np.array([6 + number % 9 for number in range(80)])
    scale = np.geomspace(3, 0.2, 24)
    vectors = []
    for count in rows:
        topic, last = rng.standard_normal(24) * scale, rng.standard_normal(24) * scale
        for _ in range(count):
            last = 0.5 * last + 0.5 * topic + 0.5 * rng.standard_normal(24) * scale
            vectors.append(normalized(last))
    names = [f"document-{number}" for number in range(80)]
    splits = np.array([SPLITS.index("train")] * 60 + [SPLITS.index("val")] * 20, dtype=np.int8)
    table = DocumentTable(names, names, ["made"] * 80, splits, np.cumsum(rows) - rows, rows, np.arange(80))
    stored = torch.from_numpy(np.array(vectors).astype(np.float16))
    return {name: WindowSet(name, stored, table, index_windows(table, name, CONTEXT, 2)) for name in ("train", "val")}


@pytest.fixture(scope="module")
def baselines(sets):
    return fit_on(sets["train"], 10_000, 0, quiet=True)


def arrays(windows: WindowSet):
    """Return contexts (zero where absent) and unit-length targets in float64."""
    batch = gather(windows.vectors, windows.windows)
    return batch.context_BSD.double().numpy(), normalized(batch.target_BD.double().numpy())


def knn_reference(sets, neighbors, decay, temperature, train=None, query=None):
    """Return kNN's predictions by the definition: the full matrix of cosines, sorted."""
    weights = decay ** np.arange(CONTEXT - 1, -1, -1.0)
    context, target = arrays(sets["train"])
    asked = arrays(sets["val"])[0] if query is None else context[query]
    if train is not None:
        context, target = context[train], target[train]
    keys = normalized(np.einsum("s,wsd->wd", weights, context)).astype(np.float16).astype(np.float64)
    cosines = normalized(np.einsum("s,wsd->wd", weights, asked)) @ keys.T
    predictions = []
    for row in cosines:
        nearest = np.argsort(-row, kind="stable")[:neighbors]
        share = np.exp((row[nearest] - row.max()) / temperature)
        predictions.append(share / share.sum() @ target[nearest])
    return normalized(np.array(predictions))


@pytest.mark.parametrize("memory", [1, 2**25])
def test_knn_equals_brute_force(sets, baselines, monkeypatch, memory):
    """In any blocks, also for windows with a short context."""
    for name, value in (("MAX_SCORES", memory), ("MAX_NEIGHBOR_NUMBERS", memory), ("KEYS_PER_PRODUCT", 100)):
        monkeypatch.setattr(knn_module, name, value)
    knn, batch = baselines["knn"], sets["val"].batch()
    expected = knn_reference(sets, knn.neighbors, knn.decay, knn.temperature)
    np.testing.assert_allclose(knn.predict(batch.context_BSD, batch.mask_BS).numpy(), expected, atol=2e-3)
    assert len(knn.index_W) == len(sets["train"])


def test_knn_is_fitted_on_held_out_documents(sets, baselines):
    """No other neighbors and temperature predict the held-out windows better from the others."""
    held_out = is_held_out(sets["train"].windows.groups).numpy()
    target = arrays(sets["train"])[1][held_out]

    def score(neighbors, decay, temperature):
        predicted = knn_reference(sets, neighbors, decay, temperature, ~held_out, held_out)
        return (predicted * target).sum(axis=1).mean()

    knn = baselines["knn"]
    chosen = score(knn.neighbors, knn.decay, knn.temperature)
    for neighbors in knn_fit.NEIGHBORS:
        for temperature in knn_fit.TEMPERATURES:
            assert score(neighbors, knn.decay, temperature) <= chosen + 1e-4
    best = {
        decay: max(score(k, decay, t) for k in knn_fit.NEIGHBORS for t in knn_fit.TEMPERATURES)
        for decay in knn_fit.DECAYS
    }
    assert best[knn.decay] == pytest.approx(max(best.values()), abs=1e-4)


def test_knn_predicts_each_window_once(sets, baselines, monkeypatch):
    """The second measurement of a window does not search again, and has the same digits."""
    val = sets["val"]
    first = score_windows(baselines["knn"], val.vectors, val.windows)
    few = predict_block(baselines["knn"], val.vectors, val.windows, torch.tensor([3, 1]))[1]
    monkeypatch.setattr(KNN, "_raw", None)
    again = score_windows(baselines["knn"], val.vectors, val.windows)
    assert first.cosine.tolist() == again.cosine.tolist()
    assert torch.equal(few, predict_block(baselines["knn"], val.vectors, val.windows, torch.tensor([1, 3]))[1].flip(0))


def test_the_fitted_baselines_are_saved_without_vectors(sets, baselines, tmp_path):
    states = {name: {"config": model.config, "state": model.state_dict()} for name, model in baselines.items()}
    save_checkpoint(tmp_path / "baselines.pt", {"baselines": states, "model_state_dict": {}, "model_config": {}})
    loaded = read_baselines(tmp_path / "baselines.pt")
    attach_baselines(loaded, sets["train"])
    batch = sets["val"].batch()
    for name, baseline in baselines.items():
        assert torch.equal(
            loaded[name].predict(batch.context_BSD, batch.mask_BS), baseline.predict(batch.context_BSD, batch.mask_BS)
        ), name
    assert sum(value.numel() for value in loaded["knn"].state_dict().values()) == len(sets["train"])


def test_ridge_retrieval_is_ridge_for_whitened_targets(sets, baselines):
    ridge, fitted = baselines["ridge"], baselines["ridge-retrieval"]
    context, target = arrays(sets["train"])
    covariance = np.cov(target.T, bias=True)
    values, directions = np.linalg.eigh(covariance)
    whitening = directions @ np.diag((values + SHRINKAGE * values.mean()) ** -0.5) @ directions.T
    # Ridge's normal equations, with whitened targets.
    batch = gather(sets["train"].vectors, sets["train"].windows)
    present = batch.mask_BS.numpy()
    features = ((context - ridge.slot_mean_KD.numpy()) * present[:, :, None]).reshape(len(context), -1)
    gram = features.T @ features
    penalty = float(ridge.penalty) * gram.diagonal().mean() * np.eye(len(gram))
    raw = batch.target_BD.double().numpy()
    weights = np.linalg.solve(gram + penalty, features.T @ ((raw - raw.mean(axis=0)) @ whitening))
    expected = normalized(features @ weights)
    np.testing.assert_allclose(fitted.predict(batch.context_BSD, batch.mask_BS).numpy(), expected, atol=1e-3)


def test_retrieval_decay_has_the_highest_mrr_on_train(sets, baselines):
    """All of this train split fits into the sample, so that a search over all of its windows must agree."""
    train = sets["train"]
    candidates = candidates_at(train.vectors, train.documents, train.documents.rows_of("train"))
    mrr = {}
    for decay in QUERY_DECAYS:
        mean = DecayedMean(24).eval()
        mean.decay.fill_(decay)
        mrr[decay] = float((1 / target_ranks(mean, train.vectors, train.windows, candidates)).mean())
    fitted = baselines["retrieval-decay"]
    assert round(float(fitted.decay), 2) == max(mrr, key=lambda decay: mrr[decay])
    assert float(fitted.train_mrr) == pytest.approx(max(mrr.values()), abs=1e-6)
