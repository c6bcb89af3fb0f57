"""Rules of the data check about samples of the splits: coherence, order, and ood compared with val.

Each rule is a pure function of the statistics of `measure_store`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from nextvec.core.formatting import Status
from nextvec.data.checks.findings import Finding, Statistics, make_finding
from nextvec.data.checks.rules_space import is_another_space

MAX_COHERENCE = 0.98
"""Mean cosine of adjacent chunks above which vectors are nearly constant."""
MAX_COHERENCE_GAP = 0.1
"""Difference between ood and val in the cosine of adjacent chunks above which their scores are not comparable."""
MIN_MEAN_COSINE = 0.15
"""Cosine of two splits' mean vectors below which they look like those of unrelated embedding spaces."""
MAX_TRAIN_DISTANCE = 2.0
"""Distance above which val has another distribution than train; 99 of 100 random splits by document stay below 1."""
MAX_CLEAR_NOISE = 0.01
"""Noise floor up to which a missing forward signal is evidence; real text has 0.01 to 0.05."""
REVERSED_PROJECTION, REVERSED_T, REVERSED_MIN_UNITS = -0.25, -4.0, 10
"""A split is reversed if its projection on train's direction of time and t are below both, with enough units."""
SHUFFLED_DROP_SHARE, SHUFFLED_ERRORS = 0.4, 3.0
"""A split is shuffled if its coherence drop is below this share of the reference split's, with margins of that many
standard errors."""


def check_coherence(statistics: Statistics) -> Iterator[Finding]:
    """Check that adjacent chunks are not nearly equal."""
    adjacent = {name: split["coherence"][0] for name, split in statistics["splits"].items()}
    # A split whose documents all have a single chunk has no adjacent chunks.
    adjacent = {name: cosine for name, cosine in adjacent.items() if cosine is not None}
    cosines = ", ".join(f"{name} {cosine:.2f}" for name, cosine in adjacent.items())
    if not adjacent:
        yield make_finding("no adjacent chunks", Status.GREEN)
    elif max(adjacent.values()) > MAX_COHERENCE:
        yield make_finding("constant", Status.AMBER, cosines=cosines)
    else:
        yield make_finding("coherence", Status.GREEN, cosines=cosines)


def check_forward_signal(statistics: Statistics) -> Iterator[Finding]:
    """Check that the order of train's chunks carries information."""
    order = statistics.get("order", {}).get("train")
    if order is None:
        return
    # A signal below the noise floor shows that order carries no information only if the floor itself is low.
    if order["signal"] > order["noise"]:
        yield make_finding("forward signal", Status.GREEN, **order)
    elif order["noise"] <= MAX_CLEAR_NOISE:
        yield make_finding("no forward signal", Status.AMBER, **order)
    else:
        yield make_finding("forward signal unknown", Status.GREEN, **order)


def check_reversed(statistics: Statistics) -> Iterator[Finding]:
    """Check that the documents of val and ood are not in reverse order."""
    order = statistics.get("order", {})
    if "train" not in order or order["train"]["signal"] <= order["train"]["noise"]:
        return  # train has no direction of time to compare with
    for name, split in order.items():
        direction = split.get("against_train")
        if direction is None or direction["units"] < REVERSED_MIN_UNITS:
            continue
        if direction["projection"] < REVERSED_PROJECTION and direction["t"] < REVERSED_T:
            yield make_finding("reversed", Status.RED, split=name, projection=direction["projection"])


def check_shuffled(statistics: Statistics) -> Iterator[Finding]:
    """Check that no split's chunks are shuffled while those of another are in order."""
    drops = {name: split["coherence_drop"] for name, split in statistics["splits"].items()}
    drops = {name: drop for name, drop in drops.items() if drop}
    for name, drop in drops.items():
        reference = "val" if name == "train" else "train"
        if reference not in drops:
            continue
        # Compare the upper confidence bound of this split's drop with the lower bound of the reference's: both must
        # agree that the difference is large before a split counts as shuffled.
        highest = abs(drop["drop"]) + SHUFFLED_ERRORS * drop["error"]
        lowest = drops[reference]["drop"] - SHUFFLED_ERRORS * drops[reference]["error"]
        if highest < SHUFFLED_DROP_SHARE * lowest:  # implies that lowest is positive: the reference is in order
            status = Status.AMBER if name == "ood" else Status.RED
            measured = {"drop": drop["drop"], "reference": reference, "reference_drop": drops[reference]["drop"]}
            yield make_finding("shuffled", status, split=name, **measured)


