"""Commands that exchange stores with other tools and machines: import, export, copy, and the cache of copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import Data, File, Folder, Names, as_texts, command
from nextvec.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nextvec.data.store import Store
    from nextvec.data.store.cached_stores import CachedStores
    from nextvec.data.store.copies import CopiedStore

NPZ = ".npz"
FORMATS = (NPZ, ".parquet", ".lance")
"""Suffixes of exports."""
Split = Literal["train", "val", "ood"]


@command(by_name=["out"])
def data_import(
    train: File,
    out: Folder,
    *,
    val_file: File = "",
    ood_file: File = "",
    val: float = 0.1,
    columns: Annotated[Names, Parameter(metavar="ROLE=NAME...")] = (),
    encoder: Annotated[str, Parameter(metavar="ENCODER")] = "unknown",
    dtype: Literal["keep", "float16", "float32"] = "keep",
    min_chunks: int | None = None,
    allow_lost_rows: float | None = None,
    documents: File = "",
    allow_shared: bool = False,
    quiet: bool = False,
) -> Store:
    """Import vectors of another tool as a store: a table with one vector per row, or an .npz file of windows.

    A table is a .parquet file, a folder of them or a pattern, a .lance table, or hf:NAME. Its rows are sorted by
    document and position; nothing is encoded. Rows that cannot be used are counted by reason, and losing more than 1 %
    is an error. A table that 'nextvec data export' wrote gives back the same store.

    Windows (context_sequences, target_vectors) that share a vector are linked into one document: vectors are stored
    once, and no split can leak. Windows across borders of documents are left out.

    Args:
        train: The table, or the .npz file of the training windows.
        out: Folder of the new store.
        val_file: Table or .npz file of val. Default: the table's column split, or a fraction of the documents.
        ood_file: Table or .npz file of ood.
        val: Fraction of the documents assigned to val if neither a column nor a file names them.
        columns: Names of the columns if they differ: vectors=NAME document=NAME chunk=NAME (the order in a document)
            text=NAME title=NAME source=NAME split=NAME group=NAME; in an .npz file context=NAME target=NAME
            document=NAME, or vectors=NAME document=NAME chunk=NAME.
        encoder: Name of the encoder that made the vectors, if known. If a table has texts, a sample is encoded again.
        dtype: Number format of the stored vectors.
        min_chunks: Drop and count documents of a table with fewer chunks. Default: 2; 1 for an exported store.
        allow_lost_rows: Largest share of a table's rows that may be lost, such as 0.05. Default: 0.01.
        documents: .npy file with the document of each training window of an .npz file, an integer or a string. Windows
            of different documents are never linked, and windows that cross their borders are left out.
        allow_shared: Import .npz files even if they share vectors, which is a leak between splits.
        quiet: Show no progress.
    """
    # Empty paths are splits without a file.
    files = {split: str(file) for split, file in (("train", train), ("val", val_file), ("ood", ood_file)) if str(file)}
    is_npz = {Path(name).suffix == NPZ for name in files.values()}
    if len(is_npz) > 1:
        raise InputError(
            f"{', '.join(files.values())}: some are .npz files, some are tables. Import files of one kind."
        )
    number_format = None if dtype == "keep" else dtype
    if is_npz == {True}:
        _refuse(files["train"], "tables", {"min_chunks": min_chunks, "allow_lost_rows": allow_lost_rows})
        from nextvec.data.npz.convert import import_npz

        return import_npz(
            {split: Path(name) for split, name in files.items()},
            Path(out),
            val=val,
            documents=Path(documents) if str(documents) else None,
            columns=columns,
            dtype=number_format,
            encoder=encoder,
            allow_shared=allow_shared,
            quiet=quiet,
        )
    _refuse(files["train"], ".npz files", {"documents": str(documents), "allow_shared": allow_shared})
    from nextvec.data.tables.convert import TableImport, import_table
    from nextvec.data.tables.roles import parse_roles

    roles = parse_roles(as_texts(columns))
    lost = {} if allow_lost_rows is None else {"allow_lost_rows": allow_lost_rows}
    config = TableImport(files, roles, encoder, val, number_format, min_chunks, **lost)
    return import_table(config, Path(out), quiet=quiet)


@command(by_name=["out"])
def data_export(
    store: Data,
    out: File,
    *,
    split: Split | None = None,
    context: int | None = None,
    quiet: bool = False,
) -> Path:
    """Export a store as a table, or the windows of a split as an .npz file. The suffix of the file is the format.

    .parquet and .lance: all rows, with the columns document, title, source, split, group, position, text and vector.
    The schema's metadata contain the manifest, so that 'nextvec data import' gives back the same store.

    .npz: the windows of one split (context_sequences, target_vectors, article_index).

    Args:
        store: The store, by its folder or URL.
        out: The .parquet, .lance or .npz file to write.
        split: Split of an .npz file. Default: train.
        context: S, the number of vectors before each target of an .npz file. Default: 5.
        quiet: Show no progress.
    """
    from nextvec.data.store import open_store

    path = Path(out)
    if path.suffix not in FORMATS:
        raise InputError(f"output {path}: the format '{path.suffix}' is unknown.{did_you_mean(path.suffix, FORMATS)}")
    if path.suffix == NPZ:
        from nextvec.data.npz.export import export_npz

        return export_npz(
            open_store(store, quiet=quiet), split or "train", path, 5 if context is None else context, quiet=quiet
        )
    _refuse(str(path), ".npz files", {"split": split, "context": context})
    from nextvec.data.tables.export import export_table

    return export_table(open_store(store, quiet=quiet), path, quiet=quiet)


@command()
def data_copy(source: Data, destination: Data, *, quiet: bool = False) -> CopiedStore:
    """Copy a store to another folder, or to or from object storage. To continue or mend a copy, run it again.

    Every file is compared with its checksum while it is copied, and the manifest comes last: the destination has a
    complete store or none. Another store is never overwritten. s3:// needs the extra 's3', gs:// the extra 'gcs'.

    Args:
        source: Folder or URL of the store.
        destination: Folder or URL of the copy, such as s3://bucket/wiki or gs://bucket/wiki.
        quiet: Show no progress.
    """
    from nextvec.data.store.copies import copy_store

    return copy_store(source, destination, quiet=quiet)


@command()
def data_cache(*, clear: bool = False) -> CachedStores:
    """List the local copies of stores that were opened by their URL.

    The folder is that of the environment variable NEXTVEC_CACHE. Default: the user's cache folder.

    Args:
        clear: Remove the copies. A store is fetched again when it is opened.
    """
    from nextvec.data.store.cached_stores import clear_cache, list_cache

    return clear_cache() if clear else list_cache()


def _refuse(name: str, kind: str, options: Mapping[str, Any]) -> None:
    """Raise InputError if an option is set that applies to files of another kind."""
    for option, value in options.items():
        if not (value is None or value is False or value == ""):
            raise InputError(f"{name}: --{option.replace('_', '-')} applies to {kind} only. Leave it out.")
