"""Rollout: how far does a model get on its own predictions?

Each prediction, at unit length, enters the context as its newest vector while the oldest leaves, and the next one is
predicted from that. At step j the prediction is compared with the vector at target + j − 1. Step 1 is the plain score;
how fast the curve falls beside the baselines' says how long the model keeps to the text.
This is a recurrent forecast in free running (Williams & Zipser 1989, "A Learning Algorithm for Continually Running
Fully Recurrent Neural Networks", as opposed to their teacher forcing).

Letters in names: B windows of a block, W windows, S context length, D dimensions.
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
    """The mean cosine at each of `steps` steps, from −1 to 1, summed in float64.

    Only windows whose document has a vector for every step count, the same at each step, so that the curve compares
    like with like; all None if there are none. A shorter, masked context grows with each step until it is full.
    """
    assert steps >= 1, steps
    vectors = evaluated.vectors
    _, end_W = document_bounds(evaluated)
    windows = evaluated.windows.take((end_W - evaluated.windows.targets >= steps).nonzero()[:, 0])
    if len(windows) == 0:
        return (None,) * steps
    cosines_JW = torch.empty((steps, len(windows)), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        positions = slice(start, start + BLOCK)
        batch, prediction_BD = predict_block(predictor, vectors, windows, positions)
        context_BSD, mask_BS = batch.context_BSD, batch.mask_BS
        for step in range(steps):
            if step:
                context_BSD = torch.cat([context_BSD[:, 1:], prediction_BD[:, None]], dim=1)
                if mask_BS is not None:
                    mask_BS = torch.cat([mask_BS[:, 1:], torch.ones_like(mask_BS[:, :1])], dim=1)
                prediction_BD = predict_context(predictor, context_BSD, mask_BS)
            vector_BD = F.normalize(vectors.index_select(0, windows.targets[positions] + step).float())
            cosines_JW[step, positions] = cosine(prediction_BD, vector_BD)
    return tuple(cosines_JW.cpu().double().mean(dim=1).tolist())
