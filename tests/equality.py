"""Comparison of runs bit by bit, without times."""

import re
from pathlib import Path

import torch

from nextvec.core.events import Event, read_events
from nextvec.core.run_paths import BEST_MODEL, RESUME_STATE
from nextvec.models.checkpoint import read_checkpoint

TIMES = {"time", "seconds", "windows_per_second", "memory_mb"}


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def assert_same_values(one: object, other: object, where: str = "") -> None:
    """Assert that two values are bit-equal, tensors included; times are ignored."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor) and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict) and one.keys() == other.keys(), where
        for key in one.keys() - TIMES:
            assert_same_values(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple) and len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same_values(left, right, f"{where}[{index}]")
    else:
        assert one == other, where


def events_of(path: Path, kind: str) -> list[Event]:
    """Return the events of one kind in a run's folder."""
    return [event for event in read_events(path) if event["kind"] == kind]


IGNORED_EVENTS = ("resumed", "started", "evaluated", "diagnosed", "success", "finished")


def assert_same_runs(whole: Path, broken: Path, *, evaluated: bool = False) -> None:
    """Assert that two finished runs wrote the same, apart from times; with `evaluated`, latencies are times as well."""
    one, other = (read_checkpoint(path / RESUME_STATE).values for path in (whole, broken))
    assert_same_values(one, other)
    one, other = (read_checkpoint(path / BEST_MODEL).values for path in (whole, broken))
    assert_same_values(one, other)
    events = [
        [without_times(event) for event in read_events(path) if event["kind"] not in IGNORED_EVENTS]
        for path in (whole, broken)
    ]
    assert events[0] == events[1]
    if evaluated:
        return
    logs = [(path / "training.log").read_text() for path in (whole, broken)]
    cut = [re.sub(r"windows_per_second=.*?seconds=\S+", "", log) for log in logs]
    assert cut[0] == cut[1]
    sentinels = [(path / "ood_sentinel.log").read_text() for path in (whole, broken)]
    assert sentinels[0] == sentinels[1] and len(sentinels[0].splitlines()) == 1 + len(events_of(whole, "epoch"))
