"""Synthetic stores with a known ceiling: vectors of a linear-Gaussian state space with topics (see `statespace`).

    store = synthesise(Path("rehearsal"), scaled(PRESETS["production"], 0.02))
    store.manifest["synthetic"]["ceiling"]["val"]["cosine"]

Documents are drawn one by one, each from its own random stream, and written block by block: memory stays small at any
size, and the same spec gives the same store. The ceiling is the mean cosine of the conditional mean under the
true parameters, computed from the stored vectors: what no model can beat by more than chance.

How long the documents of a synthetic store are: lengths that meet given totals exactly.
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

from nextvec.core.console import progress
from nextvec.core.files import write_atomic
from nextvec.data.space import SYNTHETIC, Space
from nextvec.data.splits import SPLITS, SplitPlan, assign_splits
from nextvec.data.store import VECTORS, DocumentTable, Store, map_vectors
from nextvec.data.store.writer import create_vectors, finish_store, unfinished_store, write_documents
from nextvec.data.synthetic.state_space import Shares, StateSpace, fit_shares, make_state_space
from nextvec.data.windows import index_windows, sample
from nextvec.errors import InputError, StoreError

Lengths = NDArray[np.int64]


CONTEXT = 5
"""The context length that sizes are given for."""

LENGTH_SPREAD = 0.8
"""Standard deviation of the logarithm of a document's length."""


