"""A recipe is complete, described, frozen; whatever is wrong with one is told in one line that names the field."""

import copy
import json
import re
import string
import tomllib
from functools import partial
from typing import Annotated, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from nextvec.core.gate_metrics import GATE_METRICS
from nextvec.errors import InputError, RecipeError
from nextvec.recipe import Recipe, find_recipe, load_recipe, make_recipe
from nextvec.recipe import load as recipe_module


def sections() -> dict[str, type[BaseModel]]:
    """The recipe itself and its sections, by the name that leads to their fields."""
    found: dict[str, type[BaseModel]] = {"": Recipe}
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[f"{name}."] = field.annotation
    return found


FIELDS = [
    (f"{section}{name}", field)
    for section, model in sections().items()
    for name, field in model.model_fields.items()
    if f"{name}." not in sections()
]


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_field_has_a_sentence_and_a_default(name, field):
    assert field.description and field.description.rstrip().endswith("."), f"{name} lacks a sentence"
    assert not field.is_required(), f"{name} lacks a default"


def test_every_section_has_a_docstring_and_refuses_unknown_fields():
    for model in sections().values():
        assert model.__doc__ and model.model_config["extra"] == "forbid" and model.model_config["frozen"]


def test_recipes_are_frozen():
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.seed = 1
    with pytest.raises(ValidationError):
        recipe.training.epochs = 1


# What users get wrong.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training": {"epoch": 3}}, "unknown recipe field 'training.epoch'. Did you mean 'epochs'?"),
        ({"trainning": {}}, "unknown recipe field 'trainning'. Did you mean 'training'?"),
        (
            {"objective": {"xyz": 1}},
            "unknown recipe field 'objective.xyz'. Known: info_nce, info_nce_block, loss_weighting",
        ),
        ({"training": {"epochs": "3"}}, "training.epochs: input should be a valid integer, got '3'"),
        ({"training": {"epochs": 3.0}}, "training.epochs: input should be a valid integer, got 3.0"),
        ({"training": {"epochs": True}}, "training.epochs: input should be a valid integer, got True"),
        ({"training": {"epochs": 0}}, "training.epochs: input should be greater than 0, got 0"),
        ({"training": {"batch_size": 1}}, "training.batch_size: input should be greater than or equal to 2, got 1"),
        ({"training": {"lr": float("nan")}}, "training.lr: input should be"),
        ({"training": {"lr": float("inf")}}, "training.lr: input should be a finite number, got inf"),
        ({"training": {"schedule": "cosin"}}, "training.schedule: input should be 'cosine', 'plateau' or 'constant'"),
        ({"training": 3}, "training: input should be a valid dictionary"),
        ({"model": {"dropout": 1.0}}, "model.dropout: input should be less than 1, got 1.0"),
        ({"objective": {"tau": 0.0}}, "objective.tau: input should be greater than 0, got 0.0"),
        ({"objective": {"mse": -1.0}}, "objective.mse: input should be greater than or equal to 0, got -1.0"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0, got -1"),
        ({"data": {"min_context": 0}}, "data.min_context: input should be greater than 0, got 0"),
        (
            {"objective": {"mse": 0.0}},
            "objective: all weights are zero: nothing to learn; give mse or info_nce a weight",
        ),
        ({"name": 3}, "name: input should be a valid string, got 3"),
    ],
)
def test_bad_values_are_one_line_that_names_the_field(values, message):
    with pytest.raises(RecipeError) as raised:
        make_recipe(values, where="recipe x.toml")
    assert str(raised.value).startswith(f"recipe x.toml: {message}"), str(raised.value)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 2


def test_long_values_are_cut_in_messages():
    with pytest.raises(RecipeError) as raised:
        make_recipe({"seed": "x" * 10_000})
    assert len(str(raised.value)) < 200


# Overrides.


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("training.epochs=3", "training", "epochs", 3),
        ("training.lr=1e-4", "training", "lr", 1e-4),
        ("training.lr=1", "training", "lr", 1.0),
        (" training.epochs = 3 ", "training", "epochs", 3),
        ("training.schedule=plateau", "training", "schedule", "plateau"),
        ('training.schedule="plateau"', "training", "schedule", "plateau"),
        ("training.keep_epochs=false", "training", "keep_epochs", False),
        ("data.store=stores/wiki=1", "data", "store", "stores/wiki=1"),
        ("data.store=", "data", "store", ""),
        ("data.store=C:\\data", "data", "store", "C:\\data"),
    ],
)
def test_overrides_are_toml_or_else_text(override, section, field, value):
    assert getattr(getattr(make_recipe({}, [override]), section), field) == value


