"""Weights files of encoders, and the sizes and hashes of the files of a saved model. Error messages have one line.

``text/models/torch_files.py`` checks a pickle before ``torch.load(..., weights_only=True)`` loads it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from text.artifacts import FileFacts, atomic_write, check_listed, check_type, list_facts, read_json, write_json
from text.artifacts.hub_cache import describe_missing_model
from text.errors import ArtifactError, InterruptedRun, UnsupportedModelError, is_out_of_memory
from text.models import keys
from text.models.keys import KeyTable
from text.models.torch_files import TensorFileError, check_pickle, check_torch_zip

SAFE_TORCH = "2.10"
"""First PyTorch whose ``torch.load`` is safe. Earlier ones can run code from a file in spite of ``weights_only``
(CVE-2025-32434), or write out of bounds (CVE-2026-24747)."""

_MAX_HEADER = 1 << 20
"""Maximum bytes of the header of a safetensors file. An encoder with 1,000 tensors needs about 100,000."""


class WeightsIndex(NamedTuple):
    """Content of ``model.safetensors.index.json``."""

    weight_map: dict[str, str]
    """File of each tensor, by its key."""
    metadata: dict[str, Any] | None = None
    """Total size, which is not used."""


_UNFINISHED = {"saved": False}
"""Content of the settings while a model is being saved."""


def find_weights_file(folder: Path) -> Path:
    """Return the path of ``model.safetensors``, or of ``pytorch_model.bin`` if only that file exists."""
    path, other = folder / "model.safetensors", folder / "pytorch_model.bin"
    return other if other.is_file() and not path.is_file() else path


def check_no_adapter(folder: Path) -> None:
    """Check that a folder contains no adapter, which would change the embeddings of the weights beside it.

    Raises:
        UnsupportedModelError: It contains an adapter of peft.
    """
    if (folder / "adapter_config.json").exists():
        reason = "it contains an adapter. Merge the adapter into the weights, and remove adapter_config.json."
        raise UnsupportedModelError.at(folder, reason)


def list_weights_files(folder: Path) -> list[Path]:
    """Return the files of the weights in a folder: a single file, or an index and the shards that it lists.

    Raises:
        ArtifactError: The index is damaged, or it lists a file outside the folder.
    """
    single, index = find_weights_file(folder), folder / "model.safetensors.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    shards = read_json(index, WeightsIndex).weight_map.values()
    for name in sorted(set(shards)):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ArtifactError(f"{index}: weight_map lists {name!r}. It must list .safetensors files of its folder.")
    return [index, *(folder / name for name in sorted(set(shards)))]


def check_safetensors(path: Path) -> dict[str, list[int]]:
    """Check the header of a safetensors file, and return the shape of each tensor.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is damaged, or its header is too long.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. The weights of the encoder are missing.")
    try:
        with open(path, "rb") as file:
            _check_header(file, path.stat().st_size)
        with safe_open(path, framework="pt") as opened:
            return {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118  not a dict
    except (TensorFileError, SafetensorError) as error:
        found = " ".join(str(error).split())
        raise ArtifactError(f"{path}: not the weights of an encoder: {found}. Restore the file.") from None


def read_weights(path: Path) -> dict[str, Any]:
    """Return the tensors of a ``.safetensors`` file, or the dict that ``torch.load`` finds in any other file.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is damaged, contains objects other than tensors and plain values, is not a dict, or
            would exhaust the memory.
        UnsupportedModelError: This PyTorch is too old to read the file safely.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. The weights of the encoder are missing.")
    if path.suffix != ".safetensors" and torch.__version__ < SAFE_TORCH:
        raise UnsupportedModelError.at(
            path,
            f"torch {torch.__version__} may run code when it reads this kind of file "
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
    except BaseException as error:  # Both libraries raise many kinds of errors. A Rust panic is not an Exception.
        if isinstance(error, OSError) and error.filename is not None:
            raise  # An error of the file system. A failed seek of torch in a damaged file has no file name.
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: not enough memory for these weights.") from None
        # The messages of PyTorch suggest turning its safeguards off, so they are not repeated.
        is_plain = isinstance(error, TensorFileError | SafetensorError)
        found = " ".join(str(error).split()) if is_plain else "it is damaged, or another kind of file"
        hint = 'Restore it, or save its state dict alone, such as "model_dict", with torch.save or safetensors.'
        raise ArtifactError(f"{path}: not the weights of an encoder: {found}. {hint}") from None


def _check_header(file: BinaryIO, size: int) -> None:
    """Check the length of a safetensors header before it is parsed."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(size, _MAX_HEADER):
        raise TensorFileError(f"its header states {length} bytes, but the file has {size}")


def _check_torch_file(file: BinaryIO, size: int) -> None:
    """Check the structure of a file that ``torch.save`` wrote."""
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        check_torch_zip(file, size)
    elif start[:1] == b"\x80":  # PyTorch before 1.6 wrote five pickles before the tensors.
        for _ in range(5):
            check_pickle(file, size)
    else:
        raise TensorFileError("it was not written by torch.save or safetensors")


def _check_num_bytes(content: Mapping[Any, Any], size: int) -> None:
    """Reject tensors that expand a small file to a large size. A language model may have one tensor under two names."""
    inner = [value for each in content.values() for value in (each.values() if isinstance(each, Mapping) else [each])]
    total = sum(value.nbytes for value in inner if isinstance(value, Tensor))
    if total > 2 * size:
        raise TensorFileError(f"its tensors have {total} bytes, but the file has {size}")


def rename_weights(path: Path, external: Mapping[str, Any], table: KeyTable) -> dict[str, Tensor]:
    """Return a state dict from a file with the keys of a RobertaEncoder.

    Args:
        path: File of the weights, for error messages.
        external: State dict with the keys of the file's format.
        table: Key table of the format.

    Raises:
        ArtifactError: A key is unknown, duplicate or missing, or a value is not a tensor of finite numbers.
    """
    for key, value in external.items():
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.layout is torch.strided):
            raise ArtifactError(f"{path}: {key} is a {type(value).__name__}, not a tensor.")
    try:
        weights = keys.to_encoder_keys(external, table)
    except KeyError as error:
        raise ArtifactError(f"{path}: {error.args[0]}. Give the weights of an encoder.") from None
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            key = keys.get_external_keys(name, table)[0]
            raise ArtifactError(f"{path}: key {key} contains NaN or infinite numbers. The file is damaged: restore it.")
    return weights


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers are finite after conversion to float32."""
    values = tensor.float()
    # A sum takes a quarter of the time, and NaN or infinite numbers make it NaN or infinite. Large numbers can
    # overflow the sum, so the second check decides.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a ``.safetensors`` file atomically.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    # The save_file of safetensors would replace the temporary file, and its lock would be lost.
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(weights, metadata={"format": "pt"}))


# ---- folders of saved models

RERANKER = "reranker.json"
"""File with the settings of a saved reranker, in the folder of its weights."""


def is_run_folder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is the output of a training run. Its model is in the subfolder ``model``."""
    model = Path(folder, "model")
    return (model / "question_encoder").is_dir() or (model / RERANKER).is_file()


