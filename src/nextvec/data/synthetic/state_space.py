"""A linear-Gaussian state space whose best prediction is known in closed form.

In a fixed orthogonal basis a vector is D/2 complex numbers, one for each pair p of coordinates:

    z_t = mean + topic + sum over components c of x_c,t + white noise
    x_c,t = rho_c · exp(i · turn_p) · x_c,t-1 + innovation          (stationary from the first vector on)

`mean` is constant; `topic` is constant in a document and confined to the first pairs. Variances decrease with p as a
power law. All components of a pair rotate by the same angle, so a document is a time-reversible process in a rotating
frame: without rotation, the reversed document is as likely as the original; with rotation, time has a direction that a
model can learn.

Everything is Gaussian and pairs are independent, so the conditional mean of a vector given the S before it is linear:
for each pair its weights solve the S normal equations (Brockwell and Davis, Time Series, section 2.5).

Letters: M documents, L vectors of each, D dimensions, P = D/2 pairs, S context, B windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from nextvec.errors import InputError

Floats = NDArray[np.float64]

MEMORIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""The values of rho that a fit may use."""

FIT_TOLERANCE = 0.005
"""Maximum deviation of a fitted cosine from the wanted one."""


@dataclass(frozen=True)
class Shares:
    """Shares of a vector's energy (its expected squared length, 1); they sum to 1."""

    mean: float
    topic: float
    components: tuple[tuple[float, float], ...]
    """(rho, share) of each component."""
    white: float


@dataclass(frozen=True)
class StateSpace:
    """The parameters that all splits share; (D,) and (D, D) arrays have real coordinates."""

    basis_DD: NDArray[np.float32]
    """Rows are orthonormal: coordinates @ basis = vectors."""
    direction_D: Floats
    """Unit vector in the direction of the mean, in coordinates."""
    variance_P: Floats
    """Share of each pair in the variance; sums to 1."""
    topic_P: Floats
    """Share of each pair in the topic; sums to 1, zero beyond the topic's pairs."""
    turn_P: Floats
    """Angle in radians by which each pair rotates from a vector to the next."""

    def draw(self, random: np.random.Generator, shape: tuple[int, int], shares: Shares) -> NDArray[np.float32]:
        """Return the coordinates (M, L, D) of M documents of L vectors, `shape` = (M, L); not of unit length."""
        documents, vectors, dimensions = *shape, len(self.direction_D)
        drawn = np.zeros((documents, vectors, dimensions), np.float32)
        # Autoregressive components; white noise is one with rho = 0.
        for rho, share in ((0.0, shares.white), *shares.components):
            if share > 0:
                component = random.standard_normal(drawn.shape, np.float32)
                component *= np.float32(np.sqrt(share))
                # The first vector is drawn from the stationary distribution; the others are innovations.
                component[:, 1:] *= np.float32(np.sqrt(1 - rho**2))
                # x(t) = rho x(t-1) + innovation, for all documents at once.
                for step in range(1, vectors):
                    component[:, step] += np.float32(rho) * component[:, step - 1]
                drawn += component
        # Rotate the pairs, as complex numbers, and scale them to their variances.
        angle_LP = (np.outer(np.arange(vectors), self.turn_P) % (2 * np.pi)).astype(np.float32)
        frame_LP = np.empty(angle_LP.shape, np.complex64)
        frame_LP.real, frame_LP.imag = np.cos(angle_LP), np.sin(angle_LP)
        pairs = drawn.view(np.complex64)
        pairs *= frame_LP * np.sqrt(self.variance_P / 2).astype(np.float32)
        # The topic is constant in a document; the mean is the same for all.
        topic_D = np.sqrt(np.repeat(shares.topic * self.topic_P / 2, 2)).astype(np.float32)
        drawn += random.standard_normal((documents, 1, dimensions), np.float32) * topic_D
        drawn += (np.sqrt(shares.mean) * self.direction_D).astype(np.float32)
        return drawn

    def rotation_factor(self, distance: int | NDArray[np.integer]) -> Floats:
        """Return the factor by which rotation reduces the correlation: the mean of cos(distance · turn) over pairs."""
        factor: Floats = np.cos(np.multiply.outer(distance, self.turn_P)) @ self.variance_P
        return factor

    def predictor(self, context: int, shares: Shares) -> NDArray[np.complex128]:
        """Return the weights (S, P) of the conditional mean of a pair given the S before it, oldest first."""
        # Covariance of a pair at each lag: topic, memory of the components, and rotation.
        lags = np.arange(context + 1)
        memory = np.array([sum(share * rho**lag for rho, share in shares.components) for lag in lags])
        memory[0] += shares.white
        # covariance_KP[k, p] = E[x_t · conj(x_t-k)]
        covariance_KP = shares.topic * self.topic_P + self.variance_P * (
            memory[:, None] * np.exp(1j * np.outer(lags, self.turn_P))
        )
        # The normal equations of the S context vectors: a Hermitian Toeplitz matrix for each pair.
        distance_SS = lags[:context, None] - lags[:context]  # row − column
        matrix_PSS = np.moveaxis(covariance_KP[np.abs(distance_SS)], -1, 0)
        matrix_PSS = np.where(distance_SS >= 0, matrix_PSS, matrix_PSS.conj())
        weights_PS = np.linalg.solve(matrix_PSS, covariance_KP[1:].T[:, :, None])[:, :, 0]
        return np.ascontiguousarray(weights_PS.T[::-1])

    def conditional_mean(self, context_BSD: NDArray[np.floating], shares: Shares) -> NDArray[np.float32]:
        """Return the conditional mean (B, D) of the vectors that follow `context_BSD`.

        Contexts have unit length, which is the expected length of the process, and are used as if drawn from it.
        """
        mean_D = (np.sqrt(shares.mean) * self.direction_D).astype(np.float32)
        weights_SP = self.predictor(context_BSD.shape[1], shares).astype(np.complex64)
        # The mean plus the weighted deviations from it, pair by pair.
        predicted = np.zeros((len(context_BSD), len(weights_SP[0])), np.complex64)
        for place, weights_P in enumerate(weights_SP):
            coordinates = context_BSD[:, place].astype(np.float32) @ self.basis_DD.T - mean_D
            predicted += weights_P * coordinates.view(np.complex64)
        mean_prediction: NDArray[np.float32] = (predicted.view(np.float32) + mean_D) @ self.basis_DD
        return mean_prediction