def test_overrides_reach_the_top_win_over_the_file_and_the_last_one_counts():
    recipe = make_recipe(
        {"training": {"epochs": 9, "batch_size": 7}}, ["training.epochs=3", "seed=5", "training.epochs=4"]
    )
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.seed) == (4, 7, 5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "override 'training.epochs': write it as section.field=value, such as training.epochs=3"),
        ("=3", "override '=3': write it as section.field=value"),
        ("training.epoch=3", "recipe: unknown recipe field 'training.epoch'. Did you mean 'epochs'?"),
        ("training.lr=fast", "recipe: training.lr: input should be a valid number, got 'fast'"),
        ("seed.x=3", "override 'seed.x=3': 'seed' is a value, not a section of the recipe"),
        ("training=3", "recipe: training: input should be a valid dictionary"),
    ],
)
def test_bad_overrides_are_one_line(override, message):
    with pytest.raises(RecipeError) as raised:
        make_recipe({"seed": 1}, [override])
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def test_the_values_given_are_left_as_they_were():
    values = {"training": {"epochs": 9}}
    before = copy.deepcopy(values)
    make_recipe(values, ["training.epochs=3", "seed=5", "data.context=7"])
    assert values == before


# TOML there and back.


GATES = st.lists(
    st.fixed_dictionaries(
        {
            "epoch": st.integers(1, 50) | st.lists(st.integers(1, 50), min_size=1),
            "metric": st.sampled_from([*GATE_METRICS]),
        },
        optional={"green": st.floats(-1, 1), "red": st.floats(-1, 1), "action": st.sampled_from(["warn", "stop"])},
    )
)


def values_of(annotation) -> st.SearchStrategy:
    """Values of a field's type; what its bounds refuse is left out later."""
    parts = get_args(annotation)
    if type(None) in parts:
        return values_of(next(part for part in parts if part is not type(None)))
    if get_origin(annotation) is Literal:
        return st.sampled_from(parts)
    base = (get_origin(annotation) is Annotated and parts[0]) or annotation
    if get_origin(base) is tuple:
        return GATES
    return {
        bool: st.booleans(),
        int: st.integers(1, 50_000),
        float: st.floats(0, 0.999) | st.sampled_from([5e-324, 1e-300, 0.1 + 0.2]),
        str: st.text(max_size=12) | st.text(string.printable, max_size=12),
    }[base]


def nested(name: str, value) -> dict:
    """The field as nested values."""
    *section, field = name.split(".")
    return {section[0]: {field: value}} if section else {field: value}


def is_sound(name: str, value) -> bool:
    try:
        make_recipe(nested(name, value))
    except RecipeError:
        return False
    return True


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_toml_round_trip(data):
    values: dict = {"data": {"context": 50_000}, "objective": {"mse": 1.0}}  # whatever else is drawn fits these
    for name, field in FIELDS:
        if name not in ("data.context", "objective.mse") and data.draw(st.booleans(), label=name):
            value = data.draw(values_of(field.annotation).filter(partial(is_sound, name)), label=name)
            for section, fields in nested(name, value).items():
                values[section] = {**values.get(section, {}), **fields} if isinstance(fields, dict) else fields
    recipe = make_recipe(values)
    again = make_recipe(tomllib.loads(recipe.to_toml()))
    assert again == recipe and again.recipe_hash == recipe.recipe_hash


