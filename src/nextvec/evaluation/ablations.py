"""Context ablations: the drop in cosine to the target when the context is perturbed.

    shuffled         the context's vectors in a random order, one fixed order per window
    reversed         newest vector first
    last only        all vectors masked except the newest
    oldest removed   the oldest vector masked
    other document   the whole context replaced by that of a window of another group of documents

A drop is cos(intact) − cos(perturbed), so that a positive drop means that the perturbation hurts. A drop near 0 shows:

    shuffled, reversed   the model ignores order
    last only            the model reads only the newest vector
    oldest removed       a shorter context is enough
    other document       the model ignores its context

A negative drop of `reversed` shows that the model looks backward. Masked vectors are zero, as at a document's start.
Source: permutation importance (Breiman 2001, "Random Forests", section 10), applied to the context.

Letters in names: A ablations, B windows of a block, W windows, S context length, D dimensions.
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

ABLATIONS = ("shuffled", "reversed", "last only", "oldest removed", "other document")

_STREAM = 2**63 + 2  # separates these random draws from those of windows.py and bootstrap.py under the same seed


@torch.inference_mode()
def measure_ablations(predictor: Predictor, evaluated: WindowSet, resamples: int, seed: int) -> dict[str, Estimate]:
    """Return ablation → drop in mean cosine, in ABLATIONS' order, with paired intervals over groups of documents.

    `oldest removed` skips windows with a single context vector, and is missing if all windows are such.
    `other document` is missing if there is only one group. Without windows the result is empty. A pure function of its
    arguments.
    """
    vectors, windows = evaluated.vectors, evaluated.windows
    groups_W = windows.groups.cpu().numpy()
    # Draw all random numbers first, so that the block size does not change them.
    random = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64)))
    keys_WS = torch.from_numpy(random.random((len(windows), windows.context), dtype=np.float32)).to(vectors.device)
    foreign_W = draw_foreign_windows(groups_W, random)
    foreign = None if foreign_W is None else windows.take(torch.from_numpy(foreign_W).to(vectors.device))
    # An ablation that is not measured stays NaN, and is left out of the result.
    drops_AW = torch.full((len(ABLATIONS), len(windows)), torch.nan, device=vectors.device)

    for start in range(0, len(windows), BLOCK):
        positions = slice(start, start + BLOCK)
        # Predict the windows once intact and once per ablation, and compare both cosines to the target.
        batch, intact_BD = predict_block(predictor, vectors, windows, positions)
        predictions = {
            name: predict_context(predictor, context_BSD, mask_BS)
            for name, (context_BSD, mask_BS) in _perturb(batch, keys_WS[positions]).items()
        }
        if foreign is not None:
            predictions["other document"] = predict_block(predictor, vectors, foreign, positions)[1]
        target_BD = F.normalize(batch.target_BD)
        intact_B = cosine(intact_BD, target_BD)
        for name, prediction_BD in predictions.items():
            drops_AW[ABLATIONS.index(name), positions] = intact_B - cosine(prediction_BD, target_BD)

    # Windows to which an ablation does not apply do not count.
    counts_AW = np.ones(drops_AW.shape, bool)
    counts_AW[ABLATIONS.index("oldest removed")] = (
        windows.context > 1 if windows.available is None else (windows.available > 1).cpu().numpy()
    )
    counts_AW[ABLATIONS.index("other document")] = foreign is not None
    return {
        name: paired_estimates(drops_W[None, counts_W], groups_W[counts_W], resamples, seed, bound=2)[0]
        for name, drops_W, counts_W in zip(ABLATIONS, drops_AW.cpu().numpy().astype(float), counts_AW, strict=True)
        if counts_W.any()
    }


@torch.inference_mode()
def predict_context(predictor: Predictor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Return (B, D) float32 predictions for contexts that are not in a store, computed as in `predict_block`."""
    with torch.autocast(context_BSD.device.type, enabled=False):
        return predictor.predict(context_BSD, mask_BS).float()


def draw_foreign_windows(groups_W: NDArray[np.integer], random: np.random.Generator) -> NDArray[np.int64] | None:
    """Return (W,) for each window the position of a random window of another group; None if there is only one group.

    Windows are drawn with replacement, because a group may have more than half of all windows.
    """
    # Sort the windows by group, so that each group is one run: `starts` and `sizes` are those of the runs.
    order = np.argsort(groups_W, kind="stable")
    _, starts, sizes = np.unique(groups_W[order], return_index=True, return_counts=True)
    if len(sizes) < 2:
        return None
    # Sorted by group and seen as a ring, the foreign windows run from the end of a window's group to its start.
    end_W, size_W = np.repeat(starts + sizes, sizes), np.repeat(sizes, sizes)
    drawn_W = (end_W + random.integers(len(order) - size_W)) % len(order)
    # Undo the sort: the k-th sorted window got the k-th draw.
    foreign_W = np.empty_like(order)
    foreign_W[order] = order[drawn_W]
    return foreign_W


def _perturb(batch: Batch, keys_BS: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return context and mask of each ablation within a window; `keys_BS` in [0, 1) decide the random order."""
    context_BSD, mask_BS = batch.context_BSD, batch.mask_BS
    present_BS = torch.ones_like(keys_BS, dtype=torch.bool) if mask_BS is None else mask_BS
    # The mask of `last only`: the newest place alone.
    last_BS = present_BS.clone()
    last_BS[:, :-1] = False
    # Present vectors fill the newest places, so every vector but the oldest has a present one before it.
    newer_BS = present_BS.clone()
    newer_BS[:, 0] = False
    newer_BS[:, 1:] &= present_BS[:, :-1]
    # Sorted by age, the newest vector (age 0) comes first.
    ages_S = torch.arange(keys_BS.shape[1] - 1, -1, -1, device=keys_BS.device)
    return {
        "shuffled": (_reorder(context_BSD, present_BS, keys_BS), mask_BS),
        "reversed": (_reorder(context_BSD, present_BS, ages_S.expand_as(keys_BS)), mask_BS),
        "last only": (context_BSD * last_BS[:, :, None], last_BS),
        "oldest removed": (context_BSD * newer_BS[:, :, None], newer_BS),
    }


def _reorder(context_BSD: Tensor, present_BS: Tensor, keys_BS: Tensor) -> Tensor:
    """Sort the present vectors by their keys ≥ 0; masked ones stay at the oldest places."""
    # Key −1 is below all others, so masked places sort to the front, where the oldest vectors are.
    order_BS = keys_BS.masked_fill(~present_BS, -1).argsort(dim=1, stable=True)
    return context_BSD.take_along_dim(order_BS[:, :, None], dim=1)
