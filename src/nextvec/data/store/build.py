"""Build a store from text, in stages that survive a kill at any moment.

    build_store(BuildConfig(("articles.jsonl.gz",), encoder="minilm", split=SplitPlan(val=0.1)), "wiki")

The stages are: staged chunks, the tables of documents and chunks, the fitted encoder if there is one, the vectors in
blocks of rows, and the manifest. Each stage records finished work in the journal of the build directory; a build that
is started again with the same configuration does the rest. The output of a stage depends on configuration and files
alone, so an interrupted build ends in the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.data.chunking import Chunker
from nextvec.data.documents import Columns
from nextvec.data.encoders import LSA, PRECISIONS, Encoder, full_name, open_encoder
from nextvec.data.encoders.lsa import MAX_FIT_TEXTS, LsaEncoder
from nextvec.data.space import Space
from nextvec.data.splits import SplitPlan
from nextvec.data.store import CHUNKS, DOCUMENTS, ENCODER, ChunkTexts, Store, open_store
from nextvec.data.store.build_dir import BuildDirectory, open_build_directory, stamp_files
from nextvec.data.store.precomputed import align_precomputed, open_precomputed
from nextvec.data.store.staging import stage_chunks, staged_files, write_tables
from nextvec.data.store.writer import create_vectors, finish_store
from nextvec.errors import InputError, StoreError, did_you_mean

_DTYPES = ("float16", "float32")
_VERIFIED_TEXTS = 64
"""Number of texts that are encoded to verify that the named encoder made the precomputed embeddings."""
_MAX_PARAGRAPH_CHARS = 2**31 - 1


@dataclass(frozen=True)
class BuildConfig:
    """The configuration of a build. Raises InputError for values that cannot be used."""

    sources: tuple[str, ...]
    """Sources of text; see `readers.SOURCES`."""
    encoder: str = LSA
    """A name in `encoders.ENCODERS`, a model of the Hugging Face hub, or a folder."""
    split: SplitPlan = SplitPlan()
    """How documents are divided into train, val and ood."""
    chunker: Chunker = Chunker()
    """How documents become chunks. With `vectors`, chunks are whole paragraphs of any length."""
    columns: Columns = Columns()
    """Names of the fields of .jsonl, .parquet and hub sources."""
    dimensions: int = 768
    """D of the lsa encoder, which is fitted on the training documents alone."""
    vectors: tuple[str, ...] = ()
    """.npy files of precomputed embeddings: one file per source, one row per paragraph."""
    dtype: str = "float16"
    """Number format of the stored vectors."""
    min_chunks: int = 1
    """Minimum number of chunks of a document; shorter documents are dropped and counted."""
    limit: int | None = None
    """Maximum number of documents of each source."""
    device: str = "auto"
    """Device of a neural encoder."""
    precision: str = "auto"
    """Precision of its matrix products."""

    def __post_init__(self) -> None:
        # Accept a single name as well as a sequence, and store canonical values: they identify the build.
        for name in ("sources", "vectors"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "encoder", full_name(self.encoder))
        if not self.sources:
            raise InputError("no source of text. Name at least one; 'nextvec data build --help' lists the kinds.")
        for name, value, known in (("dtype", self.dtype, _DTYPES), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise InputError(f"{name} '{value}' is unknown.{did_you_mean(value, known)}")
        for name in ("dimensions", "min_chunks", "limit"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} is {number}, but must be at least 1.")
        if self.vectors:
            self._require_aligned_vectors()
            object.__setattr__(self, "chunker", Chunker("paragraph", 0, _MAX_PARAGRAPH_CHARS, self.chunker.language))

    def _require_aligned_vectors(self) -> None:
        if self.encoder == LSA:
            raise InputError("vectors: the encoder lsa does not make them. Name the encoder that did with --encoder.")
        if self.chunker.unit != "paragraph":
            raise InputError("vectors: one row is one paragraph. Set the chunk unit to 'paragraph'.")
        if len(self.vectors) != len(self.sources):
            raise InputError(
                f"vectors: {len(self.vectors)} files for {len(self.sources)} sources. "
                "Name one file per source, in order."
            )
        open_precomputed(self.vectors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that decide every byte of the store, including the state of the source files."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "split": self.split.to_dict(),
            "val ids": _hash_ids(self.split.val_ids),
            "ood ids": _hash_ids(self.split.ood_ids),
            "chunker": self.chunker.to_dict(),
            "columns": dataclasses.asdict(self.columns),
            "files": stamp_files([*self.sources, *self.vectors]),
            "nextvec": version("nextvec"),
            "sentencex": version("sentencex"),  # another version may split the remaining text differently
        }


def build_store(config: BuildConfig, out: str | Path, *, quiet: bool = False) -> Store:
    """Read text, encode its chunks, and write the store `out`.

    Exact duplicates of a chunk are dropped and counted. With precomputed embeddings nothing is encoded except a sample,
    to verify that the named encoder made them; if it is not available here, the manifest records that.

    A build that was killed continues when it is started again with the same configuration, and ends in the same bytes.
    Raises a kind of InputError for text or vectors that cannot be used, OutputError if `out` exists or cannot be
    written, or if another build is writing it.
    """
    path = Path(out)
    with open_build_directory(path, config.to_dict()) as directory:
        if not directory.is_finished:
            _build_or_clean_up(config, directory, path, quiet)
        directory.remove()
    return open_store(path)


def _hash_ids(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()


def _open_encoder(config: BuildConfig) -> Encoder | None:
    """Open the encoder, before any text is read, so that a missing one is reported at once.

    Returns None for lsa, which is fitted later, and if precomputed embeddings make an unavailable encoder unnecessary.
    """
    if config.encoder == LSA:
        return None
    try:
        return open_encoder(config.encoder, device=config.device, precision=config.precision)
    except InputError:
        if config.vectors:
            return None
        raise


def _build_or_clean_up(config: BuildConfig, directory: BuildDirectory, path: Path, quiet: bool) -> None:
    """Build. If the input is refused, remove the build directory unless it contains work worth keeping."""
    # A new folder has nothing to keep if the encoder is missing.
    is_new = not directory.done and not staged_files(directory.staged)
    try:
        encoder = _open_encoder(config)
    except InputError:
        if is_new:
            directory.remove()
        raise
    try:
        _build(config, directory, path, encoder, quiet)
    except InputError:
        # Worth keeping for the same command: staged chunks (a network may come back), and encoded vectors.
        has_staged = "text" not in directory.done and staged_files(directory.staged)
        has_encoded = "blocks" in directory.done and not config.vectors
        if not (has_staged or has_encoded):
            directory.remove()
        raise


def _build(config: BuildConfig, directory: BuildDirectory, path: Path, encoder: Encoder | None, quiet: bool) -> None:
    """Do the stages that the journal lacks, and rename the store."""
    # Chunks and tables
    if "text" not in directory.done:
        stage_chunks(directory.staged, config.sources, config.columns, config.chunker, limit=config.limit, quiet=quiet)
        directory.record(text=True)
    if "counts" not in directory.done:
        counts = write_tables(directory.staged, directory.store, config.split, config.min_chunks)
        directory.record(counts=counts)
    texts = ChunkTexts(directory.store / CHUNKS)

    # Vectors
    if config.vectors:
        vectors = _precomputed_vectors(config, directory, texts, encoder)
    else:
        vectors = _encoded_vectors(encoder or _fitted_lsa(config, directory, texts, quiet), texts)
    _write_vectors(directory, texts, vectors, config.dtype, quiet)

    # Manifest
    directory.record(complete=True)
    finish_store(
        directory.store,
        path,
        vectors.space,
        directory.done["counts"] | {"unknown_texts": directory.done["unknown_texts"]},
        origin="text",
        sources=list(config.sources),
        encoder=vectors.settings,
        chunker=config.chunker.to_dict(),
        min_chunks=config.min_chunks,
        split=config.split.to_dict(),
    )


@dataclass(frozen=True)
class _VectorSource:
    """Where the vectors of a store come from: an encoder or precomputed embeddings."""

    space: Space
    settings: dict[str, Any]
    """The encoder's entry in the manifest."""
    read_block: Callable[[int], NDArray[np.float32]]
    """Return the vectors of a block of rows."""
    count_unknown: Callable[[], int] = lambda: 0
    """Return how many texts without any known term were encoded so far."""


