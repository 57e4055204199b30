"""Folders of sentence-transformers: ``modules.json`` lists the modules of a model, each with its own folder.

Supported are a transformer, then pooling, a linear layer, a layer norm and normalization, in this order. Other modules
raise an error, and so do settings that are not supported. ``checkpoint.py`` reads the transformer.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from text.artifacts import read_json, write_json
from text.errors import ArtifactError, SettingsWarning, UnsupportedModelError
from text.foreign_settings import (
    DENSE,
    LAYER_NORM,
    NORMALIZE,
    SENTENCE_FILES,
    SENTENCE_TRANSFORMERS,
    TOKENIZER_OPTIONS,
    TRANSFORMER,
    Only,
    check_settings,
    find_sentence_file,
    read_modules,
    read_optional_settings,
    read_setting,
    read_settings,
)
from text.foreign_settings import POOLING as POOLING_SETTINGS
from text.models import keys
from text.models.files import find_weights_file, read_weights, rename_weights, save_weights
from text.models.roberta_config import PROMPT_NAMES, RobertaConfig

ORDER = re.compile("Transformer Pooling( Dense( LayerNorm)?)?( Normalize)?")
"""Supported sequences of module classes."""
POOLING = {"cls": "first", "mean": "mean", "pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}
"""Value of ``RobertaConfig.pooling``, by the new and old names in sentence-transformers."""

_SETTINGS = "config_sentence_transformers.json"
_SIMILARITIES = ("dot", "cosine")
_IDENTITY = "torch.nn.modules.linear.Identity"
_TANH = "torch.nn.modules.activation.Tanh"


class Modules(NamedTuple):
    """Settings and weights in the modules of an encoder."""

    transformer: Path
    """Folder of the transformer, in Hugging Face's format."""
    fields: dict[str, Any]
    """Fields of RobertaConfig."""
    weights: dict[str, Tensor]
    """Weights of the modules after the transformer, with the keys of a RobertaEncoder."""


# ---- read


def read_encoder_modules(folder: Path) -> Modules:
    """Read the modules of an encoder, without the weights of the transformer.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged.
        UnsupportedModelError: A module or a setting is not supported.
    """
    (_, transformer), *others = _read_module_list(folder)
    fields: dict[str, Any] = {
        "max_seq_length": _read_max_seq_length(transformer),
        "prompts": _read_prompts(folder / _SETTINGS),
    }
    weights: dict[str, Tensor] = {}
    for kind, path in others:
        more_fields, more_weights = _READERS[kind](path)
        fields |= more_fields
        weights |= more_weights
    return Modules(transformer, fields, weights)


def list_module_files(folder: Path) -> list[Path]:
    """Return the files of all modules that loading an encoder opens, the transformer included.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that are not supported.
    """
    (_, transformer), *others = _read_module_list(folder)
    settings = [folder / _SETTINGS, *(transformer / name for name in SENTENCE_FILES)]
    settings += [path / "config.json" for _, path in others]
    weights = [find_weights_file(path) for kind, path in others if kind in ("Dense", "LayerNorm")]
    read_always = [folder / "modules.json", transformer / "config.json", find_weights_file(transformer)]
    return [*read_always, *(path for path in settings if path.is_file()), *weights]


