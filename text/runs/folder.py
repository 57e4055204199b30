"""The folder of a training run: locked, checked before the work starts, and cleared of an earlier run.

A run leaves the files that ``CONTENTS`` lists. ``--overwrite`` removes these files and no others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from text.artifacts import remove_leftovers, write_text
from text.errors import ArtifactError, UsageError
from text.models import SIZES
from text.training import DPRDataModule, check_hash, is_rank_zero, newest_valid, read_checkpoint
from text.transforms import Tokenizer, load_tokenizer

CONTENTS = (
    "config.yaml",
    "tokenizer.json",
    "checkpoints",
    "model",
    "metrics.csv",
    "speed.csv",
    "lengths.json",
    "worst_questions.jsonl",
    "tensorboard",
    "report.html",
    "manifest.json",
    "rejects.jsonl",
)
"""Everything that a run leaves in its folder."""
LOCK = ".lock"
_MAY_DIFFER = set(
    "output_dir overwrite resume gpus num_nodes num_workers log_every_n_steps fast_dev_run validate_first "
    "early_stopping data_path train_files valid_file test_file collection token_cache max_skipped allow_no_negatives "
    "skip_no_positives tokenizer tokenizer_backend compile activation_checkpointing chunk_tokens".split()
)
"""Settings that a resumed run may change: they change no update, are compared by their content, or say when to end."""


@contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other runs out of a folder, and remove the temporary files of runs that were killed.

    The folder is created if it is missing. The lock belongs to the process: it is gone when the process ends, so a file
    that a killed run left is no obstacle.

    Raises:
        BlockingIOError: Another run uses the folder.
        OSError: The folder cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    with open(Path(folder, LOCK), "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers would inherit the lock of flock
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another run"
            raise BlockingIOError(f"{folder}: in use by {owner}. Take another --output_dir, or end that run.") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        if count := sum(remove_leftovers(path) for path in _run_folders(folder)):
            print(f"{folder}: removed {count} temporary files of a run that was killed")
        yield


class RunFolder:
    """The folder that a training run writes to.

    Args:
        path: The folder.
        checkpoint: The checkpoint that the run resumes from. An earlier run in the folder stays if the checkpoint lies
            in it.
        is_writer: Whether this process writes to the folder. Of several processes only one does.
    """

    def __init__(self, path: str | os.PathLike[str], checkpoint: str | None = None, *, is_writer: bool = True) -> None:
        self.path = Path(path)
        self.checkpoint = checkpoint
        self.is_writer = is_writer

    @classmethod
    @contextmanager
    def open(
        cls, output_dir: str, *, resume: str | None = None, overwrite: bool = False, fast_dev_run: bool = False
    ) -> Iterator[RunFolder]:
        """Lock the folder and check before any work that the run can be written. Nothing is removed yet.

        Args:
            output_dir: The folder. It is created if it is missing.
            resume: As in ``find_checkpoint``.
            overwrite: An earlier run in the folder may be replaced.
            fast_dev_run: The run writes nothing.

        Raises:
            FileExistsError: The folder holds an earlier run.
            UsageError, ArtifactError: As ``find_checkpoint``.
            BlockingIOError, OSError: As ``lock_folder``.
        """
        is_writer = is_rank_zero() and not fast_dev_run
        with lock_folder(output_dir) if is_writer else nullcontext():
            folder = cls(output_dir, find_checkpoint(resume, output_dir), is_writer=is_writer)
            if is_writer:
                folder._check_writable(overwrite=overwrite)
            yield folder

    def start(
        self, settings: Mapping[str, Any], tokenizer: Tokenizer, data: DPRDataModule, *, needed_bytes: int = 0
    ) -> None:
        """Check a resumed run, remove an earlier run, and write ``config.yaml`` and ``tokenizer.json``.

        Args:
            settings: All settings of the run.
            tokenizer: The run's tokenizer.
            data: The run's data.
            needed_bytes: Room on the disk for two checkpoints.

        Raises:
            ArtifactError: As ``check_resumed``.
            OSError: The disk has not enough room.
        """
        if self.checkpoint is not None:
            check_resumed(self.checkpoint, settings, tokenizer, data)
        if not self.is_writer:
            return
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, f"{free} bytes are free, two checkpoints need {needed_bytes}", str(self.path))
        # The manifest says how a run has ended: a run that goes on has none.
        for path in [self.path / "manifest.json"] if self._continues() else self._contents():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
        write_text(self.path / "tokenizer.json", tokenizer.to_str(pretty=True))

    def _check_writable(self, *, overwrite: bool) -> None:
        probe = self.path / ".probe"
        write_text(probe, "writable")
        probe.unlink()
        left = self._contents()
        if left and not (overwrite or self._continues()):
            raise FileExistsError(
                f"{self.path} holds an earlier run ({left[0].name}). "
                "Take another --output_dir, or --overwrite, or --resume."
            )

    def _contents(self) -> list[Path]:
        return [path for name in CONTENTS if os.path.lexists(path := self.path / name)]

    def _continues(self) -> bool:
        """Return whether the checkpoint lies in this folder."""
        return self.checkpoint is not None and self.path.resolve() in Path(self.checkpoint).resolve().parents


def find_checkpoint(resume: str | None, output_dir: str) -> str | None:
    """Return the checkpoint that a run resumes from. Print a warning for each newer checkpoint that is damaged.

    Args:
        resume: A checkpoint; the folder of a run; "auto" for the run in ``output_dir``; or None.
        output_dir: The folder of the run.

    Raises:
        UsageError: There is no checkpoint.
        ArtifactError: The checkpoint is damaged.
    """
    if resume is None:
        return None
    path = Path(output_dir if resume == "auto" else resume)
    if path.is_file():
        check_hash(path)
        return str(path)
    if not path.exists():
        raise UsageError(f"--resume: {path} does not exist. Give a checkpoint or the folder of a run.")
    try:
        found, faults = newest_valid(path / "checkpoints")
    except FileNotFoundError:
        raise UsageError(f"--resume: {path} has no checkpoint. Give a checkpoint or the folder of a run.") from None
    for fault in faults:
        print(f"warning: {fault}. Resuming from {found} instead.", file=sys.stderr)
    return str(found)


def find_tokenizer(tokenizer: str | None, checkpoint: str | None, encoder: str) -> str | None:
    """Return the path of the tokenizer that a run uses, or None if the run trains one.

    Args:
        tokenizer: The path that was asked for.
        checkpoint: The checkpoint that the run resumes from; its run's tokenizer is used.
        encoder: Where training starts; a folder has the tokenizer of its encoder.

    Raises:
        UsageError: The encoder is a file, which has no tokenizer.
    """
    if tokenizer is not None:
        return tokenizer
    if checkpoint is not None:
        return str(Path(checkpoint).resolve().parents[1] / "tokenizer.json")
    if os.path.isfile(encoder):
        raise UsageError(f"--encoder is {encoder}, a file without a tokenizer. Give --tokenizer too.")
    return None if encoder in SIZES else encoder


def check_resumed(checkpoint: str, settings: Mapping[str, Any], tokenizer: Tokenizer, data: DPRDataModule) -> None:
    """Check that a run goes on with the settings, the tokenizer and the data that it began with.

    The settings and the tokenizer of a checkpoint that was moved out of its run's folder are not known.

    Raises:
        ArtifactError: The tokenizer or the data differs, or a setting that decides the weights or which weights are
            best. More epochs are allowed.
    """
    path = Path(checkpoint).resolve().parents[1] / "config.yaml"
    if path.is_file():
        _check_settings(checkpoint, path, settings, tokenizer)
    data.check_state(read_checkpoint(checkpoint).get(type(data).__qualname__, {}), checkpoint)


def _check_settings(checkpoint: str, path: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Compare the settings with ``config.yaml`` of the checkpoint's run, and the tokenizers."""
    if load_tokenizer(path.with_name("tokenizer.json")).to_str() != tokenizer.to_str():
        raise ArtifactError(f"{checkpoint}: saved with another tokenizer. Use {path.with_name('tokenizer.json')}.")
    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = [
        f"{name}: {saved[name]} -> {value}"
        for name, value in settings.items()
        if name in saved
        and name not in _MAY_DIFFER
        and _without_empty(saved[name]) != _without_empty(value)
        and not (name == "max_epochs" and value > saved[name])
    ]
    if changed:
        raise ArtifactError(
            f"{checkpoint}: saved with other settings ({', '.join(changed)}). Resume with the same ones."
        )


def _without_empty(value: Any) -> Any:
    """Return None for an empty list, which an earlier version wrote as null."""
    return None if value == [] else value


def _run_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return a run's folder and the folders in it that belong to the run."""
    inner = [path for name in CONTENTS for path in (Path(folder, name), *Path(folder, name).rglob("*"))]
    return [Path(folder), *(path for path in inner if path.is_dir() and not path.is_symlink())]
