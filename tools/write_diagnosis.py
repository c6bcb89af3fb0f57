"""Plant every known fault, diagnose it, and write docs/reference/diagnosis.md from the results.

    python tools/write_diagnosis.py

Each planted case is evaluated as a run is: a small synthetic store, fitted baselines, measured results. The page has a
section for each pathology: its rule, its advice, and the evidence from the case planted for it.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.data.dataset import Dataset
from nextvec.data.store import Store
from nextvec.data.store.writer import finish_store, write_documents
from nextvec.data.synthetic.generate import SyntheticSpec, synthesize
from nextvec.data.windows import WindowSet
from nextvec.evaluation.evaluate import evaluate_predictors
from nextvec.evaluation.results import Evaluation
from nextvec.guards.diagnosis import PATHOLOGIES, diagnose
from nextvec.guards.diagnosis.case import Case, Diagnoses
from nextvec.models.base import LatentModel
from nextvec.recipe import EvaluationRecipe, Recipe, make_recipe
from nextvec.training.setup import fit_on

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "diagnosis.md"
CPU = torch.device("cpu")
EVALUATION = EvaluationRecipe(queries=600, resamples=200, ridge_windows=20_000)
SPEC = SyntheticSpec(
    documents=240,
    vectors=7_200,
    dimensions=32,
    topics=8,
    forward=0.3,
    val=0.2,
    ood_documents=40,
    ood_windows=1_000,
    ood_coherence=(0.5,),
)


class Planted:
    """A predictor with a known fault."""

    def __init__(self, predict: Callable[[Tensor], Tensor]) -> None:
        self._predict = predict

    def predict(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Return (B, D) unit-length predictions."""
        return F.normalize(self._predict(context_BSD), dim=1)


def random_directions(context_BSD: Tensor) -> Tensor:
    """Return (B, D) random directions, the same in every call."""
    return torch.randn(len(context_BSD), context_BSD.shape[2], generator=torch.Generator().manual_seed(0))


def recipe_with(**objective: Any) -> Recipe:
    """Return a recipe with MSE and InfoNCE at equal weights, and other fields of the objective."""
    fields = {"mse": 0.5, "info_nce": 0.5, **objective}
    return make_recipe({"objective": fields, "training": {"batch_size": 32}})


@dataclass(frozen=True)
class World:
    """A store with its windows and fitted baselines."""

    data: Dataset

    @cached_property
    def sets(self) -> dict[str, WindowSet]:
        """Windows by split."""
        return self.data.windows(5, None, CPU)

    @cached_property
    def baselines(self) -> dict[str, LatentModel]:
        """Baselines, fitted on train."""
        return fit_on(self.sets["train"], EVALUATION.ridge_windows, 0, quiet=True)

    def evaluate(self, model: Any, *, without: Sequence[str] = ()) -> Evaluation:
        """Evaluate a predictor on val and ood against the baselines, except those named by `without`."""
        baselines = {name: baseline for name, baseline in self.baselines.items() if name not in without}
        sets = {split: self.sets[split] for split in ("val", "ood") if split in self.sets}
        return evaluate_predictors(
            {"planted": model, **baselines}, sets, EVALUATION, seed=0, model="planted", quiet=True
        )

    @cached_property
    def check(self) -> dict[str, Any]:
        """The data check as plain values."""
        return self.data.check(5, None).to_dict()

    def case(self, model: Any) -> Case:
        """Return the case of an evaluated predictor, with the data check."""
        return Case(recipe_with(), evaluation=self.evaluate(model), check=self.check)


def make_world(folder: Path) -> World:
    """Return the healthy world, in which all faults are planted."""
    return World(Dataset(synthesize(folder / "healthy", SPEC, quiet=True)))


def perturb_store(world: World, folder: Path, perturb: Callable[[np.ndarray, Store], np.ndarray]) -> World:
    """Return a world with the same documents and perturbed vectors."""
    store = world.data.store
    folder.mkdir()
    vectors = perturb(np.array(store.vectors, np.float32), store)
    np.save(folder / "vectors.npy", vectors.astype(store.vectors.dtype))
    write_documents(folder, store.documents)
    perturbed = finish_store(folder, folder.with_name(folder.name + "_store"), store.space, {}, origin="planted")
    return World(Dataset(perturbed))


def document_rows(store: Store, split: int) -> Iterator[slice]:
    """Iterate over the rows of each document of a split."""
    for document in np.flatnonzero(store.documents.splits == split):
        first = int(store.documents.first_row[document])
        yield slice(first, first + int(store.documents.rows[document]))


