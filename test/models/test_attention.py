"""Attention over padded texts, compared with plain Python, and dropout. test_packed.py tests packed texts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from text.models.attention import PaddedTexts, dropout

LENGTHS = (7, 3, 1, 5)


def build_batch(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return queries, keys and values, (4, 7, 3, 2, 8), and the attention mask."""
    generator = torch.Generator().manual_seed(0)
    qkv = scale * torch.randn(len(LENGTHS), max(LENGTHS), 3, 2, 8, generator=generator)
    return qkv.to(dtype), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def compute_attention(qkv: Tensor, length: int, token: int) -> list[float]:
    """Return softmax(q k / sqrt(width)) v of one token, all heads concatenated. ``qkv`` is (L, 3, heads, width)."""
    outputs = []
    for head in range(qkv.shape[2]):
        query = qkv[token, 0, head].tolist()
        keys, values = (qkv[:length, part, head].tolist() for part in (1, 2))
        products = (sum(q * k for q, k in zip(query, key, strict=True)) for key in keys)
        weights = [math.exp(product / math.sqrt(len(query))) for product in products]
        for column in zip(*values, strict=True):
            outputs.append(sum(w * v for w, v in zip(weights, column, strict=True)) / sum(weights))
    return outputs


def test_padded_texts_equal_plain_python():
    qkv, mask = build_batch()
    seen = PaddedTexts(mask).attend(qkv, 0.0)
    for text, token in mask.nonzero().tolist():
        expected = compute_attention(qkv[text], LENGTHS[text], token)
        torch.testing.assert_close(seen[text, token], torch.tensor(expected))


@pytest.mark.parametrize("grad", [True, False])
def test_bfloat16_equals_float32_up_to_rounding(grad):
    qkv, mask = build_batch(torch.bfloat16)
    with torch.set_grad_enabled(grad):
        seen = PaddedTexts(mask).attend(qkv, 0.0)
    expected = PaddedTexts(mask).attend(qkv.float(), 0.0)
    assert seen.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: scores, weights and sums are each rounded by up to 2 ** -9.
    torch.testing.assert_close(seen[mask].float(), expected[mask], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_whose_exponentials_overflow_or_underflow(sign):
    """All scores are about 600 or about -600, so their exponentials are infinity or 0."""
    qkv, mask = build_batch(torch.bfloat16)
    qkv[:, :, 0], qkv[:, :, 1] = 15, sign * (15 + qkv[:, :, 1])
    with torch.no_grad():
        seen = PaddedTexts(mask).attend(qkv, 0.0)
    expected = PaddedTexts(mask).attend(qkv.requires_grad_(), 0.0)
    assert seen[mask].isfinite().all()
    torch.testing.assert_close(seen[mask], expected[mask])


def test_an_empty_batch_gives_an_empty_output() -> None:
    # Some ranks get no text from a short batch. Their gradients must exist and be empty.
    qkv = torch.zeros(0, 1, 3, 2, 8, requires_grad=True)
    attended = PaddedTexts(None).attend(qkv, 0.1)
    assert attended.shape == (0, 1, 16)
    [gradient] = torch.autograd.grad(attended.sum(), qkv)
    assert gradient.shape == qkv.shape


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(1_000_001,), (500, 2, 1000)])
def test_dropout_drops_its_share_and_keeps_the_mean(p, shape):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(shape), p, True)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 1 / (1 - p)]), rtol=1e-4, atol=0)
    # For a million values, five standard deviations are 0.0025.
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=0.0025)
    assert dropped.mean().item() == pytest.approx(1, abs=0.0025 / (1 - p))


def test_dropout_draws_are_independent():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(4, 100_000), 0.5, True) != 0).float()
    assert (torch.corrcoef(kept) - torch.eye(4)).abs().max() < 0.02
    assert abs(torch.corrcoef(torch.stack([kept[0, 1:], kept[0, :-1]]))[0, 1]) < 0.02


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_dropout_of_zero_or_in_evaluation_changes_nothing(p, training):
    values = torch.randn(10)
    assert dropout(values, p, training).equal(values)


def test_dropout_of_one_drops_everything():
    assert not dropout(torch.randn(10), 1.0, True).any()


def test_dropout_passes_gradients_of_kept_values_only():
    values = torch.randn(1000, requires_grad=True)
    kept = dropout(values, 0.25, True)
    kept.sum().backward()
    torch.testing.assert_close(values.grad, torch.where(kept != 0, 4 / 3, 0.0))
