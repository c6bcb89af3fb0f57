"""Windows: the context vectors of a model's input, and the target that it predicts.

A window is one integer, the row of its target; its context is the S rows before it in the same document. A batch is one
gather from the store's vectors. The order of windows is in `order.py`.

Letters in names: B windows of a batch, S context length, D dimensions, W windows of a split, M documents, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable


@dataclass(frozen=True)
class Windows:
    """An index of W windows; 8 bytes per window, 12 if some contexts are shorter than S."""

    context: int
    """S, the context length."""
    targets: Tensor
    """(W,) int32 rows of the targets, ascending."""
    groups: Tensor
    """(W,) int32 group of the target's document: the unit of bootstraps and of InfoNCE's mask."""
    available: Tensor | None
    """(W,) int32 number of context vectors, at most S; None if every window has S."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> Windows:
        """Return the windows at the positions `index`, in that order."""
        available = None if self.available is None else self.available[index]
        return Windows(self.context, self.targets[index], self.groups[index], available)

    def to(self, device: torch.device) -> Windows:
        """Return the same index on another device."""
        available = None if self.available is None else self.available.to(device)
        return Windows(self.context, self.targets.to(device), self.groups.to(device), available)


@dataclass(frozen=True)
class WindowSet:
    """The windows of a split together with the vectors and documents that they index."""

    split: str
    vectors: Tensor
    """(N, D) all vectors of the store that contains the split."""
    documents: DocumentTable
    """The store's documents, of all splits."""
    windows: Windows

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor | None = None, reversed_count: int = 0) -> Batch:
        """Return the windows at positions `index` (B,), the last `reversed_count` of them reversed; see `gather`."""
        return gather(self.vectors, self.windows, index, reversed_count)

    def targets(self, index: Tensor, reversed_count: int = 0) -> tuple[Tensor, Tensor]:
        """Return the targets (B, D) and groups (B,) of `batch`, without reading the contexts."""
        selected = self.windows.take(index)
        target_B = _first_reversed(selected, reversed_count)[0] if reversed_count else selected.targets
        return self.vectors.index_select(0, target_B), selected.groups

    def sample_document_negatives(self, index: Tensor, count: int, share: slice | None = None) -> tuple[Tensor, Tensor]:
        """Draw negatives from each window's document, outside of the window: the hardest to distinguish.

        For each window at the positions `index` (B,), `count` chunks are drawn uniformly with replacement from torch's
        random generator. Returns the vectors (B, K, D), and (B,) False if the document has no chunk outside the window.
        With `share`, numbers are drawn for all windows, and only these windows' vectors are returned.
        """
        uniform_BK = torch.rand(len(index), count, device=index.device)
        if share is not None:
            index, uniform_BK = index[share], uniform_BK[share]
        # Find the document of each target, and how many of its rows are before and inside the window.
        first_M, rows_M = self._document_bounds
        target_B = self.windows.targets[index].long()
        document_B = torch.searchsorted(first_M, target_B, right=True) - 1
        start_B = first_M[document_B]
        available = self.windows.available
        before_B = (
            (target_B - start_B).clamp(max=self.windows.context) if available is None else available[index].long()
        )
        window_B = before_B + 1
        outside_B = rows_M[document_B] - window_B
        # Draw positions among the chunks outside, and shift those after the window's start by its length.
        drawn_BK = (uniform_BK * outside_B[:, None]).long()
        drawn_BK += window_B[:, None] * (drawn_BK >= (target_B - before_B - start_B)[:, None])
        drawn_BK = torch.where(outside_B[:, None] > 0, start_B[:, None] + drawn_BK, target_B[:, None])
        # One gather for all negatives; a document without a chunk outside gets its target, which the caller masks.
        vectors_KD = self.vectors.index_select(0, drawn_BK.flatten())
        return vectors_KD.view(len(index), count, -1), outside_B > 0

    @cached_property
    def _document_bounds(self) -> tuple[Tensor, Tensor]:
        """(M,) int64 first row and number of rows of every document, on the vectors' device."""
        columns = (self.documents.first_row, self.documents.rows)
        first_M, rows_M = (torch.tensor(column, dtype=torch.int64, device=self.vectors.device) for column in columns)
        return first_M, rows_M


