"""Commands on vector stores: build, synthesize and check them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import (
    Data,
    Device,
    EncoderName,
    Engine,
    File,
    Folder,
    Names,
    Paths,
    RayAddress,
    as_texts,
    command,
)
from nextvec.data.chunking import MAX_CHARS, Chunker
from nextvec.data.documents import Columns
from nextvec.data.splits import SplitPlan
from nextvec.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nextvec.data.checks import CheckReport
    from nextvec.data.store import Store
    from nextvec.data.store.slices import SliceResult


@command(by_name=["out"])
def data_build(
    sources: Paths,
    out: Folder,
    *,
    encoder: EncoderName = "lsa",
    val: float = 0.1,
    ood: float = 0.0,
    val_source: Names = (),
    ood_source: Names = (),
    val_list: File = "",
    ood_list: File = "",
    val_range: Annotated[tuple[str, str] | None, Parameter(metavar="FIRST LAST")] = None,
    ood_range: Annotated[tuple[str, str] | None, Parameter(metavar="FIRST LAST")] = None,
    allow_unknown_ids: bool = False,
    unit: Literal["paragraph", "sentences"] = "paragraph",
    min_chars: int = 40,
    max_chars: int | None = None,
    paragraphs: Literal["blank-lines", "lines"] = "blank-lines",
    language: Annotated[str, Parameter(metavar="CODE")] = "en",
    min_chunks: int = 1,
    drop_near_duplicates: bool = False,
    columns: Annotated[Names, Parameter(metavar="FIELD=NAME...")] = (),
    group_by: Annotated[str, Parameter(metavar="COLUMN")] = "",
    order_by: Annotated[str, Parameter(metavar="COLUMN")] = "",
    vectors: Paths = (),
    dimensions: int = 768,
    allow_lost_rows: float = 0.01,
    dtype: Literal["float16", "float32"] = "float16",
    limit: int | None = None,
    device: Device = "auto",
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto",
    shard_bytes: int = 2**30,
    engine: Engine = "local",
    address: RayAddress = "",
    num_workers: int | None = None,
    shard: Annotated[str, Parameter(metavar="SLICE/SLICES")] = "",
    restart: bool = False,
    quiet: bool = False,
) -> Store | SliceResult:
    """Build a vector store from text. To continue an interrupted build, run the same command again.

    Chunks that repeat another one, by their text or their vector, are dropped and counted; the copy in train is kept.
    A document ends at a dropped chunk, and another one begins after it, so that no window crosses the gap.

    Args:
        sources: Files of text (.txt, .md, .html), tables (.jsonl, .json, .csv, .tsv, .parquet), folders of them, a
            Wikipedia dump (.xml.bz2), hf:NAME, or the documentation of Python (builtin:python-docs, or only
            builtin:python-docs/stdlib). Files may be compressed (.gz, .bz2, .xz, .zst).
        out: Folder of the new store.
        encoder: lsa (built in), minilm, gtr-t5-base, any sentence-transformers model by name or folder, or a model
            behind a server, openai:URL#MODEL.
        val: Fraction of the documents assigned to val, by a hash of their ids.
        ood: Fraction of the documents assigned to ood, by a hash of their ids.
        val_source: Sources whose documents are all assigned to val.
        ood_source: Sources whose documents are all assigned to ood.
        val_list: Text file with the ids of the val documents, one per line.
        ood_list: Text file with the ids of the ood documents, one per line.
        val_range: First and last id of a range of val documents.
        ood_range: First and last id of a range of ood documents.
        allow_unknown_ids: Accept lists that contain ids of no document. Default: refuse them.
        unit: Unit of a chunk: a paragraph, or sentences packed up to max_chars.
        min_chars: Drop and count chunks with fewer characters.
        max_chars: Split longer paragraphs at sentence boundaries. Default: 2000, or 200 with --unit sentences.
        paragraphs: What separates paragraphs. lines: each line is a paragraph.
        language: Language of the text, which sets the rules for sentence boundaries.
        min_chunks: Drop and count documents with fewer chunks.
        drop_near_duplicates: Also drop rows of val and ood that have a near duplicate (cosine above 0.98) in train.
        columns: Names of your fields if they differ, such as title=headline group=book.
        group_by: Column with the id of the document that a row belongs to, if each row is one chunk or page.
        order_by: Column that sorts the rows of a document. Default: the order of the file.
        vectors: .npy files of precomputed embeddings: one file per source, one row per paragraph.
        dimensions: D of the lsa encoder.
        allow_lost_rows: Largest share of the documents that may have no usable text; more is an error with its reasons.
        dtype: Number format of the stored vectors.
        limit: Read at most this many documents of each source.
        device: Device of a neural encoder.
        precision: Precision of its matrix products. auto is bf16 if the device multiplies it fast, else fp32. int8 is
            faster on CPUs, and costs some quality; its packages are in the extra minilm.
        shard_bytes: Maximum size of a file of vectors. A larger store gets several files (shards).
        engine: What encodes: this process, or a Ray cluster, with the same result.
        address: Address of the Ray cluster, such as 'auto' or HOST:6379. Default: the environment variable RAY_ADDRESS,
            or else a cluster on this machine alone.
        num_workers: Maximum number of Ray processes that encode. Default: one per GPU, or per CPU without GPUs.
        shard: Encode only this slice of the chunks, such as 3/16; 'nextvec data merge' then makes the store. 0/16 only
            reads the text, for all slices.
        restart: Discard the work of an interrupted build, and start again.
        quiet: Show no progress.
    """
    from nextvec.data.id_lists import read_id_list
    from nextvec.data.store.build import build_store
    from nextvec.data.store.build_config import BuildConfig
    from nextvec.data.store.ray_engine import ray_options

    ray = ray_options(engine, address, num_workers)
    ids = read_id_list(val_list), read_id_list(ood_list)
    sources_of_splits = as_texts(val_source), as_texts(ood_source)
    plan = SplitPlan(val, ood, *sources_of_splits, *ids, val_range, ood_range, allow_unknown_ids)
    config = BuildConfig(
        sources=as_texts(sources),
        encoder=str(encoder),
        split=plan,
        chunker=Chunker(unit, min_chars, MAX_CHARS[unit] if max_chars is None else max_chars, paragraphs, language),
        columns=_columns(as_texts(columns), group_by, order_by),
        dimensions=dimensions,
        vectors=as_texts(vectors),
        dtype=dtype,
        min_chunks=min_chunks,
        drop_near_duplicates=drop_near_duplicates,
        allow_lost_rows=allow_lost_rows,
        limit=limit,
        device=device,
        precision=precision,
        shard_bytes=shard_bytes,
    )
    if shard:
        from nextvec.data.store.slices import Slice, build_slice

        if ray is not None:
            raise InputError("shard: a Ray cluster divides the work by itself. Leave out --shard or --engine ray.")
        return build_slice(config, str(out), Slice.parse(shard), restart=restart, quiet=quiet)
    return build_store(config, str(out), restart=restart, quiet=quiet, ray=ray)


@command()
def data_merge(out: Folder, *, quiet: bool = False) -> Store:
    """Make the store whose slices 'nextvec data build --shard' has encoded. It needs neither the text nor the encoder.

    Every block of vectors is compared with its checksum and with the number of its texts. Missing slices are named.

    Args:
        out: Folder of the new store, as the slices named it.
        quiet: Show no progress.
    """
    from nextvec.data.store.slices import merge_slices

    return merge_slices(str(out), quiet=quiet)


@command()
def data_synth(
    out: Folder,
    *,
    preset: Annotated[str, Parameter(metavar="{small,linear,production,production-584k}")] = "small",
    scale: float = 1.0,
    seed: int = 0,
    documents: int | None = None,
    vectors: int | None = None,
    dimensions: int | None = None,
    coherence: Annotated[tuple[float, ...], Parameter(metavar="COSINE...")] = (),
    forward: float | None = None,
    spectrum: float | None = None,
    topics: int | None = None,
    ood_coherence: Annotated[tuple[float, ...], Parameter(metavar="COSINE...")] = (),
    quiet: bool = False,
) -> Store:
    """Generate a store of synthetic vectors. Its manifest contains the highest reachable cosine.

    A preset sets every value; the other options override single values.

    Args:
        out: Folder of the new store.
        preset: Preset. production and production-584k have the size and statistics of the production sets.
        scale: Fraction of the preset's documents.
        seed: Seed of all random numbers.
        documents: Number of train and val documents.
        vectors: Exact number of vectors in these documents.
        dimensions: D, an even number.
        coherence: Mean cosine of vectors at distance 1, 2, … in a document. A single value is extrapolated.
        forward: Forward signal: rotation from one vector to the next, in radians. 0 has no direction.
        spectrum: Exponent of the variances: direction p has variance 1/p^spectrum.
        topics: Number of directions of a document's topic, an even number.
        ood_coherence: The same as coherence, for ood documents.
        quiet: Show no progress.
    """
    from nextvec.data.synthetic.generate import PRESETS, scaled, synthesize

    if preset not in PRESETS:
        raise InputError(f"preset '{preset}' is unknown.{did_you_mean(preset, PRESETS)}")
    # Options that are not set keep the values of the preset.
    changes: dict[str, Any] = {
        "documents": documents,
        "vectors": vectors,
        "dimensions": dimensions,
        "forward": forward,
        "spectrum": spectrum,
        "topics": topics,
        "coherence": tuple(coherence) or None,
        "ood_coherence": tuple(ood_coherence) or None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if "documents" in changes or "vectors" in changes:
        changes["windows"] = None  # a preset's exact number of windows no longer fits
    return synthesize(Path(out), replace(scaled(PRESETS[preset], scale), seed=seed, **changes), quiet=quiet)


@command()
def data_check(
    store: Data,
    *,
    ood_data: Data = "",
    encoder: EncoderName = "",
    context: int = 5,
    min_context: int | None = None,
    deep: bool = False,
    quiet: bool = False,
) -> CheckReport:
    """Check a store before training: broken vectors, duplicates, leaks, shuffled documents, mismatched splits.

    Args:
        store: A store by its folder or URL, or an .npz file of windows.
        ood_data: A store or an .npz file of ood windows. Default: the store's ood split.
        encoder: Check that this encoder embeds the probe texts as the store's encoder did (lsa: the store's encoder).
        context: S, the context length to train with.
        min_context: Minimum number of vectors before a target. Default: 5, or the context if that is shorter.
        deep: Also compare every file with its checksum.
        quiet: Show no progress.
    """
    from nextvec.data.dataset import check_data

    return check_data(
        str(store),
        str(ood_data),
        context=context,
        min_context=min_context,
        encoder=str(encoder),
        deep=deep,
        quiet=quiet,
    )


def _columns(assignments: Sequence[str], group_by: str, order_by: str) -> Columns:
    """Return the `Columns` that ``field=name`` assignments and the two options describe."""
    # The names on the left are the fields of Columns; those on the right are the user's.
    known = {field.name for field in fields(Columns)} - {"group_by", "order_by"}
    names: dict[str, str] = {}
    for assignment in assignments:
        field, equals, name = assignment.partition("=")
        if not equals or not name:
            raise InputError(f"column '{assignment}': write it as field=name, such as title=headline")
        if field not in known:
            raise InputError(f"column '{field}' is unknown.{did_you_mean(field, known)}")
        if names.setdefault(field, name) != name:
            raise InputError(f"column '{field}': has two names, '{names[field]}' and '{name}'. Keep one.")
    return Columns(**names, group_by=group_by, order_by=order_by)
