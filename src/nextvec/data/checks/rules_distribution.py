"""The rules of the preflight on what samples say of the splits: coherence, order, spaces, and ood beside val.

Each is a pure function of the figures of `measure.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from nextvec.core.formatting import Status
from nextvec.data.checks.findings import Figures, Finding

CONSTANT = 0.98
"""Mean cosine of neighbours above which vectors are nearly constant."""
COHERENCE_GAP = 0.1
"""Difference of the neighbours' cosine between ood and val above which their scores can't be compared."""
FOREIGN_COSINE = 0.15
"""Cosine of two splits' mean vectors below which they look like those of two unrelated spaces."""
FOREIGN_ALIGNMENT = 0.5
"""Alignment of ood, in parts of val's, below which its vectors are not of the training set's space. Measured: 0.85 to
1.01 for other sources in one space, 0.12 to 0.35 for rotated or permuted vectors."""
LIKENESS_AMBER = 2.0
"""Likeness from which val is of another source than train; random splits by document stay below 1 in 99 of 100."""
NOISE_CLEAR = 0.01
"""A noise floor of the forward signal up to which its absence says something; real text has 0.01 to 0.05."""
REVERSED_ALONG, REVERSED_T, REVERSED_UNITS = -0.25, -4.0, 10
"""A split runs backwards if it agrees with train's arrow below both, in at least so many independent documents."""
SHUFFLED_FALL, FALL_ERRORS = 0.4, 3.0
"""A split is shuffled if its coherence falls less than that part of train's fall, both with so many standard errors."""


def check_coherence(figures: Figures) -> Iterator[Finding]:
    """Are neighbours all but the same?"""
    near = {name: split["coherence"][0] for name, split in figures["splits"].items()}
    near = {name: cosine for name, cosine in near.items() if cosine is not None}
    told = "mean cosine of neighbours: " + ", ".join(f"{name} {cosine:.2f}" for name, cosine in near.items())
    if any(cosine > CONSTANT for cosine in near.values()):
        remedy = "nothing can beat copying the last one; see that the encoder gets whole texts, or take longer chunks"
        yield Finding("coherence", Status.AMBER, f"vectors are nearly constant ({told}): {remedy}")
    else:
        yield Finding("coherence", Status.GREEN, told if near else "no document has two chunks")


def check_forward(figures: Figures) -> Iterator[Finding]:
    """Has time a direction in train?"""
    order = figures.get("order", {}).get("train")
    if order is None:
        return
    signal, noise = order["signal"], order["noise"]
    told = f"forward signal {signal:.3f} (noise {noise:.3f})"
    if signal > noise:
        yield Finding("forward signal", Status.GREEN, f"{told}: order can be learned")
    elif noise <= NOISE_CLEAR:
        remedy = "a model can hardly beat a weighted mean of its input; see that chunks stand in their documents' order"
        yield Finding("forward signal", Status.AMBER, f"no {told} above noise: {remedy}")
    else:
        few = "train's sample is too small to tell whether order can be learned"
        yield Finding("forward signal", Status.GREEN, f"{told}: {few}")


def check_reversed(figures: Figures) -> Iterator[Finding]:
    """Do the documents of val or ood run backwards?"""
    order = figures.get("order", {})
    if "train" not in order or order["train"]["signal"] <= order["train"]["noise"]:
        return  # there is no direction to run against
    for name, split in order.items():
        found = split.get("against_train")
        if found is None or found["units"] < REVERSED_UNITS:
            continue
        if found["along"] < REVERSED_ALONG and found["t"] < REVERSED_T:
            told = (
                f"its neighbours follow each other the other way round ({found['along']:.2f}, like train's would be 1)"
            )
            remedy = "put their chunks in the order of the text and build it again"
            yield Finding(
                "reversed documents", Status.RED, f"{name} documents run backwards against train's: {told}; {remedy}"
            )


def check_shuffled(figures: Figures) -> Iterator[Finding]:
    """Are the chunks of a split shuffled, while those of another stand in order?"""
    falls = {name: split["fall"] for name, split in figures["splits"].items() if split.get("fall")}
    for name, found in falls.items():
        other = "val" if name == "train" else "train"
        if other not in falls:
            continue
        highest = abs(found["fall"]) + FALL_ERRORS * found["error"]
        lowest = falls[other]["fall"] - FALL_ERRORS * falls[other]["error"]
        if highest < SHUFFLED_FALL * lowest:  # which is then above 0: the other split does stand in order
            told = (
                f"the cosine of neighbours is {found['fall']:.3f} above that of chunks further apart, "
                f"in {other} {falls[other]['fall']:.3f}"
            )
            status: Status = Status.AMBER if name == "ood" else Status.RED
            remedy = "put them in the order of the text and build it again"
            yield Finding("shuffled documents", status, f"the chunks of {name} look shuffled: {told}; {remedy}")


