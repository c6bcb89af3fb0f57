"""A run that is killed before its first training state has lost nothing: resume and a new start both work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equality import assert_same_runs, events_of
from nextvec.core import files
from nextvec.core.events import EventLog
from nextvec.core.run_paths import RECIPE_FILE, RESUME_STATE
from nextvec.errors import CheckpointError, OutputError
from nextvec.experiments.single_run import resume_folder, train_recipe
from nextvec.recipe import Recipe
from nextvec.training import run as run_module
from nextvec.training.resume import resume_run
from nextvec.training.setup import start_run


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and no handler of an ordinary error runs."""


@pytest.fixture
def recipe(toy_recipe: Recipe) -> Recipe:
    training = toy_recipe.training.model_copy(update={"epochs": 1})
    return toy_recipe.model_copy(update={"training": training})


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Kill the process at the n-th write of a start: before a file, an event or a log line is written."""

    def arm(point: int) -> list[str]:
        seen: list[str] = []

        def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any, **options: Any) -> Any:
                seen.append(name)
                if len(seen) == point:
                    raise Killed
                return original(*arguments, **options)

            return write

        monkeypatch.setattr(files, "write_atomic", wrap("file", files.write_atomic))
        monkeypatch.setattr(EventLog, "write", wrap("event", EventLog.write))
        monkeypatch.setattr(run_module, "append_lines", wrap("log", run_module.append_lines))
        return seen

    return arm


def start_and_kill(recipe: Recipe, folder: Path, point: int, kill_at: Callable[[int], list[str]]) -> None:
    kill_at(point)
    with pytest.raises(Killed):
        start_run(recipe, folder, quiet=True)


@pytest.mark.parametrize("point", [2, 3, 4, 6, 9, 12])
def test_a_run_killed_while_it_starts_is_resumed_from_its_recipe(
    recipe: Recipe, tmp_path: Path, kill_at: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    with monkeypatch.context():
        start_and_kill(recipe, tmp_path / "run", point, kill_at)
    monkeypatch.undo()
    assert (tmp_path / "run" / RECIPE_FILE).is_file() and not (tmp_path / "run" / RESUME_STATE).is_file()
    resume_run(tmp_path / "run", quiet=True).close()
    assert (tmp_path / "run" / RESUME_STATE).is_file()
    assert len(events_of(tmp_path / "run", "started")) == 1


def test_the_result_is_that_of_an_unbroken_run_whether_resumed_or_started_again(
    recipe: Recipe, tmp_path: Path, kill_at: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("resumed", "again"):
        start_and_kill(recipe, tmp_path / folder, 7, kill_at)
        monkeypatch.undo()
    train_recipe(recipe, out=str(tmp_path / "unbroken"), quiet=True)
    resume_folder(str(tmp_path / "resumed"), quiet=True)
    train_recipe(recipe, out=str(tmp_path / "again"), quiet=True)
    assert_same_runs(tmp_path / "unbroken", tmp_path / "resumed", evaluated=True)
    assert_same_runs(tmp_path / "unbroken", tmp_path / "again", evaluated=True)


def test_a_folder_without_anything_of_value_is_used(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    start_run(recipe, tmp_path / "empty", quiet=True).close()
    # A file, a training state and a recipe of the user are of value.
    for name, content in (("notes.txt", "mine"), ("resume.pt", "state"), (RECIPE_FILE, 'name = "mine"\n')):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(OutputError, match="already exists"):
            start_run(recipe, folder, quiet=True)
        assert (folder / name).read_text() == content, "nothing is lost"
    (tmp_path / "bare").mkdir()
    with pytest.raises(CheckpointError, match=r"has no recipe\.toml"):
        resume_run(tmp_path / "bare", quiet=True)
