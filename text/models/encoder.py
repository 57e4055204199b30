"""Base class of encoders: what saved models, training and retrieval use of an encoder.

Dimensions: N texts; L tokens; D embedding width.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

PROMPT_NAMES = {"question": ("query",), "passage": ("document", "passage", "corpus")}
"""Names of the prompts of each side in sentence-transformers. The first name that a model has is used."""


def find_prompt(prompts: Mapping[str, str], side: str) -> str:
    """Return the prompt of one side, "question" or "passage". Without a prompt, return ""."""
    return next((prompts[name] for name in PROMPT_NAMES[side] if name in prompts), "")


class TextEncoder(nn.Module, ABC):
    """An encoder from token ids to one embedding for each text.

    ``RobertaEncoder`` and ``TransformersEncoder`` are the two kinds of encoders that can be saved.
    """

    pools_prompt: bool = True
    """False if pooling leaves out the tokens of the prompt. ``forward`` then takes ``prompt_length``."""

    @abstractmethod
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, lengths: np.ndarray | None = None
    ) -> Tensor:
        """Return the embeddings of texts, (N, D) float.

        Args:
            input_ids: (N, L) int64, padded on the right.
            attention_mask: (N, L) bool. True marks a real token. By default, every token but the padding token is real.
            lengths: (N,) number of real tokens of each text, on the host (``TokenBatch.lengths``).
        """

    @property
    @abstractmethod
    def embedding_dim(self) -> int:
        """Embedding width D."""

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """Maximum tokens of a text in this architecture."""

    @property
    @abstractmethod
    def max_seq_length(self) -> int | None:
        """Maximum tokens of a text that the saved model states, if it states one."""

    @property
    @abstractmethod
    def prompts(self) -> Mapping[str, str]:
        """Texts to put before each question or passage, by their names in sentence-transformers."""

    @property
    @abstractmethod
    def is_normalized(self) -> bool:
        """True if embeddings have length 1."""

    @abstractmethod
    def set_texts(self, prompts: Mapping[str, str], max_seq_length: int | None) -> None:
        """Replace the prompts and the maximum tokens of a text."""

    @abstractmethod
    def set_activation_checkpointing(self, is_on: bool) -> None:
        """Choose whether the backward pass recomputes activations to save memory."""

    @abstractmethod
    def compile_layers(self) -> None:
        """Compile the layers once for all lengths.

        Raises:
            UsageError: The encoder cannot be compiled.
        """

    @abstractmethod
    def fit_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that a tokenizer fits this encoder, and use its padding token.

        Args:
            vocab_size: Highest id of the tokenizer, plus 1.
            pad_token_id: Id of the tokenizer's padding token.

        Raises:
            ValueError: The tokenizer has more ids than the encoder, or positions depend on another padding token.
        """

    @abstractmethod
    def save_pretrained(
        self, folder: str | os.PathLike[str], *, similarity: str | None = None, max_length: int | None = None
    ) -> None:
        """Write a folder that ``transformers`` and sentence-transformers read with the same embeddings.

        Args:
            folder: Output folder. It is created if it is missing.
            similarity: "dot" or "cosine". The similarity that sentence-transformers uses for the embeddings.
            max_length: Maximum tokens of a text in sentence-transformers. The default is the encoder's limit.

        Raises:
            OSError: The folder cannot be written.
        """

    @abstractmethod
    def copy_in_half(self, dtype: torch.dtype) -> TextEncoder:
        """Return a copy for inference that computes in bfloat16 or float16. Its embeddings are float32."""

    @abstractmethod
    def describe(self) -> str:
        """Return the architecture and the library that computes it, in a few words."""

    @property
    def max_length(self) -> int:
        """Maximum tokens of a text."""
        return min(self.num_positions, self.max_seq_length or self.num_positions)

    def find_prompt(self, side: str) -> str:
        """Return the prompt of one side, "question" or "passage". Without a prompt, return ""."""
        return find_prompt(self.prompts, side)

    def check_num_columns(self, input_ids: Tensor) -> None:
        """Check that the texts of a batch are not longer than ``max_length``.

        Raises:
            ValueError: A text is longer.
        """
        if input_ids.shape[1] > self.max_length:
            raise ValueError(f"texts have up to {input_ids.shape[1]} tokens, but the encoder takes {self.max_length}.")
