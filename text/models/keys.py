"""Conversion of state dicts between the keys of a RobertaEncoder and the keys of other libraries.

A key table has one line for each layer of the encoder. It lists the external layers whose weights are concatenated, in
this order, to form that layer. ``weight`` or ``bias`` follows the key of a layer, and N stands for a layer's number.
The same table serves both directions. Unknown, duplicate and incomplete keys are errors.
``checkpoint.fill_encoder`` checks shapes and missing layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

KeyTable = Mapping[str, tuple[str, ...]]
"""External layers of each layer of a RobertaEncoder."""

BERT: KeyTable = {
    "embeddings.word.": ("embeddings.word_embeddings.",),
    "embeddings.position.": ("embeddings.position_embeddings.",),
    "embeddings.token_type.": ("embeddings.token_type_embeddings.",),
    "embeddings.norm.": ("embeddings.LayerNorm.",),
    "layers.N.attention.qkv.": (
        "encoder.layer.N.attention.self.query.",
        "encoder.layer.N.attention.self.key.",
        "encoder.layer.N.attention.self.value.",
    ),
    "layers.N.attention.output.": ("encoder.layer.N.attention.output.dense.",),
    "layers.N.attention_norm.": ("encoder.layer.N.attention.output.LayerNorm.",),
    "layers.N.feed_forward.0.": ("encoder.layer.N.intermediate.dense.",),
    "layers.N.feed_forward.1.": ("encoder.layer.N.output.dense.",),
    "layers.N.feed_forward_norm.": ("encoder.layer.N.output.LayerNorm.",),
}
"""Keys of BERT, RoBERTa and XLM-RoBERTa in Hugging Face."""

DPR: KeyTable = {**BERT, "projection.": ("encode_proj.",)}
"""Keys of a DPR encoder in Hugging Face, and of each encoder in a checkpoint of FAIR's DPR."""

DENSE: KeyTable = {"projection.": ("linear.",)}
LAYER_NORM: KeyTable = {"projection_norm.": ("norm.",)}
"""Keys of the modules Dense and LayerNorm of sentence-transformers."""

TORCHTEXT: KeyTable = {
    "embeddings.word.": ("encoder.transformer.token_embedding.",),
    "embeddings.position.": ("encoder.transformer.positional_embedding.embedding.",),
    "embeddings.norm.": ("encoder.transformer.embedding_layer_norm.",),
    "layers.N.attention.qkv.": ("encoder.transformer.layers.layers.N.self_attn.in_proj_",),
    "layers.N.attention.output.": ("encoder.transformer.layers.layers.N.self_attn.out_proj.",),
    "layers.N.attention_norm.": ("encoder.transformer.layers.layers.N.norm1.",),
    "layers.N.feed_forward.0.": ("encoder.transformer.layers.layers.N.linear1.",),
    "layers.N.feed_forward.1.": ("encoder.transformer.layers.layers.N.linear2.",),
    "layers.N.feed_forward_norm.": ("encoder.transformer.layers.layers.N.norm2.",),
}
"""Keys of torchtext's RobertaModel from 0.16 on. It has no token types."""

PREFIXES = (
    "roberta.",
    "bert.",
    "question_encoder.bert_model.",
    "question_encoder.",
    "ctx_encoder.bert_model.",
    "ctx_encoder.",
    "question_model.",
    "ctx_model.",
)
"""Prefixes of keys if the encoder is part of a larger model. The first one that matches is removed."""
IGNORED_PREFIXES = ("pooler.", "lm_head.", "cls.", "classifier.", "qa_outputs.", "head.", "embeddings.position_ids")
"""Prefixes of keys that are ignored: heads, which an encoder lacks, and a buffer."""
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Old key endings and their replacements. bert-base-uncased, converted from TensorFlow, has the old ones."""

_POSITION = "embeddings.position.weight"
TOKEN_TYPE = "embeddings.token_type.weight"
"""Key of the token type table, which most RobertaEncoders lack."""


def to_encoder_keys(external: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Return a state dict of another library with the keys of a RobertaEncoder. Token types stay a separate weight.

    Raises:
        KeyError: A key is unknown or duplicate, or a layer is incomplete. The message names the key.
    """
    origin = {source: (target, place) for target, sources in table.items() for place, source in enumerate(sources)}
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key, tensor in external.items():
        normalized = normalize_key(key)
        if normalized.startswith(IGNORED_PREFIXES):
            continue
        stem, number, kind = _split_key(normalized)
        target, place = origin.get(stem, ("", 0))
        if not target:
            raise KeyError(f"key {key} is unknown")
        parts = found[target.replace(".N.", f".{number}.") + kind]
        if place in parts:
            raise KeyError(f"key {key} is a duplicate of another key")
        parts[place] = tensor
    return {name: _concatenate(parts, get_external_keys(name, table)) for name, parts in found.items()}


def to_external_keys(state_dict: Mapping[str, Tensor], table: KeyTable) -> dict[str, Tensor]:
    """Return the layers that a table lists, with the keys of the other library."""
    external = {}
    for name, tensor in state_dict.items():
        if _split_key(name)[0] in table:
            keys = get_external_keys(name, table)
            external |= dict(zip(keys, (part.contiguous() for part in tensor.chunk(len(keys))), strict=True))
    return external


def add_token_types(state_dict: Mapping[str, Tensor], num_token_types: int) -> dict[str, Tensor]:
    """Add token type embeddings of zeros to the state dict of a RobertaEncoder, which has none."""
    position = state_dict[_POSITION]
    return {**state_dict, TOKEN_TYPE: position.new_zeros(num_token_types, position.shape[1])}


def merge_token_types(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add token type 0 to every position embedding. A RobertaEncoder has no token types."""
    state_dict = dict(weights)
    position, token_type = state_dict[_POSITION], state_dict.pop(TOKEN_TYPE)[:1]
    return {**state_dict, _POSITION: position.to(torch.promote_types(position.dtype, torch.float32)) + token_type}


def get_external_keys(name: str, table: KeyTable) -> list[str]:
    """Return the external keys of a weight, such as ``encoder.layer.3...`` for ``layers.3.attention_norm.bias``.

    A weight that is not in the table keeps its name.
    """
    stem, number, kind = _split_key(name)
    return [source.replace(".N.", f".{number}.") + kind for source in table.get(stem, (stem,))]


def normalize_key(key: str) -> str:
    """Return a key without its prefix and with its old ending replaced."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key.removeprefix(next((prefix for prefix in PREFIXES if key.startswith(prefix)), ""))


def _split_key(key: str) -> tuple[str, str, str]:
    """Split ``layers.3.feed_forward.0.bias`` into ``layers.N.feed_forward.0.``, ``3`` and ``bias``."""
    kind = "bias" if key.endswith("bias") else "weight"
    number = re.search(r"\.(\d+)\.", key)
    stem = re.sub(r"\.\d+\.", ".N.", key.removesuffix(kind), count=1)
    return stem, number[1] if number else "", kind


def _concatenate(parts: Mapping[int, Tensor], keys: list[str]) -> Tensor:
    for place, key in enumerate(keys):
        if place not in parts:
            raise KeyError(f"key {key} is missing")
        if not parts[place].ndim:
            raise KeyError(f"key {key} is a single number")
        if parts[place].shape != parts[0].shape:
            raise KeyError(
                f"key {key} has shape {tuple(parts[place].shape)}, but {keys[0]} has {tuple(parts[0].shape)}"
            )
    return torch.cat([parts[place] for place in range(len(keys))])
