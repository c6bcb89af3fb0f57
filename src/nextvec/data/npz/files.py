"""Open .npz files of windows, or tables of vectors: check all shapes and labels before any vector is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.npz.format import BLOCK_BYTES, SPACE, Member, load_npy, read_members
from nextvec.data.npz.layout import NAMES, Roles, find_roles
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.errors import SpaceError, StoreError, did_you_mean

Labels = NDArray[Any]
"""(W,) or (N,) integers or strings: the document of each window or row."""


@dataclass(frozen=True)
class WindowFile:
    """W windows in an npz file, open for reading."""

    path: Path
    contexts: Member
    """(W, S, D)"""
    targets: Member
    """(W, D)"""
    documents: Labels | None = field(repr=False)
    """(W,) the document of each window; None if unknown."""
    space: Space | None
    """The embedding space of the vectors; None if the file does not name it."""
    notices: tuple[str, ...]
    """Messages about conversions, and about members that are not used."""

    @property
    def windows(self) -> int:
        """W, the number of windows."""
        return self.targets.shape[0]

    @property
    def context(self) -> int:
        """S, the context length."""
        shape = self.contexts.view_shape or self.contexts.shape
        return shape[1]

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        shape = self.targets.view_shape or self.targets.shape
        return shape[1]


@dataclass(frozen=True)
class TableFile:
    """N vectors in an npz file with the document of each."""

    path: Path
    vectors: Member
    """(N, D)"""
    documents: Labels = field(repr=False)
    """(N,) the document of each row."""
    chunks: NDArray[np.integer[Any]] | None = field(repr=False)
    """(N,) place of each row in its document; None: the order of the file."""
    space: Space | None
    notices: tuple[str, ...]

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return self.vectors.shape[1]


NpzFile = WindowFile | TableFile


def open_windows(path: Path, documents: Path | None = None) -> WindowFile:
    """Read the headers of an npz file of windows, and the document of each window.

    `documents` is a .npy file of (W,) integers or strings; by default a member such as article_index is used. Raises
    StoreError if a file is missing, damaged or has other shapes or types.
    """
    opened = open_files({"train": path}, documents)["train"]
    if not isinstance(opened, WindowFile):
        raise StoreError(f"{path}: is a table of vectors, not a file of windows. Name a file of windows.")
    return opened


def open_contexts(path: Path) -> tuple[Member, Space | None]:
    """Read the header of the contexts (W, S, D) of a file, with or without targets, and the space that it names.

    Raises StoreError if the file is missing, damaged or has no such member.
    """
    members = read_members(path)
    name = next((name for name in NAMES["context"] if name in members), None)
    if name is None:
        raise StoreError(
            f"{path}: has no member {NAMES['context'][0]} (members: {', '.join(sorted(members)) or 'none'}). "
            "Save the contexts under that name."
        )
    contexts = _require_vectors(members[name], (3,), "(windows, S, D)")
    _require_rows(contexts)
    return contexts, _read_space(members[SPACE], contexts.shape[2]) if SPACE in members else None


def open_files(
    files: Mapping[str, Path], documents: Path | Mapping[str, Path] | None, columns: Roles | None = None
) -> dict[str, NpzFile]:
    """Open the windows or the table of each split, in the order of SPLITS; see `find_roles` and `open_windows`.

    `documents` belongs to the train file, or is a mapping by split. Raises StoreError if the files differ in S or D,
    or if windows and tables are mixed.
    """
    # Check the names of the splits before any file is opened.
    document_files = documents if isinstance(documents, Mapping) else {"train": documents} if documents else {}
    for split in [*files, *document_files]:
        if split not in SPLITS:
            raise StoreError(f"split '{split}' is unknown.{did_you_mean(split, SPLITS)}")
        if split not in files:
            raise StoreError(f"documents for {split}: there is no file of windows for {split}. Name both files.")
    if not files:
        raise StoreError("nothing to import. Name an .npz file of windows for train, val or ood.")
    opened: dict[str, NpzFile] = {}
    for split in (name for name in SPLITS if name in files):
        path = Path(files[split])
        members = read_members(path)
        found = find_roles(path, members, columns or {}, split)
        used = {name for roles in found.values() for name in roles.values()}
        for name, roles in found.items():
            if name in opened:
                raise StoreError(
                    f"{path}: has windows of {name}, which {opened[name].path.name} has too. Name one of the files."
                )
            labels = document_files.get(name) if name == split else None
            opened[name] = _open(path, members, roles, used, None if labels is None else Path(labels))
    opened = {split: opened[split] for split in SPLITS if split in opened}
    _require_alike(list(opened.values()))
    return opened


def _require_alike(files: list[NpzFile]) -> None:
    """Raise StoreError unless all files are windows of one shape, or tables of one D."""
    first, *rest = files
    for file in rest:
        if isinstance(first, WindowFile) and isinstance(file, WindowFile):
            if (file.context, file.dimensions) != (first.context, first.dimensions):
                raise StoreError(
                    f"{file.path.name}: has context {file.context} and {file.dimensions} dimensions, but "
                    f"{first.path.name} has {first.context} and {first.dimensions}. Import files of the same shape."
                )
        elif isinstance(first, WindowFile) or isinstance(file, WindowFile):
            raise StoreError(
                f"{file.path.name} and {first.path.name}: one has windows, one a table. Import each alone."
            )
        elif file.dimensions != first.dimensions:
            raise StoreError(
                f"{file.path.name}: has {file.dimensions} dimensions, but {first.path.name} has {first.dimensions}. "
                "Import files of the same shape."
            )


def _open(path: Path, members: Mapping[str, Member], roles: Roles, used: set[str], documents: Path | None) -> NpzFile:
    """Check the members of one split. `used` has the members of all splits."""
    is_table = "context" not in roles or "target" not in roles
    if is_table:
        vectors = _require_vectors(members[roles["vectors"]], (2,), "(rows, D)")
        rows, dimensions = vectors.shape
        numbers = [vectors]
        _require_rows(vectors)
        vectors = vectors.view(vectors.shape, _read_dtype(vectors))
    else:
        contexts, targets = _shape_windows(path, members[roles["context"]], members[roles["target"]])
        rows, dimensions = targets.shape[0], (targets.view_shape or targets.shape)[1]
        numbers = [contexts, targets]
    # Documents: the file that the user named, else a member of the archive.
    if documents is not None:
        labels: Labels | None = _require_labels(load_npy(documents), rows, f"documents {documents}")
    else:
        labels = _read_labels(path, members, roles, rows)
    space = _read_space(members[SPACE], dimensions) if SPACE in members else None
    notices = _notices(path, members, used, numbers, labels)
    if not is_table:
        return WindowFile(path, contexts, targets, labels, space, notices)
    if labels is None:
        raise StoreError(f"{path}: {roles['document']} is pickled and was not loaded. Save it as integers or strings.")
    chunks = None
    if "chunk" in roles and not members[roles["chunk"]].dtype.hasobject:
        chunks = _require_labels(members[roles["chunk"]].read(), rows, f"{path}: {roles['chunk']}", kinds="iu")
    return TableFile(path, vectors, labels, chunks, space, notices)


def _shape_windows(path: Path, contexts: Member, targets: Member) -> tuple[Member, Member]:
    """Return the members as (W, S, D) and (W, D), whichever of the accepted shapes they have."""
    contexts = _require_vectors(contexts, (2, 3), "(windows, S, D)")
    targets = _require_vectors(targets, (2, 3), "(windows, D)")
    if len(targets.shape) == 3 and targets.shape[1] != 1:
        raise StoreError(
            f"{path}: {targets.name} is {targets.shape}, but must be (windows, D): one target per window. "
            "Save the vector after each context."
        )
    windows, dimensions = targets.shape[0], targets.shape[-1]
    # Flat contexts hold S vectors of the target's length one after the other.
    is_flat = len(contexts.shape) == 2 and dimensions > 0 and contexts.shape[1] % dimensions == 0
    shape = (contexts.shape[0], contexts.shape[1] // dimensions, dimensions) if is_flat else contexts.shape
    if len(shape) != 3 or (windows, dimensions) != (shape[0], shape[2]):
        raise StoreError(
            f"{path}: {contexts.name} is {contexts.shape}, so {targets.name} must be "
            f"{(contexts.shape[0], contexts.shape[-1])}, but it is {targets.shape}. Make the file again."
        )
    dtype = np.result_type(_read_dtype(contexts), _read_dtype(targets))
    if math.prod(shape[1:]) * dtype.itemsize > BLOCK_BYTES:
        raise StoreError(
            f"{path}: {contexts.name} is {contexts.shape}: a window exceeds {BLOCK_BYTES:,} bytes. "
            "Use a shorter context."
        )
    if 0 in shape:
        raise StoreError(f"{path}: has no windows ({contexts.name} is {contexts.shape}). Name a file of windows.")
    return contexts.view(shape, _read_dtype(contexts)), targets.view((windows, dimensions), _read_dtype(targets))


def _read_dtype(member: Member) -> np.dtype[Any]:
    """Return the dtype in which a member is read: float16 or float32, in the machine's byte order."""
    return np.dtype(np.float16 if member.dtype.itemsize == 2 else np.float32)


