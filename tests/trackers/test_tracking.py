"""A tracker never ends, changes or delays a run, whatever its library does; a resumed run sends each epoch once."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nextvec.core.events import EventLog
from nextvec.errors import InputError, MissingExtraError
from nextvec.recipe import Recipe
from nextvec.trackers import tracking as tracking_module
from nextvec.trackers.contents import epoch_metrics, outcome, tracked_run
from nextvec.trackers.process import without_secrets
from nextvec.trackers.tracker import require_trackers
from nextvec.trackers.tracking import tracking

SECRET = "a1b2c3d4e5f6a1b2"

FAKE_WANDB = f'''
"""Stands for wandb: records its calls in calls.jsonl, and misbehaves as FAULT says ("log:hang")."""
import json, os, signal, subprocess, sys, time
from types import SimpleNamespace

def call(name, **values):
    with open(os.path.join(os.path.dirname(__file__), "calls.jsonl"), "a") as file:
        file.write(json.dumps({{"name": name, **values}}) + "\\n")
    where, _, fault = os.environ.get("FAULT", "").partition(":")
    if where != name:
        return
    if fault == "raise":
        raise RuntimeError("no route to https://me:{SECRET}@host?api_key={SECRET}")
    if fault == "exit":
        sys.exit(0)
    if fault == "die":
        os._exit(0)
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        time.sleep(600)
    if fault == "meddle":
        print("x" * 100_000, flush=True)
        print("x" * 100_000, file=sys.stderr, flush=True)
        sys.stdin.read()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(7))
        sys.stdin.close()
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)

def Settings(**values):
    return values

class Run:
    step, resumed, url, dir = 0, False, "https://me:{SECRET}@host/run", "/nowhere"
    summary = SimpleNamespace(update=lambda values: call("summary", values=values))
    def log(self, metrics, step):
        call("log", metrics=metrics, step=step)
    def finish(self, exit_code):
        call("finish", exit_code=exit_code)

def init(**values):
    call("init", id=values["id"], run_name=values["name"], config=values["config"], project=values["project"])
    return Run()
'''


@dataclass
class FakeRun:
    """What `tracking` uses of a run, without a network."""

    path: Path
    quiet: bool = True
    state: Any = field(default_factory=lambda: SimpleNamespace(epoch=0))
    warnings: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path.mkdir(exist_ok=True)
        self.events = EventLog(self.path / "events.jsonl")

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def log(self, *lines: str) -> None:
        self.lines += lines

    def close(self) -> None:
        pass

    def start(self) -> None:
        recipe = Recipe(name="toy").model_dump(exclude_none=True)
        recipe["data"]["store"] = "/home/somebody/secret-project/store"
        self.events.write("started", name="toy", recipe=recipe, device="cpu", versions={"nextvec": "0.1.0"})
        self.events.write("baselines", cosines={"val": {"ridge": 0.4, "copy-last": 0.3}})

    def finish_epoch(self, epoch: int) -> None:
        gates = [{"epoch": epoch, "metric": "val_cosine", "status": "amber"}]
        self.events.write("epoch", epoch=epoch, step=epoch, val_cosine=0.1 * epoch, best=True, lr="nan", gates=gates)
        self.state.epoch = epoch

    def evaluate(self) -> None:
        cosine = {"value": 0.5, "low": 0.4, "high": 0.6}
        split = {"windows": 9, "documents": 3, "gain": cosine, "predictors": {"amn": {"cosine": cosine}}}
        verdict = {"status": "green", "sentence": "amn beats ridge."}
        self.events.write("evaluated", evaluation={"splits": {"val": split}, "verdict": verdict})
        self.events.write("finished", epoch=self.state.epoch)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the fake library before the real one for tracker processes; returns the calls that it recorded."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(library), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)

    def calls(name: str) -> list[dict[str, Any]]:
        file = library / "calls.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [call for call in map(json.loads, lines) if call["name"] == name]

    return calls


def train(run: FakeRun, epochs: int, *, finishes: bool = True) -> None:
    """Do what the trainer does, without training."""
    with tracking(run, ["wandb"]) as after_epoch:
        for epoch in range(run.state.epoch + 1, epochs + 1):
            run.finish_epoch(epoch)
            after_epoch(run)
        if finishes:
            run.evaluate()


def test_a_run_is_sent_from_its_records_and_resumed_as_the_same_tracked_run(tmp_path: Path, fake: Any) -> None:
    run = FakeRun(tmp_path / "run")
    run.start()
    train(run, 2, finishes=False)
    train(run, 3)
    assert not run.warnings
    steps = [call["step"] for call in fake("log")]
    assert steps == [1, 2, 3], "each epoch once"
    first, second = fake("init")
    assert first["id"] == second["id"] == json.loads((run.path / "trackers/wandb.json").read_text())["id"]
    assert first["run_name"] == "toy run" and first["project"] == "nextvec"
    config = first["config"]
    assert (
        config["data.store"] == "store" and config["run.versions.nextvec"] == "0.1.0" and config["run.device"] == "cpu"
    )
    metrics = fake("log")[1]["metrics"]
    assert metrics == {
        "val/cosine": 0.2, "val/baseline/ridge": 0.4, "val/baseline/copy-last": 0.3, "val/best_baseline": 0.4,
        "gates/val_cosine": 1, "epoch": 2,
    }  # fmt: skip
    assert [call["exit_code"] for call in fake("finish")] == [1, 0], "unfinished, then finished"
    summary = fake("summary")[-1]["values"]
    assert summary["evaluation/val/gain_low"] == 0.4 and summary["verdict"] == "amn beats ridge."
    assert summary["status"] == "green" and summary["worst_gate"] == "amber"
    # A run that is resumed without the flag continues its tracked run; credentials are in no file.
    assert len([line for line in run.lines if line == "tracker wandb: https://***@host/run"]) == 2
    assert not any(SECRET.encode() in file.read_bytes() for file in run.path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("init:raise", "RuntimeError: no route to https://***@host?api_key=***"),
        ("log:raise", "RuntimeError: no route"),
        ("finish:raise", "RuntimeError: no route"),
        ("log:exit", "SystemExit"),
        ("log:die", "its process ended with exit code 0"),
        ("log:segfault", "its process ended with exit code -11"),
        ("log:hang", "it did not end within"),
        ("init:meddle", ""),
    ],
)
def test_a_tracker_that_misbehaves_costs_one_warning(
    fault: str, reason: str, tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", fault)
    if fault.endswith("hang"):
        monkeypatch.setattr(tracking_module, "END_SECONDS", 3.0)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = FakeRun(tmp_path / "run")
    run.start()
    started = time.monotonic()
    train(run, 2)
    assert time.monotonic() - started < 20
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    if not reason:
        assert not run.warnings and [call["step"] for call in fake("log")] == [1, 2]
        return
    (warning,) = run.warnings
    assert warning.startswith(f"tracker wandb is switched off: {reason}") and SECRET not in warning
    assert "The run is not affected" in warning and f"nextvec resume {run.path}" in warning
    # Once the library works again, what is missing is sent. The epoch of a failed call is missing.
    if fault in ("log:raise", "log:hang"):
        monkeypatch.delenv("FAULT")
        train(run, 2)
        assert sorted({call["step"] for call in fake("log")}) == [1, 2] and len(fake("finish")) == 1


def test_a_killed_trainer_leaves_a_closed_tracked_run(tmp_path: Path, fake: Any) -> None:
    """The tracker of a killed trainer ends by itself, and the epoch that it did not hear of follows at the resume."""
    run = FakeRun(tmp_path / "run")
    run.start()
    run.finish_epoch(1)
    pid = os.fork()
    if pid == 0:  # the trainer: killed between the record of epoch 2 and its message to the tracker
        with tracking(run, ["wandb"]):
            while not fake("log"):
                time.sleep(0.05)
            run.finish_epoch(2)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    run.state.epoch = 2
    train(run, 3)
    assert [call["step"] for call in fake("log")] == [1, 2, 3] and not run.warnings
    assert [call["exit_code"] for call in fake("finish")] == [1, 0]
    assert len({call["id"] for call in fake("init")}) == 1


def test_ctrl_c_skips_the_wait_for_a_tracker(tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "init:hang")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking_module.time, "sleep", interrupt)
    run = FakeRun(tmp_path / "run")
    run.start()
    train(run, 1)
    assert len(run.warnings) == 1 and "did not end" in run.warnings[0]


def test_unusable_trackers_are_errors_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--tracker wand: unknown tracker\. Did you mean 'wandb'"):
        require_trackers(["wand"])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"--tracker mlflow needs .* pip install 'nextvec\[mlflow\]'"):
        require_trackers(["tensorboard", "mlflow"])
    assert require_trackers(["wandb", "wandb"]) == ("wandb",)
    # A folder of that name, as wandb writes it into the working directory, is not the library.
    (tmp_path / "trackio").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(MissingExtraError):
        require_trackers(["trackio"])


def test_a_remembered_tracker_without_its_library_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun(tmp_path / "run")
    (run.path / "trackers").mkdir()
    (run.path / "trackers/wandb.json").write_text('{"id": "0123abcd", "epochs": 1}')
    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracking(run, []):
        pass
    assert run.warnings == ["tracker wandb is switched off: its package is not installed: pip install 'nextvec[wandb]'"]


def test_contents_of_odd_events() -> None:
    """A damaged or foreign log is described as far as it goes."""
    assert epoch_metrics({"kind": "epoch", "val_cosine": "nan", "seconds": 2, "best": True, "gates": 3}, {}) == {
        "run/seconds": 2.0
    }
    state, _, metrics, facts = outcome([{"kind": "evaluated", "evaluation": {"splits": {"val": None}}}])
    assert state == "unfinished" and metrics == {} and facts == {"state": "unfinished"}
    assert tracked_run([{"kind": "started", "recipe": []}], Path("x"), "id", 0).config == {}


def test_credentials_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    text = "postgresql://me:pass@host/db?write_token=abc&x=1 correct horse"
    assert without_secrets(text) == "postgresql://***@host/db?write_token=***&x=1 ***"


def test_the_process_of_a_tracker_loads_neither_torch_nor_pydantic() -> None:
    code = "import sys, nextvec.trackers.process; print({'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
