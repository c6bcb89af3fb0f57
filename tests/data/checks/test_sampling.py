"""What is measured on samples agrees with closed forms and brute force: forward signal, near twins, effective rank."""

import numpy as np
import pytest

from nextvec.data.checks import duplicates
from nextvec.data.checks.covariance import measure_spectrum
from nextvec.data.checks.duplicates import find_twins
from nextvec.data.checks.order import measure_arrow, measure_forward
from nextvec.data.checks.sampling import Sample


def turning(angle: float, *, documents: int = 400, length: int = 12, seed: int = 0) -> Sample:
    """Documents in the plane that turn by `angle` a step, with noise: reversible only if it is 0."""
    random = np.random.default_rng(seed)
    turns = random.random((documents, 1)) * 2 * np.pi + angle * np.arange(length)
    plane = np.stack([np.cos(turns), np.sin(turns)], axis=-1).reshape(-1, 2)
    vectors = (plane + 0.3 * random.standard_normal(plane.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    document = np.repeat(np.arange(documents), length)
    return Sample(vectors, np.ones(len(vectors), bool), document, document)


def test_the_forward_signal_of_a_turn_is_its_closed_form():
    """In the plane C = r²/2 · rotation(angle), so ‖A‖ is r²/√2 · |sin|, and what changes is (1 - r² cos) · I / 2."""
    for angle in (0.0, 0.2, 0.8):
        sample = turning(angle)
        read = sample.vectors_RD * np.sqrt(2)
        forward = measure_forward(measure_arrow(read, sample))
        squared = float(np.einsum("rd,rd->r", *rotated(sample, angle)).mean()) if angle else 0.0
        expected = squared * abs(np.sin(angle)) / (1 - squared * np.cos(angle)) if angle else 0.0
        assert forward["signal"] == pytest.approx(expected, abs=0.02)
        assert (forward["signal"] > forward["noise"]) == (angle > 0)


def rotated(sample: Sample, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Each vector, turned, and the next one of its document: their mean inner product is r²."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    same = sample.document_R[1:] == sample.document_R[:-1]
    return (sample.vectors_RD[:-1] @ turn)[same], sample.vectors_RD[1:][same]


def test_the_noise_floor_holds_in_all_but_a_few_of_reversible_samples():
    above = 0
    for seed in range(60):
        forward = measure_forward(
            measure_arrow(turning(0.0, documents=40, seed=seed).vectors_RD, turning(0, documents=40))
        )
        above += forward["signal"] > forward["noise"]
    assert above <= 3


@pytest.mark.parametrize("directions", [1, 3, 16])
def test_twins_are_those_of_a_brute_force_search(monkeypatch: pytest.MonkeyPatch, directions: int):
    monkeypatch.setattr(duplicates, "_BLOCK", 97)
    monkeypatch.setattr(duplicates, "_PAIRS", 50)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((1_500, 16))
    vectors[800:1_200] = vectors[:400] + 0.15 * random.standard_normal((400, 16))
    vectors[5], vectors[6, 0], vectors[7] = 0, np.nan, vectors[7] * 30
    unit = np.nan_to_num(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    unit[6] = 0
    group = np.arange(1_500) // 3 % 400
    rows = np.arange(300, 1_500)
    basis = np.linalg.qr(random.standard_normal((16, 16)))[0][:, :directions].astype(np.float32)
    found = find_twins(unit[:300], group[:300], vectors, rows, group[rows], basis)
    near = (unit[:300] @ unit[rows].T > duplicates.NEAR) & (group[:300, None] != group[rows])
    assert 30 < near.any(axis=1).sum() < 290
    assert np.array_equal(found >= 0, near.any(axis=1))
    hits = np.flatnonzero(found >= 0)
    assert near[hits, found[hits] - 300].all()


def test_effective_rank_of_known_spectra():
    assert measure_spectrum(np.eye(12, dtype=np.float32)) == {"effective_rank": 12, "first_share": round(1 / 12, 4)}
    assert measure_spectrum(np.diag([1.0, 0, 0]).astype(np.float32))["effective_rank"] == 1
    shares = np.array([0.5, 0.25, 0.25])
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert measure_spectrum(np.diag(shares).astype(np.float32))["effective_rank"] == pytest.approx(expected, abs=0.01)
    assert measure_spectrum(np.zeros((3, 3), np.float32)) == {"effective_rank": 0.0, "first_share": 0.0}
