"""Check of a model of ``transformers``: padding does not change its hidden states or scores.

Dimensions: L tokens; H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from text.errors import UnsupportedModelError, is_out_of_memory

_NUM_TOKENS, _NUM_PADDING = 6, 3
_LARGEST_CHANGE = 1e-3
"""Largest change of a hidden state by padding, relative to the largest value. Rounding changes about 1e-6."""


def check_padding(folder: Path, model: Any, options: Mapping[str, Any], *, is_classifier: bool = False) -> None:
    """Check that a model returns a hidden state for each token, and that padding on the right does not change it.

    A classifier returns one score for a text instead.

    Convolutions, Fourier transforms and some approximations of attention mix the padding into the other tokens. Such
    a text would get another embedding in each batch.

    Args:
        folder: Folder of the model, for error messages.
        model: The model, in evaluation mode.
        options: Further arguments with which the model is called.
        is_classifier: The model has a classification head with one label.

    Raises:
        UnsupportedModelError: The model cannot be called with token ids, or its hidden states depend on padding.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            alone, padded = _compute_states(model, options)
            shape = (1, 1) if is_classifier else (1, _NUM_TOKENS, model.config.hidden_size)
    except Exception as error:  # A model may raise errors of any kind.
        if is_out_of_memory(error):
            raise
        found = " ".join(str(error).split())[:300] or type(error).__name__
        raise UnsupportedModelError.at(folder, f"the model cannot embed token ids: {found.rstrip('.')}.") from None
    if alone.shape != shape:
        result = "score for each text" if is_classifier else "hidden state for each token"
        raise UnsupportedModelError.at(folder, f"the model does not return one {result}.")
    least = 1e-2 if is_classifier else 1e-6  # A score may be close to 0.
    change = (alone - padded[:, : alone.shape[1]]).abs().max() / alone.abs().max().clamp(min=least)
    if change > _LARGEST_CHANGE:
        kind = model.config.model_type
        what = ("scores", "they") if is_classifier else ("hidden states", "embeddings")
        reason = f"padding changes the {what[0]} of a {kind}, so that {what[1]} would depend on the batch."
        raise UnsupportedModelError.at(folder, reason)


def _compute_states(model: Any, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the hidden states of a text alone, (1, L, H), and with padding."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    num_ids = model.get_input_embeddings().num_embeddings
    ids = [i for i in range(num_ids) if i != padding][:_NUM_TOKENS]
    ids = [ids[i % len(ids)] for i in range(_NUM_TOKENS)]
    texts = torch.tensor([ids]), torch.tensor([ids + [padding] * _NUM_PADDING])
    mask = torch.arange(_NUM_TOKENS + _NUM_PADDING)[None] < _NUM_TOKENS
    results = [model(input_ids=each, attention_mask=mask[:, : each.shape[1]].long(), **options)[0] for each in texts]
    return results[0], results[1]
