"""``manifest.json`` of a training run: versions, data, test metrics, and size and SHA-256 of every file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import text
from text.artifacts import FileFacts, check_facts, list_facts, read_facts, read_sealed, seal, write_json, write_lines
from text.datasets import DPRDataPipe, DPRFile
from text.errors import ArtifactError
from text.runs.contents import MANIFEST, find_run_files, read_ledger

_PACKAGES = ("torch", "torchdata", "pytorch-lightning", "tokenizers", "tiktoken", "safetensors", "pysimdjson", "numpy")


class DataFile(NamedTuple):
    """Data file of a split."""

    path: str
    bytes: int
    sha256: str


class SplitData(NamedTuple):
    """Data files and row counts of a split."""

    files: list[DataFile]
    questions: int
    rows_skipped: int
    rows_skipped_because: dict[str, int]
    found: dict[str, int]
    """Number of occurrences of each other finding in the rows."""
    duplicate_keys_checked: bool


class Manifest(NamedTuple):
    """Content of ``manifest.json``."""

    versions: dict[str, str | None]
    """Versions of packages. None if a package is not installed."""
    data: dict[str, SplitData]
    test: dict[str, float]
    """Test metrics by name."""
    files: dict[str, FileFacts]
    """Facts of every file of the run except the manifest, by path relative to the run's folder."""


def write_manifest(
    folder: str | os.PathLike[str], pipes: Mapping[str, DPRDataPipe], test_metrics: Mapping[str, float]
) -> None:
    """Write ``manifest.json``, and ``rejects.jsonl`` if rows were skipped.

    Args:
        folder: The run's folder.
        pipes: The data of each split.
        test_metrics: Test metrics by name.
    """
    skipped = [row._asdict() for pipe in pipes.values() for row in pipe.skipped]
    if skipped:
        write_lines(Path(folder, "rejects.jsonl"), (json.dumps(row) + "\n" for row in skipped))
    versions = {"dpr-text": text.__version__, "python": platform.python_version()}
    manifest = Manifest(
        versions=versions | {name: _find_version(name) for name in _PACKAGES},
        data={split: _describe_data(pipe) for split, pipe in pipes.items()},
        test=dict(test_metrics),
        files=list_facts(folder, [Path(folder, name) for name in find_run_files(folder) if name != MANIFEST]),
    )
    write_json(Path(folder, MANIFEST), seal(manifest))


def read_manifest(folder: str | os.PathLike[str]) -> Manifest | None:
    """Return the manifest of a run. None if the run has not finished.

    Raises:
        ArtifactError: The file is damaged, was written by an earlier version, or is of another kind.
    """
    path = Path(folder, MANIFEST)
    try:
        return read_sealed(path, Manifest) if os.path.lexists(path) else None
    except ArtifactError as fault:
        hint = "Restore it. Without it, the run counts as unfinished, and --resume can finish it again."
        raise ArtifactError(f"{fault} {hint}") from None


def update_manifest(folder: str | os.PathLike[str], name: str) -> None:
    """Update the facts of a file in the manifest of a run, if the run has a manifest.

    Raises:
        ArtifactError: The manifest is invalid, see ``read_manifest``.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        files = {**manifest.files, name: read_facts(Path(folder, name))}
        write_json(Path(folder, MANIFEST), seal(manifest._replace(files=dict(sorted(files.items())))))


def check_run_file(folder: str | os.PathLike[str], name: str) -> None:
    """Check that a file of a run still has its recorded size and hash. A file without recorded facts is accepted.

    Raises:
        ArtifactError: The file or the record of its facts is missing, damaged or was changed.
    """
    listed = read_manifest(folder) or read_ledger(folder)
    if listed is not None and name in listed.files:
        check_facts(Path(folder, name), listed.files[name])


def _describe_data(pipe: DPRDataPipe) -> SplitData:
    return SplitData(
        files=[DataFile(os.fspath(file.path), os.path.getsize(file.path), _hash_data(file)) for file in pipe.files],
        questions=pipe.num_rows,
        rows_skipped=len(pipe.skipped),
        rows_skipped_because=dict(Counter(row.reason for row in pipe.skipped)),
        found=dict(pipe.counts),
        duplicate_keys_checked=True,
    )


def _hash_data(file: DPRFile) -> str:
    """Return the SHA-256 of a data file. The check of the rows has computed it unless it read a converted file."""
    return file.findings.sha256 if file.rows.plain_path == file.path else read_facts(file.path).sha256


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
