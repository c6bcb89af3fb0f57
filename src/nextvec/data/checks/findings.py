"""Findings of the data check: their type, and the template of every message."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nextvec.core.formatting import Status

Statistics = dict[str, Any]
"""What `measure_store` returns: plain values, so that rules can be tested on values from anywhere."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    measured: dict[str, Any]
    """The values that the message contains: plain values."""
    message: str
    """What was measured, in one sentence."""
    remedy: str = ""
    """What to do about it, as an imperative; empty if nothing needs to be done."""

    @property
    def text(self) -> str:
        """The message and the remedy."""
        return f"{self.message} {self.remedy}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return asdict(self)


def make_finding(outcome: str, status: Status, **measured: Any) -> Finding:
    """Return the finding of an outcome in TEMPLATES, with the measured values filled in."""
    name, message, remedy = (text.format(**measured) for text in TEMPLATES[outcome])
    return Finding(name, status, measured, message, remedy)


class Template(NamedTuple):
    """Name, message and remedy of an outcome, as format strings."""

    name: str
    message: str
    remedy: str = ""


_REBUILD = "and build the store again."
_SAME_ENCODER = "Check that one encoder made both sets, and compare gains over baselines, not scores."

TEMPLATES = {
    # The files on disk.
    "files verified": Template("files", "{count} files of {store} match their SHA-256 checksums."),
    # The vectors, one by one; `where` is empty or "OOD set: ".
    "finite": Template("finite values", "{where}All vectors are finite."),
    "not finite": Template(
        "finite values",
        "{where}Vectors that are NaN or infinite: {count:,} of {rows:,}. The first is {first}.",
        f"Encode their texts again {_REBUILD}",
    ),
    "no zeros": Template("zero vectors", "{where}No vector is zero."),
    "zeros": Template(
        "zero vectors",
        "{where}Vectors that are zero: {count:,} of {rows:,}. The first is {first}.",
        f"Drop their texts or encode them again, {_REBUILD}",
    ),
    "unit length": Template("unit length", "{where}All vectors have length 1 ± {tolerance:g}."),
    "not unit length": Template(
        "unit length",
        "{where}Vectors that are not of unit length: {count:,} of {rows:,} (lengths {lowest:.3g} to {highest:.3g}). "
        "The first is {first}.",
        f"Scale them to unit length {_REBUILD}",
    ),
    # The encoder named by --encoder.
    "encoder matches": Template(
        "encoder fingerprint", "The {where} was made by {encoder}: the vectors of the probe texts agree."
    ),
    "encoder of other dimensions": Template(
        "encoder fingerprint",
        "Another encoder made the {where}: {encoder} has another number of dimensions than {store}.",
        "Use the encoder of the store.",
    ),
    "encoder unknown": Template(
        "encoder fingerprint",
        "The {where} ({store}) or the encoder ({encoder}) has no fingerprint, so they cannot be compared.",
        "Build the store from its texts to record one.",
    ),
    "encoder differs": Template(
        "encoder fingerprint",
        "Another encoder made the {where}: the vectors of the probe texts have a cosine as low as {cosine:.3f} "
        "({encoder} vs {store}).",
        "Use the encoder of the store.",
    ),
    # Duplicates and leaks.
    "few duplicates": Template("exact duplicates", "Duplicate rows within a split: {counts}."),
    "many duplicates": Template(
        "exact duplicates",
        "Duplicate rows within a split: {counts}.",
        "Drop them: each copy counts again in every score.",
    ),
    "groups undivided": Template("groups", "Every group of documents is in one split."),
    "groups divided": Template(
        "groups",
        "Groups of documents divided between splits: {count:,}, for example {example}.",
        f"Keep each group in one split {_REBUILD}",
    ),
    "no leak": Template("{split} in train", "No row of {split} is in train."),
    "leak": Template(
        "{split} in train",
        "Rows of {split} that are also in train: {count:,} of {rows:,} ({share:.1%}), for example {example}.",
        f"Drop these duplicates {_REBUILD}",
    ),
    "vectors too similar": Template(
        "near duplicates",
        "Vectors of different documents have a mean cosine of {cosine:.2f}: they are nearly constant, and near "
        "duplicates cannot be told apart from other rows.",
        "Check that the encoder receives complete texts.",
    ),
    "rank too low": Template(
        "near duplicates", "The effective rank is {rank:.1f}, too low to distinguish near duplicates from chance."
    ),
    "few near duplicates": Template(
        "near duplicates", "Sampled rows with a near duplicate (cosine above {near:g}) in another document: {counts}."
    ),
    "many near duplicates": Template(
        "near duplicates",
        "Sampled rows with a near duplicate (cosine above {near:g}) in another document: {counts}, for example "
        "{example}.",
        "Drop them: each copy counts again in every score.",
    ),
    "few near duplicates in train": Template(
        "near duplicates in train", "Sampled rows with a near duplicate (cosine above {near:g}) in train: {counts}."
    ),
    "near duplicates in train": Template(
        "near duplicates in train",
        "Sampled rows with a near duplicate (cosine above {near:g}) in train: {counts}, for example {example}.",
        f"This is a leak. Drop the duplicates {_REBUILD}",
    ),
    # Windows.
    "windows": Template("{split} windows", "{split} has {windows:,} windows in {documents:,} documents{short}."),
    "no ood split": Template(
        "ood windows", "The store has no ood split, so scores hold only for the sources of the training set."
    ),
    "no documents": Template("{split} windows", "{split} has no documents.", "Add documents to {split}."),
    "no windows": Template(
        "{split} windows",
        "{split} has no windows: none of its {documents:,} documents has {chunks} chunks.",
        "Add longer documents to {split}, or set a shorter context.",
    ),
    "few documents": Template(
        "{split} windows",
        "{split} has {windows:,} windows in {documents:,} documents{short}. With fewer than {minimum} independent "
        "documents, confidence intervals are wide.",
        "Add documents to {split}.",
    ),
    # Order and coherence.
    "coherence": Template("coherence", "Mean cosine of adjacent chunks: {cosines}."),
    "no adjacent chunks": Template("coherence", "No document has two chunks."),
    "constant": Template(
        "coherence",
        "Vectors are nearly constant within documents (mean cosine of adjacent chunks: {cosines}), so no model can "
        "beat copy-last.",
        "Check that the encoder receives complete texts, or make longer chunks.",
    ),
    "forward signal": Template(
        "forward signal", "The order of chunks can be learned: forward signal {signal:.3f}, noise floor {noise:.3f}."
    ),
    "no forward signal": Template(
        "forward signal",
        "The order of chunks carries no information: forward signal {signal:.3f}, noise floor {noise:.3f}. A model can "
        "hardly beat a weighted mean of its context.",
        "Check that chunks are in the order of their documents.",
    ),
    "forward signal unknown": Template(
        "forward signal",
        "The sample of train is too small to measure whether order can be learned: forward signal {signal:.3f}, noise "
        "floor {noise:.3f}.",
    ),
    "reversed": Template(
        "reversed documents",
        "Chunks of {split} are in reverse order (agreement with train {projection:.2f}, expected 1).",
        f"Put the chunks in the order of the text {_REBUILD}",
    ),
    "shuffled": Template(
        "shuffled documents",
        "Chunks of {split} appear shuffled: adjacent chunks have a cosine only {drop:.3f} above chunks farther apart "
        "({reference}: {reference_drop:.3f}).",
        f"Put the chunks in the order of the text {_REBUILD}",
    ),
    # Splits compared with each other.
    "effective rank": Template(
        "effective rank", "Effective rank of the vectors (share of the first direction): {ranks}."
    ),
    "val like train": Template(
        "val vs train",
        "val and train have the same distribution: distance from train {mean:.1f} (mean) and {covariance:.1f} "
        "(covariance), where 1 is the 99th percentile of chance.",
    ),
    "val unlike train": Template(
        "val vs train",
        "val and train have different distributions: distance from train {mean:.1f} (mean) and {covariance:.1f} "
        "(covariance), where 1 is the 99th percentile of chance.",
        "Split one set of documents at random.",
    ),
    "ood space": Template(
        "ood space",
        "ood is in the embedding space of train: train's strongest directions hold {ood:.2f} of its energy (val "
        "{val:.2f}).",
    ),
    "foreign ood space": Template(
        "ood space",
        "ood is in another embedding space, so its scores are meaningless: train's strongest directions hold only "
        "{ood:.2f} of its energy (val {val:.2f}).",
        "Make the ood set with the encoder of the training set.",
    ),
    "ood like val": Template("ood vs val", "ood is about as hard as val: {cosines}{distance}."),
    "ood unlike val": Template(
        "ood vs val", "ood is {level} than val, or from another encoder: {cosines}{distance}.", _SAME_ENCODER
    ),
    "mean direction": Template("mean direction", "The mean vectors of ood and val have cosine {cosine:.2f}."),
    "foreign mean direction": Template(
        "mean direction",
        "The mean vectors of ood and val have cosine {cosine:.2f}, as in unrelated embedding spaces.",
        _SAME_ENCODER,
    ),
}
"""Every message of the data check, by outcome. `{split}` is train, val or ood; the other fields are measured values."""