def _encoded_vectors(encoder: Encoder, texts: ChunkTexts) -> _VectorSource:
    return _VectorSource(
        encoder.space,
        encoder.settings,
        lambda block: encoder.encode(texts.read_block(block)),
        lambda: encoder.unknown_texts,
    )


def _fitted_lsa(config: BuildConfig, directory: BuildDirectory, texts: ChunkTexts, quiet: bool) -> LsaEncoder:
    """Fit lsa on the training documents and save it, or load it if that is done."""
    folder = directory.store / ENCODER
    if "fitted" not in directory.done:
        table = pq.read_table(directory.store / DOCUMENTS, columns=["split", "rows"])
        is_train_M = np.array(table["split"].to_pylist()) == "train"
        train_rows = np.flatnonzero(np.repeat(is_train_M, table["rows"].to_numpy()))
        # Fit on the training documents alone, on an evenly spaced sample if there are many.
        count = min(len(train_rows), MAX_FIT_TEXTS)
        sample = train_rows[np.arange(count) * len(train_rows) // count]
        with progress("fitting lsa", count, unit="chunks", quiet=quiet) as task:
            LsaEncoder.fit(texts.read(sample), config.dimensions).save(folder)
            task.advance(count)
        directory.record(fitted=True)
    return LsaEncoder.load(folder)


def _precomputed_vectors(
    config: BuildConfig, directory: BuildDirectory, texts: ChunkTexts, encoder: Encoder | None
) -> _VectorSource:
    """Align the precomputed embeddings with the rows, and compare a sample with the encoder if it is available."""
    embeddings = align_precomputed(
        directory.staged, config.vectors, config.sources, config.min_chunks, allow_extra_rows=config.limit is not None
    )
    space = Space(config.encoder, "", embeddings.dimensions)
    verified = "not verified: the encoder is not available here"
    if encoder is not None:
        count = min(_VERIFIED_TEXTS, len(embeddings))
        # Encode an evenly spaced sample of the texts again, and compare.
        rows = np.arange(count) * len(embeddings) // count
        verified = embeddings.verify_encoder(encoder, rows, list(texts.read(rows)))
        space = encoder.space
    settings = {"name": config.encoder, "precomputed": list(config.vectors), "verified": verified}
    return _VectorSource(space, settings, lambda block: embeddings.read(np.arange(*texts.blocks[block])))


def _write_vectors(
    directory: BuildDirectory, texts: ChunkTexts, vectors: _VectorSource, dtype: str, quiet: bool
) -> None:
    """Write vectors.npy block by block; each is on disk before the journal records it."""
    # Two encoders must never write into one file of vectors, so the journal names the one that started.
    encoder = {"space": str(vectors.space), **vectors.settings}
    if directory.done.setdefault("encoder", encoder) != encoder:
        raise StoreError(
            f"{directory.folder}: its vectors were made by {directory.done['encoder']}, but the encoder is now "
            f"{encoder}. Continue on the machine where the build started, or remove the folder."
        )
    rows = texts.blocks[-1][1]
    # Continue after the last block in the journal.
    finished, unknown = directory.done.get("blocks", 0), directory.done.get("unknown_texts", 0)
    remaining = rows - (texts.blocks[finished][0] if finished < len(texts.blocks) else rows)
    with (
        create_vectors(directory.store, rows, vectors.space.dimensions, dtype) as writer,
        progress(f"vectors of {vectors.space.encoder}", remaining, unit="chunks", quiet=quiet) as task,
    ):
        for block in range(finished, len(texts.blocks)):
            start, stop = texts.blocks[block]
            # Flush before the journal records the block: after a kill, no recorded block is missing.
            writer.write(np.arange(start, stop), _to_unit_length(vectors.read_block(block), start, dtype))
            writer.flush()
            directory.record(encoder=encoder, blocks=block + 1, unknown_texts=unknown + vectors.count_unknown())
            task.advance(stop - start)


def _to_unit_length(vectors_BD: NDArray[np.float32], first_row: int, dtype: str) -> NDArray[Any]:
    """Scale vectors to unit length and round them to `dtype`. Raises StoreError for a zero or non-finite vector."""
    lengths_B = np.linalg.norm(vectors_BD, axis=1)
    unusable = np.flatnonzero(~(np.isfinite(lengths_B) & (lengths_B > 0)))
    if len(unusable):
        raise StoreError(
            f"row {first_row + unusable[0]:,}: the encoder made a vector that is zero or not finite. "
            "Use --precision fp32, or another encoder."
        )
    rounded: NDArray[Any] = (vectors_BD / lengths_B[:, None]).astype(dtype)
    return rounded
