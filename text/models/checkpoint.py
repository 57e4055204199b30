"""Saved encoders: loading the formats of several libraries, and saving one format.

A folder that ``save_encoder`` writes is a Hugging Face model and a sentence-transformers model at the same time.
``modules.py`` reads and writes the files of sentence-transformers, ``keys.py`` converts the keys of state dicts, and
``files.py`` reads and writes the weights.
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
from text.models import keys, modules, sentence_files
from text.models.files import (
    check_no_adapter,
    find_weights_file,
    list_weights_files,
    read_weights,
    rename_weights,
    save_weights,
)
from text.models.keys import KeyTable
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
"""Fields of RobertaConfig that have the same names in ``config.json``. None of them may be null."""
ARCHITECTURES = {"roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "bert": "BertModel"}
"""Name of the encoder's class in Hugging Face, by ``model_type``."""
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
"""Dropout rates among ``FIELDS``."""
_BOUNDARY_TOKENS = ("bos_token_id", "eos_token_id")
"""Further fields with the same names in ``config.json``. They may be null."""
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""Hugging Face settings that have the same value in every encoder of this library."""

_DEFAULTS = {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 1}
_BERT_DEFAULTS = {"vocab_size": 30522, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
"""Defaults of Hugging Face that differ from the defaults of RobertaConfig."""


class SavedEncoder(NamedTuple):
    """A saved encoder: its configuration and its weights."""

    path: Path
    """File of the weights, for error messages."""
    fields: dict[str, Any]
    """Fields of RobertaConfig."""
    fields_path: Path
    """File of the fields, for error messages."""
    weights: dict[str, Tensor]
    """State dict with the keys of a RobertaEncoder."""
    table: KeyTable
    """Key table of the file's format."""
    num_token_types: int
    """Rows of the token type embeddings. 0 if the format has no token types."""


# ---- read


def read_encoder(path: str | os.PathLike[str], num_attention_heads: int | None = None) -> SavedEncoder:
    """Read an encoder from a folder of Hugging Face or sentence-transformers, or from a torchtext file.

    Args:
        path: The folder or file.
        num_attention_heads: Number of heads, which a weights file does not state. By default, each head is 64 wide.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged, or two files contradict each other.
        UnsupportedModelError: The model or a setting is not supported.
    """
    path = Path(path)
    if path.is_file():
        return from_weights(path, read_weights(path), keys.TORCHTEXT, num_attention_heads)
    if (path / "modules.json").exists():
        return _read_sentence_transformers(path)
    return _add_limit(read_hugging_face(path), sentence_files.read_tokenizer_limit(path))


def list_encoder_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files that loading an encoder opens in a folder, without the tokenizer files.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that are not supported.
    """
    folder = Path(folder)
    if (folder / "modules.json").exists():
        return sentence_files.list_module_files(folder)
    return [folder / "config.json", *list_weights_files(folder)]


def read_dpr_checkpoint(
    path: str | os.PathLike[str], num_attention_heads: int | None = None
) -> tuple[SavedEncoder, SavedEncoder]:
    """Read the question and the passage encoder from a checkpoint of FAIR's DPR (``dpr/utils/model_utils.py``).

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: The file is damaged, or contains objects other than weights and plain values.
        UnsupportedModelError: The file is another kind of checkpoint, or its encoders are not BERT.
    """
    path = Path(path)
    content = read_weights(path)
    weights = content.get("model_dict", content)
    if not isinstance(weights, Mapping):
        raise ArtifactError(f"{path}: model_dict is a {type(weights).__name__}, not a state dict.")
    kind = _read_encoder_type(content.get("encoder_params"))
    if kind not in (None, "hf_bert"):
        raise UnsupportedModelError.at(path, f'encoder_model_type is "{kind}". Only "hf_bert" is supported.')
    if weights and not any(str(key).startswith(("question_model.", "ctx_model.")) for key in weights):
        first = next(iter(weights))
        raise UnsupportedModelError.at(
            path, f"not a checkpoint of FAIR's DPR: no key begins with question_model. Its first key is {first}."
        )
    sides: dict[str, dict[str, Any]] = {"question_model": {}, "ctx_model": {}}
    for key, tensor in weights.items():
        side = str(key).partition(".")[0]
        if side not in sides:
            raise ArtifactError(f"{path}: key {key} is unknown. All keys must begin with question_model. or ctx_model.")
        sides[side][key] = tensor
    question, passage = (from_weights(path, side, keys.DPR, num_attention_heads) for side in sides.values())
    return question, passage


def _read_encoder_type(params: Any) -> Any:
    """Return the encoder type that a checkpoint of FAIR's DPR states. None if it states none."""
    return params.get("encoder_model_type") if isinstance(params, Mapping) else None


