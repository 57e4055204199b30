"""An encoder's weights and settings as files, with errors in one line. What is in them is left to those who ask.

No pickle is loaded but by ``torch.load(..., weights_only=True)``, which makes tensors and plain values only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from text.artifacts import atomic_write
from text.errors import ArtifactError, SettingsWarning
from text.foreign_settings import Table, describe_unknown, describe_unsupported
from text.models import keys
from text.models.keys import Table as KeyTable

SAFE_TORCH = "2.10"
"""Before, what ``torch.load`` reads could run code all the same (CVE-2025-32434), or write where it must not
(CVE-2026-24747)."""


def weights_file(folder: Path) -> Path:
    """``model.safetensors``, or ``pytorch_model.bin`` where that alone is there."""
    path, other = folder / "model.safetensors", folder / "pytorch_model.bin"
    return other if other.is_file() and not path.is_file() else path


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a ``.safetensors`` file; of any other, the dict that ``torch.load`` finds in it.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It cannot be read, holds objects of other classes, or no dict; or this PyTorch is too old to
            read it safely.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an encoder's weights")
    if path.suffix != ".safetensors" and torch.__version__ < SAFE_TORCH:
        raise ArtifactError(
            f"{path}: torch {torch.__version__} cannot read such a file without the risk of running code in it "
            "(CVE-2025-32434); expected .safetensors, or torch 2.10 or later"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ArtifactError(
            f"{path}: holds more than weights, or is corrupt; expected weights alone: "
            'where you trust it, load it and save its "model_dict" alone, with torch.save or safetensors'
        ) from None
    except Exception as error:  # both libraries raise many kinds
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's, not that of a damaged file in which torch seeks in vain
        found = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(f"{path}: {found}; expected the weights of an encoder") from None
    if not isinstance(content, Mapping):
        raise ArtifactError(f"{path}: a {type(content).__name__}; expected a state dict, the weights of an encoder")
    return dict(content)


def named(path: Path, theirs: Mapping[str, Any], table: KeyTable) -> dict[str, Tensor]:
    """Return the weights that were read from ``path`` under our names.

    Raises:
        ArtifactError: It is not tensors by name; or as ``keys.to_ours``.
    """
    for key, value in theirs.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise ArtifactError(f"{path}: {key} is a {type(value).__name__}; expected tensors by name")
    try:
        return keys.to_ours(theirs, table)
    except KeyError as error:
        raise ArtifactError(f"{path}: {error.args[0]}; expected the weights of an encoder") from None


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes a ``.safetensors`` file, whole or not at all."""
    with atomic_write(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is not JSON, or not of this kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}); expected settings of an encoder") from None
    if not isinstance(content, kind):
        found = type(content).__name__
        raise ArtifactError(f"{path}: a {found}; expected a {kind.__name__}, settings of an encoder")
    return content


def check_settings(path: Path, settings: Mapping[str, Any], table: Table) -> None:
    """Refuse a setting of another library under which its encoder is none of ours, and warn of unknown settings.

    Raises:
        ArtifactError: A setting has a value that is not supported.
    """
    if unsupported := describe_unsupported(settings, table):
        raise ArtifactError(f"{path}: {unsupported}")
    if unknown := describe_unknown(settings, table):
        warnings.warn(f"{path}: {unknown}", SettingsWarning, stacklevel=2)
