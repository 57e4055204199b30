"""Encoders on disk: the folders and files of other libraries, and our own, which two of them can read.

A folder as we write it is one of Hugging Face (``config.json``, ``model.safetensors``) and of sentence-transformers
(``modules.json`` and what it names) in one. Which key is which is the matter of ``keys.py``. No pickle is loaded but by
``torch.load(..., weights_only=True)``, which makes tensors and plain values only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from text.artifacts import atomic_write, write_json
from text.errors import ArtifactError
from text.models import keys
from text.models.keys import Table

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
"""Of RobertaConfig, those that ``config.json`` holds under the same names: all of them numbers."""
ARCHITECTURES = {"roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "bert": "BertModel"}
"""By model_type, what Hugging Face calls the encoder."""

_DEFAULTS = {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2}
"""Hugging Face's, for all of these models."""
_DEFAULTS_OF_BERT = {"vocab_size": 30522, "pad_token_id": 0}
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""What Hugging Face lets one choose and we do not."""

_POOLING = {"cls": "first", "mean": "mean", "pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}
"""sentence-transformers' names, new and old: ours."""
_TRANSFORMER_FILES = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "xlm-roberta"))
_FIXED_TRANSFORMER = {
    "do_lower_case": False,
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
}
_FIXED_MODULE = {
    "include_prompt": True,
    "use_residual": False,
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
}
_ORDER = re.compile("Transformer Pooling( Dense( LayerNorm)?)?( Normalize)?")


