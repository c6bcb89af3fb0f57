"""Every flag of the original trainer is taken, or answered by name."""

import dataclasses
from pathlib import Path

import pytest

from nextvec.cli import main
from nextvec.commands.original_flags import UNSUPPORTED_FLAGS
from nextvec.commands.train import TrainerFlags
from nextvec.core.gate_metrics import GATE_METRICS
from nextvec.recipe import load_recipe

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


@pytest.mark.parametrize("flag", UNSUPPORTED_FLAGS)
def test_a_flag_is_refused_with_one_line_that_answers_it(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([flag, "0.5"], [f"{flag}=0.5"], ["--epochs", "3", flag]):
        assert main(["train", "amn-790k-production", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"nextvec: train: {flag} of the original trainer is not supported. In nextvec: ")
        assert UNSUPPORTED_FLAGS[flag] in line


def test_the_table_has_every_other_flag_and_is_in_the_reference() -> None:
    """The original trainer has 60 flags; --output-dir is an alias, --ood-data and --init-from are additions."""
    taken = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainerFlags)}
    assert not taken & set(UNSUPPORTED_FLAGS)
    assert len(taken - {"--ood-data", "--init-from"} | {"--output-dir"}) + len(UNSUPPORTED_FLAGS) == 60
    text = REFERENCE.read_text()
    assert all(f"| `{flag}` | {answer} |" in text for flag, answer in UNSUPPORTED_FLAGS.items())


def test_the_answers_name_fields_and_metrics_that_exist() -> None:
    answers = " ".join(UNSUPPORTED_FLAGS.values())
    for section, model in load_recipe("demo"):
        fields = type(model).model_fields if hasattr(model, "model_dump") else {}
        for word in answers.replace("=", " ").replace(",", " ").replace(")", " ").replace(";", " ").split():
            if word.startswith(f"{section}."):
                assert word.partition(".")[2] in fields, word
    assert "val_margin" in answers and "val_margin" in GATE_METRICS


def test_other_commands_do_not_know_these_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list", "--lambda-dir"]) == 2
    assert "original trainer" not in capsys.readouterr().err
