"""The figures behind the preflight: one pass over all rows, and whole documents of a fixed sample.

An ood set of its own may be measured with a store: it takes the place of the store's ood split.

All figures are plain values, so that the rules of `check.py` and `verdicts.py` can be tried on figures from anywhere.

Letters in names: N rows of the store, R rows of a sample, M documents, Q queries, D dimensions.

Fixed samples of whole documents: what the preflight measures directions and order on.

Letters in names: R rows of a sample, M documents, D dimensions, U units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.covariance import (
    Moments,
    make_coordinates,
    measure_alignment,
    measure_likeness,
    measure_moments,
    measure_spectrum,
    strongest_directions,
)
from nextvec.data.checks.duplicates import Figures, Scan, count_repeats, digests, measure_near, place, scan_rows
from nextvec.data.checks.order import (
    context_mean_cosine,
    measure_agreement,
    measure_arrow,
    measure_coherence,
    measure_forward,
)
from nextvec.data.checks.sampling import Sample, draw_sample
from nextvec.data.space import Space, probe_cosines
from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable, Store

NORM_TOLERANCE = 2e-3
"""How far from 1 a length may be; rounding to float16 moves it by less than 0.0005."""


def measure_store(store: Store, context: int, least: int, sample: int, ood: Store | None = None) -> Figures:
    """Everything that the preflight judges, for windows of `context` vectors, at least `least`, before the target.

    `sample` is the most rows of each split that coherence, order and directions are measured on. Of each split:
    `coherence` by distance, its `fall`, `context_mean` (its cosine with what follows), `spectrum`, `mean_norm`, repeats
    and near repeats; of val and ood also rows that are, or nearly are, in train. `alignment`, `likeness` and `order`
    compare splits with train. `ood` holds the ood split, where it is not the store's own.
    """
    homes = {split: ood if split == "ood" and ood is not None else store for split in SPLITS}
    scans = {home.path: scan_rows(home.vectors) for home in homes.values()}
    train = digests(scans[store.path], store.documents, "train")
    splits: dict[str, Figures] = {}
    samples: dict[str, Sample] = {}
    moments: dict[str, Moments] = {}
    for split, home in homes.items():
        counts = _count_split(home.documents, split, least)
        if counts["documents"]:
            samples[split] = draw_sample(home.vectors, home.documents, split, sample)
            moments[split] = measure_moments(samples[split])
            splits[split] = {**counts, **_measure_split(samples[split], moments[split], context)}
            splits[split].update(count_repeats(scans[home.path], home.documents, split, train))
    strongest_DK = strongest_directions(moments["train"]) if "train" in moments else None
    if strongest_DK is not None:
        means = {split: measured.mean_D for split, measured in moments.items()}
        for split, near in measure_near(homes, scans, means, strongest_DK).items():
            splits[split].update(near)
    return {
        "rows": len(store.vectors),
        "dimensions": store.dimensions,
        "min_context": least,
        **_measure_lengths(scans[store.path], store.documents),
        "ood_set": None if ood is None else _measure_lengths(scans[ood.path], ood.documents),
        "torn_groups": _find_torn_groups(store.documents),
        "splits": splits,
        "mean_direction_cosine": {
            f"{one}-{other}": round(_cosine(moments[one].mean_D, moments[other].mean_D), 4)
            for one in moments
            for other in moments
            if SPLITS.index(one) < SPLITS.index(other)
        },
        **({} if strongest_DK is None else _compare_with_train(samples, moments, strongest_DK)),
    }


def measure_fingerprint(own: Space, encoder: Space) -> Figures:
    """The probes of a store's space beside an encoder's: their lowest `cosine`, None where they can't be compared."""
    cosine = None
    if own.probes is not None and encoder.probes is not None and own.probes.shape == encoder.probes.shape:
        cosine = round(float(probe_cosines(own.probes, encoder.probes).min()), 4)
    return {
        "store": str(own),
        "encoder": str(encoder),
        "dimensions": [own.dimensions, encoder.dimensions],
        "cosine": cosine,
    }


def shared_rows(train: Store, other: Store, split: str) -> float:
    """The part of a split's rows in `other` that are rows of the train split of `train`, too: from 0 to 1."""
    seen = digests(scan_rows(train.vectors), train.documents, "train")
    rows = digests(scan_rows(other.vectors), other.documents, split)
    return float((seen.count(rows.digest) > 0).mean()) if len(rows.digest) else 0.0


