"""Means and sums of metrics over the batches of an epoch. Checkpoints keep them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class EpochMetrics:
    """Metrics of the batches of an epoch, for one row of the logs at the end of the epoch.

    Lightning does not save its own means in checkpoints. After a resume inside an epoch they would cover only the
    remaining batches.
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._sizes: dict[str, int] = {}

    def add_mean(self, name: str, value: Tensor | float, size: int) -> None:
        """Add a metric that is a mean over ``size`` rows of a batch."""
        self._totals[name] = self._totals.get(name, 0) + _widen(value) * size
        self._sizes[name] = self._sizes.get(name, 0) + size

    def add_sum(self, name: str, value: float) -> None:
        """Add a metric that is a sum over a batch."""
        self._totals[name] = self._totals.get(name, 0) + _widen(value)
        self._sizes[name] = 1

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics over the batches so far, by name."""
        return {name: total / max(1, self._sizes[name]) for name, total in self._totals.items()}

    def clear(self) -> None:
        """Remove all batches."""
        self._totals, self._sizes = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the totals and the numbers of rows, by name."""
        return {"totals": dict(self._totals), "sizes": dict(self._sizes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the batches so far by those of a checkpoint."""
        self._totals, self._sizes = dict(state_dict["totals"]), dict(state_dict["sizes"])


def _widen(value: Tensor | float) -> Tensor:
    """Return a value as float32. float64 stays float64. A sum in half precision would stop growing."""
    value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float32).detach()
    return value if value.dtype == torch.float64 else value.float()
