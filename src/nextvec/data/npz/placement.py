"""Find where each target is in its document, from the windows alone: right after the context, inside it, or elsewhere.

Windows of one document overlap, so the contexts of other windows show how a context continues. If the last S - s
vectors of a context begin another context (a window s chunks later), its next vector must be the target.

All functions work on numbers of vectors; equal numbers mean equal vectors. Letters in names: W windows, T = S + 1
vectors of a window, K vectors of a sequence.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SKIPPED = 4
"""Largest number of chunks between context and target for which a constant gap is recognized."""


class Placement(IntEnum):
    """Where the target of a window is."""

    UNKNOWN = 0
    """No other window continues the context."""
    NEXT = 1
    """Right after the context, as it must be."""
    IN_CONTEXT = 2
    """The target is a vector of its own context."""
    BEFORE = 3
    """At the wrong end: contexts are newest first, or targets are the chunks before their contexts."""
    SKIPPED = 4
    """A few chunks after the context, not the next one."""
    FOREIGN = 5
    """Nowhere near: the target belongs to another window."""


def place_targets(vectors_WT: NDArray[np.int32]) -> NDArray[np.int8]:
    """Return the placement (W,) of each window's target. The windows are of one file and have no labels."""
    context_WS, target_W = vectors_WT[:, :-1], vectors_WT[:, -1]
    # In which direction do most targets continue their contexts?
    forward_W = _continue_contexts(context_WS, target_W)
    backward_W = _continue_contexts(context_WS[:, ::-1], target_W) if context_WS.shape[1] > 1 else forward_W
    is_next_W, is_before_W = forward_W == Placement.NEXT, backward_W == Placement.NEXT
    placement_W = np.where(is_before_W.sum() > is_next_W.sum(), backward_W, forward_W)
    # If a file has both directions, the last window of a document in one looks like a wrong one in the other.
    if min(is_before_W.sum(), is_next_W.sum()) > 0:
        is_unclear_W = (forward_W == Placement.UNKNOWN) | (backward_W == Placement.UNKNOWN)
        placement_W[is_unclear_W] = Placement.UNKNOWN
    placement_W[is_before_W] = Placement.BEFORE
    placement_W[is_next_W] = Placement.NEXT
    # A target that doesn't continue its context may be a chunk farther on.
    is_foreign_W = placement_W == Placement.FOREIGN
    if is_foreign_W.any():
        is_skipped_W, is_near_end_W = _find_skipped(context_WS, target_W)
        placement_W[is_foreign_W & is_skipped_W] = Placement.SKIPPED
        # Near the end of a document, the chunks that would show a gap are missing.
        if 2 * (is_foreign_W & is_skipped_W).sum() > is_foreign_W.sum():
            placement_W[is_foreign_W & ~is_skipped_W & is_near_end_W] = Placement.UNKNOWN
    is_inside_W = (context_WS == target_W[:, None]).any(axis=1)
    placement_W[is_inside_W & ~is_next_W] = Placement.IN_CONTEXT
    return placement_W


def _continue_contexts(context_WS: NDArray[np.int32], target_W: NDArray[np.int32]) -> NDArray[np.int8]:
    """Return NEXT for targets (W,) that continue their contexts as another context does, FOREIGN for those that don't.

    UNKNOWN if the last vectors of the context begin no other context.
    """
    context = context_WS.shape[1]
    placement_W = np.full(len(context_WS), Placement.UNKNOWN, np.int8)
    if context == 1:
        placement_W[np.isin(target_W, context_WS[:, 0])] = Placement.NEXT
    # A stride of 1 has the longest overlap, which is the best evidence; windows without one may have a longer stride.
    for overlap in range(context - 1, 0, -1):
        open_W = placement_W == Placement.UNKNOWN
        ends_WK, target_W1 = context_WS[open_W, -overlap:], target_W[open_W, None]
        placement = np.full(len(ends_WK), Placement.UNKNOWN, np.int8)
        placement[np.isin(sequence_keys(ends_WK), sequence_keys(context_WS[:, :overlap]))] = Placement.FOREIGN
        continued = np.isin(sequence_keys(np.hstack([ends_WK, target_W1])), sequence_keys(context_WS[:, : overlap + 1]))
        placement[continued] = Placement.NEXT
        placement_W[open_W] = placement
    return placement_W


def sequence_keys(rows_WK: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row of numbers (W, K), in order; equal for equal rows."""
    keys = np.zeros(len(rows_WK), np.uint64)
    for column in rows_WK.T:
        # The mixing steps of splitmix64, so that similar rows get unrelated keys.
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + column.astype(np.uint64) + np.uint64(1)
        keys ^= keys >> np.uint64(30)
        keys *= np.uint64(0xBF58476D1CE4E5B9)
        keys ^= keys >> np.uint64(27)
    return keys


def _find_skipped(
    context_WS: NDArray[np.int32], target_W: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each target (W,) is 2 to MAX_SKIPPED chunks after its context, following overlapping contexts.

    Also returns the windows (W,) that fewer than MAX_SKIPPED overlapping contexts follow.
    """
    windows = len(context_WS)
    begins, first = np.unique(sequence_keys(context_WS[:, :-1]), return_index=True)
    ends = sequence_keys(context_WS[:, 1:])
    # The later window of each window, or `windows` if there is none; that index leads to itself.
    position = np.minimum(np.searchsorted(begins, ends), len(begins) - 1)
    later_W = np.append(np.where(begins[position] == ends, first[position], windows), windows)
    last_W = np.append(context_WS[:, -1], -1)
    skipped_W = np.zeros(windows, bool)
    step_W = later_W[:-1]
    for _ in range(2, MAX_SKIPPED + 1):
        step_W = later_W[step_W]
        skipped_W |= last_W[step_W] == target_W
    return skipped_W, step_W == windows
