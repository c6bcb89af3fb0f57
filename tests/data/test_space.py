"""Spaces: when two sets of vectors are compatible."""

import json

import numpy as np
import pytest

from nextvec.data.space import PROBE_TEXTS, UNKNOWN, Space, difference, probe_cosines, require_same
from nextvec.errors import SpaceError


def probes(seed: int = 0, noise: float = 0.0, dimensions: int = 64) -> np.ndarray:
    """Return unit vectors for the probe texts, with noise."""
    clean = np.random.default_rng(seed).normal(size=(len(PROBE_TEXTS), dimensions))
    vectors = clean + noise * np.random.default_rng(99).normal(size=clean.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_probes_decide_over_names() -> None:
    one = Space("gtr-t5-base", "1", 64, probes=probes())
    assert difference(one, Space("mirror/gtr-t5-base", "2", 64, probes=probes(noise=0.05))) is None
    reason = difference(one, Space("gtr-t5-base", "1", 64, probes=probes(seed=1)))
    assert reason is not None
    assert "the same text gets different vectors" in reason


def test_one_deviating_probe_is_enough() -> None:
    other = probes()
    other[3] = -other[3]
    assert difference(Space("e", "1", 64, probes=probes()), Space("e", "1", 64, probes=other)) is not None


@pytest.mark.parametrize(("noise", "same"), [(0.08, True), (0.2, False)])
def test_rounding_does_not_change_the_space(noise: float, same: bool) -> None:
    """Noise of 0.08 leaves a cosine of about 0.997, of 0.2 about 0.98: the threshold is 0.99."""
    one, other = (Space("e", "1", 512, probes=probes(noise=value, dimensions=512)) for value in (0.0, noise))
    assert (difference(one, other) is None) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("a", "1"), ("a", "1"), True),
        (("a", "1"), ("b", "1"), False),
        (("a", "1"), ("a", "2"), False),
        (("a", "1"), ("a", ""), True),  # vectors that came with the encoder's name only
        (("a", ""), ("b", ""), False),
        (("a", "1"), (UNKNOWN, ""), True),
        ((UNKNOWN, ""), (UNKNOWN, ""), True),
    ],
)
def test_names_decide_without_probes(one: tuple[str, str], other: tuple[str, str], same: bool) -> None:
    a, b = Space(*one, 8), Space(*other, 8)
    assert (difference(a, b) is None) == same
    assert (difference(b, a) is None) == same
    with_probes = Space(*one, 8, probes=probes(dimensions=8))
    assert (difference(with_probes, b) is None) == same


def test_dimensions_always_count() -> None:
    assert difference(Space(UNKNOWN, "", 8), Space("a", "1", 9)) == "8 dimensions vs 9"


def test_require_same_names_both_sides() -> None:
    require_same(Space("a", "1", 8), Space("a", "1", 8), "this and that")
    with pytest.raises(SpaceError, match=r"this and that: have different embedding spaces \(a@1 \(8-D\) vs b@2"):
        require_same(Space("a", "1", 8), Space("b", "2", 8), "this and that")


@pytest.mark.parametrize("vectors", [None, probes()])
def test_spaces_round_trip_through_json(vectors: np.ndarray | None) -> None:
    space = Space("a/b", "r", 64, normalized=False, probes=vectors)
    again = Space.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    if vectors is None:
        assert again.probes is None
    else:
        assert np.array_equal(again.probes, vectors)


@pytest.mark.parametrize(
    "damage",
    [{"dimensions": "many"}, {"dimensions": 63}, {"probes": "???"}, {"encoder": ...}, {"probes": 7}],
)
def test_damaged_descriptions_are_space_errors(damage: dict) -> None:
    values = Space("a", "1", 64, probes=probes()).to_dict() | damage
    values = {key: value for key, value in values.items() if value is not ...}
    with pytest.raises(SpaceError, match="description of the embedding space is damaged"):
        Space.from_dict(values)


def test_probe_cosines_equal_the_cosines_of_rows() -> None:
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [0.0, 0.0]])
    assert probe_cosines(a, b) == pytest.approx([24 / 25, 0.0])
