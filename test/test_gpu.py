"""Encoders on a GPU: packed texts, 16-bit layers, dropout and its replay, chunks, compiled layers, waits and memory.

test/gpu has the tests of training and retrieval. A CPU simulates part of this (test/models/test_packed.py).
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from test.gpu.helpers import (
    DEVICE,
    LENGTHS,
    KernelCounter,
    assert_near,
    build_encoder,
    build_tokens,
    embed_and_differentiate,
    measure_peak,
    needs_bfloat16,
    needs_gpu,
    record_waits,
    run_backward,
)
from text.models import RobertaEncoder, embed_tokens, to_bfloat16, to_float16
from text.models.attention import pack_texts
from text.models.chunks import cut_by_length, take_rows
from text.records import TokenBatch
from text.training.grad_cache import embed_in_chunks

pytestmark = needs_gpu
CHUNK_TOKENS = 128
bfloat16, float16 = pytest.param(torch.bfloat16, marks=needs_bfloat16), torch.float16


def embed_in_small_chunks(encoder: RobertaEncoder, tokens: TokenBatch) -> Tensor:
    return embed_in_chunks(encoder, tokens, CHUNK_TOKENS)


# Packed texts


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("lengths", [LENGTHS, (5,), (9, 9), (1,)], ids=str)
def test_embeddings_and_gradients_equal_those_of_a_cpu(pooling: str, lengths: tuple[int, ...]) -> None:
    encoder = build_encoder(pooling=pooling)
    found, expected = (embed_and_differentiate(encoder, *lengths, device=device) for device in (DEVICE, "cpu"))
    # The GPU uses another attention kernel, which sums in another order.
    assert_near(found[0], expected[0], 1e-5)
    assert_near(found[1], expected[1], 1e-4)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize(
    ("dtype", "limit", "gradient_limit"),
    [pytest.param(torch.bfloat16, 2e-2, 6e-2, marks=needs_bfloat16), (torch.float16, 5e-3, 2e-2)],
)
def test_half_precision_is_near_float32(pooling: str, dtype: torch.dtype, limit: float, gradient_limit: float) -> None:
    encoder = build_encoder(pooling=pooling, projection_dim=64)
    embeddings, gradients = embed_and_differentiate(encoder, *LENGTHS, autocast=dtype)
    expected, expected_gradients = embed_and_differentiate(encoder, *LENGTHS, device="cpu")
    assert_near(embeddings, expected, limit)
    assert_near(gradients, expected_gradients, gradient_limit)


def test_no_text_gives_no_embedding() -> None:
    embeddings, gradients = embed_and_differentiate(build_encoder())
    assert embeddings.shape == (0, 256) and not gradients.any()


@pytest.mark.parametrize(
    ("convert", "limit"), [pytest.param(to_bfloat16, 1e-3, marks=needs_bfloat16), (to_float16, 1e-4)]
)
def test_half_precision_layers_are_near_float32_in_inference(convert, limit: float) -> None:
    encoder, tokens = build_encoder().eval(), build_tokens(*LENGTHS)
    with torch.inference_mode():
        half = embed_tokens(convert(encoder).to(DEVICE), tokens)
        whole = embed_tokens(encoder.to(DEVICE), tokens)
    assert half.dtype == torch.float32
    assert 1 - torch.cosine_similarity(half, whole).min() < limit


def test_an_embedding_does_not_depend_on_neighbors_and_order() -> None:
    encoder = build_encoder(normalize=True).to(DEVICE).eval()
    lengths = [3 + 17 * row % 61 for row in range(60)]
    tokens, order = build_tokens(*lengths), torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        together = embed_tokens(encoder, tokens)
        shuffled = embed_tokens(encoder, take_rows(tokens, order, 63))
        by_seven = [embed_tokens(encoder, take_rows(tokens, range(60)[n : n + 7], 63)) for n in range(0, 60, 7)]
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.cat(by_seven), together, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [(None, "_efficient_attention"), pytest.param(torch.bfloat16, "_flash_attention", marks=needs_bfloat16)],
)
def test_each_layer_calls_one_attention_kernel(dtype: torch.dtype | None, kernel: str) -> None:
    encoder, tokens = build_encoder().to(DEVICE), build_tokens(*LENGTHS)
    with KernelCounter() as counter:
        with torch.autocast(DEVICE, dtype, enabled=dtype is not None, cache_enabled=False):
            embeddings = embed_tokens(encoder, tokens)
        embeddings.sum().backward()
    assert counter.calls[f"{kernel}_forward"] == counter.calls[f"{kernel}_backward"] == 4
    assert not counter.calls["masked_scatter"] and not counter.calls["_scaled_dot_product_efficient_attention"]


# Dropout


@pytest.mark.parametrize("dtype", [torch.float32, bfloat16, float16])
def test_the_mean_over_dropout_masks_is_the_value_without_dropout(dtype: torch.dtype) -> None:
    texts = pack_texts(build_tokens(20, 5, 33).attention_mask)
    qkv = torch.randn(58, 3, 4, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    expected = texts.attend(qkv, 0.0).float()
    draws = torch.stack([texts.attend(qkv, 0.1).float() for _ in range(400)])
    assert not draws[0].equal(draws[1])
    assert (draws.mean(dim=0) - expected).abs().mean() / expected.abs().mean() < 0.06


def embed_without_checkpoints(encoder: RobertaEncoder, tokens: TokenBatch) -> Tensor:
    """Embed the same chunks as GradCache, but keep all activations."""
    chunks = cut_by_length(tokens.lengths.tolist(), CHUNK_TOKENS, limits_padding=False)
    embeddings = torch.cat([embed_tokens(encoder, take_rows(tokens, *chunk)) for chunk in chunks])
    return embeddings[torch.tensor([row for rows, _ in chunks for row in rows]).argsort().to(DEVICE)]


def embed_with_checkpointed_layers(encoder: RobertaEncoder, tokens: TokenBatch) -> Tensor:
    encoder.activation_checkpointing = True
    return embed_tokens(encoder, tokens)


@pytest.mark.parametrize(
    ("embed", "embed_plainly"),
    [(embed_in_small_chunks, embed_without_checkpoints), (embed_with_checkpointed_layers, embed_tokens)],
    ids=["GradCache", "activation checkpointing"],
)
@pytest.mark.parametrize("dtype", [None, bfloat16, float16])
def test_the_backward_pass_draws_the_same_dropout_again(dtype: torch.dtype | None, embed, embed_plainly) -> None:
    results = []
    for function in (embed, embed_plainly):
        encoder = build_encoder(dropout=0.1)
        torch.manual_seed(3)
        results.append(embed_and_differentiate(encoder, *LENGTHS, autocast=dtype, embed=function))
    assert results[0][0].equal(results[1][0])
    # The kernels add up gradients in no fixed order. Other dropout masks would change them by half their size.
    assert_near(results[0][1], results[1][1], 1e-2)


# Chunks (GradCache)


@pytest.mark.parametrize(("dtype", "limit"), [(None, 1e-4), pytest.param(torch.bfloat16, 3e-2, marks=needs_bfloat16)])
def test_chunks_have_the_gradients_of_the_whole_batch(dtype: torch.dtype | None, limit: float) -> None:
    encoder = build_encoder()
    chunked = embed_and_differentiate(encoder, *LENGTHS, autocast=dtype, embed=embed_in_small_chunks)
    whole = embed_and_differentiate(encoder, *LENGTHS, autocast=dtype)
    assert_near(chunked[0], whole[0], limit)
    assert_near(chunked[1], whole[1], limit)


def test_only_tokens_limit_a_chunk() -> None:
    encoder, calls = build_encoder().to(DEVICE), []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    lengths = [1 + 7 * row % 64 for row in range(200)]
    embed_in_chunks(encoder, build_tokens(*lengths), 4096)
    # A chunk is full when its texts, as long as its longest, reach 4,096 tokens. The padding of texts that are sorted
    # by length is small.
    assert len(calls) <= math.ceil(1.3 * sum(lengths) / 4096)


# Compiled layers


@pytest.mark.filterwarnings("ignore")  # Warnings of the compiler.
@pytest.mark.parametrize(("dtype", "limit"), [(None, 1e-4), pytest.param(torch.bfloat16, 3e-2, marks=needs_bfloat16)])
def test_compiled_layers_equal_plain_ones_and_take_two_graphs(dtype: torch.dtype | None, limit: float) -> None:
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    dynamo.utils.counters.clear()
    plain = build_encoder().to(DEVICE)
    compiled = copy.deepcopy(plain)
    for layer in compiled.layers:
        layer.compile(dynamic=True)
    for seed, lengths in enumerate([(5, 40, 2), (33, 8), (64, 3, 9, 20), (17, 18), (30,), (256, 7)]):
        tokens, gradients = build_tokens(*lengths, seed=seed), []
        for encoder in (compiled, plain):
            with torch.autocast(DEVICE, dtype, enabled=dtype is not None, cache_enabled=False):
                embeddings = embed_tokens(encoder, tokens)
            gradients.append(run_backward(encoder, embeddings))
        assert_near(gradients[0], gradients[1], limit)
    assert dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not dynamo.utils.counters["graph_break"]
    assert embed_tokens(compiled, build_tokens()).shape == (0, 256)


# Waits and memory


@pytest.mark.parametrize("embed", [embed_tokens, embed_in_small_chunks], ids=["whole", "chunks"])
@pytest.mark.parametrize("dtype", [None, bfloat16])
def test_the_host_does_not_wait_while_texts_are_embedded_and_differentiated(dtype: torch.dtype | None, embed) -> None:
    encoder, tokens = build_encoder(dropout=0.1).to(DEVICE), build_tokens(*LENGTHS)
    for records in (False, True):  # A first pass loads the kernels.
        with record_waits() as waits:
            with torch.autocast(DEVICE, dtype, enabled=dtype is not None, cache_enabled=False):
                embeddings = embed(encoder, tokens)
            embeddings.sum().backward()
        assert not records or waits == []


def test_padding_takes_almost_no_memory() -> None:
    encoder = build_encoder().to(DEVICE)
    batches = {"short": build_tokens(*[64] * 36), "one long": build_tokens(256, *[8] * 256)}
    for tokens in batches.values():  # The gradients are there before memory is measured.
        embed_tokens(encoder, tokens).sum().backward()
    peaks = {
        name: measure_peak(lambda tokens=tokens: embed_tokens(encoder, tokens).sum().backward())
        for name, tokens in batches.items()
    }
    # Both have about 2,300 tokens. With its padding, the second has 65,792.
    assert peaks["one long"] < 1.5 * peaks["short"], peaks


def test_chunks_take_the_memory_of_one_chunk() -> None:
    encoder, tokens = build_encoder().to(DEVICE), build_tokens(*[64] * 256)
    embed_tokens(encoder, tokens).sum().backward()
    whole, chunked = (
        measure_peak(lambda embed=embed: embed(encoder, tokens).sum().backward())
        for embed in (embed_tokens, lambda encoder, tokens: embed_in_chunks(encoder, tokens, 2048))
    )
    assert chunked < whole / 4, (chunked, whole)
