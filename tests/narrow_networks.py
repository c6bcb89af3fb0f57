"""Narrow recurrent networks and transformers, for tests whose subject is not their size."""

from collections.abc import Callable
from types import ModuleType

from nextvec.models import published, recurrent, transformer

WIDTHS = {
    published: {"RECURRENT_HIDDEN": 32, "TRANSFORMER_HIDDEN": 32, "FEED_FORWARD": 64},
    recurrent: {"RECURRENT_HIDDEN": 32},
    transformer: {"TRANSFORMER_HIDDEN": 32, "FEED_FORWARD": 64},
}
"""Module → width → value. Every layer of the networks remains."""


def narrow(change: Callable[[ModuleType, str, int], object]) -> None:
    """Set every width with a function like `setattr`."""
    for module, widths in WIDTHS.items():
        for name, width in widths.items():
            change(module, name, width)
