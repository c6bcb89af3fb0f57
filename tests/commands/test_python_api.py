"""The Python API: paths as str or Path, recipes and overrides in every form, results that show themselves."""

import inspect
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

import nextvec
from nextvec.cli import _show
from nextvec.core.overrides import override_lines
from nextvec.data.store import Store
from nextvec.errors import InputError, RecipeError
from nextvec.recipe import Recipe, load_recipe

AS = pytest.mark.parametrize("as_path", [str, Path], ids=["str", "Path"])
AsPath = Callable[[Any], Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_store: Store) -> Path:
    """A finished run of one epoch."""
    folder = tmp_path_factory.mktemp("api") / "run"
    values = {
        "name": "toy",
        "data": {"store": str(toy_store.path)},
        "training": {"epochs": 1, "batch_size": 32},
        "evaluation": {"resamples": 100, "ridge_windows": 1000},
    }
    nextvec.train(values, out=folder, quiet=True)
    return folder


@AS
def test_functions_on_stores_accept_str_and_path(as_path: AsPath, toy_store: Store, tmp_path: Path) -> None:
    rows = [
        {"id": f"{n}", "title": "t", "source": "s", "paragraphs": [f"Text {n} {k} " * 9 for k in range(8)]}
        for n in range(40)
    ]
    source = tmp_path / "notes.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = tmp_path / "val.txt"
    ids.write_text("1\n2\n3\n")
    built = nextvec.data_build(
        [as_path(source)], out=as_path(tmp_path / "s"), val_list=as_path(ids), dimensions=8, quiet=True
    )
    assert len(nextvec.open_store(as_path(tmp_path / "s")).documents) == len(built.documents) == 40
    nextvec.data_build(
        [as_path(source)], out=as_path(tmp_path / "m"), val_list=as_path(ids), dimensions=8, shard="1/1", quiet=True
    )
    assert nextvec.data_merge(as_path(tmp_path / "m"), quiet=True).manifest == built.manifest
    assert nextvec.data_copy(as_path(tmp_path / "m"), as_path(tmp_path / "copy"), quiet=True).copied
    assert nextvec.data_cache().to_dict() is not None
    exported = nextvec.data_export(as_path(toy_store.path), out=as_path(tmp_path / "w.npz"), quiet=True)
    assert exported == tmp_path / "w.npz"
    imported = nextvec.data_import(as_path(exported), out=as_path(tmp_path / "imported"), quiet=True)
    assert imported.path == tmp_path / "imported"
    assert nextvec.data_check(as_path(toy_store.path), ood_data=as_path(toy_store.path), quiet=True).findings
    assert nextvec.data_synth(as_path(tmp_path / "synthetic"), scale=0.2, quiet=True).synthetic
    assert nextvec.gates_suggest(as_path(toy_store.path), quiet=True).gates
    assert len(nextvec.open_index(as_path(toy_store.path))) == len(toy_store.vectors)
    pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    built = nextvec.index_build(as_path(toy_store.path), to=as_path(tmp_path / "db"), quiet=True)
    assert built.rows == len(nextvec.open_index(built.index)) == len(toy_store.vectors)


@AS
def test_functions_on_runs_accept_str_and_path(as_path: AsPath, run: Path, toy_store: Store, tmp_path: Path) -> None:
    assert nextvec.resume(as_path(run), quiet=True).path == run
    assert nextvec.eval(as_path(run), data=as_path(toy_store.path), quiet=True).verdict
    assert nextvec.diagnose(as_path(run)) is not None
    nextvec.compare([as_path(run)], data=[as_path(toy_store.path)], out=as_path(tmp_path / "c.md"), quiet=True)
    assert (tmp_path / "c.md").is_file()
    table = as_path(tmp_path / "board.md")
    assert nextvec.leaderboard_add(as_path(run), table=table).entries == nextvec.leaderboard_show(table=table).entries
    folder = as_path(tmp_path / "benchmark")
    assert "toy" in [task.name for task in nextvec.benchmark_add(as_path(toy_store.path), name="toy", out=folder).tasks]
    task = as_path(tmp_path / "benchmark" / "tasks" / "toy.toml")
    board = nextvec.benchmark_run([as_path(run)], tasks=[task], out=folder, device="cpu", quiet=True)
    assert board.results == nextvec.benchmark_show(out=folder).results
    assert len(nextvec.benchmark_tasks(out=folder).tasks) == 3
    assert len(nextvec.watch([as_path(run)], once=True).states) == 1
    assert [item["name"] for item in nextvec.runs(as_path(run), where="epochs > 0").runs] == [run.name]
    assert nextvec.load_model(as_path(run)).dimensions == toy_store.dimensions
    assert nextvec.read_events(run)


