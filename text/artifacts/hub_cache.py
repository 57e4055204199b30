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
        UsageError: The path is missing, and the cache has no model of this name.
    """
    if path in names or os.path.lexists(path) or not _NAME.fullmatch(path) or path.endswith(_FILES):
        return path
    cache = cache_folder(os.environ)
    candidates = [path] if "/" in path else [path, f"{_DEFAULT_ORGANIZATION}/{path}"]
    snapshot = next((found for name in candidates if (found := find_snapshot(cache, name))), None)
    if snapshot is None:
        others = f"none of {', '.join(names)}, " if names else ""
        raise UsageError(
            f"--{flag} is {path}: no file or folder, {others}and no model in the cache of Hugging Face ({cache}). "
            f"To download a model of the hub: hf download {path} --local-dir {path}"
        )
    if flag != "tokenizer":
        _check_complete(snapshot, path)
    return str(snapshot)


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
    folder = cache / f"models--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch(r"\w+", commit) and snapshot.is_dir() else None


def _check_complete(snapshot: Path, name: str) -> None:
    """Warn if the cache does not know whether the model is one of sentence-transformers.

    transformers downloads only the files that it reads. huggingface_hub notes in ``.no_exist`` which files the hub does
    not have.
    """
    absent = snapshot.parents[1] / ".no_exist" / snapshot.name / "modules.json"
    if not ((snapshot / "modules.json").exists() or absent.exists()):
        warnings.warn(
            f"{snapshot} has no modules.json, so {name} is taken for a plain encoder: first token, dot product. If it "
            f"is a model of sentence-transformers, complete the cache: hf download {name}",
            SettingsWarning,
            stacklevel=2,
        )
