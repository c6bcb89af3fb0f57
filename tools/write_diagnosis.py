"""Plant every known fault, see what the diagnosis says, and write docs/reference/diagnosis.md from it.

python tools/write_diagnosis.py

Each planted case is judged as a run would be: real data (a small synthetic store), real baselines, real measures. The
page has a section for each pathology with what its rule says, what to do, and what was seen in the case planted for it.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator
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
from nextvec.data.synthetic.generate import SyntheticSpec, synthesise
from nextvec.data.windows import WindowSet
from nextvec.evaluation.evaluate import evaluate_predictors
from nextvec.guards.diagnosis import PATHOLOGIES, diagnose
from nextvec.guards.diagnosis.case import Case, Diagnoses
from nextvec.models.base import LatentModel
from nextvec.recipe import EvaluationRecipe, make_recipe
from nextvec.training.setup import fit_on

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "diagnosis.md"
CPU = torch.device("cpu")
JUDGE = EvaluationRecipe(queries=600, resamples=200, ridge_windows=20_000)
SPEC = SyntheticSpec(
    documents=240, vectors=7_200, dimensions=32, topics=8, forward=0.3, val=0.2, ood_documents=40, ood_windows=1_000,
    ood_coherence=(0.5,),
)  # fmt: skip
RECIPE = {"objective": {"mse": 0.5, "info_nce": 0.5}, "training": {"batch_size": 32}}


class Planted:
    """A predictor that is wrong in a known way."""

    def __init__(self, predict: Callable[[Tensor], Tensor]) -> None:
        self._predict = predict

    def predict(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """(B, D) unit-length predictions."""
        return F.normalize(self._predict(context_BSD), dim=1)


def noise(context_BSD: Tensor) -> Tensor:
    """Any direction."""
    return torch.randn(len(context_BSD), context_BSD.shape[2], generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class World:
    """A store with its windows and baselines, on which predictors are judged."""

    data: Dataset

    @cached_property
    def sets(self) -> dict[str, WindowSet]:
        """Windows by split."""
        return self.data.windows(5, None, CPU)

    @cached_property
    def baselines(self) -> dict[str, LatentModel]:
        """Baselines, fitted on train."""
        return fit_on(self.sets["train"], JUDGE.ridge_windows, 0, quiet=True)

    def case(self, model: Any, **fields: Any) -> Case:
        """A judged predictor, with the data check."""
        evaluated = {split: self.sets[split] for split in ("val", "ood") if split in self.sets}
        predictors = {"planted": model, **self.baselines}
        evaluation = evaluate_predictors(predictors, evaluated, JUDGE, seed=0, model="planted", quiet=True)
        check = self.data.check(5, None).to_dict()
        return Case(make_recipe(RECIPE), evaluation=evaluation, check=check, **fields)


def make_world(folder: Path) -> World:
    """The sound world, in which all faults are planted."""
    return World(Dataset(synthesise(folder / "sound", SPEC, quiet=True)))


def spoilt(world: World, folder: Path, spoil: Callable[[np.ndarray, Store], np.ndarray]) -> World:
    """The same store with other vectors."""
    store = world.data.store
    folder.mkdir()
    np.save(folder / "vectors.npy", spoil(np.array(store.vectors, np.float32), store).astype(store.vectors.dtype))
    write_documents(folder, store.documents)
    made = finish_store(folder, folder.with_name(folder.name + "_store"), store.space, {}, origin="planted")
    return World(Dataset(made))


def rows_of(store: Store, split: int) -> Iterator[slice]:
    """The rows of each document of a split."""
    for document in np.flatnonzero(store.documents.splits == split):
        first = int(store.documents.first_row[document])
        yield slice(first, first + int(store.documents.rows[document]))


def shuffle_ood(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Every vector of ood somewhere else in ood: contexts don't lead to targets."""
    rows = np.concatenate([np.arange(part.start, part.stop) for part in rows_of(store, 2)])
    vectors[rows] = vectors[np.random.default_rng(0).permutation(rows)]
    return vectors


def reverse_ood(vectors: np.ndarray, store: Store) -> np.ndarray:
    """Every document of ood from its end to its beginning."""
    for part in rows_of(store, 2):
        vectors[part] = vectors[part][::-1].copy()
    return vectors


