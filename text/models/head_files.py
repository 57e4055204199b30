"""Folders of the modules after the transformer in sentence-transformers: Pooling, Dense, LayerNorm and Normalize.

Settings that are not supported raise an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from text.artifacts import write_json
from text.errors import ArtifactError, UnsupportedModelError
from text.foreign_settings import DENSE, LAYER_NORM, NORMALIZE, POOLING, read_optional_settings, read_settings
from text.models import keys
from text.models.embedding_head import ACTIVATIONS, POOLINGS, Dense, EmbeddingHead, Normalize
from text.models.files import find_weights_file, read_weights, rename_weights, save_weights
from text.models.sentence_files import save_settings, write_module_list

NAMES = {
    "first": ("cls", "pooling_mode_cls_token"),
    "max": ("max", "pooling_mode_max_tokens"),
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "mean_sqrt_len": ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
    "weightedmean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
}
"""New and old name of each pooling in sentence-transformers. The names are in the order of ``POOLINGS``."""
_TANH = "torch.nn.modules.activation.Tanh"


def name_class(module: nn.Module) -> str:
    """Return the name of a module's class as sentence-transformers saves it.

    >>> name_class(nn.Tanh())
    'torch.nn.modules.activation.Tanh'
    """
    return f"{type(module).__module__}.{type(module).__qualname__}"


# ---- read


def read_head(modules: Iterable[tuple[str, Path]]) -> EmbeddingHead:
    """Read the modules after the transformer.

    Args:
        modules: Class and folder of each module. The first one is Pooling.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged.
        UnsupportedModelError: A setting is not supported.
    """
    (_, pooling), *others = modules
    settings = read_settings(pooling / "config.json", POOLING)
    poolings = _find_poolings(pooling / "config.json", settings)
    layers = [_READERS[kind](path) for kind, path in others]
    return EmbeddingHead(poolings, layers, include_prompt=settings.get("include_prompt") is not False)


def _find_poolings(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the poolings, in the order in which sentence-transformers joins them."""
    old = [name for name, (_, key) in NAMES.items() if settings.get(key)]
    new, chosen = {names[0]: name for name, names in NAMES.items()}, settings.get("pooling_mode")
    modes = [chosen] if isinstance(chosen, str) else chosen
    if unknown := [mode for mode in modes or [] if mode not in new]:
        reason = f"the pooling is {json.dumps(unknown[0])}. Supported are {', '.join(new)}."
        raise UnsupportedModelError.at(path, reason)
    poolings = old if modes is None else [new[mode] for mode in modes]
    if not poolings:
        raise ArtifactError(f"{path}: no pooling is chosen.")
    return poolings


def _read_dense(folder: Path) -> Dense:
    path, file = folder / "config.json", find_weights_file(folder)
    settings = {"activation_function": _TANH, "bias": True} | read_settings(path, DENSE)
    weights = rename_weights(file, read_weights(file), keys.DENSE)
    weight, bias = weights.get("projection.weight"), weights.get("projection.bias")
    if weight is None or weight.ndim != 2:
        raise ArtifactError(
            f"{file}: key linear.weight is missing or not a matrix. Give the weights of a Dense module."
        )
    sizes = {"out_features": len(weight), "in_features": weight.shape[1], "bias": bias is not None}
    for name, value in sizes.items():
        if settings.get(name, value) != value:
            stated, found = json.dumps(settings[name]), json.dumps(value)
            raise ArtifactError(f"{path}: {name} is {stated}, but the weights in the same folder have {found}.")
    layer = Dense(weight.shape[1], len(weight), _find_activation(path, settings["activation_function"]), sizes["bias"])
    _fill(file, layer.linear, "linear.", weight, bias)
    return layer


def _find_activation(path: Path, name: str) -> str:
    """Return the activation function with this name of a class. No class is imported by name."""
    for activation, kind in ACTIVATIONS.items():
        if name in (f"{kind.__module__}.{kind.__qualname__}", f"torch.nn.{activation}"):
            return activation
    reason = f"activation_function is {json.dumps(name)}. Supported are {', '.join(ACTIVATIONS)} of torch.nn."
    raise UnsupportedModelError.at(path, reason)