def shuffle_ood(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Shuffle the vectors of all ood documents, so that contexts carry no information about targets."""
    rows = np.concatenate([np.arange(document.start, document.stop) for document in document_rows(store, 2)])
    vectors[rows] = vectors[np.random.default_rng(0).permutation(rows)]
    return vectors


def reverse_ood(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Reverse every ood document."""
    for document in document_rows(store, 2):
        vectors[document] = vectors[document][::-1].copy()
    return vectors


def rotate_ood(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Rotate the ood vectors, as if another encoder had made them."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(vectors.shape[1],) * 2))[0]
    for document in document_rows(store, 2):
        vectors[document] = vectors[document] @ rotation
    return vectors


def leak_val(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Replace every fifth val document by a copy of a train document."""
    train = list(document_rows(store, 0))
    for document in list(document_rows(store, 1))[::5]:
        length = document.stop - document.start
        source = next(rows for rows in train if rows.stop - rows.start >= length)
        vectors[document] = vectors[source.start : source.start + length]
    return vectors


def make_history(*cosines: float, **fields: Any) -> list[dict[str, Any]]:
    """Return epochs as a run records them, against a best baseline of 0.55 on val."""
    return [
        {"epoch": epoch, "val_cosine": cosine, "val_gain": cosine - 0.55, "train_cosine": cosine + 0.005, **fields}
        for epoch, cosine in enumerate(cosines, start=1)
    ]


@dataclass(frozen=True)
class Fault:
    """A planted fault, and the id of the pathology that must be diagnosed."""

    label: str
    id: str
    make_case: Callable[[World, Path], Case]


def predictor_fault(label: str, id: str, predict: Callable[[World, Tensor], Tensor]) -> Fault:
    """Return a fault of the predictor in the healthy world."""
    return Fault(label, id, lambda world, folder: world.case(Planted(lambda context: predict(world, context))))


def data_fault(label: str, id: str, perturb: Callable[[np.ndarray, Store], np.ndarray]) -> Fault:
    """Return a fault of the data, with the healthy world's kind of model: ridge."""

    def make_case(world: World, folder: Path) -> Case:
        perturbed = perturb_store(world, folder / id, perturb)
        return perturbed.case(perturbed.baselines["ridge"])

    return Fault(label, id, make_case)


def recorded_fault(label: str, id: str, case: Case) -> Fault:
    """Return a fault in what a run has recorded; it needs no store."""
    return Fault(label, id, lambda world, folder: case)


PREDICTOR_FAULTS = (
    predictor_fault("predicts the last vector", "copy-last", lambda world, context: context[:, -1]),
    predictor_fault("predicts the mean of its context", "order-ignored", lambda world, context: context.mean(dim=1)),
    predictor_fault(
        "predicts a constant",
        "context-ignored",
        lambda world, context: world.baselines["train-mean"].predict(context),
    ),
    predictor_fault(
        "predicts almost a constant",
        "collapse-to-mean",
        lambda world, context: world.baselines["train-mean"].predict(context) + 0.15 * context.mean(dim=1),
    ),
    predictor_fault(
        "predicts random directions", "orthogonal-collapse", lambda world, context: random_directions(context)
    ),
    predictor_fault(
        "predicts with the sign flipped", "sign-flip", lambda world, context: -world.baselines["ridge"].predict(context)
    ),
    predictor_fault("predicts the oldest vector", "backward-predictions", lambda world, context: context[:, 0]),
    Fault(
        "the second-best baseline as a model",
        "no-gain-over-baseline",
        lambda world, folder: world.case(world.baselines["decayed-mean"]),
    ),
    Fault(
        "a higher cosine than every baseline, but a lower MRR",
        "poor-retrieval",
        lambda world, folder: Case(
            recipe_with(), evaluation=world.evaluate(world.baselines["ridge"], without=["ridge"])
        ),
    ),
)

DATA_FAULTS = (
    data_fault("ood vectors shuffled", "shuffled-targets", shuffle_ood),
    data_fault("ood documents reversed", "wrong-chunk-order", reverse_ood),
    data_fault("val contains copies of train", "data-leakage", leak_val),
    data_fault("ood vectors from another encoder", "embedding-space-mismatch", rotate_ood),
    recorded_fault(
        "best baseline 0.64 on ood, 0.55 on val",
        "ood-easier-than-val",
        Case(baselines={"val": {"context-mean": 0.55}, "ood": {"context-mean": 0.64}}),
    ),
    recorded_fault(
        "a gate threshold from another space",
        "unreachable-gate",
        Case(
            make_recipe({"gates": [{"epoch": 1, "metric": "val_cosine", "red": 0.7}]}),
            make_history(0.56),
            {"val": {"context-mean": 0.55}},
        ),
    ),
)

OBJECTIVE_FAULTS = (
    recorded_fault(
        "raw weights 0.5 / 0.5",
        "info-nce-dominates",
        Case(recipe_with(), make_history(0.27, 0.27, share_mse=0.0014, share_info=0.9986)),
    ),
    recorded_fault(
        "variance term 100 times too heavy",
        "variance-dominates",
        Case(
            make_recipe({"objective": {"mse": 0.5, "variance": 0.5, "loss_weighting": "raw"}}),
            make_history(0.3, 0.3, share_mse=0.005, share_variance=0.995),
        ),
    ),
    recorded_fault(
        "InfoNCE at chance level",
        "inactive-info-nce",
        Case(recipe_with(), make_history(0.5, 0.5, 0.5, train_loss_info=6.93)),
    ),
    recorded_fault("tau 0.002", "temperature-out-of-range", Case(recipe_with(tau=0.002), make_history(0.55))),
    Fault(
        "a document's own chunks as negatives",
        "unmasked-near-duplicates",
        lambda world, folder: Case(recipe_with(mask_same_document=False), make_history(0.55), check=world.check),
    ),
)

TRAINING_FAULTS = (
    recorded_fault(
        "NaN in the gradient",
        "non-finite",
        Case(events=[{"kind": "failed", "reason": "the gradient is not finite"}]),
    ),
    recorded_fault(
        "another score after reloading",
        "train-eval-mismatch",
        Case(events=[{"kind": "mismatch", "trained": 0.57, "evaluated": 0.41}]),
    ),
    recorded_fault("flat from the first epoch", "stuck-plateau", Case(history=make_history(0.425, 0.43, 0.44, 0.445))),
    recorded_fault(
        "train rises, val falls",
        "overfitting",
        Case(history=[*make_history(0.5, 0.56), {**make_history(0.53)[0], "epoch": 3, "train_cosine": 0.62}]),
    ),
    recorded_fault(
        "still rising in the last epoch", "underfitting", Case(history=make_history(0.45, 0.47, 0.49, 0.51))
    ),
    recorded_fault("train cosine falls", "learning-rate-too-high", Case(history=make_history(0.5, 0.42, 0.47))),
    recorded_fault(
        "train cosine hardly rises",
        "learning-rate-too-low",
        Case(history=make_history(0.4, 0.4006, 0.4011, 0.4017)),
    ),
    recorded_fault(
        "gain on val, none on ood",
        "poor-ood-generalization",
        Case(history=make_history(0.56, ood_cosine=0.4, ood_gain=-0.16)),
    ),
)

FAULTS = (*PREDICTOR_FAULTS, *DATA_FAULTS, *OBJECTIVE_FAULTS, *TRAINING_FAULTS)
HEALTHY = "none (a healthy predictor)"


def plant(folder: Path) -> dict[str, Diagnoses]:
    """Diagnose each planted fault, and a healthy predictor; returns label → diagnoses."""
    world = make_world(folder)
    diagnoses = {fault.label: diagnose(fault.make_case(world, folder)) for fault in FAULTS}
    # The sum of two good baselines beats the weaker ones in cosine and MRR: what a healthy model looks like.
    ridge, decayed = world.baselines["ridge"], world.baselines["decayed-mean"]
    predictor = Planted(lambda context: ridge.predict(context) + decayed.predict(context))
    stronger = ["ridge", "decayed-mean", "retrieval-decay", "ridge-retrieval"]
    healthy = replace(world.case(predictor), evaluation=world.evaluate(predictor, without=stronger))
    return diagnoses | {HEALTHY: diagnose(healthy)}


INTRODUCTION = """\
# Diagnosis

**For:** operators whose run has a red gate, a weak verdict or an error.\\
**Answers:** what each diagnosis means, what to do about it, and what it looks like on a planted example.

`nextvec diagnose RUN` reports what is wrong with a run, with a confidence and a suggested fix. The same lines appear \
below a red gate and at the end of a run. Its input is the run folder: recipe, epochs, baselines, data check, \
evaluation and events. Each diagnosis is a small rule over these numbers.

`tools/write_diagnosis.py` generates this page. It plants each fault and diagnoses it. The most serious diagnoses come \
first."""


def make_page(diagnoses: dict[str, Diagnoses]) -> str:
    """Return docs/reference/diagnosis.md."""
    lines = [INTRODUCTION]
    for pathology in PATHOLOGIES:
        meaning = " ".join((inspect.getdoc(pathology.rule) or "").split())
        lines += ["", f"## {pathology.title}", "", meaning, "", f"**What to do.** {pathology.advice}"]
        for fault in FAULTS:
            example = next((item for item in diagnoses[fault.label].items if item.id == pathology.id), None)
            if fault.id == pathology.id and example:
                lines += [
                    "",
                    f"Planted fault: {fault.label}. Diagnosis: {example.status}, {example.confidence}.",
                    "",
                    f"> {example.evidence}",
                ]
    lines += ["", "## Planted faults", "", "Each row is one fault and what `nextvec diagnose` reports for it.", ""]
    lines += ["| planted fault | first diagnosis | also reported |", "| --- | --- | --- |"]
    for label, reported in diagnoses.items():
        first, *others = [item.title for item in reported.items] or ["–"]
        lines.append(f"| {label} | {first} | {', '.join(others) or '–'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(make_page(plant(Path(folder))), encoding="utf-8")
