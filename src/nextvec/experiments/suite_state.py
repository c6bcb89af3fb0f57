"""The record of a suite: what was trained, what is under way, what still waits. No torch.

suite.json     the truth: every step and its state; replaced in one step, before the log gets its line
recovery.log   for people, only ever appended to: a dated line for each change, the checklist at start and end

[x] train gru-790k → runs/gru-790k_20260101_120000  green: the model beats …
[ ] compare
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nextvec.core.events import read_events
from nextvec.core.files import lock, make_folder, write_all, write_json, writing
from nextvec.core.run_paths import HISTORY_FILE, RESUME_STATE
from nextvec.errors import InputError

SUITE_FILE, LOG_FILE, RUNS, COMPARISON = "suite.json", "recovery.log", "runs", "comparison.md"
FORMAT_VERSION = 2


State = Literal["waiting", "running", "complete", "stopped", "failed"]

MARKS: dict[State, str] = {"waiting": "[ ]", "running": "[~]", "complete": "[x]", "stopped": "[!]", "failed": "[!]"}


@dataclass(frozen=True)
class Step:
    """One step of a suite: a recipe to train, or the comparison at the end."""

    kind: Literal["train", "compare"]
    name: str = ""
    """The recipe's own name."""
    recipe: str = ""
    """What loads the recipe: a known name, or the absolute path of its file."""
    overrides: tuple[str, ...] = ()
    recipe_hash: str = ""
    """Names what is learned: a recipe that was changed is another step."""
    state: State = "waiting"
    run: str = ""
    """Folder of the run, from the suite's folder."""
    started: str = ""
    ended: str = ""
    reason: str = ""
    """Why it was stopped or failed, or what interrupted it."""
    verdict: str = ""
    synthetic: bool = False
    """Whether it was trained on synthetic vectors."""

    @property
    def key(self) -> tuple[str, str]:
        """What makes two steps the same."""
        return self.name, self.recipe_hash

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to do, unless it is tried again."""
        return self.state not in ("waiting", "running")

    @property
    def line(self) -> str:
        """The step in one line, for the checklist."""
        place = f" → {self.run}" if self.run else ""
        told = {"waiting": "", "running": self.reason or "running", "complete": self.verdict}
        label = "SYNTHETIC data: " if self.synthetic else ""
        words = label + told.get(self.state, f"{self.state}: {self.reason}")
        return " ".join(f"{MARKS[self.state]} {self.kind} {self.name}{place} {words}".split())


class RecoveryLog:
    """The steps of a suite, kept on disk at every change. Made by `open_suite`."""

    def __init__(self, folder: Path, steps: Sequence[Step], descriptor: int, *, quiet: bool) -> None:
        self.folder, self.steps, self.quiet = folder, list(steps), quiet
        self._descriptor = descriptor

    @property
    def training(self) -> list[Step]:
        """The steps that train a recipe, in order."""
        return [step for step in self.steps if step.kind == "train"]

    @property
    def comparison(self) -> Step:
        """The last step."""
        return self.steps[-1]

    def plan(self, training: Sequence[Step]) -> None:
        """Take these as the steps to train; what the comparison already covers stays."""
        self.steps = [*training, self.comparison]
        self._save()

    def change(self, step: Step, **facts: Any) -> Step:
        """Give a step other facts, write them down, and return the step as it is now."""
        changed = replace(step, **facts)
        self.steps[self.steps.index(step)] = changed
        if changed.kind == "train" and changed.has_ended:
            self.steps[-1] = Step("compare")  # in the same write: no run can miss the comparison
        self._save()
        self.say(changed.line)
        return changed

    def say(self, *lines: str) -> None:
        """Append dated lines to recovery.log, and show them."""
        text = "".join(f"{now()}  {line}\n" for line in lines)
        with writing(self.folder / LOG_FILE):
            write_all(self._descriptor, text.encode("utf-8", "backslashreplace"))
            os.fsync(self._descriptor)
        if not self.quiet:
            sys.stderr.write(text)

    def say_checklist(self, heading: str) -> None:
        """Append a heading and every step with its mark."""
        self.say(heading, *(f"    {step.line}" for step in self.steps))

    def _save(self) -> None:
        content = {"format": FORMAT_VERSION, "steps": [asdict(step) for step in self.steps]}
        write_json(self.folder / SUITE_FILE, content)


@contextlib.contextmanager
def open_suite(folder: Path, *, quiet: bool = False) -> Iterator[RecoveryLog]:
    """Open a suite's folder, or make it, for this process alone; a killed process leaves it free.

    Raises InputError if suite.json is damaged, OutputError if another process works here or nothing can be written.
    """
    read_suite(folder)  # a damaged one is told before anything is written
    make_folder(folder)
    with writing(folder / LOG_FILE):
        descriptor = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        lock(descriptor, f"suite {folder}: another process is working on it; wait for it to end")
        steps = read_suite(folder) or [Step("compare")]
        yield RecoveryLog(folder, steps, descriptor, quiet=quiet)
    finally:
        os.close(descriptor)


def read_suite(folder: Path) -> list[Step]:
    """The steps of a suite, the comparison last; none if it was never started. InputError if suite.json is damaged."""
    file = folder / SUITE_FILE
    if not file.is_file():
        return []
    known = {field.name for field in fields(Step)}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format']!r:.20}, this nextvec reads {FORMAT_VERSION}")
        steps = [Step(**{name: value for name, value in step.items() if name in known}) for step in content["steps"]]
        steps = [replace(step, overrides=tuple(step.overrides)) for step in steps]
        if [step.kind for step in steps] != ["train"] * (len(steps) - 1) + ["compare"]:
            raise ValueError("its last step is no comparison")
        if not all(step.state in MARKS for step in steps):
            raise ValueError("a state is unknown")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"suite {folder}: {SUITE_FILE} is damaged ({error}); its runs are kept in {folder / RUNS}: "
            "choose another --out, or remove the file to begin anew"
        ) from error
    return steps


def merge_steps(known: Sequence[Step], loaded: Sequence[Step], folder: Path) -> list[Step]:
    """The steps that train: those of the folder, and behind them the loaded ones that it does not have yet.

    A step without a saved position gives way to its recipe as it is now; one that has begun is kept as it was, and a
    recipe that was changed since is a step of its own.
    """
    now_by_key = {step.key: step for step in loaded}
    kept = [
        replace(step, recipe=now_by_key[step.key].recipe, overrides=now_by_key[step.key].overrides)
        if step.key in now_by_key
        else step
        for step in known
        if step.key in now_by_key or not is_open(folder, step)
    ]
    kept_keys = {step.key for step in kept}
    return kept + [step for key, step in now_by_key.items() if key not in kept_keys]


def is_open(folder: Path, step: Step) -> bool:
    """Whether nothing of a step's training is there yet: it starts from its recipe."""
    return not step.has_ended and not has_begun(folder, step)


