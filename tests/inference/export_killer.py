"""Export a model in forked children that are killed at the n-th file operation; print what each left as JSON.

    python export_killer.py RUN FOLDER STEP

An event is every operation that opens a file for writing, renames, removes or links one, or makes a folder, and the
middle of every atomic write. The children are killed at event 0, STEP, 2·STEP, … until one finishes.
"""

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path

import numpy as np
import torch

from nextvec.core import files
from nextvec.errors import NextvecError
from nextvec.inference.export import export_model
from nextvec.inference.load import load_model

run, folder = map(Path, sys.argv[1:3])
kill_point = -1
events: list[str] = []
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def event(kind: str) -> None:
    """Count an event; at the planned one kill the process."""
    events.append(kind)
    if len(events) - 1 == kill_point:
        os.kill(os.getpid(), signal.SIGKILL)


def audit(name: str, arguments: tuple) -> None:
    """Make an event of every operation that changes something below the folder."""
    if kill_point < 0 or not (name in OPERATIONS or (name == "open" and arguments[2] & WRITE_FLAGS)):
        return
    if str(arguments[0]).startswith(str(folder)):
        event(f"{name} {Path(arguments[0]).name}")


def write_in_halves(path: Path, write, **options) -> None:
    """Do what `write_atomic` does, with an event in the middle of the file."""

    def both(file) -> None:
        write(file)
        file.flush()
        size = file.tell()
        file.truncate(size // 2)
        event(f"half of {path.name}")
        file.truncate(0)
        file.seek(0)
        write(file)

    write_atomic(path, both, **options)


def predict(path: Path):
    """Return the prediction of a folder's model; None if it does not load."""
    try:
        model = load_model(path)
    except NextvecError:
        return None
    return model.predict(np.eye(model.dimensions, dtype=np.float32)[: model.context_length]).tolist()


torch.set_num_threads(1)
sys.addaudithook(audit)
write_atomic, files.write_atomic = files.write_atomic, write_in_halves
os.fsync = lambda descriptor: None  # only a power cut loses written data, a kill does not
expected, results = predict(run), []
for point in count(step=int(sys.argv[3])):
    path = folder / f"m{point}"
    child = os.fork()
    if child == 0:
        kill_point = point
        events.clear()
        export_model(run, path)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    unfinished = path.with_name(f"{path.name}.unfinished")
    result = {"code": code, "exists": path.exists(), "loads": predict(path) == expected}
    result["unfinished"] = None if (left := predict(unfinished)) is None else left == expected
    # Each folder can be exported again, whatever is left of it.
    if not path.exists():
        export_model(run, path)
    result["again"] = predict(path) == expected and not unfinished.exists()
    results.append(result)
    if code == 0:
        break
print(json.dumps(results))
