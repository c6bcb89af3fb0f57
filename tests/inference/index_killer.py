"""Build and update a LanceDB table in forked children that are killed; print what each left as JSON.

    python index_killer.py FIRST SECOND FOLDER SEED COUNT

Each child copies a table of the store FIRST (every second one starts without a table), builds SECOND into it, and is
killed before or after the n-th commit, in the middle of the new rows, or after a random time. The parent never uses
LanceDB, whose threads do not survive a fork.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import lancedb.table
import torch

from nextvec.data.store import open_store
from nextvec.errors import StoreError
from nextvec.inference import lancedb_build
from nextvec.inference.lancedb_index import open_table_index

first, second, folder = map(Path, sys.argv[1:4])
seed, count = map(int, sys.argv[4:])
COMMITS = ("add", "delete", "optimize", "create_index", "update_field_metadata")
lancedb_build.MIN_INDEXED_ROWS = 50
events = 0
torch.set_num_threads(1)


def run(function, *arguments) -> tuple[int, object]:
    """Run a function in a child; return the child's exit code and the function's JSON result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(function(*arguments)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        content = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(content or "null")


def event(point: int) -> None:
    """Count an event; at the planned one kill the process."""
    global events
    if events == point:
        os.kill(os.getpid(), signal.SIGKILL)
    events += 1


def around(owner, name: str, point: int) -> None:
    """Make an event before and after each call of a method."""
    method = getattr(owner, name)

    def call(*arguments, **options):
        event(point)
        result = method(*arguments, **options)
        event(point)
        return result

    setattr(owner, name, call)


def build(store: Path, path: Path, point: int = -1, delay: float = 0) -> int:
    """Build a store's table, killed at an event or after a time; return the number of events."""
    for name in COMMITS:
        around(lancedb.table.LanceTable, name, point)
    for name in ("create", "update"):
        around(lancedb.table.Tags, name, point)
    around(lancedb.db.LanceDBConnection, "create_table", point)
    batches = lancedb_build._batches

    def with_events(*arguments):
        for batch in batches(*arguments):
            event(point)
            yield batch

    lancedb_build._batches = with_events
    if delay:
        threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()
    lancedb_build.build_index(open_store(store), str(path), quiet=True)
    return events


def read(path: Path) -> list | None:
    """Return the content of a table that a search finds; None if it is not usable, which must be one line."""
    try:
        index = open_table_index(f"lancedb:{path}")
    except StoreError as error:
        assert "\n" not in str(error), error
        return None
    rows, _ = index.search(index.vectors(index.sample(1)), len(index))
    return sorted([chunk.document, chunk.position, chunk.text] for chunk in index.chunks(rows[0].tolist()))


def build_and_read(store: Path, path: Path) -> list | None:
    """Build a store's table again and return its content."""
    build(store, path)
    return read(path)


before, after = (folder / name for name in ("before", "after"))
run(build, first, before)
_, events_of_first = run(build, second, after)
expected = {name: run(read, path)[1] for name, path in (("before", before), ("after", after))}
shutil.copytree(before, folder / "counted")
begin = time.monotonic()
_, events_of_update = run(build, second, folder / "counted")
seconds = time.monotonic() - begin
points = [
    (update, point, 0.0)
    for update, total in ((True, events_of_update), (False, events_of_first))
    for point in range(total)
]
generator = random.Random(seed)
points += [(update, -1, generator.uniform(0.01, seconds)) for update in (True, False) for _ in range(len(points) // 2)]
generator.shuffle(points)
results = []
for number, (update, point, delay) in enumerate(points[:count]):
    path = folder / f"killed{number}"
    if update:
        shutil.copytree(before, path)
    code, _ = run(build, second, path, point, delay)
    left = run(read, path)[1]
    state = next((name for name, content in expected.items() if content == left), "none" if left is None else "mixed")
    # Whatever is left, the same command ends in the same table.
    mended = run(build_and_read, second, path)[1] == expected["after"]
    results.append({"update": update, "point": point, "code": code, "left": state, "mended": mended})
    shutil.rmtree(path)
print(json.dumps(results))
