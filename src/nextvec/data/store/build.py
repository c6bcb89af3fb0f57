"""Building a store: from text to vectors, in stages that a kill at any moment can't harm.

    build_store(["articles.jsonl.gz"], "wiki", encoder="minilm", split=SplitPlan(val=0.1))

Stages: the text in parts (parts.py), the tables (tables.py), the fitted encoder where there is one, the vectors in
blocks of rows, the manifest. Each notes in the journal of the worksite what is done, and does the rest when the build
is started again with the same arguments. What a stage writes depends on the arguments and the files alone, so that an
interrupted build ends in the same bytes as an unbroken one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.data.chunking import Chunker
from nextvec.data.documents import Columns
from nextvec.data.encoders import LSA, PRECISIONS, Encoder, full_name, open_encoder
from nextvec.data.encoders.lsa import MAX_FIT_TEXTS, LsaEncoder
from nextvec.data.space import Space
from nextvec.data.splits import SplitPlan
from nextvec.data.store import CHUNKS, DOCUMENTS, ENCODER, Store, open_store
from nextvec.data.store.build_dir import Worksite, stamp_files, worksite
from nextvec.data.store.precomputed import line_up, open_given
from nextvec.data.store.staging import Texts, part_files, write_parts, write_tables
from nextvec.data.store.writer import create_vectors, finish_store
from nextvec.errors import InputError, StoreError, did_you_mean

_DTYPES = ("float16", "float32")
_SAMPLE = 64
"""Texts that are encoded again to see whether given vectors are of the encoder that is named."""
_WHOLE_PARAGRAPHS = 2**31 - 1


def build_store(
    sources: Sequence[str],
    out: str | Path,
    *,
    encoder: str = "lsa",
    split: SplitPlan = SplitPlan(),
    chunker: Chunker = Chunker(),
    columns: Columns = Columns(),
    dimensions: int = 768,
    vectors: Sequence[str] = (),
    dtype: str = "float16",
    min_chunks: int = 1,
    limit: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> Store:
    """Read sources of text (see `corpus.SOURCES`), encode their chunks, and put the store at `out`.

    Exact repeats of a chunk and documents with fewer than `min_chunks` chunks are dropped and counted. `dimensions` is
    D of the lsa encoder, which is fitted on the training documents alone; `limit` is the most documents of each source.

    With `vectors`, .npy files of vectors made before (one file for each source, row r its r-th paragraph), chunks are
    whole paragraphs of any length and nothing is encoded but a sample, to see that `encoder` did make them; where it
    can't be opened here, the manifest says that this was not verified.

    A build that was killed goes on when it is started again with the same arguments, and ends in the same bytes.
    Raises InputError (of one kind or another) for text, vectors or arguments that can't be used, OutputError if `out`
    exists or can't be written, or if another build is at work on it.
    """
    job = _Job(
        tuple([sources] if isinstance(sources, str) else sources), full_name(encoder), split, chunker, columns,
        dimensions, tuple([vectors] if isinstance(vectors, str) else vectors), dtype, min_chunks, limit, device,
        precision,
    )  # fmt: skip
    path = Path(out)
    with worksite(path, job.arguments()) as work:
        if not work.is_finished:
            _build_or_clear(job, work, path, quiet)
        work.remove()
    return open_store(path)


@dataclass(frozen=True)
class _Job:
    """The arguments of a build, checked; see `build_store`."""

    sources: tuple[str, ...]
    encoder: str
    split: SplitPlan
    chunker: Chunker
    columns: Columns
    dimensions: int
    vectors: tuple[str, ...]
    dtype: str
    min_chunks: int
    limit: int | None
    device: str
    precision: str

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("no source of text was named; see 'nextvec data build --help' for what can be read")
        for name, value, known in (("dtype", self.dtype, _DTYPES), ("precision", self.precision, PRECISIONS)):
            if value not in known:
                raise InputError(f"{name} '{value}' is unknown.{did_you_mean(value, known)}")
        for name in ("dimensions", "min_chunks", "limit"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} is {number}; it must be at least 1")
        if self.vectors:
            self._check_vectors()

    def _check_vectors(self) -> None:
        if self.encoder == LSA:
            raise InputError("given vectors can't be of the encoder lsa: name the encoder that made them")
        if self.chunker.unit != "paragraph":
            raise InputError("given vectors are one a paragraph: the chunk unit must be 'paragraph'")
        if len(self.vectors) != len(self.sources):
            raise InputError(
                f"{len(self.vectors)} files of vectors for {len(self.sources)} sources; give one for each, in order"
            )
        open_given(self.vectors)
        whole = Chunker("paragraph", 0, _WHOLE_PARAGRAPHS, self.chunker.language)
        object.__setattr__(self, "chunker", whole)

    def arguments(self) -> dict[str, Any]:
        """Plain values that decide every byte of the store, the state of the source files among them."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {
            "split": self.split.to_dict(),
            "val ids": _hash_ids(self.split.val_ids),
            "ood ids": _hash_ids(self.split.ood_ids),
            "chunker": self.chunker.to_dict(),
            "columns": dataclasses.asdict(self.columns),
            "files": stamp_files([*self.sources, *self.vectors]),
            "nextvec": version("nextvec"),
            "sentencex": version("sentencex"),  # another version may cut the rest of the text differently
        }


