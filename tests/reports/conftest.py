"""An evaluation with round numbers, and a data check."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from nextvec.data.checks import CheckReport
from nextvec.data.checks.findings import Finding
from nextvec.evaluation.results import Estimate, Evaluation, PredictorResult, Retrieval, RetrievalGain, SplitResult
from nextvec.evaluation.verdict import make_verdict


def _scores(cosine: float, margin: float, hits: float, gain: float | None) -> PredictorResult:
    estimate = None if gain is None else Estimate(gain, gain - 0.001, gain + 0.002)
    retrieval = Retrieval(hits, 2 * hits, 3 * hits, 1.5 * hits, 9.0)
    return PredictorResult(Estimate(cosine, cosine - 0.002, cosine + 0.002), 0.001, margin, retrieval, estimate)


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    def make(
        model: str | None = "amn",
        *,
        gain: float = 0.015,
        hits: float = 0.25,
        splits: tuple[str, ...] = ("val", "ood"),
    ) -> Evaluation:
        """`gain` is the model's gain in cosine over ridge, and `hits` its R@1; copy-last, the best, has 0.22."""
        evaluated = {}
        for split in splits:
            figures = {
                "copy-last": (0.484, -0.516, 0.22),
                "ridge": (0.579, -0.128, 0.18),
                "train-mean": (0.129, 0.0, 0.0001),
            }
            predictors = {} if model is None else {model: _scores(0.579 + gain, -0.091, hits, None)}
            for name, (cosine, margin, rate) in figures.items():
                predictors[name] = _scores(cosine, margin, rate, None if model is None else 0.579 + gain - cosine)
            gain_over_best = None if model is None else predictors["ridge"].gain
            evaluated[split] = SplitResult(14520, 489, 480, 17241, 10000, predictors, "ridge", gain_over_best)
            if model is not None:
                difference = 1.5 * (hits - 0.22)
                retrieval_gain = RetrievalGain(
                    "prediction",
                    1.5 * hits,
                    "copy-last",
                    0.33,
                    Estimate(difference, difference - 0.01, difference + 0.01),
                )
                evaluated[split] = replace(evaluated[split], retrieval_gain=retrieval_gain)
        verdict = None if model is None else make_verdict(model, evaluated)
        return Evaluation(model, evaluated, ("train: not judged",), verdict)

    return make


@pytest.fixture
def report() -> CheckReport:
    findings = (
        Finding("finite values", "green", {}, "All vectors are finite."),
        Finding("ood windows", "amber", {}, "ood has 7 documents."),
        Finding(
            "val in train", "red", {}, "Rows of val that are also in train: 12 of 90, for example [red]row 3[/red]."
        ),
    )
    split = {"documents": 350, "short": 18, "rows": 11533, "windows": 9797, "coherence": [0.5] * 7 + [None]}
    return CheckReport("wiki.store", 5, findings, {"splits": {"train": split, "val": {**split, "rows": 1223}}})