@dataclass(frozen=True)
class Batch:
    """The input of a model and the vectors to predict."""

    context_BSD: Tensor
    """(B, S, D) vectors before the target, oldest first; zero if masked."""
    target_BD: Tensor
    """(B, D) the vectors to predict."""
    group_B: Tensor
    """(B,) the group of each window's document."""
    mask_BS: Tensor | None
    """(B, S) False if the document has no vector at that position; None if no position is masked."""


def index_windows(documents: DocumentTable, split: str | None, context: int, min_context: int | None = None) -> Windows:
    """Index the windows of a split (None: of all documents) whose targets have at least `min_context` predecessors.

    `min_context` is `context` by default. It may exceed `context`, so that context lengths can be compared on the same
    windows. Documents that are too short have no windows.
    """
    min_context = context if min_context is None else min_context
    assert int(documents.rows.sum()) < 2**31, "row numbers are int32"
    # A document of n rows has the targets min_context … n - 1. Expand documents to targets without a loop.
    is_split_M = np.ones(len(documents), bool) if split is None else documents.splits == SPLITS.index(split)
    first, rows, group = (
        column[is_split_M].astype(np.int32) for column in (documents.first_row, documents.rows, documents.group)
    )
    counts = np.maximum(rows - min_context, 0)
    # position[w]: number of targets of the same document before window w
    position = np.arange(int(counts.sum()), dtype=np.int32)
    position -= np.repeat((np.cumsum(counts) - counts).astype(np.int32), counts)
    targets = np.repeat(first + np.int32(min_context), counts)
    targets += position
    available = None
    if min_context < context:
        available = torch.from_numpy(np.minimum(position + np.int32(min_context), np.int32(context)))
    return Windows(context, torch.from_numpy(targets), torch.from_numpy(np.repeat(group, counts)), available)


def gather(vectors: Tensor, windows: Windows, index: Tensor | None = None, reversed_count: int = 0) -> Batch:
    """Return the windows at the positions `index` (B,) as one batch, in one gather of B·(S+1) rows.

    `vectors` (N, D) are on the device of the windows; the batch has their dtype. The last `reversed_count` windows are
    reversed: their oldest vector is the target, and the vectors after it, including the true target, are its context,
    nearest last.
    """
    # Rows of the context, oldest first: the target's row minus S … 1.
    selected = windows if index is None else windows.take(index)
    steps_S = torch.arange(windows.context, 0, -1, device=vectors.device, dtype=torch.int32)
    mask_BS = None if selected.available is None else steps_S <= selected.available[:, None]
    target_B, rows_BS = selected.targets, selected.targets[:, None] - steps_S
    if reversed_count:
        # Reversed: the target is the oldest row of the window, and the context follows it in the store.
        target_B, is_reversed_B = _first_reversed(selected, reversed_count)
        rows_BS = torch.where(is_reversed_B[:, None], target_B[:, None] + steps_S, rows_BS)
    # Masked positions read the target's row, so that every row exists, and are zeroed after the gather.
    if mask_BS is not None:
        rows_BS = torch.where(mask_BS, rows_BS, target_B[:, None])
    # Gather contexts and targets together, then divide the result.
    rows = torch.cat([rows_BS, target_B[:, None]], dim=1)
    gathered = vectors.index_select(0, rows.flatten())
    gathered = gathered.view(len(selected), windows.context + 1, vectors.shape[1])
    context_BSD = gathered[:, :-1]
    if mask_BS is not None:
        context_BSD.masked_fill_(~mask_BS[:, :, None], 0.0)
    return Batch(context_BSD, gathered[:, -1], selected.groups, mask_BS)


def _first_reversed(windows: Windows, reversed_count: int) -> tuple[Tensor, Tensor]:
    """Return the targets (B,) if the last `reversed_count` windows are reversed, and (B,) True for these windows."""
    length_B = windows.context if windows.available is None else windows.available
    is_reversed_B = torch.arange(len(windows), device=windows.targets.device) >= len(windows) - reversed_count
    return torch.where(is_reversed_B, windows.targets - length_B, windows.targets), is_reversed_B


def sample(count: int, size: int, seed: int) -> Tensor:
    """Return at most `size` of `count` positions in ascending order, int64: a pure function of the arguments."""
    if size >= count:
        return torch.arange(count)
    # Epochs use keys below 2^63, so a sample never repeats the order of an epoch.
    selected = np.random.Generator(np.random.Philox(key=[seed, 2**63])).choice(count, size, replace=False)
    return torch.from_numpy(np.sort(selected))
