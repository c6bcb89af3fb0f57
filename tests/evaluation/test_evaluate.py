"""Evaluation on a small world: results, gains, and the verdict."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextvec.data.windows import WindowSet
from nextvec.errors import NotFiniteError
from nextvec.evaluation.evaluate import Evaluation, evaluate_predictors
from nextvec.evaluation.metrics import QueryPredictor
from nextvec.evaluation.rank_comparison import compare_ranks
from nextvec.evaluation.results import (
    METRICS_VERSION,
    Estimate,
    PredictorResult,
    Retrieval,
    RetrievalGain,
    SplitResult,
)
from nextvec.evaluation.retrieval import candidates_of, summarize_ranks, target_ranks
from nextvec.evaluation.verdict import make_verdict, split_outcome
from nextvec.models.registry import create_model
from nextvec.recipe import EvaluationRecipe, ModelRecipe

RECIPE = EvaluationRecipe(resamples=200)


def evaluate(
    world, predictors, *, splits=("val", "ood"), model="oracle", recipe=RECIPE, seed=0, least=None
) -> Evaluation:
    sets = {split: WindowSet(split, world.vectors, world.documents, world.windows(split, 3, least)) for split in splits}
    return evaluate_predictors(predictors, sets, recipe, seed=seed, model=model, quiet=True)


def test_results_equal_known_values(world, predictors):
    evaluation = evaluate(world, predictors)
    assert list(evaluation.splits) == ["val", "ood"] and evaluation.notes == ()
    val = evaluation.splits["val"]
    rows = world.documents.rows[world.documents.splits == 1]
    assert (val.windows, val.documents, val.groups) == (np.maximum(rows - 3, 0).sum(), 24, 24)
    assert (val.candidates, val.queries) == (rows.sum(), val.windows)
    assert list(val.predictors) == ["oracle", "copy-last", "context-mean", "constant"], "the model comes first"

    oracle, constant = val.predictors["oracle"], val.predictors["constant"]
    assert oracle.cosine.value == pytest.approx(1, abs=1e-6) and oracle.mse == pytest.approx(0, abs=1e-9)
    assert (
        oracle.retrieval == Retrieval(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, (1.0,) * 100)
        and oracle.margin > 0.2
        and oracle.gain is None
    )
    targets, groups = world.vectors[world.windows("val").targets], world.windows("val").groups
    expected = F.cosine_similarity(targets, torch.ones(1, 16)).double()
    assert constant.cosine.value == pytest.approx(float(expected.mean()), abs=1e-6)
    assert constant.cosine.low < constant.cosine.value < constant.cosine.high
    by_document = [float(expected[groups == group].mean()) for group in groups.unique()]
    assert constant.cosine.high - constant.cosine.low == pytest.approx(
        4 * np.std(by_document) / np.sqrt(24), rel=0.4
    ), "the interval is about four standard errors over documents"


def test_gain_is_the_difference_on_the_same_windows(world, predictors):
    val = evaluate(world, predictors).splits["val"]
    cosine = val.predictors["oracle"].cosine.value
    for name in ("copy-last", "context-mean", "constant"):
        gain = val.predictors[name].gain
        assert gain.value == pytest.approx(cosine - val.predictors[name].cosine.value, abs=1e-6)
        assert gain.low < gain.value < gain.high
    cosines = {name: scores.cosine.value for name, scores in val.predictors.items() if name != "oracle"}
    assert val.best_baseline == max(cosines, key=cosines.get)
    assert val.gain == val.predictors[val.best_baseline].gain


def test_the_query_head_is_evaluated_next_to_the_prediction(world, predictors):
    model = create_model(ModelRecipe(kind="amn"), 16).eval()
    val = evaluate(world, {"amn": model, **predictors}, model="amn").splits["val"]
    result = val.predictors["amn"]
    windows, candidates = world.windows("val", 3), candidates_of(world.vectors, world.documents, "val")
    for retrieval, predictor in ((result.retrieval, model), (result.query, QueryPredictor(model))):
        assert retrieval == summarize_ranks(target_ranks(predictor, world.vectors, windows, candidates))
    assert result.query != result.retrieval and result.query_in_document is not None
    assert all(scores.query is None for name, scores in val.predictors.items() if name != "amn")


def test_faiss_gives_the_same_ranks_and_notes_its_limit(world, predictors):
    pytest.importorskip("faiss")
    exact, approximate = (
        evaluate(world, predictors),
        evaluate(world, predictors, recipe=EvaluationRecipe(retrieval="faiss", resamples=200)),
    )
    for split, split_result in approximate.splits.items():
        for name, scores in split_result.predictors.items():
            assert scores.retrieval == exact.splits[split].predictors[name].retrieval
    assert approximate.notes == ("retrieval: ranks beyond 1,000 count as 1,001 (faiss)",)


def test_the_gain_over_an_identical_predictor_is_exactly_zero(world, predictors):
    evaluation = evaluate(
        world, {"copy-last": predictors["copy-last"], "again": predictors["copy-last"]}, model="again"
    )
    for split in evaluation.splits.values():
        assert split.gain == Estimate(0.0, 0.0, 0.0)
    assert evaluation.verdict.status == "amber"


def test_each_retrieval_measure_has_intervals_and_its_own_best_baseline(world, predictors):
    """MRR and R@10 are compared on the same queries; the skill is the fraction of the baseline's error removed."""
    val = evaluate(world, predictors).splits["val"]
    for name, scores in val.predictors.items():
        assert scores.mrr.value == pytest.approx(scores.retrieval.mrr), name
        assert scores.r_at_10.value == pytest.approx(scores.retrieval.r_at_10), name
        assert scores.mrr.low <= scores.mrr.value <= scores.mrr.high and scores.mrr.low >= 0
    baselines = {name: scores for name, scores in val.predictors.items() if name != "oracle"}
    best = max(baselines, key=lambda name: baselines[name].retrieval.r_at_10)
    gain = val.recall_gain
    assert (gain.best_baseline, gain.recall) == (best, 1.0)
    assert gain.gain.value == pytest.approx(1 - baselines[best].retrieval.r_at_10)
    assert val.skill == pytest.approx(1.0, abs=1e-5), "an oracle removes the whole error"
    weak = evaluate(world, predictors, model="constant").splits["val"]
    cosine, reference = (weak.predictors[name].cosine.value for name in ("constant", weak.best_baseline))
    assert weak.skill == pytest.approx(1 - (1 - cosine) / (1 - reference)) if reference < 1 else weak.skill == 0


