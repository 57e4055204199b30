"""The folder of a training run: locked, checked before the work starts, and cleared of an earlier run.

A run leaves the files that ``CONTENTS`` lists. ``--overwrite`` removes these files and no others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer

from text.artifacts import remove_leftovers, write_text
from text.errors import ArtifactError, UsageError
from text.training import check_hash, newest_valid
from text.transforms import load_tokenizer

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
    "output_dir overwrite resume gpus num_nodes num_workers log_every_n_steps fast_dev_run validate_first monitor "
    "early_stopping data_path train_files valid_file test_file collection token_cache max_skipped allow_no_negatives "
    "tokenizer tokenizer_backend compile activation_checkpointing chunk_tokens".split()
)
"""Settings that a resumed run may change: they change no update, or are compared by their content."""


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
        path: The folder, which ``lock_folder`` has created.
        checkpoint: The checkpoint that the run resumes from. An earlier run in the folder stays if the checkpoint lies
            in it.
    """

    def __init__(self, path: str | os.PathLike[str], checkpoint: str | None = None) -> None:
        self.path = Path(path)
        self.checkpoint = checkpoint

    def check_writable(self, *, overwrite: bool) -> None:
        """Check before any work that the run can be written. Nothing is removed yet.

        Raises:
            FileExistsError: The folder holds an earlier run, and ``overwrite`` is False.
            OSError: The folder cannot be written.
        """
        probe = self.path / ".probe"
        write_text(probe, "writable")
        probe.unlink()
        left = self._contents()
        if left and not (overwrite or self._continues()):
            raise FileExistsError(
                f"{self.path} holds an earlier run ({left[0].name}). Take another --output_dir, or --overwrite, or --resume."
            )

    def check_space(self, needed: int) -> None:
        """Check that the disk has room for two checkpoints of ``needed`` bytes together.

        Raises:
            OSError: There is not enough room.
        """
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free} bytes are free, two checkpoints need {needed}", str(self.path))

    def start(self, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
        """Remove an earlier run unless this run continues it, and write ``config.yaml`` and ``tokenizer.json``."""
        if not self._continues():
            for path in self._contents():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
        write_text(self.path / "tokenizer.json", tokenizer.to_str(pretty=True))

    def _contents(self) -> list[Path]:
        return [path for name in CONTENTS if os.path.lexists(path := self.path / name)]

    def _continues(self) -> bool:
        """Return whether the checkpoint lies in this folder."""
        return self.checkpoint is not None and self.path.resolve() in Path(self.checkpoint).resolve().parents


def find_checkpoint(resume: str | None, output_dir: str) -> tuple[str | None, list[str]]:
    """Return the checkpoint that a run resumes from, and the faults of newer checkpoints.

    Args:
        resume: A checkpoint; the folder of a run; "auto" for the run in ``output_dir``; or None.
        output_dir: The folder of the run.

    Raises:
        UsageError: There is no checkpoint.
        ArtifactError: The checkpoint is damaged.
    """
    if resume is None:
        return None, []
    path = Path(output_dir if resume == "auto" else resume)
    if path.is_file():
        check_hash(path)
        return str(path), []
    if not path.exists():
        raise UsageError(f"--resume: {path} does not exist. Give a checkpoint or the folder of a run.")
    try:
        found, faults = newest_valid(path / "checkpoints")
    except FileNotFoundError:
        raise UsageError(f"--resume: {path} has no checkpoint. Give a checkpoint or the folder of a run.") from None
    return str(found), faults


def check_resumed(checkpoint: str, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check that a run goes on with the settings and the tokenizer that it began with.

    A checkpoint that was moved out of its run's folder is not checked.

    Raises:
        ArtifactError: The tokenizer differs, or a setting that decides the weights. More epochs are allowed.
    """
    path = Path(checkpoint).resolve().parents[1] / "config.yaml"
    if not path.is_file():
        return
    if load_tokenizer(path.with_name("tokenizer.json")).to_str() != tokenizer.to_str():
        raise ArtifactError(f"{checkpoint}: saved with another tokenizer. Use {path.with_name('tokenizer.json')}.")
    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = [
        f"{name}: {saved[name]} -> {value}"
        for name, value in settings.items()
        if name in saved
        and name not in _MAY_DIFFER
        and (saved[name] or None) != (value or None)
        and not (name == "max_epochs" and value > saved[name])
    ]
    if changed:
        raise ArtifactError(
            f"{checkpoint}: saved with other settings ({', '.join(changed)}). Resume with the same ones."
        )


def _run_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return a run's folder and the folders in it that belong to the run."""
    inner = [path for name in CONTENTS for path in (Path(folder, name), *Path(folder, name).rglob("*"))]
    return [Path(folder), *(path for path in inner if path.is_dir() and not path.is_symlink())]
