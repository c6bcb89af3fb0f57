"""The gates of a run as its log reports them: verdicts so far, and gates that are still ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nextvec.core.events import Event, count, finite, number, objects, words
from nextvec.core.formatting import STATUSES, Status
from nextvec.core.gate_metrics import GATE_METRICS


@dataclass(frozen=True)
class GateVerdict:
    """The result of a gate."""

    epoch: int
    metric: str
    status: Status
    reason: str
    advice: str

    @property
    def is_sentinel(self) -> bool:
        """Whether it is a check of the sentinel: a gate on ood."""
        return self.metric.startswith("ood_")


@dataclass(frozen=True)
class UpcomingGate:
    """A gate that the run has not reached yet."""

    epoch: int
    metric: str
    green: float | None
    red: float | None
    action: str

    @property
    def lower_is_better(self) -> bool:
        """Whether values below a threshold are good."""
        if self.green is not None and self.red is not None and self.green != self.red:
            return self.green < self.red
        metric = GATE_METRICS.get(self.metric)  # the log may be of a newer version with other metrics
        return metric is not None and metric.lower_is_better

    @property
    def label(self) -> str:
        """The metric as people read it: `val cosine`."""
        return self.metric.replace("_", " ")

    @property
    def thresholds(self) -> list[tuple[Status, str]]:
        """Statuses and the values that lead to them: `(Status.GREEN, "≥ 0.48")`."""
        green_sign, red_sign = ("≤", ">") if self.lower_is_better else ("≥", "<")
        limits = ((Status.GREEN, green_sign, self.green), (Status.RED, red_sign, self.red))
        return [(status, f"{sign} {limit:g}") for status, sign, limit in limits if limit is not None]

    @property
    def stops_run(self) -> bool:
        """Whether red stops the run."""
        return self.action == "stop"


def read_verdicts(events: Sequence[Event], records: Sequence[Event]) -> tuple[GateVerdict, ...]:
    """Return each gate's verdict once, in the order of epochs.

    A verdict is logged twice: as an event of its own, and in the metrics of its epoch.
    """
    logged = [event for event in events if event["kind"] == "gate"]
    logged += [verdict for record in records for verdict in objects(record.get("gates"))]
    verdicts: dict[tuple[Any, ...], GateVerdict] = {}
    for item in logged:
        if item.get("status") in STATUSES:
            epoch, metric = count(item.get("epoch")), words(item.get("metric"))
            reason = words(item.get("reason")) or metric.replace("_", " ")
            # Two gates can check one metric at one epoch; their thresholds tell them apart.
            key = (epoch, metric, number(item.get("green")), number(item.get("red")))
            verdicts[key] = GateVerdict(epoch, metric, Status(item["status"]), reason, words(item.get("advice")))
    return tuple(sorted(verdicts.values(), key=lambda verdict: verdict.epoch))


def upcoming_gates(recipe: dict[str, Any], epochs: int, total_epochs: int | None) -> tuple[UpcomingGate, ...]:
    """Return the recipe's gates at epochs that have not finished, in the order of epochs."""
    gates = []
    for gate in objects(recipe.get("gates")):
        # A recipe may give one epoch or a list of them.
        epoch_field = gate.get("epoch")
        gate_epochs = epoch_field if isinstance(epoch_field, list | tuple) else [epoch_field]
        for epoch in sorted({count(item) for item in gate_epochs}):
            if epochs < epoch <= (total_epochs or epoch):
                thresholds = finite(gate.get("green")), finite(gate.get("red"))
                gates.append(UpcomingGate(epoch, words(gate.get("metric")), *thresholds, words(gate.get("action"))))
    return tuple(sorted(gates, key=lambda gate: gate.epoch))
