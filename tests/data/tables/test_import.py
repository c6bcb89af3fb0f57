"""Imports of tables from other tools: formats of vectors, names and types of columns, order, splits and sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nextvec
from nextvec.data.encoders import Encoder
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import Store
from nextvec.data.tables import sources, spaces, staging
from nextvec.errors import InputError, SpaceError, StoreError

Save = Callable[..., str]


def read(name: str, tmp_path: Path, **options: Any) -> Store:
    return nextvec.data_import(name, out=tmp_path / f"store-{len(list(tmp_path.iterdir()))}", quiet=True, **options)


def has_all(store: Store, vectors: np.ndarray, dtype: Any = np.float32) -> bool:
    """Whether a store has each document's vectors in order."""
    table = store.documents
    return sorted(table.ids) == sorted(f"d{number}" for number in range(len(vectors))) and all(
        np.allclose(store.vectors[first : first + rows], vectors[int(name[1:])], atol=2e-3 if dtype == "f2" else 1e-6)
        for name, first, rows in zip(table.ids, table.first_row, table.rows, strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.list_(pa.float32(), 8), np.float32),
        (pa.list_(pa.float16(), 8), np.float16),
        (pa.list_(pa.float64()), np.float32),
        (pa.large_list(pa.float16()), np.float16),
        (pa.fixed_shape_tensor(pa.float32(), (8,)), np.float32),
        (pa.binary(), np.float32),
        (pa.binary(32), np.float32),
    ],
    ids=str,
)
def test_vectors_of_every_type_are_read(
    kind: pa.DataType, stored: Any, save: Save, vectors: np.ndarray, tmp_path: Path
) -> None:
    flat = vectors.reshape(-1, 8)
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        column = pa.array([row.tobytes() for row in flat], kind)
    elif isinstance(kind, pa.FixedShapeTensorType):
        column = pa.FixedShapeTensorArray.from_numpy_ndarray(flat)
    else:
        column = pa.array(flat.tolist(), kind)
    store = read(save(vector=column), tmp_path)
    assert store.vectors.dtype == stored and has_all(store, vectors, "f2")
    # Vectors that are nearly of unit length are kept bit for bit.
    if stored == np.float32:
        order = [int(name[1:]) for name in store.documents.ids]
        assert np.array_equal(store.vectors, vectors[order].reshape(-1, 8))
    assert store.texts([0, 13]) == ["text 0 0", "text 1 1"]


@pytest.mark.parametrize("order", ["int", "float", "text", "date", "categorical"])
def test_rows_are_sorted_by_document_and_position(
    order: str, save: Save, columns: dict[str, Any], vectors: np.ndarray, tmp_path: Path
) -> None:
    shuffled = np.random.default_rng(1).permutation(360)
    values: list[Any] = [columns["position"][row] for row in shuffled]
    chunk = {
        "int": pa.array(values, pa.int16()),
        "float": pa.array([value / 4 for value in values]),
        "text": pa.array([f"page {value}" for value in values]),
        "date": pa.array(values, pa.date32()),
        "categorical": pa.array([str(value) for value in values]).dictionary_encode(),
    }[order]
    moved = {name: [columns[name][row] for row in shuffled] for name in ("document", "text", "vector")}
    file = save(**moved, position=None, page=chunk)
    store = read(file, tmp_path, columns=["chunk=page"])
    assert has_all(store, vectors)
    texts = dict(zip(store.documents.ids, store.documents.first_row.tolist(), strict=True))
    assert store.texts([texts["d7"] + 10, texts["d0"] + 2]) == ["text 7 10", "text 0 2"]
    assert {SPLITS[split] for split in store.documents.splits} == {"train", "val"}


def test_without_positions_the_order_of_the_table_counts(save: Save, vectors: np.ndarray, tmp_path: Path) -> None:
    store = read(save(position=None, text=None), tmp_path)
    assert has_all(store, vectors) and not store.has_texts
    assert store.documents.ids == [f"d{number}" for number in range(30)]
    assert store.manifest["origin"] == "table" and store.space == Space("unknown", "", 8)
    assert store.manifest["counts"]["rows_read"] == store.manifest["counts"]["chunks"] == 360