def test_equal_ranks_have_no_gain_and_an_exact_interval():
    ranks = {"model": np.array([1.0, 11.0, 10.0, 2.0]), "other": np.array([3.0, 1.0, 50.0, 400.0])}
    ranks["twin"] = ranks["model"].copy()
    compared = compare_ranks(ranks, np.arange(4), 200, 0, "model")
    assert compared.mrr["model"].value == pytest.approx((1 + 1 / 11 + 1 / 10 + 1 / 2) / 4)
    assert (compared.r_at_10["model"].value, compared.r_at_10["other"].value) == (0.75, 0.5)
    best = compared.retrieval_gain("query")
    assert (best.output, best.best_baseline, best.gain) == ("query", "twin", Estimate(0.0, 0.0, 0.0))
    assert compared.mrr_gains["other"].low < compared.mrr_gains["other"].high
    assert compare_ranks(ranks, np.arange(4), 200, 0, None).recall_gain is None


def test_the_seed_determines_the_evaluation_and_the_queries_are_a_sample(world, predictors):
    recipe = EvaluationRecipe(resamples=200, queries=20)
    first, again, another = (evaluate(world, predictors, recipe=recipe, seed=seed) for seed in (1, 1, 2))
    assert first == again
    retrieved = [evaluation.splits["val"].predictors["context-mean"].retrieval for evaluation in (first, another)]
    assert retrieved[0] != retrieved[1], "another seed draws other queries"
    assert first.splits["val"].queries == 20 < first.splits["val"].windows
    cosines = [evaluation.splits["val"].predictors["constant"].cosine.value for evaluation in (first, another)]
    assert cosines[0] == cosines[1], "cosines use all windows, whatever the sample"


