"""EpochFigures: means and sums of figures over the batches of an epoch, which a checkpoint keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class EpochFigures:
    """Collects a figure of each batch, for one row of the logs at the end of the epoch.

    Lightning's own means are in no checkpoint: after a resume inside an epoch they would cover the rest of it only.
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._sizes: dict[str, int] = {}

    def add_mean(self, name: str, value: Tensor | float, size: int) -> None:
        """Add a figure that is a mean over ``size`` rows of a batch."""
        self._totals[name] = self._totals.get(name, 0) + _widen(value) * size
        self._sizes[name] = self._sizes.get(name, 0) + size

    def add_sum(self, name: str, value: float) -> None:
        """Add a figure that is a sum over a batch."""
        self._totals[name] = self._totals.get(name, 0) + _widen(value)
        self._sizes[name] = 1

    def compute(self) -> dict[str, Tensor]:
        """Return each figure over the batches so far, by name."""
        return {name: total / max(1, self._sizes[name]) for name, total in self._totals.items()}

    def clear(self) -> None:
        """Forget all batches."""
        self._totals, self._sizes = {}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self._totals), "sizes": dict(self._sizes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._totals, self._sizes = dict(state_dict["totals"]), dict(state_dict["sizes"])


def _widen(value: Tensor | float) -> Tensor:
    """Return a value in float32, or in float64 if it has that: half precision would lose batches of an epoch."""
    value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float32).detach()
    return value if value.dtype == torch.float64 else value.float()