def test_columns_name_titles_sources_splits_and_groups(save: Save, tmp_path: Path) -> None:
    part = ["train"] * 240 + ["validation"] * 48 + ["ood"] * 72
    file = save(
        document=None, doc=pa.array(np.repeat(np.arange(30), 12)), split=pa.array(part).dictionary_encode(),
        headline=["", *["A title"] * 359], source=["web"] * 180 + ["book"] * 180, group=np.repeat(np.arange(15), 24),
    )  # fmt: skip
    store = read(file, tmp_path, columns=["document=doc", "title=headline"])
    documents = store.documents
    assert [SPLITS[split] for split in documents.splits] == ["train"] * 20 + ["val"] * 4 + ["ood"] * 6
    assert set(documents.titles) == {"A title"} and documents.sources[14:16] == ["web", "book"]
    assert documents.group.tolist() == np.repeat(np.arange(15), 2).tolist()


def test_folders_patterns_lance_and_datasets_are_read_alike(
    save: Save, columns: dict[str, Any], vectors: np.ndarray, tmp_path: Path
) -> None:
    lancedb = pytest.importorskip("lancedb")
    pytest.importorskip("datasets")
    for part in range(3):
        rows = slice(part * 120, part * 120 + 120)
        save(f"parts/p{part}.parquet", **{name: values[rows] for name, values in columns.items()})
    whole = pq.read_table(tmp_path / "parts")
    table = lancedb.connect(tmp_path).create_table("chunks", whole.take(list(range(50))))
    for start in range(50, 360, 155):  # several fragments
        table.add(whole.take(list(range(start, start + 155))))
    parts = tmp_path / "parts"
    stores = [
        read(name, tmp_path)
        for name in (str(parts), f"{parts}/p*.parquet", str(tmp_path / "chunks.lance"), f"hf:{parts}")
    ]
    assert all(has_all(store, vectors) for store in stores)
    assert len({(store.path / "vectors.npy").read_bytes() for store in stores}) == 1
    assert [store.documents.sources[0] for store in stores] == ["parts", "p*.parquet", "chunks", "parts"]
    # A file for each split.
    files = [str(parts / f"p{part}.parquet") for part in range(3)]
    store = read(files[0], tmp_path, val_file=files[1], ood_file=files[2])
    assert [SPLITS[split] for split in store.documents.splits] == ["train"] * 10 + ["val"] * 10 + ["ood"] * 10


