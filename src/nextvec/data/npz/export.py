"""Export windows of a store as an .npz file for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nextvec.core.console import progress
from nextvec.data.npz.format import ARTICLES, BLOCK_BYTES, CONTEXTS, SPACE, TARGETS, write_members
from nextvec.data.splits import SPLITS
from nextvec.data.store import Store
from nextvec.data.store.writer import require_new
from nextvec.data.windows import index_windows
from nextvec.errors import StoreError, did_you_mean


def export_npz(
    store: Store,
    split: str,
    out: Path,
    context: int = 5,
    *,
    dtype: Literal["float16", "float32"] = "float32",
    quiet: bool = False,
) -> Path:
    """Write the windows of a split as an uncompressed .npz file for other tools, and return its path.

    Members: context_sequences (W, S, D), target_vectors (W, D), article_index (W,) int64, the group of each window, and
    space, which names the encoder. Raises StoreError if the split has no windows, OutputError if `out` exists.
    """
    out = Path(out)
    require_new(out)
    if split not in SPLITS:
        raise StoreError(f"split '{split}' is unknown.{did_you_mean(split, SPLITS)}")
    windows = index_windows(store.documents, split, context)
    if not len(windows):
        raise StoreError(f"store {store.name}: {split} has no window of context {context}. Choose another split.")
    # A window is a target row and the `context` rows before it; blocks are gathered from the store as they are
    # written.
    targets, groups = windows.targets.numpy().astype(np.int64), windows.groups.numpy().astype(np.int64)
    shape, file_dtype = (len(windows), store.dimensions), np.dtype(dtype).newbyteorder("<")
    space = np.array([json.dumps(store.space.to_dict())])
    with progress(f"writing {split} windows", len(windows) * (context + 1), unit="vectors", quiet=quiet) as task:

        def blocks(offsets: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
            """Yield the vectors at the offsets from each target, a block of windows at a time."""
            # Broadcast the target rows with the offsets: (B, S) rows for contexts, (B,) for targets.
            step = max(1, BLOCK_BYTES // (offsets.size * store.dimensions * file_dtype.itemsize))
            for start in range(0, len(targets), step):
                rows = targets[start : start + step].reshape(-1, *[1] * offsets.ndim) + offsets
                yield store.vectors[rows]
                task.advance(rows.size)

        members = {
            CONTEXTS: ((shape[0], context, shape[1]), file_dtype, blocks(np.arange(-context, 0))),
            TARGETS: (shape, file_dtype, blocks(np.array(0))),
            ARTICLES: (shape[:1], np.dtype("<i8"), [groups]),
            SPACE: ((1,), space.dtype, [space]),
        }
        write_members(out, members)
    return out
