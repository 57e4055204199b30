"""Values that reach the host without a wait for the GPU, or with one wait for all of them."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from text.models.transfers import start_copy_to_host


class HostCopy:
    """Copy of a small tensor on the host. The copy starts at once, and only ``read`` waits for it.

    Args:
        tensor: The tensor to copy, on any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._values, self._copied = start_copy_to_host(tensor.detach())

    def read(self) -> Tensor:
        """Wait until the GPU has computed and copied the tensor, and return the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


def log_on_host(module: LightningModule, name: str, value: float, *, prog_bar: bool = False) -> None:
    """Log a number as a tensor on the host.

    Lightning copies a plain number to the GPU, and reads the values of the progress bar from there at every step.
    """
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    module.log(name, torch.tensor(value, dtype=dtype), prog_bar=prog_bar)
