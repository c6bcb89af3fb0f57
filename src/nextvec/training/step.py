"""The guard against NaN and infinity: an update that would spoil the weights is never made, and nothing waits to know.

Whether a gradient is finite is decided on the device. The fused optimizer reads the answer there (`found_inf`, made for
gradient scalers) and leaves weights and moments as they are; once bad, it stays bad, so that the first broken step is
also the last one. The host asks when it has to wait anyway: before a figure is logged and before anything is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteGuard:
    """Watches the gradients of one optimizer, which must be fused."""

    def __init__(self, optimizer: torch.optim.AdamW, device: torch.device) -> None:
        self._bad = torch.zeros((), device=device)
        self._step = torch.zeros((), device=device)
        self._waits = device.type != "cpu"
        optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def look(self, numbers: list[Tensor], step: int) -> None:
        """Take note of the losses and gradient norms (0-dim) of step `step`, before its update."""
        good = torch.stack(numbers).isfinite().all()
        self._step += torch.where(good | (self._bad > 0), 0.0, float(step))
        self._bad.copy_(torch.where(good, self._bad, 1.0))

    def broken_at(self, *, logged: bool) -> int | None:
        """The step whose gradient was not finite; None where none was, or while asking would make the host wait.

        `logged` says that the host waits for the device now anyway. On a processor nothing ever waits.
        """
        if self._waits and not logged:
            return None
        return int(self._step) if self._bad else None
