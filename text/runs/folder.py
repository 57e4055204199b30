"""The folder of a training run. It is locked, checked before training, and cleared of an earlier run.

``text/runs/contents.py`` defines which files a run writes, and which of them may be removed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from text.artifacts import list_facts, write_text, write_yaml
from text.bundle import BiEncoderBundle
from text.errors import ArtifactError, UsageError
from text.reranker import Reranker
from text.runs.contents import (
    FOLDERS,
    LEDGER,
    MANIFEST,
    REPORT,
    find_foreign_files,
    find_obstacles,
    find_run_files,
    is_run_report,
    read_ledger,
    write_ledger,
)
from text.runs.folder_lock import lock_folder
from text.runs.manifest import read_manifest
from text.runs.resume import SETTINGS_FILES, find_checkpoint
from text.training import estimate_checkpoint_size, is_rank_zero

_RESET_SETTINGS: dict[str, Any] = {"overwrite": False, "resume": None}
"""Settings that ``config.yaml`` resets, so that a run from this file neither overwrites nor resumes another run."""
_CHECKPOINTS_AT_ONCE = 3
"""Maximum number of checkpoints on disk: ``best.ckpt``, ``last.ckpt`` and the temporary file of the next one."""


class RunFolder:
    """The folder that a training run writes to.

    Args:
        path: The folder.
        checkpoint: The checkpoint to resume from. If it is in this folder, the earlier run in the folder is kept.
        is_writer: Whether this process writes to the folder. Only rank 0 does.
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
        """Lock the folder, check that the run can be written, and yield the folder. Nothing is removed yet.

        Args:
            output_dir: The folder. A missing folder is created.
            resume: Checkpoint or run to resume from, as in ``find_checkpoint``.
            overwrite: Allow the run to replace an earlier run in the folder.
            fast_dev_run: The run writes nothing.

        Raises:
            FileExistsError: The folder holds an earlier run.
            UsageError: The checkpoint does not exist (``find_checkpoint``), the folder holds unknown files
                (``find_earlier_run``), or both ``resume`` and ``overwrite`` apply to the earlier run.
            ArtifactError: The checkpoint is damaged.
            BlockingIOError, OSError: The folder cannot be locked or written (``lock_folder``).
        """
        is_writer = is_rank_zero() and not fast_dev_run
        with lock_folder(output_dir) if is_writer else nullcontext():
            folder = cls(output_dir, find_checkpoint(resume, output_dir), is_writer=is_writer)
            if is_writer:
                folder._check_contents(overwrite=overwrite)
            yield folder

    def start(self, settings: Mapping[str, Any], bundle: BiEncoderBundle | Reranker) -> None:
        """Remove an earlier run, and write ``config.yaml`` and ``tokenizer.json``.

        Call ``check_resumed`` and ``check_checkpoint`` first, so that an unsuitable checkpoint changes nothing.

        Args:
            settings: All settings of the run.
            bundle: The model to train and its tokenizer.

        Raises:
            UsageError: The folder holds unknown files (``find_earlier_run``), or the run would remove its own inputs.
            FileExistsError: A file that the run must keep blocks the trained model.
            OSError: The disk does not have enough free space.
        """
        if not self.is_writer:
            return
        earlier = find_earlier_run(self.path)
        removed = [] if self._is_resuming_here() else earlier
        _check_not_removed(settings, removed)
        if isinstance(bundle, BiEncoderBundle) and bundle.model.is_tied:
            _check_no_second_encoder(self.path, removed)
        # The run removes or replaces these files, so their space will be free.
        freed = [path for path in earlier if not self._is_resuming_here() or path.suffix == ".ckpt"]
        needed = _CHECKPOINTS_AT_ONCE * estimate_checkpoint_size(bundle.model)
        _check_free_space(self.path, needed, sum(path.lstat().st_size for path in freed))
        write_ledger(self.path, {})
        # Only a finished run has a manifest. It is removed first, so that run.json still claims the other files if this
        # process is killed.
        for path in [self.path / MANIFEST, *removed]:
            if path.name != LEDGER:
                path.unlink(missing_ok=True)
        _remove_empty_folders(self.path)
        if removed and (foreign := find_foreign_files(self.path)):
            print(f"{self.path}: kept files that do not belong to a run: {', '.join(foreign[:5])}")
        write_yaml(
            self.path / "config.yaml",
            {**settings, **{name: _RESET_SETTINGS[name] for name in settings.keys() & _RESET_SETTINGS}},
        )
        write_text(self.path / "tokenizer.json", bundle.tokenizer.to_str(pretty=True))
        write_ledger(self.path, list_facts(self.path, [self.path / name for name in SETTINGS_FILES]))

    def _check_contents(self, *, overwrite: bool) -> None:
        earlier = find_earlier_run(self.path)
        if overwrite and self._is_resuming_here():
            raise UsageError(
                f"--resume continues the run in {self.path}, but --overwrite removes it. Pass only one of them."
            )
        if earlier and not (overwrite or self._is_resuming_here()):
            raise FileExistsError(
                f"{self.path} holds an earlier run ({earlier[0].name}). "
                "Choose another --output_dir, or pass --overwrite or --resume."
            )

    def _is_resuming_here(self) -> bool:
        """Return whether the run resumes from a checkpoint in this folder."""
        return self.checkpoint is not None and self.path.resolve() in Path(self.checkpoint).resolve().parents


