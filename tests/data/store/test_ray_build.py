"""Builds on Ray: the bytes and the messages of a local build, whatever dies, and no finished block encoded twice."""

import hashlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.data.space import Space
from nextvec.data.store import build, ray_blocks, staging, tables, unfinished_folder
from nextvec.data.store.blocks import block_facts
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.ray_engine import RayOptions, ray_options
from nextvec.distributed.ray_results import raise_error
from nextvec.errors import InputError, Interrupted, MissingExtraError, ServerError, StoreError

BLOCKS = 12


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A file and a folder with texts for twelve blocks, which are read by two workers."""
    monkeypatch.setattr(tables, "BLOCK_ROWS", 8)
    monkeypatch.setattr(staging, "UNIT_BYTES", 10)
    rows = [
        {"id": f"d{n}", "paragraphs": [f"paragraph {n} {m} " + "about something else " * 3 for m in range(4)]}
        for n in range(2 * BLOCKS)
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "first.jsonl").write_text("".join(lines[:10]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rest.jsonl").write_text("".join(lines[10:]))
    monkeypatch.chdir(tmp_path)
    return ["first.jsonl", "folder"]


def encoder_opener(missing: tuple[str, str, str] | None = None, zero: str = "") -> Callable[..., Any]:
    """Return a substitute of `open_encoder`: vectors that are a hash of their text, or zero for texts with `zero`.

    Its class is local, so that it is sent to the workers as code: they can't import this file.
    """

    class Hashing:
        space, settings = Space("hashing", "1", 8), {"name": "hashing"}
        unknown_texts = truncated_texts = 0

        def encode(self, texts: list[str]) -> np.ndarray:
            digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
            vectors = np.array([np.frombuffer(digest, np.uint8) for digest in digests], np.float32) - 127.5
            vectors[[bool(zero) and zero in text for text in texts]] = 0
            return vectors

    def open_encoder(name: str, *, device: str, precision: str) -> Hashing:
        if missing:
            raise MissingExtraError(*missing)
        return Hashing()

    return open_encoder


def worker_class(log: Path, actions: dict[int, Callable[[], object]]) -> type[ray_blocks.BlockWorker]:
    """Return a worker that logs which block it begins, and does an action with a block, once."""

    class Worker(ray_blocks.BlockWorker):
        def make(self, block: int) -> None:
            (log / f"{block}-{os.urandom(4).hex()}").touch()
            if block in actions:
                try:
                    os.close(os.open(log / f"action-{block}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    actions[block]()
            super().make(block)

    return Worker


def begun_blocks(log: Path) -> Counter[int]:
    return Counter(int(file.name.split("-")[0]) for file in log.glob("[0-9]*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_bytes_and_counts_are_those_of_a_local_build(
    local_ray: Any, sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies in block 2, the main process is ended in block 7, and the same command continues."""
    monkeypatch.setattr(build, "open_encoder", encoder_opener())
    config = BuildConfig(sources, encoder="owner/hashing")
    build.build_store(config, tmp_path / "local", quiet=True)

    (log := tmp_path / "log").mkdir()
    main, mark = os.getpid(), unfinished_folder(tmp_path / "ray") / "encoded" / "vectors" / "000002.json"

    def end_main() -> None:
        # Another worker took block 2 again, if this one did not.
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(main, signal.SIGTERM)

    actions = {2: lambda: os._exit(1), 7: end_main}
    monkeypatch.setattr(ray_blocks, "BlockWorker", worker_class(log, actions))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"^interrupted\. To continue the build, run the same command again\.$"):
        build.build_store(config, tmp_path / "ray", quiet=True, ray=RayOptions(num_workers=1))
    assert signal.getsignal(signal.SIGTERM) is handler
    done = {int(file.stem) for file in unfinished_folder(tmp_path / "ray").glob("encoded/vectors/*.json")}
    begun = begun_blocks(log)
    assert done and begun[2] == 2 and max(begun[block] for block in begun if block != 2) == 1
    build.build_store(config, tmp_path / "ray", quiet=True, ray=RayOptions())
    assert {file.name for file in log.glob("action-*")} == {"action-2", "action-7"}
    later = begun_blocks(log) - begun
    assert not done & later.keys() and begun.keys() | later.keys() == set(range(BLOCKS)), "none is encoded twice"
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.long
def test_errors_of_workers_are_those_of_a_local_build(
    local_ray: Any, sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BuildConfig(sources[1:], encoder="owner/hashing")
    errors: list[tuple[type, str]] = []
    # A paragraph of every document, so that the error of the first block must win.
    monkeypatch.setattr(build, "open_encoder", encoder_opener(zero=" 2 about"))
    for name, options in (("local", None), ("ray", RayOptions(num_workers=1))):
        with pytest.raises(StoreError, match=r"^row 2: the encoder made a vector that is zero") as caught:
            build.build_store(config, tmp_path / name, quiet=True, ray=options)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]

    # An encoder that can't be opened leaves no folder.
    missing = ("sentence-transformers", "encoders", "the encoder 'owner/hashing'")
    monkeypatch.setattr(build, "open_encoder", encoder_opener(missing=missing))
    with pytest.raises(MissingExtraError, match=re.escape(str(MissingExtraError(*missing)))):
        build.build_store(config, tmp_path / "missing", quiet=True, ray=RayOptions())
    assert not unfinished_folder(tmp_path / "missing").exists()


