"""The files that a training run writes, and how a later run recognizes them.

A run first writes ``run.json``, which claims the folder. When the run ends, ``manifest.json`` lists all its files. A
later run removes or replaces only files that ``run.json`` or ``manifest.json`` claims; a file name is no proof.
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
"""Output of ``dpr-text evaluate --output_dir=RUN/evaluation``. It does not belong to the run, so a new run keeps it."""
FOLDERS = ("checkpoints", "model", "adapter", "tensorboard")
"""Subfolders that a run creates."""
_ENCODER_FILES = ("*.json", "model.safetensors", "*/config.json", "*/model.safetensors")
_ADAPTER_FILES = ("config.json", "model.safetensors")
_FILES = (
    *(LEDGER, MANIFEST, REPORT, "config.yaml", "tokenizer.json", "metrics.csv", "speed.csv", "lengths.json"),
    *(
        "worst_questions.jsonl",
        "rejects.jsonl",
        "negatives.json",
        "loggers.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ),
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml", "model/README.md", "model/*.json"),
    "model/model.safetensors",
    *(f"model/{side}_encoder/{name}" for side in ("question", "passage") for name in _ENCODER_FILES),
    *(f"adapter/{side}_encoder/adapter_{name}" for side in ("question", "passage") for name in _ADAPTER_FILES),
)
"""Patterns of the files that a run writes. Each pattern matches one depth of folders."""
GENERATOR = "dpr-text report"
"""Value of the ``generator`` meta tag that identifies a run report."""
_HEAD_BYTES = 1024


class Ledger(NamedTuple):
    """Content of ``run.json``."""

    command: Literal["dpr-text train"]
    version: str
    """Version of the library."""
    files: dict[str, FileFacts]
    """Facts, by name, of the files that do not change until the run ends."""
    earlier_evaluation: str | None
    """SHA-256 of an evaluation that existed before the run and so belongs to another model. None if there was none."""


def write_ledger(folder: str | os.PathLike[str], files: Mapping[str, FileFacts]) -> None:
    """Write ``run.json``, which claims a folder for a training run.

    Args:
        folder: The run's folder.
        files: Facts, by name, of the files that do not change until the run ends.
    """
    path = Path(folder, EVALUATION)
    earlier = read_facts(path).sha256 if path.is_file() else None
    ledger = Ledger("dpr-text train", text.__version__, dict(files), earlier)
    write_json(Path(folder, LEDGER), seal(ledger))


def read_ledger(folder: str | os.PathLike[str]) -> Ledger | None:
    """Return the content of ``run.json``, or None if the file does not exist.

    Raises:
        ArtifactError: The file is damaged or of another kind.
    """
    path = Path(folder, LEDGER)
    return read_sealed(path, Ledger) if os.path.lexists(path) else None


def find_run_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths, relative to a folder, of all files that match the file names of a run."""
    return sorted(str(name) for name, path in _walk(folder) if _is_run_file(name) and path.is_file())


def find_obstacles(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths that block a run's files: links to folders, files in place of folders, and the reverse."""
    found = []
    for name, path in _walk(folder):
        is_link = path.is_symlink() and path.is_dir()
        is_not_folder = is_link or not path.is_dir()
        if (
            (_is_run_file(name) and not path.is_file())
            or (str(name) in FOLDERS and is_not_folder)
            or (name.parts[0] in FOLDERS and is_link)
        ):
            found.append(str(name))
    return sorted(found)


def find_foreign_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the relative paths of files in a run's subfolders that do not match the file names of a run."""
    return sorted(
        str(name) for name, path in _walk(folder) if len(name.parts) > 1 and not _is_run_file(name) and path.is_file()
    )


def is_run_report(path: str | os.PathLike[str]) -> bool:
    """Return whether ``dpr-text report`` wrote a file."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(_HEAD_BYTES)


def _walk(folder: str | os.PathLike[str]) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield all entries of a run's folder and its known subfolders. Links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        relative = Path(root).relative_to(folder)
        yield from ((PurePosixPath(relative, name), Path(root, name)) for name in (*folders, *names))
        folders[:] = [name for name in folders if relative.parts or name in FOLDERS]


def _is_run_file(name: PurePosixPath) -> bool:
    """Return whether a path matches one of the patterns, at the depth of the pattern."""
    return any(name.match(pattern) and len(name.parts) == pattern.count("/") + 1 for pattern in _FILES)