def make_state_space(dimensions: int, topics: int, spectrum: float, forward: float, seed: int) -> StateSpace:
    """Return a state space with variances ∝ 1/p^spectrum, topics in the first `topics` coordinates, random directions.

    Angles have an exponential distribution over the variance, with mean `forward` (radians). The correlation that is
    left at a distance, 1 / (1 + (distance · forward)²), is then always positive.
    """
    random = np.random.default_rng([seed, 0])
    # QR is unique up to the signs of R's diagonal. Fixing them makes the basis depend on the seed alone.
    basis, triangle = np.linalg.qr(random.standard_normal((dimensions, dimensions)))
    basis *= np.sign(np.diagonal(triangle))
    direction = random.standard_normal(dimensions)
    pairs = np.arange(1, dimensions // 2 + 1)
    # Power law of the variances; topics use the strongest pairs.
    variance = pairs ** -float(spectrum)
    topic = np.where(pairs <= topics // 2, variance, 0.0)
    # The golden ratio distributes the angles evenly over strong and weak pairs.
    order = np.argsort(pairs * (np.sqrt(5) - 1) / 2 % 1)
    # Quantiles of the exponential distribution over the cumulative variance.
    shares = variance[order] / variance.sum()
    turns = np.empty(len(pairs))
    turns[order] = -np.log1p(shares / 2 - np.cumsum(shares))
    return StateSpace(
        np.ascontiguousarray(basis.T, dtype=np.float32),
        direction / np.linalg.norm(direction),
        variance / variance.sum(),
        topic / topic.sum(),
        forward * turns,
    )


def fit_shares(space: StateSpace, coherence: Floats, mean: float, seed: int) -> Shares:
    """Return the shares for which unit-length vectors at distance 1, 2, … have the mean cosines `coherence`.

    Lengths vary, so the cosine of two vectors differs from their inner product; the difference is measured on drawn
    documents and corrected. Raises InputError if no shares give these cosines.
    """
    products = coherence
    # Find shares for the wanted inner products, measure how far cosines differ from products, and correct.
    for _ in range(2):
        shares, error = _solve(space, products, mean)
        drawn = space.draw(np.random.default_rng([seed, 1]), (2000, len(coherence) + 1), shares)
        lengths = np.linalg.norm(drawn, axis=2)
        drawn_products = np.einsum("md,mld->ml", drawn[:, -1], drawn[:, -2::-1])
        cosines = drawn_products / (lengths[:, -1:] * lengths[:, -2::-1])
        products = coherence - (cosines - drawn_products).mean(axis=0)
    shares, error = _solve(space, products, mean)
    if np.abs(error).max() > FIT_TOLERANCE:
        raise InputError(
            f"synthetic store: no process has the coherence {_list(coherence)} (mean {mean:g}); the nearest is "
            f"{_list(coherence + error)}. Lower forward, or use cosines that decrease more evenly towards the mean."
        )
    return shares


def _list(values: Floats) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _solve(space: StateSpace, products: Floats, mean: float) -> tuple[Shares, Floats]:
    """Return the shares for which vectors at distance 1, 2, … have these mean inner products, and the errors.

    Non-negative least squares; distance 0, where all shares sum to 1, is one more equation.
    """
    distances = np.arange(len(products) + 1)
    # Columns are what one unit of white noise, topic and each component contributes at each distance.
    rho_K = np.array(MEMORIES)
    white, topic = distances == 0, np.ones(len(distances))
    components = rho_K ** distances[:, None] * space.rotation_factor(distances)[:, None]
    columns = np.column_stack([white, topic, components]).astype(np.float64)
    wanted = np.concatenate([[1.0], products]) - mean
    solution, _ = nnls(columns, wanted)
    used = tuple((rho, float(share)) for rho, share in zip(MEMORIES, solution[2:], strict=True) if share > 0)
    return Shares(mean, float(solution[1]), used, float(solution[0])), (columns @ solution - wanted)[1:]