def test_short_contexts_are_evaluated(world, predictors):
    whole, short = evaluate(world, predictors), evaluate(world, predictors, least=1)
    assert short.splits["val"].windows > whole.splits["val"].windows
    assert short.splits["val"].predictors["oracle"].cosine.value == pytest.approx(1, abs=1e-6)


def test_an_evaluation_survives_json(world, predictors):
    for model in ("oracle", None):
        evaluation = evaluate(world, predictors, model=model)
        assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))) == evaluation


def test_another_format_is_refused_with_one_line(world, predictors):
    values = evaluate(world, predictors).to_dict()
    with pytest.raises(ValueError, match=r"^evaluation format 1 is not supported, expected 4$"):
        Evaluation.from_dict({name: value for name, value in values.items() if name != "format"})
    assert values["metrics_version"] == METRICS_VERSION
    with pytest.raises(ValueError, match=r"^measured with version 1 of the metrics, which cannot be compared"):
        Evaluation.from_dict({**values, "metrics_version": 1})


def test_an_estimate_is_written_with_its_interval():
    estimate = Estimate(0.582, 0.575, 0.589)
    assert str(estimate) == "0.5820 ± 0.0070 (95 % CI)" and estimate.signed == "+0.5820 ± 0.0070"
    assert estimate.is_significantly_above(0.57) and not estimate.is_significantly_above(0.575)
    assert estimate.is_significantly_below(0.59) and not estimate.is_significantly_below(0.589)


def test_without_a_model_there_is_no_gain_and_no_verdict(world, predictors):
    evaluation = evaluate(world, predictors, model=None)
    val = evaluation.splits["val"]
    assert evaluation.verdict is None and val.gain is None and val.best_baseline == "oracle"
    assert all(scores.gain is None for scores in val.predictors.values())


def test_a_split_without_windows_is_skipped_and_noted(worlds, predictors):
    world = worlds([9] * 5 + [3, 2], ["val"] * 5 + ["ood"] * 2)
    evaluation = evaluate(world, {name: predictors[name] for name in ("copy-last", "context-mean")}, model="copy-last")
    assert list(evaluation.splits) == ["val"]
    assert evaluation.notes == ("ood: not evaluated, no document is long enough for a window",)


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_a_split_of_one_to_three_documents_has_wide_intervals(worlds, documents):
    """A gain on one document is never significant, however large."""
    world = worlds([12] * documents, ["val"] * documents)
    names = {"better": 0.0, "worse": 0.3}

    class Noisy:
        def __init__(self, amount):
            self.amount = amount

        def predict(self, context_BSD, mask_BS=None):
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(context_BSD[:, 0].shape, generator=generator)
            return F.normalize(context_BSD.sum(dim=1) + self.amount * noise)

    predictors = {name: Noisy(amount) for name, amount in names.items()}
    evaluation = evaluate(world, predictors, splits=("val",), model="better")
    gain = evaluation.splits["val"].gain
    assert gain.value > 0
    if documents == 1:
        assert (gain.low, gain.high) == (-2.0, 2.0) and evaluation.verdict.status == "amber"
        cosine = evaluation.splits["val"].predictors["better"].cosine
        assert (cosine.low, cosine.high) == (-1.0, 1.0)
    assert any("only" in reason for reason in evaluation.verdict.reasons["val"])


def test_documents_of_one_group_are_resampled_together(worlds, predictors):
    world = worlds([9] * 8, ["val"] * 8, groups=[0, 0, 0, 0, 1, 1, 2, 2])
    val = evaluate(world, {"copy-last": predictors["copy-last"]}, splits=("val",), model=None).splits["val"]
    assert (val.documents, val.groups) == (8, 3)


def test_a_non_finite_prediction_is_an_error(world, predictors):
    class Broken:
        def predict(self, context_BSD, mask_BS=None):
            return torch.full_like(context_BSD[:, 0], torch.nan)

    with pytest.raises(NotFiniteError, match=r"broken on val: (\d+) of \1 predictions are not finite"):
        evaluate(world, {**predictors, "broken": Broken()})


