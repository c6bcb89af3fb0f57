"""What the Large Concept Model paper measures in embedding space, so that figures can be laid beside its tables.

Source: "Large Concept Models: Language Modeling in a Sentence Representation Space", arXiv 2412.08821, section 2.4.1,
"Pre-training evaluation". Two things differ there: its vectors are SONAR's and not of unit length, so that its ℓ2 can't
be compared with that of another space, while here predictions and targets are of unit length and ℓ2 = √(2 − 2·cosine);
and it does not say how its batches are drawn or how ties count, so that here batches mix documents and ties count half.

Letters in names: B windows of a batch, D dimensions, X excluded places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nextvec.data.windows import WindowSet, epoch_order
from nextvec.judge.figures import Contrast
from nextvec.judge.metrics import Predictor, predict_block
from nextvec.judge.retrieval import candidates_at, rank


@torch.inference_mode()
def measure_contrast(predictor: Predictor, judged: WindowSet, batch: int = 256, *, seed: int = 0) -> Contrast:
    """ℓ2 and contrastive accuracy (CA) over the windows of a set, at least one.

        ℓ2 = mean of |prediction − target|, from 0 to 2 between unit-length vectors
        CA = mean over windows of the share of the batch's other targets that are further from the prediction than the
             window's own target is, leaving out the two neighbours of that target in its document

    A batch holds the targets of at most `batch` windows in an order shuffled by the seed; batches are of like size.
    A window without any other target to compare with is not counted; CA is 0.5, which is chance, if none has one.
    """
    vectors, windows = judged.vectors, judged.windows
    order = epoch_order(len(windows), seed, 0).to(vectors.device)
    distances, shares = [], []
    for unsorted_index in order.tensor_split(-(-len(windows) // batch)):
        index = unsorted_index.sort().values  # the order within a batch is of no matter, and candidates ascend
        found, prediction_BD = predict_block(predictor, vectors, windows, index)
        distances.append((prediction_BD - F.normalize(found.target_BD)).norm(dim=1).cpu())
        rows_B = windows.targets[index]
        # Rows side by side are of one document: its first row has no context, so that it is never a target.
        near_BB = (rows_B[:, None] - rows_B).abs() <= 1
        place_B = torch.arange(len(index), device=vectors.device)
        excluded_BX = torch.where(near_BB, place_B, place_B[:, None])
        # Between unit-length targets, further means a smaller product: the rank counts the others that are nearer.
        nearer_B = rank(prediction_BD, candidates_at(vectors, rows_B), place_B, excluded_BX) - 1
        others_B = (~near_BB).sum(dim=1).cpu()
        shares.append((1 - nearer_B / others_B)[others_B > 0])
    share = torch.cat(shares)
    return Contrast(torch.cat(distances).double().mean().item(), share.mean().item() if len(share) else 0.5)
