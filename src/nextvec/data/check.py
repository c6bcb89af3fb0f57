"""Preflight: is a store fit to train and to judge on? Every check is one sentence with a light.

Red means that a training on this store would be worthless; amber, that its scores need care. Each rule is a pure
function of the figures that `measure.py` takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from nextvec.data.measure import NORM_TOLERANCE, Figures, measure_store
from nextvec.data.split import SPLITS
from nextvec.data.store import Store
from nextvec.lights import LIGHTS, Light

LEAK_RED = 0.01
"""Share of a split's rows that are in train too from which its scores mean nothing."""
REPEATS_AMBER = 0.01
"""Share of a split's rows that repeat another of its rows from which its scores need care."""
CONSTANT = 0.98
"""Mean cosine of neighbours above which vectors are nearly constant."""
COHERENCE_GAP = 0.1
"""Difference of the neighbours' cosine between ood and val above which their scores can't be compared."""
FOREIGN_COSINE = 0.15
"""Cosine of two splits' mean vectors below which they look like those of two unrelated spaces."""
FOREIGN_ALIGNMENT = 0.5
"""Alignment of ood, in parts of val's, below which its vectors are not of the training set's space. Measured: 0.83 to
1.01 for other sources in one space, 0.29 to 0.35 for rotated or permuted vectors."""
FEW_GROUPS = 20
"""Below that many independent documents an interval says little."""


@dataclass(frozen=True)
class Finding:
    """What one check found: what, where, and what to do about it."""

    name: str
    light: Light
    text: str


