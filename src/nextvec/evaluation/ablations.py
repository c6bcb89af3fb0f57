"""Ablations: by how much does the cosine to the target fall if the context is spoilt?

    shuffled             the context's vectors in a random order, one fixed order per window
    reversed             newest first
    last only            all vectors absent but the newest
    oldest dropped       the oldest vector absent
    another document's   the whole context taken from a window of another group of documents; the target stays

A fall is intact − ablated, so that positive means "it hurts". What a fall near 0 says: of `shuffled` and `reversed`,
that the model ignores order (one that sums over its context has 0 but for rounding; a model that leans on the newest
vector has a positive fall); of `last only`, that nothing but the newest vector is read; of `oldest dropped`, that the
context could be shorter; of `another document's`, that the context is ignored altogether. A negative fall says that
the model would be better off with the spoilt context: of `reversed`, that it looks backwards. Absent vectors are
masked, as at a document's start. The procedure is that of permuting an input and looking at the score (Breiman 2001,
"Random Forests", section 10), here with the context's order, parts and source for inputs.

Letters in names: B windows of a block, W windows, S context length, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import Batch, WindowSet
from nextvec.evaluation.metrics import BLOCK, Predictor, cosine, predict_block
from nextvec.evaluation.offsets import paired_estimates
from nextvec.evaluation.results import Estimate

ABLATIONS = ("shuffled", "reversed", "last only", "oldest dropped", "another document's")

_STREAM = 2**63 + 2  # keeps these draws apart from those of windows.py and bootstrap.py under the same seed


@torch.inference_mode()
def measure_ablations(predictor: Predictor, evaluated: WindowSet, resamples: int, seed: int) -> dict[str, Estimate]:
    """The fall in mean cosine of each ablation, with paired intervals over groups of documents, in ABLATIONS' order.

    Windows with a single context vector don't count for `oldest dropped`, which is left out where all have only one;
    `another document's` is left out where there is only one group, everything where there are no windows. A pure
    function of its arguments.
    """
    vectors, windows = evaluated.vectors, evaluated.windows
    groups_W = windows.groups.cpu().numpy()
    random = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64)))
    keys_WS = torch.from_numpy(random.random((len(windows), windows.context), dtype=np.float32)).to(vectors.device)
    others_W = windows_of_others(groups_W, random)
    others = None if others_W is None else windows.take(torch.from_numpy(others_W).to(vectors.device))
    falls_AW = torch.full((len(ABLATIONS), len(windows)), torch.nan, device=vectors.device)

    for start in range(0, len(windows), BLOCK):
        positions = slice(start, start + BLOCK)
        batch, intact_BD = predict_block(predictor, vectors, windows, positions)
        predictions = {
            name: predict_context(predictor, context_BSD, mask_BS)
            for name, (context_BSD, mask_BS) in _spoilt(batch, keys_WS[positions]).items()
        }
        if others is not None:
            predictions["another document's"] = predict_block(predictor, vectors, others, positions)[1]
        target_BD = F.normalize(batch.target_BD)
        intact_B = cosine(intact_BD, target_BD)
        for name, prediction_BD in predictions.items():
            falls_AW[ABLATIONS.index(name), positions] = intact_B - cosine(prediction_BD, target_BD)

    counted_AW = np.ones(falls_AW.shape, bool)
    counted_AW[ABLATIONS.index("oldest dropped")] = _lengths(evaluated) > 1
    counted_AW[ABLATIONS.index("another document's")] = others is not None
    return {
        name: paired_estimates(falls_W[None, counted_W], groups_W[counted_W], resamples, seed, bound=2)[0]
        for name, falls_W, counted_W in zip(ABLATIONS, falls_AW.cpu().numpy().astype(float), counted_AW, strict=True)
        if counted_W.any()
    }


@torch.inference_mode()
def predict_context(predictor: Predictor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """(B, D) float32 predictions for contexts that are no windows of a store, computed as `predict_block` does."""
    with torch.autocast(context_BSD.device.type, enabled=False):
        return predictor.predict(context_BSD, mask_BS).float()


def windows_of_others(groups_W: NDArray[np.integer], random: np.random.Generator) -> NDArray[np.int64] | None:
    """(W,) for each window the position of one that is drawn at random from all other groups' windows.

    Drawn with replacement, so that a group may hold more than half of the windows. None if there is only one group.
    """
    order = np.argsort(groups_W, kind="stable")
    _, starts, sizes = np.unique(groups_W[order], return_index=True, return_counts=True)
    if len(sizes) < 2:
        return None
    # In order of the groups, the windows of others are those from the end of the own group round to its start.
    end_W, size_W = np.repeat(starts + sizes, sizes), np.repeat(sizes, sizes)
    chosen_W = (end_W + random.integers(len(order) - size_W)) % len(order)
    others_W = np.empty_like(order)
    others_W[order] = order[chosen_W]
    return others_W


def _spoilt(batch: Batch, keys_BS: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Context and mask of each ablation that needs no other window; `keys_BS` in [0, 1) decide the random order."""
    context_BSD, mask_BS = batch.context_BSD, batch.mask_BS
    present_BS = torch.ones_like(keys_BS, dtype=torch.bool) if mask_BS is None else mask_BS
    last_BS = present_BS.clone()
    last_BS[:, :-1] = False
    newer_BS = present_BS.clone()  # present vectors fill the newest places: all but the oldest have one before them
    newer_BS[:, 0] = False
    newer_BS[:, 1:] &= present_BS[:, :-1]
    ages_S = torch.arange(keys_BS.shape[1] - 1, -1, -1, device=keys_BS.device)
    return {
        "shuffled": (_in_order_of(keys_BS, context_BSD, present_BS), mask_BS),
        "reversed": (_in_order_of(ages_S.expand_as(keys_BS), context_BSD, present_BS), mask_BS),
        "last only": (context_BSD * last_BS[:, :, None], last_BS),
        "oldest dropped": (context_BSD * newer_BS[:, :, None], newer_BS),
    }


def _in_order_of(keys_BS: Tensor, context_BSD: Tensor, present_BS: Tensor) -> Tensor:
    """The context with its present vectors in ascending order of their keys ≥ 0; absent ones stay the oldest."""
    order_BS = keys_BS.masked_fill(~present_BS, -1).argsort(dim=1, stable=True)
    return context_BSD.take_along_dim(order_BS[:, :, None], dim=1)


def _lengths(evaluated: WindowSet) -> NDArray[np.int32]:
    """(W,) how many context vectors each window has."""
    windows = evaluated.windows
    if windows.available is None:
        return np.full(len(windows), windows.context, np.int32)
    lengths: NDArray[np.int32] = windows.available.cpu().numpy()
    return lengths
