"""The record of seen rows recognizes a row in any format and store, and takes no other row for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nextvec.data import seen_rows
from nextvec.data.seen_rows import SeenRows, hash_rows
from nextvec.data.windows import WindowRows, WindowSet, index_windows

DIMENSIONS = 384


def unit_rows(count, dimensions=DIMENSIONS, seed=0):
    """Return random unit vectors with a common direction, as encoders make them: pairs have a cosine of 0.5."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions)) + np.sqrt(np.arange(dimensions) % 2 * 2.0)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def windows_of(toy_store):
    """Make all rows of an array the windows of one long document."""

    def make(vectors, context=5):
        one = np.array([len(vectors)])
        documents = replace(
            toy_store.documents,
            ids=["a"],
            titles=[""],
            sources=[""],
            splits=np.zeros(1, np.int8),
            first_row=0 * one,
            rows=one,
            group=0 * one,
        )
        return WindowSet("train", torch.from_numpy(vectors), documents, index_windows(documents, "train", context))

    return make


@pytest.mark.parametrize(
    ("copy", "least"),
    [
        (lambda x: x, 1.0),
        (lambda x: x.astype(np.float16), 0.98),
        (lambda x: x.astype(np.float16).astype(np.float32) * 1.0003, 0.98),
        (lambda x: torch.from_numpy(x).bfloat16().float().numpy(), 0.9),
        (lambda x: x + 1e-3 * unit_rows(len(x), seed=1), 0.9),
        (lambda x: 7 * x[::-1].copy(), 0.98),
    ],
    ids=["same", "float16", "scaled float16", "bfloat16", "encoded again", "other order and length"],
)
def test_a_copy_is_recognized(windows_of, copy, least):
    vectors = unit_rows(4000)
    record = SeenRows().after_run("a", hash_rows(windows_of(vectors)))
    rows, (seen,) = record.count(windows_of(copy(vectors)))
    assert rows == 4000 and least <= seen / rows <= 1


@pytest.mark.parametrize("dimensions", [4, 16, 768])
def test_another_row_is_not_recognized(windows_of, dimensions):
    record = SeenRows().after_run("a", hash_rows(windows_of(unit_rows(20_000, dimensions))))
    rows, (seen,) = record.count(windows_of(unit_rows(5000, dimensions, seed=1)))
    assert rows == 5000 and seen <= (25 if dimensions == 4 else 0)


def test_a_similar_text_is_not_a_copy(windows_of):
    """Near duplicates, with a cosine of 0.98, differ in a few words."""
    vectors = unit_rows(4000)
    noise = np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    similar = vectors + 0.2 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    record = SeenRows().after_run("a", hash_rows(windows_of(vectors)))
    assert record.count(windows_of(similar))[1][0] <= 4


def test_rows_of_windows_are_hashed_and_no_others(toy_store):
    """Contexts count as well as targets; documents too short for a window do not."""
    index = index_windows(toy_store.documents, "train", 5)
    windows = WindowSet("train", torch.from_numpy(toy_store.vectors), toy_store.documents, index)
    splits = np.repeat(toy_store.documents.splits, toy_store.documents.rows)
    lengths = np.repeat(toy_store.documents.rows, toy_store.documents.rows)
    expected = np.flatnonzero((splits == 0) & (lengths > 5))
    hashes = hash_rows(windows)
    assert len(hashes) == len(expected)
    targets = torch.arange(1, len(expected), dtype=torch.int32)
    pairs = WindowRows(1, targets, targets, None)
    assert (hashes == hash_rows(replace(windows, vectors=windows.vectors[expected], windows=pairs))).all()


def test_short_windows_record_only_the_rows_that_they_have(toy_store):
    index = index_windows(toy_store.documents, "train", 5, min_context=1)
    windows = WindowSet("train", torch.from_numpy(toy_store.vectors), toy_store.documents, index)
    splits = np.repeat(toy_store.documents.splits, toy_store.documents.rows)
    assert len(hash_rows(windows)) == (splits == 0).sum()


def test_blocks_do_not_change_the_hashes(windows_of, monkeypatch):
    windows = windows_of(unit_rows(300))
    whole = hash_rows(windows)
    monkeypatch.setattr(seen_rows, "BLOCK_ROWS", 7)
    assert (hash_rows(windows) == whole).mean() > 0.99  # sums in another order round differently


def test_the_hash_is_the_same_in_every_version():
    """A record is compared with rows that another machine hashes, so the function must not change."""
    vectors = torch.arange(1, 65, dtype=torch.float32).reshape(2, 32) % 7 - 3
    assert seen_rows._hash_vectors(vectors).tolist() == [316123854055813307, -1405344875741853613]


def test_a_row_is_recorded_once_for_the_latest_run(windows_of):
    first, second, third = (hash_rows(windows_of(unit_rows(100, seed=seed))) for seed in (1, 2, 3))
    record = SeenRows().after_run("a", first).after_run("b", np.concatenate([second, first[:40]])).after_run("c", third)
    assert [(rows.run, len(rows.hashes)) for rows in record.runs] == [("c", 100), ("b", 140), ("a", 60)]
    assert record.count(windows_of(unit_rows(100, seed=1))) == (100, [0, 40, 60])


def test_a_record_survives_a_checkpoint(windows_of, tmp_path):
    record = SeenRows().after_run("a", hash_rows(windows_of(unit_rows(100)))).after_run("b", np.array([3, 1, 3]))
    torch.save(record.to_values(), tmp_path / "record.pt")
    loaded = SeenRows.from_values(torch.load(tmp_path / "record.pt", weights_only=True))
    assert loaded.is_complete and [rows.run for rows in loaded.runs] == ["b", "a"]
    assert all((one.hashes == other.hashes).all() for one, other in zip(loaded.runs, record.runs, strict=True))
    assert (tmp_path / "record.pt").stat().st_size < 8 * 102 + 4000


@pytest.mark.parametrize(
    "values",
    [
        None, {}, [], "seen", {"runs": [], "is_complete": "yes"}, {"runs": [{"run": "a"}], "is_complete": True},
        {"runs": [{"run": "a", "hashes": torch.zeros(3)}], "is_complete": True},
        {"runs": [{"run": "a", "hashes": [1, 2]}], "is_complete": True},
    ],
)  # fmt: skip
def test_a_missing_or_damaged_record_is_an_unknown_history(values):
    assert not SeenRows.from_values(values).is_complete


def test_an_unknown_ancestor_stays_unknown():
    record = SeenRows.from_values(None).after_run("b", np.array([1, 2]))
    assert not record.is_complete and not SeenRows.from_values(record.to_values()).is_complete
