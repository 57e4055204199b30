"""Choose the device for encoding and search, and the precision of the encoder on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from text.errors import UsageError


def get_default_device() -> str:
    """Return the GPU of this local rank if the machine has GPUs, else "cpu"."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Check that this machine can compute on a device.

    Raises:
        ValueError: The device is unknown or missing.
    """
    try:
        torch.zeros(1, device=device).item()  # The meta device has tensors, but cannot compute.
    except torch.cuda.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f'device is "{device}" ({reason}). Use a device that this machine has, such as cpu.') from None


def get_default_precision(device: str) -> str:
    """Return the default precision of an encoder on a device of this machine."""
    is_gpu = torch.device(device).type == "cuda"
    return choose_precision(torch.cuda.get_device_capability(device) if is_gpu else None)


def choose_precision(capability: tuple[int, int] | None) -> str:
    """Return the default precision of an encoder.

    GPUs compute bfloat16 from Ampere on, which has compute capability 8.0. Older GPUs compute float16.

    Args:
        capability: CUDA compute capability of the GPU. None means another device.

    >>> choose_precision((9, 0)), choose_precision((7, 5)), choose_precision(None)
    ('bfloat16', 'float16', 'float32')
    """
    if capability is None:
        return "float32"
    return "bfloat16" if capability >= (8, 0) else "float16"


def describe_precision(precision: str, device: str) -> Iterator[str]:
    """Yield a line with a precision that the user did not choose, unless it is float32.

    >>> list(describe_precision("bfloat16", "cpu"))
    ['precision: bfloat16 on cpu; --encoder_precision=float32 computes in float32']
    """
    if precision != "float32":
        name = f" ({torch.cuda.get_device_name(device)})" if torch.device(device).type == "cuda" else ""
        yield f"precision: {precision} on {device}{name}; --encoder_precision=float32 computes in float32"


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
