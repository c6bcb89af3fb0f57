"""Measure what the data check judges: one pass over all rows, and statistics of a fixed sample of whole documents.

A separate ood set takes the place of the store's ood split. All statistics are plain values.

Letters in names: N rows of the store, R rows of a sample, D dimensions, K directions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nextvec.data.checks.covariance import (
    Moments,
    make_coordinates,
    measure_moments,
    measure_spectrum,
    measure_train_distance,
)
from nextvec.data.checks.duplicates import (
    RowScan,
    SplitRows,
    count_duplicates,
    describe_row,
    measure_near_duplicates,
    scan_rows,
)
from nextvec.data.checks.embedding_space import compare_spaces, measure_reference
from nextvec.data.checks.findings import Statistics
from nextvec.data.checks.order import (
    context_mean_cosine,
    measure_asymmetry,
    measure_coherence,
    measure_direction,
    measure_forward_signal,
)
from nextvec.data.checks.sampling import Sample, draw_sample
from nextvec.data.checks.targets import measure_targets
from nextvec.data.encoders import share_encoder
from nextvec.data.space import Space, probe_cosines
from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable, Store

NORM_TOLERANCE = 2e-3
"""Maximum deviation of a length from 1; rounding to float16 causes less than 0.0005."""


def measure_store(store: Store, context: int, min_context: int, sample: int, ood: Store | None = None) -> Statistics:
    """Measure a store for windows of `context` vectors, at least `min_context`, before the target.

    `sample` is the maximum number of rows of each split on which coherence, order and directions are measured; `ood`
    holds the ood split if it is a separate set. For each split: counts, duplicates, near duplicates, `coherence` by
    distance, `coherence_drop`, `context_mean` (cosine of a context's mean and its target), `spectrum` and `mean_norm`.
    `space`, `train_distance` and `order` compare the splits with train.
    """
    # Scan each store once, even if several splits are in it.
    stores = {split: ood if split == "ood" and ood is not None else store for split in SPLITS}
    scans = {each.path: scan_rows(each.vectors) for each in stores.values()}
    train_rows = SplitRows(store.documents, scans[store.path], "train")
    splits: dict[str, Statistics] = {}
    samples: dict[str, Sample] = {}
    moments: dict[str, Moments] = {}
    # Measure each split by itself; duplicates also against train.
    for split, home in stores.items():
        counts = _count_split(home.documents, split, min_context)
        if not counts["documents"]:
            continue
        samples[split] = draw_sample(home.vectors, home.documents, split, sample)
        moments[split] = measure_moments(samples[split])
        is_train = split == "train"
        split_rows = train_rows if is_train else SplitRows(home.documents, scans[home.path], split)
        duplicates = count_duplicates(split_rows, None if is_train else train_rows)
        splits[split] = counts | _measure_split(samples[split], moments[split], context) | duplicates
    comparison: Statistics = {}
    if "train" in moments:
        # What only a comparison with train shows: near duplicates, spaces, distances and order.
        means = {split: split_moments.mean_D for split, split_moments in moments.items()}
        for split, near in measure_near_duplicates(stores, scans, means).items():
            splits[split].update(near)
        comparison = _compare_with_train(samples, moments)
        comparison["same_encoder"] = {split: share_encoder(store, stores[split]) for split in comparison["space"]}
    return {
        "rows": len(store.vectors),
        "dimensions": store.dimensions,
        "min_context": min_context,
        "short_documents": store.manifest.get("short_documents"),
        **_measure_lengths(scans[store.path], store.documents),
        "ood_set": None if ood is None else _measure_lengths(scans[ood.path], ood.documents),
        "divided_groups": _find_divided_groups(store.documents),
        "splits": splits,
        "window_files": _window_files(store, ood),
        "mean_direction_cosine": _mean_direction_cosines(moments),
        **comparison,
    }


def _window_files(store: Store, ood: Store | None) -> list[Statistics]:
    """Return what imports of .npz windows recorded about each file; the ood set's facts replace the store's own."""
    facts = dict(store.manifest.get("window_files", {}))
    if ood is not None:
        # A separate set is ood, whatever split its file was imported as.
        facts.pop("ood", None)
        for each in ood.manifest.get("window_files", {}).values():
            facts["ood"] = each
    return [{"split": split, **each} for split, each in facts.items()]


def measure_fingerprint(space: Space, encoder: Space) -> Statistics:
    """Compare the probe vectors of a store's space with an encoder's: lowest `cosine`, None if one has no probes."""
    cosine = None
    if space.probes is not None and encoder.probes is not None and space.probes.shape == encoder.probes.shape:
        cosine = round(float(probe_cosines(space.probes, encoder.probes).min()), 4)
    return {
        "store": str(space),
        "encoder": str(encoder),
        "dimensions": [space.dimensions, encoder.dimensions],
        "cosine": cosine,
    }


def _measure_lengths(scan: RowScan, documents: DocumentTable) -> Statistics:
    """Count the rows that are NaN or infinite, zero, or not of unit length; and find the shortest and longest row."""
    # Each row has at most one of the three faults.
    is_finite, is_zero = np.isfinite(scan.norm_N), scan.norm_N == 0
    usable = scan.norm_N[is_finite & ~is_zero]
    is_off = np.abs(scan.norm_N - 1) > NORM_TOLERANCE
    return {
        "non_finite": _count_rows(~is_finite, documents),
        "zero": _count_rows(is_zero, documents),
        "not_unit_length": _count_rows(is_finite & ~is_zero & is_off, documents),
        "norm": [round(float(usable.min()), 4), round(float(usable.max()), 4)] if len(usable) else None,
    }


def _count_rows(selected_N: NDArray[np.bool_], documents: DocumentTable) -> Statistics:
    """Count the selected rows and describe the first."""
    count = int(selected_N.sum())
    return {"count": count, "first": describe_row(documents, int(selected_N.argmax())) if count else None}


def _count_split(documents: DocumentTable, split: str, min_context: int) -> Statistics:
    """Count documents, rows, windows and short documents of a split; `groups` counts the groups with windows."""
    # A document of n rows has n - min_context windows; only groups with a window are independent evidence.
    is_split_M = documents.splits == SPLITS.index(split)
    rows = documents.rows[is_split_M]
    return {
        "documents": len(rows),
        "groups": len(np.unique(documents.group[is_split_M][rows > min_context])),
        "rows": int(rows.sum()),
        "windows": int(np.maximum(rows - min_context, 0).sum()),
        "short": int((rows <= min_context).sum()),
    }


def _find_divided_groups(documents: DocumentTable) -> Statistics:
    """Count the groups of documents that are in more than one split, with an example."""
    order = np.argsort(documents.group, kind="stable")
    group, split = documents.group[order], documents.splits[order]
    # Sorted by group, a divided group has two adjacent documents in different splits.
    breaks = np.flatnonzero((group[1:] == group[:-1]) & (split[1:] != split[:-1]))
    if not len(breaks):
        return {"count": 0, "example": None}
    first, second = (
        f"'{documents.ids[document]}' in {SPLITS[documents.splits[document]]}"
        for document in order[breaks[0] : breaks[0] + 2]
    )
    return {"count": len(np.unique(group[breaks])), "example": f"{first} and {second}"}


def _measure_split(sample: Sample, moments: Moments, context: int) -> Statistics:
    """Measure a sample of one split by itself."""
    coherence, drop = measure_coherence(sample)
    return {
        "coherence": coherence,
        "coherence_drop": drop,
        "context_mean": context_mean_cosine(sample, context),
        "targets": measure_targets(sample, context),
        "mean_norm": round(float(np.linalg.norm(moments.mean_D)), 4),
        "spectrum": measure_spectrum(moments.covariance_DD),
    }


def _mean_direction_cosines(moments: dict[str, Moments]) -> dict[str, float]:
    """Return the cosine of the mean vectors of each pair of splits, under names such as "train-val"."""
    means = {split: moments[split].mean_D for split in SPLITS if split in moments}
    return {
        f"{first}-{second}": round(_cosine(means[first], means[second]), 4)
        for index, first in enumerate(means)
        for second in list(means)[index + 1 :]
    }


def _compare_with_train(samples: dict[str, Sample], moments: dict[str, Moments]) -> Statistics:
    """Measure the `order` of each split, and the `space` and `train_distance` of val and ood."""
    statistics: Statistics = {"space": {}, "train_distance": {}, "order": {}}
    coordinates = make_coordinates(moments["train"])
    if coordinates is None:
        return statistics
    # All splits are measured in train's directions, so that their numbers can be compared.
    reference = measure_reference(samples["train"])
    train_RK = coordinates.transform(samples["train"])
    train_asymmetry = measure_asymmetry(train_RK, samples["train"])
    for split, sample in samples.items():
        coordinates_RK = train_RK if split == "train" else coordinates.transform(sample)
        asymmetry = train_asymmetry if split == "train" else measure_asymmetry(coordinates_RK, sample)
        if asymmetry is not None:
            statistics["order"][split] = measure_forward_signal(asymmetry)
        if split == "train":
            continue
        # val and ood only: does their time run in the direction of train's, are they in its space, and how far away?
        if asymmetry is not None and train_asymmetry is not None:
            statistics["order"][split]["against_train"] = measure_direction(asymmetry, train_asymmetry)
        statistics["space"][split] = None if reference is None else compare_spaces(sample, reference)
        distance = measure_train_distance(train_RK, samples["train"], coordinates_RK, sample)
        statistics["train_distance"][split] = distance
    return statistics


def _cosine(first_D: NDArray[np.float64], second_D: NDArray[np.float64]) -> float:
    return float(first_D @ second_D / max(float(np.linalg.norm(first_D) * np.linalg.norm(second_D)), 1e-12))
