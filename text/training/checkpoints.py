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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from text.artifacts import atomic_write
from text.errors import ArtifactError
from text.training.distributed import this_rank

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
            needed, free = _size(checkpoint), shutil.disk_usage(Path(path).parent).free
            what = f"{os.strerror(cause.errno or errno.EIO)}; a checkpoint needs {needed} bytes, {free} are free"
            raise OSError(cause.errno, what, str(path)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Loads tensors and plain values only.

        Raises:
            FileNotFoundError: There is no such file.
            ArtifactError: The file is damaged, or holds anything but tensors and plain values.
        """
        check_hash(path)
        with _translate_errors(path):
            return super().load_checkpoint(path, map_location, weights_only=True)


def best_and_last(folder: str | os.PathLike[str], monitor: str, mode: str) -> list[ModelCheckpoint]:
    """Return the callbacks that keep ``best.ckpt`` and, after every validation, ``last.ckpt``.

    ModelCheckpoint's own ``save_last`` saves only where the best is saved: a run would lose all since then.
    """
    best = _Checkpoint(Path(folder), filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    return [best, _Checkpoint(Path(folder), filename="last", enable_version_counter=False)]


class _Checkpoint(ModelCheckpoint):
    """Lightning's, which takes the checkpoints of the run that it resumes along, also to another folder.

    Lightning forgets the best figure where the folder has another name, and where another metric is monitored.
    """

    _resumed: Path | None = None
    _is_tested = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the monitor.

        Raises:
            ArtifactError: The best checkpoint so far was chosen by another metric.
        """
        self._resumed, self._is_tested = Path(str(trainer.ckpt_path)), trainer.state.fn != "fit"
        states = {key: state for key, state in checkpoint.get("callbacks", {}).items() if key.startswith("_Checkpoint")}
        monitors = [state["monitor"] for state in states.values() if state["monitor"]]
        if self.monitor and monitors and self.monitor not in monitors:
            raise ArtifactError(
                f"{self._resumed}: its best checkpoint was chosen by {monitors[0]}, this run has {self.monitor}. "
                f"Resume with --monitor={monitors[0]}, or start a new run."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best figure so far. Copy the checkpoint here if it lies in another folder.

        Raises:
            ArtifactError: The best checkpoint is missing or damaged.
        """
        kept = Path(state_dict["best_model_path"])
        if self._is_tested or not kept.name:  # it is empty before the first validation
            return
        here = Path(str(self.dirpath), kept.name)
        source = self._find_best(here, kept, state_dict["best_model_score"]) if self.monitor else self._resumed
        if source is not None and not here.exists() and this_rank() == 0:
            with atomic_write(here) as temporary:
                shutil.copyfile(source, temporary)
        paths = {name: str(here) for name in ("best_model_path", "kth_best_model_path") if state_dict[name]}
        best = {str(here): score for score in state_dict["best_k_models"].values()}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath, "best_k_models": best, **paths})

    def _find_best(self, here: Path, kept: Path, score: float) -> Path:
        """Return the best checkpoint so far: in this folder, beside the resumed checkpoint, or where it was saved."""
        beside = [self._resumed.with_name(kept.name)] if self._resumed else []
        for path in (here, *beside, kept):
            if path.exists():
                check_hash(path)
                return path
        raise ArtifactError(
            f"{here}: missing. It has the best weights so far ({self.monitor} {score:.4f}). "
            "Restore the file, or start a new run."
        )


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a checkpoint whose hash was checked. Its weights stay on disk until they are used.

    Raises:
        ArtifactError: The file holds anything but tensors and plain values.
    """
    with _translate_errors(path):
        return torch.load(os.fspath(path), map_location="cpu", mmap=True, weights_only=True)


def check_hash(path: str | os.PathLike[str]) -> None:
    """Makes sure that a checkpoint is as it was written; reads 1 MiB at a time.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is cut, changed, or was not written by ``AtomicCheckpointIO``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    digest, rest = hashlib.sha256(), os.path.getsize(path) - _TRAILER
    with open(path, "rb") as file:
        while rest > 0 and (chunk := file.read(min(rest, 1 << 20))):
            digest.update(chunk)
            rest -= len(chunk)
        trailer = file.read()
    if not re.fullmatch(_MARK + b"[0-9a-f]{64}", trailer):
        raise ArtifactError(f"{path}: cut, or not a checkpoint: no SHA-256 at its end; expected a checkpoint")
    expected = trailer.removeprefix(_MARK).decode()
    if digest.hexdigest() != expected:
        raise ArtifactError(f"{path}: damaged: SHA-256 is {digest.hexdigest()}; expected {expected}")


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


@contextmanager
def _translate_errors(path: Any) -> Iterator[None]:
    """Turn an error of the block into one that names the checkpoint."""
    try:
        yield
    except Exception as error:  # a file that is no checkpoint raises many kinds
        reason = str(error).strip().split("\n")[0]
        raise ArtifactError(f"{path}: not a checkpoint ({reason}). Give a checkpoint of a run.") from None


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
