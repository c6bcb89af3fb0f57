"""Bad input: every fault is one line that names the table and what to do, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

import nextvec
from nextvec.errors import InputError

Save = Callable[..., str]


def refusal(name: str, tmp_path: Path, **options: Any) -> str:
    """Return the message of a refused import."""
    with pytest.raises(InputError) as refused:
        nextvec.data_import(name, out=tmp_path / "store", quiet=True, **options)
    assert not list(tmp_path.glob("store*"))
    message = str(refused.value)
    assert "\n" not in message and len(message) < 900 and message.startswith(name.split("*")[0].split("/hf")[0])
    return message


def lists(values: Any, kind: Any = None) -> pa.Array:
    return pa.array(values, pa.list_(kind or pa.float32()))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"vector": None}, {}, "has no column of the vectors. Its columns are document (string), position (int64)"),
        ({"vector": None, "emb": lists([[1.0]] * 360)}, {}, "Name it with --columns vectors=emb."),
        ({"document": None}, {}, "has no column of the document."),
        ({}, {"columns": "vectors=embeding"}, "has no column 'embeding' (--columns vectors=embeding)."),
        ({}, {"columns": "vectors=vektor"}, "Did you mean 'vector'? Its columns are document (string)"),
        ({"vector": pa.array(["1,2"] * 360)}, {}, "is string, but must be a list of numbers"),
        ({"vector": pa.array([1.5] * 360)}, {}, "is double, but must be a list of numbers"),
        ({"vector": lists([[1, 2]] * 360, pa.int8())}, {}, "Convert integers back to the encoder's numbers"),
        ({"vector": lists([["a"]] * 360, pa.string())}, {}, "must be a list of float16, float32 or float64"),
        ({"vector": lists([[[1.0]]] * 360, pa.list_(pa.float32()))}, {}, "must be a list of float16, float32"),
        ({"vector": pa.array([{"a": 1.0}] * 360)}, {}, "must be a list of numbers"),
        ({"vector": lists([None] * 360)}, {}, "360 have a null vector"),
        ({"vector": lists([[]] * 360)}, {}, "360 have a vector of another length"),
        ({"vector": lists([[1.0, 2.0], [1.0, 2.0, 3.0]] * 180)}, {}, "have a vector of another length than"),
        ({"vector": lists([[0.5] * 70_000] + [None] * 359)}, {}, "has 70,000 numbers per vector, but must have 1"),
        ({"vector": pa.array([b"12345"] * 360)}, {}, "360 have a vector of another length"),
        ({"document": pa.array([1.5] * 360)}, {}, "(document) is double, but must be text or integers"),
        ({"document": pa.array([["a"]] * 360)}, {}, "(document) is list<"),
        ({"document": pa.nulls(360)}, {}, "360 have no document"),
        ({"position": pa.array([True] * 360)}, {}, "(chunk) is bool, but must be numbers, texts or dates"),
        ({"position": pa.nulls(360)}, {}, "360 have no position"),
        ({"position": pa.array([0] * 360)}, {}, "rows 1 and 2 have the same position in the same document"),
        ({"text": pa.array([1] * 360)}, {}, "(text) is int64, but must be text"),
        ({"split": ["train"] * 359 + ["test"]}, {}, "row 360: split 'test' is unknown."),
        ({"split": ["train", "val"] * 180}, {}, "row 2: document 'd0' has the split 'val', but an"),
        ({"source": ["a", "b"] * 180}, {}, "document 'd0' has the source 'b', but an earlier row has 'a'"),
        ({"document": ["d"] * 360, "position": list(range(360))}, {}, "split val would be empty, because 1 documents"),
        ({}, {"columns": "vectors"}, "column 'vectors': has no name"),
    ],
)  # fmt: skip
def test_bad_columns_are_refused(
    changes: dict[str, Any], options: dict[str, Any], message: str, save: Save, tmp_path: Path
) -> None:
    file = save(**changes)
    if "has no name" in message:
        file = "column"
        with pytest.raises(InputError, match="has no name"):
            nextvec.data_import(save(), out=tmp_path / "store", quiet=True, **options)
        return
    assert message in refusal(file, tmp_path, **options)


def test_float16_and_float64_bytes_are_not_taken_for_float32(save: Save, vectors: np.ndarray, tmp_path: Path) -> None:
    for kind in (np.float16, np.float64):
        blobs = pa.array([row.astype(kind).tobytes() for row in vectors.reshape(-1, 8)])
        message = refusal(save(vector=blobs), tmp_path)
        assert f"bytes that are not float32 numbers, but probably {np.dtype(kind)}. Save the vectors" in message


def test_bad_files_are_refused(save: Save, tmp_path: Path) -> None:
    file = Path(save())
    whole = file.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-100])
    (tmp_path / "text.parquet").write_text("document,vector\n")
    (tmp_path / "nothing.parquet").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.lance").mkdir()
    (tmp_path / "t.csv").write_text("a")
    # Footer and data encrypted: readable with a key only.
    for name, message in (
        ("cut.parquet", "not a readable parquet file"),
        ("text.parquet", "not a readable parquet file"),
        ("nothing.parquet", "not a readable parquet file"),
        ("missing.parquet", "no such file or folder"),
        ("missing", "no such file or folder"),
        ("folder", "has no .parquet file"),
        ("folder.lance", "not a Lance table"),
        ("missing.lance", "no such Lance table"),
        ("t.csv", r"the format '.csv' is unknown"),
        ("no-*.parquet", "no file matches this pattern"),
    ):
        assert message in refusal(str(tmp_path / name), tmp_path)
    empty = pq.read_table(file).slice(0, 0)
    pq.write_table(empty, tmp_path / "empty.parquet")
    assert "has no rows" in refusal(str(tmp_path / "empty.parquet"), tmp_path)
    other = tmp_path / "parts"
    other.mkdir()
    (other / "a.parquet").write_bytes(whole)
    pq.write_table(pq.read_table(file).drop_columns("text"), other / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: has no column 'text', which .*a\.parquet has"):
        nextvec.data_import(other, out=tmp_path / "store", quiet=True)
    store = tmp_path / "imported"
    nextvec.data_import(file, out=store, quiet=True)
    assert "is a vector store, not a folder of text" in refusal(str(store), tmp_path)


def test_an_encrypted_file_is_refused(tmp_path: Path, save: Save) -> None:
    table = pq.read_table(save())

    class Client(pe.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key: bytes, _: str) -> bytes:
            return key.hex().encode()

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return bytes.fromhex(key.decode())

    factory = pe.CryptoFactory(lambda _: Client())
    settings = pe.EncryptionConfiguration(footer_key="k", uniform_encryption=True)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), settings)
    file = tmp_path / "secret.parquet"
    with pq.ParquetWriter(file, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    assert "not a readable parquet file" in refusal(str(file), tmp_path)


def test_any_damage_is_one_line_or_harmless(save: Save, tmp_path: Path) -> None:
    """Random bytes of a file are changed: an import succeeds with all rows, or is refused with one line."""
    whole = Path(save()).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        damaged = bytearray(whole)
        # Half of the changes are in the footer, which has the sizes.
        first = 0 if number % 2 else len(whole) - 1500
        for place in rng.integers(first, len(whole), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "x.parquet").write_bytes(damaged)
        out = tmp_path / f"s{number}"
        try:
            store = nextvec.data_import(tmp_path / "x.parquet", out=out, quiet=True)
            assert len(store.vectors) + sum(store.manifest["lost_rows"].values()) == 360
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and not list(tmp_path.glob(f"s{number}*"))
    assert refused > 10
