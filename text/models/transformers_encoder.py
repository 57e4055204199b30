"""Encoder around a model of ``transformers``: any encoder or decoder of text, with pooling and further layers.

``transformers_models.py`` loads and saves the model, ``embedding_head.py`` pools its hidden states.

Dimensions: B texts; L tokens; H hidden size; D embedding width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from text.errors import ArtifactError, UsageError
from text.models import transformers_models
from text.models.chunks import check_lengths, check_mask, cut_by_length, no_autocast_cache
from text.models.embedding_head import Dense, EmbeddingHead, Normalize
from text.models.encoder import TextEncoder
from text.models.head_files import read_head, save_sentence_files
from text.models.sentence_files import (
    SETTINGS,
    read_max_seq_length,
    read_module_list,
    read_prompts,
    read_tokenizer_limit,
)
from text.models.shared_lookup import share_lookup
from text.models.transformers_tower import TransformersTower, copy_with_dtype

DEFAULT_MAX_LENGTH = 512
"""Maximum tokens of a text if neither the model nor its tokenizer states a limit, as in T5."""
_UNSET: Any = object()


class TransformersEncoder(TransformersTower, TextEncoder):
    """A model of ``transformers`` with pooling, as an encoder of a BiEncoder.

    The embedding of a text does not depend on its padding or on the other texts of the batch.

    Args:
        model: Model that returns the hidden states of the last layer, such as the result of ``AutoModel``.
        head: Pooling and the layers after it.
        prompts: Prompts by their names in sentence-transformers.
        max_seq_length: Maximum tokens of a text. None leaves the limit of the model.

    Raises:
        ValueError: A layer of the head takes another number of features than it gets.
    """

    def __init__(
        self,
        model: nn.Module,
        head: EmbeddingHead,
        *,
        prompts: Mapping[str, str] | None = None,
        max_seq_length: int | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.head = head
        self._prompts, self._max_seq_length = dict(prompts or {}), max_seq_length
        self._embedding_dim = head.count_outputs(self.hidden_size)
        self._num_positions = transformers_models.count_positions(model)
        self._call_options = transformers_models.choose_call_options(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        pooling: str | None = None,
        projection_dim: int | None = None,
        normalize: bool | None = None,
        dropout: float | None = None,
        max_seq_length: int | None = _UNSET,
    ) -> TransformersEncoder:
        """Load an encoder from a local folder of ``transformers`` or sentence-transformers. Nothing is downloaded.

        Weights are read from safetensors files only, and code in the folder is never executed.

        Args:
            path: The folder. Heads, such as a language model head, are ignored.
            pooling: Pooling that replaces the saved one. By default, a folder without one gets the last token for a
                decoder, the mean for T5, and the first token for other models.
            projection_dim: Width of a linear layer and a layer norm after pooling, with random weights.
            normalize: Scale embeddings to length 1. None keeps the saved setting.
            dropout: Rate that replaces all dropout rates of the model. None keeps them.
            max_seq_length: Maximum tokens of a text that replaces the saved limit. None removes it.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or the weights do not fit the configuration.
            UnsupportedModelError: The model or a setting is not supported.
            MissingPackageError: ``transformers`` is not installed.
        """
        folder = Path(path)
        transformer, head, prompts = folder, None, {}
        if (folder / "modules.json").exists():
            (_, transformer), *modules = read_module_list(folder)
            head, prompts = read_head(modules), read_prompts(folder / SETTINGS)
        model = transformers_models.load_model(transformer, dropout)
        limit = read_tokenizer_limit(folder) if head is None else read_max_seq_length(transformer)
        head = head or EmbeddingHead([transformers_models.choose_pooling(model)])
        try:
            encoder = cls(model, head, prompts=prompts)
        except ValueError as error:
            raise ArtifactError(f"{folder / 'modules.json'}: {error}") from None
        encoder._change_head(folder, pooling, projection_dim, normalize)
        encoder._max_seq_length = encoder._choose_limit(limit) if max_seq_length is _UNSET else max_seq_length
        return encoder

    def _choose_limit(self, stated: int | None) -> int | None:
        """Return the maximum tokens of a text that a folder states. A limit of the architecture becomes None."""
        if stated is None or stated >= self._num_positions:
            return None if transformers_models.has_position_limit(self.model) else DEFAULT_MAX_LENGTH
        return stated

    def _change_head(
        self, folder: Path, pooling: str | None, projection_dim: int | None, normalize: bool | None
    ) -> None:
        """Change pooling, projection and normalization as training asks for."""
        layers = list(self.head.layers)
        poolings = self.head.poolings if pooling is None else (pooling,)
        if projection_dim is not None and projection_dim != self.embedding_dim:
            if any(isinstance(layer, Dense) for layer in layers):
                raise UsageError(
                    f"--projection_dim is {projection_dim}, but {folder} already projects to {self.embedding_dim}. "
                    "Omit --projection_dim."
                )
            layers = [*_build_projection(self.hidden_size * len(poolings), projection_dim), *layers]
        if normalize is not None:
            layers = [layer for layer in layers if not isinstance(layer, Normalize)] if not normalize else layers
            layers += [Normalize()] if normalize and not self.head.is_normalized else []
        self.head = EmbeddingHead(poolings, layers, include_prompt=self.head.include_prompt)
        try:
            self._embedding_dim = self.head.count_outputs(self.hidden_size)
        except ValueError as error:
            raise UsageError(f"--pooling does not fit the model in {folder}: {error}") from None

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, similarity: str | None = None, max_length: int | None = None
    ) -> None:
        """Write a folder that ``from_pretrained``, ``transformers`` and sentence-transformers read.

        See ``TextEncoder.save_pretrained`` for the arguments. ``text.bundle.BiEncoderBundle`` also writes the
        tokenizer, which the other libraries need.
        """
        transformers_models.save_model(self.model, Path(folder))
        limit = max_length or self.max_length
        save_sentence_files(Path(folder), self.head, self.hidden_size, self.prompts, limit, similarity)

    def fit_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that a tokenizer fits this encoder. See ``TextEncoder.fit_tokenizer``."""
        self.check_tokenizer(vocab_size, pad_token_id)
        self._padding = pad_token_id

    @property
    def hidden_size(self) -> int:
        """Hidden size H of the model."""
        return self.model.config.hidden_size

    @property
    def embedding_dim(self) -> int:
        """Embedding width D."""
        return self._embedding_dim

    @property
    def num_positions(self) -> int:
        """Maximum tokens of a text that the model supports."""
        return self._num_positions

    @property
    def max_seq_length(self) -> int | None:
        """Maximum tokens of a text that the saved model states, if it states one."""
        return self._max_seq_length

    @property
    def prompts(self) -> Mapping[str, str]:
        """Texts to put before each question or passage, by their names in sentence-transformers."""
        return self._prompts

    @property
    def is_normalized(self) -> bool:
        """True if embeddings have length 1."""
        return self.head.is_normalized

    @property
    def pools_prompt(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """False if pooling leaves out the tokens of the prompt."""
        return self.head.include_prompt

    def set_texts(self, prompts: Mapping[str, str], max_seq_length: int | None) -> None:
        """Replace the prompts and the maximum tokens of a text."""
        self._prompts, self._max_seq_length = dict(prompts), max_seq_length

    def copy_in_half(self, dtype: torch.dtype) -> TransformersEncoder:
        """Return a copy for inference whose model has 16-bit weights. Pooling and the head stay in float32."""
        return copy_with_dtype(self, dtype)

    def describe(self) -> str:
        """Return the architecture and the library that computes it, in a few words."""
        name = type(self.model).__name__.removesuffix("Model")
        return f"{name} through transformers with {' and '.join(self.head.poolings)} pooling"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        lengths: np.ndarray | None = None,
        prompt_length: int = 0,
    ) -> Tensor:
        """Return the embeddings of texts.

        Args:
            input_ids: (B, L) int64. Without ``lengths``, they may be padded on either side.
            attention_mask: (B, L) bool. True marks a real token. By default, every token but the padding token is real.
            lengths: (B,) number of real tokens of each text, on the host, for texts that are padded on the right.
                Without it, the host waits for a GPU to count them (``TokenBatch.lengths``).
            prompt_length: Tokens of the prompt and the special tokens before it (``TokenBatch.prompt_length``).

        Returns:
            (B, D) float.

        Raises:
            ValueError: A text is longer than ``max_length``, or ``lengths`` do not fit the mask.
        """
        if attention_mask is None:
            attention_mask = self._find_tokens(input_ids)
        self.check_num_columns(input_ids)
        if lengths is None:
            input_ids, attention_mask = _pad_right(input_ids, attention_mask)
            counts = attention_mask.sum(dim=1).clamp(min=1).cpu().numpy()
        else:
            counts = check_lengths(lengths, attention_mask)
            if not input_ids.is_cuda:
                check_mask(attention_mask, counts)
        if not len(input_ids):  # Some ranks get no text from a short batch, but all ranks wait for their gradients.
            return self._embed(input_ids.new_zeros(1, 1), None, 0)[:0]
        if input_ids.is_cuda:  # A GPU needs large batches more than it minds padding.
            length = int(counts.max())
            return self._embed(input_ids[:, :length], _mark_first(attention_mask[:, :length]), prompt_length)
        return self._embed_in_chunks(input_ids, counts, prompt_length)

    def _embed_in_chunks(self, input_ids: Tensor, counts: np.ndarray, prompt_length: int) -> Tensor:
        """Return the embeddings of texts, (B, D), in chunks of similar lengths."""
        chunks = cut_by_length(counts.tolist())
        ids = [input_ids[rows, :length] for rows, length in chunks]
        masks = [_build_mask(counts[rows], length) for rows, length in chunks]
        with no_autocast_cache(), share_lookup(self.model.get_input_embeddings(), ids):
            embeddings = [self._embed(each, mask, prompt_length) for each, mask in zip(ids, masks, strict=True)]
        order = torch.tensor([row for rows, _ in chunks for row in rows], dtype=torch.int64)
        return torch.cat(embeddings)[order.argsort()]

    def _embed(self, input_ids: Tensor, attention_mask: Tensor | None, prompt_length: int) -> Tensor:
        """Return the embeddings of texts that are padded on the right, (B, D)."""
        mask = None if attention_mask is None else attention_mask.long()
        hidden = self.model(input_ids=input_ids, attention_mask=mask, **self._call_options)[0]
        return self.head(hidden, attention_mask, prompt_length)

    def _find_tokens(self, input_ids: Tensor) -> Tensor:
        padding = getattr(self, "_padding", getattr(self.model.config, "pad_token_id", None))
        if padding is None:
            return torch.ones_like(input_ids, dtype=torch.bool)
        return input_ids != padding


def _pad_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real tokens of each text to the left. Their order does not change."""
    order = (~attention_mask).to(torch.uint8).argsort(dim=1, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def _mark_first(attention_mask: Tensor) -> Tensor:
    """Return a mask in which a text without tokens counts as its first column."""
    return attention_mask | (torch.arange(attention_mask.shape[1], device=attention_mask.device) == 0)


def _build_mask(lengths: np.ndarray, length: int) -> Tensor | None:
    """Return the attention mask of texts with these lengths, (B, L) bool. None if there is no padding."""
    if (lengths == length).all():
        return None
    return torch.from_numpy(np.arange(length) < lengths[:, None])


def _build_projection(in_features: int, out_features: int) -> list[nn.Module]:
    """Return a linear layer and a layer norm with the initial weights of a RobertaEncoder's projection."""
    dense = Dense(in_features, out_features)
    nn.init.normal_(dense.linear.weight, std=0.02)
    nn.init.zeros_(dense.linear.bias)
    return [dense, nn.LayerNorm(out_features)]