def _hash_ids(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()


def _open_encoder(job: _Job) -> Encoder | None:
    """The encoder, opened before the text is read so that a missing one is said at once; None if there is none yet.

    With given vectors an encoder that can't be opened here is no error.
    """
    if job.encoder == LSA:
        return None
    try:
        return open_encoder(job.encoder, device=job.device, precision=job.precision)
    except InputError:
        if job.vectors:
            return None
        raise


def _build_or_clear(job: _Job, work: Worksite, path: Path, quiet: bool) -> None:
    """Build; where bad input ends that, leave nothing in the way of better arguments, and nothing that cost much."""
    is_new = not work.done and not part_files(work.parts)
    try:
        encoder = _open_encoder(job)
    except InputError:
        if is_new:
            work.remove()
        raise
    try:
        _build(job, work, path, encoder, quiet)
    except InputError:
        # Kept is what an equal start could use: parts (a network may come back), and vectors that took an encoder.
        reading = "text" not in work.done and part_files(work.parts)
        encoding = "blocks" in work.done and not job.vectors
        if not (reading or encoding):
            work.remove()
        raise


def _build(job: _Job, work: Worksite, path: Path, encoder: Encoder | None, quiet: bool) -> None:
    """Do the stages that the journal does not have yet, and give the store its name."""
    if "text" not in work.done:
        write_parts(work.parts, job.sources, job.columns, job.chunker, limit=job.limit, quiet=quiet)
        work.note(text=True)
    if "counts" not in work.done:
        work.note(counts=write_tables(work.parts, work.store, job.split, job.min_chunks))
    texts = Texts(work.store / CHUNKS)
    if job.vectors:
        vectors = _given_vectors(job, work, texts, encoder)
    else:
        vectors = _encoded_vectors(encoder or _fitted_lsa(job, work, texts, quiet), texts)
    _write_vectors(work, texts, vectors, job.dtype, quiet)
    work.note(complete=True)
    counts = work.done["counts"] | {"unknown_texts": work.done["unknown_texts"]}
    finish_store(
        work.store, path, vectors.space, counts, origin="text", sources=list(job.sources), encoder=vectors.settings,
        chunker=job.chunker.to_dict(), min_chunks=job.min_chunks, split=job.split.to_dict(),
    )  # fmt: skip


@dataclass(frozen=True)
class _Vectors:
    """Where the vectors of a store come from."""

    space: Space
    settings: dict[str, Any]
    """What the manifest says of the encoder."""
    block: Callable[[int], NDArray[np.float32]]
    """The vectors of the rows of a block."""
    unknown_texts: Callable[[], int] = lambda: 0
    """How many texts that held nothing known were met so far."""


def _encoded_vectors(encoder: Encoder, texts: Texts) -> _Vectors:
    return _Vectors(
        encoder.space, encoder.settings, lambda block: encoder.encode(texts.read_block(block)),
        lambda: encoder.unknown_texts,
    )  # fmt: skip


def _fitted_lsa(job: _Job, work: Worksite, texts: Texts, quiet: bool) -> LsaEncoder:
    """The store's own encoder: fitted on its training documents and saved, or loaded if that is done."""
    import pyarrow.parquet as pq

    folder = work.store / ENCODER
    if "fitted" not in work.done:
        table = pq.read_table(work.store / DOCUMENTS, columns=["split", "rows"])
        is_train_M = np.array(table["split"].to_pylist()) == "train"
        train_rows = np.flatnonzero(np.repeat(is_train_M, table["rows"].to_numpy()))
        count = min(len(train_rows), MAX_FIT_TEXTS)
        sample = train_rows[np.arange(count) * len(train_rows) // count]
        with progress("fitting lsa", count, unit="chunks", quiet=quiet) as task:
            LsaEncoder.fit(texts.read(sample), job.dimensions).save(folder)
            task.advance(count)
        work.note(fitted=True)
    return LsaEncoder.load(folder)


def _given_vectors(job: _Job, work: Worksite, texts: Texts, encoder: Encoder | None) -> _Vectors:
    """The given vectors, lined up with the rows of the store and compared with the encoder where it is at hand."""
    given = line_up(work.parts, job.vectors, job.sources, job.min_chunks, may_go_on=job.limit is not None)
    space, verified = Space(job.encoder, "", given.dimensions), "not verified: the encoder can't be opened here"
    if encoder is not None:
        count = min(_SAMPLE, len(given))
        rows = np.arange(count) * len(given) // count
        verified = given.require_encoder(encoder, rows, list(texts.read(rows)))
        space = encoder.space
    settings = {"name": job.encoder, "given_vectors": list(job.vectors), "verified": verified}
    return _Vectors(space, settings, lambda block: given.rows(*texts.blocks[block]))


def _write_vectors(work: Worksite, texts: Texts, vectors: _Vectors, dtype: str, quiet: bool) -> None:
    """Write vectors.npy block by block, each on disk before the journal says so."""
    maker = {"space": str(vectors.space), **vectors.settings}
    if work.done.setdefault("maker", maker) != maker:
        raise StoreError(
            f"{work.folder}: its vectors are by {work.done['maker']}, here they would be by {maker}; "
            "go on where the build was begun, or remove the folder"
        )
    rows = texts.blocks[-1][1]
    finished, unknown = work.done.get("blocks", 0), work.done.get("unknown_texts", 0)
    left = rows - (texts.blocks[finished][0] if finished < len(texts.blocks) else rows)
    with (
        create_vectors(work.store, rows, vectors.space.dimensions, dtype) as writer,
        progress(f"vectors of {vectors.space.encoder}", left, unit="chunks", quiet=quiet) as task,
    ):
        for block in range(finished, len(texts.blocks)):
            start, stop = texts.blocks[block]
            writer.write(np.arange(start, stop), _rounded(vectors.block(block), start, dtype))
            writer.flush()
            work.note(maker=maker, blocks=block + 1, unknown_texts=unknown + vectors.unknown_texts())
            task.advance(stop - start)


def _rounded(vectors_BD: NDArray[np.float32], first_row: int, dtype: str) -> NDArray[Any]:
    """Unit vectors in the store's number format. Raises StoreError with the row of one that has no direction."""
    lengths_B = np.linalg.norm(vectors_BD, axis=1)
    broken = np.flatnonzero(~(np.isfinite(lengths_B) & (lengths_B > 0)))
    if len(broken):
        raise StoreError(f"row {first_row + broken[0]:,}: the encoder made a vector that is zero or not finite")
    rounded: NDArray[Any] = (vectors_BD / lengths_B[:, None]).astype(dtype)
    return rounded
