"""Import .npz files of windows as a store.

Such a file repeats each vector up to S + 1 times and does not name the documents of its windows. An import links
windows that share identical vectors: vectors are stored once (11 GB become at most 2.4 GB), and linked windows are in
one split. The store's windows of context S are exactly those of the file, bit for bit, without the windows that cross
borders of documents, which are left out and counted.

Each file is read twice, in blocks: first for a 16-byte digest of every vector, then to copy the vectors.

Letters in names: F files, W windows of all files, S context length, T = S + 1 vectors of a window, V distinct vectors,
C chains, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from nextvec.core.formatting import Status
from nextvec.data.checks.rules_windows import describe_file
from nextvec.data.npz.crossing import find_crossing_windows
from nextvec.data.npz.facts import describe_windows, explain_single_group
from nextvec.data.npz.files import NpzFile, WindowFile, open_files
from nextvec.data.npz.format import npz_hash
from nextvec.data.npz.index import WindowIndex, index_files, merge_copies
from nextvec.data.npz.layout import parse_columns
from nextvec.data.npz.relink import Chains, Ints, group_chains, link_windows
from nextvec.data.npz.tables import import_tables
from nextvec.data.npz.vectors import rows_of_windows, write_windows
from nextvec.data.space import UNKNOWN, Space, require_same
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import DocumentTable, Store
from nextvec.data.store.writer import create_vectors, finish_store, require_new, unfinished_store, write_documents
from nextvec.errors import StoreError

LARGE_GROUP_SHARE, LARGE_GROUP_CHAINS = 0.2, 10
"""A group with more than this share of all windows and this many chains gets a notice: one split contains all of it."""


def import_npz(
    files: Mapping[str, Path],
    out: Path,
    *,
    val: float = 0.1,
    documents: Path | Mapping[str, Path] | None = None,
    columns: Sequence[str] = (),
    dtype: Literal["float16", "float32"] | None = None,
    encoder: str = UNKNOWN,
    allow_shared: bool = False,
    quiet: bool = False,
) -> Store:
    """Import .npz files, one per split, {"train": …, "val": …, "ood": …}, as the store `out`.

    A file has windows, or a table of vectors with the document of each; `columns` ("context=contexts", …) names its
    members if `find_roles` does not know their names. Without val windows, the fraction `val` of the train file's
    groups becomes val, by a hash of their vectors. `documents` is a .npy file with an integer or string per window (of
    the train file, or a mapping by split), or a member such as `article_index` is used: windows of different documents
    are never linked, and windows across their borders are left out. Vectors keep the file's dtype (float64 becomes
    float32) unless `dtype` is set. `encoder` names the encoder if the file does not. Notices and counts are in the
    manifest.

    Raises StoreError for files that are missing or damaged, differ in shape, contain vectors that are zero or not
    finite, cannot be divided, or (unless `allow_shared`) share vectors between splits; OutputError if `out` cannot be
    written.
    """
    out = Path(out)
    require_new(out)
    opened = open_files(files, documents, parse_columns(columns))
    plan = SplitPlan(val=0.0 if "val" in opened else val)
    facts = {"split": plan.to_dict(), **_origin(opened)}
    space = _space(opened, encoder)
    windows = {split: file for split, file in opened.items() if isinstance(file, WindowFile)}
    if windows:
        return _import_windows(windows, out, plan, dtype, allow_shared, quiet, space, facts)
    tables = {split: file for split, file in opened.items() if not isinstance(file, WindowFile)}
    return import_tables(tables, out, plan, dtype, quiet, space, facts)


def _import_windows(
    opened: Mapping[str, WindowFile],
    out: Path,
    plan: SplitPlan,
    dtype: DTypeLike | None,
    allow_shared: bool,
    quiet: bool,
    space: Space,
    facts: dict[str, Any],
) -> Store:
    """Import files of windows; see `import_npz`."""
    members = [member for file in opened.values() for member in (file.contexts, file.targets)]
    stored_dtype = np.result_type(*(member.view_dtype or member.dtype for member in members))
    every = merge_copies(index_files(opened, stored_dtype, quiet), opened)
    _require_padding_first(every, opened)
    # Leave out the windows that cross borders of documents, and recover the documents of the others: windows that
    # overlap form chains, and chains that share a vector form groups.
    crossing = find_crossing_windows(every, opened)
    index = every.take(~crossing.windows_W)
    _require_windows(index, opened)
    shared = _count_shared(index, opened, allow_shared)
    chains = link_windows(index.vectors_WT, index.label_W)
    group_C, documents_sharing = group_chains(index.vectors_WT, chains, index.file_W, index.document_W, index.padding)
    described = describe_windows(index, opened, crossing)
    padded_C = np.zeros(len(chains), np.int64)
    is_head_W = chains.position_W == 0
    padded_C[chains.chain_W[is_head_W]] = index.padded_W[is_head_W]
    table = _document_table(opened, index, chains, group_C, padded_C, plan)
    if plan.val > 0 and "train" in opened and not {"train", "val"} <= {SPLITS[split] for split in set(table.splits)}:
        cause, remedy = explain_single_group(described["train"], index, chains, crossing.unclear.get(0, 0))
        where = f"{opened['train'].path}: its windows cannot be divided into train and {plan.val:.0%} val"
        raise StoreError(f"{where}, because {cause}. {remedy}")
    # Read the files again to copy the vectors.
    rows_WT = rows_of_windows(index, chains, table.first_row, padded_C, ~crossing.windows_W)
    with unfinished_store(out) as folder:
        with create_vectors(folder, int(table.rows.sum()), space.dimensions, dtype or stored_dtype) as writer:
            scaled = write_windows(writer, opened.values(), rows_WT, quiet)
        write_documents(folder, table)
        counts = {
            "windows": int((index.padded_W == 0).sum()),
            "context": next(iter(opened.values())).context,
            "vectors": int(table.rows.sum()),
            "distinct_vectors": len(np.unique(index.vectors_WT)) - int(index.padded_W.any()),
            "documents": len(chains),
            "groups": int(group_C.max()) + 1,
            "scaled_to_unit_length": scaled,
            "crossing_windows": int(crossing.windows_W.sum()),
            "padded_windows": int((index.padded_W > 0).sum()),
        }
        notices = [notice for file in opened.values() for notice in file.notices]
        notices += _notices(table, chains, scaled, documents_sharing, shared)
        findings = [finding for split in described for finding in describe_file(described[split])]
        facts |= {
            "notices": notices + [finding.text for finding in findings if finding.status is Status.GREEN],
            "findings": [finding.to_dict() for finding in findings if finding.status is not Status.GREEN],
            "window_files": described,
        }
        return finish_store(folder, out, space, counts, **facts)


def _space(files: Mapping[str, NpzFile], encoder: str) -> Space:
    """Return the space that the files name; if the user names an encoder or no file names a space, the user's."""
    first, *rest = files.values()
    for file in rest:
        if first.space is not None and file.space is not None:
            require_same(first.space, file.space, f"{first.path.name} and {file.path.name}")
    space = next((file.space for file in files.values() if file.space is not None), None)
    return space if space is not None and encoder == UNKNOWN else Space(encoder, "", first.dimensions)


