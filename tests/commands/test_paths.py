"""Paths of every command: ``~`` is the home folder, and an empty path is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from nextvec.cli import COMMANDS, main
from nextvec.commands.parameters import command, path_parameters
from nextvec.core.paths import expand_path
from nextvec.errors import InputError, RecipeError
from nextvec.recipe import load_recipe, make_recipe

TARGETS = [target.split(":") for commands in COMMANDS.values() for target in commands.values()]
FUNCTIONS = {name: getattr(import_module(f"nextvec.commands.{module}"), name) for module, name in TARGETS}
CASES = [(name, parameter) for name, function in FUNCTIONS.items() for parameter in sorted(path_parameters(function))]


def spy(function: Callable[..., Any], received: dict[str, Any]) -> Callable[..., Any]:
    """A command with the signature of `function` that stores its arguments instead of working."""

    original = inspect.unwrap(function)

    def body(*args: Any, **kwargs: Any) -> None:
        received.update(inspect.signature(original).bind(*args, **kwargs).arguments)

    body.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    body.__annotations__ = get_type_hints(original, include_extras=True)
    return command()(body)


def required(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: "x" for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL}


def test_every_parameter_with_the_name_of_a_path_is_one() -> None:
    words = {"out", "recipe", "recipes", "run", "runs", "store", "data", "ood_data", "table", "train", "checkpoint"}
    words |= {"val_file", "ood_file", "val_list", "ood_list", "vectors", "sources", "model"}
    for name, function in FUNCTIONS.items():
        named = words & inspect.signature(function).parameters.keys()
        if name == "data_synth":
            named.discard("vectors")  # a number
        assert named <= path_parameters(function), name
    assert len(CASES) > 30


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_the_home_folder_is_expanded_in_every_path(
    name: str, parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    function = FUNCTIONS[name]
    received: dict[str, Any] = {}
    for value, expected in (
        ("~/x", f"{tmp_path}/x"),
        (Path("~/x"), tmp_path / "x"),
        (["~/x", Path("~")], (f"{tmp_path}/x", tmp_path)),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("x/~", "x/~"),
    ):
        spy(function, received)(**required(function) | {parameter: value})
        assert received[parameter] == expected
    with pytest.raises(InputError, match=f"{parameter}: the path is empty. Name a file or folder, or leave it out."):
        spy(function, received)(**required(function) | {parameter: ""})


def test_the_command_line_expands_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["data", "check", "~/none"]) == 2
    assert f"{tmp_path}/none" in capsys.readouterr().err
    assert main(["data", "build", "", "--out", "x"]) == 2
    assert capsys.readouterr().err == "nextvec: sources: the path is empty. Name a file or folder, or leave it out.\n"


def test_a_dataset_in_a_folder_of_the_hub_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_path("hf:~/data:en", "sources") == "hf:/home/me/data:en"
    assert expand_path("hf:owner/name", "sources") == "hf:owner/name"
    assert expand_path({"name": "a recipe"}, "recipe") == {"name": "a recipe"}


def test_paths_of_recipes_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.toml").write_text('name = "base"\n[data]\nstore = "~/s"\nood = "~/o.npz"\n')
    (tmp_path / "r.toml").write_text('extends = "~/base.toml"\n[training]\ninit_from = "~/c.pt"\n')
    recipe = load_recipe("~/r.toml")
    assert (recipe.data.store, recipe.data.ood) == (f"{tmp_path}/s", f"{tmp_path}/o.npz")
    assert recipe.training.init_from == f"{tmp_path}/c.pt"
    assert load_recipe("~/r.toml", ["data.store=~/t"]).data.store == f"{tmp_path}/t"


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "marked"\r\n')
    assert load_recipe(path).name == "marked"
    path.write_bytes('name = "x"\n'.encode("utf-16"))
    with pytest.raises(RecipeError, match=r"r\.toml: not valid UTF-8 \(byte 0\). Save the file as UTF-8.$"):
        load_recipe(path)


def test_names_that_a_recipe_cannot_contain_are_refused() -> None:
    for name in ("", " "):
        with pytest.raises(RecipeError, match="name: the name is empty"):
            make_recipe({"name": name})
    with pytest.raises(RecipeError, match=r"data.store: 'caf\\xe9' is not valid UTF-8, which recipe files require"):
        make_recipe({"data": {"store": "caf\udce9"}})
