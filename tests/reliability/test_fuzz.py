"""Whatever a user, or a file, may say: a result or one line with exit code 2; no traceback, no hang.

The quick counts run always; `pytest -m long` runs 10,000 cases, 2,500 of each kind.
"""

import functools
import importlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextvec import cli
from nextvec.data.npz.files import open_windows
from nextvec.data.readers import read_documents
from nextvec.errors import InputError, NextvecError
from nextvec.recipe import Recipe, load_recipe, make_recipe
from nextvec.recipe.schema import (
    DataRecipe,
    EvaluationRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    RuntimeRecipe,
    TrainingRecipe,
)

QUICK, LONG = 40, 2_500

ODD = st.sampled_from(
    ["", " ", "-", "--", "=", ".", "..", "a=b", "[", "{}", "nan", "inf", "-1", "1e999", "0x10", "true", "null", "\x00",
     "\n", "é", "\udce9", "x" * 5000, "[" * 300, "training.epochs", "data.store=", "gates=[{}]", "../etc/passwd", "%s"]
)  # fmt: skip
SECTIONS: dict[str, Any] = {
    "data": DataRecipe, "model": ModelRecipe, "objective": ObjectiveRecipe, "training": TrainingRecipe,
    "evaluation": EvaluationRecipe, "runtime": RuntimeRecipe,
}  # fmt: skip
FIELDS = st.sampled_from(
    [f"{name}.{field}" for name, kind in SECTIONS.items() for field in kind.model_fields] + list(Recipe.model_fields)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
OVERRIDES = st.lists(st.builds("{}={}".format, FIELDS | ODD, VALUES.map(str) | VALUES.map(repr) | ODD), max_size=4)


def counts(check: Callable[..., None], *strategies: Any, examples: int) -> None:
    """Run a check on so many drawn cases."""
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings(max_examples=examples, deadline=None, suppress_health_check=health, database=None)(
        given(*strategies)(check)
    )()


def many(test: Callable[..., None]) -> Callable[..., None]:
    """A test that takes how many examples to draw: few, or with the marker `long` many."""
    cases = [QUICK, pytest.param(LONG, marks=pytest.mark.long)]
    return pytest.mark.parametrize("examples", cases)(test)


def one_line_or_result(call: Callable[[], object]) -> None:
    """Nothing but an InputError of one line may come out of a call."""
    try:
        call()
    except InputError as error:
        assert str(error) and "\n" not in str(error)


@many
def test_recipes(examples: int, tmp_path: Path) -> None:
    """Fields of any value, files of any text, overrides of any words."""
    file = tmp_path / "x.toml"

    def check(values: dict[str, Any], text: str, overrides: list[str], field: str, value: Any) -> None:
        one_line_or_result(lambda: make_recipe(values))
        section, _, name = field.partition(".")
        one_line_or_result(lambda: make_recipe({section: {name: value} if name else value}))
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        one_line_or_result(lambda: load_recipe(str(file), overrides))
        one_line_or_result(lambda: load_recipe("demo", overrides))

    keys = st.dictionaries(st.sampled_from([*Recipe.model_fields]) | st.text(max_size=8), VALUES, max_size=4)
    counts(check, keys, st.text(max_size=80), OVERRIDES, FIELDS, VALUES, examples=examples)


def without_work(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with the same parameters that does nothing: only its command line is tested."""

    @functools.wraps(command)
    def stub(*arguments: Any, **options: Any) -> Path:
        return Path("done")

    return stub


@many
def test_command_lines(examples: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = {name: target for group in cli.COMMANDS.values() for name, target in group.items()}
    words = sorted({word for name in commands for word in name.split()})
    options = [
        "--out",
        "--quiet",
        "--force",
        "--data",
        "--json",
        "--context",
        "--val",
        "--help",
        "--lr",
        "--epochs",
        "--x",
    ]
    for target in commands.values():
        module, _, function = f"nextvec.commands.{target}".partition(":")
        original = getattr(importlib.import_module(module), function)
        monkeypatch.setattr(f"{module}.{function}", without_work(original))

    def check(command: str, rest: list[str]) -> None:
        try:
            code = cli.main([*command.split(), *rest])
        except SystemExit as stop:
            code = int(stop.code or 0)
        error = capsys.readouterr().err
        assert code in (0, 2), (code, error[-500:])
        assert "Traceback" not in error and "internal error" not in error

    rest = st.lists(
        st.sampled_from([*words, *options]) | ODD | st.text(max_size=12) | st.integers().map(str), max_size=5
    )
    counts(check, st.sampled_from([*commands, *words, ""]), rest, examples=examples)


@many
def test_lines_of_json(examples: int, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    names = st.sampled_from(["id", "title", "text", "paragraphs", "source", "group", "other"])
    rows = st.dictionaries(names, VALUES, max_size=5)

    def check(rows: list[Any], junk: bytes, place: int) -> None:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        place %= len(content) + 1
        file.write_bytes(content[:place] + junk + content[place:])
        one_line_or_result(lambda: [document.paragraphs for document in read_documents(str(file))])

    junk = st.binary(max_size=6) | st.sampled_from([b"", b"[" * 5000, b"{" * 5000, b"9" * 5000, b"\xef\xbb\xbf"])
    counts(check, st.lists(rows | VALUES, max_size=4), junk, st.integers(0, 500), examples=examples)


@many
def test_headers_of_npz(examples: int, tmp_path: Path) -> None:
    """Shapes, types and bytes that lie; members with any flag."""
    file = tmp_path / "x.npz"
    shapes = st.lists(st.integers(-2, 9) | st.sampled_from([2**31, 2**62, 2**63, 10**20]), max_size=4).map(tuple)
    types_ = st.sampled_from(
        ["<f4", "<f2", "<f8", "|O", "<i8", "<U3", "|V9", ">f4", "<m8", "?", "|S0", "[('a','<f4')]"]
    )

    def check(shape: tuple[int, ...], other: tuple[int, ...], kind: str, order: bool, junk: bytes, place: int) -> None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", place % 2 and zipfile.ZIP_DEFLATED) as archive:
            for name, is_long in (
                ("context_sequences", shape),
                ("target_vectors", other),
                ("article_index", other[:1]),
            ):
                header = repr({"descr": kind, "fortran_order": order, "shape": is_long}).encode()
                array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
                archive.writestr(f"{name}.npy", array)
        raw = content.getvalue()
        place %= len(raw)
        file.write_bytes(raw[:place] + junk + raw[place + len(junk) :])
        one_line_or_result(lambda: open_windows(file))

    junk = st.binary(max_size=4)
    counts(check, shapes, shapes, types_, st.booleans(), junk, st.integers(0, 5000), examples=examples)


def test_sound_npz_files_pass_the_fuzzed_door(tmp_path: Path) -> None:
    """Or the fuzz above would only show that everything is refused."""
    np.savez(tmp_path / "x.npz", context_sequences=np.ones((3, 5, 4), "f4"), target_vectors=np.ones((3, 4), "f4"))
    assert open_windows(tmp_path / "x.npz").windows == 3
    assert issubclass(InputError, NextvecError)