def solve_lengths(documents: int, vectors: int, windows: int | None) -> Lengths:
    """Lengths of documents with exactly so many vectors and windows in all (M,), not shuffled.

    Documents without a window lack up to 4 vectors of a full context. How much they lack together follows from the
    three numbers; how many they are is free between bounds, and chosen so that they lack 2.5 on average where possible.
    """
    require(documents >= 1, f"documents {documents}: 1 or more")
    if windows is None:
        lack = int((1 + np.arange(documents // 10) % 4).sum())
        windows = vectors - CONTEXT * documents + lack
    lack = windows - vectors + CONTEXT * documents
    fewest, most = max(-(-lack // 4), documents - windows), documents - 1
    require(
        lack >= 0 and fewest <= most,
        f"{documents} documents of {vectors} vectors can't make {windows} windows of context {CONTEXT}: "
        f"take from {max(vectors - CONTEXT * documents, 1)} to {vectors - documents - CONTEXT + 1}, or more vectors",
    )
    short = min(max(round(lack / 2.5), fewest), most)
    lacks = 1 + np.arange(short) % 4
    while missing := lack - int(lacks.sum()):
        lacks[lacks.argmin() if missing > 0 else lacks.argmax()] += np.sign(missing)
    return np.concatenate([CONTEXT - lacks, long_lengths(documents - short, windows)])


def long_lengths(documents: int, windows: int) -> Lengths:
    """Lengths (M,) of documents that make exactly so many windows, at least one each: log-normal quantiles."""
    from scipy.special import ndtri

    require(0 <= documents <= windows, f"{documents} documents can't make {windows} windows, at least one each")
    weights = np.exp(LENGTH_SPREAD * ndtri((np.arange(documents) + 0.5) / max(documents, 1)))
    wanted = weights * ((windows - documents) / max(weights.sum(), 1e-12))
    lengths: Lengths = np.floor(wanted).astype(np.int64)
    # the largest remainders get what rounding down has left over
    lengths[np.argsort(lengths - wanted, kind="stable")[: windows - documents - int(lengths.sum())]] += 1
    lengths += CONTEXT + 1
    return lengths


def require(condition: bool, what: str) -> None:
    """Raise InputError with `what` is wrong unless the condition holds."""
    if not condition:
        raise InputError(f"synthetic store: {what}")


PUBLISHED_COHERENCE = (0.457, 0.387, 0.365, 0.352, 0.340)
"""Mean cosine of the vectors 1 to 5 before the target to the target, in the production set's cleaned form."""

PARAMETERS = "synthetic.npz"
"""The file of a synthetic store that holds the state space's parameters."""

MEASURED_WINDOWS, MEASURED_BLOCK = 20_000, 1_000
"""Most windows of a split that ceilings and statistics are computed on (a fixed sample), and how many at a time."""

BLOCK_ROWS = 8192
"""About how many vectors are multiplied and written at a time."""


@dataclass(frozen=True)
class SyntheticSpec:
    """What a synthetic store is like. Raises InputError for what can't be."""

    documents: int = 1_000
    """Documents of train and val together."""
    vectors: int = 30_000
    """Vectors of these documents, exactly."""
    windows: int | None = None
    """Windows of context 5 they make, exactly; left out, every tenth document is shorter than a window."""
    dimensions: int = 64
    """D; even."""
    coherence: tuple[float, ...] = PUBLISHED_COHERENCE
    """Mean cosine of vectors at distance 1, 2, … in a document; a single number is continued in a natural way."""
    mean: float = 0.14
    """Mean cosine of vectors of different documents: how far all vectors lean in one direction."""
    forward: float = 0.3
    """Forward signal: the angle in radians by which coordinates turn from vector to vector; 0 = time-reversible."""
    spectrum: float = 0.8
    """Variances fall with the rank p of a direction as 1/p^spectrum; 0 = all directions alike."""
    topics: int = 16
    """Directions that a document's topic is made of; even."""
    val: float = 0.1
    """Share of the documents that are val, by a hash of their ids."""
    ood_documents: int = 50
    """Documents of the ood part, none shorter than a window; 0 leaves it out."""
    ood_windows: int = 1_500
    """Windows of context 5 of the ood part, exactly."""
    ood_coherence: tuple[float, ...] = (0.73,)
    """The same as coherence, for the ood part."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored vectors."""
    seed: int = 0
    """Same spec and seed, same store."""

    def __post_init__(self) -> None:
        require(self.dimensions >= 2 and self.dimensions % 2 == 0, f"dimensions {self.dimensions}: even, 2 or more")
        require(
            2 <= self.topics <= self.dimensions and self.topics % 2 == 0,
            f"topics {self.topics}: even, from 2 to dimensions ({self.dimensions})",
        )
        require(0 <= self.mean < 1, f"mean {self.mean:g}: from 0, below 1")
        require(0 <= self.forward <= 1, f"forward {self.forward:g}: from 0 to 1 radian")
        require(0 <= self.spectrum <= 3, f"spectrum {self.spectrum:g}: from 0 to 3")
        require(self.dtype in ("float16", "float32"), f"dtype '{self.dtype}': float16 or float32")
        require(0 <= self.seed < 2**63, f"seed {self.seed}: from 0, below 2^63")
        for name, values in (("coherence", self.coherence), ("ood_coherence", self.ood_coherence)):
            require(
                len(values) > 0 and all(self.mean < value < 1 for value in values),
                f"{name} {values}: one or more cosines above mean ({self.mean:g}) and below 1",
            )
        require((self.ood_documents == 0) == (self.ood_windows == 0), "ood_documents and ood_windows: both or none")
        SplitPlan(val=self.val)
        self.lengths()

    def lengths(self) -> tuple[Lengths, Lengths]:
        """Vectors of each document: of train and val, and of ood. Raises InputError if the numbers don't fit."""
        random = np.random.default_rng([self.seed, 2])
        return (
            random.permutation(solve_lengths(self.documents, self.vectors, self.windows)),
            random.permutation(long_lengths(self.ood_documents, self.ood_windows)),
        )

    @property
    def spec_hash(self) -> str:
        """16 hexadecimal digits that name the spec."""
        return _digest(dataclasses.asdict(self))

    @property
    def space(self) -> Space:
        """The embedding space: stores of one process have the same, whatever their size and coherence."""
        process = (self.dimensions, self.topics, self.spectrum, self.forward, self.seed)
        return Space(SYNTHETIC, _digest(process), self.dimensions)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


PRESETS = {
    "small": SyntheticSpec(documents=300, vectors=9_000, ood_documents=20, ood_windows=500),
    "linear": SyntheticSpec(documents=1_200, vectors=48_000, dimensions=32, topics=8, forward=0.3),
    "production": SyntheticSpec(
        documents=15_192, vectors=790_391, windows=726_014, dimensions=768, topics=64,
        ood_documents=150, ood_windows=7_140,
    ),
    "production-584k": SyntheticSpec(
        documents=9_493, vectors=584_000, windows=543_773, dimensions=768, topics=64,
        ood_documents=150, ood_windows=7_140,
    ),
}  # fmt: skip
"""small: for tests. linear: ridge reaches its ceiling within 0.01. production and production-584k: the sizes and
statistics of the production sets (584k: as many documents as give the same share of short ones)."""


REHEARSAL: dict[str, Any] = {"coherence": (0.55,), "spectrum": 1.5, "topics": 16, "val": 0.2}
"""How a rehearsal's vectors differ from the presets: fewer directions carry them, and neighbours are closer, so that
even a fiftieth of the windows teaches a healthy model to reach the runbook's thresholds, and a sick one misses them."""

REHEARSAL_OOD = (20, 150)
"""Fewest documents and windows of a rehearsal's ood part, whatever the scale."""


def rehearsal_spec(preset: str, scale: float) -> SyntheticSpec:
    """What a rehearsal of a preset's production run trains on, at `scale` times its size."""
    spec = scaled(PRESETS[preset], scale)
    documents, windows = REHEARSAL_OOD
    return dataclasses.replace(
        spec, **REHEARSAL, ood_documents=max(spec.ood_documents, documents), ood_windows=max(spec.ood_windows, windows)
    )


def scaled(spec: SyntheticSpec, scale: float) -> SyntheticSpec:
    """The same kind of store with `scale` times as many documents, vectors and windows; statistics stay."""
    require(scale > 0, f"scale {scale:g}: above 0")

    def times(number: int) -> int:
        return max(1, round(number * scale)) if number else 0

    windows = None if spec.windows is None else times(spec.windows)
    return dataclasses.replace(
        spec, documents=times(spec.documents), vectors=times(spec.vectors), windows=windows,
        ood_documents=times(spec.ood_documents), ood_windows=times(spec.ood_windows),
    )  # fmt: skip


def synthesise(out: str | Path, spec: SyntheticSpec, *, quiet: bool = False) -> Store:
    """Make a synthetic store. Its manifest says so ("origin": "synthetic") and holds under "synthetic" the spec, the
    fitted shares, and for each split the ceiling and what simple predictors and the vectors themselves measure.

    Raises InputError if no process has the wanted coherence, OutputError if `out` exists or can't be written.
    """
    out = Path(out)
    with unfinished_store(out) as folder:
        space = make_state_space(spec.dimensions, spec.topics, spec.spectrum, spec.forward, spec.seed)
        shares = {"train": fit_shares(space, _continued(spec.coherence, spec.mean), spec.mean, spec.seed)}
        shares["val"] = shares["train"]
        if spec.ood_documents:
            shares["ood"] = fit_shares(space, _continued(spec.ood_coherence, spec.mean), spec.mean, spec.seed)
        plan = SplitPlan(val=spec.val, ood_sources=("synthetic-ood",))
        table = document_table(spec, plan)
        _draw_vectors(folder, spec, space, shares, table, quiet)
        write_documents(folder, table)
        write_atomic(folder / PARAMETERS, lambda file: np.savez(file, **dataclasses.asdict(space)))
        vectors = map_vectors(folder / VECTORS)
        used = [split for number, split in enumerate(SPLITS) if (table.splits == number).any()]
        synthetic = {
            "spec": dataclasses.asdict(spec),
            "shares": {split: dataclasses.asdict(shares[split]) for split in used},
            "measured": {split: _measure(vectors, table, split, space, shares[split]) for split in used},
        }
        counts = {"documents": len(table), "vectors": len(vectors)}
        return finish_store(
            folder, out, spec.space, counts, origin="synthetic",
            split=plan.to_dict(), synthetic=synthetic,
        )  # fmt: skip


def _draw_vectors(
    folder: Path, spec: SyntheticSpec, space: StateSpace, shares: dict[str, Shares], table: DocumentTable, quiet: bool
) -> None:
    """Write vectors.npy: every document from its own stream, multiplied and written a block of documents at a time."""
    rows = int(table.rows.sum())
    block_M = table.first_row // BLOCK_ROWS
    with (
        create_vectors(folder, rows, spec.dimensions, spec.dtype) as writer,
        progress("drawing vectors", rows, unit="vectors", quiet=quiet) as task,
    ):
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
    """The mean cosine of the conditional mean given `context` vectors: what no model can beat by more than chance.

    Computed on at most MEASURED_WINDOWS windows of the split. Raises StoreError if the store is not synthetic.
    """
    space, shares = load_state_space(store, split)
    measured = _measure(store.vectors, store.documents, split, space, shares, context)
    if not measured["windows"]:
        raise StoreError(f"store {store.path}: no window of context {context} in {split}; choose a smaller context")
    return float(measured["ceiling"])


def load_state_space(store: Store, split: str) -> tuple[StateSpace, Shares]:
    """The process that a split of a synthetic store was drawn from. Raises StoreError for another store or split."""
    try:
        shares = store.manifest["synthetic"]["shares"][split]
        with np.load(store.path / PARAMETERS, allow_pickle=False) as parameters:
            space = StateSpace(**parameters)
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise StoreError(f"store {store.path} has no synthetic split '{split}': its ceiling is not known") from error
    return space, Shares(**{**shares, "components": tuple(map(tuple, shares["components"]))})


def _measure(
    vectors: NDArray[Any], table: DocumentTable, split: str, space: StateSpace, shares: Shares, context: int = CONTEXT
) -> dict[str, Any]:
    """What a sample of windows measures: ceiling, coherence by distance, and the predictors without training."""
    targets = index_windows(table, split, context).targets.numpy()
    targets = targets[sample(len(targets), MEASURED_WINDOWS, 0).numpy()]
    if not len(targets):
        return {"windows": 0, "context": context}
    sums = np.zeros(context + 2)
    for start in range(0, len(targets), MEASURED_BLOCK):
        rows = targets[start : start + MEASURED_BLOCK, None] + np.arange(-context, 1)
        gathered = vectors[rows].astype(np.float32)
        context_BSD, target_BD = gathered[:, :-1], gathered[:, -1]
        predictions = (space.conditional_mean(context_BSD, shares), context_BSD.mean(axis=1))
        sums += [_cosines(each_BD, target_BD) for each_BD in (*predictions, *np.moveaxis(context_BSD, 1, 0)[::-1])]
    best, mean, *by_distance = (round(value, 5) for value in (sums / len(targets)).tolist())
    return {
        "windows": len(targets), "context": context, "ceiling": best, "context-mean": mean,
        "copy-last": by_distance[0], "coherence": by_distance,
    }  # fmt: skip


def _cosines(one_BD: NDArray[np.float32], other_BD: NDArray[np.float32]) -> float:
    """The sum of the rows' cosines."""
    lengths = np.linalg.norm(one_BD, axis=1) * np.linalg.norm(other_BD, axis=1)
    return float((np.einsum("bd,bd->b", one_BD, other_BD) / lengths).sum(dtype=np.float64))


def document_table(spec: SyntheticSpec, plan: SplitPlan) -> DocumentTable:
    """Train and val documents, then those of ood, each a group of its own."""
    lengths, ood_lengths = spec.lengths()
    rows = np.concatenate([lengths, ood_lengths])
    ids = [f"synthetic-{number}" for number in range(len(lengths))]
    ids += [f"synthetic-ood-{number}" for number in range(len(ood_lengths))]
    sources = ["synthetic"] * len(lengths) + ["synthetic-ood"] * len(ood_lengths)
    splits = [SPLITS.index(split) for split in assign_splits(ids, sources, plan)]
    return DocumentTable(
        ids, [""] * len(ids), sources, np.array(splits, np.int8), np.cumsum(rows) - rows, rows, np.arange(len(ids))
    )


def _continued(coherence: tuple[float, ...], mean: float) -> NDArray[np.float64]:
    """A single cosine as a curve: the published one, mixed with 1 to raise it, or with `mean` to lower it."""
    published = np.array(PUBLISHED_COHERENCE)
    if len(coherence) > 1:
        return np.array(coherence)
    end = 1.0 if coherence[0] > published[0] else mean
    mixed: NDArray[np.float64] = end + (published - end) * (coherence[0] - end) / (published[0] - end)
    return mixed
