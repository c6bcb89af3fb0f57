"""Rules of the data check about single rows and documents: values, encoder, duplicates, leaks, windows.

Each rule is a pure function of the statistics of `measure_store`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nextvec.core.formatting import Status
from nextvec.data.checks.duplicates import NEAR_COSINE
from nextvec.data.checks.findings import Finding, Statistics, make_finding
from nextvec.data.checks.statistics import NORM_TOLERANCE
from nextvec.data.space import SAME_SPACE_COSINE
from nextvec.data.splits import MIN_GROUPS, SPLITS, count_groups

MAX_LEAK_SHARE = 0.01
"""Fraction of a split's rows that may also be in train before its scores are meaningless (red)."""
MAX_DUPLICATE_SHARE = 0.01
"""Fraction of a split's rows that may be duplicates before its scores need care (amber)."""
MAX_NEAR_IN_TRAIN_SHARE = {Status.AMBER: 0.01, Status.RED: 0.1}
"""Fraction of a split's sampled rows that may have a near duplicate in train, for each status above green."""
MAX_NEAR_DUPLICATE_SHARE = 0.1
"""Fraction of a split's sampled rows that may have a near duplicate in another document of the split (amber)."""
MAX_RANDOM_COSINE = 0.9
"""Mean cosine of vectors of different documents above which all vectors are near duplicates of each other."""
MIN_EFFECTIVE_RANK = 8
"""Effective rank below which unrelated vectors are near each other by chance."""


def check_values(statistics: Statistics) -> Iterator[Finding]:
    """Check that all vectors are finite, not zero and of unit length."""
    yield from _check_values(statistics, "", statistics["rows"])
    if statistics.get("ood_set"):
        rows = statistics["splits"].get("ood", {"rows": 0})["rows"]
        yield from _check_values(statistics["ood_set"], "OOD set: ", rows)


def _check_values(statistics: Statistics, where: str, rows: int) -> Iterator[Finding]:
    lowest, highest = statistics["norm"] or (0, 0)
    measured = {"where": where, "tolerance": NORM_TOLERANCE, "lowest": lowest, "highest": highest}
    for key, good, bad in (
        ("non_finite", "finite", "not finite"),
        ("zero", "no zeros", "zeros"),
        ("not_unit_length", "unit length", "not unit length"),
    ):
        if statistics[key]["count"]:
            yield make_finding(bad, Status.RED, rows=rows, **measured, **statistics[key])
        else:
            yield make_finding(good, Status.GREEN, **measured)


def check_fingerprint(statistics: Statistics) -> Iterator[Finding]:
    """Check that the encoder that the user named made the vectors."""
    for where, measured in statistics.get("encoder_fingerprint", {}).items():
        # Vectors of different length cannot be compared; equal length alone proves nothing without the probe vectors.
        store_dimensions, encoder_dimensions = measured["dimensions"]
        if store_dimensions != encoder_dimensions:
            outcome, status = "encoder of other dimensions", Status.RED
        elif measured["cosine"] is None:
            outcome, status = "encoder unknown", Status.AMBER
        elif measured["cosine"] < SAME_SPACE_COSINE:
            outcome, status = "encoder differs", Status.RED
        else:
            outcome, status = "encoder matches", Status.GREEN
        yield make_finding(outcome, status, where=where, **measured)


def check_duplicates(statistics: Statistics) -> Iterator[Finding]:
    """Check that few rows of a split duplicate another of its rows."""
    splits = statistics["splits"]
    counts = ", ".join(f"{name} {split['duplicates']:,} of {split['rows']:,}" for name, split in splits.items())
    if any(split["duplicates"] > MAX_DUPLICATE_SHARE * split["rows"] for split in splits.values()):
        yield make_finding("many duplicates", Status.AMBER, counts=counts)
    else:
        yield make_finding("few duplicates", Status.GREEN, counts=counts)


def check_leaks(statistics: Statistics) -> Iterator[Finding]:
    """Check that no group of documents is divided between splits, and no row of val or ood is in train."""
    # A divided group is always red: its chunks are in train and in an evaluated split.
    divided = statistics["divided_groups"]
    if divided["count"]:
        yield make_finding("groups divided", Status.RED, **divided)
    else:
        yield make_finding("groups undivided", Status.GREEN)
    for name, split in statistics["splits"].items():
        count = split.get("in_train")
        if count is None:  # train itself
            continue
        if not count:
            yield make_finding("no leak", Status.GREEN, split=name)
            continue
        # A few common sentences are amber. Above MAX_LEAK_SHARE, scores measure memory.
        share = count / split["rows"]
        status = Status.RED if share > MAX_LEAK_SHARE else Status.AMBER
        measured = {"count": count, "rows": split["rows"], "share": share, "example": split["in_train_example"]}
        yield make_finding("leak", status, split=name, **measured)


