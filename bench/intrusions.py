"""Measure how well scores find an intruder: a chunk of a document replaced by a chunk of another document.

python bench/intrusions.py STORE MODEL [--documents N] [--threads N]

The intruder is a random chunk, or the near one with the highest cosine to the chunk that it replaces, and never the
first chunk. A result is the area under the ROC curve within a document: the fraction of its other chunks after the
first that score higher. The table shows its mean with a 95 % interval over documents. The weights of the two fitted
combinations come from logistic regression on intruders in train documents.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from common import finish
from sklearn.linear_model import LogisticRegression

from nextvec.data.store import open_store
from nextvec.evaluation.bootstrap import estimate_means
from nextvec.inference.coherence import cosines, fit_coherence, read_documents, two_sided_means
from nextvec.inference.load import load_model

FIT_DOCUMENTS, COPIES, RESAMPLES, SEED, DECAY = 350, 2, 2000, 0, 0.8
KINDS = ("random", "near")
MEANS = ("copy-last", "copy-next", "decayed mean, before", "decayed mean, after", "decayed mean, both sides", "rest")
WITH_NETWORK = ("both sides", "rest", "prediction, before", "prediction, after", "query, before", "query, after")


def plant(documents, kind):
    """Yield COPIES of every document (N, D) with an intruder at a position: vectors, position, document."""
    rng = np.random.default_rng(SEED)
    pool_MD = np.concatenate(documents)
    document_M = np.repeat(np.arange(len(documents)), list(map(len, documents)))
    for number, original_ND in enumerate(documents):
        others_M = np.flatnonzero(document_M != number)
        for position in rng.permutation(np.arange(1, len(original_ND)))[:COPIES]:
            nearest = (pool_MD[others_M] @ original_ND[position]).argmax()
            row = others_M[nearest if kind == "near" else rng.integers(len(others_M))]
            changed_ND = original_ND.copy()
            changed_ND[position] = pool_MD[row]
            yield changed_ND, int(position), number


def decayed_means(document_ND, decay):
    """Return the decayed mean of the chunks before each chunk (N, D); that of the first is the second chunk."""
    sum_D, means = np.zeros_like(document_ND[0]), []
    for vector_D in document_ND:
        means.append(sum_D)
        sum_D = decay * sum_D + vector_D
    return np.stack([document_ND[1], *means[1:]])


def measure(model, coherence, planted):
    """Return for each planted document its features, name → (N,)."""
    # The network reads all documents at once, forwards and backwards; the first chunk has the second as its context.
    documents = [document_ND for document_ND, _, _ in planted]
    length, columns = model.context_length, {}
    for side, step in (("before", 1), ("after", -1)):
        contexts = [
            np.ascontiguousarray(ordered[max(0, end - length) : end] if end else ordered[1:2])
            for ordered in (document_ND[::step] for document_ND in documents)
            for end in range(len(ordered))
        ]
        for output in model.outputs:
            columns[f"{output}, {side}"] = np.asarray(
                {"prediction": model.predict, "query": model.query}[output](contexts)
            )
    ends = np.cumsum(list(map(len, documents)))[:-1]
    parts = {name: np.split(vectors, ends) for name, vectors in columns.items()}
    features = []
    for number, own_ND in enumerate(documents):
        outputs = {n: p[number][:: 1 if n.endswith("before") else -1] for n, p in parts.items()}
        both_ND, rest_ND = two_sided_means(own_ND), own_ND.sum(axis=0) - own_ND
        means = (
            *(decayed_means(own_ND[::step], 0.0)[::step] for step in (1, -1)),
            *(decayed_means(own_ND[::step], DECAY)[::step] for step in (1, -1)),
            both_ND,
            rest_ND,
        )
        whitened = {"both sides": both_ND, "rest": rest_ND, **outputs}
        matrix = coherence.whitening_DD
        features.append(
            {name: cosines(vectors, own_ND) for name, vectors in zip(MEANS, means, strict=True)}
            | {"prediction": cosines(outputs["prediction, before"], own_ND)}
            | {f"whitened {name}": cosines(vectors @ matrix, own_ND @ matrix) for name, vectors in whitened.items()}
            | {"coherence": coherence.measure(own_ND)}
        )
    return features


def fit(planted, features, names):
    """Return a weight per feature, from pairs of an ordinary chunk and the intruder of the same document."""
    pairs = []
    for (_, position, _), values in zip(planted, features, strict=True):
        values_NF = np.stack([values[name] for name in names], axis=1)
        pairs.append(np.delete(values_NF, [0, position], axis=0) - values_NF[position])
    difference_PF = np.concatenate(pairs)
    scale_F = np.sqrt((difference_PF**2).mean(axis=0))
    weight_P = np.concatenate([np.full(len(pair), 1 / len(pair)) for pair in pairs])
    # Both signs of every pair, because a regression needs two classes.
    model = LogisticRegression(C=250 / len(pairs), fit_intercept=False, max_iter=1000)
    inputs, labels = np.concatenate([difference_PF, -difference_PF]) / scale_F, np.repeat([1, 0], len(difference_PF))
    model.fit(inputs, labels, sample_weight=np.tile(weight_P, 2))
    return dict(zip(names, model.coef_[0] / scale_F, strict=True))


def auc(values_N, position):
    """Return the fraction of the other chunks after the first that score higher; an equal score counts half."""
    others = np.delete(values_N, [0, position])
    return (others > values_N[position]).mean() + 0.5 * (others == values_N[position]).mean()


def main():
    """Fit the combinations on train, measure on val and ood, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=300, help="documents of val and of ood")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, store = load_model(options.model), open_store(options.store)
    coherence = fit_coherence(store)
    assert coherence is not None, "the store has too few documents"
    planted = [item for kind in KINDS for item in plant(read_documents(store, "train", FIT_DOCUMENTS, SEED), kind)]
    features = measure(model, coherence, planted)
    with_network = [f"whitened {name}" for name in WITH_NETWORK if f"whitened {name}" in features[0]]
    names = ("copy-last", "decayed mean, before", "decayed mean, both sides", "prediction")
    scores = {name: {name: 1.0} for name in names}
    scores["fitted sum of all means"] = fit(planted, features, MEANS)
    scores["coherence"] = {"coherence": 1.0}
    scores["fitted sum of whitened means and outputs"] = fit(planted, features, with_network)
    rows = []
    for split in ("val", "ood"):
        documents = read_documents(store, split, options.documents, SEED)
        for kind in KINDS if documents else ():
            planted = list(plant(documents, kind))
            features = measure(model, coherence, planted)
            auc_SP = np.array(
                [
                    [
                        auc(sum(weight * values[name] for name, weight in weights.items()), position)
                        for (_, position, _), values in zip(planted, features, strict=True)
                    ]
                    for weights in scores.values()
                ]
            )
            difference_SP = auc_SP[list(scores).index("coherence")] - auc_SP
            groups = np.array([number for _, _, number in planted])
            bounds = [(0.0, 1.0)] * len(scores) + [(-1.0, 1.0)] * len(scores)
            estimates = estimate_means(np.concatenate([auc_SP, difference_SP]), groups, RESAMPLES, SEED, bounds=bounds)
            for place, name in enumerate(scores):
                row = {"split": split, "intruder": kind, "documents": len(documents), "score": name}
                gain = estimates[len(scores) + place].signed if name != "coherence" else "–"
                rows.append(row | {"AUC": str(estimates[place]), "coherence − score": gain})
    finish("intrusions", rows, weights={name: round(float(w), 2) for name, w in list(scores.values())[-1].items()})


if __name__ == "__main__":
    main()
