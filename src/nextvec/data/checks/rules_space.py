"""Rule of the data check about embedding spaces: are the vectors of val and ood in the space of train?

The thresholds come from `bench/space_check.py`, which compares corpora of many kinds in one space with each other, and
with the same corpora in other spaces. docs/explanation/evaluation.md has its table of error rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from nextvec.core.formatting import Status
from nextvec.data.checks.embedding_space import MAX_FOREIGN
from nextvec.data.checks.findings import Finding, Statistics, make_finding

MIN_DIFFERENCES = 20
"""Number of differences of adjacent chunks, in both sets, below which nothing is assessed."""
MIN_DIFFERENCES_FOR_RED = 100
"""Number of differences, in both sets, below which another space is never certain: a handful of documents."""
MIN_DOCUMENTS_FOR_RED = 6
"""Number of documents, in both sets, below which another space is never certain: halves of fewer show no chance."""
MIN_DIFFERENCES_FOR_PART = 1_000
"""Number of differences, in one of the sets, below which a part of the dimensions is never certain to be foreign."""

MAX_EXCESS, MAX_EXCESS_ERRORS = 0.1, 2.0
"""Excess over the expected share above which the space is another, plus this many of its standard errors."""
MIN_ALL_FOREIGN = 0.75
"""Share of foreign dimensions above which the spaces have nothing in common, so that no share can be expected.
Rotations and other models have 0.8 to 1; the most different texts in one space 0.6."""
MAX_EXPECTED = 0.15
"""Expected share above which even half of the dimensions could be foreign without showing."""
MAX_UNKNOWN = 0.5
"""Share of foreign dimensions up to which a high expected share explains it; above, the space is at least unsure."""
MAX_TRAIN_FOREIGN = 0.5
"""Share of foreign dimensions between two halves of train above which its dimensions cannot be told apart."""

MAX_DISPLACEMENT, MAX_CERTAIN_DISPLACEMENT = 1.5, 3.0
"""Displacements above which the space is unsure and another. Texts of one space have 0.1 to 1.9, rows of numbers up to
2.8; other poolings and layers 4 to 15 in comparison with a training set of several thousand rows."""
MIN_COMMON_SHARE, MIN_CERTAIN_SHARE = 0.6, 0.7
"""Minimum shares of the mean in the distance of all rows, because a set of very unusual texts is far away as well."""
MIN_VARIANCE_CORRELATION, CORRELATION_ERRORS = 0.2, 2.0
"""Variance correlation below which, minus this many standard errors (1 / √D), the space is unsure. Below 0, a
displacement of 1 is enough for another space."""
MIN_TRAIN_CORRELATION = 0.5
"""Variance correlation between two halves of train below which the variances of the dimensions show nothing."""
MAX_CENTERED_STRENGTH, MIN_CENTERED_UNITS = 0.15, 20
"""Mean strength below which vectors were centered, and the number of documents that it takes to show. Texts without a
common mean have the cosine of two chunks of a document, 0.3 to 0.6; a common mean adds to it with every document."""

_OUTCOMES = {
    None: "space unknown",
    Status.GREEN: "same space",
    Status.AMBER: "unsure space",
    Status.RED: "another space",
}


def check_spaces(statistics: Statistics) -> Iterator[Finding]:
    """Check that the vectors of val and ood are in the training set's embedding space."""
    for split, space in statistics.get("space", {}).items():
        status, reasons = assess_space(space)
        measured = {} if space is None else space
        outcome = _OUTCOMES[status]
        if status != Status.GREEN and _shares_encoder(statistics, split):
            # One encoder made both sets: another space is impossible, but a file may be damaged.
            status, outcome = (Status.AMBER, "unusual vectors") if status else (Status.GREEN, "same encoder")
        yield make_finding(outcome, status or Status.GREEN, split=split, reasons="; ".join(reasons), **measured)


def is_another_space(statistics: Statistics, split: str) -> bool:
    """Return whether a split is in another embedding space than train, without doubt."""
    status, _ = assess_space(statistics.get("space", {}).get(split))
    return status == Status.RED and not _shares_encoder(statistics, split)


def _shares_encoder(statistics: Statistics, split: str) -> bool:
    """Return whether one encoder is known to have made the vectors of a split and of train."""
    return bool(statistics.get("same_encoder", {}).get(split))


