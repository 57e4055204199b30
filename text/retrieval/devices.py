"""Choose the device for encoding and search."""

from __future__ import annotations

import os

import torch

from text.errors import UsageError


def get_default_device() -> str:
    """Return the GPU of this local rank if the machine has GPUs, else "cpu"."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def check_gpus(gpus: int | None, device: str | None) -> None:
    """Check the number of GPUs for encoding.

    Args:
        gpus: Number of GPUs. 0 means the CPU. None means one GPU if there is one.
        device: The device that the user chose, or None. With "cpu", ``gpus`` is the number of processes.

    Raises:
        UsageError: This machine has fewer GPUs, or one device is given together with several GPUs.
    """
    if gpus is None or device == "cpu":
        return
    if device is not None and gpus != 1:
        raise UsageError(f"--device is {device} and --gpus is {gpus}. Use only one of these flags.")
    if gpus > (num_gpus := torch.cuda.device_count()):
        raise UsageError(f"--gpus is {gpus}, but this machine has {num_gpus} GPUs. To encode on the CPU, use --gpus=0.")
