"""Files of sentence-transformers that do not depend on the encoder: modules, limits, prompts and similarity.

``modules.json`` lists the modules of a model, each with its own folder. ``head_files.py`` reads and writes the modules
after the transformer.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text.artifacts import read_json, write_json
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError
from text.foreign_settings import (
    SENTENCE_FILES,
    SENTENCE_TRANSFORMERS,
    TOKENIZER_OPTIONS,
    TRANSFORMER,
    find_sentence_file,
    read_modules,
    read_optional_settings,
    read_setting,
    read_settings,
)
from text.models.encoder import PROMPT_NAMES
from text.models.files import find_weights_file, list_weights_files

SETTINGS = "config_sentence_transformers.json"
"""File with the prompts and the similarity of a model."""
_ORDER = re.compile("Transformer Pooling( (Dense|LayerNorm|Normalize))*")
"""Supported sequences of module classes."""
_SIMILARITIES = ("dot", "cosine")


def list_module_files(folder: Path) -> list[Path]:
    """Return the files of all modules that loading an encoder opens, the transformer included.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that are not supported.
    """
    (_, transformer), *others = read_module_list(folder)
    settings = [folder / SETTINGS, *(transformer / name for name in SENTENCE_FILES)]
    settings += [path / "config.json" for _, path in others]
    weights = [find_weights_file(path) for kind, path in others if kind in ("Dense", "LayerNorm")]
    read_always = [folder / "modules.json", transformer / "config.json", *list_weights_files(transformer)]
    return [*read_always, *(path for path in settings if path.is_file()), *weights]


def read_module_list(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that are not supported.
    """
    path = folder / "modules.json"
    listed = read_modules(folder)
    if not listed:
        raise ArtifactError(f"{path}: the list of modules is empty.")
    types, kinds = [kind for kind, _ in listed], [kind.rpartition(".")[2] for kind, _ in listed]
    is_own = all(kind.startswith("sentence_transformers.") for kind in types)
    if not is_own or not _ORDER.fullmatch(" ".join(kinds)):
        raise UnsupportedModelError.at(
            path,
            f"its modules are {', '.join(kinds if is_own else types)}. "
            "Supported are Transformer and Pooling of sentence-transformers, which may be followed by Dense, LayerNorm "
            "and Normalize.",
        )
    return list(zip(kinds, (inner for _, inner in listed), strict=True))


def read_max_seq_length(folder: Path) -> int | None:
    """Return the token limit of sentence-transformers or of its tokenizer. Release 6 reads both files."""
    path = find_sentence_file(folder)
    limit = None if path is None else read_settings(path, TRANSFORMER).get("max_seq_length")
    return read_tokenizer_limit(folder) if limit is None else int(limit)


def read_tokenizer_limit(folder: Path) -> int | None:
    """Return the maximum number of tokens that the tokenizer of a folder states, if it states one.

    Raises:
        ArtifactError: The limit is not a positive whole number.
    """
    limit = read_setting(folder / "tokenizer_config.json", TOKENIZER_OPTIONS, "model_max_length", "max_len")
    return None if limit is None else int(limit)


def read_prompts(path: Path) -> dict[str, str]:
    """Return the prompts by name. A prompt that is null counts as missing.

    ``encode_query`` and ``encode_document`` of sentence-transformers never use ``default_prompt_name``, because each
    has its own empty prompt. Releases differ in whether they use a prompt named "passage" or "corpus". It is used here.
    """
    settings = read_optional_settings(path, SENTENCE_TRANSFORMERS)
    prompts, default = settings.get("prompts", {}), settings.get("default_prompt_name")
    if prompts is None:
        raise ArtifactError(f"{path}: prompts is null. It must be an object with a text for each name.")
    prompts = {name: prompt for name, prompt in prompts.items() if prompt is not None}
    if default is not None and default not in (*prompts, "query", "document"):
        raise ArtifactError(f"{path}: default_prompt_name is {json.dumps(default)}, but prompts does not contain it.")
    passage = next((name for name in PROMPT_NAMES["passage"] if name in prompts), None)
    if passage not in (None, "document") and prompts[passage]:
        _warn(f'{path}: passages get the prompt "{passage}". Rename it to "document", which works in every release.')
    if default is not None and prompts.get(default) and default not in ("query", passage):
        _warn(f'{path}: the prompt "{default}" is the default of encode() only. Questions and passages do not get it.')
    return prompts


def _warn(message: str) -> None:
    warnings.warn(message, SettingsWarning, stacklevel=2)


def read_similarity(folder: Path) -> str | None:
    """Return the similarity that a sentence-transformers model states, "dot" or "cosine". None if it states none.

    Raises:
        UnsupportedModelError: The folder names another similarity, such as "euclidean".
    """
    path = folder / SETTINGS
    name = read_setting(path, SENTENCE_TRANSFORMERS, "similarity_fn_name")
    if name is not None and name not in _SIMILARITIES:
        raise UnsupportedModelError.at(path, f"similarity_fn_name is {json.dumps(name)}. Supported are dot and cosine.")
    return name


def save_pair(
    folder: str | os.PathLike[str],
    sides: Mapping[str, str],
    prompts: Mapping[str, str],
    similarity: str | None = None,
) -> None:
    """Write the files with which sentence-transformers loads two saved encoders as one model.

    Args:
        folder: Folder that contains the folders of the encoders.
        sides: Name of the encoder's folder for each task, "query" and "document". If the folders differ, a Router
            chooses the encoder by task.
        prompts: Prompt of each task.
        similarity: "dot" or "cosine". None writes no similarity.
    """
    folder = Path(folder)
    modules = {task: _read_submodules(folder, side) for task, side in sides.items()}
    listed = modules["query"]
    if len(set(sides.values())) > 1:
        types = {path: kind for module in modules.values() for path, kind in module.items()}
        routes = {task: list(module) for task, module in modules.items()}
        parameters = {"default_route": None, "allow_empty_key": False}  # Embedding a text requires a task.
        router = {"types": types, "structure": routes, "parameters": parameters}
        write_json(folder / "router_config.json", router)
        listed = {"": "sentence_transformers.models.Router"}
    save_settings(folder, prompts, similarity)
    write_module_list(folder, listed)


def save_settings(folder: Path, prompts: Mapping[str, str], similarity: str | None) -> None:
    """Write the prompts and the similarity of a model."""
    settings = {"prompts": dict(prompts)} | ({} if similarity is None else {"similarity_fn_name": similarity})
    write_json(folder / SETTINGS, settings)


def write_module_list(folder: Path, modules: Mapping[str, str]) -> None:
    """Write ``modules.json``.

    Args:
        folder: Folder of the model.
        modules: Class of each module by its folder.
    """
    rows = enumerate(modules.items())
    listed = [{"idx": idx, "name": str(idx), "path": path, "type": kind} for idx, (path, kind) in rows]
    write_json(folder / "modules.json", listed)


def _read_submodules(folder: Path, side: str) -> dict[str, str]:
    """Return the class of each module of an encoder by its folder, relative to the parent folder."""
    listed = read_json(folder / side / "modules.json", list[dict[str, Any]])
    return {Path(side, module["path"]).as_posix(): module["type"] for module in listed}
