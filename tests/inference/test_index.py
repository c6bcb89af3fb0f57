"""The exact index: nearest chunks, exclusions, and the texts behind rows."""

from dataclasses import replace

import numpy as np
import pytest

import nextvec
from nextvec.errors import InputError, SpaceError
from nextvec.inference import index as index_module
from nextvec.inference.index import StoreIndex


@pytest.fixture
def queries(toy_store) -> np.ndarray:
    vectors = np.random.default_rng(3).normal(size=(4, toy_store.dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("copied", [True, False])
def test_results_are_those_of_a_full_sort(dtype, copied, toy_store, queries, monkeypatch):
    monkeypatch.setattr(index_module, "BLOCK_NUMBERS", 33 * 16)
    monkeypatch.setattr(index_module, "MAX_COPY_BYTES", 2**20 if copied else 0)
    store = replace(toy_store, vectors=toy_store.vectors.astype(dtype))
    rows, scores = nextvec.open_index(store).search(queries, 6)
    cosines = queries @ store.vectors.astype(np.float32).T
    expected = np.argsort(-cosines, axis=1)[:, :6]
    assert rows.tolist() == expected.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, expected, 1), atol=1e-5)


def test_excluded_rows_are_left_out(toy_store, queries):
    index = StoreIndex(toy_store)
    rows, _ = index.search(queries, 5)
    excluded = set(rows[:, 0].tolist())
    rest, _ = index.search(queries, 5, excluded)
    assert not excluded & set(rest.ravel().tolist())
    assert index.search(queries, len(index) + 5, excluded)[0].shape == (4, len(index) - len(excluded))


def test_rows_are_described_by_text_document_and_position(text_store):
    index = nextvec.open_index(text_store.path)
    rows = [0, 5, len(index) - 1]
    chunks = index.chunks(rows)
    assert [chunk.text for chunk in chunks] == text_store.texts(rows)
    documents = text_store.documents
    assert chunks[1].document == documents.ids[0] and chunks[1].title == documents.titles[0]
    assert (chunks[1].position, chunks[2].position) == (5, int(documents.rows[-1]) - 1)
    assert chunks[2].document == documents.ids[-1]
    np.testing.assert_allclose(np.linalg.norm(index.vectors(rows), axis=1), 1, atol=1e-6)


def test_a_store_without_texts_is_searched_too(toy_store, queries):
    index = nextvec.open_index(toy_store.path)
    rows, _ = index.search(queries[:1], 2)
    assert [chunk.text for chunk in index.chunks(rows[0].tolist())] == ["", ""]


def test_queries_that_do_not_fit_are_refused(toy_store, queries):
    index = StoreIndex(toy_store)
    with pytest.raises(SpaceError, match=r"has 16-D vectors, but the queries have the shape \(4, 8\)"):
        index.search(queries[:, :8], 3)
    with pytest.raises(InputError, match="k is 0"):
        index.search(queries, 0)
