"""Copies between the host and a device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def send_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on a device.

    A copy to a GPU goes through pinned memory, so the host continues while it runs. On a CPU nothing is copied.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def start_copy_to_host(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start to copy a tensor to the host.

    Returns:
        The copy, and the event of an NVIDIA GPU at which it is complete. From other devices the copy is complete, and
        the event is None.
    """
    if tensor.device.type != "cuda":
        return tensor.to("cpu"), None
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # A thread that waits sleeps, and leaves its core to others.
    copied.record(torch.cuda.current_stream(tensor.device))
    return copy, copied