@AS
def test_functions_on_recipes_accept_str_and_path(as_path: AsPath, toy_recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(toy_recipe.to_toml())
    overrides = {"training.epochs": 1}
    assert nextvec.recipe_show(as_path(file), overrides).recipe.training.epochs == 1
    assert nextvec.train(as_path(file), overrides, out=as_path(tmp_path / "run"), quiet=True).path == tmp_path / "run"
    suite = nextvec.suite([as_path(file)], out=as_path(tmp_path / "suite"), overrides=overrides, quiet=True)
    assert suite.exit_code == 0


@AS
def test_functions_that_use_a_model_accept_str_and_path(
    as_path: AsPath, run: Path, toy_store: Store, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", toy_store.vectors[:3].astype(np.float32))
    vectors, model = as_path(tmp_path / "v.npy"), as_path(run)
    assert nextvec.predict(vectors, model=model, out=as_path(tmp_path / "p.npy")).path == tmp_path / "p.npy"
    # The encoder of a toy store is unknown, which is found after every path has been read.
    text, index = as_path(tmp_path / "a.txt"), as_path(toy_store.path)
    (tmp_path / "a.txt").write_text(
        "A first paragraph, which is long enough for a chunk.\n\nAnd a second one, which is just as long as the first."
    )
    with pytest.raises(InputError, match="encoder 'toy'"):
        nextvec.next(text, model=model, index=index)
    with pytest.raises(InputError, match="encoder 'toy'"):
        nextvec.generate(text, model=model, index=index)
    with pytest.raises(InputError, match="encoder 'toy'"):
        nextvec.score(text, model=model, out=as_path(tmp_path / "s.html"))
    assert nextvec.export(model, as_path(tmp_path / "m")).path == tmp_path / "m"
    with pytest.raises(InputError, match="Name it as owner/name"):
        nextvec.push(model, "no repository")


@AS
def test_a_list_of_paths_may_be_one_path(as_path: AsPath, run: Path, texts: Path, tmp_path: Path) -> None:
    for _ in range(2):  # a second call in the same process finds the same function
        assert [state.info.path for state in nextvec.watch(as_path(run), once=True).states] == [str(run)]
    nextvec.compare(as_path(run), out=as_path(tmp_path / "c.md"), quiet=True)
    store = nextvec.data_build(
        as_path(texts), as_path(tmp_path / "s"), dimensions=8, columns="title=headline", quiet=True
    )
    assert len(store.documents) == 20
    assert nextvec.read_events(as_path(run))[-1]["kind"] == "finished"


def test_no_module_hides_a_public_name() -> None:
    """The import of a submodule sets an attribute of the package: a function of that name could be used only once."""
    modules = {module.name for module in pkgutil.iter_modules(nextvec.__path__)}
    assert not modules & set(nextvec.__all__)
    for name in nextvec.__all__:
        first = getattr(nextvec, name)
        assert not inspect.ismodule(first) and getattr(nextvec, name) is first


def test_paths_in_a_result_become_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    class Result:
        def to_dict(self) -> dict[str, Any]:
            return {"run": Path("runs/a"), "files": [Path("b")]}

    _show(Result(), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"run": "runs/a", "files": ["b"]}


def test_every_public_function_is_called_with_both_kinds_of_paths() -> None:
    """New functions must join the tests above; three are too slow, and `plot` and `serve` need extras."""
    called = set()
    for test in (
        test_functions_that_use_a_model_accept_str_and_path,
        test_functions_on_stores_accept_str_and_path,
        test_functions_on_runs_accept_str_and_path,
        test_functions_on_recipes_accept_str_and_path,
    ):
        called |= set(inspect.unwrap(test).__code__.co_names)
    functions = {name for name in nextvec.__all__ if inspect.isfunction(getattr(nextvec, name))}
    assert functions - called == {"demo", "sweep", "rehearse", "plot", "load_recipe", "recipe_list", "serve"}


def test_a_recipe_is_a_name_a_path_a_dict_or_a_recipe(toy_recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(toy_recipe.to_toml())
    for recipe in (file, str(file), toy_recipe, toy_recipe.model_dump(exclude_none=True)):
        assert load_recipe(recipe) == toy_recipe
        assert load_recipe(recipe, ["training.epochs=9"]).training.epochs == 9
    assert load_recipe("demo").name == "demo"
    with pytest.raises(RecipeError, match=r"unknown recipe field 'training\.epoch'"):
        load_recipe({"training": {"epoch": 3}})


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=9", "data.store=a b", "model.query=true"],
        {"training.epochs": 9, "data.store": "a b", "model.query": True},
        {"training": {"epochs": 9}, "data": {"store": Path("a b")}, "model": {"query": True}},
    ],
    ids=["lines", "flat dict", "nested dict"],
)
def test_overrides_are_lines_or_a_dict(overrides: Any) -> None:
    recipe = load_recipe("demo", overrides)
    assert (recipe.training.epochs, recipe.data.store, recipe.model.query) == (9, "a b", True)


def test_override_values_keep_their_type() -> None:
    values = {"name": "7", "seed": 7, "gates": [{"epoch": 1, "metric": "val_gain", "green": 0.0}]}
    recipe = load_recipe("demo", values)
    assert (recipe.name, recipe.seed, recipe.gates[0].metric) == ("7", 7, "val_gain")
    assert override_lines("training.epochs=3") == ("training.epochs=3",)
    assert tomli_w.dumps({"value": "7"}).strip() == override_lines({"value": "7"})[0].replace("=", " = ", 1)


def test_results_show_themselves_in_a_notebook_and_as_pandas(run: Path, toy_store: Store) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is optional")
    for result in (
        nextvec.eval(run, quiet=True),
        nextvec.data_check(toy_store.path, quiet=True),
        nextvec.compare([run]),
    ):
        assert "<table" in result._repr_html_()
        tables = result.to_pandas()
        assert tables and all(isinstance(table, pandas.DataFrame) and len(table) for table in tables.values())
