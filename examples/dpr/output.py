"""The folder of a run: fit to write to before work starts, accounted for when it ends."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer

import text
from text.artifacts import sha256, write_json, write_text
from text.datasets import DPRDataPipe, DPRFile

# All that a run leaves in its folder; --overwrite removes these and nothing else.
CONTENTS = (
    "config.yaml",
    "tokenizer.json",
    "checkpoints",
    "model",
    "metrics.csv",
    "tensorboard",
    "manifest.json",
    "rejects.jsonl",
)
_PACKAGES = ("torch", "torchdata", "pytorch-lightning", "tokenizers", "tiktoken", "safetensors", "pysimdjson", "numpy")


def check_output(folder: str, *, overwrite: bool, resumed: str | None) -> None:
    """Makes sure, before any work, that a run can be written here; removes nothing yet.

    Args:
        folder: Created where it is missing.
        overwrite: An earlier run may be there.
        resumed: A checkpoint to go on from; if it lies in this folder, its run may be there.

    Raises:
        FileExistsError: There is an earlier run.
        OSError: The folder cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    probe = Path(folder, ".probe")
    write_text(probe, "writable")
    probe.unlink()
    left = _contents(folder)
    if left and not (overwrite or _is_inside(resumed, folder)):
        raise FileExistsError(
            f"{folder} holds an earlier run ({left[0].name}); "
            "expected an empty folder: take another --output_dir, or --overwrite, or --resume"
        )


def start_output(folder: str, config: dict[str, Any], tokenizer: Tokenizer, *, resumed: str | None) -> None:
    """Removes what an earlier run left, unless it goes on; writes ``config.yaml`` and ``tokenizer.json``."""
    if not _is_inside(resumed, folder):
        for path in _contents(folder):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    write_text(Path(folder, "config.yaml"), yaml.safe_dump(config, sort_keys=False))
    write_text(Path(folder, "tokenizer.json"), tokenizer.to_str(pretty=True))


def write_manifest(folder: str, pipes: dict[str, DPRDataPipe], figures: Mapping[str, float]) -> None:
    """Writes ``manifest.json``: versions, data, test figures, and the SHA-256 of every file of the run."""
    skipped = [row._asdict() for pipe in pipes.values() for row in pipe.skipped]
    data = {
        stage: {
            "files": [
                {"path": file.path, "bytes": os.path.getsize(file.path), "sha256": _sha256(file)} for file in pipe.files
            ],
            "questions": pipe.num_rows,
            "rows_skipped": len(pipe.skipped),
            "found": dict(pipe.counts),
            "duplicate_keys_checked": True,
        }
        for stage, pipe in pipes.items()
    }
    if skipped:
        write_text(Path(folder, "rejects.jsonl"), "".join(json.dumps(row) + "\n" for row in skipped))
    files = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    versions = {name: _version(name) for name in _PACKAGES}
    write_json(
        Path(folder, "manifest.json"),
        {
            "versions": {"dpr-text": text.__version__, "python": platform.python_version(), **versions},
            "data": data,
            "test": dict(figures),
            "sha256": {
                file.relative_to(folder).as_posix(): sha256(file)
                for file in sorted(files)
                if file.name != "manifest.json"
            },
        },
    )


def _sha256(file: DPRFile) -> str:
    """Known from the check of the rows, unless the file was converted for it."""
    return file.findings.sha256 if file.rows.plain_path == file.path else sha256(file.path)


def _contents(folder: str) -> list[Path]:
    return [path for name in CONTENTS if os.path.lexists(path := Path(folder, name))]


def _is_inside(path: str | None, folder: str) -> bool:
    return path is not None and Path(folder).resolve() in Path(path).resolve().parents


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
