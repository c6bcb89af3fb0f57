"""A suite on a Ray cluster of three nodes survives a lost node and killed drivers, and its runs are bit-equal."""

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.equality import assert_same_runs

from nextvec.commands.experiments import suite
from nextvec.experiments.suite_state import read_suite
from nextvec.recipe import Recipe, make_recipe

pytestmark = pytest.mark.long

DRIVER_KILLS = 3


def test_a_suite_survives_a_lost_node_and_killed_drivers(toy_recipe: Recipe, tmp_path: Path):
    utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra 'ray'")
    recipes = []
    for seed in range(4):
        changes = f"name=run{seed}", f"seed={seed}", "training.epochs=30", "training.keep_epochs=false"
        recipes.append(tmp_path / f"{seed}.toml")
        recipes[-1].write_text(make_recipe(toy_recipe.model_dump(exclude_none=True), changes).to_toml())
    suite(recipes, out=str(tmp_path / "here"), quiet=True)

    # A head without CPUs and two nodes, as on a real cluster. The driver is not on the node that is lost.
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2, include_dashboard=False) for _ in range(2)]
        out = tmp_path / "ray"
        argv = ["suite", *map(str, recipes), "--out", str(out), "--engine", "ray", "--address", cluster.address]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-m", "nextvec", *argv, "--quiet"], start_new_session=True)

        def starts() -> int:
            log = out / "recovery.log"
            return len(re.findall(r"running on \S+ \(process", log.read_text())) if log.exists() else 0

        def has_started_again(process: subprocess.Popen[bytes], before: int) -> bool:
            return starts() > before or process.poll() is not None

        driver = start()
        wait_until(lambda: starts() == 4 and len(list(out.glob("runs/*/resume.pt"))) == 4)
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_until(lambda: (out / "recovery.log").read_text().count(": the node is gone\n") == 2)
        cluster.add_node(num_cpus=2, include_dashboard=False)

        # Kill the driver a while after a run has started, and repeat the command.
        rng = random.Random(0)
        for _ in range(DRIVER_KILLS):
            wait_until(partial(has_started_again, driver, starts()))
            time.sleep(rng.uniform(0, 3))
            driver.kill()
            driver.wait()
            driver = start()
        assert driver.wait(timeout=300) == 0
    finally:
        cluster.shutdown()

    for one, other in zip(read_suite(tmp_path / "here"), read_suite(out), strict=True):
        # The verdict is followed by the success criteria; one of them counts crashes.
        assert (one.state, one.verdict.partition(" · ")[0]) == (other.state, other.verdict.partition(" · ")[0])
        if one.run:
            assert_same_runs(tmp_path / "here" / one.run, out / other.run, evaluated=True)


def wait_until(condition: Callable[[], object], seconds: float = 200.0) -> None:
    """Wait for a condition; fail after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
