"""What the live page shows of a run, as plain JSON values: pure functions of a `RunState`.

Names, reasons and figures are text; the page writes them as text. Charts are those of the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nextvec.core.events import Event, finite, number, words
from nextvec.core.formatting import Status
from nextvec.monitor.gates import GateToCome
from nextvec.monitor.state import RunState
from nextvec.monitor.text import figure, status_words
from nextvec.reports.html.charts import series
from nextvec.reports.html.panels import CurveSource, overlay_panels, run_panels

Values = dict[str, Any]

TREND = 40
"""Points of the trend in the list of runs."""


def summary(state: RunState) -> Values:
    """A run in the list of runs."""
    status, stoplight = status_words(state)
    level = state.best_baselines.get("val", ("", None))
    return {
        "name": words(state.name) or "a run",
        "path": words(state.path),
        "synthetic": state.synthetic,
        "status": status,
        "state": state.status,
        "stoplight": stoplight or _outcome_light(state),
        "ended": state.ended,
        "started": state.started,
        "epoch": state.epochs,
        "epochs": state.total_epochs,
        "part": state.part,
        "scores": list(_scores(state)),
        "trend": _trend(series(state.records, "val_cosine")),
        "level": level[1],
    }


def detail(state: RunState) -> Values:
    """One run with everything that is known of it."""
    return {
        **summary(state),
        "facts": [fact for fact in (state.trained, state.data) if fact],
        "reason": state.reason,
        "diagnosis": state.diagnosis,
        "rates": list(_rates(state)),
        "losses": list(_losses(state)),
        "gates": [
            {"stoplight": item.status, "epoch": item.epoch, "text": item.reason, "sentinel": item.of_sentinel,
             "advice": item.advice if item.status != Status.GREEN else ""}
            for item in state.verdicts
        ],
        "to_come": [{"epoch": gate.epoch, "text": threshold_words(gate)} for gate in state.to_come],
        "warnings": [{"stoplight": stoplight, "text": text} for stoplight, text in state.warnings],
        "criteria": [
            {"stoplight": Status.GREEN if item.passed else Status.RED, "name": item.name,
             "text": f"{item.figure}, wanted {item.wanted}{f' ({item.beside})' if item.beside else ''}"}
            for item in state.criteria
        ],
        "verdict": state.verdict and {"stoplight": state.verdict[0], "text": state.verdict[1]},
        "panels": [panel.to_dict() for panel in run_panels(curve_source(state))],
    }  # fmt: skip


def overlay(states: Sequence[RunState]) -> Values:
    """Several runs laid over each other."""
    names = _distinct([words(state.name) or "a run" for state in states])
    sources = [curve_source(state, name) for state, name in zip(states, names, strict=True)]
    return {"runs": names, "panels": [panel.to_dict() for panel in overlay_panels(sources)]}


def curve_source(state: RunState, name: str = "") -> CurveSource:
    """What charts of the run are drawn from."""
    return CurveSource(
        name or words(state.name), state.records, state.baselines, state.gates, state.asked, state.evaluation
    )


def threshold_words(gate: GateToCome) -> str:
    """What a gate that is still to come will look at."""
    at_least, beyond = ("≤", ">") if gate.lower_is_better else ("≥", "<")
    limits = ((Status.GREEN, at_least, gate.green), (Status.RED, beyond, gate.red))
    told = ", ".join(f"{stoplight} {sign} {limit:g}" for stoplight, sign, limit in limits if limit is not None)
    stops = "; red stops the run" if gate.action == "stop" else ""
    return f"{gate.metric.replace('_', ' ')}: {told}{stops}"


def _outcome_light(state: RunState) -> Status | None:
    """The light of a run that goes well or is over: of its verdict, else of its last gates."""
    if state.verdict is not None:
        return state.verdict[0]
    return state.verdicts[-1].status if state.verdicts else None


def _scores(state: RunState) -> Iterator[Values]:
    """A line for each split: now, the gain, the best epoch, and the baseline beside it."""
    for split in ("val", "ood"):
        if f"{split}_cosine" not in state.latest and split not in state.best_baselines:
            continue
        name, level = state.best_baselines.get(split, ("", None))
        gain = number(state.latest.get(f"{split}_gain"))
        yield {
            "split": split,
            "now": _cosine(state.latest, f"{split}_cosine"),
            "gain": figure(gain, "+.4f"),
            "ahead": gain is not None and gain > 0,
            "best": _cosine(state.best, f"{split}_cosine"),
            "baseline": "not measured" if level is None else f"{level:.4f} {name}",
        }
    if "train_cosine" in state.latest:
        now, best = (_cosine(record, "train_cosine") for record in (state.latest, state.best))
        yield {"split": "train", "now": now, "gain": "", "ahead": False, "best": best, "baseline": ""}


def _cosine(record: Event, key: str) -> str:
    return figure(number(record.get(key)), ".4f")


def _losses(state: RunState) -> Iterator[Values]:
    """A line for each term of the loss, and the share of influence that it has and should have."""
    for name in state.latest:
        term = name.removeprefix("train_loss_")
        if term == name:
            continue
        yield {
            "term": words(term),
            "train": figure(number(state.latest.get(name)), ".4g"),
            "val": figure(number(state.latest.get(f"val_loss_{term}")), ".4g"),
            "share": _percent(finite(state.latest.get(f"share_{term}"))),
            "asked": _percent(state.asked.get(term)),
        }


def _rates(state: RunState) -> Iterator[str]:
    if state.total_steps:
        yield f"step {state.step:,} of {state.total_steps:,}"
    if state.lr is not None:
        yield f"learning rate {state.lr:.3g}"
    if state.rate is not None:
        yield f"{state.rate:,.0f} windows/s"
    if state.memory is not None:
        yield f"memory {state.memory:,.0f} MB"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _trend(values: Sequence[float | None]) -> list[float]:
    """At most `TREND` of the values, evenly, the last one among them."""
    known = [value for value in values if value is not None]
    if len(known) <= TREND:
        return known
    return [known[round(number * (len(known) - 1) / (TREND - 1))] for number in range(TREND)]


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that can be told apart: equal ones get numbers."""
    seen: dict[str, int] = {}
    told = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        told.append(name if names.count(name) == 1 else f"{name} ({seen[name]})")
    return told
