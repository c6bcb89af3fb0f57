"""Lights have an order, and each has a shape of its own."""

from nextvec.core.formatting import STATUSES, SYMBOLS, worst


def test_the_worst_light_wins():
    assert worst([]) == "green"
    assert worst(["green", "amber", "green"]) == "amber"
    assert worst(["red", "green", "amber"]) == "red"


def test_every_light_has_its_own_shape():
    assert set(SYMBOLS) == set(STATUSES) and len(set(SYMBOLS.values())) == len(STATUSES)
