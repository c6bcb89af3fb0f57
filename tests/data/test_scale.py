"""A store of a million vectors on sparse files, as bench/scale.py makes it: windows found by arithmetic are right."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nextvec.data.order import EpochOrder
from nextvec.data.splits import SPLITS
from nextvec.data.store import open_store
from nextvec.data.windows import index_windows

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("scale")


def require_exact_batches(folder, context=5):
    """Compare the windows of an epoch's middle with the documents' definition, and the bytes that locating needs."""
    store = open_store(folder)
    documents = store.documents
    sets = {split: index_windows(documents, split, context) for split in SPLITS}
    assert sum(map(len, sets.values())) == int(np.maximum(documents.rows - context, 0).sum())
    train = sets["train"]
    order = EpochOrder(len(train), 0, 3)
    middle = len(train) // 2
    windows = train.take(order[middle : middle + 512])
    targets = windows.targets.numpy()
    document = np.searchsorted(documents.first_row, targets, side="right") - 1
    before = targets - documents.first_row[document]
    assert (before >= context).all() and (before < documents.rows[document]).all()
    assert (documents.splits[document] == 0).all()
    assert np.array_equal(windows.groups.numpy(), documents.group[document])
    assert len(np.unique(targets)) == 512 and targets.max() > 0.9 * len(store.vectors)
    # Adjacent positions are adjacent rows, or a document ends between them.
    at = middle + torch.arange(1000)
    steps = np.diff(train.take(at).targets.numpy())
    assert (steps >= 1).all() and (steps > 1).sum() > 20
    # Splits share the columns of the table, so each address counts once.
    tensors = [column for index in sets.values() for column in vars(index).values() if isinstance(column, torch.Tensor)]
    held = (
        sum({column.data_ptr(): column.nbytes for column in tensors}.values())
        + documents.rows.nbytes
        + documents.splits.nbytes
    )
    assert held <= 29 * len(documents) + 24, "bytes of table and windows in memory"


def test_a_million_vectors_are_located(scale, tmp_path):
    folder = tmp_path / "store"
    scale.write_store(folder, 1_000_000)
    assert sum(file.stat().st_blocks for file in folder.iterdir()) * 512 < 10_000_000, "the files of vectors are sparse"
    require_exact_batches(folder)
    rows = {row["what"]: row["value"] for row in scale.measure(folder)}
    assert rows["vectors"] == 1_000_000 and rows["documents"] == 50_000
    assert rows["peak memory"] > 0 and rows["locate a batch of 512, median"] > 0


@pytest.mark.long
def test_a_billion_vectors_are_located_in_two_gigabytes(scale, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scale.py", "--folder", str(tmp_path / "store")])
    reported = {}
    monkeypatch.setattr(
        scale, "finish", lambda name, rows: reported.update({row["what"]: row["value"] for row in rows})
    )
    scale.main()
    assert reported["vectors"] == 1e9 and reported["peak memory"] <= 2000
    assert reported["open the store"] <= 1 and reported["locate a batch of 512, median"] <= 1000
    require_exact_batches(tmp_path / "store")
