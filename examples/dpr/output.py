"""The folder of a run: fit to write to before work starts, accounted for when it ends."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer

import text
from text.artifacts import remove_leftovers, sha256, write_json, write_text
from text.datasets import DPRDataPipe, DPRFile
from text.errors import ArtifactError
from text.transforms import load_tokenizer

# All that a run leaves in its folder; --overwrite removes these and nothing else.
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
_PACKAGES = ("torch", "torchdata", "pytorch-lightning", "tokenizers", "tiktoken", "safetensors", "pysimdjson", "numpy")
_LOCK = ".lock"
# What a run may have otherwise than the one that it goes on with: it changes no update, or is compared by its content.
_MAY_DIFFER = set(
    "output_dir overwrite resume gpus num_nodes num_workers log_every_n_steps fast_dev_run validate_first monitor "
    "early_stopping data_path train_files valid_file test_file passages token_cache max_skipped allow_no_negatives "
    "tokenizer tokenizer_backend compile activation_checkpointing chunk_tokens "
    "sel_data sel_raw_path sel_out_path sel_num_items sel_skip_items".split()
)


@contextmanager
def lock_output(folder: str) -> Iterator[None]:
    """Keeps other runs out of a folder, which is created where it is missing; removes what killed runs left half.

    The lock is the operating system's, and goes with the process: a file that a killed run leaves is no obstacle.

    Raises:
        BlockingIOError: Another run has the folder.
        OSError: The folder cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    with open(Path(folder, _LOCK), "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which data workers would inherit
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"{folder}: in use by {file.read().strip() or 'another run'}; "
                "expected a folder of its own: take another --output_dir, or end that run"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        if count := sum(remove_leftovers(path) for path in _folders(folder)):
            print(f"{folder}: removed {count} temporary files of a run that was killed")
        yield


def check_resumed(checkpoint: str, config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Makes sure that a run goes on as it was begun; of a checkpoint that was moved elsewhere nothing is known.

    Raises:
        ArtifactError: The tokenizer is another one; or a setting is, apart from those that do not matter, and more
            epochs.
    """
    path = Path(checkpoint).resolve().parents[1] / "config.yaml"
    if not path.is_file():
        return
    if load_tokenizer(path.with_name("tokenizer.json")).to_str() != tokenizer.to_str():
        raise ArtifactError(f"{checkpoint}: saved with another tokenizer; expected {path.with_name('tokenizer.json')}")
    saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = [
        f"{name}: {saved[name]} -> {value}"
        for name, value in config.items()
        if name in saved
        and saved[name] != value
        and name not in _MAY_DIFFER
        and not (name == "max_epochs" and value > saved[name])
    ]
    if changed:
        raise ArtifactError(f"{checkpoint}: saved with other settings ({', '.join(changed)}); expected the same")


def check_space(folder: str, needed: int) -> None:
    """Makes sure that a folder's disk has room for two checkpoints, of ``needed`` bytes together.

    Raises:
        OSError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free; expected {needed} for two checkpoints", folder)


def check_output(folder: str, *, overwrite: bool, resumed: str | None) -> None:
    """Makes sure, before any work, that a run can be written here; removes nothing yet.

    Args:
        folder: There, and locked.
        overwrite: An earlier run may be there.
        resumed: A checkpoint to go on from; if it lies in this folder, its run may be there.

    Raises:
        FileExistsError: There is an earlier run.
        OSError: The folder cannot be written.
    """
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


def note_change(folder: str | os.PathLike[str], name: str) -> None:
    """Brings the manifest of a run that has one up to date with a file that was written since."""
    path = Path(folder, "manifest.json")
    if path.exists():
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if "sha256" not in manifest:
            raise ArtifactError(f"{path}: not of a training run; expected one that main.py wrote")
        manifest["sha256"] = dict(sorted({**manifest["sha256"], name: sha256(Path(folder, name))}.items()))
        write_json(path, manifest)


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
            "rows_skipped_because": dict(Counter(row.reason for row in pipe.skipped)),
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
                if file.name not in ("manifest.json", _LOCK)
            },
        },
    )


def _sha256(file: DPRFile) -> str:
    """Known from the check of the rows, unless the file was converted for it."""
    return file.findings.sha256 if file.rows.plain_path == file.path else sha256(file.path)


def _folders(folder: str) -> list[Path]:
    """A run's folder, and those in it that are the run's."""
    inner = [path for name in CONTENTS for path in (Path(folder, name), *Path(folder, name).rglob("*"))]
    return [Path(folder), *(path for path in inner if path.is_dir() and not path.is_symlink())]


def _contents(folder: str) -> list[Path]:
    return [path for name in CONTENTS if os.path.lexists(path := Path(folder, name))]


def _is_inside(path: str | None, folder: str) -> bool:
    return path is not None and Path(folder).resolve() in Path(path).resolve().parents


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
