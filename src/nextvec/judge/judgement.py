"""What a judgement says: figures for every predictor on every split, and a verdict in plain words.

Plain values only and no torch, so that tables, pages and whatever else reads a finished run start at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nextvec.data.check import FEW_GROUPS
from nextvec.judge.figures import Alignment, Breakdown, Contrast, Estimate, Latency, Retrieval, Shape
from nextvec.lights import LIGHTS, Light, worst


@dataclass(frozen=True)
class PredictorScores:
    """One predictor's figures on one split."""

    cosine: Estimate
    mse: float
    margin: float
    retrieval: Retrieval
    gain: Estimate | None
    """The model's cosine minus this predictor's on the same windows; None for the model itself or without one."""
    within: Retrieval | None = None
    """The same as retrieval, among the chunks of the window's own document only."""
    query: Retrieval | None = None
    """Retrieval with the model's second output, the query, where it has one; `retrieval` is the prediction's."""
    query_within: Retrieval | None = None
    """The query's retrieval in the own document."""
    contrast: Contrast | None = None
    alignment: Alignment | None = None
    shape: Shape | None = None
    rollout: tuple[float | None, ...] = ()
    """Mean cosine to the vector 1, 2 … ahead when its own predictions are fed back; empty where not measured."""


@dataclass(frozen=True)
class SplitJudgement:
    """All predictors on one split."""

    windows: int
    documents: int
    """Documents that have windows."""
    groups: int
    """Independent groups of documents: what the intervals resample."""
    candidates: int
    queries: int
    predictors: dict[str, PredictorScores]
    """By name; the model first, then the baselines in the order given."""
    best_baseline: str | None
    """The baseline of the highest cosine on this split."""
    gain: Estimate | None
    """The model's gain over the best baseline."""
    target_shape: Shape | None = None
    """The cloud of the targets, beside which the predictors' shapes are read."""
    ablations: dict[str, Estimate] = field(default_factory=dict)
    """How far the model's cosine falls when its context is spoilt, by what is done to it."""
    parts: Breakdown | None = None
    """The model beside the best baseline by document, source and coherence of the context."""

    def ranked(self, model: str | None) -> Iterator[tuple[str, PredictorScores]]:
        """Predictors as tables show them: the model, then the others from the highest cosine to the lowest."""
        return iter(sorted(self.predictors.items(), key=lambda item: (item[0] != model, -item[1].cosine.value)))


@dataclass(frozen=True)
class Verdict:
    """The judgement in words."""

    light: Light
    sentence: str
    reasons: dict[str, tuple[str, ...]]
    """By split: the facts behind it, and what else a reader should know."""


@dataclass(frozen=True)
class Judgement:
    """A model beside the baselines on the same windows."""

    model: str | None
    splits: dict[str, SplitJudgement]
    notes: tuple[str, ...]
    """What was left out, and why."""
    verdict: Verdict | None
    """None where only baselines were judged."""
    latency: Latency | None = None
    """What a prediction of the model costs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Judgement:
        """The inverse of `to_dict`, also after a way through JSON. Raises ValueError for anything else."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(str(error.errors(include_url=False)[0])) from error


def conclude(model: str, splits: Mapping[str, SplitJudgement]) -> Verdict:
    """The verdict on a model: green where its gain is surely above zero on val, and on ood where there is one.

    Red where the gain on val is surely below zero; amber for everything between, and where val was not judged.
    "Surely" means that the whole interval is on that side. What train says is told, and decides nothing.
    """
    reasons = {name: tuple(_reasons(model, split)) for name, split in splits.items()}
    deciding = {name: split.gain for name, split in splits.items() if name != "train" and split.gain is not None}
    if "val" not in deciding:
        rest = "".join(f" It {_OUTCOMES[light_of(gain)]} on {name} ({gain})." for name, gain in deciding.items())
        light: Light = worst([*map(light_of, deciding.values()), "amber"])
        return Verdict(light, f"{model} was not compared with a baseline on val: nothing is proved.{rest}", reasons)
    lights = {name: light_of(gain) for name, gain in deciding.items()}
    # Losing on unseen documents of the training sources is failure; losing only on other sources is a limit to know.
    light = lights["val"] if lights["val"] == "red" else min(worst(lights.values()), "amber", key=LIGHTS.index)
    told: list[str] = []
    for name, gain in deciding.items():
        outcome = _OUTCOMES[lights[name]]
        if told:  # the second time "the best baseline" is "it", and left out where the outcome is the same
            same = next(iter(lights.values())) == lights[name]
            outcome = "and" if same else f"but {outcome.replace('the best baseline', 'it')}"
        told.append(f"{outcome} on {name} ({gain} over {splits[name].best_baseline})")
    return Verdict(light, f"{model} {' '.join(told)}.", reasons)


_OUTCOMES: dict[Light, str] = {
    "green": "beats the best baseline",
    "amber": "can't be told from the best baseline",
    "red": "loses to the best baseline",
}


def light_of(gain: Estimate) -> Light:
    """Green where a gain is surely above zero, red where it is surely below, amber where nobody can tell."""
    return "green" if gain.low > 0 else "red" if gain.high < 0 else "amber"


def _reasons(model: str, split: SplitJudgement) -> Iterator[str]:
    """Facts about a model on a split that its cosine alone hides."""
    if split.gain is None or split.best_baseline is None:
        return
    own, best = split.predictors[model], split.predictors[split.best_baseline]
    yield f"cosine {own.cosine.value:.4f} against {best.cosine.value:.4f} of {split.best_baseline}"
    name, rival = max(
        ((name, score) for name, score in split.predictors.items() if name != model),
        key=lambda item: item[1].retrieval.mrr,
    )
    found, output = (own.retrieval, "") if own.query is None else (own.query, " of its query")
    if rival.retrieval.mrr > found.mrr:
        yield f"{name} finds the true next chunk better: MRR {rival.retrieval.mrr:.3f} against {found.mrr:.3f}{output}"
    elif output:
        yield f"its query finds the true next chunk best: MRR {found.mrr:.3f}, {rival.retrieval.mrr:.3f} of {name}"
    if own.margin < 0:
        yield (
            f"predictions are closer to the last context vector than to the target: margin {own.margin:+.3f}, "
            f"{split.best_baseline} {best.margin:+.3f}"
        )
    if split.groups < FEW_GROUPS:
        yield f"only {split.groups} independent documents: the intervals are wide, add documents to this split"
