"""Diagnosis: each rule on the numbers of its own fault, and silence on healthy ones."""

import math
import re

import pytest

from nextvec.guards.diagnosis import PATHOLOGIES, diagnose
from nextvec.guards.diagnosis.case import Case
from nextvec.guards.diagnosis.rules_data import find_space_mismatch
from nextvec.recipe import Recipe, load_recipe, make_recipe

BASELINES = {
    "val": {"copy-last": 0.45, "context-mean": 0.546, "train-mean": 0.37, "ridge": 0.55},
    "ood": {"copy-last": 0.46, "context-mean": 0.56, "train-mean": 0.36, "ridge": 0.565},
}
RECIPE = {"objective": {"mse": 0.5, "info_nce": 0.5}, "training": {"batch_size": 32}}
BLOCKS = {"objective": {**RECIPE["objective"], "info_nce_block": 32}, "training": {"batch_size": 512}}
SMALL_TAU = {**RECIPE, "objective": {**RECIPE["objective"], "tau": 0.005}}
MSE_ONLY = {"objective": {"mse": 1.0}}


def make_epoch(epoch: int, val: float, ood: float = 0.57, **fields) -> dict:
    return {
        "epoch": epoch,
        "val_cosine": val,
        "val_gain": val - 0.55,
        "ood_cosine": ood,
        "ood_gain": ood - 0.565,
        "train_cosine": val + 0.01,
        "train_loss_info": 1.5,
        "share_mse": 0.5,
        "share_info": 0.5,
        **fields,
    }


def make_case(*epochs: dict, recipe=RECIPE, baselines=BASELINES, **fields) -> Case:
    return Case(make_recipe(recipe), epochs, baselines, **fields)


def make_epochs(*cosines: float, **fields) -> list[dict]:
    return [make_epoch(epoch, cosine, **fields) for epoch, cosine in enumerate(cosines, start=1)]


def test_a_healthy_run_has_no_diagnosis():
    assert diagnose(make_case(*make_epochs(0.53, 0.55, 0.56, 0.565, 0.566))).items == ()


def test_an_empty_case_has_no_diagnosis():
    assert diagnose(Case()).items == (), "a rule without its numbers must be silent"


def test_ids_and_titles_are_unique_plain_words():
    ids = [pathology.id for pathology in PATHOLOGIES]
    assert len(set(ids)) == len(ids) == len({pathology.title for pathology in PATHOLOGIES})
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", id) for id in ids)


@pytest.mark.parametrize("pathology", PATHOLOGIES, ids=lambda pathology: pathology.id)
def test_advice_is_full_sentences_and_names_existing_recipe_fields(pathology):
    assert re.fullmatch(r"[A-Z].*\.", pathology.advice) and "\n" not in pathology.advice
    for section, field in re.findall(r"`(objective|training|model|data)\.(\w+)", pathology.advice):
        assert field in type(getattr(Recipe(), section)).model_fields, f"{section}.{field} is not a recipe field"


