"""The files that a training run writes, and what says that those in a folder are its own.

A run claims its folder by ``run.json``, which it writes first. When it ends, ``manifest.json`` lists its files one by
one. Only files that one of the two claims are removed or replaced: a name alone proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import text
from text.artifacts import FileFacts, read_facts, read_sealed, seal, write_json

LEDGER = "run.json"
MANIFEST = "manifest.json"
REPORT = "report.html"
EVALUATION = "evaluation/figures.json"
"""What ``dpr-text evaluate --output_dir=RUN/evaluation`` writes. It is no file of the run: a new run lets it stay."""
FOLDERS = ("checkpoints", "model", "tensorboard")
"""Folders that a run writes."""
_ENCODER = ("*.json", "model.safetensors", "*/config.json", "*/model.safetensors")
_FILES = (
    *(LEDGER, MANIFEST, REPORT, "config.yaml", "tokenizer.json", "metrics.csv", "speed.csv", "lengths.json"),
    *("worst_questions.jsonl", "rejects.jsonl", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml", "model/README.md", "model/*.json"),
    *(f"model/{side}_encoder/{name}" for side in ("question", "passage") for name in _ENCODER),
)
"""Patterns of the files that a run writes, each for one depth of folders."""
GENERATOR = "dpr-text report"
"""By this name, in its head, a page is known as a report of runs."""
_HEAD = 1024


class Ledger(NamedTuple):
    """Content of ``run.json``."""

    command: Literal["dpr-text train"]
    version: str
    """Of the library."""
    files: dict[str, FileFacts]
    """Facts of the files that stay as they are until the run ends, by name."""
    earlier_evaluation: str | None
    """SHA-256 of an evaluation that was there before the run, and is therefore of another model. None without one."""


def write_ledger(folder: str | os.PathLike[str], files: Mapping[str, FileFacts]) -> None:
    """Say that a folder belongs to a training run.

    Args:
        folder: The run's folder.
        files: As in ``Ledger``.
    """
    path = Path(folder, EVALUATION)
    earlier = read_facts(path).sha256 if path.is_file() else None
    ledger = Ledger("dpr-text train", text.__version__, dict(files), earlier)
    write_json(Path(folder, LEDGER), seal(ledger))


def read_ledger(folder: str | os.PathLike[str]) -> Ledger | None:
    """Return the ledger of a run's folder. None if the folder has none.

    Raises:
        ArtifactError: The file is damaged, or another kind of file.
    """
    path = Path(folder, LEDGER)
    return read_sealed(path, Ledger) if os.path.lexists(path) else None


def find_run_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the files in a folder that have the names of a run's files, relative to the folder."""
    return sorted(str(name) for name, path in _walk(folder) if _matches(name) and path.is_file())


def find_obstacles(folder: str | os.PathLike[str]) -> list[str]:
    """Return what stands in the way of a run's files: links to folders, and files and folders in each other's place."""
    found = []
    for name, path in _walk(folder):
        is_link = path.is_symlink() and path.is_dir()
        is_no_folder = is_link or not path.is_dir()
        if (
            (_matches(name) and not path.is_file())
            or (str(name) in FOLDERS and is_no_folder)
            or (name.parts[0] in FOLDERS and is_link)
        ):
            found.append(str(name))
    return sorted(found)


def find_foreign_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the files in the folders of a run that have no name of a run's files, relative to the run's folder."""
    return sorted(
        str(name) for name, path in _walk(folder) if len(name.parts) > 1 and not _matches(name) and path.is_file()
    )


def is_run_report(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a page that ``dpr-text report`` wrote."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(_HEAD)


def _walk(folder: str | os.PathLike[str]) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield all that stands in a run's folder and in the folders of the run. Links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        relative = Path(root).relative_to(folder)
        yield from ((PurePosixPath(relative, name), Path(root, name)) for name in (*folders, *names))
        folders[:] = [name for name in folders if relative.parts or name in FOLDERS]


def _matches(name: PurePosixPath) -> bool:
    """Return whether a path has the depth and the names of one of the patterns."""
    return any(name.match(pattern) and len(name.parts) == pattern.count("/") + 1 for pattern in _FILES)
