"""Each form of a search space is parsed, and malformed ones are rejected in one line."""

import pytest

from nextvec.errors import RecipeError
from nextvec.experiments.search_space import Dimension, parse_space


def test_each_form_of_a_dimension_is_parsed():
    space = parse_space(
        ["training.lr=1e-4..1e-2:log", "model.dropout=0..0.5", "training.epochs=2..8", "training.batch_size=128, 256"]
    )
    assert space == (
        Dimension("training.lr", (), 1e-4, 1e-2, log=True),
        Dimension("model.dropout", (), 0, 0.5),
        Dimension("training.epochs", (), 2, 8, integer=True),
        Dimension("training.batch_size", ("128", "256")),
    )
    assert space[0].bounds == ("training.lr=0.0001", "training.lr=0.01")
    assert space[2].bounds == ("training.epochs=2", "training.epochs=8")
    assert space[3].bounds == ("training.batch_size=128", "training.batch_size=256")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "--space: missing"),
        (["training.lr"], "write field=low..high"),
        (["lr=1..2"], "write field=low..high"),
        (["training.lr="], "write field=low..high"),
        (["training.lr=3"], "at least two different values"),
        (["training.lr=3,3"], "at least two different values"),
        (["training.lr=1..x"], "both bounds must be numbers"),
        (["training.lr=1..2..3"], "both bounds must be numbers"),
        (["training.lr=2..1"], "the bounds must be finite, and the first one below the second"),
        (["training.lr=1..inf"], "the bounds must be finite, and the first one below the second"),
        (["training.lr=0..1:log"], "bounds of a log scale must be above zero"),
        (["training.lr=1..2:ln"], "unknown scale 'ln'"),
        (["training.lr=1..2", "training.lr=3..4"], "training.lr is repeated"),
    ],
)
def test_a_malformed_space_is_rejected(texts, message):
    with pytest.raises(RecipeError, match=message) as raised:
        parse_space(texts)
    assert "\n" not in str(raised.value)