def check_model_folder(folder: str | os.PathLike[str]) -> None:
    """Check that a folder exists and is no training run.

    Raises:
        FileNotFoundError: The folder is missing, or contains a training run instead of a model.
    """
    if not os.path.lexists(folder):
        raise FileNotFoundError(describe_missing_model(folder))
    if is_run_folder(folder):
        model = Path(folder, "model")
        raise FileNotFoundError(f"{folder}: this is the folder of a training run. Use its model: {model}")


def begin_saving(path: Path) -> None:
    """Mark the model in a folder as incomplete, unless the file with its settings has hashes.

    Files of two models must never load as one model. The hashes of an earlier model do not match the new files until
    ``end_saving`` writes the new settings.

    Args:
        path: The file with the settings of the model: ``config.json`` of a bi-encoder, ``reranker.json`` of a reranker.
    """
    try:
        has_hashes = read_json(path, dict[str, Any]).get("files") is not None
    except (FileNotFoundError, ArtifactError):
        has_hashes = False
    if not has_hashes:
        write_json(path, _UNFINISHED)


def end_saving(path: Path, settings: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Write the settings of a saved model, with the size and hash of each file. Call this last."""
    write_json(path, {**settings, "files": list_facts(path.parent, files)})


def check_saved_files(path: Path, inner: str = "") -> Collection[str] | None:
    """Check the files of a saved model against the sizes and hashes in its settings.

    Args:
        path: The file with the settings of the model. It exists.
        inner: Check only the files in this subfolder.

    Returns:
        Paths of all files that the settings list. None if they list none.

    Raises:
        ArtifactError: Saving the model was interrupted, or a file is missing, damaged or replaced.
    """
    content = read_json(path, dict[str, Any])
    if content == _UNFINISHED:
        raise ArtifactError(f"{path}: saving this model was interrupted. Save it again.")
    if content.get("files") is None:
        return None
    facts = check_type({"files": content["files"]}, dict[str, dict[str, FileFacts]], path)["files"]
    try:
        check_listed(path.parent, {name: facts[name] for name in facts if name.startswith(inner)})
    except ArtifactError as error:
        raise ArtifactError(f'{error} If you changed it on purpose, remove "files" from {path}.') from None
    return facts.keys()


def check_nothing_added(path: Path, listed: Collection[str], files: Iterable[Path]) -> None:
    """Check that the settings of a saved model list all files that decide its results.

    Args:
        path: The file with the settings of the model.
        listed: Paths that it lists, relative to its folder.
        files: The files that decide the results now.

    Raises:
        ArtifactError: A file was added.
    """
    for each in files:
        if each.relative_to(path.parent).as_posix() not in listed:
            raise ArtifactError(
                f"{each}: this file was added after the model was saved. Remove it, or, if you added it on purpose, "
                f'remove "files" from {path}.'
            )