def scores(cosine, *, gain=None, margin=0.1, mrr=0.2) -> PredictorResult:
    return PredictorResult(Estimate(cosine, cosine, cosine), 0.001, margin, Retrieval(0.1, 0.2, 0.3, mrr, 5.0), gain)


def retrieval_gain(difference, half=0.01) -> RetrievalGain:
    estimate = Estimate(difference, difference - half, difference + half)
    return RetrievalGain("query", 0.25 + difference, "context-mean", 0.25, estimate)


def split(gain, *, groups=50, retrieval=0.05, half=0.01, **model_scores) -> SplitResult:
    predictors = {
        "amn": scores(0.5, **model_scores),
        "ridge": scores(0.4, gain=gain, mrr=0.25, margin=-0.3),
        "copy-last": scores(0.3, gain=gain),
    }
    return SplitResult(100, groups, groups, 200, 100, predictors, "ridge", gain, retrieval_gain(retrieval, half))


ABOVE, ACROSS, BELOW = Estimate(0.02, 0.01, 0.03), Estimate(0.01, -0.01, 0.03), Estimate(-0.02, -0.03, -0.01)


@pytest.mark.parametrize(
    ("val", "ood", "status", "text"),
    [
        (
            ABOVE,
            None,
            "green",
            "amn beats the best baseline in cosine on val (+0.0200 ± 0.0100, 95 % CI, over ridge) and retrieves at "
            "least as well (MRR 0.300 against 0.250 on val).",
        ),
        (ABOVE, ABOVE, "green", "in cosine on val (+0.0200 ± 0.0100, 95 % CI, over ridge) and on ood ("),
        (
            ABOVE,
            ACROSS,
            "amber",
            "on val (+0.0200 ± 0.0100, 95 % CI, over ridge) but is not significantly different from it on ood (",
        ),
        (
            ABOVE,
            BELOW,
            "amber",
            "beats the best baseline in cosine on val (+0.0200 ± 0.0100, 95 % CI, over ridge) but loses to it on ood",
        ),
        (ACROSS, ABOVE, "amber", "is not significantly different from the best baseline in cosine on val ("),
        (
            BELOW,
            ABOVE,
            "red",
            "loses to the best baseline in cosine on val (-0.0200 ± 0.0100, 95 % CI, over ridge) but",
        ),
        (BELOW, BELOW, "red", "in cosine on val (-0.0200 ± 0.0100, 95 % CI, over ridge) and on ood"),
        (
            None,
            ABOVE,
            "amber",
            "baseline on val, so nothing is proved. It beats the best baseline in cosine on ood",
        ),
    ],
)
def test_verdict(val, ood, status, text):
    splits = {name: split(gain) for name, gain in (("val", val), ("ood", ood)) if gain is not None}
    verdict = make_verdict("amn", splits)
    assert verdict.status == status and text in verdict.sentence
    assert "\n" not in verdict.sentence and verdict.sentence.endswith(".")


@pytest.mark.parametrize(
    ("val", "ood", "status", "text"),
    [
        (
            0.05,
            0.05,
            "green",
            "and retrieves at least as well (MRR 0.300 against 0.250 on val, MRR 0.300 against 0.250 on ood).",
        ),
        (0.0, 0.0, "green", "and retrieves at least as well ("),
        (-0.0004, 0.05, "green", "and retrieves at least as well ("),
        (-0.02, 0.05, "amber", "but retrieves worse than context-mean on val (MRR 0.230 against 0.250)."),
        (-0.002, 0.05, "amber", "but retrieves worse than context-mean on val (MRR 0.248 against 0.250)."),
        (0.05, -0.02, "amber", "but retrieves worse than context-mean on ood (MRR 0.230 against 0.250)."),
        (
            -0.02,
            -0.02,
            "amber",
            "on val (MRR 0.230 against 0.250) and than context-mean on ood (MRR 0.230 against 0.250).",
        ),
    ],
)
def test_a_model_that_retrieves_worse_than_a_baseline_is_never_green(val, ood, status, text):
    """A lower MRR counts even if its interval includes zero; the first sentence says so."""
    verdict = make_verdict("amn", {"val": split(ABOVE, retrieval=val), "ood": split(ABOVE, retrieval=ood)})
    assert verdict.status == status and text in verdict.sentence
    assert verdict.sentence.count(". ") == 0


