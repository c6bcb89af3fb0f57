"""What trackers are sent: numbers and names from a run's events. Pure functions; no text of documents, no vectors.

docs/how-to/track-experiments.md lists all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from nextvec.core.events import Event, count, epoch_records, finite, last_event, mapping, objects, words
from nextvec.core.formatting import STATUSES, Status
from nextvec.trackers.tracker import TrackedRun

GROUPS = ("train", "val", "ood", "share")
"""First words of metrics that become groups of charts; all others are in `run`."""
PATH_FIELDS = ("data.store", "data.ood", "training.init_from")
"""Fields of a recipe with a path. Only its last part is sent: folders often contain names of people."""
FACTS = (
    *("recipe_hash", "store_hash", "ood_store_hash", "synthetic", "space", "vectors", "windows", "train_windows"),
    *("parameters", "steps_per_epoch", "device", "precision", "threads", "cpu_ops", "versions"),
)
"""Fields of the event `started` that are sent beside the recipe."""
ENDS = ("finished", "interrupted", "stopped", "failed")


def tracked_run(events: Sequence[Event], folder: Path, identity: str, epochs: int) -> TrackedRun:
    """Return the description of a run for a tracker that has already been sent `epochs` epochs."""
    started = last_event(events, "started")
    recipe = mapping(started.get("recipe"))
    recipe_name = words(started.get("name"))
    # The trials of a sweep are called trial-000, so the recipe's name stands before it.
    folder_name = folder.resolve().name
    name = folder_name if folder_name.startswith(recipe_name) else f"{recipe_name} {folder_name}"
    tags = ["nextvec", words(mapping(recipe.get("model")).get("kind")), words(started.get("device"))]
    if started.get("synthetic") is True:
        tags.append("synthetic")
    config = {
        field: PurePath(str(value)).name if field in PATH_FIELDS else value for field, value in flatten(recipe).items()
    }
    facts = flatten({name: started[name] for name in FACTS if name in started})
    config |= {f"run.{name}": value for name, value in facts.items()}
    return TrackedRun(folder, name, identity, tuple(filter(None, tags)), config, epochs)


def flatten(values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return nested values as one level of dotted names: ``{"training.lr": 0.0005, "gates.0.metric": "val_gain"}``.

    A list of plain values becomes text.
    """
    flat: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple):
            tables = objects(value)
            value = dict(enumerate(tables)) if tables else str(list(value)) if value else None
        if isinstance(value, Mapping):
            flat |= flatten({f"{name}.{key}": inner for key, inner in value.items()})
        elif isinstance(value, bool | int | float | str):
            flat[name] = value
    return flat


def epoch_metrics(record: Event, baselines: Event) -> dict[str, float]:
    """Return an epoch's metrics by their names in charts: ``{"val/cosine": 0.52, "val/baseline/ridge": 0.49, …}``.

    The status of a gate is a number: 0 green, 1 amber, 2 red. Values that are not finite are left out.
    """
    metrics = {}
    for key, value in record.items():
        if key in ("epoch", "step", "time", "gates") or (numeric := finite(value)) is None:
            continue
        group, _, rest = key.partition("_")
        metrics[f"{group}/{rest}" if group in GROUPS and rest else f"run/{key}"] = numeric
    # The baselines are constant, but a chart of a score without them would say nothing.
    for split, cosines in mapping(baselines.get("cosines")).items():
        numbers = {name: cosine for name, value in mapping(cosines).items() if (cosine := finite(value)) is not None}
        metrics |= {f"{split}/baseline/{name}": cosine for name, cosine in numbers.items()}
        if numbers:
            metrics[f"{split}/best_baseline"] = max(numbers.values())
    for gate in objects(record.get("gates")):
        if gate.get("status") in STATUSES:
            metrics[f"gates/{words(gate.get('metric'))}"] = STATUSES.index(Status(gate["status"]))
    return metrics


def outcome(events: Sequence[Event]) -> tuple[str, float, dict[str, float], dict[str, str]]:
    """Return the state at the end of a process, its time, the final metrics, and facts as text."""
    end = next((event for event in reversed(events) if event["kind"] in ENDS), {})
    evaluation = mapping(last_event(events, "evaluated").get("evaluation"))
    metrics = {name: value for name, raw in _evaluation_metrics(evaluation) if (value := finite(raw)) is not None}
    best_epoch = count(last_event(events, "trained").get("best_epoch"))
    if best_epoch:
        metrics["best_epoch"] = best_epoch

    verdict, success = mapping(evaluation.get("verdict")), last_event(events, "success")
    gates = [gate.get("status") for record in epoch_records(events) for gate in objects(record.get("gates"))]
    diagnoses = objects(last_event(events, "diagnosed").get("diagnoses"))
    facts = {
        "state": end.get("kind", "unfinished"),
        "reason": end.get("reason"),
        "verdict": verdict.get("sentence"),
        "status": verdict.get("status"),
        "worst_gate": max((gate for gate in gates if gate in STATUSES), key=STATUSES.index, default=None),
        "success": str(success["passed"]).lower() if isinstance(success.get("passed"), bool) else None,
        "diagnoses": ", ".join(words(item.get("title")) for item in diagnoses),
    }
    time = finite(events[-1].get("time")) or 0.0
    return str(facts["state"]), time, metrics, {name: words(text) for name, text in facts.items() if words(text)}


def _evaluation_metrics(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the headline numbers of the evaluation: of the model, of every baseline, and the gains."""
    for split, result in mapping(evaluation.get("splits")).items():
        for field in ("windows", "documents"):
            yield f"evaluation/{split}/{field}", mapping(result).get(field)
        for bound in ("value", "low", "high"):
            suffix = "" if bound == "value" else f"_{bound}"
            yield f"evaluation/{split}/gain{suffix}", mapping(mapping(result).get("gain")).get(bound)
        for predictor, figures in mapping(mapping(result).get("predictors")).items():
            where = f"evaluation/{split}/{predictor}"
            for bound in ("value", "low", "high"):
                suffix = "" if bound == "value" else f"_{bound}"
                yield f"{where}/cosine{suffix}", mapping(figures.get("cosine")).get(bound)
            yield f"{where}/margin", figures.get("margin")
            for kind in ("retrieval", "query"):
                for field in ("mrr", "r_at_10"):
                    yield f"{where}/{kind}_{field}", mapping(figures.get(kind)).get(field)