@dataclass(frozen=True)
class CheckReport:
    """All findings on a store, in the order of the checks, and the figures behind them (plain values)."""

    store: str
    context: int
    findings: tuple[Finding, ...]
    figures: Figures

    @property
    def worst(self) -> Finding:
        """The first finding of the worst light."""
        return max(self.findings, key=lambda finding: LIGHTS.index(finding.light))

    @property
    def light(self) -> Light:
        """The worst light of all findings."""
        return self.worst.light

    def to_dict(self) -> Figures:
        """Plain values, for JSON."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings], "light": self.light}


def check_store(
    store: Store, context: int, min_context: int | None = None, *, ood: Store | None = None, sample: int = 50_000
) -> CheckReport:
    """Check a store for windows of `context` vectors (at least `min_context`, where given).

    `ood` holds the ood split, where it is not the store's own.

    `sample` is the most rows of each split that coherence and mean direction are measured on; the sample is fixed.
    Raises StoreError if the table of documents can't be read.
    """
    figures = measure_store(store, context if min_context is None else min_context, sample, ood)
    return CheckReport(str(store.path), context, judge_figures(figures), figures)


def judge_figures(figures: Figures) -> tuple[Finding, ...]:
    """The findings of all rules on the figures of `measure_store`, in order."""
    return tuple(finding for rule in RULES for finding in rule(figures))


def _numbers(figures: Figures) -> Iterator[Finding]:
    yield from _sound(figures, "", figures["rows"])
    if figures.get("ood_set"):
        yield from _sound(figures["ood_set"], "ood set: ", figures["splits"].get("ood", {"rows": 0})["rows"])


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
            yield Finding(name, "red", f"{found}; {remedy} and build the store again")
        else:
            yield Finding(name, "green", f"{whose}{fine}")


def _repeats(figures: Figures) -> Iterator[Finding]:
    splits = figures["splits"]
    told = "repeated rows within a split: " + ", ".join(
        f"{name} {split['repeats']:,} of {split['rows']:,}" for name, split in splits.items()
    )
    if any(split["repeats"] > REPEATS_AMBER * split["rows"] for split in splits.values()):
        yield Finding("repeats", "amber", f"{told}; drop them, they count twice in every score")
    else:
        yield Finding("repeats", "green", told)


def _leaks(figures: Figures) -> Iterator[Finding]:
    torn = figures["torn_groups"]
    if torn["count"]:
        groups = "1 group of documents is" if torn["count"] == 1 else f"{torn['count']:,} groups of documents are"
        found = f"{groups} in two splits, such as {torn['example']}"
        yield Finding("groups", "red", f"{found}; keep each in one split and build the store again")
    else:
        yield Finding("groups", "green", "documents that belong together are in one split")
    for name, split in figures["splits"].items():
        count = split.get("in_train")
        if count is None:  # train itself
            continue
        if count:
            share = count / split["rows"]
            found = f"{count:,} of {split['rows']:,} rows of {name} ({share:.1%}) {_are(count)} in train too"
            remedy = f"such as {split['in_train_example']}; drop these repeats and build the store again"
            yield Finding(f"{name} in train", "red" if share > LEAK_RED else "amber", f"{found}, {remedy}")
        else:
            yield Finding(f"{name} in train", "green", f"no row of {name} is in train too")


def _windows(figures: Figures) -> Iterator[Finding]:
    for name in SPLITS:
        split = figures["splits"].get(name, {"documents": 0, "windows": 0, "short": 0, "groups": 0})
        label, documents = f"{name} windows", split["documents"]
        told = f"{name} has {split['windows']:,} windows from {documents - split['short']:,} documents" + (
            f", {split['short']:,} more are too short" if split["short"] else ""
        )
        if not documents and name == "ood":
            yield Finding(label, "green", "there is no ood split: scores will hold for the sources of training only")
        elif not split["windows"]:
            chunks = figures["min_context"] + 1
            why = f"none of its {documents:,} documents has {chunks} chunks" if documents else "it has no documents"
            remedy = f"add documents to {name}, or take a shorter context"
            yield Finding(label, "amber" if name == "ood" else "red", f"{name} has no windows, {why}; {remedy}")
        elif name != "train" and split["groups"] < FEW_GROUPS:
            remedy = f"below {FEW_GROUPS} independent documents intervals are wide; add documents to {name}"
            yield Finding(label, "amber", f"{told}; {remedy}")
        else:
            yield Finding(label, "green", told)


def _coherence(figures: Figures) -> Iterator[Finding]:
    near = {name: split["coherence"][0] for name, split in figures["splits"].items()}
    near = {name: cosine for name, cosine in near.items() if cosine is not None}
    told = "mean cosine of neighbours: " + ", ".join(f"{name} {cosine:.2f}" for name, cosine in near.items())
    if any(cosine > CONSTANT for cosine in near.values()):
        remedy = "nothing can beat copying the last one; see that the encoder gets whole texts, or take longer chunks"
        yield Finding("coherence", "amber", f"vectors are nearly constant ({told}): {remedy}")
    else:
        yield Finding("coherence", "green", told if near else "no document has two chunks")


def _ood(figures: Figures) -> Iterator[Finding]:
    """Is ood easier or harder than val, or even of another space?"""
    val, ood = (figures["splits"].get(name) for name in ("val", "ood"))
    if val is None or ood is None:
        return
    one_encoder = "see that one encoder made both, and compare gains over baselines, not scores"
    near, ood_near = val["coherence"][0], ood["coherence"][0]
    if near is not None and ood_near is not None:
        told = f"neighbours have cosine {ood_near:.2f} in ood and {near:.2f} in val"
        if abs(ood_near - near) > COHERENCE_GAP:
            level = "easier" if ood_near > near else "harder"
            yield Finding("ood against val", "amber", f"{told}: ood is {level}, or of another encoder; {one_encoder}")
        else:
            yield Finding("ood against val", "green", f"{told}: about equally hard")
    if _is_foreign(figures):
        return
    cosine = figures["mean_direction_cosine"]["val-ood"]
    told = f"the mean vectors of ood and val have cosine {cosine:.2f}"
    if _has_direction(val) and _has_direction(ood) and cosine < FOREIGN_COSINE:
        yield Finding("mean direction", "amber", f"{told}, as in unrelated spaces; {one_encoder}")
    else:
        yield Finding("mean direction", "green", told)


def _space(figures: Figures) -> Iterator[Finding]:
    """Are the ood vectors of the training set's space at all?"""
    alignment = figures.get("alignment", {})
    if not {"val", "ood"} <= set(alignment):
        return
    told = f"train's strongest directions hold {alignment['ood']:.2f} of its strength, of val's {alignment['val']:.2f}"
    if _is_foreign(figures):
        yield Finding(
            "ood space", "red",
            f"ood is of another embedding space than train: {told}; make it with the encoder of the training set",
        )  # fmt: skip
    else:
        yield Finding("ood space", "green", f"ood is of the embedding space of train: {told}")


def _is_foreign(figures: Figures) -> bool:
    alignment = figures.get("alignment", {})
    return {"val", "ood"} <= set(alignment) and alignment["ood"] < FOREIGN_ALIGNMENT * alignment["val"]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _has_direction(split: Figures) -> bool:
    """Whether a split's mean vector is more than chance: M documents about random centres leave √(coherence / M)."""
    chance = math.sqrt(max(0.0, split["coherence"][0] or 0.0) / split["documents"])
    return bool(split["mean_norm"] > max(0.1, 3 * chance))


RULES: tuple[Callable[[Figures], Iterator[Finding]], ...] = (
    _numbers, _repeats, _leaks, _windows, _coherence, _space, _ood,
)  # fmt: skip
