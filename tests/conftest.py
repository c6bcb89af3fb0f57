"""A small store that every test of training and judging can use: documents that drift, with a forward direction."""

import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that each take all cores wait for each other: the whole suite takes three times as long.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

import numpy as np
import pytest
from hypothesis import settings

from nextvec.data.space import Space
from nextvec.data.split import SPLITS
from nextvec.data.store import VECTORS, DocumentTable, Store, finish_store, write_documents
from nextvec.recipe import Recipe, make_recipe

# What must pass before a change lands (.ci/run) must not hang on luck; elsewhere hypothesis finds new cases each time.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def write_toy_store(
    path: Path, *, documents: int = 60, dimensions: int = 16, seed: int = 0, encoder: str = "toy"
) -> Store:
    """Documents of 3 to 20 vectors; each vector leans on the two before it and on the document's own topic."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    rows = rng.integers(3, 21, documents)
    vectors = []
    for count in rows:
        topic, state = rng.normal(size=dimensions), rng.normal(size=dimensions)
        for _ in range(count):
            state = 0.7 * turn @ state + 0.7 * rng.normal(size=dimensions)
            vector = topic + state
            vectors.append(vector / np.linalg.norm(vector))
    splits = np.array(
        [SPLITS.index(("train", "train", "train", "val", "ood")[n % 5]) for n in range(documents)], np.int8
    )
    names = [f"document-{n}" for n in range(documents)]
    table = DocumentTable(names, names, ["toy"] * documents, splits, np.cumsum(rows) - rows, rows, np.arange(documents))
    folder = path.with_name(path.name + ".unfinished")
    folder.mkdir(parents=True)
    np.save(folder / VECTORS, np.array(vectors, np.float32))
    write_documents(folder, table)
    return finish_store(
        folder, path, Space(encoder, "1", dimensions), {"documents": documents, "chunks": int(rows.sum())}
    )


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_toy_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture
def other_store(tmp_path: Path) -> Callable[..., Store]:
    """Writes a toy store of another seed or dimension: ``other_store(dimensions=8)``."""
    return lambda **options: write_toy_store(tmp_path / f"other_store_{len(list(tmp_path.iterdir()))}", **options)


@pytest.fixture
def toy_recipe(toy_store: Store) -> Recipe:
    return make_recipe(
        {
            "name": "toy",
            "data": {"store": str(toy_store.path)},
            "objective": {"mse": 0.5, "info": 0.5},
            "training": {"epochs": 3, "batch": 32, "precision": "fp32"},
            "judge": {"resamples": 100, "ridge_windows": 1000},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
