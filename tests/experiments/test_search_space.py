"""The words of a search space: what they mean, and which are refused in one line."""

import pytest

from nextvec.errors import RecipeError
from nextvec.experiments.search_space import Dimension, parse_space


def test_what_each_form_means():
    found = parse_space(
        ["training.lr=1e-4..1e-2:log", "model.dropout=0..0.5", "training.epochs=2..8", "training.batch_size=128, 256"]
    )
    assert found == (
        Dimension("training.lr", (), 1e-4, 1e-2, log=True),
        Dimension("model.dropout", (), 0, 0.5),
        Dimension("training.epochs", (), 2, 8, whole=True),
        Dimension("training.batch_size", ("128", "256")),
    )
    assert found[0].ends == ("training.lr=0.0001", "training.lr=0.01")
    assert found[2].ends == ("training.epochs=2", "training.epochs=8")
    assert found[3].ends == ("training.batch_size=128", "training.batch_size=256")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a sweep needs a space"),
        (["training.lr"], "write field=low..high"),
        (["lr=1..2"], "write field=low..high"),
        (["training.lr="], "write field=low..high"),
        (["training.lr=3"], "at least two different values"),
        (["training.lr=3,3"], "at least two different values"),
        (["training.lr=1..x"], "both ends of a range must be numbers"),
        (["training.lr=1..2..3"], "both ends of a range must be numbers"),
        (["training.lr=2..1"], "the first end must be below the second"),
        (["training.lr=1..inf"], "the first end must be below the second"),
        (["training.lr=0..1:log"], "a log scale begins above zero"),
        (["training.lr=1..2:ln"], "'ln' is no scale"),
        (["training.lr=1..2", "training.lr=3..4"], "training.lr is named twice"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(RecipeError, match=message) as raised:
        parse_space(words)
    assert "\n" not in str(raised.value)
