"""Measure the error rates of the data check's comparison of embedding spaces.

    python bench/space_check.py [--chunks 300] [--cache FOLDER] [--texts FOLDER ...] [--store STORE ...]

Corpora of texts that installed packages carry (space_corpora.py), and of every folder of `--texts`, are encoded with
minilm and with other poolings and layers of its network; `--cache` keeps the vectors. Each corpus takes the place of an
ood set. It is compared with large training sets, which are the union of all docstrings and the train split of every
store (which must be of minilm as well), and with every other corpus, which is a training set of a few hundred rows.
Healthy sets must never be red; sets of another space never green.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import finish
from numpy.typing import NDArray
from scipy.linalg import expm
from space_corpora import Corpus, encode_variants, package_corpora, read_texts

from nextvec.data.checks.embedding_space import SpaceReference, compare_spaces, measure_reference
from nextvec.data.checks.rules_space import assess_space
from nextvec.data.checks.sampling import Sample, draw_sample
from nextvec.data.store import open_store

Rows = NDArray[np.float32]
Variants = dict[str, Sample]

RANDOM = np.random.default_rng(7)
HEALTHY = "minilm"
LARGE, SMALL = "large train", "small train"
SMALL_SETS = {HEALTHY, "rotation", "permutation of 100%"}
"""Sets that are compared with small training sets as well."""


def permute(share: float) -> Callable[[Rows], Rows]:
    """Return a fault that moves a share of the dimensions."""

    def change(rows_RD: Rows) -> Rows:
        chosen = RANDOM.permutation(rows_RD.shape[1])[: int(share * rows_RD.shape[1])]
        rows_RD[:, chosen] = rows_RD[:, np.roll(chosen, 1)]
        return rows_RD

    return change


def flip(share: float) -> Callable[[Rows], Rows]:
    """Return a fault that changes the signs of a share of the dimensions."""
    return lambda rows_RD: rows_RD * np.where(RANDOM.permutation(rows_RD.shape[1]) < share * rows_RD.shape[1], -1, 1)


def rotate(share: float) -> Callable[[Rows], Rows]:
    """Return a fault that rotates a share of the dimensions among themselves."""

    def change(rows_RD: Rows) -> Rows:
        chosen = RANDOM.permutation(rows_RD.shape[1])[: int(share * rows_RD.shape[1])]
        rows_RD[:, chosen] = rows_RD[:, chosen] @ np.linalg.qr(RANDOM.standard_normal((len(chosen), len(chosen))))[0]
        return rows_RD

    return change


def zero_third(rows_RD: Rows) -> Rows:
    """Set a third of the dimensions to zero."""
    return rows_RD * (RANDOM.permutation(rows_RD.shape[1]) % 3 > 0)


def standardize(rows_RD: Rows) -> Rows:
    """Give every dimension mean 0 and variance 1."""
    return (rows_RD - rows_RD.mean(axis=0)) / np.maximum(rows_RD.std(axis=0), 1e-6)


def whiten(rows_RD: Rows) -> Rows:
    """Remove all correlations and order the dimensions by variance (PCA)."""
    centered_RD = rows_RD - rows_RD.mean(axis=0)
    variance_D, directions_DD = np.linalg.eigh(centered_RD.T @ centered_RD / len(centered_RD))
    return centered_RD @ (directions_DD / np.sqrt(variance_D + 1e-4))


def turn(angle: float) -> Callable[[Rows], Rows]:
    """Return a rotation that turns every vector by about `angle` radians."""

    def change(rows_RD: Rows) -> Rows:
        random_DD = RANDOM.standard_normal((rows_RD.shape[1],) * 2)
        return rows_RD @ expm(angle * (random_DD - random_DD.T) / np.sqrt(2 * rows_RD.shape[1]))

    return change


def add_linear(strength: float) -> Callable[[Rows], Rows]:
    """Return a linear layer near the identity, as after a little more training: I plus noise of this strength."""

    def change(rows_RD: Rows) -> Rows:
        dimensions = rows_RD.shape[1]
        return rows_RD + strength * rows_RD @ RANDOM.standard_normal((dimensions,) * 2) / np.sqrt(dimensions)

    return change


def add_dense(normalize: bool) -> Callable[[Rows], Rows]:
    """Return a Dense layer with tanh on unit vectors, or on pooled vectors, which have a length of about 5."""

    def change(rows_RD: Rows) -> Rows:
        random = np.random.default_rng(11)
        weight_DD = random.standard_normal((rows_RD.shape[1],) * 2)
        return np.tanh((1 if normalize else 5) * rows_RD @ weight_DD + 0.5 * random.standard_normal(rows_RD.shape[1]))

    return change


FAULTS: dict[str, Callable[[Rows], Rows]] = {
    "rotation": rotate(1),
    "rotation of 25 %": rotate(0.25),
    **{f"permutation of {share:.0%}": permute(share) for share in (1, 0.5, 0.25, 0.1)},
    **{f"signs of {share:.0%}": flip(share) for share in (0.5, 0.25, 0.1)},
    "a third zeroed": zero_third,
    **{f"rotation by {angle} rad": turn(angle) for angle in (0.1, 0.5, 1)},
    **{f"linear layer, {strength} from the identity": add_linear(strength) for strength in (0.1, 0.5, 1)},
    "a Dense layer": add_dense(normalize=True),
    "PCA whitening": whiten,
    "standardized": standardize,
    "centered": lambda rows_RD: rows_RD - rows_RD.mean(axis=0),
}


def make_sample(vectors_RD: NDArray[np.floating], lengths_M: NDArray[np.integer]) -> Sample:
    """Return the rows of documents as a sample of unit vectors."""
    rows_RD = vectors_RD.astype(np.float32)
    rows_RD /= np.maximum(np.linalg.norm(rows_RD, axis=1, keepdims=True), 1e-9)
    document_R = np.repeat(np.arange(len(lengths_M)), lengths_M)
    return Sample(rows_RD, np.ones(len(rows_RD), np.bool_), document_R, document_R)


def change_rows(sample: Sample, change: Callable[[Rows], Rows]) -> Sample:
    """Return a sample after a fault."""
    return make_sample(change(sample.vectors_RD.copy()), np.bincount(sample.document_R))


def first_rows(sample: Sample, rows: int) -> Sample:
    """Return the first rows of a sample."""
    return make_sample(sample.vectors_RD[:rows], np.bincount(sample.document_R[:rows]))


def load_variants(name: str, corpus: Corpus, cache: Path | None) -> Variants:
    """Return a corpus in every space, from the cache if it is there."""
    path = None if cache is None else cache / f"{name.replace(' ', '_')}.npz"
    if path is not None and path.exists():
        with np.load(path) as file:
            arrays = dict(file)
    else:
        arrays = dict(encode_variants([text for document in corpus for text in document]))
        arrays["lengths"] = np.array([len(document) for document in corpus])
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **arrays)
    lengths_M = arrays.pop("lengths")
    return {space: make_sample(vectors, lengths_M) for space, vectors in arrays.items() if len(vectors[0]) > 2}


def count_outcomes(corpora: dict[str, Variants], stores: dict[str, Sample]) -> dict[tuple[str, str], Counter[str]]:
    """Return the outcomes by kind of training set and kind of ood set."""
    docstrings = [variants[HEALTHY] for name, variants in corpora.items() if name.startswith("docstrings")]
    lengths = np.concatenate([np.bincount(sample.document_R) for sample in docstrings])
    union = make_sample(np.concatenate([sample.vectors_RD for sample in docstrings]), lengths)
    references: dict[str, SpaceReference | None] = {
        name: measure_reference(sample) for name, sample in {"docstrings": union, **stores}.items()
    }
    references |= {name: measure_reference(variants[HEALTHY]) for name, variants in corpora.items()}
    dense = measure_reference(change_rows(union, add_dense(normalize=False)))
    outcomes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, variants in corpora.items():
        healthy = variants[HEALTHY]
        sets = {**variants, **{fault: change_rows(healthy, change) for fault, change in FAULTS.items()}}
        sets |= {f"{HEALTHY}, {rows} rows": first_rows(healthy, rows) for rows in (50, 100)}
        for space, sample in sets.items():
            for train, reference in references.items():
                is_part = train == name or (train == "docstrings" and name.startswith("docstrings"))
                if reference is None or is_part:
                    continue
                size = LARGE if train == "docstrings" or train in stores else SMALL
                if size == SMALL and space not in SMALL_SETS:
                    continue  # there are many small training sets, and few faults show in comparison with them
                status = assess_space(compare_spaces(sample, reference))[0]
                outcomes[size, space][status or "not assessed"] += 1
        # The same Dense layer on both sides, once behind the normalization and once before it.
        if dense is not None and not name.startswith("docstrings"):
            status = assess_space(compare_spaces(sets["a Dense layer"], dense))[0]
            outcomes[LARGE, "another normalization before a Dense layer"][status or "not assessed"] += 1
    return outcomes


def main():
    """Print the table of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=300, help="maximum number of chunks of a corpus")
    parser.add_argument("--cache", type=Path, help="folder for the vectors")
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="folders of text files, a corpus each")
    parser.add_argument("--store", nargs="*", default=[], help="stores of minilm vectors, as large training sets")
    options = parser.parse_args()
    texts = package_corpora(options.chunks)
    texts |= {folder.name: read_texts(folder, options.chunks) for folder in options.texts}
    corpora = {name: load_variants(name, corpus, options.cache) for name, corpus in texts.items()}
    stores = {}
    for path in options.store:
        store = open_store(Path(path))
        stores[path] = draw_sample(store.vectors, store.documents, "train", 50_000)
    outcomes = count_outcomes(corpora, stores)
    columns = ("green", "not assessed", "amber", "red")
    rows = [
        {"train": size, "ood set": space, **{column: outcomes[size, space][column] for column in columns}}
        for size, space in sorted(outcomes)
    ]
    finish("space_check", rows, corpora=len(corpora), chunks=sum(sum(map(len, corpus)) for corpus in texts.values()))


if __name__ == "__main__":
    main()
