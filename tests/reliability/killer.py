"""Train in forked children that receive a signal at the n-th event; print the outcome of each as JSON.

    python killer.py run|suite RECIPE... FOLDER < plan.json

The plan is a list of [name, [[point, signal], ...]]: train in FOLDER/name, get killed at each point in turn (counted
from 0 in each process), and finally train to the end. A point may also be a kind of event, which
means the first event of that kind.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

from nextvec.commands.experiments import suite
from nextvec.core import files
from nextvec.core.run_paths import RESUME_STATE
from nextvec.errors import NextvecError
from nextvec.recipe import load_recipe
from nextvec.training import checkpoint, loop, validation
from nextvec.training import step as training_step
from nextvec.training.resume import resume_run
from nextvec.training.setup import start_run

mode, *recipes, folder = sys.argv[1:]
plan_point: int | str = -1
plan_signal = signal.SIGKILL
seen: list[str] = []
write, replace, learning_rate_at = os.write, os.replace, training_step.learning_rate_at
score_windows = validation.score_windows


def event(kind: str) -> None:
    """Count an event; at the planned one report its kind and send the signal."""
    global plan_point
    seen.append(kind)
    if plan_point in (len(seen) - 1, kind):
        plan_point = -1
        write(report, f"{kind}\n".encode())
        os.kill(os.getpid(), plan_signal)


def write_in_halves(path: Path, content: bytes) -> None:
    """Do what `write_bytes` does, with an event in the middle of the file."""
    half = len(content) // 2

    def both(file) -> None:
        file.write(content[:half])
        file.flush()
        event("inside a save")
        file.write(content[half:])

    files.write_atomic(path, both)


def write_line(descriptor: int, content: bytes) -> int:
    """Do what `os.write` does, with an event after half of the content."""
    half = write(descriptor, bytes(content[: len(content) // 2]))
    event("inside a log line")
    return half + write(descriptor, bytes(content[half:]))


def replace_with_events(source: object, target: object, **options: object) -> None:
    """Do what `os.replace` does, with an event before and after it."""
    event("between temporary file and rename")
    replace(source, target, **options)
    event("after a rename")


def with_event(kind: str, function):
    """Return the function, with an event before each call."""

    def call(*arguments, **options):
        event(kind)
        return function(*arguments, **options)

    return call


def work(out: Path) -> int:
    """Train or resume, and return the exit code; a folder without a saved state is started again."""
    if mode == "suite":
        return suite(tuple(recipes), out=str(out), quiet=True).exit_code
    if (out / RESUME_STATE).is_file():
        run = resume_run(out, quiet=True)
    else:
        shutil.rmtree(out, ignore_errors=True)
        run = start_run(load_recipe(recipes[0]), out, quiet=True)
    loop.train(run)
    return 0


def child(out: Path, point: int | str, number: int) -> tuple[int, list[str]]:
    """Return the exit status of one process, and the event that it was killed at (all events if it was not)."""
    global report, plan_point, plan_signal
    reader, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        plan_point, plan_signal = point, signal.Signals(number)
        code = 1
        with contextlib.suppress(NextvecError):
            try:
                code = work(out)
            except NextvecError as error:
                code = error.exit_code
                sys.stderr.write(f"{error}\n")
        if point == -1:
            write(report, "\n".join(seen).encode())
        os._exit(code)
    os.close(report)
    with os.fdopen(reader) as pipe:
        kinds = pipe.read().splitlines()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), kinds


report = -1
for module in ("torch._dynamo", "pyarrow.dataset"):
    importlib.import_module(module)  # training imports them late: once for all children, which then take a seventh
torch.set_num_threads(1)
checkpoint.write_bytes = write_in_halves
os.write, os.replace = write_line, replace_with_events
training_step.learning_rate_at = with_event("training", learning_rate_at)
validation.score_windows = with_event("evaluating", score_windows)
os.fsync = lambda descriptor: None  # only a power cut loses written data, a kill does not
answers = []
for name, kills in json.load(sys.stdin):
    attempts = [child(Path(folder) / name, point, number) for point, number in [*kills, [-1, 9]]]
    answers.append([name, attempts])
print(json.dumps(answers))
