"""RoBERTa encoder (arXiv:1907.11692): from token ids to one embedding for each text.

The transformer has the architecture of BERT (arXiv:1810.04805), with post-layer-norm and learned positions. BERT
weights load too, because only the position of the first token differs. The encoder does not depend on retrieval and
can also be the base of a classifier.

Dimensions: B texts; L tokens; T tokens of all texts without padding; H hidden size; D embedding width.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as checkpoint_activations

from text.errors import ArtifactError
from text.models import checkpoint
from text.models.attention import PackedTexts, PaddedTexts, dropout, pack_texts
from text.models.chunks import check_lengths, check_mask, cut_by_length, get_lengths, no_autocast_cache
from text.models.encoder import TextEncoder
from text.models.linear import Linear
from text.models.roberta_config import RobertaConfig, RobertaOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


class RobertaEncoder(TextEncoder):
    """A RoBERTa, XLM-RoBERTa or BERT encoder with pooling.

    The embedding of a text does not depend on its padding or on the other texts of the batch.

    Args:
        config: Sizes and options. As in BERT, initial weights are normal with standard deviation 0.02. They come from
            the global random state of PyTorch.

    >>> encoder = roberta_tiny(vocab_size=100).eval()
    >>> encoder(torch.tensor([[0, 7, 9, 2]])).shape
    torch.Size([1, 128])
    """

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.activation_checkpointing = False
        """True recomputes activations in the backward pass to save memory."""
        self.layer_dtype: torch.dtype | None = None
        """Dtype of the layers if it differs from the dtype of the embeddings (``to_bfloat16``)."""
        self.projection, self.projection_norm = None, None
        if config.projection_dim is not None:
            self.projection = nn.Linear(config.hidden_size, config.projection_dim)
            if config.projection_norm:
                self.projection_norm = nn.LayerNorm(config.projection_dim)
        self.apply(_initialize)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **overrides: Unpack[RobertaOptions]) -> RobertaEncoder:
        """Load an encoder from local files. Nothing is downloaded.

        Args:
            path: A folder that ``save_pretrained`` wrote; a Hugging Face folder of RoBERTa, XLM-RoBERTa, BERT or DPR; a
                folder of sentence-transformers; or a file with the state dict of torchtext's ``RobertaModel``. Heads,
                such as a language model head, are ignored.
            overrides: Fields of ``RobertaConfig`` that replace the saved values, such as ``hidden_dropout_prob``.
                ``projection_dim`` adds a projection with random weights if the saved model has none.

        Raises:
            FileNotFoundError: A file is missing.
            ArtifactError: A file is damaged, or a weight is missing, unknown or has another shape.
            UnsupportedModelError: The model or a setting is not supported.
        """
        return cls.from_saved(checkpoint.read_encoder(path, overrides.get("num_attention_heads")), **overrides)

    @classmethod
    def from_saved(cls, saved: checkpoint.SavedEncoder, **overrides: Unpack[RobertaOptions]) -> RobertaEncoder:
        """Build an encoder from a saved one that ``text.models.checkpoint`` has read. See ``from_pretrained``."""
        try:
            config = RobertaConfig(**saved.fields)
        except ValueError as error:
            raise ArtifactError(f"{saved.fields_path}: {error}") from None
        checkpoint.check_size(saved, config)
        encoder = cls(replace(config, **overrides))
        checkpoint.fill_encoder(encoder, saved, new=() if config.projection_dim else ("projection",))
        return encoder

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, similarity: str | None = None, max_length: int | None = None
    ) -> None:
        """Write a folder that ``from_pretrained``, ``transformers`` and ``sentence-transformers`` read.

        ``text.bundle.BiEncoderBundle`` also writes the tokenizer, which the other two libraries need. The encoder has
        no token types: the first token type of a BERT is part of its position embeddings.

        Args:
            folder: Output folder. It is created if it is missing.
            similarity: "dot" or "cosine". The similarity that ``sentence-transformers`` uses for the embeddings. With
                None it uses cosine similarity.
            max_length: Maximum tokens of a text in ``sentence-transformers``. The default is the encoder's limit.

        Raises:
            OSError: The folder cannot be written.
        """
        checkpoint.save_encoder(self, self.config, max_length or self.max_length, folder, similarity)

    def fit_tokenizer(self, vocab_size: int, pad_token_id: int) -> None:
        """Check that a tokenizer fits this encoder, and use its padding token.

        The positions of a RoBERTa start after the id of its padding token, so another padding token would shift them.
        In a BERT, the padding token only determines which embedding is not trained.

        Args:
            vocab_size: Highest id of the tokenizer, plus 1.
            pad_token_id: Id of the tokenizer's padding token.

        Raises:
            ValueError: The tokenizer has more ids than the encoder, or a RoBERTa has another padding token.
        """
        if vocab_size > self.config.vocab_size:
            raise ValueError(f"the tokenizer has {vocab_size} entries, but the encoder has {self.config.vocab_size}.")
        if pad_token_id == self.config.pad_token_id:
            return
        if self.config.model_type != "bert":
            known = self.config.pad_token_id
            raise ValueError(f"pad_token_id is {known}, but the tokenizer's padding token has id {pad_token_id}.")
        self.config = replace(self.config, pad_token_id=pad_token_id)
        self.embeddings.word.padding_idx = pad_token_id

    @property
    def embedding_dim(self) -> int:
        """Embedding width D."""
        return self.config.projection_dim or self.config.hidden_size

    @property
    def num_positions(self) -> int:
        """Maximum tokens of a text that the position table has rows for."""
        return self.config.max_position_embeddings - self.config.first_position

    @property
    def max_seq_length(self) -> int | None:
        """Maximum tokens of a text that the configuration states, if it states one."""
        return self.config.max_seq_length

    @property
    def prompts(self) -> Mapping[str, str]:
        """Texts to put before each question or passage, by their names in sentence-transformers."""
        return self.config.prompts

    @property
    def is_normalized(self) -> bool:
        """True if embeddings have length 1."""
        return self.config.normalize

    def set_texts(self, prompts: Mapping[str, str], max_seq_length: int | None) -> None:
        """Replace the prompts and the maximum tokens of a text."""
        self.config = replace(self.config, prompts=prompts, max_seq_length=max_seq_length)

    def set_activation_checkpointing(self, is_on: bool) -> None:
        """Choose whether the backward pass recomputes activations to save memory."""
        self.activation_checkpointing = is_on

    def compile_layers(self) -> None:
        """Compile the layers once for all lengths."""
        for layer in self.layers:
            layer.compile(dynamic=True)

    def copy_in_half(self, dtype: torch.dtype) -> RobertaEncoder:
        """Return a copy for inference whose linear layers and activations have a 16-bit dtype."""
        half = copy.deepcopy(self).eval().requires_grad_(False)
        for module in half.layers.modules():
            if isinstance(module, Linear):
                module.to(dtype)
        half.layer_dtype = dtype
        return half

    def describe(self) -> str:
        """Return the architecture and the library that computes it, in a few words."""
        return f"RobertaEncoder ({self.config.model_type}) with {self.config.pooling} pooling"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        lengths: np.ndarray | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings of texts.

        Args:
            input_ids: (B, L) int64, padded on the right.
            attention_mask: (B, L) bool. True marks a real token. By default, every token but the padding token is real.
            lengths: (B,) number of real tokens of each text, on the host. Without it, the host waits for a GPU to count
                them (``TokenBatch.lengths``). Tensors and lists are accepted too.
            token_types: (B, L) int64. Segment of each token (``TokenBatch.token_types``). An encoder without a token
                type table (``RobertaConfig.num_token_types``) refuses types. By default, all tokens have type 0.

        Returns:
            (B, D) float.

        Raises:
            ValueError: A text is longer than ``max_length``, or ``lengths`` do not fit the mask.
        """
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        self.check_num_columns(input_ids)
        lengths = None if lengths is None else check_lengths(lengths, attention_mask)
        if input_ids.is_cuda:
            texts = pack_texts(attention_mask, lengths)
            tokens = self._compute_packed_states(texts, input_ids, attention_mask, token_types)
            pool = texts.pool_first if self.config.pooling == "first" else texts.pool_mean
            return self._project(pool(tokens))
        if lengths is not None:
            check_mask(attention_mask, lengths)
        chunks = cut_by_length(get_lengths(attention_mask) if lengths is None else lengths.tolist()) or [([], 1)]
        # One look-up serves all chunks, because the gradient of each look-up is as large as the embedding table.
        ids = [input_ids[rows, :length] for rows, length in chunks]
        types = None if token_types is None else [token_types[rows, :length].flatten() for rows, length in chunks]
        words = self.embeddings.look_up(
            torch.cat([each.flatten() for each in ids]), None if types is None else torch.cat(types)
        ).split([each.numel() for each in ids])
        with no_autocast_cache():
            embeddings = [
                self._embed(looked_up.unflatten(0, each.shape), each, attention_mask[rows, :length])
                for looked_up, each, (rows, length) in zip(words, ids, chunks, strict=True)
            ]
        order = torch.tensor([row for rows, _ in chunks for row in rows], dtype=torch.int64)
        return torch.cat(embeddings)[order.argsort()]

    def compute_hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the output of the last layer for every token. The values of padding are meaningless.

        Args:
            input_ids: (B, L) int64, padded on the right.
            attention_mask: (B, L) bool. True marks a real token.

        Returns:
            (B, L, H) float.

        Raises:
            ValueError: A text is longer than ``max_length``.
        """
        self.check_num_columns(input_ids)
        if input_ids.is_cuda:
            texts = pack_texts(attention_mask)
            return texts.unpack(self._compute_packed_states(texts, input_ids, attention_mask))
        return self._compute_padded_states(self.embeddings.look_up(input_ids), input_ids, attention_mask)

    def _compute_padded_states(self, words: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the output of the last layer, (B, L, H), from word embeddings."""
        hidden = self.embeddings(words, self.embeddings.find_positions(input_ids, attention_mask))
        return self._apply_layers(hidden, PaddedTexts(None if attention_mask.all() else attention_mask))

    def _compute_packed_states(
        self, texts: PackedTexts, input_ids: Tensor, attention_mask: Tensor, token_types: Tensor | None = None
    ) -> Tensor:
        """Return the output of the last layer for the T tokens of all texts, (T, H)."""
        positions = texts.pack(self.embeddings.find_positions(input_ids, attention_mask))
        types = None if token_types is None else texts.pack(token_types)
        hidden = self.embeddings(self.embeddings.look_up(texts.pack(input_ids), types), positions)
        return self._apply_layers(hidden, texts)

    def _apply_layers(self, hidden: Tensor, texts: PaddedTexts | PackedTexts) -> Tensor:
        """Apply all layers to hidden states, (..., H)."""
        hidden = hidden if self.layer_dtype is None else hidden.to(self.layer_dtype)
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                hidden = checkpoint_activations(layer, hidden, texts, use_reentrant=False)
            else:
                hidden = layer(hidden, texts)
        return hidden

    def _embed(self, words: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings of texts, (B, D), from word embeddings, (B, L, H)."""
        hidden = self._compute_padded_states(words, input_ids, attention_mask)
        if self.config.pooling == "first":
            return self._project(hidden[:, 0])
        weights = attention_mask[:, :, None].to(hidden.dtype)
        return self._project((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))

    def _project(self, pooled: Tensor) -> Tensor:
        """Return the embeddings of texts: (B, H) to (B, D)."""
        pooled = pooled if self.layer_dtype is None else pooled.float()
        if self.projection is not None:
            pooled = self.projection(pooled)
        if self.projection_norm is not None:
            pooled = self.projection_norm(pooled)
        return F.normalize(pooled, dim=-1) if self.config.normalize else pooled


class _Embeddings(nn.Module):
    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        self.first_position = config.first_position
        self.skips_padding_token = config.model_type != "bert"
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.num_token_types, config.hidden_size) if config.num_token_types else None
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = _Dropout(config.hidden_dropout_prob)

    def look_up(self, input_ids: Tensor, token_types: Tensor | None = None) -> Tensor:
        """Return the word embedding of each token, (..., H), plus the embedding of its type if there is a table."""
        words = self.word(input_ids)
        if self.token_type is None:
            if token_types is not None:
                raise ValueError("the encoder has no token types. Omit token_types.")
            return words
        return words + self.token_type(torch.zeros_like(input_ids) if token_types is None else token_types)

    def find_positions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the position of each token, (B, L) int64."""
        # The position of a token is its number among the real tokens of the text, not its column.
        # A text can contain the padding token itself, as "<pad>". RoBERTa reserves a position for that token.
        counted = attention_mask
        if self.skips_padding_token:
            counted = attention_mask & (input_ids != self.first_position - 1)
        positions = (counted.cumsum(dim=1) - 1 + self.first_position) * attention_mask
        return positions.masked_fill(attention_mask & ~counted, self.first_position - 1)

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.norm(words + self.position(positions)))


