"""Builds on a Ray cluster of three nodes whose workers, nodes and main process are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

BUILDER = Path(__file__).with_name("ray_builder.py")
BLOCKS = 36
KILLS = ("worker", "worker", "node", "main")
"""What is killed in each build."""
BUILDS = 5
SECONDS = 240.0
"""A build that takes longer hangs."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with the cluster's state, and two further nodes; each node has a process tree of its own."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra 'ray'")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [
        {"id": f"d{n}", "paragraphs": [f"paragraph {n} {m} " + "about something else " * 3 for m in range(4)]}
        for n in range(2 * BLOCKS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def blocks_in(log: Path, kind: str) -> Counter[int]:
    """How often a block was begun or completed."""
    return Counter(int(file.name.split("-")[1]) for file in log.glob(f"{kind}-*"))


def has_reached(log: Path, point: int) -> bool:
    """Return whether so many blocks are complete, and one is under way."""
    completed = blocks_in(log, "end").total()
    return completed >= point and blocks_in(log, "begin").total() > completed


def kill_worker(log: Path) -> bool:
    """Kill the process that began the last block, if it is at work; return whether it was."""
    begun = sorted(log.glob("begin-*"), key=lambda file: file.stat().st_mtime_ns)
    for file in reversed(begun):
        if not (log / file.name.replace("begin", "end")).exists():
            with suppress(ProcessLookupError):
                os.kill(int(file.name.split("-")[2]), signal.SIGKILL)
                return True
    return False


def wait_for(condition: Callable[[], bool], main: subprocess.Popen[bytes]) -> None:
    """Wait for a condition, or for the end of the main process."""
    until = time.monotonic() + SECONDS
    while not condition() and main.poll() is None:
        assert time.monotonic() < until, "the build hangs"
        time.sleep(0.02)


@pytest.mark.long
def test_twenty_kills_of_workers_nodes_and_the_main_process(cluster: Any, source: Path, tmp_path: Path) -> None:
    """Every build ends in the bytes of a local one, and completes each block once. A lost node comes back later."""
    dice = random.Random(0)
    (tmp_path / "log").mkdir()
    command = [sys.executable, str(BUILDER)]
    subprocess.run([*command, "", source, tmp_path / "local", tmp_path / "log"], check=True)
    killed = Counter[str]()
    for number in range(BUILDS):
        log, out = tmp_path / f"log-{number}", tmp_path / f"ray-{number}"
        log.mkdir()
        arguments = [*command, cluster.address, str(source), str(out), str(log)]
        # Each kill comes when so many blocks were completed.
        points = sorted(dice.sample(range(BLOCKS - 6), len(KILLS)))
        order = dice.sample(KILLS, len(KILLS))
        main = subprocess.Popen(arguments, stderr=subprocess.PIPE)
        for point, kind in zip(points, order, strict=True):
            wait_for(partial(has_reached, log, point), main)
            assert main.poll() is None, main.stderr and main.stderr.read()
            if kind == "worker":
                wait_for(partial(kill_worker, log), main)
            elif kind == "node":
                cluster.remove_node(dice.choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False)
            else:
                main.kill()
                main.wait()
                main = subprocess.Popen(arguments, stderr=subprocess.PIPE)
            killed[kind] += 1
        _, message = main.communicate(timeout=SECONDS)
        assert main.returncode == 0, message
        assert contents(out) == contents(tmp_path / "local"), f"build {number}: {points} {order}"
        assert max(blocks_in(log, "end").values()) == 1, "no complete block is encoded again"
        assert blocks_in(log, "begin").keys() == set(range(BLOCKS))
        assert blocks_in(log, "begin").total() <= BLOCKS + 3 * len(KILLS), "only blocks under way are begun again"
        cluster.add_node(num_cpus=1)
    assert killed == {"worker": 2 * BUILDS, "node": BUILDS, "main": BUILDS}
