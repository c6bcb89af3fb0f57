"""Preflight: is a store fit to train and to judge on? Every check is one sentence with a light.

Red means that a training on this store would be worthless; amber, that its scores need care. Each rule is a pure
function of the figures that `measure.py` takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from nextvec.core.formatting import Status
from nextvec.data.checks.duplicates import NEAR, Figures
from nextvec.data.checks.findings import Finding
from nextvec.data.checks.statistics import NORM_TOLERANCE
from nextvec.data.space import SAME_SPACE_COSINE
from nextvec.data.splits import SPLITS

LEAK_RED = 0.01
"""Share of a split's rows that are in train too from which its scores mean nothing."""
REPEATS_AMBER = 0.01
"""Share of a split's rows that repeat another of its rows from which its scores need care."""
NEAR_AMBER, NEAR_RED = 0.01, 0.1
"""Share of a split's sampled rows with a near twin in train from which its scores need care, and mean nothing."""
NEAR_REPEATS_AMBER = 0.1
"""Share of a split's sampled rows with a near twin in another document of it from which its scores need care."""
RANDOM_COSINE = 0.9
"""Mean cosine of vectors of different documents above which all vectors are near duplicates of each other."""
FEW_DIRECTIONS = 8
"""Effective rank below which unrelated vectors are near each other by chance."""
FEW_GROUPS = 20
"""Below that many independent documents an interval says little."""


def _sound(figures: Figures, whose: str, rows: int) -> Iterator[Finding]:
    lowest, highest = figures["norm"] or (0, 0)
    for name, fault, what, remedy, fine in (
        ("numbers", "not_finite", "NaN or infinite", "encode their texts again", "all vectors are finite"),
        ("zero vectors", "zero", "zero", "drop their texts, or encode them again", "no vector is zero"),
        (
            "length", "not_unit", f"not of length 1 (from {lowest:.3g} to {highest:.3g})", "bring them to unit length",
            f"lengths are 1 ± {NORM_TOLERANCE:g}",
        ),
    ):  # fmt: skip
        count, first = figures[fault]["count"], figures[fault]["first"]
        if count:
            found = f"{whose}{count:,} of {rows:,} vectors {_are(count)} {what}, the first is {first}"
            yield Finding(name, Status.RED, f"{found}; {remedy} and build the store again")
        else:
            yield Finding(name, Status.GREEN, f"{whose}{fine}")


def _fingerprint(figures: Figures) -> Iterator[Finding]:
    """Did the encoder that was named make the vectors?"""
    for name, found in figures.get("fingerprint", {}).items():
        told = f"{found['encoder']} against the {name}'s {found['store']}"
        if found["dimensions"][0] != found["dimensions"][1]:
            yield Finding("fingerprint", Status.RED, f"another encoder made the {name}: {told}; use that one")
        elif found["cosine"] is None:
            remedy = "nothing says which encoder made it; build it from its texts to know"
            yield Finding(
                "fingerprint", Status.AMBER, f"the {name} or the encoder has no fingerprint ({told}); {remedy}"
            )
        elif found["cosine"] < SAME_SPACE_COSINE:
            differs = f"the probe texts' vectors have cosine {found['cosine']:.3f} at the lowest"
            yield Finding(
                "fingerprint", Status.RED, f"another encoder made the {name}: {differs}, {told}; use that one"
            )
        else:
            yield Finding("fingerprint", Status.GREEN, f"the {name} is of {found['encoder']}: the probe texts agree")


def _repeats(figures: Figures) -> Iterator[Finding]:
    splits = figures["splits"]
    told = "repeated rows within a split: " + ", ".join(
        f"{name} {split['repeats']:,} of {split['rows']:,}" for name, split in splits.items()
    )
    if any(split["repeats"] > REPEATS_AMBER * split["rows"] for split in splits.values()):
        yield Finding("repeats", Status.AMBER, f"{told}; drop them, they count twice in every score")
    else:
        yield Finding("repeats", Status.GREEN, told)


