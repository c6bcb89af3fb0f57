"""Failed writes: a non-zero exit, one clear line, the previous checkpoint loads, and no temporary files remain."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from equality import assert_same_values
from nextvec.cli import main
from nextvec.core.run_paths import RESUME_STATE
from nextvec.errors import OutputError
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import loop
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.setup import start_run

FULL = Path("/dev/full")
TRIAL = """
import sys
from pathlib import Path
from nextvec.cli import main
from nextvec.training.checkpoint import read_resume_checkpoint
code = main(["train", sys.argv[1], "--out", sys.argv[2], "--quiet"])
run = Path(sys.argv[2])
step = read_resume_checkpoint(run).values["step"] if (run / "resume.pt").exists() else -1
print(code, step, *sorted(path.name for path in run.glob(".*.tmp")))
"""


@pytest.fixture
def recipe(toy_recipe: Recipe) -> Recipe:
    return make_recipe(toy_recipe.model_dump(exclude_none=True), ("training.epochs=3",))


def check_left(run: Run, recipe: Recipe, folder: Path) -> None:
    """After a failed write the state of epoch 1 is intact, no temporary file remains, and the run can be resumed."""
    assert read_checkpoint(run.path / RESUME_STATE).values["training"]["epoch"] == 1
    assert not list(run.path.glob(".*.tmp"))
    resumed = resume_run(run.path, quiet=True)
    loop.train(resumed)
    whole = start_run(recipe, folder / "whole", quiet=True)
    loop.train(whole)
    assert_same_values(whole.model.state_dict(), resumed.model.state_dict())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files that this process can write within the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_size_limit_in_the_second_epoch_is_one_clear_line(recipe: Recipe, tmp_path: Path) -> None:
    run = start_run(recipe, tmp_path / "run", quiet=True)
    limit = largest_file((run.path / RESUME_STATE).stat().st_size // 2)
    with pytest.raises(OutputError, match=r"cannot write .*\.pt: the file-size limit is reached; raise it") as error:
        try:
            loop.train(run, after_epoch=lambda _: limit.__enter__())
        finally:
            limit.__exit__(None, None, None)
    assert "\n" not in str(error.value)
    check_left(run, recipe, tmp_path)


def test_a_serializer_that_raises_exits_with_1_and_loses_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This is an internal error, of nextvec or of torch."""
    save, calls = torch.save, []

    def raising(values, file):
        calls.append(values)
        if len(calls) == 6:  # baselines, first state; epoch 1: epoch, best, state; epoch 2: this one
            file.write(b"half")
            raise RuntimeError("unserializable")
        save(values, file)

    (tmp_path / "toy.toml").write_text(recipe.to_toml())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", raising)
        assert main(["train", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("nextvec: internal error") and "unserializable" in line
    check_left(reopen(recipe, tmp_path / "run"), recipe, tmp_path)


def reopen(recipe: Recipe, path: Path) -> Run:
    """Return the run of a folder that another call has trained in."""
    run = resume_run(path, quiet=True)
    run.close()
    return run


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("name", ["training.log", "events.jsonl"])
def test_a_full_disk_while_a_log_is_written(recipe: Recipe, tmp_path: Path, name: str) -> None:
    run = start_run(recipe, tmp_path / "run", quiet=True)

    def fill(_: Run) -> None:
        run.close()
        (run.path / name).rename(tmp_path / "kept")
        (run.path / name).symlink_to(FULL)

    with pytest.raises(OutputError, match="the disk is full; free some space"):
        loop.train(run, after_epoch=fill)
    (run.path / name).unlink()
    (tmp_path / "kept").rename(run.path / name)
    check_left(run, recipe, tmp_path)


def in_a_small_disk(recipe: Path, disk: Path, size: str, then: str = "true") -> subprocess.CompletedProcess[str]:
    """Train on a tmpfs of that size, private to this process; skip if the system allows no such mount."""
    disk.mkdir()
    script = f'mount -t tmpfs -o size={size} none "$1" && {then} && shift && exec "$@"'
    shell = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk)]
    try:
        allowed = subprocess.run([*shell, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this system does not allow tests to mount a tmpfs")
    command = [*shell, sys.executable, "-c", TRIAL, str(recipe), str(disk / "run")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_disk_of_one_megabyte(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(recipe.to_toml())
    done = in_a_small_disk(tmp_path / "toy.toml", tmp_path / "disk", "1m")
    code, step, *litter = done.stdout.split()
    assert code == "2" and not litter, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("nextvec: cannot write ") and "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert int(step) >= -1, "the last saved state loads, if there was space for one"


@pytest.mark.long
def test_a_read_only_disk(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(recipe.to_toml())
    done = in_a_small_disk(tmp_path / "toy.toml", tmp_path / "disk", "1m", then='mount -o remount,ro "$1"')
    assert done.stdout.split() == ["2", "-1"], done.stdout + done.stderr
    assert "the disk is read-only; choose another output folder" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to a read-only folder")
def test_a_run_folder_that_became_read_only(recipe: Recipe, tmp_path: Path) -> None:
    run = start_run(recipe, tmp_path / "run", quiet=True)
    with pytest.raises(OutputError, match="no permission to write there"):
        loop.train(run, after_epoch=lambda _: run.path.chmod(0o500))
    run.path.chmod(0o700)
    check_left(run, recipe, tmp_path)
