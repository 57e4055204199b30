"""Checkpoints that are on disk whole or not at all, know their own hash, and are loaded without pickled code.

A file is what ``torch.save`` writes, which ``torch.load`` reads as ever, and after it the SHA-256 of that. Hash and
content come under their name in one rename: nothing can end a run between them, and they stay together when the file
is moved. What is torn, or has a bit changed, is told by the hash.
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
_TRAILER = len(_MARK) + 64


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written through ``text.artifacts.atomic_write``, with their hash."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint; if that fails, what stood under ``path`` stays as it was.

        Raises:
            OSError: The disk is full, or does not take the file; with bytes needed and free.
        """
        try:
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                hashing: Any = _HashingWriter(file)
                torch.save(checkpoint, hashing)
                file.write(_MARK + hashing.digest.hexdigest().encode())
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__  # torch hides it behind its own
            if not isinstance(cause, OSError):
                raise
            nearest = next(folder for folder in Path(path).absolute().parents if folder.exists())
            needed, free = _size(checkpoint), shutil.disk_usage(nearest).free
            what = f"{os.strerror(cause.errno or errno.EIO)}; a checkpoint needs {needed} bytes, {free} are free"
            raise OSError(cause.errno, what, str(path)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Load tensors and plain values only.

        Raises:
            FileNotFoundError: There is no such file.
            ArtifactError: As ``check_hash``, or as ``read_checkpoint``.
        """
        check_hash(path)
        return _load(path, map_location=map_location)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a checkpoint whose hash was checked. Its weights stay on disk until they are used.

    Raises:
        ArtifactError: The file holds anything but tensors and plain values, its parts are not those of a checkpoint, or
            it would need more memory than it has bytes.
    """
    return _load(path, map_location="cpu", mmap=True)


def check_hash(path: str | os.PathLike[str]) -> None:
    """Check that a checkpoint is as it was written. 1 MiB is read at a time.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is cut, changed, or was not written by ``AtomicCheckpointIO``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a checkpoint of a run.")
    digest, rest = hashlib.sha256(), os.path.getsize(path) - _TRAILER
    with open(path, "rb") as file:
        while rest > 0 and (chunk := file.read(min(rest, 1 << 20))):
            digest.update(chunk)
            rest -= len(chunk)
        trailer = file.read()
    if not re.fullmatch(_MARK + b"[0-9a-f]{64}", trailer):
        raise ArtifactError(
            f"{path}: cut, or not a checkpoint: it does not end with a SHA-256. Give a checkpoint of a run."
        )
    expected = trailer.removeprefix(_MARK).decode()
    if digest.hexdigest() != expected:
        raise ArtifactError(
            f"{path}: damaged: its SHA-256 is {digest.hexdigest()} instead of {expected}. "
            "Restore it, or start a new run."
        )


def newest_valid(folder: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """The checkpoint of a run to go on from, and what is wrong with those that come before it.

    ``last.ckpt`` comes first: a run ended between the writing of the two repeats the epoch that ``best.ckpt`` is
    of, and ends with the same files as a run that nothing ended.

    Raises:
        FileNotFoundError: There is none.
        ArtifactError: None is valid.
    """
    names = [name for name in ("last.ckpt", "best.ckpt") if Path(folder, name).is_file()]
    if not names:
        raise FileNotFoundError(f"{folder}: no checkpoint; expected last.ckpt or best.ckpt")
    faults = []
    for name in names:
        try:
            check_hash(Path(folder, name))
            return Path(folder, name), faults
        except ArtifactError as error:
            faults.append(str(error))
    raise ArtifactError("; ".join(faults))


def expected_size(module: nn.Module) -> int:
    """Bytes of a checkpoint, nearly: weights, and two moments of AdamW for each that is trained."""
    return sum(p.nbytes * (3 if p.requires_grad else 1) for p in module.parameters())


def _load(path: Any, **options: Any) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            check_torch_zip(file, os.path.getsize(path))
        content = torch.load(os.fspath(path), weights_only=True, **options)
    except Exception as error:  # A file that is no checkpoint raises many kinds, with advice that is not for users.
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: the memory is too small for this checkpoint.") from None
        reason = f" ({error})" if isinstance(error, TensorFileError) else ""
        raise ArtifactError(
            f"{path}: not a checkpoint of this library{reason}. Give a checkpoint of a run, or start a new run."
        ) from None
    return check_head(content, os.fspath(path))


def _size(checkpoint: dict[str, Any]) -> int:
    counting: Any = _HashingWriter(None)
    torch.save(checkpoint, counting)
    return counting.size + _TRAILER


class _HashingWriter:
    """Knows the hash and number of the bytes written to it; without a file, they go nowhere."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.size += len(content)
        if self.file is not None:
            self.file.write(content)
        return len(content)

    def flush(self) -> None:
        """What ``torch.save`` asks of a file; closing it does that."""
