"""Describe the windows of a file: where their targets are, how many are linked, and why a file has a single group.

The numbers go to the store's manifest, and the data check turns them into findings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.npz.crossing import Crossing
from nextvec.data.npz.files import WindowFile
from nextvec.data.npz.index import WindowIndex
from nextvec.data.npz.placement import Placement, place_targets
from nextvec.data.npz.relink import Chains, link_windows

HUB_CHAINS = 10
"""A vector in at least this many chains is a repeated text that links documents."""
MAX_WRONG_SHARE = 0.05
"""Share of targets at a wrong place above which that is the cause of a single group."""


def describe_windows(index: WindowIndex, files: Mapping[str, WindowFile], crossing: Crossing) -> dict[str, Any]:
    """Return the facts about the windows of each file, by split: plain values for the manifest."""
    facts = {}
    for number, (split, file) in enumerate(files.items()):
        vectors_WT = index.vectors_WT[index.file_W == number]
        # A target is placed after windows across borders are left out: at a border, the next chunk is another text.
        placement_W = place_targets(vectors_WT)
        counts = {place.name.lower(): int((placement_W == place).sum()) for place in Placement}
        facts[split] = {
            "file": file.path.name,
            "windows": file.windows,
            "targets": counts,
            "sharing": _count_sharing(vectors_WT, index.padding),
            "linked": _count_linked(vectors_WT),
            "padded": int((index.padded_W[index.file_W == number] > 0).sum()),
            "crossing": file.windows - len(vectors_WT),
            "borders": crossing.way.get(number, ""),
            "has_documents": file.documents is not None,
            "near_equal_distance": None if index.near is None else round(index.near.distance, 7),
        }
    return facts


def _count_sharing(vectors_WT: NDArray[np.int32], padding: int) -> int:
    """Return the number of windows that share a vector with another window."""
    # Count the windows of each vector: sort each window, so that a vector that it repeats counts once.
    sorted_WT = np.sort(vectors_WT, axis=1)
    is_new_WT = np.ones(sorted_WT.shape, bool)
    is_new_WT[:, 1:] = sorted_WT[:, 1:] != sorted_WT[:, :-1]
    windows_V = np.bincount(sorted_WT[is_new_WT])
    if padding >= 0:
        windows_V[padding : padding + 1] = 0
    return int((windows_V[vectors_WT] > 1).any(axis=1).sum())


def _count_linked(vectors_WT: NDArray[np.int32]) -> int:
    """Return the number of windows that follow another one, or are followed."""
    chains = link_windows(vectors_WT, np.zeros(len(vectors_WT), np.int64))
    return int(chains.windows_C[chains.windows_C > 1].sum())


def explain_single_group(facts: dict[str, Any], index: WindowIndex, chains: Chains, unclear: int) -> tuple[str, str]:
    """Return why a train file's windows are in one group, or too few, and what to do about it."""
    windows, targets = len(index), facts["targets"]
    distinct = len(np.unique(index.vectors_WT))
    if distinct <= 2:
        return f"all its vectors are equal ({distinct} distinct)", "Check the encoder, and encode the texts again."
    # Targets that don't continue their contexts link windows of different documents.
    known = max(windows - targets["unknown"], 1)
    if targets["foreign"] > MAX_WRONG_SHARE * known:
        share = targets["foreign"] / known
        return (
            f"{targets['foreign']:,} of {known:,} targets ({share:.0%}) do not continue their contexts: targets were "
            "shuffled, or belong to other windows",
            "Save each target in the row of its context.",
        )
    if windows == 1:
        return "it has one window", "Name a file with more windows."
    if len(chains) == 1:
        return (
            f"its {windows:,} windows form one sequence: a single document, or windows that slide over the borders of "
            "documents, which the vectors do not show",
            "Name the document of each window with --documents labels.npy, or a val file with --val-file.",
        )
    hubs, share = _find_hubs(index, chains)
    if hubs:
        return (
            f"{hubs:,} repeated {'vector links' if hubs == 1 else 'vectors link'} {HUB_CHAINS} or more documents, "
            f"in {share:.0%} of the windows: repeated texts, such as headings or empty chunks",
            "Drop the windows with these vectors, or name a val file with --val-file.",
        )
    if unclear:
        return (
            f"its {windows:,} windows form {len(chains):,} linked sequences, and the longest slides over borders of "
            "documents, which the vectors do not show",
            "Name the document of each window with --documents labels.npy, or a val file with --val-file.",
        )
    return (
        f"its {windows:,} windows form {len(chains):,} documents that share vectors or are too few to divide",
        "Name a val file with --val-file, or change the fraction with --val.",
    )


def _find_hubs(index: WindowIndex, chains: Chains) -> tuple[int, float]:
    """Return the number of vectors that occur in many chains, and the share of windows that have one."""
    # One entry per pair of chain and vector.
    vectors = int(index.vectors_WT.max()) + 1
    pairs = np.unique(chains.chain_W[:, None] * vectors + index.vectors_WT)
    chains_V = np.bincount(pairs % vectors, minlength=vectors)
    is_hub_V = chains_V >= HUB_CHAINS
    if index.padding >= 0:
        is_hub_V[index.padding] = False
    if not is_hub_V.any():
        return 0, 0.0
    return int(is_hub_V.sum()), float(is_hub_V[index.vectors_WT].any(axis=1).mean())