def check_near_duplicates(statistics: Statistics) -> Iterator[Finding]:
    """Check that few sampled rows have a near duplicate in another document of their split, or in train."""
    splits = {name: split for name, split in statistics["splits"].items() if "near_duplicates" in split}
    if not splits:
        return
    # If unrelated vectors are near each other anyway, a high cosine is no evidence of a copy.
    cosine = max(split["random_cosine"] for split in splits.values())
    rank = min(split["spectrum"]["effective_rank"] for split in splits.values())
    if cosine > MAX_RANDOM_COSINE:
        yield make_finding("vectors too similar", Status.AMBER, cosine=cosine)
        return
    if rank < MIN_EFFECTIVE_RANK:
        yield make_finding("rank too low", Status.GREEN, rank=rank)
        return
    share, measured = _near_share({name: split["near_duplicates"] for name, split in splits.items()})
    if share > MAX_NEAR_DUPLICATE_SHARE:
        yield make_finding("many near duplicates", Status.AMBER, **measured)
    else:
        yield make_finding("few near duplicates", Status.GREEN, **measured)
    in_train = {name: split["near_in_train"] for name, split in splits.items() if "near_in_train" in split}
    if not in_train:
        return
    # Test the worse status first.
    share, measured = _near_share(in_train)
    for status in (Status.RED, Status.AMBER):
        if share > MAX_NEAR_IN_TRAIN_SHARE[status]:
            yield make_finding("near duplicates in train", status, **measured)
            return
    yield make_finding("few near duplicates in train", Status.GREEN, **measured)


def _near_share(splits: dict[str, Statistics]) -> tuple[float, dict[str, Any]]:
    """Return the highest share of rows with a near duplicate, 0 if it is a single row, and the measured values."""
    counts = ", ".join(f"{split['count']:,} of {split['queries']:,} of {name}" for name, split in splits.items())
    # A single near duplicate may be a coincidence, so it counts as none.
    worst = max(splits.values(), key=lambda split: float(split["count"] / split["queries"]))
    share = worst["count"] / worst["queries"] if worst["count"] > 1 else 0.0
    return share, {"near": NEAR_COSINE, "counts": counts, "example": worst["example"]}


def check_windows(statistics: Statistics) -> Iterator[Finding]:
    """Check that every split has windows, and val and ood have enough independent documents."""
    for name in SPLITS:
        split = statistics["splits"].get(name, {"documents": 0, "windows": 0, "short": 0, "groups": 0})
        measured = {
            "split": name,
            "windows": split["windows"],
            "documents": split["documents"] - split["short"],
            "short": f" ({split['short']:,} more are too short)" if split["short"] else "",
        }
        # Training needs train and val; without ood, only the claim about other sources is lost.
        status_if_missing = Status.AMBER if name == "ood" else Status.RED
        if not split["documents"]:
            if name == "ood":
                yield make_finding("no ood split", Status.GREEN)
            else:
                yield make_finding("no documents", status_if_missing, split=name)
        elif not split["windows"]:
            yield make_finding("no windows", status_if_missing, **_shortness(statistics, name))
        elif name == "train" and 2 * split["short"] > split["documents"]:
            yield make_finding("short documents", Status.AMBER, **_shortness(statistics, name))
        elif name != "train" and split["groups"] < MIN_GROUPS:
            groups = f", which form {count_groups(split['groups'])}" if split["groups"] < measured["documents"] else ""
            yield make_finding("few documents", Status.AMBER, minimum=MIN_GROUPS, groups=groups, **measured)
        else:
            yield make_finding("windows", Status.GREEN, **measured)


def _shortness(statistics: Statistics, name: str) -> dict[str, Any]:
    """Return the measured values of a split with short documents; the build knows the best remedy."""
    split, built = statistics["splits"][name], statistics.get("short_documents")
    remedy = f"Add longer documents to {name}, or set a shorter context."
    values = {key: split[key] for key in ("documents", "short", "windows")}
    chunks = statistics["min_context"] + 1
    return values | {"split": name, "chunks": chunks, "remedy": built["remedy"] if built else remedy}
