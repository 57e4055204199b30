"""Resuming a training run: its checkpoint, its tokenizer, and the settings that must not change."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text.artifacts import read_yaml
from text.errors import ArtifactError, UsageError
from text.models import SIZES
from text.runs.contents import LEDGER
from text.runs.manifest import check_run_file
from text.training import check_hash, find_valid_checkpoint
from text.transforms import Tokenizer, load_tokenizer

SETTINGS_FILES = ("config.yaml", "tokenizer.json")
"""Files that do not change until the run ends."""
_MAY_DIFFER = set(
    "output_dir overwrite resume gpus num_nodes num_workers log_every_n_steps fast_dev_run validate_first "
    "early_stopping data_path train_files valid_file test_file collection token_cache max_skipped allow_no_negatives "
    "skip_no_positives teacher_passages teacher_questions frozen_passages tokenizer tokenizer_backend compile "
    "activation_checkpointing chunk_tokens logger".split()
)
"""Settings that may change on resume.

They do not affect the updates, or only end training, or other checks compare their content.
"""


def find_checkpoint(resume: str | None, output_dir: str) -> str | None:
    """Return the checkpoint to resume from, and print a warning for each newer checkpoint that is damaged.

    Args:
        resume: A checkpoint, the folder of a run, "auto" for the run in ``output_dir``, or None.
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
        raise UsageError(f"--resume: {path} does not exist. Pass a checkpoint or the folder of a run.")
    try:
        found, faults = find_valid_checkpoint(path / "checkpoints")
    except FileNotFoundError:
        raise UsageError(f"--resume: {path} has no checkpoint. Pass a checkpoint or the folder of a run.") from None
    for fault in faults:
        print(f"warning: {fault}. Resuming from {found} instead.", file=sys.stderr)
    return str(found)


def find_tokenizer(tokenizer: str | None, checkpoint: str | None, encoder: str) -> str | None:
    """Return the path of the tokenizer to use, or None if the run trains a new tokenizer.

    Args:
        tokenizer: Path given by the user. It takes precedence.
        checkpoint: Checkpoint to resume from. The tokenizer of its run comes next.
        encoder: Encoder that training starts from. Its folder holds a tokenizer.

    Raises:
        UsageError: The encoder is a single file without a tokenizer.
        ArtifactError: The tokenizer of the checkpoint's run is damaged.
    """
    if tokenizer is not None:
        return tokenizer
    if checkpoint is not None:
        folder = Path(checkpoint).resolve().parents[1]
        check_run_file(folder, "tokenizer.json")
        return str(folder / "tokenizer.json")
    if os.path.isfile(encoder):
        raise UsageError(f"--encoder is {encoder}, a file without a tokenizer. Pass --tokenizer as well.")
    return None if encoder in SIZES else encoder


def check_resumed(checkpoint: str | None, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check that a resumed run keeps the settings and the tokenizer of its checkpoint.

    Nothing is checked for a checkpoint outside of its run's folder, because its settings are unknown.

    Args:
        checkpoint: The checkpoint to resume from, or None.
        settings: All settings of the resumed run.
        tokenizer: Tokenizer of the resumed run.

    Raises:
        ArtifactError: The tokenizer differs, or a setting that affects the weights or the choice of the best weights.
            More epochs are allowed.
    """
    if checkpoint is None:
        return
    folder = Path(checkpoint).resolve().parents[1]
    if any(os.path.lexists(folder / name) for name in ("config.yaml", LEDGER)):
        _check_settings(checkpoint, folder, settings, tokenizer)


def _check_settings(checkpoint: str, folder: Path, settings: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Compare the settings and the tokenizer with the files of the checkpoint's run."""
    for name in SETTINGS_FILES:
        check_run_file(folder, name)
    if load_tokenizer(folder / "tokenizer.json").to_str() != tokenizer.to_str():
        raise ArtifactError(f"{checkpoint}: saved with another tokenizer. Use {folder / 'tokenizer.json'}.")
    saved = read_yaml(folder / "config.yaml", dict[str, Any])
    if missing := [name for name in settings if name not in saved]:
        raise ArtifactError(f"{folder / 'config.yaml'}: {missing[0]} is missing. Restore the file.")
    changed = [
        f"{name}: {saved[name]} -> {value}"
        for name, value in settings.items()
        if name not in _MAY_DIFFER and saved[name] != value and not _is_longer(name, saved[name], value)
    ]
    if changed:
        raise ArtifactError(
            f"{checkpoint}: saved with other settings ({', '.join(changed)}). Resume with the same settings."
        )


def _is_longer(name: str, saved: Any, value: Any) -> bool:
    """Return whether a changed setting only makes the run train longer."""
    return name == "max_epochs" and type(saved) is int and value > saved
