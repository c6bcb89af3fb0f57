"""Synthetic stores with a known ceiling: vectors of a linear-Gaussian state space with topics (see state_space.py).

    store = synthesize(Path("rehearsal"), scaled(PRESETS["production"], 0.02))
    store.manifest["synthetic"]["measured"]["val"]["ceiling"]

Each document is drawn from its own random stream and written block by block: memory stays small at any size, and the
same spec gives the same store. The lengths of the documents meet the wanted totals exactly. The ceiling is the mean
cosine of the conditional mean under the true parameters, computed from the stored vectors: no model can exceed it by
more than chance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from nextvec.core.console import progress
from nextvec.core.files import write_atomic
from nextvec.data.space import SYNTHETIC, Space
from nextvec.data.splits import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import DocumentTable, Store
from nextvec.data.store.vectors import find_layout, map_store_vectors
from nextvec.data.store.writer import create_vectors, finish_store, unfinished_store, write_documents
from nextvec.data.synthetic.state_space import Shares, StateSpace, fit_shares, make_state_space
from nextvec.data.windows import index_windows, sample
from nextvec.errors import InputError, StoreError

Lengths = NDArray[np.int64]

CONTEXT = 5
"""Context length for which the numbers of windows are specified."""

LENGTH_SPREAD = 0.8
"""Standard deviation of the logarithm of a document's length."""


