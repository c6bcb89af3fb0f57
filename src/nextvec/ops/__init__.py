"""What a step on a processor spends its time on, as single passes in C, each with torch's operations as its other way.

The C code is compiled at its first use and kept. Without a compiler, away from Linux or on another device torch's own
operations give the same numbers, up to rounding; `how` says which it is. These functions know nothing of autograd.
"""

from nextvec.ops.batch import compare, lengths, measure_affine, mix, moments, multiply, norm, normalise, pair_both_ways
from nextvec.ops.native import allow, how
from nextvec.ops.single import predict_one
from nextvec.ops.window import combine, read, score

__all__ = [
    "allow",
    "combine",
    "compare",
    "how",
    "lengths",
    "measure_affine",
    "mix",
    "moments",
    "multiply",
    "norm",
    "normalise",
    "pair_both_ways",
    "predict_one",
    "read",
    "score",
]
