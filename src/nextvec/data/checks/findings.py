"""The rules of the preflight on what samples say of the splits: coherence, order, spaces, and ood beside val.

Each is a pure function of the figures of `measure.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nextvec.core.formatting import Status

Figures = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """What one check found: what, where, and what to do about it."""

    name: str
    status: Status
    text: str
