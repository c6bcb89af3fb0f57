"""A small world to evaluate in: documents whose vectors drift from chunk to chunk, and predictors with known scores."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable
from nextvec.data.windows import Windows, index_windows


class CopyLast:
    def predict(self, context_BSD, mask_BS=None):
        return F.normalize(context_BSD[:, -1])


class ContextMean:
    def predict(self, context_BSD, mask_BS=None):
        return F.normalize(context_BSD.sum(dim=1))


class Constant:
    def __init__(self, vector_D):
        self.vector_D = F.normalize(vector_D, dim=0)

    def predict(self, context_BSD, mask_BS=None):
        return self.vector_D.expand(len(context_BSD), -1)


class Oracle:
    """Predicts the target: finds the last context vector among all vectors and returns the next one."""

    def __init__(self, vectors):
        self.vectors = F.normalize(vectors.float())

    def predict(self, context_BSD, mask_BS=None):
        last = (F.normalize(context_BSD[:, -1]) @ self.vectors.T).argmax(dim=1)
        return self.vectors[last + 1]


@dataclass
class World:
    vectors: torch.Tensor
    documents: DocumentTable

    def windows(self, split: str, context: int = 3, least: int | None = None) -> Windows:
        return index_windows(self.documents, split, context, least)


def make_world(rows, splits, *, dimensions=16, seed=0, dtype=np.float32, groups=None) -> World:
    """Make documents of given lengths and splits; each vector is half the one before it, half noise."""
    rng = np.random.default_rng(seed)
    vectors = []
    for count in rows:
        vector = rng.standard_normal(dimensions)
        for _ in range(count):
            vectors.append(vector / np.linalg.norm(vector))
            vector = vectors[-1] + 0.8 * rng.standard_normal(dimensions) / np.sqrt(dimensions)
    rows = np.array(rows, dtype=np.int64)
    names = [f"document-{number}" for number in range(len(rows))]
    documents = DocumentTable(
        names,
        names,
        ["made"] * len(rows),
        np.array([SPLITS.index(split) for split in splits], dtype=np.int8),
        np.cumsum(rows) - rows,
        rows,
        np.arange(len(rows)) if groups is None else np.array(groups, dtype=np.int64),
    )
    return World(torch.from_numpy(np.array(vectors).astype(dtype)), documents)


@pytest.fixture
def world() -> World:
    """30 train, 25 val and 25 ood documents, some too short for a window of three."""
    rows = [4 + (7 * number) % 9 for number in range(80)]
    rows[31] = rows[60] = 2
    return make_world(rows, ["train"] * 30 + ["val"] * 25 + ["ood"] * 25)


@pytest.fixture
def worlds():
    """Return a function that makes other worlds."""
    return make_world


@pytest.fixture
def predictors(world) -> dict:
    return {
        "copy-last": CopyLast(),
        "context-mean": ContextMean(),
        "constant": Constant(torch.ones(16)),
        "oracle": Oracle(world.vectors),
    }