def test_a_block_that_kills_its_workers_is_given_up(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts the task of a dead worker again for ever; here it answers in a process of its own."""
    monkeypatch.setattr(build, "open_encoder", encoder_opener())
    monkeypatch.setattr(build, "missing_blocks", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        build.build_store(BuildConfig(sources, encoder="owner/hashing"), tmp_path / "store", quiet=True)
    encoded = unfinished_folder(tmp_path / "store") / "encoded"
    arguments = json.dumps(json.loads((encoded.parent / "build.json").read_text())["arguments"])
    opening = partial(encoder_opener(), "", device="cpu", precision="auto")
    job = ray_blocks.BlockJob(encoded.parent, arguments, encoded, opening, "float16", max_deaths=2)

    class Worker(ray_blocks.BlockWorker):
        def make(self, block: int) -> None:
            if block == 3:
                os._exit(7)
            super().make(block)

    for _ in range(2):
        if (child := os.fork()) == 0:
            Worker(job)({"item": np.array([3])})
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    results = [json.loads(line) for line in Worker(job)({"item": np.array([3, 4])})["result"]]
    with pytest.raises(
        ServerError, match=r"^Ray node [^ ]+: 2 workers died with piece 3 of the build\. Check the nodes' memory\.$"
    ):
        raise_error(results[0])
    assert results[1]["rows"] == 8 and block_facts(encoded, 4)["sha256"] == results[1]["sha256"]
    # A worker of a killed main process writes nothing into a build that was started again with other arguments.
    stale = ray_blocks.BlockWorker(replace(job, arguments="{}"))
    (line,) = stale({"item": np.array([5])})["result"]
    assert "was started again" in json.loads(line)["message"] and block_facts(encoded, 5) is None
    # A node of another version, or without the folder, is named.
    for change, message in (({"nextvec": "0"}, "has nextvec "), ({"folder": tmp_path / "x"}, "does not see ")):
        (line,) = ray_blocks.BlockWorker(replace(job, **change))({"item": np.array([5])})["result"]
        with pytest.raises(InputError, match=f"^Ray node [^ ]+: {message}"):
            raise_error(json.loads(line))


def test_options_that_do_not_fit_are_refused() -> None:
    assert ray_options("local", "", None) is None
    assert ray_options("ray", "auto", 3) == RayOptions("auto", 3)
    for arguments, message in (
        (("rya", "", None), r"engine 'rya' is unknown\. Did you mean 'ray'\?"),
        (("local", "auto", None), r"--address auto: needs a Ray cluster\. Pass --engine ray as well\."),
        (("local", "", 2), "--num-workers 2: needs a Ray cluster"),
        (("ray", "", 0), "num_workers is 0, but must be at least 1"),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            ray_options(*arguments)
