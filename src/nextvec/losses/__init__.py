"""What training minimizes: the loss terms, their closed-form gradients, and the objective that weights them."""

from nextvec.losses.objective import MIN_GRADIENT_RATIO, Objective
from nextvec.losses.terms import info_nce, moment_matching, mse, query_nce, variance_floor

__all__ = [
    "MIN_GRADIENT_RATIO",
    "Objective",
    "info_nce",
    "moment_matching",
    "mse",
    "query_nce",
    "variance_floor",
]
