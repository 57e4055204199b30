"""Folders of sentence-transformers: ``modules.json`` lists what a text goes through, a folder of its own for each.

Of these modules we have the transformer, which is left to ``checkpoint.py``, and pooling, a linear layer, a layer norm
and normalization, in this order. Anything else is an error, and so is a setting under which they do something else.
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
from text.models.files import named, read_weights, save_weights, weights_file
from text.models.roberta_config import PROMPT_NAMES, RobertaConfig

ORDER = re.compile("Transformer Pooling( Dense( LayerNorm)?)?( Normalize)?")
"""Their classes, as far as an encoder of ours can be made of them."""
POOLING = {"cls": "first", "mean": "mean", "pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}
"""Their names, new and old: ours."""

_SETTINGS = "config_sentence_transformers.json"
_SIMILARITIES = ("dot", "cosine")
_IDENTITY = "torch.nn.modules.linear.Identity"
_TANH = "torch.nn.modules.activation.Tanh"


class Modules(NamedTuple):
    """Settings and weights of an encoder in its modules."""

    transformer: Path
    """The folder of its transformer, in Hugging Face's form."""
    fields: dict[str, Any]
    """Fields of RobertaConfig."""
    weights: dict[str, Tensor]
    """Weights of the modules after the transformer, under our names."""


# ---- read


def read(folder: Path) -> Modules:
    """An encoder's modules.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is corrupt.
        UnsupportedModelError: There is a module that we do not have, or a module has a setting that ours does not have.
    """
    (_, transformer), *others = _listed(folder)
    fields: dict[str, Any] = {"max_seq_length": _max_seq_length(transformer), "prompts": _prompts(folder / _SETTINGS)}
    weights: dict[str, Tensor] = {}
    for kind, path in others:
        more_fields, more_weights = _READERS[kind](path)
        fields |= more_fields
        weights |= more_weights
    return Modules(transformer, fields, weights)


def files(folder: Path) -> list[Path]:
    """Return the files that ``read`` opens in a folder, those of the transformer included.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that we do not have.
    """
    (_, transformer), *others = _listed(folder)
    settings = [folder / _SETTINGS, *(transformer / name for name in SENTENCE_FILES)]
    settings += [path / "config.json" for _, path in others]
    weights = [weights_file(path) for kind, path in others if kind in ("Dense", "LayerNorm")]
    read_always = [folder / "modules.json", transformer / "config.json", weights_file(transformer)]
    return [*read_always, *(path for path in settings if path.is_file()), *weights]


def _listed(folder: Path) -> list[tuple[str, Path]]:
    """Class and folder of each module."""
    path = folder / "modules.json"
    listed = read_modules(folder)
    if not listed:
        raise ArtifactError(f"{path}: it lists no modules.")
    types, kinds = [kind for kind, _ in listed], [kind.rpartition(".")[2] for kind, _ in listed]
    own = all(kind.startswith("sentence_transformers.") for kind in types)
    if not own or not ORDER.fullmatch(" ".join(kinds)):
        raise UnsupportedModelError.at(
            path,
            f"its modules are {', '.join(kinds if own else types)}. Supported are sentence-transformers' Transformer "
            "and Pooling, then none or more of Dense (with or without LayerNorm) and Normalize.",
        )
    return list(zip(kinds, (inner for _, inner in listed), strict=True))


def _max_seq_length(folder: Path) -> int | None:
    """From either place: release 6 reads both, and writes it as the tokenizer's limit."""
    path = find_sentence_file(folder)
    limit = None if path is None else read_settings(path, TRANSFORMER).get("max_seq_length")
    return tokenizer_limit(folder) if limit is None else int(limit)


def tokenizer_limit(folder: Path) -> int | None:
    """Return the maximum number of tokens that a folder's tokenizer states, under its new name or its old one.

    Raises:
        ArtifactError: It is no positive whole number.
    """
    limit = read_setting(folder / "tokenizer_config.json", TOKENIZER_OPTIONS, "model_max_length", "max_len")
    return None if limit is None else int(limit)


