"""From the hidden states of a transformer to one embedding for each text: pooling, then linear layers and norms.

The modules are those of sentence-transformers. They compute in float32, also when the transformer computes in 16 bits.

Dimensions: B texts; L tokens; H hidden size; I input features; O output features; D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POOLINGS = ("first", "max", "mean", "mean_sqrt_len", "weightedmean", "last")
"""Names of the poolings, in the order in which older releases of sentence-transformers join several of them."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
}
"""Activation functions of a Dense module, by the names of their classes in PyTorch."""


class Dense(nn.Module):
    """A linear layer with an activation function.

    Args:
        in_features: Input features I.
        out_features: Output features O.
        activation: A name in ``ACTIVATIONS``.
        bias: Add a bias.
    """

    def __init__(self, in_features: int, out_features: int, activation: str = "Identity", bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]()

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the outputs, (B, I) to (B, O)."""
        return self.activation(self.linear(pooled))


class Normalize(nn.Module):
    """Scale embeddings to length 1."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Return (B, D) with rows of length 1."""
        return F.normalize(pooled, dim=-1)


class EmbeddingHead(nn.Module):
    """Pooling and the modules after it.

    Args:
        poolings: One or more names in ``POOLINGS``. The results of several poolings are concatenated.
        layers: Modules after pooling: ``Dense``, ``torch.nn.LayerNorm`` and ``Normalize``, in any order.
        include_prompt: Pool the tokens of the prompt, too.

    >>> head = EmbeddingHead(["mean"], [Normalize()])
    >>> head(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([[True, False]]))
    tensor([[0.6000, 0.8000]])
    """

    def __init__(
        self, poolings: Sequence[str], layers: Iterable[nn.Module] = (), *, include_prompt: bool = True
    ) -> None:
        super().__init__()
        self.poolings: tuple[str, ...] = tuple(poolings)
        self.layers = nn.ModuleList(layers)
        self.include_prompt = include_prompt

    def count_outputs(self, hidden_size: int) -> int:
        """Return the embedding width D of a transformer with this hidden size.

        Raises:
            ValueError: A module takes another number of features than the module before it returns.
        """
        width = hidden_size * len(self.poolings)
        for layer in self.layers:
            takes = width
            if isinstance(layer, Dense):
                takes = layer.linear.in_features
            elif isinstance(layer, nn.LayerNorm):
                takes = layer.normalized_shape[0]
            if takes != width:
                raise ValueError(f"{type(layer).__name__} takes {takes} features, but gets {width}.")
            width = layer.linear.out_features if isinstance(layer, Dense) else width
        return width

    @property
    def is_normalized(self) -> bool:
        """True if embeddings have length 1."""
        return len(self.layers) > 0 and isinstance(self.layers[-1], Normalize)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None, prompt_length: int = 0) -> Tensor:
        """Return the embeddings of texts, (B, D).

        Args:
            hidden: (B, L, H) hidden states of the last layer.
            attention_mask: (B, L) bool, padded on the right. True marks a real token. None if there is no padding.
            prompt_length: Number of tokens of the prompt, with the special tokens before it.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            mask = self._choose_tokens(hidden, attention_mask, prompt_length)
            pooled = torch.cat([_pool(hidden, mask, pooling) for pooling in self.poolings], dim=-1)
            for layer in self.layers:  # Training in pure 16 bits also converts these weights.
                weight = next(layer.parameters(), pooled)
                pooled = layer(pooled.to(weight.dtype))
        return pooled

    def _choose_tokens(self, hidden: Tensor, attention_mask: Tensor | None, prompt_length: int) -> Tensor | None:
        """Return the tokens to pool, (B, L) bool. None means all tokens."""
        if self.include_prompt or not prompt_length:
            return attention_mask
        mask = attention_mask if attention_mask is not None else hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        others = mask & (torch.arange(hidden.shape[1], device=hidden.device) >= prompt_length)
        return torch.where(others.any(dim=1, keepdim=True), others, mask)  # A text may have no other tokens.


def _pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Return one vector for each text, (B, L, H) to (B, H)."""
    if mask is None:
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    if pooling in ("first", "last"):
        index = (mask * places).amax(dim=1) - 1 if pooling == "last" else mask.int().argmax(dim=1)
        return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
    if pooling == "max":
        return hidden.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
    weights = (mask * places if pooling == "weightedmean" else mask).to(hidden.dtype)  # (B, L)
    sums, totals = (hidden * weights[:, :, None]).sum(dim=1), weights.sum(dim=1, keepdim=True)
    return sums / (totals.sqrt() if pooling == "mean_sqrt_len" else totals)
