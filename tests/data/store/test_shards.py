"""Stores of several files of vectors: one array, the same rows and the same training as one file."""

import gc
import hashlib
import json
import mmap
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nextvec
from equality import events_of
from nextvec.data.space import Space
from nextvec.data.store import CHUNKS, MANIFEST, VECTORS, Store, build, open_store, writer
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.manifest import manifest_checksum, verify_store
from nextvec.data.store.vectors import ALIGNMENT, VectorLayout, find_layout, map_store_vectors, read_rows, vector_files
from nextvec.data.store.writer import create_vectors, finish_store, write_documents
from nextvec.errors import InputError, StoreError
from nextvec.recipe import make_recipe
from nextvec.training import loop
from nextvec.training.setup import start_run

DIMENSIONS = 512
"""64 rows in float16, and 32 in float32, are 64 KiB, the smallest shard."""


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    return make_store(tmp_path_factory.mktemp("one") / "store", documents=40, dimensions=DIMENSIONS)


@pytest.fixture(scope="module")
def sharded(one_file: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same vectors and documents in shards of 64 rows."""
    path = tmp_path_factory.mktemp("sharded") / "store"
    folder = path.with_name("store.unfinished")
    folder.mkdir()
    rows, order = len(one_file.vectors), np.random.default_rng(0).permutation(len(one_file.vectors))
    with pytest.MonkeyPatch.context() as patch, create_vectors(folder, rows, DIMENSIONS, "float32", 2**17) as writing:
        patch.setattr(writer, "MAX_OPEN_FILES", 2)
        for part in np.array_split(order, 5):  # rows in any order
            writing.write(part, one_file.vectors[part])
    write_documents(folder, one_file.documents)
    counts = {"documents": len(one_file.documents), "chunks": rows}
    return finish_store(folder, path, one_file.space, counts)


@pytest.fixture
def copy(sharded: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded.path, tmp_path / "copy"))


def test_a_sharded_store_is_copied_and_opened_by_its_url(sharded: Store, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("NEXTVEC_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/shared/store"
    assert nextvec.data_copy(sharded.path, url, quiet=True).copied == len(sharded.manifest["files"]) > 3
    opened = open_store(url, quiet=True)
    assert opened.store_hash == sharded.store_hash and np.array_equal(opened.vectors, sharded.vectors)


def test_shards_are_planned_so_that_their_data_can_be_joined() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        dimensions, rows = int(rng.integers(1, 2000)), int(rng.integers(1, 10**7))
        dtype = ("float16", "float32")[int(rng.integers(2))]
        shard_bytes = int(rng.integers(ALIGNMENT, 2**31))
        layout = VectorLayout.plan(rows, dimensions, dtype, shard_bytes)
        sizes = np.array(layout.rows_S) * layout.row_bytes
        smallest = np.lcm(ALIGNMENT, layout.row_bytes)  # the fewest rows that end at a multiple of ALIGNMENT
        assert layout.rows == rows and (np.array(layout.rows_S) > 0).all()
        assert not (sizes[:-1] % ALIGNMENT).any() and sizes.max() <= max(shard_bytes, smallest)
        assert (len(sizes) == 1) == (rows * layout.row_bytes <= max(shard_bytes, smallest))
        assert len(set(layout.rows_S[:-1])) <= 1
    assert ALIGNMENT % mmap.PAGESIZE == 0
    assert VectorLayout.plan(10, 768, "float16").names == [VECTORS]
    assert VectorLayout.plan(2 * 10**6, 768, "float16").names == vector_files(3)
    assert vector_files(3)[0] == "vectors-00001-of-00003.npy"


def test_a_sharded_store_is_one_array_with_the_same_rows(one_file: Store, sharded: Store) -> None:
    rows = len(one_file.vectors)
    names = sharded.vector_layout.names
    assert len(names) == -(-rows // 64) >= 5 and not (sharded.path / VECTORS).exists()
    assert sharded.manifest["shards"] == [64] * (rows // 64) + [rows % 64]
    assert sharded.vectors.flags.c_contiguous and sharded.vectors.dtype == np.float32
    assert np.array_equal(sharded.vectors, one_file.vectors)
    assert find_layout(sharded.path) == sharded.vector_layout and "shards" not in one_file.manifest
    # Each shard is a .npy file, and its SHA-256 is in the manifest.
    parts = [np.load(sharded.path / name, max_header_size=ALIGNMENT) for name in names]
    assert np.array_equal(np.concatenate(parts), one_file.vectors)
    assert verify_store(sharded.path) == len(names) + 2
    digests = [hashlib.sha256((sharded.path / name).read_bytes()).hexdigest() for name in names]
    assert [sharded.manifest["files"][name] for name in names] == digests
    vectors_hash = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert sharded.store_hash == f"{vectors_hash}:{sharded.manifest['files']['documents.parquet']}"
    # Rows are also read through maps of their own, across shards.
    for store in (one_file, sharded):
        assert np.array_equal(read_rows(store.path, store.vector_layout, 50, 200), one_file.vectors[50:200])


def test_changes_reach_no_file_and_the_last_array_releases_the_map(copy: Path) -> None:
    def is_mapped() -> bool:
        return str(copy) in Path("/proc/self/maps").read_text()

    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    store = open_store(copy)
    expected, tail = store.vectors[-3:].copy(), torch.from_numpy(store.vectors)[-3:]
    store.vectors[:] = 0  # torch needs writable memory
    del store
    gc.collect()
    assert is_mapped() and torch.equal(tail, torch.zeros_like(tail)) and expected.any()
    del tail
    gc.collect()
    assert not is_mapped()
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert np.array_equal(open_store(copy).vectors[-3:], expected)


def test_training_on_shards_equals_training_on_one_file(one_file: Store, sharded: Store, tmp_path: Path) -> None:
    epochs: list[Any] = []
    for store in (one_file, sharded):
        values = {
            "name": "shards",
            "data": {"store": str(store.path), "context": 2, "min_context": 2},
            "training": {"epochs": 1, "batch_size": 32, "precision": "fp32"},
            "evaluation": {"resamples": 100, "ridge_windows": 100},
            "runtime": {"device": "cpu", "threads": 1},
        }
        run = start_run(make_recipe(values), tmp_path / store.path.parent.name, quiet=True)
        loop.train(run)
        epochs += events_of(run.path, "epoch")
    # The loss depends on every window, and on their order.
    for name in ("train_cosine", "train_loss_mse", "val_loss", "val_cosine"):
        assert epochs[0][name] == epochs[1][name], name


def test_an_exported_table_gives_back_the_shards(sharded: Store, tmp_path: Path) -> None:
    table = nextvec.data_export(sharded.path, out=tmp_path / "table.parquet", quiet=True)
    again = nextvec.data_import(table, out=tmp_path / "again", quiet=True)
    assert again.manifest == sharded.manifest and again.store_hash == sharded.store_hash


def test_damaged_shards_are_named_in_one_line(sharded: Store, copy: Path) -> None:
    names = sharded.vector_layout.names
    whole = {name: (copy / name).read_bytes() for name in names}

    def fails(message: str) -> None:
        with pytest.raises(StoreError, match=message) as caught:
            open_store(copy)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(f"store {copy}: ")
        for name, content in whole.items():
            (copy / name).write_bytes(content)

    (copy / names[2]).unlink()
    fails(rf"{names[2]} can't be read \(No such file or directory\)\. Build the store again, or copy it again\.")
    (copy / names[1]).write_bytes(whole[names[1]][:-1])
    fails(rf"{names[1]} has 196,607 bytes instead of 196,608\. Build the store again, or copy it again\.")
    (copy / names[0]).write_bytes(whole[names[-1]])
    fails(rf"{names[0]} is not a shard of 64 × 512 float32\.")
    (copy / names[0]).write_bytes(b"")
    fails(rf"{names[0]} is not a shard of")
    # Shards in the wrong order have the right form: only the checksums show it.
    (copy / names[0]).write_bytes(whole[names[1]])
    open_store(copy)
    with pytest.raises(StoreError, match=rf"{names[0]} has changed since it was written"):
        verify_store(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": [64, 64]}, r"manifest\.json is damaged \(shards \[64, 64\]\)\. Build the store again"),
        ({"shards": []}, "damaged"),
        ({"shards": "64"}, "damaged"),
        ({"shards": [65, 63]}, "damaged"),
        ({"shards": [-64, 10**6]}, "damaged"),
        ({"shards": [64.0]}, "damaged"),
        ({"shards": None}, "damaged"),
        ({"dtype": "int8"}, r"damaged \(dtype int8\)"),
        ({"files": {"documents.parquet": ""}}, r"damaged \(no file vectors-00001-of-"),
        ({"space": Space("toy", "1", 256).to_dict()}, r"(is not a shard of 64 × 256|damaged)"),
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_the_shards_is_refused(copy: Path, changes: dict, message: str) -> None:
    manifest = json.loads((copy / MANIFEST).read_text()) | changes
    (copy / MANIFEST).write_text(json.dumps(manifest | {"checksum": manifest_checksum(manifest)}))
    with pytest.raises(StoreError, match=message):
        open_store(copy)


def test_a_system_without_mmap_is_told_so(sharded: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextvec.data.store.address_range.ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(StoreError, match=r"its shards cannot be mapped \(this system has no mmap\)\. Build it in one"):
        open_store(sharded.path)


def test_a_thousand_shards_open_in_a_moment(tmp_path: Path) -> None:
    layout = VectorLayout((64,) * 1000, DIMENSIONS, np.dtype("float16"))
    for shard, name in enumerate(layout.names):
        with (tmp_path / name).open("wb") as file:
            file.write(layout.header(shard)[:256])
            file.truncate(2 * ALIGNMENT)  # no block of it is on the disk
    seconds = []
    for _ in range(2):
        start = time.process_time()
        vectors = map_store_vectors(tmp_path, layout, "store")
        seconds.append(time.process_time() - start)
    assert vectors.shape == (64_000, DIMENSIONS) and not vectors[::64].any()
    assert min(seconds) < 0.5


# Builds


class Numbered:
    """An encoder whose vectors depend on each text alone."""

    unknown_texts = truncated_texts = 0
    space, settings = Space("numbered", "1", DIMENSIONS), {"name": "numbered"}

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(int(text.split()[0])).normal(size=DIMENSIONS) for text in texts]
        return np.array(rows, np.float32)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """200 documents of one paragraph: 200 rows, four shards of 64 KiB."""
    monkeypatch.setattr(build, "open_encoder", lambda *_, **__: Numbered())
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps({"id": f"d{n}", "text": f"{n} is the number of this paragraph."}) for n in range(200)]
    file.write_text("\n".join(lines))
    return {"sources": (str(file),), "encoder": "owner/numbered", "chunker": nextvec.data.chunking.Chunker(min_chars=1)}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_build_writes_shards_and_continues_to_the_same_bytes(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build.build_store(BuildConfig(**config), tmp_path / "whole", quiet=True)
    cut = BuildConfig(**config, shard_bytes=ALIGNMENT)
    store = build.build_store(cut, tmp_path / "store", quiet=True)
    assert store.manifest["shards"] == [64, 64, 64, 8] and len(whole.vector_layout.names) == 1
    assert np.array_equal(store.vectors, whole.vectors) and (store.path / CHUNKS).read_bytes()
    assert (store.path / CHUNKS).read_bytes() == (whole.path / CHUNKS).read_bytes()
    reserve, expected = writer._reserve, contents(store.path)
    for call in (0, 3):
        calls = iter(range(100))

        def killed(*args: Any, calls: Any = calls, call: int = call) -> None:
            if next(calls) == call:
                raise KeyboardInterrupt
            reserve(*args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(writer, "_reserve", killed)
            build.build_store(cut, tmp_path / f"killed{call}", quiet=True)
        again = build.build_store(cut, tmp_path / f"killed{call}", quiet=True)
        assert contents(again.path) == expected
    with pytest.raises(InputError, match=r"shard_bytes is 1,000, but must be at least 65,536\."):
        BuildConfig(**config, shard_bytes=1000)
