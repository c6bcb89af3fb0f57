"""Gates, sentinel, success criteria and suggested gates: numbers in, verdicts out."""

import math

import pytest

from nextvec.core.gate_metrics import GATE_METRICS
from nextvec.guards.gates import GateVerdict, evaluate_gates
from nextvec.guards.sentinel import recipe_warnings, sentinel_lines
from nextvec.guards.success import evaluate_success
from nextvec.guards.suggest import suggest_gates
from nextvec.recipe import load_recipe, make_recipe

BASELINES = {
    "val": {"copy-last": 0.45, "context-mean": 0.546, "train-mean": 0.37, "ridge": 0.55},
    "ood": {"copy-last": 0.5, "context-mean": 0.62, "train-mean": 0.36, "ridge": 0.625},
}


def make_epoch(epoch: int, val: float, ood: float | None = 0.63, **fields) -> dict:
    """The metrics of an epoch, as the training loop records them."""
    metrics = {"val_cosine": val, "val_gain": val - 0.55, "val_best_baseline": "ridge 0.5500", "val_loss": 1 - val}
    if ood is not None:
        metrics |= {"ood_cosine": ood, "ood_gain": ood - 0.625, "ood_best_baseline": "ridge 0.6250"}
    return {"epoch": epoch, **metrics, "train_cosine": val + 0.01, "train_loss_mse": 0.001, **fields}


def make_history(cosines: dict[int, float], **fields) -> list[dict]:
    """Epochs up to the last of `cosines`, with linear interpolation in between."""
    known = sorted(cosines)
    history = []
    for epoch in range(1, known[-1] + 1):
        before = max(k for k in known if k <= epoch)
        after = min(k for k in known if k >= epoch)
        fraction = (epoch - before) / (after - before) if after > before else 0
        history.append(make_epoch(epoch, cosines[before] + fraction * (cosines[after] - cosines[before]), **fields))
    return history


def evaluate_gate(metric: str, value_or_history, **fields) -> GateVerdict:
    history = (
        value_or_history if isinstance(value_or_history, list) else [make_epoch(3, 0.5, **{metric: value_or_history})]
    )
    gate = {"epoch": history[-1]["epoch"], "metric": metric, **fields}
    (verdict,) = evaluate_gates(make_recipe({"gates": [gate]}), history, BASELINES)
    return verdict


@pytest.mark.parametrize(
    ("value", "status"), [(0.48, "green"), (0.4799, "amber"), (0.45, "amber"), (0.4499, "red"), (-1.0, "red")]
)
def test_a_value_on_a_threshold_has_the_better_status(value, status):
    verdict = evaluate_gate("val_margin", value, green=0.48, red=0.45, advice="look")
    assert verdict.status == status and verdict.advice == ("" if status == "green" else "look")


@pytest.mark.parametrize(("value", "status"), [(2.0, "green"), (2.1, "amber"), (3.0, "amber"), (3.1, "red")])
def test_lower_losses_are_better(value, status):
    assert evaluate_gate("val_loss", value, green=2.0, red=3.0).status == status


def test_a_gate_needs_only_one_threshold():
    assert evaluate_gate("val_margin", 0.1, red=0.2).status == "red"
    assert evaluate_gate("val_margin", 0.3, red=0.2).status == "green"
    assert evaluate_gate("val_margin", 0.1, green=0.2).status == "amber"


def test_a_cosine_is_reported_with_its_baseline_and_a_grep_for_val_cosine_skips_it():
    verdict = evaluate_gate("val_cosine", [make_epoch(3, 0.4711)], green=0.48, red=0.45)
    assert verdict.reason == "val cosine 0.4711 is below 0.48, red below 0.45 (best baseline: ridge 0.5500)"
    assert "val_cosine" not in verdict.line and "▲ amber gate" in verdict.line


def test_an_unmeasured_metric_is_amber_and_never_stops():
    verdict = evaluate_gate("ood_cosine", [make_epoch(3, 0.5, None)], red=0.3, action="stop")
    assert (verdict.status, verdict.value, verdict.stops) == ("amber", None, False)
    assert verdict.reason == "ood cosine was not measured"


def test_only_a_red_gate_with_action_stop_stops():
    assert evaluate_gate("ood_cosine", [make_epoch(3, 0.5, 0.2)], red=0.3, action="stop").stops
    assert not evaluate_gate("ood_cosine", [make_epoch(3, 0.5, 0.2)], red=0.3).stops
    assert not evaluate_gate("ood_cosine", [make_epoch(3, 0.5, 0.31)], red=0.3, action="stop").stops


def test_a_gate_is_evaluated_only_at_its_epochs():
    recipe = make_recipe({"gates": [{"epoch": [3, 6], "metric": "val_cosine", "green": 0.5}]})
    epochs = [epoch for epoch in range(1, 9) if evaluate_gates(recipe, make_history({1: 0.5, epoch: 0.5}), BASELINES)]
    assert epochs == [3, 6]


