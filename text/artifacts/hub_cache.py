"""Lookup of models in the local Hugging Face cache. The network is never used.

The cache has a folder ``models--ORGANIZATION--NAME`` for each model. In this folder, ``refs/main`` names the last
downloaded commit, and ``snapshots/COMMIT`` holds the files of that commit.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from text.errors import SettingsWarning, UsageError

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FILE_ENDINGS = (".json", ".txt", ".pt", ".pth", ".cp", ".ckpt", ".bin", ".safetensors", ".yaml")
"""File endings. A path with one of them is a file and not a model name."""
_WEIGHTS = (".safetensors", ".bin")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")
_LOADED_ENDINGS = (".json", ".txt", ".safetensors")
"""Endings of the files that a model is loaded from. ``.bin`` is optional because ``.safetensors`` may replace it."""
_DEFAULT_ORGANIZATION = "sentence-transformers"
"""Organization that sentence-transformers tries for a name without an organization."""


def find_model(path: str, flag: str, names: Sequence[str] = ()) -> str:
    """Return an existing path unchanged, or the cached folder of a model on the Hugging Face hub.

    Args:
        path: A path, or a model name such as ``bert-base-uncased`` or ``sentence-transformers/all-MiniLM-L6-v2``.
        flag: The command-line flag with this path, for error messages.
        names: Other valid values of the flag. They are returned unchanged.

    Returns:
        The path, or the snapshot folder of the model. A missing path that cannot be a model name is returned unchanged.

    Raises:
        UsageError: The path is missing, and the cached model of this name is missing or damaged.
    """
    if path in names or os.path.lexists(path) or not _is_name(path):
        return path
    cache = get_cache_folder(os.environ)
    found = _choose_snapshot(cache, path, _TOKENIZERS if flag == "tokenizer" else _WEIGHTS)
    if found is None:
        others = f"not one of {', '.join(names)}, " if names else ""
        raise UsageError(f"--{flag} is {path}: no such file or folder, {others}and {_explain_absence(cache, path)}")
    name, snapshot = found
    _check_links(snapshot, name)
    if flag != "tokenizer":
        _check_complete(snapshot, name)
    return str(snapshot)


def describe_missing_model(path: str | os.PathLike[str]) -> str:
    """Return an error message for a missing model path, with the path or command to use instead."""
    text = os.fspath(path)
    if not _is_name(text):
        return f"{text}: no such file or folder. Pass the folder of a model."
    cache = get_cache_folder(os.environ)
    found = _choose_snapshot(cache, text, _WEIGHTS)
    if found is not None:
        return f"{text}: no such file or folder. Pass its folder in the Hugging Face cache: {found[1]}"
    return f"{text}: no such file or folder, and {_explain_absence(cache, text)}"


def get_cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache folder, following the rules of huggingface_hub.

    >>> str(get_cache_folder({"HF_HOME": "/data/hf"}))
    '/data/hf/hub'
    """
    own = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if own:
        return Path(own).expanduser()
    home = environment.get("HF_HOME") or os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def find_snapshot(cache: Path, name: str) -> Path | None:
    """Return the folder of the last downloaded snapshot of a model, or None."""
    folder = _get_model_folder(cache, name)
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch(r"\w+", commit) and snapshot.is_dir() else None


def _is_name(path: str) -> bool:
    """Return whether a path can be the name of a model on the hub."""
    return _NAME.fullmatch(path) is not None and not path.endswith(_FILE_ENDINGS)


def _list_hub_names(path: str) -> list[str]:
    """Return the names that a model can have on the hub."""
    return [path] if "/" in path else [path, f"{_DEFAULT_ORGANIZATION}/{path}"]


def _get_model_folder(cache: Path, name: str) -> Path:
    return cache / f"models--{name.replace('/', '--')}"


def _choose_snapshot(cache: Path, path: str, endings: tuple[str, ...]) -> tuple[str, Path] | None:
    """Return the name and snapshot folder of a model. Prefer a snapshot that has a file with one of these endings."""
    pairs = [(name, find_snapshot(cache, name)) for name in _list_hub_names(path)]
    found = [(name, snapshot) for name, snapshot in pairs if snapshot is not None]
    whole = (each for each in found if any(file.name.endswith(endings) for file in each[1].rglob("*")))
    return next(whole, found[0] if found else None)


def _explain_absence(cache: Path, path: str) -> str:
    """Return why the cache has no usable snapshot of a model, and the command that downloads it."""
    for name in _list_hub_names(path):
        if (folder := _get_model_folder(cache, name)).is_dir():
            reason = f"{folder} is damaged: refs/main does not name a snapshot folder"
            return f"{reason}. Download the model again: hf download {name}"
    first, *more = (f"hf download {name} --local-dir {path}" for name in _list_hub_names(path))
    alternatives = "".join(f" (for a sentence-transformers model: {command})" for command in more)
    return f"no such model in the Hugging Face cache ({cache}). To download it from the hub: {first}{alternatives}"


def _check_links(snapshot: Path, name: str) -> None:
    """Check that the files of a snapshot exist. Each file is a symbolic link into ``blobs``.

    Raises:
        UsageError: A link is broken.
    """
    broken = [file for file in sorted(snapshot.rglob("*")) if file.name.endswith(_LOADED_ENDINGS) and not file.exists()]
    if broken:
        raise UsageError(f"{broken[0]}: broken symbolic link. Download the model again: hf download {name}")


def _check_complete(snapshot: Path, name: str) -> None:
    """Warn if the cache does not show whether the model is a sentence-transformers model.

    transformers downloads only the files that it reads. huggingface_hub records in ``.no_exist`` which files
    the hub does not have. ``hf download`` fetches all files, including ``.gitattributes``, which no library reads.
    """
    absent = snapshot.parents[1] / ".no_exist" / snapshot.name / "modules.json"
    if not ((snapshot / "modules.json").exists() or absent.exists() or (snapshot / ".gitattributes").exists()):
        warnings.warn(
            f"{snapshot} has no modules.json, so {name} is loaded as a plain encoder with first-token pooling and dot "
            f"product. If it is a sentence-transformers model, download the missing files: hf download {name}",
            SettingsWarning,
            stacklevel=2,
        )