def _origin(files: Mapping[str, NpzFile]) -> dict[str, Any]:
    """Return the manifest's entries about the files, by which `open_data` recognizes an earlier import."""
    return {
        "origin": "npz",
        "sources": {split: file.path.name for split, file in files.items()},
        "npz": {split: npz_hash(file.path) for split, file in files.items()},
        "has_documents": all(file.documents is not None for file in files.values()),
    }


def _require_padding_first(index: WindowIndex, files: Mapping[str, WindowFile]) -> None:
    """Raise StoreError if a zero vector is a target, or is between vectors of a context."""
    if index.padding < 0:
        return
    is_zero_WT = index.vectors_WT == index.padding
    # Padding comes first, so the zeros of a padded context never follow a vector.
    follows_WT = np.diff(is_zero_WT[:, :-1].astype(np.int8), axis=1) > 0
    for number, file in enumerate(files.values()):
        of_file_W = index.file_W == number
        for name, is_bad_W in (
            (file.targets.name, is_zero_WT[of_file_W, -1]),
            (file.contexts.name, follows_WT[of_file_W].any(axis=1)),
        ):
            if is_bad_W.any():
                raise StoreError(
                    f"{file.path}: {name} of window {int(is_bad_W.argmax())} has a zero vector that is not padding "
                    f"({int(is_bad_W.sum()):,} of {file.windows:,} windows have one). Remove these windows."
                )


def _require_windows(index: WindowIndex, files: Mapping[str, WindowFile]) -> None:
    """Raise StoreError if every window of a file crosses a border."""
    for number, file in enumerate(files.values()):
        if not (index.file_W == number).any():
            raise StoreError(
                f"{file.path}: all its {file.windows:,} windows contain vectors of several documents. "
                "Check the labels: one document per window, in the order of the windows."
            )