@pytest.mark.parametrize(
    ("metric", "history", "value"),
    [
        ("generalization_gap", [make_epoch(1, 0.5, train_cosine=0.53)], 0.03),
        ("epochs_since_best", [make_epoch(1, 0.4), make_epoch(2, 0.5), make_epoch(3, 0.49), make_epoch(4, 0.48)], 2),
        ("baseline_gap_closed", [make_epoch(1, 0.446), make_epoch(6, 0.471)], 0.25),
        ("baseline_gap_closed", [make_epoch(1, 0.53), make_epoch(6, 0.528)], 1.0),
        ("min_gradient_share_ratio", [make_epoch(1, 0.5, share_mse=0.01, share_info=0.99)], 0.02),
        ("min_gradient_share_ratio", [make_epoch(1, 0.5, share_mse=0.5, share_info=0.5)], 1.0),
        ("supervised_gradient_share", [make_epoch(1, 0.5, share_mse=0.25, share_info=0.5, share_variance=0.25)], 0.75),
    ],
)
def test_derived_metrics(metric, history, value):
    recipe = {"objective": {"mse": 0.5, "info_nce": 0.5, "moment": 0.001}}
    gate = {"epoch": history[-1]["epoch"], "metric": metric, "green": value}
    (verdict,) = evaluate_gates(make_recipe(recipe | {"gates": [gate]}), history, BASELINES)
    assert verdict.value == pytest.approx(value, abs=0.002)


def test_every_metric_can_be_a_gate():
    measured = {"share_mse": 1.0, "train_loss_info": 1.0, "val_margin": 0.1, "ood_margin": 0.1}
    history = [make_epoch(1, 0.5, val_mrr=0.3, val_mrr_gain=0.01, **measured)]
    for metric, entry in GATE_METRICS.items():
        verdict = evaluate_gate(metric, history, green=9.0 if entry.lower_is_better else -9.0)
        assert verdict.status == "green", metric


# The production recipe against the runbook's numbers.

HEALTHY = {1: 0.45, 3: 0.48, 6: 0.50, 10: 0.52, 20: 0.55, 30: 0.57}
UNHEALTHY = {1: 0.425, 3: 0.435, 6: 0.445, 10: 0.45}


def statuses(cosines: dict[int, float], **fields) -> dict[tuple[int, str], str]:
    history = make_history(cosines, share_mse=0.5, share_info=0.5, train_loss_info=1.5, **fields)
    recipe = load_recipe("amn-790k-production")
    result = {}
    for count in range(1, len(history) + 1):
        for verdict in evaluate_gates(recipe, history[:count], BASELINES):
            result[verdict.epoch, verdict.metric] = verdict.status
            if verdict.stops:
                return result | {"stopped": verdict.metric}
    return result


def test_a_healthy_run_passes_the_runbooks_gates():
    result = statuses(HEALTHY)
    assert {status for (_, metric), status in result.items() if metric != "val_gain"} == {"green"}
    assert result[30, "val_gain"] == "green" and result[10, "val_gain"] == "amber"  # 0.52 is below the ridge's 0.55


def test_a_flat_run_is_red_at_epochs_3_and_6_and_stopped():
    result = statuses(UNHEALTHY)
    assert result[3, "val_cosine"] == result[6, "val_cosine"] == "red" and result["stopped"] == "baseline_gap_closed"


def test_the_sentinel_stops_below_the_runbooks_thresholds():
    assert statuses(HEALTHY, ood=0.299)["stopped"] == "ood_cosine"
    assert "stopped" not in statuses({1: 0.5, 3: 0.5}, ood=0.301)
    assert statuses({1: 0.45, 6: 0.5}, ood=0.449)["stopped"] == "ood_cosine"


def test_the_failed_runs_loss_scale_stops_the_run_after_epoch_1():
    recipe = load_recipe("amn-790k-production")
    history = [make_epoch(1, 0.27, share_mse=0.0014, share_info=0.9986)]
    verdict, _ = evaluate_gates(recipe, history, BASELINES)
    assert verdict.stops and verdict.metric == "min_gradient_share_ratio" and "outweighs" in verdict.advice


# The sentinel.


def test_the_sentinel_log_has_one_line_per_ood_gate():
    recipe = load_recipe("amn-790k-production")
    history = make_history({1: 0.5, 3: 0.5}, ood=0.2)
    history[-1]["gates"] = [verdict.to_dict() for verdict in evaluate_gates(recipe, history, BASELINES)]
    lines = sentinel_lines(history[-1])
    assert [line.split(":")[0] for line in lines] == ["epoch 3 ■ red gate", "epoch 3 ■ red gate"]
    assert all("ood" in line and "\n" not in line for line in lines)


def test_recipe_warnings_name_the_settings_of_the_failed_runs():
    healthy = load_recipe("amn-790k-production")
    assert recipe_warnings(healthy, True) == []
    assert (
        recipe_warnings(healthy, False)[0]
        == "The sentinel is off, because there is no OOD set. Set data.ood (--ood-data)."
    )
    assert "InfoNCE has no weight" in recipe_warnings(load_recipe("amn-790k-broken-mse-only"), True)[0]
    assert "weights are not gradient shares" in recipe_warnings(load_recipe("amn-790k-unbalanced"), True)[0]


