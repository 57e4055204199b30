"""Embedding in chunks gives bitwise equal values and gradients, also with dropout."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from test.helpers import random_ids
from text.models import RobertaEncoder, roberta_tiny
from text.models.chunks import cut_by_length, get_lengths, take_rows
from text.records import TokenBatch
from text.training import grad_cache
from text.training.grad_cache import embed_in_chunks

LENGTHS = (7, 3, 12, 12, 1, 9, 30)
CHUNK_TOKENS = 24


def tokens(lengths: tuple[int, ...] = LENGTHS) -> TokenBatch:
    ids, mask = random_ids(*lengths, vocab_size=50)
    return TokenBatch(ids, mask, mask[:, 0], mask[:, 0], mask.sum(dim=1).numpy())


def encoder(dropout: float) -> RobertaEncoder:
    torch.manual_seed(0)
    made = roberta_tiny(
        vocab_size=50, pooling="mean", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    return made.train()


def gradients(model: RobertaEncoder, embeddings: Tensor) -> list[Tensor]:
    weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
    loss = (embeddings * weights).sum() ** 2
    return list(torch.autograd.grad(loss, list(model.parameters())))


def embed_without_checkpoints(model: RobertaEncoder, batch: TokenBatch) -> Tensor:
    """Embed the same chunks, but keep all activations."""
    chunks = cut_by_length(get_lengths(batch.attention_mask), CHUNK_TOKENS)
    embeddings = torch.zeros(len(LENGTHS), model.embedding_dim)
    for rows, length in chunks:
        chunk = model(batch.input_ids[rows, :length], batch.attention_mask[rows, :length])
        embeddings = embeddings.index_put((torch.tensor(rows),), chunk)
    return embeddings


def embed_both_ways(dropout: float) -> list[list[Tensor]]:
    results = []
    for embed in (functools.partial(embed_in_chunks, chunk_tokens=CHUNK_TOKENS), embed_without_checkpoints):
        model = encoder(dropout)
        torch.manual_seed(7)
        embeddings = embed(model, tokens())
        results.append([embeddings.detach(), *gradients(model, embeddings), torch.get_rng_state()])
    return results


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_chunks_are_bitwise_equal_to_plain_embedding_with_dropout(dropout: float) -> None:
    for found, expected in zip(*embed_both_ways(dropout), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_other_dropout_masks_in_the_backward_pass_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rng_state = functools.partial(grad_cache.checkpoint, preserve_rng_state=False)
    monkeypatch.setattr(grad_cache, "checkpoint", without_rng_state)
    [in_chunks, plain] = embed_both_ways(0.3)
    assert in_chunks[0].equal(plain[0])
    assert not in_chunks[1].equal(plain[1])


def test_chunks_have_at_most_chunk_tokens() -> None:
    chunks = cut_by_length(LENGTHS, CHUNK_TOKENS)
    assert sorted(row for rows, _ in chunks for row in rows) == list(range(len(LENGTHS)))
    assert all(len(rows) * length <= CHUNK_TOKENS or len(rows) == 1 for rows, length in chunks)


def test_zero_texts_give_zero_gradients() -> None:
    model = encoder(0.0)
    embeddings = embed_in_chunks(model, take_rows(tokens(), [], 1), CHUNK_TOKENS)
    assert embeddings.shape == (0, 128)
    assert all(not gradient.any() for gradient in gradients(model, embeddings))


@pytest.mark.parametrize("is_chunked", [True, False])
def test_autocast_adds_up_gradients_of_chunks_in_float32(is_chunked: bool) -> None:
    """Autocast keeps converted weights by default. Chunks that share one would add up its gradients in bfloat16."""
    many = tokens(tuple(1 + n % 25 for n in range(60)))
    found = []
    for keeps_converted_weights in (True, False):
        model = encoder(0.0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=keeps_converted_weights):
            embeddings = embed_in_chunks(model, many, CHUNK_TOKENS) if is_chunked else model(*many[:2])
        found.append(gradients(model, embeddings.float()))
    assert all(one.equal(other) for one, other in zip(*found, strict=True))