def test_a_file_is_read_and_named_by_its_stem(tmp_path):
    path = tmp_path / "my-run.toml"
    path.write_text("[training]\nepochs = 3\n", encoding="utf-8")
    recipe = load_recipe(str(path), ["seed=4"])
    assert (recipe.name, recipe.training.epochs, recipe.seed) == ("my-run", 3, 4)
    path.write_text('name = "other"\n', encoding="utf-8")
    assert load_recipe(str(path)).name == "other"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[training\nepochs = 3", "not valid TOML"),
        (b"epochs = \xff", "not valid UTF-8 (byte 9)"),
        (b"[training]\nepoch = 3", "unknown recipe field 'training.epoch'. Did you mean 'epochs'?"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, content, words):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as raised:
        load_recipe(str(path))
    assert str(raised.value).startswith(f"recipe {path}: ") and words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_files_and_unknown_names(tmp_path, monkeypatch):
    (tmp_path / "wiki-minilm.toml").write_text("", encoding="utf-8")
    monkeypatch.setattr(recipe_module, "recipe_folders", lambda: (tmp_path, tmp_path / "none"))
    assert find_recipe("wiki-minilm") == tmp_path / "wiki-minilm.toml"
    with pytest.raises(RecipeError, match=re.escape("recipe 'wiki-minlm' is unknown. Did you mean 'wiki-minilm'?")):
        load_recipe("wiki-minlm")
    with pytest.raises(InputError, match=r"x\.toml: no such file"):
        load_recipe(str(tmp_path / "x.toml"))
    with pytest.raises(RecipeError, match="unknown"):
        load_recipe(str(tmp_path))


def test_every_recipe_that_comes_with_nextvec_is_sound_and_described():
    folders = [folder for folder in recipe_module.recipe_folders() if folder.is_dir()]
    for path in [path for folder in folders for path in folder.glob("*.toml")]:
        recipe = load_recipe(path.stem)
        assert recipe.name == path.stem and recipe.description.endswith("."), path


# A recipe that extends another.


def test_a_recipe_that_extends_another_holds_only_what_is_different(tmp_path):
    (tmp_path / "base.toml").write_text(
        'description = "Base."\n[objective]\nmse = 0.5\ninfo_nce = 0.5\n'
        '[[gates]]\nepoch = 1\nmetric = "val_gain"\ngreen = 0.0\n'
    )
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[objective]\ninfo_nce = 0.0\n[training]\nepochs = 2\n')
    recipe = load_recipe(str(tmp_path / "mine.toml"), ["training.epochs=4"])
    assert (recipe.name, recipe.description) == ("mine", ""), "what a recipe is called is not inherited"
    assert (recipe.objective.mse, recipe.objective.info_nce, recipe.training.epochs) == (0.5, 0.0, 4)
    assert len(recipe.gates) == 1
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\ngates = []\n')
    assert load_recipe(str(tmp_path / "mine.toml")).gates == ()


def test_what_is_extended_must_exist_and_not_come_back(tmp_path):
    (tmp_path / "one.toml").write_text('extends = "two.toml"\n')
    (tmp_path / "two.toml").write_text('extends = "one.toml"\n')
    for text, message in (
        (None, r"one\.toml: .*|two\.toml: extends one\.toml, which extends it in turn"),
        ('extends = "demoo"', "recipe 'demoo' is unknown. Did you mean 'demo'?"),
        ("extends = 3", "extends: give the name or the path of another recipe, got 3"),
    ):
        if text:
            (tmp_path / "one.toml").write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(str(tmp_path / "one.toml"))


def test_the_production_family_differs_only_where_it_says():
    production = load_recipe("amn-790k-production")
    for name, kind in (("gru-790k", "gru"), ("lstm-790k", "lstm"), ("transformer-790k", "transformer")):
        recipe = load_recipe(name)
        assert recipe.model.kind == kind
        same = {"model": production.model, "name": production.name, "description": production.description}
        same["training"] = recipe.training.model_copy(update={"lr": production.training.lr})
        assert recipe.model_copy(update=same) == production
    assert load_recipe("amn-790k-unbalanced").objective.loss_weighting == "raw"
    assert load_recipe("amn-790k-broken-mse-only").objective.weights == {"mse": 1.0}


# Gates.


def gate(**fields) -> dict:
    return {"gates": [{"epoch": 3, "metric": "val_cosine", "green": 0.5, "red": 0.4, **fields}]}


def test_a_gate_may_stand_at_one_epoch_or_at_many():
    assert make_recipe(gate()).gates[0].epoch == (3,)
    assert make_recipe(gate(epoch=[3, 6])).gates[0].epoch == (3, 6)
    assert make_recipe(gate(), ["gates=[]"]).gates == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "val_cosin"}, "gates.0: metric 'val_cosin' is unknown. Did you mean 'val_cosine'?"),
        ({"green": 0.3}, "gates.0: green is 0.3 and red 0.4, but higher val_cosine is better: swap them"),
        ({"metric": "val_loss"}, "gates.0: green is 0.5 and red 0.4, but lower val_loss is better: swap them"),
        ({"colour": 1}, "unknown recipe field 'gates.0.colour'. Known: action, advice, epoch, green, metric, red."),
        ({"epoch": 0}, "gates.0.epoch.0: input should be greater than 0, got 0"),
        ({"epoch": []}, "gates.0.epoch: value should have at least 1 item"),
        ({"action": "abort"}, "gates.0.action: input should be 'warn' or 'stop', got 'abort'"),
    ],
)
def test_bad_gates_are_one_line(fields, message):
    with pytest.raises(RecipeError, match="^recipe: " + re.escape(message)):
        make_recipe(gate(**fields))


def test_a_gate_needs_a_threshold():
    for fields in (
        {"epoch": 3, "metric": "val_gain"},
        {"epoch": 3, "metric": "val_gain", "green": 0, "action": "stop"},
    ):
        with pytest.raises(RecipeError, match=r"gates\.0: a gate "):
            make_recipe({"gates": [fields]})


# The recipe hash.


@pytest.mark.parametrize("override", ["name=x", "description=y", "runtime.device=cuda", "runtime.threads=3"])
def test_the_recipe_hash_ignores_what_does_not_change_the_result(override):
    assert make_recipe({}, [override]).recipe_hash == Recipe().recipe_hash


@pytest.mark.parametrize(
    "override",
    ["seed=1", "data.store=x", "training.lr=0.1", "objective.tau=0.1", "model.kind=gru", "evaluation.queries=5"],
)
def test_the_recipe_hash_sees_what_does(override):
    assert make_recipe({}, [override]).recipe_hash != Recipe().recipe_hash


def test_the_recipe_hash_is_stable_text():
    assert re.fullmatch(r"[0-9a-f]{16}", Recipe().recipe_hash)
    again = Recipe.model_validate_json(json.dumps(Recipe().model_dump()))
    assert again.recipe_hash == Recipe().recipe_hash