# Success.


def events(*kinds: str) -> list[dict]:
    return [{"kind": kind} for kind in kinds]


def outcome(history, kinds=("started", "epoch", "trained")):
    return evaluate_success(load_recipe("amn-790k-production"), history, events(*kinds))


def test_success_has_four_criteria_with_their_values():
    success = outcome(make_history(HEALTHY, train_loss_info=1.3))
    assert success.passed and [criterion.passed for criterion in success.criteria] == [True] * 4
    assert (
        success.criteria[0].measured == "0.5700" and success.criteria[0].note == "best baseline: ridge 0.5500, epoch 30"
    )
    assert success.lines("green")[0] == "success criteria: 4 of 4 met"
    assert success.lines("amber")[0] == "success criteria: 4 of 4 met, but the verdict is amber"


def test_success_uses_the_best_epoch():
    success = outcome(make_history({1: 0.45, 15: 0.58, 30: 0.5}, train_loss_info=1.3))
    assert success.criteria[0].measured == "0.5800" and success.passed


@pytest.mark.parametrize(
    ("fields", "failed"),
    [
        ({"ood": 0.62, "train_loss_info": 1.3}, 1),
        ({"ood": None, "train_loss_info": 1.3}, 1),
        ({"train_loss_info": math.nan}, 3),
    ],
)
def test_each_criterion_can_fail(fields, failed):
    success = outcome(make_history(HEALTHY, **fields))
    assert [place for place, criterion in enumerate(success.criteria) if not criterion.passed] == [failed]


def test_a_rising_loss_fails_the_criterion():
    history = make_history(HEALTHY, train_loss_info=1.3)
    history[-1]["train_loss_info"] = 1.31
    assert not outcome(history).criteria[3].passed


@pytest.mark.parametrize(
    ("kinds", "measured"),
    [
        (("started", "interrupted", "resumed", "interrupted", "resumed", "trained"), "0 crashes, 0 failures, 0 aborts"),
        (("started", "step", "resumed", "trained"), "1 crash, 0 failures, 0 aborts"),
        (("started", "stopped", "resumed", "trained"), "0 crashes, 0 failures, 1 abort"),
        (("started", "trained", "resumed", "evaluated"), "0 crashes, 0 failures, 0 aborts"),
    ],
)
def test_an_interruption_is_not_a_crash(kinds, measured):
    criterion = outcome(make_history(HEALTHY, train_loss_info=1.3), kinds).criteria[2]
    assert criterion.measured == measured and criterion.passed == (measured == "0 crashes, 0 failures, 0 aborts")


# Suggestions.


def test_suggested_gates_are_valid_recipe_text_and_scale_with_the_data():
    import tomllib

    suggestion = suggest_gates("some data", BASELINES)
    recipe = make_recipe(tomllib.loads(suggestion.toml))
    assert {epoch for gate in recipe.gates for epoch in gate.epoch} == {3, 6, 10, 20, 30}
    first = recipe.gates[0]
    assert first.green == pytest.approx(-0.2 * (0.55 - 0.37)) and first.red == pytest.approx(-0.4 * (0.55 - 0.37))
    assert {gate.action for gate in recipe.gates if gate.metric == "ood_gain"} == {"stop"}
    assert all(
        not gate.metric.startswith("ood")
        for gate in make_recipe(tomllib.loads(suggest_gates("x", {"val": BASELINES["val"]}).toml)).gates
    )
    closer = suggest_gates("x", {"val": {"train-mean": 0.5, "ridge": 0.55}})
    assert closer.gates[0]["red"] > first.red


def test_the_losses_of_one_epoch_are_not_assessed():
    """A single epoch has no trend: neither passed nor failed, and the summary says so. NaN fails at once."""
    success = outcome(make_history({1: 0.57}, train_loss_info=1.3))
    losses = success.criteria[-1]
    assert losses.passed is None and not success.passed and losses.line.startswith("not assessed  losses converge")
    assert success.lines("green")[0] == "success criteria: 3 of 4 met, 1 not assessed"
    assert outcome(make_history({1: 0.57}, train_loss_info=math.nan)).criteria[-1].passed is False
    assert success.to_dict()["criteria"][-1]["passed"] is None


def test_gates_after_the_last_epoch_are_warned_about():
    recipe = load_recipe("amn-790k-production", ["training.epochs=6"])
    (warning,) = [text for text in recipe_warnings(recipe, True) if "never run" in text]
    assert warning.startswith("These gates and sentinel checks never run, because training.epochs is 6: ")
    assert "val_cosine at epoch 10" in warning and "ood_cosine at epoch 10" in warning and "epoch 6," not in warning
    assert not [text for text in recipe_warnings(load_recipe("amn-790k-production"), True) if "never run" in text]
