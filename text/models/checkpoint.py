"""Encoders on disk: as other libraries save them, and as we do, which two of the others read as well.

A folder of ours is one of Hugging Face (``config.json``, ``model.safetensors``) and one of sentence-transformers
(``modules.py``) at once. Which key is which is told in ``keys.py``, how a file is read in ``files.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from text.artifacts import read_json, write_json
from text.errors import ArtifactError, UnsupportedModelError
from text.foreign_settings import ENCODER, check_settings
from text.models import keys, modules
from text.models.files import named, read_weights, save_weights, weights_file
from text.models.keys import Table
from text.models.roberta_config import RobertaConfig

FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "pad_token_id",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)
"""Fields of RobertaConfig that ``config.json`` has under the same names. None of them is null."""
ARCHITECTURES = {"roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "bert": "BertModel"}
"""By model_type, what Hugging Face calls the encoder."""
_FRAME = ("bos_token_id", "eos_token_id")
"""Fields that ``config.json`` has, too; they can be null."""
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Settings of Hugging Face that every encoder of ours has."""

_DEFAULTS = {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 1}
_DEFAULTS_OF_BERT = {"vocab_size": 30522, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
"""Hugging Face's, where they are not RobertaConfig's."""


class Saved(NamedTuple):
    """An encoder as read: what to build, and what to fill it with."""

    path: Path
    """File of its weights, for messages."""
    fields: dict[str, Any]
    """Fields of RobertaConfig."""
    fields_path: Path
    """File of the fields, for messages."""
    weights: dict[str, Tensor]
    """Under our names."""
    table: Table
    """By which they were named."""
    num_token_types: int
    """Rows of the table of token types among the weights; 0 where there is none."""


# ---- read


def read(path: str | os.PathLike[str], num_attention_heads: int | None = None) -> Saved:
    """An encoder from a folder of Hugging Face or sentence-transformers, or a file of torchtext.

    Args:
        path: The folder or file.
        num_attention_heads: What a file of weights does not tell; by default, heads are 64 wide.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is corrupt, or its parts do not fit together.
        UnsupportedModelError: The model is one that a RobertaEncoder cannot be.
    """
    path = Path(path)
    if path.is_file():
        return from_weights(path, read_weights(path), keys.TORCHTEXT, num_attention_heads)
    if (path / "modules.json").exists():
        return _read_modules(path)
    return _with_limit(_read_hugging_face(path), modules.tokenizer_limit(path))


def files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files that ``read`` opens in a folder, but for those of its tokenizer.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that are not supported.
    """
    folder = Path(folder)
    if (folder / "modules.json").exists():
        return modules.files(folder)
    return [folder / "config.json", weights_file(folder)]


def read_dpr(path: str | os.PathLike[str], num_attention_heads: int | None = None) -> tuple[Saved, Saved]:
    """The question and the passage encoder in a checkpoint of FAIR's DPR (``dpr/utils/model_utils.py``).

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is corrupt, or holds more than weights and plain values.
        UnsupportedModelError: It is another kind of checkpoint, or holds other encoders than BERT.
    """
    path = Path(path)
    content = read_weights(path)
    weights = content.get("model_dict", content)
    if not isinstance(weights, Mapping):
        raise ArtifactError(f"{path}: model_dict is a {type(weights).__name__}; expected a state dict")
    kind = _encoder_type(content.get("encoder_params"))
    if kind not in (None, "hf_bert"):
        raise UnsupportedModelError.at(path, f'encoder_model_type is "{kind}". Only "hf_bert" is supported.')
    if weights and not any(str(key).startswith(("question_model.", "ctx_model.")) for key in weights):
        first = next(iter(weights))
        raise UnsupportedModelError.at(
            path, f"no checkpoint of FAIR's DPR: its first key is {first}, and none begins with question_model."
        )
    sides: dict[str, dict[str, Any]] = {"question_model": {}, "ctx_model": {}}
    for key, tensor in weights.items():
        side = str(key).partition(".")[0]
        if side not in sides:
            raise ArtifactError(f"{path}: key {key} is unknown; expected question_model.* and ctx_model.*")
        sides[side][key] = tensor
    question, passage = (from_weights(path, side, keys.DPR, num_attention_heads) for side in sides.values())
    return question, passage


def _encoder_type(params: Any) -> Any:
    """Return what FAIR's DPR calls the kind of its encoders, where a checkpoint says it."""
    return params.get("encoder_model_type") if isinstance(params, Mapping) else None


def from_weights(path: Path, theirs: Mapping[str, Any], table: Table, num_attention_heads: int | None) -> Saved:
    """An encoder from weights alone: sizes are read off their shapes.

    Args:
        path: Where they are from, for messages.
        theirs: Weights by their names.
        table: TORCHTEXT or DPR.
        num_attention_heads: By default, heads are 64 wide.

    Raises:
        ArtifactError: They are not all of an encoder.
        UnsupportedModelError: The number of attention heads is not known.
    """
    weights = named(path, theirs, table)

    def size(name: str, dimension: int) -> int:
        if name not in weights or weights[name].ndim != 2:
            key = keys.their_keys(name, table)[0]
            raise ArtifactError(f"{path}: key {key} is missing or not a matrix; expected the weights of an encoder")
        return weights[name].shape[dimension]

    hidden_size = size("embeddings.word.weight", 1)
    if num_attention_heads is None and hidden_size % 64:
        reason = f"the weights are {hidden_size} wide, no multiple of 64. Give num_attention_heads."
        raise UnsupportedModelError.at(path, reason)
    fields: dict[str, Any] = {
        "vocab_size": size("embeddings.word.weight", 0),
        "hidden_size": hidden_size,
        "num_hidden_layers": len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        "num_attention_heads": num_attention_heads or hidden_size // 64,
        "intermediate_size": size("layers.0.feed_forward.0.weight", 0),
        "max_position_embeddings": size("embeddings.position.weight", 0),
    }
    if "projection.weight" in weights:
        fields |= {"projection_dim": size("projection.weight", 0), "projection_norm": False}
    if table is keys.TORCHTEXT:
        return Saved(path, fields, path, weights, table, 0)
    fields |= {"model_type": "bert", "layer_norm_eps": 1e-12, "pad_token_id": 0, **dict.fromkeys(_FRAME)}
    return Saved(path, fields, path, weights, table, size("embeddings.token_type.weight", 0))


def _read_modules(folder: Path) -> Saved:
    transformer, fields, weights = modules.read(folder)
    saved = _read_hugging_face(transformer)
    if "projection_dim" in saved.fields:
        reason = "a DPR encoder with modules of sentence-transformers. Only one of the two is supported."
        raise UnsupportedModelError.at(saved.fields_path, reason)
    limit = fields.pop("max_seq_length")
    saved = saved._replace(fields={**saved.fields, **fields}, weights={**saved.weights, **weights})
    return _with_limit(saved, limit)


def _with_limit(saved: Saved, limit: Any) -> Saved:
    """Add the maximum number of tokens. A limit that the position table sets anyway is none."""
    first_position = 0 if saved.fields["model_type"] == "bert" else saved.fields["pad_token_id"] + 1
    if isinstance(limit, int | float) and limit >= saved.fields["max_position_embeddings"] - first_position:
        limit = None
    return saved._replace(fields={**saved.fields, "max_seq_length": limit})


def _read_hugging_face(folder: Path) -> Saved:
    path, file = folder / "config.json", weights_file(folder)
    settings = read_json(path, dict[str, Any])
    kind = settings.get("model_type")
    if kind not in (*ARCHITECTURES, "dpr"):
        reason = f"model_type is {json.dumps(kind)}. Supported are {', '.join(ARCHITECTURES)} and dpr."
        raise UnsupportedModelError.at(path, reason) if isinstance(kind, str) else ArtifactError(f"{path}: {reason}")
    check_settings(path, settings, ENCODER)
    model_type = "bert" if kind == "dpr" else kind
    if model_type == "bert" and settings.get("pad_token_id", 0) is None:
        del settings["pad_token_id"]  # BERT counts no padding: null is as good as the default
    settings = _DEFAULTS | (_DEFAULTS_OF_BERT if model_type == "bert" else {}) | settings
    for name in (*FIELDS, "type_vocab_size"):
        if settings.get(name, 0) is None:
            raise ArtifactError(f"{path}: {name} is null. It must be a number.")
    fields = {"model_type": model_type} | {name: settings[name] for name in FIELDS if name in settings}
    fields |= {name: settings[name] for name in _FRAME if name in settings}
    if kind == "dpr" and settings.get("projection_dim"):
        fields |= {"projection_dim": settings["projection_dim"], "projection_norm": False}
    table = keys.DPR if kind == "dpr" else keys.BERT
    return Saved(file, fields, path, named(file, read_weights(file), table), table, settings["type_vocab_size"])


# ---- from what was read to an encoder


def check_size(saved: Saved, config: RobertaConfig) -> None:
    """Check that the saved weights are about as many as the encoder will have, before it is built and fills the memory.

    Raises:
        ArtifactError: The configuration has more than twice as many weights as are saved.
    """
    rows = config.vocab_size + config.max_position_embeddings
    rows += config.num_hidden_layers * (4 * config.hidden_size + 2 * config.intermediate_size)
    asked = config.hidden_size * rows + config.hidden_size * (config.projection_dim or 0)
    found = sum(tensor.numel() for tensor in saved.weights.values())
    if asked > 2 * found:
        raise ArtifactError(f"{saved.fields_path}: {asked} weights; expected as many as are saved, {found}")


def fill(module: nn.Module, saved: Saved, *, new: tuple[str, ...] = ()) -> None:
    """Puts saved weights into an encoder.

    Args:
        module: The encoder.
        saved: What was read.
        new: Beginnings of the names of weights that were not saved; they stay as they are.

    Raises:
        ArtifactError: A key is missing, unknown or of another shape.
    """
    ours, weights = module.state_dict(), saved.weights
    expected = keys.with_token_types(ours, saved.num_token_types) if saved.num_token_types else ours
    for name in weights:
        if name not in expected:
            raise _misfit(saved, name, "is unknown")
    for name, tensor in expected.items():
        if name not in weights and not name.startswith(new):
            raise _misfit(saved, name, "is missing")
        found = weights.get(name, tensor)
        if found.shape != tensor.shape or not found.is_floating_point():
            dtype = str(found.dtype).removeprefix("torch.")
            raise _misfit(saved, name, f"is {dtype} {list(found.shape)}, not float {list(tensor.shape)}")
    module.load_state_dict(ours | (keys.without_token_types(weights) if saved.num_token_types else weights))


def _misfit(saved: Saved, name: str, what: str) -> ArtifactError:
    key = keys.their_keys(name, saved.table)[0]
    # A layer that has no name among theirs is from another file of the folder.
    path = saved.fields_path.parent if key == name else saved.path
    return ArtifactError(f"{path}: key {key} {what}; expected the weights of this encoder")


# ---- write


def save(
    module: nn.Module, config: RobertaConfig, max_length: int, folder: str | os.PathLike[str], similarity: str | None
) -> None:
    """Write an encoder as ``transformers`` and ``sentence-transformers`` read it; each file whole or not at all.

    ``config.json`` has Hugging Face's fields only: the others stand with the modules.
    """
    folder = Path(folder)
    num_token_types = 2 if config.model_type == "bert" else 1
    ours = module.state_dict()
    theirs = keys.to_theirs(keys.with_token_types(ours, num_token_types), keys.BERT)
    save_weights(folder / "model.safetensors", _with_pooler(theirs))
    settings = {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        **{name: getattr(config, name) for name in FIELDS},
        "type_vocab_size": num_token_types,
        **FIXED,
        **{name: getattr(config, name) for name in _FRAME if getattr(config, name) is not None},
    }
    write_json(folder / "config.json", settings)
    modules.save(folder, config, ours, max_length, similarity)


def _with_pooler(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the head that ``transformers`` would otherwise draw at random, and warn of."""
    norm = theirs["embeddings.LayerNorm.bias"]
    pooler = {"pooler.dense.weight": norm.new_zeros(len(norm), len(norm)), "pooler.dense.bias": torch.zeros_like(norm)}
    return theirs | pooler
