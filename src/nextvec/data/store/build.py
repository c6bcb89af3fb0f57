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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
from nextvec.data.store.build_counts import (
    describe_losses,
    describe_short_documents,
    describe_truncated_texts,
    final_counts,
    require_text,
)
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


def open_build_encoder(config: BuildConfig, engine: RayEngine | None = None) -> Encoder | None:
    """Open the encoder, before any text is read, so that a missing one is reported at once.

    Returns None for lsa, which is fitted later, and if precomputed embeddings make an unavailable encoder unnecessary.
    """
    if config.encoder == LSA:
        return None
    opening = _opening(config, engine)
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
        encoder = open_build_encoder(config, engine)
    except (InputError, ServerError):
        if is_new:
            directory.remove()
        raise
    with refusing_input(config, directory):
        prepare_blocks(config, directory, quiet, engine)
        texts = ChunkTexts(directory.encoded / CHUNKS)
        vectors = open_vectors(config, directory, texts, encoder)
        encoded = None
        # Precomputed embeddings are only copied, and a server has one client with one answer log.
        if engine is not None and not config.vectors and vectors.server is None:
            encoded = _encode_on_ray(config, directory, engine)
        blocks = missing_blocks(directory.encoded, texts)
        encode_blocks(directory, texts, vectors, blocks, config.dtype, quiet, encoded=encoded)
        finish_build(directory, path, vectors.space, vectors.settings, quiet)


@contextlib.contextmanager
def refusing_input(config: BuildConfig, directory: BuildDirectory) -> Iterator[None]:
    """Keep or remove the build directory if the block fails because of the input, a server or a fault."""
    try:
        yield
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


def prepare_blocks(
    config: BuildConfig, directory: BuildDirectory, quiet: bool, engine: RayEngine | None = None
) -> None:
    """Read and chunk the text, write the rows to encode, and fit the encoder, as far as the journal lacks them."""
    if "text" not in directory.done:
        staging = StagingJob(directory.staged, config.columns, config.chunker, config.limit)
        run = None if engine is None else partial(engine.stage_units, directory)
        stage_chunks(staging, config.sources, quiet=quiet, run=run)
        directory.record(text=True)
    if "selected" not in directory.done:
        require_known_ids(config.split, read_staged_ids(directory.staged))
        counts = write_rows(directory.staged, directory.encoded, config.split, config.min_chunks)
        require_text(config, counts)
        facts = {**describe_short_documents(config, counts), **describe_losses(config, counts)}
        directory.record(selected=counts, facts=facts)
    if config.encoder == LSA and "fitted" not in directory.done:
        _fit_lsa(config, directory, quiet)
        directory.record(fitted=True)


def open_vectors(
    config: BuildConfig, directory: BuildDirectory, texts: ChunkTexts, encoder: Encoder | None
) -> VectorSource:
    """Return what makes the vectors of the blocks, after comparing it with the encoder that started the build."""
    if config.vectors:
        vectors = _precomputed_vectors(config, directory, texts, encoder)
    else:
        vectors = encoded_vectors(encoder or LsaEncoder.load(directory.store / ENCODER), texts)
    return require_one_encoder(directory.encoded, vectors)


def finish_build(
    directory: BuildDirectory,
    path: Path,
    space: Space,
    settings: dict[str, Any],
    quiet: bool,
    remedy: Callable[[list[int]], str] = lambda blocks: "run the same command again",
) -> Store:
    """Write the files of the store from the encoded blocks, and rename the store to `path`.

    Everything else is in the journal, so that this needs neither the sources nor the encoder. `remedy` names the
    command that encodes damaged blocks again.
    """
    # The files of the store, without repeats
    arguments = directory.arguments
    if "finished" not in directory.done:
        texts = ChunkTexts(directory.encoded / CHUNKS)
        encoded = verify_blocks(directory.encoded, texts, space.dimensions, arguments["dtype"], remedy)
        finished = finish_rows(
            directory.encoded,
            directory.store,
            arguments["min_chunks"],
            near=arguments["drop_near_duplicates"],
            shard_bytes=arguments["shard_bytes"],
            quiet=quiet,
        )
        directory.record(finished=finished, encoded=encoded)

    # Manifest
    directory.record(complete=True)
    return finish_store(
        directory.store,
        path,
        space,
        final_counts(directory.done),
        origin="text",
        sources=list(arguments["sources"]),
        encoder=settings,
        chunker=arguments["chunker"],
        min_chunks=arguments["min_chunks"],
        split=arguments["split"],
        **directory.done["facts"],
        **describe_truncated_texts(settings.get("max_tokens"), directory.done["encoded"]),
    )


def _fit_lsa(config: BuildConfig, directory: BuildDirectory, quiet: bool) -> None:
    """Fit lsa on the training documents alone, on an evenly spaced sample if there are many, and save it."""
    train_rows = np.flatnonzero(RowTable.load(directory.encoded).splits == TRAIN)
    count = min(len(train_rows), MAX_FIT_TEXTS)
    sample = train_rows[np.arange(count) * len(train_rows) // count]
    texts = ChunkTexts(directory.encoded / CHUNKS)
    with progress("fitting lsa", count, unit="chunks", quiet=quiet) as task:
        LsaEncoder.fit(texts.read(sample), config.dimensions).save(directory.store / ENCODER)
        task.advance(count)


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


def encode_blocks(
    directory: BuildDirectory,
    texts: ChunkTexts,
    vectors: VectorSource,
    blocks: Sequence[int],
    dtype: str,
    quiet: bool,
    answers: str = ANSWERS,
    encoded: Iterator[int] | None = None,
) -> None:
    """Encode blocks here, or show the progress of `encoded`, which encodes them elsewhere and yields their numbers.

    The answers of a server are kept in the file `answers` until their block is complete.
    """
    rows = row_count(texts, blocks)
    # The blocks, and then the store's file: a disk that is too small is reported before the work starts.
    row_bytes = vectors.space.dimensions * np.dtype(dtype).itemsize
    if blocks:
        require_free_space(directory.encoded, (rows + texts.blocks[-1][1]) * row_bytes)
    with (
        progress(f"vectors of {vectors.space.encoder}", rows, unit="chunks", quiet=quiet) as task,
        keep_answers(vectors.server, directory.encoded / answers) as clear_answers,
    ):
        for block in encoded or (encode_block(directory.encoded, texts, block, vectors, dtype) for block in blocks):
            clear_answers()
            task.advance(row_count(texts, [block]))


def _encode_on_ray(config: BuildConfig, directory: BuildDirectory, engine: RayEngine) -> Iterator[int]:
    """Encode the missing blocks on a cluster, and yield their numbers."""
    opening, device = _opening(config, engine), config.device
    if config.encoder == LSA:
        opening, device = partial(LsaEncoder.load, (directory.store / ENCODER).resolve()), "cpu"
    return engine.encode_blocks(opening, directory, config.dtype, device)


def _opening(config: BuildConfig, engine: RayEngine | None) -> Callable[[], Encoder]:
    """Return the function that opens the encoder in this process or in a worker."""
    device = engine.device(config.device) if engine else config.device
    return partial(open_encoder, config.encoder, device=device, precision=config.precision)
