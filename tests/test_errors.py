"""Messages of other packages inside our own lines."""

import pytest

from nextvec.errors import one_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("The file is corrupted.", "The file is corrupted"),  # a sentence of ours follows it
        ("first\n  second.\n", "first second"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("", "ValueError"),
        ("x" * 400, "x" * 300 + "…"),
    ],
)
def test_the_message_of_another_package_fits_into_a_sentence(message, line):
    assert one_line(ValueError(message)) == line
