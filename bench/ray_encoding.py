"""Measure a build on Ray against a local build on the same cores.

Both build one store from paragraphs of the documentation that is part of every Python installation, in turns, each in a
process of its own. The time without Ray contains the start of one process; that with Ray also contains the start of a
cluster on this machine, which a cluster that is running already saves. So the time of encoding alone is reported, too.

    python bench/ray_encoding.py --count 20000 --encoder minilm
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finish, summary

from nextvec.data.readers.python_docs import BUILTIN, read_builtin
from nextvec.data.store import open_store

_ENCODING = re.compile(r"vectors of .*: ([\d,]+) of [\d,]+ chunks \(([\d,]+)/s\)")
"""The last line of the progress of encoding."""


def write_paragraphs(file: Path, count: int) -> int:
    """Write documents with about `count` different paragraphs, repeated with a number if there are too few."""
    texts, written, round_ = [], 0, 0
    documents = [[text for text in document.paragraphs if len(text) > 80] for document in read_builtin(BUILTIN)]
    with file.open("w", encoding="utf-8") as target:
        while written < count:
            for number, texts in enumerate(documents):
                paragraphs = [text if round_ == 0 else f"{text} ({round_})" for text in texts[: count - written]]
                if paragraphs:
                    target.write(json.dumps({"id": f"{round_}-{number}", "paragraphs": paragraphs}) + "\n")
                    written += len(paragraphs)
            round_ += 1
    return written


def build(source: Path, out: Path, encoder: str, *engine: str) -> tuple[float, float]:
    """Build a store in a process of its own; return the seconds of all and of encoding."""
    command = [sys.executable, "-m", "nextvec", "data", "build", str(source), "--out", str(out), "--encoder", encoder]
    begin = time.perf_counter()
    done = subprocess.run([*command, *engine], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr)
    progress = _ENCODING.findall(done.stderr)[-1]
    chunks, rate = (int(number.replace(",", "")) for number in progress)
    return seconds, chunks / rate


def main() -> None:
    """Build in turns, and compare the bytes of the stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="paragraphs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", default="minilm")
    options, _ = parser.parse_known_args()
    seconds: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    loads = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.jsonl"
        count = write_paragraphs(source, options.count)
        for _ in range(options.rounds):
            for name, engine in (("local", ()), ("ray", ("--engine", "ray"))):
                out = Path(folder) / name
                shutil.rmtree(out, ignore_errors=True)
                loads.append(os.getloadavg()[0])
                seconds[name].append(build(source, out, options.encoder, *engine))
        files = [open_store(Path(folder) / name).manifest["files"] for name in seconds]
        assert files[0] == files[1], "the stores differ"
    rows = []
    for name, times in seconds.items():
        whole, encoding = (summary(list(values)) for values in zip(*times, strict=True))
        rows.append(
            {"engine": name, "seconds": whole["median"], "spread": whole["spread"], "encoding s": encoding["median"]}
        )
    for column in ("seconds", "encoding s"):
        rows[1][f"{column} / local"] = rows[1][column] / rows[0][column]
    finish("ray_encoding", rows, encoder=options.encoder, paragraphs=count, rounds=options.rounds, loads=loads)


if __name__ == "__main__":
    main()
