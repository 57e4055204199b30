"""Models in the cache of Hugging Face on this machine. The network is never asked.

The cache has a folder for each model, ``models--ORGANIZATION--NAME``. ``refs/main`` in it names the commit that was
last downloaded, and ``snapshots/COMMIT`` has its files.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from text.errors import SettingsWarning, UsageError

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FILES = (".json", ".txt", ".pt", ".pth", ".cp", ".ckpt", ".bin", ".safetensors", ".yaml")
"""Endings of a file, which no model on the hub is."""
_WEIGHTS = (".safetensors", ".bin")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")
_READ = (".json", ".txt", ".safetensors")
"""Endings of the files that a model is loaded from. A ``.bin`` may be gone if there is a ``.safetensors``."""
_DEFAULT_ORGANIZATION = "sentence-transformers"
"""Where sentence-transformers looks for a name without an organization, after the name itself."""


def find_model(path: str, flag: str, names: Sequence[str] = ()) -> str:
    """Return a path that exists as it is; for the name of a model on the hub, its folder in the cache.

    Args:
        path: A path, or a name such as ``bert-base-uncased`` or ``sentence-transformers/all-MiniLM-L6-v2``.
        flag: The flag that has the path, for the error.
        names: Other values of the flag. They are returned as they are.

    Returns:
        The path; or the folder of the snapshot. A path that is missing and no name is returned as it is.

    Raises:
        UsageError: The path is missing, and the cache has no model of this name, or a damaged one.
    """
    if path in names or os.path.lexists(path) or not _is_name(path):
        return path
    cache = cache_folder(os.environ)
    found = _choose_snapshot(cache, path, _TOKENIZERS if flag == "tokenizer" else _WEIGHTS)
    if found is None:
        others = f"none of {', '.join(names)}, " if names else ""
        raise UsageError(f"--{flag} is {path}: no file or folder, {others}and {_explain_absence(cache, path)}")
    name, snapshot = found
    _check_links(snapshot, name)
    if flag != "tokenizer":
        _check_complete(snapshot, name)
    return str(snapshot)


def describe_missing_model(path: str | os.PathLike[str]) -> str:
    """Return what is wrong with the path of a model that does not exist, and what to give instead."""
    text = os.fspath(path)
    if not _is_name(text):
        return f"{text}: no such file or folder. Give the folder of a model."
    cache = cache_folder(os.environ)
    found = _choose_snapshot(cache, text, _WEIGHTS)
    if found is not None:
        return f"{text}: no such file or folder. Give the folder in the cache of Hugging Face: {found[1]}"
    return f"{text}: no such file or folder, and {_explain_absence(cache, text)}"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the cache, as huggingface_hub finds it.

    >>> str(cache_folder({"HF_HOME": "/data/hf"}))
    '/data/hf/hub'
    """
    own = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if own:
        return Path(own).expanduser()
    home = environment.get("HF_HOME") or os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def find_snapshot(cache: Path, name: str) -> Path | None:
    """Return the folder of the files of a model that were downloaded last, or None."""
    folder = _model_folder(cache, name)
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch(r"\w+", commit) and snapshot.is_dir() else None


def _is_name(path: str) -> bool:
    """Return whether a path can be the name of a model on the hub."""
    return _NAME.fullmatch(path) is not None and not path.endswith(_FILES)


def _hub_names(path: str) -> list[str]:
    """Return the names that a model can have on the hub."""
    return [path] if "/" in path else [path, f"{_DEFAULT_ORGANIZATION}/{path}"]


def _model_folder(cache: Path, name: str) -> Path:
    return cache / f"models--{name.replace('/', '--')}"


def _choose_snapshot(cache: Path, path: str, endings: tuple[str, ...]) -> tuple[str, Path] | None:
    """Return the name and the snapshot of a model. A snapshot with a file of these endings goes before others."""
    pairs = [(name, find_snapshot(cache, name)) for name in _hub_names(path)]
    found = [(name, snapshot) for name, snapshot in pairs if snapshot is not None]
    whole = (each for each in found if any(file.name.endswith(endings) for file in each[1].rglob("*")))
    return next(whole, found[0] if found else None)


def _explain_absence(cache: Path, path: str) -> str:
    """Return why the cache has no snapshot of a model, and the command that downloads it."""
    for name in _hub_names(path):
        if (folder := _model_folder(cache, name)).is_dir():
            reason = f"{folder} is damaged: its refs/main names no folder of its snapshots"
            return f"{reason}. Download the model again: hf download {name}"
    first, *more = (f"hf download {name} --local-dir {path}" for name in _hub_names(path))
    theirs = "".join(f" (for a model of sentence-transformers: {command})" for command in more)
    return f"no model in the cache of Hugging Face ({cache}). To download a model of the hub: {first}{theirs}"


def _check_links(snapshot: Path, name: str) -> None:
    """Check that the files of a snapshot are there. Each is a link to a file in ``blobs``.

    Raises:
        UsageError: A link leads nowhere.
    """
    broken = [file for file in sorted(snapshot.rglob("*")) if file.name.endswith(_READ) and not file.exists()]
    if broken:
        raise UsageError(f"{broken[0]}: a link to a file that is gone. Download the model again: hf download {name}")


def _check_complete(snapshot: Path, name: str) -> None:
    """Warn if the cache does not know whether the model is one of sentence-transformers.

    transformers downloads only the files that it reads. huggingface_hub notes in ``.no_exist`` which files the hub does
    not have. ``hf download`` gets all files; ``.gitattributes``, which nobody reads, is one of them.
    """
    absent = snapshot.parents[1] / ".no_exist" / snapshot.name / "modules.json"
    if not ((snapshot / "modules.json").exists() or absent.exists() or (snapshot / ".gitattributes").exists()):
        warnings.warn(
            f"{snapshot} has no modules.json, so {name} is taken for a plain encoder: first token, dot product. If it "
            f"is a model of sentence-transformers, complete the cache: hf download {name}",
            SettingsWarning,
            stacklevel=2,
        )
