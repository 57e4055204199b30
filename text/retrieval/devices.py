"""The devices that encode and search."""

from __future__ import annotations

import os

import torch

from text.errors import UsageError


def default_device() -> str:
    """Return a GPU if this machine has one, each local rank its own, else "cpu"."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def check_gpus(gpus: int | None, device: str | None) -> None:
    """Check how many GPUs encode.

    Args:
        gpus: Number of GPUs, 0 for the CPU, or None for a GPU if there is one.
        device: The device that the user names, or None. With "cpu", ``gpus`` is a number of processes.

    Raises:
        UsageError: This machine has fewer GPUs, or the device is one GPU and there should be several.
    """
    if gpus is None or device == "cpu":
        return
    if device is not None and gpus != 1:
        raise UsageError(f"--device is {device}, and --gpus is {gpus}. Give one of the two.")
    if gpus > (num_gpus := torch.cuda.device_count()):
        raise UsageError(f"--gpus is {gpus}. This machine has {num_gpus} GPUs.")
