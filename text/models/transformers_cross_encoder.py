"""Cross-encoders of any family that ``transformers`` has a classifier for (AutoModelForSequenceClassification).

Dimensions: N pairs; L tokens.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from text.artifacts import read_json, write_json
from text.errors import UnsupportedModelError, UsageError, explain_missing
from text.models import transformers_models
from text.models.chunks import check_lengths, check_mask, cut_by_length, no_autocast_cache
from text.models.cross_encoder import CrossEncoder
from text.models.cross_encoder_files import describe_activation, read_classifier_settings
from text.models.shared_lookup import share_lookup
from text.models.transformers_encoder import DEFAULT_MAX_LENGTH
from text.models.transformers_tower import TransformersTower, copy_with_dtype
from text.records import TokenBatch

_HEAD_DROPOUTS = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "pooler_dropout")
"""Dropout rates of heads in ``config.json``, by their names in the families."""
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersCrossEncoder(TransformersTower, CrossEncoder):
    """A classifier of ``transformers`` with one label.

    Args:
        model: The classifier.
        activation: See ``CrossEncoder.activation``.
    """

    def __init__(self, model: nn.Module, *, activation: str = "identity") -> None:
        super().__init__()
        self.model: Any = model
        self.activation = activation
        self._options = transformers_models.choose_call_options(model)
        self._takes_types = "token_type_ids" in inspect.signature(model.forward).parameters

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, dropout: float | None = None
    ) -> TransformersCrossEncoder:
        """Load a cross-encoder from a local folder. Nothing is downloaded, and code in the folder is never executed.

        An encoder without a head gets a new head, with weights from the global random state of PyTorch. Then
        ``is_new_head`` is true.

        Args:
            folder: A folder of ``transformers`` or sentence-transformers with safetensors files.
            dropout: Dropout rate that replaces all saved rates. None keeps them.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or the weights do not fit the configuration.
            UnsupportedModelError: The model or a setting is not supported.
            MissingPackageError: ``transformers`` is not installed.
        """
        settings = read_classifier_settings(folder)
        model = cls(_load(settings.folder, dropout, has_head=settings.has_head), activation=settings.activation)
        model.is_new_head = not settings.has_head
        return model

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Return the scores of N pairs, (N,) float32. See ``CrossEncoder.forward``."""
        ids, num_columns = tokens.input_ids, tokens.input_ids.shape[1]
        if num_columns > self.num_positions:
            raise ValueError(f"pairs have up to {num_columns} tokens, but the model takes {self.num_positions}.")
        counts = check_lengths(tokens.lengths, tokens.attention_mask)
        if not len(ids):  # Some ranks get no pair from a short batch, but all ranks wait for their gradients.
            return self._score(ids.new_zeros(1, 1), ids.new_ones(1, 1), None)[:0]
        if ids.is_cuda:  # A GPU needs large batches more than it minds padding.
            length = int(counts.max())
            types = None if tokens.token_types is None else tokens.token_types[:, :length]
            return self._score(ids[:, :length], tokens.attention_mask[:, :length].long(), types)
        check_mask(tokens.attention_mask, counts)
        return self._score_in_chunks(tokens, counts)

    def _score_in_chunks(self, tokens: TokenBatch, counts: np.ndarray) -> Tensor:
        """Return the scores of pairs, (N,), in chunks of similar lengths."""
        chunks = cut_by_length(counts.tolist())
        ids, masks = ([field[rows, :length] for rows, length in chunks] for field in tokens[:2])
        types = [None if tokens.token_types is None else tokens.token_types[rows, :length] for rows, length in chunks]
        with no_autocast_cache(), share_lookup(self.model.get_input_embeddings(), ids):
            scores = [self._score(*chunk) for chunk in zip(ids, (mask.long() for mask in masks), types, strict=True)]
        order = torch.tensor([row for rows, _ in chunks for row in rows], dtype=torch.int64)
        return torch.cat(scores)[order.argsort()]

    def _score(self, input_ids: Tensor, attention_mask: Tensor, token_types: Tensor | None) -> Tensor:
        options = dict(self._options)
        if token_types is not None and self._takes_types:
            options["token_type_ids"] = token_types
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **options).logits[:, 0].float()

    @property
    def num_positions(self) -> int:
        """Maximum tokens of a pair that the model supports."""
        has_limit = transformers_models.has_position_limit(self.model)
        return transformers_models.count_positions(self.model) if has_limit else DEFAULT_MAX_LENGTH

    @property
    def num_token_types(self) -> int:
        """Number of token types of the model. 0 if it takes none."""
        return int(getattr(self.model.config, "type_vocab_size", 0) or 0) if self._takes_types else 0

    def fit_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that a tokenizer fits the model."""
        self.check_tokenizer(vocab_size, pad_token_id)
        known = getattr(self.model.config, "pad_token_id", None)
        if hasattr(self.model, "score") and known != pad_token_id:  # A decoder finds the last token by its padding.
            raise ValueError(f"pad_token_id is {known}, but the tokenizer's padding token has id {pad_token_id}.")

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``. See ``CrossEncoder.save_pretrained``."""
        folder = Path(folder)
        transformers_models.save_model(self.model, folder)
        settings = read_json(folder / "config.json", dict[str, Any])
        settings.pop("sbert_ce_default_activation_function", None)
        write_json(folder / "config.json", settings | describe_activation(self.activation))

    def copy_for_inference(self, precision: str) -> TransformersCrossEncoder:
        """Return a copy whose weights have another precision."""
        if precision != "float32" and precision not in _HALVES:
            raise UsageError(f'precision "{precision}" is not supported by {self.describe()}. Use float32 or bfloat16.')
        return copy_with_dtype(self, _HALVES.get(precision))


def _load(folder: Path, dropout: float | None, *, has_head: bool) -> nn.Module:
    """Load the classifier of a folder in float32, with one label. Without a head, it gets a new one."""

    def list_problems(model: Any, info: Mapping[str, Any]) -> dict[str, list[str]]:
        prefix = f"{model.base_model_prefix}."
        # Without a head, only the weights of the head may be missing.
        missing = [key for key in info["missing_keys"] if has_head or (key.startswith(prefix) and "pooler" not in key)]
        return {"is missing": missing}

    return transformers_models.read_model(
        folder,
        dropout,
        find_class=_find_class,
        list_problems=list_problems,
        head_dropouts=_HEAD_DROPOUTS,
        is_classifier=True,
    )


def _find_class(folder: Path, architecture: Any) -> Any:
    """Return the class of the classifier of a family of encoders."""
    with explain_missing("transformers"):
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    found: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(architecture), None)
    if not isinstance(found, type) or found.main_input_name != "input_ids" or architecture.is_encoder_decoder:
        reason = f"model_type is {architecture.model_type}. transformers has no classifier of pairs for it."
        raise UnsupportedModelError.at(folder / "config.json", reason)
    return found
