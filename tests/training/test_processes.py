"""Runs of several processes: the results of one process, and one end for all of them."""

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from nextvec.core.run_paths import BEST_MODEL, EVALUATION_FILE, HISTORY_FILE, RESUME_STATE, TRAINING_LOG
from nextvec.data.store import Store
from nextvec.distributed.process_group import ProcessGroup
from nextvec.errors import RecipeError
from nextvec.experiments.single_run import resume_folder, train_recipe
from nextvec.recipe import Recipe, make_recipe
from nextvec.training.setup import start_run

Start = Callable[..., list[subprocess.Popen[str]]]
SHARES = 3
"""Processes that do not divide the batch evenly."""


def recipe_of(store: Store, **training: Any) -> Recipe:
    """Every loss term, averaged weights, reversed windows and a query, without dropout, which is drawn per process."""
    return make_recipe(
        {
            "name": "shared",
            "data": {"store": str(store.path), "context": 3},
            "model": {"kind": "amn", "dropout": 0.0},
            "objective": {"mse": 0.5, "info_nce": 0.5, "moment": 0.1, "variance": 0.1, "info_nce_block": 8},
            "training": {
                **{"epochs": 2, "batch_size": 31, "precision": "fp32", "reverse_augmentation": 0.3, "ema_decay": 0.9},
                **training,
            },
            "evaluation": {"resamples": 100},
        },
        where="a test",
    )


@pytest.fixture
def start(nextvec_program: Path) -> Start:
    """Start processes of one run as torchrun does, without its own: ``start(2, "train", …)``."""
    return partial(start_group, nextvec_program)


