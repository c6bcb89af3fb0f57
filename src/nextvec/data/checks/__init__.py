"""Preflight: is a store fit to train and to judge on? Every check is one sentence with a light.

Red means that a training on this store would be worthless; amber, that its scores need care. Each rule is a pure
function of the figures that `measure.py` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from nextvec.core.formatting import STATUSES, Status
from nextvec.data.checks.duplicates import Figures
from nextvec.data.checks.findings import Finding
from nextvec.data.checks.rules_distribution import (
    check_coherence,
    check_forward,
    check_ood,
    check_reversed,
    check_shuffled,
    check_space,
    check_spectrum,
)
from nextvec.data.checks.rules_integrity import _fingerprint, _leaks, _near_duplicates, _repeats, _sound, _windows
from nextvec.data.checks.statistics import measure_fingerprint, measure_store
from nextvec.data.space import Space
from nextvec.data.store import Store


@dataclass(frozen=True)
class CheckReport:
    """All findings on a store, in the order of the checks, and the figures behind them (plain values)."""

    store: str
    context: int
    findings: tuple[Finding, ...]
    figures: Figures

    @property
    def worst(self) -> Finding:
        """The first finding of the worst light."""
        return max(self.findings, key=lambda finding: STATUSES.index(finding.status))

    @property
    def status(self) -> Status:
        """The worst light of all findings."""
        return self.worst.status

    def to_dict(self) -> Figures:
        """Plain values, for JSON."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings], "status": self.status}


def check_store(
    store: Store,
    context: int,
    min_context: int | None = None,
    *,
    ood: Store | None = None,
    encoder: Space | None = None,
    sample: int = 50_000,
) -> CheckReport:
    """Check a store for windows of `context` vectors (at least `min_context`, where given).

    `ood` holds the ood split, where it is not the store's own. `encoder` is the space of an encoder at hand: its
    vectors of the probe texts are compared with those that the stores keep. `sample` is the most rows of each split
    that coherence, order and directions are measured on; the sample is fixed. Raises StoreError if the table of
    documents can't be read.
    """
    figures = measure_store(store, context, context if min_context is None else min_context, sample, ood)
    if encoder is not None:
        homes = {"store": store, "ood set": ood}
        figures["fingerprint"] = {
            name: measure_fingerprint(home.space, encoder) for name, home in homes.items() if home is not None
        }
    return CheckReport(str(store.path), context, check_statistics(figures), figures)


def check_statistics(figures: Figures) -> tuple[Finding, ...]:
    """The findings of all rules on the figures of `measure_store`, in order."""
    return tuple(finding for rule in RULES for finding in rule(figures))


def _numbers(figures: Figures) -> Iterator[Finding]:
    yield from _sound(figures, "", figures["rows"])
    if figures.get("ood_set"):
        yield from _sound(figures["ood_set"], "ood set: ", figures["splits"].get("ood", {"rows": 0})["rows"])


RULES: tuple[Callable[[Figures], Iterator[Finding]], ...] = (
    _numbers, _fingerprint, _repeats, _leaks, _near_duplicates, _windows, check_coherence, check_forward,
    check_reversed, check_shuffled, check_spectrum, check_space, check_ood,
)  # fmt: skip
