"""Layouts of npz files: names, shapes and number formats of members, splits in one file, tables of vectors."""

import numpy as np
import pytest

from nextvec.data.dataset import open_data
from nextvec.data.npz.convert import import_npz
from nextvec.data.splits import SPLITS
from nextvec.errors import StoreError


@pytest.fixture(scope="module")
def vectors():
    """Documents (30, 12, 16)."""
    drawn = np.random.default_rng(0).normal(size=(30, 12, 16))
    return (drawn / np.linalg.norm(drawn, axis=2, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def windows(vectors):
    contexts = np.stack([vectors[:, start : start + 5] for start in range(7)], axis=1).reshape(-1, 5, 16)
    return contexts, vectors[:, 5:].reshape(-1, 16)


def saved(tmp_path, **members):
    np.savez(tmp_path / "x.npz", **members)
    return tmp_path / "x.npz"


@pytest.mark.parametrize(
    "change",
    [
        lambda contexts, targets: (contexts, targets[:, None]),
        lambda contexts, targets: (contexts.reshape(len(contexts), -1), targets),
        lambda contexts, targets: (contexts.astype(np.float64), targets.astype(">f8")),
        lambda contexts, targets: (np.asfortranarray(contexts), np.asfortranarray(targets)),
        lambda contexts, targets: (np.repeat(contexts, 2, axis=0)[::2], targets[:, ::-1][:, ::-1]),
    ],
    ids=["target (W, 1, D)", "flat contexts", "float64", "Fortran order", "not contiguous"],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_shapes_and_number_formats_are_converted(tmp_path, vectors, windows, change, compressed):
    contexts, targets = change(*windows)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", contexts=contexts, targets=targets)
    store = import_npz({"train": tmp_path / "x.npz"}, tmp_path / "store", quiet=True)
    assert store.vectors.dtype == np.float32 and np.array_equal(store.vectors, vectors.reshape(-1, 16))
    assert any("float64" in notice for notice in store.manifest["notices"]) == (contexts.dtype == np.float64)


def test_columns_name_other_members(tmp_path, windows):
    labels = np.repeat([f"d{number}" for number in range(30)], 7)
    file = saved(tmp_path, inputs=windows[0], outputs=windows[1], texts=labels)
    with pytest.raises(
        StoreError, match=r"inputs \(210, 5, 16\) float32; outputs .* --columns context=inputs target=outputs"
    ):
        open_data(str(file), quiet=True)
    columns = ("context=inputs", "target=outputs", "document=texts")
    store = import_npz({"train": file}, tmp_path / "store", columns=columns, quiet=True)
    assert len(store.documents) == 30 and store.manifest["has_documents"]
    for bad, message in (
        (("context",), "has no name"),
        (("contexts=a",), r"role 'contexts' is unknown\..*context"),
        (("context=a",), r"has no member a \(--columns context=a\)"),
        (("context=inputs", "context=outputs"), "context already is inputs"),
    ):
        with pytest.raises(StoreError, match=message):
            import_npz({"train": file}, tmp_path / "other", columns=bad, quiet=True)


def test_members_of_several_splits_are_imported_as_their_splits(tmp_path, windows):
    members = {}
    for split, start in zip(SPLITS, (0, 70, 140), strict=True):
        members[f"{split}_context_sequences"] = windows[0][start : start + 70]
        members[f"{split}_target_vectors"] = windows[1][start : start + 70]
    file = saved(tmp_path, **members)
    store = open_data(str(file), quiet=True)
    assert [int((store.documents.splits == number).sum()) for number in range(3)] == [10, 10, 10]
    assert open_data(str(file), quiet=True).store_hash == store.store_hash
    ood = import_npz({"ood": file}, tmp_path / "ood", quiet=True)
    assert len(ood.documents) == 10 and np.array_equal(ood.vectors[5], windows[1][140])
    with pytest.raises(StoreError, match=r"has windows of val, which x\.npz has too"):
        import_npz({"train": file, "val": file}, tmp_path / "both", quiet=True)


def test_a_table_is_imported_document_by_document(tmp_path, vectors):
    order = np.random.default_rng(1).permutation(360)
    rows, ids, places = vectors.reshape(-1, 16)[order], np.repeat(np.arange(30), 12)[order], np.tile(np.arange(12), 30)
    file = saved(tmp_path, vectors=rows, article_ids=ids, chunk_index=places[order])
    store = import_npz({"train": file}, tmp_path / "store", quiet=True)
    assert {SPLITS[split] for split in store.documents.splits} == {"train", "val"}
    for name, first, length in zip(store.documents.ids, store.documents.first_row, store.documents.rows, strict=True):
        assert np.array_equal(store.vectors[first : first + length], vectors[int(name)])
    ood = import_npz({"ood": file}, tmp_path / "ood", quiet=True)
    assert set(ood.documents.splits.tolist()) == {SPLITS.index("ood")}


def test_documents_of_a_table_that_share_a_vector_are_in_one_group(tmp_path, vectors):
    shared = vectors.copy()
    shared[4, 2] = shared[9, 0]
    file = saved(tmp_path, embeddings=shared.reshape(-1, 16), doc_ids=np.repeat([f"d{n}" for n in range(30)], 12))
    store = import_npz({"train": file}, tmp_path / "store", quiet=True)
    assert store.documents.group[4] == store.documents.group[9] and len(set(store.documents.group.tolist())) == 29


def test_bad_tables_are_refused(tmp_path, vectors):
    rows, ids = vectors.reshape(-1, 16), np.repeat(np.arange(30), 12)
    broken = rows.copy()
    broken[17] = np.nan
    for members, message in (
        ({"vectors": rows}, "vectors has no documents: there is no member article_ids"),
        ({"vectors": rows, "article_ids": ids[1:]}, r"must be \(360,\) integers or strings"),
        ({"vectors": rows, "article_ids": ids, "chunk_index": ids}, "rows 0 and 1 have the same place"),
        ({"vectors": broken, "article_ids": ids}, "vectors of row 17 has a value that is not finite. Remove that row"),
        ({"vectors": rows, "article_ids": ids * 0}, "too few for train and 10% val"),
    ):
        with pytest.raises(StoreError, match=message):
            import_npz({"train": saved(tmp_path, **members)}, tmp_path / "store", quiet=True)
    assert not list(tmp_path.glob("store*"))
