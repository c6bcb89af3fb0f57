"""Types of the diagnosis: what is known of a run, what a rule finds in it, and the thresholds that rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from nextvec.core.display import Displayable
from nextvec.core.events import Event
from nextvec.core.formatting import Status, plain_text, worst
from nextvec.evaluation.results import Evaluation, PredictorResult, SplitResult
from nextvec.guards.gates import BaselineCosines, EpochMetrics
from nextvec.recipe import Recipe

Confidence = Literal["certain", "likely", "possible"]
CONFIDENCES: tuple[Confidence, ...] = ("certain", "likely", "possible")
"""From the highest to the lowest."""

NEAR_BASELINE = 0.03
"""A model is level with a baseline if its cosine is at most this much lower: about twice a usual interval."""
FAR_BELOW_BASELINE = 0.1
"""A model that is this much below a baseline has failed: the distance from train-mean to a usual best baseline."""
UNRELATED_COSINE = 0.05
"""Unrelated directions in a few hundred dimensions have cosines of at most about this size."""


@dataclass(frozen=True)
class Case:
    """What is known of a run, or of a predictor that was evaluated without a run."""

    recipe: Recipe = field(default_factory=Recipe)
    history: Sequence[EpochMetrics] = ()
    baselines: BaselineCosines = field(default_factory=dict)
    evaluation: Evaluation | None = None
    check: Mapping[str, Any] = field(default_factory=dict)
    """`CheckReport.to_dict()`."""
    events: Sequence[Event] = ()

    @property
    def last_epoch(self) -> EpochMetrics:
        """The metrics of the last epoch; empty before the first."""
        return self.history[-1] if self.history else {}

    @property
    def evaluated_splits(self) -> list[tuple[str, SplitResult, PredictorResult]]:
        """Name, all results and the model's result of val and ood, as far as a model was evaluated on them."""
        return [
            (split, result, self.model_result(split))
            for split in ("val", "ood")
            if (result := self.split_result(split)) is not None
        ]

    def epoch_values(self, name: str) -> list[float]:
        """Return a metric of every epoch that has it."""
        return [float(metrics[name]) for metrics in self.history if name in metrics]

    def metric(self, name: str) -> float | None:
        """Return val_cosine, ood_gain or the like: of the evaluation if there is one, else of the last epoch."""
        # The evaluation describes the weights that were selected, so it takes precedence over the last epoch.
        split, _, metric = name.partition("_")
        result = self.split_result(split)
        if result is None:
            value = self.last_epoch.get(name)
            return float(value) if isinstance(value, int | float) else None
        model = self.model_result(split)
        gain = result.gain.value if result.gain else None
        return {"cosine": model.cosine.value, "gain": gain, "margin": model.margin}[metric]

    def split_result(self, split: str) -> SplitResult | None:
        """Return the evaluation of a model on a split; None if there is none."""
        return self.evaluation.splits.get(split) if self.evaluation and self.evaluation.model else None

    def model_result(self, split: str) -> PredictorResult:
        """Return the result of the model on a split on which it was evaluated."""
        assert self.evaluation is not None and self.evaluation.model is not None
        return self.evaluation.splits[split].predictors[self.evaluation.model]

    def baseline_cosine(self, split: str, name: str | None = None) -> float | None:
        """Return the cosine of a baseline on a split (None: the best baseline); None if it is unknown."""
        # The evaluation's baselines take precedence, because they are scored on the model's windows.
        cosines = dict(self.baselines.get(split, {}))
        result = self.split_result(split)
        if result is not None and self.evaluation is not None:
            cosines = {
                predictor: score.cosine.value
                for predictor, score in result.predictors.items()
                if predictor != self.evaluation.model
            }
        return max(cosines.values(), default=None) if name is None else cosines.get(name)

    def red_findings(self, *names: str) -> Iterator[str]:
        """Iterate over the messages of the data check's red findings of these names."""
        for finding in self.check.get("findings", ()):
            if finding["status"] == Status.RED and finding["name"] in names:
                yield finding["message"]


class Evidence(NamedTuple):
    """What a rule found."""

    status: Status
    """Red: the run or its scores are worthless. Amber: they need care."""
    confidence: Confidence
    text: str
    """One sentence with the measured numbers."""


@dataclass(frozen=True)
class Pathology:
    """A named fault: the rule that detects it, and what to do about it."""

    id: str
    title: str
    rule: Callable[[Case], Evidence | None]
    """A pure function; None if the fault is absent or a number that it needs is missing."""
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """A pathology that was detected in a case."""

    id: str
    title: str
    status: Status
    confidence: Confidence
    evidence: str
    advice: str

    @property
    def line(self) -> str:
        """The diagnosis as one line of text."""
        return plain_text(f"{self.title} ({self.confidence}): {self.evidence} {self.advice}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"status": self.status.value}  # checkpoints keep plain values only


@dataclass(frozen=True)
class Diagnoses(Displayable, view="nextvec.reports.tables:diagnoses_view"):
    """All diagnoses of a case, the most severe and most confident first."""

    items: tuple[Diagnosis, ...]
    has_epochs: bool = True
    """Whether the run has finished an epoch or was evaluated. Without either there is nothing to assess."""

    @property
    def status(self) -> Status:
        """The worst status. Without any diagnosis: green, or amber if there is nothing to assess."""
        return worst(item.status for item in self.items) if self.items or self.has_epochs else Status.AMBER

    @property
    def ids(self) -> list[str]:
        """The ids of the pathologies, in order."""
        return [item.id for item in self.items]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"status": self.status.value, "diagnoses": [item.to_dict() for item in self.items]}
