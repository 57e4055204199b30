"""An encoder's weights as files, and the facts by which a saved model knows its files. Errors are in one line.

No pickle is loaded but by ``torch.load(..., weights_only=True)``, after ``text/models/torch_files.py`` has checked it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from text.artifacts import FileFacts, atomic_write, check_listed, check_type, list_facts, read_json, write_json
from text.errors import ArtifactError, InterruptedRun, UnsupportedModelError, is_out_of_memory
from text.models import keys
from text.models.keys import Table as KeyTable
from text.models.torch_files import TensorFileError, check_pickle, check_torch_zip

SAFE_TORCH = "2.10"
"""Before, what ``torch.load`` reads could run code all the same (CVE-2025-32434), or write where it must not
(CVE-2026-24747)."""

_MAX_HEADER = 1 << 20
"""Bytes of the header that describes the tensors. An encoder with 1,000 tensors needs about 100,000."""
_UNFINISHED = {"saved": False}
"""``config.json`` of a model whose saving has begun."""


def weights_file(folder: Path) -> Path:
    """``model.safetensors``, or ``pytorch_model.bin`` where that alone is there."""
    path, other = folder / "model.safetensors", folder / "pytorch_model.bin"
    return other if other.is_file() and not path.is_file() else path


def read_weights(path: Path) -> dict[str, Any]:
    """Return the tensors of a ``.safetensors`` file, or the dict that ``torch.load`` finds in any other file.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It cannot be read, holds objects of other classes, or no dict; or it would fill the memory.
        UnsupportedModelError: This PyTorch is too old to read the file safely.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an encoder's weights")
    if path.suffix != ".safetensors" and torch.__version__ < SAFE_TORCH:
        raise UnsupportedModelError.at(
            path,
            f"torch {torch.__version__} cannot read such a file without the risk of running code in it "
            f"(CVE-2025-32434). Use a .safetensors file, or torch {SAFE_TORCH} or later.",
        )
    try:
        with open(path, "rb") as file:
            check = _check_header if path.suffix == ".safetensors" else _check_torch_file
            check(file, path.stat().st_size)
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise TensorFileError(f"a {type(content).__name__} instead of a state dict")
        _check_num_bytes(content, path.stat().st_size)
        return dict(content)
    except (InterruptedRun, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # Both libraries raise many kinds. A panic of Rust is no Exception.
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's, not that of a damaged file in which torch seeks in vain
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: the memory is too small for these weights.") from None
        # PyTorch's own texts advise to load the file without its safeguards.
        is_plain = isinstance(error, TensorFileError | SafetensorError)
        found = " ".join(str(error).split()) if is_plain else "it is damaged, or another kind of file"
        hint = 'Restore it, or save its state dict alone, such as "model_dict", with torch.save or safetensors.'
        raise ArtifactError(f"{path}: not the weights of an encoder: {found}. {hint}") from None


def _check_header(file: BinaryIO, size: int) -> None:
    """Check the length of a safetensors header before it is parsed."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(size, _MAX_HEADER):
        raise TensorFileError(f"its header has {length} bytes, the file {size}")


def _check_torch_file(file: BinaryIO, size: int) -> None:
    """Check the form of a file of ``torch.save``."""
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        check_torch_zip(file, size)
    elif start[:1] == b"\x80":  # PyTorch before 1.6: five pickles before the numbers
        for _ in range(5):
            check_pickle(file, size)
    else:
        raise TensorFileError("it is no file of torch.save or safetensors")


def _check_num_bytes(content: Mapping[Any, Any], size: int) -> None:
    """Refuse tensors that repeat the numbers of a small file. Two names of one tensor are usual in a language model."""
    inner = [value for each in content.values() for value in (each.values() if isinstance(each, Mapping) else [each])]
    total = sum(value.nbytes for value in inner if isinstance(value, Tensor))
    if total > 2 * size:
        raise TensorFileError(f"its tensors have {total} bytes, the file {size}")


def named(path: Path, theirs: Mapping[str, Any], table: KeyTable) -> dict[str, Tensor]:
    """Return the weights that were read from ``path`` under our names.

    Raises:
        ArtifactError: It is not tensors by name, or a number is NaN or infinite; or as ``keys.to_ours``.
    """
    for key, value in theirs.items():
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.layout is torch.strided):
            raise ArtifactError(f"{path}: {key} is a {type(value).__name__}; expected tensors by name")
    try:
        ours = keys.to_ours(theirs, table)
    except KeyError as error:
        raise ArtifactError(f"{path}: {error.args[0]}; expected the weights of an encoder") from None
    for name, tensor in ours.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            key = keys.their_keys(name, table)[0]
            raise ArtifactError(f"{path}: key {key} has NaN or infinite numbers. It is damaged: restore it.")
    return ours


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite, as the float32 that the encoder takes."""
    values = tensor.float()
    # A sum takes a quarter of the time, and NaN and infinite numbers stay in it. A sum of large numbers can overflow.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a ``.safetensors`` file, whole or not at all.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    # safetensors' own save_file would replace the temporary file by a private one without its lock.
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(weights, metadata={"format": "pt"}))


# ---- the facts of a saved model's files


def begin_saving(folder: Path) -> None:
    """Mark a folder as a model that is not complete, if its ``config.json`` has no facts that would tell.

    Files of two models never pass as one: until the new ``config.json`` is written, the facts of the earlier model do
    not fit.
    """
    path = folder / "config.json"
    try:
        has_facts = read_json(path, dict[str, Any]).get("files") is not None
    except (FileNotFoundError, ArtifactError):
        has_facts = False
    if not has_facts:
        write_json(path, _UNFINISHED)


def end_saving(folder: Path, settings: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Write ``config.json`` of a saved model, with the facts of its files. It is written last."""
    write_json(folder / "config.json", {**settings, "files": list_facts(folder, files)})


def check_saved_files(folder: Path, inner: str = "") -> Collection[str] | None:
    """Check files of a saved model against the facts in its ``config.json``.

    Args:
        folder: The folder of the model.
        inner: Check only the files in this folder in it.

    Returns:
        Paths of all files with facts. None for a folder without facts, as those of other libraries.

    Raises:
        ArtifactError: Saving the model was interrupted, or a file is missing, damaged or another one.
    """
    path = folder / "config.json"
    if not ((folder / "question_encoder").is_dir() and os.path.lexists(path)):
        return None
    content = read_json(path, dict[str, Any])
    if content == _UNFINISHED:
        raise ArtifactError(f"{path}: saving this model was interrupted. Save it again.")
    if content.get("files") is None:
        return None
    facts = check_type({"files": content["files"]}, dict[str, dict[str, FileFacts]], path)["files"]
    try:
        check_listed(folder, {name: facts[name] for name in facts if name.startswith(inner)})
    except ArtifactError as error:
        raise ArtifactError(f'{error} If you changed it on purpose, remove "files" from {path}.') from None
    return facts.keys()
