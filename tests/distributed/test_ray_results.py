"""Errors of Ray tasks keep their class, exit code and message on the way to the user."""

import json

import pytest

from nextvec.core.object_storage import MissingFileError
from nextvec.distributed.process_group import ProcessLostError
from nextvec.distributed.ray_results import as_result, error_values, raise_error
from nextvec.errors import MissingExtraError, NotFiniteError, StoppedError


@pytest.mark.parametrize(
    "error",
    [
        StoppedError("gate: red"),
        NotFiniteError("loss: NaN"),
        MissingExtraError("ray", "ray", "this test"),
        MissingFileError("s3://a/b: does not exist"),  # a class of another module than nextvec.errors
        ProcessLostError("lost"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_class_and_message(error):
    with pytest.raises(type(error)) as caught:
        raise_error(json.loads(json.dumps(error_values(error))))
    assert type(caught.value) is type(error)
    assert (str(caught.value), caught.value.exit_code) == (str(error), error.exit_code)


def test_any_other_error_is_an_internal_one():
    with pytest.raises(RuntimeError, match=r"^ZeroDivisionError: division by zero$"):
        raise_error(as_result(lambda: 1 / 0)())


def test_a_value_raises_nothing():
    result = as_result(lambda: 3)()
    raise_error(result)
    assert result == {"value": 3}