class _Layer(nn.Module):
    """A transformer layer: self-attention and a feed-forward network, each with a residual and a layer norm."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        self.attention = _SelfAttention(config)
        self.attention_norm = _LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = nn.Sequential(
            Linear(config.hidden_size, config.intermediate_size, gelu=True),
            Linear(config.intermediate_size, config.hidden_size),
        )
        self.feed_forward_norm = _LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = _Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, texts: PaddedTexts | PackedTexts) -> Tensor:
        hidden = self.attention_norm(hidden + self.dropout(self.attention(hidden, texts)))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))


class _SelfAttention(nn.Module):
    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, texts: PaddedTexts | PackedTexts) -> Tensor:
        qkv = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1))  # (..., 3, heads, H / heads)
        return self.output(texts.attend(qkv, self.dropout if self.training else 0.0))


class _LayerNorm(nn.LayerNorm):
    """A layer norm for bfloat16 inputs and float32 weights (``to_bfloat16``), for which CUDA has no kernel."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        if input.dtype == self.weight.dtype or input.device.type == "cpu":
            return super().forward(input)
        return super().forward(input.to(self.weight.dtype)).to(input.dtype)


class _Dropout(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        return dropout(input, self.p, self.training)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()


def roberta_tiny(**options: Unpack[RobertaOptions]) -> RobertaEncoder:
    """Return an encoder with 2 layers, 128 wide, and random weights.

    The sizes of tiny, mini and small come from arXiv:1908.08962.

    Args:
        options: Fields of ``RobertaConfig``.
    """
    return _build_encoder(options, num_hidden_layers=2, hidden_size=128, num_attention_heads=2)


def roberta_mini(**options: Unpack[RobertaOptions]) -> RobertaEncoder:
    """Return an encoder with 4 layers, 256 wide, and random weights. Options are fields of ``RobertaConfig``."""
    return _build_encoder(options, num_hidden_layers=4, hidden_size=256, num_attention_heads=4)


def roberta_small(**options: Unpack[RobertaOptions]) -> RobertaEncoder:
    """Return an encoder with 4 layers, 512 wide, and random weights. Options are fields of ``RobertaConfig``."""
    return _build_encoder(options, num_hidden_layers=4, hidden_size=512, num_attention_heads=8)


def roberta_base(**options: Unpack[RobertaOptions]) -> RobertaEncoder:
    """Return an encoder with 12 layers, 768 wide, and random weights (arXiv:1907.11692). See ``roberta_tiny``."""
    return _build_encoder(options, num_hidden_layers=12, hidden_size=768, num_attention_heads=12)


def roberta_large(**options: Unpack[RobertaOptions]) -> RobertaEncoder:
    """Return an encoder with 24 layers, 1024 wide, and random weights (arXiv:1907.11692). See ``roberta_tiny``."""
    return _build_encoder(options, num_hidden_layers=24, hidden_size=1024, num_attention_heads=16)


def _build_encoder(options: RobertaOptions, **sizes: Any) -> RobertaEncoder:
    feed_forward = {"intermediate_size": 4 * sizes["hidden_size"]}
    return RobertaEncoder(RobertaConfig(**{**feed_forward, **sizes, **options}))
