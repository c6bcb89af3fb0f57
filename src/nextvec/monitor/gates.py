"""Gates as the log has them: what those passed said, and which the recipe has still to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nextvec.core.events import Event, count, finite, number, objects, words
from nextvec.core.formatting import STATUSES, Status

LOWER_IS_BETTER = frozenset(
    {"val_loss", "train_loss_mse", "train_loss_info", "epochs_since_best", "generalization_gap"}
)  # as recipe.METRICS says, which would cost a quarter of a second to import


@dataclass(frozen=True)
class Verdict:
    """What a gate said."""

    epoch: int
    metric: str
    status: Status
    reason: str
    advice: str

    @property
    def of_sentinel(self) -> bool:
        """Whether it is a check of the sentinel: a gate on ood."""
        return self.metric.startswith("ood_")


@dataclass(frozen=True)
class GateToCome:
    """A gate that the run has not reached yet."""

    epoch: int
    metric: str
    green: float | None
    red: float | None
    action: str

    @property
    def lower_is_better(self) -> bool:
        """Which side of a threshold is the good one."""
        if self.green is not None and self.red is not None and self.green != self.red:
            return self.green < self.red
        return self.metric in LOWER_IS_BETTER


def read_verdicts(events: Sequence[Event], records: Sequence[Event]) -> tuple[Verdict, ...]:
    """What the gates said, from their own events and from the epochs' records, each once and in the order of epochs."""
    found = [event for event in events if event["kind"] == "gate"]
    found += [verdict for record in records for verdict in objects(record.get("gates"))]
    verdicts: dict[tuple[Any, ...], Verdict] = {}
    for item in found:
        if item.get("status") in STATUSES:
            epoch, metric = count(item.get("epoch")), words(item.get("metric"))
            reason = words(item.get("reason")) or metric.replace("_", " ")
            key = (epoch, metric, number(item.get("green")), number(item.get("red")))
            verdicts[key] = Verdict(epoch, metric, item["status"], reason, words(item.get("advice")))
    return tuple(sorted(verdicts.values(), key=lambda verdict: verdict.epoch))


def gates_to_come(recipe: dict[str, Any], epochs: int, total_epochs: int | None) -> tuple[GateToCome, ...]:
    """The recipe's gates at epochs that are not finished yet, in the order of epochs."""
    gates = []
    for gate in objects(recipe.get("gates")):
        at = gate.get("epoch")
        for epoch in sorted({count(item) for item in (at if isinstance(at, list | tuple) else [at])}):
            if epochs < epoch <= (total_epochs or epoch):
                thresholds = finite(gate.get("green")), finite(gate.get("red"))
                gates.append(GateToCome(epoch, words(gate.get("metric")), *thresholds, words(gate.get("action"))))
    return tuple(sorted(gates, key=lambda gate: gate.epoch))
