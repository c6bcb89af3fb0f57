"""Diagnosis: each rule on figures of its own kind, and no word about healthy ones."""

import math

import pytest

from nextvec.guards.diagnosis import PATHOLOGIES, diagnose
from nextvec.guards.diagnosis.case import Case
from nextvec.guards.diagnosis.rules_data import foreign_space
from nextvec.recipe import load_recipe, make_recipe

BASELINES = {
    "val": {"copy-last": 0.45, "context-mean": 0.546, "train-mean": 0.37, "ridge": 0.55},
    "ood": {"copy-last": 0.46, "context-mean": 0.56, "train-mean": 0.36, "ridge": 0.565},
}
RECIPE = {"objective": {"mse": 0.5, "info_nce": 0.5}, "training": {"batch_size": 32}}


def record(epoch: int, val: float, ood: float = 0.57, **fields) -> dict:
    return {
        "epoch": epoch, "val_cosine": val, "val_gain": val - 0.55, "ood_cosine": ood, "ood_gain": ood - 0.565,
        "train_cosine": val + 0.01, "train_loss_info": 1.5, "share_mse": 0.5, "share_info": 0.5, **fields,
    }  # fmt: skip


def case(*records: dict, recipe=RECIPE, baselines=BASELINES, **fields) -> Case:
    return Case(make_recipe(recipe), records, baselines, **fields)


def vals(*cosines: float, **fields) -> list[dict]:
    return [record(epoch, cosine, **fields) for epoch, cosine in enumerate(cosines, start=1)]


def test_a_healthy_run_has_nothing_wrong():
    assert diagnose(case(*vals(0.53, 0.55, 0.56, 0.565, 0.566))).found == ()
    assert diagnose(Case()).found == (), "nothing is known, so nothing is said"


def test_every_pathology_has_a_name_of_its_own_and_something_to_do():
    names = [pathology.name for pathology in PATHOLOGIES]
    assert len(set(names)) == len(names) and all(pathology.advice for pathology in PATHOLOGIES)


TAU = {**RECIPE, "objective": {**RECIPE["objective"], "tau": 0.005}}
MSE_ONLY = {"objective": {"mse": 1.0}}


@pytest.mark.parametrize(
    ("name", "status", "known"),
    [
        ("InfoNCE off", "red", case(*vals(0.43, 0.44, 0.44, train_loss_info=6.93))),
        ("InfoNCE off", "amber", case(*vals(0.43, 0.44, 0.44), recipe=MSE_ONLY)),
        ("InfoNCE dominant", "red", case(*vals(0.27, share_mse=0.0014, share_info=0.9986))),
        ("wrong temperature", "amber", case(*vals(0.55), recipe=TAU)),
        ("overfitting", "amber", case(record(1, 0.5), record(2, 0.56), record(3, 0.53, train_cosine=0.62))),
        ("overfitting", "amber", case(*[record(n, 0.5 + n / 50, ood=0.6 - n / 30) for n in (1, 2, 3)])),
        ("underfitting", "amber", case(*vals(0.45, 0.47, 0.49, 0.51))),
        ("learning rate too high", "red", case(*[record(n, 0.5, train_cosine=c) for n, c in ((1, 0.5), (2, 0.4))])),
        ("learning rate too low", "amber", case(*vals(0.400, 0.4006, 0.4011, 0.4017))),
        ("stuck plateau", "red", case(*vals(0.425, 0.43, 0.435, 0.435))),
        ("non-finite", "red", case(events=[{"kind": "failed", "reason": "the gradient is not finite"}])),
        ("non-finite", "red", case(*vals(0.5, train_loss_mse=math.nan))),
        ("train–eval mismatch", "red", case(events=[{"kind": "mismatch", "trained": 0.57, "evaluated": 0.41}])),
        ("sign flip", "red", case(*vals(-0.4))),
        ("orthogonal collapse", "red", case(*vals(0.01))),
        ("other space", "red", case(*vals(0.56, ood=0.01))),
        ("easier OOD", "amber", case(baselines={**BASELINES, "ood": {"context-mean": 0.64}})),
        ("narrow", "amber", case(*vals(0.56, ood=0.4))),
        ("no gain over a baseline", "amber", case(*vals(0.53, 0.535, 0.54))),
        ("no gain over a baseline", "red", case(*vals(0.4, 0.41, 0.42))),
        (
            "shuffled targets", "red",
            case(baselines={**BASELINES, "ood": {"context-mean": 0.36, "copy-last": 0.2, "train-mean": 0.36}}),
        ),
        (
            "leak between splits", "red",
            case(check={"findings": [{"name": "val in train", "status": "red", "message": "9 rows are in train."}]}),
        ),
    ],
)  # fmt: skip
def test_each_pathology_is_named_with_its_figures(name: str, status: str, known: Case):
    found = {item.name: item for item in diagnose(known).found}
    assert name in found, list(found)
    assert found[name].status == status and found[name].seen and found[name].advice
    assert "\n" not in found[name].line


def test_a_run_that_falls_is_no_plateau():
    names = diagnose(case(*vals(0.49, 0.48, 0.44, 0.40, train_cosine=0.8))).names
    assert "stuck plateau" not in names and "overfitting" in names


def test_the_worst_and_surest_comes_first():
    diagnoses = diagnose(case(*vals(0.43, 0.43, 0.43, 0.42, ood=0.2)))
    statuses = [item.status for item in diagnoses.found]
    assert statuses == sorted(statuses, key=["red", "amber"].index) and diagnoses.status == "red"
    assert diagnoses.names[0] == "stuck plateau"


def test_ridge_gives_a_foreign_space_away():
    foreign = {**BASELINES, "ood": {"context-mean": 0.62, "decayed-mean": 0.63, "ridge": 0.2}}
    assert "another embedding space" in foreign_space(foreign) and foreign_space(BASELINES) == ""
    assert diagnose(case(*vals(0.55, ood=0.1), baselines=foreign)).names[0] == "other space"


# The public record of the failed runs, as figures.


def test_the_loss_scale_of_the_record_is_named():
    """Weights 0.5 / 0.5, InfoNCE 1.4 against MSE 0.002: 700 to 1, val cosine stuck at 0.27."""
    history = vals(0.27, 0.27, 0.27, 0.27, share_mse=1 / 701, share_info=700 / 701, train_loss_info=1.4)
    names = diagnose(Case(load_recipe("amn-790k-unbalanced"), history, BASELINES)).names
    assert names[0] == "InfoNCE dominant" and "stuck plateau" in names


def test_the_wrong_ood_vectors_of_the_record_are_named():
    """OOD cosine about 0 whatever the model."""
    assert diagnose(case(*vals(0.55, 0.56, ood=0.002))).names[0] == "other space"


def test_the_flat_run_of_the_record_is_named():
    names = diagnose(case(*vals(0.425, 0.428, 0.432, 0.436, 0.44, 0.445))).names
    assert "stuck plateau" in names


def test_the_mismatch_of_the_record_is_named():
    """An LSTM at 0.57 in training and 0.41 in the benchmark."""
    assert diagnose(case(events=[{"kind": "mismatch", "trained": 0.57, "evaluated": 0.41}])).names == [
        "train–eval mismatch"
    ]
