"""Windows: the context vectors of a model's input, and the target that it predicts.

A window is one integer, the row of its target; its context is the S rows before it in the same document. A batch is one
gather from the store's vectors. The order of windows is in `order.py`.

Letters in names: B windows of a batch, S context length, D dimensions, W windows of a split, M documents, K documents
with windows, or negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable


@dataclass(frozen=True)
class WindowRows:
    """W windows, one entry each: a batch, or a selection of the windows of a split."""

    context: int
    """S, the context length."""
    targets: Tensor
    """(W,) int64 rows of the targets."""
    groups: Tensor
    """(W,) int32 group of the target's document: the unit of bootstraps and of InfoNCE's mask."""
    available: Tensor | None
    """(W,) int32 number of context vectors, at most S; None if every window has S."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> WindowRows:
        """Return the windows at the positions `index`, in that order."""
        available = None if self.available is None else self.available[index]
        return WindowRows(self.context, self.targets[index], self.groups[index], available)


@dataclass(frozen=True)
class WindowIndex:
    """All W windows of a split, their targets ascending: computed from the table of documents, not stored.

    The split's K documents that have windows take 12 bytes each, whatever the number of windows.
    """

    context: int
    """S, the context length."""
    min_context: int
    """Context vectors of a document's first window."""
    start_K: Tensor
    """(K + 1,) int64 position of each document's first window; the last entry is W."""
    document_K: Tensor
    """(K,) int32 number of each document in the table."""
    first_M: Tensor
    """(M,) int64 first row of every document of the table."""
    group_M: Tensor
    """(M,) int32 group of every document of the table."""

    def __len__(self) -> int:
        return int(self._count)

    @cached_property
    def _count(self) -> int:
        return int(self.start_K[-1])  # read once: on a GPU this waits

    def take(self, index: Tensor) -> WindowRows:
        """Return the windows at the positions `index` (B,), in that order."""
        # A process of several has every n-th entry of a batch, which is not contiguous.
        number_B = torch.searchsorted(self.start_K, index.contiguous(), right=True).sub_(1)
        document_B = self.document_K[number_B]
        # Chunks of the document before the target.
        before_B = index - self.start_K[number_B] + self.min_context
        available = None
        if self.min_context < self.context:
            available = before_B.clamp(max=self.context).to(torch.int32)
        return WindowRows(self.context, self.first_M[document_B] + before_B, self.group_M[document_B], available)

    def to(self, device: torch.device) -> WindowIndex:
        """Return the same index on another device."""
        columns = (self.start_K, self.document_K, self.first_M, self.group_M)
        return WindowIndex(self.context, self.min_context, *(column.to(device) for column in columns))

    @cached_property
    def all_windows(self) -> WindowRows:
        """Every window, 12 to 16 bytes each: for splits that are evaluated as a whole, never for train."""
        return self.take(torch.arange(len(self), device=self.start_K.device))

    @property
    def targets(self) -> Tensor:
        """(W,) int64 rows of the targets, ascending; see `all_windows`."""
        return self.all_windows.targets

    @property
    def groups(self) -> Tensor:
        """(W,) int32 group of each target's document; see `all_windows`."""
        return self.all_windows.groups

    @property
    def available(self) -> Tensor | None:
        """(W,) int32 number of context vectors, at most S; None if every window has S; see `all_windows`."""
        return None if self.min_context >= self.context else self.all_windows.available


Windows = WindowRows | WindowIndex


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

    def sample_later_chunks(self, index: Tensor, count: int, share: slice | None = None) -> tuple[Tensor, Tensor]:
        """Draw chunks after each window's target in its document: the candidates hardest to tell from the target.

        For each window at the positions `index` (B,), `count` chunks are drawn uniformly with replacement from torch's
        random generator. Returns the vectors (B, K, D), and (B,) False if the target is the last chunk of its document.
        With `share`, numbers are drawn for all windows, and only these windows' vectors are returned.
        """
        uniform_BK = torch.rand(len(index), count, device=index.device)
        if share is not None:
            index, uniform_BK = index[share], uniform_BK[share]
        # Count the chunks from each target to the end of its document.
        end_M = self._document_ends
        target_B = self.windows.take(index).targets
        later_B = end_M[torch.searchsorted(end_M, target_B, right=True)] - target_B - 1
        # One gather for all; a target that is the last chunk is read itself, and the caller masks it.
        distance_BK = (uniform_BK * later_B[:, None]).long() + (later_B > 0)[:, None]
        vectors_KD = self.vectors.index_select(0, (target_B[:, None] + distance_BK).flatten())
        return vectors_KD.view(len(index), count, -1), later_B > 0

    @cached_property
    def _document_ends(self) -> Tensor:
        """(M,) row after the last one of every document, ascending, on the vectors' device."""
        return _as_tensor(self.documents.first_row + self.documents.rows).to(self.vectors.device)


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


def index_windows(
    documents: DocumentTable, split: str | None, context: int, min_context: int | None = None
) -> WindowIndex:
    """Index the windows of a split (None: of all documents) whose targets have at least `min_context` predecessors.

    `min_context` is `context` by default. It may exceed `context`, so that context lengths can be compared on the same
    windows. Documents that are too short have no windows.
    """
    min_context = context if min_context is None else min_context
    # A document of n rows has the targets min_context … n - 1.
    has_windows_M = documents.rows > min_context
    if split is not None:
        has_windows_M &= documents.splits == SPLITS.index(split)
    # Every temporary array has 4 bytes a document: at 5·10^7 documents, one of 8 would take 0.4 GB.
    document_K = np.arange(len(documents), dtype=np.int32)[has_windows_M]
    count_K = documents.rows[has_windows_M]
    count_K -= min_context
    start_K = np.zeros(len(document_K) + 1, np.int64)
    np.cumsum(count_K, out=start_K[1:])
    # Groups are numbers of documents; compiled operations read them as int32.
    group_M = documents.group.astype(np.int32, copy=False)
    first_M = documents.first_row.astype(np.int64, copy=False)
    columns = (start_K, document_K, first_M, group_M)
    return WindowIndex(context, min_context, *(_as_tensor(column) for column in columns))


def _as_tensor(column: NDArray[Any]) -> Tensor:
    """Return an array as a tensor that shares its memory, if it is writable, which torch requires."""
    return torch.from_numpy(np.require(column, requirements=["C", "W"]))


def gather(vectors: Tensor, windows: Windows, index: Tensor | None = None, reversed_count: int = 0) -> Batch:
    """Return the windows at the positions `index` (B,) as one batch, in one gather of B·(S+1) rows.

    `vectors` (N, D) are on the device of the windows; the batch has their dtype. The last `reversed_count` windows are
    reversed: their oldest vector is the target, and the vectors after it, including the true target, are its context,
    nearest last.
    """
    # Rows of the context, oldest first: the target's row minus S … 1.
    selected = windows.take(torch.arange(len(windows), device=vectors.device) if index is None else index)
    steps_S = torch.arange(windows.context, 0, -1, device=vectors.device)
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


def _first_reversed(windows: WindowRows, reversed_count: int) -> tuple[Tensor, Tensor]:
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
