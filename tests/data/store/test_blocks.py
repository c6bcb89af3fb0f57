"""Blocks of vectors: complete or absent, encoded in any order by any process, and compared with their texts."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.data.space import Space
from nextvec.data.store import CHUNKS, ChunkTexts, vector_source, writer
from nextvec.data.store.blocks import EncodedVectors, encode_block, missing_blocks, row_count, verify_blocks
from nextvec.data.store.vector_source import VectorSource, require_one_encoder
from nextvec.errors import OutputError, StoreError

SIZES = (5, 5, 5, 2)
"""Rows of the blocks."""


@pytest.fixture
def texts(tmp_path: Path) -> ChunkTexts:
    file = tmp_path / CHUNKS
    with pq.ParquetWriter(file, pa.schema([("text", pa.string())])) as target:
        for block, size in enumerate(SIZES):
            target.write_table(pa.table({"text": [f"text {block} {row}" for row in range(size)]}))
    return ChunkTexts(file)


def source(texts: ChunkTexts, name: str = "toy", *, lost: int = 0) -> VectorSource:
    """Return vectors that are a function of their text; `lost` get none. A block has an unknown and two cut texts."""
    calls: list[int] = []

    def read(block: int) -> np.ndarray:
        calls.append(block)
        return np.array([[len(text), int(text[-1]), block, 1.0] for text in texts.read_block(block)], np.float32)[lost:]

    def count() -> Counter[str]:
        return Counter(unknown_texts=len(calls), truncated_texts=2 * len(calls))

    return VectorSource(Space(name, "1", 4), {"name": name}, read, count)


def block_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "vectors").iterdir())}


def test_blocks_are_the_same_in_any_order_and_from_any_process(tmp_path: Path, texts: ChunkTexts) -> None:
    assert missing_blocks(tmp_path, texts) == [0, 1, 2, 3] and row_count(texts, [0, 3]) == 7
    for block in (2, 0, 3):
        encode_block(tmp_path, texts, block, source(texts), "float16")
    assert missing_blocks(tmp_path, texts) == [1]
    encode_block(tmp_path, texts, 1, source(texts), "float16")
    files = block_files(tmp_path)
    assert list(files) == [f"00000{block}.{kind}" for block in range(4) for kind in ("json", "npy")]
    one_process = source(texts)
    for block in range(4):
        encode_block(tmp_path, texts, block, one_process, "float16")
    assert block_files(tmp_path) == files
    counts = {"texts": sum(SIZES), "unknown_texts": 4, "truncated_texts": 8}
    assert verify_blocks(tmp_path, texts, 4, "float16") == counts

    # All blocks are read as one array, in any order of the rows.
    expected = np.concatenate([source(texts).read_block(block) for block in range(4)])
    expected = (expected / np.linalg.norm(expected, axis=1, keepdims=True)).astype(np.float16)
    vectors = EncodedVectors(tmp_path, texts)
    assert (len(vectors), vectors.shape, vectors.dtype) == (17, (17, 4), np.float16)
    rows = np.array([16, 0, 7, 7, 3, 12])
    assert np.array_equal(vectors[rows], expected[rows])
    assert np.array_equal(vectors[4:99], expected[4:])


def test_damaged_blocks_are_named_and_encoded_again(tmp_path: Path, texts: ChunkTexts) -> None:
    vectors = source(texts)
    for block in range(4):
        encode_block(tmp_path, texts, block, vectors, "float16")
    whole, folder = block_files(tmp_path), tmp_path / "vectors"
    content = bytearray(whole["000001.npy"])
    content[-1] ^= 1
    damages = {"000001.npy": bytes(content), "000002.json": b"{", "000003.npy": b""}
    for name, damage in damages.items():
        (folder / name).write_bytes(damage)
    with pytest.raises(
        StoreError,
        match=r"000001\.npy: is damaged \(its SHA-256 differs\), and 2 other blocks are damaged\. "
        r"To encode what is damaged again, run the same command again\.$",
    ):
        verify_blocks(tmp_path, texts, 4, "float16")
    # The damaged blocks, and no others, are missing now.
    assert missing_blocks(tmp_path, texts) == [1, 2, 3]
    for block in missing_blocks(tmp_path, texts):
        encode_block(tmp_path, texts, block, source(texts), "float16")
    assert block_files(tmp_path) == whole
    with pytest.raises(StoreError, match=r"000000\.npy: is damaged \(\(5, 4\) float16 instead of \(5, 4\) float32\)"):
        verify_blocks(tmp_path, texts, 4, "float32")


def test_the_number_of_rows_is_compared_with_the_texts(tmp_path: Path, texts: ChunkTexts) -> None:
    with pytest.raises(StoreError, match=r"encoder toy@1 \(4-D\): returned 4 vectors of 4 numbers for 5 texts"):
        encode_block(tmp_path, texts, 0, source(texts, lost=1), "float16")
    assert missing_blocks(tmp_path, texts) == [0, 1, 2, 3]
    # A process that read fewer texts writes a block that is consistent in itself.
    for block in range(4):
        encode_block(tmp_path, texts, block, source(texts), "float16")
    fewer = SimpleNamespace(blocks=[(0, 4)])
    encode_block(tmp_path, fewer, 0, source(texts, lost=1), "float16")  # type: ignore[arg-type]
    assert json.loads((tmp_path / "vectors" / "000000.json").read_text())["rows"] == 4
    with pytest.raises(StoreError, match=r"000000\.npy: is damaged \(\(4, 4\) float16 instead of \(5, 4\) float16\)\."):
        verify_blocks(tmp_path, texts, 4, "float16")


def test_two_encoders_do_not_make_the_vectors_of_one_store(
    tmp_path: Path, texts: ChunkTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert require_one_encoder(tmp_path, source(texts)).space == Space("toy", "1", 4)
    with pytest.raises(StoreError, match=r"made by .*'toy'.*, but the encoder is now .*'other'"):
        require_one_encoder(tmp_path, source(texts, "other"))
    # Both processes see no record, and the other one writes it first.
    record = tmp_path / "encoder.json"
    content = record.read_bytes()
    record.unlink()
    write = vector_source.write_atomic
    monkeypatch.setattr(
        vector_source, "write_atomic", lambda *args, **options: (record.write_bytes(content), write(*args, **options))
    )
    with pytest.raises(StoreError, match=r"made by .*'toy'"):
        require_one_encoder(tmp_path, source(texts, "other"))
    assert record.read_bytes() == content
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(StoreError, match=r"encoder\.json: is damaged\. Start again with --restart\."):
        require_one_encoder(tmp_path, source(texts))


def test_a_disk_that_is_too_small_is_reported_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 * 2**30))
    writer.require_free_space(tmp_path, 3 * 2**30)
    with pytest.raises(OutputError, match=r"the vectors need 4\.0 GiB, but the disk has 3\.0 GiB free\. Free some"):
        writer.require_free_space(tmp_path, 4 * 2**30)