def from_weights(
    path: Path, external: Mapping[str, Any], table: KeyTable, num_attention_heads: int | None
) -> SavedEncoder:
    """Build a saved encoder from a state dict. The shapes of the weights determine the sizes.

    Args:
        path: Origin of the weights, for error messages.
        external: State dict with the keys of the other library.
        table: ``TORCHTEXT`` or ``DPR``.
        num_attention_heads: Number of heads. By default, each head is 64 wide.

    Raises:
        ArtifactError: A weight is missing, unknown or damaged.
        UnsupportedModelError: The number of attention heads is unknown.
    """
    weights = rename_weights(path, external, table)

    def get_size(name: str, dimension: int) -> int:
        if name not in weights or weights[name].ndim != 2:
            key = keys.get_external_keys(name, table)[0]
            raise ArtifactError(f"{path}: key {key} is missing or not a matrix. Give the weights of an encoder.")
        return weights[name].shape[dimension]

    hidden_size = get_size("embeddings.word.weight", 1)
    if num_attention_heads is None and hidden_size % 64:
        reason = f"the hidden size is {hidden_size}, not a multiple of 64. Give num_attention_heads."
        raise UnsupportedModelError.at(path, reason)
    fields: dict[str, Any] = {
        "vocab_size": get_size("embeddings.word.weight", 0),
        "hidden_size": hidden_size,
        "num_hidden_layers": len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        "num_attention_heads": num_attention_heads or hidden_size // 64,
        "intermediate_size": get_size("layers.0.feed_forward.0.weight", 0),
        "max_position_embeddings": get_size("embeddings.position.weight", 0),
    }
    if "projection.weight" in weights:
        fields |= {"projection_dim": get_size("projection.weight", 0), "projection_norm": False}
    if table is keys.TORCHTEXT:
        return SavedEncoder(path, fields, path, weights, table, 0)
    fields |= {"model_type": "bert", "layer_norm_eps": 1e-12, "pad_token_id": 0, **dict.fromkeys(_BOUNDARY_TOKENS)}
    return SavedEncoder(path, fields, path, weights, table, get_size("embeddings.token_type.weight", 0))


def _read_sentence_transformers(folder: Path) -> SavedEncoder:
    transformer, fields, weights = modules.read_encoder_modules(folder)
    saved = read_hugging_face(transformer)
    if "projection_dim" in saved.fields:
        reason = "this DPR encoder also has modules of sentence-transformers. Only one of the two is supported."
        raise UnsupportedModelError.at(saved.fields_path, reason)
    limit = fields.pop("max_seq_length")
    saved = saved._replace(fields={**saved.fields, **fields}, weights={**saved.weights, **weights})
    return _add_limit(saved, limit)


def _add_limit(saved: SavedEncoder, limit: Any) -> SavedEncoder:
    """Set the maximum number of tokens. A limit that the position table already implies becomes None."""
    first_position = 0 if saved.fields["model_type"] == "bert" else saved.fields["pad_token_id"] + 1
    if isinstance(limit, int | float) and limit >= saved.fields["max_position_embeddings"] - first_position:
        limit = None
    return saved._replace(fields={**saved.fields, "max_seq_length": limit})


def read_hugging_face(folder: Path, external: Mapping[str, Any] | None = None) -> SavedEncoder:
    """Read an encoder from a folder of Hugging Face, without its limit of tokens.

    Args:
        folder: The folder.
        external: The content of its weights file, if it was read before.

    Raises:
        FileNotFoundError, ArtifactError, UnsupportedModelError: See ``read_encoder``.
    """
    path, file = folder / "config.json", find_weights_file(folder)
    check_no_adapter(folder)
    settings = read_json(path, dict[str, Any])
    kind = settings.get("model_type")
    if kind not in (*ARCHITECTURES, "dpr"):
        reason = f"model_type is {json.dumps(kind)}. Supported are {', '.join(ARCHITECTURES)} and dpr."
        raise UnsupportedModelError.at(path, reason) if isinstance(kind, str) else ArtifactError(f"{path}: {reason}")
    check_settings(path, settings, ENCODER)
    model_type = "bert" if kind == "dpr" else kind
    if model_type == "bert" and settings.get("pad_token_id", 0) is None:
        del settings["pad_token_id"]  # The positions of a BERT do not depend on it, so the default can replace null.
    settings = _DEFAULTS | (_BERT_DEFAULTS if model_type == "bert" else {}) | settings
    for name in (*FIELDS, "type_vocab_size"):
        if settings.get(name, 0) is None:
            raise ArtifactError(f"{path}: {name} is null. It must be a number.")
    fields = {"model_type": model_type} | {name: settings[name] for name in FIELDS if name in settings}
    fields |= {name: settings[name] for name in _BOUNDARY_TOKENS if name in settings}
    if kind == "dpr" and settings.get("projection_dim"):
        fields |= {"projection_dim": settings["projection_dim"], "projection_norm": False}
    table = keys.DPR if kind == "dpr" else keys.BERT
    external = read_weights(file) if external is None else external
    return SavedEncoder(file, fields, path, rename_weights(file, external, table), table, settings["type_vocab_size"])