def check_spectrum(statistics: Statistics) -> Iterator[Finding]:
    """Report the effective rank of each split."""
    spectra = {name: split["spectrum"] for name, split in statistics["splits"].items() if "spectrum" in split}
    ranks = ", ".join(
        f"{name} {spectrum['effective_rank']:.0f} ({spectrum['first_share']:.0%})" for name, spectrum in spectra.items()
    )
    if spectra:
        yield make_finding("effective rank", Status.GREEN, ranks=ranks)


def check_val(statistics: Statistics) -> Iterator[Finding]:
    """Check that val and train have the same distribution."""
    distance = statistics.get("train_distance", {}).get("val")
    if distance is None:
        return
    if max(distance.values()) > MAX_TRAIN_DISTANCE:
        yield make_finding("val unlike train", Status.AMBER, **distance)
    else:
        yield make_finding("val like train", Status.GREEN, **distance)


def check_ood(statistics: Statistics) -> Iterator[Finding]:
    """Check whether ood is easier or harder than val, and whether their mean vectors point the same way."""
    # Scores of another embedding space cannot be compared at all; `check_spaces` reports that.
    val, ood = (statistics["splits"].get(name) for name in ("val", "ood"))
    if val is None or ood is None or is_another_space(statistics, "ood"):
        return
    val_cosine, ood_cosine = val["coherence"][0], ood["coherence"][0]
    if val_cosine is not None and ood_cosine is not None:
        measured = {"cosines": _describe_cosines(val, ood), "distance": _describe_distance(statistics)}
        # Adjacent chunks that are much more alike make prediction easier, whatever the model.
        if abs(ood_cosine - val_cosine) > MAX_COHERENCE_GAP:
            level = "easier" if ood_cosine > val_cosine else "harder"
            yield make_finding("ood unlike val", Status.AMBER, level=level, **measured)
        else:
            yield make_finding("ood like val", Status.GREEN, **measured)
    # All texts of a space share a mean direction. Compare it only if both means exceed what few documents give by
    # chance.
    cosine = statistics["mean_direction_cosine"]["val-ood"]
    if _has_direction(val) and _has_direction(ood) and cosine < MIN_MEAN_COSINE:
        yield make_finding("foreign mean direction", Status.AMBER, cosine=cosine)
    else:
        yield make_finding("mean direction", Status.GREEN, cosine=cosine)


def _describe_cosines(val: Statistics, ood: Statistics) -> str:
    """Return the cosines of ood and val for a message: of adjacent chunks, and of the context mean if measured."""
    text = f"adjacent chunks have cosine {ood['coherence'][0]:.2f} (val {val['coherence'][0]:.2f})"
    if val["context_mean"] is None or ood["context_mean"] is None:
        return text
    return f"{text}, the context mean scores {ood['context_mean']:.2f} (val {val['context_mean']:.2f})"


def _describe_distance(statistics: Statistics) -> str:
    """Return ood's distance from train for a message; empty if it was not measured."""
    distance = statistics.get("train_distance", {}).get("ood")
    if distance is None:
        return ""
    return f", and its distance from train is {max(distance.values()):.1f} (1: 99th percentile of chance)"


def _has_direction(split: Statistics) -> bool:
    """Return whether a split's mean vector exceeds chance, which is √(coherence / M) for M unrelated documents."""
    chance = math.sqrt(max(0.0, split["coherence"][0] or 0.0) / split["documents"])
    return bool(split["mean_norm"] > max(0.1, 3 * chance))