def solve_lengths(documents: int, vectors: int, windows: int | None) -> Lengths:
    """Return the lengths (M,) of documents with exactly that many vectors and windows, not shuffled.

    Short documents have no window: each misses up to 4 vectors of a full context. How many vectors they miss in total
    follows from the three numbers. Their number is chosen such that they miss 2.5 on average, if possible.
    """
    require(documents >= 1, f"documents is {documents}, but must be at least 1.")
    # By default every tenth document is short, missing 1, 2, 3, 4, 1 … vectors.
    if windows is None:
        missing = int((1 + np.arange(documents // 10) % 4).sum())
        windows = vectors - CONTEXT * documents + missing
    # A document of n vectors has n - 5 windows, a short one none: `missing` is the sum of 5 - n over short documents.
    missing = windows - vectors + CONTEXT * documents
    min_short, max_short = max(-(-missing // 4), documents - windows), documents - 1
    require(
        missing >= 0 and min_short <= max_short,
        f"{documents} documents of {vectors} vectors can't make {windows} windows of context {CONTEXT}. Use "
        f"{max(vectors - CONTEXT * documents, 1)} to {vectors - documents - CONTEXT + 1} windows, or more vectors.",
    )
    short = min(max(round(missing / 2.5), min_short), max_short)
    missing_M = 1 + np.arange(short) % 4
    # Adjust single documents until the total is exact.
    while difference := missing - int(missing_M.sum()):
        missing_M[missing_M.argmin() if difference > 0 else missing_M.argmax()] += np.sign(difference)
    return np.concatenate([CONTEXT - missing_M, long_lengths(documents - short, windows)])


def long_lengths(documents: int, windows: int) -> Lengths:
    """Return the lengths (M,) of documents with exactly that many windows, at least one each: log-normal quantiles."""
    require(
        0 <= documents <= windows,
        f"{documents} documents can't make {windows} windows, at least one each. Use fewer documents.",
    )
    # Quantiles of a log-normal distribution, scaled to the wanted number of windows beyond one each.
    weights = np.exp(LENGTH_SPREAD * ndtri((np.arange(documents) + 0.5) / max(documents, 1)))
    exact = weights * ((windows - documents) / max(weights.sum(), 1e-12))
    lengths: Lengths = np.floor(exact).astype(np.int64)
    # Rounding down leaves windows over; the documents with the largest remainders get them.
    lengths[np.argsort(lengths - exact, kind="stable")[: windows - documents - int(lengths.sum())]] += 1
    lengths += CONTEXT + 1
    return lengths


def require(condition: bool, message: str) -> None:
    """Raise InputError unless the condition holds."""
    if not condition:
        raise InputError(f"synthetic store: {message}")


PUBLISHED_COHERENCE = (0.457, 0.387, 0.365, 0.352, 0.340)
"""Mean cosine between the target and the vectors 1 to 5 before it, in the cleaned production set."""

PARAMETERS = "synthetic.npz"
"""File of a synthetic store with the parameters of the state space."""

MEASURED_WINDOWS, MEASURED_BLOCK = 20_000, 1_000
"""Maximum size of the sample of windows on which a ceiling is computed, and of one block of it."""

BLOCK_ROWS = 8192
"""Approximate number of vectors that are multiplied and written at a time."""


@dataclass(frozen=True)
class SyntheticSpec:
    """The specification of a synthetic store. Raises InputError for impossible values."""

    documents: int = 1_000
    """Documents of train and val together."""
    vectors: int = 30_000
    """Vectors of these documents, exactly."""
    windows: int | None = None
    """Their windows of context 5, exactly; None: every tenth document is shorter than a window."""
    dimensions: int = 64
    """D; even."""
    coherence: tuple[float, ...] = PUBLISHED_COHERENCE
    """Mean cosine of vectors at distance 1, 2, … in a document; a single number is extended to a curve."""
    mean: float = 0.14
    """Mean cosine of vectors of different documents."""
    forward: float = 0.3
    """Forward signal: mean rotation of the coordinates from vector to vector, in radians; 0: time-reversible."""
    spectrum: float = 0.8
    """The variance of the direction of rank p is proportional to 1/p^spectrum; 0: all directions are equal."""
    topics: int = 16
    """Number of directions of a document's topic; even."""
    val: float = 0.1
    """Fraction of the documents that are val, by a hash of their ids."""
    ood_documents: int = 50
    """Documents of the ood split, each with a window; 0: no ood split."""
    ood_windows: int = 1_500
    """Windows of context 5 of the ood split, exactly."""
    ood_coherence: tuple[float, ...] = (0.73,)
    """The coherence of the ood split."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored vectors."""
    seed: int = 0
    """Seed of all random streams."""

    def __post_init__(self) -> None:
        require(
            self.dimensions >= 2 and self.dimensions % 2 == 0,
            f"dimensions is {self.dimensions}, but must be even and at least 2.",
        )
        require(
            2 <= self.topics <= self.dimensions and self.topics % 2 == 0,
            f"topics is {self.topics}, but must be even, from 2 to dimensions ({self.dimensions}).",
        )
        require(0 <= self.mean < 1, f"mean is {self.mean:g}, but must be at least 0 and below 1.")
        require(0 <= self.forward <= 1, f"forward is {self.forward:g}, but must be from 0 to 1 radian.")
        require(0 <= self.spectrum <= 3, f"spectrum is {self.spectrum:g}, but must be from 0 to 3.")
        require(self.dtype in ("float16", "float32"), f"dtype is '{self.dtype}', but must be float16 or float32.")
        require(0 <= self.seed < 2**63, f"seed is {self.seed}, but must be at least 0 and below 2^63.")
        for name, values in (("coherence", self.coherence), ("ood_coherence", self.ood_coherence)):
            require(
                len(values) > 0 and all(self.mean < value < 1 for value in values),
                f"{name} is {values}, but must be one or more cosines above mean ({self.mean:g}) and below 1.",
            )
        require(
            (self.ood_documents == 0) == (self.ood_windows == 0),
            "ood_documents and ood_windows must both be 0, or neither.",
        )
        SplitPlan(val=self.val)
        self.lengths()

    def lengths(self) -> tuple[Lengths, Lengths]:
        """Return the documents' lengths: of train and val, and of ood. Raises InputError for impossible totals."""
        # The lengths have their own random stream, independent of the vectors.
        random = np.random.default_rng([self.seed, 2])
        return (
            random.permutation(solve_lengths(self.documents, self.vectors, self.windows)),
            random.permutation(long_lengths(self.ood_documents, self.ood_windows)),
        )

    @property
    def space(self) -> Space:
        """The embedding space. Stores of one process share it, whatever their size and coherence."""
        process = (self.dimensions, self.topics, self.spectrum, self.forward, self.seed)
        revision = hashlib.sha256(json.dumps(process).encode()).hexdigest()[:16]
        return Space(SYNTHETIC, revision, self.dimensions)


_PRODUCTION = SyntheticSpec(15_192, 790_391, 726_014, dimensions=768, topics=64, ood_documents=150, ood_windows=7_140)
PRESETS = {
    "small": SyntheticSpec(documents=300, vectors=9_000, ood_documents=20, ood_windows=500),
    "linear": SyntheticSpec(documents=1_200, vectors=48_000, dimensions=32, topics=8, forward=0.3),
    "production": _PRODUCTION,
    "production-584k": dataclasses.replace(_PRODUCTION, documents=9_493, vectors=584_000, windows=543_773),
}
"""small: for tests. linear: ridge comes within 0.01 of the ceiling. production and production-584k: sizes and
statistics of the production sets (both have the same fraction of short documents)."""


REHEARSAL: dict[str, Any] = {"coherence": (0.55,), "spectrum": 1.5, "topics": 16, "val": 0.2}
"""Changes to a preset for a rehearsal: fewer directions and higher coherence, so that with a fiftieth of the windows a
sound model reaches the runbook's thresholds and a faulty one misses them."""

REHEARSAL_OOD = (20, 150)
"""Minimum number of documents and windows of a rehearsal's ood split."""


def rehearsal_spec(preset: str, scale: float) -> SyntheticSpec:
    """Return the spec of a rehearsal of a preset's run, at `scale` times its size."""
    # A scaled ood split may become too small to be measured.
    spec = scaled(PRESETS[preset], scale)
    documents, windows = REHEARSAL_OOD
    return dataclasses.replace(
        spec, **REHEARSAL, ood_documents=max(spec.ood_documents, documents), ood_windows=max(spec.ood_windows, windows)
    )


def scaled(spec: SyntheticSpec, scale: float) -> SyntheticSpec:
    """Return a spec with `scale` times as many documents, vectors and windows, and the same statistics."""
    require(scale > 0, f"scale is {scale:g}, but must be above 0.")

    def times(number: int) -> int:
        return max(1, round(number * scale)) if number else 0

    windows = None if spec.windows is None else times(spec.windows)
    return dataclasses.replace(
        spec,
        documents=times(spec.documents),
        vectors=times(spec.vectors),
        windows=windows,
        ood_documents=times(spec.ood_documents),
        ood_windows=times(spec.ood_windows),
    )


def synthesize(out: str | Path, spec: SyntheticSpec, *, quiet: bool = False) -> Store:
    """Make a synthetic store.

    Its manifest has the origin "synthetic", and under "synthetic" the spec, the fitted shares, and for each split the
    ceiling, the scores of simple predictors and the coherence. Raises InputError if no process has the wanted
    coherence, OutputError if `out` exists or cannot be written.
    """
    out = Path(out)
    with unfinished_store(out) as folder:
        space = make_state_space(spec.dimensions, spec.topics, spec.spectrum, spec.forward, spec.seed)
        shares = {"train": fit_shares(space, _extend_coherence(spec.coherence, spec.mean), spec.mean, spec.seed)}
        shares["val"] = shares["train"]
        if spec.ood_documents:
            shares["ood"] = fit_shares(space, _extend_coherence(spec.ood_coherence, spec.mean), spec.mean, spec.seed)
        plan = SplitPlan(val=spec.val, ood_sources=("synthetic-ood",))
        table = document_table(spec, plan)
        _draw_vectors(folder, spec, space, shares, table, quiet)
        write_documents(folder, table)
        write_atomic(folder / PARAMETERS, lambda file: np.savez(file, **dataclasses.asdict(space)))
        vectors = map_store_vectors(folder, find_layout(folder), f"store {out}")
        # The manifest describes only splits that exist.
        used = [split for number, split in enumerate(SPLITS) if (table.splits == number).any()]
        synthetic = {
            "spec": dataclasses.asdict(spec),
            "shares": {split: dataclasses.asdict(shares[split]) for split in used},
            "measured": {split: _measure(vectors, table, split, space, shares[split]) for split in used},
        }
        counts = {"documents": len(table), "vectors": len(vectors)}
        return finish_store(
            folder, out, spec.space, counts, origin="synthetic", split=plan.to_dict(), synthetic=synthetic
        )


def _draw_vectors(
    folder: Path, spec: SyntheticSpec, space: StateSpace, shares: dict[str, Shares], table: DocumentTable, quiet: bool
) -> None:
    """Write the vectors: draw each document from its own random stream, and write a block of documents at a time."""
    rows = int(table.rows.sum())
    block_M = table.first_row // BLOCK_ROWS  # a block consists of whole documents
    with (
        create_vectors(folder, rows, spec.dimensions, spec.dtype) as writer,
        progress("drawing vectors", rows, unit="vectors", quiet=quiet) as task,
    ):
        # Each document has its own random stream: blocks of any size give the same vectors.
        for documents in np.split(np.arange(len(table)), np.flatnonzero(np.diff(block_M)) + 1):
            drawn = [
                space.draw(
                    np.random.default_rng([spec.seed, 3, document]),
                    (1, int(table.rows[document])),
                    shares[SPLITS[table.splits[document]]],
                )[0]
                for document in documents.tolist()
            ]
            vectors = np.concatenate(drawn) @ space.basis_DD
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            writer.write(table.first_row[documents[0]] + np.arange(len(vectors)), vectors)
            task.advance(len(vectors))


def ceiling(store: Store, split: str, context: int = CONTEXT) -> float:
    """Return the mean cosine of the conditional mean given `context` vectors; no model exceeds it but by chance.

    It is computed on at most MEASURED_WINDOWS windows of the split. Raises StoreError if the store is not synthetic.
    """
    space, shares = load_state_space(store, split)
    measured = _measure(store.vectors, store.documents, split, space, shares, context)
    if not measured["windows"]:
        raise StoreError(f"store {store.name}: {split} has no window of context {context}. Use a smaller context.")
    return float(measured["ceiling"])


def load_state_space(store: Store, split: str) -> tuple[StateSpace, Shares]:
    """Return the process of a split of a synthetic store. Raises StoreError for another store or split."""
    try:
        shares = store.manifest["synthetic"]["shares"][split]
        with np.load(store.path / PARAMETERS, allow_pickle=False) as parameters:
            space = StateSpace(**parameters)
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"store {store.name}: has no synthetic split '{split}', so the ceiling is unknown. Use a synthetic store."
        ) from error
    return space, Shares(**{**shares, "components": tuple(map(tuple, shares["components"]))})


def _measure(
    vectors: NDArray[Any], table: DocumentTable, split: str, space: StateSpace, shares: Shares, context: int = CONTEXT
) -> dict[str, Any]:
    """Measure a sample of windows: ceiling, scores of predictors without training, and coherence by distance."""
    targets = index_windows(table, split, context).targets.numpy()
    # A fixed sample of windows, in blocks, so that memory stays small at any size.
    targets = targets[sample(len(targets), MEASURED_WINDOWS, 0).numpy()]
    if not len(targets):
        return {"windows": 0, "context": context}
    sums = np.zeros(context + 2)
    for start in range(0, len(targets), MEASURED_BLOCK):
        rows = targets[start : start + MEASURED_BLOCK, None] + np.arange(-context, 1)
        gathered = vectors[rows].astype(np.float32)
        context_BSD, target_BD = gathered[:, :-1], gathered[:, -1]
        # Candidates for the target: the best possible prediction, the mean of the context, and each context vector.
        predictions = (space.conditional_mean(context_BSD, shares), context_BSD.mean(axis=1))
        # The last columns are the context vectors themselves, from distance 1 on.
        candidates = (*predictions, *np.moveaxis(context_BSD, 1, 0)[::-1])
        sums += [_sum_cosines(candidate_BD, target_BD) for candidate_BD in candidates]
    ceiling_cosine, mean_cosine, *by_distance = (round(value, 5) for value in (sums / len(targets)).tolist())
    return {
        "windows": len(targets),
        "context": context,
        "ceiling": ceiling_cosine,
        "context-mean": mean_cosine,
        "copy-last": by_distance[0],
        "coherence": by_distance,
    }


def _sum_cosines(first_BD: NDArray[np.float32], second_BD: NDArray[np.float32]) -> float:
    lengths = np.linalg.norm(first_BD, axis=1) * np.linalg.norm(second_BD, axis=1)
    return float((np.einsum("bd,bd->b", first_BD, second_BD) / lengths).sum(dtype=np.float64))


def document_table(spec: SyntheticSpec, plan: SplitPlan) -> DocumentTable:
    """Return the documents of train and val, then those of ood; each is its own group."""
    lengths, ood_lengths = spec.lengths()
    rows = np.concatenate([lengths, ood_lengths])
    ids = [f"synthetic-{number}" for number in range(len(lengths))]
    ids += [f"synthetic-ood-{number}" for number in range(len(ood_lengths))]
    # The source of the ood documents makes them ood; the others are divided by the hash of their id.
    sources = ["synthetic"] * len(lengths) + ["synthetic-ood"] * len(ood_lengths)
    splits = [SPLITS.index(split) for split in assign_splits(ids, sources, plan)]
    return DocumentTable(
        ids, [""] * len(ids), sources, np.array(splits, np.int8), np.cumsum(rows) - rows, rows, np.arange(len(ids))
    )


def _extend_coherence(coherence: tuple[float, ...], mean: float) -> NDArray[np.float64]:
    """Extend a single cosine to a curve: the published one, mixed with 1 to raise it or with `mean` to lower it."""
    published = np.array(PUBLISHED_COHERENCE)
    if len(coherence) > 1:
        return np.array(coherence)
    # Mix the published curve with a constant, so that it passes through the wanted value at distance 1.
    end = 1.0 if coherence[0] > published[0] else mean
    mixed: NDArray[np.float64] = end + (published - end) * (coherence[0] - end) / (published[0] - end)
    return mixed
