"""What a judgement says: figures for every predictor on every split, and a verdict in plain words.

Plain values only and no torch, so that tables, pages and whatever else reads a finished run start at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nextvec.core.formatting import LIGHTS, Light, worst
from nextvec.data.checks.rules_integrity import FEW_GROUPS
from nextvec.evaluation.results import Estimate, SplitJudgement, Verdict


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
