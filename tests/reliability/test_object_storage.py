"""Stores at a URL under faults: broken connections, damage, kills, several processes at once, full disks."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import nextvec
from nextvec.core import object_storage
from nextvec.core.files import json_text
from nextvec.data.store import MANIFEST, Store, open_store
from nextvec.data.store.manifest import manifest_checksum, verify_store
from nextvec.errors import InputError, NextvecError, OutputError, ServerError, StoreError

URL = "flaky://bucket/wiki"
FOLDER = "/bucket/wiki"


class FlakyFileSystem(MemoryFileSystem):
    """Memory behind a network: every open, read and write is counted, and may fail."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    opens: ClassVar[Counter[str]] = Counter()
    fault: ClassVar[Callable[[str, int], None]] = staticmethod(lambda path, read: None)
    """Called before each read or write with the path and its number since the file was opened."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("flaky://", "memory://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        type(self).opens[f"{mode[0]} {path.rpartition('/')[2]}"] += 1
        numbers = iter(range(10**9))

        def faulty(action: Callable[..., Any]) -> Callable[..., Any]:
            def act(*arguments: Any) -> Any:
                type(self).fault(path, next(numbers))
                return action(*arguments)

            return act

        if mode == "rb":
            content = memoryview(file.getvalue())
            state = SimpleNamespace(position=0)

            def read(count: int) -> bytes:
                block = bytes(content[state.position : state.position + count])
                state.position += len(block)
                return block

            return _Reader(faulty(read), lambda position: setattr(state, "position", position))
        file.write = faulty(file.write)
        return file


class _Reader:
    def __init__(self, read: Callable[[int], bytes], seek: Callable[[int], None]) -> None:
        self.read, self.seek = read, seek

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Killed(BaseException):
    """A process that ends in the middle of its work."""


@pytest.fixture(autouse=True)
def flaky(toy_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FlakyFileSystem]]:
    """The file system with a store at URL, in blocks of 1 KiB and without waits."""
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    monkeypatch.setenv("NEXTVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_storage, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(object_storage, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(FlakyFileSystem, "fault", staticmethod(lambda path, read: None))
    FlakyFileSystem.store.clear()
    nextvec.data_copy(toy_store.path, URL, quiet=True)
    FlakyFileSystem.opens.clear()
    yield FlakyFileSystem


def fail(monkeypatch: pytest.MonkeyPatch, fault: Callable[[str, int], None]) -> None:
    monkeypatch.setattr(FlakyFileSystem, "fault", staticmethod(fault))


def copy_folder(tmp_path: Path, store: Store) -> Path:
    return tmp_path / "cache" / "stores" / store.manifest["checksum"]


BROKEN = [ConnectionResetError("reset by peer"), TimeoutError(), OSError(errno.EIO, "input/output error"), EOFError()]


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("k", [1, 3])
def test_a_download_continues_where_the_connection_broke(k: int, error: Exception, monkeypatch, toy_store: Store):
    def break_read(path: str, read: int) -> None:
        if read == k:
            raise error

    fail(monkeypatch, break_read)
    assert verify_store(open_store(URL, quiet=True).path)
    # Each connection brings k blocks, and no block is read twice.
    vectors = (toy_store.path / "vectors.npy").stat().st_size
    assert FlakyFileSystem.opens["r vectors.npy"] == -(-vectors // (1024 * k))


def test_a_connection_that_stays_broken_keeps_what_is_complete(monkeypatch, tmp_path: Path, toy_store: Store):
    def break_vectors(path: str, read: int) -> None:
        if path.endswith("vectors.npy") and read:
            raise ConnectionResetError("reset by peer")

    # A connection that brings nothing at all is given up after a bounded number of attempts.
    fail(monkeypatch, lambda path, read: break_vectors(path, 1))
    message = f"{URL}/vectors.npy: the connection failed 5 times .*reset by peer.*Run the command again"
    with pytest.raises(ServerError, match=message):
        open_store(URL, quiet=True)
    assert FlakyFileSystem.opens["r vectors.npy"] == object_storage.MAX_FAULTS
    folder = copy_folder(tmp_path, toy_store)
    assert not (folder / MANIFEST).exists() and not (folder / "vectors.npy").exists()
    complete = {file.name for file in folder.iterdir()}
    fail(monkeypatch, lambda path, read: None)
    FlakyFileSystem.opens.clear()
    assert verify_store(open_store(URL, quiet=True).path)
    assert set(FlakyFileSystem.opens) == {
        "r manifest.json",
        *(f"r {name}" for name in toy_store.manifest["files"] if name not in complete),
    }


def flip_byte(files: dict[str, Any], path: str) -> None:
    content = bytearray(files[path].getvalue())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def truncate(files: dict[str, Any], path: str) -> None:
    replace(path, files[path].getvalue()[:-10])


def replace(path: str, content: bytes) -> None:
    fsspec.filesystem("flaky").pipe_file(path, content)


DAMAGES = {
    "flipped byte": flip_byte,
    "truncated": truncate,
    "empty": lambda files, path: replace(path, b""),
    "missing": lambda files, path: files.pop(path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", ["vectors.npy", "documents.parquet", MANIFEST])
def test_damage_at_the_url_is_named_and_never_cached(name: str, damage, tmp_path: Path, toy_store: Store):
    files = FlakyFileSystem.store
    intact = files[f"{FOLDER}/{name}"].getvalue()
    damage(files, f"{FOLDER}/{name}")
    with pytest.raises(StoreError, match=name) as caught:
        open_store(URL, quiet=True)
    assert URL in str(caught.value)
    folder = copy_folder(tmp_path, toy_store)
    assert not (folder / name).exists() and not (folder / MANIFEST).exists()
    with pytest.raises(StoreError, match=name):
        nextvec.data_copy(URL, tmp_path / "copy", quiet=True)
    assert not (tmp_path / "copy" / name).exists() and not (tmp_path / "copy" / MANIFEST).exists()
    replace(f"{FOLDER}/{name}", intact)
    assert verify_store(open_store(URL, quiet=True).path)


def test_refused_access_is_not_tried_again(monkeypatch):
    class NoCredentialsError(Exception):
        pass

    for error in (PermissionError("Forbidden"), NoCredentialsError("Unable to locate credentials")):

        def refuse(path: str, read: int, error: Exception = error) -> None:
            raise error

        FlakyFileSystem.opens.clear()
        fail(monkeypatch, refuse)
        with pytest.raises(ServerError, match=f"{URL}/manifest.json: access is denied .*{error}.*credentials"):
            open_store(URL, quiet=True)
        assert FlakyFileSystem.opens.total() == 1


def test_openers_at_the_same_time_fetch_each_file_once(monkeypatch, toy_store: Store, capfd):
    fail(monkeypatch, lambda path, read: time.sleep(0.002))
    start = threading.Barrier(4)

    def open_together(_: int) -> Path:
        start.wait()
        return open_store(URL).path

    with ThreadPoolExecutor(4) as executor:
        (folder,) = set(executor.map(open_together, range(4)))
    assert verify_store(folder)
    assert all(FlakyFileSystem.opens[f"r {name}"] == 1 for name in toy_store.manifest["files"])
    assert "waiting for another process that downloads it" in capfd.readouterr().err


@pytest.mark.parametrize("k", [0, 2, 5])
def test_a_killed_download_continues_with_the_complete_files(k: int, monkeypatch, tmp_path: Path, toy_store: Store):
    def kill(path: str, read: int) -> None:
        if path.endswith("vectors.npy") and read == k:
            raise Killed

    fail(monkeypatch, kill)
    with pytest.raises(Killed):
        open_store(URL, quiet=True)
    with pytest.raises(StoreError, match="is not in the cache"):
        open_store(URL, download=False)
    fail(monkeypatch, lambda path, read: None)
    complete = {file.name for file in copy_folder(tmp_path, toy_store).iterdir() if not file.name.startswith(".")}
    FlakyFileSystem.opens.clear()
    assert verify_store(open_store(URL, quiet=True).path)
    assert not any(FlakyFileSystem.opens[f"r {name}"] for name in complete)


def test_a_full_disk_is_found_before_and_during_the_download(monkeypatch, tmp_path: Path, toy_store: Store):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
        with pytest.raises(OutputError, match=r"needed, but 0\.0 GB are free\. .*NEXTVEC_CACHE"):
            open_store(URL, quiet=True)
        assert set(FlakyFileSystem.opens) == {"r manifest.json"}
        with pytest.raises(OutputError, match=r"GB are free\. .*choose another folder"):
            nextvec.data_copy(URL, tmp_path / "copy", quiet=True)

    def fill_disk(output: Any, blocks: Iterator[bytes]) -> None:
        output.write(next(blocks))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(object_storage, "_write_blocks", fill_disk)
        with pytest.raises(OutputError, match=r"cannot write .*: the disk is full"):
            open_store(URL, quiet=True)
    # Nothing of an incomplete file stays, and nothing is in the way of the next attempt.
    assert not [file for file in copy_folder(tmp_path, toy_store).iterdir() if file.is_file()]
    assert verify_store(open_store(URL, quiet=True).path)


HOSTILE = {
    "above": {"../escaped": "0" * 64},
    "deep above": {"encoder/../../escaped": "0" * 64},
    "absolute": {"/tmp/escaped": "0" * 64},
    "itself": {MANIFEST: "0" * 64},
    "empty": {"": "0" * 64},
    "windows": {"..\\escaped": "0" * 64},
    "control": {"a\x1b[2J": "0" * 64},
    "digest": {"vectors.npy": "x"},
    "number": {"vectors.npy": 7},
}


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_manifest_cannot_name_files_outside_of_its_folder(files: dict[str, Any], tmp_path: Path, toy_store: Store):
    manifest = {**toy_store.manifest, "files": {**toy_store.manifest["files"], **files}}
    manifest["checksum"] = manifest_checksum(manifest)
    replace(f"{FOLDER}/{MANIFEST}", json_text(manifest).encode())
    for use in (lambda: open_store(URL, quiet=True), lambda: nextvec.data_copy(URL, tmp_path / "copy", quiet=True)):
        with pytest.raises(StoreError, match="impossible entry"):
            use()
    assert not any(path.name == "escaped" for path in tmp_path.rglob("*")) and not (tmp_path / "cache").exists()


def test_a_changed_or_older_manifest_is_refused_before_any_file_is_read(toy_store: Store, monkeypatch):
    for manifest, message in (
        ({**toy_store.manifest, "rows": 1}, "manifest.json has changed since it was written"),
        ({"format": 1}, "has format 1"),
        ([], "is damaged"),
        ({"format": toy_store.manifest["format"], "files": ["a"], "space": {}, "rows": 1}, "is damaged"),
    ):
        replace(f"{FOLDER}/{MANIFEST}", json_text(manifest).encode())
        with pytest.raises(StoreError, match=message):
            open_store(URL, quiet=True)
    monkeypatch.setattr("nextvec.data.store.transfer.MAX_MANIFEST_BYTES", 10)
    with pytest.raises(StoreError, match="at most 10 are plausible"):
        open_store(URL, quiet=True)
    assert set(FlakyFileSystem.opens) == {"r manifest.json", "w manifest.json"}


def test_a_killed_copy_to_a_url_continues(monkeypatch, toy_store: Store):
    target, folder = "flaky://copies/x", "/copies/x"

    def kill(path: str, write: int) -> None:
        if path.endswith(f"{folder}/vectors.npy") and write == 2:
            raise Killed

    fail(monkeypatch, kill)
    with pytest.raises(Killed):
        nextvec.data_copy(toy_store.path, target, quiet=True)
    assert f"{folder}/copying.json" in FlakyFileSystem.store and f"{folder}/{MANIFEST}" not in FlakyFileSystem.store
    # Broken connections on the way to the URL are tried again, for one file from its beginning.
    seen: Counter[str] = Counter()

    def break_write(path: str, write: int) -> None:
        seen[path] += 1
        if seen[path] == 2:
            raise ConnectionResetError

    fail(monkeypatch, break_write)
    FlakyFileSystem.opens.clear()
    assert nextvec.data_copy(toy_store.path, target, quiet=True).copied >= 1
    assert FlakyFileSystem.opens["w vectors.npy"] == 2 and f"{folder}/copying.json" not in FlakyFileSystem.store
    fail(monkeypatch, lambda path, read: None)
    assert open_store(target, quiet=True).store_hash == toy_store.store_hash
    # One that is kept up ends with a line, and without a manifest.
    fail(monkeypatch, lambda path, write: break_write("", 0) or seen.clear() or seen.update({"": 1}))
    with pytest.raises(NextvecError, match="the connection failed 5 times"):
        nextvec.data_copy(toy_store.path, "flaky://copies/y", quiet=True)
    assert f"/copies/y/{MANIFEST}" not in FlakyFileSystem.store


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_copying_again_mends_a_copy(damage, toy_store: Store):
    damage(FlakyFileSystem.store, f"{FOLDER}/vectors.npy")
    assert nextvec.data_copy(toy_store.path, URL, quiet=True).copied == 1
    assert nextvec.data_copy(toy_store.path, URL, quiet=True).copied == 0
    assert open_store(URL, quiet=True).store_hash == toy_store.store_hash


def test_a_damaged_source_is_not_copied(toy_store: Store, tmp_path: Path, make_store):
    source = make_store(tmp_path / "source", seed=4).path
    content = bytearray((source / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (source / "vectors.npy").write_bytes(content)
    with pytest.raises(StoreError, match=r"source: vectors\.npy is damaged"):
        nextvec.data_copy(source, "flaky://copies/z", quiet=True)
    stored = {path.rpartition("/")[2] for path in FlakyFileSystem.store if path.startswith("/copies/z/")}
    assert not stored & {"vectors.npy", MANIFEST}
    with pytest.raises(InputError):
        open_store("flaky://copies/z")


KILLS = 20


@pytest.mark.long
@pytest.mark.parametrize("seed", range(KILLS))
def test_sigkill_during_a_download(seed: int, tmp_path: Path, make_store):
    """A process that opens a store is killed at a random time; the next one ends with the same bytes."""
    shared = make_store(tmp_path / "shared", documents=4000, dimensions=64).path
    code = f"from nextvec.data.store import open_store; print(open_store('file://{shared}').path, flush=True)"
    limit = "import nextvec.core.object_storage as o; o.BLOCK_BYTES = 4096; "
    environment = {**os.environ, "NEXTVEC_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", limit + code]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Wait for the first sign of the download, then for a random while.
    while process.poll() is None and not list((tmp_path / "cache" / "stores").glob("*/*")):
        time.sleep(0.001)
    time.sleep(random.Random(seed).uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "stores").glob("*/[!.]*")}
    folder = Path(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    manifest = json.loads((shared / MANIFEST).read_bytes())
    assert verify_store(folder) == len(manifest["files"]) + 1
    assert all(file.stat().st_mtime_ns == modified for file, modified in done.items())
    assert not list(folder.glob(".*"))
