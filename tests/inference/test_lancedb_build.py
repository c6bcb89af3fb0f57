"""Building and updating the LanceDB table of a store."""

import os

import numpy as np
import pytest
from tests.inference.numbered_store import write_numbered_store

import nextvec
from nextvec.cli import main
from nextvec.core.files import lock
from nextvec.errors import OutputError, SpaceError, StoreError

lancedb = pytest.importorskip("lancedb", reason="the extra lancedb is not installed")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store, and the same store after documents were added at both ends and others removed."""
    folder = tmp_path_factory.mktemp("stores")
    return write_numbered_store(folder / "first", range(4, 24)), write_numbered_store(folder / "second", range(0, 20))


def contents(name):
    """Return every row of an index as plain values."""
    index = nextvec.open_index(name)
    rows, _ = index.search(index.vectors(index.sample(1)), len(index))
    chunks = index.chunks(rows[0].tolist())
    vectors = index.vectors(rows[0].tolist())
    return sorted(
        (chunk.document, chunk.position, chunk.text, chunk.title, vector.round(5).tolist())
        for chunk, vector in zip(chunks, vectors, strict=True)
    )


def test_a_table_follows_its_store(stores, tmp_path, capsys):
    first, second = stores
    to = f"{tmp_path}/db#texts"
    built = nextvec.index_build(first.path, to=to, quiet=True)
    assert (built.index, built.rows, built.added, built.removed) == (f"lancedb:{to}", 120, 120, 0)
    assert contents(built.index) == contents(first.path)
    version = lancedb.connect(f"{tmp_path}/db").open_table("texts").version
    again = nextvec.index_build(first.path, to=built.index, quiet=True)
    assert (again.added, again.removed) == (0, 0) and "nothing changed" in again.view().markdown()
    assert lancedb.connect(f"{tmp_path}/db").open_table("texts").version == version
    # An index that is open keeps its rows while the table changes.
    opened = nextvec.open_index(built.index)
    rows, scores = opened.search(opened.vectors([3]), 5)
    assert main(["index", "build", str(second.path), "--to", to, "--quiet"]) == 0
    assert "added 24 rows, removed 24" in capsys.readouterr().out
    assert contents(built.index) == contents(second.path)
    again_rows, again_scores = opened.search(opened.vectors([3]), 5)
    assert len(opened) == 120 and again_rows.tolist() == rows.tolist()
    np.testing.assert_array_equal(again_scores, scores)


def test_rows_written_twice_are_mended(stores, tmp_path):
    """Two builds on a service, where nothing locks, can both add a row."""
    first = stores[0]
    built = nextvec.index_build(first.path, to=str(tmp_path), quiet=True)
    table = lancedb.connect(str(tmp_path)).open_table("chunks")
    table.add(table.search().limit(7).to_arrow())
    assert len(nextvec.open_index(built.index)) == 120, "the complete version is used"
    mended = nextvec.index_build(first.path, to=str(tmp_path), quiet=True)
    assert (mended.added, mended.removed) == (7, 14) and contents(built.index) == contents(first.path)


def test_what_cannot_be_built_is_one_line(stores, other_store, tmp_path, capsys):
    first, _ = stores
    database = lancedb.connect(str(tmp_path / "db"))
    database.create_table("mine", [{"x": 1}])
    with pytest.raises(StoreError, match="did not build this table and does not change it"):
        nextvec.index_build(first.path, to=f"{tmp_path}/db#mine", quiet=True)
    assert database.open_table("mine").to_arrow().to_pylist() == [{"x": 1}]
    nextvec.index_build(first.path, to=f"{tmp_path}/db", quiet=True)
    with pytest.raises(SpaceError, match="have different embedding spaces"):
        nextvec.index_build(other_store(dimensions=8).path, to=f"{tmp_path}/db", quiet=True)
    with pytest.raises(StoreError, match="fixed columns"):
        nextvec.index_build(first.path, to=f"{tmp_path}/db#t?vector=v", quiet=True)
    handle = os.open(tmp_path / "db", os.O_RDONLY)
    lock(handle, "")
    with pytest.raises(OutputError, match="another 'nextvec index build' is writing"):
        nextvec.index_build(first.path, to=f"{tmp_path}/db", quiet=True)
    os.close(handle)
    (tmp_path / "file").write_text("")
    for to in (f"{tmp_path}/file", f"{tmp_path}/db#a/b", "nope://x/y"):
        assert main(["index", "build", str(first.path), "--to", to, "--quiet"]) == 2
        assert capsys.readouterr().err.strip().count("\n") == 0


def test_a_table_without_a_complete_version_is_not_used(stores, tmp_path):
    built = nextvec.index_build(stores[0].path, to=str(tmp_path), quiet=True)
    table = lancedb.connect(str(tmp_path)).open_table("chunks")
    table.tags.delete("nextvec-complete")
    with pytest.raises(StoreError, match=r"its build was interrupted. Run the same 'nextvec index build' again"):
        nextvec.open_index(built.index)
    assert nextvec.index_build(stores[0].path, to=str(tmp_path), quiet=True).added == 0
    assert contents(built.index) == contents(stores[0].path)
