"""Gates for any data: thresholds from the data's own baselines, because absolute ones hold for one space only.

The yardstick on a split is the distance from train-mean, which is where a collapsed model ends, to the best baseline. A
model is healthy when it closes in on the best baseline by epochs 3 and 6, is beside it at 10, and above it at 20 and
30; the sentinel stops a run that stays nearer to collapse than to the baselines on ood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nextvec.guards.gates import Cosines

COLLAPSED = "train-mean"

VAL_STEPS = {3: (-0.2, -0.4), 6: (-0.1, -0.2), 10: (-0.05, -0.15), 20: (0.0, -0.1), 30: (0.0, -0.05)}
"""Epoch → green and red on val_gain, in parts of the yardstick."""
OOD_STEPS = {3: (-0.2, -0.5), 6: (-0.15, -0.4), 10: (-0.1, -0.4), 20: (0.0, -0.3)}
"""The same for the sentinel, on ood_gain."""


@dataclass(frozen=True)
class GateSuggestion:
    """Suggested gates, and the baselines that they come from."""

    data: str
    baselines: dict[str, dict[str, float]]
    gates: tuple[dict[str, Any], ...]

    @property
    def toml(self) -> str:
        """The gates for a recipe, with what they mean in absolute scores."""
        import tomli_w

        lines = [f"# Gates suggested for {line}" for line in self.data.splitlines()]
        for split, cosines in self.baselines.items():
            told = ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())
            lines.append(f"# baselines on {split}: {told}")
        for gate in self.gates:
            split = gate["metric"].partition("_")[0]
            best = max(self.baselines[split].values())
            lines.append(
                f"\n# green from {split}_cosine {best + gate['green']:.4f}, red below {best + gate['red']:.4f}"
            )
            lines.append("[[gates]]\n" + tomli_w.dumps(gate).strip())
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"data": self.data, "baselines": self.baselines, "gates": list(self.gates)}


def suggest_gates(data: str, baselines: Cosines) -> GateSuggestion:
    """Gates on val_gain and, where there is an ood split, a sentinel on ood_gain, for the data named."""
    gates = [*_on("val", baselines, VAL_STEPS, "warn", "below a predictor without training, by more than is healthy")]
    if "ood" in baselines:
        gates += _on("ood", baselines, OOD_STEPS, "stop", "fails on other sources: overfitting, or another space")
    return GateSuggestion(data, {split: dict(cosines) for split, cosines in baselines.items()}, tuple(gates))


def _on(
    split: str, baselines: Cosines, steps: dict[int, tuple[float, float]], action: str, advice: str
) -> list[dict[str, Any]]:
    cosines = baselines[split]
    yardstick = max(cosines.values()) - cosines.get(COLLAPSED, 0.0)
    return [
        {
            "epoch": epoch,
            "metric": f"{split}_gain",
            "green": round(green * yardstick, 4) + 0.0,
            "red": round(red * yardstick, 4) + 0.0,
            "action": action,
            "advice": advice,
        }
        for epoch, (green, red) in steps.items()
    ]