def find_earlier_run(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of an earlier run in a folder. A new run may remove them.

    Raises:
        UsageError: A path that the run must write to is taken by a file or folder that no run wrote.
    """
    names = find_run_files(folder)
    try:
        manifest = read_manifest(folder)
        listed = None if manifest is None else {*manifest.files, MANIFEST}
        claimed = listed or (set(names) if read_ledger(folder) is not None else set[str]())
    except ArtifactError as fault:
        raise UsageError(f"{fault} A run removes only files of an earlier run. Move the file or the folder.") from None
    if REPORT in names and is_run_report(Path(folder, REPORT)):
        claimed |= {REPORT}
    if unknown := [*find_obstacles(folder), *(name for name in names if name not in claimed)]:
        reason = "training writes to this path, but no run wrote it. Move it, or choose another --output_dir."
        raise UsageError(f"{Path(folder, unknown[0])}: {reason}")
    return [Path(folder, name) for name in names]


def _check_not_removed(settings: Mapping[str, Any], removed: list[Path]) -> None:
    """Check that a run does not remove its own inputs."""
    paths = {path.resolve() for path in removed}
    for name in ("encoder", "tokenizer", "train_files", "valid_file", "test_file", "collection"):
        given = settings.get(name) or []
        for source in [Path(given)] if isinstance(given, str) else map(Path, given):
            if source.exists() and any(source.resolve() in (path, *path.parents) for path in paths):
                raise UsageError(f"--{name} is {source}, which --overwrite would remove. Choose another --output_dir.")


def _check_no_second_encoder(folder: Path, removed: list[Path]) -> None:
    """Check that no file remains in ``passage_encoder``. A tied model has no such folder."""
    encoder_folder = folder / "model" / "passage_encoder"
    if kept := sorted({path for path in encoder_folder.rglob("*") if not path.is_dir()} - set(removed)):
        raise FileExistsError(
            f"{kept[0]}: no run wrote this file, but a tied model must not have a passage_encoder folder. "
            "Move the file, or choose another --output_dir."
        )


def _check_free_space(folder: Path, needed: int, freed: int) -> None:
    free = shutil.disk_usage(folder).free + freed
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, but the checkpoints need {needed}", str(folder))


def _remove_empty_folders(folder: Path) -> None:
    """Remove the empty subfolders of a run."""
    for name in FOLDERS:
        for root, _, _ in os.walk(folder / name, topdown=False):
            with suppress(OSError):  # The folder holds files of the user.
                os.rmdir(root)