@pytest.mark.parametrize(
    ("id", "status", "evidence", "case"),
    [
        (
            "inactive-info-nce",
            "red",
            "InfoNCE is 6.93 nats after epoch 3; chance level is 6.93 nats.",
            make_case(*make_epochs(0.43, 0.44, 0.44, train_loss_info=6.93)),
        ),
        (
            "inactive-info-nce",
            "red",
            "InfoNCE is 6.93 nats after epoch 3; chance level is 6.93 nats.",
            make_case(*make_epochs(0.43, 0.44, 0.44, train_loss_info=6.93), recipe=BLOCKS),
        ),
        (
            "inactive-info-nce",
            "red",
            "InfoNCE is 0 nats: it has no negatives, because every pair of a batch is masked.",
            make_case(*make_epochs(0.43, train_loss_info=0.0)),
        ),
        (
            "inactive-info-nce",
            "amber",
            "`objective.info_nce` is 0, and val gain is -0.1100.",
            make_case(*make_epochs(0.43, 0.44, 0.44), recipe=MSE_ONLY),
        ),
        (
            "info-nce-dominates",
            "red",
            "Its gradient share is 99.9%; its weight asks for 50.0%.",
            make_case(*make_epochs(0.27, share_mse=0.0014, share_info=0.9986)),
        ),
        (
            "temperature-out-of-range",
            "amber",
            "tau is 0.005, too small: the useful range is 0.02 to 0.3.",
            make_case(*make_epochs(0.55), recipe=SMALL_TAU),
        ),
        (
            "overfitting",
            "amber",
            "Val cosine fell by 0.0300 since epoch 2, and train cosine is 0.0900 above it.",
            make_case(make_epoch(1, 0.5), make_epoch(2, 0.56), make_epoch(3, 0.53, train_cosine=0.62)),
        ),
        (
            "overfitting",
            "amber",
            "Val cosine rose to 0.5600 while OOD cosine fell from 0.5667 to 0.5000.",
            make_case(*[make_epoch(epoch, 0.5 + epoch / 50, ood=0.6 - epoch / 30) for epoch in (1, 2, 3)]),
        ),
        (
            "underfitting",
            "amber",
            "Val cosine still rises by 0.0200 per epoch, and val gain is -0.0400.",
            make_case(*make_epochs(0.45, 0.47, 0.49, 0.51)),
        ),
        (
            "learning-rate-too-high",
            "red",
            "Train cosine dropped by 0.100 from one epoch to the next.",
            make_case(make_epoch(1, 0.5, train_cosine=0.5), make_epoch(2, 0.5, train_cosine=0.4)),
        ),
        (
            "learning-rate-too-low",
            "amber",
            "Train cosine rises by 0.00057 per epoch at `training.lr=0.0005`.",
            make_case(*make_epochs(0.400, 0.4006, 0.4011, 0.4017)),
        ),
        (
            "stuck-plateau",
            "red",
            "Val cosine was 0.425 after epoch 1 and is 0.435 after epoch 4: gain -0.115 over the best baseline.",
            make_case(*make_epochs(0.425, 0.43, 0.435, 0.435)),
        ),
        (
            "non-finite",
            "red",
            "The gradient is not finite.",
            make_case(events=[{"kind": "failed", "reason": "the gradient is not finite"}]),
        ),
        (
            "non-finite",
            "red",
            "train_loss_mse is nan in epoch 1.",
            make_case(*make_epochs(0.5, train_loss_mse=math.nan)),
        ),
        (
            "train-eval-mismatch",
            "red",
            "Val cosine was 0.570000 in training and is 0.410000 after reloading.",
            make_case(events=[{"kind": "mismatch", "trained": 0.57, "evaluated": 0.41}]),
        ),
        ("sign-flip", "red", "Val cosine is -0.400; the best baseline has 0.550.", make_case(*make_epochs(-0.4))),
        (
            "orthogonal-collapse",
            "red",
            "Val cosine is +0.010; the best baseline has 0.550.",
            make_case(*make_epochs(0.01)),
        ),
        (
            "embedding-space-mismatch",
            "red",
            "OOD cosine is +0.010 and the best baseline has 0.565, although val gain is +0.010.",
            make_case(*make_epochs(0.56, ood=0.01)),
        ),
        (
            "ood-easier-than-val",
            "amber",
            "The best baseline has cosine 0.640 on ood and 0.550 on val.",
            make_case(baselines={**BASELINES, "ood": {"context-mean": 0.64}}),
        ),
        (
            "poor-ood-generalization",
            "amber",
            "The gain is +0.0100 on val and -0.1650 on ood.",
            make_case(*make_epochs(0.56, ood=0.4)),
        ),
        (
            "unreachable-gate",
            "red",
            "The gate is red below val cosine 0.7; the best baseline has 0.550.",
            make_case(
                *make_epochs(0.56), recipe={**RECIPE, "gates": [{"epoch": 1, "metric": "val_cosine", "red": 0.7}]}
            ),
        ),
        (
            "no-gain-over-baseline",
            "amber",
            "Val gain is -0.0100 after epoch 3.",
            make_case(*make_epochs(0.53, 0.535, 0.54)),
        ),
        (
            "no-gain-over-baseline",
            "red",
            "Val gain is -0.1300 after epoch 3.",
            make_case(*make_epochs(0.4, 0.41, 0.42)),
        ),
        (
            "shuffled-targets",
            "red",
            "On ood the best of copy-last and context-mean has cosine 0.360, and the constant train-mean 0.360: "
            "contexts carry no information about targets.",
            make_case(baselines={**BASELINES, "ood": {"context-mean": 0.36, "copy-last": 0.2, "train-mean": 0.36}}),
        ),
        (
            "data-leakage",
            "red",
            "9 rows are in train.",
            make_case(
                check={"findings": [{"name": "val in train", "status": "red", "message": "9 rows are in train."}]}
            ),
        ),
    ],
)
def test_each_rule_reports_its_numbers(id: str, status: str, evidence: str, case: Case):
    items = {item.id: item for item in diagnose(case).items}
    assert id in items, list(items)
    assert (items[id].status, items[id].evidence) == (status, evidence)
    assert "\n" not in items[id].line