def turn_ood(vectors: np.ndarray, store: Store) -> np.ndarray:
    """The vectors of ood as another encoder might have made them."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(vectors.shape[1],) * 2))[0]
    for part in rows_of(store, 2):
        vectors[part] = vectors[part] @ turn
    return vectors


def leak_val(vectors: np.ndarray, store: Store) -> np.ndarray:
    """A fifth of val's documents are copies of train's."""
    train = list(rows_of(store, 0))
    for part in list(rows_of(store, 1))[::5]:
        length = part.stop - part.start
        source = next(other for other in train if other.stop - other.start >= length)
        vectors[part] = vectors[source.start : source.start + length]
    return vectors


def records(*cosines: float, **fields: Any) -> list[dict[str, Any]]:
    """Epochs as a run records them, against a best baseline of 0.55 on val."""
    return [
        {"epoch": epoch, "val_cosine": cosine, "val_gain": cosine - 0.55, "train_cosine": cosine + 0.005, **fields}
        for epoch, cosine in enumerate(cosines, start=1)
    ]


@dataclass(frozen=True)
class Fault:
    """A planted fault, and the name that it must be given."""

    label: str
    name: str
    case: Callable[[World, Path], Case]


FAULTS = (
    Fault("predicts the last vector", "copy-last", lambda w, f: w.case(Planted(lambda c: c[:, -1]))),
    Fault("predicts the mean of its context", "order ignored", lambda w, f: w.case(Planted(lambda c: c.mean(dim=1)))),
    Fault(
        "predicts one direction for all", "context ignored",
        lambda w, f: w.case(Planted(lambda c: w.baselines["train-mean"].predict(c))),
    ),
    Fault(
        "predicts almost one direction for all", "collapse to the mean",
        lambda w, f: w.case(Planted(lambda c: w.baselines["train-mean"].predict(c) + 0.15 * c.mean(dim=1))),
    ),
    Fault(
        "predicts at random", "orthogonal collapse", lambda w, f: w.case(Planted(noise)),
    ),
    Fault("sign flipped", "sign flip", lambda w, f: w.case(Planted(lambda c: -w.baselines["ridge"].predict(c)))),
    Fault("predicts the oldest vector", "backward", lambda w, f: w.case(Planted(lambda c: c[:, 0]))),
    Fault(
        "targets of ood shuffled", "shuffled targets",
        lambda w, f: (s := spoilt(w, f / "shuffled", shuffle_ood)).case(s.baselines["ridge"]),
    ),
    Fault(
        "documents of ood reversed", "documents out of order",
        lambda w, f: (s := spoilt(w, f / "reversed", reverse_ood)).case(s.baselines["ridge"]),
    ),
    Fault(
        "val holds copies of train", "leak between splits",
        lambda w, f: (s := spoilt(w, f / "leaked", leak_val)).case(s.baselines["ridge"]),
    ),
    Fault(
        "ood of another encoder", "other space",
        lambda w, f: (s := spoilt(w, f / "turned", turn_ood)).case(s.baselines["ridge"]),
    ),
    Fault(
        "raw weights 0.5 / 0.5", "InfoNCE dominant",
        lambda w, f: Case(make_recipe(RECIPE), records(0.27, 0.27, share_mse=0.0014, share_info=0.9986)),
    ),
    Fault(
        "variance term a hundred times too heavy", "variance term dominant",
        lambda w, f: Case(
            make_recipe({"objective": {"mse": 0.5, "variance": 0.5, "loss_weighting": "raw"}}),
            records(0.3, 0.3, share_mse=0.005, share_variance=0.995),
        ),
    ),
    Fault(
        "InfoNCE at the level of guessing", "InfoNCE off",
        lambda w, f: Case(make_recipe(RECIPE), records(0.5, 0.5, 0.5, train_loss_info=6.93)),
    ),
    Fault(
        "tau 0.002", "wrong temperature",
        lambda w, f: Case(make_recipe({**RECIPE, "objective": {**RECIPE["objective"], "tau": 0.002}}), records(0.55)),
    ),
    Fault(
        "a document's own chunks as negatives", "unmasked near-duplicates",
        lambda w, f: Case(
            make_recipe({**RECIPE, "objective": {**RECIPE["objective"], "mask_same_document": False}}), records(0.55),
            check=w.data.check(5, None).to_dict(),
        ),
    ),
    Fault(
        "NaN in the gradient", "non-finite",
        lambda w, f: Case(events=[{"kind": "failed", "reason": "the gradient is not finite"}]),
    ),
    Fault(
        "another score after reloading", "train–eval mismatch",
        lambda w, f: Case(events=[{"kind": "mismatch", "trained": 0.57, "evaluated": 0.41}]),
    ),
    Fault("flat from the first epoch", "stuck plateau", lambda w, f: Case(history=records(0.425, 0.43, 0.44, 0.445))),
    Fault(
        "train rises, val falls", "overfitting",
        lambda w, f: Case(history=[*records(0.5, 0.56), {**records(0.53)[0], "epoch": 3, "train_cosine": 0.62}]),
    ),
    Fault("still rising at the end", "underfitting", lambda w, f: Case(history=records(0.45, 0.47, 0.49, 0.51))),
    Fault("train falls", "learning rate too high", lambda w, f: Case(history=records(0.5, 0.42, 0.47))),
    Fault("hardly moves", "learning rate too low", lambda w, f: Case(history=records(0.4, 0.4006, 0.4011, 0.4017))),
    Fault(
        "ood at 0.64, val at 0.55", "easier OOD",
        lambda w, f: Case(baselines={"val": {"context-mean": 0.55}, "ood": {"context-mean": 0.64}}),
    ),
    Fault(
        "gain on val, none on ood", "narrow",
        lambda w, f: Case(history=records(0.56, ood_cosine=0.4, ood_gain=-0.16)),
    ),
    Fault(
        "a threshold of another space", "gate out of reach",
        lambda w, f: Case(
            make_recipe({"gates": [{"epoch": 1, "metric": "val_cosine", "red": 0.7}]}), records(0.56),
            {"val": {"context-mean": 0.55}},
        ),
    ),
    Fault(
        "the second-best baseline as a model", "no gain over a baseline",
        lambda w, f: w.case(w.baselines["decayed-mean"]),
    ),
)  # fmt: skip


def plant(folder: Path) -> dict[str, Diagnoses]:
    """What the diagnosis says of each planted fault, and of the sound predictor."""
    world = make_world(folder)
    found = {fault.label: diagnose(fault.case(world, folder)) for fault in FAULTS}
    sound = world.case(world.baselines["ridge"])
    assert sound.evaluation is not None
    # Ridge as the model, without itself among the baselines: what a healthy model looks like on these data.
    evaluation = evaluate_predictors(
        {"planted": world.baselines["ridge"], **{n: b for n, b in world.baselines.items() if n != "ridge"}},
        {split: world.sets[split] for split in ("val", "ood")}, JUDGE, seed=0, model="planted", quiet=True,
    )  # fmt: skip
    return found | {SOUND: diagnose(replace(sound, evaluation=evaluation))}


SOUND = "nothing: a sound predictor"


def page(found: dict[str, Diagnoses]) -> str:
    """docs/reference/diagnosis.md."""
    lines = [
        "# Diagnosis",
        "",
        "**For:** operators whose run has a red gate, a weak verdict or an error.\\",
        "**Answers:** what each diagnosis means, what to do about it, and what it looks like on a planted example.",
        "",
        "`nextvec diagnose RUN` reports what is wrong with a run, with a confidence and a suggested fix. The same "
        "lines appear below a red gate and at the end of a run. Its input is the run folder: recipe, epochs, "
        "baselines, data check, evaluation and events. Each diagnosis is a small rule over these numbers.",
        "",
        "`tools/write_diagnosis.py` generates this page. It plants each fault and diagnoses it. The most serious "
        "diagnoses come first.",
    ]
    for pathology in PATHOLOGIES:
        meaning = " ".join((inspect.getdoc(pathology.rule) or "").split())
        lines += [
            "",
            f"## {pathology.name}",
            "",
            *([meaning, ""] if meaning else []),
            f"What to do: {pathology.advice}.",
        ]
        for fault in FAULTS:
            example = next((item for item in found[fault.label].found if item.name == pathology.name), None)
            if fault.name == pathology.name and example:
                lines += ["", f"> {fault.label}: {example.status}, {example.sureness}: {example.seen}"]
    lines += ["", "## Planted faults", "", "Each row is one fault and what `nextvec diagnose` reports for it.", ""]
    lines += ["| planted fault | first diagnosis | also reported |", "| --- | --- | --- |"]
    for label, diagnoses in found.items():
        first, *others = diagnoses.names or ["–"]
        lines.append(f"| {label} | {first} | {', '.join(others) or '–'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(plant(Path(folder))), encoding="utf-8")
