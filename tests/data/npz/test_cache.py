"""Where the store of an npz file is: next to it, or in the cache folder; made once if two processes want it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nextvec.data.npz import cache
from nextvec.data.npz.cache import find_store, open_npz
from nextvec.data.npz.export import export_npz
from nextvec.data.store import Store
from nextvec.errors import StoreError


@pytest.fixture
def file(tmp_path: Path, toy_store: Store) -> Path:
    (tmp_path / "data").mkdir()
    return export_npz(toy_store, "train", tmp_path / "data" / "x.npz", quiet=True)


@pytest.fixture
def read_only(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a folder that can't be written to; as root, permissions would not stop the test."""
    writable = cache.is_writable
    monkeypatch.setattr(cache, "is_writable", lambda folder: folder != file.parent and writable(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file


def test_a_file_on_a_read_only_disk_is_imported_into_the_cache(read_only: Path, capsys: pytest.CaptureFixture[str]):
    store = open_npz(read_only)
    line = next(line for line in capsys.readouterr().err.splitlines() if "can't be written to" in line)
    assert str(store.path) in line and store.path == find_store(read_only)
    assert (
        store.path.parent.parts[-3:] == ("cache", "nextvec", "npz")
        and not find_store(read_only.parent / "y.npz").exists()
    )
    assert {path.name for path in read_only.parent.iterdir()} == {"x.npz"}
    # The second use announces nothing, another file of the same name gets another store.
    assert open_npz(read_only).store_hash == store.store_hash and "written" not in capsys.readouterr().err
    members = dict(np.load(read_only))
    np.savez(
        read_only,
        **{
            name: values[:-20] if values.ndim > 1 else values
            for name, values in members.items()
            if name != "article_index"
        },
    )
    assert open_npz(read_only, quiet=True).path != store.path


def test_a_store_that_is_already_next_to_a_file_is_used_without_writing(read_only: Path, tmp_path: Path):
    made = cache.import_npz({"train": read_only}, read_only.with_suffix(".store"), quiet=True)
    assert open_npz(read_only).path == made.path and not (tmp_path / "cache").exists()


def test_a_file_that_cannot_be_read_is_one_line(file: Path):
    with pytest.raises(StoreError, match="can't be read"):
        open_npz(file.with_name("missing.npz"))


def test_what_a_killed_import_left_is_not_in_the_way(file: Path):
    leftover = file.with_name("x.store.unfinished")
    leftover.mkdir()
    (leftover / "vectors.npy").write_bytes(b"half")
    assert open_npz(file, quiet=True).path.name == "x.store" and not leftover.exists()


def test_two_first_uses_at_once_import_a_file_once(file: Path):
    code = "import sys, pathlib, nextvec.data.npz.cache as c; print(c.open_npz(pathlib.Path(sys.argv[1])).store_hash)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, file],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(2)
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] and sorted(path.name for path in file.parent.iterdir()) == [
        "x.npz",
        "x.store",
    ]
