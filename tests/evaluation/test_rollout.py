"""Rollouts equal their closed forms and a loop over single windows; the first step is the plain score."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextvec.data.windows import WindowSet
from nextvec.evaluation.metrics import score_windows
from nextvec.evaluation.rollout import measure_rollout
from nextvec.models.base import LatentModel
from nextvec.models.baselines import ContextMean, CopyLast


class Rotation(LatentModel):
    """Predicts the last vector rotated, which is the true process."""

    name = "rotation"

    def __init__(self, rotation_DD):
        super().__init__(len(rotation_DD))
        self.rotation_DD = rotation_DD

    def _raw(self, context_BSD, mask_BS):
        return 3 * context_BSD[:, -1] @ self.rotation_DD.T


def evaluated_in(world, split="val", context=3, least=None) -> WindowSet:
    return WindowSet(split, world.vectors, world.documents, world.windows(split, context, least))


def long_windows(evaluated, steps):
    """Return the positions of windows whose document has all steps, and their targets."""
    documents = evaluated.documents
    ends = {
        row: int(first + rows)
        for first, rows in zip(documents.first_row, documents.rows, strict=True)
        for row in range(first, first + rows)
    }
    targets = evaluated.windows.targets.tolist()
    positions = [position for position, target in enumerate(targets) if ends[target] - target >= steps]
    return positions, [targets[position] for position in positions]


def test_the_true_process_has_cosine_one_at_every_step(worlds):
    world = worlds([14, 11, 3], ["val"] * 3)
    rotation_DD = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    for first, rows in zip(world.documents.first_row, world.documents.rows, strict=True):
        for row in range(first + 1, first + rows):
            world.vectors[row] = rotation_DD @ world.vectors[row - 1]
    evaluated = evaluated_in(world)
    assert measure_rollout(Rotation(rotation_DD).eval(), evaluated) == pytest.approx([1.0] * 8, abs=1e-5)
    assert measure_rollout(CopyLast(16).eval(), evaluated)[0] < 0.9


def test_copy_last_repeats_its_first_prediction(world):
    """At step j its score is cos(last, vector at target + j − 1)."""
    evaluated, vectors = evaluated_in(world, least=1), F.normalize(world.vectors.double())
    _, targets = long_windows(evaluated, 4)
    expected = [np.mean([float(vectors[row - 1] @ vectors[row + step]) for row in targets]) for step in range(4)]
    assert measure_rollout(CopyLast(16).eval(), evaluated, 4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("least", [None, 1])
def test_the_context_shifts_and_grows(world, least):
    """The context mean by hand: its own unit predictions take part; a short context grows to S, then slides."""
    evaluated, vectors = evaluated_in(world, context=4, least=least), F.normalize(world.vectors.double())
    positions, targets = long_windows(evaluated, 5)
    assert 0 < len(positions) < len(evaluated)
    curves = []
    for position, target in zip(positions, targets, strict=True):
        length = 4 if evaluated.windows.available is None else int(evaluated.windows.available[position])
        read, curve = [*vectors[target - length : target]], []
        for step in range(5):
            read.append(F.normalize(torch.stack(read[-4:]).mean(dim=0), dim=0))
            curve.append(float(read[-1] @ vectors[target + step]))
        curves.append(curve)
    result = measure_rollout(ContextMean(16).eval(), evaluated, 5)
    assert result == pytest.approx(np.mean(curves, axis=0), abs=1e-6)


@pytest.mark.parametrize("least", [None, 1])
def test_the_first_step_is_the_cosine(world, predictors, least):
    evaluated = evaluated_in(world, least=least)
    positions, _ = long_windows(evaluated, 3)
    same = evaluated.windows.take(torch.tensor(positions))
    for predictor in predictors.values():
        first = measure_rollout(predictor, evaluated, 3)[0]
        assert first == pytest.approx(score_windows(predictor, world.vectors, same).mean_cosine, abs=1e-12)
    everything = score_windows(predictors["copy-last"], world.vectors, evaluated.windows).mean_cosine
    assert measure_rollout(predictors["copy-last"], evaluated, 1) == (pytest.approx(everything, abs=1e-12),)


def test_every_step_scores_the_same_windows(worlds):
    """A document that ends early would otherwise drop out of the later steps only."""
    world = worlds([6, 7, 4], ["val"] * 3)
    result = measure_rollout(CopyLast(16).eval(), evaluated_in(world), 4)
    vectors = F.normalize(world.vectors.double())
    assert result == pytest.approx([float(vectors[8] @ vectors[9 + step]) for step in range(4)], abs=1e-6)


def test_without_long_documents_all_steps_are_none(worlds):
    world = worlds([6, 10], ["val"] * 2)
    assert measure_rollout(CopyLast(16).eval(), evaluated_in(world)) == (None,) * 8
    assert None not in measure_rollout(CopyLast(16).eval(), evaluated_in(world), 7)
