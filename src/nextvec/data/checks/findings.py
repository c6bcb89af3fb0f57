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
_DROP = "'nextvec data build' drops them from text; remove them from an .npz file before its import."
_DROP_NEAR = (
    "'nextvec data build --drop-near-duplicates' drops them from text; remove them from an .npz file before its import."
)
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
        "Duplicate rows within a split: {counts}. Each copy counts again in every score.",
        _DROP,
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
        _DROP,
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
        "{example}. Each copy counts again in every score.",
        "Keep one of the documents, or give both the same group.",
    ),
    "few near duplicates in train": Template(
        "near duplicates in train", "Sampled rows with a near duplicate (cosine above {near:g}) in train: {counts}."
    ),
    "near duplicates in train": Template(
        "near duplicates in train",
        "Sampled rows with a near duplicate (cosine above {near:g}) in train: {counts}, for example {example}. "
        "This is a leak.",
        _DROP_NEAR,
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
        "{remedy}",
    ),
    "short documents": Template(
        "{split} windows",
        "{split} has only {windows:,} windows: {short:,} of its {documents:,} documents have fewer than {chunks} "
        "chunks (context and target).",
        "{remedy}",
    ),
    "few documents": Template(
        "{split} windows",
        "{split} has {windows:,} windows in {documents:,} documents{short}{groups}. With fewer than {minimum} "
        "independent groups of documents, confidence intervals are wide.",
        "Add documents to {split}.",
    ),
    # Files of windows, as their import found them.
    "targets in context": Template(
        "targets",
        "{file}: {count:,} of {windows:,} targets ({share:.1%}) are vectors of their own contexts.",
        "Save the vector after each context as its target.",
    ),
    "contexts newest first": Template(
        "targets",
        "{file}: {count:,} of {windows:,} targets ({share:.1%}) continue the first vector of their contexts, not the "
        "last: contexts are newest first, or targets are the chunks before them.",
        "Reverse the contexts: contexts[:, ::-1].",
    ),
    "targets skip chunks": Template(
        "targets",
        "{file}: {count:,} of {windows:,} targets ({share:.1%}) are a few chunks after their contexts, not the next.",
        "Save the vector right after each context as its target.",
    ),
    "targets of other windows": Template(
        "targets",
        "{file}: {count:,} of {windows:,} targets ({share:.1%}) do not continue their contexts: targets were shuffled, "
        "or belong to other windows.",
        "Save each target in the row of its context.",
    ),
    "windows not linked": Template(
        "linked windows",
        "{file}: {count:,} of {windows:,} windows share no vector with another, so documents are unknown: windows do "
        "not overlap, or their vectors were encoded separately. Windows of one document may be in train and val.",
        "Name the document of each window with --documents labels.npy.",
    ),
    "windows not linked, documents known": Template(
        "linked windows",
        "{file}: {count:,} of {windows:,} windows share no vector with another; their labels keep documents together.",
    ),
    "windows linked by near-equal vectors": Template(
        "linked windows",
        "{file}: vectors at a distance of at most {near_equal_distance:.2g} count as equal, which links {linked:,} of "
        "{windows:,} windows.",
    ),
    "windows across borders by labels": Template(
        "document borders",
        "{file}: {crossing:,} of {windows:,} windows ({share:.1%}) cross borders of documents by their labels, and "
        "were left out.",
    ),
    "windows across borders by content": Template(
        "document borders",
        "{file}: {crossing:,} of {windows:,} windows ({share:.1%}) cross borders of documents, which were recognized "
        "by their vectors, and were left out.",
        "Name the document of each window with --documents labels.npy to be exact.",
    ),
    "padded contexts": Template(
        "padded contexts",
        "{file}: {padded:,} of {windows:,} windows ({share:.1%}) have contexts padded with zeros: their documents are "
        "stored without padding, and data.min_context=1 uses these windows.",
    ),
    # Targets and contexts, measured on a sample.
    "targets new": Template(
        "targets of {split}", "Targets of {split} that repeat a vector of their contexts: {near:,} of {windows:,}."
    ),
    "target repeats its context": Template(
        "targets of {split}",
        "Targets of {split} that repeat a vector of their own contexts: {near:,} of {windows:,} ({share:.1%}; "
        "{equal:,} are equal). Copying is enough to predict them.",
        f"Check that each target is the chunk after its context, drop repeated texts, {_REBUILD}",
    ),
    "lone contexts newest first": Template(
        "order of {split}",
        "Contexts of {split} are newest first: the target is more similar to the first vector than to the last (cosine "
        "+{oldest_minus_last:.3f}, t = {oldest_minus_last_t:.0f}, {windows:,} windows).",
        "Reverse the contexts: contexts[:, ::-1].",
    ),
    "lone targets of other documents": Template(
        "targets of {split}",
        "About {share:.0%} of the targets of {split} are of other documents (standard error {error:.1%}): they are "
        "less similar to their contexts than adjacent chunks are.",
        "Save each target in the row of its context.",
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
    "same space": Template(
        "{split} space",
        "{split} is in the embedding space of train: {foreign_dimensions:.0%} of its dimensions differ from train's, "
        "and the variances of the dimensions have rank correlation {variance_correlation:.2f}.",
    ),
    "unsure space": Template(
        "{split} space",
        "{split} may be in another embedding space than train, or has very unusual texts: {reasons}.",
        "Check that one encoder made both sets: the same model and revision, pooling, normalization and order of "
        "dimensions. If so, compare gains over baselines, not scores.",
    ),
    "another space": Template(
        "{split} space",
        "{split} is in another embedding space than train, so its scores are meaningless: {reasons}.",
        "Make {split} with the encoder of the training set: the same model and revision, pooling, normalization and "
        "order of dimensions.",
    ),
    "unusual vectors": Template(
        "{split} space",
        "One encoder made {split} and train, but their vectors do not look like those of one space: {reasons}.",
        "Check the files with 'nextvec data check --deep'. If they are intact, the texts are unusual or few: compare "
        "gains over baselines, not scores.",
    ),
    "same encoder": Template("{split} space", "One encoder made the vectors of {split} and train."),
    "space unknown": Template(
        "{split} space", "The embedding spaces of {split} and train cannot be compared: {reasons}."
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
