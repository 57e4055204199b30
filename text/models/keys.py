"""Which keys of our encoder are which keys of other formats, and state dicts from one to the other.

A table has a line for each of our layers: ours, and the layers of theirs that are stacked, in this order, to make it.
``weight`` or ``bias`` follows; N is a layer's number. Both directions are read off the same table, and every key is
accounted for: one that is in no table, twice there or without its like is an error. Whether all that an encoder needs
is there, and in its shapes, is left to ``checkpoint.fill``, which has the encoder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

Table = Mapping[str, tuple[str, ...]]

BERT: Table = {
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
"""Hugging Face's BERT, RoBERTa and XLM-RoBERTa."""

DPR: Table = {**BERT, "projection.": ("encode_proj.",)}
"""Hugging Face's DPR encoders, and each of the two in a checkpoint of FAIR's DPR."""

DENSE: Table = {"projection.": ("linear.",)}
LAYER_NORM: Table = {"projection_norm.": ("norm.",)}
"""sentence-transformers' modules of these names."""

TORCHTEXT: Table = {
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
"""torchtext's RobertaModel, from 0.16 on; it has no token types."""

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
"""What may stand before a key where the encoder is part of a larger model; the first that fits is left out."""
NOT_USED = ("pooler.", "lm_head.", "cls.", "classifier.", "qa_outputs.", "head.", "embeddings.position_ids")
"""Heads that an encoder does not have, and a buffer: keys that start so are dropped."""
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""As in bert-base-uncased, which was converted from TensorFlow."""

_POSITION, _TOKEN_TYPE = "embeddings.position.weight", "embeddings.token_type.weight"


def to_ours(theirs: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Their state dict under our names, token types still apart.

    Raises:
        KeyError: One of theirs is unknown, twice there, or lacks its like; the message names it.
    """
    origin = {source: (target, place) for target, sources in table.items() for place, source in enumerate(sources)}
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key, tensor in theirs.items():
        plain = _plain(key)
        if plain.startswith(NOT_USED):
            continue
        stem, number, kind = _split(plain)
        target, place = origin.get(stem, ("", 0))
        if not target:
            raise KeyError(f"key {key} is unknown")
        parts = found[target.replace(".N.", f".{number}.") + kind]
        if place in parts:
            raise KeyError(f"key {key} is there twice, under two names")
        parts[place] = tensor
    return {name: _stack(parts, their_keys(name, table)) for name, parts in found.items()}


def to_theirs(ours: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Those layers of ours that the table knows, as theirs."""
    theirs = {}
    for name, tensor in ours.items():
        if _split(name)[0] in table:
            keys = their_keys(name, table)
            theirs |= dict(zip(keys, (part.contiguous() for part in tensor.chunk(len(keys))), strict=True))
    return theirs


def with_token_types(ours: Mapping[str, Tensor], num_token_types: int) -> dict[str, Tensor]:
    """Our state dict and zeros for token types, which we do not have."""
    position = ours[_POSITION]
    return {**ours, _TOKEN_TYPE: position.new_zeros(num_token_types, position.shape[1])}


def without_token_types(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Token type 0, which every token of a RoBERTa has, as part of the positions."""
    ours = dict(weights)
    position, token_type = ours[_POSITION], ours.pop(_TOKEN_TYPE)[:1]
    return {**ours, _POSITION: position.to(torch.promote_types(position.dtype, torch.float32)) + token_type}


def their_keys(name: str, table: Table) -> list[str]:
    """What makes up one of ours: ``layers.3.attention_norm.bias`` -> ``encoder.layer.3...``; or its own name."""
    stem, number, kind = _split(name)
    return [source.replace(".N.", f".{number}.") + kind for source in table.get(stem, (stem,))]


def _plain(key: str) -> str:
    """A key without prefix, under its new name."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key.removeprefix(next((prefix for prefix in PREFIXES if key.startswith(prefix)), ""))


def _split(key: str) -> tuple[str, str, str]:
    """``layers.3.feed_forward.0.bias`` -> ``layers.N.feed_forward.0.``, ``3``, ``bias``."""
    kind = "bias" if key.endswith("bias") else "weight"
    number = re.search(r"\.(\d+)\.", key)
    stem = re.sub(r"\.\d+\.", ".N.", key.removesuffix(kind), count=1)
    return stem, number[1] if number else "", kind


def _stack(parts: Mapping[int, Tensor], keys: list[str]) -> Tensor:
    for place, key in enumerate(keys):
        if place not in parts:
            raise KeyError(f"key {key} is missing")
        if not parts[place].ndim:
            raise KeyError(f"key {key} is a single number")
        if parts[place].shape != parts[0].shape:
            raise KeyError(f"key {key} has shape {tuple(parts[place].shape)}, {keys[0]} {tuple(parts[0].shape)}")
    return torch.cat([parts[place] for place in range(len(keys))])