# ---- build


def check_size(saved: SavedEncoder, config: RobertaConfig) -> None:
    """Check the number of weights before the encoder is built. A wrong configuration could exhaust the memory.

    Raises:
        ArtifactError: The configuration needs more than twice as many weights as the file contains.
    """
    rows = config.vocab_size + config.max_position_embeddings
    rows += config.num_hidden_layers * (4 * config.hidden_size + 2 * config.intermediate_size)
    num_described = config.hidden_size * rows + config.hidden_size * (config.projection_dim or 0)
    num_saved = sum(tensor.numel() for tensor in saved.weights.values())
    if num_described > 2 * num_saved:
        raise ArtifactError(f"{saved.fields_path}: it describes {num_described} weights, but {num_saved} are saved.")


def fill_encoder(module: nn.Module, saved: SavedEncoder, *, new: tuple[str, ...] = ()) -> None:
    """Load saved weights into an encoder.

    Args:
        module: The encoder.
        saved: The saved encoder.
        new: Prefixes of weights that may be missing. These weights keep their values.

    Raises:
        ArtifactError: A key is missing or unknown, or a weight has another shape.
    """
    state_dict, weights = module.state_dict(), saved.weights
    is_merged = saved.num_token_types > 0 and keys.TOKEN_TYPE not in state_dict
    expected = keys.add_token_types(state_dict, saved.num_token_types) if is_merged else state_dict
    for name in weights:
        if name not in expected:
            raise _build_key_error(saved, name, "is unknown")
    for name, tensor in expected.items():
        if name not in weights and not name.startswith(new):
            raise _build_key_error(saved, name, "is missing")
        found = weights.get(name, tensor)
        if found.shape != tensor.shape or not found.is_floating_point():
            dtype = str(found.dtype).removeprefix("torch.")
            raise _build_key_error(saved, name, f"is {dtype} {list(found.shape)}, not float {list(tensor.shape)}")
    module.load_state_dict(state_dict | (keys.merge_token_types(weights) if is_merged else weights))


def _build_key_error(saved: SavedEncoder, name: str, problem: str) -> ArtifactError:
    key = keys.get_external_keys(name, saved.table)[0]
    # The table has no external key for a weight of another file in the folder, such as the projection.
    path = saved.fields_path.parent if key == name else saved.path
    return ArtifactError(f"{path}: key {key} {problem}. The weights and the configuration do not match.")


# ---- write


def save_encoder(
    module: nn.Module, config: RobertaConfig, max_length: int, folder: str | os.PathLike[str], similarity: str | None
) -> None:
    """Write an encoder in the format of ``transformers`` and ``sentence-transformers``, each file atomically.

    ``config.json`` contains the fields of Hugging Face only. The files of the modules contain the other fields.
    """
    folder = Path(folder)
    state_dict = module.state_dict()
    external, settings = export_encoder(config, state_dict)
    save_weights(folder / "model.safetensors", _add_zero_pooler(external))
    write_json(folder / "config.json", {"architectures": [ARCHITECTURES[config.model_type]], **settings})
    modules.save_modules(folder, config, state_dict, max_length, similarity)


def export_encoder(config: RobertaConfig, state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of an encoder with the keys of Hugging Face, and its settings for ``config.json``."""
    num_token_types = config.num_token_types or (2 if config.model_type == "bert" else 1)
    if not config.num_token_types:
        state_dict = keys.add_token_types(state_dict, num_token_types)
    settings = {
        "model_type": config.model_type,
        **{name: getattr(config, name) for name in FIELDS},
        "type_vocab_size": num_token_types,
        **FIXED,
        **{name: getattr(config, name) for name in _BOUNDARY_TOKENS if getattr(config, name) is not None},
    }
    return keys.to_external_keys(state_dict, keys.BERT), settings


def _add_zero_pooler(external: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add a pooler of zeros. ``transformers`` would otherwise create a random one and print a warning."""
    norm = external["embeddings.LayerNorm.bias"]
    pooler = {"pooler.dense.weight": norm.new_zeros(len(norm), len(norm)), "pooler.dense.bias": torch.zeros_like(norm)}
    return external | pooler
