"""Benchmarks are not run by the tests, so every nextvec name and recipe field that they use must exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from nextvec.errors import NextvecError
from nextvec.recipe import Recipe, make_recipe
from nextvec.training.run import Run, TrainingState

BENCH = Path(__file__).parents[1] / "bench"
SCRIPTS = sorted(BENCH.glob("*.py"))
OVERRIDE = re.compile(r"(model|data|objective|training|evaluation|runtime)\.\w+=[\w.]+")
RUN_NAMES = {"run", "with_query", "without", "small", "opened", "uninterrupted", "resumed"}
INSTANCE_ATTRIBUTES = {"guard", "prediction_parameters", "query_parameters", "limit"}
"""Attributes of a run that are set outside its class: by `__post_init__`, and `limit` by the benchmarks."""


def imported_objects(tree: ast.Module) -> dict[str, Any]:
    """Import the nextvec and bench names of a script and return them by local name; fail if one is missing."""
    objects: dict[str, Any] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        for name in node.names:
            if (BENCH / f"{node.module}.py").exists():
                # Another bench script: its names are compared without running it.
                assert name.name in top_level_names(node.module), f"line {node.lineno}: {node.module}.{name.name}"
            elif node.module.split(".")[0] == "nextvec":
                objects[name.asname or name.name] = import_name(node.module, name.name)
    return objects


def import_name(module: str, name: str) -> Any:
    """Return `module.name`, an attribute or a submodule."""
    package = importlib.import_module(module)
    if hasattr(package, name):
        return getattr(package, name)
    assert importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name} does not exist"
    return importlib.import_module(f"{module}.{name}")


def top_level_names(script: str) -> set[str]:
    """Return the names that a bench script defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse((BENCH / f"{script}.py").read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {item.id for target in node.targets for item in ast.walk(target) if isinstance(item, ast.Name)}
    return names


def attribute_chain(node: ast.Attribute) -> list[str]:
    """Return the names of `a.b.c`; empty if it does not start with a name."""
    names: list[str] = []
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        value = value.value
    return [value.id, *reversed(names)] if isinstance(value, ast.Name) else []


def has_field(model: Any, names: list[str]) -> bool:
    """Return whether a recipe section has the field `a.b.c`; attributes of plain values are not checked."""
    if not names or not (isinstance(model, type) and issubclass(model, BaseModel)):
        return True
    field = model.model_fields.get(names[0])
    return hasattr(model, names[0]) if field is None else has_field(field.annotation, names[1:])


def exists(names: list[str], objects: dict[str, Any]) -> bool:
    """Return whether an attribute chain exists: of an imported module, or of a run, its state or its recipe."""
    first, attribute, *rest = names
    if isinstance(objects.get(first), ModuleType):
        return hasattr(objects[first], attribute)
    if first not in RUN_NAMES:
        return True
    if attribute == "recipe":
        return has_field(Recipe, rest)
    if attribute == "state" and rest:
        return rest[0] in {field.name for field in fields(TrainingState)} or hasattr(TrainingState, rest[0])
    run_fields = {field.name for field in fields(Run)}
    return attribute in run_fields | INSTANCE_ATTRIBUTES or hasattr(Run, attribute)


def test_scripts_are_found() -> None:
    assert {"common", "gpu", "throughput"} <= {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_used_names_exist(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path))
    compile(tree, str(path), "exec")
    objects = imported_objects(tree)
    chains = [(node.lineno, attribute_chain(node)) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    missing = [f"line {line}: {'.'.join(names)}" for line, names in chains if names and not exists(names, objects)]
    assert missing == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_recipe_overrides_are_valid(path: Path) -> None:
    strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    for override in strings:
        if isinstance(override, str) and OVERRIDE.fullmatch(override):
            make_recipe({"name": "bench", "data": {"store": "store"}}, [override])


@pytest.mark.parametrize(
    "names", [["run", "result"], ["run", "recipe", "training", "batch"], ["run", "state", "total"]]
)
def test_missing_attributes_are_detected(names: list[str]) -> None:
    assert not exists(names, {})


def test_unknown_override_is_detected() -> None:
    with pytest.raises(NextvecError):
        make_recipe({"name": "bench", "data": {"store": "store"}}, ["training.batch=32"])