def _prompts(path: Path) -> dict[str, str]:
    """Return the prompts by name. One that is null counts as missing.

    encode_query and encode_document of sentence-transformers never use ``default_prompt_name``: both have an empty
    prompt of their own. Their releases differ in whether a prompt named "passage" or "corpus" is used. It is used here.
    """
    settings = read_optional_settings(path, SENTENCE_TRANSFORMERS)
    prompts, default = settings.get("prompts", {}), settings.get("default_prompt_name")
    if prompts is None:
        raise ArtifactError(f"{path}: prompts is null. It must be an object of texts by name.")
    prompts = {name: prompt for name, prompt in prompts.items() if prompt is not None}
    if default is not None and default not in (*prompts, "query", "document"):
        raise ArtifactError(f"{path}: default_prompt_name is {json.dumps(default)}, but prompts has no such name.")
    passage = next((name for name in PROMPT_NAMES["passage"] if name in prompts), None)
    if passage not in (None, "document") and prompts[passage]:
        _warn(f'{path}: passages get the prompt "{passage}". Name it "document" to have it in every release, too.')
    if default is not None and prompts.get(default) and default not in ("query", passage):
        _warn(f'{path}: the prompt "{default}" is a default for encode() only. Questions and passages do not get it.')
    return prompts


def _warn(message: str) -> None:
    warnings.warn(message, SettingsWarning, stacklevel=2)


def read_similarity(folder: Path) -> str | None:
    """Return how a folder of sentence-transformers compares embeddings: "dot", "cosine", or None if it does not say.

    Raises:
        UnsupportedModelError: The folder names another similarity, such as "euclidean".
    """
    path = folder / _SETTINGS
    name = read_setting(path, SENTENCE_TRANSFORMERS, "similarity_fn_name")
    if name is not None and name not in _SIMILARITIES:
        raise UnsupportedModelError.at(path, f"similarity_fn_name is {json.dumps(name)}. Supported are dot and cosine.")
    return name


Part = tuple[dict[str, Any], dict[str, Tensor]]
"""Fields of RobertaConfig, and weights."""


def _pooling(folder: Path) -> Part:
    settings = read_settings(folder / "config.json", POOLING_SETTINGS)
    old = [name for name, chosen in settings.items() if name.startswith("pooling_mode_") and chosen]
    modes = settings.get("pooling_mode", old)
    for name, pooling in POOLING.items():
        if modes in (name, [name]):
            return {"pooling": pooling}, {}
    if not modes:
        raise ArtifactError(f"{folder / 'config.json'}: it names no pooling.")
    reason = f"the pooling is {json.dumps(modes)}. Supported are cls and mean."
    raise UnsupportedModelError.at(folder / "config.json", reason)


def _dense(folder: Path) -> Part:
    path, file = folder / "config.json", weights_file(folder)
    settings = {"activation_function": _TANH, "bias": True} | read_settings(path, DENSE)
    weights = named(file, read_weights(file), keys.DENSE)
    weight = weights.get("projection.weight")
    if weight is None or weight.ndim != 2:
        raise ArtifactError(f"{file}: key linear.weight is missing or not a matrix; expected the weights of Dense")
    if settings["activation_function"] == "torch.nn.Identity":  # its other name
        settings["activation_function"] = _IDENTITY
    check_settings(path, settings, {**DENSE, "activation_function": Only((_IDENTITY,))})
    sizes = {"out_features": len(weight), "in_features": weight.shape[1], "bias": "projection.bias" in weights}
    for name, value in sizes.items():
        if settings.get(name, value) != value:
            stated, found = json.dumps(settings[name]), json.dumps(value)
            raise ArtifactError(f"{path}: {name} is {stated}, but the weights beside it have {found}.")
    fields = {"projection_dim": len(weight), "projection_norm": False}
    return fields, {"projection.bias": weight.new_zeros(len(weight)), **weights}


def _layer_norm(folder: Path) -> Part:
    file = weights_file(folder)
    read_optional_settings(folder / "config.json", LAYER_NORM)
    return {"projection_norm": True}, named(file, read_weights(file), keys.LAYER_NORM)


def _normalize(folder: Path) -> Part:
    read_optional_settings(folder / "config.json", NORMALIZE)  # release 6 writes one
    return {"normalize": True}, {}