class Saved(NamedTuple):
    """An encoder as read: what to build, and what to fill it with."""

    path: Path
    """Where its weights are, for messages."""
    fields: dict[str, Any]
    """Of RobertaConfig."""
    fields_path: Path
    """Where they are, for messages."""
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
        ArtifactError: A file is corrupt, or describes what a RobertaEncoder cannot be.
    """
    path = Path(path)
    if path.is_file():
        return from_weights(path, read_weights(path), keys.TORCHTEXT, num_attention_heads)
    if (path / "modules.json").exists():
        return _read_modules(path)
    return _read_hugging_face(path)


def read_dpr(path: str | os.PathLike[str], num_attention_heads: int | None = None) -> tuple[Saved, Saved]:
    """The question and the passage encoder in a checkpoint of FAIR's DPR (``dpr/utils/model_utils.py``).

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It is corrupt, holds more than weights and plain values, or other encoders than BERT.
    """
    path = Path(path)
    content = read_weights(path)
    weights = content.get("model_dict", content)
    if not isinstance(weights, Mapping):
        raise ArtifactError(f"{path}: model_dict is a {type(weights).__name__}; expected a state dict")
    sides: dict[str, dict[str, Any]] = {"question_model": {}, "ctx_model": {}}
    for key, tensor in weights.items():
        side = key.partition(".")[0]
        if side not in sides:
            raise ArtifactError(f"{path}: key {key} is unknown; expected question_model.* and ctx_model.*")
        sides[side][key] = tensor
    question, passage = (from_weights(path, side, keys.DPR, num_attention_heads) for side in sides.values())
    return question, passage


def from_weights(path: Path, theirs: Mapping[str, Any], table: Table, num_attention_heads: int | None) -> Saved:
    """An encoder from weights alone: sizes are read off their shapes.

    Raises:
        ArtifactError: A key is unknown or missing, or has another number of dimensions; or the
            heads are not given, and 64 wide they do not make up the width.
    """
    weights = _named(path, theirs, table)

    def size(name: str, dimension: int) -> int:
        if name not in weights or weights[name].ndim != 2:
            key = keys.their_keys(name, table)[0]
            raise ArtifactError(f"{path}: key {key} is missing or not a matrix; expected the weights of an encoder")
        return weights[name].shape[dimension]

    hidden_size = size("embeddings.word.weight", 1)
    if num_attention_heads is None and hidden_size % 64:
        raise ArtifactError(f"{path}: weights are {hidden_size} wide, no multiple of 64; expected num_attention_heads")
    fields = {
        "vocab_size": size("embeddings.word.weight", 0),
        "hidden_size": hidden_size,
        "num_hidden_layers": len({name.split(".")[1] for name in weights if name.startswith("layers.")}),
        "num_attention_heads": num_attention_heads or hidden_size // 64,
        "intermediate_size": size("layers.0.feed_forward.0.weight", 0),
        "max_position_embeddings": size("embeddings.position.weight", 0),
    }
    is_bert = "embeddings.token_type." in table
    if is_bert:
        fields |= {"model_type": "bert", "pad_token_id": 0, "layer_norm_eps": 1e-12}
    if "projection.weight" in weights:
        fields |= {"projection_dim": size("projection.weight", 0), "projection_norm": False}
    return Saved(path, fields, path, weights, table, size("embeddings.token_type.weight", 0) if is_bert else 0)


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a ``.safetensors`` file; of any other, what ``torch.load`` finds in it, weights only.

    Raises:
        FileNotFoundError: There is no such file.
        ArtifactError: It cannot be read, holds other objects, or no dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an encoder's weights")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_weights_only(path)
    except UnpicklingError:
        raise ArtifactError(
            f"{path}: holds more than weights, or is corrupt; expected weights alone: "
            'where you trust it, load it and save its "model_dict" alone, with torch.save or safetensors'
        ) from None
    except OSError:
        raise
    except Exception as error:  # both libraries raise many kinds
        raise ArtifactError(f"{path}: {_one_line(error)}; expected the weights of an encoder") from None
    if not isinstance(content, Mapping):
        raise ArtifactError(f"{path}: a {type(content).__name__}; expected a state dict, the weights of an encoder")
    return dict(content)


def fill(module: nn.Module, saved: Saved, *, new: tuple[str, ...] = ()) -> None:
    """Puts saved weights into an encoder.

    Args:
        module: The encoder.
        saved: What ``read`` gave.
        new: Beginnings of the names of weights that were not saved; they stay as they are.

    Raises:
        ArtifactError: A key is missing, unknown or of another shape.
    """
    ours = module.state_dict()
    expected = keys.with_token_types(ours, saved.num_token_types) if saved.num_token_types else ours
    missing = [name for name in expected if name not in saved.weights and not name.startswith(new)]
    for kind, names in (("unknown", [name for name in saved.weights if name not in expected]), ("missing", missing)):
        if names:
            raise _misfit(saved, names[0], f"is {kind}")
    for name, tensor in saved.weights.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            found, wanted = (list(each.shape) for each in (tensor, expected[name]))
            raise _misfit(saved, name, f"is {dtype} {found}, not float {wanted}")
    weights = keys.without_token_types(saved.weights) if saved.num_token_types else saved.weights
    module.load_state_dict(ours | weights)


def _read_hugging_face(folder: Path) -> Saved:
    path = folder / "config.json"
    content = _DEFAULTS | _read_json(path)
    kind = content.get("model_type")
    if kind not in (*ARCHITECTURES, "dpr"):
        raise ArtifactError(f'{path}: model_type is "{kind}"; expected one of {", ".join(ARCHITECTURES)}, dpr')
    _expect(path, content, _FIXED)
    is_bert = kind in ("bert", "dpr")
    content = (_DEFAULTS_OF_BERT if is_bert else {}) | content
    for name in (*FIELDS, "type_vocab_size"):
        if not isinstance(content.get(name, 0), int | float):
            raise ArtifactError(f"{path}: {name} is {json.dumps(content[name])}; expected a number")
    if content["type_vocab_size"] not in range(1, 1 << 10):
        raise ArtifactError(f"{path}: type_vocab_size is {content['type_vocab_size']}; expected a few")
    fields = {name: content[name] for name in FIELDS if name in content}
    fields["model_type"] = "bert" if is_bert else kind
    if kind == "dpr" and content.get("projection_dim"):
        fields |= {"projection_dim": content["projection_dim"], "projection_norm": False}
    table = keys.DPR if kind == "dpr" else keys.BERT
    weights = folder / "model.safetensors"
    if not weights.is_file() and (folder / "pytorch_model.bin").is_file():
        weights = folder / "pytorch_model.bin"
    named = _named(weights, read_weights(weights), table)
    return Saved(weights, fields, path, named, table, content["type_vocab_size"])


def _read_modules(folder: Path) -> Saved:
    """A folder of sentence-transformers, module by module."""
    modules = _modules(folder)
    _, transformer = modules[0]
    saved = _read_hugging_face(transformer)
    if "projection_dim" in saved.fields:
        raise ArtifactError(f"{transformer / 'config.json'}: a DPR encoder with modules; expected one or the other")
    fields, weights = saved.fields, saved.weights
    fields["projection_norm"] = False
    fields["max_seq_length"] = _max_seq_length(transformer, fields)
    fields["prompts"] = _prompts(folder / "config_sentence_transformers.json")
    for kind, path in modules[1:]:
        more_fields, more_weights = _READERS[kind](path)
        fields |= more_fields
        weights |= more_weights
    if "projection_dim" not in fields:
        del fields["projection_norm"]
    return saved._replace(fields=fields, weights=weights)


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Class and folder of each module in ``modules.json``."""
    path = folder / "modules.json"
    try:
        modules = [(module["type"], folder / module["path"]) for module in _read_json(path, list)]
        kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    except (AttributeError, KeyError, TypeError):
        raise ArtifactError(f"{path}: a module lacks type or path; expected both of each") from None
    trusted = all(kind.startswith("sentence_transformers.") for kind, _ in modules)
    if not trusted or not _ORDER.fullmatch(" ".join(kinds)):
        found = ", ".join(kinds if trusted else (kind for kind, _ in modules))
        raise ArtifactError(
            f"{path}: modules {found}; expected sentence-transformers' Transformer and Pooling, "
            "then none or more of Dense (with LayerNorm or without) and Normalize"
        )
    return [(kind, path) for kind, (_, path) in zip(kinds, modules, strict=True)]


