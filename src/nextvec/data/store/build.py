"""Build a store from text, in stages that survive a kill at any moment.

    build_store(BuildConfig(("articles.jsonl.gz",), encoder="minilm", split=SplitPlan(val=0.1)), "wiki")

The stages are: staged chunks, the rows to encode, the fitted encoder if there is one, the vectors in blocks of rows
(see blocks.py), the store's files without repeated rows, and the manifest. Each stage records finished work in the
journal of the build directory, and each block has a file of its own; a build that is started again with the same
configuration does the rest. The output of a stage depends on configuration and files alone, so an interrupted build
ends in the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from nextvec.core.console import progress
from nextvec.data.encoders import LSA, Encoder, open_encoder
from nextvec.data.encoders.lsa import MAX_FIT_TEXTS, LsaEncoder
from nextvec.data.encoders.remote import ANSWERS, keep_answers
from nextvec.data.encoders.remote_names import PREFIX, parse_name
from nextvec.data.id_lists import require_known_ids
from nextvec.data.space import Space
from nextvec.data.store import CHUNKS, ENCODER, ChunkTexts, Store, open_store
from nextvec.data.store.blocks import FOLDER as BLOCKS
from nextvec.data.store.blocks import encode_block, missing_blocks, row_count, verify_blocks
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.build_counts import describe_losses, describe_short_documents, final_counts, require_text
from nextvec.data.store.build_dir import BuildDirectory, open_build_directory
from nextvec.data.store.precomputed import align_precomputed, verify_encoder
from nextvec.data.store.ray_engine import RayEngine, RayOptions, ray_engine
from nextvec.data.store.rows import TRAIN, RowTable
from nextvec.data.store.staging import StagingJob, read_staged_ids, stage_chunks, staged_files
from nextvec.data.store.tables import finish_rows, write_rows
from nextvec.data.store.vector_source import VectorSource, encoded_vectors, require_one_encoder
from nextvec.data.store.writer import finish_store, require_free_space
from nextvec.errors import InputError, ServerError

_VERIFIED_TEXTS = 64
"""Number of texts that are encoded to verify that the named encoder made the precomputed embeddings."""


def build_store(
    config: BuildConfig,
    out: str | Path,
    *,
    restart: bool = False,
    quiet: bool = False,
    ray: RayOptions | None = None,
) -> Store:
    """Read text, encode its chunks, and write the store `out`.

    Chunks whose text or vector is that of another chunk are dropped and counted: the copy in train is kept, or else the
    first. A document ends at a dropped chunk, and another one of the same group begins after it. With precomputed
    embeddings nothing is encoded except a sample, to verify that the named encoder made them; if it is not available
    here, the manifest records that.

    A build that was killed continues when it is started again with the same configuration, and ends in the same bytes.
    A build that was refused starts again if configuration or files have changed, and so does any with `restart`. Raises
    a kind of InputError for text or vectors that cannot be used, OutputError if `out` exists or cannot be written, or
    if another build is writing it.

    With `ray`, the workers of a cluster encode, and the store has the same bytes. Raises the errors of `ray_engine`.
    """
    path = Path(out)
    with (
        ray_engine(ray) if ray else contextlib.nullcontext() as engine,
        open_build_directory(path, config.to_dict(), restart=restart) as directory,
    ):
        if not directory.is_finished:
            _build_or_clean_up(config, directory, path, quiet, engine)
        directory.remove()
    return open_store(path)


def _open_encoder(config: BuildConfig, directory: BuildDirectory, engine: RayEngine | None) -> Encoder | None:
    """Open the encoder, before any text is read, so that a missing one is reported at once.

    Returns None for lsa, which is fitted later, and if precomputed embeddings make an unavailable encoder unnecessary.
    """
    if config.encoder == LSA:
        return None
    opening = _opening(config, directory, engine)
    try:
        if engine is None or config.encoder.startswith(PREFIX):
            return opening()
        return engine.open_encoder(opening, config.device)
    except (InputError, ServerError):
        if config.vectors:
            return None
        raise


def _build_or_clean_up(
    config: BuildConfig, directory: BuildDirectory, path: Path, quiet: bool, engine: RayEngine | None
) -> None:
    """Build. If the input is refused, remove the build directory unless it contains work worth keeping."""
    # A new folder has nothing to keep if the encoder is missing, or a node cannot take part.
    is_new = not directory.done and not staged_files(directory.staged)
    try:
        if engine is not None:
            engine.check_nodes(directory.folder)
        encoder = _open_encoder(config, directory, engine)
    except (InputError, ServerError):
        if is_new:
            directory.remove()
        raise
    try:
        _build(config, directory, path, encoder, quiet, engine)
    except ServerError as error:
        # Nothing is wrong with the input. The work stays, as after a kill.
        raise ServerError(f"{error} To continue the build, run the same command again.") from error
    except InputError:
        # A refused build may be followed by one with other input: this folder must not be in its way. Keep it only for
        # the same command (a network may come back), if it contains staged chunks or encoded vectors.
        has_staged = "text" not in directory.done and staged_files(directory.staged)
        has_encoded = not config.vectors and any((directory.encoded / BLOCKS).glob("*.json"))
        if has_staged or has_encoded:
            directory.record(refused=True)
        else:
            directory.remove()
        raise
    except Exception:  # a fault of nextvec, perhaps because of the input
        directory.record(refused=True)
        raise


def _build(
    config: BuildConfig,
    directory: BuildDirectory,
    path: Path,
    encoder: Encoder | None,
    quiet: bool,
    engine: RayEngine | None,
) -> None:
    """Do the stages that the journal lacks, and rename the store."""
    # Chunks, and the rows to encode
    if "text" not in directory.done:
        staging = StagingJob(directory.staged, config.columns, config.chunker, config.limit)
        run = None if engine is None else partial(engine.stage_units, directory)
        stage_chunks(staging, config.sources, quiet=quiet, run=run)
        directory.record(text=True)
    if "selected" not in directory.done:
        require_known_ids(config.split, read_staged_ids(directory.staged))
        counts = write_rows(directory.staged, directory.encoded, config.split, config.min_chunks)
        require_text(config, counts)
        directory.record(selected=counts)
    texts = ChunkTexts(directory.encoded / CHUNKS)

    # Vectors
    if config.vectors:
        vectors = _precomputed_vectors(config, directory, texts, encoder)
    else:
        vectors = encoded_vectors(encoder or _fitted_lsa(config, directory, texts, quiet), texts)
    vectors = require_one_encoder(directory.encoded, vectors)
    _encode_blocks(config, directory, texts, vectors, quiet, engine)

    # The files of the store, without repeats
    if "finished" not in directory.done:
        unknown = verify_blocks(directory.encoded, texts, vectors.space.dimensions, config.dtype)
        finished = finish_rows(
            directory.encoded,
            directory.store,
            config.min_chunks,
            near=config.drop_near_duplicates,
            shard_bytes=config.shard_bytes,
            quiet=quiet,
        )
        directory.record(finished=finished, unknown_texts=unknown)

    # Manifest
    directory.record(complete=True)
    finish_store(
        directory.store,
        path,
        vectors.space,
        final_counts(directory.done),
        origin="text",
        sources=list(config.sources),
        encoder=vectors.settings,
        chunker=config.chunker.to_dict(),
        min_chunks=config.min_chunks,
        split=config.split.to_dict(),
        **describe_short_documents(config, directory.done["selected"]),
        **describe_losses(config, directory.done["selected"]),
    )


def _fitted_lsa(config: BuildConfig, directory: BuildDirectory, texts: ChunkTexts, quiet: bool) -> LsaEncoder:
    """Fit lsa on the training documents and save it, or load it if that is done."""
    folder = directory.store / ENCODER
    if "fitted" not in directory.done:
        train_rows = np.flatnonzero(RowTable.load(directory.encoded).splits == TRAIN)
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
) -> VectorSource:
    """Align the precomputed embeddings with the rows, and compare a sample with the encoder if it is available."""
    embeddings = align_precomputed(
        directory.staged,
        RowTable.load(directory.encoded),
        config.vectors,
        config.sources,
        allow_extra_rows=config.limit is not None,
    )
    is_remote = config.encoder.startswith(PREFIX)
    space = Space(parse_name(config.encoder)[1] if is_remote else config.encoder, "", embeddings.dimensions)
    verified = "not verified: the encoder is not available here"
    if encoder is not None:
        count = min(_VERIFIED_TEXTS, len(embeddings))
        # Encode an evenly spaced sample of the texts again, and compare.
        rows = np.arange(count) * len(embeddings) // count
        where = f"vectors {config.vectors[0]}"
        verified = verify_encoder(where, encoder, embeddings.read(rows), list(texts.read(rows)))
        space = encoder.space
    settings = {"name": config.encoder, "precomputed": list(config.vectors), "verified": verified}
    return VectorSource(space, settings, lambda block: embeddings.read(np.arange(*texts.blocks[block])))


def _encode_blocks(
    config: BuildConfig,
    directory: BuildDirectory,
    texts: ChunkTexts,
    vectors: VectorSource,
    quiet: bool,
    engine: RayEngine | None,
) -> None:
    """Encode the blocks that are missing."""
    blocks = missing_blocks(directory.encoded, texts)
    rows = row_count(texts, blocks)
    # The blocks, and then the store's file: a disk that is too small is reported before the work starts.
    row_bytes = vectors.space.dimensions * np.dtype(config.dtype).itemsize
    if "finished" not in directory.done:
        require_free_space(directory.encoded, (rows + texts.blocks[-1][1]) * row_bytes)
    # Precomputed embeddings are only copied, and a server has one client with one answer log.
    if engine is None or config.vectors or vectors.server is not None:
        encoded: Iterator[int] = (
            encode_block(directory.encoded, texts, block, vectors, config.dtype) for block in blocks
        )
    else:
        device = "cpu" if config.encoder == LSA else config.device
        encoded = engine.encode_blocks(_opening(config, directory, engine), directory, config.dtype, device)
    with (
        progress(f"vectors of {vectors.space.encoder}", rows, unit="chunks", quiet=quiet) as task,
        keep_answers(vectors.server, directory.encoded / ANSWERS) as clear_answers,
    ):
        for block in encoded:
            clear_answers()
            task.advance(row_count(texts, [block]))


def _opening(config: BuildConfig, directory: BuildDirectory, engine: RayEngine | None) -> Callable[[], Encoder]:
    """Return the function that opens the encoder in this process or in a worker."""
    if config.encoder == LSA:
        return partial(LsaEncoder.load, (directory.store / ENCODER).resolve())
    device = engine.device(config.device) if engine else config.device
    return partial(open_encoder, config.encoder, device=device, precision=config.precision)
