"""``manifest.json`` of a training run: versions, data, test metrics, and the SHA-256 of every file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import text
from text.artifacts import sha256, write_json, write_text
from text.datasets import DPRDataPipe, DPRFile
from text.errors import ArtifactError
from text.runs.folder import LOCK

_NAME = "manifest.json"
_PACKAGES = ("torch", "torchdata", "pytorch-lightning", "tokenizers", "tiktoken", "safetensors", "pysimdjson", "numpy")


def write_manifest(
    folder: str | os.PathLike[str], pipes: Mapping[str, DPRDataPipe], test_metrics: Mapping[str, float]
) -> None:
    """Write ``manifest.json``, and ``rejects.jsonl`` if rows were skipped.

    Args:
        folder: The run's folder.
        pipes: The data of each stage.
        test_metrics: By name.
    """
    skipped = [row._asdict() for pipe in pipes.values() for row in pipe.skipped]
    if skipped:
        write_text(Path(folder, "rejects.jsonl"), "".join(json.dumps(row) + "\n" for row in skipped))
    versions = {"dpr-text": text.__version__, "python": platform.python_version()}
    manifest = {
        "versions": versions | {name: _find_version(name) for name in _PACKAGES},
        "data": {stage: _describe_data(pipe) for stage, pipe in pipes.items()},
        "test": dict(test_metrics),
        "sha256": _hash_files(Path(folder)),
    }
    write_json(Path(folder, _NAME), manifest)


def update_manifest(folder: str | os.PathLike[str], name: str) -> None:
    """Write the new hash of a file into the manifest of a run, if the run has a manifest.

    Raises:
        ArtifactError: The manifest belongs to something else.
    """
    path = Path(folder, _NAME)
    if path.exists():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if "sha256" not in manifest:
            raise ArtifactError(f"{path}: not the manifest of a training run, it has no sha256.")
        manifest["sha256"] = dict(sorted({**manifest["sha256"], name: sha256(Path(folder, name))}.items()))
        write_json(path, manifest)


def _describe_data(pipe: DPRDataPipe) -> dict[str, Any]:
    return {
        "files": [
            {"path": file.path, "bytes": os.path.getsize(file.path), "sha256": _hash_data(file)} for file in pipe.files
        ],
        "questions": pipe.num_rows,
        "rows_skipped": len(pipe.skipped),
        "rows_skipped_because": dict(Counter(row.reason for row in pipe.skipped)),
        "found": dict(pipe.counts),
        "duplicate_keys_checked": True,
    }


def _hash_files(folder: Path) -> dict[str, str]:
    paths = [Path(root, name) for root, _, names in os.walk(folder) for name in names if name not in (_NAME, LOCK)]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(paths)}


def _hash_data(file: DPRFile) -> str:
    """Return the SHA-256 that the check of the rows has found, unless the file was converted for the check."""
    return file.findings.sha256 if file.rows.plain_path == file.path else sha256(file.path)


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
