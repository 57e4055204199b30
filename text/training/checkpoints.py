"""Checkpoint files that are written atomically, contain their own hash, and are loaded without pickled code.

A file holds the output of ``torch.save``, followed by its SHA-256. ``torch.load`` can read it as usual. Content and
hash appear together in one atomic rename, and stay together when the file is moved. The hash reveals a truncated file
or a flipped bit.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from text.artifacts import atomic_write
from text.errors import ArtifactError, is_out_of_memory
from text.models import TensorFileError, check_torch_zip
from text.training.checkpoint_content import check_head

_MARK = b"sha256:"
_TRAILER_SIZE = len(_MARK) + 64


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files, with atomic writes (``text.artifacts.atomic_write``) and a hash."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint. If that fails, an older file at ``path`` stays as it was.

        Raises:
            OSError: The disk is full, or the file cannot be written. The message has the bytes needed and free.
        """
        try:
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                hashing: Any = _HashingWriter(file)
                torch.save(checkpoint, hashing)
                file.write(_MARK + hashing.digest.hexdigest().encode())
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # torch wraps it in a RuntimeError
            if not isinstance(cause, OSError):
                raise
            nearest = next(folder for folder in Path(path).absolute().parents if folder.exists())
            needed, free = _measure_size(checkpoint), shutil.disk_usage(nearest).free
            message = f"{os.strerror(cause.errno or errno.EIO)}. A checkpoint needs {needed} bytes, {free} are free"
            raise OSError(cause.errno, message, str(path)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Return the content of a checkpoint. Only tensors and plain values are loaded.

        Args:
            path: The checkpoint.
            map_location: Device of the loaded tensors. None means the CPU, whatever device the checkpoint comes from.
            weights_only: Ignored. Pickled code is never loaded.

        Raises:
            FileNotFoundError: There is no such file.
            ArtifactError: For the reasons of ``check_hash`` and ``read_checkpoint``.
        """
        check_hash(path)
        return _load(path, map_location="cpu" if map_location is None else map_location)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a checkpoint after ``check_hash``. Its tensors are memory-mapped.

    Raises:
        ArtifactError: The file holds anything but tensors and plain values, its parts are not those of a checkpoint, or
            its content would need more memory than the file has bytes.
    """
    return _load(path, map_location="cpu", mmap=True)


def check_hash(path: str | os.PathLike[str]) -> None:
    """Check a checkpoint against its hash. The file is read in chunks of 1 MiB.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is truncated, damaged, or was not written by ``AtomicCheckpointIO``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a checkpoint of a run.")
    digest, rest = hashlib.sha256(), os.path.getsize(path) - _TRAILER_SIZE
    with open(path, "rb") as file:
        while rest > 0 and (chunk := file.read(min(rest, 1 << 20))):
            digest.update(chunk)
            rest -= len(chunk)
        trailer = file.read()
    if not re.fullmatch(_MARK + b"[0-9a-f]{64}", trailer):
        raise ArtifactError(
            f"{path}: truncated, or not a checkpoint of this library (no SHA-256 at its end). "
            "Give a checkpoint of a run."
        )
    expected = trailer.removeprefix(_MARK).decode()
    if digest.hexdigest() != expected:
        raise ArtifactError(
            f"{path}: damaged: its SHA-256 is {digest.hexdigest()} instead of {expected}. "
            "Restore the file, or start a new run."
        )


def find_valid_checkpoint(folder: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """Return the checkpoint to resume from, and one message for each damaged checkpoint that was passed over.

    ``last.ckpt`` is preferred to ``best.ckpt``. If a run was killed after it wrote ``best.ckpt`` and before
    ``last.ckpt``, it repeats the steps in between, and ends with the same files as a run that was never killed.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ArtifactError: No checkpoint is valid.
    """
    names = [name for name in ("last.ckpt", "best.ckpt") if Path(folder, name).is_file()]
    if not names:
        raise FileNotFoundError(f"{folder}: no checkpoint; expected last.ckpt or best.ckpt.")
    faults = []
    for name in names:
        try:
            check_hash(Path(folder, name))
            return Path(folder, name), faults
        except ArtifactError as error:
            faults.append(str(error))
    raise ArtifactError("; ".join(faults))


def estimate_checkpoint_size(module: nn.Module) -> int:
    """Return the approximate size of a checkpoint in bytes: weights, and two AdamW moments per trained weight."""
    return sum(p.nbytes * (3 if p.requires_grad else 1) for p in module.parameters())


def _load(path: Any, **options: Any) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            check_torch_zip(file, os.path.getsize(path))
        content = torch.load(os.fspath(path), weights_only=True, **options)
    except Exception as error:  # torch.load raises many types of errors, with advice that does not help users
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: not enough memory to load this checkpoint.") from None
        reason = f" ({error})" if isinstance(error, TensorFileError) else ""
        raise ArtifactError(
            f"{path}: not a checkpoint of this library{reason}. Give a checkpoint of a run, or start a new run."
        ) from None
    return check_head(content, os.fspath(path))


def _measure_size(checkpoint: dict[str, Any]) -> int:
    counting: Any = _HashingWriter(None)
    torch.save(checkpoint, counting)
    return counting.size + _TRAILER_SIZE


class _HashingWriter:
    """File that computes the hash and the number of the bytes written to it. Without ``file`` the bytes are dropped."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        """Write bytes, and return their number."""
        self.digest.update(content)
        self.size += len(content)
        if self.file is not None:
            self.file.write(content)
        return len(content)

    def flush(self) -> None:
        """Do nothing. ``torch.save`` needs this method, and closing the file flushes it."""
