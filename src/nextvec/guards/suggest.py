"""Gates for any data: thresholds from the data's own baselines, because absolute ones hold for one space only.

The unit of all thresholds on a split is the gap between train-mean, where a collapsed model ends, and the best
baseline. A healthy model closes in on the best baseline by epochs 3 and 6, is level with it at 10 and above it at 20
and 30. The sentinel stops a run that stays closer to collapse than to the baselines on ood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tomli_w

from nextvec.core.display import Displayable
from nextvec.core.table import Cell, Column, Line, Row, Table, View, columns_of
from nextvec.guards.gates import BaselineCosines

VAL_STEPS = {3: (-0.2, -0.4), 6: (-0.1, -0.2), 10: (-0.05, -0.15), 20: (0.0, -0.1), 30: (0.0, -0.05)}
"""Epoch → green and red thresholds on val_gain, as fractions of the gap."""
OOD_STEPS = {3: (-0.2, -0.5), 6: (-0.15, -0.4), 10: (-0.1, -0.4), 20: (0.0, -0.3)}
"""The same for the sentinel, on ood_gain."""


@dataclass(frozen=True)
class GateSuggestion(Displayable):
    """Suggested gates, and the baselines that they are based on."""

    data: str
    baselines: dict[str, dict[str, float]]
    gates: tuple[dict[str, Any], ...]

    @property
    def toml(self) -> str:
        """The gates as recipe text, with the absolute scores in comments."""
        lines = [f"# Gates suggested for {line}" for line in self.data.splitlines()]
        for split, cosines in self.baselines.items():
            scores = ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())
            lines.append(f"# baselines on {split}: {scores}")
        for gate in self.gates:
            # The thresholds are on the gain: add the best baseline to show them as cosines.
            split = gate["metric"].partition("_")[0]
            best = max(self.baselines[split].values())
            green, red = best + gate["green"], best + gate["red"]
            lines.append(f"\n# green from {split}_cosine {green:.4f}, red below {red:.4f}")
            lines.append("[[gates]]\n" + tomli_w.dumps(gate).strip())
        return "\n".join(lines) + "\n"

    def __rich__(self) -> View:
        """Return the recipe text, so that a terminal's output can be copied or redirected into a recipe."""
        return View((Line(self.toml, style="path"),))  # no line of TOML is broken

    def view(self) -> View:
        """Return one row per gate."""
        columns = (*columns_of("metric", "epoch", "green from", "red below"), Column("action", "left"))
        rows = [
            Row(
                (
                    Cell(gate["metric"]),
                    *(Cell(f"{gate[name]:g}", gate[name]) for name in ("epoch", "green", "red")),
                    Cell(gate["action"]),
                )
            )
            for gate in self.gates
        ]
        return View((Table(f"Gates suggested for {self.data}", columns, tuple(rows)),))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"data": self.data, "baselines": self.baselines, "gates": list(self.gates)}


def suggest_gates(data: str, baselines: BaselineCosines) -> GateSuggestion:
    """Return gates on val_gain and, if there is an ood split, sentinel gates on ood_gain.

    `data` describes the data in the comments of the recipe text.
    """
    gates = _make_gates(
        "val", baselines, VAL_STEPS, "warn", "The model is further below the best baseline than a healthy run."
    )
    if "ood" in baselines:
        advice = "The model fails on other sources. Check for overfitting, or for another embedding space."
        gates += _make_gates("ood", baselines, OOD_STEPS, "stop", advice)
    return GateSuggestion(data, {split: dict(cosines) for split, cosines in baselines.items()}, tuple(gates))


def _make_gates(
    split: str, baselines: BaselineCosines, steps: dict[int, tuple[float, float]], action: str, advice: str
) -> list[dict[str, Any]]:
    # The unit of the thresholds. Without a train-mean, collapse is taken as cosine 0.
    cosines = baselines[split]
    gap = max(cosines.values()) - cosines.get("train-mean", 0.0)
    return [
        {
            "epoch": epoch,
            "metric": f"{split}_gain",
            "green": round(green * gap, 4) + 0.0,  # + 0.0 turns −0.0 into 0.0
            "red": round(red * gap, 4) + 0.0,
            "action": action,
            "advice": advice,
        }
        for epoch, (green, red) in steps.items()
    ]