def _require_vectors(member: Member, axes: tuple[int, ...], shape: str) -> Member:
    """Return the member. Raises StoreError unless it has one of these numbers of axes and floating-point values."""
    if member.dtype.hasobject:
        raise StoreError(
            f"{member.path}: {member.name} is pickled, which is unsafe to load. Save it as {shape} float32."
        )
    if len(member.shape) not in axes or member.dtype.kind != "f":
        remedy = "Save it in that form."
        if member.dtype.kind in "iub" and len(member.shape) in axes:
            remedy = "Convert integers back to the encoder's numbers (scale and offset) and save them as float32."
        elif member.dtype.fields:
            remedy = f"Save one field of {', '.join(member.dtype.names or ())} as a plain array."
        raise StoreError(
            f"{member.path}: {member.name} is {member.shape} {member.dtype}, but must be {shape} float16, float32 or "
            f"float64. {remedy}"
        )
    return member


def _require_rows(vectors: Member) -> None:
    if 0 in vectors.shape:
        raise StoreError(f"{vectors.path}: has no vectors ({vectors.name} is {vectors.shape}). Name another file.")


def _read_space(member: Member, dimensions: int) -> Space | None:
    """Return the space that a file names; None if the member was written by another tool."""
    if member.dtype.kind != "U" or member.shape != (1,):
        return None
    try:
        space = Space.from_dict(json.loads(str(member.read()[0])))
    except (ValueError, SpaceError):
        return None
    return space if space.dimensions == dimensions else None


