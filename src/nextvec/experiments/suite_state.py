"""The state of a suite on disk: its steps, and the log of their changes. Does not import torch.

suite.json     all steps and their states; replaced atomically, before the change is logged
recovery.log   for people, append-only: a dated line for each change, the checklist at start and end

[x] train gru-790k → runs/gru-790k_20260101_120000  green: the model beats …
[ ] compare
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nextvec.core.console import show
from nextvec.core.events import read_events
from nextvec.core.files import lock, make_folder, write_all, write_json, writing
from nextvec.core.formatting import summarize_criteria
from nextvec.core.run_paths import HISTORY_FILE, RESUME_STATE
from nextvec.core.streams import take_failures
from nextvec.errors import InputError

SUITE_FILE, LOG_FILE, RUNS, COMPARISON = "suite.json", "recovery.log", "runs", "comparison.md"
FORMAT_VERSION = 2

State = Literal["waiting", "running", "complete", "stopped", "failed"]

MARKS: dict[State, str] = {"waiting": "[ ]", "running": "[~]", "complete": "[x]", "stopped": "[!]", "failed": "[!]"}
"""State → its mark in the checklist."""


@dataclass(frozen=True)
class Step:
    """One step of a suite: a recipe to train, or the comparison at the end."""

    kind: Literal["train", "compare"]
    name: str = ""
    """Field `name` of the recipe."""
    recipe: str = ""
    """Name of a built-in recipe, or the absolute path of a recipe file."""
    overrides: tuple[str, ...] = ()
    recipe_hash: str = ""
    """Hash of the recipe with its overrides; a changed recipe is a new step."""
    state: State = "waiting"
    run: str = ""
    """Run folder, relative to the suite folder."""
    started: str = ""
    ended: str = ""
    reason: str = ""
    """Why the run was stopped, failed or was interrupted."""
    verdict: str = ""
    synthetic: bool = False
    """Whether the run was trained on synthetic vectors."""

    @property
    def key(self) -> tuple[str, str]:
        """Identity of a step: name and recipe hash."""
        return self.name, self.recipe_hash

    @property
    def has_ended(self) -> bool:
        """Whether the step is complete, stopped or failed."""
        return self.state not in ("waiting", "running")

    @property
    def line(self) -> str:
        """The step as one line of the checklist."""
        place = f" → {self.run}" if self.run else ""
        summaries = {"waiting": "", "running": self.reason or "running", "complete": self.verdict}
        summary = summaries.get(self.state, f"{self.state}: {self.reason}")
        label = "SYNTHETIC data: " if self.synthetic else ""
        # split and join: empty parts must not leave double spaces, and a reason must stay on one line.
        return " ".join(f"{MARKS[self.state]} {self.kind} {self.name}{place} {label}{summary}".split())


class RecoveryLog:
    """The steps of a suite, saved at every change. Created by `open_suite`."""

    def __init__(self, folder: Path, steps: Sequence[Step], descriptor: int, *, quiet: bool) -> None:
        self.folder, self.steps, self.quiet = folder, list(steps), quiet
        self._descriptor = descriptor

    @property
    def training(self) -> list[Step]:
        """The steps that train a recipe, in order."""
        return [step for step in self.steps if step.kind == "train"]

    @property
    def comparison(self) -> Step:
        """The comparison, which is always the last step."""
        return self.steps[-1]

    def plan(self, training: Sequence[Step]) -> None:
        """Replace the training steps; the comparison keeps its state."""
        self.steps = [*training, self.comparison]
        self._save()

    def change(self, step: Step, **changes: Any) -> Step:
        """Change fields of a step, save and log the change, and return the new step."""
        changed = replace(step, **changes)
        self.steps[self.steps.index(step)] = changed
        if changed.kind == "train" and changed.has_ended:
            # Reset the comparison in the same write, so that it always includes this run.
            self.steps[-1] = Step("compare")
        self._save()
        self.write(changed.line)
        return changed

    def write(self, *lines: str) -> None:
        """Append dated lines to recovery.log, and show them unless quiet."""
        text = "".join(f"{now()}  {line}\n" for line in lines)
        # fsync: the log must survive a power cut, since people read it to find out what happened.
        with writing(self.folder / LOG_FILE):
            write_all(self._descriptor, text.encode("utf-8", "backslashreplace"))
            os.fsync(self._descriptor)
        show(text.splitlines(), quiet=self.quiet)
        for failure in take_failures():
            self.write(f"warning: {failure}")

    def write_checklist(self, heading: str) -> None:
        """Append a heading and one line per step."""
        self.write(heading, *(f"    {step.line}" for step in self.steps))

    def _save(self) -> None:
        content = {"format": FORMAT_VERSION, "steps": [asdict(step) for step in self.steps]}
        write_json(self.folder / SUITE_FILE, content)


@contextlib.contextmanager
def open_suite(folder: Path, *, quiet: bool = False) -> Iterator[RecoveryLog]:
    """Open or create a suite folder and lock it for this process; the system releases the lock of a killed process.

    Raises InputError if suite.json is damaged, OutputError if another process holds the lock or the disk is not
    writable.
    """
    read_suite(folder)  # reports a damaged file before anything is written
    make_folder(folder)
    with writing(folder / LOG_FILE):
        descriptor = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        lock(descriptor, f"suite {folder}: another process is running it. Wait until it ends.")
        # Read again under the lock: another process may have changed the file since the first check.
        steps = read_suite(folder) or [Step("compare")]
        yield RecoveryLog(folder, steps, descriptor, quiet=quiet)
    finally:
        os.close(descriptor)


def read_suite(folder: Path) -> list[Step]:
    """Return the steps of a suite, the comparison last; empty without a suite. Raises InputError if it is damaged."""
    file = folder / SUITE_FILE
    if not file.is_file():
        return []
    known = {field.name for field in fields(Step)}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        # Refuse other formats; ignore unknown fields of a step.
        if content["format"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format']!r:.20}, this nextvec reads {FORMAT_VERSION}")
        steps = [Step(**{name: value for name, value in step.items() if name in known}) for step in content["steps"]]
        steps = [replace(step, overrides=tuple(step.overrides)) for step in steps]
        if [step.kind for step in steps] != ["train"] * (len(steps) - 1) + ["compare"]:
            raise ValueError("the last step is not the comparison")
        if not all(step.state in MARKS for step in steps):
            raise ValueError("unknown state")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"suite {folder}: {SUITE_FILE} is damaged ({error}). Its runs are still in {folder / RUNS}. "
            "Choose another --out, or remove the file to start again."
        ) from error
    return steps


def merge_steps(known: Sequence[Step], loaded: Sequence[Step], folder: Path) -> list[Step]:
    """Return the training steps: those of the folder, then the loaded steps that it does not contain.

    A step without a training state is replaced by its current recipe. A step with one stays as it is, and a recipe
    changed since then becomes a new step.
    """
    # Known steps stay in order, except open steps whose recipe has changed.
    loaded_by_key = {step.key: step for step in loaded}
    kept = [
        replace(step, recipe=loaded_by_key[step.key].recipe, overrides=loaded_by_key[step.key].overrides)
        if step.key in loaded_by_key
        else step
        for step in known
        if step.key in loaded_by_key or not is_open(folder, step)
    ]
    # New steps follow in the order of the command line.
    kept_keys = {step.key for step in kept}
    return kept + [step for key, step in loaded_by_key.items() if key not in kept_keys]


def is_open(folder: Path, step: Step) -> bool:
    """Return whether a step has neither ended nor saved a training state, so that it starts from its recipe."""
    return not step.has_ended and not has_begun(folder, step)


def has_begun(folder: Path, step: Step) -> bool:
    """Return whether a step's run has a saved training state to resume from."""
    return bool(step.run) and (folder / step.run / RESUME_STATE).is_file()


def read_end(run: Path) -> dict[str, Any] | None:
    """Return how a run ended (complete, stopped or failed) as fields of a step; None if it has not ended."""
    try:
        history = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    end = {"synthetic": bool(history.get("synthetic")), "ended": now()}
    status = history.get("status")
    if status == "finished":
        return {**end, "state": "complete", "reason": "", "verdict": _verdict_line(history)}
    if status in ("stopped", "failed"):
        # The reason, and the diagnosis or else the gate's advice, are in the run's last event of this kind.
        events = [event for event in read_events(run) if event["kind"] == status]
        last = events[-1] if events else {}
        parts = (last.get("reason"), last.get("diagnosis") or last.get("advice"))
        return {**end, "state": status, "reason": "; ".join(part for part in parts if part)}
    return None


def _verdict_line(history: dict[str, Any]) -> str:
    """Return the verdict of a finished run, and how many success criteria it met if it has any."""
    verdict = history.get("verdict") or {}
    line = f"{verdict.get('status', '')}: {verdict.get('sentence', '')}"
    criteria = (history.get("success") or {}).get("criteria", [])
    return f"{line} · {summarize_criteria([criterion['passed'] for criterion in criteria])}" if criteria else line


def now() -> str:
    """Return the local time in the log's format."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