def _max_seq_length(folder: Path, fields: Mapping[str, Any]) -> int | None:
    """The limit of sentence-transformers; None if it is the position table's.

    Release 6 writes the tokenizer's limit only, and reads either.
    """
    path = next((folder / name for name in _TRANSFORMER_FILES if (folder / name).is_file()), None)
    content = {} if path is None else _read_json(path)
    _expect(path or folder, content, _FIXED_TRANSFORMER)
    limit = content.get("max_seq_length")
    if limit is None and (folder / "tokenizer_config.json").is_file():
        limit = _read_json(folder / "tokenizer_config.json").get("model_max_length")
    reserved = 0 if fields["model_type"] == "bert" else fields.get("pad_token_id", 1) + 1
    places = fields["max_position_embeddings"] - reserved
    return None if isinstance(limit, int) and limit >= places else limit


def _prompts(path: Path) -> dict[str, str]:
    prompts = _read_json(path).get("prompts") or {} if path.is_file() else {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ArtifactError(f"{path}: prompts is {prompts!r}; expected texts by name")
    return prompts


def _read_pooling(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = folder / "config.json"
    content = _read_json(path)
    _expect(path, content, _FIXED_MODULE)
    old = [name for name, chosen in content.items() if name.startswith("pooling_mode_") and chosen]
    modes = content.get("pooling_mode", old)
    for name, pooling in _POOLING.items():
        if modes in (name, [name]):
            return {"pooling": pooling}, {}
    raise ArtifactError(f"{path}: pooling is {json.dumps(modes)}; expected cls or mean")


def _read_dense(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content, weights = _read_layer(folder, keys.DENSE)
    path, weight = folder / "config.json", weights.get("projection.weight")
    activation = content.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ("torch.nn.modules.linear.Identity", "torch.nn.Identity"):
        raise ArtifactError(
            f'{path}: activation_function is "{activation}"; expected "torch.nn.modules.linear.Identity"'
        )
    if weight is None or weight.ndim != 2:
        raise ArtifactError(f"{folder}: key linear.weight is missing or not a matrix; expected the weights of Dense")
    _expect(path, content, {"out_features": len(weight), "in_features": weight.shape[1]})
    _expect(path, {"bias": True} | content, {"bias": "projection.bias" in weights})
    return {"projection_dim": len(weight)}, {"projection.bias": weight.new_zeros(len(weight))} | weights


def _read_layer_norm(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return {"projection_norm": True}, _read_layer(folder, keys.LAYER_NORM)[1]


def _read_normalize(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = folder / "config.json"
    _expect(path, _read_json(path) if path.is_file() else {}, _FIXED_MODULE)
    return {"normalize": True}, {}


_READERS: dict[str, Callable[[Path], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}
"""Of each module, what it adds to the fields and the weights."""


def _read_layer(folder: Path, table: Table) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = _read_json(folder / "config.json")
    _expect(folder / "config.json", content, _FIXED_MODULE)
    path = folder / "model.safetensors"
    if not path.is_file() and (folder / "pytorch_model.bin").is_file():
        path = folder / "pytorch_model.bin"
    return content, _named(path, read_weights(path), table)


def _named(path: Path, theirs: Mapping[str, Any], table: Table) -> dict[str, Tensor]:
    other = next((key for key, value in theirs.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ArtifactError(f"{path}: {other} is a {type(theirs[other]).__name__}; expected tensors by name")
    try:
        return keys.to_ours(theirs, table)
    except KeyError as error:
        raise ArtifactError(f"{path}: {error.args[0]}; expected the weights of an encoder") from None


def _misfit(saved: Saved, name: str, what: str) -> ArtifactError:
    key = keys.their_keys(name, saved.table)[0]
    # A layer that has no name among theirs is from another file of the folder.
    path = saved.fields_path.parent if key == name else saved.path
    return ArtifactError(f"{path}: key {key} {what}; expected the weights of this encoder")


def _expect(path: Path, content: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raises where a setting is there and not null, and another than it must be."""
    for name, expected in fixed.items():
        if content.get(name) not in (None, expected):
            found, wanted = json.dumps(content[name]), json.dumps(expected)
            raise ArtifactError(f"{path}: {name} is {found}; expected {wanted}")


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}); expected part of an encoder's configuration") from None
    if not isinstance(content, kind):
        raise ArtifactError(
            f"{path}: a {type(content).__name__}; expected a {kind.__name__}, part of an encoder's configuration"
        )
    return content


def _load_weights_only(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---- write


def save(module: nn.Module, config: Any, max_length: int, folder: str | os.PathLike[str]) -> None:
    """Writes an encoder as ``transformers`` and ``sentence-transformers`` read it; each file whole or not at all.

    ``config.json`` has Hugging Face's fields only: pooling and what follows it, the limit and the prompts stand where
    sentence-transformers looks for them. ``modules.json`` comes last, and names what counts: folders of modules that
    an earlier encoder left are not looked at. Classes stand in it under their old names, which every release knows.
    """
    folder = Path(folder)
    num_token_types = 2 if config.model_type == "bert" else 1
    ours = keys.with_token_types(module.state_dict(), num_token_types)
    _save_weights(folder, _with_pooler(keys.to_theirs(ours, keys.BERT)))
    fields = {name: getattr(config, name) for name in FIELDS}
    kind = {"architectures": [ARCHITECTURES[config.model_type]], "model_type": config.model_type}
    special = {} if config.model_type == "bert" else {"bos_token_id": 0, "eos_token_id": 2}
    write_json(folder / "config.json", kind | fields | special | _FIXED | {"type_vocab_size": num_token_types})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": dict(config.prompts)})
    modules = {"": "Transformer", "1_Pooling": "Pooling"}
    _save_pooling(folder / "1_Pooling", config)
    if config.projection_dim is not None:
        modules["2_Dense"] = "Dense"
        _save_dense(folder / "2_Dense", config, ours)
        if config.projection_norm:
            modules["3_LayerNorm"] = "LayerNorm"
            _save_weights(folder / "3_LayerNorm", keys.to_theirs(ours, keys.LAYER_NORM))
            write_json(folder / "3_LayerNorm" / "config.json", {"dimension": config.projection_dim})
    if config.normalize:
        modules["4_Normalize"] = "Normalize"
        write_json(folder / "4_Normalize" / "config.json", {})
    _list_modules(folder, {path: f"sentence_transformers.models.{kind}" for path, kind in modules.items()})


def save_pair(folder: str | os.PathLike[str], sides: Mapping[str, str], prompts: Mapping[str, str]) -> None:
    """Lets sentence-transformers load encoders saved below ``folder`` as one model.

    Args:
        folder: Where the folders of the encoders are.
        sides: By sentence-transformers' name of a task, "query" or "document", the encoder's folder. Where both
            are the same, its modules are the model's; else a Router chooses by task.
        prompts: Of both.
    """
    folder = Path(folder)
    modules = {task: _listed_below(folder, side) for task, side in sides.items()}
    listed = dict(next(iter(modules.values())))
    if len(set(sides.values())) > 1:
        structure = {task: list(types) for task, types in modules.items()}
        router = {"types": {path: kind for types in modules.values() for path, kind in types.items()}}
        parameters = {"default_route": None, "allow_empty_key": False}
        write_json(folder / "router_config.json", router | {"structure": structure, "parameters": parameters})
        listed = {"": "sentence_transformers.models.Router"}
    write_json(folder / "config_sentence_transformers.json", {"prompts": dict(prompts)})
    _list_modules(folder, listed)


def _listed_below(folder: Path, side: str) -> dict[str, str]:
    modules = _read_json(folder / side / "modules.json", list)
    return {Path(side, module["path"]).as_posix(): module["type"] for module in modules}


def _list_modules(folder: Path, modules: Mapping[str, str]) -> None:
    """Writes ``modules.json``: the class of each, by folder."""
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(modules.items())
    ]
    write_json(folder / "modules.json", listed)


def _save_pooling(folder: Path, config: Any) -> None:
    """Under the old names, which every release reads."""
    chosen = {f"pooling_mode_{mode}": config.pooling == ours for mode, ours in _OLD_POOLING.items()}
    write_json(folder / "config.json", {"word_embedding_dimension": config.hidden_size} | chosen)


_OLD_POOLING = {"cls_token": "first", "mean_tokens": "mean"}


def _save_dense(folder: Path, config: Any, ours: Mapping[str, Tensor]) -> None:
    _save_weights(folder, keys.to_theirs(ours, keys.DENSE))
    sizes = {"in_features": config.hidden_size, "out_features": config.projection_dim, "bias": True}
    write_json(folder / "config.json", sizes | {"activation_function": "torch.nn.modules.linear.Identity"})


def _save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    with atomic_write(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def _with_pooler(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the head that ``transformers`` would otherwise draw at random, and warn of."""
    norm = theirs["embeddings.LayerNorm.bias"]
    pooler = {"pooler.dense.weight": norm.new_zeros(len(norm), len(norm)), "pooler.dense.bias": torch.zeros_like(norm)}
    return theirs | pooler
