"""Weights and configuration on disk, in Hugging Face's form of RoBERTa; safetensors only.

``LAYER_KEYS`` and its two neighbours say which of their keys make up which of ours. Every key is
accounted for, both ways: one that is missing, unknown or of another shape is an error.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from text.artifacts import atomic_write, write_json
from text.errors import ArtifactError

# Ours: theirs. Several of theirs are stacked, in this order, to make one of ours.
EMBEDDING_KEYS = {
    "embeddings.word": ("embeddings.word_embeddings",),
    "embeddings.position": ("embeddings.position_embeddings",),
    "embeddings.norm": ("embeddings.LayerNorm",),
}
LAYER_KEYS = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "feed_forward.0": ("intermediate.dense",),
    "feed_forward.2": ("output.dense",),
    "feed_forward_norm": ("output.LayerNorm",),
}
OWN_KEYS = {"projection": ("projection",), "projection_norm": ("projection_norm",)}
"""Layers that they do not have; saved under our names."""

_TOKEN_TYPE = "embeddings.token_type_embeddings.weight"
"""RoBERTa has one token type: its vector is the same for every token, and goes into the positions."""
_NOT_USED = ("pooler.", "lm_head.", "embeddings.position_ids")
"""Heads that an encoder does not have, and a buffer."""
_NOT_OURS = {"model_type": "roberta", "hidden_act": "gelu", "type_vocab_size": 1, "position_embedding_type": "absolute"}
"""What Hugging Face lets one choose and RoBERTa fixes."""


def save(module: nn.Module, config: Any, folder: str | os.PathLike[str]) -> None:
    """Writes ``model.safetensors`` and ``config.json``, each whole or not at all."""
    weights = to_hugging_face(module.state_dict())
    with atomic_write(Path(folder) / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    theirs = {"architectures": ["RobertaModel"], "bos_token_id": 0, "eos_token_id": 2}
    write_json(Path(folder) / "config.json", theirs | _NOT_OURS | dataclasses.asdict(config))


def read_config(folder: str | os.PathLike[str], config_class: Any) -> Any:
    """A ``config_class`` with the fields that ``config.json`` gives.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It describes another kind of model, or one that cannot be.
    """
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}); expected an encoder's configuration") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: a {type(content).__name__}; expected an encoder's configuration")
    for name, expected in _NOT_OURS.items():
        found = content.get(name, None if name == "model_type" else expected)
        if found != expected:
            raise ArtifactError(f'{path}: {name} is "{found}"; expected "{expected}"')
    names = {field.name for field in dataclasses.fields(config_class)}
    fields = {name: value for name, value in content.items() if name in names}
    try:
        return config_class(**fields)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}") from None


def load_weights(module: nn.Module, folder: str | os.PathLike[str], *, new: tuple[str, ...] = ()) -> None:
    """Fills a module from ``model.safetensors``.

    Args:
        module: An encoder.
        folder: Where the file is.
        new: Beginnings of the names of weights that the file does not hold; they stay as they are.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is corrupt, or a key is missing, unknown or of another shape.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an encoder's weights")
    try:
        ours = module.state_dict()
        weights = from_hugging_face(load_file(path), [name for name in ours if not name.startswith(new)])
        module.load_state_dict(ours | weights)
    except (SafetensorError, KeyError, RuntimeError) as error:
        message = " ".join(str(error).split()).strip("'\"")
        raise ArtifactError(f"{path}: {message}; expected the weights of this encoder") from None


def from_hugging_face(theirs: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Their state dict as ours.

    Args:
        theirs: With or without the prefix ``roberta.``.
        names: The keys that we need.

    Raises:
        KeyError: One of theirs is missing, or left over, or does not go together with its like.
    """
    rest = {name.removeprefix("roberta."): tensor for name, tensor in theirs.items()}
    ours = {}
    for name in names:
        sources = _sources(name)
        missing = [source for source in sources if source not in rest]
        if missing:
            raise KeyError(f"key {missing[0]} is missing")
        parts = [rest.pop(source) for source in sources]
        if any(part.shape != parts[0].shape for part in parts):
            raise KeyError(f"keys {', '.join(sources)} differ in shape")
        ours[name] = torch.cat(parts)
    if _TOKEN_TYPE in rest:
        position, token_type = ours["embeddings.position.weight"], rest.pop(_TOKEN_TYPE)
        if token_type.shape != position[:1].shape:
            raise KeyError(f"key {_TOKEN_TYPE} has shape {tuple(token_type.shape)}")
        ours["embeddings.position.weight"] = position + token_type
    left = [name for name in rest if not name.startswith(_NOT_USED)]
    if left:
        raise KeyError(f"key {left[0]} is unknown")
    return ours


def to_hugging_face(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict as theirs, with a token type of zeros."""
    theirs = {}
    for name, tensor in ours.items():
        sources = _sources(name)
        theirs |= dict(zip(sources, (part.contiguous() for part in tensor.chunk(len(sources))), strict=True))
    position = theirs["embeddings.position_embeddings.weight"]
    theirs[_TOKEN_TYPE] = torch.zeros(1, position.shape[1], dtype=position.dtype)
    return theirs


def _sources(name: str) -> list[str]:
    """Their keys for one of ours: ``layers.3.attention.qkv.bias`` -> ``encoder.layer.3.attention...``."""
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("layers."):
        _, number, part = stem.split(".", 2)
        return [f"encoder.layer.{number}.{source}.{kind}" for source in LAYER_KEYS[part]]
    return [f"{source}.{kind}" for source in (EMBEDDING_KEYS | OWN_KEYS)[stem]]
