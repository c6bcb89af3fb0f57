"""Contrastive metrics: ℓ2 and accuracy equal their definition, and known predictors get the known values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextvec.data.windows import WindowSet
from nextvec.evaluation.retrieval import measure_contrastive


class Noise:
    """Predicts another random direction for each window."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def predict(self, context_BSD, mask_BS=None):
        return F.normalize(torch.randn(context_BSD[:, 0].shape, generator=self.generator))


class Opposite:
    def __init__(self, predictor):
        self.predictor = predictor

    def predict(self, context_BSD, mask_BS=None):
        return -self.predictor.predict(context_BSD, mask_BS)


def evaluated(world, split="val", least=None) -> WindowSet:
    return WindowSet(split, world.vectors, world.documents, world.windows(split, 3, least))


def reference(world, windows, predictor):
    """Return ℓ2, accuracy and paraphrasing by the definition, one pair at a time, in float64."""
    document = np.repeat(np.arange(len(world.documents)), world.documents.rows)
    distances, shares, closest = [], [], []
    for member, row in enumerate(windows.targets.tolist()):
        steps = windows.context if windows.available is None else int(windows.available[member])
        context = torch.zeros((1, windows.context, world.vectors.shape[1]))
        context[0, -steps:] = world.vectors[row - steps : row]
        prediction = predictor.predict(context)[0].double()
        distance = float((prediction - world.vectors[row].double()).norm())
        distances.append(distance)
        others = [other for other in np.flatnonzero(document == document[row]) if abs(other - row) > 1]
        farther = [float((prediction - world.vectors[other].double()).norm()) > distance for other in others]
        if others:
            shares.append(sum(farther) / len(others))
        read = world.vectors[row - steps : row].double()
        closest.append([float((read @ vector).max()) for vector in (prediction, world.vectors[row].double())])
    mine, true = np.mean(closest, axis=0)
    return np.mean(distances), np.mean(shares), mine / true


@pytest.mark.parametrize("least", [None, 1])
@pytest.mark.parametrize("name", ["copy-last", "context-mean", "constant"])
def test_metrics_equal_their_definition(world, predictors, least, name):
    windows = evaluated(world, least=least)
    result = measure_contrastive(predictors[name], windows)
    l2, accuracy, paraphrasing = reference(world, windows.windows, predictors[name])
    assert result.l2 == pytest.approx(l2, abs=1e-6) and result.accuracy == pytest.approx(accuracy, abs=1e-9)
    assert result.paraphrasing == pytest.approx(paraphrasing, abs=1e-5)
    assert name != "copy-last" or result.paraphrasing > 1, "a copy is closer to the context than the true next chunk"


def test_an_oracle_has_the_best_values_and_its_opposite_the_worst(world, predictors):
    result = measure_contrastive(predictors["oracle"], evaluated(world))
    assert result.l2 == pytest.approx(0, abs=1e-6) and result.accuracy == 1.0
    opposite = measure_contrastive(Opposite(predictors["oracle"]), evaluated(world))
    assert opposite.l2 == pytest.approx(2, abs=1e-6) and opposite.accuracy == 0.0


def test_random_directions_have_accuracy_one_half(worlds):
    world = worlds([40] * 50, ["val"] * 50)
    result = measure_contrastive(Noise(), evaluated(world))
    assert result.accuracy == pytest.approx(0.5, abs=0.03)
    assert result.l2 == pytest.approx(np.sqrt(2), abs=0.05), "directions at right angles"


@pytest.mark.parametrize(("steps", "accuracy"), [(1.9, 1.0), (0.1, 1.0), (3.1, 1 - 12 / 7 / 7)])
def test_the_two_neighbors_of_a_target_do_not_count(worlds, steps, accuracy):
    """On a circle of equal steps: a prediction 0.9 steps from the target is nearer to a neighbor, which is left out.

    At 2.1 steps ahead, the second to fourth chunk after the target are nearer and count: 3, 3, 3, 2, 1, 0, 0 of them.
    """
    world = worlds([10], ["val"])
    angle = 0.2 * torch.arange(10.0)
    world.vectors = torch.stack([angle.cos(), angle.sin()], dim=1)
    far = torch.tensor(0.2 * steps)
    turn = torch.stack([torch.stack([far.cos(), far.sin()]), torch.stack([-far.sin(), far.cos()])])

    class Ahead:
        def predict(self, context_BSD, mask_BS=None):
            return context_BSD[:, -1] @ turn

    result = measure_contrastive(Ahead(), evaluated(world))
    assert result.l2 == pytest.approx(2 * np.sin(0.1 * abs(steps - 1)), abs=1e-5)
    assert result.accuracy == pytest.approx(accuracy, abs=1e-9)


def test_repeated_texts_count_half(worlds, predictors):
    """Chunks with the text of the target cannot be distinguished from it, whatever the rounding."""
    world = worlds([4] * 40, ["val"] * 40)
    world.vectors[0::4] = world.vectors[1::4] = world.vectors[3::4].clone()
    assert measure_contrastive(predictors["context-mean"], evaluated(world)).accuracy == 0.5


def test_a_document_without_other_chunks_has_chance_accuracy(worlds, predictors):
    assert measure_contrastive(predictors["copy-last"], evaluated(worlds([2], ["val"]), least=1)).accuracy == 0.5


def test_half_precision_vectors_are_normalized(worlds, predictors):
    world = worlds([9] * 30, ["val"] * 30)
    whole = measure_contrastive(predictors["copy-last"], evaluated(world))
    world.vectors = (world.vectors * 1.01).half()
    half = measure_contrastive(predictors["copy-last"], evaluated(world))
    assert half.l2 == pytest.approx(whole.l2, abs=1e-3) and half.accuracy == pytest.approx(whole.accuracy, abs=1e-2)
