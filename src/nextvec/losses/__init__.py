"""What training minimises: pure terms, their gradients in closed form, and the balance that gives weights a meaning."""

from nextvec.losses.objective import VANISHED, Objective
from nextvec.losses.terms import SHORTEST, info_nce, moment_matching, mse, query_nce, variance_floor

__all__ = [
    "SHORTEST",
    "VANISHED",
    "Objective",
    "info_nce",
    "moment_matching",
    "mse",
    "query_nce",
    "variance_floor",
]
