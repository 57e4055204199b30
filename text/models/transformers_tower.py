"""Shared parts of the bi-encoders and cross-encoders that ``transformers`` computes."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from text.errors import UsageError
from text.models import transformers_models

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TransformersTower:
    """Mixin for a module whose attribute ``model`` is a model of ``transformers``."""

    model: Any

    def describe(self) -> str:
        """Return the architecture and the library that computes it, in a few words."""
        return f"{type(self.model).__name__} through transformers"

    def set_activation_checkpointing(self, is_on: bool) -> None:
        """Choose whether the backward pass recomputes activations to save memory.

        Raises:
            UsageError: ``transformers`` has no activation checkpointing for this family.
        """
        if is_on and not transformers_models.turn_on_checkpointing(self.model):
            raise UsageError(f"--activation_checkpointing is not supported by {self.describe()}. Omit the flag.")

    def compile_layers(self) -> None:
        """Refuse to compile, because models of ``transformers`` choose their kernels by themselves.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"--compile is not supported by {self.describe()}. Omit the flag.")

    def check_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that the model has the entries and the padding token of a tokenizer.

        Raises:
            ValueError: The tokenizer has more entries, or another padding token.
        """
        known = self.model.get_input_embeddings().num_embeddings
        if vocab_size > known:
            raise ValueError(f"the tokenizer has {vocab_size} entries, but the encoder has {known}.")
        padding = transformers_models.find_position_padding(self.model)
        if padding not in (None, pad_token_id):
            raise ValueError(f"pad_token_id is {padding}, but the tokenizer's padding token has id {pad_token_id}.")


def copy_with_dtype(tower: ModuleT, dtype: torch.dtype | None) -> ModuleT:
    """Return a copy for inference. With a dtype, the weights of its ``model`` have this dtype.

    Buffers, such as rotary frequencies, keep their precision.
    """
    copied: Any = copy.deepcopy(tower).eval().requires_grad_(False)
    for parameter in () if dtype is None else copied.model.parameters():
        parameter.data = parameter.data.to(dtype)
    return copied
