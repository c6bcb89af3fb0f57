"""A display that goes away: no work ends because of it, and nothing exits with 0 that has not done its work."""

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nextvec.core import streams
from nextvec.core.events import read_events
from nextvec.core.streams import protect_streams, stdout_failure, surviving_hangup, take_failures
from nextvec.recipe import Recipe, make_recipe

FULL = Path("/dev/full")
NEXTVEC = (sys.executable, "-m", "nextvec")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a device that is always full")


@pytest.fixture
def recipe_file(toy_recipe: Recipe, tmp_path: Path) -> Path:
    """A recipe of one epoch."""
    file = tmp_path / "toy.toml"
    file.write_text(make_recipe(toy_recipe.model_dump(exclude_none=True), ("training.epochs=1",)).to_toml())
    return file


@contextmanager
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def with_closed_descriptors(command: Sequence[str]) -> int:
    return subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False).returncode


def in_a_terminal_that_goes(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command in a terminal of its own, and close the terminal after the first output."""
    master, slave = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal, env=os.environ | environment
    )
    os.close(slave)
    os.read(master, 1)
    os.close(master)
    return process.wait(120)


def check_finished(run: Path, reason: str) -> None:
    """The run has all of its events, and its log says why nothing was shown."""
    events = read_events(run)
    assert events[-1]["kind"] == "finished"
    warnings = [event["text"] for event in events if event["kind"] == "warning"]
    assert any(reason in text for text in warnings), warnings
    assert reason in (run / "training.log").read_text()


def test_a_suite_whose_pipe_is_closed_does_its_work(recipe_file: Path, nextvec_program: Path, tmp_path: Path) -> None:
    with closed_pipe() as writer:
        command = [nextvec_program, "suite", str(recipe_file), "--out", str(tmp_path / "suite")]
        done = subprocess.run(command, stdout=writer, stderr=writer, check=False)
    assert done.returncode == 0
    assert [step["state"] for step in json.loads((tmp_path / "suite" / "suite.json").read_text())["steps"]] == [
        "complete",
        "complete",
    ]
    log = (tmp_path / "suite" / "recovery.log").read_text()
    assert "standard error cannot be written: its reader has closed it" in log
    assert "standard output cannot be written: its reader has closed it" in log.splitlines()[-1]


@needs_full
def test_a_run_on_a_full_device_does_its_work_and_reports_the_result_that_was_not_printed(
    recipe_file: Path, nextvec_program: Path, tmp_path: Path
) -> None:
    """With --json, the printed result is what the caller asked for, so that its loss is an error."""
    command = [nextvec_program, "train", str(recipe_file), "--out", str(tmp_path / "run"), "--json"]
    with FULL.open("w") as full:
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == 2
    check_finished(tmp_path / "run", "standard error cannot be written: the device is full")
    assert "standard output cannot be written: the device is full" in (tmp_path / "run" / "training.log").read_text()


def test_a_run_with_closed_descriptors_does_its_work(recipe_file: Path, tmp_path: Path) -> None:
    """Its files must not get the numbers of the standard streams."""
    assert with_closed_descriptors([*NEXTVEC, "train", str(recipe_file), "--out", str(tmp_path / "run")]) == 0
    check_finished(tmp_path / "run", "standard error cannot be written: it is closed")
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert all(json.loads(line)["kind"] for line in lines)


def test_a_run_whose_terminal_goes_does_its_work(recipe_file: Path, tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and every write fails from then on."""
    command = [*NEXTVEC, "train", str(recipe_file), "--out", str(tmp_path / "run")]
    assert in_a_terminal_that_goes(command, {"TERM": "xterm"}) == 0
    check_finished(tmp_path / "run", "standard error cannot be written: the terminal has gone")


LIST = (*NEXTVEC, "recipe", "list")


@needs_full
@pytest.mark.parametrize("command", [LIST, (*LIST, "--json"), (*NEXTVEC, "--help")], ids=["text", "json", "help"])
def test_a_command_that_only_prints_fails_on_a_full_device(command: Sequence[str]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("nextvec: standard output cannot be written: the device is full.")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with closed_pipe() as writer:
        done = subprocess.run(LIST, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "its reader has closed it" in done.stderr and "Traceback" not in done.stderr


def test_a_locale_without_unicode_escapes_what_it_lacks() -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*NEXTVEC, "recipe", "show", "demo", "name=Größe → ■", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and json.loads(done.stdout)
    done = subprocess.run(command[:-1], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_python_survives_a_closed_pipe_during_a_call(texts: Path, tmp_path: Path) -> None:
    """The streams of the caller are as before after the call."""
    script = (
        "import sys, nextvec, pathlib; before = sys.stderr, sys.stdout\n"
        f"nextvec.data_build({str(texts)!r}, {str(tmp_path / 'store')!r}, dimensions=8)\n"
        "assert (sys.stderr, sys.stdout) == before; print('built')"
    )
    with closed_pipe() as writer:
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=writer, check=False)
    assert (done.returncode, done.stdout) == (0, b"built\n")


# The stream itself


@contextmanager
def protected_streams() -> Iterator[int]:
    """Protect streams on descriptors of this test; yields the reading end of both.

    Not a fixture: pytest sets its own streams before each phase of a test.
    """
    reader, writer = os.pipe()
    descriptors = {"stdout": os.dup(writer), "stderr": os.dup(writer)}
    with pytest.MonkeyPatch.context() as patch:
        for name, descriptor in descriptors.items():
            file = io.FileIO(descriptor, "w", closefd=False)
            patch.setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(file), encoding="ascii"))
        patch.setattr(streams, "STANDARD_STREAMS", descriptors)
        protect_streams()
        yield reader
    for descriptor in (*descriptors.values(), writer):
        os.close(descriptor)
    with suppress(OSError):
        os.close(reader)


def test_a_failure_is_reported_once_and_what_can_be_written_is() -> None:
    with protected_streams() as protected:
        print("→ seen")
        assert stdout_failure() is None and take_failures() == []
        assert os.read(protected, 100) == b"\\u2192 seen\n"
        os.close(protected)
        print("lost", flush=True)
        sys.stderr.write("lost\n")
        sys.stderr.flush()
        assert stdout_failure() == "its reader has closed it"
        assert [sentence.partition(":")[0] for sentence in take_failures()] == [
            "standard output cannot be written",
            "standard error cannot be written",
        ]
        assert take_failures() == []
        print("lost again", flush=True)


def test_a_slow_reader_of_a_non_blocking_pipe_gets_everything() -> None:
    with protected_streams() as protected:
        os.set_blocking(sys.stdout.fileno(), False)
        size = 200_000  # more than a pipe holds
        child = os.fork()
        if not child:
            received = 0
            while received < size:
                received += len(os.read(protected, 4096))
            os._exit(0)
        sys.stdout.write("x" * size)
        sys.stdout.flush()
        assert os.waitpid(child, 0)[1] == 0
        assert stdout_failure() is None


def test_protecting_twice_changes_nothing() -> None:
    with protected_streams():
        before = sys.stdout, sys.stderr
        protect_streams()
        assert (sys.stdout, sys.stderr) == before


def test_an_unknown_error_is_named_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    with protected_streams():

        def fail(*_: object) -> int:
            raise OSError(errno.ENODEV, "no device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            print("lost", flush=True)
        assert stdout_failure() == os.strerror(errno.ENODEV)


def test_a_hangup_is_ignored_within_the_block_only() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with surviving_hangup():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == before
