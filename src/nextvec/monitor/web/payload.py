"""A run as the live page shows it: plain JSON values from a `RunState`.

Names, reasons and numbers are text, and the page inserts them as text. The charts are those of the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nextvec.core.events import Event, finite, number, words
from nextvec.core.formatting import Status, format_number, format_percent, outcome_status
from nextvec.monitor.gates import UpcomingGate
from nextvec.monitor.state import RunState
from nextvec.monitor.text import rate_texts, run_name, status_text
from nextvec.reports.html.charts import series
from nextvec.reports.html.panels import CurveSource, overlay_panels, run_panels

Values = dict[str, Any]

TREND_POINTS = 40
"""Points of the sparkline in the list of runs: more would not be visible at its width."""


def summary(state: RunState) -> Values:
    """Return a run for the list of runs."""
    # Only what the list shows: a stream sends this for every changed run.
    text, status = status_text(state)
    progress = state.progress
    return {
        "name": run_name(state),
        "path": words(state.info.path),
        "synthetic": state.info.is_synthetic,
        "status_text": text,
        "status": status or _outcome_status(state),
        "ended": progress.has_ended,
        "started": state.info.started,
        "epoch": progress.epochs,
        "epochs": progress.total_epochs,
        "fraction": progress.fraction,
        "scores": list(_scores(state)),
        "trend": _thinned(series(state.scores.records, "val_cosine")),
        "baseline": state.scores.best_baselines.get("val", ("", None))[1],
    }


def detail(state: RunState) -> Values:
    """Return a run with everything that its page shows."""
    outcome, progress = state.outcome, state.progress
    steps = [f"step {progress.step:,} of {progress.total_steps:,}"] if progress.total_steps else []
    gates = [
        {
            "status": item.status,
            "epoch": item.epoch,
            "text": item.reason,
            "sentinel": item.is_sentinel,
            "advice": item.advice if item.status != Status.GREEN else "",
        }
        for item in outcome.verdicts
    ]
    criteria = [
        {
            "status": outcome_status(item.passed),
            "name": item.name,
            "text": f"{item.measured}, required {item.required}{f' ({item.note})' if item.note else ''}",
        }
        for item in outcome.criteria
    ]
    return {
        **summary(state),
        "facts": [fact for fact in (state.info.model_summary, state.info.data_summary) if fact],
        "reason": outcome.reason,
        "diagnosis": outcome.diagnosis,
        "rates": [*steps, *rate_texts(progress)],
        "losses": list(_losses(state)),
        "gates": gates,
        "upcoming": [{"epoch": gate.epoch, "text": threshold_text(gate)} for gate in outcome.upcoming_gates],
        "warnings": [{"status": status, "text": text} for status, text in outcome.warnings],
        "criteria": criteria,
        "verdict": outcome.verdict and {"status": outcome.verdict[0], "text": outcome.verdict[1]},
        "panels": [panel.to_dict() for panel in run_panels(curve_source(state))],
    }


def overlay(states: Sequence[RunState]) -> Values:
    """Return the charts of several runs drawn over each other."""
    names = _unique([run_name(state) for state in states])
    sources = [curve_source(state, name) for state, name in zip(states, names, strict=True)]
    return {"runs": names, "panels": [panel.to_dict() for panel in overlay_panels(sources)]}


def curve_source(state: RunState, name: str = "") -> CurveSource:
    """Return the data of the run's charts."""
    return CurveSource(
        name=name or words(state.info.name),
        records=state.scores.records,
        baselines=state.scores.baselines,
        gates=state.info.gates,
        requested_shares=state.info.requested_shares,
        evaluation=state.outcome.evaluation,
    )


def threshold_text(gate: UpcomingGate) -> str:
    """Return the thresholds of a gate that is still ahead."""
    thresholds = ", ".join(f"{status} {threshold}" for status, threshold in gate.thresholds)
    return f"{gate.label}: {thresholds}{'; red stops the run' if gate.stops_run else ''}"


def _outcome_status(state: RunState) -> Status | None:
    """Return the status of the verdict; before there is one, that of the last gate, or red after a red warning."""
    if state.outcome.verdict is not None:
        return state.outcome.verdict[0]
    if any(status == Status.RED for status, _ in state.outcome.warnings):
        return Status.RED
    return state.outcome.verdicts[-1].status if state.outcome.verdicts else None


def _scores(state: RunState) -> Iterator[Values]:
    """Yield a row per split: the cosine now, the gain, the cosine of the best epoch, and the best baseline."""
    scores = state.scores
    for split in ("val", "ood"):
        if f"{split}_cosine" not in scores.latest and split not in scores.best_baselines:
            continue
        name, baseline = scores.best_baselines.get(split, ("", None))
        # Numbers are formatted here, so that the page shows the digits of the terminal.
        gain = number(scores.latest.get(f"{split}_gain"))
        yield {
            "split": split,
            "now": _cosine(scores.latest, f"{split}_cosine"),
            "gain": format_number(gain, "+.4f"),
            "is_gain": gain is not None and gain > 0,
            "best": _cosine(scores.best, f"{split}_cosine"),
            "baseline": "not measured" if baseline is None else f"{baseline:.4f} {name}",
        }
    if "train_cosine" in scores.latest:
        # Train cosines are means over batches: no baseline, no gain.
        now, best = (_cosine(record, "train_cosine") for record in (scores.latest, scores.best))
        yield {"split": "train", "now": now, "gain": "", "is_gain": False, "best": best, "baseline": ""}


def _cosine(record: Event, key: str) -> str:
    return format_number(number(record.get(key)))


def _losses(state: RunState) -> Iterator[Values]:
    """Yield a row per loss term with its gradient share, measured and requested."""
    latest = state.scores.latest
    for name in latest:
        term = name.removeprefix("train_loss_")
        if term == name:
            continue
        yield {
            "term": words(term),
            "train": format_number(number(latest.get(name)), ".4g"),
            "val": format_number(number(latest.get(f"val_loss_{term}")), ".4g"),
            "share": format_percent(finite(latest.get(f"share_{term}"))),
            "requested": format_percent(state.info.requested_shares.get(term)),
        }


def _thinned(values: Sequence[float | None]) -> list[float]:
    """Return at most `TREND_POINTS` of the values at equal distances, the last one among them."""
    known = [value for value in values if value is not None]
    if len(known) <= TREND_POINTS:
        return known
    return [known[round(index * (len(known) - 1) / (TREND_POINTS - 1))] for index in range(TREND_POINTS)]


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names with a number after those that occur more than once."""
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if names.count(name) == 1 else f"{name} ({counts[name]})")
    return unique