def test_better_retrieval_does_not_redeem_a_lost_cosine():
    verdict = make_verdict("amn", {"val": split(BELOW, retrieval=0.1)})
    assert (
        verdict.status == "red"
        and "but retrieves at least as well (MRR 0.350 against 0.250 on val)" in verdict.sentence
    )
    unmeasured = replace(split(ABOVE), retrieval_gain=None)
    assert split_outcome(unmeasured).status == "amber", "an unknown MRR is not a win"


def test_the_gain_in_mrr_is_paired_and_takes_the_best_retriever(world, predictors):
    """The baseline that retrieves best need not be the one with the best cosine, and the queries are the same."""
    val = evaluate(world, predictors).splits["val"]
    mrr = {name: scores.retrieval.mrr for name, scores in val.predictors.items() if name != "oracle"}
    gain = val.retrieval_gain
    assert gain.best_baseline == max(mrr, key=mrr.get) and gain.baseline_mrr == pytest.approx(max(mrr.values()))
    assert gain.output == "prediction" and gain.mrr == pytest.approx(1)
    assert gain.gain.value == pytest.approx(1 - gain.baseline_mrr) and gain.gain.low < gain.gain.value < gain.gain.high
    # A predictor next to itself has a difference of exactly zero in every resample.
    same = {"copy-last": predictors["copy-last"], "again": predictors["copy-last"]}
    assert evaluate(world, same, model="again").splits["val"].retrieval_gain.gain == Estimate(0.0, 0.0, 0.0)


def test_the_query_is_what_the_verdict_compares(world, predictors):
    model = create_model(ModelRecipe(kind="amn"), 16).eval()
    val = evaluate(world, {"amn": model, **predictors}, model="amn").splits["val"]
    assert val.retrieval_gain.output == "query" and val.retrieval_gain.mrr == pytest.approx(
        val.predictors["amn"].query.mrr
    )


def test_a_gain_whose_interval_touches_zero_is_not_significant():
    assert make_verdict("amn", {"val": split(Estimate(0.01, 0.0, 0.02))}).status == "amber"
    assert make_verdict("amn", {"val": split(Estimate(-0.01, -0.02, 0.0))}).status == "amber"


def test_train_has_reasons_but_does_not_decide():
    verdict = make_verdict("amn", {"val": split(ABOVE), "train": split(BELOW)})
    assert verdict.status == "green" and "train" not in verdict.sentence and verdict.reasons["train"]


def test_reasons_report_what_the_cosine_hides():
    reasons = make_verdict("amn", {"val": split(ABOVE)}).reasons["val"]
    difference = "difference +0.0500 ± 0.0100, 95 % CI"
    assert reasons == (
        "cosine 0.5000, ridge 0.4000",
        f"MRR of the query 0.300, context-mean 0.250 ({difference})",
    )
    reasons = " | ".join(make_verdict("amn", {"val": split(ABOVE, margin=-0.05, groups=7)}).reasons["val"])
    assert "closer to the last context vector than to the target: margin -0.050, ridge -0.300" in reasons
    assert "only 7 documents, so the intervals are wide" in reasons
    grouped = replace(split(ABOVE, groups=7), documents=150)
    assert "only 7 independent groups (documents of one book" in make_verdict("amn", {"val": grouped}).reasons["val"][2]


def test_ranked_returns_the_model_first_then_descending_cosines():
    result = split(BELOW)
    result = replace(result, predictors={**result.predictors, "best": scores(0.9)})
    assert [name for name, _ in result.ranked("amn")] == ["amn", "best", "ridge", "copy-last"]
    assert [name for name, _ in result.ranked(None)] == ["best", "amn", "ridge", "copy-last"]
