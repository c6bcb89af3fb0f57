"""The store: a round trip, and a one-line StoreError for each kind of damage."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.core.files import sha256_of
from nextvec.data.space import Space
from nextvec.data.store import (
    CHUNKS,
    DOCUMENTS,
    MANIFEST,
    VECTORS,
    DocumentTable,
    Store,
    map_vectors,
    open_store,
    unfinished_folder,
)
from nextvec.data.store.writer import finish_store, require_new, write_documents, write_texts
from nextvec.errors import OutputError, SpaceError, StoreError

ROWS, DIMENSIONS = np.array([3, 1, 2]), 4


def make_store(path: Path, dtype: str = "float16") -> Store:
    vectors = np.random.default_rng(0).normal(size=(int(ROWS.sum()), DIMENSIONS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = unfinished_folder(path)
    folder.mkdir()
    np.save(folder / VECTORS, vectors.astype(dtype))
    documents = DocumentTable(
        ["a", "b", "ü"], ["A", "B", "Ü"], ["x", "x", "y"], np.array([0, 1, 2], np.int8), np.array([0, 3, 4]), ROWS,
        np.array([0, 0, 1]),
    )  # fmt: skip
    write_documents(folder, documents)
    write_texts(folder, [[f"text {row}" for row in range(4)], ["text 4", "text 5"]])
    return finish_store(folder, path, Space("toy", "1", DIMENSIONS), {"documents": 3}, chunker={"unit": "paragraph"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store")


def rewrite_manifest(store: Store, **changes: object) -> None:
    manifest = json.loads((store.path / MANIFEST).read_text()) | changes
    (store.path / MANIFEST).write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_store_reads_back_what_was_written(tmp_path: Path, dtype: str) -> None:
    make_store(tmp_path / "s", dtype)
    store = open_store(str(tmp_path / "s"))
    assert store.vectors.dtype == dtype
    assert store.vectors.shape == (6, 4)
    assert store.dimensions == 4
    assert isinstance(store.vectors, np.memmap)
    documents = store.documents
    assert (documents.ids, documents.titles, documents.sources) == (["a", "b", "ü"], ["A", "B", "Ü"], ["x", "x", "y"])
    assert [documents.splits.tolist(), documents.first_row.tolist(), documents.rows.tolist()] == [
        [0, 1, 2],
        [0, 3, 4],
        [3, 1, 2],
    ]
    assert documents.group.tolist() == [0, 0, 1]
    assert store.texts([5, 0, 3]) == ["text 5", "text 0", "text 3"]
    assert not unfinished_folder(store.path).exists()


def test_the_manifest_describes_the_store(store: Store) -> None:
    manifest = json.loads((store.path / MANIFEST).read_text())
    assert manifest["rows"] == 6
    assert manifest["counts"] == {"documents": 3}
    assert manifest["chunker"] == {"unit": "paragraph"}
    assert manifest["files"] == {name: sha256_of(store.path / name) for name in (CHUNKS, DOCUMENTS, VECTORS)}
    assert store.store_hash == f"{manifest['files'][VECTORS]}:{manifest['files'][DOCUMENTS]}"


def test_writing_to_the_vectors_changes_nothing_on_disk(store: Store) -> None:
    before = sha256_of(store.path / VECTORS)
    store.vectors[0] = 0
    assert sha256_of(store.path / VECTORS) == before
    assert open_store(store.path).vectors[0].any()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "first"), make_store(tmp_path / "second")
    for name in (MANIFEST, VECTORS, DOCUMENTS, CHUNKS):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_reading_texts_of_a_store_without_texts_is_an_error(store: Store) -> None:
    (store.path / CHUNKS).unlink()
    assert not store.has_texts
    with pytest.raises(StoreError, match="has no texts, because it was imported or synthesized"):
        store.texts([0])


def fails(path: Path, message: str, kind: type[Exception] = StoreError) -> None:
    with pytest.raises(kind, match=message) as caught:
        _ = open_store(path).documents
    assert "\n" not in str(caught.value)


def test_a_missing_store_is_an_error(tmp_path: Path) -> None:
    fails(tmp_path / "none", r"has no manifest\.json\. Make one with 'nextvec data build'")
    unfinished_folder(tmp_path / "none").mkdir()
    fails(tmp_path / "none", "Its build was interrupted: run the same 'nextvec data build' command again to continue")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 2}'])
def test_a_damaged_manifest_is_an_error(store: Store, text: str) -> None:
    (store.path / MANIFEST).write_text(text)
    fails(store.path, "manifest.json is damaged")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, r"has format 1, but this nextvec reads format 2\. Build the store again"),
        ({"rows": 7}, "vectors.npy is 6 × 4, but manifest.json says 7 × 4"),
        ({"rows": ...}, "manifest.json is damaged"),
        ({"space": Space("toy", "1", 5).to_dict()}, "vectors.npy is 6 × 4, but manifest.json says 6 × 5"),
        ({"files": {}}, "manifest.json is damaged"),
    ],
)
def test_a_manifest_that_contradicts_the_files_is_an_error(store: Store, changes: dict, message: str) -> None:
    rewrite_manifest(store, **changes)
    fails(store.path, message)


def test_a_damaged_space_is_an_error(store: Store) -> None:
    rewrite_manifest(store, space={"encoder": "toy"})
    fails(store.path, "description of the embedding space is damaged", SpaceError)


@pytest.mark.parametrize(
    "array",
    [np.zeros(6, np.float16), np.zeros((6, 4)), np.zeros((6, 4), np.int16), np.array([{}], object)],
    ids=["one axis", "float64", "integers", "objects"],
)
def test_vectors_of_another_shape_or_dtype_are_an_error(store: Store, array: np.ndarray) -> None:
    np.save(store.path / VECTORS, array, allow_pickle=True)
    fails(store.path, r"vectors .*vectors\.npy: (.* is not \(N, D\) float16 or float32|not a readable .npy file)")


@pytest.mark.parametrize("size", [0, 5, 100, 170])
def test_truncated_vectors_are_an_error(store: Store, size: int) -> None:
    content = (store.path / VECTORS).read_bytes()
    assert size < len(content)
    (store.path / VECTORS).write_bytes(content[:size])
    fails(store.path, "not a readable .npy file")


def test_missing_files_are_an_error(store: Store) -> None:
    (store.path / DOCUMENTS).unlink()
    fails(store.path, "documents.parquet can't be read")
    (store.path / VECTORS).unlink()
    fails(store.path, "not a readable .npy file")


def test_a_damaged_table_of_documents_is_an_error(store: Store) -> None:
    file = store.path / DOCUMENTS
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 2), file)
    fails(store.path, "documents.parquet has 4 rows, but there are 6 vectors")
    pq.write_table(table.drop_columns(["split"]), file)
    fails(store.path, "documents.parquet can't be read")
    pq.write_table(table.set_column(table.column_names.index("first_row"), "first_row", pa.array([0, 2, 4])), file)
    fails(store.path, "does not cover the rows in order")
    pq.write_table(table.set_column(table.column_names.index("split"), "split", pa.array(["train", "v", "ood"])), file)
    fails(store.path, "documents.parquet can't be read")
    file.write_bytes(b"PAR1 but not really PAR1")
    fails(store.path, "documents.parquet can't be read")


def test_an_existing_store_is_not_overwritten(store: Store, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="already exists"):
        require_new(store.path)
    with pytest.raises(OutputError, match="already exists"):
        make_store(store.path)
    require_new(tmp_path / "new")


def test_map_vectors_reads_any_npy(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "v.npy", array)
    assert np.array_equal(map_vectors(tmp_path / "v.npy"), array)
