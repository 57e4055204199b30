"""Modules of a RobertaEncoder in sentence-transformers: a transformer, pooling, a linear layer, a norm, normalization.

``checkpoint.py`` reads and writes the transformer, and ``head_files.py`` the other modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from text.errors import UnsupportedModelError
from text.models.embedding_head import Dense, EmbeddingHead, Normalize
from text.models.head_files import NAMES, name_class, read_head, save_sentence_files
from text.models.roberta_config import POOLINGS, RobertaConfig
from text.models.sentence_files import SETTINGS, read_max_seq_length, read_module_list, read_prompts

_ORDER = re.compile("Transformer Pooling( Dense( LayerNorm)?)?( Normalize)?")
"""Sequences of module classes that a RobertaEncoder supports."""


class Modules(NamedTuple):
    """Settings and weights in the modules of an encoder."""

    transformer: Path
    """Folder of the transformer, in Hugging Face's format."""
    fields: dict[str, Any]
    """Fields of RobertaConfig."""
    weights: dict[str, Tensor]
    """Weights of the modules after the transformer, with the keys of a RobertaEncoder."""


def read_encoder_modules(folder: Path) -> Modules:
    """Read the modules of an encoder, without the weights of the transformer.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged.
        UnsupportedModelError: A module or a setting is not supported.
    """
    (_, transformer), *others = listed = read_module_list(folder)
    kinds = [kind for kind, _ in listed]
    if not _ORDER.fullmatch(" ".join(kinds)):
        reason = f"its modules are {', '.join(kinds)}. A RobertaEncoder takes Dense, LayerNorm and Normalize."
        raise UnsupportedModelError.at(folder / "modules.json", reason)
    head = read_head(others)
    _check_pooling(others[0][1] / "config.json", head)
    fields: dict[str, Any] = {
        "max_seq_length": read_max_seq_length(transformer),
        "prompts": read_prompts(folder / SETTINGS),
        "pooling": head.poolings[0],
    }
    weights: dict[str, Tensor] = {}
    for (_, path), layer in zip(others[1:], head.layers, strict=True):
        if isinstance(layer, Dense):
            _check_activation(path / "config.json", layer)
            weight, bias = layer.linear.weight.detach(), layer.linear.bias
            bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
            weights |= {"projection.weight": weight, "projection.bias": bias}
            fields |= {"projection_dim": len(weight), "projection_norm": False}
        elif isinstance(layer, nn.LayerNorm):
            weights |= {f"projection_norm.{name}": each for name, each in layer.state_dict().items()}
            fields["projection_norm"] = True
        else:
            fields["normalize"] = True
    return Modules(transformer, fields, weights)


def _check_pooling(path: Path, head: EmbeddingHead) -> None:
    if not head.include_prompt:
        raise UnsupportedModelError.at(path, "include_prompt is false. A RobertaEncoder supports only true.")
    if not (len(head.poolings) == 1 and head.poolings[0] in POOLINGS):
        chosen = ", ".join(NAMES[pooling][1] for pooling in head.poolings)
        reason = f"the pooling is {chosen}. A RobertaEncoder supports cls and mean."
        raise UnsupportedModelError.at(path, reason)


def _check_activation(path: Path, layer: Dense) -> None:
    if layer.activation_name != "Identity":
        reason = f'activation_function is "{name_class(layer.activation)}". A RobertaEncoder supports only Identity.'
        raise UnsupportedModelError.at(path, reason)


def save_modules(
    folder: Path, config: RobertaConfig, weights: Mapping[str, Tensor], max_length: int, similarity: str | None = None
) -> None:
    """Write the files of sentence-transformers, ``modules.json`` last. ``checkpoint.py`` writes the transformer.

    Args:
        folder: Folder of the transformer.
        config: Configuration of the encoder.
        weights: State dict of the encoder.
        max_length: Maximum tokens of a text. Without it, sentence-transformers would use the size of the position
            table, which is two more than a RoBERTa can use.
        similarity: "dot" or "cosine". None writes no similarity.
    """
    layers: list[nn.Module] = []
    if config.projection_dim is not None:
        layers.append(_build_dense(weights["projection.weight"], weights["projection.bias"]))
    if config.projection_dim is not None and config.projection_norm:
        norm = nn.LayerNorm(config.projection_dim)
        norm.load_state_dict({name: weights[f"projection_norm.{name}"] for name in ("weight", "bias")}, assign=True)
        layers.append(norm)
    head = EmbeddingHead([config.pooling], [*layers, *([Normalize()] if config.normalize else [])])
    save_sentence_files(folder, head, config.hidden_size, config.prompts, max_length, similarity)


def _build_dense(weight: Tensor, bias: Tensor) -> Dense:
    layer = Dense(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer
