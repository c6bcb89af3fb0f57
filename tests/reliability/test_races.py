"""Pairs of processes that make or change the same file or folder at once: nothing is lost, mixed or blamed.

Threads take the place of processes: each opens the files for itself, so that the system's locks hold between them, too.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nextvec
from nextvec.core.files import write_atomic, write_text
from nextvec.core.locks import exclusive, locked_folder, unfinished
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.data.store import Store, open_store, unfinished_folder
from nextvec.data.store.manifest import verify_store
from nextvec.errors import OutputError
from nextvec.experiments.leaderboard import add_to_leaderboard
from nextvec.recipe import Recipe, make_recipe
from nextvec.reports.leaderboard import read_leaderboard
from nextvec.training.run_folder import make_run_folder
from nextvec.training.setup import start_run


def at_once(work: Callable[[int], Any], count: int = 2) -> list[Any]:
    """Return what each of several simultaneous calls returned, or its OutputError."""
    barrier = threading.Barrier(count)

    def call(number: int) -> Any:
        barrier.wait()
        try:
            return work(number)
        except OutputError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def split_results(results: Sequence[Any]) -> tuple[list[Any], list[OutputError]]:
    """Return what succeeded, and the errors of what was refused."""
    refused = [result for result in results if isinstance(result, OutputError)]
    return [result for result in results if not isinstance(result, OutputError)], refused


def test_three_rows_added_at_once_are_three_rows(toy_recipe: Recipe, tmp_path: Path) -> None:
    recipe = make_recipe(toy_recipe.model_dump(exclude_none=True), ("training.epochs=1",))
    run = nextvec.train(recipe, out=tmp_path / "run", quiet=True).path
    # The start time in the events tells runs of one recipe apart.
    copies = [tmp_path / f"run-{number}" for number in range(3)]
    for number, copy in enumerate(copies):
        copy.mkdir()
        for file in run.iterdir():
            (copy / file.name).hardlink_to(file) if file.is_file() else None
        lines = [json.loads(line) for line in (run / EVENTS_FILE).read_text().splitlines()]
        lines[0]["time"] += number
        write_text(copy / EVENTS_FILE, "".join(json.dumps(line) + "\n" for line in lines))
    table = tmp_path / "board.md"
    at_once(lambda number: add_to_leaderboard(copies[number], table, device="cpu", name=f"row{number}"), 3)
    assert sorted(entry.name for entry in read_leaderboard(table).entries) == ["row0", "row1", "row2"]
    assert sum("| row" in line for line in table.read_text().splitlines()) == 3
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["board.json", "board.md"]


def test_two_runs_in_one_second_have_their_own_folders(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101_120000")
    folders = at_once(lambda _: make_run_folder(tmp_path / "runs" / "toy_{time}", toy_recipe), 4)
    assert sorted(folder.name for folder in folders) == [
        "toy_20260101_120000", "toy_20260101_120000_2", "toy_20260101_120000_3", "toy_20260101_120000_4",
    ]  # fmt: skip
    run = start_run(toy_recipe, tmp_path / "runs" / "toy_{time}", quiet=True)
    assert run.path.name == "toy_20260101_120000_5" and (run.path / "recipe.toml").is_file()
    run.close()


def test_two_runs_with_one_name_are_one_run_and_one_clear_line(toy_recipe: Recipe, tmp_path: Path) -> None:
    made, refused = split_results(at_once(lambda _: make_run_folder(tmp_path / "run", toy_recipe)))
    assert made == [tmp_path / "run"]
    assert str(refused[0]) == f"cannot write {tmp_path / 'run'}: it already exists; choose another output, or remove it"


def test_two_writers_of_a_file_never_mix_their_bytes(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(5):
            write_atomic(tmp_path / "file", lambda file: [file.write(b"%d" % number) for _ in range(1000)])

    at_once(write, 3)
    assert (tmp_path / "file").read_bytes() in {b"%d" % number * 1000 for number in range(3)}
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_two_exports_to_one_file_are_one_file(toy_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "windows.npz"
    made, refused = split_results(
        at_once(lambda number: nextvec.data_export(toy_store.path, out, split=("train", "val")[number], quiet=True))
    )
    assert made == [out] and "already exists" in str(refused[0])
    assert nextvec.data_import(out, tmp_path / "store", val=0.3, quiet=True).manifest["counts"]["windows"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("command", ["import", "synth", "build"])
def test_two_commands_that_make_one_store_make_it_once(
    command: str, toy_store: Store, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    if command == "import":
        nextvec.data_export(toy_store.path, tmp_path / "windows.npz", quiet=True)
    commands: dict[str, Callable[[int], Store]] = {
        "import": lambda _: nextvec.data_import(tmp_path / "windows.npz", out, quiet=True),
        "synth": lambda _: nextvec.data_synth(out, scale=0.1, quiet=True),
        "build": lambda _: nextvec.data_build(texts, out, dimensions=8, quiet=True),
    }
    made, refused = split_results(at_once(commands[command]))
    assert len(made) == 1, refused
    assert "another" in str(refused[0]) or "already exists" in str(refused[0])
    assert verify_store(out) and len(open_store(out).vectors) == len(made[0].vectors)
    assert not unfinished_folder(out).exists()


def test_a_sweep_refuses_a_second_process(toy_recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with (
        locked_folder(tmp_path / "sweep", "busy"),
        pytest.raises(OutputError, match=r"sweep .*sweep: another process is running it\. Wait until it ends\."),
    ):
        nextvec.sweep(toy_recipe, space=["training.lr=1e-4..1e-3"], out=tmp_path / "sweep", quiet=True)
    assert not list((tmp_path / "sweep").iterdir())


# The parts


def test_exclusive_lets_one_at_a_time_in_and_leaves_nothing(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(_: int) -> None:
        for _ in range(20):
            with exclusive(counter):
                value = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(value + 1))

    at_once(count, 4)
    assert counter.read_text() == "80"
    assert [file.name for file in tmp_path.iterdir()] == ["counter"]


def test_an_unfinished_folder_belongs_to_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "store.unfinished"
    with unfinished(folder, "busy"), pytest.raises(OutputError, match="busy"), unfinished(folder, "busy"):
        pass
    folder.mkdir(exist_ok=True)
    # What a killed process left is kept or discarded, as the caller asks.
    (folder / "part").mkdir()
    (folder / "part" / "file").write_text("old")
    with pytest.raises(OutputError, match="already exists"), unfinished(folder, "busy"):
        pass
    with unfinished(folder, "busy", discard=True):
        assert not list(folder.iterdir())
    with pytest.raises(ZeroDivisionError), unfinished(folder, "busy"):
        raise ZeroDivisionError
    assert not folder.exists()
