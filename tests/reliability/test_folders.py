"""Run folders under odd conditions: two trainers, moved, copied, behind links, with a clock that steps back."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from equality import assert_same_runs, assert_same_values
from nextvec.cli import main
from nextvec.core.events import read_events
from nextvec.core.run_paths import RESUME_STATE
from nextvec.errors import Interrupted, OutputError
from nextvec.models.checkpoint import read_checkpoint
from nextvec.monitor.state import read_state
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import loop, setup
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.setup import start_run

BUSY = "another process is training it. Wait for it to end, or stop it"


@pytest.fixture
def recipe(toy_recipe: Recipe) -> Recipe:
    words = ("training.epochs=2", "model.dropout=0.1", 'gates=[{epoch=[1, 2], metric="ood_cosine", red=-2.0}]')
    return make_recipe(toy_recipe.model_dump(exclude_none=True), words)


def train(recipe: Recipe, path: Path) -> Path:
    run = start_run(recipe, path, quiet=True)
    loop.train(run)
    run.close()
    return path


def half_trained(recipe: Recipe, path: Path) -> Path:
    """A run that was interrupted after its first epoch."""

    def ask(_: Run) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        loop.train(start_run(recipe, path, quiet=True), after_epoch=ask)
    return path


def finish(path: Path) -> Path:
    loop.train(run := resume_run(path, quiet=True))
    run.close()
    return path


def test_a_second_trainer_is_refused_and_changes_nothing(recipe: Recipe, nextvec_program: Path, tmp_path: Path) -> None:
    """While a run trains, other processes resume it by its name and by a link: both exit with 2."""
    whole = train(recipe, tmp_path / "whole")
    run = start_run(recipe, tmp_path / "run", quiet=True)
    (tmp_path / "link").symlink_to(run.path)
    refusals = []

    def others(_: Run) -> None:
        if run.state.epoch == 1:
            for words in (["resume", str(run.path)], ["resume", str(tmp_path / "link")]):
                command = [nextvec_program, *words, "--quiet"]
                refusals.append(subprocess.run(command, capture_output=True, text=True, check=False))

    loop.train(run, after_epoch=others)
    run.close()
    assert [done.returncode for done in refusals] == [2, 2]
    assert all(done.stderr.strip().endswith(BUSY) and done.stderr.count("\n") == 1 for done in refusals)
    assert_same_runs(whole, run.path)
    with pytest.raises(OutputError, match="already exists"):
        start_run(recipe, run.path, quiet=True)


def test_a_killed_trainer_releases_the_lock(recipe: Recipe, tmp_path: Path) -> None:
    path = half_trained(recipe, tmp_path / "run")
    code = (
        "import os, sys; from pathlib import Path; from nextvec.training.resume import resume_run\n"
        "run = resume_run(Path(sys.argv[1]), quiet=True); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    resume_run(path, quiet=True).close()


def test_of_two_runs_started_at_once_one_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have checked that the folder does not exist."""
    monkeypatch.setattr(setup, "require_usable", lambda _: None)
    first = start_run(recipe, tmp_path / "run", quiet=True)
    with pytest.raises(OutputError, match="another process is training it"):
        start_run(recipe, tmp_path / "run", quiet=True)
    first.close()
    with pytest.raises(OutputError, match="already exists"):
        start_run(recipe, tmp_path / "run", quiet=True)


def test_a_moved_copied_or_linked_folder_can_be_resumed(recipe: Recipe, tmp_path: Path) -> None:
    whole = train(recipe, tmp_path / "whole")
    path = half_trained(recipe, tmp_path / "run")
    copied = Path(shutil.copytree(path, tmp_path / "copied"))
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.move(path, tmp_path / "elsewhere" / "moved"))
    (tmp_path / "link").symlink_to(moved)
    for folder in (copied, tmp_path / "link"):
        assert_same_runs(whole, finish(folder))
    assert not path.exists() and (tmp_path / "link").is_symlink()


def test_a_checkpoint_that_is_a_link_is_replaced_not_followed(recipe: Recipe, tmp_path: Path) -> None:
    path = half_trained(recipe, tmp_path / "run")
    precious = shutil.copy(path / RESUME_STATE, tmp_path / "precious.pt")
    (path / RESUME_STATE).unlink()
    (path / RESUME_STATE).symlink_to(precious)
    before = Path(precious).read_bytes()
    finish(path)
    assert Path(precious).read_bytes() == before and not (path / RESUME_STATE).is_symlink()
    assert read_checkpoint(path / RESUME_STATE).values["training"]["is_done"]


def test_an_output_behind_a_broken_link_is_a_one_line_error(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.toml").write_text(recipe.to_toml())
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    assert main(["train", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert "Traceback" not in (told := capsys.readouterr().err) and "run" in told.splitlines()[-1]


def test_a_clock_that_steps_back_changes_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading of the clock is an hour earlier: same weights, same events in the same order."""
    whole = train(recipe, tmp_path / "whole")
    clock = iter(range(2_000_000_000, 0, -3600))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(clock)))
        path = finish(half_trained(recipe, tmp_path / "run"))
    assert_same_runs(whole, path)


@pytest.mark.parametrize("kind", ["amn", "lstm"])
def test_a_watcher_changes_nothing(recipe: Recipe, small_networks: None, tmp_path: Path, kind: str) -> None:
    """A thread reads the folder all the time, as `nextvec watch` does."""
    recipe = make_recipe(recipe.model_dump(exclude_none=True), (f"model.kind={kind}",))
    whole = train(recipe, tmp_path / "whole")
    looks, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if (tmp_path / "run" / "events.jsonl").is_file():
                looks.append(read_state(read_events(tmp_path / "run"), time.time()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        path = train(recipe, tmp_path / "run")
    finally:
        done.set()
        watcher.join()
    assert len(looks) > 3
    assert_same_runs(whole, path)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["amn", "lstm", "gru", "transformer"])
def test_the_number_of_threads_changes_results_by_rounding_only(recipe: Recipe, tmp_path: Path, kind: str) -> None:
    """The same number of threads gives the same bits; another number sums in another order."""
    (tmp_path / "toy.toml").write_text(recipe.to_toml())
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    weights = []
    for threads in (1, 2, 2):
        path = tmp_path / f"run-{len(weights)}"
        words = [f"model.kind={kind}", f"runtime.threads={threads}", "--out", str(path), "--quiet"]
        command = [sys.executable, "-m", "nextvec", "train", str(tmp_path / "toy.toml"), *words]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        weights.append(read_checkpoint(path / RESUME_STATE).weights)
    assert_same_values(weights[1], weights[2])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=TOLERANCE, atol=TOLERANCE)


TOLERANCE = 1e-4