def _read_module_list(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module."""
    path = folder / "modules.json"
    listed = read_modules(folder)
    if not listed:
        raise ArtifactError(f"{path}: the list of modules is empty.")
    types, kinds = [kind for kind, _ in listed], [kind.rpartition(".")[2] for kind, _ in listed]
    is_own = all(kind.startswith("sentence_transformers.") for kind in types)
    if not is_own or not ORDER.fullmatch(" ".join(kinds)):
        raise UnsupportedModelError.at(
            path,
            f"its modules are {', '.join(kinds if is_own else types)}. "
            "Supported are Transformer and Pooling of sentence-transformers, which may be followed by Dense, LayerNorm "
            "(after Dense) and Normalize.",
        )
    return list(zip(kinds, (inner for _, inner in listed), strict=True))


def _read_max_seq_length(folder: Path) -> int | None:
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


def _read_prompts(path: Path) -> dict[str, str]:
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
    path = folder / _SETTINGS
    name = read_setting(path, SENTENCE_TRANSFORMERS, "similarity_fn_name")
    if name is not None and name not in _SIMILARITIES:
        raise UnsupportedModelError.at(path, f"similarity_fn_name is {json.dumps(name)}. Supported are dot and cosine.")
    return name


Part = tuple[dict[str, Any], dict[str, Tensor]]
"""Fields of RobertaConfig and weights that one module adds."""


def _read_pooling(folder: Path) -> Part:
    settings = read_settings(folder / "config.json", POOLING_SETTINGS)
    old = [name for name, chosen in settings.items() if name.startswith("pooling_mode_") and chosen]
    modes = settings.get("pooling_mode", old)
    for name, pooling in POOLING.items():
        if modes in (name, [name]):
            return {"pooling": pooling}, {}
    if not modes:
        raise ArtifactError(f"{folder / 'config.json'}: no pooling is chosen.")
    reason = f"the pooling is {json.dumps(modes)}. Supported are cls and mean."
    raise UnsupportedModelError.at(folder / "config.json", reason)


def _read_dense(folder: Path) -> Part:
    path, file = folder / "config.json", find_weights_file(folder)
    settings = {"activation_function": _TANH, "bias": True} | read_settings(path, DENSE)
    weights = rename_weights(file, read_weights(file), keys.DENSE)
    weight = weights.get("projection.weight")
    if weight is None or weight.ndim != 2:
        raise ArtifactError(
            f"{file}: key linear.weight is missing or not a matrix. Give the weights of a Dense module."
        )
    if settings["activation_function"] == "torch.nn.Identity":  # The same class under its public name.
        settings["activation_function"] = _IDENTITY
    check_settings(path, settings, {**DENSE, "activation_function": Only((_IDENTITY,))})
    sizes = {"out_features": len(weight), "in_features": weight.shape[1], "bias": "projection.bias" in weights}
    for name, value in sizes.items():
        if settings.get(name, value) != value:
            stated, found = json.dumps(settings[name]), json.dumps(value)
            raise ArtifactError(f"{path}: {name} is {stated}, but the weights in the same folder have {found}.")
    fields = {"projection_dim": len(weight), "projection_norm": False}
    return fields, {"projection.bias": weight.new_zeros(len(weight)), **weights}


def _read_layer_norm(folder: Path) -> Part:
    file = find_weights_file(folder)
    read_optional_settings(folder / "config.json", LAYER_NORM)
    return {"projection_norm": True}, rename_weights(file, read_weights(file), keys.LAYER_NORM)


def _read_normalize(folder: Path) -> Part:
    read_optional_settings(folder / "config.json", NORMALIZE)  # Release 6 writes this file.
    return {"normalize": True}, {}


_READERS: dict[str, Callable[[Path], Part]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}


# ---- write


def save_modules(
    folder: Path, config: RobertaConfig, weights: Mapping[str, Tensor], max_length: int, similarity: str | None = None
) -> None:
    """Write the files of sentence-transformers, ``modules.json`` last. ``checkpoint.py`` writes the transformer.

    Folders of modules that an earlier encoder left are ignored, because ``modules.json`` does not list them. Classes
    and pooling modes get their old names, which every release knows.

    Args:
        folder: Folder of the transformer.
        config: Configuration of the encoder.
        weights: State dict of the encoder.
        max_length: Maximum tokens of a text. Without it, sentence-transformers would use the size of the position
            table, which is two more than a RoBERTa can use.
        similarity: "dot" or "cosine". None writes no similarity.
    """
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _save_settings(folder, config.prompts, similarity)
    modules = {"": "Transformer", "1_Pooling": "Pooling"}
    modes = {name: config.pooling == pooling for name, pooling in POOLING.items() if name.startswith("pooling_mode_")}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": config.hidden_size, **modes})
    if config.projection_dim is not None:
        modules["2_Dense"] = "Dense"
        sizes = {"in_features": config.hidden_size, "out_features": config.projection_dim, "bias": True}
        write_json(folder / "2_Dense" / "config.json", {**sizes, "activation_function": _IDENTITY})
        save_weights(folder / "2_Dense" / "model.safetensors", keys.to_external_keys(weights, keys.DENSE))
    if config.projection_dim is not None and config.projection_norm:
        modules["3_LayerNorm"] = "LayerNorm"
        write_json(folder / "3_LayerNorm" / "config.json", {"dimension": config.projection_dim})
        save_weights(folder / "3_LayerNorm" / "model.safetensors", keys.to_external_keys(weights, keys.LAYER_NORM))
    if config.normalize:
        modules["4_Normalize"] = "Normalize"
        write_json(folder / "4_Normalize" / "config.json", {})
    _write_module_list(folder, {path: f"sentence_transformers.models.{kind}" for path, kind in modules.items()})


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
    _save_settings(folder, prompts, similarity)
    _write_module_list(folder, listed)


def _save_settings(folder: Path, prompts: Mapping[str, str], similarity: str | None) -> None:
    settings = {"prompts": dict(prompts)} | ({} if similarity is None else {"similarity_fn_name": similarity})
    write_json(folder / _SETTINGS, settings)


def _write_module_list(folder: Path, modules: Mapping[str, str]) -> None:
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
