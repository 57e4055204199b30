"""Folders of cross-encoders: models with a classification head, of ``transformers`` or sentence-transformers.

A folder that ``save_classifier`` writes loads as AutoModelForSequenceClassification of ``transformers`` and as
CrossEncoder of sentence-transformers. ``read_classifier_settings`` serves models of all families.

Dimensions: H hidden size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from text.artifacts import read_json, write_json
from text.errors import ArtifactError, UnsupportedModelError
from text.foreign_settings import (
    CROSS_ENCODER,
    SENTENCE_CLASSIFIER,
    SENTENCE_FILES,
    find_sentence_file,
    read_modules,
    read_optional_settings,
)
from text.models import checkpoint, keys
from text.models.checkpoint import SavedEncoder
from text.models.files import find_weights_file, is_finite, list_weights_files, read_weights, save_weights
from text.models.roberta_config import RobertaConfig
from text.models.sentence_files import SETTINGS, read_module_list

ACTIVATIONS = {"identity": "torch.nn.modules.linear.Identity", "sigmoid": "torch.nn.modules.activation.Sigmoid"}
"""Functions that sentence-transformers can apply to a score, with their Python names. They do not change the order of
passages."""
_SHORT_NAMES = {"torch.nn.Identity": "identity", "torch.nn.Sigmoid": "sigmoid"}
_DEFAULT_ACTIVATION = "sigmoid"
"""Activation that sentence-transformers applies if the files name none."""
_CLASSIFIER = "ForSequenceClassification"
"""End of the name of each class of ``transformers`` with a classification head."""
_HEADS = {
    "bert": {"dense.": "pooler.dense.", "output.": "classifier."},
    "roberta": {"dense.": "classifier.dense.", "output.": "classifier.out_proj."},
}
"""Keys of the layers of a ``ClassificationHead`` in Hugging Face, by family."""
_ARCHITECTURES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "bert": "Bert"}
_PREFIXES = {"roberta": "roberta.", "xlm-roberta": "roberta.", "bert": "bert."}


class ClassifierSettings(NamedTuple):
    """Settings of a folder from which a cross-encoder can be loaded."""

    folder: Path
    """Folder of the transformer. It contains ``config.json``."""
    has_head: bool
    """True if the folder states that the model has a classification head. It then has one label."""
    activation: str
    """Key of ``ACTIVATIONS``."""


class SavedClassifier(NamedTuple):
    """A saved RoBERTa or BERT with or without a head."""

    encoder: SavedEncoder
    head: dict[str, Tensor]
    """Weights of a ``ClassificationHead``. Without a head, at most the weights of the pooler."""
    has_head: bool
    dropout: float
    """Dropout rate of the head."""
    activation: str


def is_classifier(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder states that its model has a classification head.

    Raises:
        ArtifactError: ``config.json`` is damaged.
    """
    path = Path(folder, "config.json")
    names = read_json(path, dict[str, Any]).get("architectures") if path.is_file() else None
    return isinstance(names, list) and any(str(name).endswith(_CLASSIFIER) for name in names)


def is_cross_encoder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder of any library holds a model with a classification head.

    A folder of sentence-transformers may hold its only module, the transformer, in a subfolder.

    Raises:
        ArtifactError: ``modules.json`` or ``config.json`` is damaged.
    """
    listed = read_modules(Path(folder)) if Path(folder, "modules.json").exists() else []
    kinds = [kind.rpartition(".")[2] for kind, _ in listed]
    return is_classifier(listed[0][1] if kinds == ["Transformer"] else folder)


def read_classifier_settings(folder: str | os.PathLike[str]) -> ClassifierSettings:
    """Read the settings of a folder from which a cross-encoder can be loaded.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged.
        UnsupportedModelError: The model has more than one label, or a setting is not supported.
    """
    transformer = _find_transformer(Path(folder))
    if not is_classifier(transformer):
        return ClassifierSettings(transformer, False, "identity")
    path = transformer / "config.json"
    settings = read_json(path, dict[str, Any])
    labels = settings.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) else settings.get("num_labels", 2)
    if num_labels != 1:
        raise UnsupportedModelError.at(
            path,
            f"the model has {num_labels} labels. A reranker has one, its score. Use a model with one label, or save "
            "its encoder without the head (AutoModel) and train a new head with dpr-text train --task=rerank.",
        )
    return ClassifierSettings(transformer, True, _read_activation(Path(folder), settings))


def list_classifier_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the files that loading a cross-encoder opens in a folder, without the tokenizer files.

    Raises:
        ArtifactError: ``modules.json`` is damaged.
        UnsupportedModelError: ``modules.json`` lists modules that are not supported.
    """
    folder = Path(folder)
    transformer = _find_transformer(folder)
    optional = [folder / "modules.json", folder / SETTINGS, *(transformer / name for name in SENTENCE_FILES)]
    always = [transformer / "config.json", *list_weights_files(transformer)]
    return [*always, *(path for path in optional if path.is_file())]


def _find_transformer(folder: Path) -> Path:
    """Return the folder of the transformer. In a folder of sentence-transformers it may be the only module."""
    if not (folder / "modules.json").exists():
        return folder
    listed = read_modules(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in listed]
    if kinds != ["Transformer"]:
        return read_module_list(folder)[0][1]  # an encoder, whose other modules are not used
    path = find_sentence_file(listed[0][1])
    if path is not None:
        read_optional_settings(path, SENTENCE_CLASSIFIER)
    return listed[0][1]