def _read_layer_norm(folder: Path) -> nn.LayerNorm:
    file = find_weights_file(folder)
    read_optional_settings(folder / "config.json", LAYER_NORM)
    weights = rename_weights(file, read_weights(file), keys.LAYER_NORM)
    weight, bias = (weights.get(f"projection_norm.{name}") for name in ("weight", "bias"))
    if weight is None or bias is None or weight.ndim != 1:
        raise ArtifactError(f"{file}: key norm.weight or norm.bias is missing or not a vector.")
    layer = nn.LayerNorm(len(weight))
    _fill(file, layer, "norm.", weight, bias)
    return layer


def _read_normalize(folder: Path) -> Normalize:
    read_optional_settings(folder / "config.json", NORMALIZE)  # Release 6 writes this file.
    return Normalize()


_READERS: dict[str, Callable[[Path], nn.Module]] = {
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}


def _fill(file: Path, layer: nn.Module, prefix: str, weight: Tensor, bias: Tensor | None) -> None:
    """Load the weights of a layer, whose keys in the file have a prefix."""
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    for name, parameter in layer.named_parameters():
        if weights[name].shape != parameter.shape or not weights[name].is_floating_point():
            found, expected = list(weights[name].shape), list(parameter.shape)
            raise ArtifactError(f"{file}: key {prefix}{name} is {found}, not {expected}.")
    layer.load_state_dict(weights)


# ---- write


def save_sentence_files(
    folder: Path,
    head: EmbeddingHead,
    hidden_size: int,
    prompts: Mapping[str, str],
    max_length: int,
    similarity: str | None,
) -> None:
    """Write all files of sentence-transformers in the folder of an encoder, ``modules.json`` last.

    Args:
        folder: Folder of the transformer.
        head: Modules after the transformer.
        hidden_size: Hidden size of the transformer.
        prompts: Prompts by name.
        max_length: Maximum tokens of a text.
        similarity: "dot" or "cosine". None writes no similarity.
    """
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    save_settings(folder, prompts, similarity)
    write_module_list(folder, _save_head(folder, head, hidden_size))


def _save_head(folder: Path, head: EmbeddingHead, hidden_size: int) -> dict[str, str]:
    """Write the folder of each module, and return the class of each module by its folder, the transformer first.

    Folders of modules that an earlier encoder left are ignored, because ``modules.json`` does not list them. Classes
    and pooling modes get their old names, which every release knows, unless only the new names can express the order.

    Args:
        folder: Folder of the model.
        head: Pooling and the modules after it.
        hidden_size: Hidden size of the transformer.
    """
    modules = {"": "Transformer", "1_Pooling": "Pooling"}
    settings: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    if sorted(set(head.poolings), key=POOLINGS.index) == list(head.poolings):
        settings |= {old: name in head.poolings for name, (_, old) in NAMES.items()}
    else:
        settings["pooling_mode"] = [NAMES[name][0] for name in head.poolings]
    write_json(
        folder / "1_Pooling" / "config.json", settings | ({} if head.include_prompt else {"include_prompt": False})
    )
    for number, layer in enumerate(head.layers, start=2):
        kind = type(layer).__name__
        path = f"{number}_{kind}"
        modules[path] = kind
        write_json(folder / path / "config.json", _describe_layer(layer))
        if weights := layer.state_dict():
            prefix = "norm." if isinstance(layer, nn.LayerNorm) else ""
            save_weights(folder / path / "model.safetensors", {f"{prefix}{key}": each for key, each in weights.items()})
    return {path: f"sentence_transformers.models.{kind}" for path, kind in modules.items()}


def _describe_layer(layer: nn.Module) -> dict[str, Any]:
    """Return the settings of a module."""
    if isinstance(layer, Dense):
        linear = layer.linear
        sizes = {"in_features": linear.in_features, "out_features": linear.out_features}
        return {**sizes, "bias": linear.bias is not None, "activation_function": name_class(layer.activation)}
    return {"dimension": layer.normalized_shape[0]} if isinstance(layer, nn.LayerNorm) else {}
