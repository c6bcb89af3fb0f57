"""What a judgement measures beside scores, as columns of a table and as lines. Pure functions; no torch.

Where predictions point (offsets, direction), how far they spread, how they fare in the own document and when they are
fed back; and for the model what spoiling its context costs, and where it wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nextvec.report.table import Column

if TYPE_CHECKING:
    from nextvec.judge.figures import Alignment, Estimate, Part
    from nextvec.judge.judgement import Judgement, PredictorScores, SplitJudgement


def _offset(k: int) -> Column:
    def text(scores: PredictorScores) -> str:
        value = scores.alignment.offsets.get(k) if scores.alignment else None
        return "–" if value is None else f"{value:.3f}"

    return Column(f"cos {k:+d}", text)


def _direction(alignment: Alignment | None) -> str:
    if alignment is None or alignment.direction is None:
        return "–"
    spread = (alignment.direction.high - alignment.direction.low) / 2
    return f"{alignment.direction.value:+.4f} ±{spread:.4f}"


def _rollout(scores: PredictorScores) -> str:
    last = scores.rollout[-1] if scores.rollout else None
    return "–" if last is None else f"{last:.3f}"


MEASURES = (
    _offset(-6),
    _offset(-1),
    _offset(1),
    Column("direction", lambda scores: _direction(scores.alignment)),
    Column("spread", lambda scores: f"{scores.shape.spread:.2f}" if scores.shape else "–"),
    Column("rank", lambda scores: f"{scores.shape.effective_rank:.0f}" if scores.shape else "–"),
    Column("CA %", lambda scores: f"{100 * scores.contrast.accuracy:.1f}" if scores.contrast else "–"),
    Column("ℓ2", lambda scores: f"{scores.contrast.l2:.3f}" if scores.contrast else "–"),
    Column("own MRR", lambda scores: f"{scores.within.mrr:.3f}" if scores.within else "–", of_query=True),
    Column("step 8", _rollout),
)

LEGEND = (
    "cos k: mean cosine of the prediction to the vector at target + k. direction: how much closer to the target than "
    "to the vector before the context, beyond the context mean. spread: 1 − mean cosine of two predictions; rank: over "
    "how many directions they spread. CA, ℓ2: contrastive accuracy and distance as the Large Concept Model paper has "
    "them. own MRR: retrieval in the own document. step 8: cosine eight steps ahead, its own predictions fed back."
)


def is_measured(judgement: Judgement) -> bool:
    """Whether the judgement holds these measures; older ones don't."""
    return any(scores.alignment for figures in judgement.splits.values() for scores in figures.predictors.values())


def model_lines(figures: SplitJudgement, *, ablations: bool = True) -> Iterator[str]:
    """What is known of the model alone on a split, in lines; without `ablations` where a table has them."""
    if figures.target_shape is not None:
        shape = figures.target_shape
        yield f"targets: spread {shape.spread:.2f}, rank {shape.effective_rank:.0f}"
    if figures.ablations and ablations:
        falls = ", ".join(f"{name} {_short(fall)}" for name, fall in figures.ablations.items())
        yield f"what spoiling the context costs: {falls}"
    if figures.parts is not None:
        yield f"win rate over {figures.best_baseline}: {_percent(figures.parts.win_rate)} of documents"
        for title, parts in (("source", figures.parts.by_source), ("coherence", figures.parts.by_coherence)):
            if len(parts) > 1:
                yield f"gain by {title}: " + ", ".join(_part(part) for part in parts)


def _part(part: Part) -> str:
    return f"{part.name} {_short(part.gain)}"


def _short(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} ±{(estimate.high - estimate.low) / 2:.4f}"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"