def _leaks(figures: Figures) -> Iterator[Finding]:
    torn = figures["torn_groups"]
    if torn["count"]:
        groups = "1 group of documents is" if torn["count"] == 1 else f"{torn['count']:,} groups of documents are"
        found = f"{groups} in two splits, such as {torn['example']}"
        yield Finding("groups", Status.RED, f"{found}; keep each in one split and build the store again")
    else:
        yield Finding("groups", Status.GREEN, "documents that belong together are in one split")
    for name, split in figures["splits"].items():
        count = split.get("in_train")
        if count is None:  # train itself
            continue
        if count:
            share = count / split["rows"]
            found = f"{count:,} of {split['rows']:,} rows of {name} ({share:.1%}) {_are(count)} in train too"
            remedy = f"such as {split['in_train_example']}; drop these repeats and build the store again"
            yield Finding(f"{name} in train", Status.RED if share > LEAK_RED else Status.AMBER, f"{found}, {remedy}")
        else:
            yield Finding(f"{name} in train", Status.GREEN, f"no row of {name} is in train too")


def _near_duplicates(figures: Figures) -> Iterator[Finding]:
    """Chunks that say almost the same as one of another document: within a split, and in train."""
    splits = {name: split for name, split in figures["splits"].items() if "near_repeats" in split}
    if not splits:
        return
    random = max(split["random_cosine"] for split in splits.values())
    rank = min(split["spectrum"]["effective_rank"] for split in splits.values())
    if random > RANDOM_COSINE:
        told = f"vectors of different documents have cosine {random:.2f} on average"
        remedy = "they are nearly constant, and near duplicates can't be told; see that the encoder gets whole texts"
        yield Finding("near duplicates", Status.AMBER, f"{told}: {remedy}")
        return
    if rank < FEW_DIRECTIONS:
        told = f"vectors use {rank:.1f} directions (effective rank)"
        yield Finding("near duplicates", Status.GREEN, f"{told}: too few to tell near duplicates from chance")
        return
    inside = {name: split["near_repeats"] for name, split in splits.items()}
    share, told, example = _tell_near(inside, "another document")
    if share > NEAR_REPEATS_AMBER:
        yield Finding("near repeats", Status.AMBER, f"{told}, {example}; they count twice in every score")
    else:
        yield Finding("near repeats", Status.GREEN, told)
    cross = {name: split["near_in_train"] for name, split in splits.items() if "near_in_train" in split}
    if not cross:
        return
    share, told, example = _tell_near(cross, "train")
    if share > NEAR_RED:
        remedy = "a leak: drop them and build the store again"
        yield Finding("near duplicates", Status.RED, f"{told}, {example}; {remedy}")
    elif share > NEAR_AMBER:
        yield Finding(
            "near duplicates", Status.AMBER, f"{told}, {example}; drop them, a model has seen them in training"
        )
    else:
        yield Finding("near duplicates", Status.GREEN, told)


def _tell_near(found: Figures, where: str) -> tuple[float, str, str]:
    """The highest share of rows with a near twin (0 where it is a single row), all of them in words, and an example."""
    counts = [f"{split['found']:,} of {split['queries']:,} of {name}" for name, split in found.items()]
    worst = max(found.values(), key=lambda split: float(split["found"] / split["queries"]))
    told = f"sampled rows with a near twin (cosine above {NEAR:g}) in {where}, repeats aside: {', '.join(counts)}"
    return worst["found"] / worst["queries"] if worst["found"] > 1 else 0.0, told, f"such as {worst['example']}"


def _windows(figures: Figures) -> Iterator[Finding]:
    for name in SPLITS:
        split = figures["splits"].get(name, {"documents": 0, "windows": 0, "short": 0, "groups": 0})
        label, documents = f"{name} windows", split["documents"]
        told = f"{name} has {split['windows']:,} windows from {documents - split['short']:,} documents" + (
            f", {split['short']:,} more are too short" if split["short"] else ""
        )
        if not documents and name == "ood":
            yield Finding(
                label, Status.GREEN, "there is no ood split: scores will hold for the sources of training only"
            )
        elif not split["windows"]:
            chunks = figures["min_context"] + 1
            why = f"none of its {documents:,} documents has {chunks} chunks" if documents else "it has no documents"
            remedy = f"add documents to {name}, or take a shorter context"
            yield Finding(
                label, Status.AMBER if name == "ood" else Status.RED, f"{name} has no windows, {why}; {remedy}"
            )
        elif name != "train" and split["groups"] < FEW_GROUPS:
            remedy = f"below {FEW_GROUPS} independent documents intervals are wide; add documents to {name}"
            yield Finding(label, Status.AMBER, f"{told}; {remedy}")
        else:
            yield Finding(label, Status.GREEN, told)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
