"""Autoregressive rollout: the cosine after 1, 2 … steps with predictions fed back.

Each unit-length prediction enters the context as its newest vector, the oldest vector leaves, and the model predicts
again. Step j is compared with the vector at target + j − 1. Step 1 is the ordinary score; rollout@8 is step 8.
Source: free-running recurrent prediction, as opposed to teacher forcing (Williams & Zipser 1989, "A Learning Algorithm
for Continually Running Fully Recurrent Neural Networks").

Letters in names: J steps, B windows of a block, W windows, S context length, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nextvec.data.windows import WindowSet
from nextvec.evaluation.ablations import predict_context
from nextvec.evaluation.metrics import BLOCK, Predictor, cosine, predict_block
from nextvec.evaluation.offsets import document_bounds


@torch.inference_mode()
def measure_rollout(predictor: Predictor, evaluated: WindowSet, steps: int = 8) -> tuple[float | None, ...]:
    """Return the mean cosine at each step, from −1 to 1; all None if no document is long enough.

    Only windows whose document has a vector for every step count. So all steps score the same windows. A shorter,
    masked context grows with each step until it is full.
    """
    assert steps >= 1, steps
    vectors = evaluated.vectors
    # The last step is compared with row target + steps − 1, which the document must still have.
    _, end_W = document_bounds(evaluated)
    windows = evaluated.windows.take((end_W - evaluated.windows.targets >= steps).nonzero()[:, 0])
    if len(windows) == 0:
        return (None,) * steps
    cosines_JW = torch.empty((steps, len(windows)), device=vectors.device)
    # Roll a block out to its last step before the next one starts, so that one block of contexts is in memory.
    for start in range(0, len(windows), BLOCK):
        positions = slice(start, start + BLOCK)
        batch, prediction_BD = predict_block(predictor, vectors, windows, positions)
        context_BSD, mask_BS = batch.context_BSD, batch.mask_BS
        for step in range(steps):
            if step:
                # Shift the context by one: the last prediction becomes the newest vector.
                context_BSD = torch.cat([context_BSD[:, 1:], prediction_BD[:, None]], dim=1)
                # A prediction is never masked.
                if mask_BS is not None:
                    mask_BS = torch.cat([mask_BS[:, 1:], torch.ones_like(mask_BS[:, :1])], dim=1)
                prediction_BD = predict_context(predictor, context_BSD, mask_BS)
            vector_BD = F.normalize(vectors.index_select(0, windows.targets[positions] + step).float())
            cosines_JW[step, positions] = cosine(prediction_BD, vector_BD)
    return tuple(cosines_JW.cpu().double().mean(dim=1).tolist())