def has_begun(folder: Path, step: Step) -> bool:
    """Whether a step's run got as far as a position that it can be taken up from."""
    return bool(step.run) and (folder / step.run / RESUME_STATE).is_file()


def read_end(run: Path) -> dict[str, Any] | None:
    """How a run ended, by its own record, as facts of a step: complete, stopped or failed; None if it has not ended."""
    try:
        history = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    facts = {"synthetic": bool(history.get("synthetic")), "ended": now()}
    if history.get("status") == "finished":
        return {**facts, "state": "complete", "reason": "", "verdict": _verdict(history)}
    if history.get("status") in ("stopped", "failed"):
        last = [event for event in read_events(run) if event["kind"] == history["status"]][-1:]
        parts = [
            part for event in last for part in (event.get("reason"), event.get("diagnosis") or event.get("advice"))
        ]
        return {**facts, "state": history["status"], "reason": "; ".join(part for part in parts if part)}
    return None


def _verdict(history: dict[str, Any]) -> str:
    """The verdict of a finished run in words, and how many criteria of success it met, where it has any."""
    verdict = history.get("verdict") or {}
    told = f"{verdict.get('status', '')}: {verdict.get('sentence', '')}"
    criteria = (history.get("success") or {}).get("criteria", [])
    met = sum(bool(criterion["passed"]) for criterion in criteria)
    return f"{told} · success criteria: {met} of {len(criteria)} met" if criteria else told


def now() -> str:
    """The time as the log writes it."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
