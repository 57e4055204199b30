"""The folder of a training run: locked, checked before the work starts, and cleared of an earlier run.

``text/runs/contents.py`` knows which files a run writes, and which of them may be removed.
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
from text.runs.resume import SETTINGS, find_checkpoint
from text.training import expected_size, is_rank_zero

_IDLE: dict[str, Any] = {"overwrite": False, "resume": None}
"""Settings that ``config.yaml`` has as if they had not been given: who reads it again does not ask to remove a run."""
_CHECKPOINTS_AT_ONCE = 3
"""``best.ckpt``, ``last.ckpt``, and the new file that takes the place of one of them when it is complete."""


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
            UsageError: As ``find_checkpoint`` and ``find_earlier_run``, or an earlier run would go on and be replaced.
            ArtifactError: As ``find_checkpoint``.
            BlockingIOError, OSError: As ``lock_folder``.
        """
        is_writer = is_rank_zero() and not fast_dev_run
        with lock_folder(output_dir) if is_writer else nullcontext():
            folder = cls(output_dir, find_checkpoint(resume, output_dir), is_writer=is_writer)
            if is_writer:
                folder._check_contents(overwrite=overwrite)
            yield folder

    def start(self, settings: Mapping[str, Any], bundle: BiEncoderBundle) -> None:
        """Remove an earlier run, and write ``config.yaml`` and ``tokenizer.json``.

        Call ``check_resumed`` and ``check_checkpoint`` before: a checkpoint that does not fit then changes nothing.

        Args:
            settings: All settings of the run.
            bundle: What the run trains, with its tokenizer.

        Raises:
            UsageError: As ``find_earlier_run``, or the run would remove files that it reads.
            FileExistsError: Files that stay are in the way of the trained model.
            OSError: The disk has not enough room.
        """
        if not self.is_writer:
            return
        earlier = find_earlier_run(self.path)
        removed = [] if self._continues() else earlier
        _check_not_removed(settings, removed)
        if bundle.model.is_tied:
            _check_no_second_encoder(self.path, removed)
        # The run removes or replaces these files, so their room counts.
        freed = [path for path in earlier if not self._continues() or path.suffix == ".ckpt"]
        needed = _CHECKPOINTS_AT_ONCE * expected_size(bundle.model)
        _check_room(self.path, needed, sum(path.lstat().st_size for path in freed))
        write_ledger(self.path, {})
        # The manifest says how a run has ended: a run that goes on has none. It goes first, so that run.json claims the
        # other files if this process is killed.
        for path in [self.path / MANIFEST, *removed]:
            if path.name != LEDGER:
                path.unlink(missing_ok=True)
        _remove_empty_folders(self.path)
        if removed and (foreign := find_foreign_files(self.path)):
            print(f"{self.path}: these files are not of a run and stay: {', '.join(foreign[:5])}")
        write_yaml(self.path / "config.yaml", {**settings, **{name: _IDLE[name] for name in settings.keys() & _IDLE}})
        write_text(self.path / "tokenizer.json", bundle.tokenizer.to_str(pretty=True))
        write_ledger(self.path, list_facts(self.path, [self.path / name for name in SETTINGS]))

    def _check_contents(self, *, overwrite: bool) -> None:
        earlier = find_earlier_run(self.path)
        if overwrite and self._continues():
            raise UsageError(
                f"--resume goes on with the run in {self.path}, --overwrite removes it. Give one of the two."
            )
        if earlier and not (overwrite or self._continues()):
            raise FileExistsError(
                f"{self.path} holds an earlier run ({earlier[0].name}). "
                "Take another --output_dir, or --overwrite, or --resume."
            )

    def _continues(self) -> bool:
        """Return whether the checkpoint lies in this folder."""
        return self.checkpoint is not None and self.path.resolve() in Path(self.checkpoint).resolve().parents


def find_earlier_run(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files of an earlier run in a folder, which a new run may remove.

    Raises:
        UsageError: Something stands in the place of a file that a run writes, and is not known to be of a run.
    """
    names = find_run_files(folder)
    try:
        manifest = read_manifest(folder)
        listed = None if manifest is None else {*manifest.files, MANIFEST}
        claimed = listed or (set(names) if read_ledger(folder) is not None else set[str]())
    except ArtifactError as fault:
        raise UsageError(
            f"{fault} A run removes only what is known as its own: move the file, or the folder."
        ) from None
    if REPORT in names and is_run_report(Path(folder, REPORT)):
        claimed |= {REPORT}
    if unknown := [*find_obstacles(folder), *(name for name in names if name not in claimed)]:
        reason = "a training run writes there, and did not write this. Move it, or take another --output_dir."
        raise UsageError(f"{Path(folder, unknown[0])}: {reason}")
    return [Path(folder, name) for name in names]


def _check_not_removed(settings: Mapping[str, Any], removed: list[Path]) -> None:
    """Check that a run reads nothing of the earlier run that it removes."""
    paths = {path.resolve() for path in removed}
    for name in ("encoder", "tokenizer", "train_files", "valid_file", "test_file", "collection"):
        given = settings.get(name) or []
        for source in [Path(given)] if isinstance(given, str) else map(Path, given):
            if source.exists() and any(source.resolve() in (path, *path.parents) for path in paths):
                raise UsageError(f"--{name} has {source}, which --overwrite would remove. Take another --output_dir.")


def _check_no_second_encoder(folder: Path, removed: list[Path]) -> None:
    """Check that no files stay in the folder of a passage encoder. A tied model has none."""
    place = folder / "model" / "passage_encoder"
    if left := sorted({path for path in place.rglob("*") if not path.is_dir()} - set(removed)):
        raise FileExistsError(
            f"{left[0]}: not of the earlier run, so it stays, and a model with tied encoders has no passage_encoder. "
            "Move it, or take another --output_dir."
        )


def _check_room(folder: Path, needed: int, freed: int) -> None:
    free = shutil.disk_usage(folder).free + freed
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, the checkpoints need {needed} at one moment", str(folder))


def _remove_empty_folders(folder: Path) -> None:
    """Remove the folders of a run that hold nothing any more."""
    for name in FOLDERS:
        for root, _, _ in os.walk(folder / name, topdown=False):
            with suppress(OSError):  # It holds files that are not of a run.
                os.rmdir(root)