def check_spectrum(figures: Figures) -> Iterator[Finding]:
    """What the splits' vectors are like, side by side; is val like train?"""
    spectra = {name: split["spectrum"] for name, split in figures["splits"].items() if "spectrum" in split}
    if spectra:
        told = ", ".join(
            f"{name} {spectrum['effective_rank']:.0f} (the first has {spectrum['first_share']:.0%})"
            for name, spectrum in spectra.items()
        )
        yield Finding("spectrum", Status.GREEN, f"directions in use (effective rank): {told}")
    likeness = figures.get("likeness", {}).get("val")
    if likeness is None:
        return
    told = (
        f"mean {likeness['mean']:.1f}, covariance {likeness['covariance']:.1f} times as far from train's as by chance"
    )
    if max(likeness.values()) > LIKENESS_AMBER:
        remedy = "val is not of train's sources; split one set of documents at random"
        yield Finding("val against train", Status.AMBER, f"{told}: {remedy}")
    else:
        yield Finding("val against train", Status.GREEN, f"{told}: of one source")


def check_space(figures: Figures) -> Iterator[Finding]:
    """Are the ood vectors of the training set's space at all?"""
    alignment = figures.get("alignment", {})
    if not {"val", "ood"} <= set(alignment):
        return
    told = f"train's strongest directions hold {alignment['ood']:.2f} of its strength, of val's {alignment['val']:.2f}"
    if is_foreign(figures):
        yield Finding(
            "ood space", Status.RED,
            f"ood is of another embedding space than train, neither easier nor harder than val: {told}; make it with "
            "the encoder of the training set",
        )  # fmt: skip
    else:
        yield Finding("ood space", Status.GREEN, f"ood is of the embedding space of train: {told}")


def check_ood(figures: Figures) -> Iterator[Finding]:
    """Is ood easier or harder than val, and how far is it from train?"""
    val, ood = (figures["splits"].get(name) for name in ("val", "ood"))
    if val is None or ood is None or is_foreign(figures):
        return
    one_encoder = "see that one encoder made both, and compare gains over baselines, not scores"
    near, ood_near = val["coherence"][0], ood["coherence"][0]
    if near is not None and ood_near is not None:
        told = f"neighbours have cosine {ood_near:.2f} in ood and {near:.2f} in val{_baselines(val, ood)}"
        far = _distance(figures)
        if abs(ood_near - near) > COHERENCE_GAP:
            level = "easier" if ood_near > near else "harder"
            yield Finding(
                "ood against val", Status.AMBER, f"{told}: ood is {level}, or of another encoder{far}; {one_encoder}"
            )
        else:
            yield Finding("ood against val", Status.GREEN, f"{told}: about equally hard{far}")
    cosine = figures["mean_direction_cosine"]["val-ood"]
    told = f"the mean vectors of ood and val have cosine {cosine:.2f}"
    if _has_direction(val) and _has_direction(ood) and cosine < FOREIGN_COSINE:
        yield Finding("mean direction", Status.AMBER, f"{told}, as in unrelated spaces; {one_encoder}")
    else:
        yield Finding("mean direction", Status.GREEN, told)


def _baselines(val: Figures, ood: Figures) -> str:
    if val.get("context_mean") is None or ood.get("context_mean") is None:
        return ""
    return f", the context's mean scores {ood['context_mean']:.2f} and {val['context_mean']:.2f}"


def _distance(figures: Figures) -> str:
    """How unlike train ood is, in words."""
    likeness = figures.get("likeness", {}).get("ood")
    if likeness is None:
        return ""
    if max(likeness.values()) <= 1:
        return ", and of train's sources as far as can be told"
    return f", {max(likeness.values()):.1f} times as far from train as train's own documents by chance"


def is_foreign(figures: Figures) -> bool:
    """Whether ood is of another embedding space than train."""
    alignment = figures.get("alignment", {})
    return {"val", "ood"} <= set(alignment) and alignment["ood"] < FOREIGN_ALIGNMENT * alignment["val"]


def _has_direction(split: Figures) -> bool:
    """Whether a split's mean vector is more than chance: M documents about random centres leave √(coherence / M)."""
    chance = math.sqrt(max(0.0, split["coherence"][0] or 0.0) / split["documents"])
    return bool(split["mean_norm"] > max(0.1, 3 * chance))