def _count_shared(index: WindowIndex, files: Mapping[str, WindowFile], allowed: bool) -> int:
    """Count the windows with a vector that another file has too. Raises StoreError if that is not allowed."""
    # Count the files in which each distinct vector occurs; one in two files is a leak between splits.
    files_with_V = np.zeros(int(index.vectors_WT.max()) + 1, np.int64)
    for number in range(len(files)):
        files_with_V[np.unique(index.vectors_WT[index.file_W == number])] += 1
    if index.padding >= 0:
        files_with_V[index.padding : index.padding + 1] = 0
    shared_W = np.logical_or.reduce((files_with_V > 1)[index.vectors_WT], axis=1)
    if shared_W.any() and not allowed:
        counts = ", ".join(
            f"{int(shared_W[index.file_W == number].sum())} of {file.windows} windows of {file.path.name}"
            for number, file in enumerate(files.values())
        )
        raise StoreError(
            f"splits share identical vectors, which is a leak: {counts}. Remove them, or use --allow-shared."
        )
    return int(shared_W.sum())


def _document_table(
    files: Mapping[str, WindowFile],
    index: WindowIndex,
    chains: Chains,
    group_C: Ints,
    padded_C: Ints,
    plan: SplitPlan,
) -> DocumentTable:
    """Make a document of each chain. The split of a group depends on its smallest digest, not on the file's order."""
    # Vectors are numbered in the order of their digests, so the smallest number names a group by its content.
    smallest_G = np.full(int(group_C.max()) + 1, len(index.digest_V))
    vectors_WT = np.where(index.vectors_WT == index.padding, len(index.digest_V), index.vectors_WT)
    np.minimum.at(smallest_G, group_C[chains.chain_W], vectors_WT.min(axis=1))
    split_G = [plan.split_of(index.digest_V[number].tobytes().hex(), "") for number in smallest_G]
    # Name the documents of each file in the order of their first windows.
    first_window_C = np.unique(chains.chain_W, return_index=True)[1]
    labels_W = _labels(files, index)
    ids, titles, sources, splits = [], [], [], []
    for number, (split, file) in enumerate(files.items()):
        # Groups of the train file are divided by the plan; the other files have their split by name.
        for position, chain in enumerate(np.flatnonzero(index.file_W[first_window_C] == number).tolist()):
            ids.append(f"npz-{split}-{position}")
            titles.append(labels_W[index.document_W[first_window_C[chain]]] if file.documents is not None else "")
            sources.append(file.path.name)
            splits.append(split_G[group_C[chain]] if split == "train" else split)
    # A chain of L windows has L + S vectors, less those of its padding.
    rows = chains.windows_C + index.vectors_WT.shape[1] - 1 - padded_C
    split_numbers = np.array([SPLITS.index(split) for split in splits], np.int8)
    return DocumentTable(ids, titles, sources, split_numbers, np.cumsum(rows) - rows, rows, group_C)


def _labels(files: Mapping[str, WindowFile], index: WindowIndex) -> dict[int, str]:
    """Return the title of each document number: "document" and its label."""
    titles: dict[int, str] = {}
    for file in files.values():
        if file.documents is not None:
            for label in np.unique(file.documents).tolist():
                text = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
                titles[len(titles)] = f"document {text}"
    return titles


def _notices(table: DocumentTable, chains: Chains, scaled: int, sharing: int, shared: int) -> list[str]:
    """Return messages about the import for the user."""
    notices = []
    if scaled:
        notices.append(f"{scaled:,} of {int(table.rows.sum()):,} vectors were scaled to unit length")
    if sharing:
        notices.append(f"{sharing:,} documents share identical vectors with another and are in one group with it")
    if shared:
        notices.append(
            f"{shared:,} windows share identical vectors with another split (--allow-shared): scores are too high"
        )
    # A repeated text links many documents, whose group then cannot be divided: warn if it is large.
    chains_G = np.bincount(table.group)
    windows_G = np.bincount(table.group, weights=chains.windows_C)
    largest, windows = int(windows_G.argmax()), int(chains.windows_C.sum())
    if windows_G[largest] > LARGE_GROUP_SHARE * windows and chains_G[largest] >= LARGE_GROUP_CHAINS:
        notices.append(
            f"one group of {chains_G[largest]:,} linked documents has {int(windows_G[largest]):,} of {windows:,} "
            "windows, all in one split; if repeated texts link them, drop these texts first"
        )
    return notices