_READERS: dict[str, Callable[[Path], Part]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
}


# ---- write


def save(
    folder: Path, config: RobertaConfig, weights: Mapping[str, Tensor], max_length: int, similarity: str | None = None
) -> None:
    """Writes all modules but what Hugging Face reads of the transformer; ``modules.json`` last.

    Only what is listed in it counts: folders that an earlier encoder left are not looked at. Classes and poolings
    stand under their old names, which every release knows.

    Args:
        folder: The transformer's.
        config: The encoder's.
        weights: Under our names.
        max_length: Most tokens of a text. It is always written: else sentence-transformers takes the length of
            the position table, and a RoBERTa has two more than it can use.
        similarity: "dot", "cosine" or None, which leaves it open.
    """
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _save_settings(folder, config.prompts, similarity)
    modules = {"": "Transformer", "1_Pooling": "Pooling"}
    modes = {name: config.pooling == ours for name, ours in POOLING.items() if name.startswith("pooling_mode_")}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": config.hidden_size, **modes})
    if config.projection_dim is not None:
        modules["2_Dense"] = "Dense"
        sizes = {"in_features": config.hidden_size, "out_features": config.projection_dim, "bias": True}
        write_json(folder / "2_Dense" / "config.json", {**sizes, "activation_function": _IDENTITY})
        save_weights(folder / "2_Dense" / "model.safetensors", keys.to_theirs(weights, keys.DENSE))
    if config.projection_dim is not None and config.projection_norm:
        modules["3_LayerNorm"] = "LayerNorm"
        write_json(folder / "3_LayerNorm" / "config.json", {"dimension": config.projection_dim})
        save_weights(folder / "3_LayerNorm" / "model.safetensors", keys.to_theirs(weights, keys.LAYER_NORM))
    if config.normalize:
        modules["4_Normalize"] = "Normalize"
        write_json(folder / "4_Normalize" / "config.json", {})
    _list(folder, {path: f"sentence_transformers.models.{kind}" for path, kind in modules.items()})


def save_pair(
    folder: str | os.PathLike[str],
    sides: Mapping[str, str],
    prompts: Mapping[str, str],
    similarity: str | None = None,
) -> None:
    """Lets sentence-transformers load the encoders saved below ``folder`` as one model.

    Args:
        folder: Where the encoders' folders are.
        sides: By their name of a task, "query" or "document", the name of the encoder's folder. Where both are the
            same, its modules are the model's; else a Router chooses by task.
        prompts: By name of a task.
        similarity: "dot", "cosine" or None, which leaves it open.
    """
    folder = Path(folder)
    modules = {task: _list_below(folder, side) for task, side in sides.items()}
    listed = modules["query"]
    if len(set(sides.values())) > 1:
        types = {path: kind for module in modules.values() for path, kind in module.items()}
        routes = {task: list(module) for task, module in modules.items()}
        parameters = {"default_route": None, "allow_empty_key": False}  # nothing is embedded without a task
        router = {"types": types, "structure": routes, "parameters": parameters}
        write_json(folder / "router_config.json", router)
        listed = {"": "sentence_transformers.models.Router"}
    _save_settings(folder, prompts, similarity)
    _list(folder, listed)


def _save_settings(folder: Path, prompts: Mapping[str, str], similarity: str | None) -> None:
    settings = {"prompts": dict(prompts)} | ({} if similarity is None else {"similarity_fn_name": similarity})
    write_json(folder / _SETTINGS, settings)


def _list(folder: Path, modules: Mapping[str, str]) -> None:
    """Writes ``modules.json``, from the class of each by its folder."""
    rows = enumerate(modules.items())
    listed = [{"idx": idx, "name": str(idx), "path": path, "type": kind} for idx, (path, kind) in rows]
    write_json(folder / "modules.json", listed)


def _list_below(folder: Path, side: str) -> dict[str, str]:
    """The same, back again, of an encoder's folder as seen from the one above."""
    listed = read_json(folder / side / "modules.json", list[dict[str, Any]])
    return {Path(side, module["path"]).as_posix(): module["type"] for module in listed}