def start_group(program: Path, count: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start `count` processes that find each other at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [program, *arguments],
            env={
                **os.environ,
                **{name: str(value) for name, value in (group | {"RANK": rank, "LOCAL_RANK": rank}).items()},
                **{"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1"},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Return exit code, output and messages of each process."""
    outputs = [process.communicate(timeout=400) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def numbers(values: Any, path: str = "") -> dict[str, float]:
    """Return every number in JSON values that is not a time or a size of memory, by its path."""
    if isinstance(values, dict):
        skipped = ("latency", "seconds", "windows_per_second", "memory_mb", "success")  # a kill counts as a crash
        return {
            key: n
            for name, v in values.items()
            if name not in skipped
            for key, n in numbers(v, f"{path}/{name}").items()
        }
    if isinstance(values, list):
        return {key: n for i, v in enumerate(values) for key, n in numbers(v, f"{path}/{i}").items()}
    return {path: values} if isinstance(values, int | float) else {}


def assert_equal_runs(first: Path, second: Path, tolerance: float) -> None:
    """Compare histories, evaluations and weights of two runs."""
    for file in (HISTORY_FILE, EVALUATION_FILE):
        left, right = (numbers(json.loads((run / file).read_text(encoding="utf-8"))) for run in (first, second))
        assert left == pytest.approx(right, abs=tolerance, rel=tolerance), file
    left, right = (torch.load(run / BEST_MODEL, weights_only=True)["model_state_dict"] for run in (first, second))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def alone(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train_recipe(recipe_of(toy_store), out=str(folder), quiet=True)
    return folder


def write_recipe(recipe: Recipe, folder: Path) -> str:
    file = folder / "recipe.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    return str(file)


def test_three_processes_train_and_evaluate_like_one(start, alone, toy_store, tmp_path):
    recipe = write_recipe(recipe_of(toy_store), tmp_path)
    (main, *others) = finish(start(SHARES, "train", recipe, "--out", str(tmp_path / "run"), "--quiet"))
    assert main[0] == 0, main[2]
    assert "success criteria" in main[1]
    # The others print nothing and end like the main process.
    assert others == [(0, "", "")] * (SHARES - 1)
    log, log_of_one = ((run / TRAINING_LOG).read_text(encoding="utf-8") for run in (tmp_path / "run", alone))
    assert f"processes={SHARES}" in log
    # The scores of the baselines have the same digits.
    scores, scores_of_one = (
        [line for line in text.splitlines() if "baselines on" in line] for text in (log, log_of_one)
    )
    assert scores == scores_of_one != []
    assert_equal_runs(alone, tmp_path / "run", tolerance=1e-5)


def test_a_lost_process_ends_the_run_in_one_line_and_one_process_resumes_it(start, alone, toy_store, tmp_path):
    """Kill the second process in the second epoch; the rest is trained by another number of processes."""
    run = tmp_path / "run"
    recipe = write_recipe(recipe_of(toy_store), tmp_path)
    processes = start(2, "train", recipe, "--out", str(run), "--quiet")
    wait_for(run / TRAINING_LOG, "Epoch 1/", processes)
    processes[1].kill()
    code, _, messages = finish(processes)[0]
    assert (code, messages.count("\n")) == (1, 1), messages
    assert messages == (
        "nextvec: another of the 2 processes of this run has ended, or its machine can't be reached. To continue from "
        f"the last saved state: nextvec resume {run}\n"
    )
    resume_folder(str(run), quiet=True)
    assert_equal_runs(alone, run, tolerance=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_process_killed_anywhere_changes_nothing_after_a_resume(start, seed, toy_store, tmp_path_factory, tmp_path):
    """Kill a random process at a random moment, resume with as many processes: bit-equal to an unbroken run."""
    rng = random.Random(seed)
    unbroken = tmp_path_factory.getbasetemp() / "unbroken"
    recipe = write_recipe(recipe_of(toy_store, epochs=20, keep_epochs=False, checkpoint_interval_s=0.5), tmp_path)
    if not unbroken.exists():
        assert finish(start(2, "train", recipe, "--out", str(unbroken), "--quiet"))[0][0] == 0
    run = tmp_path / "run"
    processes = start(2, "train", recipe, "--out", str(run), "--quiet")
    wait_for(run / RESUME_STATE, "", processes)
    time.sleep(rng.uniform(0, 4))
    processes[rng.randrange(2)].kill()
    finish(processes)
    if json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))["status"] != "finished":
        assert finish(start(2, "resume", str(run), "--quiet"))[0][0] == 0
    assert_equal_runs(unbroken, run, tolerance=0)


def unreachable(metric: str) -> dict[str, Any]:
    return {"epoch": 1, "metric": metric, "green": 0.9999, "red": 0.999, "action": "stop"}


ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], int, str]] = {
    "gate": ({}, {"gates": [unreachable("val_cosine")]}, 3, "stopped by a gate after epoch 1"),
    "sentinel": ({}, {"gates": [unreachable("ood_cosine")]}, 3, "stopped by the sentinel after epoch 1"),
    "early stop": ({"epochs": 60, "early_stop": 1, "lr": 0.02}, {}, 0, "stopped early"),
    "not finite": ({"lr": 1e20}, {}, 4, ""),
}
"""End → changes of training, other changes of the recipe, exit code and a text in the log."""


@pytest.mark.long
@pytest.mark.parametrize("end", ENDS)
def test_all_processes_end_together_with_one_exit_code(start, end, toy_store, tmp_path):
    training, changes, code, text = ENDS[end]
    recipe = make_recipe({**recipe_of(toy_store, **training).model_dump(exclude_none=True), **changes}, where="a test")
    run = tmp_path / "run"
    processes = start(SHARES, "train", write_recipe(recipe, tmp_path), "--out", str(run), "--quiet")
    ended: dict[int, float] = {}
    while len(ended) < SHARES:
        ended |= {
            rank: time.monotonic() for rank in set(range(SHARES)) - ended.keys() if processes[rank].poll() is not None
        }
        time.sleep(0.02)
    (main, *others) = finish(processes)
    assert main[0] == code, main
    assert others == [(code, "", "")] * (SHARES - 1)
    assert max(ended.values()) - min(ended.values()) < 10
    assert text in (run / TRAINING_LOG).read_text(encoding="utf-8")
    assert "\nEpoch 60/" not in (run / TRAINING_LOG).read_text(encoding="utf-8")


@pytest.mark.long
def test_a_signal_to_any_process_ends_all_with_everything_saved(start, alone, toy_store, tmp_path):
    run = tmp_path / "run"
    recipe = write_recipe(recipe_of(toy_store, epochs=500, keep_epochs=False), tmp_path)
    processes = start(2, "train", recipe, "--out", str(run), "--quiet")
    wait_for(run / TRAINING_LOG, "Epoch 1/", processes)
    processes[1].send_signal(signal.SIGTERM)
    (main, other) = finish(processes)
    assert main[0] == 130, main[2]
    assert "Everything is saved" in main[2]
    assert other == (130, "", "")


def wait_for(file: Path, text: str, processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until a file contains a text."""
    while not (file.is_file() and text.encode() in file.read_bytes()):
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.02)


def test_a_batch_smaller_than_the_number_of_processes_is_refused(toy_store, tmp_path):
    processes = ProcessGroup()
    processes.size = 64
    with pytest.raises(RecipeError, match="batch_size is 31, but there are 64 processes"):
        start_run(recipe_of(toy_store), tmp_path / "run", quiet=True, processes=processes)
    assert not (tmp_path / "run").exists()


def test_other_commands_are_refused(start, tmp_path):
    (main, other) = finish(start(2, "suite", "demo", "--out", str(tmp_path / "suite")))
    assert main[0] == other[0] == 2
    assert (
        main[2] == "nextvec: only train and resume run in several processes. Run the other commands without torchrun.\n"
    )
    assert other[1:] == ("", "")
