"""Suites and sweeps on Ray have the results of the sequential engine, also if workers and the driver are killed."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.equality import assert_same_runs

from nextvec.commands.experiments import suite, sweep
from nextvec.core.run_paths import RESUME_STATE
from nextvec.errors import CheckpointError, InputError, Interrupted, StoppedError
from nextvec.experiments.ray_options import RayOptions, ray_options
from nextvec.experiments.ray_runs import Call, RayRuns, WorkerLostError
from nextvec.experiments.suite_state import read_suite
from nextvec.recipe import Recipe, make_recipe

Write = Callable[..., str]
SPACE = ("training.lr=1e-4..1e-2:log", "training.batch_size=32,64")
GATE = {"epoch": 1, "metric": "val_cosine", "green": 0.99, "red": 0.98, "action": "stop"}


@pytest.fixture
def write(toy_recipe: Recipe, tmp_path: Path) -> Write:
    """Return a function that writes a recipe on the toy store and returns its path: ``write("one", lr=1e-3)``."""

    def write(name: str, *, gates: tuple[dict[str, Any], ...] = (), **training: Any) -> str:
        values = toy_recipe.model_dump(exclude_none=True)
        values["training"] |= {"epochs": 1, **training}
        file = tmp_path / f"{name}.toml"
        file.write_text(make_recipe(values | {"name": name, "gates": gates}).to_toml())
        return str(file)

    return write


def runs_of(folder: Path) -> dict[str, Path]:
    """Return name → run folder of the suite in a folder."""
    steps = json.loads((folder / "suite.json").read_text())["steps"]
    return {step["name"]: folder / step["run"] for step in steps if step["run"]}


@contextmanager
def after_each_start(folder: Path, *acts: Callable[[int], None]) -> Iterator[None]:
    """Call each of `acts` once with the process number of a suite's run: after it has started and saved a state."""

    def places() -> list[str]:
        log = folder / "recovery.log"
        return re.findall(r"running on \S+ \(process (\d+)\)", log.read_text()) if log.exists() else []

    def states() -> list[int]:
        return [path.stat().st_mtime_ns for path in folder.glob(f"runs/*/{RESUME_STATE}")]

    def watch() -> None:
        deadline, before = time.monotonic() + 60, []
        for number, act in enumerate(acts):
            while time.monotonic() < deadline and (len(places()) <= number or states() == before):
                time.sleep(0.005)
            before = states()
            act(int(places()[number]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_suite_is_that_of_the_sequential_engine(local_ray, write, tmp_path):
    recipes = write("one"), write("two", lr=1e-3), write("three", gates=(GATE,))
    here = suite(recipes, out=str(tmp_path / "here"), quiet=True)
    ray = suite(recipes, out=str(tmp_path / "ray"), engine="ray", quiet=True)
    assert here.exit_code == ray.exit_code == StoppedError.exit_code
    for one, other in zip(here.steps, ray.steps, strict=True):
        assert (one.name, one.state, one.reason, one.verdict) == (other.name, other.state, other.reason, other.verdict)
    folders = runs_of(tmp_path / "here"), runs_of(tmp_path / "ray")
    for name in ("one", "two"):
        assert_same_runs(folders[0][name], folders[1][name], evaluated=True)
        files = [sorted(entry.name for entry in folder[name].iterdir()) for folder in folders]
        assert files[0] == files[1]
    comparisons = [(result.path / "comparison.md").read_text() for result in (here, ray)]
    tables = [[line for line in text.splitlines() if not line.startswith("- ")] for text in comparisons]
    assert tables[0] == tables[1] and "three (amn)" in comparisons[0]

    # Again: nothing is repeated, and the cluster is not even asked.
    log = (tmp_path / "ray/recovery.log").read_text()
    again = suite(recipes, out=str(tmp_path / "ray"), engine="ray", address="192.0.2.1:1", quiet=True)
    assert again == ray and "running" not in (tmp_path / "ray/recovery.log").read_text()[len(log) :]


def test_a_run_whose_process_is_killed_is_resumed_and_a_signal_stops_it(local_ray, write, tmp_path):
    recipe, folder = write("one", epochs=8), tmp_path / "ray"
    suite(recipe, out=str(tmp_path / "here"), quiet=True)

    def kill(process: int) -> None:
        os.kill(process, signal.SIGKILL)

    def stop(process: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    continues = pytest.raises(Interrupted, match=r"To continue: nextvec suite \S+ --out \S+ --engine ray$")
    with after_each_start(folder, kill, stop), continues:
        suite(recipe, out=str(folder), engine="ray", quiet=True)
    log = (folder / "recovery.log").read_text()
    assert re.search(r"\[~\] train one → \S+ lost on \S+ \(process \d+\): its process died\n", log)
    assert re.search(r"\[~\] train one → \S+ interrupted\n", log)

    # The other engine continues what this one has begun.
    result = suite(recipe, out=str(folder), quiet=True)
    assert [step.state for step in result.steps] == ["complete", "complete"]
    assert len(list((folder / "runs").iterdir())) == 1
    assert_same_runs(runs_of(tmp_path / "here")["one"], runs_of(folder)["one"], evaluated=True)


@pytest.mark.long
def test_a_sweep_has_the_trials_of_the_sequential_engine(local_ray, write, tmp_path):
    options: dict[str, Any] = {"space": SPACE, "trials": 3, "quiet": True}
    recipe = write("toy", epochs=2)
    here = sweep(recipe, out=str(tmp_path / "here"), **options)
    ray = sweep(recipe, out=str(tmp_path / "ray"), engine="ray", concurrency=2, **options)
    assert ray.trials == here.trials and ray.ood == here.ood and ray.verdict == here.verdict
    for number in range(3):
        assert_same_runs(here.path / f"trial-{number:03d}", ray.path / f"trial-{number:03d}", evaluated=True)
    assert (ray.path / "best.toml").read_text() == (here.path / "best.toml").read_text()


def test_an_error_of_a_run_is_that_of_the_sequential_engine(local_ray, write, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no checkpoint")
    recipe, messages = write("one", init_from=str(weights)), []
    for engine in ("local", "ray"):
        with pytest.raises(CheckpointError, match=r"weights\.pt") as error:
            suite(recipe, out=str(tmp_path / engine), engine=engine, quiet=True)
        messages.append((type(error.value), str(error.value)))
        (step, _) = read_suite(tmp_path / engine)
        assert step.state == "running" and step.reason == str(error.value)
    assert messages[0] == messages[1]


@pytest.mark.long
def test_a_call_that_loses_its_process_again_and_again_ends_the_job(local_ray, tmp_path):
    lost: list[str] = []

    class Work:
        def next_call(self) -> Call | None:
            is_due = len(lost) < 9 and not self.running
            self.running = True
            return Call("run one", os._exit, {"status": 9}, tmp_path, "one") if is_due else None

        def started(self, call: Call, place: str) -> None: ...

        def lost(self, call: Call, reason: str) -> None:
            lost.append(reason)
            self.running = False

        running = False

    # A process that dies at once may not have said where it ran.
    with pytest.raises(
        WorkerLostError, match=r"^run one: lost 3 times without progress, last on .+ \(its process died\)"
    ):
        RayRuns(local_ray, RayOptions(), tmp_path).complete(Work())
    assert len(lost) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"engine": "slurm"}, r"engine 'slurm' is unknown\. Known: local, ray\."),
        ({"engine": "Ray"}, r"engine 'Ray' is unknown\. Did you mean 'ray'\?"),
        ({"address": "auto"}, r"--address auto: needs a Ray cluster\. Pass --engine ray as well\."),
        ({"concurrency": 2}, r"--concurrency 2: needs a Ray cluster\. Pass"),
        ({"engine": "ray", "concurrency": 0}, r"--concurrency 0: must be at least 1"),
        ({"engine": "ray", "cpus_per_run": -1}, r"--cpus-per-run -1: must be at least 1"),
        ({"engine": "ray", "gpus_per_run": 1.5}, r"--gpus-per-run 1\.5: must be from 0 to 1, or a whole number"),
        ({"engine": "ray", "gpus_per_run": float("nan")}, r"--gpus-per-run nan: must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(flags, message, write, tmp_path):
    for command, arguments in ((suite, {}), (sweep, {"space": SPACE})):
        with pytest.raises(InputError, match=f"^{message}"):
            command(write("one"), out=str(tmp_path / "out"), quiet=True, **arguments, **flags)
    assert not (tmp_path / "out").exists()


def test_a_run_that_fits_on_no_node_is_refused(local_ray, write, tmp_path):
    with pytest.raises(InputError, match=r"^recipe one: no node of the Ray cluster has 64 CPUs\. Add one, or lower"):
        suite(write("one"), out=str(tmp_path / "out"), engine="ray", cpus_per_run=64, quiet=True)


def test_runs_share_gpus(toy_recipe):
    """Two nodes: one with 8 CPUs and 2 GPUs, one with 3 CPUs."""

    class Nodes:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            resources = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0}
            return [{"Alive": True, "Resources": one} for one in resources]

    auto = make_recipe(toy_recipe.model_dump(exclude_none=True), ("runtime.device=auto", "runtime.threads=2"))
    runs = RayRuns(Nodes(), RayOptions(), Path())
    assert runs.resources(toy_recipe) == {"cpus": 1, "gpus": 0.0} and runs.capacity(1, 0.0) == 11
    assert runs.resources(auto) == {"cpus": 2, "gpus": 1.0} and runs.capacity(2, 1.0) == 2
    runs = RayRuns(Nodes(), RayOptions(gpus_per_run=0.3), Path())
    assert runs.resources(auto) == {"cpus": 2, "gpus": 0.3} and runs.capacity(1, 0.3) == 6
    assert [runs.capacity(1, gpus) for gpus in (0.25, 2.0, 3.0)] == [8, 1, 0]
    second = make_recipe(toy_recipe.model_dump(exclude_none=True), ("runtime.device=cuda:1",))
    with pytest.raises(InputError, match=r"runtime\.device is 'cuda:1', but Ray chooses the GPU\. Set .*=cuda\."):
        runs.resources(second)


def test_the_options_are_part_of_the_command_to_continue():
    argv = RayOptions("auto", 3, 2, 0.25).argv
    assert " ".join(argv) == "--engine ray --address auto --concurrency 3 --cpus-per-run 2 --gpus-per-run 0.25"
    assert RayOptions().argv == ["--engine", "ray"] and ray_options("local", "", None, None, None) is None