def assess_space(space: Statistics | None) -> tuple[Status | None, list[str]]:
    """Return the status of the figures of `compare_spaces`, None if they show nothing, and the reasons, as clauses."""
    if space is None or min(space["differences"], space["train_differences"]) < MIN_DIFFERENCES:
        return None, ["too few adjacent chunks"]
    assessed = [_assess_dimensions(space), _assess_location(space)]
    reasons = [reason for _, reason in assessed if reason]
    statuses = {status for status, _ in assessed}
    # A handful of documents may be unlike train in any way, and unlike a train set without structure.
    pairs = min(space["differences"], space["train_differences"])
    documents = min(space["units"], space["train_units"])
    if Status.RED in statuses and space["train_foreign"] > MAX_TRAIN_FOREIGN:
        return Status.AMBER, reasons
    if Status.RED in statuses and min(pairs / MIN_DIFFERENCES_FOR_RED, documents / MIN_DOCUMENTS_FOR_RED) < 1:
        return Status.AMBER, [*reasons, f"there are only {documents} documents with {pairs} pairs of adjacent chunks"]
    for status in (Status.RED, Status.AMBER):
        if status in statuses:
            return status, reasons
    return (None if None in statuses else Status.GREEN), reasons


def _assess_dimensions(space: Statistics) -> tuple[Status | None, str]:
    """Assess the share of foreign dimensions, which rotations, permutations, signs and other models change."""
    foreign, expected = space["foreign_dimensions"], space["expected_foreign"]
    if space["train_foreign"] > MAX_TRAIN_FOREIGN:
        return None, "the dimensions of train have no correlations that distinguish them"
    if foreign <= min(MAX_FOREIGN + expected, MAX_UNKNOWN):
        doubt = "too few chunks, or too uniform ones" if expected > MAX_EXPECTED else ""
        return (None if doubt else Status.GREEN), doubt
    chance = space["chance_foreign"]
    if foreign <= MAX_FOREIGN + chance:
        return None, f"documents of one set differ as much from each other, in {chance:.0%} of the dimensions"
    # Nothing can be expected for spaces that have nothing in common: the similarities are then all noise.
    explained = chance if foreign > MIN_ALL_FOREIGN else max(chance, expected)
    # The share is twice the mean of D outcomes that are 1 with probability `explained` / 2, or 1 / D if none was seen.
    rate = max(explained / 2, 1 / space["dimensions"])
    error = 2 * math.sqrt(rate * (1 - rate) / space["dimensions"])
    is_certain = max(space["differences"], space["train_differences"]) >= MIN_DIFFERENCES_FOR_PART
    is_another = foreign > explained + MAX_EXCESS + MAX_EXCESS_ERRORS * error and (
        is_certain or foreign > MIN_ALL_FOREIGN
    )
    reason = f"{foreign:.0%} of the dimensions do not correspond to train's"
    if explained:
        reason += f" (expected by chance for such documents: {explained:.0%})"
    return (Status.RED if is_another else Status.AMBER), reason


def _assess_location(space: Statistics) -> tuple[Status, str]:
    """Assess displacement and variances, which other poolings, layers and scales of the same dimensions change."""
    displacement, share = space["displacement"], space["common_share"]
    correlation, dimensions = space["variance_correlation"], space["dimensions"]
    shifted = (
        f"the mean vector is {math.sqrt(displacement):.1f} times as far from train's mean as a chunk of train, and "
        f"{share:.0%} of the squared distance is common to all chunks"
    )
    scaled = f"the variances of the dimensions have rank correlation {correlation:.2f} with train's"
    if space["train_variance_correlation"] < MIN_TRAIN_CORRELATION:
        correlation, scaled = 1.0, ""
    if share > MIN_CERTAIN_SHARE and displacement > (1.0 if correlation < 0 else MAX_CERTAIN_DISPLACEMENT):
        return Status.RED, f"{shifted}; {scaled}".removesuffix("; ")
    if displacement > MAX_DISPLACEMENT and share > MIN_COMMON_SHARE:
        return Status.AMBER, shifted
    is_centered = space["mean_strength"] < MAX_CENTERED_STRENGTH and space["units"] >= MIN_CENTERED_UNITS
    if is_centered and space["train_mean_strength"] > 1:
        return Status.AMBER, "the vectors were centered (their mean is zero), and those of train were not"
    is_scaled = correlation < MIN_VARIANCE_CORRELATION - CORRELATION_ERRORS / math.sqrt(dimensions)
    return (Status.AMBER, scaled) if is_scaled else (Status.GREEN, "")
