"""Stores to parquet and Lance and back: the same bytes, in one step, and never over an existing file."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nextvec
from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.store import Store
from nextvec.data.tables import export
from nextvec.errors import NextvecError, OutputError, StoreError

FORMATS = ("parquet", "lance")


@pytest.fixture(scope="module")
def store(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of text: documents that are cut at a repeated chunk, groups, titles, a fitted encoder."""
    folder = tmp_path_factory.mktemp("text")
    rows = []
    for number, file in enumerate(sorted(texts.iterdir())):
        paragraphs = file.read_text().split("\n\n")
        if number % 4 == 3:
            paragraphs[5] = rows[0]["paragraphs"][0]
        rows.append({"id": f"d{number}", "title": f"Ünï {number}", "paragraphs": paragraphs, "group": f"{number // 2}"})
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return nextvec.data_build(folder / "t.jsonl", out=folder / "store", val=0.4, dimensions=8, columns="group=group",
                              quiet=True)  # fmt: skip


@pytest.fixture(scope="module")
def tables(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tables")
    return {kind: nextvec.data_export(store.path, out=folder / f"store.{kind}", quiet=True) for kind in FORMATS}


def content(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.iterdir() if file.is_file() and file.name != "manifest.json"}


@pytest.mark.parametrize("kind", FORMATS)
def test_an_import_gives_back_the_same_store(
    kind: str, store: Store, tables: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = nextvec.data_import(tables[kind], out=tmp_path / "copy")
    assert content(copy.path) == content(store.path) and copy.store_hash == store.store_hash
    assert copy.space == store.space and np.array_equal(copy.space.probes, store.space.probes)
    # Everything but the fitted encoder, which the message names.
    expected = {name: value for name, value in store.manifest["files"].items() if not name.startswith("encoder/")}
    assert copy.manifest | {"checksum": 0} == store.manifest | {"files": expected, "checksum": 0}
    assert copy.is_encoded and store.manifest["counts"]["documents_cut"] > 0
    assert "does not contain the fitted encoder lsa@" in capsys.readouterr().err
    # With the encoder's folder, the copy is the store.
    LsaEncoder.load(store.path / "encoder").save(copy.path / "encoder")
    assert (copy.path / "encoder" / "terms.json").read_bytes() == (store.path / "encoder" / "terms.json").read_bytes()


def test_a_table_has_a_column_for_everything(store: Store, tables: dict[str, Path]) -> None:
    table = pq.read_table(tables["parquet"])
    names = ["document", "title", "source", "split", "group", "position", "text", "vector"]
    assert table.schema.names == names and table.schema.field("vector").type == pa.list_(pa.float16(), 8)
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float16), store.vectors)
    assert table["text"].to_pylist() == store.texts(range(len(store.vectors)))
    first = store.documents.first_row
    assert np.array_equal(np.flatnonzero(np.array(table["position"]) == 0), first)
    assert json.loads(table.schema.metadata[b"nextvec"])["manifest"] == store.manifest


@pytest.mark.parametrize("kind", FORMATS)
def test_a_store_without_texts_makes_the_round_trip(kind: str, toy_store: Store, tmp_path: Path) -> None:
    out = nextvec.data_export(toy_store.path, out=tmp_path / f"t.{kind}", quiet=True)
    copy = nextvec.data_import(out, out=tmp_path / "copy", quiet=True)
    assert content(copy.path) == content(toy_store.path) and copy.manifest == toy_store.manifest
    assert not list(tmp_path.glob("*.unfinished")) and not list(tmp_path.glob(".*"))
    with pytest.raises(OutputError, match=r"already exists\. Choose another path"):
        nextvec.data_export(toy_store.path, out=out, quiet=True)


def test_a_changed_table_is_cut_at_missing_rows_and_claims_no_provenance(
    store: Store, tables: dict[str, Path], tmp_path: Path
) -> None:
    table = pq.read_table(tables["parquet"])
    row = int(np.flatnonzero(store.documents.rows == 8)[0])
    gap = int(store.documents.first_row[row]) + 3
    pq.write_table(table.take([number for number in range(len(table)) if number != gap]), tmp_path / "less.parquet")
    less = nextvec.data_import(tmp_path / "less.parquet", out=tmp_path / "less", quiet=True)
    assert len(less.vectors) == len(store.vectors) - 1 and len(less.documents) == len(store.documents) + 1
    assert less.documents.ids[row + 1].startswith(f"{less.documents.ids[row]}#")
    assert less.documents.rows[row : row + 2].tolist() == [3, 4]
    assert less.documents.group[row] == less.documents.group[row + 1] == store.documents.group[row]
    assert less.space == store.space and not less.is_encoded and less.manifest["origin"] == "table"
    # The order of rows does not matter, because positions are numbers of chunks.
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled, tmp_path / "s.parquet")
    again = nextvec.data_import(tmp_path / "s.parquet", out=tmp_path / "again", quiet=True)
    assert sorted(again.documents.ids) == sorted(store.documents.ids)