def _read_labels(path: Path, members: Mapping[str, Member], roles: Roles, rows: int) -> Labels | None:
    """Return the labels of a member, or those in `metadata`; None if there are none that can be read."""
    member = members.get(roles.get("document", ""))
    if member is not None and not member.dtype.hasobject:
        return _require_labels(member.read(), rows, f"{path}: {member.name}")
    metadata = members.get(roles.get("metadata", ""))
    if metadata is None or metadata.dtype.hasobject:
        return None
    values = _metadata_labels(metadata)
    return None if values is None else _require_labels(np.asarray(values), rows, f"{path}: {metadata.name}")


def _metadata_labels(member: Member) -> Any:
    """Return the labels in a structured array, or in JSON text: a list of entries, or one object with a list."""
    names = NAMES["document"]
    if member.dtype.fields:
        name = next((name for name in names if name in member.dtype.fields), None)
        return None if name is None else member.read()[name]
    if member.dtype.kind not in "US":
        return None
    try:
        values = [json.loads(text) for text in np.atleast_1d(member.read()).tolist()]
    except ValueError:
        return None
    content = values[0] if len(values) == 1 else values
    if isinstance(content, dict):
        return next((content[name] for name in names if name in content), None)
    # One entry per window.
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        name = next((name for name in names if name in content[0]), None)
        return None if name is None else [entry.get(name) for entry in content]
    return None


def _require_labels(labels: Any, rows: int, name: str, kinds: str = "iuUS") -> Labels:
    """Return the labels. Raises StoreError unless they are one integer or string per window or row."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in kinds or labels.shape != (rows,):
        kind = f"{labels.shape} {labels.dtype}" if isinstance(labels, np.ndarray) else "an archive"
        what = "integers or strings" if "U" in kinds else "integers"
        raise StoreError(f"{name}: is {kind}, but must be ({rows},) {what}, one per window. Make the file again.")
    return labels


def _notices(
    path: Path, members: Mapping[str, Member], used: set[str], numbers: list[Member], labels: Labels | None
) -> tuple[str, ...]:
    """Return messages about vectors that are converted, and members that are not used."""
    notices = [
        f"{path.name}: {member.name} was converted from {member.dtype.name} to float32"
        for member in numbers
        if member.dtype.itemsize > 4
    ]
    for name, member in sorted(members.items()):
        if member.dtype.hasobject:
            notice = f"{path.name}: member {name} is pickled and was not loaded"
            if labels is None and name.split("_")[-1] == "metadata":
                notice += (
                    "; if you trust its source, save the document of each window from it with numpy.save, and name "
                    "that file with --documents"
                )
            notices.append(notice)
        elif name not in used and name != SPACE:
            notices.append(f"{path.name}: member {name} is not used")
    return tuple(notices)
