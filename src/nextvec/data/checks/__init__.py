"""Data check before training: is this store suitable for training and evaluation?

Red means that training on the store would be worthless, amber that its scores need care. `measure_store` computes
statistics, and each rule in RULES is a pure function from them to findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.formatting import STATUSES, Status
from nextvec.data.checks.embedding_space import compare_spaces, measure_reference
from nextvec.data.checks.findings import Finding, Statistics
from nextvec.data.checks.rules_distribution import (
    check_coherence,
    check_forward_signal,
    check_ood,
    check_reversed,
    check_shuffled,
    check_spectrum,
    check_val,
)
from nextvec.data.checks.rules_integrity import (
    check_duplicates,
    check_fingerprint,
    check_leaks,
    check_near_duplicates,
    check_values,
    check_windows,
)
from nextvec.data.checks.rules_space import check_spaces
from nextvec.data.checks.rules_windows import check_lone_windows, check_targets, check_window_files
from nextvec.data.checks.sampling import draw_sample
from nextvec.data.checks.statistics import measure_fingerprint, measure_store
from nextvec.data.encoders import share_encoder
from nextvec.data.space import Space
from nextvec.data.store import Store
from nextvec.errors import InputError

RULES: tuple[Callable[[Statistics], Iterator[Finding]], ...] = (
    check_values,
    check_fingerprint,
    check_duplicates,
    check_leaks,
    check_near_duplicates,
    check_windows,
    check_window_files,
    check_targets,
    check_lone_windows,
    check_coherence,
    check_forward_signal,
    check_reversed,
    check_shuffled,
    check_spectrum,
    check_val,
    check_spaces,
    check_ood,
)
"""All rules, in the order of a report."""


@dataclass(frozen=True)
class CheckReport(Displayable, view="nextvec.reports.tables:check_view"):
    """All findings on a store, in the order of RULES, and the statistics that they are based on."""

    store: str
    context: int
    findings: tuple[Finding, ...]
    statistics: Statistics

    @property
    def worst(self) -> Finding:
        """The first finding with the worst status."""
        # `max` returns the first of equal maxima, so the order of RULES decides between findings of equal status.
        return max(self.findings, key=lambda finding: STATUSES.index(finding.status))

    @property
    def status(self) -> Status:
        """The worst status of all findings."""
        return self.worst.status

    @property
    def exit_code(self) -> int:
        """The exit code of `data check`: red data are bad input, so that `check && train` stops there."""
        return InputError.exit_code if self.status == Status.RED else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "store": self.store,
            "context": self.context,
            "status": self.status,
            "findings": [finding.to_dict() for finding in self.findings],
            "statistics": self.statistics,
        }


def check_store(
    store: Store,
    context: int,
    min_context: int | None = None,
    *,
    ood: Store | None = None,
    encoder: Space | None = None,
    sample: int = 50_000,
) -> CheckReport:
    """Check a store for windows of `context` vectors; `min_context` is `context` if it is None.

    `ood` holds the ood split if it is a separate set. `encoder` is the space of an available encoder: its vectors of
    the probe texts are compared with the stored ones. `sample` is the maximum number of rows of each split on which
    coherence, order and directions are measured; the sample is fixed. Raises StoreError if the table of documents
    cannot be read.
    """
    statistics = measure_store(store, context, context if min_context is None else min_context, sample, ood)
    # Compare the encoder with each store that the run reads; the rule reports one finding for each.
    if encoder is not None:
        stores = {"store": store, "ood set": ood}
        statistics["encoder_fingerprint"] = {
            name: measure_fingerprint(each.space, encoder) for name, each in stores.items() if each is not None
        }
    return CheckReport(store.name, context, check_statistics(statistics), statistics)


def compare_with_train(train: Store, stores: Mapping[str, Store], sample: int = 20_000) -> tuple[Finding, ...]:
    """Compare the embedding spaces of splits of other stores, by split, with that of a training store.

    `sample` is the maximum number of rows of each split. Stores with other dimensions cannot be compared.
    """
    reference = measure_reference(draw_sample(train.vectors, train.documents, "train", sample))
    spaces: Statistics = {}
    same_encoder: Statistics = {}
    for split, store in stores.items():
        rows = draw_sample(store.vectors, store.documents, split, sample)
        if len(rows.vectors_RD):
            spaces[split] = None if reference is None else compare_spaces(rows, reference)
            same_encoder[split] = share_encoder(train, store)
    return tuple(check_spaces({"space": spaces, "same_encoder": same_encoder}))


def check_statistics(statistics: Statistics) -> tuple[Finding, ...]:
    """Return the findings of all rules on the statistics of `measure_store`, in order."""
    return tuple(finding for rule in RULES for finding in rule(statistics))