def _measure_lengths(scan: Scan, documents: DocumentTable) -> Figures:
    """Rows that are NaN or infinite, zero, or not of unit length; and the shortest and longest usable row."""
    finite, zero = np.isfinite(scan.norm), scan.norm == 0
    usable = scan.norm[finite & ~zero]
    return {
        "not_finite": _tell(~finite, documents),
        "zero": _tell(zero, documents),
        "not_unit": _tell(finite & ~zero & (np.abs(scan.norm - 1) > NORM_TOLERANCE), documents),
        "norm": [round(float(usable.min()), 4), round(float(usable.max()), 4)] if len(usable) else None,
    }


def _tell(chosen_N: NDArray[np.bool_], documents: DocumentTable) -> Figures:
    """How many rows are chosen, and where the first is."""
    count = int(chosen_N.sum())
    return {"count": count, "first": place(documents, int(chosen_N.argmax())) if count else None}


def _count_split(documents: DocumentTable, split: str, least: int) -> Figures:
    """Documents, groups, rows and windows of a split; `groups` counts those that have windows."""
    chosen = documents.splits == SPLITS.index(split)
    rows = documents.rows[chosen]
    return {
        "documents": len(rows),
        "groups": len(np.unique(documents.group[chosen][rows > least])),
        "rows": int(rows.sum()),
        "windows": int(np.maximum(rows - least, 0).sum()),
        "short": int((rows <= least).sum()),
    }


def _find_torn_groups(documents: DocumentTable) -> Figures:
    """Groups of documents that are in more than one split."""
    order = np.argsort(documents.group, kind="stable")
    group, split = documents.group[order], documents.splits[order]
    # In the order of groups, a group is torn where two neighbours of it are in different splits.
    breaks = np.flatnonzero((group[1:] == group[:-1]) & (split[1:] != split[:-1]))
    if not len(breaks):
        return {"count": 0, "example": None}
    one, other = order[breaks[0]], order[breaks[0] + 1]
    example = (
        f"'{documents.ids[one]}' in {SPLITS[documents.splits[one]]} and "
        f"'{documents.ids[other]}' in {SPLITS[documents.splits[other]]}"
    )
    return {"count": len(np.unique(group[breaks])), "example": example}


def _measure_split(sample: Sample, moments: Moments, context: int) -> Figures:
    """What a sample of a split says of its own."""
    coherence, fall = measure_coherence(sample)
    return {
        "coherence": coherence,
        "fall": fall,
        "context_mean": context_mean_cosine(sample, context),
        "mean_norm": round(float(np.linalg.norm(moments.mean_D)), 4),
        "spectrum": measure_spectrum(moments.covariance_DD),
    }


def _compare_with_train(
    samples: dict[str, Sample], moments: dict[str, Moments], strongest_DK: NDArray[np.float32]
) -> Figures:
    """How the other splits lie to train: `alignment` and `likeness` of their directions; and `order` of each split."""
    figures: Figures = {"alignment": {}, "likeness": {}, "order": {}}
    coordinates = make_coordinates(moments["train"])
    if coordinates is None:
        return figures
    train_RK = coordinates.read(samples["train"])
    train_arrow = measure_arrow(train_RK, samples["train"])
    for split, sample in samples.items():
        read_RK = train_RK if split == "train" else coordinates.read(sample)
        arrow = train_arrow if split == "train" else measure_arrow(read_RK, sample)
        if arrow is not None:
            figures["order"][split] = measure_forward(arrow)
        if split == "train":
            continue
        if arrow is not None and train_arrow is not None:
            figures["order"][split]["against_train"] = measure_agreement(arrow, train_arrow)
        alignment = measure_alignment(moments[split], strongest_DK)
        if alignment is not None:
            figures["alignment"][split] = alignment
        figures["likeness"][split] = measure_likeness(train_RK, samples["train"], read_RK, sample)
    return figures


def _cosine(one_D: NDArray[np.float64], other_D: NDArray[np.float64]) -> float:
    return float(one_D @ other_D / max(float(np.linalg.norm(one_D) * np.linalg.norm(other_D)), 1e-12))
