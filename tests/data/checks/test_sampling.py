"""Forward signal, near duplicates and effective rank agree with closed forms and brute force."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from nextvec.data.checks import duplicates
from nextvec.data.checks.covariance import make_coordinates, measure_moments, measure_spectrum
from nextvec.data.checks.duplicates import NEAR_COSINE, find_near_duplicates
from nextvec.data.checks.embedding_space import measure_profile
from nextvec.data.checks.order import measure_asymmetry, measure_coherence, measure_forward_signal
from nextvec.data.checks.sampling import Sample, UnitRows, unit_rows
from nextvec.data.checks.targets import measure_targets


def turning(angle: float, *, documents: int = 400, length: int = 12, seed: int = 0) -> Sample:
    """Return documents in the plane that rotate by `angle` per step, with noise; reversible only if it is 0."""
    random = np.random.default_rng(seed)
    turns = random.random((documents, 1)) * 2 * np.pi + angle * np.arange(length)
    plane = np.stack([np.cos(turns), np.sin(turns)], axis=-1).reshape(-1, 2)
    vectors = (plane + 0.3 * random.standard_normal(plane.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    document = np.repeat(np.arange(documents), length)
    return Sample(vectors, np.ones(len(vectors), bool), document, document)


def test_the_forward_signal_of_a_rotation_equals_its_closed_form():
    """In the plane C = r²/2 · rotation(angle), so ‖A‖ is r²/√2 · |sin|, and the changes are (1 - r² cos) · I / 2."""
    for angle in (0.0, 0.2, 0.8):
        sample = turning(angle)
        coordinates = sample.vectors_RD * np.sqrt(2)
        forward = measure_forward_signal(measure_asymmetry(coordinates, sample))
        squared = float(np.einsum("rd,rd->r", *rotated(sample, angle)).mean()) if angle else 0.0
        expected = squared * abs(np.sin(angle)) / (1 - squared * np.cos(angle)) if angle else 0.0
        assert forward["signal"] == pytest.approx(expected, abs=0.02)
        assert (forward["signal"] > forward["noise"]) == (angle > 0)


def rotated(sample: Sample, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each vector, rotated, and the next one of its document; their mean inner product is r²."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    same = sample.document_R[1:] == sample.document_R[:-1]
    return (sample.vectors_RD[:-1] @ turn)[same], sample.vectors_RD[1:][same]


def test_at_most_3_of_60_reversible_samples_exceed_the_noise_floor():
    above = 0
    for seed in range(60):
        forward = measure_forward_signal(
            measure_asymmetry(turning(0.0, documents=40, seed=seed).vectors_RD, turning(0, documents=40))
        )
        above += forward["signal"] > forward["noise"]
    assert above <= 3


def test_near_duplicates_equal_those_of_a_brute_force_search(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "BLOCK_ROWS", 97)
    random = np.random.default_rng(0)
    vectors = random.standard_normal((1_500, 16))
    vectors[800:1_200] = vectors[:400] + 0.15 * random.standard_normal((400, 16))
    vectors[5], vectors[6, 0], vectors[7] = 0, np.nan, vectors[7] * 30
    unit = np.nan_to_num(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    unit[6] = 0
    group = np.arange(1_500) // 3 % 400
    rows = np.arange(300, 1_500)
    matches = find_near_duplicates(unit[:300], group[:300], vectors, rows, group[rows])
    near = (unit[:300] @ unit[rows].T > NEAR_COSINE) & (group[:300, None] != group[rows])
    assert 30 < near.any(axis=1).sum() < 290
    assert np.array_equal(matches >= 0, near.any(axis=1))
    matched = np.flatnonzero(matches >= 0)
    assert near[matched, matches[matched] - 300].all()


def test_the_effective_rank_of_known_spectra():
    assert measure_spectrum(np.eye(12, dtype=np.float32)) == {"effective_rank": 12, "first_share": round(1 / 12, 4)}
    assert measure_spectrum(np.diag([1.0, 0, 0]).astype(np.float32))["effective_rank"] == 1
    shares = np.array([0.5, 0.25, 0.25])
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert measure_spectrum(np.diag(shares).astype(np.float32))["effective_rank"] == pytest.approx(expected, abs=0.01)
    assert measure_spectrum(np.zeros((3, 3), np.float32)) == {"effective_rank": 0.0, "first_share": 0.0}


def test_a_sample_is_measured_without_a_copy_of_its_vectors():
    """Three samples in float32 took more memory than training; results are those of vectors in memory."""
    rows, dimensions = 80_000, 128
    random = np.random.default_rng(0)
    stored_ND = random.standard_normal((rows, dimensions), dtype=np.float32).astype(np.float16)
    stored_ND[5] = 0
    stored_ND[7, 3] = np.nan
    document_R = np.repeat(np.arange(rows // 10), 10)
    unit_vectors, usable_R = unit_rows(stored_ND)
    in_memory = Sample(unit_vectors, usable_R, document_R, document_R % 100)
    in_files = replace(in_memory, vectors_RD=UnitRows(stored_ND, np.arange(rows)))

    def measure(sample: Sample) -> list[object]:
        moments, profile = measure_moments(sample), measure_profile(sample)
        coordinates = make_coordinates(moments)
        assert profile is not None and coordinates is not None
        return [
            moments.second_moment_DD,
            profile.profile_DD,
            coordinates.transform(sample),
            *measure_coherence(sample),
            measure_targets(sample, 3),
        ]

    tracemalloc.start()
    measured = measure(in_files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < unit_vectors.nbytes
    for value, expected in zip(measured, measure(in_memory), strict=True):
        assert np.array_equal(value, expected) if isinstance(value, np.ndarray) else value == expected