def test_at_most_one_batch_is_in_memory(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is written before the next one is read."""
    pytest.importorskip("lancedb")
    monkeypatch.setattr(sources, "BATCH_ROWS", 40)
    sizes: list[int] = []
    alive = 0

    def counted(files: list[Path], columns: list[str]) -> Any:
        nonlocal alive
        for batch in read_parquet(files, columns):
            alive += batch.num_rows
            sizes.append(alive)
            yield batch
            alive -= batch.num_rows

    read_parquet = sources._read_parquet
    monkeypatch.setattr(sources, "_read_parquet", counted)
    store = read(save(), tmp_path)
    assert len(sizes) >= 9 and max(sizes) <= 40 and sum(sizes) == len(store.vectors) == 360
    assert not list(store.path.glob("staged*"))


class FakeEncoder:
    """Returns the vectors of the table for its texts, or shifted ones."""

    space = Space("fake/encoder", "7", 8, probes=np.eye(8, dtype=np.float16))

    def __init__(self, vectors: np.ndarray, shift: int) -> None:
        self.vectors, self.shift, self.encoded = vectors, shift, 0

    def encode(self, texts: list[str]) -> np.ndarray:
        self.encoded += len(texts)
        places = [tuple(map(int, text.split()[1:])) for text in texts]
        return np.array([self.vectors[(document + self.shift) % 30, chunk] for document, chunk in places])


def test_a_named_encoder_is_verified_on_a_sample(
    save: Save, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Encoder = FakeEncoder(vectors, 0)  # type: ignore[assignment]
    monkeypatch.setattr(spaces, "open_encoder", lambda name: encoder)
    store = read(save(), tmp_path, encoder="fake/encoder")
    assert store.space.probes is not None and encoder.encoded == 16  # type: ignore[attr-defined]
    assert store.manifest["encoder"]["verified"] == "16 texts encoded again, mean cosine 1.000"
    assert not store.is_encoded
    without = read(save(text=None), tmp_path, encoder="fake/encoder")
    assert without.space == Space("fake/encoder", "", 8) and without.space.probes is None
    assert "not verified" in without.manifest["encoder"]["verified"]
    encoder.shift = 1  # type: ignore[attr-defined]
    with pytest.raises(SpaceError, match=r"not from the encoder fake/encoder@7 \(8-D\); 16 texts encoded again"):
        read(save(), tmp_path, encoder="fake/encoder")
    monkeypatch.setattr(FakeEncoder, "space", Space("fake/encoder", "7", 9))
    with pytest.raises(SpaceError, match="have 8 dimensions, but the encoder fake/encoder@7"):
        read(save(text=None), tmp_path, encoder="fake/encoder")
    with pytest.raises(StoreError, match="encoder 'lsa' is fitted on a corpus"):
        read(save(), tmp_path, encoder="lsa")
    label = read(save(), tmp_path, encoder="text-embedding-3-small")
    assert label.space.encoder == "text-embedding-3-small" and "not verified" in label.manifest["notices"][0]
    assert not list(tmp_path.glob("*.unfinished"))


def test_options_of_the_other_kind_of_file_are_refused(save: Save, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=[1])
    for name, options, message in (
        (save(), {"documents": "x.npy"}, r"--documents applies to \.npz files only"),
        (save(), {"allow_shared": True}, r"--allow-shared applies to \.npz files only"),
        (str(tmp_path / "w.npz"), {"allow_lost_rows": 0.0}, "--allow-lost-rows applies to tables only"),
        (str(tmp_path / "w.npz"), {"val_file": save()}, r"some are \.npz files, some are tables"),
        (save(), {"allow_lost_rows": 1.5}, "allow_lost_rows is 1.5, but must be between 0 and 1"),
        (save(), {"min_chunks": 0}, "min_chunks is 0, but must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            read(name, tmp_path, **options)


def test_vectors_of_any_length_are_scaled(save: Save, vectors: np.ndarray, tmp_path: Path) -> None:
    """Squares of these numbers overflow or vanish in float64."""
    scales = np.ones((30, 12, 1))
    scales[3:6], scales[6:9] = 1e200, 1e-200
    file = save(vector=pa.array((vectors * scales).reshape(-1, 8).tolist(), pa.list_(pa.float64())))
    store = read(file, tmp_path, dtype="float16")
    assert store.vectors.dtype == np.float16 and has_all(store, vectors, "f2")
    assert store.manifest["counts"]["scaled_to_unit_length"] == 72


def test_a_killed_import_is_repeated_and_files_of_others_are_kept(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = save(), tmp_path / "store"
    monkeypatch.setattr(staging, "hash_rows", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        nextvec.data_import(file, out=out, quiet=True)
    assert not list(tmp_path.glob("store*"))
    monkeypatch.undo()
    # What a kill leaves: the unfinished folder with staged files.
    left = tmp_path / "store.unfinished"
    left.mkdir()
    (left / "staged.vectors").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"has no manifest\.json"):
        nextvec.open_store(left)
    assert len(nextvec.data_import(file, out=out, quiet=True).vectors) == 360
    assert not left.exists()
    left.mkdir()
    (left / "notes.txt").write_text("mine")
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(nextvec.NextvecError, match=r"already exists\. Remove it"):
        nextvec.data_import(file, out=out, quiet=True)
    assert (left / "notes.txt").read_text() == "mine"
