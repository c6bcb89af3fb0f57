"""Watching in a terminal: following growing logs, ending with the runs, removed folders, and never writing."""

import io
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nextvec import cli
from nextvec.commands.watch import watch
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.errors import InputError
from nextvec.monitor.discovery import WatchedRun, find_runs
from nextvec.monitor.terminal import watch_runs

Events = list[dict[str, Any]]

POLL_SECONDS = 0.01
TIMEOUT_SECONDS = 10.0


def write(folder: Path, events: Events, *, age: float = 0.0) -> Path:
    """Append to the log of a run's folder; `age` dates the log back by so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(event) + "\n" for event in events))
    if age:
        os.utime(folder / EVENTS_FILE, (time.time() - age, time.time() - age))
    return folder


def now(events: Events) -> Events:
    """Return the events with times shifted so that the last one is now."""
    shift = time.time() - events[-1]["time"]
    return [{**event, "time": event["time"] + shift} for event in events]


def finished(events: Events) -> Events:
    return [*events, {**{key: events[-1][key] for key in ("time", "epoch", "step")}, "kind": "finished"}]


class Watcher:
    """`watch_runs` in a thread, and its output so far."""

    def __init__(self, *folders: Path, live: bool = False, refresh: float = 30.0) -> None:
        self.out = io.StringIO()
        console = Console(file=self.out, force_terminal=live, width=100, height=40, highlight=False)
        runs = [WatchedRun(folder) for folder in folders]
        self.thread = threading.Thread(
            target=watch_runs,
            args=(runs, console),
            kwargs={"refresh_seconds": refresh, "poll_seconds": POLL_SECONDS},
            daemon=True,
        )
        self.thread.start()

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self.out.getvalue().count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.out.getvalue()!r}"
            time.sleep(POLL_SECONDS)

    def wait_for_end(self) -> list[str]:
        self.thread.join(TIMEOUT_SECONDS)
        assert not self.thread.is_alive()
        return self.out.getvalue().splitlines()

    @property
    def is_running(self) -> bool:
        self.thread.join(20 * POLL_SECONDS)
        return self.thread.is_alive()


@pytest.fixture
def events(make_events: Callable[..., Events]) -> Events:
    """Return the events of a finished run of three epochs."""
    return finished(now(make_events(3, total=3, half=False)))


def test_lines_follow_a_growing_log_and_end_with_the_run(events: Events, tmp_path: Path) -> None:
    heads = [n for n, event in enumerate(events) if event["kind"] == "epoch"]
    run = write(tmp_path / "run", events[: heads[0] + 1])
    watcher = Watcher(run)
    watcher.wait_for("epoch 1 of 3")
    line = json.dumps(events[heads[1]])
    write(run, events[heads[0] + 1 : heads[1]])
    with (run / EVENTS_FILE).open("a") as file:
        file.write(line[:100])
    assert watcher.is_running and "epoch 2" not in watcher.out.getvalue(), "half a line is not an event"
    with (run / EVENTS_FILE).open("a") as file:
        file.write(line[100:] + "\n")
    watcher.wait_for("epoch 2 of 3")
    write(run, events[heads[1] + 1 :])
    lines = [line.partition("(SYNTHETIC DATA): ")[2] for line in watcher.wait_for_end()]
    assert [line.split(" · ")[0].split(":")[0] for line in lines] == [
        "epoch 1 of 3", "running", "epoch 2 of 3", "epoch 3 of 3", "▲ gate at epoch 3", "● sentinel at epoch 3",
        "finished",
    ]  # fmt: skip
    assert all(" over ridge 0.5326" in line for line in lines if line.startswith("epoch"))


def test_the_view_is_redrawn_at_once_after_new_events(events: Events, tmp_path: Path) -> None:
    run = write(tmp_path / "run", events[:6])
    watcher = Watcher(run, live=True, refresh=1000)
    watcher.wait_for("epoch 2 of 3")
    write(run, events[6:-1])
    watcher.wait_for("epoch 3 of 3")
    assert watcher.is_running
    write(run, events[-1:])
    shown = "\n".join(watcher.wait_for_end())
    assert shown.count("SYNTHETIC DATA") <= 4, "drawn once per change and when the display closes"
    assert "finished" in shown.rpartition("SYNTHETIC DATA")[2] and "\x1b[?25h" in shown, "the cursor is back"


def test_the_view_is_refreshed_without_new_events(events: Events, tmp_path: Path) -> None:
    run = write(tmp_path / "run", events[:6])
    watcher = Watcher(run, live=True, refresh=5 * POLL_SECONDS)
    watcher.wait_for("SYNTHETIC DATA", times=4)
    write(run, events[6:])
    watcher.wait_for_end()


@pytest.mark.parametrize("live", [True, False])
def test_watching_continues_until_all_runs_have_ended(events: Events, tmp_path: Path, live: bool) -> None:
    done, active = write(tmp_path / "done", events), write(tmp_path / "active", events[:8])
    watcher = Watcher(active, done, live=live)
    watcher.wait_for("finished")
    assert watcher.is_running
    write(active, events[8:])
    assert "\n".join(watcher.wait_for_end()).count("finished") >= 2


def test_a_run_without_a_log_is_waited_for(events: Events, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").touch()
    assert [watched.path for watched in find_runs([str(run)])] == [run]
    watcher = Watcher(run)
    watcher.wait_for("run: no events yet")
    write(run, events)
    assert watcher.wait_for_end()[-1].endswith("finished · trained 5 min")


@pytest.mark.parametrize("live", [True, False])
def test_a_removed_folder_ends_only_its_own_watch(events: Events, tmp_path: Path, live: bool) -> None:
    gone, stays = write(tmp_path / "gone", events[:6]), write(tmp_path / "stays", events[:6])
    watcher = Watcher(gone, stays, live=live)
    watcher.wait_for("SYNTHETIC", times=2)
    (gone / EVENTS_FILE).unlink()
    gone.rmdir()
    watcher.wait_for("gone: the folder was removed; it is no longer watched")
    assert watcher.is_running
    (stays / EVENTS_FILE).unlink()
    stays.rmdir()
    assert sum("the folder was removed" in line for line in watcher.wait_for_end()) == 2


def test_a_poll_reads_only_what_was_appended(events: Events, tmp_path: Path) -> None:
    run = WatchedRun(write(tmp_path / "run", events[:6]))
    assert run.poll() and not run.poll() and run.events == events[:6]
    log = run.path / EVENTS_FILE
    stat, size = log.stat(), log.stat().st_size
    with log.open("r+b") as file:  # reading from the start again would find no events
        file.write(b"x" * size)
    os.utime(log, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    write(run.path, events[6:8])
    assert run.poll() and len(run.events) == 8
    with log.open("a") as file:
        file.write(json.dumps(events[8])[:50])
    assert not run.poll(), "half a line is not an event"
    with log.open("a") as file:
        file.write(json.dumps(events[8])[50:] + "\n")
    assert run.poll() and run.events[-1] == events[8]
    log.unlink()
    assert not run.poll() and run.events[-1] == events[8], "the log is missing for a moment"
    write(run.path, events[:3])
    assert run.poll() and run.events == events[:3], "a log that replaces it is read from the start"


def test_paths_can_be_folders_files_or_patterns_and_the_newest_run_is_first(
    events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = write(tmp_path / "m/amn_1", events, age=900), write(tmp_path / "m/amn_2", events, age=1)
    (new / "training.log").touch()
    (old / "training.log").touch()
    for paths in (
        ["m/amn_1", "m/amn_2/training.log", "m/amn_2"],
        ["m/amn_*/training.log"],
        ["m/*"],
        [str(old), str(new)],
    ):
        assert [run.path.resolve() for run in find_runs(paths)] == [new, old], paths


def test_without_a_path_the_newest_run_is_watched(
    events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no run in artifacts/lvm/models, .*Pass the folder of a run"):
        find_runs([])
    write(tmp_path / "artifacts/demo/runs/b", events, age=5)
    write(tmp_path / "artifacts/runs/a", events, age=50)
    (tmp_path / "artifacts/runs/not a run").mkdir()
    assert [run.path for run in find_runs([])] == [Path("artifacts/demo/runs/b")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "no such path"),
        ("nowhere_*/training.log", "no such path"),
        ("empty", "not a run"),
        ("file", "not a run"),
    ],
)
def test_a_path_without_a_run_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert cli.main(["watch", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nextvec: {path}: {message}") and "Pass the folder of a run" in line


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan")])
def test_the_refresh_interval_must_be_positive(every: float) -> None:
    with pytest.raises(InputError, match="--every"):
        watch((), every=every)


def test_once_shows_the_view_and_exits(
    events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", events[:-1])
    assert cli.main(["watch", str(run / EVENTS_FILE), "--once"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("SYNTHETIC DATA") == 1 and "running" in shown and "sentinel (ood)" in shown
    assert cli.main(["watch", str(run), "--once", "--json"]) == 0
    (state,) = json.loads(capsys.readouterr().out)["runs"]
    assert state["progress"]["status"] == "running" and state["scores"]["best_baselines"]["val"] == ["ridge", 0.5326]


def test_ctrl_c_ends_the_watch_without_a_message(
    events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", press)
    assert cli.main(["watch", str(write(tmp_path / "run", events[:-1]))]) == 0
    assert capsys.readouterr().err == ""


def test_nothing_is_written_to_the_run(events: Events, tmp_path: Path) -> None:
    run = write(tmp_path / "run", events)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.iterdir()}, run.stat().st_mtime_ns
    Watcher(run, live=True).wait_for_end()
    watch((str(run),), once=True)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.iterdir()}, run.stat().st_mtime_ns
    assert after == before
