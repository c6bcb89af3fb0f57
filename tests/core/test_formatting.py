"""Lights have an order, and each has a shape of its own."""

from nextvec.core.formatting import LIGHTS, SHAPES, worst


def test_the_worst_light_wins():
    assert worst([]) == "green"
    assert worst(["green", "amber", "green"]) == "amber"
    assert worst(["red", "green", "amber"]) == "red"


def test_every_light_has_its_own_shape():
    assert set(SHAPES) == set(LIGHTS) and len(set(SHAPES.values())) == len(LIGHTS)
