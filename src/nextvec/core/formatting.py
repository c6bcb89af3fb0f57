"""Stoplights: the three words in which every check and verdict speaks, from the best to the worst.

A light always differs in shape as well as in colour, for those who can't tell red from green.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Light = Literal["green", "amber", "red"]

LIGHTS: tuple[Light, ...] = ("green", "amber", "red")

SHAPES: dict[Light, str] = {"green": "●", "amber": "▲", "red": "■"}


COLOURS: dict[Light, str] = {"green": "green", "amber": "yellow", "red": "red"}
"""How a terminal colours them."""


def worst(lights: Iterable[Light]) -> Light:
    """The worst of some lights; green if there are none."""
    return max(lights, key=LIGHTS.index, default="green")
