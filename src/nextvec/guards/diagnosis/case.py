"""Diagnosis: a table of named pathologies, each a small pure rule over what is recorded of a run. No torch.

A rule reads figures that are there already (recipe, epochs, baselines, judgement, data check, events), says nothing
where they are missing, and otherwise what was seen, how sure it is, and what to do next. The rules are in
`pathologies.py`; docs/diagnosis.md has a section for each name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nextvec.core.events import Event
from nextvec.core.formatting import STATUSES, Status
from nextvec.evaluation.results import Estimate, Evaluation, PredictorResult, SplitResult
from nextvec.guards.gates import Cosines, Record
from nextvec.recipe import Recipe

Sureness = Literal["certain", "likely", "possible"]
SURENESS: tuple[Sureness, ...] = ("certain", "likely", "possible")


@dataclass(frozen=True)
class Case:
    """What is known of a run, or of a predictor that was judged without one."""

    recipe: Recipe = field(default_factory=Recipe)
    history: Sequence[Record] = ()
    baselines: Cosines = field(default_factory=dict)
    evaluation: Evaluation | None = None
    check: Mapping[str, Any] = field(default_factory=dict)
    """`CheckReport.to_dict()`."""
    events: Sequence[Event] = ()

    @property
    def last(self) -> Record:
        """The record of the last epoch; empty where there is none."""
        return self.history[-1] if self.history else {}

    def figure(self, name: str) -> float | None:
        """A figure such as val_cosine or ood_gain: of the judged model, else of the last epoch."""
        split, _, metric = name.partition("_")
        evaluated = self.split(split)
        if evaluated is None:
            value = self.last.get(name)
            return float(value) if isinstance(value, int | float) else None
        gain = evaluated.gain.value if evaluated.gain else None
        return {"cosine": self.model(split).cosine.value, "gain": gain, "margin": self.model(split).margin}[metric]

    @property
    def evaluated(self) -> list[str]:
        """The splits that the model was judged on, of those that decide."""
        return [split for split in ("val", "ood") if self.split(split) is not None]

    def split(self, name: str) -> SplitResult | None:
        """The judgement of a split, where there is one."""
        return self.evaluation.splits.get(name) if self.evaluation and self.evaluation.model else None

    def model(self, split: str) -> PredictorResult:
        """The judged model on a split that was judged."""
        assert self.evaluation is not None and self.evaluation.model is not None
        return self.evaluation.splits[split].predictors[self.evaluation.model]

    def baseline(self, split: str, name: str | None = None) -> float | None:
        """The cosine of a baseline (None: the best one) on a split."""
        evaluated = self.split(split)
        cosines = dict(self.baselines.get(split, {}))
        if evaluated is not None and self.evaluation is not None:
            cosines = {
                other: scores.cosine.value
                for other, scores in evaluated.predictors.items()
                if other != self.evaluation.model
            }
        return max(cosines.values(), default=None) if name is None else cosines.get(name)

    def findings(self, *names: str) -> Iterator[str]:
        """Yield the messages of the data check's red findings with one of the names."""
        for finding in self.check.get("findings", ()):
            if finding["status"] == Status.RED and finding["name"] in names:
                yield finding["message"].rstrip(".")


@dataclass(frozen=True)
class Diagnosis:
    """A named pathology that fits what was seen."""

    name: str
    status: Status
    """Red: the run or its scores are worthless; amber: they need care."""
    sureness: Sureness
    seen: str
    advice: str

    @property
    def line(self) -> str:
        """The diagnosis in words."""
        return f"{self.name} ({self.sureness}): {self.seen}; {self.advice}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"status": self.status.value}  # checkpoints keep plain values only


@dataclass(frozen=True)
class Diagnoses:
    """All diagnoses of a case, the worst and surest first."""

    found: tuple[Diagnosis, ...]

    @property
    def status(self) -> Status:
        """The worst light of all."""
        return max((item.status for item in self.found), key=STATUSES.index, default=Status.GREEN)

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [item.name for item in self.found]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"diagnoses": [item.to_dict() for item in self.found]}


NEAR, FAR = 0.03, 0.1
"""A cosine within NEAR of a baseline's is beside it; one that is FAR below has failed."""
ZERO = 0.05
"""Cosines of this size are those of unrelated directions."""

Found = Iterator[tuple[Status, Sureness, str]]
"""What a rule yields: light, sureness and what was seen."""


@dataclass(frozen=True)
class Pathology:
    """A named pathology: the rule that sees it, and what to do about it."""

    name: str
    rule: Callable[[Case], Found]
    advice: str


def surely(estimate: Estimate | None, *, above: float | None = None, below: float | None = None) -> bool:
    """Whether the whole interval is above or below a value; False where there is none."""
    if estimate is None:
        return False
    return (above is None or estimate.low > above) and (below is None or estimate.high < below)
