"""From text to a store, in and out of other formats, and a look over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.data.checks import CheckReport
    from nextvec.data.store import Store


def data_build(
    sources: Positional[tuple[str, ...]],
    out: str,
    *,
    encoder: str = "lsa",
    val: float = 0.1,
    ood: float = 0.0,
    val_source: tuple[str, ...] = (),
    ood_source: tuple[str, ...] = (),
    val_list: str = "",
    ood_list: str = "",
    val_range: tuple[str, str] | None = None,
    ood_range: tuple[str, str] | None = None,
    unit: Literal["paragraph", "sentences"] = "paragraph",
    min_chars: int = 40,
    max_chars: int = 2000,
    language: str = "en",
    min_chunks: int = 1,
    columns: tuple[str, ...] = (),
    vectors: tuple[str, ...] = (),
    dimensions: int = 768,
    dtype: Literal["float16", "float32"] = "float16",
    limit: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    quiet: bool = False,
) -> Store:
    """Make a vector store from text. A build that was killed goes on where it was when the command is run again.

    Args:
        sources: Folders of .txt/.md files, .jsonl(.gz), .parquet, a Wikipedia dump (.xml.bz2), hf:NAME, or
            builtin:python-docs.
        out: Folder of the new store.
        encoder: lsa (built in), minilm, gtr-t5-base, or any sentence-transformers model by name or folder.
        val: Share of the documents for validation, by a hash of their ids.
        ood: Share of the documents for ood, likewise.
        val_source: Sources whose documents are all val.
        ood_source: Sources whose documents are all ood.
        val_list: Text file with one document id a line: these are val.
        ood_list: Text file with one document id a line: these are ood.
        val_range: First and last id of a range that is val.
        ood_range: First and last id of a range that is ood.
        unit: What a chunk is: a paragraph, or sentences packed up to max_chars.
        min_chars: Shorter chunks are dropped and counted.
        max_chars: Longer paragraphs are divided at sentences.
        language: Language of the text, for finding sentences.
        min_chunks: Documents with fewer chunks are left out and counted.
        columns: Names of fields where they differ, such as title=headline group=book.
        vectors: .npy files of vectors made before, one for each source, a row for each paragraph.
        dimensions: D of the lsa encoder.
        dtype: Number format of the stored vectors.
        limit: Read at most that many documents of each source.
        device: Where a neural encoder runs: auto, cpu, cuda, mps.
        precision: Format of its matrix products.
        quiet: Show no progress.
    """
    from nextvec.data.chunking import Chunker
    from nextvec.data.splits import SplitPlan
    from nextvec.data.store.build import build_store

    plan = SplitPlan(
        val, ood, tuple(val_source), tuple(ood_source), _read_ids(val_list), _read_ids(ood_list), val_range, ood_range
    )
    return build_store(
        sources, out, encoder=encoder, split=plan, chunker=Chunker(unit, min_chars, max_chars, language),
        columns=_columns(columns), dimensions=dimensions, vectors=vectors, dtype=dtype, min_chunks=min_chunks,
        limit=limit, device=device, precision=precision, quiet=quiet,
    )  # fmt: skip


def data_import(
    train: Positional[str],
    out: str,
    *,
    val_file: str = "",
    ood_file: str = "",
    val: float = 0.1,
    documents: str = "",
    encoder: str = "unknown",
    dtype: Literal["keep", "float16", "float32"] = "keep",
    allow_shared: bool = False,
    quiet: bool = False,
) -> Store:
    """Make a vector store from .npz files of windows (context_sequences, target_vectors).

    Windows that share a vector are linked: vectors are stored once, and no split can leak.

    Args:
        train: The .npz file of the training windows.
        out: Folder of the new store.
        val_file: A .npz file whose windows are all val; left out, a share of the train file's documents is.
        ood_file: A .npz file whose windows are all ood.
        val: Share of the train file's documents that become val where there is no val_file.
        documents: .npy file with one integer a window of the train file: windows of other documents are never linked.
        encoder: What made the vectors, if it is known.
        dtype: Number format of the stored vectors.
        allow_shared: Import although files share vectors, which is a leak between splits.
        quiet: Show no progress.
    """
    from nextvec.data.npz.convert import import_npz

    files = {"train": train, "val": val_file, "ood": ood_file}
    return import_npz(
        {split: Path(file) for split, file in files.items() if file}, Path(out), val=val,
        documents=Path(documents) if documents else None, dtype=None if dtype == "keep" else dtype, encoder=encoder,
        allow_shared=allow_shared, quiet=quiet,
    )  # fmt: skip


def data_export(
    store: Positional[str],
    out: str,
    *,
    split: Literal["train", "val", "ood"] = "train",
    context: int = 5,
    quiet: bool = False,
) -> Path:
    """Write the windows of a split as an .npz file for other tools (context_sequences, target_vectors, article_index).

    Args:
        store: Folder of the store.
        out: The .npz file to write.
        split: Which windows.
        context: S, vectors before each target.
        quiet: Show no progress.
    """
    from nextvec.data.npz.convert import export_npz
    from nextvec.data.store import open_store

    return export_npz(open_store(store), split, Path(out), context, quiet=quiet)


def data_synth(
    out: Positional[str],
    *,
    preset: str = "small",
    scale: float = 1.0,
    seed: int = 0,
    documents: int | None = None,
    vectors: int | None = None,
    dimensions: int | None = None,
    coherence: tuple[float, ...] = (),
    forward: float | None = None,
    spectrum: float | None = None,
    topics: int | None = None,
    ood_coherence: tuple[float, ...] = (),
    quiet: bool = False,
) -> Store:
    """Make a store of synthetic vectors whose best reachable cosine is known (it stands in the manifest).

    A preset gives every figure; the other arguments change single ones.

    Args:
        out: Folder of the new store.
        preset: small, linear, production (the production set's size and statistics) or production-584k.
        scale: Share of the preset's documents.
        seed: Decides every number.
        documents: Documents of train and val together.
        vectors: Vectors of these documents, exactly.
        dimensions: D; even.
        coherence: Mean cosine of vectors at distance 1, 2, … in a document; one number is continued in a natural way.
        forward: Forward signal: the angle in radians by which coordinates turn from vector to vector; 0 has none.
        spectrum: Variances fall with the rank p of a direction as 1/p^spectrum.
        topics: Directions that a document's topic is made of; even.
        ood_coherence: The same as coherence, for the ood part.
        quiet: Show no progress.
    """
    from dataclasses import replace

    from nextvec.data.synthetic.generate import PRESETS, scaled, synthesise
    from nextvec.errors import InputError, did_you_mean

    if preset not in PRESETS:
        raise InputError(f"preset '{preset}' is unknown.{did_you_mean(preset, PRESETS)}")
    changes: dict[str, Any] = {
        "documents": documents, "vectors": vectors, "dimensions": dimensions, "forward": forward, "spectrum": spectrum,
        "topics": topics, "coherence": tuple(coherence) or None, "ood_coherence": tuple(ood_coherence) or None,
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value is not None}
    if "documents" in changes or "vectors" in changes:
        changes["windows"] = None  # a preset's exact number of windows no longer fits
    return synthesise(Path(out), replace(scaled(PRESETS[preset], scale), seed=seed, **changes), quiet=quiet)


def data_check(
    store: Positional[str],
    *,
    ood_data: str = "",
    encoder: str = "",
    context: int = 5,
    min_context: int | None = None,
    deep: bool = False,
    quiet: bool = False,
) -> CheckReport:
    """Look a store over before training: broken vectors, repeats, leaks, reversed or shuffled documents, unlike splits.

    Args:
        store: A store or an .npz file of windows.
        ood_data: A store or an .npz file of windows that is the ood set; left out, the store's own ood split.
        encoder: An encoder at hand (lsa: the store's own); see whether it gives the probe texts the store's vectors.
        context: S, the context length that will be trained.
        min_context: Fewest vectors before a target; left out, 5 or the context, whichever is less.
        deep: Read every file first, and compare it with the checksum that was kept when it was written.
        quiet: Show no progress.
    """
    from dataclasses import replace

    from nextvec.data.dataset import open_dataset, verify_data
    from nextvec.recipe import DataRecipe

    data = DataRecipe(store=store, ood=ood_data, context=context, min_context=min_context)
    verified = verify_data(data) if deep else ()
    report = open_dataset(data, quiet=quiet).check(data.context, data.least_context, encoder)
    return replace(report, findings=(*verified, *report.findings))


def _read_ids(path: str) -> frozenset[str]:
    from nextvec.errors import InputError

    if not path:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"list {path}: cannot be read ({error}); give a text file with one document id a line"
        ) from error
    return frozenset(line.strip() for line in lines if line.strip())


def _columns(assignments: Sequence[str]) -> Any:
    """Columns from ``field=name`` words."""
    from dataclasses import fields

    from nextvec.data.documents import Columns
    from nextvec.errors import InputError, did_you_mean

    known = {field.name for field in fields(Columns)}
    names: dict[str, str] = {}
    for assignment in assignments:
        field, equals, name = assignment.partition("=")
        if not equals:
            raise InputError(f"column '{assignment}': write it as field=name, such as title=headline")
        if field not in known:
            raise InputError(f"column '{field}' is unknown.{did_you_mean(field, known)}")
        names[field] = name
    return Columns(**names)