def _read_activation(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return the activation that sentence-transformers applies to the scores of a folder."""
    path = folder / SETTINGS
    model = read_optional_settings(path, CROSS_ENCODER)
    prompts = model.get("prompts") or {}
    if prompts.get(model.get("default_prompt_name")):
        raise UnsupportedModelError.at(
            path, "default_prompt_name names a prompt. Rerankers with prompts are not supported."
        )
    in_settings = settings.get("sentence_transformers")
    older = settings.get("sbert_ce_default_activation_function")
    name = model.get("activation_fn") or (in_settings if isinstance(in_settings, dict) else {}).get("activation_fn")
    name = name or older
    if name is None:
        return _DEFAULT_ACTIVATION
    names = {full: short for short, full in ACTIVATIONS.items()} | _SHORT_NAMES
    if name not in names:
        reason = f"activation_fn is {json.dumps(name)}. Only Identity and Sigmoid keep the order of scores."
        raise UnsupportedModelError.at(folder, f"{reason} Change it to {ACTIVATIONS['identity']}.")
    return names[name]


def read_classifier(folder: str | os.PathLike[str]) -> SavedClassifier:
    """Read a RoBERTa, XLM-RoBERTa or BERT, with its classification head if it has one.

    Raises:
        FileNotFoundError: A file is missing.
        ArtifactError: A file is damaged, or a weight of the head is missing or has another shape.
        UnsupportedModelError: The model or a setting is not supported.
    """
    settings = read_classifier_settings(folder)
    file = find_weights_file(settings.folder)
    external = read_weights(file)
    saved = checkpoint.read_hugging_face(settings.folder, external)
    num_types = saved.num_token_types if saved.num_token_types > 1 else 0
    saved = saved._replace(fields={**saved.fields, "num_token_types": num_types})
    if "projection_dim" in saved.fields:
        raise UnsupportedModelError.at(saved.fields_path, "a DPR encoder with a projection cannot become a reranker.")
    head = _read_head(file, external, saved)
    rates = read_json(saved.fields_path, dict[str, Any])
    dropout = rates.get("classifier_dropout")
    dropout = saved.fields.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    if not (type(dropout) in (int, float) and 0 <= dropout <= 1):
        raise ArtifactError(f"{saved.fields_path}: classifier_dropout is {dropout!r}. It must be a number from 0 to 1.")
    if settings.has_head and len(head) < 4:
        raise ArtifactError(f"{file}: the classification head is incomplete. Restore the weights.")
    if not settings.has_head:
        head = {name: weight for name, weight in head.items() if name.startswith("dense.")} if _has_pooler(head) else {}
    return SavedClassifier(saved, head, settings.has_head, float(dropout), settings.activation)


def _has_pooler(head: Mapping[str, Tensor]) -> bool:
    """Return whether an encoder without a head has a trained pooler. ``save_encoder`` writes one of zeros."""
    return "dense.weight" in head and "dense.bias" in head and bool(head["dense.weight"].any())


def _read_head(file: Path, external: Mapping[str, Any], saved: SavedEncoder) -> dict[str, Tensor]:
    """Return the weights of the head, by their names in a ``ClassificationHead``."""
    family = "bert" if saved.fields["model_type"] == "bert" else "roberta"
    names = {theirs + kind: ours + kind for ours, theirs in _HEADS[family].items() for kind in ("weight", "bias")}
    head = {names[key]: tensor for found, tensor in external.items() if (key := keys.normalize_key(found)) in names}
    for name, tensor in head.items():
        if not tensor.is_floating_point() or not is_finite(tensor):
            raise ArtifactError(
                f"{file}: the weights of the head ({name}) are not finite numbers. Restore the weights."
            )
    return head


def save_classifier(
    folder: str | os.PathLike[str],
    config: RobertaConfig,
    encoder: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    *,
    dropout: float,
    activation: str,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a RoBERTa or BERT with a classification head.

    Args:
        folder: Output folder. It is created if it is missing.
        config: Configuration of the encoder.
        encoder: State dict of the encoder.
        head: State dict of the ``ClassificationHead``.
        dropout: Dropout rate of the head.
        activation: Key of ``ACTIVATIONS``.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    external, settings = checkpoint.export_encoder(config, encoder)
    prefix, table = _PREFIXES[config.model_type], _HEADS["bert" if config.model_type == "bert" else "roberta"]
    weights = {prefix + key: tensor for key, tensor in external.items()}
    for name, tensor in head.items():
        layer, _, kind = name.partition(".")
        key = table[f"{layer}."] + kind
        weights[prefix + key if key.startswith("pooler.") else key] = tensor.contiguous()
    save_weights(folder / "model.safetensors", weights)
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "classifier_dropout": dropout}
    kind = {"architectures": [_ARCHITECTURES[config.model_type] + _CLASSIFIER]}
    write_json(folder / "config.json", kind | settings | labels | describe_activation(activation))


def describe_activation(activation: str) -> dict[str, Any]:
    """Return the entry of ``config.json`` from which sentence-transformers knows the activation."""
    return {"sentence_transformers": {"activation_fn": ACTIVATIONS[activation]}}
