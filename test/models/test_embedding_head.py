"""Pooling and the layers after it, by hand and against plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from text.models.embedding_head import POOLINGS, Dense, EmbeddingHead, Normalize

HIDDEN = torch.tensor([[[1.0], [3.0], [8.0], [99.0]], [[5.0], [99.0], [99.0], [99.0]]])
MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("first", [1, 5]),
        ("last", [8, 5]),
        ("max", [8, 5]),
        ("mean", [4, 5]),
        ("mean_sqrt_len", [12 / math.sqrt(3), 5]),
        ("weightedmean", [(1 + 2 * 3 + 3 * 8) / 6, 5]),
    ],
)
def test_poolings_by_hand(pooling: str, expected: list[float]) -> None:
    head = EmbeddingHead([pooling])
    torch.testing.assert_close(head(HIDDEN, MASK)[:, 0], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(head(HIDDEN[:1, :3], None), head(HIDDEN, MASK)[:1])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("first", [3, 5]),  # The second text has no token after the prompt, so its prompt counts.
        ("last", [8, 5]),
        ("max", [8, 5]),
        ("mean", [5.5, 5]),
        ("mean_sqrt_len", [11 / math.sqrt(2), 5]),
        ("weightedmean", [(2 * 3 + 3 * 8) / 5, 5]),
    ],
)
def test_poolings_without_the_prompt_by_hand(pooling: str, expected: list[float]) -> None:
    head = EmbeddingHead([pooling], include_prompt=False)
    torch.testing.assert_close(head(HIDDEN, MASK, prompt_length=1)[:, 0], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(head(HIDDEN, MASK), EmbeddingHead([pooling])(HIDDEN, MASK, prompt_length=1))


def test_several_poolings_and_layers_run_in_their_order() -> None:
    dense = Dense(2, 1, "ReLU")
    nn.init.ones_(dense.linear.weight)
    nn.init.constant_(dense.linear.bias, -10.0)
    head = EmbeddingHead(["last", "mean"], [dense])
    torch.testing.assert_close(head(HIDDEN, MASK), torch.tensor([[2.0], [0.0]]))  # 8 + 4 - 10; 5 + 5 - 10
    assert head.count_outputs(1) == 1 and not head.is_normalized
    assert EmbeddingHead(["last"], [dense, Normalize()]).is_normalized


def test_a_layer_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="Dense takes 3 features, but gets 2"):
        EmbeddingHead(["mean"], [Dense(3, 1)]).count_outputs(2)
    with pytest.raises(ValueError, match="LayerNorm takes 3 features, but gets 4"):
        EmbeddingHead(["mean", "max"], [nn.LayerNorm(3)]).count_outputs(2)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_pooled_in_float32(pooling: str) -> None:
    head, hidden = EmbeddingHead([pooling], [Dense(1, 1)]), HIDDEN.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(hidden, MASK)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head(HIDDEN, MASK))
