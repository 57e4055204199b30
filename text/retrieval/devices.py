"""The device that encodes and searches if the user names none."""

from __future__ import annotations

import os

import torch


def default_device() -> str:
    """Return a GPU if this machine has one, each local rank its own, else "cpu"."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