def test_row_groups_are_small_and_written_one_by_one(
    toy_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more than one row group is in memory: each is written before the next is made."""
    monkeypatch.setattr(export, "BATCH_ROWS", 50)
    monkeypatch.setattr(export, "GROUP_BYTES", 50 * 16 * 4 * 3)
    waiting: list[int] = []
    made = 0

    def counted(vectors: Any) -> pa.Array:
        nonlocal made
        made += len(vectors)
        return column(vectors)

    class Writer(pq.ParquetWriter):  # type: ignore[misc]
        def write_table(self, table: pa.Table, *args: Any, **options: Any) -> None:
            nonlocal made
            waiting.append(made)
            super().write_table(table, *args, **options)
            made = 0

    column = export._vector_column
    monkeypatch.setattr(export, "_vector_column", counted)
    monkeypatch.setattr(export.pq, "ParquetWriter", Writer)
    nextvec.data_export(toy_store.path, out=tmp_path / "t.parquet", quiet=True)
    assert max(waiting) == 150 and sum(waiting) == len(toy_store.vectors)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == len(waiting)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_fails_leaves_nothing(
    kind: str, toy_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(vectors: Any) -> pa.Array:
        calls.append(0)
        return column(vectors) if len(calls) % 4 else None

    calls: list[int] = []
    column = export._vector_column
    monkeypatch.setattr(export, "_vector_column", broken)
    monkeypatch.setattr(export, "BATCH_ROWS", 50)
    out = tmp_path / f"t.{kind}"
    with pytest.raises((TypeError, ValueError, NextvecError)):
        nextvec.data_export(toy_store.path, out=out, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_nothing_that_opens_and_is_repeated(toy_store: Store, tmp_path: Path) -> None:
    """A child process is killed after the first row group; of a Lance table, a kill leaves files without a version."""
    out = tmp_path / "t.parquet"
    child = os.fork()
    if not child:
        export.GROUP_BYTES, export.BATCH_ROWS = 1, 50
        column, calls = export._vector_column, [0]

        def kill(vectors: Any) -> pa.Array:
            calls.append(0)
            if len(calls) > 5:
                os._exit(9)
            return column(vectors)

        export._vector_column = kill
        nextvec.data_export(toy_store.path, out=out, quiet=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = list(tmp_path.iterdir())
    assert [file.name for file in left] == [".t.parquet.tmp"] and left[0].stat().st_size > 1000
    with pytest.raises(StoreError, match="no such file or folder"):
        nextvec.data_import(out, out=tmp_path / "s", quiet=True)
    lance = tmp_path / "t.lance"
    partial = tmp_path / "t.lance.unfinished" / "table.lance" / "data"
    partial.mkdir(parents=True)
    (partial / "x.lance").write_bytes(b"half")
    with pytest.raises(StoreError, match="no such Lance table"):
        nextvec.data_import(lance, out=tmp_path / "s", quiet=True)
    with pytest.raises(StoreError, match="not a Lance table"):
        nextvec.data_import(partial.parent, out=tmp_path / "s", quiet=True)
    for path in (out, lance):
        nextvec.data_export(toy_store.path, out=path, quiet=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.lance", "t.parquet"]


def test_bad_outputs_and_metadata_are_refused(toy_store: Store, tmp_path: Path) -> None:
    for out, options, message in (
        ("t.csv", {}, r"the format '\.csv' is unknown\. Known: \.lance, \.npz, \.parquet"),
        ("t.parquets", {}, r"Did you mean '\.parquet'\?"),
        ("t.parquet", {"split": "val"}, r"--split applies to \.npz files only"),
        ("t.lance", {"context": 5}, r"--context applies to \.npz files only"),
    ):
        with pytest.raises(NextvecError, match=message):
            nextvec.data_export(toy_store.path, out=tmp_path / out, quiet=True, **options)
    nextvec.data_export(toy_store.path, out=tmp_path / "t.parquet", quiet=True)
    table = pq.read_table(tmp_path / "t.parquet")
    for metadata, message in (
        (b"{", "its nextvec metadata are damaged"),
        (b"[]", "its nextvec metadata are damaged"),
        (b'{"format": 1, "manifest": {"files": {}, "counts": {}, "space": {}}}', "metadata are damaged"),
        (b'{"format": 9}', "was exported with table format 9, but this nextvec reads 1"),
    ):
        pq.write_table(table.replace_schema_metadata({b"nextvec": metadata}), tmp_path / "m.parquet")
        with pytest.raises(StoreError, match=message):
            nextvec.data_import(tmp_path / "m.parquet", out=tmp_path / "s", quiet=True)