def test_a_falling_run_is_overfitting_and_not_a_plateau():
    ids = diagnose(make_case(*make_epochs(0.49, 0.48, 0.44, 0.40, train_cosine=0.8))).ids
    assert "stuck-plateau" not in ids and "overfitting" in ids


def test_diagnoses_are_sorted_by_severity_and_confidence():
    diagnoses = diagnose(make_case(*make_epochs(0.43, 0.43, 0.43, 0.42, ood=0.2), recipe=SMALL_TAU))
    order = [
        (["red", "amber"].index(item.status), ["certain", "likely", "possible"].index(item.confidence))
        for item in diagnoses.items
    ]
    assert len(order) > 2 and order == sorted(order)
    assert diagnoses.status == "red" and diagnoses.ids[0] == "stuck-plateau"


def test_ridge_detects_another_embedding_space():
    foreign = {**BASELINES, "ood": {"context-mean": 0.62, "decayed-mean": 0.63, "ridge": 0.2}}
    assert "ridge regression has cosine 0.20 on ood and 0.55 on val" in find_space_mismatch(foreign)
    assert find_space_mismatch(BASELINES) == ""
    assert diagnose(make_case(*make_epochs(0.55, ood=0.1), baselines=foreign)).ids[0] == "embedding-space-mismatch"


# The public record of the failed runs, as numbers.


def test_the_failed_runs_loss_scale_is_diagnosed():
    """Weights 0.5 / 0.5, InfoNCE 1.4 against MSE 0.002: 700 to 1, val cosine stuck at 0.27."""
    history = make_epochs(0.27, 0.27, 0.27, 0.27, share_mse=1 / 701, share_info=700 / 701, train_loss_info=1.4)
    ids = diagnose(Case(load_recipe("amn-790k-unbalanced"), history, BASELINES)).ids
    assert ids[0] == "info-nce-dominates" and "stuck-plateau" in ids


def test_the_failed_runs_ood_vectors_are_diagnosed():
    """OOD cosine about 0, whatever the model."""
    assert diagnose(make_case(*make_epochs(0.55, 0.56, ood=0.002))).ids[0] == "embedding-space-mismatch"


def test_the_failed_runs_flat_curve_is_diagnosed():
    ids = diagnose(make_case(*make_epochs(0.425, 0.428, 0.432, 0.436, 0.44, 0.445))).ids
    assert "stuck-plateau" in ids


def test_the_failed_runs_checkpoint_mismatch_is_the_only_diagnosis():
    """An LSTM at 0.57 in training and 0.41 in the benchmark."""
    mismatch = {"kind": "mismatch", "trained": 0.57, "evaluated": 0.41}
    assert diagnose(make_case(events=[mismatch])).ids == ["train-eval-mismatch"]


def test_a_run_without_an_epoch_has_nothing_to_assess_and_is_not_green():
    nothing = diagnose(Case())
    assert nothing.items == () and nothing.status == "amber" and nothing.to_dict()["status"] == "amber"
    assert nothing.view().blocks[0].text == "Nothing to assess: the run has no epoch yet."
    failed = diagnose(Case(events=[{"kind": "failed", "reason": "the gradient is not finite"}]))
    assert failed.status == "red", "a failure before the first epoch is reported"
